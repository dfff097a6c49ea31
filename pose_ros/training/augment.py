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
from pose_ros.core.so3 import exp_so3
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.training.config import AugmentConfig

HALF_BODY_JOINTS = 8  # more of them have to be known
HALF_BODY_SCALE = 1.5  # of the box of the chosen half
FOCAL = (0.7, 1.5)  # focal lengths over the longer side of a picture: 71 to 37 degrees wide
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
    box_xyxy_px: FloatArray, size_hw_px: tuple[int, int], scale: float, drawn: Draw,
    codec: str = "edge",
) -> Affine:  # fmt: skip
    """(2, 3) map from image pixels to crop pixels.

    The box is padded to the crop's aspect about its centre and enlarged by ``scale``, as
    `core/crop.py` does for the live pipeline, then zoomed, rotated and mirrored as drawn. With
    codec ``udp`` its sides lie on the centres of the crop's outermost pixels, W - 1 units apart,
    not on their outer edges (models.md 0.3).
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
    if codec == "udp":
        linear *= [[(width - 1) / width], [(height - 1) / height]]
    if drawn.flip:
        linear[0] *= -1.0
    middle = np.array([width, height]) / 2.0 - 0.5
    return np.concatenate((linear, (middle - linear @ centre)[:, None]), axis=1)


def live_scale(scale: float, size_hw_px: tuple[int, int], codec: str) -> float:
    """Scale of boxes by which `core/crop.py`, whose sides are pixel edges, shows the same.

    A box of n - 1 units between pixel centres is a box of n pixels n / (n - 1) times as large.
    That is one number there, the height's; of the width it is off by 0.13 % at 256x192.
    """
    return scale * size_hw_px[0] / (size_hw_px[0] - 1) if codec == "udp" else scale


def recrop(rng: np.random.Generator, most: float, size_hw_px: tuple[int, int]) -> Affine:
    """(3, 3) map of crop pixels by which a crop moves as the live one does when a person walks on.

    Up to ``most`` of the crop's size to any side, and larger or smaller by up to ``most``.
    """
    height, width = size_hw_px
    zoom = math.exp(rng.uniform(-1.0, 1.0) * math.log1p(most))
    middle = np.array([width, height]) / 2.0 - 0.5
    shift = rng.uniform(-most, most, 2) * (width, height) + (1.0 - zoom) * middle
    return np.array([[zoom, 0.0, shift[0]], [0.0, zoom, shift[1]], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Turn:
    """How a camera had turned when it took one frame, against the key frame.

    Source: Hartley and Zisserman, Multiple View Geometry, 2004, section 8.4: x' = K R K^-1 x.
    """

    taken: Affine  # (3, 3) R, from the axes of the stored picture to those it shall be taken in
    shown: Affine  # (3, 3) R, to those it is shown in: the same, or turned back but for the noise
    focal: float  # over the longer side of the picture; the principal point is in its middle

    def homographies(self, size_hw_px: tuple[int, ...]) -> tuple[Affine, Affine]:
        """(3, 3) maps of stored pixels to taken ones, and to shown ones."""
        height, width = size_hw_px[:2]
        focal = self.focal * max(height, width)
        camera = np.array(
            [[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]]
        )
        back = np.linalg.inv(camera)
        return camera @ self.taken @ back, camera @ self.shown @ back


def turns(rng: np.random.Generator, config: AugmentConfig, frames: int, key: int) -> list[Turn]:
    """Draw how a camera turns evenly during a window; in its key frame it has not turned.

    The frame farthest from the key frame is turned by up to ``ego_deg`` about any axis. With
    ``ego_back`` the frames are shown as if turned back by a gyroscope that is not exact.
    """
    axis = rng.normal(size=3)
    most = axis / np.linalg.norm(axis) * math.radians(rng.uniform(0.0, config.ego_deg))
    focal = float(rng.uniform(*FOCAL))
    offset = np.arange(frames) - key
    taken = exp_so3(most * (offset / max(np.abs(offset).max(), 1))[:, None])
    left = rng.normal(0.0, math.radians(config.ego_left_deg) / math.sqrt(3.0), (frames, 3))
    shown = exp_so3(left * (offset != 0)[:, None]) if config.ego_back else taken
    return [Turn(a, b, focal) for a, b in zip(taken, shown, strict=True)]


def cut_turned(
    image: ByteArray, crop_from_shown: Affine, turn: Turn, size_hw_px: tuple[int, int]
) -> tuple[ByteArray, Affine]:
    """Crop (h, w, 3) of a picture as a turned camera would have given it, and how it was cut.

    What that camera did not see is black. The map (3, 3) is from stored pixels to crop pixels.
    """
    taken, shown = turn.homographies(image.shape)
    whole = np.vstack((crop_from_shown, (0.0, 0.0, 1.0))) @ shown
    crop = warp(image, whole, size_hw_px)
    height, width = image.shape[:2]
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    view = apply(whole @ np.linalg.inv(taken), corners - np.float32(0.5))
    seen = np.zeros(size_hw_px, np.uint8)
    cv2.fillConvexPoly(seen, np.round(view * 16.0).astype(np.int32), 1, shift=4)
    return crop * seen[..., None], whole


def apply(affine: Affine, xy_px: FloatArray) -> FloatArray:
    """Points (..., 2) through a map (2, 3) or (3, 3); NaN stays NaN."""
    if len(affine) == 3:
        moved = xy_px @ affine[:, :2].T + affine[:, 2]
        return (moved[..., :2] / moved[..., 2:]).astype(np.float32)
    return (xy_px @ affine[:, :2].T + affine[:, 2]).astype(np.float32)


def warp(image: ByteArray, crop_from_image: Affine, size_hw_px: tuple[int, int]) -> ByteArray:
    """Crop (h, w, 3) of an image by a map (2, 3) or (3, 3), bilinear, black outside.

    The part of the image that is needed is first halved by averaging while it has twice the crop's
    resolution, so that small patterns do not flicker.
    """
    height, width = size_hw_px
    straight = len(crop_from_image) == 2
    whole = np.vstack((crop_from_image, (0.0, 0.0, 1.0))) if straight else crop_from_image
    corners = np.array(
        [[-1, -1, 1], [width, -1, 1], [-1, height, 1], [width, height, 1]], np.float64
    )
    reach = np.linalg.inv(whole) @ corners.T
    reach = reach[:2] if straight else reach[:2] / np.maximum(reach[2], 1e-3)
    low = np.maximum(np.floor(reach.min(axis=1)).astype(int) - 2, 0)
    high = np.minimum(np.ceil(reach.max(axis=1)).astype(int) + 3, image.shape[1::-1])
    if (high <= low).any():
        return np.zeros((height, width, 3), np.uint8)
    part = image[low[1] : high[1], low[0] : high[0]]
    crop_from_part = whole @ np.array([[1, 0, low[0]], [0, 1, low[1]], [0, 0, 1.0]])
    ratio = math.sqrt(abs(np.linalg.det(whole[:2, :2])))  # of turns, which hardly change it, too
    while ratio <= 0.5 and min(part.shape[:2]) >= 2:
        rows, columns = part.shape[0] // 2, part.shape[1] // 2
        part = cv2.resize(
            part[: 2 * rows, : 2 * columns], (columns, rows), interpolation=cv2.INTER_AREA
        )
        crop_from_part = crop_from_part @ np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]])
        ratio *= 2.0
    if not straight:
        return cv2.warpPerspective(part, crop_from_part, (width, height), flags=cv2.INTER_LINEAR)
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
