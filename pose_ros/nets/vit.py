"""ViT-S/B/L/16 as ViTPose has them, and what the video networks on top of their tokens share.

Source: Xu et al., "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation",
NeurIPS 2022. What matters for exchanging weights:
  * the patch convolution (16x16, stride 16) pads by 2 pixels: 256x192 gives 16x12 tokens;
  * there is no class token; `pos_embed` holds the sum of the published position and class slots,
    which `import_vit` folds;
  * pre-norm blocks, LayerNorm epsilon 1e-6, 12 heads in ViT-S too, a final LayerNorm.

`vitpose_*` are the single-frame networks with the classic head: the baseline of every video
network here, and what stage 1 of their training trains. Checked in `test/nets/test_vit.py` against
Hugging Face's VitPose with random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError
from pose_ros.nets.layers import (
    EPS,
    Adapter,
    Block,
    ClassicHead,
    SimpleHead,
    map_to_tokens,
    tokens_to_map,
)
from pose_ros.nets.movenet import MoveNetConfig
from pose_ros.nets.movenet_trunk import MoveNetTrunk
from pose_ros.nets.registry import register_net
from pose_ros.nets.video import PoseOut, VideoPoseNet, Window

PATCH = 16  # crop pixels per token
STRIDE = 4  # crop pixels per heatmap cell


@dataclass(frozen=True)
class ViTSize:
    """Width, depth and heads of a ViT, and the stochastic depth of its fine-tuning."""

    dim: int
    depth: int
    heads: int
    drop_path: float = 0.0  # of the last block; it grows linearly from 0


VIT_SIZES = {
    "vit_s": ViTSize(384, 12, 12, 0.1),
    "vit_b": ViTSize(768, 12, 12, 0.3),
    "vit_l": ViTSize(1024, 24, 16, 0.5),
    "vit_tiny": ViTSize(64, 2, 2),  # no published weights: for tests and for quick experiments
}
MOVENET_WIDTHS = {"movenet_lightning": 1.0, "movenet_thunder": 1.75}


@dataclass(frozen=True)
class TokenConfig:
    """What every network on backbone tokens can choose; the networks' configs extend it."""

    backbone: str = "vit_l"  # of VIT_SIZES or MOVENET_WIDTHS
    freeze: bool = True  # the backbone: no gradient, always in eval mode
    joints: int = 15
    size_hw_px: tuple[int, int] = (256, 192)
    frames: int = 3
    key: int = 1  # index of the key frame; frames - 1 is causal
    model_dim: int | None = None  # width after the backbone; None keeps the backbone's
    head_channels: int = 256  # of the classic heads' deconvolutions

    CHOICES: ClassVar[dict[str, tuple[object, ...]]] = {}  # field: legal values, of the subclass

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            ConfigError: a field has a value that it cannot have.
        """
        legal = {"backbone": (*VIT_SIZES, *MOVENET_WIDTHS), **self.CHOICES}
        for name, values in legal.items():
            if getattr(self, name) not in values:
                raise ConfigError(f"{name}: expected {values}, got {getattr(self, name)!r}")
        step = 32 if self.backbone in MOVENET_WIDTHS else PATCH
        if len(self.size_hw_px) != 2 or any(s < step or s % step for s in self.size_hw_px):
            raise ConfigError(f"size_hw_px: expected multiples of {step}, got {self.size_hw_px}")
        if not 0 <= self.key < self.frames:
            raise ConfigError(f"key: expected 0 ... {self.frames - 1}, got {self.key}")
        if self.joints < 1 or self.head_channels < 1:
            raise ConfigError("joints and head_channels: expected at least 1")
        if self.model_dim is not None and (self.model_dim < 32 or self.model_dim % 32):
            raise ConfigError(f"model_dim: expected a multiple of 32, got {self.model_dim}")

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of tokens of one frame."""
        return self.size_hw_px[0] // PATCH, self.size_hw_px[1] // PATCH

    @property
    def heatmap_hw(self) -> tuple[int, int]:
        """Rows and columns of a heatmap."""
        return self.size_hw_px[0] // STRIDE, self.size_hw_px[1] // STRIDE


class ViT(nn.Module):
    """The ViTPose backbone."""

    def __init__(self, size: ViTSize, grid_hw: tuple[int, int], drop_path: float = 0.0) -> None:
        """Build the network for crops of `grid_hw` patches."""
        super().__init__()
        self.dim = size.dim
        self.patch_embed = nn.Conv2d(3, size.dim, PATCH, PATCH, padding=2)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid_hw[0] * grid_hw[1], size.dim))
        rates = [drop_path * i / max(size.depth - 1, 1) for i in range(size.depth)]
        self.blocks = nn.ModuleList(Block(size.dim, size.heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(size.dim, EPS)
        nn.init.normal_(self.pos_embed, std=0.02)
        init_linear(self)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalised RGB (N, 3, H, W) -> tokens (N, H/16 * W/16, D), row-major."""
        x = map_to_tokens(self.patch_embed(frames)) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MoveNetTokens(nn.Module):
    """MoveNet's trunk and pyramid as a backbone of stride-16 tokens.

    Each token is a 4x4 block of the stride-4 feature that MoveNet's own heads read, unrolled:
    384 channels. The parameters have the names of `MoveNetTrunk`, and so of MoveNet.
    """

    def __init__(self, width: float) -> None:
        """Build the trunk of MoveNet with this width multiplier."""
        super().__init__()
        parts = MoveNetTrunk(MoveNetConfig(width=width))
        self.trunk, self.pyramid = parts.trunk, parts.pyramid
        self.dim = parts.widths[0] * (PATCH // STRIDE) ** 2

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Normalised RGB (N, 3, H, W) -> tokens (N, H/16 * W/16, 384), row-major."""
        feature = self.pyramid(self.trunk(frames))  # (N, 24, H/4, W/4)
        return map_to_tokens(F.pixel_unshuffle(feature, PATCH // STRIDE))


def build_backbone(config: TokenConfig) -> ViT | MoveNetTokens:
    """Return the config's backbone with random weights; it has `dim` and maps frames to tokens."""
    if config.backbone in MOVENET_WIDTHS:
        return MoveNetTokens(MOVENET_WIDTHS[config.backbone])
    size = VIT_SIZES[config.backbone]
    return ViT(size, config.grid_hw, 0.0 if config.freeze else size.drop_path)


class TokenPoseNet(VideoPoseNet):
    """Base of the networks that fuse backbone tokens: encoding, freezing, the width adapter.

    A subclass implements `fuse`; its features are those of `encode`.
    """

    def __init__(self, config: TokenConfig) -> None:
        """Build backbone and adapter."""
        super().__init__()
        self.config = config
        self.window = Window(config.frames, config.key)
        self.size_hw_px = (config.size_hw_px[0], config.size_hw_px[1])
        self.joints = config.joints
        self.backbone = build_backbone(config)
        self.backbone.requires_grad_(not config.freeze)
        width = config.model_dim
        self.dim = width or self.backbone.dim
        self.adapter = Adapter(self.backbone.dim, width) if width else nn.Identity()

    def train(self, mode: bool = True) -> TokenPoseNet:
        """Switch the mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.config.freeze:
            self.backbone.eval()
        return self

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tokens (N, rows*columns, D) of the frames (N, 3, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze):
            tokens = self.backbone(frames)
        return (self.adapter(tokens),)

    def to_map(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, rows*columns, D) -> (B, D, rows, columns)."""
        return tokens_to_map(tokens, self.config.grid_hw)


@dataclass(frozen=True)
class ViTPoseConfig(TokenConfig):
    """A single-frame ViTPose."""

    freeze: bool = False
    joints: int = 17
    frames: int = 1
    key: int = 0
    head: str = "classic"  # or "simple"

    CHOICES: ClassVar[dict[str, tuple[object, ...]]] = {
        "head": ("classic", "simple"),
        "frames": (1,),
    }


class ViTPose(TokenPoseNet):
    """Backbone and head, one frame. ``aux`` is empty."""

    def __init__(self, config: ViTPoseConfig) -> None:
        """Build the network with random weights."""
        super().__init__(config)
        self.head: nn.Module = SimpleHead(self.dim, config.joints)
        if config.head == "classic":
            self.head = ClassicHead(self.dim, config.joints, config.head_channels)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Tokens (B, 1, N, D) -> heatmaps (B, K, h, w); the other arguments are not used."""
        return PoseOut(self.head(self.to_map(features[0][:, 0])), {})


def init_linear(module: nn.Module) -> None:
    """Initialise all linear layers inside as ViTs are: normal with deviation 0.02, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


C = TypeVar("C", bound=TokenConfig)


def build(net: Callable[[C], nn.Module], defaults: C, overrides: dict[str, object]) -> nn.Module:
    """Build `net` from defaults and overrides.

    Raises:
        ConfigError: the config has no such field, or a value is out of range.
    """
    known = {field.name for field in fields(defaults)}
    unknown = sorted(set(overrides) - known)
    if unknown:
        raise ConfigError(
            f"{net.__name__} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    values: dict[str, Any] = {**overrides}
    for name, value in values.items():
        if isinstance(value, list):  # a card's lists are tuples here
            values[name] = tuple(value)
    return net(replace(defaults, **values))


@register_net("vitpose_s")
def vitpose_s(**overrides: object) -> nn.Module:
    """ViTPose-S: 24.3 M parameters."""
    return build(ViTPose, ViTPoseConfig(backbone="vit_s"), overrides)


@register_net("vitpose_b")
def vitpose_b(**overrides: object) -> nn.Module:
    """ViTPose-B: 90 M parameters."""
    return build(ViTPose, ViTPoseConfig(backbone="vit_b"), overrides)


@register_net("vitpose_l")
def vitpose_l(**overrides: object) -> nn.Module:
    """ViTPose-L: 308 M parameters."""
    return build(ViTPose, ViTPoseConfig(backbone="vit_l"), overrides)
