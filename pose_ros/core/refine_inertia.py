"""What worn sensors tell the refiner: accelerations of joints, and where bones point.

Letters: P people, K joints, B bones of `worn_bones`, m frames, 3 axes of the camera.

A measured acceleration takes the place of the temporal energy's zero (equation 27): it moves the
constant-velocity prediction. A measured direction hangs an unseen joint on its neighbour nearer
to the trunk, and pulls seen ones softly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.penalties import Context
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import IntArray

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Limb bones by name, from the trunk outwards, so that parents come before their children.
_LIMBS = (
    ("upper_arm", "shoulder", "elbow"), ("thigh", "hip", "knee"),
    ("forearm", "elbow", "wrist"), ("shank", "knee", "ankle"),
)  # fmt: skip
#: Share of the process density that a joint with a measured acceleration keeps.
MEASURED_PROCESS = 0.01
#: A joint that sensors carry ages at this share of time.
AGEING = 0.2
#: Time that a joint hung on a seen one counts as unseen.
HUNG_AGE_S = 1e-3
#: Spread of a sensor's rate about a bone's real one, rad/s.
SPIN_STD_RAD_S = 0.3


@cache
def worn_bones(skeleton: Skeleton) -> tuple[tuple[str, ...], IntArray]:
    """Names (B) of the limb bones that a joint set has, and their joints (B, 2), inner first."""
    names, joints = [], []
    for name, a, b in _LIMBS:
        for side in ("left_", "right_"):
            if side + a in skeleton.joints and side + b in skeleton.joints:
                names.append(side + name)
                joints.append((skeleton.index(side + a), skeleton.index(side + b)))
    return tuple(names), np.array(joints, np.int64).reshape(-1, 2)


@dataclass(frozen=True)
class Inertia:
    """What sensors say of the people of one frame, in the camera's axes; NaN where nothing."""

    gain_m_s: Floats  # (P, K, 3) change of each joint's velocity since the frame before
    bone_m: Floats  # (P, B, 3) from the inner to the outer joint of a bone
    spin_m_s: Floats  # (P, B, 3) velocity of the outer joint relative to the inner
    spread_rad: Floats  # (P, B) of the direction


class InertiaMemory:
    """The last frames' `Inertia` for every row of a refiner."""

    def __init__(self, skeleton: Skeleton, frames: int, capacity: int) -> None:
        """Know nothing."""
        self.bones = worn_bones(skeleton)[1]
        joints, bones = len(skeleton), len(self.bones)
        self.gain = np.full((capacity, frames, joints, 3), np.nan)
        self.bone = np.full((capacity, frames, bones, 3), np.nan)
        self.spin = np.full((capacity, frames, bones, 3), np.nan)
        self.spread = np.full((capacity, frames, bones), np.nan)

    def _rings(self) -> tuple[Floats, ...]:
        return self.gain, self.bone, self.spin, self.spread

    def push(self, rows: IntArray, told: Inertia | None) -> None:
        """Append a frame to the histories of ``rows``; None: nothing was told."""
        parts = (None,) * 4
        if told is not None:
            parts = (told.gain_m_s, told.bone_m, told.spin_m_s, told.spread_rad)  # type: ignore[assignment]
        for ring, part in zip(self._rings(), parts, strict=True):
            ring[rows, :-1] = ring[rows, 1:]
            ring[rows, -1] = np.nan if part is None else part

    def clear(self, rows: IntArray) -> None:
        """Forget the histories of ``rows``."""
        for ring in self._rings():
            ring[rows] = np.nan

    def turn(self, rotation: Floats) -> None:
        """Rotate everything into new axes."""
        for ring in (self.gain, self.bone, self.spin):
            ring[...] = ring @ np.asarray(rotation, np.float64).T

    def at(self, rows: IntArray, frame: int) -> Inertia:
        """What was told of one of the frames."""
        return Inertia(*(ring[rows, frame] for ring in self._rings()))


def carried(told: Inertia, bones: IntArray) -> Mask:
    """Joints (P, K) that a sensor says something of."""
    joints = np.isfinite(told.gain_m_s[..., 0])
    known = np.isfinite(told.bone_m[..., 0])
    for bone, (_, outer) in enumerate(bones.tolist()):
        joints[:, outer] |= known[:, bone]
    return joints


def hang(
    state: Floats, cov: Floats, age_s: Floats, told: Inertia, rest: tuple[IntArray, float]
) -> None:
    """Place unseen joints at their bones' ends, in place.

    ``state`` (P, K, 6), ``cov`` (P, K, 6, 6) and ``age_s`` (P, K) are those of a `Belief`.
    ``rest`` holds the bones (B, 2) and the age beyond which a neighbour carries nobody. The outer
    joint takes in the inner one's position and velocity plus the bone's, with both spreads.
    """
    bones, longest_s = rest
    for bone, (inner, outer) in enumerate(bones.tolist()):
        known = np.isfinite(told.bone_m[:, bone, 0]) & np.isfinite(told.spin_m_s[:, bone, 0])
        who = known & (age_s[:, outer] > 0) & (age_s[:, inner] <= longest_s)
        if not who.any():
            continue
        offset = np.concatenate([told.bone_m[who, bone], told.spin_m_s[who, bone]], axis=-1)
        length = np.linalg.norm(told.bone_m[who, bone], axis=-1)
        noise = cov[who, inner].copy()
        axes = np.arange(3)
        noise[:, axes, axes] += (told.spread_rad[who, bone] * length)[:, None] ** 2
        noise[:, axes + 3, axes + 3] += (SPIN_STD_RAD_S * length)[:, None] ** 2
        state[who, outer], cov[who, outer] = _blend(
            (state[who, outer], cov[who, outer]), (state[who, inner] + offset, noise)
        )
        age_s[who, outer] = np.minimum(age_s[who, outer], age_s[who, inner] + HUNG_AGE_S)


def _blend(own: tuple[Floats, Floats], told: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """One of two states (N, 6) with covariances (N, 6, 6) whose errors may be the same.

    Source: covariance intersection (Julier and Uhlmann, 1997), weighted by the positions' traces
    (Niehsen, 2002). Of a limb that is hidden as a whole every joint has the trunk's error, in
    every frame: taken as independent it would seem to average out.
    """
    size = [np.trace(c[:, :3, :3], axis1=-2, axis2=-1)[:, None, None] for _, c in (own, told)]
    share = size[1] / (size[0] + size[1])
    one, other = share * np.linalg.inv(own[1]), (1.0 - share) * np.linalg.inv(told[1])
    cov = np.linalg.inv(one + other)
    mean = cov @ (one @ own[0][..., None] + other @ told[0][..., None])
    return mean[..., 0], cov


class DirectionPrior:
    """Penalty 1/2 w |(p_outer - p_inner) - bone|^2 of the newest frame's bones.

    Set ``told`` before every frame, rows as in the refiner's next call. The weight is that of the
    direction's spread against a joint's of ``joint_std_m``, at most ``strength``.
    """

    def __init__(
        self, skeleton: Skeleton, strength: float = 1.0, joint_std_m: float = 0.03
    ) -> None:
        """Know nothing yet."""
        self.bones = worn_bones(skeleton)[1]
        self.strength, self.joint_std_m = strength, joint_std_m
        self.told = None

    @property
    def told(self) -> Inertia | None:
        """What pulls; None: nothing, and the refiner steps as without this penalty."""
        return self._told

    @told.setter
    def told(self, told: Inertia | None) -> None:
        """Set it, and with it the bound of the curvature."""
        # A chain of two bones: the largest eigenvalue of its graph is 3.
        self._told, self.curvature = told, 0.0 if told is None else 3.0 * self.strength

    def __call__(self, points: Floats, context: Context) -> tuple[Floats, Floats]:
        """Value (P,) and gradient (P, m, K, 3) at ``points`` (P, m, K, 3)."""
        gradient = np.zeros_like(points)
        told = self.told
        if told is None or len(told.bone_m) != len(points):
            return np.zeros(len(points)), gradient
        now = points[:, -1]
        off = now[:, self.bones[:, 1]] - now[:, self.bones[:, 0]] - told.bone_m
        size = told.spread_rad * np.linalg.norm(told.bone_m, axis=-1)
        weight = self.strength * np.minimum((self.joint_std_m / size) ** 2, 1.0)
        known = np.asarray(np.isfinite(off).all(axis=-1))
        weight, off = np.where(known, weight, 0.0), np.where(known[..., None], off, 0.0)
        pull = weight[..., None] * off
        for bone, (inner, outer) in enumerate(self.bones.tolist()):
            gradient[:, -1, outer] += pull[:, bone]
            gradient[:, -1, inner] -= pull[:, bone]
        return 0.5 * (pull * off).sum(axis=(1, 2)), gradient
