"""PSTPose on top of MoveNet's own answer: its modules learn how to mix the frames of a window.

Weights that MoveNet's authors trained on all of COCO cannot be matched by a new head and little
data. `PstPosePrior` therefore starts from what MoveNet says of every frame by itself, maps whose
peak is its joint (`movenet_trunk.evidence`), and the paper's modules learn which frames' maps to
believe, and where to read them:

  * the tokens are T x K, one per frame and joint (the paper: one per frame and 16 x 16 pixels), of
    MoveNet's feature at the joint and of where and how surely it was found;
  * DFE and FCG (eq 1 to 6) are the paper's, `pstpose.DiffAttention` and `ClusterGrouping`;
  * DSF (eq 7 to 9) reads maps in place of features: a joint of the key frame asks the tokens of
    the same joint, the map of frame s is read at P + dP, and what is read is mixed by the softmax
    of eq 9 (`EvidenceFusion`), with a bias for how well a frame's place fits the others'. P moves
    with the body, at the joint's speed in the window; dP is learned and bounded by the paper's 4
    tokens, 16 cells;
  * the mix is added to the key frame's map as a residual whose strength starts as 0: a new network
    answers exactly as MoveNet, and so does a trained one where no other frame exists.

Cells are MoveNet's: the card's ``cell_shift_px`` is -0.5. `pstpose.py` builds the network, with
five frames, t - 3 ... t + 1: look for @register_net("pstpose_prior"), by which exports know that
they are made of this file, too. Checked in `test/nets/test_pstpose_prior.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.deform import sample_map
from pose_ros.nets.hstpn import normalise
from pose_ros.nets.layers import EPS, Block, for_everybody, heads_of
from pose_ros.nets.movenet import MoveNet, MoveNetConfig, PoseHeads
from pose_ros.nets.movenet_trunk import FASTEST, MOVENET_WIDTHS, NEAR, SPREAD, evidence, shift
from pose_ros.nets.pstpose import (
    ClusterGrouping,
    DiffAttention,
    PSTPoseConfig,
    Residual,
)
from pose_ros.nets.video import PoseOut, VideoPoseNet, Window
from pose_ros.nets.vit import PATCH, STRIDE, init_linear

CELLS = float(PATCH // STRIDE)  # heatmap cells per token of the paper
FACTS = 9  # of a joint in a frame, before its features: `describe`
GEOMETRY = 14  # numbers that `geometry` makes of them
RIDGE = 0.1  # frames squared: a speed from frames close together is not believed


def describe(psi: torch.Tensor, heads: PoseHeads, drawn: torch.Tensor) -> torch.Tensor:
    """What a frame says of each joint in numbers: (N, K, FACTS + 2 C).

    First: where it is (x, y in cells, as MoveNet decodes it), how sure that is, where the next
    best peak is (relative to the first) and how high, where the body as a whole wants the joint
    (relative, too), and the share of the crop that may be it. Then the feature ``psi``
    (N, C, h / 2, w / 2) at the joint, and the mean of it. ``drawn`` are `evidence`'s first maps.
    """
    rows, columns = (int(side) for side in heads.heatmaps.shape[-2:])
    weighted = (heads.heatmaps * heads.prior).flatten(2)
    peak = weighted.argmax(2, keepdim=True)  # (N, K, 1)
    cell = torch.cat((peak % columns, peak // columns), 2).to(psi)
    moves = [heads.offsets[:, :, axis].flatten(2).gather(2, peak) for axis in (0, 1)]
    xy = cell + torch.cat(moves, 2)
    score = heads.heatmaps.flatten(2).gather(2, peak)
    x = torch.arange(columns, device=psi.device, dtype=psi.dtype) - xy[..., :1]  # (N, K, w)
    y = torch.arange(rows, device=psi.device, dtype=psi.dtype) - xy[..., 1:]
    away = y.square()[..., None] + x.square()[:, :, None] > NEAR**2  # (N, K, h, w)
    height, other = (drawn * away.to(drawn)).flatten(2).max(2, keepdim=True)
    second = torch.cat((other % columns, other // columns), 2).to(psi) - xy
    wanted = heads.prior.flatten(2).argmax(2, keepdim=True)
    body = torch.cat((wanted % columns, wanted // columns), 2).to(psi) - xy
    spread = (weighted / weighted.gather(2, peak).clamp_min(1e-9)).mean(2, keepdim=True)
    here = sample_map(psi, (xy[:, :, None] - 0.5) / 2.0, "border")[..., 0].transpose(1, 2)
    mean = psi.mean((2, 3))[:, None] + here * 0.0
    return torch.cat((xy, score, second, height, body, spread, here, mean), 2)


def geometry(facts: torch.Tensor, exists: torch.Tensor, key: int) -> torch.Tensor:
    """Numbers (B, T, K, GEOMETRY) of about 1 from facts (B, T, K, FACTS) of frames that exist.

    ``exists`` (B, T) is 0 for a frame that repeats its neighbour, else 1.
    """
    xy, score, second, height, body, spread = facts.split((2, 1, 2, 1, 2, 1), 3)
    trust = score * exists[..., None, None]
    middle = (xy * trust).sum((1, 2), keepdim=True) / trust.sum((1, 2), keepdim=True).clamp_min(
        1e-3
    )
    usual = (xy * trust).sum(1, keepdim=True) / trust.sum(1, keepdim=True).clamp_min(1e-3)
    rows = (
        (xy - middle) / CELLS,
        (xy - usual) / 4.0,
        (xy - xy[:, key : key + 1]) / 4.0,
        second / CELLS,
        body / CELLS,
        score * 2.0 - 1.0,
        height * 2.0,
        spread * 10.0,
        exists[..., None, None] + score * 0.0,
    )
    return torch.cat(rows, 3)


class EvidenceFusion(nn.Module):
    """DSF on maps: eq 7 to 9 with a query per joint and the joint's maps as values."""

    def __init__(self, dim: int, config: PSTPoseConfig) -> None:
        """Build it; its answer starts as the key frame's map."""
        super().__init__()
        self.key, self.reach = config.key, config.offset_range[1] * CELLS
        self.norm = nn.LayerNorm(dim, EPS)
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.when = nn.Parameter(torch.zeros(config.frames))
        self.steady = nn.Linear(dim, 1)  # which frames a joint's speed is read from
        self.pair = nn.Linear(dim, dim)
        self.offset = nn.Sequential(
            nn.LayerNorm(dim, EPS), nn.GELU(), nn.Linear(dim, 2, bias=False)
        )
        self.bias = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Linear(16, 1))
        self.strength = nn.Parameter(torch.zeros(config.joints))

    def places(
        self, x: torch.Tensor, xy: torch.Tensor, trust: torch.Tensor, exists: torch.Tensor
    ) -> torch.Tensor:
        """P + dP, how far (B, T, K, 2) in cells each frame's joint is moved to the key frame's.

        ``x`` (B, T, K, D) normalised tokens, ``xy`` (B, T, K, 2) and ``trust`` (B, T, K, 1) where
        the joints are and how surely, ``exists`` (B, T).
        """
        steps = torch.arange(x.shape[1], device=x.device, dtype=x.dtype) - self.key
        steps = steps[:, None, None]  # (T, 1, 1), frames from the key frame
        weight = self.steady(x).clamp(-8.0, 8.0).exp() * trust * exists[..., None, None]
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-6)
        time = steps - (weight * steps).sum(1, keepdim=True)  # (B, T, K, 1)
        apart = (weight * time * xy).sum(1, keepdim=True)  # (B, 1, K, 2)
        speed = apart / ((weight * time.square()).sum(1, keepdim=True) + RIDGE)
        size = speed.square().sum(3, keepdim=True).add(1e-6).sqrt()
        speed = speed * (FASTEST / size).clamp_max(1.0)
        q = self.q(x[:, self.key : self.key + 1])
        move = torch.tanh(self.offset(q + self.pair(x))) * self.reach  # eq 7
        return move - speed * steps

    def agreement(
        self, xy: torch.Tensor, places: torch.Tensor, score: torch.Tensor, exists: torch.Tensor
    ) -> torch.Tensor:
        """What is added to the logits of eq 9 (B, T, K): how well a frame fits the others.

        In the place of the relative position bias of deformable attention. From where each frame
        found the joint, how far it is moved, (B, T, K, 2) in cells, and its score (B, T, K).
        """
        votes = xy + places
        apart = (votes[:, :, None] - votes[:, None]).square().sum(4)  # (B, T, T, K)
        near = (-apart / (2.0 * SPREAD**2)).exp()
        trust = score * exists[..., None]
        support = (near * trust[:, None]).sum(2) / trust.sum(1, keepdim=True).clamp_min(1e-3)
        from_key = (apart[:, self.key] + 1e-4).sqrt().log1p()
        moved = (places.square().sum(3) + 1e-4).sqrt().log1p()
        same = score * 0.0  # zeros_like would fix the number of people in exports
        key = slice(self.key, self.key + 1)
        clues = (score, same + score[:, key], near[:, self.key], from_key, support,
                 same + support[:, key], moved)  # fmt: skip
        return self.bias(torch.stack(clues, 3))[..., 0]

    def forward(
        self,
        tokens: torch.Tensor,
        maps: torch.Tensor,
        facts: torch.Tensor,
        exists: torch.Tensor,
        joints: torch.Tensor | slice = slice(None),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Heatmaps (B, K, h, w), and where each frame says the joint is now (B, T, K, 2).

        From tokens (B, T, K, D), maps (B, T, K, h, w), facts (B, T, K, FACTS + ...) and
        ``exists`` (B, T); ``joints`` are those that are given, all by default.
        """
        x = self.norm(tokens)
        now = maps[:, self.key]
        places = self.places(x, facts[..., :2], facts[..., 2:3], exists)
        q = self.q(x[:, self.key : self.key + 1])
        logits = (q * self.k(x)).sum(3) * x.shape[3] ** -0.5 + self.when[:, None]  # (B, T, K)
        votes = facts[..., :2] + places
        logits = logits + self.agreement(facts[..., :2], places, facts[..., 2], exists)
        logits = logits + (exists[..., None] - 1.0) * 1e4
        share = logits.softmax(1)  # eq 9
        read = shift(maps.flatten(0, 1), places.flatten(0, 1))  # eq 8
        read = read.unflatten(0, (-1, len(self.when)))
        mixed = (share[..., None, None] * read).sum(1)
        others = exists.sum(1) > 1.5
        strength = torch.tanh(self.strength[joints]) * others.to(now)[:, None]
        return now + strength[..., None, None] * (mixed - now), votes


class PstPosePrior(VideoPoseNet):
    """PSTPose whose answer to a single frame is MoveNet's; see the module's docstring.

    ``aux``: ``clusters`` (B, T * K) with FCG, and while training ``votes`` (B, T, K, 2), where
    each frame says the key frame's joint is, in cells.
    """

    def __init__(self, config: PSTPoseConfig) -> None:
        """Build the network with random weights.

        Raises:
            ConfigError: the backbone is no MoveNet, or a part that it needs is switched off.

        """
        super().__init__()
        if (
            config.backbone not in MOVENET_WIDTHS
            or config.dsf != "deform"
            or config.integration != "token"
        ):
            raise ConfigError(
                "PSTPose on MoveNet's answer: expected a MoveNet backbone, dsf deform and "
                f"integration token, got {config.backbone}, {config.dsf} and {config.integration}"
            )
        self.config = config
        self.window = Window(config.frames, config.key)
        self.size_hw_px, self.joints = config.size_hw_px, config.joints
        sizes = MoveNetConfig(MOVENET_WIDTHS[config.backbone], joints=config.joints)
        self.backbone = MoveNet(sizes)
        dim, length = config.model_dim or 64, config.frames * config.joints
        self.embed = nn.Linear(GEOMETRY + 2 * sizes.fpn_channels[-1], dim)
        self.e_time = nn.Parameter(torch.randn(config.frames, 1, dim) * 0.02)
        self.e_joint = nn.Parameter(torch.randn(1, config.joints, dim) * 0.02)
        self.dfe: nn.Module = nn.Identity()
        if config.dfe == "diff":
            self.dfe = Residual(DiffAttention(dim, config), dim, config.literal)
        elif config.dfe == "mhsa":
            self.dfe = Block(dim, heads_of(dim))
        self.fcg = ClusterGrouping(dim, config, length) if config.fcg else None
        self.dsf = EvidenceFusion(dim, config)
        for part in (self.embed, self.dfe, self.fcg, self.dsf):
            if part is not None:
                init_linear(part)
        nn.init.normal_(self.embed.weight, std=0.1)
        for layer in (self.dsf.offset[2], self.dsf.steady):
            nn.init.zeros_(layer.weight)

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to maps (N, K, H / 4, W / 4) and numbers (N, K, FACTS + 2 C)."""
        feature = self.backbone.forward_features(frames)
        heads = self.backbone.forward_head(feature)
        psi = F.avg_pool2d(normalise(feature), 2)
        maps, _raw = evidence(heads)
        return maps, describe(psi, heads, maps)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps (B, K, H / 4, W / 4) of the key frame.

        The distances say which frames of the window exist: those within them.
        """
        if labels is not None:
            raise ShapeError("PSTPose takes no labels: only propagation networks do")
        maps, facts = features
        tokens, exists, aux = self.tokens(facts, dt_left, dt_right)
        heatmaps, votes = self.dsf(tokens, maps, facts, exists)  # F3
        if self.training:
            aux["votes"] = votes
        return PoseOut(heatmaps, aux)

    def tokens(
        self, facts: torch.Tensor, dt_left: torch.Tensor, dt_right: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """F2 (B, T, K, D), which frames exist (B, T), and ``aux``, before the maps are read."""
        step = torch.arange(facts.shape[1], device=facts.device, dtype=facts.dtype)
        step = step - self.window.key
        exists = (step >= -dt_left[:, None] - 0.5) & (step <= dt_right[:, None] + 0.5)
        exists = exists.to(facts)  # (B, T)
        given = geometry(facts[..., :FACTS], exists, self.window.key)
        clues = torch.cat((given, facts[..., FACTS:]), 3) * exists[..., None, None]
        x = self.embed(clues) + for_everybody(self.e_time + self.e_joint, dt_left[:, None])
        x = self.dfe(x.flatten(1, 2))  # F1 (B, T * K, D)
        aux = {}
        if self.fcg is not None:
            x, aux["clusters"] = self.fcg(x)  # F2
        return x.unflatten(1, (self.window.frames, self.joints)), exists, aux
