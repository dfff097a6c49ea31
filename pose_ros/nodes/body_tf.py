"""Frames of people on ``/tf``: ``body_<id>`` and, if wanted, every link of its model.

The messages are published as they are; nothing here needs tf2_ros.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from pose_ros.core.body_model import TREE
from pose_ros.core.link_frames import link_transforms
from pose_ros.core.rep155 import body_frame
from pose_ros.errors import ConfigError
from pose_ros.messages import body_id, quaternions

TOPIC = "/tf"
DEPTH = 100  # as tf2_ros's broadcaster
_log = logging.getLogger(__name__)


def tf_type() -> Any:
    """Class ``tf2_msgs.msg.TFMessage``.

    Raises:
        ImportError: tf2_msgs is not installed.

    """
    return importlib.import_module("tf2_msgs.msg").TFMessage


def tf_message(mode: str, convention: str) -> Any:
    """Class ``tf2_msgs.msg.TFMessage``; None where it is not wanted or, for "body", not installed.

    Raises:
        ConfigError: "full" without tf2_msgs, or without the joint angles of REP-155.

    """
    if mode == "none":
        return None
    if mode == "full" and convention != "rep155":
        raise ConfigError(
            f"tf is 'full' and joints.convention is '{convention}': frames of links follow from "
            "REP-155's angles; set joints.convention to rep155, or tf to body"
        )
    try:
        return tf_type()
    except ImportError as error:
        if mode == "full":
            raise ConfigError(
                f"tf is 'full' and tf2_msgs cannot be imported ({error}): install "
                "ros-<distro>-tf2-msgs, or set tf to none"
            ) from error
    _log.info("tf2_msgs is not installed: frames of people are not published on %s", TOPIC)
    return None


class BodyTf:
    """Sends the frames of everybody of one image in one message."""

    def __init__(self, node: Node, kind: Any, full: bool) -> None:
        """Advertise; ``kind`` is TFMessage, ``full`` asks for the links beside the body."""
        self._node = node
        self._kind = kind
        self._full = full
        self._pool: list[TransformStamped] = []
        self._publisher = node.create_publisher(kind, TOPIC, QoSProfile(depth=DEPTH))

    def close(self) -> None:
        """Take the topic back."""
        self._node.destroy_publisher(self._publisher)

    def publish(
        self, ids: list[int], joints_m: np.ndarray, angle_rad: np.ndarray | None,
        lengths_m: np.ndarray, header: Header,
    ) -> None:  # fmt: skip
        """Send P people, if somebody listens: a body without its hips or facing has no frame.

        ``joints_m`` (P, 17, 3) in COCO's order, REP-155's ``angle_rad`` (P, 20) or None, and
        ``lengths_m`` (P, 13), all NaN where unknown, in the frame of ``header``.
        """
        if not header.frame_id or not self._publisher.get_subscription_count():
            return
        rotation, origin = body_frame(joints_m, None if angle_rad is None else angle_rad[:, 0])
        known = np.isfinite(rotation).all(axis=(1, 2)) & np.isfinite(origin).all(axis=1)
        rows = np.flatnonzero(known).tolist()
        places, turns = origin[rows].tolist(), quaternions(rotation[rows]).tolist()
        frames: list[Any] = [
            (header.frame_id, f"body_{body_id(ids[row])}", place, turn)
            for row, place, turn in zip(rows, places, turns, strict=True)
        ]
        if self._full and angle_rad is not None:
            frames += _links([ids[row] for row in rows], angle_rad[rows], lengths_m[rows])
        if frames:
            self._publisher.publish(self._kind(transforms=self._filled(frames, header)))

    def _filled(self, frames: list[Any], header: Header) -> list[TransformStamped]:
        """Messages, reused from one image to the next."""
        while len(self._pool) < len(frames):
            self._pool.append(TransformStamped())
        used = self._pool[: len(frames)]
        for message, (parent, child, place, turn) in zip(used, frames, strict=True):
            message.header.stamp, message.header.frame_id = header.stamp, parent
            message.child_frame_id = child
            shift, facing = message.transform.translation, message.transform.rotation
            shift.x, shift.y, shift.z = place
            facing.x, facing.y, facing.z, facing.w = turn
        return used


def _links(ids: list[int], angle_rad: np.ndarray, lengths_m: np.ndarray) -> list[Any]:
    """Parent, child, origin and quaternion of every link of which they are known."""
    xyz_m, quaternion = link_transforms(angle_rad, lengths_m)
    known = np.isfinite(xyz_m).all(axis=-1) & np.isfinite(quaternion).all(axis=-1)
    out = []
    for row, link in np.argwhere(known).tolist():
        joint, person = TREE[link], body_id(ids[row])
        place, turn = xyz_m[row, link].tolist(), quaternion[row, link].tolist()
        out.append((f"{joint.parent}_{person}", f"{joint.child}_{person}", place, turn))
    return out
