"""Errors of 3-D bodies: root-aligned and Procrustes-aligned joint errors, steadiness of bones.

Letters: N bodies, J joints. Positions in any unit; the errors are in the same. Unknown joints are
NaN and leave their body's means. Source: the protocols of Human3.6M.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

DoubleArray = npt.NDArray[np.float64]


def root_aligned(
    found: npt.NDArray[Any], truth: npt.NDArray[Any], root: npt.NDArray[np.int64]
) -> DoubleArray:
    """Joint errors (N, J) after moving the mean of the joints ``root`` onto the truth's."""
    a = found - found[:, root].mean(axis=1, keepdims=True)
    b = truth - truth[:, root].mean(axis=1, keepdims=True)
    errors: DoubleArray = np.linalg.norm(a - b, axis=-1)
    return errors


def procrustes_aligned(found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> DoubleArray:
    """Joint errors (N, J) after the best similarity (rotation, scale, shift) per body.

    The similarity is fitted to the joints that both know; fewer than three give NaN.
    """
    both = np.isfinite(found).all(axis=-1) & np.isfinite(truth).all(axis=-1)
    weight = both / np.maximum(both.sum(axis=1, keepdims=True), 1)
    a, b = (np.where(both[..., None], x, 0.0).astype(np.float64) for x in (found, truth))
    mean_a, mean_b = ((x * weight[..., None]).sum(axis=1, keepdims=True) for x in (a, b))
    a, b = (a - mean_a) * both[..., None], (b - mean_b) * both[..., None]
    u, size, vt = np.linalg.svd(np.swapaxes(b, 1, 2) @ a)
    sign = np.ones((len(a), 3))
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt  # b = rotation a
    scale = (size * sign).sum(axis=1) / np.maximum((a**2).sum(axis=(1, 2)), 1e-12)
    aligned = scale[:, None, None] * (a @ np.swapaxes(rotation, 1, 2))
    errors: DoubleArray = np.linalg.norm(aligned - b, axis=-1)
    errors[~both | (both.sum(axis=1) < 3)[:, None]] = np.nan
    return errors


def bone_variation(bodies: npt.NDArray[Any], bones: npt.NDArray[np.int64]) -> DoubleArray:
    """Coefficient of variation (E,) of the lengths of bones (E, 2) over bodies of one person."""
    lengths = np.linalg.norm(bodies[:, bones[:, 0]] - bodies[:, bones[:, 1]], axis=-1)
    variation: DoubleArray = np.nanstd(lengths, axis=0) / np.nanmean(lengths, axis=0)
    return variation
