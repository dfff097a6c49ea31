"""How much the refiner helps: known joints are spoiled, then filtered four ways side by side.

raw        the spoiled joints; a hidden one keeps its last value
one_euro   the One-Euro filter
kalman     a constant-velocity Kalman filter
aprs       `StreamRefiner` with bones learned on the way (`BoneLengths`); with a lag every answer
           is judged by the frame that it is of

Letters: T frames, K joints, E bones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.bones import BoneLengths
from pose_ros.core.refine import RefineConfig, stream_config
from pose_ros.core.refine_stream import Refined, StreamRefiner
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.tools.baseline_filters import ConstantVelocity, OneEuro, hold, run

Array = npt.NDArray[Any]

#: Frames at the start that count for nobody: filters settle, bones are learned.
WARM_UP = 30
#: Largest lag that is looked for, frames.
LAG_MAX = 6
#: Joints scored lower are missing for the filters that do not weigh scores.
SURE_ENOUGH = 0.35
#: 95 % quantile of chi^2 with three degrees of freedom.
CHI2_95 = 7.815


@dataclass(frozen=True)
class Spoiling:
    """What is done to the true joints."""

    noise_m: float = 0.02  # per axis
    outliers: float = 0.05  # share of joints that are far off and badly scored
    outlier_m: tuple[float, float] = (0.2, 0.6)  # how far
    hidden: float = 0.20  # share of joints not seen, in runs
    run_frames: tuple[int, int] = (10, 20)  # shortest and longest run
    sure: tuple[float, float] = (0.7, 0.95)  # scores of good joints
    unsure: tuple[float, float] = (0.1, 0.3)  # scores of outliers


@dataclass(frozen=True)
class Spoiled:
    """Joints as a camera might see them."""

    points: Array  # (T, K, 3) float32, NaN where hidden
    score: Array  # (T, K) float32
    outlier: Array  # (T, K) bool
    hidden: Array  # (T, K) bool


def spoil(truth: Array, rng: np.random.Generator, how: Spoiling | None = None) -> Spoiled:
    """Noise, outliers and hidden runs on true joints (T, K, 3) in metres."""
    how = how or Spoiling()
    shape = truth.shape[:2]
    points = truth + how.noise_m * rng.standard_normal(truth.shape)
    score = rng.uniform(*how.sure, shape)
    outlier = rng.random(shape) < how.outliers
    away = rng.standard_normal(truth.shape)
    away *= (rng.uniform(*how.outlier_m, shape) / np.linalg.norm(away, axis=-1))[..., None]
    points[outlier] += away[outlier]
    score[outlier] = rng.uniform(*how.unsure, int(outlier.sum()))
    hidden = np.zeros(shape, bool)
    mean_gap = np.mean(how.run_frames) * (1 - how.hidden) / max(how.hidden, 1e-9)
    for joint in range(shape[1]):
        start = 1 + int(rng.exponential(mean_gap))
        while start < shape[0] and how.hidden > 0:
            end = start + int(rng.integers(how.run_frames[0], how.run_frames[1] + 1))
            hidden[start:end, joint] = True
            start = end + 1 + int(rng.exponential(mean_gap))
    points[hidden], score[hidden] = np.nan, 0.0
    return Spoiled(points.astype(np.float32), score.astype(np.float32), outlier & ~hidden, hidden)


def refine_stream(
    spoiled: Spoiled, stamps_s: Array, skeleton: Skeleton = COCO17,
    config: RefineConfig | None = None,
) -> list[Refined]:  # fmt: skip
    """One person's frames through bones and refiner, as the pipeline runs them."""
    refiner = StreamRefiner(skeleton, 3, config or stream_config(3))
    bones = BoneLengths(skeleton, 3)
    ids = np.array([1])
    anywhere = np.zeros(3)  # the trajectory has no viewing direction
    std = np.full((1, spoiled.score.shape[1]), refiner.config.noise, np.float32)
    out = []
    for stamp_s, points, score in zip(stamps_s, spoiled.points, spoiled.score, strict=True):
        bones.update(ids, points[None], score[None], std, view_axis=anywhere)
        out.append(
            refiner.update(
                round(stamp_s * 1e9), ids, points[None], score[None], None,
                bones.lengths(ids), None, bones.weights(ids),
            )
        )  # fmt: skip
    return out


def refine_rows(
    trajectories: Iterable[tuple[str, Array, Array]],
    skeleton: Skeleton = COCO17,
    config: RefineConfig | None = None,
    how: Spoiling | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per method over all ``trajectories``: (name, truth (T, K, 3) metres, stamps (T,) s).

    Errors are means over joints in millimetres after `WARM_UP` frames. ``occluded_mm`` counts, for
    every method, the hidden joints that ``aprs`` still answers (``occluded_answered`` is their
    share); ``occluded_all_mm`` all of them, for ``aprs`` with prediction without end. ``jitter``
    is the mean third difference in m/s^3, ``bone_cv`` std / mean of the body's bone lengths,
    ``lag_frames`` the delay by velocity, ``covered_95`` the share of joints in their stated 95 %
    ellipsoid. ``ms_per_frame`` is of five people, and of aprs and its bones.
    """
    config = config or stream_config(3)
    rng = np.random.default_rng(seed)
    measured: dict[str, list[dict[str, float]]] = {}
    ms = math.nan
    for _, truth, stamps_s in trajectories:
        spoiled = spoil(truth, rng, how)
        if math.isnan(ms):
            ms = ms_of_five(spoiled, stamps_s, skeleton, config)
        for name, row in _compare(spoiled, truth, stamps_s, skeleton, config).items():
            measured.setdefault(name, []).append(row)
    rows = [{"method": name, **_mean(parts)} for name, parts in measured.items()]
    return [row | ({"ms_per_frame": ms} if row["method"] == "aprs" else {}) for row in rows]


def _compare(
    spoiled: Spoiled, truth: Array, stamps_s: Array, skeleton: Skeleton, config: RefineConfig
) -> dict[str, dict[str, float]]:
    """Every method's numbers on one trajectory; its last frames have no answer under a lag."""
    refined = refine_stream(spoiled, stamps_s, skeleton, config)[config.lag :]
    patient = replace(config, max_prediction_s=1e3, max_gap_s=1e3)
    unending = refine_stream(spoiled, stamps_s, skeleton, patient)[config.lag :]
    answered = slice(0, len(refined))
    truth, stamps_s = truth[answered], stamps_s[answered]
    spoiled = Spoiled(**{name: part[answered] for name, part in vars(spoiled).items()})
    sure = np.where(spoiled.score[..., None] >= SURE_ENOUGH, spoiled.points, np.nan)
    ways = {
        "raw": hold(spoiled.points).astype(np.float64),
        "one_euro": run(OneEuro().update, stamps_s, sure),
        "kalman": run(ConstantVelocity().update, stamps_s, sure),
        "aprs": np.concatenate([frame.points for frame in refined]).astype(np.float64),
    }
    told = np.isfinite(ways["aprs"]).all(axis=-1)
    rows = {}
    for name, points in ways.items():
        row = _measure(points, truth, spoiled, told, (skeleton, stamps_s))
        all_of_them = points
        if name == "aprs":
            all_of_them = np.concatenate([frame.points for frame in unending])
            row |= _covered(refined, truth, spoiled)
        row["occluded_all_mm"] = _mean_mm(all_of_them, truth, spoiled.hidden)
        rows[name] = row
    return rows


def _measure(
    points: Array, truth: Array, spoiled: Spoiled, told: Array, rest: tuple[Skeleton, Array]
) -> dict[str, float]:
    skeleton, stamps_s = rest
    rate_hz = 1.0 / float(np.median(np.diff(stamps_s)))
    seen = ~spoiled.hidden & ~spoiled.outlier
    third = np.linalg.norm(np.diff(points[WARM_UP:], 3, axis=0), axis=-1)
    body = [i for i, (a, _) in enumerate(skeleton.edges) if "_eye" not in a and a != "nose"]
    ends = skeleton.edge_indices()[body]
    length = np.linalg.norm(points[WARM_UP:, ends[:, 0]] - points[WARM_UP:, ends[:, 1]], axis=-1)
    return {
        "visible_mm": _mean_mm(points, truth, seen),
        "outlier_mm": _mean_mm(points, truth, spoiled.outlier),
        "occluded_mm": _mean_mm(points, truth, spoiled.hidden & told),
        "occluded_answered": float(told[WARM_UP:][spoiled.hidden[WARM_UP:]].mean()),
        "jitter_m_s3": float(np.nanmean(third)) * rate_hz**3,
        "bone_cv": float((np.nanstd(length, axis=0) / np.nanmean(length, axis=0)).mean()),
        "lag_frames": lag_frames(points, truth, seen),
    }


def _mean_mm(points: Array, truth: Array, which: Array) -> float:
    error = np.linalg.norm(points - truth, axis=-1)[WARM_UP:]
    chosen = error[which[WARM_UP:] & np.isfinite(error)]
    return float(chosen.mean()) * 1e3 if len(chosen) else math.nan


def _covered(refined: list[Refined], truth: Array, spoiled: Spoiled) -> dict[str, float]:
    """Shares of joints whose truth lies in the stated 95 % ellipsoid."""
    off = np.concatenate([frame.points for frame in refined]) - truth
    cov = np.concatenate([frame.covariance for frame in refined]).astype(np.float64)
    known = np.isfinite(off).all(axis=-1)
    inverse = np.linalg.inv(np.where(known[..., None, None], cov, np.eye(3)))
    inside = np.einsum("tki,tkij,tkj->tk", off, inverse, off) < CHI2_95
    known[:WARM_UP] = False
    hidden = known & spoiled.hidden
    return {
        "covered_95": float(inside[known & ~spoiled.hidden].mean()),
        "covered_95_occluded": float(inside[hidden].mean()) if hidden.any() else math.nan,
    }


def lag_frames(points: Array, truth: Array, seen: Array) -> float:
    """Delay of ``points`` behind ``truth`` (T, K, d) in frames, by their velocities.

    The peak of the cross-correlation over all joints, its place refined by a parabola. Only joints
    ``seen`` (T, K) in both frames of a difference take part.
    """
    both = (seen[1:] & seen[:-1])[WARM_UP:, :, None]
    ours, theirs = np.diff(points, axis=0)[WARM_UP:], np.diff(truth, axis=0)[WARM_UP:]
    both = both & np.isfinite(ours)
    ours = np.where(both, ours - np.mean(theirs, axis=0), 0.0)
    theirs = theirs - theirs.mean(axis=0)
    lags = np.arange(-LAG_MAX, LAG_MAX + 1)
    frames = len(ours)
    scores = []
    for lag in lags:
        a = ours[max(lag, 0) : frames + min(lag, 0)]
        b = theirs[max(-lag, 0) : frames - max(lag, 0)]
        weight = both[max(lag, 0) : frames + min(lag, 0)]
        power = np.sqrt((a * a).sum() * (np.where(weight, b, 0.0) ** 2).sum())
        scores.append(float((a * b).sum() / max(power, 1e-12)))
    peak = int(np.clip(np.argmax(scores), 1, len(lags) - 2))
    left, middle, right = scores[peak - 1 : peak + 2]
    bend = left - 2 * middle + right
    return float(lags[peak] + (0.5 * (left - right) / bend if bend < 0 else 0.0))


def ms_of_five(
    spoiled: Spoiled, stamps_s: Array, skeleton: Skeleton, config: RefineConfig, frames: int = 150
) -> float:
    """Median milliseconds per frame of bones and refiner with five people, every penalty on.

    The floor lies below the lowest known joint: its penalty is evaluated and moves nobody.
    """
    people = 5
    refiner, bones = StreamRefiner(skeleton, 3, config), BoneLengths(skeleton, 3)
    lowest = np.nanmin(spoiled.points[..., 2]) if np.isfinite(spoiled.points).any() else 0.0
    refiner.ground = np.array([0.0, 0.0, 1.0, -float(lowest)])
    ids, anywhere = np.arange(people), np.zeros(3)
    took = []
    for frame in range(min(frames, len(stamps_s))):
        points = np.repeat(spoiled.points[None, frame], people, axis=0)
        score = np.repeat(spoiled.score[None, frame], people, axis=0)
        start = time.perf_counter()
        bones.update(ids, points, score, view_axis=anywhere)
        refiner.update(
            round(stamps_s[frame] * 1e9), ids, points, score, None, bones.lengths(ids), None,
            bones.weights(ids),
        )  # fmt: skip
        took.append(time.perf_counter() - start)
    return float(np.median(took)) * 1e3


def _mean(parts: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(float(np.nanmean([part[key] for part in parts])), 4) for key in parts[0]}
