import numpy as np
import pytest
from bodies import Posture
from transforms3d.affines import compose as affine
from transforms3d.axangles import axangle2mat

from pose_ros.core.body_axes import LIMBS
from pose_ros.core.body_model import (
    JOINT_NAMES,
    LENGTHS,
    LINKS,
    TEMPLATE,
    TREE,
    body_lengths,
    complete_lengths,
    forward,
    limb_shift,
    limits_rad,
)

# Facts of human_description's urdf/human-tpl.xacro at a0fcf79, read by hand.
AXES = {
    "waist": (0, 1, 0), "r_head": (1, 0, 0), "y_head": (0, 0, 1), "p_head": (0, -1, 0),
    "l_y_shoulder": (0, 0, -1), "l_p_shoulder": (1, 0, 0), "l_r_shoulder": (0, 0, 1),
    "l_elbow": (0, -1, 0), "r_y_shoulder": (0, 0, 1), "r_p_shoulder": (-1, 0, 0),
    "r_r_shoulder": (0, 0, -1), "r_elbow": (0, -1, 0), "l_y_hip": (0, 0, -1),
    "l_p_hip": (1, 0, 0), "l_r_hip": (0, -1, 0), "l_knee": (0, -1, 0), "r_y_hip": (0, 0, -1),
    "r_p_hip": (-1, 0, 0), "r_r_hip": (0, -1, 0), "r_knee": (0, -1, 0),
}  # fmt: skip
_ARM = [(-1.1, 1.9), (-0.4, 3.3), (-1.7, 1.5), (0.0, 2.5)]
_LEG = [(-0.1, 0.6), (-0.4, 3.3), (-0.4, 0.7), (-2.5, 0.0)]
LIMITS = [(-0.2, 1.0), (-1.0, 1.0), (-1.4, 1.4), (-1.5, 1.5), *_ARM, *_ARM, *_LEG, *_LEG]
# Torso, neck, radius of the head, half shoulders, half hips; upper arm, forearm, thigh, tibia.
PROPORTIONS = [2.75, 0.25, 0.5, 0.8, 0.6, *[1.6, 1.0, 1.5, 2.0] * 2]
SIZES = TEMPLATE * 0.22


def place(**angles: float) -> dict[str, np.ndarray]:
    """Links of the template's person with these angles, root at the origin."""
    row = [[angles.get(name, 0.0) for name in JOINT_NAMES]]
    links = forward(np.array(row), SIZES[None], np.eye(3)[None], np.zeros((1, 3)))
    return dict(zip(LINKS, links.xyz_m[0], strict=True))


def test_the_joints_are_those_of_rep_155_in_the_order_of_its_nodes() -> None:
    assert tuple(AXES) == JOINT_NAMES
    assert {j.name: j.axis for j in TREE if j.axis is not None} == AXES
    assert [j.name for j in TREE if j.axis is None] == [
        "torso", "head", "l_wrist", "r_wrist", "l_ankle", "r_ankle"
    ]  # fmt: skip


def test_limits_and_proportions_are_those_of_the_template() -> None:
    np.testing.assert_array_equal(np.stack(limits_rad(), axis=1), LIMITS)
    np.testing.assert_array_equal(TEMPLATE, PROPORTIONS)


def test_the_zero_pose_hangs_straight() -> None:
    # u = 0.22: neck at 2.75 u, shoulders 0.8 u aside, arms 1.6 u + 1.0 u down, legs 1.5 u + 2 u
    at = place()
    np.testing.assert_allclose(at["torso"], [0, 0, 0.605])
    np.testing.assert_allclose(at["l_y_shoulder"], [0, 0.176, 0.605])
    np.testing.assert_allclose(at["r_elbow"], [0, -0.176, 0.605 - 0.352])
    np.testing.assert_allclose(at["l_wrist"], [0, 0.176, 0.605 - 0.572], atol=1e-12)
    np.testing.assert_allclose(at["r_ankle"], [0, -0.132, -0.77])
    np.testing.assert_allclose(at["head"], [0.055, 0, 0.605 + 0.055 + 0.11])


@pytest.mark.parametrize(
    ("joint", "link", "parent", "direction"),
    [
        ("waist", "torso", "body", (1, 0, 0)),  # bends forwards
        ("l_p_shoulder", "l_elbow", "l_y_shoulder", (0, 1, 0)),  # lifts outwards
        ("r_p_shoulder", "r_elbow", "r_y_shoulder", (0, -1, 0)),
        ("l_elbow", "l_wrist", "l_elbow", (1, 0, 0)),  # forearm forwards
        ("r_elbow", "r_wrist", "r_elbow", (1, 0, 0)),
        ("l_p_hip", "l_knee", "l_y_hip", (0, 1, 0)),  # abducts
        ("r_p_hip", "r_knee", "r_y_hip", (0, -1, 0)),
        ("l_r_hip", "l_knee", "l_y_hip", (1, 0, 0)),  # flexes
        ("r_r_hip", "r_knee", "r_y_hip", (1, 0, 0)),
        ("l_knee", "l_ankle", "l_knee", (1, 0, 0)),  # positive is beyond the limit: forwards
    ],
)
def test_a_right_angle_points_there(
    joint: str, link: str, parent: str, direction: tuple[int, int, int]
) -> None:
    at = place(**{joint: np.pi / 2})
    step = at[link] - at[parent]
    np.testing.assert_allclose(step / np.linalg.norm(step), direction, atol=1e-12)


def test_yaw_turns_a_lifted_arm_forwards_and_a_flexed_leg_to_the_right() -> None:
    at = place(l_p_shoulder=np.pi / 2, l_y_shoulder=np.pi / 2, l_r_hip=np.pi / 2, l_y_hip=0.5)
    np.testing.assert_allclose(at["l_elbow"] - at["l_y_shoulder"], [0.352, 0, 0], atol=1e-12)
    thigh = at["l_knee"] - at["l_y_hip"]
    np.testing.assert_allclose(thigh, 0.33 * np.array([np.cos(0.5), -np.sin(0.5), 0]), atol=1e-12)


def test_forward_agrees_with_a_walk_along_the_tree() -> None:
    rng = np.random.default_rng(3)
    angle = rng.uniform(*limits_rad(), size=(4, 20))
    size = SIZES * rng.uniform(0.7, 1.3, (4, 13))
    turn = np.stack([axangle2mat(rng.normal(size=3), a) for a in rng.uniform(-3, 3, 4)])
    origin = rng.normal(size=(4, 3))
    links = forward(angle, size, turn, origin)
    for person in range(4):
        poses = {"body": affine(origin[person], turn[person], np.ones(3))}
        for joint in TREE:
            offset = np.array(joint.offset) * size[person, LENGTHS.index(joint.length)]
            spin = np.eye(3)
            if joint.axis is not None:
                spin = axangle2mat(joint.axis, angle[person, JOINT_NAMES.index(joint.name)])
            poses[joint.child] = poses[joint.parent] @ affine(offset, spin, np.ones(3))
        for i, link in enumerate(LINKS):
            np.testing.assert_allclose(links.xyz_m[person, i], poses[link][:3, 3], atol=1e-12)
            np.testing.assert_allclose(links.rotation[person, i], poses[link][:3, :3], atol=1e-12)


def test_an_unknown_angle_or_length_spoils_only_what_hangs_from_it() -> None:
    angle, size = np.zeros((1, 20)), SIZES[None].copy()
    angle[0, JOINT_NAMES.index("l_elbow")] = np.nan
    size[0, LENGTHS.index("r_shank")] = np.nan
    links = forward(angle, size, np.eye(3)[None], np.zeros((1, 3)))
    lost = {name for name, x in zip(LINKS, links.xyz_m[0], strict=True) if np.isnan(x).any()}
    assert lost == {"l_wrist", "r_ankle"}


def test_lengths_are_distances_between_joints() -> None:
    lengths = dict(zip(LENGTHS, body_lengths(Posture().joints()[None])[0], strict=True))
    expected = {
        "torso": 0.5, "shoulder_half": 0.18, "hip_half": 0.1, "l_upper_arm": 0.3,
        "r_forearm": 0.26, "l_thigh": 0.42, "r_shank": 0.41, "neck": 0.5 / 11,
    }  # fmt: skip
    for name, length in expected.items():
        assert lengths[name] == pytest.approx(length), name


def test_unknown_lengths_come_from_the_other_side_then_from_proportions() -> None:
    lengths = SIZES.copy()
    lengths[LENGTHS.index("l_thigh")] = np.nan
    lengths[LENGTHS.index("r_thigh")] = 0.5
    lengths[LENGTHS.index("torso")] = np.nan
    filled = complete_lengths(lengths)
    assert filled[LENGTHS.index("l_thigh")] == 0.5
    assert filled[LENGTHS.index("torso")] == pytest.approx(0.605)
    np.testing.assert_allclose(complete_lengths(np.full((2, 13), np.nan)), [SIZES, SIZES])


def test_a_shift_moves_a_whole_limb() -> None:
    links = forward(np.zeros((1, 20)), SIZES[None], np.eye(3)[None], np.zeros((1, 3)))
    xyz = np.zeros((1, 17, 3))
    xyz[:, LIMBS] = links.limbs_m()
    xyz[0, LIMBS[1]] += [0.01, 0.02, 0.03]
    shift = limb_shift(xyz, links)
    np.testing.assert_allclose(shift[0], [[0] * 3, [0.01, 0.02, 0.03], [0] * 3, [0] * 3])
    again = forward(np.zeros((1, 20)), SIZES[None], np.eye(3)[None], np.zeros((1, 3)), shift)
    np.testing.assert_allclose(again.limbs_m(), xyz[:, LIMBS], atol=1e-15)


def test_nobody() -> None:
    links = forward(np.zeros((0, 20)), np.zeros((0, 13)), np.zeros((0, 3, 3)), np.zeros((0, 3)))
    assert links.xyz_m.shape == (0, 27, 3)
    assert body_lengths(np.zeros((0, 17, 3))).shape == (0, 13)
