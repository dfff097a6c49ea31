"""What a network has to answer: cells of joints and Gaussians about them.

A cell is a place on the heatmap grid, cell centres at integers. Which cell a crop pixel is depends
on the codec:
  * ``edge``: (x + 0.5) / 4, as MoveNet has it;
  * ``msra``: round(x / 4), as HRNet has it; the target's centre is a whole cell.
A card says it as ``cell_shift_px``, by which the live pipeline decodes. ViTPose's own codec (crops
of W - 1 units) cannot be said there: its heads learn ``edge`` here, like all others.
Checked in `test/training/test_augment.py` by decoding what was encoded.
"""

from __future__ import annotations

import numpy as np
import torch

from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError

STRIDE = 4  # crop pixels per heatmap cell
#: Cell c is the crop pixel 4 c + this.
CELL_SHIFT_PX = {"edge": -0.5, "msra": 0.0}


def cells_from_crop(xy_px: FloatArray, codec: str) -> FloatArray:
    """Cells (..., 2) of crop pixels (..., 2); NaN stays NaN.

    Raises:
        ConfigError: unknown codec.

    """
    if codec not in CELL_SHIFT_PX:
        raise ConfigError(f"codec: expected {' or '.join(CELL_SHIFT_PX)}, got '{codec}'")
    cells = (xy_px - CELL_SHIFT_PX[codec]) / STRIDE
    return (np.floor(cells + 0.5) if codec == "msra" else cells).astype(np.float32)


def crop_from_cells(cells: FloatArray, codec: str) -> FloatArray:
    """Crop pixels (..., 2) of cells (..., 2): the inverse, but for msra's rounding."""
    return (cells * STRIDE + CELL_SHIFT_PX[codec]).astype(np.float32)


def _pixels_from_cells(codec: str) -> np.ndarray:
    """(3, 3) crop pixels from cells; msra's rounding left out."""
    shift = CELL_SHIFT_PX[codec]
    return np.array([[STRIDE, 0.0, shift], [0.0, STRIDE, shift], [0.0, 0.0, 1.0]])


def cells_of_map(crop_map: np.ndarray, codec: str) -> np.ndarray:
    """(3, 3) what an affine map (3, 3) of crop pixels does to cells."""
    pixels = _pixels_from_cells(codec)
    return np.asarray(np.linalg.inv(pixels) @ crop_map @ pixels)


def image_from_cells(crop_from_image: np.ndarray, codec: str) -> np.ndarray:
    """(3, 3) image pixels from cells of a crop, by its affine map (2, 3)."""
    whole = np.vstack((crop_from_image, (0.0, 0.0, 1.0)))
    return np.asarray(np.linalg.inv(whole) @ _pixels_from_cells(codec))


def inside(cells: FloatArray, size_hw_px: tuple[int, int]) -> np.ndarray:
    """Whether a known joint's cell (..., 2) lies on the grid; False for NaN."""
    height, width = (s // STRIDE for s in size_hw_px)
    with np.errstate(invalid="ignore"):
        good = (cells > -0.5) & (cells < np.array([width, height], np.float32) - 0.5)
    return np.asarray(good.all(axis=-1))


def gaussians(cells: torch.Tensor, size_hw: tuple[int, int], sigma: float) -> torch.Tensor:
    """Maps (..., h, w) of peak 1 about cells (..., 2), (x, y); zero where a cell is NaN."""
    h, w = size_hw
    known = torch.isfinite(cells).all(-1)
    xy = torch.where(known[..., None], cells, torch.zeros_like(cells))
    x = torch.arange(w, device=cells.device, dtype=cells.dtype) - xy[..., :1]
    y = torch.arange(h, device=cells.device, dtype=cells.dtype) - xy[..., 1:]
    scale = -0.5 / (sigma * sigma)
    gx, gy = (scale * x.square()).exp(), (scale * y.square()).exp()
    gx = gx * known[..., None]
    return gy[..., :, None] * gx[..., None, :]


def unflip(heatmaps: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Maps (..., K, h, w) of a mirrored picture as of the picture itself.

    ``order`` (K,) swaps left and right. With ``edge`` the mirror image of cell c is w - c, one to
    the right of what mirroring the grid gives, and column 0 has no partner: it is 0. With ``msra``
    it is w - 1/4 - c, which is taken as one to the right, too, a quarter of a cell off.
    """
    maps = heatmaps.flip(-1).index_select(-3, order)
    return torch.cat((torch.zeros_like(maps[..., :1]), maps[..., :-1]), -1)
