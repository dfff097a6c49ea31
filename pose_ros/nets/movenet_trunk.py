"""MoveNet inside video networks: its trunk as a backbone, its answer as evidence.

Parameter names are MoveNet's, so that its weights can be imported (`import_conv`). Evidence are
two sets of maps of what a frame by itself says of every joint (`evidence`); `BeliefGate` weighs
them against what the frames before led to expect. Cells are MoveNet's: cell c is the continuous
crop coordinate 4 c.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.nets.movenet import FeaturePyramid, MobileNetV2, MoveNetConfig, PoseHeads

SPREAD = 2.0  # cells, standard deviation of the peak that a joint is drawn as
NEAR = 4.0  # cells, how far the drawn peak takes the place of the network's own
OTHERS = 0.9  # other peaks stay below the drawn one, which may miss its cell's centre
FASTEST = 4.0  # cells per frame; what moved further was another peak, not the joint
CLUES = 8  # maps per joint that `BeliefGate` looks at

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


def evidence(heads: PoseHeads) -> tuple[torch.Tensor, torch.Tensor]:
    """What a single-frame answer says of every joint: two sets of maps (P, J, h, w) in [0, 1].

    The first has a Gaussian where the joint is decoded to be (peak and offset), as high as its
    score: reading its peak to a fraction of a cell is the single-frame answer. Beside it are the
    map's other peaks. The second is the map as it was, weighted by whose joint it may be.
    """
    rows, columns = heads.heatmaps.shape[-2:]
    flat = heads.heatmaps.flatten(2)
    weighted = flat * heads.prior.flatten(2)
    peak = weighted.argmax(2, keepdim=True)  # (P, J, 1)
    score = flat.gather(2, peak)
    raw = weighted / weighted.gather(2, peak).clamp_min(1e-9) * score
    raw = raw.unflatten(2, (rows, columns))
    dx = heads.offsets[:, :, 0].flatten(2).gather(2, peak)
    dy = heads.offsets[:, :, 1].flatten(2).gather(2, peak)
    x, y = (peak % columns).to(dx) + dx, (peak // columns).to(dy) + dy
    across = torch.arange(columns, device=x.device, dtype=x.dtype) - x  # (P, J, w)
    down = torch.arange(rows, device=y.device, dtype=y.dtype) - y
    square = down.square()[..., None] + across.square()[:, :, None]
    missed = across.square().amin(2, keepdim=True) + down.square().amin(2, keepdim=True)
    drawn = (-(square - missed[..., None]) / (2.0 * SPREAD**2)).exp() * score[..., None]
    others = raw * (1.0 - (-square / (2.0 * NEAR**2)).exp()).square() * OTHERS
    return drawn + others, raw


def positions(maps: torch.Tensor) -> torch.Tensor:
    """Places (P, J, 2), (x, y) in cells, of the highest peaks of maps (P, J, h, w)."""
    top = maps.amax((2, 3), keepdim=True).clamp_min(1e-6)
    weight = (maps / top).clamp_min(0.0).square().square().square()  # lower peaks hardly count
    total = weight.sum((2, 3)).clamp_min(1e-6)
    rows, columns = maps.shape[-2:]
    x = torch.arange(columns, device=maps.device, dtype=maps.dtype)
    y = torch.arange(rows, device=maps.device, dtype=maps.dtype)
    return (
        torch.stack(((weight.sum(2) * x).sum(2), (weight.sum(3) * y).sum(2)), 2) / total[..., None]
    )


def shift(maps: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Maps (P, J, h, w) moved by (P, J, 2) cells, (x, y), bilinearly, zeros behind them."""

    def taps(size: int, by: torch.Tensor) -> torch.Tensor:
        at = torch.arange(size, device=maps.device, dtype=maps.dtype)
        wanted = at[:, None] - at - by[..., None, None]  # (P, J, to, from)
        return (1.0 - wanted.abs()).clamp_min(0.0)

    rows, columns = (int(side) for side in maps.shape[-2:])
    return taps(rows, cells[..., 1]) @ maps @ taps(columns, cells[..., 0]).transpose(2, 3)


def agreement(now: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """How high the maps (P, J, h, w) of two frames are, and how far they agree: (P, J) each."""
    tops = [m.amax((2, 3)) for m in (now, before)]
    both = (now * before).amax((2, 3)) / (tops[0] * tops[1]).clamp_min(1e-3)
    return (*tops, both)


class BeliefGate(nn.Module):
    """How much to believe the past: a share in (0, 1) per joint and cell.

    Every joint is asked by the same small network, from its own maps and the frame's feature.
    The share starts as 5 %.
    """

    def __init__(self, channels: int, joints: int, hidden: int = 16) -> None:
        """Build the layers."""
        super().__init__()
        self.own = nn.Conv2d(CLUES, hidden, 3, padding=1)
        self.context = nn.Conv2d(channels, hidden, 1)
        self.joint = nn.Parameter(torch.zeros(joints, hidden, 1, 1))
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.out = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, -3.0)  # type: ignore[arg-type]

    def forward(
        self, now: torch.Tensor, raw: torch.Tensor, expected: torch.Tensor,
        speed: torch.Tensor, feature: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Shares (P, J, h, w) from maps (P, J, h, w), speeds (P, J) and (P, C, h / 2, w / 2)."""
        coarse = [F.max_pool2d(m, 2) for m in (now, raw, expected)]  # (P, J, h / 2, w / 2)
        seen, kept, both = agreement(now, expected)  # (P, J)
        spread = coarse[1].mean((2, 3)) * 30.0 / seen.clamp_min(1e-3)
        whole = torch.stack((seen, kept, both, spread, speed), 2)[
            ..., None, None
        ]  # (P, J, 5, 1, 1)
        clues = torch.cat((torch.stack(coarse, 2), whole + coarse[0][:, :, None] * 0.0), 2)
        joints = clues.shape[1]
        own = self.own(clues.flatten(0, 1)).unflatten(0, (-1, joints))
        x = F.relu(own + self.context(feature)[:, None] + self.joint).flatten(0, 1)
        gate = self.out(F.relu(self.mix(x))).unflatten(0, (-1, joints))[:, :, 0]
        return F.interpolate(gate, scale_factor=2.0, mode="bilinear").sigmoid()
