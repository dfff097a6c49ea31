"""Validation inside the loop: loss, PCK and F1 on the key frames, quick and the same everywhere.

It chooses the best weights; the papers' tables come from `training/evaluate.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.utils.data import DataLoader

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps
from pose_ros.training.metrics import classification
from pose_ros.training.objectives import Trainee
from pose_ros.training.windows import Item, plain_errors

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PCK_SHARE = 0.05  # of the crop's height: half a head's size
SCORE_MIN = 0.3  # a joint with a lower score counts as not found, for F1


class Judge(Protocol):
    """A measure of whole frames: it collects joints window by window, and then says its numbers.

    `training/monitor.py` has the one there is.
    """

    def start(self) -> None:
        """Forget what was collected."""
        ...

    def add(self, index: torch.Tensor, cells: torch.Tensor, score: torch.Tensor) -> None:
        """Take joints (B, K, 2) in cells and scores (B, K) of the windows ``index`` (B,)."""
        ...

    def numbers(self, fabric: Fabric) -> dict[str, float]:
        """Metrics by name, of the windows of all processes."""
        ...


def validate(
    trainee: Trainee, batches: DataLoader[Item], fabric: Fabric, judge: Judge | None = None
) -> dict[str, float]:
    """Metrics over the windows of all processes, in evaluation mode; 0 without a visible joint.

    ``loss`` is the objective's total, ``pck`` the share of visible joints within 5 % of the crop's
    height, ``f1`` the harmonic mean of precision and recall of joints with a score above 0.3, and
    ``error_cells`` the mean distance in heatmap cells. ``tau`` is the score from which joints are
    to be claimed for the best F1: what `training.evaluate` uses. What ``judge`` says is added.
    """
    if judge is not None:
        judge.start()
    sums = torch.zeros(7 + 2 * classification.BINS, dtype=torch.float64)
    was_training = trainee.training
    trainee.eval()
    with torch.no_grad():
        for batch in plain_errors(batches):
            moved = fabric.to_device(batch)
            with fabric.autocast():
                terms = trainee(moved)
            count = len(batch["cells"])
            sums[0] += float(terms["total"]) * count
            sums[1] += count
            maps = PoseMaps(terms["heatmaps"].float().cpu().numpy(), None, None)
            cells, score = (torch.from_numpy(found) for found in decode(maps))
            sums[2:] += _score(trainee, cells, score, batch)
            if judge is not None:
                judge.add(batch["index"], cells, score)
    trainee.train(was_training)
    if fabric.world_size > 1:
        summed = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum")
        sums = torch.as_tensor(summed).cpu()
    loss, windows, good, known, claimed, true, error = sums[:7].tolist()
    precision, recall = true / max(claimed, 1.0), true / max(known, 1.0)
    return {
        "loss": loss / max(windows, 1.0),
        "pck": good / max(known, 1.0),
        "f1": 2.0 * precision * recall / max(precision + recall, 1e-12),
        "error_cells": error / max(known, 1.0),
        "tau": classification.tau_of(sums[7:].reshape(2, -1).numpy(), known),
        **(judge.numbers(fabric) if judge is not None else {}),
    }


def _score(trainee: Trainee, found: torch.Tensor, rate: torch.Tensor, batch: Item) -> torch.Tensor:
    """(5 + 2 BINS,) joints that are near, known, claimed, claimed and near; sum of distances.

    Then how many have which score, and how many of these are near. From joints (B, K, 2) in cells,
    NaN where none was found, and scores (B, K).
    """
    key = trainee.net.window.key
    known = batch["visible"][:, key] > 0
    distance = (found - batch["cells"][:, key]).norm(dim=-1)
    distance = torch.nan_to_num(distance, nan=float(max(trainee.size_hw)))
    near = known & (distance <= PCK_SHARE * trainee.size_hw[0])
    claimed = rate >= SCORE_MIN
    counts = (near, known, known & claimed, near & claimed, distance * known)
    scores = torch.from_numpy(classification.histogram(rate.numpy(), near.numpy()))
    return torch.cat((torch.stack([c.double().sum() for c in counts]), scores.flatten()))
