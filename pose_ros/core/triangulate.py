"""Points in the world from their pixels in several calibrated cameras."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError, ShapeError

Array = npt.NDArray[np.float64]

#: Squared residual over variance beyond which a view does not show the point: 99.9 % of a
#: chi-square with 2 degrees of freedom.
OUTLIER = 13.8
#: Steps of Gauss-Newton; the linear start is within its reach, three leave nothing to gain.
STEPS = 3
#: A point whose worst standard deviation is more was seen along one line only.
MAX_STD_M = 0.5


@dataclass(frozen=True)
class Points3D:
    """Triangulated points of P people and J joints in the world frame; NaN where unknown."""

    xyz_m: Array  # (P, J, 3)
    covariance_m2: Array  # (P, J, 3, 3)
    used: npt.NDArray[np.bool_]  # (V, P, J) the views that agree; all False where NaN
    residual_px: Array  # (V, P, J) distance of pixel and reprojection, of every view that has both

    @property
    def views_used(self) -> npt.NDArray[np.int64]:
        """(P, J) how many views agree; 0 where the point is unknown."""
        count: npt.NDArray[np.int64] = self.used.sum(axis=0)
        return count


def triangulate(
    cameras: Sequence[PinholeCamera],
    cam_from_world: Sequence[npt.NDArray[Any]] | npt.NDArray[Any],
    xy_px: npt.NDArray[Any],
    weights: npt.NDArray[Any],
) -> Points3D:
    """Points seen by V calibrated cameras, robust against wrong views.

    Every pair of views proposes a point; the proposal that most views can live with (truncated
    squared residuals) chooses the views, and Gauss-Newton on their reprojection errors the point.
    Two views that contradict each other, a point behind a camera and a point seen along nearly
    parallel rays stay unknown.

    Args:
        cameras: V cameras.
        cam_from_world: (V, 4, 4) world points to the optical frame of each camera.
        xy_px: (V, P, J, 2) pixels, distorted as in the images; NaN where a view has no such joint.
        weights: (V, P, J) 1 / variance per axis in px^-2; 0 or NaN where a view is not to count.

    Returns:
        Points in the world frame. The covariance is that of independent pixel errors of the
        given variance, enlarged by chi-square per degree of freedom where that is above 1.

    Raises:
        ShapeError: no cameras, or arrays whose shapes do not fit their number.
        CalibrationError: a pose that is not a rigid motion.

    Source: Hartley & Zisserman, Multiple View Geometry, 2nd ed., 12.2 (linear) and 12.5.

    """
    poses = check_poses(cameras, cam_from_world)
    people = _check_pixels(len(cameras), xy_px, weights)
    sight = np.stack([c.rays(xy)[..., :2] for c, xy in zip(cameras, xy_px, strict=True)])
    sight = sight.reshape(len(cameras), -1, 2)
    focal = np.array([np.sqrt(c.fx_px * c.fy_px) for c in cameras])
    weight = np.asarray(weights, np.float64).reshape(len(cameras), -1) * focal[:, None] ** 2
    weight = np.where(np.isfinite(weight) & np.isfinite(sight).all(axis=-1), weight, 0.0)
    sight = np.where(weight[..., None] > 0, sight, 0.0)
    use = _choose_views(poses, sight, weight)
    xyz = _solve(poses, sight, weight * use)
    for _ in range(STEPS):
        xyz = _refine(poses, sight, weight * use, xyz)
    use &= _chi(poses, sight, weight, xyz) < OUTLIER
    xyz = _refine(poses, sight, weight * use, xyz)
    return _answer((poses, sight, weight), use, xyz, (people, focal))


def check_poses(
    cameras: Sequence[PinholeCamera], cam_from_world: Sequence[npt.NDArray[Any]] | npt.NDArray[Any]
) -> Array:
    """(V, 4, 4) float64 of the camera poses.

    Raises:
        ShapeError: not one 4 x 4 matrix per camera.
        CalibrationError: a matrix that is not a rotation and a translation.

    """
    shapes = [np.shape(pose) for pose in cam_from_world]
    if shapes != [(4, 4)] * len(cameras):
        raise ShapeError(
            f"cam_from_world: expected {len(cameras)} matrices of 4 x 4 for as many cameras, "
            f"got {shapes}"
        )
    poses = np.asarray(cam_from_world, np.float64).reshape(-1, 4, 4)
    turn = poses[:, :3, :3]
    rigid = np.abs(turn @ turn.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2)) < 1e-3
    rigid &= np.linalg.det(np.where(np.isfinite(turn), turn, 0.0)) > 0
    rigid &= np.isfinite(poses).all(axis=(1, 2)) & (poses[:, 3] == [0, 0, 0, 1]).all(axis=1)
    if not rigid.all():
        bad = int(np.flatnonzero(~rigid)[0])
        raise CalibrationError(
            f"cam_from_world[{bad}]: expected a rotation and a translation in metres, "
            f"got {poses[bad].tolist()}"
        )
    return poses


def _check_pixels(
    views: int, xy_px: npt.NDArray[Any], weights: npt.NDArray[Any]
) -> tuple[int, int]:
    shape = np.shape(xy_px)
    if views == 0:
        raise ShapeError("cameras: expected at least one, got none")
    if len(shape) != 4 or shape[0] != views or shape[3] != 2:
        raise ShapeError(f"xy_px: expected ({views}, P, J, 2) for {views} cameras, got {shape}")
    if np.shape(weights) != shape[:3]:
        raise ShapeError(f"weights: expected {shape[:3]} as xy_px, got {np.shape(weights)}")
    return shape[1], shape[2]


def _choose_views(poses: Array, sight: Array, weight: Array) -> npt.NDArray[np.bool_]:
    """(V, N) the views that agree with the best pair of them."""
    best = np.full(weight.shape[1], np.inf)
    use = np.zeros(weight.shape, bool)
    for a, b in itertools.combinations(range(len(poses)), 2):
        pair = [a, b]
        xyz = _solve(poses[pair], sight[pair], weight[pair])
        xyz = _refine(poses[pair], sight[pair], weight[pair], xyz)
        chi = _chi(poses, sight, weight, xyz)
        cost = np.fmin(chi, 2 * OUTLIER).sum(axis=0)
        agree = (weight > 0) & (chi < 2 * OUTLIER)  # a pair's point is less exact than that of all
        cost = np.where(agree[a] & agree[b], cost, np.inf)
        better = cost < best
        best = np.where(better, cost, best)
        use = np.where(better, agree, use)
    return use


def _solve(poses: Array, sight: Array, weight: Array) -> Array:
    """(N, 3) linear least squares; NaN where fewer than two views count."""
    rows = sight[..., None] * poses[:, None, 2:3, :] - poses[:, None, :2, :]  # (V, N, 2, 4)
    rows = rows * np.sqrt(weight)[..., None, None]
    rows = rows.transpose(1, 0, 2, 3).reshape(weight.shape[1], 2 * len(poses), 4)
    normal = rows.transpose(0, 2, 1) @ rows
    enough = (weight > 0).sum(axis=0) >= 2
    return _solve3(normal[:, :3, :3], -normal[:, :3, 3], enough)


def _refine(poses: Array, sight: Array, weight: Array, xyz: Array) -> Array:
    """One step of Gauss-Newton on the reprojection errors."""
    normal, gradient = _normal(poses, sight, weight, xyz)
    enough = ((weight > 0).sum(axis=0) >= 2) & np.isfinite(xyz).all(axis=-1)
    return xyz + _solve3(normal, gradient, enough)


def _normal(poses: Array, sight: Array, weight: Array, xyz: Array) -> tuple[Array, Array]:
    """Normal matrix (N, 3, 3) and right side (N, 3) of the reprojection errors."""
    point = _transform(poses, np.nan_to_num(xyz))
    depth = np.where(np.abs(point[..., 2:]) < 1e-6, 1e-6, point[..., 2:])
    seen = point[..., :2] / depth
    turn = poses[:, None, :3, :3]
    slope = (turn[..., :2, :] - seen[..., None] * turn[..., 2:3, :]) / depth[..., None]
    scaled = slope * weight[..., None, None]
    normal = np.einsum("vnik,vnil->nkl", scaled, slope)
    gradient = np.einsum("vnik,vni->nk", scaled, sight - seen)
    return normal, gradient


def _squared(poses: Array, sight: Array, xyz: Array) -> Array:
    """(V, N) squared distance on the plane z = 1; infinite behind the camera."""
    point = _transform(poses, xyz)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = ((point[..., :2] / point[..., 2:] - sight) ** 2).sum(axis=-1)
    return np.where(point[..., 2] > 0, squared, np.inf)


def _chi(poses: Array, sight: Array, weight: Array, xyz: Array) -> Array:
    """(V, N) squared distance over variance; 0 where a view does not count, NaN of NaN."""
    counts = weight > 0
    return np.where(counts, _squared(poses, sight, xyz) * np.where(counts, weight, 1.0), 0.0)


def _transform(poses: Array, xyz: Array) -> Array:
    return xyz @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]


def _solve3(matrix: Array, right: Array, where: npt.NDArray[np.bool_]) -> Array:
    """Solutions (N, 3); NaN where not ``where`` or where the matrix is singular."""
    size = np.trace(matrix, axis1=1, axis2=2)
    scale = np.where(size > 0, size, 1.0)
    matrix = matrix / scale[:, None, None]
    good = where & (np.linalg.det(matrix) > 1e-15)
    safe = np.where(good[:, None, None], matrix, np.eye(3))
    answer = np.linalg.solve(safe, (right / scale[:, None])[..., None])[..., 0]
    return np.where(good[:, None], answer, np.nan)


def _answer(
    what: tuple[Array, Array, Array],
    use: npt.NDArray[np.bool_],
    xyz: Array,
    shape: tuple[tuple[int, int], Array],
) -> Points3D:
    poses, sight, weight = what
    (people, joints), focal = shape
    squared = _squared(poses, sight, xyz)
    normal, _ = _normal(poses, sight, weight * use, xyz)
    some = use.sum(axis=0) > 0
    columns = [_solve3(normal, np.tile(axis, (len(xyz), 1)), some) for axis in np.eye(3)]
    chi = _chi(poses, sight, weight * use, xyz)
    freedom = np.maximum(2 * use.sum(axis=0) - 3, 1)
    covariance = (
        np.stack(columns, axis=-1) * np.maximum(chi.sum(axis=0) / freedom, 1.0)[:, None, None]
    )
    spread = np.trace(np.nan_to_num(covariance, nan=np.inf), axis1=1, axis2=2)
    known = (use.sum(axis=0) >= 2) & np.isfinite(xyz).all(axis=-1) & (spread < MAX_STD_M**2)
    known &= (chi < 2 * OUTLIER).all(axis=0)
    residual = np.where((weight > 0) & known, np.sqrt(squared) * focal[:, None], np.nan)
    return Points3D(
        np.where(known[:, None], xyz, np.nan).reshape(people, joints, 3),
        np.where(known[:, None, None], covariance, np.nan).reshape(people, joints, 3, 3),
        (use & known).reshape(len(poses), people, joints),
        residual.reshape(len(poses), people, joints),
    )
