"""The default of label propagation: flow, a curve and a network, by how wrong each proves to be.

What each is wrong by can be seen from the labels themselves, joint by joint, stretch by stretch:
flow from one end misses the label at the other, the curve through the labels misses a label that
is left out, and the network's distance from the labels changes from one end to the other. From
these come standard deviations in shares of the box's longer side; the answer is the mean by
inverse variance, and what lies far from it for its variance counts less. The constants were tuned
on four videos; docs/log.md has errors on these and on three others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pose_ros.core.values import FloatArray
from pose_ros.training.propagation import (
    Ends,
    Estimate,
    Sparse,
    at_ends,
    blend,
    boxes_between,
    ends_of,
    interpolated,
    sides,
    stretches,
)
from pose_ros.training.propagation_flow import Followed, follow, joined
from pose_ros.training.propagation_nets import anchored

#: Standard deviation on which the score of a joint falls to exp(-1/2), in shares of the box.
SPREAD = 0.03
#: Rounds in which what lies far from the mean loses weight, and how slowly it does.
ROUNDS, PATIENCE = 2, 4.0


@dataclass(frozen=True)
class Doubts:
    """How the standard deviations come about; shares of the box, or of what is named."""

    flow: float = 0.004  # at the label
    flow_apart: float = 1.0  # of how far both ways are apart in this frame
    flow_missed: float = 0.25  # of how far they are apart at most in this stretch
    curve: float = 0.006  # at the label
    curve_missed: float = 0.5  # of what a curve without the label at the end misses it by
    moved: float = 0.1  # of the way between the labels, for both
    net: float = 0.006  # anywhere
    net_changed: float = 0.5  # of the change of its distance from the labels
    net_unsure: float = 0.05  # of 1 - its score
    unknown: float = 0.1  # where there is nothing to judge it by


DOUBTS = Doubts()


def curved(video: Sparse) -> Estimate:
    """Joints move on cubic curves through the labels, with the velocity of their neighbours.

    Straight where the next label on either side is not there.
    """
    straight = interpolated(video)
    xy = straight.xy_px.copy()
    marks = np.flatnonzero(video.labelled)
    known = video.xy_px[:, marks]  # (P, N, K, 2)
    step = np.diff(marks).astype(np.float32)
    slope = np.diff(known, axis=1) / step[:, None, None]
    tangent = np.full_like(known, np.nan)
    tangent[:, 1:-1] = (known[:, 2:] - known[:, :-2]) / (step[1:] + step[:-1])[:, None, None]
    for i, (first, last) in enumerate(itertools.pairwise(marks.tolist())):
        u = ((np.arange(first + 1, last) - first) / step[i])[None, :, None, None]
        starts, stops = (
            np.where(np.isfinite(t), t, slope[:, i])[:, None] * step[i]
            for t in (tangent[:, i], tangent[:, i + 1])
        )
        curve = (
            (2 * u**3 - 3 * u**2 + 1) * known[:, i, None]
            + (u**3 - 2 * u**2 + u) * starts
            + (3 * u**2 - 2 * u**3) * known[:, i + 1, None]
            + (u**3 - u**2) * stops
        )
        inner = xy[:, first + 1 : last]
        xy[:, first + 1 : last] = np.where(np.isfinite(curve), curve, inner)
    return Estimate(xy.astype(np.float32), straight.score)


def fused(video: Sparse, looked: Estimate | None) -> Estimate:
    """Mean of flow, curve and, where it looked, a single-frame network anchored at the labels."""
    forwards, backwards = follow(video)
    ends = ends_of(video)
    side = sides(boxes_between(video, ends))[..., None]
    known = [joined(video, forwards, backwards).xy_px, curved(video).xy_px]
    variance = [
        _flow_variance(video, ends, (forwards, backwards), side),
        _curve_variance(video, ends, side),
    ]
    if looked is not None:
        known.append(anchored(video, looked).xy_px)
        variance.append(_net_variance(video, ends, looked, side))
    return weighted(np.stack(known), np.stack(variance), side)


def weighted(xy_px: FloatArray, variance: FloatArray, side_px: FloatArray) -> Estimate:
    """Mean of answers (M, P, L, K, 2) by variances (M, P, L, K), in squared shares of the side.

    The score falls with the standard deviation of the mean and with how far the answers lie apart.
    """
    good = np.asarray(np.isfinite(xy_px).all(axis=4))
    places = np.nan_to_num(xy_px)
    first = np.where(good, 1.0 / variance, 0.0)
    weight = first
    for left in range(ROUNDS, -1, -1):
        total = np.maximum(weight.sum(axis=0), 1e-12)
        mean = (weight[..., None] * places).sum(axis=0) / total[..., None]
        away = np.linalg.norm(places - mean, axis=4) / np.maximum(side_px, 1.0)
        if left:
            weight = first / (1.0 + away**2 / (PATIENCE * variance))
    spread = 1.0 / total + (weight * away**2).sum(axis=0) / total
    some = np.asarray(good.any(axis=0))
    score = np.where(some, np.exp(-0.5 * spread / SPREAD**2), 0.0)
    xy = np.where(some[..., None], mean, np.nan)
    return Estimate(xy.astype(np.float32), np.nan_to_num(score).astype(np.float32))


def _or(values: np.ndarray, otherwise: float) -> np.ndarray:
    return np.where(np.isfinite(values), values, otherwise)


def _middle(ends: Ends) -> np.ndarray:
    """(P, L, 1) 0 at labels, 1 half way between two, 1 where there is one end only."""
    both = (ends.left >= 0) & (ends.right >= 0)
    return np.where(both, 4 * ends.share * (1 - ends.share), 1.0)[..., None]


def _moved(video: Sparse, ends: Ends, side: np.ndarray) -> np.ndarray:
    left, right = at_ends(video.xy_px, ends)
    return _or(np.linalg.norm(left - right, axis=3) / side, 2 * DOUBTS.unknown)


def _flow_variance(
    video: Sparse, ends: Ends, ways: tuple[Followed, Followed], side: np.ndarray
) -> np.ndarray:
    apart = np.linalg.norm(ways[0].xy_px - ways[1].xy_px, axis=3) / side
    most = np.full_like(apart, np.nan)
    for first, last in stretches(video):
        inner = apart[:, first + 1 : last]
        if inner.shape[1]:
            found = np.where(np.isfinite(inner), inner, -1).max(axis=1, keepdims=True)
            most[:, first : last + 1] = np.where(found < 0, np.nan, found)
    moved = _moved(video, ends, side)
    grows = (
        (DOUBTS.flow_apart * _or(apart, DOUBTS.unknown)) ** 2
        + (DOUBTS.flow_missed * _or(most, DOUBTS.unknown)) ** 2
        + (DOUBTS.moved * moved) ** 2
    )
    return np.asarray(DOUBTS.flow**2 + grows * _middle(ends))


def _curve_variance(video: Sparse, ends: Ends, side: np.ndarray) -> np.ndarray:
    """Variance of `curved`, from what interpolation without a label misses that label by."""
    marks = np.flatnonzero(video.labelled)
    known = video.xy_px[:, marks]
    missed = np.full(video.visible.shape, np.nan, np.float32)
    if len(marks) > 2:
        share = ((marks[1:-1] - marks[:-2]) / (marks[2:] - marks[:-2]))[None, :].astype(np.float32)
        share = np.broadcast_to(share, (len(known), len(marks) - 2))
        straight = blend(known[:, :-2], known[:, 2:], share)
        missed[:, marks[1:-1]] = np.linalg.norm(known[:, 1:-1] - straight, axis=3)
    worst = np.fmax(*at_ends(missed, ends)) / side
    moved = _moved(video, ends, side)
    middle = _middle(ends)
    missed_by = np.where(np.isfinite(worst), worst, moved)
    return np.asarray(
        DOUBTS.curve**2
        + (DOUBTS.curve_missed * missed_by * middle) ** 2
        + (DOUBTS.moved * moved) ** 2 * middle
    )


def _net_variance(video: Sparse, ends: Ends, looked: Estimate, side: np.ndarray) -> np.ndarray:
    off_left, off_right = at_ends(video.xy_px - looked.xy_px, ends)
    changed = np.linalg.norm(off_left - off_right, axis=3) / side
    return np.asarray(
        DOUBTS.net**2
        + (DOUBTS.net_changed * _or(changed, DOUBTS.unknown / 2)) ** 2
        + (DOUBTS.net_unsure * (1 - looked.score)) ** 2
    )
