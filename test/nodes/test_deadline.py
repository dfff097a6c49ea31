"""A network that is slower than the deadline: messages come in time all the same."""

import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from pose_ros import graph
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes import conversions

PICTURE = cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg"))
#: Fifteen megapixels: unpacking them alone takes longer than the deadline.
JPEG = cv2.imencode(".jpg", cv2.resize(PICTURE, (5120, 2880)))[1].tobytes()
DEADLINE_S = 0.05
TOPIC = "/camera/jpeg"
SLOW = {
    "model.name": "movenet_thunder_large", "device": "cpu", "threads": 1, "detect.interval": 1,
    "output_deadline_s": DEADLINE_S, "image_transport": "compressed",
}  # fmt: skip


def test_a_slow_network_repeats_its_last_answer_as_overloaded(start: Any, peer: Any) -> None:
    start(graph.pose(TOPIC, **SLOW))
    heard: list[tuple[float, HumanPoseArray]] = []
    images = peer.node.create_publisher(CompressedImage, TOPIC, qos_profile_sensor_data)
    peer.node.create_subscription(
        HumanPoseArray, graph.POSES, lambda m: heard.append((time.monotonic(), m)),
        QoSProfile(depth=50),
    )  # fmt: skip
    assert peer.spin_until(lambda: heard and images.get_subscription_count())

    def send(number: int) -> None:
        header = Header(stamp=conversions.time_from_ns(10**15 + number * 33_000_000))
        header.frame_id = "camera_1"
        images.publish(CompressedImage(header=header, format="jpeg", data=JPEG))
        peer.spin_for(0.033)

    def repeated() -> list[HumanPoseArray]:
        return [m for _, m in heard if m.health == HumanPoseArray.OVERLOADED and m.humans]

    for number in range(300):
        send(number)
        told = [m.sequence for m in repeated()]
        if len(told) > len(set(told)) and told[-1] > told[0]:
            break
    told = [m.sequence for m in repeated()]
    assert len(told) > len(set(told))
    again = next(s for s in told if told.count(s) > 1)
    first, second = [m for m in repeated() if m.sequence == again][:2]
    assert first.header == second.header
    assert str(first.humans) == str(second.humans)  # NaN is not equal to itself
    first_ns, second_ns = (conversions.ns_from_time(m.publish_stamp) for m in (first, second))
    assert second_ns > first_ns
    assert float(np.median(np.diff([t for t, _ in heard]))) < 2 * DEADLINE_S  # of busy cores
