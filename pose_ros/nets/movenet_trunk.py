"""MoveNet's trunk and pyramid as a small backbone for video networks.

Parameter names are MoveNet's, so that its weights can be imported (`import_conv`).
"""

from __future__ import annotations

import torch
from torch import nn

from pose_ros.nets.movenet import FeaturePyramid, MobileNetV2, MoveNetConfig

#: MobileNetV2's width multiplier of the published networks.
MOVENET_WIDTHS = {"movenet_lightning": 1.0, "movenet_thunder": 1.75}


class MoveNetTrunk(nn.Module):
    """MobileNetV2 and its pyramid: crops to four features, strides 4 to 32.

    The finest one is the pyramid's output, because MobileNetV2's own stride-4 feature knows little
    more than edges; the other three are MobileNetV2's.
    """

    def __init__(self, config: MoveNetConfig) -> None:
        """Build both parts with random weights."""
        super().__init__()
        self.trunk = MobileNetV2(config)
        self.pyramid = FeaturePyramid(self.trunk.widths, config.fpn_channels)
        self.widths = (config.fpn_channels[-1], *self.trunk.widths[1:])

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W), multiples of 32, to (N, widths[i], H / 2^(i+2), W / 2^(i+2))."""
        taps = self.trunk(frames)
        return (self.pyramid(taps), *taps[1:])
