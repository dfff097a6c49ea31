"""People in the whole image: resize with the aspect kept, one network call, duplicates removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np

from pose_ros.core.config import DetectConfig
from pose_ros.core.resize import resize
from pose_ros.core.values import Boxes, ByteArray, FloatArray

#: images (B, h, w, 3) uint8 RGB -> boxes (B, n, 4) in input pixels, person score (B, n)
DetectorNet = Callable[[ByteArray], tuple[FloatArray, FloatArray]]


class Detector(Protocol):
    """Whatever finds people in an image; ``config`` may be replaced while running."""

    config: DetectConfig

    def __call__(self, rgb: ByteArray) -> Boxes:
        """Boxes of the people in ``rgb`` (H, W, 3), best first, in its pixels."""
        ...


class NetDetector:
    """A detector network on a letterboxed image.

    ``long_side_px`` is the longer side of the network's input; the shorter follows the image's
    aspect, rounded up to ``multiple_px`` and filled with black.
    """

    def __init__(
        self, net: DetectorNet, config: DetectConfig, long_side_px: int, multiple_px: int = 32
    ) -> None:
        """Hold the network and the thresholds."""
        self.net = net
        self.config = config
        self.long_side_px = long_side_px
        self.multiple_px = multiple_px

    def __call__(self, rgb: ByteArray) -> Boxes:
        """Boxes of the people in ``rgb`` (H, W, 3), best first, in its pixels."""
        image, scale = letterbox(rgb, self.long_side_px, self.multiple_px)
        boxes, score = self.net(image[None])
        keep = score[0] >= self.config.threshold
        found = Boxes((boxes[0][keep] + 0.5) / scale - 0.5, score[0][keep])
        return clip(suppress(found, self.config.iou), rgb.shape[1], rgb.shape[0])


def letterbox(rgb: ByteArray, long_side_px: int, multiple_px: int) -> tuple[ByteArray, float]:
    """Image with its longer side resized to ``long_side_px``, and the factor applied.

    The image lies in the top left corner; both sides are multiples of ``multiple_px``, black
    where the image does not reach.
    """
    height, width = rgb.shape[:2]
    scale = long_side_px / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    padded = [-(-side // multiple_px) * multiple_px for side in size]
    out = np.zeros((padded[1], padded[0], 3), np.uint8)
    out[: size[1], : size[0]] = resize(rgb, size)
    return out, scale


def suppress(boxes: Boxes, iou_max: float) -> Boxes:
    """Greedy non-maximum suppression, best first."""
    if len(boxes) == 0:
        return boxes
    xywh = boxes.xyxy_px.copy()
    xywh[:, 2:] -= xywh[:, :2]
    kept = cv2.dnn.NMSBoxes(xywh.tolist(), boxes.score.tolist(), 0.0, iou_max)
    return boxes.select(np.asarray(kept, np.int64).reshape(-1))


def clip(boxes: Boxes, width_px: int, height_px: int) -> Boxes:
    """Boxes cut at the image's border; what lies outside or is thinner than a pixel is dropped."""
    limit = np.array([width_px, height_px, width_px, height_px], np.float32) - 0.5
    inside = np.clip(boxes.xyxy_px, np.float32(-0.5), limit).astype(np.float32)
    real = ((inside[:, 2:] - inside[:, :2]) >= 1.0).all(axis=1)
    return Boxes(inside[real], boxes.score[real])
