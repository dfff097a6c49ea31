"""Calibration files of camera_calibration: what is read, and what is refused in one sentence."""

from pathlib import Path

import pytest
import yaml

from pose_ros.core.calibration_file import load_calibration
from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError

WRITTEN = {
    "image_width": 640, "image_height": 480, "camera_name": "front",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [500.0, 0, 320.5, 0, 510.0, 241, 0, 0, 1]},
    "distortion_model": "plumb_bob",
    "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.1, -0.2, 0.001, 0.002, 0.0]},
}  # fmt: skip


def written(folder: Path, **changes: object) -> str:
    path = folder / "camera.yaml"
    path.write_text(yaml.safe_dump(WRITTEN | changes))
    return str(path)


def test_what_camera_calibration_writes(tmp_path: Path) -> None:
    wanted = (640, 480, 500.0, 510.0, 320.5, 241.0)
    lens = (0.1, -0.2, 0.001, 0.002, 0.0)
    assert load_calibration(written(tmp_path)) == PinholeCamera(*wanted, lens)
    straight = written(tmp_path, distortion_coefficients={"data": [0.0] * 5})
    assert load_calibration(straight) == PinholeCamera(*wanted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera_matrix": {"data": [0.0] * 9}}, "all-zero K"),
        ({"camera_matrix": {"data": [1.0, 2.0]}}, "IndexError"),
        ({"camera_matrix": None}, "TypeError"),
        ({"image_width": "wide"}, "ValueError"),
        ({"image_width": 0}, "got 0 x 480"),
        ({"distortion_coefficients": {"data": [0.1, 0.2, 0.3]}}, "got 3"),
        ({"distortion_coefficients": {"data": [float("nan")] * 5}}, "finite"),
        ({"distortion_model": "equidistant"}, "got 'equidistant'"),
    ],
)
def test_what_is_no_calibration(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        load_calibration(written(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[1, 2", "just words", "\x00"])
def test_files_of_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(CalibrationError, match="expected a camera_calibration YAML"):
        load_calibration(str(path))
    with pytest.raises(CalibrationError, match="FileNotFoundError"):
        load_calibration(str(tmp_path / "none.yaml"))
