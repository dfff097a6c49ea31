"""The border of a network: uint8 RGB pictures in, normalised as its card says."""

import torch
from torch import nn

from pose_ros.nets.checkpoint import Card


class Uint8Net(nn.Module):
    """A card's network that takes uint8 RGB pictures, channels last."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, net: nn.Module, card: Card) -> None:
        """Wrap `net`, which takes what the card describes."""
        super().__init__()
        self.net = net
        self.reverse = card.channels == "bgr"
        self.register_buffer("scale", 1.0 / torch.tensor(card.std)[:, None, None])
        self.register_buffer(
            "shift",
            -torch.tensor(card.mean)[:, None, None] / torch.tensor(card.std)[:, None, None],
        )

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the network on (P, T, h, w, 3) or (B, h, w, 3) uint8 RGB; return a tuple."""
        lead = range(pictures.ndim - 3)
        h, w, channels = range(pictures.ndim - 3, pictures.ndim)
        x = pictures.permute(*lead, channels, h, w).float()  # (..., 3, h, w)
        if self.reverse:
            x = x.flip(-3)
        return tuple(self.net(x * self.scale + self.shift))
