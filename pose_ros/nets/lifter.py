"""The lifting network: windows of 2-D joints in, one 3-D body with its uncertainty out.

A tree over time: every frame is read by the same layer, three neighbours make one, three of those
make one, and residual layers follow, which also see the newest frame directly. The input is that
of `core/lift_mono_view.py: look_at_people`: P people, T = 9 frames, F features; joints in COCO's
order. After training the network looks at every window and at its mirror image and answers with
the mean, so that left and right are treated exactly alike. Trained by `training/train_lifter.py`;
checked in `test/nets/test_lifter.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pose_ros.errors import ConfigError
from pose_ros.nets.registry import register_net

HIPS = (11, 12)  # of COCO's joints
MIRROR = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)  # left for right
JOINTS, FEATURES = 17, 55  # features are per frame
FAN = 3  # frames that one node of the tree joins
FRAMES = FAN * FAN
LOG_SPREAD = (-7.0, 1.0)  # limits of the logarithm of a spread, statures


@dataclass(frozen=True)
class LifterConfig:
    """Sizes of a `Lifter`."""

    frame_width: int = 160
    node_width: int = 320
    width: int = 448
    blocks: int = 2


class Residual(nn.Module):
    """Two layers beside the identity."""

    def __init__(self, width: int) -> None:
        """Build the layers."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., width) from (..., width)."""
        return x + self.outer(torch.relu(self.inner(self.norm(x))))


class Lifter(nn.Module):
    """2-D windows to the newest frame's body."""

    mirror_order: Tensor  # (F,)
    mirror_sign: Tensor  # (F,)

    def __init__(self, config: LifterConfig) -> None:
        """Build the layers."""
        super().__init__()
        self.config = config
        self.read = nn.Linear(FEATURES, config.frame_width)
        self.lower = nn.Linear(FAN * config.frame_width, config.node_width)
        self.upper = nn.Linear(FAN * config.node_width, config.width)
        self.newest = nn.Linear(FEATURES, config.width)
        self.blocks = nn.Sequential(*(Residual(config.width) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.width)
        self.answer = nn.Linear(config.width, 5 * JOINTS)
        order, sign = mirror_features()
        self.register_buffer("mirror_order", order, persistent=False)
        self.register_buffer("mirror_sign", sign, persistent=False)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the body and its spread from windows (P, 9, F).

        Body (P, J, 3): joints about the middle of the hips, in statures, along the view's axes.
        Log spread (P, J, 2): logarithm of the mean absolute error in statures, across the ray (per
        axis) and along it.
        """
        body, log_spread = self.lift(windows)
        if self.training:
            return body, log_spread
        mirrored, spread = self.lift(windows[..., self.mirror_order] * self.mirror_sign)
        sides = body.new_tensor([-1.0, 1.0, 1.0])
        body = (body + mirrored[:, MIRROR] * sides) / 2
        return body, (log_spread + spread[:, MIRROR]) / 2

    def lift(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return `forward`'s answer from the windows as they are, without their mirror images."""
        frames = torch.relu(self.read(windows))  # (P, 9, frame_width)
        nodes = frames.reshape(-1, FAN, FAN * frames.shape[-1])
        nodes = torch.relu(self.lower(nodes))  # (P, 3, node_width)
        tree = self.upper(nodes.reshape(-1, FAN * nodes.shape[-1]))
        x = self.norm(self.blocks(tree + self.newest(windows[:, -1])))  # (P, width)
        answer = self.answer(x).reshape(-1, JOINTS, 5)
        body = answer[..., :3]
        body = body - body[:, HIPS].mean(dim=1, keepdim=True)
        return body, (answer[..., 3:] - 3.0).clamp(*LOG_SPREAD)


def mirror_features() -> tuple[Tensor, Tensor]:
    """Return order and sign (F,) that turn a frame's features into those of its mirror image.

    A frame is x, y, score per joint, then time, x and y of the trunk's ray, size.
    """
    joints = torch.arange(3 * JOINTS).reshape(-1, 3)[list(MIRROR)].flatten()
    order = torch.cat([joints, torch.arange(3 * JOINTS, FEATURES)])
    sign = torch.ones(FEATURES)
    sign[0 : 3 * JOINTS : 3] = -1.0
    sign[3 * JOINTS + 1] = -1.0
    return order, sign


@register_net("lifter")
def lifter(**overrides: object) -> Lifter:
    """Build the default lifter, 1.5 M parameters; an unknown override is a ConfigError."""
    try:
        config = replace(LifterConfig(), **overrides)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"Lifter has no such option: {error}") from error
    return Lifter(config)
