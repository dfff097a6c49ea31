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
    measured = np.isfinite(rays).all(axis=-1) & (np.asarray(score) > 0.0)
    newest = measured[:, -1]
    torso = newest[:, TORSO]
    usable = (newest.sum(axis=1) >= JOINTS_MIN) & (torso.sum(axis=1) >= TORSO_MIN)
    known = np.where(measured[..., None], rays, 0.0)
    centre = known[:, -1, TORSO].sum(axis=1) / np.maximum(torso.sum(axis=1), 1)[:, None]
    turn = _turns(centre)
    directions = np.concatenate([known, np.ones_like(known[..., :1])], axis=-1)
    seen = np.einsum("pij,ptkj->ptki", turn, directions)
    measured &= seen[..., 2] > 0.1
    flat = seen[..., :2] / np.where(measured, seen[..., 2], 1.0)[..., None]
    flat = np.where(measured[..., None], flat, 0.0)
    count = np.maximum(measured[:, -1].sum(axis=1), 1)
    size = np.sqrt((flat[:, -1] ** 2).sum(axis=(1, 2)) / count).clip(1e-3)
    people, frames = rays.shape[:2]
    shape = (people, frames, -1)
    per_joint = np.concatenate(
        [flat / size[:, None, None, None], np.where(measured, score, 0.0)[..., None]], axis=-1
    )
    person = np.concatenate([centre, np.log(size)[:, None]], axis=1)[:, None].repeat(frames, 1)
    features = np.concatenate(
        [per_joint.reshape(*shape[:2], 3 * rays.shape[2]), offset_s[..., None], person], axis=-1
    )
    newest_rays = np.where(measured[:, -1, :, None], flat[:, -1], np.nan)
    return PersonView(features.astype(np.float32), turn, newest_rays, usable)


def _turns(centre: DoubleArray) -> DoubleArray:
    """Rotations (P, 3, 3) that bring the rays (P, 2) onto z; x stays level in the image."""
    ahead = np.concatenate([centre, np.ones_like(centre[:, :1])], axis=1)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    right = np.stack([ahead[:, 2], np.zeros(len(ahead)), -ahead[:, 0]], axis=1)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    return np.stack([right, np.cross(ahead, right), ahead], axis=1)


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
    weight = known / np.maximum(np.where(known, body_std, 1.0), 1e-6) ** 2
    placeable = known.sum(axis=1) >= 2
    translation, covariance = _solve(uv, wanted, weight, placeable)
    for _ in range(PLACE_ROUNDS - 1):
        depth = np.maximum(body[..., 2] + translation[:, None, 2], 1e-3)
        variance = np.where(known, body_std**2 + (ray_std * depth) ** 2, 1.0)
        gap = translation[:, None, :2] - uv * translation[:, None, 2:] - wanted
        sigmas = np.linalg.norm(gap, axis=-1) / np.sqrt(variance)
        weight = known / variance / (1.0 + (sigmas / CAUCHY) ** 2)
        translation, covariance = _solve(uv, wanted, weight, placeable)
    translation[~placeable] = np.nan
    covariance[~placeable] = np.nan
    return Placement(translation, covariance)


def _solve(
    uv: DoubleArray,
    wanted: DoubleArray,
    weight: npt.NDArray[Any],
    placeable: npt.NDArray[np.bool_],
) -> tuple[DoubleArray, DoubleArray]:
    """Weighted least squares of ``t_xy - uv t_z = wanted``: t (P, 3) and inverse (P, 3, 3)."""
    normal = np.zeros((len(uv), 3, 3))
    right = np.zeros((len(uv), 3))
    normal[:, 0, 0] = normal[:, 1, 1] = weight.sum(axis=1)
    normal[:, :2, 2] = normal[:, 2, :2] = -(weight[..., None] * uv).sum(axis=1)
    normal[:, 2, 2] = (weight[..., None] * uv**2).sum(axis=(1, 2))
    right[:, :2] = (weight[..., None] * wanted).sum(axis=1)
    right[:, 2] = -(weight[..., None] * uv * wanted).sum(axis=(1, 2))
    normal[~placeable] = np.eye(3)
    normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    inverse: DoubleArray = np.linalg.inv(normal).astype(np.float64)
    solution: DoubleArray = (inverse @ right[..., None])[..., 0]
    return solution, inverse
