"""Everything ``pose_node`` publishes."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point, Pose, PoseArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.node_config import NodeConfig
from pose_ros.core.predict import predicted
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.steadiness import Jitter
from pose_ros.core.values import Frame, PoseResult, TrackState
from pose_ros.msg import HumanJointStateArray, HumanPoseArray
from pose_ros.nodes.bodies import Bodies
from pose_ros.nodes.conversions import ns_from_time, pose_messages, time_from_ns
from pose_ros.nodes.diagnostics import Diagnostics
from pose_ros.nodes.markers import MarkerBuilder

MARKERS_NS = 60_000_000  # at most about 15 sets of markers per second
LAST_WORDS_S = 0.5  # a reader that does not answer must not keep the node from ending


def pose_qos(deadline_s: float) -> QoSProfile:
    """QoS of /human_pose: reliable, the last five, a message at least every ``deadline_s``."""
    return QoSProfile(
        depth=5,
        reliability=ReliabilityPolicy.RELIABLE,
        deadline=Duration(nanoseconds=int(deadline_s * 1e9)),
    )


class Outputs:
    """The publishers of the pose node, from ``open`` to ``close``."""

    def __init__(self, node: LifecycleNode, settings: NodeConfig, score_min: float) -> None:
        """Remember what to publish with; nothing is advertised yet."""
        self._node = node
        self._settings = settings
        self._score_min = score_min
        self._reported_s = time.monotonic()
        self._drawn_ns = 0
        self._jitter = Jitter()
        self._told: HumanPoseArray | None = None  # sent last
        self._told_angles: HumanJointStateArray | None = None
        self._blind: PoseResult | None = None  # what it said, without metres, if STALE_INPUT
        self._told_lock = threading.Lock()  # the worker sends, and who watches over it
        self._sent_s = time.monotonic()

    @property
    def health(self) -> int:
        """Health as last published."""
        return self._diagnostics.health

    @property
    def silent_s(self) -> float:
        """Time since the last message on /human_pose, or since the start."""
        return time.monotonic() - self._sent_s

    def open(
        self, skeleton: Skeleton, facts: dict[str, str], convention: str, frame: str = ""
    ) -> None:
        """Advertise the topics; ``facts`` about the results go to the diagnostics.

        ``convention`` is that of the joint angles, "none" without them; ``frame`` that of the
        metres, empty for the camera's own.

        Raises:
            ConfigError: topics are asked for whose messages are not installed; nothing is
                advertised then.

        """
        node, settings = self._node, self._settings
        self._skeleton, self._told, self._blind, self._told_angles = skeleton, None, None, None
        self._bodies = Bodies(
            node, skeleton, hri=settings.hri.enable, tf=settings.tf,
            cropped=settings.privacy.publish_cropped, convention=convention,
        )  # fmt: skip
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        steady = pose_qos(settings.output_deadline_s)
        self._messages = pose_messages(skeleton, self._score_min)
        self._ahead = pose_messages(skeleton, self._score_min)
        self._builder = MarkerBuilder(skeleton, self._score_min, frame)
        self._diagnostics = Diagnostics(node.resolve_topic_name("image"), facts)
        create = node.create_lifecycle_publisher
        self._poses = create(HumanPoseArray, graph.POSES, steady)
        self._markers = create(MarkerArray, graph.MARKERS, QoSProfile(depth=1))
        self._convention, told = convention, convention != "none"
        self._angles = create(HumanJointStateArray, graph.ANGLES, steady) if told else None
        self._array = (
            create(PoseArray, graph.POSE_ARRAY, 1) if settings.compat.pose_array else None
        )
        wanted = settings.predict.rate_hz > 0.0
        self._predicted = create(HumanPoseArray, graph.PREDICTED, 1) if wanted else None
        self._layout = node.create_publisher(String, "~/layout", latched)
        self._status = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._layout.publish(String(data=_layout(skeleton, facts)))

    def close(self) -> None:
        """Take the topics back."""
        for publisher in (
            self._poses, self._markers, self._angles, self._array, self._predicted, self._layout,
            self._status,
        ):  # fmt: skip
            if publisher is not None:
                self._node.destroy_publisher(publisher)
        self._bodies.close()

    def see(self, frame: Frame) -> None:
        """Know a picture that an answer will be about."""
        self._bodies.see(frame)

    def set_score_min(self, score_min: float) -> None:
        """Change the score below which joints are MISSING."""
        for user in (self._messages, self._ahead, self._builder):
            user.score_min = score_min

    def publish(
        self,
        result: PoseResult,
        header: Header,
        sequence: int,
        health: int,
        camera: PinholeCamera | None = None,
    ) -> None:
        """Send everybody, what follows from it to those who read it, and note the times.

        Messages that know neither health nor status would show what is carried on without an
        image under the stamp of the last one: of STALE_INPUT they get no metres.
        """
        start = time.monotonic()
        blind = health == HumanPoseArray.STALE_INPUT
        unplaced = dataclasses.replace(result, body=None) if blind else result
        with self._told_lock:
            self._blind = unplaced if blind else None
            self._told = message = self._messages.array(result, header)
            message.sequence = sequence
            message.health = health
            self._send(message)
            if self._angles is not None:
                self._told_angles = self._messages.joint_angles(result, header, self._convention)
                self._told_angles.health = health
                self._angles.publish(self._told_angles)
        if self._markers.get_subscription_count() and self._to_draw(result):
            self._markers.publish(self._builder.build(unplaced, camera, header))
        self._bodies.publish(unplaced, header)
        self._diagnostics.health = health
        if blind:
            return
        if self._array is not None:
            places = pose_array(result, header)
            if places is not None:
                self._array.publish(places)
        self._jitter.add(result)
        ms = {**result.stage_ms, "publish": (time.monotonic() - start) * 1e3}
        age_ns = ns_from_time(message.publish_stamp) - ns_from_time(header.stamp)
        self._diagnostics.frame({**ms, "stamp_to_publish": age_ns * 1e-6})

    def repeat(self, silence_s: float) -> None:
        """After a silence, send the last answer again as OVERLOADED: the next one takes long.

        Its stamp and sequence stay those of the image it answers; who was LOST is not told again.
        What was STALE_INPUT stays so, without positions: they were predicted for another moment.
        Before the first answer it is an empty one.
        """
        with self._told_lock:
            if self.silent_s < silence_s:
                return
            message = self._told
            if message is None:
                message = HumanPoseArray(layout=self._skeleton.name)
                message.health = HumanPoseArray.STALE_INPUT
            elif self._blind is not None:
                sequence, health = message.sequence, message.health
                self._told = message = self._messages.array(self._blind, message.header)
                message.sequence, message.health = sequence, health
            else:
                message.health = HumanPoseArray.OVERLOADED
            message.humans = [h for h in message.humans if h.state != TrackState.LOST]
            self._send(message)
            if self._angles is not None and self._told_angles is not None:
                angles = self._told_angles
                angles.humans = [h for h in angles.humans if h.state != TrackState.LOST]
                angles.health = message.health
                self._angles.publish(angles)
            self._diagnostics.health = message.health

    def _send(self, message: HumanPoseArray) -> None:
        message.publish_stamp = self._node.get_clock().now().to_msg()
        self._poses.publish(message)
        self._sent_s = time.monotonic()

    def _to_draw(self, result: PoseResult) -> bool:
        """Whether markers are due: people look at them, so not every image needs its own."""
        gap_ns = result.stamp_ns - self._drawn_ns
        ended = bool((result.tracks.state == TrackState.LOST).any())
        if len(result.tracks) == 0 or (0 <= gap_ns < MARKERS_NS and not ended):
            return False
        self._drawn_ns = result.stamp_ns
        return True

    def publish_predicted(
        self, result: PoseResult, sequence: int, stamp_ns: int, limits_s: tuple[float, float]
    ) -> None:
        """Send where everybody will be at ``stamp_ns``, if somebody reads it.

        ``limits_s`` are the longest times without a measurement of a joint and of a person.
        """
        if self._predicted is None or not self._predicted.get_subscription_count():
            return
        header = Header(stamp=time_from_ns(stamp_ns), frame_id=result.frame_id)
        message = self._ahead.array(predicted(result, stamp_ns, *limits_s), header)
        message.sequence, message.health = sequence, self.health
        message.publish_stamp = self._node.get_clock().now().to_msg()
        self._predicted.publish(message)

    def wait_until_read(self) -> None:
        """Wait until every reader has what was sent, or for ``LAST_WORDS_S``."""
        self._poses.wait_for_all_acked(Duration(nanoseconds=int(LAST_WORDS_S * 1e9)))

    def report(self, counts: dict[str, float | str]) -> None:
        """Send the diagnostics of the time since the last report."""
        now = time.monotonic()
        jitter = self._jitter.mean_px
        if jitter is not None:
            before, after = (round(mean, 3) for mean in jitter)
            counts = counts | {"jitter_before_px": before, "jitter_after_px": after}
        stamp = self._node.get_clock().now().to_msg()
        self._status.publish(self._diagnostics.message(stamp, now - self._reported_s, counts))
        self._reported_s = now


def pose_array(result: PoseResult, header: Header) -> PoseArray | None:
    """Every joint of everybody that has a position; orientations are not known: identity.

    None while somebody is there of whom no position is known, or was lost just now: readers take
    an empty message for an empty room.
    """
    body = result.body
    people = len(result.tracks)
    points = np.zeros((people, 0, 3)) if body is None else body.poses.xyz_m.astype(np.float64)
    known = np.isfinite(points).all(axis=-1)
    if not known.any(axis=-1).all():
        return None
    message = PoseArray(header=header)
    for x, y, z in points[known].tolist():
        pose = Pose(position=Point(x=x, y=y, z=z))
        pose.orientation.w = 1.0
        message.poses.append(pose)
    return message


def _layout(skeleton: Skeleton, facts: dict[str, str]) -> str:
    return json.dumps(
        {
            "layout": skeleton.name,
            "names": skeleton.joints,
            "edges": skeleton.edges,
            "pairs": skeleton.flip_pairs,
            **facts,
        }
    )
