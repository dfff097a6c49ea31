"""PSTPose: progressive spatiotemporal refinement of ViT tokens over three frames.

Source: Wu et al., "Attentive Keypoint Identification: Progressive Spatiotemporal Refinement for
Video-based Human Pose Estimation" (PSTPose). The tokens of all frames form one sequence, which
passes

  1. DFE, discriminative feature enhancement: differential attention (eq 1 to 3);
  2. FCG, feature cluster grouping: DPC-KNN clusters of tokens that query all tokens (eq 4 to 6);
  3. DSF, deformable spatiotemporal fusion: attention to tokens read at learned places (eq 7 to 9);

the key frame's tokens then give the heatmaps through ViTPose's classic head. What differs from the
paper, or is not said there:
  * eq 1 to 9 sit in pre-norm residual blocks with an FFN each (`literal=True` leaves both out);
  * eq 2: per-head RMSNorm and the factor 1 - lambda_init, as in Diff-Transformer (`subln`);
  * eq 3: lambda is elementwise, one number per head and channel; lambda_init is the constant 0.8;
  * eq 4: the text says cosine, the formula Euclidean: Euclidean, between tokens normalised without
    affine and divided by sqrt(D), or exp() underflows; ties of the density are broken by index;
  * FCG gives M tokens but DSF needs a map: its cluster's feature is added to a token (`restore`);
  * eq 8: offsets are bounded by tanh to 1 frame and 4 tokens.

Clusters are a discrete choice: where two densities differ by less than rounding, another runtime
can choose other ones. Checked in `test/nets/test_pstpose.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError
from pose_ros.nets.deform import lattice, sample_volume
from pose_ros.nets.layers import (
    EPS,
    Block,
    ClassicHead,
    CrossAttention,
    Mlp,
    attend,
    heads_of,
    wide,
)
from pose_ros.nets.registry import register_net
from pose_ros.nets.video import PoseOut
from pose_ros.nets.vit import TokenConfig, TokenPoseNet, build, init_linear


@dataclass(frozen=True)
class PSTPoseConfig(TokenConfig):
    """Sizes and switches; the defaults are the paper's full model."""

    freeze: bool = False
    dfe: str = "diff"  # "mhsa": standard attention in its place (the paper's baseline), "none"
    fcg: bool = True
    dsf: str = "deform"  # "mhsa": the same block at the undeformed places, "none"
    lambda_mode: str = "channel"  # "head": one scalar per head, as in Diff-Transformer
    lambda_init: float = 0.8
    subln: bool = True  # RMSNorm per head and * (1 - lambda_init)
    cluster_ratio: float = 0.25  # M / L
    knn: int = 5
    knn_include_self: bool = False  # TCFormer counts a token among its own neighbours
    restore: str = "token2map"  # "revattn": tokens query the clusters
    offset_groups: int = 4
    offset_range: tuple[float, float, float] = (1.0, 4.0, 4.0)  # frames, rows, columns
    integration: str = "token"  # "channel": one frame's worth of tokens from all channels
    literal: bool = False  # no residuals and no FFN around eq 2, 6 and 9
    key_only: bool = False  # eq 9 only for the key frame's tokens: the same answer for less

    CHOICES: ClassVar[dict[str, tuple[object, ...]]] = {
        "dfe": ("diff", "mhsa", "none"),
        "dsf": ("deform", "mhsa", "none"),
        "lambda_mode": ("channel", "head"),
        "restore": ("token2map", "revattn"),
        "integration": ("token", "channel"),
    }


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-5) * weight; torch's own does not export to ONNX opset 17."""

    def __init__(self, width: int) -> None:
        """Build it with weights of 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to the same shape."""
        scale = torch.rsqrt(wide(x).square().mean(-1, keepdim=True) + 1e-5)
        return (wide(x) * scale).to(x.dtype) * self.weight


class DiffAttention(nn.Module):
    """Differential attention: what the positive pathway sees and the negative one does not."""

    lambda_init: torch.Tensor

    def __init__(self, dim: int, config: PSTPoseConfig) -> None:
        """Build it with heads of 128 channels."""
        super().__init__()
        self.heads = max(1, dim // 128)
        self.subln = config.subln
        width = dim // self.heads  # of v; q and k have half of it in each pathway
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.per_head = config.lambda_mode == "head"
        size = (4, self.heads, width // 2 if self.per_head else width)
        self.lambdas = nn.Parameter(torch.randn(size) * 0.1)  # q1, k1, q2, k2
        self.register_buffer("lambda_init", torch.tensor(config.lambda_init))
        self.norm = RmsNorm(width) if config.subln else nn.Identity()

    def balance(self) -> torch.Tensor:
        """Lambda (heads, width) or (heads, 1) of eq 3."""
        first, second = self.lambdas[0] * self.lambdas[1], self.lambdas[2] * self.lambdas[3]
        if self.per_head:
            first, second = first.sum(-1, keepdim=True), second.sum(-1, keepdim=True)
        return first.exp() - second.exp() + self.lambda_init  # eq 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, L, D)."""
        q, k = (p(x).unflatten(2, (self.heads, 2, -1)).transpose(1, 2) for p in (self.q, self.k))
        v = self.v(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, h, L, dv)
        positive, negative = (  # eq 1, and the two terms of eq 2; q, k: (B, h, L, 2, dq)
            F.scaled_dot_product_attention(q[..., side, :], k[..., side, :], v) for side in (0, 1)
        )
        out = positive - self.balance()[:, None].to(x.dtype) * negative  # eq 2
        out = self.norm(out)
        if self.subln:
            out = out * (1.0 - self.lambda_init.to(out.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


class Residual(nn.Module):
    """A mixing step of normalised tokens in its pre-norm block, or bare when `literal`."""

    def __init__(self, mix: nn.Module, dim: int, literal: bool) -> None:
        """Wrap `mix`, which maps normalised tokens (and sources) to (B, L, D)."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, EPS)
        self.mix = mix
        self.literal = literal
        if not literal:
            self.norm2 = nn.LayerNorm(dim, EPS)
            self.mlp = Mlp(dim, 4 * dim)

    def forward(
        self, x: torch.Tensor, *sources: torch.Tensor, rows: slice | None = None
    ) -> torch.Tensor:
        """(B, L, D) -> (B, L, D), or only some rows of it, when `mix` can leave others out."""
        if rows is None:
            mixed = self.mix(self.norm1(x), *sources)
        else:
            mixed = self.mix(self.norm1(x), *sources, rows=rows)
            x = x[:, rows]
        if self.literal:
            return mixed
        x = x + mixed
        return x + self.mlp(self.norm2(x))


def rank(values: torch.Tensor) -> torch.Tensor:
    """Place of each of the (B, L) values in descending order; equal ones in order of index."""
    index = torch.arange(values.shape[1], device=values.device)
    mine, other = values[:, :, None], values[:, None, :]
    before = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
    return before.float().sum(2).long()  # exact; ONNX Runtime adds integers slowly


@torch.no_grad()
def dpc_knn(
    tokens: torch.Tensor, clusters: int, knn: int = 5, include_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Assign L tokens (B, L, D) to M clusters by density peaks.

    Returns the cluster of each token (B, L) and the token at each cluster's centre (B, M).
    Everything is float32 and decided by comparisons, so it is the same on every run.
    Source: Du et al., "Study on density peaks clustering based on k-nearest neighbors", 2016.
    """
    kind = "cpu" if tokens.is_meta else tokens.device.type
    with torch.autocast(kind, enabled=False):  # distances in bfloat16 would tie
        length, dim = (int(size) for size in tokens.shape[1:])
        x = F.layer_norm(tokens.float(), (dim,))
        squares = x.square().sum(-1)
        squared = squares[:, :, None] + squares[:, None, :] - 2.0 * x @ x.transpose(1, 2)
        off_diagonal = 1.0 - torch.eye(length, device=x.device)
        squared = squared.clamp_min(0.0) * off_diagonal / dim  # D_ij^2 / D
        near = squared if include_self else squared + 1e6 * (1.0 - off_diagonal)
        neighbours = min(knn, length if include_self else length - 1)
        nearest = near.topk(neighbours, 2, largest=False).values  # mean of none is no density
        density = torch.exp(-nearest.sum(2) / max(neighbours, 1))  # eq 4
        place = rank(density)
        denser = place[:, None, :] < place[:, :, None]  # (B, i, j): j is denser than i
        to_denser = squared.masked_fill(~denser, float("inf")).amin(2)
        peak = place == 0  # exactly one token has no denser one
        distance = torch.where(peak, squared.amax(2), to_denser).sqrt()  # eq 5
        order = rank(density * distance)  # of gamma; the first M are the centres
        number = torch.arange(clusters, device=x.device)[:, None]
        is_centre = order[:, None] == number  # (B, M, L), one True in each row
        to_centre = is_centre.to(x.dtype) @ squared  # each row picks one of squared, exactly
        assigned = to_centre.masked_fill(is_centre, -1.0).argmin(1)  # a centre is its own
        return assigned, is_centre.to(x.dtype).argmax(2)


class ClusterGrouping(nn.Module):
    """FCG: group tokens, let the groups query all tokens, hand the answer back to the members."""

    def __init__(self, dim: int, config: PSTPoseConfig, length: int) -> None:
        """Build it for sequences of `length` tokens."""
        super().__init__()
        self.config = config
        self.clusters = max(1, math.ceil(config.cluster_ratio * length - 1e-9))
        self.score = nn.Linear(dim, 1)
        self.norm = nn.LayerNorm(dim, EPS)
        self.attend = Residual(CrossAttention(dim, heads_of(dim)), dim, config.literal)
        self.restore: nn.Module
        if config.restore == "token2map":
            self.restore = nn.Linear(dim, dim)
        else:
            self.norm_back = nn.LayerNorm(dim, EPS)
            self.restore = CrossAttention(dim, heads_of(dim))

    def merge(self, tokens: torch.Tensor, assigned: torch.Tensor) -> torch.Tensor:
        """Mean (B, M, D) of each cluster's tokens, weighted by softmax of their scores."""
        number = torch.arange(self.clusters, device=tokens.device)[:, None]
        score = wide(self.score(tokens)).transpose(1, 2)  # (B, 1, L)
        outside = assigned[:, None] != number  # (B, M, L); no row is all True
        weight = torch.softmax(score.masked_fill(outside, float("-inf")), 2)
        return weight.to(tokens.dtype) @ tokens

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """F1 (B, L, D) -> F2 (B, L, D) and the cluster of each token (B, L)."""
        config = self.config
        assigned, _ = dpc_knn(x, self.clusters, config.knn, config.knn_include_self)
        merged = self.merge(x, assigned)
        queried = self.attend(merged, self.norm(x))  # eq 6, (B, M, D)
        if config.restore == "revattn":
            return x + self.restore(self.norm_back(x), queried), assigned
        index = assigned[:, :, None].expand(-1, -1, x.shape[2])
        return x + self.restore(queried).gather(1, index), assigned


class OffsetNet(nn.Module):
    """theta_offset of eq 7: depthwise 3x3x3 conv, LayerNorm, GELU, 1x1x1 to (dt, dy, dx)."""

    def __init__(self, channels: int) -> None:
        """Build it; the offsets start near zero."""
        super().__init__()
        self.depthwise = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels, EPS)
        self.out = nn.Linear(channels, 3, bias=False)

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        """(N, C, T, rows, columns) -> (N, T, rows, columns, 3)."""
        x = self.norm(self.depthwise(query).permute(0, 2, 3, 4, 1))
        return self.out(F.gelu(x))


class DeformableFusion(nn.Module):
    """DSF: every token attends to tokens read at places that move with the body."""

    reach: torch.Tensor

    def __init__(self, dim: int, config: PSTPoseConfig, volume: tuple[int, int, int]) -> None:
        """Build it for token volumes (T, rows, columns)."""
        super().__init__()
        self.volume, self.groups = volume, config.offset_groups
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.deform = config.dsf == "deform"
        if self.deform:
            self.offset = OffsetNet(dim // self.groups)
        self.register_buffer("reach", torch.tensor(config.offset_range), persistent=False)

    def to_volume(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B*G, D/G, T, rows, columns)."""
        channels = x.shape[2] // self.groups
        return x.transpose(1, 2).reshape(-1, channels, *self.volume)

    def sample(self, x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Tokens (B, L, D) read at P + dP, in the order of the queries; eq 7 and 8."""
        frames, rows, columns = self.volume
        move = torch.tanh(wide(self.offset(self.to_volume(q)))) * self.reach  # dt, dy, dx
        places = lattice(frames, rows, columns, like=move) + move.flip(-1)  # x, y, t
        sampled = sample_volume(self.to_volume(x), places.flatten(2, 3))
        return sampled.reshape(-1, x.shape[2], frames * rows * columns).transpose(1, 2)

    def forward(self, x: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
        """(B, L, D) -> (B, L, D), or the given rows of it, x normalised; eq 9."""
        q = self.q(x)
        source = self.sample(x, q) if self.deform else x
        k, v = self.kv(source).chunk(2, -1)
        q = q if rows is None else q[:, rows]
        return self.proj(attend(q, k, v, heads_of(x.shape[2])))


class PSTPose(TokenPoseNet):
    """The network. ``aux``: ``clusters`` (B, L), the cluster of each token, when FCG is on."""

    config: PSTPoseConfig

    def __init__(self, config: PSTPoseConfig) -> None:
        """Build the network with random weights."""
        super().__init__(config)
        if self.dim % config.offset_groups or not 0.0 < config.cluster_ratio <= 1.0:
            raise ConfigError(
                f"expected offset_groups to divide {self.dim} and cluster_ratio in (0, 1], got "
                f"{config.offset_groups} and {config.cluster_ratio}"
            )
        dim, frames, tokens = self.dim, config.frames, config.grid_hw[0] * config.grid_hw[1]
        self.merged = config.integration == "channel"
        self.e_time = nn.Parameter(torch.randn(frames, 1, dim) * 0.02)
        self.e_pos = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        self.integrate = nn.Linear(frames * dim, dim) if self.merged else nn.Identity()
        self.dfe: nn.Module = nn.Identity()
        if config.dfe == "diff":
            self.dfe = Residual(DiffAttention(dim, config), dim, config.literal)
        elif config.dfe == "mhsa":
            self.dfe = Block(dim, heads_of(dim))
        volume = (1 if self.merged else frames, *config.grid_hw)
        self.fcg = ClusterGrouping(dim, config, math.prod(volume)) if config.fcg else None
        self.dsf: nn.Module = nn.Identity()
        if config.dsf != "none":
            self.dsf = Residual(DeformableFusion(dim, config, volume), dim, config.literal)
        self.norm = nn.LayerNorm(dim, EPS)
        for part in (self.integrate, self.dfe, self.fcg, self.dsf, self.adapter):
            if part is not None:
                init_linear(part)
        for block in self.modules():
            if isinstance(block, OffsetNet):
                nn.init.normal_(block.out.weight, std=1e-3)
        self.head = ClassicHead(dim, config.joints, config.head_channels)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Tokens (B, T, N, D) -> heatmaps (B, K, h, w); distances and labels are not used."""
        x = features[0] + self.e_time + self.e_pos
        per_token = x.transpose(1, 2).flatten(2) if self.merged else x.flatten(1, 2)
        x = self.integrate(per_token)  # F_st (B, T*N, D), or (B, N, D) when channels are merged
        aux = {}
        x = self.dfe(x)  # F1
        if self.fcg is not None:
            x, aux["clusters"] = self.fcg(x)  # F2
        tokens = self.e_pos.shape[1]
        first = 0 if self.merged else self.config.key * tokens
        key = slice(first, first + tokens)
        if self.config.key_only and self.config.dsf != "none":
            x = self.dsf(x, rows=key)  # F3 of the key frame
        else:
            x = self.dsf(x)[:, key]
        return PoseOut(self.head(self.to_map(self.norm(x))), aux)


@register_net("pstpose_vitl")
def pstpose_vitl(**overrides: object) -> nn.Module:
    """The paper's size: ViT-L, PoseTrack's 15 joints, 256x192."""
    return build(PSTPose, PSTPoseConfig(), overrides)


ROBOT = PSTPoseConfig(
    backbone="vit_s", freeze=True, joints=17, model_dim=128, head_channels=128, key_only=True
)


@register_net("pstpose_robot")
def pstpose_robot(**overrides: object) -> nn.Module:
    """For live use: frozen ViT-S, 128 wide fusion, COCO's 17 joints."""
    return build(PSTPose, ROBOT, overrides)


@register_net("pstpose_movenet")
def pstpose_movenet(**overrides: object) -> nn.Module:
    """For robots without a GPU: MoveNet Thunder's trunk, 96 wide fusion, COCO's 17 joints."""
    config = replace(ROBOT, backbone="movenet_thunder", model_dim=96, head_channels=64)
    return build(PSTPose, config, overrides)


@register_net("pstpose_prior")
def pstpose_prior(**overrides: object) -> nn.Module:
    """On MoveNet's own answer (`pstpose_prior.py`): five frames, 64 wide, COCO's 17 joints."""
    from pose_ros.nets.pstpose_prior import PstPosePrior  # it has these modules in it

    sizes = {"model_dim": 64, "frames": 5, "key": 3}
    config = replace(ROBOT, backbone="movenet_thunder", key_only=False, **sizes)
    return build(PstPosePrior, config, overrides)
