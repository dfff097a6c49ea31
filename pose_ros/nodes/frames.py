"""Everything metric in a frame of the robot, by TF at the time of the image."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from pose_ros.core.rigid import moved, rotation_of
from pose_ros.core.values import PoseResult
from pose_ros.errors import ConfigError

try:
    import tf2_ros
except ImportError:  # not among the wheels
    tf2_ros = None

LOG_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class OutputFrame:
    """Moves results into ``frame``; without a transform of that time metres are unknown."""

    def __init__(self, node: Node, frame: str, timeout_s: float) -> None:
        """Listen to TF.

        Raises:
            ConfigError: tf2_ros is not installed.

        """
        if tf2_ros is None:
            raise ConfigError(
                f"output_frame '{frame}': tf2_ros is not installed; install "
                "ros-<distro>-tf2-ros-py, or leave output_frame empty: metres are then in the "
                "camera's frame"
            )
        self.frame = frame
        self.failures = 0
        self._timeout = Duration(nanoseconds=round(timeout_s * 1e9))
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        self._logged_s = -float("inf")

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def apply(self, result: PoseResult, header: Header) -> tuple[PoseResult, Header]:
        """The result in our frame with a header that says so; the stamp stays.

        Where TF cannot tell, ``body`` is None: never metres in a frame they are not in.
        """
        ours = Header(stamp=header.stamp, frame_id=self.frame)
        result = dataclasses.replace(result, frame_id=self.frame)
        if result.body is None or header.frame_id == self.frame:
            return result, ours
        try:
            found = self._buffer.lookup_transform(
                self.frame, header.frame_id, Time.from_msg(header.stamp), self._timeout
            ).transform
        except tf2_ros.TransformException as error:
            self._missed(header.frame_id, str(error))
            return dataclasses.replace(result, body=None), ours
        q, t = found.rotation, found.translation
        shift = np.array([t.x, t.y, t.z])
        body = moved(result.body, rotation_of(q.x, q.y, q.z, q.w), shift)
        return dataclasses.replace(result, body=body), ours

    def _missed(self, source: str, why: str) -> None:
        self.failures += 1
        now = time.monotonic()
        if now - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now
            _log.warning(
                "no transform from '%s' to output_frame '%s' (%d so far): %s",
                source, self.frame, self.failures, why,
            )  # fmt: skip
