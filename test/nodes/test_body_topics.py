"""The pose node with depth over DDS: rendered people in, metres, angles and bodies out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped, PoseArray, TwistStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from pose_ros import graph
from pose_ros.core.skeletons import COCO17
from pose_ros.msg import HumanJointStateArray, HumanPose, HumanPoseArray, Keypoint
from pose_ros.nodes import conversions
from pose_ros.srv import CalibratePerson
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import SceneConfig, random_scene

FIRST_NS = 1_700_000_000_000_000_000
NET = {"model.name": "movenet_lightning", "device": "cpu", "threads": 1}
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
FRAMES = 16


@pytest.fixture(scope="module")
def film() -> list[Rendered]:
    config = SceneConfig(seed=42, seconds=1.0, fps=30.0, people=1, size_px=(320, 240), clutter=2)
    scene = random_scene(config)
    return [render(scene, i) for i in range(FRAMES)]


class DepthCamera:
    """Publishes pictures with aligned depth, and collects what comes back."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer
        node = peer.node
        self.images = node.create_publisher(Image, graph.IMAGE, SENSOR)
        self.infos = node.create_publisher(CameraInfo, graph.CAMERA_INFO, SENSOR)
        self.depths = node.create_publisher(Image, graph.DEPTH, SENSOR)
        self.depth_infos = node.create_publisher(CameraInfo, graph.DEPTH_INFO, SENSOR)
        self.heard: dict[str, list[Any]] = {}
        self.readers: list[Any] = []
        self.listen(HumanPoseArray, graph.POSES)

    def listen(self, kind: type, topic: str, latched: bool = False) -> list[Any]:
        heard = self.heard.setdefault(topic, [])
        qos = QoSProfile(depth=50)
        if latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self.readers.append(self.peer.node.create_subscription(kind, topic, heard.append, qos))
        return heard

    def connect(self) -> None:
        heard = self.heard[graph.POSES]
        publishers = (self.images, self.depths, self.infos, self.depth_infos)
        assert self.peer.spin_until(
            lambda: heard and all(p.get_subscription_count() for p in publishers)
        )
        heard.clear()

    def send(self, picture: Rendered, stamp_ns: int, depth: bool = True) -> HumanPoseArray:
        """Send one picture, after its depth; again if DDS lost it. Returns the answer."""
        header = Header(stamp=conversions.time_from_ns(stamp_ns), frame_id="camera")
        info = conversions.info_from_camera(picture.camera, header)
        metres = np.nan_to_num(picture.depth_m).astype(np.float32)
        height, width = metres.shape
        deep = Image(
            header=header, height=height, width=width, encoding="32FC1", step=4 * width,
            data=metres.tobytes(),
        )  # fmt: skip
        image = conversions.image_from_pixels(picture.rgb, "rgb8", header)
        for _ in range(3):
            self.infos.publish(info)
            self.depth_infos.publish(info)
            if depth:
                self.depths.publish(deep)
            self.peer.spin_for(0.02)
            self.images.publish(image)
            if self.peer.spin_until(lambda: self.answer(header), 3.0):
                break
        answer = self.answer(header)
        assert answer is not None
        return answer

    def answer(self, header: Header) -> HumanPoseArray | None:
        stale = HumanPoseArray.STALE_INPUT
        found = (a for a in self.heard[graph.POSES] if a.header.stamp == header.stamp)
        return next((a for a in found if a.health != stale), None)

    def close(self) -> None:
        for publisher in (self.images, self.infos, self.depths, self.depth_infos):
            self.peer.node.destroy_publisher(publisher)
        for reader in self.readers:
            self.peer.node.destroy_subscription(reader)


@pytest.fixture
def camera(peer: Any) -> Iterator[DepthCamera]:
    camera = DepthCamera(peer)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def running(start: Any) -> Any:
    return start(graph.pose(**NET, **{
        "depth_transport": "raw", "lift.source": "depth", "output_deadline_s": 0.4,
        "predict.rate_hz": 50.0, "predict.horizon_s": 0.05, "compat.pose_array": True,
    }))  # fmt: skip


def body_of(answer: HumanPoseArray) -> HumanPose:
    assert len(answer.humans) == 1
    return answer.humans[0]


def test_a_rendered_person_comes_out_in_metres_with_angles(
    running: Any, camera: DepthCamera, film: list[Rendered], peer: Any
) -> None:
    angles = camera.listen(HumanJointStateArray, graph.ANGLES)
    points = camera.listen(PoseArray, graph.POSE_ARRAY)
    markers = camera.listen(MarkerArray, graph.MARKERS)
    ahead = camera.listen(HumanPoseArray, graph.PREDICTED)
    camera.connect()
    for i, picture in enumerate(film):
        answer = camera.send(picture, FIRST_NS + picture.stamp_ns)
        if i == 8:
            topic = f"{graph.BODIES}/{body_of(answer).body_id}"
            joints = camera.listen(JointState, f"{topic}/joint_states")
            places = camera.listen(PointStamped, f"{topic}/position")
            speeds = camera.listen(TwistStamped, f"{topic}/velocity")
            models = camera.listen(String, f"{topic}/urdf", latched=True)
            peer.spin_for(0.5)
    human, truth = body_of(answer), film[-1].xyz_camera_m[0]
    assert answer.health == HumanPoseArray.OK
    assert (human.state, human.scale_source) == (HumanPose.TRACKED, HumanPose.SCALE_DEPTH)
    measured = [i for i, k in enumerate(human.keypoints) if k.status == Keypoint.MEASURED]
    assert len(measured) >= 10
    got = np.array([[p.position.x, p.position.y, p.position.z] for p in human.keypoints])
    assert np.median(np.linalg.norm(got - truth, axis=1)[measured]) < 0.1
    assert all(human.keypoints[i].covariance[0] > 0 for i in measured)
    hips = truth[[COCO17.index("left_hip"), COCO17.index("right_hip")]].mean(axis=0)
    root = human.root.pose.position
    assert np.linalg.norm(np.array([root.x, root.y, root.z]) - hips) < 0.15

    peer.spin_for(0.3)
    told = next(a for a in angles if a.header == answer.header)  # the first: then STALE_INPUT
    assert (told.convention, told.health) == ("rep155", HumanPoseArray.OK)
    assert math.isfinite(told.humans[0].position[told.humans[0].name.index("l_knee")])
    assert points[-1].poses and all(math.isfinite(p.position.z) for p in points[-1].poses)
    assert any(m.ns == human.body_id for array in markers for m in array.markers)
    assert joints and all(name.endswith(f"_{human.body_id}") for name in joints[-1].name)
    assert joints[-1].header == answer.header and len(joints[-1].name) == len(joints[-1].position)
    assert places[-1].point.z == pytest.approx(root.z) and speeds
    assert f"waist_{human.body_id}" in models[-1].data and models[-1].data.startswith("<")
    client = peer.node.create_client(CalibratePerson, "/pose_node/calibrate_person")
    assert peer.spin_until(client.service_is_ready)
    for number, stature_m, words in (
        (human.id, 0.0, ""), (human.id, 1.8, "metres rest on depth only"), (999, 0.0, "id 999"),
    ):  # fmt: skip
        asked = CalibratePerson.Request(id=number, stature_m=stature_m)
        future = client.call_async(asked)
        assert peer.spin_until(future.done, 10.0)
        reply = future.result()
        assert words in reply.message and reply.success == (words == "")
        if reply.success:
            assert 1.2 < reply.stature_m < 2.2 and max(reply.learned) > 0.1
            assert len(reply.segment_lengths) == len(COCO17.edges)
    peer.node.destroy_client(client)
    later = ahead[-1].humans[0].keypoints
    assert {k.status for k in later} <= {Keypoint.PREDICTED, Keypoint.MISSING}
    assert all(math.isnan(k.u) for k in later)  # pixels belong to an image


def test_without_depth_it_says_so_and_knows_no_metres(
    running: Any, camera: DepthCamera, film: list[Rendered]
) -> None:
    camera.connect()
    begin = FIRST_NS + 60_000_000_000
    for picture in film[:6]:
        answer = camera.send(picture, begin + picture.stamp_ns, depth=False)
    assert answer.health == HumanPoseArray.DEGRADED_NO_DEPTH
    human = body_of(answer)
    assert human.scale_source == HumanPose.SCALE_UNKNOWN
    assert all(math.isnan(k.position.z) for k in human.keypoints)
    assert any(math.isfinite(k.u) for k in human.keypoints)
    assert "no depth image within" in running.text


def test_the_process_ends_cleanly(running: Any) -> None:
    assert running.end() == 0
    assert "Traceback" not in running.text
