"""STDPose: dynamic-aware pose estimation, and propagation of sparse labels to the frames between.

Source: "SpatioTemporal Learning for Human Pose Estimation in Sparsely-Labeled Videos" (STDPose).
Over the tokens of a frozen ViT for a left, a key and a right frame, and a first heatmap of each:

  * TFF, temporal feature fusion: three transformer blocks on all tokens, then an MLP over frames;
  * TKS, temporal keypoint semantics: convolutions of the three heatmaps correct the key frame's;
  * DAM, the dynamic-aware mask: where heatmaps change, by a sigmoid threshold (eq 3);
  * STDA: the features attend to the masked heatmaps; the classic head gives the answer.

Two modes of the same weights. *Estimation*: consecutive frames, no labels. *Propagation*: the side
frames lie up to several frames away and their known joints, given as ``labels``, are drawn in
place of their predicted heatmaps. What differs from the paper, or is not said there:
  * eq 3: the softmax over the map is scaled by its size (mean 1), or it would erase the heatmaps;
    forward and backward weights follow the distances, the nearer frame weighs more;
  * heatmaps and features meet on the heatmap grid, after a 64 channel projection of the features;
  * the position embedding has one slot per frame, so a zero-initialised code of the signed
    distance is added (`dt_embed`); TKS sees which frames were labelled (`label_flag`);
  * TKS starts as the identity on the key frame's heatmap.

The objective of eq 1, 2 and 5 is in `training/losses.py`; what it needs is in ``aux``. Checked in
`test/nets/test_stdpose.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.deform import lattice
from pose_ros.nets.layers import (
    EPS,
    Attention,
    Block,
    ClassicHead,
    CrossAttention,
    FrameMlp,
    Mlp,
    conv_bn_relu,
    for_everybody,
    heads_of,
    map_to_tokens,
    wide,
)
from pose_ros.nets.registry import register_net
from pose_ros.nets.video import PoseOut
from pose_ros.nets.vit import TokenConfig, TokenPoseNet, build, init_linear

LOW_CHANNELS = 64  # of the features on the heatmap grid
CODE_WIDTH = 16  # of the sinusoidal code of a distance


@dataclass(frozen=True)
class STDPoseConfig(TokenConfig):
    """Sizes and switches; the defaults are the paper's full model."""

    tff: bool = True
    tks: bool = True
    stda: bool = True
    dam: bool = True
    mi: bool = True  # the projection that the mutual-information objective needs
    tff_blocks: int = 3
    pa_blocks: int = 3
    dam_k: float = 1.5
    dam_theta: float = 0.5
    dam_learnable: bool = False  # k and theta
    dt_embed: bool = True
    label_flag: bool = True
    sigma_cells: float = 2.0  # of the Gaussians drawn for given labels

    CHOICES: ClassVar[dict[str, tuple[object, ...]]] = {"frames": (3,)}


def labelled_frames(length: int, interval: int) -> list[int]:
    """Indices of the labelled frames of a run: every `interval`-th, and the last if far from them.

    The last frame is labelled when more than half an interval would be left behind it.
    """
    if length < 1 or interval < 1:
        raise ConfigError(f"expected a length and an interval of at least 1: {length}, {interval}")
    chosen = list(range(0, length, interval))
    if length - 1 - chosen[-1] > interval / 2:
        chosen.append(length - 1)
    return chosen


def draw_gaussians(joints: torch.Tensor, size_hw: tuple[int, int], sigma: float) -> torch.Tensor:
    """Heatmaps (..., h, w) of peak 1 at joints (..., 2), (x, y), cell centres at integers."""
    delta = lattice(*size_hw, like=joints) - joints[..., None, None, :]
    return torch.exp(-delta.square().sum(-1) / (2.0 * sigma * sigma))


class DistanceCode(nn.Module):
    """Embedding of a frame's signed distance to the key frame; zero when new."""

    rates: torch.Tensor

    def __init__(self, dim: int) -> None:
        """Build the MLP."""
        super().__init__()
        self.mlp = Mlp(CODE_WIDTH, dim, dim)
        rates = 2.0 ** -torch.arange(CODE_WIDTH // 2)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, distances: torch.Tensor) -> torch.Tensor:
        """(B, T) in frames -> (B, T, D)."""
        angles = distances[..., None] * self.rates.to(distances.dtype)
        return self.mlp(torch.cat((angles.sin(), angles.cos()), -1))


class TFF(nn.Module):
    """Temporal feature fusion: (B, T, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, config: STDPoseConfig, tokens: int) -> None:
        """Build embeddings, blocks and the MLP over frames."""
        super().__init__()
        self.pos = nn.Parameter(torch.randn(config.frames, tokens, dim) * 0.02)
        self.dt_embed = DistanceCode(dim) if config.dt_embed else None
        blocks = (Block(dim, heads_of(dim)) for _ in range(config.tff_blocks))
        self.blocks = nn.Sequential(*blocks)
        self.merge = FrameMlp(dim, config.frames)

    def forward(self, features: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, N, D), signed distances (B, T) in frames -> (B, N, D)."""
        x = features + self.pos
        if self.dt_embed is not None:
            x = x + self.dt_embed(distances.to(x.dtype))[:, :, None]
        frames, tokens = self.pos.shape[:2]
        x = self.blocks(x.flatten(1, 2)).unflatten(1, (frames, tokens))
        return self.merge(x)


class TKS(nn.Module):
    """Temporal keypoint semantics: corrects the key frame's heatmaps by those of all frames."""

    def __init__(self, config: STDPoseConfig) -> None:
        """Build the convolutions."""
        super().__init__()
        joints, frames = config.joints, config.frames
        self.key, self.flagged = config.key, config.label_flag
        self.per_joint = nn.Sequential(
            conv_bn_relu(frames * joints, 8 * joints, joints),
            nn.Conv2d(8 * joints, joints, 3, padding=1, groups=joints),
        )
        self.across = nn.Sequential(conv_bn_relu(joints, 64), nn.Conv2d(64, joints, 3, padding=1))
        width = (1 + frames) * joints + (frames if self.flagged else 0)
        self.collect = conv_bn_relu(width, 64)
        self.correct = nn.Conv2d(64, joints, 3, padding=1)
        for parameter in self.correct.parameters():
            nn.init.zeros_(parameter)
        if self.flagged:
            with torch.no_grad():
                next(self.collect.parameters())[:, -frames:].zero_()

    def forward(self, heatmaps: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
        """Heatmaps (B, T, K, h, w), flags (B, T), 1 = labelled -> key frame's (B, K, h, w)."""
        by_joint = heatmaps.transpose(1, 2).flatten(1, 2)  # k0t0, k0t1, k0t2, k1t0 ...
        joint = self.per_joint(by_joint)
        joint = joint + self.across(joint)
        known = [joint, heatmaps.flatten(1, 2)]
        if self.flagged:
            known.append(flags[:, :, None, None].expand(-1, -1, *heatmaps.shape[-2:]))
        return heatmaps[:, self.key] + self.correct(self.collect(torch.cat(known, 1)))


class DynamicMask(nn.Module):
    """DAM: a (B, 1, h, w) mask of mean 1, high where heatmaps change between frames."""

    def __init__(self, config: STDPoseConfig) -> None:
        """Build the 1x1 convolutions and the threshold."""
        super().__init__()
        k, theta = torch.tensor(config.dam_k), torch.tensor(config.dam_theta)
        if config.dam_learnable:
            self.k, self.theta = nn.Parameter(k), nn.Parameter(theta)
        else:
            self.register_buffer("k", k)
            self.register_buffer("theta", theta)
        self.forwards = nn.Conv2d(config.joints, 1, 1)
        self.backwards = nn.Conv2d(config.joints, 1, 1)

    def forward(
        self,
        forwards: torch.Tensor,
        backwards: torch.Tensor,
        left: torch.Tensor,
        right: torch.Tensor,
    ) -> torch.Tensor:
        """Residuals R_f, R_b (B, K, h, w), unsigned distances (B,) of the side frames."""
        away = torch.stack((left, right)).abs()  # a repeated key frame, distance 0, counts as 1
        away = torch.where(away == 0, torch.ones_like(away), away)
        w_f, w_b = (away / away.sum(0))[..., None, None, None]
        s_f, s_b = (torch.sigmoid(self.k * (r.abs() - self.theta)) for r in (forwards, backwards))
        scores = w_f * self.forwards(s_f) + w_b * self.backwards(s_b)  # (B, 1, h, w)
        rows, columns = scores.shape[-2:]
        mask = torch.softmax(wide(scores.flatten(1)), 1) * (rows * columns)
        return mask.to(scores.dtype).unflatten(1, (1, rows, columns))


class HeatmapTokens(nn.Module):
    """Masked heatmaps and features together as tokens."""

    def __init__(self, dim: int, config: STDPoseConfig) -> None:
        """Build projection, patch embedding and positions."""
        super().__init__()
        self.low = nn.Conv2d(dim, LOW_CHANNELS, 1)
        self.patch = nn.Conv2d(config.joints + LOW_CHANNELS, dim, 4, 4)
        count = config.grid_hw[0] * config.grid_hw[1]
        self.pos = nn.Parameter(torch.randn(1, count, dim) * 0.02)

    def forward(self, heatmaps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Heatmaps (B, K, h, w), feature map (B, D, h/4, w/4) -> tokens (B, N, D)."""
        both = torch.cat((heatmaps, upsample(self.low(features))), 1)
        return map_to_tokens(self.patch(both)) + self.pos


class PoseAttention(nn.Module):
    """PA block: features attend to themselves, then to the heatmap tokens, then an FFN."""

    def __init__(self, dim: int) -> None:
        """Build the block."""
        super().__init__()
        heads = heads_of(dim)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim, EPS) for _ in range(4))
        self.attn = Attention(dim, heads)
        self.cross = CrossAttention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
        """Features (B, N, D), heatmap tokens (B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross(self.norm2(x), self.norm3(heat))
        return x + self.mlp(self.norm4(x))


def upsample(features: torch.Tensor) -> torch.Tensor:
    """(B, C, rows, columns) -> (B, C, 4*rows, 4*columns), the heatmap grid."""
    return F.interpolate(features, scale_factor=4.0, mode="bilinear", align_corners=False)


class STDPose(TokenPoseNet):
    """The network; a frame's features are its tokens and, with TKS, its first heatmaps.

    ``aux``, each where its part is on: ``heatmaps_initial`` (B, 3, K, h, w), as predicted;
    ``heatmaps_temporal`` Ht~ (B, K, h, w); ``mask`` (B, 1, h, w); ``features_key`` F_t and
    ``features_fused`` Ft~ (B, D, rows, columns); ``heatmaps_features`` (B, K, h, w), a projection
    of Ft~ for the relevance term of the objective.
    """

    config: STDPoseConfig

    def __init__(self, config: STDPoseConfig) -> None:
        """Build the network with random weights."""
        super().__init__(config)
        dim, joints = self.dim, config.joints
        both = config.tff and config.tks
        self.stda_on = both and config.stda
        tokens = config.grid_hw[0] * config.grid_hw[1]
        self.tff = TFF(dim, config, tokens) if config.tff else None
        self.tks = TKS(config) if config.tks else None
        self.dam = DynamicMask(config) if self.stda_on and config.dam else None
        self.heat = HeatmapTokens(dim, config) if both else nn.Identity()
        self.pa = nn.ModuleList(PoseAttention(dim) for _ in range(config.pa_blocks * self.stda_on))
        self.join = nn.Conv2d(2 * dim, dim, 3, padding=1) if both and not config.stda else None
        self.mi = nn.Conv2d(dim, joints, 1) if config.tff and config.mi else None
        for name, part in self.named_children():
            if name != "backbone":
                init_linear(part)
        if self.tff is not None and self.tff.dt_embed is not None:
            nn.init.zeros_(self.tff.dt_embed.mlp.fc2.weight)
        head = (dim, joints, config.head_channels)
        self.head0 = ClassicHead(*head) if config.tks else None
        self.head = ClassicHead(*head) if config.tff or not config.tks else nn.Identity()

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens (N, rows*columns, D) of frames (N, 3, H, W), and first heatmaps (N, K, h, w)."""
        (tokens,) = super().encode(frames)
        if self.head0 is None:
            return (tokens,)
        return tokens, self.head0(self.to_map(tokens))

    def signed_distances(self, dt_left: torch.Tensor, dt_right: torch.Tensor) -> torch.Tensor:
        """(B, 3) distances of the slots to the key frame, the past negative."""
        zero = torch.zeros_like(dt_left)
        if self.config.key == 1:
            slots = (-dt_left, zero, dt_right)
        elif self.config.key == 2:
            slots = (-dt_left, -dt_left / 2, zero)
        else:
            slots = (zero, dt_right / 2, dt_right)
        return torch.stack(slots, 1)

    def given(
        self, heatmaps: torch.Tensor, labels: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put labels in place of side frames' heatmaps (B, 3, K, h, w); flags (B, 3): has any.

        A joint without a label keeps its prediction, and so does the key frame.
        """
        if labels is None:
            return heatmaps, for_everybody(heatmaps.new_zeros(3), heatmaps)
        wanted = (*heatmaps.shape[:3], 3)
        if tuple(labels.shape) != tuple(wanted):
            raise ShapeError(f"expected labels {wanted}, got {tuple(labels.shape)}")
        side = torch.arange(3, device=labels.device) != self.config.key
        seen = (labels[..., 2] > 0) & side[:, None] & labels.isfinite().all(-1)  # (B, 3, K)
        xy = torch.where(seen[..., None], labels[..., :2], torch.zeros_like(labels[..., :2]))
        drawn = draw_gaussians(wide(xy), self.config.heatmap_hw, self.config.sigma_cells)
        replaced = torch.where(seen[..., None, None], drawn.to(heatmaps.dtype), heatmaps)
        return replaced, seen.any(2).to(heatmaps.dtype)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Tokens (B, 3, N, D), first heatmaps (B, 3, K, h, w) -> heatmaps (B, K, h, w).

        Distances are those of `VideoPoseNet.fuse`; with labels on one side only, give that side
        twice, a distance with a negative sign telling that its frame lies on the other side.
        """
        tokens, key = features[0], self.config.key
        distances = self.signed_distances(dt_left, dt_right)
        aux: dict[str, torch.Tensor] = {"features_key": self.to_map(tokens[:, key])}
        fused = tokens[:, key]
        if self.tff is not None:
            fused = self.tff(tokens, distances)
            aux["features_fused"] = self.to_map(fused)
            if self.mi is not None:
                aux["heatmaps_features"] = upsample(self.mi(self.to_map(fused)))
        if self.tks is None:
            return PoseOut(self.head(self.to_map(fused)), aux)
        aux["heatmaps_initial"] = features[1]
        heatmaps, flags = self.given(features[1], labels)
        corrected = aux["heatmaps_temporal"] = self.tks(heatmaps, flags)
        if self.tff is None:
            return PoseOut(corrected, aux)
        if self.dam is not None:
            side_l, side_r = (t for t in range(3) if t != key)
            to_right = heatmaps[:, side_r] - heatmaps[:, key]  # R_f
            from_left = heatmaps[:, key] - heatmaps[:, side_l]  # R_b
            away = distances.abs()
            mask = self.dam(to_right, from_left, away[:, side_l], away[:, side_r])  # eq 3
            aux["mask"] = mask
            corrected = corrected * mask
        heat = self.heat(corrected, self.to_map(fused))
        if self.join is not None:
            both = torch.cat((self.to_map(fused), self.to_map(heat)), 1)
            return PoseOut(self.head(self.join(both)), aux)
        for block in self.pa:
            fused = block(fused, heat)
        return PoseOut(self.head(self.to_map(fused)), aux)


@register_net("stdpose_vitl")
def stdpose_vitl(**overrides: object) -> nn.Module:
    """The paper's size: frozen ViT-L, PoseTrack's 15 joints, 256x192."""
    return build(STDPose, STDPoseConfig(), overrides)


ROBOT = STDPoseConfig(backbone="vit_s", joints=17, model_dim=256, head_channels=128)


@register_net("stdpose_robot")
def stdpose_robot(**overrides: object) -> nn.Module:
    """For live use: frozen ViT-S, 256 wide fusion, COCO's 17 joints."""
    return build(STDPose, ROBOT, overrides)


@register_net("stdpose_movenet")
def stdpose_movenet(**overrides: object) -> nn.Module:
    """For robots without a GPU: MoveNet Thunder's trunk, 128 wide fusion, COCO's 17 joints."""
    config = replace(ROBOT, backbone="movenet_thunder", model_dim=128, head_channels=64)
    return build(STDPose, config, overrides)
