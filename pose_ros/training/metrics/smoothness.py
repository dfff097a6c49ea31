"""How still, steady and anatomical tracks are. T frames of one track, K joints, D = 2 or 3.

Units are those of the input per frame, or per second where a rate is given. A difference counts
only where all the frames it needs are known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import anatomy_of
from pose_ros.core.skeletons import Skeleton
from pose_ros.training.metrics.arrays import mean_known

Float = npt.NDArray[np.floating]

#: A hinge is bent the wrong way from this sine on. Of the knees in motion capture 0.2 % are, 19 %
#: beyond the refiner's own slack of 0.05: a straight knee is often stretched a little too far.
BEND_MOST = 0.2


def acceleration_error(predicted: Float, truth: Float, rate_hz: float = 1.0) -> float:
    """Mean distance of the second differences of tracks (T, K, D), times ``rate_hz`` squared."""
    found = np.diff(predicted.astype(np.float64), n=2, axis=0)
    wanted = np.diff(truth.astype(np.float64), n=2, axis=0)
    return mean_known(np.linalg.norm(found - wanted, axis=-1)) * rate_hz**2


def velocity_error(predicted: Float, truth: Float, rate_hz: float = 1.0) -> float:
    """MPJVE: mean distance of the first differences of tracks (T, K, D), times ``rate_hz``."""
    found = np.diff(predicted.astype(np.float64), axis=0)
    wanted = np.diff(truth.astype(np.float64), axis=0)
    return mean_known(np.linalg.norm(found - wanted, axis=-1)) * rate_hz


def jitter(track: Float, rate_hz: float = 1.0) -> float:
    """Mean length of the third difference of a track (T, K, D), times ``rate_hz`` cubed."""
    third = np.diff(track.astype(np.float64), n=3, axis=0)
    return mean_known(np.linalg.norm(third, axis=-1)) * rate_hz**3


def bone_lengths(track: Float, skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """(T, E) lengths of the bones of a track (T, K, D)."""
    ends = track.astype(np.float64)[:, skeleton.edge_indices()]
    return np.asarray(np.linalg.norm(ends[:, :, 0] - ends[:, :, 1], axis=-1))


def bone_variation(track: Float, skeleton: Skeleton) -> float:
    """Mean over bones of the standard deviation of their length over its mean; for 3-D tracks.

    A bone that is known in fewer than two frames does not count.
    """
    lengths = bone_lengths(track, skeleton)
    known = np.isfinite(lengths)
    enough = known.sum(axis=0) >= 2
    if not enough.any():
        return float("nan")
    some = np.where(known, lengths, np.nan)[:, enough]
    return mean_known(np.nanstd(some, axis=0) / np.nanmean(some, axis=0))


def asymmetry(track: Float, skeleton: Skeleton) -> float:
    """Mean difference of mirrored bones over their mean length; for 3-D tracks (T, K, 3)."""
    lengths = bone_lengths(track, skeleton)
    names = [frozenset(edge) for edge in skeleton.edges]
    other = {joint: mate for pair in skeleton.flip_pairs for joint, mate in (pair, pair[::-1])}
    values = []
    for row, (a, b) in enumerate(skeleton.edges):
        mirrored = frozenset((other.get(a, a), other.get(b, b)))
        if mirrored != names[row] and mirrored in names[row + 1 :]:
            mate = names.index(mirrored)
            mean = (lengths[:, row] + lengths[:, mate]) / 2
            values.append(
                np.abs(lengths[:, row] - lengths[:, mate]) / np.where(mean > 0, mean, np.nan)
            )
    return mean_known(np.concatenate(values)) if values else float("nan")


def overlong_rate(track: Float, skeleton: Skeleton, longest: Float) -> float:
    """Share of known bones of a track (T, K, D) that are longer than (E,) or (T, E) ``longest``.

    For 2-D, where a bone may look short from the front but never longer than it is.
    """
    lengths = bone_lengths(track, skeleton)
    known = np.isfinite(lengths)
    if not known.any():
        return float("nan")
    return float(((lengths > longest) & known).sum() / known.sum())


def longest_bones(track: Float, skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """(E,) longest of every bone in a track (T, K, D) of labels, its mirrored bone's included.

    NaN for bones that are never known; what `overlong_rate` takes in 2-D.
    """
    lengths = bone_lengths(track, skeleton)
    longest = np.where(np.isfinite(lengths), lengths, -np.inf).max(axis=0, initial=-np.inf)
    both = np.maximum(longest, longest[anatomy_of(skeleton).mirror_bone])
    return np.asarray(np.where(np.isfinite(both), both, np.nan))


def angle_violations(track: Float, skeleton: Skeleton, most_deg: float = 0.0) -> float:
    """Share of hinges of a 3-D track (T, K, 3) bent as no elbow, knee or hip can be.

    More than ``most_deg`` outside the included angles of `core/anthropometry.py`, or the wrong way
    as seen from the hips, by more than `BEND_MOST`. In any unit; NaN without a known hinge.
    """
    anatomy, points = anatomy_of(skeleton), track.astype(np.float64)
    hinges = len(anatomy.hinge_joint)
    ends = points[:, anatomy.edges]
    arms = (ends[:, :, 0] - ends[:, :, 1])[:, anatomy.hinge_bones] * anatomy.hinge_signs
    unit = arms / np.maximum(np.linalg.norm(arms, axis=-1, keepdims=True), 1e-12)
    a, b = unit[:, :hinges], unit[:, hinges:]
    angle = np.degrees(np.arccos(np.clip((a * b).sum(axis=-1), -1.0, 1.0)))
    low, high = np.degrees(np.arccos(anatomy.cos_max)), np.degrees(np.arccos(anatomy.cos_min))
    wrong = (angle < low - most_deg) | (angle > high + most_deg)
    if anatomy.hips is not None:
        axis = points[:, anatomy.hips[0]] - points[:, anatomy.hips[1]]
        axis /= np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
        bent = (axis[:, None] * np.cross(a, b)).sum(axis=-1) * anatomy.bend_sign
        wrong |= bent < -BEND_MOST  # False while a hip is unknown
    known = np.isfinite(angle)
    return float((wrong & known).sum() / known.sum()) if known.any() else float("nan")


def lag_frames(filtered: Float, truth: Float, most: int = 10) -> int:
    """Delay in frames at which the velocities of two tracks (T, K, D) agree best.

    Only joints that are known throughout count; 0 when there are none or the track is short.
    """
    a, b = (
        np.diff(t.astype(np.float64), axis=0).reshape(len(t) - 1, -1) for t in (filtered, truth)
    )
    steady = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    a, b = a[:, steady], b[:, steady]
    most = min(most, len(a) - 2)
    if a.size == 0 or most < 1:
        return 0
    scores = [_correlation(a[lag:], b[: len(b) - lag]) for lag in range(most + 1)]
    return int(np.argmax(scores))


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
