"""Sensors as configured: axes, the map of worn ones, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pose_ros.core.config import ImuConfig
from pose_ros.core.ego import EgoMotion, StillCamera
from pose_ros.core.imu_setup import Sensors, axes_of, read_straps, sensors_of
from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError


def test_nothing_is_there_unless_it_is_switched_on() -> None:
    assert sensors_of(ImuConfig(axes="nonsense"), COCO17) == Sensors(None, None)


def test_the_sensors_of_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("tag:\n", encoding="utf-8")
    config = ImuConfig(enable=True, topic_map=str(path), axes="rep103", offset_s=0.03)
    found = sensors_of(config, COCO17)
    assert isinstance(found.camera, EgoMotion) and found.ego is found.camera
    assert found.camera.offset_s == 0.03 and not found.camera.trusted
    assert found.body is not None and list(found.body.imus) == ["tag"]
    unchecked = sensors_of(replace(config, check=False), COCO17)
    assert unchecked.ego is not None and unchecked.ego.trusted
    still = sensors_of(replace(config, axes="none", tilt_deg=30.0), COCO17)
    assert isinstance(still.camera, StillCamera) and still.ego is None
    assert np.arcsin(-still.camera.world(0)[2, 2]) == pytest.approx(np.radians(30.0))


def test_axes_by_name_or_number() -> None:
    # REP-103 in the housing: what lies ahead (x) is the image's z, what lies left (y) is -x
    np.testing.assert_array_equal(axes_of("rep103") @ [1, 0, 0], [0, 0, 1])
    np.testing.assert_array_equal(axes_of("rep103") @ [0, 1, 0], [-1, 0, 0])
    np.testing.assert_array_equal(axes_of("optical"), np.eye(3))
    numbers = "0 -1 0, 1 0 0, 0 0 1"
    np.testing.assert_array_equal(axes_of(numbers) @ [1, 0, 0], [0, 1, 0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sideways", "expected auto, optical, rep103, none or nine numbers, got 'sideways'"),
        ("1 0 0", "nine numbers"),
        ("1 0 0 0 1 0 0 0 -1", "expected a rotation"),
        ("1 0 0 0 1 0 0 0 2", "expected a rotation"),
    ],
)
def test_axes_that_are_none(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        axes_of(text)


def test_the_map_of_sensors(tmp_path: Path) -> None:
    path = tmp_path / "sensors.yaml"
    path.write_text(
        "a: {bone: left_forearm, axis: [0, 1, 0], rho: 0.7, topic: /tag/a7}\nb:\n",
        encoding="utf-8",
    )
    first, second = read_straps(str(path))
    assert (first.sensor, first.bone, first.axis, first.rho) == (
        "a",
        "left_forearm",
        (0, 1, 0),
        0.7,
    )
    assert (second.sensor, second.bone, second.axis, second.rho) == ("b", "", None, 0.5)
    assert (first.topic, second.topic) == ("/tag/a7", "imu/b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {bon: x}", "sensor 'a': expected bone, axis, rho, topic; got .'bon'."),
        ("a: 3", "sensor 'a': expected bone"),
        ("a: {rho: much}", "rho is a number"),
        ("a: {topic: /tag/7}", "'/tag/7' is no topic"),
        ("left wrist:", "'imu/left wrist' is no topic"),
        ("a: {axis: 3}", "axis is three numbers"),
        ("a: {axis: [0, 0, 0]}", "axis is three numbers"),
        ("- a", "expected 'sensor:"),
        ("a: [", "sensor map"),
    ],
)
def test_a_bad_map_says_what_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "sensors.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_straps(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        read_straps(str(tmp_path / "none.yaml"))
