"""The comparison of filters: what is spoiled, how it is measured, and the targets."""

from dataclasses import replace

import numpy as np
import pytest
from swinging import walker

from pose_ros.core.refine import stream_config
from pose_ros.tools.baseline_filters import ConstantVelocity, OneEuro, hold, run
from pose_ros.tools.bench_refine import Spoiling, lag_frames, refine_rows, spoil


def test_spoiling_does_what_it_says():
    truth, _ = walker(2000)
    spoiled = spoil(truth, np.random.default_rng(0))
    assert spoiled.hidden.mean() == pytest.approx(0.20, abs=0.03)
    assert spoiled.outlier.mean() == pytest.approx(0.05 * 0.8, abs=0.01)
    np.testing.assert_array_equal(np.isnan(spoiled.points[..., 0]), spoiled.hidden)
    good = ~spoiled.hidden & ~spoiled.outlier
    assert (spoiled.points - truth)[good].std() == pytest.approx(0.02, rel=0.02)
    assert spoiled.score[spoiled.outlier].max() <= 0.3 and spoiled.score[good].min() >= 0.7
    edges = np.diff(spoiled.hidden[:, 9].astype(int))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    runs = ends[: len(starts)] - starts[: len(ends)]
    assert runs.min() >= 10 and runs.max() <= 20


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delay_is_found(delay):
    truth, _ = walker(200)
    late = np.concatenate([truth[:1].repeat(delay, axis=0), truth[: 200 - delay]])
    assert lag_frames(late, truth, np.ones((200, 17), bool)) == pytest.approx(delay, abs=0.15)


def test_the_filters_by_hand():
    points = np.array([[[0.0, 0, 0]], [[np.nan] * 3], [[1.0, 0, 0]]])
    np.testing.assert_array_equal(hold(points)[:, 0, 0], [0, 0, 1])
    # First step of One-Euro: its speed is low-passed from 0, its cut-off follows.
    rate = 2 * np.pi * 1.0 * 0.1
    speed = rate / (rate + 1) * 10.0
    rate = 2 * np.pi * (2.0 + 0.5 * speed) * 0.1
    got = run(OneEuro(2.0, 0.5, 1.0).update, np.array([0.0, 0.1]), points[[0, 2]])
    assert got[1, 0, 0] == pytest.approx(rate / (rate + 1))
    # Kalman: variance 0.02^2 + (1 * 0.1)^2 + q 0.1^3 / 3 against 0.02^2.
    variance = 4e-4 + 1e-2 + 3.0 * 1e-3 / 3
    got = run(ConstantVelocity(0.02, 3.0).update, np.array([0.0, 0.1]), points[[0, 2]])
    assert got[1, 0, 0] == pytest.approx(variance / (variance + 4e-4))


def test_the_refiner_meets_its_targets_on_a_walker():
    rows = refine_rows([(f"walk{i}", *walker(240, phase=i)) for i in range(2)])
    by = {row["method"]: row for row in rows}
    assert list(by) == ["raw", "one_euro", "kalman", "aprs"]
    raw, aprs = by["raw"], by["aprs"]
    assert aprs["visible_mm"] <= 0.75 * raw["visible_mm"]
    assert aprs["occluded_mm"] <= 0.40 * raw["occluded_mm"]
    assert aprs["jitter_m_s3"] <= 0.30 * raw["jitter_m_s3"]
    assert aprs["bone_cv"] < 0.03
    assert abs(aprs["lag_frames"]) < 1.0
    assert 0.90 <= aprs["covered_95"] <= 0.98
    for other in ("one_euro", "kalman"):
        assert aprs["visible_mm"] < by[other]["visible_mm"]
        assert aprs["occluded_all_mm"] < by[other]["occluded_all_mm"]
    assert 0.0 < aprs["ms_per_frame"] < 50.0  # a slow machine, not a target; see `tools.bench`


def test_later_frames_help_and_every_answer_is_judged_by_its_own_frame():
    walkers = [("walk", *walker(240))]
    now, late = (
        refine_rows(walkers, config=replace(stream_config(3), lag=lag))[-1] for lag in (0, 2)
    )
    for what in ("visible_mm", "jitter_m_s3", "outlier_mm"):
        assert late[what] < 0.85 * now[what]
    assert abs(late["lag_frames"]) < 0.5 and 0.90 <= late["covered_95"] <= 0.98


def test_no_trajectory_no_row():
    assert refine_rows([], how=Spoiling()) == []
