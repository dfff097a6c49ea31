"""How steady skeletons are: jitter before and after refinement, and how constant the bones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray, IntArray, PoseResult

#: Joints count for the jitter from this score of the network on.
SCORE_MIN = 0.3
#: A bone says something about its constancy when it was seen in so many frames.
BONE_FRAMES = 10


@dataclass(frozen=True)
class _Seen:
    """One frame: P people, J joints; NaN where the network was not sure."""

    ids: IntArray  # (P,)
    xy_px: FloatArray  # (P, J, 2, 2) the network's joints, then the published ones

    def of(self, ids: IntArray) -> FloatArray:
        """Joints (N, J, 2, 2) of ``ids``; NaN for people who were not there."""
        if len(self.ids) == 0:
            return np.full((len(ids), *self.xy_px.shape[1:]), np.nan, np.float32)
        same = ids[:, None] == self.ids
        here = same.any(axis=1)[:, None, None, None]
        return np.where(here, self.xy_px[same.argmax(axis=1)], np.float32(np.nan))


class Jitter:
    """Running mean length of the second difference of a joint over three frames in a row.

    Before: the joints as the network said them. After: as they are published, refined where that
    is on. Both over the same joints and frames: those with a score of at least ``SCORE_MIN`` from
    the network in all three frames. A steady walk counts nearly 0, real accelerations count in
    both. Frames that were not answered are not there: their neighbours count as in a row.
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self._last: tuple[_Seen, ...] = ()
        self._sums = (0, 0.0, 0.0)  # replaced as a whole: another thread may read

    def add(self, result: PoseResult) -> None:
        """Count one more answer."""
        raw, shown = result.poses, result.shown
        pair = np.stack([raw.xy_px, shown.xy_px], axis=2)
        sure = (raw.score >= SCORE_MIN) & np.isfinite(pair).all(axis=(2, 3))
        now = _Seen(result.tracks.ids, np.where(sure[:, :, None, None], pair, np.float32(np.nan)))
        if len(self._last) == 2:
            older, old = self._last
            second = now.xy_px - 2 * old.of(now.ids) + older.of(now.ids)
            length = np.linalg.norm(second, axis=-1).reshape(-1, 2)
            length = length[np.isfinite(length).all(axis=1)].astype(np.float64)
            count, before, after = self._sums
            more = length.sum(axis=0).tolist()
            self._sums = (count + len(length), before + more[0], after + more[1])
        self._last = (*self._last[-1:], now)

    @property
    def mean_px(self) -> tuple[float, float] | None:
        """Before and after, in pixels; None as long as no joint was seen three times."""
        count, before, after = self._sums
        return (before / count, after / count) if count else None


def bone_cv(
    ids: npt.NDArray[np.int64], xyz_m: npt.NDArray[np.floating], skeleton: Skeleton
) -> float | None:
    """Standard deviation of a bone's length over its mean, averaged over bones and people.

    ``xyz_m`` (N, J, 3) holds one row per frame and person, ``ids`` (N,) whose it is; NaN is
    unknown. Bones of the face do not count, nor those known in fewer than ``BONE_FRAMES`` rows.
    None when there is none.
    """
    body = [i for i, (a, _) in enumerate(skeleton.edges) if "_eye" not in a and a != "nose"]
    ends = skeleton.edge_indices()[body]
    length = np.linalg.norm(xyz_m[:, ends[:, 0]] - xyz_m[:, ends[:, 1]], axis=-1)
    ratios = []
    for number in np.unique(ids):
        own = length[ids == number]
        own = own[:, np.isfinite(own).sum(axis=0) >= BONE_FRAMES]
        if own.size:
            ratios.append(np.nanstd(own, axis=0) / np.nanmean(own, axis=0))
    return float(np.concatenate(ratios).mean()) if ratios else None
