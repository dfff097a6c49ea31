"""How long everybody's bones are, learned while they are watched.

Letters: P people, K joints, E bones, G groups of bones that mirror each other, W samples, C rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import STATURE_M, anatomy_of
from pose_ros.core.refine_slots import CAPACITY, Slots
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray, IntArray, check
from pose_ros.errors import ConfigError

Mask = npt.NDArray[np.bool_]

#: From the median absolute deviation to a standard deviation.
SIGMA_OF_MAD = 1.4826


@dataclass(frozen=True)
class BoneConfig:
    """Constants of `BoneLengths`; lengths are metres in 3-D and person heights in 2-D."""

    window: int = 300  # samples kept per bone
    every: int = 10  # frames between two medians
    prior_samples: int = 30  # the prior counts as much as this many samples
    min_score: float = 0.5  # both ends must be seen better
    view_limit: float = 0.9  # |cosine| to the viewing direction; depth noise hides such lengths
    outlier: float = 3.0  # samples farther off than this many spreads are refused
    spread_floor: float = 0.01  # least spread for that
    doubt: int = 30  # frames over which refusals are averaged
    doubt_share: float = 0.5  # more of them to one side: the bone is learned anew, 3-D
    plausible: tuple[float, float] = (0.4, 1.6)  # of the prior's length, 3-D
    percentile: float = 0.95  # 2-D: a projected bone is at most as long as the bone
    slack: float = 1.05  # 2-D: on top of the percentile
    prior_weight: float = 0.1  # of a length that rests on the prior alone


class BoneLengths:
    """Running median (3-D) or upper bound (2-D) of every bone of every person, by id.

    Mirrored bones share their samples. Until enough are there, human proportions help out:
    times the stature that fits the bones known so far. Bones that nobody sees keep their length,
    and so does a person who leaves and comes back under the same id. What was learned is given up
    when most samples of a bone are too long for it, or too short: then the id is another person's
    or the metres are measured otherwise.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        dims: int,
        config: BoneConfig | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        """Know nobody.

        Raises:
            ConfigError: ``dims`` is not 2 or 3.

        """
        if dims not in (2, 3):
            raise ConfigError(f"BoneLengths: expected 2 or 3 dims, got {dims}")
        self.config, self.dims = config or BoneConfig(), dims
        self.anatomy = anatomy_of(skeleton)
        edges, mirror = self.anatomy.edges, self.anatomy.mirror_bone
        leaders = np.flatnonzero(mirror >= np.arange(len(mirror)))
        self._members = np.stack([leaders, mirror[leaders]], axis=1)  # (G, 2)
        self._group = np.searchsorted(leaders, np.minimum(mirror, np.arange(len(mirror))))
        self._ratio = self.anatomy.ratio[leaders]  # (G,)
        self._prior = self._ratio * (STATURE_M if dims == 3 else self.config.slack)
        self._single = mirror[leaders] == leaders
        self._slots = Slots(capacity)
        self._tick = 0
        bones, groups = len(edges), len(leaders)
        self._samples = np.full((capacity, bones, self.config.window), np.inf, np.float32)
        self._count = np.zeros((capacity, bones), np.int64)
        self._noise = np.zeros((capacity, bones))  # mean variance of a bone's ends, summed
        self._frames = np.zeros(capacity, np.int64)
        self._lean = np.zeros((capacity, groups))  # share of samples refused: too long - too short
        self._middle = np.full((capacity, groups), np.nan)
        self._spread = np.full((capacity, groups), np.inf)
        self._length = np.tile(self._prior, (capacity, 1))
        self._weight = np.zeros((capacity, groups))
        self._stature = np.full(capacity, STATURE_M)

    def reset(self) -> None:
        """Forget everybody."""
        self._slots.reset()

    def forget(self, ids: IntArray) -> None:
        """Forget the people ``ids``; unknown ones are passed over."""
        self._slots.forget(ids)

    def update(
        self,
        ids: IntArray,
        points: FloatArray,
        score: FloatArray,
        std: FloatArray | None = None,
        person_px: FloatArray | None = None,
        view_axis: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Learn from measured joints (P, K, d) with ``score`` (P, K), NaN where missing.

        ``std`` (P, K) is their standard deviation per axis; noise makes bones look longer, which
        is taken off again if it is given. 2-D points are pixels and need ``person_px`` (P,), the
        people's heights in pixels. In 3-D, ``view_axis`` (3,) is the viewing direction in the
        points' frame, the z axis by default (camera frame).

        Raises:
            ShapeError: shapes do not fit, an id comes twice, or there are too many people.
            ConfigError: 2-D without ``person_px``.

        """
        joints = len(self.anatomy.skeleton)
        check("BoneLengths.points", points, (len(ids), joints, self.dims), np.float32)
        check("BoneLengths.score", score, (len(ids), joints), np.float32)
        if self.dims == 2 and person_px is None:
            raise ConfigError("BoneLengths.update: 2-D needs person_px, the people's heights")
        self._tick += 1
        rows, new = self._slots.take(np.asarray(ids, np.int64), self._tick)
        if new.any():
            self._clear(rows[new])
        bones = points[:, self.anatomy.edges[:, 0]] - points[:, self.anatomy.edges[:, 1]]
        length = np.sqrt(np.einsum("ped,ped->pe", bones, bones)).astype(np.float64)
        axis = np.array([0.0, 0.0, 1.0]) if view_axis is None else view_axis
        good = np.isfinite(length) & (score[:, self.anatomy.edges] > self.config.min_score).all(-1)
        if self.dims == 3:
            good &= np.abs(bones @ axis) < self.config.view_limit * length
        else:
            length = length / np.asarray(person_px, np.float64)[:, None]
        credible = self._credible(rows, length)
        if self.dims == 3:
            self._doubt(rows, length, good, credible)
        self._store(rows, length, good & credible, std)
        self._frames[rows] += 1
        due = rows[(self._frames[rows] % self.config.every == 0) | (self._frames[rows] == 3)]
        if len(due):
            self._settle(due)

    def lengths(self, ids: IntArray, person_px: FloatArray | None = None) -> FloatArray:
        """Model lengths (P, E): metres, or in 2-D upper bounds in pixels, which need the heights.

        NaN for bones of which nothing is known. Unknown people have average proportions.
        """
        rows, known = self._slots.find(np.asarray(ids, np.int64))
        length = np.where(known[:, None], self._length[rows], self._prior)[:, self._group]
        if self.dims == 2:
            if person_px is None:
                raise ConfigError("BoneLengths.lengths: 2-D needs person_px, the heights")
            length = length * np.asarray(person_px)[:, None]
        return length.astype(np.float32)

    def weights(self, ids: IntArray) -> FloatArray:
        """How well the lengths are known (P, E), 0 not at all to 1."""
        rows, known = self._slots.find(np.asarray(ids, np.int64))
        prior = np.where(np.isfinite(self._prior), self.config.prior_weight, 0.0)
        weight = np.where(known[:, None], np.maximum(self._weight[rows], prior), prior)
        return weight[:, self._group].astype(np.float32)

    def stature_m(self, ids: IntArray) -> FloatArray:
        """Stature (P,) in metres that fits the bones seen so far; 1.70 for the unknown (3-D)."""
        rows, known = self._slots.find(np.asarray(ids, np.int64))
        return np.where(known, self._stature[rows], STATURE_M).astype(np.float32)

    def rescale(self, ids: IntArray, ratio: float) -> None:
        """Multiply all that was learned of the people ``ids``; unknown ones are passed over."""
        rows, known = self._slots.find(np.asarray(ids, np.int64))
        rows = rows[known]
        for lengths in (self._samples, self._middle, self._spread, self._length, self._stature):
            lengths[rows] *= ratio
        self._noise[rows] *= ratio * ratio

    def _clear(self, rows: IntArray) -> None:
        self._samples[rows], self._count[rows], self._noise[rows] = np.inf, 0, 0.0
        self._frames[rows], self._middle[rows], self._spread[rows] = 0, np.nan, np.inf
        self._lean[rows] = 0.0
        self._length[rows], self._weight[rows], self._stature[rows] = self._prior, 0.0, STATURE_M

    def _credible(self, rows: IntArray, length: npt.NDArray[np.float64]) -> Mask:
        """Samples (P, E) that fit what is known of the person, or of people."""
        if self.dims == 2:
            return np.asarray(length < 2.0)
        config = self.config
        middle, spread = self._middle[rows][:, self._group], self._spread[rows][:, self._group]
        settled = self._count[rows] >= config.prior_samples
        near = np.abs(length - middle) <= config.outlier * np.maximum(spread, config.spread_floor)
        prior = self._prior[self._group]
        human = (length > config.plausible[0] * prior) & (length < config.plausible[1] * prior)
        return np.asarray(np.where(settled, near, human | np.isnan(prior)))

    def _doubt(
        self, rows: IntArray, length: npt.NDArray[np.float64], good: Mask, credible: Mask
    ) -> None:
        """Drop the samples of bones most of whose last samples were refused on the same side."""
        config, middle = self.config, self._middle[rows][:, self._group]
        good = good & (self._count[rows] >= config.prior_samples)
        refused = good & ~credible
        if not (refused.any() or self._lean[rows].any()):
            return
        side = np.where(refused, np.where(length > middle, 1.0, -1.0), 0.0)
        judged = good[:, self._members]
        judged[:, self._single, 1] = False
        tests = judged.sum(axis=-1)
        mean = (side[:, self._members] * judged).sum(axis=-1) / np.maximum(tests, 1)
        lean = self._lean[rows]
        lean += np.where(tests > 0, (mean - lean) / config.doubt, 0.0)
        self._lean[rows] = lean
        wrong = np.abs(lean) > config.doubt_share
        if wrong.any():
            sign = np.sign((lean * wrong).sum(axis=1, keepdims=True))
            also = lean * sign > 0.5 * config.doubt_share  # the scale of the whole person
            self._unlearn(rows, wrong | also)

    def _unlearn(self, rows: IntArray, wrong: Mask) -> None:
        """Forget the groups ``wrong`` (P, G) of the people in ``rows``."""
        person, group = np.nonzero(wrong)
        row, bones = rows[person, None], self._members[group]
        self._samples[row, bones], self._count[row, bones], self._noise[row, bones] = (
            np.inf,
            0,
            0.0,
        )
        self._lean[rows[person], group] = 0.0
        who = rows[wrong.any(axis=1)]
        self._frames[who] = 0  # the next medians come soon
        self._settle(who)

    def _store(
        self, rows: IntArray, length: npt.NDArray[np.float64], good: Mask, std: FloatArray | None
    ) -> None:
        person, bone = np.nonzero(good)
        row = rows[person]
        count = self._count[row, bone]
        self._samples[row, bone, count % self.config.window] = length[person, bone]
        if std is not None:
            ends = (std[:, self.anatomy.edges].astype(np.float64) ** 2).sum(axis=-1)[person, bone]
            share = 1.0 / np.minimum(count + 1, self.config.window)
            noise = self._noise[row, bone]
            self._noise[row, bone] = noise + share * (np.nan_to_num(ends) - noise)
        self._count[row, bone] = count + 1

    def _settle(self, rows: IntArray) -> None:
        """Medians, spreads, stature and blended lengths of ``rows``."""
        config = self.config
        pool = self._samples[rows][:, self._members]  # (P, G, 2, W)
        pool[:, self._single, 1] = np.inf
        pool = pool.reshape(*pool.shape[:2], -1)
        ordered = np.sort(pool, axis=-1)
        held = np.minimum(self._count[rows], config.window)[:, self._members]
        held[:, self._single, 1] = 0
        count = held.sum(axis=-1)
        empty = count == 0
        if self.dims == 3:
            middle = np.where(empty, 0.0, _quantile(ordered, count, 0.5))
            off = np.abs(pool - middle[..., None].astype(np.float32))
            spread = _quantile(np.sort(off, axis=-1), count, 0.5) * SIGMA_OF_MAD
            noise = self._noise[rows][:, self._members].mean(axis=-1)
            root = np.sqrt(np.maximum(middle**2 - 2.0 * (self.dims - 1) * noise, 0.0))
            known = 0.5 * (middle + root)
        else:
            middle = known = _quantile(ordered, count, config.percentile) * config.slack
            spread = np.full(middle.shape, np.inf)
        known = np.where(empty, np.nan, known)
        prior = self._priors(rows, known, count)
        n, n0 = count, config.prior_samples
        blended = (n0 * prior + n * known) / (n0 + n)
        blended = np.where(np.isnan(prior), known, np.where(empty, prior, blended))
        self._middle[rows] = np.where(empty, np.nan, middle)
        self._spread[rows] = np.where(empty, np.inf, spread)
        self._length[rows], self._weight[rows] = blended, n / (n + n0)

    def _priors(
        self, rows: IntArray, known: npt.NDArray[np.float64], count: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Lengths (P, G) by proportion, of the stature that fits the known bones in 3-D."""
        if self.dims == 2:
            return np.broadcast_to(self._prior, known.shape)
        fits = np.where(count >= self.config.every, known / self._ratio, np.nan)
        some = np.isfinite(fits).any(axis=-1)
        ordered = np.sort(np.where(np.isfinite(fits), fits, np.inf), axis=-1)
        middle = _quantile(ordered, np.isfinite(fits).sum(axis=-1), 0.5)
        self._stature[rows] = np.where(some, middle, self._stature[rows])
        return np.asarray(self._stature[rows, None] * self._ratio)


def _quantile(
    ordered: npt.NDArray[Any],
    count: npt.NDArray[np.int64],
    share: float,
) -> npt.NDArray[np.float64]:
    """Quantile (...,) of the first ``count`` (...,) of ascending values (..., W)."""
    place = np.maximum(share * (count - 1), 0.0)
    low, high = np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64)
    a = np.take_along_axis(ordered, low[..., None], axis=-1)[..., 0]
    b = np.take_along_axis(ordered, high[..., None], axis=-1)[..., 0]
    return np.asarray((0.5 * (a + b) if share == 0.5 else b).astype(np.float64))
