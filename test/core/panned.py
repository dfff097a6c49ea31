"""A rendered pan for tests, the camera's sensor, and a video network that sees a dot in pictures.

The dot is a point of the world that stands still, drawn into the pictures. Somebody stands
there: the network finds the dot's centroid in the crops that it is shown, nothing else.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from world import CELLS, STANDING

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.crop import Crops
from pose_ros.core.ego import EgoMotion
from pose_ros.core.imu import Imu
from pose_ros.core.pipeline import PoseNet, PosePipeline
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Boxes, ByteArray, Clips, Frame, PoseMaps, PoseResult
from pose_ros.training import bench_imu
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import Scene

SECONDS, FRAMES = 1.2, 5
HEIGHT_PX = 110.0
CAMERA = PinholeCamera.from_fov(320, 240, 60.0)


@cache
def film(seed: int = 0) -> tuple[Scene, tuple[Rendered, ...]]:
    """A camera that turns by 0.3 rad at 4 rad/s: up to 11 px from frame to frame."""
    scene = dataclasses.replace(bench_imu.pan_scene(seed, 0.3, 4.0, SECONDS), camera=CAMERA)
    return scene, tuple(render(scene, n) for n in range(scene.frames))


def sensor(late_ns: int = 0, axes: np.ndarray | None = None) -> Imu:
    """The noisy sensor of that camera; ``late_ns`` is added to its stamps."""
    scene, _ = film()
    whole, out = bench_imu.panned_imu(scene, 0, SECONDS), Imu(axes=axes)
    stamps, rates = whole.rates(*whole.span_ns)
    for stamp, rate in zip(stamps.tolist(), rates, strict=True):
        out.push(stamp + late_ns, rate, np.array([0.0, -9.81, 0.0]))
    return out


def dot_px(picture: Rendered) -> np.ndarray:
    """Pixel (2,) of the dot in a picture."""
    scene, _ = film()
    point = np.append(scene.path.target_m, 1.0)
    return CAMERA.project((picture.cam_from_world @ point)[:3])


def dotted() -> list[Frame]:
    """The film with the dot, as the pipeline takes it."""
    ys, xs = np.mgrid[:240, :320]
    frames = []
    for picture in film()[1]:
        x, y = dot_px(picture)
        share = np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 18.0)[..., None]
        share[share < 0.02] = 0.0
        green = np.maximum(picture.rgb, picture.rgb.max(axis=-1, keepdims=True) * [0, 1, 0])
        rgb = (1 - share) * green + share * np.array([255.0, 0.0, 255.0])
        frames.append(Frame(rgb.astype(np.uint8), picture.stamp_ns, "camera", CAMERA))
    return frames


def centroid(crop: ByteArray) -> np.ndarray:
    """Crop pixel (2,) of the dot; NaN where it is not shown: nothing else is redder than green."""
    red = crop[..., 0].astype(float) - crop[..., 1]
    weight = np.clip(red, 0.0, None) * (red > 20)
    ys, xs = np.mgrid[: crop.shape[0], : crop.shape[1]]
    total = weight.sum()
    return np.array([(weight * xs).sum(), (weight * ys).sum()]) / (total if total else np.nan)


@dataclass
class DotNet:
    """Somebody stands where the dot is; also the detector. Notes where windows show the dot."""

    detected_px: np.ndarray = field(default_factory=lambda: np.zeros(2))
    spread_px: list[float] = field(default_factory=list)  # of the dot, image pixels, per window
    encoded: int = 0
    kept: dict[tuple[bytes, int], np.ndarray] = field(default_factory=dict)
    nbytes: int = 0

    def detect(self, rgb: ByteArray) -> Boxes:
        x, y = self.detected_px
        half = np.array([0.22, 0.5]) * HEIGHT_PX
        box = np.array([[x - half[0], y - half[1], x + half[0], y + half[1]]], np.float32)
        return Boxes(box, np.full(1, 0.9, np.float32))

    def look(self, clips: Clips) -> PoseMaps:
        """A network of whole windows; the key frame is the last."""
        return self.answer(
            [[centroid(c) for c in row] for row in clips.rgb], clips.image_from_crop
        )

    def wanted(self, ids, image_from_crop, numbers):
        """Crops that it did not keep: a crop is known by its affine and number."""
        self.numbers = [int(n) for n in numbers]
        keys = [[(affine.tobytes(), n) for n in self.numbers] for affine in image_from_crop]
        self.missing = [
            (p, t) for p, row in enumerate(keys) for t, key in enumerate(row)
            if key not in self.kept and key not in row[:t]
        ]  # fmt: skip
        return np.array(self.missing, int).reshape(-1, 2)

    def run(self, crops: Crops) -> PoseMaps:
        """A network in a stream: what it keeps of a frame is where the dot was."""
        self.encoded += len(crops.rgb)
        names = [affine.tobytes() for affine in crops.image_from_crop]
        for (p, t), crop in zip(self.missing, crops.rgb, strict=True):
            self.kept[names[p], self.numbers[t]] = centroid(crop)
        seen = [[self.kept[name, n] for n in self.numbers] for name in names]
        return self.answer(seen, crops.image_from_crop)

    def answer(self, seen: list[list[np.ndarray]], image_from_crop: np.ndarray) -> PoseMaps:
        maps = np.zeros((len(seen), 17, CELLS, CELLS), np.float32)
        offsets = np.zeros((len(seen), 17, 2, CELLS, CELLS), np.float32)
        for row, (where, affine) in enumerate(zip(seen, image_from_crop, strict=True)):
            scale = np.hypot(affine[0, 0], affine[1, 0])
            key = where[-1]
            self.spread_px.append(
                scale * float(np.linalg.norm(np.array(where) - key, axis=1).max())
            )
            cells = (key + STANDING * HEIGHT_PX / scale + 0.5) / 4
            for joint, xy in enumerate(cells):
                col, line = np.floor(xy).astype(int)
                if 0 <= col < CELLS and 0 <= line < CELLS:
                    maps[row, joint, line, col] = 0.9
                    offsets[row, joint, :, line, col] = xy - (col, line)
        return PoseMaps(maps, None, offsets)

    def reset(self) -> None:
        self.kept.clear()


def pipeline(net: DotNet, ego: EgoMotion | None, stream: bool = False) -> PosePipeline:
    def detector(rgb: ByteArray) -> Boxes:
        return net.detect(rgb)

    config = with_values(PipelineConfig(), {"detect.interval": 60})
    detector.config = config.detect
    pose = PoseNet(
        "dot", net.look, lambda cells: cells * 4 - 0.5, COCO17, (256, 256), FRAMES, 1.1, "cpu",
        "numpy", stream=net if stream else None,
    )  # fmt: skip
    return PosePipeline(config, detector, pose, None, ego)


def shown(ego: EgoMotion | None, stream: bool = False) -> tuple[DotNet, list[PoseResult]]:
    """Run the film; the detector sees the first frame only."""
    net = DotNet(dot_px(film()[1][0]))
    whole = pipeline(net, ego, stream)
    return net, [whole.step(frame) for frame in dotted()]
