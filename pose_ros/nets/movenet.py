"""MoveNet single-pose: crops to COCO-17 heatmaps (MobileNetV2, a small FPN, CenterNet heads).

What differs from the published graph (Google, "MoveNet.SinglePose", versions 4):
  * batch norms are folded into the convolutions, as in the published inference graph;
  * normalisation is outside (the model card has it), and so is the peak decoding: `forward` stops
    at the maps, so that the same maps can be decoded, fused over time or trained;
  * the weight of the crop's centre is computed for any crop size, not a stored constant.

Conventions: cells are counted in the stride-4 grid. Cell coordinate c is the *continuous* crop
coordinate c * 4: the left edge of the crop is 0, its right edge is w, and the centre of the first
pixel is 0.5. The joint j of person p, as the published graph decodes it:

    peak  = argmax over (y, x) of heatmaps[p, j] * prior[p, j]
    xy    = (peak_xy + offsets[p, j, :, peak_y, peak_x]) * 4        in continuous crop pixels
    score = heatmaps[p, j, peak_y, peak_x]

Checked against the published graph in `test/nets/test_movenet.py`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.registry import register_net

STRIDE = 4  # crop pixels per heatmap cell
DISTANCE_SOFTENING = 1.7998047  # cells; the published graph's 1.8, rounded to float16
# MobileNetV2's table: expansion, base width, number of blocks, stride of the first one.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@dataclass(frozen=True)
class MoveNetConfig:
    """Size of a MoveNet; the defaults are Lightning's."""

    width: float = 1.0  # MobileNetV2's width multiplier
    joints: int = 17
    top_channels: int = 1280  # of the stride-32 feature; not multiplied by `width`
    fpn_channels: tuple[int, int, int] = (64, 32, 24)  # lateral widths at strides 16, 8 and 4
    head_channels: int = 96


class PoseHeads(NamedTuple):
    """What a single-frame pose network says about P people with J joints on an (h, w) grid."""

    heatmaps: torch.Tensor  # (P, J, h, w) in [0, 1]: is joint j of anybody here?
    prior: (
        torch.Tensor
    )  # (P, J, h, w) > 0: weight of the heatmap before the argmax (whose joint is it?)
    offsets: (
        torch.Tensor
    )  # (P, J, 2, h, w) in cells, (x, y): from the cell to the joint, read at the peak


def _scaled(channels: int, width: float) -> int:
    """MobileNetV2's rounding of a channel count to a multiple of 8, never below 90 % of it."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


class SameConv(nn.Module):
    """Convolution with TensorFlow's SAME padding: stride 2 pads at the bottom and right only."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, depthwise: bool = False
    ) -> None:
        """Build the convolution; `depthwise` needs c_in == c_out."""
        super().__init__()
        self.pad = stride == 2 and kernel == 3
        padding = 0 if self.pad else kernel // 2
        groups = c_in if depthwise else 1
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h / stride, w / stride)."""
        return self.conv(F.pad(x, (0, 1, 0, 1), value=0.0) if self.pad else x)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand 1x1, depthwise 3x3, project 1x1, skip where shapes agree."""

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int) -> None:
        """Build the block; an expansion of 1 leaves the first convolution out."""
        super().__init__()
        hidden = c_in * expansion
        self.expand = nn.Conv2d(c_in, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv(hidden, hidden, 3, stride, depthwise=True)
        self.project = nn.Conv2d(hidden, c_out, 1)
        self.skip = stride == 1 and c_in == c_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h / stride, w / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.skip else y


class SeparableConv(nn.Module):
    """Depthwise 3x3 without bias, pointwise 1x1, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        """Build both convolutions."""
        super().__init__()
        self.depthwise = nn.Conv2d(c_in, c_in, 3, padding=1, groups=c_in, bias=False)
        self.pointwise = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h, w)."""
        return F.relu(self.pointwise(self.depthwise(x)))


class MobileNetV2(nn.Module):
    """MobileNetV2 that returns its features at strides 4, 8, 16 and 32."""

    TAPS = (2, 5, 9)  # block indices whose outputs are the features at strides 4, 8 and 16

    def __init__(self, config: MoveNetConfig) -> None:
        """Build stem, 17 blocks and the last 1x1 convolution."""
        super().__init__()
        channels = _scaled(32, config.width)
        self.stem = SameConv(3, channels, 3, 2)
        blocks, widths = [], []
        for expansion, base, count, stride in STAGES:
            for i in range(count):
                c_out = _scaled(base, config.width)
                blocks.append(
                    InvertedResidual(channels, c_out, expansion, stride if i == 0 else 1)
                )
                channels = c_out
                widths.append(c_out)
        self.blocks = nn.ModuleList(blocks)
        self.top = nn.Conv2d(channels, config.top_channels, 1)
        self.widths = (*(widths[i] for i in self.TAPS), config.top_channels)

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (B, 3, h, w) to features, finest first: (B, widths[i], h/2^(i+2), w/2^(i+2))."""
        x = F.relu6(self.stem(frames))
        taps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.TAPS:
                taps.append(x)
        return (*taps, F.relu6(self.top(x)))


class FeaturePyramid(nn.Module):
    """Top-down FPN: upsample by 2, add the lateral, smooth and narrow; down to stride 4."""

    def __init__(self, widths: tuple[int, ...], channels: tuple[int, int, int]) -> None:
        """Build laterals for the features of `widths` (finest first) and three smoothers."""
        super().__init__()
        coarse, middle, fine = channels
        laterals = (fine, middle, coarse, coarse)
        self.laterals = nn.ModuleList(
            nn.Conv2d(c, d, 1) for c, d in zip(widths, laterals, strict=True)
        )
        self.smooth = nn.ModuleList(
            (SeparableConv(fine, fine), SeparableConv(middle, fine), SeparableConv(coarse, middle))
        )

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Map the features of strides 4 to 32 (finest first) to one (B, fine, h / 4, w / 4)."""
        x = self.laterals[3](features[3])
        for level in (2, 1, 0):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.smooth[level](x + self.laterals[level](features[level]))
        return x


class Head(nn.Module):
    """One dense prediction: separable convolution, then 1x1."""

    def __init__(self, c_in: int, hidden: int, c_out: int) -> None:
        """Build both layers."""
        super().__init__()
        self.separable = SeparableConv(c_in, hidden)
        self.out = nn.Conv2d(hidden, c_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h, w)."""
        return self.out(self.separable(x))


class MoveNet(nn.Module):
    """MoveNet single-pose; see the module docstring for how its maps become joints."""

    def __init__(self, config: MoveNetConfig) -> None:
        """Build trunk and heads with random weights."""
        super().__init__()
        self.config = config
        self.trunk = MobileNetV2(config)
        self.pyramid = FeaturePyramid(self.trunk.widths, config.fpn_channels)
        feature, hidden, joints = config.fpn_channels[-1], config.head_channels, config.joints
        self.center = Head(feature, hidden, 1)  # is a person centred here?
        self.regression = Head(
            feature, hidden, 2 * joints
        )  # cells (y, x) from that centre to each joint
        self.heatmap = Head(feature, hidden, joints)
        self.offset = Head(
            feature, hidden, 2 * joints
        )  # cells (y, x) from the cell's corner to the joint

    def forward_features(self, frames: torch.Tensor) -> torch.Tensor:
        """Map normalised RGB (B, 3, h, w), multiples of 32, to the feature (B, 24, h/4, w/4)."""
        if (
            frames.ndim != 4
            or frames.shape[1] != 3
            or frames.shape[2] % 32
            or frames.shape[3] % 32
        ):
            raise ShapeError(
                f"MoveNet wants (B, 3, h, w) with h, w multiples of 32, got {tuple(frames.shape)}"
            )
        return self.pyramid(self.trunk(frames))

    def forward_head(self, feature: torch.Tensor) -> PoseHeads:
        """Map the feature (P, 24, h, w) to the maps of the person nearest each crop's centre."""
        regressed = self._regressed_joints(feature)  # (P, J, 2) as (y, x), cells
        y, x = _grid(feature)
        dy = y - regressed[..., 0, None, None]  # (P, J, h, w)
        dx = x - regressed[..., 1, None, None]
        prior = 1.0 / (torch.sqrt(dy * dy + dx * dx) + DISTANCE_SOFTENING)
        offsets = (
            self.offset(feature).unflatten(1, (self.config.joints, 2)).flip(2)
        )  # (y, x) -> (x, y)
        return PoseHeads(self.heatmap(feature).sigmoid(), prior, offsets)

    def forward(self, frames: torch.Tensor) -> PoseHeads:
        """Map normalised RGB crops (P, T=1, 3, h, w) to `PoseHeads` on the (h/4, w/4) grid."""
        if frames.ndim != 5 or frames.shape[1] != 1:
            raise ShapeError(f"MoveNet wants (P, T=1, 3, h, w), got {tuple(frames.shape)}")
        return self.forward_head(self.forward_features(frames.flatten(0, 1)))

    def _regressed_joints(self, feature: torch.Tensor) -> torch.Tensor:
        """Return coarse joints (P, J, 2), (y, x) in cells, of the person nearest the centre."""
        rows, columns = feature.shape[-2:]
        y, x = _grid(feature)
        to_middle = torch.sqrt((y - rows // 2) ** 2 + (x - columns // 2) ** 2) + DISTANCE_SOFTENING
        best = (self.center(feature).sigmoid() / to_middle).flatten(1).argmax(1)  # (P,)
        index = best[:, None, None].expand(-1, 2 * self.config.joints, 1)
        steps = (
            self.regression(feature)
            .flatten(2)
            .gather(2, index)
            .unflatten(1, (self.config.joints, 2))
        )
        cell = torch.stack((best // columns, best % columns), -1)  # (P, 2) as (y, x)
        return steps[..., 0] + cell[:, None]


def _grid(feature: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row (h, 1) and column (1, w) indices of a feature's cells, in its dtype."""
    rows, columns = feature.shape[-2:]
    y = torch.arange(rows, device=feature.device, dtype=feature.dtype)
    x = torch.arange(columns, device=feature.device, dtype=feature.dtype)
    return y[:, None], x[None, :]


def _build(defaults: MoveNetConfig, overrides: dict[str, object]) -> MoveNet:
    """Build a MoveNet from defaults and overrides; an unknown override is a ConfigError."""
    try:
        return MoveNet(replace(defaults, **overrides))
    except TypeError as error:
        raise ConfigError(f"MoveNet has no such option: {error}") from error


@register_net("movenet_thunder")
def movenet_thunder(**overrides: object) -> MoveNet:
    """Thunder, 6.2 M parameters, made for 256x256 crops."""
    return _build(MoveNetConfig(width=1.75), overrides)


@register_net("movenet_lightning")
def movenet_lightning(**overrides: object) -> MoveNet:
    """Lightning, 2.3 M parameters, made for 192x192 crops."""
    return _build(MoveNetConfig(width=1.0), overrides)
