"""Frames of links: the same bodies as forward kinematics, unknown where a link above is."""

import numpy as np
import pytest

from pose_ros.core.body_model import JOINT_NAMES, LENGTHS, LINKS, TEMPLATE, TREE, forward
from pose_ros.core.link_frames import CHANGE, PersonSize, link_transforms
from pose_ros.core.rigid import rotation_of

PEOPLE = 4


@pytest.fixture
def angles() -> np.ndarray:
    return np.random.default_rng(3).uniform(-3.0, 3.0, (PEOPLE, len(JOINT_NAMES)))


def chained(xyz_m: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
    """(L, 4, 4) links in the root, by walking the tree as a reader of TF does."""
    out = {"body": np.eye(4)}
    for joint, place, turn in zip(TREE, xyz_m, quaternion, strict=True):
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = rotation_of(*turn), place
        out[joint.child] = out[joint.parent] @ step
    return np.stack([out[name] for name in LINKS])


def test_chained_they_are_forward_kinematics(angles: np.ndarray) -> None:
    lengths = TEMPLATE * np.random.default_rng(4).uniform(0.15, 0.3, (PEOPLE, len(LENGTHS)))
    xyz_m, quaternion = link_transforms(angles, lengths)
    still = np.tile(np.eye(3), (PEOPLE, 1, 1)), np.zeros((PEOPLE, 3))
    truth = forward(angles, lengths, *still)
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=-1), 1.0)
    assert (quaternion[..., 3] >= 0).all()
    for row in range(PEOPLE):
        links = chained(xyz_m[row], quaternion[row])
        np.testing.assert_allclose(links[:, :3, 3], truth.xyz_m[row], atol=1e-9)
        np.testing.assert_allclose(links[:, :3, :3], truth.rotation[row], atol=1e-9)


def test_by_hand_a_bent_left_elbow() -> None:
    angle = np.zeros((1, 20))
    angle[0, JOINT_NAMES.index("l_elbow")] = np.pi / 2
    xyz_m, quaternion = link_transforms(angle, 0.22 * TEMPLATE[None])
    elbow = [joint.name for joint in TREE].index("l_elbow")
    np.testing.assert_allclose(xyz_m[0, elbow], [0, 0, -0.22 * 1.6])  # an upper arm down
    np.testing.assert_allclose(quaternion[0, elbow], [0, -np.sqrt(0.5), 0, np.sqrt(0.5)])


def test_an_unknown_angle_hides_what_hangs_on_it_and_nothing_else(angles: np.ndarray) -> None:
    angles[0, JOINT_NAMES.index("l_p_shoulder")] = np.nan
    lengths = np.tile(0.22 * TEMPLATE, (PEOPLE, 1))
    lengths[1, LENGTHS.index("torso")] = np.nan
    xyz_m, quaternion = link_transforms(angles, lengths)
    known = np.isfinite(xyz_m).all(axis=-1)
    np.testing.assert_array_equal(known, np.isfinite(quaternion).all(axis=-1))
    gone = {TREE[i].child for i in np.flatnonzero(~known[0])}
    assert gone == {"l_p_shoulder", "l_shoulder", "l_elbow", "l_wrist"}
    left = {TREE[i].child for i in np.flatnonzero(known[1])}
    assert {"waist", "l_knee", "r_ankle"} <= left and not left & {"torso", "head", "l_wrist"}
    assert known[2:].all()


def test_nobody() -> None:
    xyz_m, quaternion = link_transforms(np.zeros((0, 20)), np.zeros((0, 13)))
    assert xyz_m.shape == (0, len(TREE), 3) and quaternion.shape == (0, len(TREE), 4)


def standing(scale: float) -> np.ndarray:
    """(17, 3) joints of the template's proportions, arms down."""
    angle, size = np.zeros((1, 20)), scale * TEMPLATE[None]
    links = forward(angle, size, np.eye(3)[None], np.zeros((1, 3)))
    out = np.full((17, 3), np.nan)
    out[[5, 7, 9, 6, 8, 10, 11, 13, 15, 12, 14, 16]] = links.limbs_m()[0].reshape(12, 3)
    return out


def test_a_size_is_told_at_first_and_when_it_has_changed() -> None:
    size = PersonSize()
    assert not size.update(np.full((17, 3), np.nan)) and size.told_m is None
    assert size.update(standing(0.22))
    np.testing.assert_allclose(size.told_m, 0.22 * TEMPLATE, rtol=1e-6)
    assert not any(size.update(standing(0.22 * (1 + CHANGE / 2))) for _ in range(200))
    told = [size.update(standing(0.25)) for _ in range(200)]
    assert any(told) and sum(told) < 10
    np.testing.assert_allclose(size.told_m, 0.25 * TEMPLATE, rtol=CHANGE)
