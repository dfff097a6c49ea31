"""The pose node with depth over DDS: rendered people in, metres, angles and bodies out."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PointStamped, PoseArray, TwistStamped
from rgbd import RgbdCamera
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from visualization_msgs.msg import MarkerArray

from pose_ros import graph
from pose_ros.core.skeletons import COCO17
from pose_ros.msg import HumanJointStateArray, HumanPose, HumanPoseArray, Keypoint
from pose_ros.srv import CalibratePerson
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import SceneConfig, random_scene

FIRST_NS = 1_700_000_000_000_000_000
NET = {"model.name": "movenet_lightning", "device": "cpu", "threads": 1}
FRAMES = 16
TF, HRI = (importlib.util.find_spec(name) is not None for name in ("tf2_msgs", "hri_msgs"))


@pytest.fixture(scope="module")
def film() -> list[Rendered]:
    config = SceneConfig(seed=42, seconds=1.0, fps=30.0, people=1, size_px=(320, 240), clutter=2)
    scene = random_scene(config)
    return [render(scene, i) for i in range(FRAMES)]


@pytest.fixture
def camera(peer: Any) -> Iterator[RgbdCamera]:
    camera = RgbdCamera(peer)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def running(start: Any) -> Any:
    return start(graph.pose(**NET, **{
        "depth_transport": "raw", "lift.source": "depth", "output_deadline_s": 0.4,
        "predict.rate_hz": 50.0, "predict.horizon_s": 0.05, "compat.pose_array": True,
        "filter.max_prediction_s": 0.9,  # a busy machine answers late
        "privacy.publish_cropped": True, "tf": "full" if TF else "body",
    }))  # fmt: skip


def body_of(answer: HumanPoseArray) -> HumanPose:
    assert len(answer.humans) == 1
    return answer.humans[0]


def test_a_rendered_person_comes_out_in_metres_with_angles(
    running: Any, camera: RgbdCamera, film: list[Rendered], peer: Any
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
            cut = camera.listen(Image, f"{topic}/cropped")
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
    roi = human.roi
    assert (cut[-1].header, cut[-1].encoding) == (answer.header, "rgb8")
    assert abs(cut[-1].width - roi.width) <= 2 and abs(cut[-1].height - roi.height) <= 2
    assert ahead and not ahead[-1].humans  # by this machine's clock the pictures are years old


def calibrated(peer: Any, client: Any, **request: Any) -> Any:
    future = client.call_async(CalibratePerson.Request(**request))
    assert peer.spin_until(future.done, 15.0)
    return future.result()


def test_a_person_can_be_asked_about_and_measured_while_images_go_on(
    running: Any, camera: RgbdCamera, film: list[Rendered], peer: Any
) -> None:
    camera.connect()
    client = peer.node.create_client(CalibratePerson, "/pose_node/calibrate_person")
    assert peer.spin_until(client.service_is_ready)
    begin = FIRST_NS + 30_000_000_000
    for i, picture in enumerate(film):
        human = body_of(camera.send(picture, begin + picture.stamp_ns))
        if i == 10:
            asked = client.call_async(CalibratePerson.Request(id=human.id, seconds=0.5))
    assert peer.spin_until(asked.done, 15.0)
    assert asked.result().success and max(asked.result().learned) > 0.1
    stature_m = 0.0
    for i, picture in enumerate(film):  # alive: otherwise the person is lost soon
        body_of(camera.send(picture, begin + 600_000_000 + picture.stamp_ns))
        if i == 2:
            reply = calibrated(peer, client, id=human.id)
            assert reply.success and 1.2 < reply.stature_m < 2.2
            assert len(reply.segment_lengths) == len(COCO17.edges)
            stature_m = reply.stature_m
    assert stature_m
    refused = calibrated(peer, client, id=human.id, stature_m=1.8)
    assert not refused.success and "metres rest on depth only" in refused.message
    assert "id 999" in calibrated(peer, client, id=999).message
    peer.spin_for(3.0)  # nobody is accepted whom no image has shown for longer than max_lost_s
    gone = calibrated(peer, client, id=human.id)
    assert not gone.success and "nobody is followed" in gone.message
    peer.node.destroy_client(client)


def test_predictions_end_when_images_do(
    running: Any, camera: RgbdCamera, film: list[Rendered], peer: Any
) -> None:
    ahead = camera.listen(HumanPoseArray, graph.PREDICTED)
    camera.connect()
    for picture in film:
        camera.send(picture, time.time_ns())
    number = body_of(camera.heard[graph.POSES][-1]).id
    peer.spin_for(3.0)
    told = [h for a in ahead for h in a.humans if h.id == number]
    joints = [k for human in told for k in human.keypoints]
    assert any(k.status == Keypoint.PREDICTED and math.isfinite(k.position.z) for k in joints)
    assert {k.status for k in joints} <= {Keypoint.PREDICTED, Keypoint.MISSING}
    assert all(math.isnan(k.u) for k in joints)  # pixels belong to an image
    assert HumanPose.OCCLUDED in {h.state for h in told}
    assert HumanPose.LOST not in {h.state for h in told}
    assert ahead[-1].humans == []


@pytest.mark.skipif(not TF, reason="tf2_msgs is not installed")
def test_frames_of_the_person_on_tf(
    running: Any, camera: RgbdCamera, film: list[Rendered], peer: Any
) -> None:
    from tf2_msgs.msg import TFMessage

    told = camera.listen(TFMessage, "/tf")
    camera.connect()
    begin = FIRST_NS + 30_000_000_000
    for picture in film:
        answer = camera.send(picture, begin + picture.stamp_ns)
    human = body_of(answer)
    assert peer.spin_until(
        lambda: told and told[-1].transforms[0].header.stamp == answer.header.stamp, 5.0
    )
    frames = {one.child_frame_id: one for one in told[-1].transforms}
    root, body = frames[f"body_{human.body_id}"], human.root.pose
    assert root.header == answer.header
    at, turn = root.transform.translation, root.transform.rotation
    assert (at.x, at.y, at.z) == pytest.approx((body.position.x, body.position.y, body.position.z))
    facing = body.orientation
    same = (facing.x, facing.y, facing.z, facing.w)
    assert (turn.x, turn.y, turn.z, turn.w) == pytest.approx(same)
    assert frames[f"l_knee_{human.body_id}"].header.frame_id == f"l_hip_{human.body_id}"
    numbers = [
        value
        for message in told for one in message.transforms
        for part in (one.transform.translation, one.transform.rotation)
        for value in (part.x, part.y, part.z)
    ]  # fmt: skip
    assert len(frames) > 15 and all(math.isfinite(value) for value in numbers)


@pytest.mark.skipif(not HRI, reason="hri_msgs is not installed")
def test_where_the_person_is_in_the_picture_in_hri_msgs(
    running: Any, camera: RgbdCamera, film: list[Rendered], peer: Any
) -> None:
    from hri_msgs.msg import IdsList, NormalizedRegionOfInterest2D, Skeleton2D

    tracked = camera.listen(IdsList, f"{graph.BODIES}/tracked")
    camera.connect()
    begin = FIRST_NS + 45_000_000_000
    for i, picture in enumerate(film):
        answer = camera.send(picture, begin + picture.stamp_ns)
        if i == 8:
            topic = f"{graph.BODIES}/{body_of(answer).body_id}"
            regions = camera.listen(NormalizedRegionOfInterest2D, f"{topic}/roi")
            skeletons = camera.listen(Skeleton2D, f"{topic}/skeleton2d")
            peer.spin_for(0.5)
    human = body_of(answer)
    assert peer.spin_until(
        lambda: skeletons and skeletons[-1].header.stamp == answer.header.stamp, 5.0
    )
    assert list(tracked[-1].ids) == [human.body_id] and tracked[-1].header == answer.header
    knee = human.keypoints[COCO17.index("left_knee")]
    point = skeletons[-1].skeleton[Skeleton2D.LEFT_KNEE]
    assert (point.x * 320 - 0.5, point.y * 240 - 0.5) == pytest.approx((knee.u, knee.v), abs=0.01)
    assert regions[-1].header == answer.header and regions[-1].c > 0.3
    assert regions[-1].xmin * 320 == pytest.approx(human.roi.x_offset, abs=1.0)


def test_without_depth_it_says_so_and_knows_no_metres(
    running: Any, camera: RgbdCamera, film: list[Rendered]
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


def test_what_is_not_installed_is_said_once(running: Any) -> None:
    assert running.text.count("hri_msgs is not installed") == (0 if HRI else 1)
    assert running.text.count("tf2_msgs is not installed") == (0 if TF else 1)


@pytest.mark.parametrize(
    ("name", "value", "there", "words"),
    [
        ("hri.enable", "on", HRI, "hri_msgs cannot be imported"),
        ("tf", "full", TF, "tf2_msgs cannot be imported"),
        ("depth.extrinsics", "left", False, "depth.extrinsics: expected 'x y z qx qy qz qw'"),
    ],
)
def test_what_cannot_be_had_stops_the_node_with_a_sentence(
    start: Any, name: str, value: str, there: bool, words: str
) -> None:
    if there:
        pytest.skip("it is installed")
    program = start(graph.pose(**NET, **{name: value}))
    assert program.process.wait(60) == 1
    assert words in program.text and "Traceback" not in program.text


def test_the_process_ends_cleanly(running: Any) -> None:
    assert running.end() == 0
    assert "Traceback" not in running.text
