"""Adaptive pose refinement (APRS) inside the loss of HSTPN: paper 000, eq 32.

The joints of a window are read from its heatmaps, refined by a few differentiable iterations, and
what the refinement leaves of its energies is the loss: a network whose joints need no refinement
has none. Letters: B windows, T frames, K joints, (h, w) cells.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from pose_ros.core.anthropometry import anatomy_of
from pose_ros.core.refine import open_window, stream_config, unroll
from pose_ros.core.skeletons import Skeleton
from pose_ros.training.losses import moved, near_truth, normalised

#: Frames of a window are taken to be this far apart; it matters for the speed limit only.
RATE_HZ = 25.0


def refined(
    heatmaps: torch.Tensor,
    true_xy: torch.Tensor,
    visible: torch.Tensor,
    skeleton: Skeleton,
    steps: int,
    shake: torch.Tensor,
    to_key: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq 32's sum of energies over ``steps`` iterations, and the refined joints' distance (eq 5).

    Maps (B, T, K, h, w); true_xy (B, T, K, 2) in cells; visible (B, T, K). Positions are shares of
    the heatmap's longer side. The longest a bone of the labels is in the window, times ``shake``
    (B,), limits it; ``to_key`` is that of `losses.hstpn`. Joints that are not labelled, or whose
    highest cell is far from the label, count as unseen. Means over people; 0 for one frame.
    """
    if heatmaps.shape[1] < 2:
        return heatmaps.new_zeros(()), heatmaps.new_zeros(())
    size = (heatmaps.shape[-2], heatmaps.shape[-1])
    cells, found = near_truth(heatmaps, true_xy, visible)
    seen = found > 0
    xy, truth = (normalised(moved(c, to_key), size).float() for c in (cells, true_xy))
    points = torch.where(seen[..., None], xy, torch.full_like(xy, torch.nan))
    confidence = heatmaps.detach().flatten(3).amax(3).float().clamp(0.0, 1.0) * seen
    lengths = bone_lengths(truth, visible > 0, skeleton) * shake[:, None]
    stamps = np.broadcast_to(np.arange(points.shape[1]) / RATE_HZ, tuple(points.shape[:2]))
    config = replace(stream_config(2), iterations=steps)
    window, start = open_window(points, confidence, stamps, lengths, skeleton, config)
    done = unroll(window, start, steps)
    weight = done.terms.new_tensor(
        [0.0, config.lambda_spatial, window.lambda_t, config.lambda_domain]
    )
    energy = (done.terms[1:] * weight[:, None]).sum((0, 1)).mean()
    distance = F.smooth_l1_loss(done.points, truth, reduction="none", beta=0.05).sum(-1)
    return energy, (distance * found).sum() / max(seen.shape[0] * seen.shape[1], 1)


def bone_lengths(xy: torch.Tensor, known: torch.Tensor, skeleton: Skeleton) -> torch.Tensor:
    """(B, E) longest that every bone of joints (B, T, K, 2) looks in a window, NaN if never known.

    A projected bone can only be shorter than the bone.
    """
    edges = anatomy_of(skeleton).edges
    a, b = edges[:, 0], edges[:, 1]
    length = (xy[:, :, a] - xy[:, :, b]).norm(dim=-1)
    both = known[:, :, a] & known[:, :, b]
    longest = torch.where(both, length, torch.full_like(length, -1.0)).amax(1)
    return torch.where(longest >= 0, longest, torch.full_like(longest, torch.nan))
