"""Everything metric in a frame at the camera whose z is up, by a sensor that feels gravity."""

from __future__ import annotations

import dataclasses
import logging
import time

import numpy as np
from std_msgs.msg import Header

from pose_ros.core.ego import EgoMotion, StillCamera, level_from_camera
from pose_ros.core.rigid import moved
from pose_ros.core.values import PoseResult
from pose_ros.errors import ConfigError
from pose_ros.nodes.conversions import ns_from_time
from pose_ros.nodes.frames import placed

LOG_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class LevelFrame:
    """Turns results upright, as `OutputFrame` moves them by TF; the origin stays the camera's."""

    def __init__(self, frame: str, camera: EgoMotion | StillCamera | None) -> None:
        """Name the frame; ``camera`` tells where up is.

        Raises:
            ConfigError: nobody does.

        """
        if camera is None:
            raise ConfigError(f"imu.level_frame '{frame}': needs imu.enable and a lifted person")
        self.frame, self.failures = frame, 0
        self._camera = camera
        self._logged_s = -float("inf")

    def close(self) -> None:
        """Nothing is held."""

    def apply(self, result: PoseResult, header: Header) -> tuple[PoseResult, Header]:
        """The result in our frame with a header that says so; the stamp stays.

        Up is that of the header's stamp, whatever time the result is for. Where it is not known,
        ``body`` is None: never metres in a frame they are not in.
        """
        ours = Header(stamp=header.stamp, frame_id=self.frame)
        result = dataclasses.replace(result, frame_id=self.frame)
        if not placed(result):
            return result, ours
        up = None if self._doubted else self._camera.up(ns_from_time(header.stamp))
        if up is None:
            self._missed()
            return dataclasses.replace(result, body=None), ours
        assert result.body is not None
        body = moved(result.body, level_from_camera(up), np.zeros(3))
        return dataclasses.replace(result, body=body), ours

    @property
    def _doubted(self) -> bool:
        """Whether the pictures contradicted the sensor: then its up is as wrong as its turns."""
        check = None if isinstance(self._camera, StillCamera) else self._camera.check
        return check is not None and not check.trusted and not np.isnan(check.unexplained)

    def _missed(self) -> None:
        self.failures += 1
        now = time.monotonic()
        if now - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now
            _log.warning(
                "no metres in frame '%s': the camera's sensor does not tell where up is, or "
                "disagrees with the pictures (%d so far)", self.frame, self.failures,
            )  # fmt: skip
