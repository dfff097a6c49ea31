"""Frames of people: the model's tree over TF, no NaN, nothing for bodies without hips."""

import logging
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import stand_ins
from people import STAMP_NS, TENTATIVE, TRACKED, bodies, result
from std_msgs.msg import Header

from pose_ros.core.angles import coco_joints
from pose_ros.core.body_model import JOINT_NAMES, LINKS
from pose_ros.core.rep155 import body_frame
from pose_ros.core.rigid import rotation_of
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Body
from pose_ros.errors import ConfigError
from pose_ros.nodes.bodies import Bodies
from pose_ros.nodes.body_tf import tf_message
from pose_ros.nodes.conversions import time_from_ns

HEADER = Header(stamp=time_from_ns(STAMP_NS), frame_id="camera")


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.install(monkeypatch, "tf2_msgs", stand_ins.TFMessage)
    stand_ins.uninstall(monkeypatch, "hri_msgs")


@pytest.fixture
def node() -> stand_ins.Node:
    return stand_ins.Node()


def sent(node: stand_ins.Node) -> dict[str, tuple[str, np.ndarray]]:
    """Child to (parent, (4, 4)) of the last message on /tf; everything in it is checked."""
    out = {}
    for one in node.sent("/tf")[-1].transforms:
        t, q = one.transform.translation, one.transform.rotation
        numbers = np.array([t.x, t.y, t.z, q.x, q.y, q.z, q.w])
        assert np.isfinite(numbers).all() and one.header.stamp == HEADER.stamp
        assert np.linalg.norm(numbers[3:]) == pytest.approx(1.0)
        assert one.child_frame_id not in out
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation_of(q.x, q.y, q.z, q.w), numbers[:3]
        out[one.child_frame_id] = (one.header.frame_id, pose)
    return out


def in_camera(tree: dict[str, tuple[str, np.ndarray]], frame: str) -> np.ndarray:
    """(4, 4) of a frame in the camera, along its parents, as tf2 does."""
    pose = np.eye(4)
    while frame != "camera":
        parent, step = tree[frame]
        frame, pose = parent, step @ pose
    return pose


def send(node: stand_ins.Node, mode: str, body: Body, **states: int) -> None:
    ids = {int(i): TRACKED for i in body.poses.ids} | {int(k[1:]): v for k, v in states.items()}
    Bodies(node, COCO17, tf=mode, convention="rep155").publish(result(ids, body), HEADER)


def test_body_is_at_the_hips_facing_as_the_root_of_human_pose(node: stand_ins.Node) -> None:
    body = bodies(np.array([1, 2]))
    send(node, "body", body)
    tree = sent(node)
    assert set(tree) == {"body_b00001", "body_b00002"}
    assert body.angles is not None
    joints = coco_joints(body.poses, COCO17)
    rotation, origin = body_frame(joints, body.angles.angle_rad[:, 0].astype(float))
    for row, name in enumerate(sorted(tree)):
        parent, pose = tree[name]
        assert parent == "camera"
        np.testing.assert_allclose(pose[:3, 3], origin[row], atol=1e-9)
        np.testing.assert_allclose(pose[:3, :3], rotation[row], atol=1e-9)
        assert pose[1, 2] < -0.9  # z of the body to the head is up, against y of the camera
        hips = body.poses.xyz_m[row, [11, 12]].mean(axis=0)
        np.testing.assert_allclose(pose[:3, 3], hips, atol=1e-6)


def test_full_puts_links_where_the_joints_are(node: stand_ins.Node) -> None:
    body = bodies(np.array([1, 2]))
    send(node, "full", body)
    tree = sent(node)
    assert set(tree) == {f"{link}_b0000{n}" for link in LINKS for n in (1, 2)}
    for row in range(2):
        for link, joint in (
            ("l_elbow", "left_elbow"), ("r_wrist", "right_wrist"), ("l_knee", "left_knee"),
            ("r_ankle", "right_ankle"), ("l_shoulder", "left_shoulder"), ("r_hip", "right_hip"),
        ):  # fmt: skip
            place = in_camera(tree, f"{link}_b0000{row + 1}")[:3, 3]
            truth = body.poses.xyz_m[row, COCO17.index(joint)]
            assert np.linalg.norm(place - truth) < 0.03, link  # the model's trunk is symmetric


def test_full_is_the_urdf_of_the_person(node: stand_ins.Node) -> None:
    """Names, parents and offsets of the model that a robot_state_publisher would read."""
    send(node, "full", bodies(np.array([7])))
    tree = sent(node)
    robot = ElementTree.fromstring(node.sent("/humans/bodies/b00007/urdf")[-1].data)
    joints = robot.findall("joint")
    assert len(joints) == len(tree) - 1
    for joint in joints:
        child, parent = joint.find("child"), joint.find("parent")
        origin = joint.find("origin")
        assert child is not None and parent is not None and origin is not None
        told, pose = tree[child.attrib["link"]]
        assert told == parent.attrib["link"]
        offset = [float(v) for v in origin.attrib["xyz"].split()]
        np.testing.assert_allclose(pose[:3, 3], offset, atol=1e-5)


def test_a_body_without_hips_or_facing_has_no_frame(node: stand_ins.Node) -> None:
    body = bodies(np.array([1, 2, 3]))
    body.poses.xyz_m[0, COCO17.index("left_hip")] = np.nan
    body.poses.xyz_m[1, COCO17.index("right_shoulder")] = np.nan
    body = bodies_again(body)
    send(node, "full", body)
    assert {name.split("_")[-1] for name in sent(node)} == {"b00003"}


def test_an_unknown_arm_hides_its_links_only(node: stand_ins.Node) -> None:
    body = bodies(np.array([1]))
    body.poses.xyz_m[0, COCO17.index("left_elbow")] = np.nan
    send(node, "full", bodies_again(body))
    names = set(sent(node))
    assert {"r_wrist_b00001", "l_ankle_b00001", "head_b00001"} <= names
    assert not names & {"l_shoulder_b00001", "l_elbow_b00001", "l_wrist_b00001"}


def bodies_again(body: Body) -> Body:
    """Angles of changed joints."""
    from pose_ros.core.angles import joint_angles

    return Body(body.poses, body.lengths_m, joint_angles(body.poses, COCO17, "rep155"))


def test_nothing_is_known_and_nothing_is_sent(node: stand_ins.Node) -> None:
    people = Bodies(node, COCO17, tf="full", convention="rep155")
    people.publish(result({1: TRACKED}), HEADER)  # no metres
    blank = bodies(np.array([1]))
    blank.poses.xyz_m[:] = np.nan
    people.publish(result({1: TRACKED}, bodies_again(blank)), HEADER)
    people.publish(result({2: TENTATIVE, 3: TENTATIVE}, bodies(np.array([2, 3]))), HEADER)
    assert node.sent("/tf") == []
    unnamed = Bodies(node, COCO17, tf="body")
    unnamed.publish(result({1: TRACKED}, bodies(np.array([1]))), Header(stamp=HEADER.stamp))
    assert node.sent("/tf") == []  # a frame without a parent is none


def test_body_needs_no_joint_angles(node: stand_ins.Node) -> None:
    for convention in ("none", "isb"):
        body = bodies(np.array([1]), convention=convention)
        people = Bodies(node, COCO17, tf="body", convention=convention)
        people.publish(result({1: TRACKED}, body), HEADER)
        assert set(sent(node)) == {"body_b00001"}


def test_off_without_topics_still_has_frames_of_links(node: stand_ins.Node) -> None:
    people = Bodies(node, COCO17, hri="off", tf="full", convention="rep155")
    people.publish(result({1: TRACKED}, bodies(np.array([1]))), HEADER)
    assert len(sent(node)) == len(LINKS) and set(node.publishers) == {"/tf"}
    people.close()
    assert not node.publishers["/tf"].open


def test_nobody_listens(node: stand_ins.Node) -> None:
    people = Bodies(node, COCO17, tf="body")
    node.publishers["/tf"].readers = 0
    people.publish(result({1: TRACKED}, bodies(np.array([1]))), HEADER)
    assert node.sent("/tf") == []


def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match=r"set joints\.convention to rep155"):
        tf_message("full", "isb")
    assert tf_message("none", "isb") is None
    stand_ins.uninstall(monkeypatch, "tf2_msgs")
    with caplog.at_level(logging.INFO):
        assert tf_message("none", "rep155") is None
        assert not caplog.records
        assert tf_message("body", "rep155") is None
    assert len(caplog.records) == 1 and "tf2_msgs is not installed" in caplog.text
    with pytest.raises(ConfigError, match="set tf to none"):
        tf_message("full", "rep155")


def test_every_angle_moves_a_frame(node: stand_ins.Node) -> None:
    """No joint of the model is left out of /tf."""
    body = bodies(np.array([1]))
    assert body.angles is not None
    people = Bodies(node, COCO17, tf="full", convention="rep155")
    people.publish(result({1: TRACKED}, body), HEADER)
    before = sent(node)
    for column, name in enumerate(JOINT_NAMES):
        body.angles.angle_rad[0, column] += 0.3
        people.publish(result({1: TRACKED}, body), HEADER)
        after = sent(node)
        moved = [k for k in after if not np.allclose(after[k][1], before[k][1], atol=1e-3)]
        assert moved, name
        before = after
