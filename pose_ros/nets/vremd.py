"""VREMD: human and joint regions in the visual stream, disentangled motion in a second stream.

Source: "Optimizing Human Pose Estimation Through Focused Human and Joint Regions" (VREMD). Over
the tokens of a frozen ViT for three frames:

  * HKME, human-keypoint mask extraction: a human token per frame masks the background (eq 1),
    keypoint tokens then mask what is no joint (eq 2); a spatial block, a temporal block and an MLP
    merge the frames into one constraint feature F;
  * BMD, bidirectional motion disentanglement: the differences of the neighbours to the key frame
    pass blocks of deformable cross attention whose offsets F constrains (eq 3, 4);
  * the keypoint tokens give heatmaps H_k, motion and key frame give H_m; the answer is their mean.

What differs from the paper, or is not said there:
  * eq 1: a cosine with a learned scale and bias, then a sigmoid; the raw product is no mask
    (`mask_act="none"` has it);
  * eq 2: softmax over tokens (over keypoints the mask would be constant 1), summed over all 3K
    rows and scaled by N/K, so that its mean is 1;
  * eq 3, 4: 8 heads and 4 places per head, from the query's own place, as in Deformable DETR; keys
    and values are projected once and then sampled, which is the same;
  * the frames are merged by an MLP per location, not by one over tokens.

With a key frame that is not the middle one, the neighbours are the other two frames, in order.
Checked in `test/nets/test_vremd.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError
from pose_ros.nets.deform import deform_conv2d, lattice, sample_map
from pose_ros.nets.layers import (
    EPS,
    Block,
    ClassicHead,
    CrossAttention,
    FrameMlp,
    Mlp,
    TokenHead,
    for_everybody,
    heads_of,
    map_to_tokens,
    tokens_to_map,
    wide,
)
from pose_ros.nets.registry import register_net
from pose_ros.nets.video import PoseOut
from pose_ros.nets.vit import TokenConfig, TokenPoseNet, build, init_linear


@dataclass(frozen=True)
class VREMDConfig(TokenConfig):
    """Sizes and switches; the defaults are the paper's full model."""

    hkme: bool = True
    bmd: bool = True
    human_mask: bool = True
    keypoint_mask: bool = True
    mask_act: str = "sigmoid"  # of the human mask; "none": the literal eq 1
    human_blocks: int = 2
    kpt_blocks: int = 2
    adc_blocks: int = 2
    adc_share_directions: bool = False
    motion_op: str = "dca"  # "da": offsets from the query only; "dc": a deformable convolution
    dca_heads: int = 8
    dca_points: int = 4
    bidir: bool = True  # False: one stream on both differences

    CHOICES: ClassVar[dict[str, tuple[object, ...]]] = {
        "mask_act": ("sigmoid", "none"),
        "motion_op": ("dca", "da", "dc"),
        "frames": (3,),
    }


class HumanMask(nn.Module):
    """Eq 1: how much each token resembles the frame's human token."""

    def __init__(self, dim: int, act: str) -> None:
        """Build the projections, which the literal form does not have."""
        super().__init__()
        self.act = act
        if act == "sigmoid":
            self.feature = nn.Linear(dim, dim, bias=False)
            self.token = nn.Linear(dim, dim, bias=False)
            self.scale = nn.Parameter(torch.tensor(5.0))
            self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, features: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Features (N, L, D), token (N, 1, D) -> mask (N, L, 1)."""
        if self.act == "none":
            return features @ token.transpose(1, 2)  # eq 1 to the letter
        features = F.normalize(self.feature(features), dim=-1)
        token = F.normalize(self.token(token), dim=-1)
        return torch.sigmoid(self.scale * (features @ token.transpose(1, 2)) + self.bias)


def keypoint_mask(tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Eq 2: the attention that all keypoint tokens (B, T*K, D) together give to T*N tokens.

    Returns (B, T*N, 1), non-negative, of mean 1: each row has mass 1, and there are T*K of them.
    """
    logits = tokens @ features.transpose(1, 2) / math.sqrt(features.shape[2])  # (B, T*K, T*N)
    mass = torch.softmax(wide(logits), 2).sum(1)[:, :, None]
    return (mass * (features.shape[1] / tokens.shape[1])).to(features.dtype)


class HKME(nn.Module):
    """The visual stream: from the tokens of all frames to one constraint feature."""

    def __init__(self, dim: int, config: VREMDConfig) -> None:
        """Build it."""
        super().__init__()
        self.config, frames, heads = config, config.frames, heads_of(dim)
        self.human_token = nn.Parameter(torch.randn(frames, 1, dim) * 0.02)
        self.human_blocks = nn.Sequential(*(Block(dim, heads) for _ in range(config.human_blocks)))
        self.human_mask = HumanMask(dim, config.mask_act) if config.human_mask else None
        self.keypoint_tokens = nn.Parameter(torch.randn(frames * config.joints, dim) * 0.02)
        self.e_time = nn.Parameter(torch.randn(frames, 1, dim) * 0.02)
        self.kpt_blocks = nn.Sequential(*(Block(dim, heads) for _ in range(config.kpt_blocks)))
        self.spatial = Block(dim, heads)
        self.temporal = Block(dim, heads)
        self.merge = FrameMlp(dim, frames)

    def forward(
        self, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """(B, T, N, D) -> F (B, N, D), keypoint tokens (B, T, K, D) and the masks."""
        frames, count = (int(size) for size in features.shape[1:3])
        masks = {}
        human = for_everybody(self.human_token, features)
        x = self.human_blocks(torch.cat((human, features), 2).flatten(0, 1))  # (B*T, 1 + N, D)
        human, x = x[:, :1], x[:, 1:]
        if self.human_mask is not None:
            mask = self.human_mask(x, human)
            x = x * mask  # eq 1, F_c
            masks["human_mask"] = mask.unflatten(0, (-1, frames))
        x = (x.unflatten(0, (-1, frames)) + self.e_time).flatten(1, 2)  # (B, T*N, D)
        tokens = self.keypoint_tokens.unflatten(0, (frames, -1)) + self.e_time
        tokens = for_everybody(tokens.flatten(0, 1), features)  # (B, T*K, D)
        both = self.kpt_blocks(torch.cat((x, tokens), 1))
        x, tokens = both[:, : frames * count], both[:, frames * count :]
        if self.config.keypoint_mask:
            mask = keypoint_mask(tokens, x)
            x = x * mask  # F_f
            masks["keypoint_mask"] = mask.unflatten(1, (frames, count))
        x = self.spatial(x.unflatten(1, (frames, count)).flatten(0, 1))  # (B*T, N, D)
        x = x.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)  # (B*N, T, D)
        x = self.temporal(x).unflatten(0, (-1, count)).transpose(1, 2)  # (B, T, N, D)
        return self.merge(x), tokens.unflatten(1, (frames, -1)), masks


class DeformableCrossAttention(nn.Module):
    """DCA of eq 3, 4: a few places per query and head, their offsets constrained by F.

    With `constrained=False` it is Deformable DETR's attention: offsets and weights from the query.
    """

    def __init__(self, dim: int, config: VREMDConfig, constrained: bool) -> None:
        """Build it; the offsets start as a ring of directions, one per head."""
        super().__init__()
        self.heads, self.points = config.dca_heads, config.dca_points
        if dim % self.heads or self.points < 1:
            raise ConfigError(f"dca_heads: {dim} channels are no multiple of {self.heads} heads")
        self.grid_hw, self.constrained = config.grid_hw, constrained
        self.q, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(3))
        if constrained:
            self.k = nn.Linear(dim, dim)
            self.z = nn.Linear(dim, dim)
            self.mix = nn.Conv2d(2 * dim, dim, 3, padding=1)  # psi of eq 3
        else:
            self.weight = nn.Linear(dim, self.heads * self.points)
        self.offset = nn.Conv2d(dim, self.heads * self.points * 2, 1)  # theta of eq 3

    def reset_offsets(self) -> None:
        """Set the offsets to a ring: head i looks along angle 2 pi i / h, at 1 ... P cells."""
        angle = torch.arange(self.heads) * (2.0 * math.pi / self.heads)
        ring = torch.stack((angle.cos(), angle.sin()), -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]
        with torch.no_grad():
            weight, bias = self.offset.parameters()
            weight.zero_()
            bias.copy_((ring[:, None] * steps).flatten())

    def places(self, q: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Where each query reads: (B*h, N, P, 2), (x, y) in cells; eq 3."""
        guide = tokens_to_map(q, self.grid_hw)
        if self.constrained:
            guide = torch.cat((guide, tokens_to_map(self.z(source), self.grid_hw)), 1)
            guide = F.gelu(self.mix(guide))
        move = map_to_tokens(self.offset(guide)).unflatten(2, (self.heads, self.points, 2))
        move = wide(move)
        own = lattice(*self.grid_hw, like=move).flatten(0, 1)  # p_z, (N, 2)
        return (own[:, None, None] + move).transpose(1, 2).flatten(0, 1)

    def read(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, D) at the places -> (B, h, d, N, P)."""
        rows, columns = self.grid_hw
        maps = tokens_to_map(x, self.grid_hw).reshape(-1, x.shape[2] // self.heads, rows, columns)
        return sample_map(maps, places).unflatten(0, (-1, self.heads))

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Motion x (B, N, D) and constraint F (B, N, D) -> (B, N, D)."""
        q = self.q(x)
        places = self.places(q, source)
        values = self.read(self.v(x), places)
        if self.constrained:
            query = q.transpose(1, 2).unflatten(1, (self.heads, -1))[..., None]  # (B, h, d, N, 1)
            match = (query * self.read(self.k(x), places)).sum(2) / math.sqrt(query.shape[2])
        else:
            match = self.weight(x).unflatten(2, (self.heads, self.points)).transpose(1, 2)
        weight = torch.softmax(wide(match), -1).to(values.dtype)  # over the places; eq 4
        out = (values * weight[:, :, None]).sum(-1)  # (B, h, d, N)
        return self.proj(out.flatten(1, 2).transpose(1, 2))


class MotionConv(nn.Module):
    """Modulated deformable 3x3 convolution of dilation 3 on the motion; the ablation's "dc"."""

    DILATION = 3

    def __init__(self, dim: int, grid_hw: tuple[int, int]) -> None:
        """Build it; offsets start at 0, modulation at 1."""
        super().__init__()
        self.grid_hw = grid_hw
        self.offset = nn.Conv2d(dim, 27, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(dim, dim, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def reset_offsets(self) -> None:
        """Set the offsets to zero."""
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """(B, N, D) -> (B, N, D); the constraint is not used."""
        motion = tokens_to_map(x, self.grid_hw)
        both = self.offset(motion)
        moves, mask = both[:, :18], 2.0 * torch.sigmoid(both[:, 18:])
        return map_to_tokens(deform_conv2d(motion, moves, self.weight, mask, self.DILATION))


class ADC(nn.Module):
    """Deformable and plain cross attention of one motion to F, side by side, then an MLP."""

    def __init__(self, dim: int, config: VREMDConfig) -> None:
        """Build the block."""
        super().__init__()
        self.norm_x = nn.LayerNorm(dim, EPS)
        self.norm_f = nn.LayerNorm(dim, EPS)
        self.deform: DeformableCrossAttention | MotionConv
        if config.motion_op == "dc":
            self.deform = MotionConv(dim, config.grid_hw)
        else:
            self.deform = DeformableCrossAttention(dim, config, config.motion_op == "dca")
        self.cross = CrossAttention(dim, heads_of(dim))
        self.mlp = Mlp(2 * dim, 2 * dim, dim)

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Motion (B, N, D), constraint F (B, N, D) -> (B, N, D)."""
        query = self.norm_x(x)
        u = self.deform(query, source)
        v = self.cross(query, self.norm_f(source))
        return x + self.mlp(torch.cat((u, v), 2))


class ADCStack(nn.ModuleList):
    """ADC blocks in a row, all under the same constraint."""

    def forward(self, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Motion (B, N, D), constraint F (B, N, D) -> (B, N, D)."""
        for block in self:
            x = block(x, source)
        return x


class BMD(nn.Module):
    """The motion stream: both differences to the key frame, disentangled under the constraint."""

    def __init__(self, dim: int, config: VREMDConfig) -> None:
        """Build the stacks: one per direction, one shared, or one for the sum of both."""
        super().__init__()
        self.bidir = config.bidir
        stacks = 2 if config.bidir and not config.adc_share_directions else 1
        self.stacks = nn.ModuleList(
            ADCStack(ADC(dim, config) for _ in range(config.adc_blocks)) for _ in range(stacks)
        )
        self.merge = nn.Linear(2 * dim, dim)
        self.norm = nn.LayerNorm(dim, EPS)

    def forward(
        self, backward: torch.Tensor, forward: torch.Tensor, source: torch.Tensor
    ) -> torch.Tensor:
        """M_b, M_f and F, all (B, N, D), -> M (B, N, D)."""
        motions = [forward, backward]
        if not self.bidir:
            motions = [self.merge(torch.cat(motions, 2))]
        for i, motion in enumerate(motions):
            motions[i] = self.stacks[i % len(self.stacks)](motion, source)
        return self.norm(self.merge(torch.cat(motions, 2)) if self.bidir else motions[0])


class VREMD(TokenPoseNet):
    """The network.

    ``aux``, each where its part is on: ``human_mask`` and ``keypoint_mask`` (B, T, N, 1),
    ``heatmaps_tokens`` H_k and ``heatmaps_motion`` H_m (B, K, h, w).
    """

    config: VREMDConfig

    def __init__(self, config: VREMDConfig) -> None:
        """Build the network with random weights."""
        super().__init__(config)
        dim = self.dim
        self.hkme = HKME(dim, config) if config.hkme else None
        self.bmd = BMD(dim, config) if config.bmd else None
        self.mix = nn.Linear(2 * dim, dim) if config.hkme or config.bmd else nn.Identity()
        for part in (self.adapter, self.hkme, self.bmd, self.mix):
            if part is not None:
                init_linear(part)
        for block in self.modules():
            if isinstance(block, DeformableCrossAttention | MotionConv):
                block.reset_offsets()
        self.token_head = TokenHead(dim, config.heatmap_hw) if config.hkme else None
        self.head = ClassicHead(dim, config.joints, config.head_channels)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Tokens (B, 3, N, D) -> heatmaps (B, K, h, w); distances and labels are not used."""
        x, key = features[0], self.config.key
        now = x[:, key]
        source, aux, tokens = now, {}, None
        if self.hkme is not None:
            source, tokens, aux = self.hkme(x)
        combined = now
        if self.bmd is not None:
            before, after = (x[:, t] for t in range(3) if t != key)
            motion = self.bmd(before - now, after - now, source)
            combined = self.mix(torch.cat((motion, now), 2))
        elif self.hkme is not None:
            combined = self.mix(torch.cat((source, now), 2))
        heatmaps = self.head(self.to_map(combined))
        aux["heatmaps_motion"] = heatmaps
        if tokens is not None and self.token_head is not None:
            aux["heatmaps_tokens"] = self.token_head(tokens[:, key])
            heatmaps = 0.5 * aux["heatmaps_tokens"] + 0.5 * heatmaps
        return PoseOut(heatmaps, aux)


@register_net("vremd_vitl")
def vremd_vitl(**overrides: object) -> nn.Module:
    """The paper's size: frozen ViT-L, PoseTrack's 15 joints, 256x192."""
    return build(VREMD, VREMDConfig(), overrides)


ROBOT = VREMDConfig(backbone="vit_s", joints=17, model_dim=256, head_channels=128)


@register_net("vremd_robot")
def vremd_robot(**overrides: object) -> nn.Module:
    """For live use: frozen ViT-S, 256 wide fusion, COCO's 17 joints."""
    return build(VREMD, ROBOT, overrides)


@register_net("vremd_movenet")
def vremd_movenet(**overrides: object) -> nn.Module:
    """For robots without a GPU: MoveNet Thunder's trunk, 128 wide fusion, COCO's 17 joints."""
    config = replace(ROBOT, backbone="movenet_thunder", model_dim=128, head_channels=64)
    return build(VREMD, config, overrides)
