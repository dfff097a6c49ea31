"""APRS of a live stream: everybody's joints refined frame by frame, in constant time and memory.

Letters: P people of this frame, K joints, E bones, d axes (2 or 3), m = lag + 1 newest frames.

The older frames act on the new ones through the temporal energy only, which is quadratic; they are
integrated out exactly by a Kalman filter (``refine_motion.py``). Its mean and information replace
data and temporal energy, and the iterations add what is left: bone lengths and domain penalties.
This is the "closed form, then iterate" of the window energy with a whole history for a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import anatomy_of
from pose_ros.core.penalties import (
    Context,
    Penalty,
    lateral_axis,
    swap_limbs,
)
from pose_ros.core.refine_descent import descend, leash
from pose_ros.core.refine_doubt import Doubt, measured_freshly
from pose_ros.core.refine_energy import RefineConfig, confidence_weight
from pose_ros.core.refine_inertia import AGEING, Inertia, InertiaMemory, carried
from pose_ros.core.refine_live import LiveEnergy, bone_weight
from pose_ros.core.refine_memory import Memory
from pose_ros.core.refine_motion import Belief, Floats, Mask, Step, advance, smooth
from pose_ros.core.refine_slots import CAPACITY, Slots
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray, IntArray, KeypointStatus, check
from pose_ros.errors import ConfigError

#: Confidence below which a point is no measurement.
SEEN = 0.1
#: Time constant in which a person's size in the image (the unit of 2-D) is averaged.
SIZE_S = 1.0
#: Share of the speed limit below which the penalty is not even evaluated.
NEARLY = 0.7
#: Every measurement is at least this share of the configured noise uncertain.
LEAST_NOISE = 0.05
#: Shortest time between two frames.
STEP_S = 1e-3
# Plain numbers: numpy is slow to see one in an IntEnum.
_MEASURED, _INFERRED = int(KeypointStatus.MEASURED), int(KeypointStatus.INFERRED)
_MISSING = int(KeypointStatus.MISSING)


@dataclass(frozen=True)
class Refined:
    """Refined joints of the people of one frame, in the unit and frame of the points that came.

    With a lag they describe the frame ``lag`` frames ago; until that many have come, and for
    joints unseen for longer than ``max_prediction_s``, everything is NaN with status MISSING.
    """

    stamp_ns: IntArray  # (P,) the frame these points belong to
    points: FloatArray  # (P, K, d)
    velocity: FloatArray  # (P, K, d) per second, of the filter: a lag does not improve it
    covariance: FloatArray  # (P, K, d, d) of the points
    speed_std: FloatArray  # (P, K) standard deviation of the velocity per axis
    status: npt.NDArray[np.int8]  # (P, K) KeypointStatus: MEASURED, INFERRED or MISSING
    score: FloatArray  # (P, K) in [0, 1]; decays while a joint is not seen
    live: FloatArray  # (P, K, d) of the newest frame; the same as ``points`` without lag
    rejected: Mask  # (P,) the iterations raised the energy and were dropped
    age_s: FloatArray  # (P, K) since the joint was measured, inf for never


class StreamRefiner:
    """Refines the joints of people who come and go, in batches over people."""

    def __init__(
        self, skeleton: Skeleton, dims: int, config: RefineConfig,
        hooks: tuple[Penalty, ...] = (), capacity: int = CAPACITY,
    ) -> None:  # fmt: skip
        """Remember nobody. ``capacity`` bounds the people known at once.

        Raises:
            ConfigError: ``dims`` is not 2 or 3, or the mode is not for streams.

        """
        if dims not in (2, 3):
            raise ConfigError(f"StreamRefiner: expected 2 or 3 dims, got {dims}")
        if config.mode != "safe":
            raise ConfigError("StreamRefiner: the literal mode is for windows; use refine.unroll")
        self.skeleton, self.dims, self.config, self.hooks = skeleton, dims, config, hooks
        self.anatomy = anatomy_of(skeleton)
        self.ground: Floats | None = None
        self.inertia: Inertia | None = None  # of the people of the next `update`, which takes it
        self.rejected = 0  # frames of people whose iterations were dropped, since construction
        self._frames, self._eye = config.lag + 1, np.eye(dims)
        self._slots = Slots(capacity)
        self._memory = Memory(len(skeleton), dims, self._frames, capacity)
        self._doubt = Doubt(skeleton, capacity)
        self._worn: InertiaMemory | None = None  # from the first time that sensors say something

    def reset(self) -> None:
        """Forget everybody."""
        self._slots.reset()

    def forget(self, ids: IntArray) -> None:
        """Forget the people ``ids``; unknown ones are passed over."""
        self._slots.forget(ids)

    def transform(
        self, rotation: npt.NDArray[np.float64], translation: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Move everything stored into a new frame, when the camera moved.

        3-D: ``rotation`` (3, 3) and ``translation`` (3,) map old points to new ones, R p + t.
        2-D: ``rotation`` is a homography (3, 3) from old to new pixels.
        """
        self._memory.transform(rotation, translation)
        if self.ground is not None:
            normal, shift = rotation @ self.ground[:3], 0.0 if translation is None else translation
            self.ground = np.append(normal, self.ground[3] - np.sum(normal * shift))
        if self._worn is not None:
            self._worn.turn(rotation)

    def update(
        self,
        stamp_ns: int,
        ids: IntArray,
        points: FloatArray,
        score: FloatArray,
        spread: FloatArray | None = None,
        lengths: FloatArray | None = None,
        person_px: FloatArray | None = None,
        length_weight: FloatArray | None = None,
    ) -> Refined:
        """Refine one frame's joints (P, K, d) of the people ``ids`` (P,).

        ``points`` are metres (3-D) or pixels (2-D), NaN where missing, with ``score`` (P, K).
        ``spread`` is their standard deviation per axis (P, K) or covariance (P, K, d, d), None
        for the configured one; low scores widen it. ``lengths`` (P, E) are model lengths in the
        unit of the points, NaN where unknown (in 2-D upper bounds), ``length_weight`` (P, E) in
        [0, 1] how well they are known, None for well. ``person_px`` (P,) is the height of each
        person in pixels; 2-D needs it. A person absent for longer than ``max_gap_s``, or whose
        last frame was not before this one, starts anew.

        Raises:
            ShapeError: shapes do not fit, an id comes twice, or there are too many people.
            ConfigError: 2-D without ``person_px``.

        """
        people, joints = len(ids), len(self.skeleton)
        check("StreamRefiner.points", points, (people, joints, self.dims), np.float32)
        check("StreamRefiner.score", score, (people, joints), np.float32)
        rows = self._rows(stamp_ns, ids)
        unit = self._units(rows, stamp_ns, person_px)
        # fmax and fmin pass over NaN, so that an unknown score is 0.
        confidence = np.fmin(np.fmax(score.astype(np.float64), 0.0), 1.0)
        measured = np.isfinite(points).all(axis=-1) & (confidence > SEEN)
        raw = np.where(measured[..., None], points, np.nan).astype(np.float64)
        confidence = np.where(measured, confidence, 0.0)
        raw_cov = self._covariance(spread, confidence, measured, unit)
        self._memory.push(rows, stamp_ns, raw, (confidence, raw_cov))
        self._take_inertia(rows)
        bones, ramp = self._bones(lengths, length_weight, people)
        return self._refine(rows, unit, bones / unit[:, None], ramp)

    def _rows(self, stamp_ns: int, ids: IntArray) -> IntArray:
        """Rows of the people, those who start anew cleared."""
        memory, slots = self._memory, self._slots
        before = slots.stamp_ns.copy()
        rows, new = slots.take(np.asarray(ids, np.int64), stamp_ns)
        gap_ns = stamp_ns - before[rows].astype(np.float64)
        fresh = new | (gap_ns > self.config.max_gap_s * 1e9) | (gap_ns <= 0)
        if fresh.any():
            memory.clear(rows[fresh], rows[new], stamp_ns)
            self._doubt.clear(rows[fresh])
            if self._worn is not None:
                self._worn.clear(rows[fresh])
        return rows

    def _take_inertia(self, rows: IntArray) -> None:
        """Store what sensors say of this frame."""
        told, self.inertia = self.inertia, None
        if self._worn is None and told is not None and self.dims == 3:
            self._worn = InertiaMemory(self.skeleton, self._frames, len(self._slots.ids))
        if self._worn is not None:
            self._worn.push(rows, told)

    def _units(self, rows: IntArray, stamp_ns: int, person_px: FloatArray | None) -> Floats:
        """Length (P,) of the energy's unit: 1 m, or the person's smoothed height in pixels."""
        if self.dims == 3:
            return np.ones(len(rows))
        if person_px is None:
            raise ConfigError("StreamRefiner.update: 2-D needs person_px, the people's heights")
        memory = self._memory
        old = memory.size[rows]
        last_ns = np.where(memory.count[rows] > 0, memory.stamp_ns[rows, -1], stamp_ns)
        share = 1.0 - np.exp(-np.maximum(stamp_ns - last_ns, 0) / (SIZE_S * 1e9))
        new = np.where(np.isfinite(person_px) & (person_px > 0), person_px, old)
        size = np.where(np.isfinite(old), old + share * (new - old), new)
        memory.size[rows] = size
        return np.where(np.isfinite(size), size, 1.0)

    def _covariance(
        self, spread: FloatArray | None, confidence: Floats, measured: Mask,
        unit: Floats,
    ) -> Floats:  # fmt: skip
        """(P, K, d, d) covariance of the measured points, widened where confidence is low."""
        least, shape = (self.config.noise * unit)[:, None] ** 2, confidence.shape
        weight = np.where(measured, confidence_weight(confidence), 1.0)
        floor = LEAST_NOISE**2 * least
        if spread is not None and spread.ndim == 4:
            check("StreamRefiner.spread", spread, (*shape, self.dims, self.dims), np.float32)
            whole = np.isfinite(spread).all(axis=(-1, -2), keepdims=True)
            cov = np.where(whole, spread, least[..., None, None] * self._eye)
            cov += floor[..., None, None] * self._eye
            return np.asarray(cov / weight[..., None, None])
        variance = least
        if spread is not None:
            check("StreamRefiner.spread", spread, shape, np.float32)
            known = np.isfinite(spread) & (spread > 0)
            variance = np.where(known, spread.astype(np.float64) ** 2, least)
        return np.asarray(((variance + floor) / weight)[..., None, None] * self._eye)

    def _bones(
        self, lengths: FloatArray | None, weight: FloatArray | None, people: int
    ) -> tuple[Floats, Floats]:
        """Lengths (P, E), 0 where unknown, and how well they are known (P, E)."""
        bones = len(self.anatomy.edges)
        if lengths is None:
            return np.zeros((people, bones)), np.zeros((people, bones))
        check("StreamRefiner.lengths", lengths, (people, bones), np.float32)
        known = np.isfinite(lengths)
        ramp = known.astype(np.float64) if weight is None else np.where(known, weight, 0.0)
        return np.where(known, lengths, 0.0).astype(np.float64), ramp

    def _refine(self, rows: IntArray, unit: Floats, lengths: Floats, ramp: Floats) -> Refined:
        """Filter, constrain, commit and publish; inside, points are in units of the energy."""
        memory, m, d = self._memory, self._frames, self.dims
        scale = unit[:, None, None]
        state, cov, raw = memory.state[rows], memory.cov[rows], memory.points[rows]
        if d == 2:  # in 3-D the unit is 1 m
            state, cov, raw = state / scale, cov / scale[..., None] ** 2, raw / scale[:, None]
        belief = Belief(state, cov, memory.age_s[rows], memory.jumps[rows])
        confidence, dt_s = memory.confidence[rows], self._steps_s(rows)
        steps, raw, wrong_s = self._filter(rows, belief, raw, (scale, dt_s))
        first = steps[0].after
        if m > 1:
            anchor, anchor_cov = smooth(steps)
            age = np.stack([step.after.age_s for step in steps], axis=1)
            inverse = np.linalg.inv(first.cov[..., :d, :d])
            precision: Floats = np.linalg.inv(anchor_cov).astype(np.float64, copy=False)
        else:
            anchor, anchor_cov = first.state[:, None, :, :d], first.cov[:, None, :, :d, :d]
            age = first.age_s[:, None]
            precision = np.linalg.inv(anchor_cov).astype(np.float64, copy=False)
            inverse = precision[:, 0]
        known = age <= self.config.max_gap_s
        context = self._context(dt_s, belief, anchor, (confidence, known, lengths))
        weight = bone_weight(confidence, self.anatomy, ramp[:, None])
        if not known.all():
            weight *= known[..., self.anatomy.edges].all(axis=-1)
        energy = LiveEnergy(self.config, context, weight, d, self.hooks)
        refined, bad = descend(anchor, precision, energy)
        far = np.stack([step.far for step in steps], axis=1)
        held = np.where(self._doubt.free(rows, far, confidence > 0, dt_s), 0.0, confidence)
        refined = leash(refined, raw, held, self.config.max_move)
        self.rejected += int(bad.sum())
        ready = memory.count[rows] == m
        shift = refined[:, 0] - anchor[:, 0]
        first.state[..., d:] += (first.cov[..., d:, :d] @ (inverse @ shift[..., None]))[..., 0]
        first.state[..., :d] += shift
        lost = first.age_s > self.config.max_gap_s
        if lost.any():
            first.state[lost, d:], first.cov[lost] = 0.0, np.eye(2 * d)
        turned_s, crossed_s = (each[ready] for each in wrong_s)
        self._doubt.commit(rows[ready], turned_s, far[ready, 0], dt_s[ready, 0], crossed_s)
        self._commit(rows, first, ready, unit)
        refined = np.where((age > self.config.max_prediction_s)[..., None], np.nan, refined)
        return self._publish(rows, unit, (first, refined, anchor_cov[:, 0]), (ready, bad))

    def _steps_s(self, rows: IntArray) -> Floats:
        """Time (P, m) from the frame before to every frame."""
        memory = self._memory
        stamps = memory.stamp_ns[rows]
        steps = stamps.copy()
        steps[:, 1:] -= stamps[:, :-1]
        steps[:, 0] -= memory.before_ns[rows]
        return np.maximum(steps * 1e-9, STEP_S)

    def _filter(
        self, rows: IntArray, belief: Belief, raw: Floats, rest: tuple[Floats, Floats]
    ) -> tuple[list[Step], Floats, tuple[Floats, Floats]]:
        """Run the filter over the raw frames; returns them with exchanged sides put right.

        Third comes how long (P,) everything, and the legs alone, have been exchanged in the first
        frame. ``rest`` holds the lengths (P, 1, 1) of the unit and the steps (P, m) in seconds.
        """
        memory, doubt, d, (scale, dt_s) = self._memory, self._doubt, self.dims, rest
        steps: list[Step] = []
        turned_s, crossed_s = first_s = doubt.turned_s(rows), doubt.crossed_s(rows)
        for i in range(self._frames):
            confidence, spread = memory.confidence[rows, i], memory.spread[rows, i]
            if self.config.swap:
                known = belief.age_s[..., None] <= self.config.max_gap_s
                ahead = belief.state[..., :d] + dt_s[:, i, None, None] * belief.state[..., d:]
                fresh = measured_freshly(ahead, belief.age_s, dt_s[:, i])
                raw[:, i], turned_s = doubt.turn(raw[:, i], fresh, turned_s, dt_s[:, i])
                raw[:, i], crossed_s = doubt.uncross(raw[:, i], fresh, crossed_s, dt_s[:, i])
                first_s = (turned_s, crossed_s) if i == 0 else first_s
                raw[:, i], _ = swap_limbs(
                    raw[:, i], np.where(known, ahead, np.nan), confidence, self.anatomy
                )
            if d == 2:
                spread = spread / scale[..., None] ** 2
            seen = (raw[:, i], confidence, spread)
            worn = None if self._worn is None else (self._worn.at(rows, i), self._worn.bones)
            step = advance(belief, seen, dt_s[:, i], self.anatomy, self.config, worn)
            steps.append(step)
            belief = step.after
        return steps, raw, first_s

    def _context(
        self, dt_s: Floats, belief: Belief, anchor: Floats, rest: tuple[Floats, Mask, Floats]
    ) -> Context:
        """What the penalties need of this window; ``dt_s`` (P, m) are its steps."""
        confidence, known, lengths = rest
        config, d = self.config, self.dims
        budget = previous = None
        if config.speed:
            before = belief.state[..., :d]
            chain = np.concatenate([before[:, None], anchor], axis=1)
            moved = chain[:, 1:] - chain[:, :-1]
            limit = dt_s[..., None] * self.anatomy.speed_limit
            near = (moved * moved) @ np.ones(d) >= (NEARLY * limit) ** 2
            near &= known
            near[:, 0] &= belief.age_s <= config.max_gap_s
            if near.any():  # otherwise nobody is near the limit: spare the term
                budget, previous = np.where(near, limit, np.inf), before
        return Context(
            self.anatomy, lengths[:, None], confidence, budget, previous,
            lateral_axis(anchor, confidence, self.anatomy) if config.bend else None,
            self.ground if d == 3 else None,
            config.angle_limits and d == 3, config.bend and d == 3, config.symmetry and d == 3,
        )  # fmt: skip

    def _commit(self, rows: IntArray, first: Belief, ready: Mask, unit: Floats) -> None:
        """Store the state of the oldest raw frame of those whose history is full."""
        if not ready.all():
            rows, unit = rows[ready], unit[ready]
            first = Belief(
                first.state[ready], first.cov[ready], first.age_s[ready], first.jumps[ready]
            )
        memory, who, scale = self._memory, rows, unit[:, None, None]
        state, cov = first.state, first.cov
        if self.dims == 2:
            state, cov = state * scale, cov * scale[..., None] ** 2
        memory.state[who], memory.cov[who] = state, cov
        memory.age_s[who], memory.jumps[who] = first.age_s, first.jumps
        memory.before_ns[who] = memory.stamp_ns[who, 0]
        new = memory.confidence[who, 0]
        fade: float | Floats = self.config.score_decay
        if self._worn is not None:
            held = carried(self._worn.at(who, 0), self._worn.bones)
            fade = np.where(held, fade**AGEING, fade)
        old = memory.score[who] * fade
        memory.score[who] = np.where(first.age_s == 0, new, old)

    def _publish(
        self, rows: IntArray, unit: Floats, what: tuple[Belief, Floats, Floats],
        who: tuple[Mask, Mask],
    ) -> Refined:  # fmt: skip
        """The results in the unit of the points, NaN where nothing can be said."""
        first, refined, cov = what
        ready, bad = who
        d, scale = self.dims, unit[:, None, None]
        told = ready[:, None] & (first.age_s <= self.config.max_prediction_s)
        status = np.where(first.age_s == 0, _MEASURED, _INFERRED)
        spread = first.cov.diagonal(0, -2, -1)[..., d:]
        # One array for all that shares the mask: points, velocity and its deviation, covariance.
        whole = np.concatenate(
            [
                refined[:, 0] * scale, first.state[..., d:] * scale,
                np.sqrt(self.config.stated_speed / d * (spread @ np.ones(d)))[..., None] * scale,
                self.config.stated * cov.reshape(*told.shape, d * d) * scale**2,
            ],
            axis=-1,
        )  # fmt: skip
        whole = np.where(told[..., None], whole, np.nan).astype(np.float32)
        return Refined(
            stamp_ns=self._memory.stamp_ns[rows, 0],
            points=whole[..., :d],
            velocity=whole[..., d : 2 * d],
            covariance=whole[..., 2 * d + 1 :].reshape(*told.shape, d, d),
            speed_std=whole[..., 2 * d],
            status=np.where(told, status, _MISSING).astype(np.int8),
            score=np.where(told, self._memory.score[rows], 0.0).astype(np.float32),
            live=(refined[:, -1] * scale).astype(np.float32),
            rejected=bad,
            age_s=first.age_s.astype(np.float32),
        )
