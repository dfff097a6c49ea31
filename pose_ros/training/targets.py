"""What a network has to answer: cells of joints and Gaussians about them.

A cell is a place on the heatmap grid, cell centres at integers. Which cell a crop pixel is depends
on the codec:
  * ``edge``: (x + 0.5) / 4, as MoveNet has it;
  * ``msra``: round(x / 4), as HRNet has it; the target's centre is a whole cell, it ends after
    3 sigma, and a joint beside the crop whose target reaches into it counts;
  * ``udp``: x (w - 1) / (W - 1), as ViTPose has it, of w cells in a crop of W pixels: the first
    cell is the first pixel and the last one the last. The crop itself is cut by unit lengths, too
    (`augment.crop_affine`), and mirrored maps need no shift.
A card says it as ``codec`` and ``cell_shift_px``, by which joints are mapped back. Checked in
`test/training/test_codecs.py` by decoding what was encoded.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import cell_stride_px

STRIDE = 4  # crop pixels of the sides of a heatmap cell
#: Cell c is the crop pixel `stride_px` c + this.
CELL_SHIFT_PX = {"edge": -0.5, "msra": 0.0, "udp": 0.0}

Size = tuple[int, int]


def card_codec(codec: str) -> str:
    """Codec as a card calls it: what is no UDP is a shift of its own."""
    return "udp" if codec == "udp" else "shift"


def stride_px(codec: str, size_hw_px: Size) -> tuple[float, float]:
    """Crop pixels from one cell to the next, along x and y, in crops of a size.

    Raises:
        ConfigError: unknown codec.

    """
    if codec not in CELL_SHIFT_PX:
        raise ConfigError(f"codec: expected {', '.join(CELL_SHIFT_PX)}, got '{codec}'")
    return cell_stride_px(card_codec(codec), size_hw_px)


def cells_from_crop(xy_px: FloatArray, codec: str, size_hw_px: Size) -> FloatArray:
    """Cells (..., 2) of pixels (..., 2) of a crop of a size; NaN stays NaN.

    Raises:
        ConfigError: unknown codec.

    """
    stride = np.array(stride_px(codec, size_hw_px), np.float32)
    cells = (xy_px - CELL_SHIFT_PX[codec]) / stride
    return (np.floor(cells + 0.5) if codec == "msra" else cells).astype(np.float32)


def crop_from_cells(cells: FloatArray, codec: str, size_hw_px: Size) -> FloatArray:
    """Crop pixels (..., 2) of cells (..., 2): the inverse, but for msra's rounding."""
    stride = np.array(stride_px(codec, size_hw_px), np.float32)
    return (cells * stride + CELL_SHIFT_PX[codec]).astype(np.float32)


def _pixels_from_cells(codec: str, size_hw_px: Size) -> np.ndarray:
    """(3, 3) crop pixels from cells; msra's rounding left out."""
    (x, y), shift = stride_px(codec, size_hw_px), CELL_SHIFT_PX[codec]
    return np.array([[x, 0.0, shift], [0.0, y, shift], [0.0, 0.0, 1.0]])


def cells_of_map(crop_map: np.ndarray, codec: str, size_hw_px: Size) -> np.ndarray:
    """(3, 3) what an affine map (3, 3) of crop pixels does to cells."""
    pixels = _pixels_from_cells(codec, size_hw_px)
    return np.asarray(np.linalg.inv(pixels) @ crop_map @ pixels)


def image_from_cells(crop_from_image: np.ndarray, codec: str, size_hw_px: Size) -> np.ndarray:
    """(3, 3) image pixels from cells of a crop, by its affine map (2, 3)."""
    whole = np.vstack((crop_from_image, (0.0, 0.0, 1.0)))
    return np.asarray(np.linalg.inv(whole) @ _pixels_from_cells(codec, size_hw_px))


def reach_cells(codec: str, sigma: float) -> float:
    """Cells from a target's centre along x and y beyond which it is 0: ``msra`` cuts at 3 sigma.

    Source: HRNet's ``generate_target``, read for its behaviour (models.md 0.4).
    """
    return 3.0 * sigma if codec == "msra" else math.inf


def inside(cells: FloatArray, size_hw_px: tuple[int, int], reach: float = math.inf) -> np.ndarray:
    """Whether a known joint's cell (..., 2) is to be learned; False for NaN.

    It has to lie on the grid, or, where targets end after ``reach`` cells, show some of its
    target there.
    """
    height, width = (s // STRIDE for s in size_hw_px)
    beyond = reach if math.isfinite(reach) else 0.0
    low, high = -0.5 - beyond, np.array([width, height], np.float32) - np.float32(0.5 - beyond)
    with np.errstate(invalid="ignore"):
        good = (cells > low) & (cells < high)
    return np.asarray(good.all(axis=-1))


def gaussians(
    cells: torch.Tensor, size_hw: tuple[int, int], sigma: float, reach: float = math.inf
) -> torch.Tensor:
    """Maps (..., h, w) of peak 1 about cells (..., 2), (x, y); zero where a cell is NaN.

    Zero, too, more than ``reach`` cells away along x or y.
    """
    h, w = size_hw
    known = torch.isfinite(cells).all(-1)
    xy = torch.where(known[..., None], cells, torch.zeros_like(cells))
    x = torch.arange(w, device=cells.device, dtype=cells.dtype) - xy[..., :1]
    y = torch.arange(h, device=cells.device, dtype=cells.dtype) - xy[..., 1:]
    scale = -0.5 / (sigma * sigma)
    gx, gy = (scale * x.square()).exp(), (scale * y.square()).exp()
    if math.isfinite(reach):
        gx, gy = gx * (x.abs() <= reach), gy * (y.abs() <= reach)
    gx = gx * known[..., None]
    return gy[..., :, None] * gx[..., None, :]


def mirror_shift(stride_x_px: float, shift_px: float, width_px: int) -> int:
    """Columns by which maps of a mirrored crop lie left of the crop's own once they are flipped.

    The mirror image of pixel x is W - 1 - x, so that of cell c is m - c with
    m = (W - 1 - 2 shift) / stride; flipping w columns makes it w - 1 - c. With ``edge`` m = w, one
    column; with ``msra`` m = w - 1/4, which is taken as one, too, a quarter of a cell off; with
    ``udp`` m = w - 1 and nothing has to move.
    """
    columns = width_px // STRIDE
    return round((width_px - 1 - 2.0 * shift_px) / stride_x_px) - (columns - 1)


def flip_columns(codec: str, size_hw_px: Size) -> int:
    """`mirror_shift` of a codec."""
    return mirror_shift(stride_px(codec, size_hw_px)[0], CELL_SHIFT_PX[codec], size_hw_px[1])


def unflip(heatmaps: torch.Tensor, order: torch.Tensor, columns: int = 1) -> torch.Tensor:
    """Maps (..., K, h, w) of a mirrored picture as of the picture itself.

    ``order`` (K,) swaps left and right; ``columns`` is `mirror_shift`. The first ``columns`` have
    no partner: they are 0.
    """
    maps = heatmaps.flip(-1).index_select(-3, order)
    if not columns:
        return maps
    return torch.cat((torch.zeros_like(maps[..., :columns]), maps[..., :-columns]), -1)
