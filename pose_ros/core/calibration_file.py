"""Calibration files as ROS's ``camera_calibration`` writes them."""

from __future__ import annotations

from pathlib import Path

import yaml

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError

MODELS = ("plumb_bob", "rational_polynomial")


def load_calibration(path: str) -> PinholeCamera:
    """Camera of a calibration YAML (image_width, camera_matrix, distortion_coefficients …).

    Raises:
        CalibrationError: the file is not there, not a calibration, or of another lens model.

    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        model = content.get("distortion_model", "plumb_bob")
        k = [float(v) for v in content["camera_matrix"]["data"]]
        d = tuple(float(v) for v in content["distortion_coefficients"]["data"])
        size = int(content["image_width"]), int(content["image_height"])
        fx, cx, fy, cy = k[0], k[2], k[4], k[5]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError,
            IndexError) as error:  # fmt: skip
        raise CalibrationError(
            f"{path}: expected a camera_calibration YAML with image_width, image_height, "
            f"camera_matrix and distortion_coefficients: {type(error).__name__}: {error}"
        ) from error
    if model not in MODELS:
        raise CalibrationError(f"{path}: expected a lens of {' or '.join(MODELS)}, got '{model}'")
    return PinholeCamera(*size, fx, fy, cx, cy, d if any(d) else ())
