"""Two common filters for joints, to compare the refiner with. Neither knows of bodies.

Letters: T frames, K joints, d axes. Both work frame by frame on one person, and answer a missing
joint (NaN) with what they expect: the last value (One-Euro) or the prediction (Kalman).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class OneEuro:
    """A low-pass filter whose cut-off rises with speed.

    Source: Casiez, Roussel, Vogel, "1 Euro filter", CHI 2012. The defaults are the best of a grid
    (cut-offs 0.5 to 4 and 1 or 3 Hz, beta 0 to 16) for walking people with 2 cm noise.
    """

    def __init__(
        self, min_cutoff_hz: float = 4.0, beta: float = 8.0, speed_cutoff_hz: float = 3.0
    ) -> None:
        """Start without a value."""
        self._constants = min_cutoff_hz, beta, speed_cutoff_hz
        self._value: Array | None = None
        self._speed: Array | None = None

    def update(self, dt_s: float, points: Array) -> Array:
        """Filtered points (K, d), NaN for joints never seen."""
        if self._value is None or self._speed is None:
            self._value, self._speed = points.astype(np.float64), np.zeros(points.shape)
            return self._value
        cutoff_hz, beta, speed_cutoff_hz = self._constants
        old = np.where(np.isfinite(self._value), self._value, points)
        seen = np.isfinite(points)
        speed = np.where(seen, (points - old) / dt_s, self._speed)
        self._speed = self._speed + _share(speed_cutoff_hz, dt_s) * (speed - self._speed)
        fast = np.linalg.norm(self._speed, axis=-1, keepdims=True)
        share = _share(cutoff_hz + beta * fast, dt_s)
        self._value = np.where(seen, old + share * (points - old), old)
        return self._value


class ConstantVelocity:
    """A Kalman filter per joint and axis: position and velocity, white-noise acceleration.

    Source: Bar-Shalom et al., Estimation with Applications to Tracking and Navigation, 2001,
    section 6.2.2. ``density`` is that of the acceleration, (m/s^2)^2 s; the default is the best of
    a grid (0.5 to 30) for walking people with 2 cm noise.
    """

    def __init__(
        self, noise: float = 0.02, density: float = 1.5, first_speed: float = 1.0
    ) -> None:
        """Start without a value."""
        self._noise, self._density, self._first_speed = noise, density, first_speed
        self._state: Array | None = None
        self._cov = np.zeros(0)

    def update(self, dt_s: float, points: Array) -> Array:
        """Filtered points (K, d), NaN for joints never seen."""
        if self._state is None:
            self._state = np.stack([points.astype(np.float64), np.zeros(points.shape)])
            start = np.diag([self._noise**2, self._first_speed**2])
            self._cov = np.broadcast_to(start, (*points.shape, 2, 2)).copy()
            return self._state[0]
        move = np.array([[1.0, dt_s], [0.0, 1.0]])
        blur = np.array([[dt_s**3 / 3, dt_s**2 / 2], [dt_s**2 / 2, dt_s]])
        cov = move @ self._cov @ move.T + self._density * blur
        place, velocity = self._state[0] + dt_s * self._state[1], self._state[1]
        seen, new = np.isfinite(points), np.isnan(place)
        off = np.where(seen & ~new, points - place, 0.0)
        gain = cov[..., 0] / (cov[..., 0, 0] + self._noise**2)[..., None]
        gain = gain * seen[..., None]
        place = np.where(new, points, place + gain[..., 0] * off)
        self._state = np.stack([place, velocity + gain[..., 1] * off])
        self._cov = cov - gain[..., :, None] * cov[..., 0, None, :]
        return place


def run(step: Callable[[float, Array], Array], stamps_s: Array, points: Array) -> Array:
    """Every frame of (T, K, d) through a filter's ``update``."""
    steps = np.diff(stamps_s, prepend=2 * stamps_s[0] - stamps_s[1])
    return np.stack([step(float(dt), frame) for dt, frame in zip(steps, points, strict=True)])


def hold(points: Array) -> Array:
    """No filter: points (T, K, d) with the last value in place of a missing one."""
    seen = np.isfinite(points).all(axis=-1)
    at = np.where(seen, np.arange(len(points))[:, None], 0)
    last = np.maximum.accumulate(at, axis=0)
    return points[last, np.arange(points.shape[1])]


def _share(cutoff_hz: Any, dt_s: float) -> Any:
    rate = 2 * math.pi * cutoff_hz * dt_s
    return rate / (rate + 1.0)
