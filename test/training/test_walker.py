"""The gait and reaching generator."""

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError
from pose_ros.training.walker import place, reach, walk

BONES = COCO17.edge_indices()


def lengths(xyz_m: np.ndarray) -> np.ndarray:
    return np.linalg.norm(xyz_m[:, BONES[:, 0]] - xyz_m[:, BONES[:, 1]], axis=-1)


def joint(xyz_m: np.ndarray, name: str) -> np.ndarray:
    return xyz_m[:, COCO17.index(name)]


def knee_flexion_deg(xyz_m: np.ndarray, side: str) -> np.ndarray:
    thigh = joint(xyz_m, f"{side}_knee") - joint(xyz_m, f"{side}_hip")
    shank = joint(xyz_m, f"{side}_ankle") - joint(xyz_m, f"{side}_knee")
    cosine = (thigh * shank).sum(-1)
    cosine /= np.linalg.norm(thigh, axis=-1) * np.linalg.norm(shank, axis=-1)
    return np.degrees(np.arccos(cosine))


@pytest.mark.parametrize("path", ["line", "circle"])
@pytest.mark.parametrize(("stature_m", "speed_m_s"), [(1.5, 0.6), (1.75, 1.3), (1.95, 1.8)])
def test_every_bone_of_coco_keeps_its_length(path, stature_m, speed_m_s):
    for seed in range(4):
        _, xyz_m = walk(3.0, 50, seed, stature_m, speed_m_s, path)
        assert np.ptp(lengths(xyz_m), axis=0).max() < 2e-6
    _, xyz_m = reach(3.0, 50, 3, stature_m, "both")
    assert np.ptp(lengths(xyz_m), axis=0).max() < 2e-6


def test_stamps_and_shape():
    stamps_ns, xyz_m = walk(2.0, 30, 0)
    assert stamps_ns.dtype == np.int64 and xyz_m.dtype == np.float32
    assert xyz_m.shape == (60, 17, 3)
    assert stamps_ns[:3].tolist() == [0, 33333333, 66666667]
    assert np.isfinite(xyz_m).all()


def test_segments_are_the_published_shares_of_the_stature():
    _, xyz_m = walk(1.0, 30, 0, stature_m=2.0)
    thigh = joint(xyz_m, "left_hip") - joint(xyz_m, "left_knee")
    arm = joint(xyz_m, "right_shoulder") - joint(xyz_m, "right_elbow")
    assert np.linalg.norm(thigh, axis=-1) == pytest.approx(0.245 * 2.0, abs=1e-5)
    assert np.linalg.norm(arm, axis=-1) == pytest.approx(0.186 * 2.0, abs=1e-5)


def test_a_line_advances_at_the_given_speed_over_the_origin():
    stamps_ns, xyz_m = walk(4.0, 50, 1, speed_m_s=1.1)
    hips = (joint(xyz_m, "left_hip") + joint(xyz_m, "right_hip")) / 2
    speed = (hips[-1, 0] - hips[0, 0]) / ((stamps_ns[-1] - stamps_ns[0]) * 1e-9)
    assert speed == pytest.approx(1.1, rel=1e-3)
    assert abs(hips[len(hips) // 2, 0]) < 0.05
    assert np.abs(hips[:, 1]).max() < 0.05


def test_a_circle_keeps_its_radius():
    _, xyz_m = walk(6.0, 30, 1, path="circle", radius_m=1.5)
    hips = (joint(xyz_m, "left_hip") + joint(xyz_m, "right_hip")) / 2
    assert np.linalg.norm(hips[:, :2], axis=-1) == pytest.approx(1.5, abs=0.05)


def test_a_standing_foot_does_not_slide_and_nothing_is_below_the_floor():
    _, xyz_m = walk(4.0, 100, 2)
    ankle = joint(xyz_m, "left_ankle")
    low = ankle[:, 2] < 0.039 * 1.75 + 1e-4
    flat = low[1:] & low[:-1] & (np.linalg.norm(np.diff(ankle, axis=0), axis=-1) < 1e-3)
    assert flat.mean() > 0.2  # the sole is on the floor from 12 to 40 % of each stride
    assert xyz_m[..., 2].min() > 0.06


def test_knees_and_arms_move_like_those_of_walkers():
    _, xyz_m = walk(4.0, 100, 0)
    left, right = (knee_flexion_deg(xyz_m, side) for side in ("left", "right"))
    assert left.min() >= 0 and 40 < left.max() < 75
    assert np.corrcoef(left, right)[0, 1] < 0.3
    forward = xyz_m[:, :, 0] - xyz_m[:, [COCO17.index("left_hip")], 0]
    arm, leg = (forward[:, COCO17.index(f"left_{j}")] for j in ("wrist", "ankle"))
    assert np.corrcoef(arm, leg)[0, 1] < -0.7  # the arm swings against its leg
    other_leg = forward[:, COCO17.index("right_ankle")]
    assert np.corrcoef(leg, other_leg)[0, 1] < -0.7


def test_accelerations_stay_human():
    _, xyz_m = walk(4.0, 100, 0)
    acceleration = np.diff(np.float64(xyz_m), 2, axis=0) * 100**2
    assert np.linalg.norm(acceleration, axis=-1).max() < 150


def test_the_reaching_hand_is_fast_and_the_feet_stand():
    right = COCO17.index("right_wrist")
    for seed in range(5):
        _, xyz_m = reach(5.0, 100, seed, hand="right")
        speed = np.linalg.norm(np.diff(xyz_m, axis=0), axis=-1) * 100
        assert 1.5 < speed[:, right].max() < 5.0
    assert speed[:, COCO17.index("left_ankle")].max() == 0.0
    assert speed[:, COCO17.index("left_wrist")].max() < 1.0
    far = joint(xyz_m, "right_wrist")[:, 0] - joint(xyz_m, "right_hip")[:, 0]
    assert far.max() > 0.4


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    assert walk(1, 30, 5)[1].tobytes() == walk(1, 30, 5)[1].tobytes()
    assert reach(1, 30, 5)[1].tobytes() == reach(1, 30, 5)[1].tobytes()
    assert walk(1, 30, 5)[1].tobytes() != walk(1, 30, 6)[1].tobytes()


def test_place_turns_then_moves():
    moved = place(np.array([[1.0, 0.0, 0.5]], np.float32), (2.0, 3.0), np.pi / 2)
    assert moved[0] == pytest.approx([2.0, 4.0, 0.5], abs=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"seconds": 0}, {"fps": -1}, {"stature_m": float("nan")}, {"path": "square"},
     {"speed_m_s": 9.0}],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ConfigError):
        walk(**({"seconds": 1, "fps": 30, "seed": 0} | arguments))


def test_an_unknown_hand_is_refused():
    with pytest.raises(ConfigError, match="third"):
        reach(1, 30, 0, hand="third")
