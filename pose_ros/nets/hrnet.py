"""HRNet: four branches of different resolution that exchange features all the way.

Trunk and final layer are the official pose network (W32 and W48), with its parameter names; the
video networks use the highest-resolution branch before the final layer, ``HRNet``; ``hrnet_w32``
and ``hrnet_w48`` are the single-frame networks whose public COCO checkpoints initialise them.

Source: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR
2019. Nothing differs. Checked in `test/nets/test_hrnet.py` (parameter names, shapes and counts,
GMACs).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.registry import register_net
from pose_ros.nets.resnet import BasicBlock, Bottleneck, crop_size
from pose_ros.nets.video import PoseOut, VideoPoseNet, Window

STEM = 64  # channels of the stem and inside the bottlenecks of the first stage


@dataclass(frozen=True)
class HRNetConfig:
    """Size of an HRNet; the defaults are W48 for 384x288 crops."""

    width: int = 48  # channels of the finest branch; branch b has width * 2^b
    modules: tuple[int, int, int] = (1, 4, 3)  # of stages 2, 3 and 4
    blocks: int = 4  # residual blocks per branch and module, and bottlenecks in stage 1
    joints: int = 17
    size_hw_px: tuple[int, int] = (384, 288)


def _conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, act: bool = False) -> nn.Module:
    """Convolution, batch norm and, when asked, ReLU; names ``0``, ``1``, ``2``."""
    layers = nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out)
    )
    if act:
        layers.append(nn.ReLU())
    return layers


class Exchange(nn.Module):
    """One module: residual blocks on every branch, then every branch added to every other."""

    def __init__(self, widths: list[int], blocks: int, outputs: int) -> None:
        """Build branches of ``widths``; ``outputs`` of them are fused and returned."""
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(c, c) for _ in range(blocks))) for c in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, j, i) for j in range(len(widths)))
            for i in range(outputs)
        )

    @staticmethod
    def _path(widths: list[int], source: int, target: int) -> nn.Module:
        """Layers from branch ``source`` to the size and width of branch ``target``."""
        if source == target:
            return nn.Identity()
        if source > target:
            up = nn.Upsample(scale_factor=float(2 ** (source - target)), mode="nearest")
            return _conv_bn(widths[source], widths[target], 1).append(up)  # type: ignore[operator]
        layers, steps = nn.Sequential(), target - source
        for k in range(steps):
            last = k == steps - 1
            c_out = widths[target] if last else widths[source]
            layers.append(_conv_bn(widths[source], c_out, 3, 2, act=not last))
        return layers

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map one feature per branch, finest first, to the fused ones."""
        ys = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        fused = []
        for row in self.fuse_layers:
            assert isinstance(row, nn.ModuleList)
            paths = list(row)
            total = paths[0](ys[0])
            for path, y in zip(paths[1:], ys[1:], strict=True):
                total = total + path(y)
            fused.append(F.relu(total))
        return fused


class HRNet(nn.Module):
    """Trunk: crops to the feature of the finest branch, stride 4."""

    def __init__(self, config: HRNetConfig) -> None:
        """Build stem and four stages with random weights."""
        super().__init__()
        self.channels = config.width
        self.conv1 = nn.Conv2d(3, STEM, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(STEM)
        wide = STEM * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            *(Bottleneck(STEM if i == 0 else wide, STEM) for i in range(config.blocks))
        )
        before = [wide]
        for stage, count in zip((2, 3, 4), config.modules, strict=True):
            widths = [config.width * 2**b for b in range(stage)]
            self.add_module(f"transition{stage - 1}", self._transition(before, widths))
            self.add_module(f"stage{stage}", self._stage(widths, count, config.blocks))
            before = widths

    @staticmethod
    def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
        """Adapt the widths of the branches there are, and start a new one at half the size."""
        paths: list[nn.Module] = []
        for i, width in enumerate(after):
            if i >= len(before):  # always exactly one new branch
                paths.append(nn.Sequential(_conv_bn(before[-1], width, 3, 2, act=True)))
            elif before[i] != width:
                paths.append(_conv_bn(before[i], width, 3, act=True))
            else:
                paths.append(nn.Identity())
        return nn.ModuleList(paths)

    @staticmethod
    def _stage(widths: list[int], count: int, blocks: int) -> nn.Sequential:
        """Modules of one stage; the last one of stage 4 fuses into the finest branch only."""
        stage = nn.Sequential()
        for i in range(count):
            last = len(widths) == 4 and i == count - 1
            stage.append(Exchange(widths, blocks, 1 if last else len(widths)))
        return stage

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Map (N, 3, H, W), H and W multiples of 32, to (N, width, H / 4, W / 4)."""
        x = F.relu(self.bn1(self.conv1(frames)))
        x = F.relu(self.bn2(self.conv2(x)))
        features = [self.layer1(x)]
        for stage in (2, 3, 4):
            paths = self.get_submodule(f"transition{stage - 1}")
            assert isinstance(paths, nn.ModuleList)
            inputs = [*features, features[-1]]  # the new branch starts from the coarsest feature
            features = [path(x) for path, x in zip(paths, inputs, strict=True)]
            features = self.get_submodule(f"stage{stage}")(features)
        return features[0]


class HRNetPose(VideoPoseNet):
    """The official single-frame pose network."""

    def __init__(self, config: HRNetConfig) -> None:
        """Build trunk and final layer with random weights."""
        super().__init__()
        self.config = config
        self.window = Window(frames=1, key=0)
        self.size_hw_px = config.size_hw_px
        self.joints = config.joints
        self.backbone = HRNet(config)
        self.final_layer = nn.Conv2d(config.width, config.joints, 1)

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to the finest branch (N, width, H / 4, W / 4)."""
        return (self.backbone(frames),)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps (B, K, H / 4, W / 4) of the only frame; ``aux`` is empty."""
        if labels is not None:
            raise ShapeError("HRNet takes no labels: only propagation networks do")
        return PoseOut(self.final_layer(features[0][:, self.window.key]), {})


def _build(defaults: HRNetConfig, overrides: dict[str, object]) -> HRNetPose:
    """Build an HRNet from defaults and overrides; an unknown override is a ConfigError."""
    unknown = set(overrides) - {item.name for item in fields(HRNetConfig)}
    if unknown:
        raise ConfigError(f"HRNet has no option {', '.join(sorted(unknown))}")
    config = replace(defaults, **overrides)  # type: ignore[arg-type]
    two, three, four = config.modules
    size = crop_size(config.size_hw_px)
    return HRNetPose(replace(config, modules=(two, three, four), size_hw_px=size))


@register_net("hrnet_w32")
def hrnet_w32(**overrides: object) -> HRNetPose:
    """HRNet-W32, 28.5 M parameters, made for 256x192 crops."""
    return _build(HRNetConfig(width=32, size_hw_px=(256, 192)), overrides)


@register_net("hrnet_w48")
def hrnet_w48(**overrides: object) -> HRNetPose:
    """HRNet-W48, 63.6 M parameters, made for 384x288 crops."""
    return _build(HRNetConfig(), overrides)
