"""Procedural people in 3-D, built with scipy and independent of the package's kinematics."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import KeypointStatus, Poses3D, ScaleSource

#: Camera optical axes (x right, y down, z forward) of somebody who faces the camera upright.
FACING_CAMERA = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
#: Nose, left eye, right eye, left ear, right ear in the head's axes, from between the ears.
FACE = np.array(
    [(0.115, 0, -0.025), (0.09, 0.03, 0.02), (0.09, -0.03, 0.02), (0, 0.07, 0), (0, -0.07, 0)]
)
UNTURNED = Rotation.identity()


@dataclass
class Posture:
    """Directions of one body in its own axes: x forward, y left, z up; lengths in metres."""

    hips_yaw: float = 0.0
    shoulders: Rotation = UNTURNED
    trunk: tuple[float, float, float] = (0, 0, 0.5)
    head: Rotation = UNTURNED
    arms: tuple[tuple[tuple, tuple], tuple[tuple, tuple]] = (((0, 0, -1),) * 2,) * 2
    legs: tuple[tuple[tuple, tuple], tuple[tuple, tuple]] = (((0, 0, -1),) * 2,) * 2

    def joints(self) -> np.ndarray:
        """(17, 3) COCO joints, mid-hips at the origin."""
        at = dict.fromkeys(COCO17.joints, np.zeros(3))
        neck = np.array(self.trunk, float)
        hip = Rotation.from_euler("z", self.hips_yaw).apply([0, 0.1, 0])
        for s, side in ((1, "left"), (-1, "right")):
            row = 0 if s == 1 else 1
            at[f"{side}_shoulder"] = neck + self.shoulders.apply([0, 0.18 * s, 0])
            at[f"{side}_hip"] = s * hip
            for chain, lengths, joints in (
                (self.arms[row], (0.3, 0.26), ("shoulder", "elbow", "wrist")),
                (self.legs[row], (0.42, 0.41), ("hip", "knee", "ankle")),
            ):
                for direction, length, a, b in zip(
                    chain, lengths, joints[:-1], joints[1:], strict=True
                ):
                    step = np.array(direction, float)
                    at[f"{side}_{b}"] = at[f"{side}_{a}"] + length * step / np.linalg.norm(step)
        xyz = np.array([at[name] for name in COCO17.joints])
        xyz[:5] = neck + np.array([0, 0, 0.2]) + self.head.apply(FACE)
        return xyz


def random_people(people: int, seed: int = 0, bent: float = 0.15) -> np.ndarray:
    """(P, 17, 3) bodies anywhere in front of a camera; elbows and knees bent by at least ``bent``.

    Limbs point anywhere within 100 degrees of hanging, heads within 60 degrees of the trunk, and
    trunks bend, lean and twist.
    """
    rng = np.random.default_rng(seed)
    bodies = []
    for _ in range(people):
        limbs = [_limb(rng, bent, forward) for forward in (1, 1, -1, -1)]
        tilt = Rotation.from_euler("YXZ", rng.uniform(-0.35, 0.35, 3))
        body = Posture(
            hips_yaw=rng.uniform(-0.3, 0.3),
            shoulders=tilt * Rotation.from_euler("xz", rng.uniform(-0.15, 0.15, 2)),
            trunk=tuple(tilt.apply([0, 0, 0.5])),
            head=tilt * Rotation.from_euler("XZY", rng.uniform(-0.6, 0.6, 3)),
            arms=(limbs[0], limbs[1]),
            legs=(limbs[2], limbs[3]),
        ).joints() * rng.uniform(0.7, 1.2)  # fmt: skip
        turn = Rotation.random(random_state=rng.integers(1 << 30))
        bodies.append(turn.apply(body) + rng.normal((0, 0, 4), 1.0))
    return np.array(bodies).reshape(people, 17, 3)


def _limb(rng: np.random.Generator, bent: float, forward: int) -> tuple:
    near = Rotation.from_euler(
        "YXZ", [rng.uniform(-1.7, 1.7), rng.uniform(-1.0, 1.0), rng.uniform(-1.2, 1.2)]
    )
    bend = rng.uniform(bent, 2.2)
    far = near * Rotation.from_euler("y", -forward * bend)
    return tuple(near.apply([0, 0, -1])), tuple(far.apply([0, 0, -1]))


def poses_of(
    xyz_m: np.ndarray, std_m: float = np.nan, velocity_m_s: np.ndarray | None = None
) -> Poses3D:
    """Measured people at (P, 17, 3); NaN joints are missing. Ids count from 1."""
    people, joints = xyz_m.shape[:2]
    gone = np.isnan(xyz_m).any(axis=-1)
    covariance = np.broadcast_to(np.eye(3) * std_m**2, (people, joints, 3, 3)).copy()
    covariance[gone] = np.nan
    velocity = np.full(xyz_m.shape, np.nan) if velocity_m_s is None else velocity_m_s.copy()
    velocity[gone] = np.nan
    return Poses3D(
        ids=np.arange(1, people + 1),
        xyz_m=xyz_m.astype(np.float32),
        covariance_m2=covariance.astype(np.float32),
        velocity_m_s=velocity.astype(np.float32),
        speed_std_m_s=np.full((people, joints), np.nan, np.float32),
        status=np.where(gone, KeypointStatus.MISSING, KeypointStatus.MEASURED).astype(np.int8),
        score=np.where(gone, 0, 1).astype(np.float32),
        scale=np.full(people, ScaleSource.DEPTH, np.int8),
    )
