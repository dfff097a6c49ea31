"""Everything ``pose_node`` publishes."""

from __future__ import annotations

import json
import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.node_config import NodeConfig
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import PoseResult
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes.conversions import ns_from_time, pose_messages
from pose_ros.nodes.diagnostics import Diagnostics
from pose_ros.nodes.markers import MarkerBuilder

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

    @property
    def health(self) -> int:
        """Health as last published."""
        return self._diagnostics.health

    def open(self, skeleton: Skeleton, facts: dict[str, str]) -> None:
        """Advertise the topics; ``facts`` about the network go to the diagnostics."""
        node = self._node
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._messages = pose_messages(skeleton, self._score_min)
        self._builder = MarkerBuilder(skeleton, self._score_min)
        self._diagnostics = Diagnostics(node.resolve_topic_name("image"), facts)
        self._poses = node.create_lifecycle_publisher(
            HumanPoseArray, graph.POSES, pose_qos(self._settings.output_deadline_s)
        )
        self._markers = node.create_lifecycle_publisher(
            MarkerArray, graph.MARKERS, QoSProfile(depth=1)
        )
        self._layout = node.create_publisher(String, "~/layout", latched)
        self._status = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._layout.publish(String(data=_layout(skeleton, facts)))

    def close(self) -> None:
        """Take the topics back."""
        for publisher in (self._poses, self._markers, self._layout, self._status):
            self._node.destroy_publisher(publisher)

    def set_score_min(self, score_min: float) -> None:
        """Change the score below which joints are MISSING."""
        self._messages.score_min = self._builder.score_min = score_min

    def publish(
        self,
        result: PoseResult,
        header: Header,
        sequence: int,
        health: int,
        camera: PinholeCamera | None = None,
    ) -> None:
        """Send everybody, the markers if somebody looks, and note the times."""
        start = time.monotonic()
        message = self._messages.array(result, header)
        message.sequence = sequence
        message.health = health
        message.publish_stamp = self._node.get_clock().now().to_msg()
        self._poses.publish(message)
        if self._markers.get_subscription_count() and len(result.tracks):
            self._markers.publish(self._builder.build(result, camera, header))
        self._diagnostics.health = health
        if health == HumanPoseArray.STALE_INPUT:
            return
        ms = {**result.stage_ms, "publish": (time.monotonic() - start) * 1e3}
        age_ns = ns_from_time(message.publish_stamp) - ns_from_time(header.stamp)
        self._diagnostics.frame({**ms, "stamp_to_publish": age_ns * 1e-6})

    def wait_until_read(self) -> None:
        """Wait until every reader has what was sent, or for ``LAST_WORDS_S``."""
        self._poses.wait_for_all_acked(Duration(nanoseconds=int(LAST_WORDS_S * 1e9)))

    def report(self, counts: dict[str, int]) -> None:
        """Send the diagnostics of the time since the last report."""
        now = time.monotonic()
        stamp = self._node.get_clock().now().to_msg()
        self._status.publish(self._diagnostics.message(stamp, now - self._reported_s, counts))
        self._reported_s = now


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
