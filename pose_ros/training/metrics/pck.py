"""Shares of joints near enough to their labels: PCK, PCKh and the areas under their curves.

N people with K joints. A joint counts when it is labelled; a prediction that is NaN is a miss.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import MPII16, Skeleton
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training.metrics.arrays import known_joints

Float = npt.NDArray[np.floating]
Bool = npt.NDArray[np.bool_]

#: MPII's own evaluation leaves these out.
MPII_EXCLUDED = ("pelvis", "thorax")
#: Reaches of the area under the PCKh curve, in head sizes.
AUC_REACHES: npt.NDArray[np.float64] = np.arange(0.0, 0.501, 0.01)
#: MPII's printed columns.
MPII_GROUPS = {
    "Head": ("neck", "head_top"),
    "Sho": ("left_shoulder", "right_shoulder"),
    "Elb": ("left_elbow", "right_elbow"),
    "Wri": ("left_wrist", "right_wrist"),
    "Hip": ("left_hip", "right_hip"),
    "Knee": ("left_knee", "right_knee"),
    "Ank": ("left_ankle", "right_ankle"),
}


def errors(predicted: Float, truth: Float, reference: Float) -> npt.NDArray[np.float64]:
    """(N, K) distance over ``reference`` (N,); NaN where nothing is labelled, inf where missed.

    Raises:
        ShapeError: predictions of another shape than the labels.

    """
    if predicted.shape != truth.shape or len(reference) != len(truth):
        raise ShapeError(
            f"PCK: expected predictions like the labels {truth.shape} and a reference length "
            f"each, got {predicted.shape} and {reference.shape}"
        )
    distance = np.linalg.norm(predicted.astype(np.float64) - truth, axis=-1)
    labelled = known_joints(truth) & (reference > 0)[:, None]
    found = known_joints(predicted)
    scaled = distance / np.where(reference > 0, reference, np.nan)[:, None]
    return np.where(labelled, np.where(found, scaled, np.inf), np.nan)


def share_within(error: Float, reach: float) -> float:
    """Share of the labelled joints (NaN: unlabelled) with an error of at most ``reach``."""
    count = int((~np.isnan(error)).sum())
    return float((error <= reach).sum() / count) if count else float("nan")


def area_under_curve(error: Float, reaches: Float = AUC_REACHES) -> float:
    """Area under the PCK curve over the reaches, by trapezoids, over its width."""
    shares = np.array([share_within(error, float(reach)) for reach in reaches])
    area = ((shares[1:] + shares[:-1]) / 2 * np.diff(reaches)).sum()
    return float(area / (reaches[-1] - reaches[0]))


def pckh_mpii(
    predicted: Float, truth: Float, head_px: Float, skeleton: Skeleton = MPII16
) -> dict[str, float]:
    """MPII's PCKh in percent: columns, ``pckh`` (0.5), ``pckh_01`` and ``auc``.

    ``head_px`` (N,) is 0.6 x the diagonal of the head rectangle. Pelvis and thorax do not count;
    totals are over joints, so that a joint labelled more often weighs more.

    Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art
    Analysis", CVPR 2014; excluded joints and weights as HRNet's MPII evaluation has them.
    """
    error = errors(predicted, truth, head_px)
    counted = [i for i, joint in enumerate(skeleton.joints) if joint not in MPII_EXCLUDED]
    if not counted:
        raise ConfigError(f"PCKh: {skeleton.name} has no joint that counts")
    answer = {}
    for column, joints in MPII_GROUPS.items():
        rows = [skeleton.index(joint) for joint in joints if joint in skeleton.joints]
        answer[column] = 100.0 * share_within(error[:, rows], 0.5) if rows else float("nan")
    some = error[:, counted]
    return {
        **answer,
        "pckh": 100.0 * share_within(some, 0.5),
        "pckh_01": 100.0 * share_within(some, 0.1),
        "auc": 100.0 * area_under_curve(some),
    }


def torso_px(xy_px: Float, skeleton: Skeleton) -> npt.NDArray[np.float64]:
    """(N,) distance from the left shoulder to the right hip, NaN when one is not labelled."""
    ends = xy_px[:, skeleton.index("left_shoulder")] - xy_px[:, skeleton.index("right_hip")]
    return np.asarray(np.linalg.norm(ends.astype(np.float64), axis=-1))


def box_side_px(box_xyxy_px: Float) -> npt.NDArray[np.float64]:
    """(N,) longer side of boxes (N, 4)."""
    return np.asarray((box_xyxy_px[:, 2:] - box_xyxy_px[:, :2]).max(axis=1).astype(np.float64))


def pck(predicted: Float, truth: Float, reference_px: Float, alpha: float) -> float:
    """Share of labelled joints within ``alpha`` x the reference length (N,) of their label."""
    return share_within(errors(predicted, truth, reference_px), alpha)
