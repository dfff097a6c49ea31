"""An inertial sensor: its last seconds, how it turned, where up is, and whether to believe it.

World frames have z up. ``world`` matrices map the axes of the body that the sensor is fixed to
(a camera's optical frame, a strapped sensor's own axes) to such a frame; its heading is arbitrary
unless the sensor tells one.

Source: rotations integrate exactly per step (Forster et al., On-Manifold Preintegration, 2017,
equation 35); the orientation is a complementary filter (Mahony et al., 2008) without its integral.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.so3 import exp_so3, log_so3, orthonormal, shortest
from pose_ros.errors import ConfigError, ShapeError

Floats = npt.NDArray[np.float64]

GRAVITY_M_S2 = 9.81
UP = np.array([0.0, 0.0, 1.0])
#: Two equal readings in a row, this fast, are a sensor at its end stop.
CLIPPED_RAD_S = 4.0
#: So many samples with stamps that do not ascend, and the clock has been set back.
PATIENCE = 20


@dataclass(frozen=True)
class ImuLimits:
    """What is believed of a sensor."""

    gyro_rad_s: float = 34.0  # this and more is saturated (2000 deg/s)
    force_m_s2: float = 155.0  # the same (16 g)
    max_gap_s: float = 0.05  # between samples; nothing is known across a longer gap
    max_age_s: float = 0.02  # readings are held at most so long after the last sample
    recovery_s: float = 0.5  # after a gap or saturation the sensor is not healthy for this long
    trust_m_s2: float = 0.5  # the force is gravity if it differs by less ...
    trust_s: float = 0.2  # ... for so long
    still_s: float = 0.5  # so long without motion tells the gyro's bias
    still_rad_s: float = 0.01  # spread of the rate while still
    max_bias_rad_s: float = 0.02  # more is motion
    pull_s: float = 0.5  # time constant with which gravity or a told orientation corrects

    def __post_init__(self) -> None:
        """Refuse numbers that are not positive.

        Raises:
            ConfigError: naming the field.

        """
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"ImuLimits.{name}: expected a number > 0, got {value}")


class Imu:
    """Ring of the last samples of one sensor, with what follows from them.

    ``counts`` says how many samples were refused or doubted, by reason.
    """

    def __init__(
        self, limits: ImuLimits | None = None, axes: Floats | None = None, capacity: int = 2048
    ) -> None:
        """Know nothing. ``axes`` (3, 3) turns sensor axes into those of the body it is fixed to.

        Raises:
            ShapeError: ``axes`` is not a rotation.

        """
        self.limits = limits or ImuLimits()
        self.axes = np.eye(3) if axes is None else np.asarray(axes, np.float64)
        if self.axes.shape != (3, 3) or not np.allclose(
            self.axes @ self.axes.T, np.eye(3), atol=1e-3
        ):
            raise ShapeError(f"Imu.axes: expected a rotation (3, 3), got {self.axes.tolist()}")
        self.counts = {"received": 0, "late": 0, "broken": 0, "gaps": 0, "saturated": 0}
        self.bias_rad_s = np.zeros(3)
        self._capacity = capacity
        self._stamps = np.zeros(2 * capacity, np.int64)
        self._gyro = np.zeros((2 * capacity, 3))  # without bias
        self._turn = np.zeros((2 * capacity, 3, 3))  # first sample's axes from this one's
        self._world = np.zeros((2 * capacity, 3, 3))
        self._speed = np.zeros((2 * capacity, 3))  # world; integral of force minus gravity
        self._breaks = np.zeros(2 * capacity, np.int64)  # bad intervals up to this sample
        self.reset()

    def reset(self) -> None:
        """Forget all samples; bias and counts stay."""
        self._size = 0
        self._late = 0
        self._settled = self._was_bad = False
        self._trusted_ns: int | None = None  # since when the force has been gravity
        self._doubt_ns = np.iinfo(np.int64).min  # last gap or saturation
        self._still: list[tuple[int, Floats]] = []
        self._last_raw = np.full(3, np.nan)

    def __len__(self) -> int:
        """Samples held."""
        return self._size

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last stamp, None without samples."""
        if not self._size:
            return None
        return int(self._stamps[0]), int(self._stamps[self._size - 1])

    def push(
        self, stamp_ns: int, gyro_rad_s: Floats, force_m_s2: Floats, world: Floats | None = None
    ) -> bool:
        """Take in a sample, (3,) each in sensor axes; False if it was refused.

        ``world`` (3, 3) is world from sensor as the sensor tells it, None if it does not. A stamp
        that does not ascend is refused; `PATIENCE` of them, or a step back by more than a second,
        start anew.
        """
        self.counts["received"] += 1
        given = (gyro_rad_s, force_m_s2) if world is None else (gyro_rad_s, force_m_s2, world)
        if not all(np.isfinite(part).all() for part in given):
            self.counts["broken"] += 1
            return False
        told = None if world is None else np.asarray(world, np.float64) @ self.axes.T
        raw = self.axes @ np.asarray(gyro_rad_s, np.float64)
        force = self.axes @ np.asarray(force_m_s2, np.float64)
        last_ns = int(self._stamps[self._size - 1]) if self._size else stamp_ns - 1
        if stamp_ns <= last_ns:
            self.counts["late"] += 1
            self._late += 1
            if self._late < PATIENCE and last_ns - stamp_ns < 1_000_000_000:
                return False
            self.reset()
        self._late = 0
        self._watch_stillness(stamp_ns, raw, force)
        self._append(stamp_ns, raw, force, told)
        return True

    def healthy(self, stamp_ns: int) -> bool:
        """Whether the sensor can be believed at that time: alive, in range, without gaps."""
        span = self.span_ns
        if span is None or self._size < 2:
            return False
        late_ns = stamp_ns - span[1]
        known = span[0] <= stamp_ns and late_ns <= self.limits.max_age_s * 1e9
        return known and stamp_ns - self._doubt_ns > self.limits.recovery_s * 1e9

    def turn(self, old_ns: int, new_ns: int) -> Floats | None:
        """Rotation (3, 3) of points in the body's old axes to its new ones.

        None when the samples do not cover the time without a gap or saturation. ``old_ns`` may be
        the later one.
        """
        old, new = self._at(old_ns), self._at(new_ns)
        if old is None or new is None or self._breaks[old[0]] != self._breaks[new[0]]:
            return None
        return np.asarray(self._turn_at(new_ns, new[0]).T @ self._turn_at(old_ns, old[0]))

    def rate(self, stamp_ns: int) -> Floats | None:
        """Angular velocity (3,) in the body's axes, without bias; None when it is not known."""
        found = self._at(stamp_ns)
        if found is None:
            return None
        k, share = found
        if share == 0.0:
            return self._gyro[k].copy()
        return np.asarray((1 - share) * self._gyro[k] + share * self._gyro[k + 1])

    def world(self, stamp_ns: int) -> Floats | None:
        """World from body (3, 3), interpolated; None when unknown or before gravity was felt."""
        found = self._at(stamp_ns)
        if found is None or not self._settled:
            return None
        k = found[0]
        lead_s = (stamp_ns - int(self._stamps[k])) * 1e-9
        return np.asarray(self._world[k] @ exp_so3(self._gyro[k] * lead_s))

    def up(self, stamp_ns: int) -> Floats | None:
        """Unit vector (3,) against gravity in the body's axes; None when unknown."""
        world = self.world(stamp_ns)
        return None if world is None or not self.healthy(stamp_ns) else world[2].copy()

    def gain_m_s(self, old_ns: int, new_ns: int) -> Floats | None:
        """Change (3,) of the sensor's velocity in the world; None across gaps or when unknown."""
        old, new = self._at(old_ns), self._at(new_ns)
        known = old is not None and new is not None and self._settled
        if not known or self._breaks[old[0]] != self._breaks[new[0]]:  # type: ignore[index]
            return None
        ends = []
        for k, share in (new, old):  # type: ignore[misc]
            rest = (1 - share) * self._speed[k]
            ends.append(rest + share * self._speed[k + 1] if share else rest)
        return np.asarray(ends[0] - ends[1])

    def rates(self, old_ns: int, new_ns: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Stamps (N,) and angular velocities (N, 3) of the samples between two times."""
        held = self._stamps[: self._size]
        low, high = np.searchsorted(held, [old_ns, new_ns + 1])
        return held[low:high].copy(), self._gyro[low:high].copy()

    def _at(self, stamp_ns: int) -> tuple[int, float] | None:
        """Sample before a time, and the share of the way to the next (0 after the last)."""
        span = self.span_ns
        if span is None or stamp_ns < span[0]:
            return None
        k = int(np.searchsorted(self._stamps[: self._size], stamp_ns, side="right")) - 1
        if k == self._size - 1:
            held = (stamp_ns - span[1]) <= self.limits.max_age_s * 1e9
            return (k, 0.0) if held else None
        share = (stamp_ns - self._stamps[k]) / (self._stamps[k + 1] - self._stamps[k])
        inside = self._breaks[k] == self._breaks[k + 1] or share == 0.0
        return (k, float(share)) if inside else None

    def _turn_at(self, stamp_ns: int, k: int) -> Floats:
        lead_s = (stamp_ns - int(self._stamps[k])) * 1e-9
        rate = self._gyro[k]
        if k + 1 < self._size:  # the mean over the part of the step
            share = lead_s / ((self._stamps[k + 1] - self._stamps[k]) * 1e-9)
            rate = rate + 0.5 * share * (self._gyro[k + 1] - rate)
        return np.asarray(self._turn[k] @ exp_so3(rate * lead_s))

    def _append(self, stamp_ns: int, raw: Floats, force: Floats, told: Floats | None) -> None:
        gyro = raw - self.bias_rad_s
        bad = self._saturated(stamp_ns, raw, force)
        if self._size == 2 * self._capacity:
            for ring in (self._stamps, self._gyro, self._turn, self._world, self._speed,
                         self._breaks):  # fmt: skip
                ring[: self._capacity] = ring[self._capacity :]
            self._size = self._capacity
        n = self._size
        self._size += 1
        self._stamps[n], self._gyro[n] = stamp_ns, gyro
        if n == 0:
            self._turn[0], self._speed[0], self._breaks[0] = np.eye(3), 0.0, 0
            self._world[0], self._was_bad = np.eye(3), bad
            self._correct(n, stamp_ns, force, told, 1.0)
            return
        dt_s = (stamp_ns - int(self._stamps[n - 1])) * 1e-9
        gap = dt_s > self.limits.max_gap_s
        if gap:
            self.counts["gaps"] += 1
            self._doubt_ns, self._trusted_ns = stamp_ns, None
        self._breaks[n] = self._breaks[n - 1] + int(gap or bad or self._was_bad)
        self._was_bad = bad
        step = exp_so3(0.5 * (gyro + self._gyro[n - 1]) * min(dt_s, self.limits.max_gap_s))
        self._turn[n] = orthonormal(self._turn[n - 1] @ step)
        self._world[n] = orthonormal(self._world[n - 1] @ step)
        self._correct(n, stamp_ns, force, told, min(dt_s / self.limits.pull_s, 1.0))
        felt = self._world[n] @ force - GRAVITY_M_S2 * UP
        self._speed[n] = self._speed[n - 1] + felt * min(dt_s, self.limits.max_gap_s)

    def _saturated(self, stamp_ns: int, raw: Floats, force: Floats) -> bool:
        limits, size = self.limits, np.abs(raw)
        stuck = (raw == self._last_raw) & (size > CLIPPED_RAD_S)
        self._last_raw = raw
        over = size.max() >= limits.gyro_rad_s or np.abs(force).max() >= limits.force_m_s2
        if not (over or stuck.any()):
            return False
        self.counts["saturated"] += 1
        self._doubt_ns, self._trusted_ns = stamp_ns, None
        return True

    def _correct(
        self, n: int, stamp_ns: int, force: Floats, told: Floats | None, share: float
    ) -> None:
        """Pull the orientation of sample ``n`` towards what was told, or towards gravity."""
        world = self._world[n]
        if told is not None:
            error = log_so3(told @ world.T)
            far = not self._settled or float(np.linalg.norm(error)) > 1.0
            self._world[n] = told if far else exp_so3(share * error) @ world
            self._settled = True
            return
        size = float(np.linalg.norm(force))
        if abs(size - GRAVITY_M_S2) >= self.limits.trust_m_s2:
            self._trusted_ns = None
            return
        if self._trusted_ns is None:
            self._trusted_ns = stamp_ns
        if stamp_ns - self._trusted_ns < self.limits.trust_s * 1e9:
            return
        tilt = shortest(world @ force / size, UP)
        self._world[n] = exp_so3((share if self._settled else 1.0) * tilt) @ world
        self._settled = True

    def _watch_stillness(self, stamp_ns: int, raw: Floats, force: Floats) -> None:
        """Learn the bias from half-seconds without motion."""
        limits = self.limits
        off = abs(float(np.linalg.norm(force)) - GRAVITY_M_S2) > limits.trust_m_s2
        if off or (np.abs(raw) > 2 * limits.max_bias_rad_s).any():
            self._still.clear()
            return
        self._still.append((stamp_ns, np.concatenate([raw, force])))
        if stamp_ns - self._still[0][0] < limits.still_s * 1e9 or len(self._still) < 10:
            return
        readings = np.array([reading for _, reading in self._still])
        self._still.clear()
        mean, spread = readings.mean(axis=0), readings.std(axis=0)
        quiet = spread[:3].max() < limits.still_rad_s and spread[3:].max() < limits.trust_m_s2
        if quiet and np.abs(mean[:3]).max() < limits.max_bias_rad_s:
            known = bool(self.bias_rad_s.any())
            self.bias_rad_s = self.bias_rad_s + (0.2 if known else 1.0) * (
                mean[:3] - self.bias_rad_s
            )
