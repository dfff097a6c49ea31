"""Bodies in another frame."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import Body, Poses3D

Array = npt.NDArray[np.float64]


def rotation_of(x: float, y: float, z: float, w: float) -> Array:
    """(3, 3) rotation of a quaternion; it need not be of unit length."""
    q = np.array([x, y, z, w], np.float64)
    x, y, z, w = q / np.linalg.norm(q)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def moved(body: Body, rotation: Array, translation_m: Array) -> Body:
    """``body`` in a frame where a point p of its own frame is ``rotation @ p + translation_m``.

    Velocities are turned only: they stay those relative to the camera's own frame at that instant.
    Angles and lengths do not change.
    """
    return dataclasses.replace(body, poses=moved_poses(body.poses, rotation, translation_m))


def moved_poses(poses: Poses3D, rotation: Array, translation_m: Array) -> Poses3D:
    """As `moved`, of the poses alone."""
    turn = rotation.astype(np.float32)
    return dataclasses.replace(
        poses,
        xyz_m=poses.xyz_m @ turn.T + translation_m.astype(np.float32),
        velocity_m_s=poses.velocity_m_s @ turn.T,
        covariance_m2=(turn @ poses.covariance_m2 @ turn.T).astype(np.float32),
    )
