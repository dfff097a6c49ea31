"""Everything metric in a frame at the camera whose z is up, by a sensor that feels gravity."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from pose_ros.core.ego import EgoMotion, StillCamera, believed_up, level_from_camera
from pose_ros.core.rigid import moved
from pose_ros.core.values import PoseResult
from pose_ros.errors import ConfigError
from pose_ros.messages import quaternions
from pose_ros.nodes.body_tf import DEPTH, TOPIC
from pose_ros.nodes.conversions import ns_from_time
from pose_ros.nodes.frames import placed
from pose_ros.nodes.ros_logging import Sparingly

_log = logging.getLogger(__name__)


class LevelTf:
    """Tells TF where a level frame is: a child of the camera's, at every image's stamp."""

    def __init__(self, node: Node, kind: Any, frame: str) -> None:
        """Advertise; ``kind`` is TFMessage."""
        self._node, self._kind, self._frame = node, kind, frame
        self._told_ns: int | None = None
        self._publisher = node.create_publisher(kind, TOPIC, QoSProfile(depth=DEPTH))

    def close(self) -> None:
        """Take the topic back."""
        self._node.destroy_publisher(self._publisher)

    def publish(self, level_from_camera: npt.NDArray[np.float64], header: Header) -> None:
        """Send it once per stamp, if somebody listens; ``header`` is the image's."""
        stamp_ns = ns_from_time(header.stamp)
        nameless = not header.frame_id or header.frame_id == self._frame
        if nameless or stamp_ns == self._told_ns or not self._publisher.get_subscription_count():
            return
        self._told_ns = stamp_ns
        message = TransformStamped(header=header, child_frame_id=self._frame)
        facing = message.transform.rotation
        facing.x, facing.y, facing.z, facing.w = quaternions(level_from_camera.T[None])[0].tolist()
        self._publisher.publish(self._kind(transforms=[message]))


class LevelFrame:
    """Turns results upright, as `OutputFrame` moves them by TF; the origin stays the camera's."""

    def __init__(
        self, frame: str, camera: EgoMotion | StillCamera | None, tf: LevelTf | None = None
    ) -> None:
        """Name the frame; ``camera`` tells where up is, ``tf`` passes it on.

        Raises:
            ConfigError: nobody does.

        """
        if camera is None:
            raise ConfigError(f"imu.level_frame '{frame}': needs imu.enable and a lifted person")
        self.frame, self.failures = frame, 0
        self._camera, self._tf = camera, tf
        self._said = Sparingly()

    def close(self) -> None:
        """Take back what is advertised."""
        if self._tf is not None:
            self._tf.close()

    def apply(self, result: PoseResult, header: Header) -> tuple[PoseResult, Header]:
        """The result in our frame with a header that says so; the stamp stays.

        Up is that of the header's stamp, whatever time the result is for. Where it is not known,
        ``body`` is None: never metres in a frame they are not in. TF is told where anybody would
        be, so also while nobody is there.
        """
        ours = Header(stamp=header.stamp, frame_id=self.frame)
        result = dataclasses.replace(result, frame_id=self.frame)
        up = believed_up(self._camera, ns_from_time(header.stamp))
        turn = None if up is None else level_from_camera(up)
        if turn is not None and self._tf is not None:
            self._tf.publish(turn, header)
        if not placed(result):
            return result, ours
        if turn is None:
            self._missed()
            return dataclasses.replace(result, body=None), ours
        assert result.body is not None
        return dataclasses.replace(result, body=moved(result.body, turn, np.zeros(3))), ours

    def _missed(self) -> None:
        self.failures += 1
        if self._said.due():
            _log.warning(
                "no metres in frame '%s': the camera's sensor does not tell where up is, or "
                "disagrees with the pictures (%d so far)", self.frame, self.failures,
            )  # fmt: skip
