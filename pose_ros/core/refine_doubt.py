"""What a sure network says against all that was seen before: disbelieved, but not for long.

Three things happen to networks that are sure of themselves: for some frames they take the whole
person for one who looks the other way, left and right exchanged, or only the legs, or they put a
joint somewhere else. None is followed at once; what lasts is believed in the end.

Letters: P people, K joints, C rows, d axes (2 or 3), m frames.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.refine_motion import Floats, Mask
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import IntArray

#: Exchange all sides if that lowers the squared distance to the prediction below this share, and
#: that of the trunk below the second.
TURN_SHARE, TRUNK_SHARE = 0.25, 0.5
#: Exchange the legs alone if that lowers the squared distance of knees and ankles below this
#: share, they are at least this far off in the mean, and the upper body is not (2-D: person
#: heights, 3-D: metres).
LEGS_SHARE, LEGS_FAR = 0.15, {2: 0.06, 3: 0.10}
#: Only joints measured within this time before count: later predictions do not tell sides apart.
FRESH_S = 0.15
#: Pairs of mirrored joints that are needed.
PAIRS = 3
#: An exchange that lasts longer is believed: the network was wrong before.
TURN_S = 0.4
#: A surely seen joint that stays beyond the gate for longer is believed.
FAR_S = 0.2


class Doubt:
    """How long everybody's measurements have been disbelieved, one row per person."""

    def __init__(self, skeleton: Skeleton, capacity: int) -> None:
        """Believe everything so far."""
        self._sides, self._legs = _sides_of(skeleton), _legs_of(skeleton)
        self._turned_s = np.zeros(capacity)
        self._crossed_s = np.zeros(capacity)
        self._far_s = np.zeros((capacity, len(skeleton)))

    def clear(self, rows: IntArray) -> None:
        """Believe the people in ``rows``."""
        self._turned_s[rows], self._far_s[rows], self._crossed_s[rows] = 0.0, 0.0, 0.0

    def turned_s(self, rows: IntArray) -> Floats:
        """(P,) how long the sides of the people in ``rows`` have been exchanged."""
        return np.asarray(self._turned_s[rows])

    def crossed_s(self, rows: IntArray) -> Floats:
        """(P,) how long the legs alone of the people in ``rows`` have been exchanged."""
        return np.asarray(self._crossed_s[rows])

    def turn(
        self, points: Floats, expected: Floats, turned_s: Floats, dt_s: Floats
    ) -> tuple[Floats, Floats]:
        """Points (P, K, d) with the sides put right, and how long that has been needed (P,).

        ``expected`` (P, K, d) is where the joints should be, NaN where that is not known freshly;
        ``turned_s`` (P,) how long sides were exchanged until the frame before, ``dt_s`` (P,) ago.
        """
        flip, body, trunk = self._sides
        known = np.isfinite(points[..., 0]) & np.isfinite(expected[..., 0])
        known = known & known[:, flip]
        if not known.any():
            return points, turned_s
        other = points[:, flip]
        own = np.where(known, ((points - expected) ** 2).sum(axis=-1), 0.0)
        exchanged = np.where(known, ((other - expected) ** 2).sum(axis=-1), 0.0)
        better = exchanged @ body < TURN_SHARE * (own @ body)
        better &= exchanged @ trunk < TRUNK_SHARE * (own @ trunk)
        better &= known @ body >= 2 * PAIRS
        turned_s = np.where(better, turned_s + dt_s, 0.0)
        go = better & (turned_s <= TURN_S)
        if not go.any():
            return points, turned_s
        face = ((exchanged - own) @ (1.0 - body) < 0)[:, None]
        which = go[:, None] & ((body > 0) | face)
        return np.where(which[..., None], other, points), turned_s

    def uncross(
        self, points: Floats, expected: Floats, crossed_s: Floats, dt_s: Floats
    ) -> tuple[Floats, Floats]:
        """Points (P, K, d) with the legs put right, and how long that has been needed (P,).

        Arguments as in `turn`. Knees and ankles are exchanged together, and the hips with them if
        they look exchanged too. Legs that cross are near to where they should be: they stay; so do
        those of somebody of whose upper body most is not where it should be.
        """
        flip, (lower, hips, upper) = self._sides[0], self._legs
        if len(lower) < 4:
            return points, crossed_s
        least = LEGS_FAR[points.shape[-1]] ** 2
        own = ((points - expected) ** 2).sum(axis=-1)
        far = own[:, lower].sum(axis=-1)
        # NaN where one of the four is missing: no comparison holds.
        doubtful = far > 4 * least
        if not doubtful.any():
            return points, np.zeros_like(crossed_s)
        near = (own <= least) @ upper
        doubtful &= (near > 0) & (near >= 0.5 * (np.isfinite(own) @ upper))
        other = points[:, flip]
        exchanged = ((other - expected) ** 2).sum(axis=-1)
        better = doubtful & (exchanged[:, lower].sum(axis=-1) < LEGS_SHARE * far)
        crossed_s = np.where(better, crossed_s + dt_s, 0.0)
        go = better & (crossed_s <= TURN_S)
        if not go.any():
            return points, crossed_s
        also = exchanged[:, hips].sum(axis=-1) < own[:, hips].sum(axis=-1)
        which = np.zeros(own.shape, np.bool_)
        which[:, lower] = go[:, None]
        which[:, hips] = (go & also)[:, None]
        return np.where(which[..., None], other, points), crossed_s

    def free(self, rows: IntArray, far: Mask, seen: Mask, dt_s: Floats) -> Mask:
        """Joints (P, m, K) that need not stay near their measurement, of those ``far`` from it.

        A person all of whose ``seen`` joints (P, m, K) are far is somewhere else: followed at
        once. ``dt_s`` (P, m) are the steps before the frames.
        """
        if not far.any():
            return far
        far = far & (seen & ~far).any(axis=-1, keepdims=True)
        since = self._far_s[rows][:, None] + np.cumsum(dt_s, axis=1)[..., None]
        return np.asarray(far & (since <= FAR_S))

    def commit(
        self, rows: IntArray, turned_s: Floats, far: Mask, dt_s: Floats,
        crossed_s: Floats | float = 0.0,
    ) -> None:  # fmt: skip
        """Remember of the oldest frame how long sides (P,) and joints ``far`` (P, K) are wrong."""
        self._turned_s[rows], self._crossed_s[rows] = turned_s, crossed_s
        self._far_s[rows] = np.where(far, self._far_s[rows] + dt_s[:, None], 0.0)


@cache
def _sides_of(skeleton: Skeleton) -> tuple[IntArray, Floats, Floats]:
    """Flip order (K,), and masks (K,) of mirrored joints of the body and of the trunk."""
    flip = skeleton.flip_order()
    mirrored = flip != np.arange(len(skeleton))
    face = np.array([name.endswith(("_eye", "_ear")) for name in skeleton.joints])
    trunk = np.array([name.endswith(("_shoulder", "_hip")) for name in skeleton.joints])
    return flip, (mirrored & ~face).astype(np.float64), (mirrored & trunk).astype(np.float64)


@cache
def _legs_of(skeleton: Skeleton) -> tuple[IntArray, IntArray, Floats]:
    """Knees and ankles, and hips, of both sides; a mask (K,) of shoulders and arms."""
    lower = [j for j, name in enumerate(skeleton.joints) if name.endswith(("_knee", "_ankle"))]
    hips = [j for j, name in enumerate(skeleton.joints) if name.endswith("_hip")]
    arms = [name.endswith(("_shoulder", "_elbow", "_wrist")) for name in skeleton.joints]
    return np.array(lower, np.int64), np.array(hips, np.int64), np.array(arms, np.float64)


def measured_freshly(expected: Floats, age_s: Floats, dt_s: Floats) -> Floats:
    """``expected`` (P, K, d) with NaN for joints last measured more than FRESH_S ago.

    ``age_s`` (P, K) is as of the frame before, ``dt_s`` (P,) ago.
    """
    fresh: npt.NDArray[np.bool_] = age_s + dt_s[:, None] <= FRESH_S
    return np.where(fresh[..., None], expected, np.nan)
