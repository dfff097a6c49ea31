"""Checks for every network on backbone tokens, and what all video networks share, re-exported."""

from __future__ import annotations

from pathlib import Path

import torch
from conv_cases import (
    check_every_parameter_learns,
    check_shapes_and_people,
    check_strict_reload,
    moving_dots,
    onnx_difference,
    overfit,
    wake,
    windows,
)
from torch import nn

from pose_ros.nets.cost import count as cost
from pose_ros.nets.pictures import Fuse
from pose_ros.nets.registry import build_net
from pose_ros.nets.vit import TokenPoseNet

__all__ = [
    "TINY", "check_every_parameter_learns", "check_mixed_precision", "check_onnx",
    "check_shapes_and_people", "check_strict_reload", "cost", "learn_hidden",
    "moving_dots", "onnx_difference",
    "overfit", "split_windows", "tiny", "wake", "windows",
]  # fmt: skip

#: a network of any family that a test can afford: 4x3 tokens of 64 channels
TINY = {
    "backbone": "vit_tiny", "size_hw_px": (64, 48), "freeze": False, "joints": 5,
    "model_dim": None, "head_channels": 32,
}  # fmt: skip


def tiny(name: str, **overrides: object) -> TokenPoseNet:
    """The network `name` with TINY's sizes and seeded weights."""
    torch.manual_seed(0)
    return build_net(name, **{**TINY, **overrides})


def split_windows(net: TokenPoseNet, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Features of windows (B, T, 3, H, W) as `fuse` takes them, (B, T, ...) each."""
    shape = frames.shape[:2]
    return tuple(f.unflatten(0, shape) for f in net.encode(frames.flatten(0, 1)))


def check_mixed_precision(net: TokenPoseNet, tolerance: float = 0.1) -> None:
    """In bfloat16 autocast, and wholly in bfloat16, the answer is near float32's, and finite."""
    wake(net).eval()
    x = windows(net, 2)
    with torch.no_grad():
        exact = net(x).heatmaps
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(x).heatmaps.float()
        half = net.bfloat16()(x.bfloat16()).heatmaps.float()
    for answer in (mixed, half):
        assert torch.isfinite(answer).all()
        assert (answer - exact).norm() < tolerance * exact.norm()


def learn_hidden(net: TokenPoseNet, steps: int = 80) -> float:
    """Worst error in cells after learning four clips whose key frame is blank."""
    torch.manual_seed(0)
    frames, target = moving_dots(net, 4)
    frames[:, net.window.key] = 0.0
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (net(frames).heatmaps - target).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    width = target.shape[-1]
    found, wanted = (m.flatten(2).argmax(2) for m in (net(frames).heatmaps, target))
    dx, dy = found % width - wanted % width, found // width - wanted // width
    return torch.hypot(dx.float(), dy.float()).max().item()


class Timed(nn.Module):
    """Frames and distances to heatmaps: what is exported."""

    def __init__(self, net: TokenPoseNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, frames: torch.Tensor, left: torch.Tensor, right: torch.Tensor
    ) -> torch.Tensor:
        return self.net(frames, left, right).heatmaps


class Encode(nn.Module):
    """One frame to its features: the half of a stream that is cached."""

    def __init__(self, net: TokenPoseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.net.encode(frames)


def check_onnx(net: TokenPoseNet, folder: Path, people: tuple[int, ...] = (2, 1, 4)) -> None:
    """Whole, and in its two halves, the exported network answers as torch does, for any B."""
    wake(net).eval()
    whole, frames, halves = [], [], []
    with torch.no_grad():
        for count in people:
            x = windows(net, count, seed=count)
            dt = torch.ones(count), torch.full((count,), 2.0)
            whole.append((x, *dt))
            frames.append((x.flatten(0, 1),))
            halves.append((*split_windows(net, x), *dt))
    assert onnx_difference(Timed(net).eval(), whole, folder / "whole.onnx") < 1e-4
    assert onnx_difference(Encode(net).eval(), frames, folder / "encode.onnx") < 1e-4
    assert onnx_difference(Fuse(net).eval(), halves, folder / "fuse.onnx") < 1e-4
