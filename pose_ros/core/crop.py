"""Boxes to crops of the network's size, and points in a crop back to the image.

One affine per window (T frames), so a point keeps its place through the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.ego import cut_turned
from pose_ros.core.resize import resize
from pose_ros.core.values import (
    ByteArray,
    Clips,
    FloatArray,
    Frame,
    IntArray,
    Windows,
    check,
)

#: How the camera turned (3, 3) from a frame to the image that a person's box is in, by person and
#: place in the window; None: it did not.
Turns = Callable[[int, int], npt.NDArray[np.float64] | None]


#: A box of more image sizes than this is sampled at the size of the crop.
BORDER_MAX = 4


@dataclass(frozen=True)
class Crops:
    """What a network in a stream sees of a moment: only the crops that it does not know yet."""

    ids: IntArray  # (P,)
    image_from_crop: FloatArray  # (P, 2, 3) maps crop pixels to image pixels, in all frames
    numbers: IntArray  # (T,) running number of each frame of the window
    stamp_ns: int  # of the newest frame
    rgb: ByteArray  # (N, h, w, 3)

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("Crops.rgb", self.rgb, (None, None, None, 3), np.uint8)
        check("Crops.image_from_crop", self.image_from_crop, (len(self.ids), 2, 3), np.float32)


class Cropper:
    """Cuts windows into clips for a network of input ``size_hw_px``.

    ``scale`` enlarges the box about its centre after the short side was padded to the
    network's aspect; each network wants the value it was trained with.
    """

    def __init__(self, size_hw_px: tuple[int, int], scale: float) -> None:
        """Remember the crop's size and margin."""
        self.size_hw_px = size_hw_px
        self.scale = scale

    def crop(self, windows: Windows, turns: Turns | None = None) -> Clips:
        """Clips of every person, empty when there is nobody."""
        boxes = fit_boxes(windows.people.xyxy_px, self.size_hw_px, self.scale)
        height, width = self.size_hw_px
        rgb = np.empty((len(boxes), len(windows.frames), height, width, 3), np.uint8)
        # cv2 has no batched resize; a loop costs 0.2 ms per crop, grid_sample on a CPU 3 ms.
        for person, box in enumerate(boxes):
            for time, frame in enumerate(windows.frames):
                cut(frame, box, rgb[person, time], turns and turns(person, time))
        return Clips(rgb, affine_from_boxes(boxes, self.size_hw_px), windows.valid)

    def place(self, xyxy_px: FloatArray) -> tuple[np.ndarray, FloatArray]:
        """Pixel-edge boxes (P, 4) that are cut for (P, 4) boxes, and their affines (P, 2, 3)."""
        edges = fit_boxes(xyxy_px, self.size_hw_px, self.scale)
        return edges, affine_from_boxes(edges, self.size_hw_px)

    def cut(
        self, frames: tuple[Frame, ...], edges_px: np.ndarray, wanted: np.ndarray,
        turns: Turns | None = None,
    ) -> ByteArray:  # fmt: skip
        """Crops (N, h, w, 3) of the (N, 2) pairs of person and frame in ``wanted``."""
        rgb = np.empty((len(wanted), *self.size_hw_px, 3), np.uint8)
        for row, (person, time) in enumerate(wanted.tolist()):
            cut(frames[time], edges_px[person], rgb[row], turns and turns(person, time))
        return rgb


def fit_boxes(xyxy_px: FloatArray, size_hw_px: tuple[int, int], scale: float) -> np.ndarray:
    """(P, 4) int64 pixel-edge boxes of the crop's aspect around the centres of (P, 4) boxes.

    Edges are whole pixels so that a crop is a plain resize of a slice, and sizes are such that
    `cut` can halve them; the affine is made from the same edges, so no accuracy is lost.
    """
    height, width = size_hw_px
    centre = (xyxy_px[:, :2] + xyxy_px[:, 2:]) / 2.0 + 0.5  # from pixel centres to edges
    size = np.maximum(xyxy_px[:, 2:] - xyxy_px[:, :2], 2.0)
    tall = np.maximum(size[:, 1], size[:, 0] * height / width) * scale
    step = 2.0 ** np.maximum(np.floor(np.log2(tall / height)), 0.0)[:, None]
    full = np.stack([tall * width / height, tall], axis=1)
    full = np.maximum(np.round(full / step), 1.0) * step
    low = np.round(centre - full / 2.0)
    return np.concatenate([low, low + full], axis=1).astype(np.int64)


def affine_from_boxes(edges_px: np.ndarray, size_hw_px: tuple[int, int]) -> FloatArray:
    """(P, 2, 3) maps from crop pixels to image pixels (pixel centres at integers).

    ``image = left - 0.5 + (crop + 0.5) * box / size`` where the box's edges are pixel edges.
    """
    size = np.array(size_hw_px[::-1], np.float64)
    low = edges_px[:, :2].astype(np.float64)
    ratio = (edges_px[:, 2:] - edges_px[:, :2]) / size
    affine = np.zeros((len(edges_px), 2, 3), np.float32)
    affine[:, 0, 0], affine[:, 1, 1] = ratio[:, 0], ratio[:, 1]
    affine[:, :, 2] = low - 0.5 + 0.5 * ratio
    return affine


def cut(
    frame: Frame, edges_px: np.ndarray, out: ByteArray,
    turn: npt.NDArray[np.float64] | None = None,
) -> None:  # fmt: skip
    """Resize the box ``edges_px`` (left, top, right, bottom) of the frame into ``out`` (h, w, 3).

    Black outside the image. With a ``turn`` (3, 3) the box is of an image of the camera after it
    turned by that, and the frame is shown as it would look there.
    """
    if turn is not None and frame.camera is not None:
        cut_turned(frame.rgb, frame.camera, turn, edges_px, out)
        return
    left, top, right, bottom = (int(edge) for edge in edges_px)
    width, height = frame.size_px
    inside = frame.rgb[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inside.size == 0:
        out[:] = 0
        return
    missing = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if max(right - left, bottom - top) > BORDER_MAX * max(width, height):
        affine = affine_from_boxes(edges_px[None], out.shape[:2])[0]
        how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out[:] = cv2.warpAffine(frame.rgb, affine, (out.shape[1], out.shape[0]), flags=how)
        return
    if any(missing):
        inside = cv2.copyMakeBorder(inside, *missing, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    resize(inside, (out.shape[1], out.shape[0]), out)


def to_image(xy_crop_px: FloatArray, image_from_crop: FloatArray) -> FloatArray:
    """(P, J, 2) crop pixels to image pixels through (P, 2, 3) affines; NaN stays NaN."""
    linear, shift = image_from_crop[:, :, :2], image_from_crop[:, :, 2]
    return np.einsum("pab,pjb->pja", linear, xy_crop_px) + shift[:, None]
