"""What the commands share."""

import argparse
import json
import sys

import pytest

from pose_ros.errors import ConfigError, SourceError
from pose_ros.tools import cli


def parsed(*argv: str) -> argparse.Namespace:
    parser = cli.command("test", "A command.")
    cli.add_pipeline_options(parser)
    return parser.parse_args(argv)


def test_options_become_parameters_and_beat_the_command_s_own_defaults() -> None:
    config = cli.pipeline_config(
        parsed("--net", "movenet_lightning", "--set", "detect.interval=2", "--set", "device=cpu"),
        detect__interval=9, detect__threshold=0.5,
    )  # fmt: skip
    assert config.model.name == "movenet_lightning" and config.device == "cpu"
    assert config.detect.interval == 2 and config.detect.threshold == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "detect.interval",
            "expected NAME=VALUE of a parameter of the pipeline, got 'detect.interval'",
        ),
        ("detect.speed=3", "expected NAME=VALUE of a parameter of the pipeline"),
        ("detect.interval=often", "detect.interval: expected int, got 'often'"),
        ("detect.interval=0", "interval: expected 1 to 60 frames, got 0"),
    ],
)
def test_bad_options_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cli.pipeline_config(parsed("--set", text))


def test_the_answer_is_the_last_line_and_errors_are_one_line(
    capsys: pytest.CaptureFixture,
) -> None:
    cli.run(lambda argv: {"frames": 3})
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"frames": 3}

    def fail(argv: list[str]) -> dict:
        raise SourceError("a.mp4: expected a video, found nothing there")

    with pytest.raises(SystemExit) as stop:
        cli.run(fail)
    told = capsys.readouterr()
    assert stop.value.code == 1 and told.out == ""
    assert told.err == "error: a.mp4: expected a video, found nothing there\n"


def test_no_progress_bar_outside_a_terminal(capsys: pytest.CaptureFixture) -> None:
    assert not sys.stderr.isatty()
    assert list(cli.progress(range(3), 3, "frame")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("text", "meant"), [("false", False), ("No", False), ("true", True)])
def test_a_switch_is_read_by_its_word(text: str, meant: bool) -> None:
    assert cli.pipeline_config(parsed("--set", f"imu.check={text}")).imu.check is meant
    with pytest.raises(ConfigError, match=r"imu\.check: expected true or false, got 'maybe'"):
        cli.pipeline_config(parsed("--set", "imu.check=maybe"))
