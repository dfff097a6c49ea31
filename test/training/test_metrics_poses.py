"""PCK, 3-D errors, smoothness and HSTPN's measures: worked examples and invariants."""

from __future__ import annotations

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17, H36M17, MPII16
from pose_ros.errors import ShapeError
from pose_ros.training.metrics import classification, lifting, pck, smoothness
from pose_ros.training.walker import walk

RNG = np.random.default_rng(3)


# PCK


def test_pck_worked_by_hand() -> None:
    # Head 10 px; errors 4, 6 and a miss of three labelled joints; the fourth is unlabelled.
    truth = np.array([[[0, 0], [0, 0], [0, 0], [np.nan, np.nan]]], float)
    found = np.array([[[4, 0], [0, 6], [np.nan, 0], [1, 1]]], float)
    error = pck.errors(found, truth, np.array([10.0]))
    np.testing.assert_allclose(error, [[0.4, 0.6, np.inf, np.nan]])
    assert pck.share_within(error, 0.5) == pytest.approx(1 / 3)
    assert pck.pck(found, truth, np.array([10.0]), 0.6) == pytest.approx(2 / 3)
    assert np.isnan(pck.share_within(error[:, 3:], 0.5))


def test_the_area_under_the_curve_of_one_error_is_what_lies_beyond_it() -> None:
    # Right from 0.3 on: a step; trapezoids of 0.01 put half a step before it.
    error = np.array([[0.3]])
    assert pck.area_under_curve(error) == pytest.approx((0.2 + 0.005) / 0.5)


def test_pckh_leaves_pelvis_and_thorax_out_and_weighs_joints() -> None:
    truth = np.zeros((2, 16, 2))
    truth[1, 3:] = np.nan  # the second person has three joints
    found = np.zeros((2, 16, 2))
    found[:, [MPII16.index("pelvis"), MPII16.index("thorax")]] = 1e3
    found[1, 0] = 1e3  # one of its three is wrong
    answer = pck.pckh_mpii(found, truth, np.full(2, 20.0))
    assert answer["pckh"] == pytest.approx(100 * (14 + 2) / (14 + 3))
    assert answer["Head"] == 100.0
    assert answer["Ank"] == pytest.approx(100 * 2 / 3)


def test_people_without_a_head_size_do_not_count() -> None:
    truth, found = np.zeros((2, 16, 2)), np.zeros((2, 16, 2))
    found[1] = 99.0
    assert pck.pckh_mpii(found, truth, np.array([10.0, 0.0]))["pckh"] == 100.0


def test_reference_lengths() -> None:
    xy = np.zeros((1, 17, 2))
    xy[0, COCO17.index("right_hip")] = 3.0, 4.0
    assert pck.torso_px(xy, COCO17).tolist() == [5.0]
    assert pck.box_side_px(np.array([[1.0, 1.0, 4.0, 9.0]])).tolist() == [8.0]


# 3-D


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def poses(count: int = 4) -> np.ndarray:
    return RNG.normal(0, 0.4, (count, 17, 3))


def test_mpjpe_of_one_wrong_joint() -> None:
    truth = poses(1)
    found = truth.copy()
    found[0, 5] += [0.03, 0.0, 0.04]  # 50 mm at one of 17 joints that is no hip
    answer = lifting.pose_errors(found, truth, COCO17)
    assert answer["mpjpe_mm"] == pytest.approx(50 / 17)
    assert answer["missing"] == 0.0


def test_the_pelvis_is_taken_out() -> None:
    truth = poses()
    for skeleton in (COCO17, H36M17):
        answer = lifting.pose_errors(truth + np.array([1.0, 2.0, 3.0]), truth, skeleton)
        assert answer["mpjpe_mm"] == pytest.approx(0.0, abs=1e-9)


def test_procrustes_takes_out_turn_size_and_place_and_scale_only_size() -> None:
    truth = poses()
    turned = 1.7 * truth @ rotation(0.8).T + [0.5, -2.0, 4.0]
    answer = lifting.pose_errors(turned, truth, H36M17)
    assert answer["pa_mpjpe_mm"] == pytest.approx(0.0, abs=1e-6)
    assert answer["n_mpjpe_mm"] > 50.0
    sized = lifting.pose_errors(1.7 * truth, truth, H36M17)
    assert sized["n_mpjpe_mm"] == pytest.approx(0.0, abs=1e-6)
    assert sized["mpjpe_mm"] > 50.0


def test_procrustes_does_not_mirror() -> None:
    truth = poses()
    mirrored = truth * [-1.0, 1.0, 1.0]
    assert lifting.pose_errors(mirrored, truth, H36M17)["pa_mpjpe_mm"] > 50.0


def test_procrustes_is_never_worse_and_agrees_with_scipy() -> None:
    spatial = pytest.importorskip("scipy.spatial")
    truth = poses(3)
    found = truth + RNG.normal(0, 0.1, truth.shape)
    every = np.ones(truth.shape[:2], bool)
    aligned = lifting.similarity_aligned(found, truth, every)
    for ours, raw, wanted in zip(aligned, found, truth, strict=True):
        # scipy scales both to unit size: its disparity is the residual over the truth's size.
        _a, _b, disparity = spatial.procrustes(wanted, raw)
        size = ((wanted - wanted.mean(axis=0)) ** 2).sum()
        assert ((ours - wanted) ** 2).sum() == pytest.approx(disparity * size, rel=1e-6)


def test_missing_joints_are_said_and_not_counted() -> None:
    truth = poses(2)
    found = truth.copy()
    found[0, 5:9] = np.nan
    truth[1, 3] = np.nan
    answer = lifting.pose_errors(found, truth, H36M17)
    assert answer["mpjpe_mm"] == pytest.approx(0.0, abs=1e-9)
    assert answer["pa_mpjpe_mm"] == pytest.approx(0.0, abs=1e-6)
    assert answer["missing"] == pytest.approx(4 / 33)
    assert answer["pck3d"] == pytest.approx(100 * 29 / 33)


def test_3d_pck_and_its_area() -> None:
    truth = np.zeros((1, 17, 3))
    found = truth.copy()
    found[0, :, 0] = 0.1
    found[0, 0] = 0.0  # the pelvis of H36M: all others are 100 mm off
    answer = lifting.pose_errors(found, truth, H36M17)
    assert answer["pck3d"] == 100.0
    # 31 reaches from 0 to 150 mm; the 16 others are within the last 11 of them.
    assert answer["auc3d"] == pytest.approx(100 * (1 + 16 * 11 / 31) / 17)


def test_3d_shapes_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"\(N, 17, 3\) twice"):
        lifting.pose_errors(np.zeros((2, 16, 3)), np.zeros((2, 16, 3)), COCO17)


# Smoothness


def line(frames: int = 10, speed: float = 2.0) -> np.ndarray:
    time = np.arange(frames, dtype=float)
    return np.stack([np.stack([speed * time, 0 * time], axis=1)] * 3, axis=1)  # (T, 3, 2)


def test_steady_motion_has_no_acceleration_and_no_jitter() -> None:
    track = line()
    assert smoothness.jitter(track) == pytest.approx(0.0)
    assert smoothness.acceleration_error(track, line(speed=5.0)) == pytest.approx(0.0)
    assert smoothness.velocity_error(track, line(speed=5.0), rate_hz=30) == pytest.approx(90.0)


def test_acceleration_and_jitter_worked_by_hand() -> None:
    # x = t^2: second difference 2 everywhere; x = t^3: third difference 6 everywhere.
    time = np.arange(8, dtype=float)
    square = np.stack([time**2, 0 * time], axis=1)[:, None]
    cube = np.stack([time**3, 0 * time], axis=1)[:, None]
    assert smoothness.acceleration_error(square, 0 * square) == pytest.approx(2.0)
    assert smoothness.acceleration_error(square, 0 * square, rate_hz=10) == pytest.approx(200.0)
    assert smoothness.jitter(cube, rate_hz=2.0) == pytest.approx(6.0 * 8)


def test_a_gap_takes_out_what_touches_it() -> None:
    track = line()
    track[4, 0] = np.nan
    track[9, 1] += 100.0  # the last frame of another joint jumps
    assert smoothness.jitter(track[:9]) == pytest.approx(0.0)
    assert smoothness.jitter(track) > 1.0
    assert np.isnan(smoothness.jitter(track[:3]))


def test_bone_variation_and_asymmetry() -> None:
    still = np.repeat(poses(1), 6, axis=0)
    assert smoothness.bone_variation(still, H36M17) == pytest.approx(0.0, abs=1e-12)
    breathing = still * np.array([0.9, 1.1] * 3)[:, None, None]  # std 0.1, mean 1
    assert smoothness.bone_variation(breathing, H36M17) == pytest.approx(0.1)
    mirror = still * [-1.0, 1.0, 1.0]
    left = [H36M17.index(pair[0]) for pair in H36M17.flip_pairs]
    right = [H36M17.index(pair[1]) for pair in H36M17.flip_pairs]
    middle = [H36M17.index(j) for j in ("pelvis", "spine", "thorax", "nose", "head_top")]
    even = still.copy()
    even[:, middle, 0] = 0.0
    even[:, right] = even[:, left] * [-1.0, 1.0, 1.0]
    assert smoothness.asymmetry(even, H36M17) == pytest.approx(0.0, abs=1e-12)
    assert smoothness.asymmetry(mirror, H36M17) > 0.01


def test_overlong_bones() -> None:
    track = np.repeat(poses(1)[..., :2], 4, axis=0)
    lengths = smoothness.bone_lengths(track, H36M17)
    assert smoothness.overlong_rate(track, H36M17, lengths[0] * 1.01) == 0.0
    track[3, H36M17.index("left_wrist")] += 10.0  # one bone of 16 in one frame of 4
    assert smoothness.overlong_rate(track, H36M17, lengths[0] * 1.01) == pytest.approx(1 / 64)
    track[:3] = np.nan
    assert smoothness.overlong_rate(track, H36M17, lengths[0] * 1.01) == pytest.approx(1 / 16)
    assert np.isnan(smoothness.overlong_rate(track[:3], H36M17, lengths[0]))


def test_lag_of_a_delayed_track() -> None:
    walk = np.cumsum(np.cumsum(RNG.normal(0, 1, (60, 4, 2)), axis=0), axis=0)
    for lag in (0, 1, 3):
        late = np.concatenate([np.repeat(walk[:1], lag, axis=0), walk[: 60 - lag]])
        assert smoothness.lag_frames(late, walk) == lag


# HSTPN's measures


def test_counts_worked_by_hand() -> None:
    # slots: right and sure, wrong and sure, right but unsure, absent but claimed, absent and quiet
    confidence = np.array([[0.9, 0.8, 0.2, 0.7, 0.1]])
    visible = np.array([[True, True, True, False, False]])
    right = np.array([[True, False, True, False, True]])
    counts = classification.count(confidence, visible, right, 0.5)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (1, 2, 2, 1)
    answer = counts.measures()
    assert answer["accuracy"] == pytest.approx(2 / 5)
    assert answer["precision"] == pytest.approx(1 / 3)
    assert answer["recall"] == pytest.approx(1 / 3)
    assert answer["f1"] == pytest.approx(1 / 3)


def test_auc_is_the_chance_of_the_right_order() -> None:
    confidence = np.array([0.9, 0.7, 0.7, 0.1])
    positive = np.array([True, True, False, False])
    # pairs: (.9,.7) (.9,.1) (.7,.1) in order, (.7,.7) half: 3.5 of 4
    assert classification.roc_auc(confidence, positive) == pytest.approx(3.5 / 4)
    assert np.isnan(classification.roc_auc(confidence, np.ones(4, bool)))


def test_the_best_tau_has_the_best_f1() -> None:
    confidence = np.round(RNG.random((40, 5)), 2)
    visible = RNG.random((40, 5)) < 0.7
    right = visible & (RNG.random((40, 5)) < confidence)
    tau = classification.best_tau(confidence, visible, right)
    f1 = {
        float(t): classification.count(confidence, visible, right, t).measures()["f1"]
        for t in np.unique(confidence)
    }
    assert f1[tau] == max(f1.values())


def test_macro_is_the_mean_over_joints_that_can_be_counted() -> None:
    confidence, visible = np.array([[0.9, 0.9]]), np.array([[True, True]])
    right = np.array([[True, False]])
    micro = classification.pose_classification(confidence, visible, right, 0.5)
    macro = classification.pose_classification(confidence, visible, right, 0.5, macro=True)
    assert micro["f1"] == pytest.approx(50.0)
    assert macro["accuracy"] == pytest.approx(50.0)


def test_the_kernel_is_half_where_cocos_is() -> None:
    # exp(-d^2 / (2 area (2 sigma)^2)) = 1/2 at d = 2 sigma sqrt(2 ln 2 area)
    sigma, area = np.array([0.08]), np.array([1e4])
    distance = 2 * sigma[0] * np.sqrt(2 * np.log(2) * area[0])
    assert classification.kernel(np.array([[distance]]), area, sigma)[0, 0] == pytest.approx(0.5)


def test_slots_have_one_shape() -> None:
    with pytest.raises(ShapeError, match="one shape"):
        classification.count(np.zeros((1, 2)), np.zeros((2, 2), bool), np.zeros((1, 2), bool), 0)


def test_the_longest_bones_are_those_of_either_side() -> None:
    track = np.zeros((3, 17, 3))
    track[1, COCO17.index("left_wrist"), 0] = 2.0
    track[2, COCO17.index("right_wrist"), 0] = 3.0
    track[:, COCO17.index("nose")] = np.nan
    longest = dict(zip(COCO17.edges, smoothness.longest_bones(track, COCO17), strict=True))
    for edge, length in longest.items():
        if any("nose" in joint for joint in edge):
            assert np.isnan(length)
        else:
            assert length == (3.0 if any("wrist" in joint for joint in edge) else 0.0)
    assert np.isnan(smoothness.longest_bones(track[:0], COCO17)).all()


def test_angles_that_no_body_can_have() -> None:
    """Six hinges: elbows, hips, knees. Folded to nothing or bent the wrong way, they count."""
    body = walk(1.0, 30.0, 1, 1.75, 1.2)[1].astype(np.float64)
    assert smoothness.angle_violations(body, COCO17) == 0.0
    left = {n: COCO17.index(f"left_{n}") for n in ("hip", "knee", "ankle", "elbow", "shoulder")}
    folded = body.copy()  # the shank comes to lie on the thigh: 0 degrees, 25 are the least
    folded[:, left["ankle"]] = folded[:, left["hip"]]
    assert smoothness.angle_violations(folded, COCO17) == pytest.approx(1 / 6)
    hips = body[:, left["hip"]] - body[:, COCO17.index("right_hip")]
    thigh = body[:, left["knee"]] - body[:, left["hip"]]
    ahead = np.cross(hips, -thigh)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    sides = []
    for sign in (1.0, -1.0):  # a shank that points ahead of a knee, and one that points back
        bent = body.copy()
        bent[:, left["ankle"]] = bent[:, left["knee"]] + 0.4 * sign * ahead
        sides.append(smoothness.angle_violations(bent, COCO17))
    assert sorted(sides) == pytest.approx([0.0, 1 / 6])
    unseen = np.full_like(body, np.nan)
    assert np.isnan(smoothness.angle_violations(unseen, COCO17))
    folded[:, COCO17.index("right_hip")] = np.nan  # its own hinge is unknown, bends are not judged
    assert smoothness.angle_violations(folded, COCO17) == pytest.approx(1 / 4)


def test_tau_is_never_zero_and_a_histogram_finds_it() -> None:
    rng = np.random.default_rng(0)
    right = rng.uniform(size=(400, 17)) < 0.7
    visible = right | (rng.uniform(size=right.shape) < 0.5)
    confidence = np.clip(0.35 * right + rng.uniform(0, 0.6, right.shape), 0, 1)
    confidence[0] = 0.0  # not found
    exact = classification.best_tau(confidence, visible, right)
    halves = [classification.histogram(c, g) for c, g in
              zip(np.split(confidence, 2), np.split(right & visible, 2), strict=True)]  # fmt: skip
    tau = classification.tau_of(halves[0] + halves[1], float(visible.sum()))
    f1 = [classification.pose_classification(confidence, visible, right, t)["f1"]
          for t in (exact, tau)]  # fmt: skip
    assert 0 < tau <= 1 and f1[1] > f1[0] - 0.2
    nothing = np.zeros((2, 17))
    known = np.ones((2, 17), np.bool_)
    assert classification.best_tau(nothing, known, known) == classification.TAU_MIN
    empty = classification.histogram(nothing, known)
    assert classification.tau_of(empty, 34.0) > 0
    # all of them right, the missed ones at 0: claiming what has any confidence is best
    some = np.where(known & (np.arange(17) < 9), 0.4, 0.0)
    assert classification.best_tau(some, known, some > 0) == pytest.approx(0.4)
