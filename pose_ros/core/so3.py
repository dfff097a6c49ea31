"""Rotations in space: their exponential and logarithm, and the shortest way between directions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def exp_so3(rotvec: Floats) -> Floats:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3)."""
    v = np.asarray(rotvec, np.float64)
    if v.shape == (3,):
        return _exp_one(*v.tolist())
    angle2 = (v * v).sum(axis=-1)[..., None, None]
    angle = np.sqrt(angle2)
    small = angle2 < 1e-8
    safe = np.where(small, 1.0, angle)
    a = np.where(small, 1.0 - angle2 / 6.0, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle2 / 24.0, (1.0 - np.cos(safe)) / np.where(small, 1.0, angle2))
    cross = np.zeros((*v.shape[:-1], 3, 3))
    cross[..., 0, 1], cross[..., 0, 2], cross[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    cross[..., 1, 0], cross[..., 2, 0], cross[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return np.asarray(np.eye(3) + a * cross + b * (cross @ cross))


def _exp_one(x: float, y: float, z: float) -> Floats:
    """Rotation of one vector: several times for every sample of every sensor."""
    angle2 = x * x + y * y + z * z
    if angle2 < 1e-8:
        a, b = 1.0 - angle2 / 6.0, 0.5 - angle2 / 24.0
    else:
        angle = math.sqrt(angle2)
        a, b = math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle2
    xy, xz, yz = b * x * y, b * x * z, b * y * z
    return np.array([
        [1.0 - b * (y * y + z * z), xy - a * z, xz + a * y],
        [xy + a * z, 1.0 - b * (x * x + z * z), yz - a * x],
        [xz - a * y, yz + a * x, 1.0 - b * (x * x + y * y)],
    ])  # fmt: skip


def log_so3(rotation: Floats) -> Floats:
    """Rotation vector (3,) of a rotation matrix (3, 3), its angle in [0, pi]."""
    r = np.asarray(rotation, np.float64)
    w = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    sine, cosine = 0.5 * float(np.linalg.norm(w)), 0.5 * (float(np.trace(r)) - 1.0)
    angle = float(np.arctan2(sine, cosine))
    if sine > 1e-6:
        return np.asarray(w * (angle / (2.0 * sine)))
    if cosine > 0:
        return np.asarray(0.5 * w)
    axis = np.sqrt(np.maximum((np.diag(r) + 1.0) / 2.0, 0.0))  # half a turn
    k = int(axis.argmax())
    signs = np.where((r[k] + r[:, k]) < 0, -1.0, 1.0)
    signs[k] = 1.0
    return np.asarray(np.pi * axis * signs)


def shortest(a: Floats, b: Floats) -> Floats:
    """Smallest rotation vector (3,) that turns the unit vector ``a`` into ``b``."""
    axis, cosine = np.cross(a, b), float(a @ b)
    sine = float(np.linalg.norm(axis))
    if sine < 1e-9:
        return np.zeros(3) if cosine > 0 else np.pi * aside(a)
    return np.asarray(axis / sine * np.arctan2(sine, cosine))


def aside(a: Floats) -> Floats:
    """Return a unit vector (3,) across ``a``."""
    out = np.cross(a, np.eye(3)[np.abs(a).argmin()])
    return np.asarray(out / np.linalg.norm(out))


def orthonormal(r: Floats) -> Floats:
    """One Newton step back to a rotation: keeps products of thousands of steps exact."""
    return np.asarray(1.5 * r - 0.5 * r @ (r.T @ r))
