"""One draw of crop and disturbance per window, applied to every frame of it.

Pure functions of arrays and a random generator. Pixels have integers at pixel centres. The rules
are those of the DCPose family: flip 0.5, half body 0.3 when more than 8 joints are known, rotation
clip(45 deg N(0, 1), +-90 deg) in 0.6 of the windows, zoom clip(1 + 0.35 N(0, 1), 0.65, 1.35).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.training.config import AugmentConfig

HALF_BODY_JOINTS = 8  # more of them have to be known
HALF_BODY_SCALE = 1.5  # of the box of the chosen half
LOWER_PARTS = ("hip", "knee", "ankle", "pelvis", "spine")

Affine = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Draw:
    """What was drawn for a window."""

    flip: bool = False
    rotation_deg: float = 0.0  # of the person in the crop, clockwise as seen
    zoom: float = 1.0  # above 1 shows more around the person
    box_xyxy_px: tuple[float, float, float, float] | None = None  # in place of the person's


def draw(
    rng: np.random.Generator,
    config: AugmentConfig,
    xy_px: FloatArray,
    known: npt.NDArray[np.bool_],
    skeleton: Skeleton,
) -> Draw:
    """Draw for a window whose key frame has joints (K, 2), ``known`` (K,)."""
    flip = bool(rng.random() < config.flip_p)
    zoom = float(
        np.clip(1.0 + config.scale * rng.normal(), 1.0 - config.scale, 1.0 + config.scale)
    )
    rotation = 0.0
    if rng.random() < config.rot_p:
        if config.rot_mode == "uniform":
            rotation = float(rng.uniform(-config.rot_deg, config.rot_deg))
        else:
            bound = 2.0 * config.rot_deg
            rotation = float(np.clip(config.rot_deg * rng.normal(), -bound, bound))
    box = None
    if rng.random() < config.half_body_p and known.sum() > HALF_BODY_JOINTS:
        box = half_body(rng, xy_px, known, skeleton)
    return Draw(flip, rotation, zoom, box)


def half_body(
    rng: np.random.Generator,
    xy_px: FloatArray,
    known: npt.NDArray[np.bool_],
    skeleton: Skeleton,
) -> tuple[float, float, float, float] | None:
    """Box of the known joints of the upper or the lower body, enlarged; None with fewer than 3."""
    lower = np.array([any(p in joint for p in LOWER_PARTS) for joint in skeleton.joints])
    halves = [known & ~lower, known & lower]
    if rng.random() < 0.5:
        halves.reverse()
    chosen = halves[0] if halves[0].sum() >= 3 else halves[1]
    if chosen.sum() < 3:
        return None
    low, high = xy_px[chosen].min(axis=0), xy_px[chosen].max(axis=0)
    centre, half = (low + high) / 2.0, np.maximum(high - low, 2.0) * HALF_BODY_SCALE / 2.0
    left, top = centre - half
    right, bottom = centre + half
    return float(left), float(top), float(right), float(bottom)


def crop_affine(
    box_xyxy_px: FloatArray, size_hw_px: tuple[int, int], scale: float, drawn: Draw
) -> Affine:
    """(2, 3) map from image pixels to crop pixels.

    The box is padded to the crop's aspect about its centre and enlarged by ``scale``, as
    `core/crop.py` does for the live pipeline, then zoomed, rotated and mirrored as drawn.
    """
    height, width = size_hw_px
    box = np.asarray(drawn.box_xyxy_px or box_xyxy_px, np.float64)
    centre = (box[:2] + box[2:]) / 2.0
    size = np.maximum(box[2:] - box[:2], 2.0)
    tall = max(size[1], size[0] * height / width) * scale * drawn.zoom
    ratio = height / tall  # crop pixels per image pixel
    angle = math.radians(drawn.rotation_deg)
    cos, sin = ratio * math.cos(angle), ratio * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    if drawn.flip:
        linear[0] *= -1.0
    middle = np.array([width, height]) / 2.0 - 0.5
    return np.concatenate((linear, (middle - linear @ centre)[:, None]), axis=1)


def recrop(rng: np.random.Generator, most: float, size_hw_px: tuple[int, int]) -> Affine:
    """(3, 3) map of crop pixels by which a crop moves as the live one does when a person walks on.

    Up to ``most`` of the crop's size to any side, and larger or smaller by up to ``most``.
    """
    height, width = size_hw_px
    zoom = math.exp(rng.uniform(-1.0, 1.0) * math.log1p(most))
    middle = np.array([width, height]) / 2.0 - 0.5
    shift = rng.uniform(-most, most, 2) * (width, height) + (1.0 - zoom) * middle
    return np.array([[zoom, 0.0, shift[0]], [0.0, zoom, shift[1]], [0.0, 0.0, 1.0]])


def apply(affine: Affine, xy_px: FloatArray) -> FloatArray:
    """Points (..., 2) through a (2, 3) map; NaN stays NaN."""
    return (xy_px @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def warp(image: ByteArray, crop_from_image: Affine, size_hw_px: tuple[int, int]) -> ByteArray:
    """Crop (h, w, 3) of an image, bilinear, black outside.

    The part of the image that is needed is first halved by averaging while it has twice the crop's
    resolution, so that small patterns do not flicker.
    """
    height, width = size_hw_px
    whole = np.vstack((crop_from_image, (0.0, 0.0, 1.0)))
    corners = np.array(
        [[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]], np.float64
    )
    reach = (np.linalg.inv(whole) @ corners.T)[:2]
    low = np.maximum(np.floor(reach.min(axis=1)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(reach.max(axis=1)).astype(int) + 3, image.shape[1::-1])
    if (high <= low).any():
        return np.zeros((height, width, 3), np.uint8)
    part = image[low[1] : high[1], low[0] : high[0]]
    crop_from_part = whole @ np.array([[1, 0, low[0]], [0, 1, low[1]], [0, 0, 1.0]])
    ratio = math.sqrt(abs(np.linalg.det(crop_from_image[:, :2])))
    while ratio <= 0.5 and min(part.shape[:2]) >= 2:
        rows, columns = part.shape[0] // 2, part.shape[1] // 2
        part = cv2.resize(
            part[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA
        )
        crop_from_part = crop_from_part @ np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]])
        ratio *= 2.0
    return cv2.warpAffine(part, crop_from_part[:2], (width, height), flags=cv2.INTER_LINEAR)


def occlude(
    images: ByteArray, xy_px: FloatArray, known: npt.NDArray[np.bool_], rng: np.random.Generator
) -> None:
    """Draw up to two noisy rectangles over known joints (K, 2) of clips (T, h, w, 3), in place.

    They stay where they are while the person moves. Labels are not touched: the network has to
    guess what it cannot see.
    """
    height, width = images.shape[1:3]
    candidates = np.flatnonzero(known)
    for joint in rng.permutation(candidates)[: rng.integers(0, 3)]:
        half = rng.uniform(0.04, 0.15, 2) * (width, height)
        left, top = np.maximum(np.round(xy_px[joint] - half), 0).astype(int)
        right, bottom = np.minimum(np.round(xy_px[joint] + half), (width, height)).astype(int)
        if right > left and bottom > top:
            colour = rng.integers(0, 256, 3)
            noise = rng.normal(0.0, 12.0, (bottom - top, right - left, 3))
            images[:, top:bottom, left:right] = np.clip(colour + noise, 0, 255).astype(np.uint8)
