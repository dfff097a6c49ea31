"""Bodies lifted from one image, for a filter: what errs anew in every frame, and what lasts.

Letters: P people, J joints. One camera's lifter errs in three ways. The distance of a whole person
is off together (*place*), the bend of the body is off for as long as the pose looks the same, and
a little of both is new in every frame. A filter that takes all of it for new believes its own
motion rather than the frames and lags behind the limbs; so the place is smoothed for all joints
together here, along their rays, and only a share of the rest is called noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray, IntArray

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Share of the stated variance that is taken for new in every frame: across the ray, along it, and
#: of the place. By third differences it is 0.02 to 0.3, 0.002 to 0.02 and 0.01 to 0.3 (two people
#: at 60 Hz, four cameras each); with more, learned bone lengths have more say.
ACROSS, ALONG, PLACE = 0.3, 0.2, 0.1
#: Density of the random acceleration of a person's distance, (m/s^2)^2 s; its first speed, m/s.
PROCESS, FIRST_SPEED = 1.0, 1.0
#: Innovations beyond this many spreads count less.
GATE = 3.0
#: A person whom no frame showed for longer starts anew.
MAX_GAP_S = 0.5
#: Share of the smallest variance along the rays that all joints of a person have in common.
COMMON = 0.95
LEAST_M2 = 1e-6
#: Speed that lasting errors pretend as they come and go, over their deviation, 1/s. Measured:
#: Pose2Sim, six views of three people; stated sets then hold 93 % of the velocities, else 55 %.
WANDER_HZ = 5.0
_EYE = np.eye(3)


@dataclass(frozen=True)
class Steady:
    """Bodies at a steady distance and their errors; NaN where the joints are unknown."""

    xyz_m: FloatArray  # (P, J, 3)
    noise_m2: FloatArray  # (P, J, 3, 3) what is new in this frame
    lasting_m2: FloatArray  # (P, J, 3, 3) what is not; 0 where nothing was ever said


@dataclass
class _Memory:
    """The last frame's people."""

    ids: IntArray  # (P,)
    stamp_ns: IntArray  # (P,) of the last measured distance
    state: Floats  # (P, 2) distance of the hips and its speed
    cov: Floats  # (P, 2, 2)
    hips_m: Floats  # (P, 3) where they were at that time
    lasting_m2: FloatArray  # (P, J, 3, 3)


class SteadyPlace:
    """Smooths how far away people are and tells lasting errors from noise."""

    def __init__(self, skeleton: Skeleton) -> None:
        """Know nobody; ``skeleton`` must have hips."""
        self._joints = len(skeleton)
        self._hips = [skeleton.index("left_hip"), skeleton.index("right_hip")]
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        self._memory = self._blank(np.zeros(0, np.int64))

    def forget(self, ids: IntArray) -> None:
        """Forget the people ``ids``; unknown ones are passed over."""
        m = self._memory
        if not len(ids) or not len(m.ids):  # as in almost every frame
            return
        keep = ~np.isin(m.ids, ids)
        self._memory = _Memory(
            m.ids[keep], m.stamp_ns[keep], m.state[keep], m.cov[keep], m.hips_m[keep],
            m.lasting_m2[keep],
        )  # fmt: skip

    def transform(self, rotation: Floats) -> None:
        """Turn everything remembered into new camera axes, (3, 3) from the old ones.

        A distance is a coordinate along the axis of view: it changes with the direction.
        """
        m = self._memory
        turned = m.hips_m @ rotation.T
        known = np.isfinite(turned).all(axis=1) & (m.hips_m[:, 2] > 0) & (turned[:, 2] > 0)
        ratio = np.where(known, turned[:, 2] / np.where(known, m.hips_m[:, 2], 1.0), 1.0)
        lasting = rotation @ m.lasting_m2.astype(np.float64) @ rotation.T
        self._memory = _Memory(
            m.ids, m.stamp_ns, ratio[:, None] * m.state, ratio[:, None, None] ** 2 * m.cov,
            turned, lasting.astype(np.float32),
        )  # fmt: skip

    def update(
        self, stamp_ns: int, ids: IntArray, xyz_m: FloatArray, covariance_m2: FloatArray,
        mono: Mask,
    ) -> Steady:  # fmt: skip
        """Joints (P, J, 3) of the optical frame of the people ``ids``, with their covariances.

        People who are not ``mono`` (P,) come back as they are, all of their error being noise; a
        person without a measured joint keeps the lasting error of the last frame. Joints move
        along their rays, so pixels stay what they are. Whoever is not among ``ids`` is forgotten.
        """
        memory = self._recalled(ids)
        ray, along, across = split_along_rays(xyz_m, covariance_m2)
        least = np.where(np.isfinite(along), along, np.inf).min(axis=1, initial=np.inf)
        place = np.where(np.isfinite(least), COMMON * least, 0.0)
        left, right = self._hips
        distance = (0.5 * (xyz_m[:, left, 2] + xyz_m[:, right, 2])).astype(np.float64)
        measured = mono & np.isfinite(distance)
        self._follow(memory, stamp_ns, distance, PLACE * place, measured)
        shift = np.where(measured, memory.state[:, 0] - distance, 0.0)
        moved = xyz_m + shift[:, None, None] * np.where(mono[:, None, None], ray, 0.0)
        fresh = (ALONG * (along - place[:, None]))[..., None] * ray
        noise = fresh[..., :, None] * ray[..., None, :]
        noise += ACROSS * across + LEAST_M2 * _EYE
        noise = np.where(mono[:, None, None, None], noise, covariance_m2)
        rest = covariance_m2 - noise
        memory.lasting_m2 = np.where(np.isfinite(rest), rest, memory.lasting_m2).astype(np.float32)
        hips = 0.5 * (moved[:, left] + moved[:, right])
        memory.hips_m = np.where(measured[:, None], hips, memory.hips_m)
        self._memory = memory
        return Steady(moved.astype(np.float32), noise.astype(np.float32), memory.lasting_m2)

    def _blank(self, ids: IntArray) -> _Memory:
        count = len(ids)
        return _Memory(
            ids, np.full(count, np.iinfo(np.int64).min // 4), np.zeros((count, 2)),
            np.zeros((count, 2, 2)), np.full((count, 3), np.nan),
            np.zeros((count, self._joints, 3, 3), np.float32),
        )  # fmt: skip

    def _recalled(self, ids: IntArray) -> _Memory:
        """Rows of ``ids``, in their order; blank for who is not known."""
        old = self._memory
        if np.array_equal(ids, old.ids):  # as in almost every frame
            return old
        fresh = self._blank(np.asarray(ids, np.int64))
        new, known = np.nonzero(fresh.ids[:, None] == old.ids[None])
        for name in ("stamp_ns", "state", "cov", "hips_m", "lasting_m2"):
            getattr(fresh, name)[new] = getattr(old, name)[known]
        return fresh

    def _follow(
        self, memory: _Memory, stamp_ns: int, distance: Floats, variance: Floats, measured: Mask
    ) -> None:
        """One step of a constant-velocity Kalman filter of the distances (P,)."""
        dt = (stamp_ns - memory.stamp_ns) * 1e-9
        anew = measured & ~((dt > 0) & (dt <= MAX_GAP_S))
        t = np.where(measured & ~anew, dt, 0.0)
        place, speed = memory.state[:, 0], memory.state[:, 1]
        a, b, c = memory.cov[:, 0, 0], memory.cov[:, 0, 1], memory.cov[:, 1, 1]
        place = place + t * speed
        a = a + t * (2.0 * b + t * c) + PROCESS * t**3 / 3
        b = b + t * c + PROCESS * t**2 / 2
        c = c + PROCESS * t
        off = np.where(measured, distance, 0.0) - place
        noise = variance + LEAST_M2
        surprise = off**2 / (a + noise) / GATE**2
        total = a + noise * np.maximum(surprise, 1.0)
        rows = [place + a / total * off, speed + b / total * off]
        rows += [a - a * a / total, b - a * b / total, c - b * b / total]
        if anew.any():
            none = np.zeros_like(distance)
            first = (distance, none, noise, none, none + FIRST_SPEED**2)
            rows = [np.where(anew, new, old) for new, old in zip(first, rows, strict=True)]
        table = np.where(measured, np.stack([*rows[:4], rows[3], rows[4]]), _flat(memory))
        memory.state = table[:2].T.copy()
        memory.cov = table[2:].T.reshape(-1, 2, 2).copy()
        memory.stamp_ns = np.where(measured, stamp_ns, memory.stamp_ns)


def wandering_m_s(lasting_m2: FloatArray) -> FloatArray:
    """(P, J) standard deviation per axis of the velocity that lasting errors pretend."""
    variance = np.einsum("pjaa->pj", lasting_m2) / 3
    return np.asarray(WANDER_HZ * np.sqrt(np.maximum(variance, 0.0)), np.float32)


def _flat(memory: _Memory) -> Floats:
    """State and covariance as rows (6, P)."""
    return np.concatenate([memory.state.T, memory.cov.reshape(-1, 4).T])


def split_along_rays(
    xyz_m: FloatArray, covariance_m2: FloatArray
) -> tuple[Floats, Floats, Floats]:
    """Rays (..., 3) with z = 1, the variance (...) along them, and what remains (..., 3, 3).

    ``covariance = variance * ray ray^T + remainder`` with the largest variance that leaves the
    remainder positive semidefinite, the variance being that of the depth; NaN stays NaN.
    """
    xyz, cov = xyz_m.astype(np.float64), covariance_m2.astype(np.float64)
    known = np.isfinite(xyz).all(axis=-1) & np.isfinite(cov).all(axis=(-1, -2))
    known &= np.abs(xyz[..., 2]) > 1e-3
    safe = np.where(known[..., None], xyz, 1.0)
    ray = safe / safe[..., 2:]
    full = np.where(known[..., None, None], cov, _EYE) + 1e-3 * LEAST_M2 * _EYE
    weight = ((np.linalg.inv(full) @ ray[..., None])[..., 0] * ray) @ np.ones(3)
    along = 1.0 / np.maximum(weight, 1e-12)
    rest = full - (along[..., None] * ray)[..., :, None] * ray[..., None, :]
    return (
        np.where(known[..., None], ray, np.nan), np.where(known, along, np.nan),
        np.where(known[..., None, None], rest, np.nan),
    )  # fmt: skip
