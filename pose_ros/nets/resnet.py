"""ResNet, and the pose network SimpleBaseline on top of it.

The trunk is torchvision's ResNet (stride on the 3x3 convolution of a bottleneck, "v1.5"), with the
same parameter names, without the classifier; HSTPN uses its four stages. ``simplebaseline_r50`` is
the single-frame pose network whose public COCO checkpoints initialise it.

Source: He et al., "Deep Residual Learning", CVPR 2016; Xiao et al., "Simple Baselines for Human
Pose Estimation and Tracking", ECCV 2018. Nothing differs. Checked in `test/nets/test_resnet.py`
(parameter names and counts, strides, GMACs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.registry import register_net
from pose_ros.nets.video import PoseOut, VideoPoseNet, Window


def crop_size(size_hw_px: Sequence[int]) -> tuple[int, int]:
    """Return the crop's height and width, pixels.

    Raises:
        ConfigError: they are not two multiples of 32, the stride of the coarsest feature.

    """
    if len(size_hw_px) != 2 or any(s <= 0 or s % 32 for s in size_hw_px):
        raise ConfigError(f"size_hw_px: expected two multiples of 32, got {tuple(size_hw_px)}")
    return int(size_hw_px[0]), int(size_hw_px[1])


@dataclass(frozen=True)
class ResNetConfig:
    """Size of a ResNet of bottlenecks; the defaults are ResNet-50."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64  # channels after the stem; stage i has 4 * width * 2^i


@dataclass(frozen=True)
class SimpleBaselineConfig:
    """SimpleBaseline: a trunk and three transposed convolutions."""

    trunk: ResNetConfig = ResNetConfig()
    joints: int = 17
    size_hw_px: tuple[int, int] = (256, 192)
    head_channels: int = 256


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, and a skip."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int = 1) -> None:
        """Build the block from ``c_in`` to ``4 * width`` channels."""
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, 4 * width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip; the skip is a 1x1 convolution where channels change."""

    expansion = 1

    def __init__(self, c_in: int, width: int) -> None:
        """Build the block from ``c_in`` to ``width`` channels."""
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if c_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(c_in, width, 1, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, width, h, w)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Trunk that returns its features C2 to C5, at strides 4 to 32."""

    def __init__(self, config: ResNetConfig) -> None:
        """Build stem and four stages."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        channels, widths = config.width, []
        for i, count in enumerate(config.blocks):
            width = config.width * 2**i
            stage = nn.Sequential()
            for j in range(count):
                stage.append(Bottleneck(channels, width, 2 if i > 0 and j == 0 else 1))
                channels = width * Bottleneck.expansion
            self.add_module(f"layer{i + 1}", stage)
            widths.append(channels)
        self.widths = tuple(widths)

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to four features, finest first: (N, widths[i], H / 2^(i+2), ...)."""
        x = F.relu(self.bn1(self.conv1(frames)))
        x = F.max_pool2d(x, 3, 2, 1)
        features = []
        for i in range(len(self.widths)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            features.append(x)
        return tuple(features)


class SimpleBaseline(VideoPoseNet):
    """Single-frame pose network: C5, three transposed convolutions, one map per joint."""

    def __init__(self, config: SimpleBaselineConfig) -> None:
        """Build trunk and head with random weights."""
        super().__init__()
        self.config = config
        self.window = Window(frames=1, key=0)
        self.size_hw_px = config.size_hw_px
        self.joints = config.joints
        self.backbone = ResNet(config.trunk)
        channels, layers = self.backbone.widths[-1], nn.Sequential()
        for _ in range(3):
            layers.append(nn.ConvTranspose2d(channels, config.head_channels, 4, 2, 1, bias=False))
            layers.append(nn.BatchNorm2d(config.head_channels))
            layers.append(nn.ReLU())
            channels = config.head_channels
        self.deconv_layers = layers
        self.final_layer = nn.Conv2d(channels, config.joints, 1)

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to the head's feature (N, 256, H / 4, W / 4)."""
        return (self.deconv_layers(self.backbone(frames)[-1]),)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps (B, K, H / 4, W / 4) of the only frame; ``aux`` is empty."""
        if labels is not None:
            raise ShapeError("SimpleBaseline takes no labels: only propagation networks do")
        return PoseOut(self.final_layer(features[0][:, self.window.key]), {})


@register_net("simplebaseline_r50")
def simplebaseline_r50(**overrides: object) -> SimpleBaseline:
    """SimpleBaseline with ResNet-50, 34.0 M parameters, made for 256x192 crops."""
    try:
        config = replace(SimpleBaselineConfig(), **overrides)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"SimpleBaseline has no such option: {error}") from error
    return SimpleBaseline(replace(config, size_hw_px=crop_size(config.size_hw_px)))
