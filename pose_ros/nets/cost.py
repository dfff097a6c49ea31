"""What a network costs on paper: parameters and multiply-accumulates, counted without running it.

Counted by `torch.utils.flop_counter` on the meta device; `grid_sample` is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pose_ros.errors import ConfigError
from pose_ros.nets.hstpn import Hstpn
from pose_ros.nets.registry import build_net
from pose_ros.nets.video import VideoPoseNet


@dataclass(frozen=True)
class Cost:
    """Of one person: parameters in millions, GMACs per frame or window."""

    params_m: float
    backbone_params_m: float
    backbone: float  # GMACs of the backbone alone on one frame
    encode: float  # GMACs of one frame's features
    fuse: float  # GMACs of the window after that; of a step for a recurrent network
    frames: int  # that a key frame without a cache encodes: T, or 1 for a recurrent network

    @property
    def uncached(self) -> float:
        """GMACs per key frame when nothing is kept."""
        return self.frames * self.encode + self.fuse

    @property
    def cached(self) -> float:
        """GMACs per key frame when the features of the earlier frames are kept."""
        return self.encode + self.fuse


def is_recurrent(net: nn.Module) -> bool:
    """Whether a network carries a memory through a stream."""
    return isinstance(net, Hstpn) and net.config.temporal == "gru"


def build_meta(name: str, **overrides: object) -> nn.Module:
    """Network `name` without memory for its weights, in evaluation mode."""
    with torch.device("meta"):
        return build_net(name, **overrides).eval()


def count(name: str, **overrides: object) -> Cost:
    """Cost of the video network `name`.

    Raises:
        ConfigError: it is no video network, or has no such option.
    """
    net = build_meta(name, **overrides)
    if not isinstance(net, VideoPoseNet):
        raise ConfigError(f"{name} is no video network: nothing of it is kept between frames")
    with torch.device("meta"):
        return count_net(net, is_recurrent(net))


def count_net(net: VideoPoseNet, recurrent: bool) -> Cost:
    """Cost of a video network on the meta device; every frame of a recurrent one is one step."""
    frames = 1 if recurrent else net.window.frames
    x = torch.empty(1, 3, *net.size_hw_px, device="meta")
    dt = torch.ones(1, device="meta")
    with torch.no_grad():
        features = net.encode(x)
    windows = tuple(f[:, None].expand(-1, frames, *f.shape[1:]) for f in features)
    backbone = net.get_submodule("backbone")
    # A whole single-frame network as the backbone: its features, without its own head.
    trunk = getattr(backbone, "forward_features", backbone)

    def fuse() -> object:
        if recurrent:
            return net.step(features[0], net.start(1, features[0]))  # type: ignore[operator]
        return net.fuse(windows, dt, dt)

    return Cost(
        params_m=parameters_m(net),
        backbone_params_m=parameters_m(backbone),
        backbone=gmacs(lambda: trunk(x)),
        encode=gmacs(lambda: net.encode(x)),
        fuse=gmacs(fuse),
        frames=frames,
    )


def parameters_m(net: nn.Module) -> float:
    """Parameters in millions."""
    return sum(p.numel() for p in net.parameters()) / 1e6


def gmacs(run: Callable[[], object]) -> float:
    """Multiply-accumulates of a call, in 1e9."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2e9
