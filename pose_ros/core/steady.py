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
        keep = ~np.isin(self._memory.ids, ids)
        m = self._memory
        self._memory = _Memory(
            m.ids[keep], m.stamp_ns[keep], m.state[keep], m.cov[keep], m.lasting_m2[keep]
        )

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
        distance = xyz_m[:, self._hips, 2].mean(axis=1).astype(np.float64)
        measured = mono & np.isfinite(distance)
        self._follow(memory, stamp_ns, distance, PLACE * place, measured)
        shift = np.where(measured, memory.state[:, 0] - distance, 0.0)
        moved = xyz_m + shift[:, None, None] * np.where(mono[:, None, None], ray, 0.0)
        outer = ray[..., :, None] * ray[..., None, :]
        noise = ALONG * (along - place[:, None])[..., None, None] * outer
        noise = noise + ACROSS * across + LEAST_M2 * np.eye(3)
        noise = np.where(mono[:, None, None, None], noise, covariance_m2)
        rest = covariance_m2 - noise
        memory.lasting_m2 = np.where(np.isfinite(rest), rest, memory.lasting_m2).astype(np.float32)
        self._memory = memory
        return Steady(moved.astype(np.float32), noise.astype(np.float32), memory.lasting_m2)

    def _blank(self, ids: IntArray) -> _Memory:
        count = len(ids)
        return _Memory(
            ids, np.full(count, np.iinfo(np.int64).min // 4), np.zeros((count, 2)),
            np.zeros((count, 2, 2)), np.zeros((count, self._joints, 3, 3), np.float32),
        )  # fmt: skip

    def _recalled(self, ids: IntArray) -> _Memory:
        """Rows of ``ids``, in their order; blank for who is not known."""
        fresh, old = self._blank(np.asarray(ids, np.int64)), self._memory
        new, known = np.nonzero(fresh.ids[:, None] == old.ids[None])
        for name in ("stamp_ns", "state", "cov", "lasting_m2"):
            getattr(fresh, name)[new] = getattr(old, name)[known]
        return fresh

    def _follow(
        self, memory: _Memory, stamp_ns: int, distance: Floats, variance: Floats, measured: Mask
    ) -> None:
        """One step of a constant-velocity Kalman filter of the distances (P,)."""
        dt = (stamp_ns - memory.stamp_ns) * 1e-9
        anew = measured & ~((dt > 0) & (dt <= MAX_GAP_S))
        t = np.where(measured & ~anew, dt, 0.0)
        step = np.zeros((len(t), 2, 2))
        step[:, 0, 0] = step[:, 1, 1] = 1.0
        step[:, 0, 1] = t
        spread = np.stack([t**3 / 3, t**2 / 2, t**2 / 2, t], axis=-1).reshape(-1, 2, 2)
        state = (step @ memory.state[..., None])[..., 0]
        cov = step @ memory.cov @ step.swapaxes(1, 2) + PROCESS * spread
        off = np.where(measured, distance, 0.0) - state[:, 0]
        noise = variance + LEAST_M2
        surprise = off**2 / (cov[:, 0, 0] + noise) / GATE**2
        gain = cov[:, :, 0] / (cov[:, 0, 0] + noise * np.maximum(surprise, 1.0))[:, None]
        state, cov = state + gain * off[:, None], cov - gain[:, :, None] * cov[:, None, 0]
        first = np.stack([distance, np.zeros_like(distance)], axis=-1)
        wide = np.zeros_like(cov)
        wide[:, 0, 0], wide[:, 1, 1] = noise, FIRST_SPEED**2
        go = measured & ~anew
        memory.state[go], memory.cov[go] = state[go], cov[go]
        memory.state[anew], memory.cov[anew] = first[anew], wide[anew]
        memory.stamp_ns[measured] = stamp_ns


def split_along_rays(
    xyz_m: FloatArray, covariance_m2: FloatArray
) -> tuple[Floats, Floats, Floats]:
    """Rays (..., 3) with z = 1, the variance (...) along them, and what remains (..., 3, 3).

    ``covariance = variance * ray ray^T + remainder`` with the largest variance that leaves the
    remainder positive semidefinite, the variance being that of the depth; NaN stays NaN.
    """
    xyz, cov = xyz_m.astype(np.float64), covariance_m2.astype(np.float64)
    known = np.isfinite(xyz).all(axis=-1) & np.isfinite(cov).all(axis=(-1, -2))
    known &= np.abs(np.nan_to_num(xyz[..., 2])) > 1e-3
    safe = np.where(known[..., None], xyz, 1.0)
    ray = safe / safe[..., 2:]
    full = np.where(known[..., None, None], cov, np.eye(3)) + 1e-3 * LEAST_M2 * np.eye(3)
    weight = np.einsum("...a,...ab,...b->...", ray, np.linalg.inv(full), ray)
    along = 1.0 / np.maximum(weight, 1e-12)
    rest = full - along[..., None, None] * ray[..., :, None] * ray[..., None, :]
    return (
        np.where(known[..., None], ray, np.nan), np.where(known, along, np.nan),
        np.where(known[..., None, None], rest, np.nan),
    )  # fmt: skip
