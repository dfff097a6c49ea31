"""A filter with a lag in the pose node: later answers, under the stamps of older images."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from std_srvs.srv import Trigger

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.msg import HumanJointStateArray, HumanPose, HumanPoseArray
from pose_ros.nodes import conversions

PICTURE = cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg"))
CAMERA = PinholeCamera.from_fov(PICTURE.shape[1], PICTURE.shape[0], 60.0)
FIRST_NS, FRAME_NS = 1_700_000_000_000_000_001, 40_000_000
LAG, IMAGES = 2, 8
NET = {
    "model.name": "movenet_lightning", "device": "cpu", "threads": 1, "output_deadline_s": 4.0,
    "filter.lag": LAG, "track.min_hits": 1,
}  # fmt: skip


class Scene:
    """Images for the node, and what it answers."""

    def __init__(self, peer: Any) -> None:
        self.peer, node = peer, peer.node
        sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.poses: list[HumanPoseArray] = []
        self.angles: list[HumanJointStateArray] = []
        self.layouts: list[String] = []
        self.images = node.create_publisher(Image, graph.IMAGE, sensor)
        self.infos = node.create_publisher(CameraInfo, graph.CAMERA_INFO, sensor)
        deep = QoSProfile(depth=50)
        node.create_subscription(HumanPoseArray, graph.POSES, self.poses.append, deep)
        node.create_subscription(HumanJointStateArray, graph.ANGLES, self.angles.append, deep)
        node.create_subscription(String, "/pose_node/layout", self.layouts.append, latched)

    def send(self, number: int) -> None:
        stamp = conversions.time_from_ns(FIRST_NS + FRAME_NS * number)
        header = Header(stamp=stamp, frame_id="camera_1")
        picture = np.roll(PICTURE, 2 * number, axis=1)
        self.infos.publish(conversions.info_from_camera(CAMERA, header))
        self.images.publish(conversions.image_from_pixels(picture, "bgr8", header))

    def told(self, messages: list[Any]) -> list[Any]:
        """Those that answer an image of this test, without what a slow machine says again."""
        odd = (HumanPoseArray.STALE_INPUT, HumanPoseArray.OVERLOADED)
        own = [m for m in messages if m.health not in odd]
        return [m for m in own if conversions.ns_from_time(m.header.stamp) >= FIRST_NS]

    def numbers(self, messages: list[Any]) -> list[int]:
        """Of the images that are answered."""
        stamps = [conversions.ns_from_time(m.header.stamp) for m in self.told(messages)]
        return [(stamp - FIRST_NS) // FRAME_NS for stamp in stamps]


def test_answers_wait_for_later_images_and_no_longer(start: Any, peer: Any) -> None:
    program, scene = start(graph.pose(**NET)), Scene(peer)
    ready = lambda: scene.poses and scene.layouts and scene.images.get_subscription_count()  # noqa: E731
    assert peer.spin_until(ready), program.text
    assert json.loads(scene.layouts[0].data)["lag_frames"] == str(LAG)
    # A writer may know a reader before that reader knows it: pictures of long before, which are
    # answered when pictures are missed.
    for number in range(-300, -280):
        scene.send(number)
        if peer.spin_until(
            lambda: any(m.health != HumanPoseArray.STALE_INPUT for m in scene.poses), 3.0
        ):
            break
    for number in range(IMAGES):
        scene.send(number)
        due = max(number + 1 - LAG, 0)
        if due:
            peer.spin_until(lambda due=due: len(scene.told(scene.poses)) >= due, 2.0)
        else:
            peer.spin_for(0.5)
    # no further image comes: who waits is answered at half of the deadline, and then it is said
    assert peer.spin_until(lambda: len(scene.told(scene.poses)) == IMAGES, 10.0), program.text
    assert scene.numbers(scene.poses) == list(range(IMAGES))
    told = scene.told(scene.poses)
    assert [m.sequence - told[0].sequence for m in told] == list(range(IMAGES))
    assert {m.header.frame_id for m in told} == {"camera_1"}
    assert {m.health for m in told} == {HumanPoseArray.DEGRADED_NO_DEPTH}
    assert peer.spin_until(lambda: len(scene.told(scene.angles)) == IMAGES, 10.0)
    assert scene.numbers(scene.angles) == list(range(IMAGES))
    last = told[-1]
    walker = max(last.humans, key=lambda human: human.confidence)
    assert walker.state == HumanPose.TRACKED
    assert np.isfinite([k.position.z for k in walker.keypoints]).sum() > 10
    assert peer.spin_until(lambda: scene.poses[-1].health == HumanPoseArray.STALE_INPUT, 10.0)
    assert scene.poses[-1].sequence == last.sequence


def test_a_reset_answers_what_waits_and_then_ends_everybody(start: Any, peer: Any) -> None:
    """In the node of the test before: the service comes between an image and its answer."""
    scene = Scene(peer)
    assert peer.spin_until(scene.images.get_subscription_count)
    for number in range(100, 104):
        scene.send(number)
        wanted = lambda n=number: n - LAG in scene.numbers(scene.poses)  # noqa: E731
        peer.spin_until(wanted, 2.0 if number >= 100 + LAG else 0.5)
    client = peer.node.create_client(Trigger, "/pose_node/reset_tracks")
    assert peer.spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    assert peer.spin_until(future.done) and future.result().success
    scene.send(104)
    lost = lambda: [  # noqa: E731
        human.id for m in scene.poses for human in m.humans if human.state == HumanPose.LOST
    ]
    assert peer.spin_until(lost, 10.0)
    peer.spin_until(lambda: 104 in scene.numbers(scene.poses), 10.0)
    assert len(lost()) == len(set(lost()))
    answered = [n for n in scene.numbers(scene.poses) if n in range(100, 105)]
    assert answered == sorted(answered) and 104 in answered and 103 in answered
