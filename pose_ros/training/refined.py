"""Pose refinement (APRS) of predictions along their tracks: what it is worth, offline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.refine import refine
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError
from pose_ros.training.datasets.base import ClipDataset, samples
from pose_ros.training.predict import Predicted

Int = npt.NDArray[np.int64]

#: Fewer frames than this have no acceleration, and nothing to be refined by.
LEAST = 3


def runs_of(tracks: Sequence[str], frames: Int, least: int) -> list[Int]:
    """Rows of one track in at least ``least`` consecutive frames, in their order."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, track in enumerate(tracks):
        members[track].append(row)
    runs: list[Int] = []
    for rows in members.values():
        picked = np.array(sorted(rows, key=lambda row: frames[row]), np.int64)
        breaks = np.flatnonzero(np.diff(frames[picked]) != 1) + 1
        runs += [run for run in np.split(picked, breaks) if len(run) >= least]
    return runs


def refine_poses(
    points: npt.NDArray[Any],
    confidence: FloatArray,
    runs: Sequence[Int],
    rate_hz: float,
    skeleton: Skeleton,
) -> FloatArray:
    """Points (N, K, d) refined run by run; other rows stay. Metres, or person heights in 2-D.

    Raises:
        ConfigError: a rate that is not positive.

    """
    if not rate_hz > 0:
        raise ConfigError(f"refinement needs the rate of the frames in Hz, got {rate_hz}")
    out = points.astype(np.float32).copy()
    for run in runs:
        stamps = (np.arange(len(run)) / rate_hz)[None]
        out[run] = refine(points[run][None], confidence[run][None], stamps, None, skeleton)[0]
    return out


def refine_predictions(dataset: ClipDataset, predicted: Predicted, rate_hz: float) -> Predicted:
    """2-D predictions refined along the tracks of the labels, in consecutive frames.

    A joint that was not found keeps its score of 0, also where refinement says where it may be.
    """
    rows = list(samples(dataset))
    frames = np.array([s.frame_index[s.key] for s in rows], np.int64)
    runs = runs_of([s.track for s in rows], frames, LEAST)
    height = np.array([np.ptp(s.box_xyxy_px[1::2]) for s in rows], np.float64)
    unit = np.ones(len(rows))
    for run in runs:
        unit[run] = max(float(np.median(height[run])), 1.0)
    points = predicted.xy_px / unit[:, None, None]
    moved = refine_poses(points, predicted.score, runs, rate_hz, predicted.skeleton)
    xy = predicted.xy_px.copy()
    for run in runs:
        xy[run] = moved[run] * unit[run][:, None, None]
    return Predicted(xy, predicted.score, predicted.skeleton)
