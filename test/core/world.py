"""A flat world of stick people, with a detector and a pose network that see it perfectly.

What they get wrong, a test says: who is hidden when, and which boxes are missed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pose_ros.core.config import PipelineConfig
from pose_ros.core.pipeline import PoseNet, PosePipeline
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Boxes, Clips, Frame, PoseMaps, PoseResult

SIZE_PX = (640, 480)
CELLS = 64
SECOND = 10**9

# A standing person, 1 high, origin at the middle of the box: (x right, y down) per COCO joint.
STANDING = np.array(
    [
        (0, -0.42), (0.03, -0.45), (-0.03, -0.45), (0.06, -0.43), (-0.06, -0.43),
        (0.12, -0.3), (-0.12, -0.3), (0.16, -0.12), (-0.16, -0.12), (0.17, 0.04), (-0.17, 0.04),
        (0.08, 0.02), (-0.08, 0.02), (0.09, 0.24), (-0.09, 0.24), (0.1, 0.46), (-0.1, 0.46),
    ],
    np.float32,
)  # fmt: skip


@dataclass
class Person:
    """Somebody whose centre moves as ``at`` says, in pixels over seconds."""

    at: Callable[[float], tuple[float, float]]
    height_px: float = 200.0
    hidden: Callable[[float], bool] = lambda t: False
    turned: float = 1.0  # -1 shows the mirrored person, another pose at the same place

    def joints(self, t: float) -> np.ndarray:
        return np.array(self.at(t), np.float32) + STANDING * self.height_px * (self.turned, 1.0)

    def box(self, t: float) -> np.ndarray:
        x, y = self.at(t)
        half = np.array([0.22, 0.5]) * self.height_px
        return np.array([x - half[0], y - half[1], x + half[0], y + half[1]], np.float32)


@dataclass
class World:
    """People over time; also the detector and the network that look at them."""

    people: list[Person]
    config: PipelineConfig = field(default_factory=PipelineConfig)
    order: int = 1  # -1: the detector lists people the other way round
    detections: int = 0
    looks: int = 0
    t: float = 0.0

    def visible(self) -> list[Person]:
        return [p for p in self.people if not p.hidden(self.t)]

    def detect(self, rgb: np.ndarray) -> Boxes:
        self.detections += 1
        found = self.visible()[:: self.order]
        rows = np.array([p.box(self.t) for p in found], np.float32).reshape(-1, 4)
        return Boxes(rows, np.full(len(found), 0.9, np.float32))

    def look(self, clips: Clips) -> PoseMaps:
        """Each crop shows the visible person nearest its centre, if one is inside."""
        self.looks += 1
        count = len(clips.rgb)
        maps = np.zeros((count, 17, CELLS, CELLS), np.float32)
        offsets = np.zeros((count, 17, 2, CELLS, CELLS), np.float32)
        for row, affine in enumerate(clips.image_from_crop):
            seen = self.visible()
            scale, shift = np.array([affine[0, 0], affine[1, 1]]), affine[:, 2]
            middle = shift + scale * (CELLS * 2 - 0.5)
            seen = [p for p in seen if (np.abs(p.at(self.t) - middle) < scale * CELLS * 2).all()]
            if not seen:
                continue
            nearest = min(seen, key=lambda p: float(np.abs(p.at(self.t) - middle).sum()))
            cells = ((nearest.joints(self.t) - shift) / scale + 0.5) / 4
            for joint, xy in enumerate(cells):
                col, line = np.floor(xy).astype(int)
                if 0 <= col < CELLS and 0 <= line < CELLS:
                    maps[row, joint, line, col] = 0.9
                    offsets[row, joint, :, line, col] = xy - (col, line)
        return PoseMaps(maps, None, offsets)

    def pipeline(self, frames: int = 1) -> PosePipeline:
        def detector(rgb: np.ndarray) -> Boxes:
            return self.detect(rgb)

        detector.config = self.config.detect
        net = PoseNet(
            "world", self.look, lambda cells: cells * 4 - 0.5, COCO17, (256, 256), frames, 1.1,
            "cpu", "numpy",
        )  # fmt: skip
        return PosePipeline(self.config, detector, net)

    def frame(self, t: float, size_px: tuple[int, int] = SIZE_PX) -> Frame:
        self.t = t
        return Frame(np.zeros((size_px[1], size_px[0], 3), np.uint8), round(t * SECOND), "camera")

    def run(self, times: list[float], pipeline: PosePipeline | None = None) -> list[PoseResult]:
        pipeline = pipeline or self.pipeline()
        return [pipeline.step(self.frame(t)) for t in times]


def times(rate_hz: float, seconds: float) -> list[float]:
    return (np.arange(round(rate_hz * seconds)) / rate_hz).tolist()
