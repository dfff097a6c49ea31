"""Writes what is published into a rosbag2 directory, undecoded, with the times of receipt.

Events go to stdout as JSON lines, for the process that started it: ``layout`` with what the
pose node says of its network, ``first`` with the first pose, ``stale`` when poses begin to say
STALE_INPUT, ``report`` with the values of its diagnostics, once per second, and their ``number``.
"""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore
from sensor_msgs.msg import Image
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from pose_ros import graph
from pose_ros.core.node_config import RecorderConfig
from pose_ros.errors import ConfigError
from pose_ros.msg import HumanJointStateArray, HumanPoseArray
from pose_ros.nodes import parameters, process, ros_logging
from pose_ros.nodes.inputs import sensor_qos


def pose_typestore() -> Typestore:
    """Types of ROS and of this package, as ``rosbags`` needs them."""
    store = get_typestore(Stores.LATEST)
    for path in sorted(graph.share("msg").glob("*.msg")):
        text = path.read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, f"pose_ros/msg/{path.stem}"))
    return store


class RecorderNode(Node):
    """Records /human_pose, its joint angles and markers and, if asked, the images."""

    def __init__(self) -> None:
        """Open the bag and subscribe."""
        super().__init__("recorder_node")
        ros_logging.forward(self.get_logger())
        self.exit_status: int | None = None
        self.config = parameters.declare(self, RecorderConfig())
        if not self.config.out or Path(self.config.out).exists():
            raise ConfigError(
                f"out: expected the name of a folder that does not exist, got '{self.config.out}'"
            )
        self._store = pose_typestore()
        self._bag = Writer(Path(self.config.out), version=9, storage_plugin=StoragePlugin.MCAP)
        self._bag.open()
        self._seen = self._stale = False
        self._reports = 0
        self._record(graph.POSES, HumanPoseArray, QoSProfile(depth=50), self._note_pose)
        self._record(graph.ANGLES, HumanJointStateArray, QoSProfile(depth=50))
        self._record(graph.MARKERS, MarkerArray, QoSProfile(depth=50))
        if self.config.image:
            self._record(self.config.image, Image, sensor_qos(5))
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(String, graph.LAYOUT, self._note_layout, latched)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._note_report, 10)

    def close(self) -> None:
        """Finish the bag."""
        self._bag.close()

    def _record(self, topic: str, kind: type, qos: QoSProfile, note: Any = None) -> None:
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        connection = self._bag.add_connection(topic, name, typestore=self._store)

        def take(data: bytes) -> None:
            now_ns = self.get_clock().now().nanoseconds
            self._bag.write(connection, now_ns, data)
            if note is not None:
                note(data)

        self.create_subscription(kind, topic, take, qos, raw=True)

    def _note_pose(self, data: bytes) -> None:
        sequence, health = sequence_and_health(data)
        stale = health == HumanPoseArray.STALE_INPUT
        if not stale and not self._seen:
            _tell("first")
        if stale and not self._stale:
            _tell("stale", sequence=sequence)
        self._seen, self._stale = self._seen or not stale, stale

    def _note_layout(self, message: String) -> None:
        _tell("layout", **json.loads(message.data))

    def _note_report(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith("pose_ros"):
                self._reports += 1
                values = {pair.key: pair.value for pair in status.values}
                _tell("report", **values | {"number": self._reports})


def sequence_and_health(data: bytes) -> tuple[int, int]:
    """Two fields of a serialised ``HumanPoseArray``, without building its hundreds of joints.

    CDR: 4 bytes that say the byte order, then stamp (8 bytes), the length of frame_id with its
    final zero (4) and frame_id, aligned to 4: sequence (4), publish_stamp (8), health (1).
    """
    order = "<" if data[1] & 1 else ">"
    (length,) = struct.unpack_from(f"{order}I", data, 12)
    place = 16 + -(-length // 4) * 4
    (sequence,) = struct.unpack_from(f"{order}I", data, place)
    return sequence, data[place + 12]


def _tell(event: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the node."""
    return process.run(RecorderNode)
