"""The border of a network: uint8 RGB pictures in, plain tensors out, normalised as its card says.

A video network also comes in halves, for streams: `Uint8Encode` looks at single pictures, `Fuse`
combines the features of a window. A recurrent one has `Step` and `Recrop` in place of `Fuse`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pose_ros.nets.checkpoint import Card
from pose_ros.nets.video import PoseOut


class Uint8Net(nn.Module):
    """A card's network that takes uint8 RGB pictures, channels last."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, net: nn.Module, card: Card) -> None:
        """Wrap `net`, which takes what the card describes."""
        super().__init__()
        self.net: Any = net
        self.reverse = card.channels == "bgr"
        self.register_buffer("scale", 1.0 / torch.tensor(card.std)[:, None, None])
        self.register_buffer(
            "shift",
            -torch.tensor(card.mean)[:, None, None] / torch.tensor(card.std)[:, None, None],
        )

    def normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        """Map (..., h, w, 3) uint8 RGB to the (..., 3, h, w) that the network takes."""
        lead = range(pictures.ndim - 3)
        h, w, channels = range(pictures.ndim - 3, pictures.ndim)
        x = pictures.permute(*lead, channels, h, w).float()
        if self.reverse:
            x = x.flip(-3)
        return x * self.scale + self.shift

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the network on (P, T, h, w, 3) or (B, h, w, 3) uint8 RGB; return a tuple.

        Of a video network that is its heatmaps alone.
        """
        out = self.net(self.normalised(pictures))
        return (out.heatmaps,) if isinstance(out, PoseOut) else tuple(out)


class Uint8Encode(Uint8Net):
    """The first half of a video network: single pictures (N, h, w, 3) to features (N, ...)."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of (N, h, w, 3) uint8 RGB pictures, each by itself."""
        return tuple(self.net.encode(self.normalised(pictures)))


class Fuse(nn.Module):
    """The second half: features of windows, each (P, T, ...), and distances (P,), to heatmaps."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a `VideoPoseNet`."""
        super().__init__()
        self.net: Any = net

    def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Heatmaps (P, K, h, w), from features, dt_left and dt_right."""
        return (self.net.fuse(args[:-2], args[-2], args[-1]).heatmaps,)


class Step(nn.Module):
    """The second half of a recurrent network: a feature and the memory to heatmaps and memory."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap an `Hstpn`."""
        super().__init__()
        self.net: Any = net

    def forward(
        self, feature: torch.Tensor, hidden: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Heatmaps (P, K, h, w), hidden (P, C, h, w) and seen (P,)."""
        out, state = self.net.step(feature, _state(hidden, seen))
        return (out.heatmaps, *state)


class Recrop(nn.Module):
    """The memory of people whose crops moved, in the cells of their new crops."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap an `Hstpn`."""
        super().__init__()
        self.net: Any = net

    def forward(
        self,
        hidden: torch.Tensor,
        seen: torch.Tensor,
        old_from_new: torch.Tensor,
        gap_s: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Hidden (P, C, h, w) and seen (P,); arguments as of `Hstpn.recrop`."""
        return tuple(self.net.recrop(_state(hidden, seen), old_from_new, gap_s))


def _state(hidden: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from pose_ros.nets.hstpn import StreamState

    return StreamState(hidden, seen)


#: The parts a network runs in, by name.
PARTS = {"whole": Uint8Net, "encode": Uint8Encode, "fuse": Fuse, "step": Step, "recrop": Recrop}


def part_of(net: nn.Module, card: Card, part: str) -> nn.Module:
    """Return one part of a card's network, in evaluation mode."""
    if part in ("whole", "encode"):
        return PARTS[part](net, card).eval()
    return PARTS[part](net).eval()
