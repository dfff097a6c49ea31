"""NanoDet-g: a fully convolutional person detector (CSP trunk, additive PAN, anchor-free heads).

What differs from the published graph (NanoDet v0, "nanodet-g", COCO):
  * only the class "person" is kept, the other 79 rows of the last convolutions are dropped;
  * box decoding is inside and follows the input's size, which may be any multiple of 32.

Conventions: boxes are x_min, y_min, x_max, y_max in continuous input pixels (left edge of the
input 0, right edge w). Scores are sigmoids, boxes overlap: thresholds and suppression are up to
the caller.

Checked against the published graph in `test/nets/test_nanodet.py`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.registry import register_net

STRIDES = (8, 16, 32)  # input pixels per cell of the three head levels


@dataclass(frozen=True)
class NanoDetConfig:
    """Size of a NanoDet; the defaults are NanoDet-g's."""

    channels: int = 32  # of the stem; every stage doubles it
    blocks: tuple[int, int, int, int] = (1, 2, 2, 3)  # half blocks per stage, strides 4, 8, 16, 32
    neck_channels: int = 128
    bins: int = 11  # a side of a box is the expectation over 0 ... bins - 1 strides


class Detections(NamedTuple):
    """Every candidate of a detector, not yet thresholded or suppressed."""

    boxes: torch.Tensor  # (B, n, 4) x_min, y_min, x_max, y_max in input pixels
    scores: torch.Tensor  # (B, n) in [0, 1]: is it a person?


class ConvLeaky(nn.Module):
    """3x3 convolution and leaky ReLU."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        """Build the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c_in, h, w) to (B, c_out, h / stride, w / stride)."""
        return F.leaky_relu(self.conv(x), 0.1)


class HalfBlock(nn.Module):
    """Two convolutions of half the width, concatenated."""

    def __init__(self, channels: int) -> None:
        """Build both convolutions."""
        super().__init__()
        self.first = ConvLeaky(channels, channels // 2)
        self.second = ConvLeaky(channels // 2, channels // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c, h, w) to (B, c, h, w)."""
        x = self.first(x)
        return torch.cat((self.second(x), x), 1)


class Stage(nn.Module):
    """Cross-stage partial stage: enter, half blocks, leave; concatenated with its entry."""

    def __init__(self, channels: int, blocks: int, stride: int) -> None:
        """Build the stage for `channels` inputs and 2 * `channels` outputs."""
        super().__init__()
        self.enter = ConvLeaky(channels, channels, stride)
        self.blocks = nn.Sequential(*(HalfBlock(channels) for _ in range(blocks)))
        self.leave = ConvLeaky(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, c, h, w) to (B, 2 c, h / stride, w / stride)."""
        x = self.enter(x)
        return torch.cat((self.leave(self.blocks(x)), x), 1)


class AdditivePan(nn.Module):
    """Path aggregation without convolutions: laterals, then add upwards, then downwards."""

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        """Build the laterals of the features at strides 8, 16 and 32."""
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in widths)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map three features (finest first) to three of `channels` channels, same sizes."""
        fine, middle, coarse = (lat(f) for lat, f in zip(self.laterals, features, strict=True))
        middle = middle + _resized(coarse, 2.0)
        fine = fine + _resized(middle, 2.0)
        middle = middle + _resized(fine, 0.5)
        coarse = coarse + _resized(middle, 0.5)
        return [fine, middle, coarse]


class Head(nn.Module):
    """Person score and box sides of one level."""

    def __init__(self, channels: int, bins: int) -> None:
        """Build both layers."""
        super().__init__()
        self.bins = bins
        self.conv = ConvLeaky(channels, channels)
        self.out = nn.Conv2d(channels, 1 + 4 * bins, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, c, h, w) to scores (B, h*w) and left, top, right, bottom cells (B, h*w, 4)."""
        score, *sides = self.out(self.conv(x)).flatten(2).split((1, *[self.bins] * 4), 1)
        steps = torch.arange(self.bins, device=x.device, dtype=x.dtype)[:, None]
        expected = [(side.softmax(1) * steps).sum(1) for side in sides]  # four (B, h*w)
        return score[:, 0].sigmoid(), torch.stack(expected, -1)


class NanoDet(nn.Module):
    """NanoDet for persons; see the module docstring for its conventions."""

    def __init__(self, config: NanoDetConfig) -> None:
        """Build trunk, neck and heads with random weights."""
        super().__init__()
        self.config = config
        widths = [config.channels * 2**i for i in range(4)]
        self.stem = ConvLeaky(3, config.channels, 2)
        self.stages = nn.ModuleList(
            Stage(c, n, stride=1 if i == 0 else 2)
            for i, (c, n) in enumerate(zip(widths, config.blocks, strict=True))
        )
        self.pan = AdditivePan((2 * widths[1], 2 * widths[2], 2 * widths[3]), config.neck_channels)
        self.heads = nn.ModuleList(Head(config.neck_channels, config.bins) for _ in STRIDES)

    def forward_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Map normalised BGR (B, 3, h, w) to three neck features at strides 8, 16 and 32."""
        if (
            images.ndim != 4
            or images.shape[1] != 3
            or images.shape[2] % 32
            or images.shape[3] % 32
        ):
            raise ShapeError(
                f"NanoDet wants (B, 3, h, w) with h, w multiples of 32, got {tuple(images.shape)}"
            )
        x = F.max_pool2d(self.stem(images), 3, 2, padding=1)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return self.pan(features[1:])

    def forward_head(self, features: list[torch.Tensor]) -> Detections:
        """Map the neck features to candidates, finest level first, row by row."""
        boxes, scores = [], []
        for feature, head, stride in zip(features, self.heads, STRIDES, strict=True):
            score, sides = head(feature)
            centers = _centers(feature)
            boxes.append(
                stride * torch.cat((centers - sides[..., :2], centers + sides[..., 2:]), -1)
            )
            scores.append(score)
        return Detections(torch.cat(boxes, 1), torch.cat(scores, 1))

    def forward(self, images: torch.Tensor) -> Detections:
        """Map normalised BGR (B, 3, h, w), multiples of 32, to n = 21 h w / 1024 candidates."""
        return self.forward_head(self.forward_features(images))


def _resized(x: torch.Tensor, scale: float) -> torch.Tensor:
    """Bilinear resize; halving is the mean of 2x2 cells."""
    if scale == 0.5:
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


def _centers(feature: torch.Tensor) -> torch.Tensor:
    """Return the centres of a feature's cells, row by row: (h*w, 2), (x, y) in cells."""
    rows, columns = feature.shape[-2:]
    y = torch.arange(rows, device=feature.device, dtype=feature.dtype) + 0.5
    x = torch.arange(columns, device=feature.device, dtype=feature.dtype) + 0.5
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), -1)


@register_net("nanodet_g")
def nanodet_g(**overrides: object) -> NanoDet:
    """NanoDet-g, 3.8 M parameters, made for 416x416 pictures."""
    try:
        return NanoDet(replace(NanoDetConfig(), **overrides))
    except TypeError as error:
        raise ConfigError(f"NanoDet has no such option: {error}") from error
