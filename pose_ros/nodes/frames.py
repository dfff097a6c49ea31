"""TF: where frames are at the time of an image, and everything metric in a frame of the robot."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

from pose_ros.core.depth import rigid
from pose_ros.core.rigid import moved
from pose_ros.core.values import PoseResult
from pose_ros.errors import CalibrationError, ConfigError
from pose_ros.nodes.conversions import ns_from_time, time_from_ns
from pose_ros.nodes.ros_logging import Sparingly

try:
    import tf2_ros
except ImportError:  # not among the wheels
    tf2_ros = None

_log = logging.getLogger(__name__)


def tf_is_installed() -> bool:
    """Whether tf2_ros can be imported."""
    return tf2_ros is not None


def placed(result: PoseResult) -> bool:
    """Whether anything in a result is in a frame: somebody has a position."""
    body = result.body
    return body is not None and bool(np.isfinite(body.poses.xyz_m).any())


class Transforms:
    """What TF knows, from construction to ``close``."""

    def __init__(self, node: Node, timeout_s: float) -> None:
        """Listen; a look-up waits for at most ``timeout_s``.

        Raises:
            ConfigError: tf2_ros is not installed.

        """
        if tf2_ros is None:
            raise ConfigError("tf2_ros is not installed; install ros-<distro>-tf2-ros-py")
        self._timeout = Duration(nanoseconds=round(timeout_s * 1e9))
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def lookup(self, target: str, source: str, stamp_ns: int) -> npt.NDArray[np.float64]:
        """(4, 4): points of ``source`` to ``target`` at ``stamp_ns``.

        Raises:
            CalibrationError: TF cannot tell, or tells what is no rigid motion.

        """
        when = Time.from_msg(time_from_ns(stamp_ns))
        try:
            found = self._buffer.lookup_transform(target, source, when, self._timeout).transform
        except tf2_ros.TransformException as error:
            raise CalibrationError(
                f"no transform from '{source}' to '{target}': {error}"
            ) from error
        q, t = found.rotation, found.translation
        return rigid((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))


class OutputFrame:
    """Moves results into ``frame``; without a transform of that time metres are unknown."""

    def __init__(self, node: Node, frame: str, timeout_s: float) -> None:
        """Listen to TF.

        Raises:
            ConfigError: tf2_ros is not installed.

        """
        try:
            self._transforms = Transforms(node, timeout_s)
        except ConfigError as error:
            raise ConfigError(
                f"output_frame '{frame}': {error}, or leave output_frame empty: metres are then "
                "in the camera's frame"
            ) from error
        self.frame = frame
        self.failures = 0
        self._said = Sparingly()

    def close(self) -> None:
        """Stop listening."""
        self._transforms.close()

    def apply(self, result: PoseResult, header: Header) -> tuple[PoseResult, Header]:
        """The result in our frame with a header that says so; the stamp stays.

        Where TF cannot tell, ``body`` is None: never metres in a frame they are not in.
        """
        ours = Header(stamp=header.stamp, frame_id=self.frame)
        result = dataclasses.replace(result, frame_id=self.frame)
        if not placed(result) or header.frame_id == self.frame:
            return result, ours
        try:
            pose = self._transforms.lookup(self.frame, header.frame_id, ns_from_time(header.stamp))
        except CalibrationError as error:
            self._missed(str(error))
            return dataclasses.replace(result, body=None), ours
        assert result.body is not None
        body = moved(result.body, pose[:3, :3], pose[:3, 3])
        return dataclasses.replace(result, body=body), ours

    def _missed(self, why: str) -> None:
        self.failures += 1
        if self._said.due():
            _log.warning("output_frame (%d so far): %s", self.failures, why)
