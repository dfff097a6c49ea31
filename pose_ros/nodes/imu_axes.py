"""How the camera's inertial sensor sits, read from TF: `imu.axes` auto."""

from __future__ import annotations

import logging
import time

import numpy as np
from rclpy.node import Node

from pose_ros.core.ego import EgoMotion
from pose_ros.errors import CalibrationError
from pose_ros.nodes.frames import Transforms, tf_is_installed

#: TF is waited for so long before the sensor's axes are taken for the image's.
PATIENCE_S = 3.0
#: Time between two questions.
ASK_EVERY_S = 0.2
_log = logging.getLogger(__name__)


class ImuAxes:
    """Asks TF for the rotation from the frame of the samples to that of the images, until told.

    The two must not turn against each other. Without tf2_ros, without names, and while TF does
    not know, the sensor's axes are taken for the image's.
    """

    def __init__(self, node: Node, camera: EgoMotion) -> None:
        """Listen to TF, where tf2_ros is installed."""
        self._camera = camera
        self._transforms = Transforms(node, 0.0) if tf_is_installed() else None
        self._known = self._transforms is None
        self.words = "the image's: tf2_ros is not installed" if self._known else "not known yet"
        self._asked_s, self._first_s = -float("inf"), float("nan")

    def close(self) -> None:
        """Stop listening."""
        transforms, self._transforms = self._transforms, None
        if transforms is not None:
            transforms.close()

    def rest(self) -> None:
        """Stop listening once there is nothing to learn; for the executor's thread."""
        if self._known:
            self.close()

    def ready(self, sensor: str, camera: str, stamp_ns: int | None) -> bool:
        """Whether samples of the frame ``sensor`` may be used with images of ``camera``.

        ``stamp_ns`` is that of an image, None while there is none.
        """
        now_s = time.monotonic()
        if not self._known and stamp_ns is not None and now_s - self._asked_s >= ASK_EVERY_S:
            self._first_s = now_s if np.isnan(self._first_s) else self._first_s
            self._asked_s = now_s
            self._ask(sensor, camera, stamp_ns)
        return self._known or now_s - self._first_s > PATIENCE_S

    def _ask(self, sensor: str, camera: str, stamp_ns: int) -> None:
        if not sensor or not camera or sensor == camera:
            self._known, self.words = True, f"the image's: frame '{sensor}'"
            return
        assert self._transforms is not None
        try:
            turn = self._transforms.lookup(camera, sensor, stamp_ns)[:3, :3]
        except CalibrationError as error:
            if not self.words.startswith("the image's: no transform"):
                _log.warning(
                    "the axes of the camera's sensor are taken for the image's: %s", error
                )
            self.words = f"the image's: no transform from '{sensor}' to '{camera}'"
            return
        self._known, self.words = True, f"as TF says of '{sensor}'"
        self._camera.set_axes(turn)
        _log.info("the axes of the camera's sensor are those of TF's '%s'", sensor)
