"""Jitter and bone spread: by hand, with people who come and go."""

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17
from pose_ros.core.steadiness import BONE_FRAMES, Jitter, bone_cv
from pose_ros.core.values import PoseResult, Poses2D, Refined2D, Tracks


def result(people: dict[int, tuple[float, float]], score: float = 0.9) -> PoseResult:
    """People by id, all joints at (raw x, 5), published at (refined x, 5)."""
    ids = np.array(sorted(people), np.int64)
    n = len(ids)
    xy = np.full((n, 17, 2), 5.0, np.float32)
    raw, smooth = xy.copy(), xy.copy()
    for row, number in enumerate(ids.tolist()):
        raw[row, :, 0], smooth[row, :, 0] = people[number]
    scores = np.full((n, 17), score, np.float32)
    zeros = np.zeros(n, np.float32)
    tracks = Tracks(ids, np.ones(n, np.int8), np.zeros((n, 4), np.float32), zeros, ids * 0)
    refined = Refined2D(Poses2D(ids, smooth, scores), np.ones((n, 17), np.int8))
    return PoseResult(0, "", (64, 48), tracks, Poses2D(ids, raw, scores), False, refined=refined)


def test_second_differences_before_and_after_are_those_by_hand() -> None:
    jitter = Jitter()
    jitter.add(result({1: (0.0, 0.0)}))
    jitter.add(result({1: (4.0, 1.0)}))
    assert jitter.mean_px is None, "two frames have no second difference"
    jitter.add(result({1: (0.0, 0.0)}))  # |0 - 2 * 4 + 0|, |0 - 2 * 1 + 0|
    assert jitter.mean_px == pytest.approx((8.0, 2.0))
    jitter.add(result({1: (0.0, 0.0)}))  # |0 - 0 + 4|, |0 - 0 + 1|
    assert jitter.mean_px == pytest.approx((6.0, 1.5))


def test_people_are_told_apart_and_need_three_frames_in_a_row() -> None:
    jitter = Jitter()
    jitter.add(result({1: (0.0, 0.0), 2: (100.0, 100.0)}))
    jitter.add(result({2: (110.0, 110.0)}))
    jitter.add(result({1: (50.0, 50.0), 2: (120.0, 120.0)}))
    assert jitter.mean_px == pytest.approx((0.0, 0.0)), "2 walks steadily, 1 was away"
    for _ in range(3):
        jitter.add(result({}))
    assert jitter.mean_px == pytest.approx((0.0, 0.0))


def test_what_the_network_is_not_sure_of_does_not_count() -> None:
    jitter = Jitter()
    for x in (0.0, 4.0, 0.0):
        jitter.add(result({1: (x, x)}, score=0.2))
    assert jitter.mean_px is None


def test_bone_spread_of_a_growing_and_of_a_rigid_body() -> None:
    rng = np.random.default_rng(3)
    body = rng.normal(size=(17, 3))
    sizes = np.tile([0.9, 1.1], BONE_FRAMES)
    ids = np.ones(len(sizes), np.int64)
    assert bone_cv(ids, sizes[:, None, None] * body, COCO17) == pytest.approx(0.1)
    moved = np.tile(body, (len(sizes), 1, 1)) + np.arange(len(sizes))[:, None, None]
    assert bone_cv(ids, moved, COCO17) == pytest.approx(0.0, abs=1e-9)
    both = np.concatenate([sizes[:, None, None] * body, 3.0 * moved])
    assert bone_cv(np.repeat([1, 2], len(sizes)), both, COCO17) == pytest.approx(0.05)


def test_unknown_and_short_bones_tell_nothing() -> None:
    assert bone_cv(np.zeros(0, np.int64), np.zeros((0, 17, 3)), COCO17) is None
    few = np.ones((BONE_FRAMES - 1, 17, 3))
    assert bone_cv(np.ones(len(few), np.int64), few, COCO17) is None
    assert bone_cv(np.ones(50, np.int64), np.full((50, 17, 3), np.nan), COCO17) is None
