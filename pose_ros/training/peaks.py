"""Heatmaps to joints as the papers' code does it offline; the live pipeline has `core/heatmaps`.

Unlike there, scores are the peaks as they are: a network of squared error says 1.02 as well, and
average precision ranks by it. Checked in `test/training/test_peaks.py`.
"""

from __future__ import annotations

import numpy as np
import torch

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import FloatArray, PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.training.targets import unflip

#: How a joint is found between cells: DARK's Newton step, a quarter of a cell to the higher
#: neighbour (HRNet and what came of it), or not at all.
SUBPIXEL = ("dark", "quarter", "none")
QUARTER = np.float32(0.25)


def joints_of(maps: PoseMaps, subpixel: str = "dark") -> tuple[FloatArray, FloatArray]:
    """Cells (P, J, 2) in (x, y), NaN where a map is nowhere positive, and peaks (P, J), then 0.

    Raises:
        ConfigError: unknown ``subpixel``, or another than dark for a network with offsets.

    """
    if subpixel not in SUBPIXEL:
        raise ConfigError(f"subpixel: expected {', '.join(SUBPIXEL)}, got '{subpixel}'")
    if maps.offsets is not None or maps.prior is not None:
        if subpixel != "dark":
            raise ConfigError(
                f"subpixel={subpixel}: this network says itself where in a cell a joint is"
            )
        return decode(maps)
    cells, _capped = decode(maps)
    peak = maps.heatmaps.max(axis=(2, 3), initial=0.0)
    found = np.asarray(np.isfinite(cells).all(axis=2))
    if subpixel != "dark":
        height, width = maps.heatmaps.shape[2:]
        flat = maps.heatmaps.reshape(*peak.shape, height * width).argmax(axis=2)
        whole = np.stack([flat % width, flat // width], axis=2)
        moved = whole + (_quarters(maps.heatmaps, whole) if subpixel == "quarter" else 0)
        cells = np.where(found[..., None], moved, np.nan).astype(np.float32)
    return cells, np.where(found, peak, 0.0).astype(np.float32)


def _quarters(heatmaps: FloatArray, cell: np.ndarray) -> FloatArray:
    """(P, J, 2) a quarter of a cell to the higher neighbour, along both axes; none at a border.

    Source: HRNet's ``get_final_preds``, read for its behaviour: what lies in the outermost cells,
    or in the second ones on the left and at the top, is not moved.
    """
    height, width = heatmaps.shape[2:]
    x, y = cell[..., 0], cell[..., 1]
    inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    x, y = np.clip(x, 1, width - 2), np.clip(y, 1, height - 2)
    people, joints = np.ogrid[: heatmaps.shape[0], : heatmaps.shape[1]]
    right = heatmaps[people, joints, y, x + 1] - heatmaps[people, joints, y, x - 1]
    down = heatmaps[people, joints, y + 1, x] - heatmaps[people, joints, y - 1, x]
    step = QUARTER * np.sign(np.stack([right, down], axis=2))
    return np.asarray(np.where(inner[..., None], step, np.float32(0)), np.float32)


def with_mirrored(
    heatmaps: torch.Tensor, mirrored: torch.Tensor, order: torch.Tensor, columns: int = 1
) -> torch.Tensor:
    """Mean of maps (P, J, h, w) and those of the mirrored picture; ``order`` (J,) swaps sides.

    The first ``columns`` (`targets.mirror_shift`) have no mirrored ones and stay as they are.
    """
    mean = (heatmaps + unflip(mirrored, order, columns)) / 2
    return torch.cat((heatmaps[..., :columns], mean[..., columns:]), -1)
