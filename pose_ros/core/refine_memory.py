"""What a stream refiner remembers: arrays with one row per person, allocated once.

Letters: C rows, K joints, d axes (2 or 3), m raw frames, P people.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.refine_motion import Floats
from pose_ros.core.values import IntArray

#: Farthest that a turn of the camera moves a remembered pixel.
FAR_PX = 30_000.0


class Memory:
    """Arrays with one row per slot; nothing grows after construction."""

    def __init__(self, joints: int, dims: int, frames: int, capacity: int) -> None:
        """Have ``capacity`` rows of ``frames`` raw frames."""
        c, k, d = capacity, joints, dims
        self.state = np.zeros((c, k, 2 * d))
        self.cov = np.zeros((c, k, 2 * d, 2 * d))
        self.age_s = np.full((c, k), np.inf)
        self.jumps = np.zeros((c, k), np.int64)
        self.score = np.zeros((c, k))
        self.size = np.full(c, np.nan)  # person's size in the image; NaN: not known yet
        self.stamp_ns = np.zeros((c, frames), np.int64)  # of the raw frames
        self.before_ns = np.zeros(c, np.int64)  # of the state
        self.count = np.zeros(c, np.int64)  # raw frames held
        self.points = np.full((c, frames, k, d), np.nan)
        self.confidence = np.zeros((c, frames, k))
        self.spread = np.zeros((c, frames, k, d, d))

    def clear(self, rows: IntArray, new: IntArray, stamp_ns: int) -> None:
        """Drop the histories of ``rows``; of ``new`` also what is known of the person."""
        self.state[rows], self.age_s[rows], self.jumps[rows] = 0.0, np.inf, 0
        self.cov[rows] = np.eye(self.cov.shape[-1])
        self.points[rows], self.confidence[rows], self.count[rows] = np.nan, 0.0, 0
        self.before_ns[rows] = self.stamp_ns[rows] = stamp_ns
        self.score[rows] = 0.0
        self.size[new] = np.nan

    def push(
        self, rows: IntArray, stamp_ns: int, points: Floats, rest: tuple[Floats, Floats]
    ) -> None:
        """Append a raw frame to the histories of ``rows``, dropping the oldest."""
        if self.points.shape[1] > 1:
            for ring in (self.points, self.confidence, self.spread, self.stamp_ns):
                ring[rows, :-1] = ring[rows, 1:]
        self.points[rows, -1], self.stamp_ns[rows, -1] = points, stamp_ns
        self.confidence[rows, -1], self.spread[rows, -1] = rest
        self.count[rows] = np.minimum(self.count[rows] + 1, self.points.shape[1])

    def transform(self, rotation: Floats, translation: Floats | None) -> None:
        """Move everything stored into a new frame; see `StreamRefiner.transform`."""
        d = self.points.shape[-1]
        if d == 3:
            shift = np.zeros(3) if translation is None else np.asarray(translation, np.float64)
            turn = np.asarray(rotation, np.float64)
            turn_raw = turn
            self.state[..., :3] = self.state[..., :3] @ turn.T + shift
            self.points[...] = self.points @ turn.T + shift
        else:
            self.state[..., :2], turn = warp(rotation, self.state[..., :2])
            self.points[...], turn_raw = warp(rotation, self.points)
            turn_raw = np.where(np.isfinite(turn_raw), turn_raw, np.eye(2))
        self.state[..., d:] = (turn @ self.state[..., d:, None])[..., 0]
        both = np.zeros((*turn.shape[:-2], 2 * d, 2 * d))
        both[..., :d, :d] = both[..., d:, d:] = turn
        self.cov[...] = both @ self.cov @ both.swapaxes(-1, -2)
        self.spread[...] = turn_raw @ self.spread @ turn_raw.swapaxes(-1, -2)


def warp(homography: npt.NDArray[np.float64], points: Floats) -> tuple[Floats, Floats]:
    """Points (..., 2) under a homography (3, 3), and its derivative (..., 2, 2) there.

    A camera that turned away from a point has it behind: it stays `FAR_PX` away then, on the side
    where it left, instead of coming back from the other one.
    """
    h = np.asarray(homography, np.float64)
    image = points @ h[:2, :2].T + h[:2, 2]
    depth = (points @ h[2, :2] + h[2, 2])[..., None]
    reach = np.sqrt((image * image).sum(axis=-1, keepdims=True))
    behind = depth * FAR_PX < reach
    moved = image / np.where(behind, np.maximum(reach, 1e-9) / FAR_PX, depth)
    slope = (h[:2, :2] - moved[..., None] * h[2, :2]) / np.where(behind, 1.0, depth)[..., None]
    return moved, np.where(behind[..., None], np.eye(2), slope)
