"""Topics and frames of single people, as REP-155 names them.

Under ``/humans/bodies/<id>``: ``joint_states`` (sensor_msgs/JointState, names with the suffix
``_<id>``), ``position`` (geometry_msgs/PointStamped, middle of the hips), ``velocity``
(geometry_msgs/TwistStamped), ``urdf`` (std_msgs/String, latched: a model of the person with the
measured lengths) and, where the user allows it, ``cropped`` (sensor_msgs/Image). With hri_msgs
also ``/humans/bodies/tracked``, ``<id>/roi`` and ``<id>/skeleton2d``. On ``/tf`` the frames of
``body_tf.py``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from geometry_msgs.msg import PointStamped, TwistStamped
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String

from pose_ros import graph
from pose_ros.core.angles import coco_joints
from pose_ros.core.body_model import LENGTHS
from pose_ros.core.body_urdf import urdf
from pose_ros.core.link_frames import PersonSize
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.core.values import Body, Frame, PoseResult, TrackState
from pose_ros.errors import ConfigError
from pose_ros.messages import body_id
from pose_ros.nodes.body_tf import BodyTf, tf_message
from pose_ros.nodes.conversions import image_from_pixels
from pose_ros.nodes.hri import HriMessages, message_types

#: Pictures kept for ``cropped``: with a look-ahead and a lag answers come up to 6 frames later.
PICTURES = 8
_HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]


@dataclass
class _Person:
    """The publishers of one person by the last part of their topic, and its size."""

    publishers: dict[str, Publisher] = field(default_factory=dict)
    size: PersonSize = field(default_factory=PersonSize)

    def reader(self, topic: str) -> Publisher | None:
        """Return the publisher of a topic that somebody reads."""
        publisher = self.publishers.get(topic)
        return publisher if publisher is not None and publisher.get_subscription_count() else None


class Bodies:
    """Publishers that appear when a person is TRACKED and go when it is LOST."""

    def __init__(
        self, node: Node, skeleton: Skeleton, *, hri: str = "auto", tf: str = "none",
        cropped: bool = False, convention: str = "none",
    ) -> None:  # fmt: skip
        """Know nobody.

        ``hri`` is "off" (no topics of people), "auto" (those of hri_msgs where it is installed)
        or "on"; ``tf`` is "none", "body" or "full"; ``cropped`` allows pictures of people;
        ``convention`` is that of the joint angles, "none" without them.

        Raises:
            ConfigError: hri_msgs or tf2_msgs is asked for and not installed, frames of links
                without REP-155's angles, or pictures where there are no topics for them.

        """
        if cropped and hri == "off":
            raise ConfigError(
                "privacy.publish_cropped is on and hri.enable is 'off': pictures are offered on "
                "/humans/bodies/<id>/cropped; set hri.enable to auto, or publish_cropped to false"
            )
        types, frames = message_types(hri), tf_message(tf, convention)
        self._node = node
        self._skeleton = skeleton
        self._people: dict[int, _Person] = {}
        self._topics = hri != "off"
        self._pictures: deque[Frame] | None = deque(maxlen=PICTURES) if cropped else None
        self._camera_frame = ""
        self._types: Any = types
        self._hri = None if types is None else HriMessages(types, skeleton)
        self._tracked: Publisher | None = None
        if types is not None:
            self._tracked = node.create_publisher(types.IdsList, f"{graph.BODIES}/tracked", 1)
        self._tf = None if frames is None else BodyTf(node, frames, tf == "full")

    def close(self) -> None:
        """Take every topic back."""
        for number in list(self._people):
            self._drop(number)
        if self._tracked is not None:
            self._node.destroy_publisher(self._tracked)
        if self._tf is not None:
            self._tf.close()

    def see(self, frame: Frame) -> None:
        """Know a picture that an answer will be about, for ``cropped``."""
        self._camera_frame = frame.frame_id
        if self._pictures is not None:
            self._pictures.append(frame)

    def publish(self, result: PoseResult, header: Header) -> None:
        """Send what is known of everybody, on the topics that somebody reads."""
        tracks = result.tracks
        lost = set(tracks.ids[tracks.state == TrackState.LOST].tolist())
        for number in tracks.ids[tracks.state == TrackState.TRACKED].tolist():
            if number not in self._people:
                self._people[number] = self._open(number)
        # What is in the picture is told in the camera's frame, whatever frame metres are in.
        flat = Header(stamp=header.stamp, frame_id=self._camera_frame or header.frame_id)
        if self._tracked is not None and self._hri is not None:
            here = [number for number in self._people if number not in lost]
            self._tracked.publish(self._hri.tracked(here, flat))
        for number in lost:
            self._drop(number)
        if self._hri is not None:
            self._send_seen(self._hri, result, flat)
        if self._pictures:
            self._send_pictures(self._pictures, result, flat)
        if result.body is not None:
            self._send_body(result, result.body, header)

    def _send_seen(self, hri: HriMessages, result: PoseResult, header: Header) -> None:
        """Where everybody is in the picture."""
        points = None
        for row, number in enumerate(result.tracks.ids.tolist()):
            person, box = self._people.get(number), result.tracks.xyxy_px[row]
            if person is None or min(result.size_px) == 0:
                continue
            roi, skeleton2d = person.reader("roi"), person.reader("skeleton2d")
            if roi is not None and np.isfinite(box).all():
                confidence = float(result.tracks.confidence[row])
                roi.publish(hri.region(box, confidence, result.size_px, header))
            if skeleton2d is not None:
                points = hri.points(result.shown, result.size_px) if points is None else points
                skeleton2d.publish(hri.skeleton2d(points[row], header))

    def _send_pictures(self, pictures: deque[Frame], result: PoseResult, header: Header) -> None:
        """Everybody cut out of the picture that ``result`` answers."""
        frame = next((f for f in reversed(pictures) if f.stamp_ns == result.stamp_ns), None)
        for row, number in enumerate(result.tracks.ids.tolist()):
            person, box = self._people.get(number), result.tracks.xyxy_px[row]
            reader = None if person is None else person.reader("cropped")
            if frame is None or reader is None or not np.isfinite(box).all():
                continue
            x0, y0, x1, y1 = np.clip(np.rint(box + 0.5), 0, frame.size_px * 2).astype(int)
            if x1 > x0 and y1 > y0:
                reader.publish(image_from_pixels(frame.rgb[y0:y1, x0:x1], "rgb8", header))

    def _send_body(self, result: PoseResult, body: Body, header: Header) -> None:
        """Metres, angles, models and frames."""
        joints = coco_joints(body.poses, self._skeleton)
        lengths = np.full((len(result.tracks), len(LENGTHS)), np.nan)
        for row, number in enumerate(result.tracks.ids.tolist()):
            person = self._people.get(number)
            if person is None:
                continue
            self._send_place(person, row, body, joints, header)
            self._send_angles(person, number, row, body, header)
            if person.size.update(joints[row]) and "urdf" in person.publishers:
                text = urdf(body_id(number), person.size.told_m)
                person.publishers["urdf"].publish(String(data=text))
            if person.size.told_m is not None:
                lengths[row] = person.size.told_m
        if self._tf is not None:
            ids = result.tracks.ids
            rows = [row for row, number in enumerate(ids.tolist()) if number in self._people]
            angles = body.angles
            told = angles is not None and angles.convention == "rep155"
            angle_rad = angles.angle_rad[rows].astype(np.float64) if angles and told else None
            self._tf.publish(ids[rows].tolist(), joints[rows], angle_rad, lengths[rows], header)

    def _send_place(
        self, person: _Person, row: int, body: Body, joints: np.ndarray, header: Header
    ) -> None:
        centre = joints[row, _HIPS].mean(axis=0)
        position, velocity = person.reader("position"), person.reader("velocity")
        if position is not None and np.isfinite(centre).all():
            message = PointStamped(header=header)
            message.point.x, message.point.y, message.point.z = centre.tolist()
            position.publish(message)
        hips = [self._skeleton.index(COCO17.joints[i]) for i in _HIPS]
        speed = body.poses.velocity_m_s[row, hips].mean(axis=0)
        if velocity is not None and np.isfinite(speed).all():
            twist = TwistStamped(header=header)
            linear = twist.twist.linear
            linear.x, linear.y, linear.z = speed.tolist()
            velocity.publish(twist)

    def _send_angles(
        self, person: _Person, number: int, row: int, body: Body, header: Header
    ) -> None:
        angles, reader = body.angles, person.reader("joint_states")
        if reader is None or angles is None or angles.convention != "rep155":
            return
        known = np.isfinite(angles.angle_rad[row])
        suffix = body_id(number)
        speeds = angles.velocity_rad_s[row, known]
        if known.any():
            reader.publish(JointState(
                header=header,
                name=[f"{n}_{suffix}" for n, k in zip(angles.names, known, strict=True) if k],
                position=angles.angle_rad[row, known].tolist(),
                velocity=speeds.tolist() if np.isfinite(speeds).all() else [],  # all or none
            ))  # fmt: skip

    def _open(self, number: int) -> _Person:
        person = _Person()
        if not self._topics:
            return person
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        wanted: dict[str, tuple[Any, Any]] = {
            "joint_states": (JointState, 1), "position": (PointStamped, 1),
            "velocity": (TwistStamped, 1), "urdf": (String, latched),
        }  # fmt: skip
        if self._pictures is not None:
            wanted["cropped"] = (Image, 1)
        if self._types is not None:
            wanted["roi"] = (self._types.NormalizedRegionOfInterest2D, 1)
            wanted["skeleton2d"] = (self._types.Skeleton2D, 1)
        for name, (kind, qos) in wanted.items():
            topic = f"{graph.BODIES}/{body_id(number)}/{name}"
            person.publishers[name] = self._node.create_publisher(kind, topic, qos)
        return person

    def _drop(self, number: int) -> None:
        person = self._people.pop(number, None)
        if person is not None:
            for publisher in person.publishers.values():
                self._node.destroy_publisher(publisher)
