"""What errs anew and what lasts: exact splits, one distance for a whole body, forgetting."""

from __future__ import annotations

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17
from pose_ros.core.steady import ACROSS, ALONG, COMMON, SteadyPlace, split_along_rays

HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
STEP_NS = 33_333_333


def body(people: int = 1, distance_m: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(2)
    offset = rng.uniform(-0.5, 0.5, (people, 17, 3))
    offset[:, HIPS] = [[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]]
    return (offset + np.array([0.4, 0.1, distance_m])).astype(np.float32)


def covariance(xyz: np.ndarray, place: float, bend: float, pixels: float) -> np.ndarray:
    """Variance ``place + bend`` of the depth, along the ray, and ``pixels`` in x and y."""
    ray = xyz / xyz[..., 2:]
    along = (place + bend) * ray[..., :, None] * ray[..., None, :]
    return (along + pixels * np.diag([1.0, 1.0, 0.0])).astype(np.float32)


def test_the_split_is_exact_and_leaves_no_negative_variance() -> None:
    """Nothing can be split off diag(1, 1, 0) along a ray with z, so all of 0.04 comes back."""
    xyz = body()
    ray, along, rest = split_along_rays(xyz, covariance(xyz, 0.03, 0.01, 4e-4))
    assert along == pytest.approx(np.full((1, 17), 0.04), rel=1e-3)
    assert np.allclose(rest, 4e-4 * np.diag([1, 1, 0]), atol=2e-6)
    assert np.allclose(ray, xyz / xyz[..., 2:])
    rng = np.random.default_rng(0)
    half = rng.standard_normal((1, 17, 3, 3)).astype(np.float32)
    cov = half @ half.swapaxes(-1, -2)
    ray, along, rest = split_along_rays(xyz, cov)
    assert np.linalg.eigvalsh(rest).min() > -1e-6 and (along > 0).all()
    again = rest + along[..., None, None] * ray[..., :, None] * ray[..., None, :]
    assert np.allclose(again, cov, atol=1e-6)


def test_noise_and_lasting_error_are_the_whole_error() -> None:
    xyz = body(2)
    cov = covariance(xyz, 0.03, 0.01, 4e-4)
    steady = SteadyPlace(COCO17).update(0, np.array([4, 9]), xyz, cov, np.array([True, True]))
    assert np.allclose(steady.noise_m2 + steady.lasting_m2, cov, atol=1e-6)
    assert np.linalg.eigvalsh(steady.noise_m2).min() > 0
    expected = ALONG * (0.04 - COMMON * 0.04)
    assert steady.noise_m2[..., 2, 2] == pytest.approx(np.full((2, 17), expected), rel=0.01)
    x_part = expected * (xyz[..., 0] / xyz[..., 2]) ** 2 + ACROSS * 4e-4
    assert steady.noise_m2[..., 0, 0] == pytest.approx(x_part, rel=0.02)
    assert np.allclose(steady.xyz_m, xyz)  # the first frame stands for itself


def test_a_jumping_distance_is_smoothed_for_all_joints_along_their_rays() -> None:
    stage, rng, truth = SteadyPlace(COCO17), np.random.default_rng(1), body()
    before, after = [], []
    for i in range(90):
        off = 0.04 * rng.standard_normal()  # what PLACE takes of the stated variance
        seen = (truth * (truth[..., 2:] + off) / truth[..., 2:]).astype(np.float32)
        cov = covariance(seen, 0.01, 0.005, 1e-4)
        out = stage.update(i * STEP_NS, np.array([1]), seen, cov, np.array([True]))
        assert np.allclose(out.xyz_m / out.xyz_m[..., 2:], seen / seen[..., 2:], atol=1e-5)
        assert np.allclose(np.ptp(out.xyz_m[..., 2] - seen[..., 2]), 0.0, atol=1e-5)
        before.append(off)
        after.append(float((out.xyz_m - truth)[0, HIPS, 2].mean()))
    assert np.std(after[30:]) < 0.75 * np.std(before[30:])
    assert np.std(np.diff(after[30:])) < 0.4 * np.std(np.diff(before[30:]))


def test_steady_walking_is_followed_without_delay() -> None:
    stage = SteadyPlace(COCO17)
    for i in range(60):
        xyz = body(distance_m=3.0 + 1.5 * i / 30)
        cov = covariance(xyz, 0.01, 0.005, 1e-4)
        out = stage.update(i * STEP_NS, np.array([1]), xyz, cov, np.array([True]))
    assert out.xyz_m[0, HIPS, 2] == pytest.approx(xyz[0, HIPS, 2], abs=0.01)


def test_a_gap_a_backward_stamp_and_forgetting_begin_anew() -> None:
    near, far = body(), body(distance_m=5.0)
    cov, mono, one = covariance(near, 0.01, 0.005, 1e-4), np.array([True]), np.array([1])
    for second_ns, forgets, anew in (
        (STEP_NS, False, False), (STEP_NS, True, True), (10**9, False, True), (-5, False, True),
    ):  # fmt: skip
        stage = SteadyPlace(COCO17)
        stage.update(0, one, near, cov, mono)
        if forgets:
            stage.forget(one)
        out = stage.update(second_ns, one, far, cov, mono)
        assert np.allclose(out.xyz_m, far) == anew


def test_depth_is_left_alone_and_people_do_not_mix() -> None:
    stage, xyz = SteadyPlace(COCO17), body(3)
    cov, ids = covariance(xyz, 0.01, 0.005, 1e-4), np.array([3, 5, 8])
    stage.update(0, ids, xyz, cov, np.array([True, False, True]))
    moved = (xyz * 1.05).astype(np.float32)
    order = np.array([2, 1, 0])
    out = stage.update(
        STEP_NS, ids[order], moved[order], cov[order], np.array([True, False, True])
    )
    assert np.array_equal(out.xyz_m[1], moved[1]) and np.array_equal(out.noise_m2[1], cov[1])
    assert not out.lasting_m2[1].any()
    alone = SteadyPlace(COCO17)
    alone.update(0, ids[:1], xyz[:1], cov[:1], np.array([True]))
    single = alone.update(STEP_NS, ids[:1], moved[:1], cov[:1], np.array([True]))
    assert np.allclose(single.xyz_m[0], out.xyz_m[2]) and not np.allclose(out.xyz_m[2], moved[0])


def test_nobody_and_an_unseen_person() -> None:
    stage = SteadyPlace(COCO17)
    none = stage.update(
        0, np.zeros(0, np.int64), np.zeros((0, 17, 3), np.float32),
        np.zeros((0, 17, 3, 3), np.float32), np.zeros(0, bool),
    )  # fmt: skip
    assert none.xyz_m.shape == (0, 17, 3)
    xyz = body()
    cov, one = covariance(xyz, 0.01, 0.005, 1e-4), np.array([1])
    seen = stage.update(0, one, xyz, cov, np.array([True]))
    lost = stage.update(
        STEP_NS, one, np.full_like(xyz, np.nan), np.full_like(cov, np.nan), np.array([False])
    )
    assert np.isnan(lost.xyz_m).all() and np.isnan(lost.noise_m2).all()
    assert np.array_equal(lost.lasting_m2, seen.lasting_m2)
