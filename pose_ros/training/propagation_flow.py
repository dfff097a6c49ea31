"""Optical flow from labelled frames on: each joint is followed from both ends of its stretch.

Every person is looked at in one crop per stretch, so that windows are of body size whatever the
distance. Shapes as in `propagation`.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes
from pose_ros.core.values import ByteArray, FloatArray, Frame
from pose_ros.training.propagation import (
    Estimate,
    Sparse,
    blend,
    boxes_between,
    closeness,
    ends_of,
    sides,
    stretches,
)

#: Crop in which joints are followed: (height, width) in pixels, and its margin around the boxes.
CROP_HW_PX = (384, 288)
MARGIN = 1.4
#: Side of Lucas and Kanade's window in crop pixels, and pyramid levels.
WINDOW_PX = 31
LEVELS = 3


@dataclass(frozen=True, eq=False)
class Followed:
    """Joints followed from one end of every stretch."""

    xy_px: FloatArray  # (P, L, K, 2), NaN where there is no such end or the joint was lost
    error_px: FloatArray  # (P, L, K) sum of what going there and back missed by, so far


def flowed(video: Sparse) -> Estimate:
    """Joints followed from both ends, blended by distance in time."""
    return joined(video, *follow(video))


def joined(video: Sparse, forwards: Followed, backwards: Followed) -> Estimate:
    """Blend of what was followed from the left and from the right."""
    ends = ends_of(video)
    side = sides(boxes_between(video, ends))[..., None]
    xy = blend(forwards.xy_px, backwards.xy_px, ends.share)
    apart = np.linalg.norm(forwards.xy_px - backwards.xy_px, axis=3)
    lost = np.fmin(forwards.error_px, backwards.error_px)
    doubt = np.where(np.isfinite(apart), apart / 2, lost)
    known = np.isfinite(xy).all(axis=3)
    return Estimate(xy, np.where(known, closeness(doubt, side), 0).astype(np.float32))


def follow(video: Sparse) -> tuple[Followed, Followed]:
    """Joints followed forwards from every labelled frame, and backwards from every one."""
    xy = [np.where(video.labelled[:, None, None], video.xy_px, np.float32("nan")) for _ in "><"]
    error = [np.where(np.isfinite(x).all(axis=3), np.float32(0), np.float32("nan")) for x in xy]
    boxes = boxes_between(video, ends_of(video))
    for first, last in tqdm(stretches(video), desc="flow", disable=not sys.stderr.isatty()):
        here = np.flatnonzero(video.present[:, first] | video.present[:, last])
        if len(here) == 0:
            continue
        crops, affine = _crops(video, here, (first, last), boxes)
        for step in (1, -1):
            way = range(last - first + 1)[::step]
            start = first + way[0]
            out = (xy[step < 0], error[step < 0])
            if video.labelled[start]:
                _walk((crops, affine), here, (first, way), out, video.labelled)
    return Followed(xy[0], error[0]), Followed(xy[1], error[1])


def _crops(
    video: Sparse, here: np.ndarray, stretch: tuple[int, int], boxes: FloatArray
) -> tuple[ByteArray, FloatArray]:
    """Grey crops (frames, people, h, w) of a stretch and their affines (people, 2, 3)."""
    first, last = stretch
    around = boxes[here, first : last + 1]
    low, high = np.nanmin(around[..., :2], axis=1), np.nanmax(around[..., 2:], axis=1)
    edges = fit_boxes(np.concatenate([low, high], axis=1), CROP_HW_PX, MARGIN)
    grey = np.empty((last + 1 - first, len(here), *CROP_HW_PX), np.uint8)
    rgb = np.empty((*CROP_HW_PX, 3), np.uint8)
    for i in range(len(grey)):
        frame = Frame(video.images[first + i].read(), 0)
        for row in range(len(here)):
            cut(frame, edges[row], rgb)
            cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY, dst=grey[i, row])
    return grey, affine_from_boxes(edges, CROP_HW_PX)


def _walk(
    seen: tuple[ByteArray, FloatArray],
    here: np.ndarray,
    path: tuple[int, range],
    out: tuple[FloatArray, FloatArray],
    labelled: np.ndarray,
) -> None:
    """Follow the joints of the people ``here`` through a stretch; fills ``out`` in place.

    ``path`` is the first frame of the stretch and the way through it.
    """
    crops, affine = seen
    first, way = path
    xy, error = out
    scale, shift = affine[:, 0, 0], affine[:, :, 2]
    for row, person in enumerate(here):
        at = (xy[person, first + way[0]] - shift[row]) / scale[row]
        missed = np.zeros(len(at), np.float32)
        for i, j in itertools.pairwise(way):
            at, back = _there_and_back(crops[i, row], crops[j, row], at)
            missed = missed + back
            if not labelled[first + j]:
                xy[person, first + j] = at * scale[row] + shift[row]
                error[person, first + j] = missed * scale[row]


def _there_and_back(
    one: ByteArray, two: ByteArray, points: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """Where points (K, 2) of one grey picture are in the next, and how far back they miss."""
    known = np.isfinite(points).all(axis=1)
    there = np.full(points.shape, np.nan, np.float32)
    back = np.full(len(points), np.nan, np.float32)
    if not known.any():
        return there, back
    start = np.ascontiguousarray(points[known], np.float32)[:, None]
    moved, good, _ = _lucas_kanade(one, two, start)
    again, good2, _ = _lucas_kanade(two, one, moved)
    found = (good[:, 0] > 0) & (good2[:, 0] > 0)
    there[known] = np.where(found[:, None], moved[:, 0], start[:, 0])
    missed = np.linalg.norm(again[:, 0] - start[:, 0], axis=1)
    back[known] = np.where(found, missed, float(WINDOW_PX))
    return there, back


def _lucas_kanade(one: ByteArray, two: ByteArray, points: FloatArray) -> tuple[Any, Any, Any]:
    """Points (K, 1, 2) in the next picture, whether they were found, and their error."""
    return cv2.calcOpticalFlowPyrLK(
        one,
        two,
        points,
        None,
        winSize=(WINDOW_PX, WINDOW_PX),
        maxLevel=LEVELS,
        criteria=(cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.03),
    )
