"""One sensor on one bone: what is known of its place beforehand, and what was learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.body_imu_fit import turn_about_up
from pose_ros.core.imu import Imu

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Strap:
    """What is known of a sensor beforehand; the rest is learned.

    ``bone`` is a name of `worn_bones` ("left_forearm"), "" if unknown. ``axis`` is the bone's
    direction, inner to outer joint, in sensor axes. ``rho`` is where along the bone it sits.
    ``topic`` is where its samples are published.
    """

    sensor: str
    bone: str = ""
    axis: tuple[float, float, float] | None = None
    rho: float = 0.5
    topic: str = ""


@dataclass(frozen=True)
class Found:
    """Where a sensor seems to sit."""

    bone: int
    axis: Floats  # (3,) the bone's direction in the sensor's axes
    lever_m: Floats | None  # (3,) from the sensor to the bone's outer joint, in its axes
    yaw_rad: float
    residual_rad: float
    std_rad: float  # of axis and yaw; 0: the place was known and still fits


@dataclass
class Place:
    """Where a sensor sits, as far as it is known."""

    strap: Strap
    imu: Imu
    bone: int | None = None
    axis: Floats | None = None
    lever_m: Floats | None = None
    yaw: tuple[float, float] | None = None  # sums of sine and cosine
    std_rad: float = 0.0  # of axis and yaw; 0: given, so never learned anew
    residual_rad: float = 0.0
    slipping_s: float = 0.0

    @property
    def worn(self) -> bool:
        """Bone, axis and yaw are known."""
        return self.bone is not None and self.axis is not None and self.yaw is not None

    @property
    def yaw_rad(self) -> float:
        """The sensor's world must be turned by this to be the camera's."""
        return 0.0 if self.yaw is None else math.atan2(*self.yaw)

    def take(self, found: Found, certainty_s: float) -> None:
        """Sit there from now on; the yaw counts as followed for ``certainty_s``."""
        self.bone, self.axis, self.lever_m = found.bone, found.axis, found.lever_m
        if found.std_rad > 0:
            self.std_rad = found.std_rad
        sine, cosine = math.sin(found.yaw_rad), math.cos(found.yaw_rad)
        self.yaw = (certainty_s * sine, certainty_s * cosine)
        self.residual_rad = self.slipping_s = 0.0

    def direction(self, stamp_ns: int) -> Floats | None:
        """Bone's direction (3,) in the camera's world; None when the sensor cannot tell."""
        if self.axis is None or not self.worn or not self.imu.healthy(stamp_ns):
            return None
        world = self.imu.world(stamp_ns)
        return None if world is None else turn_about_up(world @ self.axis, self.yaw_rad)

    def spin(self, stamp_ns: int) -> Floats | None:
        """Angular velocity (3,) in the camera's world."""
        world, rate = self.imu.world(stamp_ns), self.imu.rate(stamp_ns)
        if world is None or rate is None:
            return None
        return turn_about_up(world @ rate, self.yaw_rad)

    def swing(self, stamp_ns: int, length_m: float) -> Floats | None:
        """Velocities (2, 3) of inner and outer joint relative to the sensor, camera's world."""
        world, rate = self.imu.world(stamp_ns), self.imu.rate(stamp_ns)
        if world is None or rate is None or self.axis is None:
            return None
        bone = length_m * self.axis
        outer = (1.0 - self.strap.rho) * bone if self.lever_m is None else self.lever_m
        around = np.cross(rate, np.stack([outer - bone, outer]))
        return turn_about_up(around @ world.T, self.yaw_rad)
