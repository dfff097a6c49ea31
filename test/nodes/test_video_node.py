"""A network that looks ahead in the pose node: later answers, under the stamps of older images."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from pose_ros import graph
from pose_ros.msg import HumanPoseArray
from pose_ros.nets.checkpoint import find_card
from pose_ros.nets.export import cached_onnx, parts_of
from pose_ros.nodes import conversions

PICTURE = cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg"))
FIRST_NS, FRAME_NS = 1_700_000_000_000_000_001, 40_000_000
NET = {"model.name": "pstpose_movenet", "device": "cpu", "threads": 1, "output_deadline_s": 1.0}
IMAGES = 6


def test_answers_come_a_frame_later_under_their_own_stamps(start: Any, peer: Any) -> None:
    card = find_card("pstpose_movenet")
    for part in parts_of(card):  # once, and it may take longer than a node is waited for
        cached_onnx(card, part)
    program = start(graph.pose(**NET))
    answers: list[HumanPoseArray] = []
    layouts: list[String] = []
    node = peer.node
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    images = node.create_publisher(Image, graph.IMAGE, sensor)
    node.create_subscription(HumanPoseArray, graph.POSES, answers.append, QoSProfile(depth=50))
    node.create_subscription(String, "/pose_node/layout", layouts.append, latched)
    assert peer.spin_until(lambda: answers and layouts and images.get_subscription_count()), (
        program.text
    )
    facts = json.loads(layouts[0].data)
    assert (facts["net"], facts["trained"]) == ("pstpose_movenet", "false")
    assert (facts["mode"], facts["lookahead_frames"]) == ("delayed", "1")
    assert "pstpose_movenet is UNTRAINED" in program.text

    def fresh() -> list[HumanPoseArray]:
        own = [a for a in answers if a.health != HumanPoseArray.STALE_INPUT]
        return [a for a in own if conversions.ns_from_time(a.header.stamp) >= FIRST_NS]

    def stamps() -> list[int]:
        return [(conversions.ns_from_time(a.header.stamp) - FIRST_NS) // FRAME_NS for a in fresh()]

    def send(number: int) -> None:
        stamp = conversions.time_from_ns(FIRST_NS + FRAME_NS * number)
        header = Header(stamp=stamp, frame_id="camera_1")
        picture = np.roll(PICTURE, 2 * number, axis=1)
        images.publish(conversions.image_from_pixels(picture, "bgr8", header))

    # A writer may know a reader before that reader knows it: pictures of long before, which end
    # when pictures are missed, until one is answered.
    for number in range(-300, -280):
        send(number)
        if peer.spin_until(
            lambda: any(a.health != HumanPoseArray.STALE_INPUT for a in answers), 1.0
        ):
            break
    for number in range(IMAGES):
        send(number)
        peer.spin_for(0.3)  # of two pictures at once the node would take the newer one
        peer.spin_until(lambda n=number: len(stamps()) >= n, 1.0)
    # the last image has no later one: it is answered when images are missed
    assert peer.spin_until(lambda: len(stamps()) == IMAGES, 10.0), (stamps(), program.text)
    assert stamps() == list(range(IMAGES))
    exact = [conversions.ns_from_time(a.header.stamp) for a in fresh()]
    assert exact == [FIRST_NS + FRAME_NS * n for n in range(IMAGES)]
    assert {a.header.frame_id for a in fresh()} == {"camera_1"}
    first = fresh()[0].sequence
    assert [a.sequence for a in fresh()] == list(range(first, first + IMAGES))
