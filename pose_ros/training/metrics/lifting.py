"""Errors of 3-D poses in millimetres. N frames, K joints, metres in.

A joint that is NaN in the labels does not count; a prediction that is NaN there is counted by
``missing``, not silently dropped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton
from pose_ros.errors import ShapeError
from pose_ros.training.metrics.arrays import known_joints, mean_known

Float = npt.NDArray[np.float64]

#: 3DPCK: a joint within this is right, and the end of its curve.
PCK3D_MM = 150.0
_CURVE_MM: Float = np.arange(0.0, PCK3D_MM + 1.0, 5.0)


def root_of(xyz: Float, skeleton: Skeleton) -> Float:
    """(N, 1, 3) pelvis: the joint of that name, or the middle of the hips."""
    if "pelvis" in skeleton.joints:
        return np.asarray(xyz[:, skeleton.index("pelvis")][:, None])
    hips = [skeleton.index("left_hip"), skeleton.index("right_hip")]
    return np.asarray(xyz[:, hips].mean(axis=1)[:, None])


def pose_errors(predicted: Float, truth: Float, skeleton: Skeleton) -> dict[str, float]:
    """MPJPE, PA-MPJPE and N-MPJPE in mm, 3DPCK and its area in percent, and ``missing``.

    Poses (N, K, 3) in metres. MPJPE after moving both pelvises to the origin; PA-MPJPE after a
    similarity transform per frame; N-MPJPE after a scale per frame.

    Raises:
        ShapeError: predictions of another shape than the labels.

    """
    if predicted.shape != truth.shape or truth.shape[1:] != (len(skeleton), 3):
        raise ShapeError(
            f"MPJPE: expected (N, {len(skeleton)}, 3) twice, got {predicted.shape} and "
            f"{truth.shape}"
        )
    known = known_joints(truth)
    both = known & known_joints(predicted)
    found = np.asarray(predicted - root_of(predicted, skeleton), np.float64)
    wanted = np.asarray(truth - root_of(truth, skeleton), np.float64)
    both &= known_joints(found) & known_joints(wanted)
    plain = _distance_mm(found, wanted, both)
    aligned = _distance_mm(similarity_aligned(found, wanted, both), wanted, both)
    scaled = _distance_mm(scale_aligned(found, wanted, both), wanted, both)
    count = max(int(known.sum()), 1)
    shares = np.array([(plain <= reach).sum() / count for reach in _CURVE_MM])
    return {
        "mpjpe_mm": mean_known(plain),
        "pa_mpjpe_mm": mean_known(aligned),
        "n_mpjpe_mm": mean_known(scaled),
        "pck3d": 100.0 * float((plain <= PCK3D_MM).sum() / count),
        "auc3d": 100.0 * float(shares.mean()),
        "missing": float(1.0 - both.sum() / count),
    }


def _distance_mm(a: Float, b: Float, which: npt.NDArray[np.bool_]) -> Float:
    return np.asarray(1000.0 * np.linalg.norm(a - b, axis=2)[which])


def scale_aligned(found: Float, wanted: Float, which: npt.NDArray[np.bool_]) -> Float:
    """Poses scaled per frame so that the squared distance to ``wanted`` is least."""
    mask = which[..., None]
    a, b = np.where(mask, found, 0.0), np.where(mask, wanted, 0.0)
    norm = (a * a).sum(axis=(1, 2))
    scale = (a * b).sum(axis=(1, 2)) / np.where(norm > 0, norm, 1.0)
    return np.asarray(found * scale[:, None, None])


def similarity_aligned(found: Float, wanted: Float, which: npt.NDArray[np.bool_]) -> Float:
    """Poses moved, turned and scaled per frame so that the squared distance is least.

    A frame with fewer than three common joints stays as it is. No reflection.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", PAMI 1991.
    """
    weight = which.astype(np.float64)
    count = np.maximum(weight.sum(axis=1), 1.0)[:, None]
    a, b = np.where(which[..., None], found, 0.0), np.where(which[..., None], wanted, 0.0)
    mean_a, mean_b = a.sum(axis=1) / count, b.sum(axis=1) / count
    a = (a - mean_a[:, None]) * weight[..., None]
    b = (b - mean_b[:, None]) * weight[..., None]
    u, s, vt = np.linalg.svd(np.einsum("nki,nkj->nij", b, a))
    sign = np.sign(np.linalg.det(u @ vt))
    flip = np.ones_like(s)
    flip[:, 2] = np.where(sign < 0, -1.0, 1.0)
    rotation = (u * flip[:, None]) @ vt
    norm = (a * a).sum(axis=(1, 2))
    scale = (s * flip).sum(axis=1) / np.where(norm > 0, norm, 1.0)
    centred = np.where(np.isfinite(found), found, 0.0) - mean_a[:, None]
    moved = scale[:, None, None] * np.einsum("nij,nkj->nki", rotation, centred) + mean_b[:, None]
    enough = which.sum(axis=1) >= 3
    return np.asarray(np.where(enough[:, None, None], moved, found))
