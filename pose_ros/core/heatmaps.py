"""Heatmaps to joints."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from pose_ros.core.values import FloatArray, PoseMaps

#: DARK: spread of the smoothing before the Taylor step, in cells, at maps of 64 x 48 and smaller;
#: of larger maps as many more as their longer side is more than 64: 3 at 96 x 72
DARK_SIGMA_CELLS = 2.0
DARK_SIDE_CELLS = 64


def decode(maps: PoseMaps) -> tuple[FloatArray, FloatArray]:
    """Joints of every person: cells (P, J, 2) in (x, y) and scores (P, J).

    The peak of ``heatmaps * prior``; sub-cell from the offsets where the network has them,
    by DARK otherwise. A joint whose map is nowhere positive or holds a NaN is NaN with score 0.
    """
    people, joints, _height, width = maps.heatmaps.shape
    if people == 0:
        return np.zeros((0, joints, 2), np.float32), np.zeros((0, joints), np.float32)
    flat = maps.heatmaps.reshape(people, joints, -1)
    weighted = flat if maps.prior is None else flat * maps.prior.reshape(flat.shape)
    peak = weighted.argmax(axis=2)[..., None]
    score = np.take_along_axis(flat, peak, axis=2)[..., 0]
    cell = np.concatenate([peak % width, peak // width], axis=2).astype(np.float32)
    if maps.offsets is None:
        cell = cell + dark_step(maps.heatmaps, peak[..., 0])
    else:
        offsets = maps.offsets.reshape(people, joints, 2, -1)
        cell = cell + np.take_along_axis(offsets, peak[:, :, None], axis=3)[..., 0]
    lost = ~(score > 0.0) | ~np.isfinite(cell).all(axis=2)
    cell[lost] = np.nan
    return cell, np.where(lost, 0.0, np.minimum(score, 1.0)).astype(np.float32)


def spread(maps: PoseMaps) -> FloatArray:
    """How wide a map is: (P, J) standard deviation per axis, in cells.

    Of ``heatmaps * prior`` squared, times the root of two: for a Gaussian its own deviation. Twice
    as strong counts four times as much, or the background of a map of 2000 cells would outweigh
    its peak; a second peak far off, or another person's, still makes it many cells. NaN for a map
    that is nowhere positive or holds a NaN.
    """
    people, joints = maps.heatmaps.shape[:2]
    if people == 0:
        return np.zeros((0, joints), np.float32)
    weight = np.maximum(maps.heatmaps, 0.0)
    if maps.prior is not None:
        weight *= maps.prior
    weight *= weight
    # Sums along rows and columns, not one product with all four powers: a matrix product of this
    # size wakes the threads of BLAS, which then spin on the cores that the network needs.
    rows, columns = weight.sum(axis=3), weight.sum(axis=2)
    total = rows.sum(axis=2)
    total = np.where(total > 0.0, total, np.nan)
    variance = sum(_variance(line, total) for line in (rows, columns))
    return np.sqrt(np.maximum(variance, 0.0)).astype(np.float32)


def _variance(line: FloatArray, total: FloatArray) -> FloatArray:
    """(P, J) variance of the weights (P, J, N) along their axis, which add up to ``total``."""
    at = np.arange(line.shape[2], dtype=np.float32) - (line.shape[2] - 1) / 2
    mean = (line * at).sum(axis=2) / total
    variance: FloatArray = (line * (at * at)).sum(axis=2) / total - mean**2
    return variance


def dark_sigma(size_hw: tuple[int, int]) -> float:
    """Spread of DARK's smoothing of maps of a size (height, width), in cells.

    Its kernel ends at 2.5 spreads: 11 cells at 64 x 48, 17 at 96 x 72. The targets that networks
    learn are as much wider on larger maps.
    """
    return DARK_SIGMA_CELLS * max(max(size_hw) / DARK_SIDE_CELLS, 1.0)


def dark_step(heatmaps: FloatArray, peak: np.ndarray) -> FloatArray:
    """Sub-cell step (P, J, 2) in (x, y) from flat peak indices (P, J).

    A Newton step on the logarithm of the smoothed map, at most one cell; none where the map is
    not a maximum there, and none across a border that is less than two cells away. Outside of the
    map there is nothing (zeros), as in the authors' code: continuing it there, by mirroring say,
    would draw joints near a border out by up to 1.3 cells; so it is 0.3 at most, inwards.

    Source: Zhang et al., Distribution-Aware Coordinate Representation for Human Pose
    Estimation, CVPR 2020, equations 3 to 9. Their code moves a joint near a border along neither
    axis; here it still moves along the border.
    """
    height, width = heatmaps.shape[2:]
    cells = dark_sigma((height, width))
    sigma = (0, 0, cells, cells)
    smooth = gaussian_filter(heatmaps, sigma, mode="constant", truncate=2.5)
    logs = np.pad(
        np.log(np.clip(smooth, 1e-3, 50.0)), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge"
    ).reshape(*heatmaps.shape[:2], -1)
    stride = width + 4
    centre = (peak // width + 2) * stride + peak % width + 2

    def at(dx: int, dy: int) -> FloatArray:
        where = (centre + dy * stride + dx)[..., None]
        return np.take_along_axis(logs, where, axis=2)[..., 0]

    here = at(0, 0)
    grad_x, grad_y = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    xx = (at(2, 0) - 2 * here + at(-2, 0)) / 4
    yy = (at(0, 2) - 2 * here + at(0, -2)) / 4
    xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    near_x, near_y = _near_border(peak % width, width), _near_border(peak // width, height)
    grad_x, xx = np.where(near_x, 0.0, grad_x), np.where(near_x, -1.0, xx)
    grad_y, yy = np.where(near_y, 0.0, grad_y), np.where(near_y, -1.0, yy)
    xy = np.where(near_x | near_y, 0.0, xy)
    det = xx * yy - xy * xy
    hill = (det > 0) & (xx < 0)
    safe = np.where(hill, det, 1.0)
    step = np.stack([xy * grad_y - yy * grad_x, xy * grad_x - xx * grad_y], axis=2)
    return np.where(hill[..., None], np.clip(step / safe[..., None], -1.0, 1.0), 0.0).astype(
        np.float32
    )


def _near_border(cell: np.ndarray, cells: int) -> np.ndarray:
    """Whether the second neighbours of a cell are not all on a grid of that many cells."""
    return np.asarray((cell < 2) | (cell > cells - 3))
