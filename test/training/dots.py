"""Clips that are made up in memory: a coloured dot per joint, walking over a grey picture.

The data set is called ``dots`` and takes options: ``dots:?clips=8&frames=3&key=1``.
"""

from __future__ import annotations

import colorsys

import numpy as np
import torch

from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.errors import ConfigError
from pose_ros.training.config import TrainConfig, from_flat
from pose_ros.training.datasets import ArrayImage, ClipSample, WindowSpec, register_dataset

torch.set_num_threads(1)

SIZE = (96, 80)  # height, width of the pictures
COLOURS = (255 * np.array([colorsys.hsv_to_rgb(k / 17, 1, 1) for k in range(17)])).astype(np.uint8)

#: A run of a network that a test can afford: one frame looks like another to a 64 channel ViT.
TINY: dict[str, object] = {
    "name": "tiny_test", "device": "cpu", "net.name": "pstpose_vitl",
    "net.options.backbone": "vit_tiny", "net.options.size_hw_px": [64, 48],
    "net.options.joints": 17, "net.options.head_channels": 32, "net.options.fcg": False,
    "data.train": ["dots:?clips=12"], "data.val": ["dots:?clips=6&seed=1"], "data.workers": 0,
    "crop.joints": "coco17", "crop.sigma": 1.5, "train.epochs": 2, "train.batch": 4,
    "optim.lr": 1e-3, "augment.scale": 0.1, "augment.rot_p": 0.0, "augment.half_body_p": 0.0,
}  # fmt: skip


def config(options: dict[str, object] | None = None, **changes: object) -> TrainConfig:
    """TINY with changes; ``__`` stands for dots; ``options`` replace all of the network's."""
    flat = TINY
    if options is not None:
        flat = {n: v for n, v in TINY.items() if not n.startswith("net.options.")}
        flat |= {f"net.options.{n}": v for n, v in options.items()}
    return from_flat({**flat, **{n.replace("__", "."): v for n, v in changes.items()}})


def joints_at(rng: np.random.Generator) -> np.ndarray:
    """(17, 2) a rough body in pixels."""
    rows = np.repeat([14, 11, 11, 24, 34, 44, 48, 62, 78], [1, 2, 2, 2, 2, 2, 2, 2, 2])
    side = np.array([0, 3, -3, 7, -7, 12, -12, 16, -16, 18, -18, 8, -8, 9, -9, 9, -9])
    xy = np.stack((40 + side, rows), 1).astype(np.float32)
    return xy + rng.uniform(-4, 4, xy.shape).astype(np.float32)


class Dots:
    """The data set."""

    def __init__(
        self, clips: int, window: WindowSpec, seed: int = 0, skeleton: Skeleton = COCO17
    ) -> None:
        self.clips, self.window, self.seed = clips, window, seed
        self.name = f"dots{clips}"
        self.skeleton = skeleton

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> ClipSample:
        if not 0 <= index < self.clips:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        base, step = joints_at(rng), rng.uniform(-1.5, 1.5, 2)
        frames, left, right = self.window.around(50, 0, 100)
        xy = np.stack([base + step * (f - 50) for f in frames]).astype(np.float32)
        images = tuple(ArrayImage(paint(points)) for points in xy)
        low, high = base.min(0) - 6, base.max(0) + 6
        return ClipSample(
            images, self.window.key, np.concatenate((low, high)).astype(np.float32), xy,
            np.full(xy.shape[:2], 2, np.uint8), self.skeleton, f"p{index}", frames, left, right,
            video=f"v{index}",
        )  # fmt: skip


def paint(xy: np.ndarray) -> np.ndarray:
    """(H, W, 3) picture of joints (17, 2)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.full((*SIZE, 3), 90, np.uint8)
    for colour, (px, py) in zip(COLOURS, xy, strict=True):
        image[(x - px) ** 2 + (y - py) ** 2 <= 9] = colour
    return image


try:

    @register_dataset("dots")
    def dots(_path: str, clips: int = 8, seed: int = 0, frames: int = 1, key: int = 0) -> Dots:
        return Dots(clips, WindowSpec(frames, key), seed)

except ConfigError:  # another test module was here before
    pass
