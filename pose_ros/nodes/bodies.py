"""Topics of single people under ``/humans/bodies/<id>``, as REP-155 names them.

``joint_states`` (sensor_msgs/JointState, names with the suffix ``_<id>``), ``position``
(geometry_msgs/PointStamped, middle of the hips), ``velocity`` (geometry_msgs/TwistStamped) and
``urdf`` (std_msgs/String, latched): a model of the person with the measured lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import PointStamped, TwistStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, String

from pose_ros import graph
from pose_ros.core.angles import coco_joints
from pose_ros.core.body_model import body_lengths, complete_lengths
from pose_ros.core.body_urdf import urdf
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.core.values import Body, PoseResult, TrackState
from pose_ros.messages import body_id

#: The model is sent again when a length has changed by more than this share.
CHANGE = 0.03
#: Weight of a new frame in a person's mean lengths.
SHARE = 0.05
_HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]


@dataclass
class _Person:
    """The publishers of one person, its mean lengths and those last sent."""

    joint_states: Publisher
    position: Publisher
    velocity: Publisher
    urdf: Publisher
    mean_m: np.ndarray | None = None  # (13,) of body_model.LENGTHS, metres
    sent_m: np.ndarray | None = None


class Bodies:
    """Publishers that appear when a person is TRACKED and go when it is LOST."""

    def __init__(self, node: Node, skeleton: Skeleton) -> None:
        """Know nobody."""
        self._node = node
        self._skeleton = skeleton
        self._people: dict[int, _Person] = {}

    def close(self) -> None:
        """Take every topic back."""
        for number in list(self._people):
            self._drop(number)

    def publish(self, result: PoseResult, header: Header) -> None:
        """Send what is known of everybody, on the topics that somebody reads."""
        tracks = result.tracks
        for row, number in enumerate(tracks.ids.tolist()):
            state = tracks.state[row]
            if state == TrackState.LOST:
                self._drop(number)
            elif state == TrackState.TRACKED and number not in self._people:
                self._people[number] = self._open(number)
        if result.body is None:
            return
        joints = coco_joints(result.body.poses, self._skeleton)
        for row, number in enumerate(tracks.ids.tolist()):
            person = self._people.get(number)
            if person is not None:
                self._send(person, number, row, result.body, joints[row], header)

    def _send(
        self, person: _Person, number: int, row: int, body: Body, joints: np.ndarray,
        header: Header,
    ) -> None:  # fmt: skip
        centre = joints[_HIPS].mean(axis=0)
        if np.isfinite(centre).all() and person.position.get_subscription_count():
            message = PointStamped(header=header)
            message.point.x, message.point.y, message.point.z = centre.tolist()
            person.position.publish(message)
        hips = [self._skeleton.index(COCO17.joints[i]) for i in _HIPS]
        speed = body.poses.velocity_m_s[row, hips].mean(axis=0)
        if np.isfinite(speed).all() and person.velocity.get_subscription_count():
            twist = TwistStamped(header=header)
            linear = twist.twist.linear
            linear.x, linear.y, linear.z = speed.tolist()
            person.velocity.publish(twist)
        self._send_angles(person, number, row, body, header)
        self._send_model(person, number, joints)

    def _send_angles(
        self, person: _Person, number: int, row: int, body: Body, header: Header
    ) -> None:
        angles = body.angles
        if angles is None or angles.convention != "rep155":
            return
        if not person.joint_states.get_subscription_count():
            return
        known = np.isfinite(angles.angle_rad[row])
        suffix = body_id(number)
        if known.any():
            person.joint_states.publish(JointState(
                header=header,
                name=[f"{n}_{suffix}" for n, k in zip(angles.names, known, strict=True) if k],
                position=angles.angle_rad[row, known].tolist(),
                velocity=np.nan_to_num(angles.velocity_rad_s[row, known]).tolist(),
            ))  # fmt: skip

    def _send_model(self, person: _Person, number: int, joints: np.ndarray) -> None:
        lengths = body_lengths(joints[None])[0]
        if not np.isfinite(lengths).any():
            return
        lengths = complete_lengths(lengths)
        if person.mean_m is None or person.sent_m is None:
            person.mean_m = lengths
        else:
            person.mean_m = person.mean_m + SHARE * (lengths - person.mean_m)
            if not (np.abs(person.mean_m - person.sent_m) > CHANGE * person.sent_m).any():
                return
        person.sent_m = person.mean_m
        person.urdf.publish(String(data=urdf(body_id(number), person.mean_m)))

    def _open(self, number: int) -> _Person:
        topic = f"{graph.BODIES}/{body_id(number)}"
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        create = self._node.create_publisher
        return _Person(
            create(JointState, f"{topic}/joint_states", 1),
            create(PointStamped, f"{topic}/position", 1),
            create(TwistStamped, f"{topic}/velocity", 1),
            create(String, f"{topic}/urdf", latched),
        )

    def _drop(self, number: int) -> None:
        person = self._people.pop(number, None)
        if person is not None:
            for publisher in (
                person.joint_states, person.position, person.velocity, person.urdf
            ):  # fmt: skip
                self._node.destroy_publisher(publisher)
