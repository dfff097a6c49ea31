"""Cameras from ``sensor_msgs/CameraInfo``: of rclpy or read from a bag."""

from __future__ import annotations

from typing import Any

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError

MODELS = ("", "plumb_bob", "rational_polynomial")


def camera_from_info(info: Any) -> PinholeCamera:
    """Camera of the image that belongs to ``info``; binning and region of interest applied.

    ``info`` is any object with the message's fields.

    Raises:
        CalibrationError: for a zero K, or a distortion model that is not a polynomial one.

    """
    if info.distortion_model not in MODELS:
        raise CalibrationError(
            "distortion_model: expected plumb_bob or rational_polynomial, got "
            f"'{info.distortion_model}': publish a rectified image with its camera_info"
        )
    k = [float(value) for value in info.k]
    distortion = tuple(float(value) for value in info.d)
    camera = PinholeCamera(
        int(info.width), int(info.height), k[0], k[4], k[2], k[5],
        distortion if any(distortion) else (),
    )  # fmt: skip
    roi = info.roi
    if roi.width and roi.height:
        camera = camera.cropped(
            int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
        )
    if info.binning_x > 1 or info.binning_y > 1:
        camera = camera.binned(max(1, int(info.binning_x)), max(1, int(info.binning_y)))
    return camera
