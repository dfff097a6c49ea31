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


@dataclass
class Place:
    """Where a sensor sits, as far as it is known."""

    strap: Strap
    imu: Imu
    bone: int | None = None
    axis: Floats | None = None
    yaw: tuple[float, float] | None = None  # sums of sine and cosine
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
