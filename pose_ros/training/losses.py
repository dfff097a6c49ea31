"""Losses of the five papers: pure functions of tensors.

B people, T frames, K joints, (h, w) heatmap cells. ``visible`` is 1 where a joint is labelled
inside the crop and 0 elsewhere; what is not visible costs nothing, whatever stands in its place,
NaN included. Labels that count less, or more, have that weight in its place. Positions are (x, y);
`temporal` and `motion` want them in units of the longer side of the heatmap (`normalised`), as
paper 000's eq 3 does.

Papers: 000 HSTPN, 001 PSTPose, 002 VREMD, 003 STDPose, 004 DSA. Checked in
`test/training/test_losses.py` (numbers by hand, finite differences).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pose_ros.errors import ConfigError, ShapeError

LAMBDA_TEMPORAL = 0.001  # eq 23 of paper 000; small, because eq 20 pulls towards standing still
BETA_MOTION = 0.1  # eq 23 of paper 000
NEAR_CELLS = 7  # window of the soft-argmax: as far as its gradient can see
FAR_CELLS = 2.0  # off an epipolar line, from which a joint pulls no harder
EPS = 1e-6  # of standard deviations
#: STDPose's information term may be so large a share of the heatmaps' error, from this step on.
INFORMATION_SHARE, INFORMATION_STEPS = 0.5, 1000
CORRELATION_EPS = 1e-4  # keeps the information of equal channels finite


@dataclass(frozen=True)
class MutualInformation:
    """Settings of paper 003's eq 2."""

    impl: str = "vsd"  # "fami_compat": as FAMI-Pose's code computes it; "off"
    alpha: float = 0.1  # of the features' term
    beta: float = 0.01  # of the heatmaps' term
    tau: float = 0.05  # temperature of the softmax over cells
    red: float = 0.1  # redundancy of the features, relative to their relevance
    red_hm: float = 0.0  # redundancy of the heatmaps; it would push a correct map away

    def __post_init__(self) -> None:
        """Refuse an unknown implementation."""
        if self.impl not in ("vsd", "fami_compat", "off"):
            raise ConfigError(f"mi.impl: expected vsd, fami_compat or off, got {self.impl}")


def joint_mse(
    heatmaps: torch.Tensor,
    target: torch.Tensor,
    visible: torch.Tensor,
    joint_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over joints of the mean squared error of visible maps (B, K, h, w); visible (B, K).

    The mean over people and cells counts invisible maps as zeros. ``joint_weight`` (K,) weights
    joints; DCPose has 1.2 for elbows and knees, 1.5 for wrists and ankles.
    Source: papers 000 eq 4 and 21, 001 eq 10, 002 eq 5, 003 eq 4, 004 eq 7 (squared).

    Raises:
        ShapeError: shapes do not belong together.

    """
    if heatmaps.shape != target.shape or heatmaps.shape[:2] != visible.shape:
        raise ShapeError(
            f"joint_mse: expected heatmaps and target (B, K, h, w) and visible (B, K), got "
            f"{tuple(heatmaps.shape)}, {tuple(target.shape)}, {tuple(visible.shape)}"
        )
    mask = visible[:, :, None, None] > 0
    error = torch.where(mask, heatmaps - target, torch.zeros_like(heatmaps)).square()
    error = error * visible[:, :, None, None]
    if joint_weight is not None:
        error = error * joint_weight[:, None, None]
    return error.sum() / max(error.numel(), 1)


def soft_argmax(heatmaps: torch.Tensor, beta: float = 10.0, window: int = 7) -> torch.Tensor:
    """Position (..., K, 2) of the peak of maps (..., K, h, w), (x, y) in cells, differentiable.

    The mean of the cells' positions under softmax(beta * map), of ``window`` x ``window`` cells
    about the highest one, because a whole map pulls to its centre; window 0 is the whole map.
    """
    h, w = heatmaps.shape[-2:]
    flat = heatmaps.flatten(-2).float()
    cells = torch.arange(h * w, device=heatmaps.device)
    x, y = (cells % w), (cells // w)
    logits = beta * flat
    if window:
        peak = flat.detach().argmax(-1, keepdim=True)
        far = torch.maximum((x - peak % w).abs(), (y - peak // w).abs()) > window // 2
        logits = logits.masked_fill(far, -torch.inf)
    weight = logits.softmax(-1)
    return weight @ torch.stack((x, y), 1).to(weight)


def normalised(xy: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """Positions in cells as shares of the heatmap's longer side: paper 000, eq 3 for a crop."""
    return xy / max(size_hw)


def temporal(xy: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Squared steps of joints (B, T, K, 2) from frame to frame; 0 for one frame.

    Summed over joints, mean over steps and people; a step counts when both ends are visible
    (B, T, K), as much as the lesser of them.
    Source: paper 000, eq 20.
    """
    return _step_loss(xy[:, 1:] - xy[:, :-1], visible)


def motion(xy: torch.Tensor, true_xy: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Squared difference between predicted and true steps of joints (B, T, K, 2).

    Means and visibility as in `temporal`. Source: paper 000, eq 22.
    """
    return _step_loss((xy[:, 1:] - xy[:, :-1]) - (true_xy[:, 1:] - true_xy[:, :-1]), visible)


def _step_loss(steps: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Squared length of steps (B, T - 1, K, 2), where both ends are visible (B, T, K)."""
    both = torch.minimum(visible[:, 1:], visible[:, :-1])[..., None]
    steps = torch.where(both > 0, steps, torch.zeros_like(steps))
    return (steps.square() * both).sum() / max(steps.shape[0] * steps.shape[1], 1)


def hstpn(
    heatmaps: torch.Tensor,
    target: torch.Tensor,
    true_xy: torch.Tensor,
    visible: torch.Tensor,
    to_key: torch.Tensor | None = None,
    joint_weight: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Terms and ``total`` of paper 000's eq 23, on all frames of a window.

    Maps (B, T, K, h, w); true_xy (B, T, K, 2) in cells; visible (B, T, K). Positions are read by
    `soft_argmax`, for the argmax of eq 19 has no gradient. Where the highest cell lies outside the
    window of the truth, eq 20 and 22 do not count: the gradient cannot move it there, and early
    in training jumps of such cells would outweigh eq 21 tenfold. Frames of other crops are
    compared in the key frame's cells, to which ``to_key`` (B, T, 3, 3) maps theirs.
    """
    size = (heatmaps.shape[-2], heatmaps.shape[-1])
    cells, found = near_truth(heatmaps, true_xy, visible)
    xy, truth = (normalised(moved(c, to_key), size) for c in (cells, true_xy))
    maps, wanted, weight = (t.flatten(0, 1) for t in (heatmaps, target, visible))
    terms = {
        "heatmap": joint_mse(maps, wanted, weight, joint_weight),  # eq 21
        "temporal": temporal(xy, found),
        "motion": motion(xy, truth, found),
    }
    total = terms["heatmap"] + LAMBDA_TEMPORAL * terms["temporal"] + BETA_MOTION * terms["motion"]
    return terms | {"total": total}


def near_truth(
    heatmaps: torch.Tensor, true_xy: torch.Tensor, visible: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints (..., K, 2) in cells by `soft_argmax`, and ``visible`` where they are near the truth.

    Far joints are 0 there: the gradient of a soft-argmax does not reach further.
    """
    cells = soft_argmax(heatmaps, window=NEAR_CELLS)
    far = (cells.detach() - true_xy).abs().amax(-1) > NEAR_CELLS // 2
    return cells, torch.where(far, torch.zeros_like(visible), visible)


def moved(cells: torch.Tensor, to_key: torch.Tensor | None) -> torch.Tensor:
    """Cells (B, T, K, 2) through affine maps (B, T, 3, 3), or as they are."""
    if to_key is None:
        return cells
    return cells @ to_key[..., :2, :2].transpose(-1, -2) + to_key[..., None, :2, 2]


def epipolar(
    one: torch.Tensor, two: torch.Tensor, matrix: torch.Tensor, score_min: float
) -> torch.Tensor:
    """How far the joints of maps (B, K, h, w) of two views are from being those of one body.

    ``matrix`` (B, 3, 3) relates cells x of the first and y of the second, y^T E x = 0; zero where
    there is no second view. The Sampson distance of the joints in shares of the maps' longer side,
    squared; Huber's beyond FAR_CELLS. Joints below ``score_min`` in either view do not count. Mean
    over pairs and joints that do; 0 when none does.
    Source: Hartley and Zisserman, Multiple View Geometry, second edition, eq 11.9.
    """
    sure = torch.minimum(one.detach().flatten(2).amax(2), two.detach().flatten(2).amax(2))
    norm = matrix.square().sum((1, 2))
    counts = (sure >= score_min) & (norm > 0)[:, None]
    x, y = (F.pad(soft_argmax(m, window=NEAR_CELLS), (0, 1), value=1.0) for m in (one, two))
    lines, back = x @ matrix.transpose(1, 2).to(x), y @ matrix.to(y)  # (B, K, 3)
    slope = lines[..., :2].square().sum(-1) + back[..., :2].square().sum(-1)
    off = (y * lines).sum(-1) / torch.where(counts, slope, torch.ones_like(slope)).sqrt()
    reach = torch.full_like(off, FAR_CELLS)
    cost = torch.where(off.abs() <= reach, off.square(), reach * (2.0 * off.abs() - reach))
    cost = torch.where(counts, cost, torch.zeros_like(cost))
    return cost.sum() / counts.sum().clamp_min(1) / max(one.shape[-2:]) ** 2


def relevance(
    maps: torch.Tensor, target: torch.Tensor, visible: torch.Tensor, tau: float = 0.05
) -> torch.Tensor:
    """KL(target || maps), nats, of the maps as distributions over cells; mean of visible joints.

    Maps and target (B, K, h, w), visible (B, K); 0 when nothing is visible. The smaller it is, the
    more the maps tell about the label.
    Source: paper 003, eq 2, reduced as in FAMI-Pose (Liu et al., CVPR 2022, section 3.4).
    """
    shown = visible > 0
    both = (torch.where(shown[:, :, None, None], m, torch.zeros_like(m)) for m in (maps, target))
    log_p, log_q = (F.log_softmax(m.float().flatten(2) / tau, 2) for m in both)
    kl = (log_q.exp() * (log_q - log_p)).sum(2)
    return (kl * visible).sum() / shown.sum().clamp_min(1)


def redundancy(known: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """Mutual information, nats, of two features if they were Gaussian; mean over channels.

    Features (B, C, h, w) or (B, C, N); each channel's correlation is over people and places. No
    gradient goes to ``known``. Finite for constant and for equal channels; float32.
    Source: paper 003, eq 2; Cover and Thomas, Elements of Information Theory, eq 8.56.
    """
    a, b = _standardised(known.detach()), _standardised(learned)
    rho = (a * b).mean(1)
    return -0.5 * torch.log(1.0 - rho.square() + CORRELATION_EPS).mean()


def _standardised(x: torch.Tensor) -> torch.Tensor:
    """Channels (C, people * places) with mean 0 and deviation 1, or all 0 when constant."""
    flat = x.float().transpose(0, 1).flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    variance = flat.square().mean(1, keepdim=True)
    # a root has no gradient at zero: constant channels go around it
    deviation = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    return flat / (torch.where(variance > 0, deviation, torch.zeros_like(deviation)) + EPS)


def fami_relevance(maps: torch.Tensor, target: torch.Tensor, tau: float = 0.05) -> torch.Tensor:
    """What FAMI-Pose's released code calls mutual information, for comparison with it only.

    Probabilities stand where `kl_div` expects their logarithms, the maps get no gradient, and the
    mean goes over people, joints and cells.
    """
    p, q = ((m.flatten(2) / tau).softmax(2) for m in (maps.detach(), target))
    return F.kl_div(p, q, reduction="sum") / p.numel()


def stdpose_information(
    read: torch.Tensor,
    heatmaps: torch.Tensor,
    target: torch.Tensor,
    visible: torch.Tensor,
    pairs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    config: MutualInformation,
) -> torch.Tensor:
    """L_MI of the spatiotemporal feature and heatmap, divided by h*w (not for ``fami_compat``).

    ``read`` (B, K, h, w) are maps read from the fused feature by a 1x1 convolution of its own,
    ``heatmaps`` (B, K, h, w) the fused maps; ``pairs`` are the key frame's feature, the fused
    feature (both (B, C, ...)), the key frame's map and the fused map (both (B, K, h, w)).
    Source: paper 003, eq 2; divided because eq 4 sums over cells where `joint_mse` takes the mean.
    """
    if config.impl == "off":
        return read.new_zeros(())
    if config.impl == "fami_compat":
        features = fami_relevance(read, target, config.tau)
        return config.alpha * features + config.beta * fami_relevance(heatmaps, target, config.tau)
    of_feature = relevance(read, target, visible, config.tau)
    of_heatmap = relevance(heatmaps, target, visible, config.tau)
    if config.red:
        of_feature = of_feature + config.red * redundancy(pairs[0], pairs[1])
    if config.red_hm:
        of_heatmap = of_heatmap + config.red_hm * redundancy(pairs[2], pairs[3])
    cells = target.shape[-2] * target.shape[-1]
    return (config.alpha * of_feature + config.beta * of_heatmap) / cells


def information_outweighs(terms: Mapping[str, float], step: int) -> bool:
    """Whether STDPose's information term pulls more than it should, late enough to say so.

    It is a regulariser: beside an error of the heatmaps of 4e-3 an unscaled term would be all
    that is learned. False for other networks, which have no such term.
    """
    share = INFORMATION_SHARE * terms.get("heatmap", math.inf)
    return step >= INFORMATION_STEPS and abs(terms.get("information", 0.0)) > share


def stdpose(
    final: torch.Tensor,
    initial: torch.Tensor,
    target: torch.Tensor,
    visible: torch.Tensor,
    information: torch.Tensor,
    aux_head_weight: float = 1.0,
    joint_weight: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Terms and ``total`` of paper 003's objective.

    ``final`` and ``initial`` (B, K, h, w) are the answer and the key frame's prediction before any
    label was rendered in; ``information`` is `stdpose_information`.
    Source: paper 003, eq 2 and 4; the paper does not say how the initial head learns.
    """
    terms = {
        "heatmap": joint_mse(final, target, visible, joint_weight),
        "initial": joint_mse(initial, target, visible, joint_weight),
        "information": information,
    }
    total = terms["heatmap"] + information + aux_head_weight * terms["initial"]
    return terms | {"total": total}
