"""Arithmetic of boxes and poses: overlap, similarity, padding; all batched, all in pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import FloatArray


def area(xyxy: FloatArray) -> FloatArray:
    """(P,) areas of (P, 4) boxes; 0 for an inverted one."""
    return np.clip(xyxy[:, 2] - xyxy[:, 0], 0, None) * np.clip(xyxy[:, 3] - xyxy[:, 1], 0, None)


def iou(a: FloatArray, b: FloatArray) -> FloatArray:
    """(A, B) intersection over union of boxes (A, 4) and (B, 4); 0 where both are empty."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both: FloatArray = np.prod(np.clip(bottom_right - top_left, 0, None), axis=2)
    either = area(a)[:, None] + area(b)[None] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def oks(
    a_xy: FloatArray, b_xy: FloatArray, scale_px2: FloatArray, sigma: FloatArray
) -> FloatArray:
    """(A, B) object keypoint similarity of poses (A, J, 2) and (B, J, 2).

    ``scale_px2`` (A,) is the area of each person in ``a``; ``sigma`` (J,) COCO's spreads. Joints
    that are NaN on either side do not count; without a common joint the similarity is 0.

    Source: COCO keypoint evaluation, ``exp(-d^2 / (2 s^2 (2 sigma)^2))`` averaged over joints.
    """
    squared = np.sum((a_xy[:, None] - b_xy[None]) ** 2, axis=3)  # (A, B, J)
    known = np.isfinite(squared)
    spread = 2.0 * (2.0 * sigma) ** 2 * np.maximum(scale_px2, 1.0)[:, None, None]
    similarity = np.where(known, np.exp(-np.where(known, squared, 0.0) / spread), 0.0)
    count = known.sum(axis=2)
    total = similarity.sum(axis=2)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0).astype(np.float32)


def around_joints(
    xy_px: FloatArray, used: npt.NDArray[np.bool_], pad: tuple[float, ...]
) -> FloatArray:
    """(P, 4) boxes around the joints (P, J, 2) where ``used`` (P, J); NaN where none is.

    ``pad`` (left, top, right, bottom) is added as a share of the longer side, because a body
    reaches past its joints.
    """
    inside = used & np.isfinite(xy_px).all(axis=2)
    low = np.where(inside[..., None], xy_px, np.inf).min(axis=1)
    high = np.where(inside[..., None], xy_px, -np.inf).max(axis=1)
    some = inside.any(axis=1, keepdims=True)
    low, high = np.where(some, low, np.nan), np.where(some, high, np.nan)
    longest = np.maximum(np.max(high - low, axis=1, keepdims=True), 1.0)
    margin = np.asarray(pad, np.float32)
    box = np.concatenate([low - margin[:2] * longest, high + margin[2:] * longest], axis=1)
    return box.astype(np.float32)
