"""Geometry of one-camera lifting: what a network sees of a person, and where a body stands.

Letters: P people, T frames, J = 17 joints (COCO17). *Rays* are undistorted (x / z, y / z). The
*view* of a person is the camera turned about its centre until it looks at the person's trunk,
without roll: the same body at the same distance then looks the same anywhere in the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import COCO17

DoubleArray = npt.NDArray[np.float64]

FRAMES = 9  # T, of a window
FEATURES = 3 * len(COCO17) + 4  # per frame, see `look_at_people`
JOINTS_MIN = 6  # fewer measured joints are no body
TORSO_MIN = 2  # of shoulders and hips
CAUCHY = 2.0  # standard deviations at which a joint has lost half of its say in the place
PLACE_ROUNDS = 6  # of reweighting
TORSO = np.array(
    [COCO17.index(f"{side}_{part}") for part in ("shoulder", "hip") for side in ("left", "right")]
)
HIPS = TORSO[2:]


@dataclass(frozen=True)
class PersonView:
    """What the lifting network is told, and how to come back."""

    features: npt.NDArray[np.float32]  # (P, T, FEATURES) the network's input
    view_from_camera: DoubleArray  # (P, 3, 3) rotation
    rays: DoubleArray  # (P, J, 2) of the newest frame, in the view; NaN where not measured
    usable: npt.NDArray[np.bool_]  # (P,) enough of the body is measured in the newest frame


def look_at_people(
    rays: npt.NDArray[Any], score: npt.NDArray[Any], offset_s: npt.NDArray[Any]
) -> PersonView:
    """Turn windows of rays into the network's input.

    ``rays`` (P, T, J, 2), oldest first, NaN unknown; ``score`` (P, T, J); ``offset_s`` (P, T) time
    relative to the newest frame, <= 0. Features of a frame: per joint x, y in the view, divided by
    the root mean square distance of the newest frame's joints from the trunk, and the score, all 0
    where nothing is measured; then the time, the trunk's ray in the camera, and the logarithm of
    the divisor.
    """
    rays = np.asarray(rays, np.float64)
    people, frames, joints = rays.shape[:3]
    measured = np.isfinite(rays).all(axis=-1) & (np.asarray(score) > 0.0)
    newest = measured[:, -1]
    torso = newest[:, TORSO].sum(axis=1)
    usable = (newest.sum(axis=1) >= JOINTS_MIN) & (torso >= TORSO_MIN)
    known = np.where(measured[..., None], rays, 0.0)
    centre = known[:, -1, TORSO].sum(axis=1) / np.maximum(torso, 1)[:, None]
    turn = _turns(centre)
    # The rays' third coordinate is 1, so that the last column of the rotation is added as it is.
    seen = known @ turn[:, None, :, :2].swapaxes(-1, -2) + turn[:, None, None, :, 2]
    ahead = seen[..., 2]
    measured &= ahead > 0.1
    flat = seen[..., :2] / np.where(measured, ahead, 1.0)[..., None]
    flat *= measured[..., None]
    count = np.maximum(measured[:, -1].sum(axis=1), 1)
    size = np.sqrt((flat[:, -1] ** 2).sum(axis=(1, 2)) / count).clip(1e-3)
    features = np.empty((people, frames, 3 * joints + 4), np.float32)
    per_joint = np.empty((people, frames, joints, 3), np.float32)
    per_joint[..., :2] = flat / size[:, None, None, None]
    per_joint[..., 2] = np.where(measured, score, 0.0)
    features[..., : 3 * joints] = per_joint.reshape(people, frames, 3 * joints)
    features[..., -4], features[..., -3:-1] = offset_s, centre[:, None]
    features[..., -1] = np.log(size)[:, None]
    newest_rays = np.where(measured[:, -1, :, None], flat[:, -1], np.nan)
    return PersonView(features, turn, newest_rays, usable)


def _turns(centre: DoubleArray) -> DoubleArray:
    """Rotations (P, 3, 3) that bring the rays (P, 2) onto z; x stays level in the image."""
    x, y = centre[:, 0], centre[:, 1]
    level = 1.0 / np.sqrt(1.0 + x * x)  # of the ray in the horizontal plane
    ahead = 1.0 / np.sqrt(1.0 + x * x + y * y)
    turn = np.zeros((len(centre), 3, 3))
    turn[:, 0, 0], turn[:, 0, 2] = level, -x * level  # right
    turn[:, 2, 0], turn[:, 2, 1], turn[:, 2, 2] = x * ahead, y * ahead, ahead
    # ahead x right
    turn[:, 1, 0] = -x * y * level * ahead
    turn[:, 1, 1] = ahead / level
    turn[:, 1, 2] = -y * level * ahead
    return turn


@dataclass(frozen=True)
class Placement:
    """Where bodies stand."""

    translation: DoubleArray  # (P, 3) of the body's origin, in the body's unit
    covariance: DoubleArray  # (P, 3, 3) of it, as if the joints' errors were independent


def place_bodies(
    body: npt.NDArray[Any], rays: npt.NDArray[Any], body_std: npt.NDArray[Any],
    ray_std: npt.NDArray[Any],
) -> Placement:  # fmt: skip
    """Translations that bring bodies onto their rays, by robust linear least squares.

    ``body`` (P, J, 3) positions about an origin, in any unit; ``rays`` (P, J, 2), NaN where
    nothing is measured; ``body_std`` (P, J) standard deviation across the ray in the body's unit,
    ``ray_std`` (P, J) that of the rays. Each measured joint says twice that
    ``x + t_x = u (z + t_z)``; Cauchy's weights make wild ones silent.
    Fewer than two measured joints give NaN.
    """
    body, known = np.asarray(body, np.float64), np.isfinite(rays).all(axis=-1)
    uv = np.where(known[..., None], rays, 0.0)
    wanted = uv * body[..., 2:] - body[..., :2]  # t_x - u t_z
    u, v, x, y = uv[..., 0], uv[..., 1], wanted[..., 0], wanted[..., 1]
    said = np.stack([np.ones_like(u), u, v, u * u + v * v, x, y, u * x + v * y], axis=-1)
    body_var = np.where(known, np.maximum(body_std, 1e-6), 1.0) ** 2
    least_var = np.where(known, body_std, 1.0) ** 2
    ray_var = np.where(known, ray_std, 0.0) ** 2
    placeable = known.sum(axis=1) >= 2
    sums = _sums(known / body_var, said, placeable)
    for _ in range(PLACE_ROUNDS - 1):
        tx, ty, tz = _solved(sums)
        depth = np.maximum(body[..., 2] + tz, 1e-3)
        off_x, off_y = tx - u * tz - x, ty - v * tz - y
        # 1 / variance / (1 + (gap / CAUCHY)^2 / variance), Cauchy's weight of a gap
        variance = least_var + ray_var * depth * depth
        weight = known / (variance + (off_x * off_x + off_y * off_y) / CAUCHY**2)
        sums = _sums(weight, said, placeable)
    translation = np.concatenate(_solved(sums), axis=1)
    covariance = _covariance(sums)
    if not placeable.all():
        translation[~placeable] = np.nan
        covariance[~placeable] = np.nan
    return Placement(translation, covariance)


def _sums(
    weight: npt.NDArray[Any], said: DoubleArray, placeable: npt.NDArray[np.bool_]
) -> DoubleArray:
    """(P, 7) what the joints say of ``t_xy - uv t_z = wanted``, weighted with (P, J) and summed.

    ``said`` (P, J, 7) holds 1, u, v, u^2 + v^2, then wanted x, y and their product with u and v.
    A little is added to the diagonal of the equations, which makes them solvable.
    """
    sums = (weight[:, None] @ said)[:, 0]
    if not placeable.all():
        sums[~placeable] = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    sums[:, [0, 3]] += 1e-9 * (2.0 * sums[:, :1] + sums[:, 3:4])
    return np.asarray(sums)


def _solved(sums: DoubleArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Translation along x, y, z, (P, 1) each: x and y eliminated, which one weight sum divides."""
    total, u, v, square, x, y, along = (sums[:, i : i + 1] for i in range(7))
    tz = ((u * x + v * y) / total - along) / (square - (u * u + v * v) / total)
    return (x + u * tz) / total, (y + v * tz) / total, tz


def _covariance(sums: DoubleArray) -> DoubleArray:
    """Inverse (P, 3, 3) of the equations that `_solved` solves."""
    normal = np.zeros((len(sums), 3, 3))
    normal[:, 0, 0] = normal[:, 1, 1] = sums[:, 0]
    normal[:, :2, 2] = normal[:, 2, :2] = -sums[:, 1:3]
    normal[:, 2, 2] = sums[:, 3]
    return np.asarray(np.linalg.inv(normal))
