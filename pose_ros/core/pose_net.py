"""A pose network as the pipeline sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from pose_ros.core.crop import Crops
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import Clips, FloatArray, IntArray, PoseMaps


class PoseStream(Protocol):
    """A video network that keeps what it knows of earlier frames; see ``nets/stream.py``."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""

    def wanted(self, ids: IntArray, image_from_crop: FloatArray, numbers: IntArray) -> np.ndarray:
        """(N, 2) person and place in the window of each crop that it has not seen."""

    def run(self, crops: Crops) -> PoseMaps:
        """Maps of everybody in the key frame; never called for nobody."""

    def reset(self) -> None:
        """Forget everybody."""


@dataclasses.dataclass(frozen=True)
class PoseNet:
    """A pose network as the pipeline sees it.

    ``run`` maps clips to maps for all people at once; it is never called for nobody. A network
    with a ``stream`` is asked through that instead.
    ``crop_px_from_cell`` maps heatmap cells (P, J, 2) to crop pixels.
    """

    name: str
    run: Callable[[Clips], PoseMaps]
    crop_px_from_cell: Callable[[FloatArray], FloatArray]
    skeleton: Skeleton
    size_hw_px: tuple[int, int]
    frames: int  # of a window
    crop_scale: float
    device: str
    backend: str
    lookahead: int = 0  # frames of a window after the key frame: its answer comes so much later
    mode: str = "causal"  # "delayed" with a look-ahead, "recurrent" with a memory
    trained: bool = True  # False: its joints mean nothing
    weights: str = ""  # digits that change with the weights
    stream: PoseStream | None = None

    @property
    def facts(self) -> dict[str, str]:
        """What readers of the results should know of the network."""
        return {
            "net": self.name,
            "weights": self.weights,
            "trained": str(self.trained).lower(),
            "mode": self.mode,
            "lookahead_frames": str(self.lookahead),
            "device": self.device,
            "backend": self.backend,
        }
