"""DSA: supporting frames are aligned to the key frame, globally and locally, in a U-Net.

Source: paper 004, dense symmetric temporal alignment (PeerJ Computer Science, cs.3100), equations
1 to 6. What the paper leaves open, and what was done:
  * figure 1 shows a U-Net without sizes: three levels of C, 2C, 4C channels, one alignment on each
    level going down and one going up, six in all as in the paper's cascade ablation;
  * eq 3's modulation M has no index: one value per tap and pixel, ``2 * sigmoid``, so that it
    starts at 1; one offset group by default;
  * eq 5's taps are absolute: the convolution gets O - R, its offsets (as DEKR does);
  * everything starts as the identity, so that training starts from plain concatenation;
  * the supporting frames are t-2, t-1, t+1, t+2 (printed as t-2, t-1, t-1, t+2).
``dsa_w48`` is the paper's size; ``dsa_robot`` has MoveNet Thunder's trunk and two supports.
Checked in `test/nets/test_dsa.py`: identity, taps, gradients, counts, ONNX.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.deform import deform_conv2d
from pose_ros.nets.hrnet import HRNet, HRNetConfig
from pose_ros.nets.movenet import MoveNetConfig
from pose_ros.nets.movenet_trunk import MOVENET_WIDTHS, MoveNetTrunk
from pose_ros.nets.registry import register_net
from pose_ros.nets.resnet import BasicBlock, crop_size
from pose_ros.nets.video import PoseOut, VideoPoseNet, Window

LEVELS = 3
TAPS = 9
#: The places of a 3x3 kernel's taps, (row, column), in the order of its weights: eq 5's R.
LATTICE = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 0), (0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True)
class DsaConfig:
    """Size and switches of DSA; the defaults are the paper's."""

    joints: int = 15
    size_hw_px: tuple[int, int] = (384, 288)
    backbone: str = "hrnet"  # or one of MOVENET_WIDTHS
    width: int = 48  # of HRNet; not of MoveNet
    modules: tuple[int, int, int] = (1, 4, 3)  # of HRNet's stages
    blocks: int = 4  # of HRNet's branches
    freeze: bool = True  # the backbone learns nothing, and its batch norms stay
    supports: int = 4  # 2, 4 or 6 frames beside the key frame
    causal: bool = False  # all of them before it
    align: bool = True  # off: raw concatenation
    unet: bool = True  # off: six alignments in a row at the finest level
    gab: str = "dcn"  # or "conv", "none"
    dcn_groups: int = 1
    leb: bool = True

    def __post_init__(self) -> None:
        """Refuse what is not built."""
        backbones = ("hrnet", *MOVENET_WIDTHS)
        if self.backbone not in backbones or self.gab not in ("dcn", "conv", "none"):
            raise ConfigError(
                f"DSA: expected backbone {', '.join(backbones)} and gab dcn, conv or none, "
                f"got {self.backbone} and {self.gab}"
            )
        if self.supports not in (2, 4, 6):
            raise ConfigError(f"DSA: expected 2, 4 or 6 supporting frames, got {self.supports}")


def _start(conv: nn.Conv2d, answer: torch.Tensor) -> None:
    """Make a convolution answer (c_out,) everywhere, whatever comes in."""
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.bias.copy_(answer)


class Predictor(nn.Module):
    """T of eq 1: two residual blocks and a 3x3 convolution that starts at zero."""

    def __init__(self, channels: int, c_out: int) -> None:
        """Build the layers."""
        super().__init__()
        self.blocks = nn.Sequential(BasicBlock(channels, channels), BasicBlock(channels, channels))
        self.out = nn.Conv2d(channels, c_out, 3, padding=1)
        _start(self.out, torch.zeros(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, h, w) to (N, c_out, h, w)."""
        return self.out(self.blocks(x))


class GlobalAlignment(nn.Module):
    """GAB, eq 1 to 3: modulated deformable convolution of the supporting feature."""

    def __init__(self, channels: int, groups: int, kind: str) -> None:
        """Build the block, ``dcn`` or ``conv``; it starts as the identity."""
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.kind = kind
        if kind == "dcn":
            self.offset = Predictor(channels, 2 * TAPS * groups)
            self.modulation = Predictor(channels, TAPS * groups)
            self.weight = nn.Parameter(nn.init.dirac_(torch.empty(channels, channels, 3, 3)))
        else:
            self.change = Predictor(channels, channels)

    def forward(self, support: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Support (N, C, h, w), coarsely aligned to the key frame's feature (N, C, h, w)."""
        both = self.reduce(torch.cat((key, support), 1))
        if self.kind == "conv":
            return support + self.change(both)
        offsets = self.offset(both)  # eq 1, theta, cells
        modulation = 2.0 * torch.sigmoid(self.modulation(both))  # eq 1, M
        return deform(support, offsets, self.weight, modulation)  # eq 2, 3


class LocalEnhancement(nn.Module):
    """LEB, eq 4 to 6: a 3x3 convolution whose taps an affine map per pixel moves."""

    def __init__(self, channels: int) -> None:
        """Build the block; it starts as the identity."""
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, channels, 1)
        self.block = BasicBlock(channels, channels)
        self.affine = nn.Conv2d(channels, 6, 3, padding=1)
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty(channels, channels, 3, 3)))
        _start(self.affine, torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]))  # Q = 1, k = 0

    def forward(self, support: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Support (N, C, h, w), its details aligned to the key frame's feature (N, C, h, w)."""
        affine = self.affine(self.block(self.reduce(torch.cat((support, key), 1))))  # eq 4
        return deform(support, affine_offsets(affine), self.weight)  # eq 6


def affine_offsets(affine: torch.Tensor) -> torch.Tensor:
    """Offsets (N, 18, h, w), (dy, dx) per tap, of affine maps (N, 6, h, w): Q row by row, then k.

    Q = 1, k = 0 is no offset. Source: paper 004, eq 5, minus the lattice.
    """
    taps = affine.new_tensor(LATTICE)  # (9, 2) as (y, x)
    matrix = affine[:, :4].unflatten(1, (2, 2))  # (N, 2, 2, h, w)
    moved = (matrix[:, None] * taps[:, None, :, None, None]).sum(3)  # (N, 9, 2, h, w): Q R
    offsets = moved + affine[:, None, 4:] - taps[:, :, None, None]  # O - R
    return offsets.flatten(1, 2)


def deform(
    features: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Deformable convolution in float32, whatever the features' type: bfloat16 has no fractions.

    Arguments and answer (N, D, h, w) are those of `deform_conv2d`.
    """
    mask = mask if mask is None else mask.float()
    out = deform_conv2d(features.float(), offsets.float(), weight.float(), mask)
    return out.to(features.dtype)


class Align(nn.Module):
    """Global, then local alignment; either may be left out."""

    def __init__(self, channels: int, config: DsaConfig) -> None:
        """Build what the config has."""
        super().__init__()
        has_gab = config.gab != "none"
        self.gab = GlobalAlignment(channels, config.dcn_groups, config.gab) if has_gab else None
        self.leb = LocalEnhancement(channels) if config.leb else None

    def forward(self, support: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Map (N, C, h, w) and the key frame's (N, C, h, w) to the aligned (N, C, h, w)."""
        x = support if self.gab is None else self.gab(support, key)
        return x if self.leb is None else self.leb(x, key)


class AlignmentUNet(nn.Module):
    """Six alignments, down and up three levels; at initialisation the identity."""

    def __init__(self, channels: int, config: DsaConfig) -> None:
        """Build the pyramid, shared by key and supporting frames, and the alignments."""
        super().__init__()
        widths = [channels * 2**level for level in range(LEVELS)]
        steps = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in steps
        )
        self.encoders = nn.ModuleList(Align(c, config) for c in widths)
        self.decoders = nn.ModuleList(Align(c, config) for c in widths)
        self.merge = nn.ModuleList(nn.Conv2d(a + b, a, 1, bias=False) for a, b in steps)
        for conv in self.merge:  # [0 | 1]: nothing of the coarser level, all of the skip
            assert isinstance(conv, nn.Conv2d)
            nn.init.zeros_(conv.weight)
            with torch.no_grad():
                conv.weight[:, -conv.out_channels :, 0, 0].copy_(torch.eye(conv.out_channels))

    def forward(self, support: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Map supports (B, S, C, h, w) and the key frame's (B, C, h, w) to (B, S, C, h, w)."""
        count = support.shape[1]
        keys = [key]
        for down in self.down:
            keys.append(down(keys[-1]))
        keys = [k[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1) for k in keys]
        x = self.encoders[0](support.flatten(0, 1), keys[0])
        skips = [x]
        for level in range(1, LEVELS):
            x = self.encoders[level](self.down[level - 1](x), keys[level])
            skips.append(x)
        x = self.decoders[-1](x, keys[-1])
        for level in reversed(range(LEVELS - 1)):
            up = F.interpolate(x, skips[level].shape[-2:], mode="bilinear", align_corners=False)
            x = self.merge[level](torch.cat((up, skips[level]), 1))
            x = self.decoders[level](x, keys[level])
        return x.unflatten(0, (-1, count))


class AlignmentCascade(nn.Module):
    """The ablation without U-Net: six alignments in a row at the finest level."""

    def __init__(self, channels: int, config: DsaConfig) -> None:
        """Build them."""
        super().__init__()
        self.steps = nn.ModuleList(Align(channels, config) for _ in range(2 * LEVELS))

    def forward(self, support: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Map supports (B, S, C, h, w) and the key frame's (B, C, h, w) to (B, S, C, h, w)."""
        count = support.shape[1]
        keys = key[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        x = support.flatten(0, 1)
        for step in self.steps:
            x = step(x, keys)
        return x.unflatten(0, (-1, count))


def _head(channels: int, joints: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm and ReLU, and one to the joints."""
    layers: list[nn.Module] = []
    for _ in range(2):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, joints, 3, padding=1))


class Dsa(VideoPoseNet):
    """Paper 004; ``aux["aligned"]`` (B, S, C, h, w) are the aligned supporting features."""

    def __init__(self, config: DsaConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        key = config.supports if config.causal else config.supports // 2
        self.window = Window(frames=config.supports + 1, key=key)
        self.size_hw_px = config.size_hw_px
        self.joints = config.joints
        if config.backbone == "hrnet":
            size = HRNetConfig(config.width, config.modules, config.blocks)
            self.backbone: HRNet | MoveNetTrunk = HRNet(size)
            channels = config.width
        else:
            self.backbone = MoveNetTrunk(MoveNetConfig(MOVENET_WIDTHS[config.backbone]))
            channels = self.backbone.widths[0]
        kind = AlignmentUNet if config.unet else AlignmentCascade
        self.align = kind(channels, config) if config.align else None
        self.aggregate = nn.Sequential(
            BasicBlock(channels * self.window.frames, channels),
            BasicBlock(channels, channels),
            BasicBlock(channels, channels),
        )
        self.head = _head(channels, config.joints)
        if config.freeze:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Dsa:
        """Set the mode; a frozen backbone stays in evaluation."""
        super().train(mode)
        if self.config.freeze:
            self.backbone.eval()
        return self

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to the backbone's stride-4 feature (N, C, H / 4, W / 4)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze):
            features = self.backbone(frames)
        return (features if isinstance(features, torch.Tensor) else features[0],)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps (B, K, H / 4, W / 4) of the key frame; the distances are not used."""
        (windows,) = features  # (B, T, C, h, w)
        if labels is not None or windows.shape[1] != self.window.frames:
            raise ShapeError(
                f"DSA: expected features of {self.window.frames} frames and no labels, "
                f"got {windows.shape[1]} frames" + (" and labels" if labels is not None else "")
            )
        key = windows[:, self.window.key]
        support = torch.cat((windows[:, : self.window.key], windows[:, self.window.key + 1 :]), 1)
        aligned = support if self.align is None else self.align(support, key)
        fused = self.aggregate(torch.cat((key, aligned.flatten(1, 2)), 1))
        return PoseOut(self.head(fused), {"aligned": aligned})


def _build(defaults: DsaConfig, overrides: dict[str, object]) -> Dsa:
    """Build a DSA from defaults and overrides; an unknown override is a ConfigError."""
    unknown = set(overrides) - {item.name for item in fields(DsaConfig)}
    if unknown:
        raise ConfigError(f"DSA has no option {', '.join(sorted(unknown))}")
    config = replace(defaults, **overrides)  # type: ignore[arg-type]
    two, three, four = config.modules
    size = crop_size(config.size_hw_px)
    return Dsa(replace(config, modules=(two, three, four), size_hw_px=size))


@register_net("dsa_w48")
def dsa_w48(**overrides: object) -> Dsa:
    """DSA of the paper: HRNet-W48, 384x288 crops, five frames, two of them after the key frame."""
    return _build(DsaConfig(), overrides)


@register_net("dsa_robot")
def dsa_robot(**overrides: object) -> Dsa:
    """DSA for live use: MoveNet's trunk, 256x192 crops, COCO joints, one frame of look-ahead."""
    robot = DsaConfig(17, (256, 192), "movenet_thunder", supports=2, freeze=False)
    return _build(robot, overrides)
