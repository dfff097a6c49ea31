"""What the video pose networks have in common: their answer, and how a stream reuses work.

A network maps a window of T crops of one person to the heatmaps of its key frame. ``encode``
looks at each frame by itself, ``fuse`` combines the window; a stream keeps the features of earlier
frames while a person's crop box is held and encodes only the new one.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from pose_ros.errors import ShapeError


class PoseOut(NamedTuple):
    """Answer of a video pose network for B people with K joints."""

    heatmaps: torch.Tensor  # (B, K, h, w), peak 1 where a joint surely is
    aux: dict[str, torch.Tensor]  # what losses and plots need; the network's docstring lists it


@dataclass(frozen=True)
class Window:
    """Which frames a network sees: T of them, the key frame at index ``key``."""

    frames: int
    key: int

    @property
    def lookahead(self) -> int:
        """Frames after the key frame: the latency the network costs."""
        return self.frames - 1 - self.key


class VideoPoseNet(nn.Module, abc.ABC):
    """Base of the video networks: checks, and ``forward`` as ``fuse`` after ``encode``.

    A subclass sets ``window``, ``size_hw_px`` and ``joints``, and has ``encode`` and ``fuse``.
    """

    window: Window
    size_hw_px: tuple[int, int]
    joints: int

    @abc.abstractmethod
    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of single frames (N, 3, H, W); each (N, ...), no frame sees another."""

    @abc.abstractmethod
    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps of the key frame from the features of the window, each (B, T, ...).

        ``dt_left`` and ``dt_right`` (B,) are the unsigned distances in frames from the key frame
        to the first and the last frame; ``labels`` (B, T, K, 3) are known joints (x, y in heatmap
        cells, visibility), which only label propagation has.
        """

    def forward(
        self,
        frames: torch.Tensor,
        dt_left: torch.Tensor | None = None,
        dt_right: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps of the key frame of windows (B, T, 3, H, W), normalised as the card says.

        Without distances the window is taken as consecutive frames.

        Raises:
            ShapeError: the window, the crop or the dtype is not what the network was built for.

        """
        self.check(frames)
        people, length = frames.shape[:2]
        features = self.encode(frames.flatten(0, 1))
        stacked = tuple(f.unflatten(0, (people, length)) for f in features)
        left = self.distances(dt_left, self.window.key, frames)
        right = self.distances(dt_right, self.window.lookahead, frames)
        return self.fuse(stacked, left, right, labels)

    def check(self, frames: torch.Tensor) -> None:
        """Refuse a batch of windows that does not fit or, outside of exports, is not finite."""
        wanted = (self.window.frames, 3, *self.size_hw_px)
        if frames.ndim != 5 or tuple(frames.shape[1:]) != wanted or not frames.is_floating_point():
            raise ShapeError(
                f"{type(self).__name__}: expected windows (B, {', '.join(map(str, wanted))}) of "
                f"normalised floating point, got {tuple(frames.shape)} of {frames.dtype}"
            )
        if frames.is_meta or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return  # there is nothing to look at
        if not torch.isfinite(frames.sum(dtype=torch.float32)):  # one pass, no mask in memory
            bad = int((~torch.isfinite(frames)).sum())
            raise ShapeError(
                f"{type(self).__name__}: expected finite frames, got {bad} of {frames.numel()} "
                "values NaN or infinite"
            )

    @staticmethod
    def distances(given: torch.Tensor | None, frames: int, like: torch.Tensor) -> torch.Tensor:
        """(B,) distances in frames, ``frames`` for everybody when none are given."""
        if given is not None:
            return given.to(like)
        return like.new_full(
            (like.shape[0],), float(frames)
        )  # len() would be a constant in exports
