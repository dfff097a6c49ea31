"""Validation inside the loop: loss, PCK and F1 on the key frames, quick and the same everywhere.

It chooses the best weights; the papers' tables come from `training/evaluate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps
from pose_ros.training.objectives import Trainee
from pose_ros.training.windows import Item

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PCK_SHARE = 0.05  # of the crop's height: half a head's size
SCORE_MIN = 0.3  # a joint with a lower score counts as not found, for F1


def validate(trainee: Trainee, batches: DataLoader[Item], fabric: Fabric) -> dict[str, float]:
    """Metrics over the windows of all processes, in evaluation mode; 0 without a visible joint.

    ``loss`` is the objective's total, ``pck`` the share of visible joints within 5 % of the crop's
    height, ``f1`` the harmonic mean of precision and recall of joints with a score above 0.3, and
    ``error_cells`` the mean distance in heatmap cells.
    """
    sums = torch.zeros(7, dtype=torch.float64)
    was_training = trainee.training
    trainee.eval()
    with torch.no_grad():
        for batch in batches:
            moved = fabric.to_device(batch)
            with fabric.autocast():
                terms = trainee(moved)
            count = len(batch["cells"])
            sums[0] += float(terms["total"]) * count
            sums[1] += count
            sums[2:] += _score(trainee, terms["heatmaps"], batch)
    trainee.train(was_training)
    if fabric.world_size > 1:
        summed = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum")
        sums = torch.as_tensor(summed).cpu()
    loss, windows, good, known, claimed, true, error = sums.tolist()
    precision, recall = true / max(claimed, 1.0), true / max(known, 1.0)
    return {
        "loss": loss / max(windows, 1.0),
        "pck": good / max(known, 1.0),
        "f1": 2.0 * precision * recall / max(precision + recall, 1e-12),
        "error_cells": error / max(known, 1.0),
    }


def _score(trainee: Trainee, heatmaps: torch.Tensor, batch: Item) -> torch.Tensor:
    """(5,) joints that are near, known, claimed, claimed and near, and the sum of distances."""
    key = trainee.net.window.key
    cells, score = decode(PoseMaps(heatmaps.float().cpu().numpy(), None, None))
    found, rate = torch.from_numpy(cells), torch.from_numpy(score)
    known = batch["visible"][:, key] > 0
    distance = (found - batch["cells"][:, key]).norm(dim=-1)
    distance = torch.nan_to_num(distance, nan=float(max(trainee.size_hw)))
    near = known & (distance <= PCK_SHARE * trainee.size_hw[0])
    claimed = rate >= SCORE_MIN
    counts = (near, known, known & claimed, near & claimed, distance * known)
    return torch.stack([c.double().sum() for c in counts])
