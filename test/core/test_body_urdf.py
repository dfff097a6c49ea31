import xml.etree.ElementTree as ET

import numpy as np
import pytest
from transforms3d.affines import compose as affine
from transforms3d.axangles import axangle2mat

from pose_ros.core.body_model import JOINT_NAMES, LENGTHS, LINKS, TEMPLATE, forward, limits_rad
from pose_ros.core.body_urdf import urdf
from pose_ros.errors import ConfigError, ShapeError

SIZES = TEMPLATE * 0.22 * np.linspace(0.8, 1.2, 13)


def numbers(text: str | None) -> np.ndarray:
    assert text is not None
    return np.array([float(word) for word in text.split()])


def test_links_and_joints_have_the_names_that_rep_155_readers_look_up() -> None:
    robot = ET.fromstring(urdf("b00007", SIZES).split("\n", 1)[1])
    sides = [
        f"{s}_{n}_b00007" for s in "lr" for n in (
            "y_shoulder", "p_shoulder", "shoulder", "elbow", "wrist",
            "y_hip", "p_hip", "hip", "knee", "ankle",
        )
    ]  # fmt: skip
    middle = ["body", "waist", "torso", "r_head", "y_head", "p_head", "head"]
    links = [element.get("name") for element in robot.findall("link")]
    assert sorted(links) == sorted([*sides, *(f"{name}_b00007" for name in middle)])
    moving = [j.get("name") for j in robot.findall("joint") if j.get("type") == "revolute"]
    assert moving == [f"{name}_b00007" for name in JOINT_NAMES]
    assert robot.find(".//joint[@name='l_r_shoulder_b00007']/child").get("link") == (
        "l_shoulder_b00007"
    )


def test_it_is_a_tree_without_mass_and_every_material_is_defined() -> None:
    robot = ET.fromstring(urdf("a", SIZES).split("\n", 1)[1])
    links = {element.get("name") for element in robot.findall("link")}
    children = [element.get("link") for element in robot.findall("joint/child")]
    assert len(children) == len(set(children))
    assert links - set(children) == {"body_a"}
    assert not robot.findall(".//inertial")
    assert not robot.findall(".//collision")
    defined = {element.get("name") for element in robot.findall("material")}
    assert {element.get("name") for element in robot.findall("link/visual/material")} == defined


def test_a_reader_of_the_urdf_gets_the_frames_of_forward() -> None:
    rng = np.random.default_rng(4)
    angle = rng.uniform(*limits_rad())
    robot = ET.fromstring(urdf("x1", SIZES).split("\n", 1)[1])
    poses = {"body_x1": np.eye(4)}
    for joint in robot.findall("joint"):  # written parents first
        turn = np.eye(3)
        if joint.get("type") == "revolute":
            name = joint.get("name").removesuffix("_x1")
            value = angle[JOINT_NAMES.index(name)]
            limit = joint.find("limit")
            assert float(limit.get("lower")) <= value <= float(limit.get("upper"))
            turn = axangle2mat(numbers(joint.find("axis").get("xyz")), value)
        assert not numbers(joint.find("origin").get("rpy")).any()
        step = affine(numbers(joint.find("origin").get("xyz")), turn, np.ones(3))
        poses[joint.find("child").get("link")] = poses[joint.find("parent").get("link")] @ step
    links = forward(angle[None], SIZES[None], np.eye(3)[None], np.zeros((1, 3)))
    for name, xyz, rotation in zip(LINKS, links.xyz_m[0], links.rotation[0], strict=True):
        np.testing.assert_allclose(poses[f"{name}_x1"][:3, 3], xyz, atol=1e-5)
        np.testing.assert_allclose(poses[f"{name}_x1"][:3, :3], rotation, atol=1e-12)


def test_sticks_reach_from_each_joint_to_the_next() -> None:
    """Every drawn stick ends at the origin of its link and at a joint that hangs from it."""
    robot = ET.fromstring(urdf("x1", SIZES).split("\n", 1)[1])
    next_m = {
        joint.find("parent").get("link"): numbers(joint.find("origin").get("xyz"))
        for joint in robot.findall("joint")
    }
    upright = 0
    for link in robot.findall("link"):
        for visual in link.findall("visual"):
            stick, turned = visual.find("geometry/cylinder"), visual.find("origin").get("rpy")
            if stick is None or turned != "0 0 0":
                continue
            half = np.array([0, 0, float(stick.get("length")) / 2])
            centre, upright = numbers(visual.find("origin").get("xyz")), upright + 1
            np.testing.assert_allclose(centre + half, 0, atol=1e-6)
            if link.get("name") == "torso_x1":  # its origin is between the shoulders
                continue
            np.testing.assert_allclose(centre - half, next_m[link.get("name")], atol=1e-6)
            ball = link.findall("visual")[1]
            assert ball.find("geometry/sphere") is not None
            at = numbers(ball.find("origin").get("xyz"))
            np.testing.assert_allclose(at, next_m[link.get("name")], atol=1e-6)
    assert upright == 1 + 8
    eyes = [numbers(v.find("origin").get("xyz")) for v in
            robot.findall("link[@name='head_x1']/visual")[1:]]  # fmt: skip
    assert eyes[0][0] > 0 and eyes[0][1] > 0 and eyes[1][1] == -eyes[0][1]


def test_unknown_lengths_are_filled() -> None:
    lengths = np.full(13, np.nan)
    lengths[LENGTHS.index("torso")] = 0.55  # the template at u = 0.2: shanks of 0.4
    robot = ET.fromstring(urdf("x", lengths).split("\n", 1)[1])
    origin = robot.find(".//joint[@name='l_ankle_x']/origin")
    np.testing.assert_allclose(numbers(origin.get("xyz")), [0, 0, -0.4])


@pytest.mark.parametrize("body_id", ["", "1a", "a b", "a-b", 'x"/>', "ä"])
def test_an_id_that_is_no_name_is_refused(body_id: str) -> None:
    with pytest.raises(ConfigError, match="expected a letter"):
        urdf(body_id, SIZES)


def test_lengths_that_are_none_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected \(13,\), got \(12,\)"):
        urdf("x", SIZES[:12])
    with pytest.raises(ShapeError, match="positive"):
        urdf("x", SIZES * np.where(np.arange(13) == 3, -1, 1))
