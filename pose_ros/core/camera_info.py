"""Cameras from ``sensor_msgs/CameraInfo``: of rclpy or read from a bag."""

from __future__ import annotations

from typing import Any

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError

MODELS = ("", "plumb_bob", "rational_polynomial")
RECTIFIED = "image_rect"  # what names of rectified images begin with, by ROS' image pipeline


def is_rectified(topic: str) -> bool:
    """Whether an image topic is a rectified one by its name, as ``/camera/image_rect_color``."""
    names = topic.split("/")
    return any(name.startswith(RECTIFIED) for name in names[-2:])  # the last may be a transport


def camera_from_info(info: Any, rectified: bool = False) -> PinholeCamera:
    """Camera of the image that belongs to ``info``; binning and region of interest applied.

    ``info`` is any object with the message's fields. It is the same for the raw and for the
    ``rectified`` image: K and D are of the raw one, P of the rectified one, which has no
    distortion, whatever the lens.

    Raises:
        CalibrationError: for a zero K or P, or a distortion model that is not a polynomial one.

    """
    distortion: tuple[float, ...] = ()
    if rectified:
        p = [float(value) for value in info.p]
        if not any(p):
            raise CalibrationError(
                "P: expected the projection of the rectified image, got zeros: calibrate the "
                "camera, or set image_rectified: no if the image is raw"
            )
        k = [*p[0:3], *p[4:7]]
    elif info.distortion_model not in MODELS:
        raise CalibrationError(
            "distortion_model: expected plumb_bob or rational_polynomial, got "
            f"'{info.distortion_model}': subscribe to the rectified image (image_rect…)"
        )
    else:
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
