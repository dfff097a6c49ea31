"""The pose node with a depth camera of its own place, and with compressed depth, over DDS."""

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from rgbd import RgbdCamera, depth_of, packed_depth, parameter, place, raw_depth
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.msg import HumanPose, HumanPoseArray, Keypoint
from pose_ros.nodes.conversions import image_from_pixels, info_from_camera, time_from_ns
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import SceneConfig, random_scene

FIRST_NS = 1_700_000_000_000_000_000
NET = {"model.name": "movenet_lightning", "device": "cpu", "threads": 1}
RULES = {"lift.source": "depth", "output_deadline_s": 0.4, "overload_share": 1.0}
#: 12 cm to the right of the colour camera, turned to the left by 6 degrees, with another lens.
BESIDE = place((0.12, -0.02, 0.01), -6.0)
DEPTH_CAMERA = PinholeCamera.from_fov(256, 212, 75.0)
FRAMES = 8
TF2 = importlib.util.find_spec("tf2_ros") is not None
SCENE = random_scene(
    SceneConfig(seed=42, seconds=1.0, fps=30.0, people=1, size_px=(320, 240), clutter=2)
)


@pytest.fixture(scope="module")
def film() -> list[Rendered]:
    return [render(SCENE, i) for i in range(FRAMES)]


@pytest.fixture(scope="module")
def beside() -> list[Rendered]:
    """The same frames from the depth camera."""
    return [depth_of(SCENE, i, DEPTH_CAMERA, BESIDE) for i in range(FRAMES)]


@pytest.fixture(scope="module")
def running(start: Any) -> Any:
    asked = {"depth_transport": "raw", "depth.extrinsics": parameter(BESIDE)}
    return start(graph.pose(**NET, **RULES, **asked))


@pytest.fixture
def camera(peer: Any) -> Iterator[RgbdCamera]:
    camera = RgbdCamera(peer)
    yield camera
    camera.close()


def header(stamp_ns: int, frame: str = "camera") -> Header:
    return Header(stamp=time_from_ns(stamp_ns), frame_id=frame)


def person(answer: HumanPoseArray) -> HumanPose:
    assert len(answer.humans) == 1
    return answer.humans[0]


def errors_m(human: HumanPose, truth: np.ndarray) -> np.ndarray:
    """Of the joints that were measured."""
    got = np.array([[k.position.x, k.position.y, k.position.z] for k in human.keypoints])
    measured = [k.status == Keypoint.MEASURED for k in human.keypoints]
    assert sum(measured) >= 9
    return np.linalg.norm(got - truth, axis=1)[measured]


def test_metres_from_a_depth_camera_beside_the_colour_camera(
    running: Any, camera: RgbdCamera, film: list[Rendered], beside: list[Rendered]
) -> None:
    camera.connect()
    for picture, deep in zip(film, beside, strict=True):
        stamp_ns = FIRST_NS + picture.stamp_ns
        there = header(stamp_ns + 4_000_000, "depth")
        info = info_from_camera(DEPTH_CAMERA, there)
        depth = raw_depth(deep.depth_m, there, "16UC1")
        answer = camera.send_pair(picture, stamp_ns, depth, info)
    assert answer.health == HumanPoseArray.OK and answer.header.frame_id == "camera"
    assert person(answer).scale_source == HumanPose.SCALE_DEPTH
    assert np.median(errors_m(person(answer), film[-1].xyz_camera_m[0])) < 0.1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("late", "no depth image within 0.03 s"),
        ("size", "expected shape (212, 256) of float32, got (240, 320)"),
        ("zero K", "an all-zero K means 'uncalibrated'"),
        ("colour", "remap 'depth' to the depth camera"),
    ],
)
def test_depth_that_cannot_be_used_is_not_used(
    running: Any, camera: RgbdCamera, film: list[Rendered], beside: list[Rendered], bad: str,
    words: str,
) -> None:  # fmt: skip
    cases = ("late", "size", "zero K", "colour")
    begin = FIRST_NS + 10_000_000_000 * (cases.index(bad) + 1)
    camera.connect()
    for picture, deep in zip(film[:5], beside[:5], strict=True):
        stamp_ns = begin + picture.stamp_ns
        there = header(stamp_ns + (2_000_000_000 if bad == "late" else 0), "depth")
        pixels = picture.depth_m if bad == "size" else deep.depth_m
        info = info_from_camera(DEPTH_CAMERA, there)
        depth = raw_depth(pixels, there)
        if bad == "zero K":
            info = CameraInfo(header=there, width=256, height=212)
        if bad == "colour":
            depth.encoding = "8UC3"
        answer = camera.send_pair(picture, stamp_ns, depth, info)
    assert answer.health == HumanPoseArray.DEGRADED_NO_DEPTH
    human = person(answer)
    assert human.scale_source == HumanPose.SCALE_UNKNOWN
    assert all(np.isnan(k.position.z) for k in human.keypoints)
    for _ in range(60):  # the node says so now and then
        if words in running.text:
            break
        camera.peer.spin_for(0.1)
        camera.images.publish(image_from_pixels(picture.rgb, "rgb8", header(stamp_ns)))
    assert words in running.text


@pytest.mark.parametrize("shown", ["holes", "background"])
def test_depth_that_does_not_show_the_person_measures_nobody(
    running: Any, camera: RgbdCamera, film: list[Rendered], shown: str
) -> None:
    """Neither a point at the lens nor a giant on the wall."""
    begin = FIRST_NS + (80 if shown == "holes" else 90) * 1_000_000_000
    camera.connect()
    metres = np.full((212, 256), np.nan if shown == "holes" else 7.5, np.float32)
    for picture in film[:5]:
        there = header(begin + picture.stamp_ns, "depth")
        info, depth = info_from_camera(DEPTH_CAMERA, there), raw_depth(metres, there, "16UC1")
        answer = camera.send_pair(picture, begin + picture.stamp_ns, depth, info)
    human = person(answer)
    assert human.scale_source == HumanPose.SCALE_UNKNOWN
    assert all(np.isnan([k.position.x, k.position.z]).all() for k in human.keypoints)
    assert any(np.isfinite(k.u) for k in human.keypoints)


@pytest.mark.parametrize("wrong", ["zero K", "other size"])
def test_depth_without_a_calibration_of_the_colour_camera_is_of_no_use(
    running: Any, camera: RgbdCamera, film: list[Rendered], beside: list[Rendered], wrong: str
) -> None:
    begin = FIRST_NS + (100 if wrong == "zero K" else 110) * 1_000_000_000
    width, height = (320, 240) if wrong == "zero K" else (640, 480)
    lens = PinholeCamera.from_fov(width, height, 60.0)
    camera.connect()
    for picture, deep in zip(film[:5], beside[:5], strict=True):
        there = header(begin + picture.stamp_ns, "depth")
        info, depth = info_from_camera(DEPTH_CAMERA, there), raw_depth(deep.depth_m, there)
        told = info_from_camera(lens, header(begin + picture.stamp_ns))
        if wrong == "zero K":
            told.k = np.zeros(9)
        answer = camera.send_pair(picture, begin + picture.stamp_ns, depth, info, told)
    assert all(np.isnan(k.position.z) for k in person(answer).keypoints)
    assert answer.health != HumanPoseArray.OK
    if wrong == "zero K":
        assert answer.health == HumanPoseArray.DEGRADED_NO_CALIBRATION
        assert "camera_info cannot be used: camera matrix" in running.text


@pytest.fixture(scope="module")
def compressed(start: Any, running: Any) -> Any:
    running.end()
    return start(graph.pose(**NET, **RULES, **{"depth_transport": "compressedDepth"}))


def test_compressed_depth_and_one_of_another_place(
    compressed: Any, peer: Any, film: list[Rendered], beside: list[Rendered]
) -> None:
    camera = RgbdCamera(peer, CompressedImage)
    camera.connect()
    for picture in film:
        stamp_ns = FIRST_NS + picture.stamp_ns
        info = info_from_camera(picture.camera, header(stamp_ns))
        depth = packed_depth(picture.depth_m, header(stamp_ns))
        answer = camera.send_pair(picture, stamp_ns, depth, info)
    assert answer.health == HumanPoseArray.OK
    assert np.median(errors_m(person(answer), film[-1].xyz_camera_m[0])) < 0.1
    stamp_ns = FIRST_NS + 60_000_000_000
    there = header(stamp_ns, "depth")
    depth = packed_depth(beside[0].depth_m, there)
    answer = camera.send_pair(film[0], stamp_ns, depth, info_from_camera(DEPTH_CAMERA, there))
    camera.close()
    assert answer.health == HumanPoseArray.DEGRADED_NO_DEPTH
    words = (
        "no transform from 'depth' to 'camera'" if TF2 else "the image in 'camera', and tf2_ros"
    )
    assert words in compressed.text
    assert compressed.end() == 0 and "Traceback" not in compressed.text


@pytest.mark.skipif(not TF2, reason="tf2_ros is not installed")
def test_tf_says_where_the_depth_camera_is_and_where_the_robot_is(
    start: Any, compressed: Any, peer: Any, film: list[Rendered], beside: list[Rendered]
) -> None:
    """With the real tf2_ros: metres from the depth camera's place, given in the robot's frame."""
    from tf2_msgs.msg import TFMessage

    compressed.end()
    asked = {"depth_transport": "raw", "output_frame": "base", "tf_timeout_s": 0.5, "tf": "full"}
    program = start(graph.pose(**NET, **RULES, **asked))
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = peer.node.create_publisher(TFMessage, "/tf_static", latched)
    base = place((1.0, 2.0, 3.0), 90.0)
    static.publish(
        TFMessage(transforms=[edge("base", "camera", base), edge("camera", "depth", BESIDE)])
    )
    camera = RgbdCamera(peer)
    told = camera.listen(TFMessage, "/tf")
    camera.connect()
    for picture, deep in zip(film, beside, strict=True):
        stamp_ns = FIRST_NS + picture.stamp_ns
        there = header(stamp_ns, "depth")
        info, depth = info_from_camera(DEPTH_CAMERA, there), raw_depth(deep.depth_m, there)
        answer = camera.send_pair(picture, stamp_ns, depth, info)
    assert answer.health == HumanPoseArray.OK and answer.header.frame_id == "base"
    truth = film[-1].xyz_camera_m[0] @ base[:3, :3].T + base[:3, 3]
    human = person(answer)
    assert np.median(errors_m(human, truth)) < 0.1
    assert peer.spin_until(lambda: told and told[-1].transforms[0].header == answer.header, 5.0)
    root = told[-1].transforms[0]
    assert root.child_frame_id == f"body_{human.body_id}"
    at = root.transform.translation
    hips = truth[[COCO17.index("left_hip"), COCO17.index("right_hip")]].mean(axis=0)
    assert np.linalg.norm(np.array([at.x, at.y, at.z]) - hips) < 0.15
    camera.close()
    peer.node.destroy_publisher(static)
    assert program.end() == 0 and "Traceback" not in program.text


def edge(parent: str, child: str, pose: np.ndarray) -> TransformStamped:
    """``child`` at ``pose`` in ``parent``, at all times."""
    message = TransformStamped(header=Header(frame_id=parent), child_frame_id=child)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = pose[:3, 3].tolist()
    q.x, q.y, q.z, q.w = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
    return message
