"""Skeletons drawn into an image."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import (
    ByteArray,
    FloatArray,
    KeypointStatus,
    PoseResult,
    TrackState,
)

_SHIFT = 3  # cv2 draws with 1/8 px
_FILLED = (KeypointStatus.INFERRED, KeypointStatus.PREDICTED)
LEFT_RGB, RIGHT_RGB, MIDDLE_RGB = (90, 200, 250), (250, 160, 70), (240, 240, 240)


def person_rgb(track_id: int) -> tuple[int, int, int]:
    """Colour of an id: neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb((track_id * 0.381966) % 1.0, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_result(
    rgb: ByteArray, result: PoseResult, skeleton: Skeleton, score_min: float = 0.2
) -> None:
    """Draw a pipeline result into ``rgb`` in place: the joints that are published.

    A joint that was seen counts from ``score_min`` on, a filled-in one always.
    """
    shown = result.shown
    counts = shown.score >= score_min
    status = None
    if result.refined is not None:
        status = result.refined.status
        counts = counts | np.isin(status, _FILLED)
    draw_skeletons(
        rgb, result.tracks.ids, result.tracks.state, shown.xy_px,
        np.where(counts, shown.score, 0.0), skeleton, result.tracks.xyxy_px, status,
    )  # fmt: skip


def draw_skeletons(
    rgb: ByteArray,
    ids: np.ndarray,
    states: np.ndarray,
    xy_px: FloatArray,
    score: FloatArray,
    skeleton: Skeleton,
    boxes_xyxy_px: FloatArray | None = None,
    status: np.ndarray | None = None,
) -> None:
    """Draw P people into ``rgb`` (H, W, 3) in place.

    Left limbs are blue, right ones orange, the middle white; joints of score 0 or NaN are left
    out. With ``status`` (P, J, KeypointStatus), joints that were not seen but filled in (INFERRED,
    PREDICTED) are hollow and their bones dashed. The box and the label carry the colour of the
    id; OCCLUDED boxes are thin, LOST people are not drawn.
    """
    width = max(2, round(rgb.shape[0] / 240))
    for row in range(len(ids)):
        if states[row] == TrackState.LOST:
            continue
        known = (score[row] > 0) & np.isfinite(xy_px[row]).all(axis=1)
        filled = np.isin(status[row], _FILLED) if status is not None else np.zeros_like(known)
        _draw_bones(rgb, xy_px[row], (known, known & filled), skeleton, width)
        if boxes_xyxy_px is not None:
            _draw_box(rgb, boxes_xyxy_px[row], int(ids[row]), int(states[row]), width)


def _draw_bones(
    rgb: ByteArray,
    xy_px: FloatArray,
    which: tuple[np.ndarray, np.ndarray],
    skeleton: Skeleton,
    width: int,
) -> None:
    """Draw one person; ``which`` (J,) joints are known, and which of them filled in."""
    known, filled = which
    points = np.where(known[:, None], xy_px, 0) * (1 << _SHIFT)
    for (a, b), (name, _) in zip(skeleton.edge_indices(), skeleton.edges, strict=True):
        if known[a] and known[b]:
            same = skeleton.joints[a][:4] == skeleton.joints[b][:4]
            colour = _side(name) if same else MIDDLE_RGB
            dash = width * 4 if filled[a] or filled[b] else 0
            for ends in _strokes(points[a], points[b], dash << _SHIFT):
                start, end = np.round(ends).astype(int).tolist()
                cv2.line(rgb, start, end, colour, width, cv2.LINE_AA, _SHIFT)
    radius = int(width * 0.9 * (1 << _SHIFT))
    for joint in np.flatnonzero(known):
        centre, colour = (
            np.round(points[joint]).astype(int).tolist(),
            _side(skeleton.joints[joint]),
        )
        if filled[joint]:
            cv2.circle(rgb, centre, radius, colour, 1, cv2.LINE_AA, _SHIFT)
        else:
            cv2.circle(rgb, centre, radius, colour, -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(rgb, centre, radius, (30, 30, 30), 1, cv2.LINE_AA, _SHIFT)


def _strokes(a: FloatArray, b: FloatArray, dash: int) -> np.ndarray:
    """(N, 2, 2) starts and ends of what to draw from ``a`` to ``b``: all of it, or dashes."""
    if dash == 0:
        return np.stack([a, b])[None]
    count = min(max(1, round(float(np.linalg.norm(b - a)) / (2 * dash))), 50)
    share = (np.arange(count)[:, None] + np.array([0.3, 0.7])) / count
    return a + share[..., None] * (b - a)


def _side(joint: str) -> tuple[int, int, int]:
    if joint.startswith("left"):
        return LEFT_RGB
    return RIGHT_RGB if joint.startswith("right") else MIDDLE_RGB


def _draw_box(rgb: ByteArray, box: FloatArray, track_id: int, state: int, width: int) -> None:
    colour = person_rgb(track_id)
    left, top, right, bottom = (round(float(edge)) for edge in box)
    thickness = 1 if state == TrackState.OCCLUDED else max(1, width // 2)
    cv2.rectangle(rgb, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
    label = f"{track_id} {TrackState(state).name.lower()}"
    size = width * 0.22
    (text_w, text_h), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    top = max(top, text_h + base + 2)
    cv2.rectangle(rgb, (left, top - text_h - base - 2), (left + text_w + 4, top), colour, -1)
    at = (left + 2, top - base)
    cv2.putText(rgb, label, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
