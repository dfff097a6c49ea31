"""Skeletons drawn into an image."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray, FloatArray, PoseResult, TrackState

_SHIFT = 3  # cv2 draws with 1/8 px
LEFT_RGB, RIGHT_RGB, MIDDLE_RGB = (90, 200, 250), (250, 160, 70), (240, 240, 240)


def person_rgb(track_id: int) -> tuple[int, int, int]:
    """Colour of an id: neighbours in number are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb((track_id * 0.381966) % 1.0, 0.75, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_result(
    rgb: ByteArray, result: PoseResult, skeleton: Skeleton, score_min: float = 0.2
) -> None:
    """Draw a pipeline result into ``rgb`` in place."""
    draw_skeletons(
        rgb,
        result.tracks.ids,
        result.tracks.state,
        result.poses.xy_px,
        np.where(result.poses.score >= score_min, result.poses.score, 0.0),
        skeleton,
        result.tracks.xyxy_px,
    )


def draw_skeletons(
    rgb: ByteArray,
    ids: np.ndarray,
    states: np.ndarray,
    xy_px: FloatArray,
    score: FloatArray,
    skeleton: Skeleton,
    boxes_xyxy_px: FloatArray | None = None,
) -> None:
    """Draw P people into ``rgb`` (H, W, 3) in place.

    Left limbs are blue, right ones orange, the middle white; joints of score 0 or NaN are left
    out. The box and the label carry the colour of the id; OCCLUDED boxes are thin, LOST people
    are not drawn.
    """
    width = max(2, round(rgb.shape[0] / 240))
    for row in range(len(ids)):
        if states[row] == TrackState.LOST:
            continue
        known = (score[row] > 0) & np.isfinite(xy_px[row]).all(axis=1)
        _draw_bones(rgb, xy_px[row], known, skeleton, width)
        if boxes_xyxy_px is not None:
            _draw_box(rgb, boxes_xyxy_px[row], int(ids[row]), int(states[row]), width)


def _draw_bones(
    rgb: ByteArray, xy_px: FloatArray, known: np.ndarray, skeleton: Skeleton, width: int
) -> None:
    points = np.round(np.where(known[:, None], xy_px, 0) * (1 << _SHIFT)).astype(int)
    for (a, b), (name, _) in zip(skeleton.edge_indices(), skeleton.edges, strict=True):
        if known[a] and known[b]:
            same = skeleton.joints[a][:4] == skeleton.joints[b][:4]
            colour = _side(name) if same else MIDDLE_RGB
            cv2.line(
                rgb, points[a].tolist(), points[b].tolist(), colour, width, cv2.LINE_AA, _SHIFT
            )
    for joint in np.flatnonzero(known):
        centre, radius = points[joint].tolist(), int(width * 0.9 * (1 << _SHIFT))
        cv2.circle(rgb, centre, radius, _side(skeleton.joints[joint]), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(rgb, centre, radius, (30, 30, 30), 1, cv2.LINE_AA, _SHIFT)


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
