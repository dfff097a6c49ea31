"""Parameters: every one documented, every bad value refused with a sentence."""

import pytest

from pose_ros.core.config import PipelineConfig, parameters, with_values
from pose_ros.errors import ConfigError


def test_every_parameter_says_what_it_is_and_its_default_is_allowed() -> None:
    found = list(parameters(PipelineConfig()))
    assert len(found) >= 12
    for name, item, value in found:
        assert item.metadata["doc"], name
        assert value == item.default
        if type(value) in (int, float):
            assert item.metadata["ge"] is not None and item.metadata["le"] is not None, name


def test_values_are_replaced_by_dotted_name() -> None:
    config = with_values(PipelineConfig(), {"detect.interval": 3, "device": "cpu"})
    assert (config.detect.interval, config.device) == (3, "cpu")
    assert PipelineConfig().detect.interval != 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"detect.intervall": 3}, "'intervall' is not known; known: .*interval"),
        ({"camera.fov": 3}, "'camera.fov' is not known"),
        ({"detect.interval": 0}, "interval: expected 1 to 60 frames, got 0"),
        ({"detect.interval": 2.5}, "interval: expected int, got 2.5"),
        ({"detect.interval": True}, "interval: expected int, got True"),
        ({"detect.threshold": float("nan")}, "threshold: expected a finite number"),
        ({"track.max_lost_s": "1"}, "max_lost_s: expected float, got '1'"),
        ({"device": 3}, "device: expected str"),
    ],
)
def test_bad_values_are_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_values(PipelineConfig(), values)


def test_a_whole_number_is_a_float_too() -> None:
    assert with_values(PipelineConfig(), {"track.max_lost_s": 2}).track.max_lost_s == 2
