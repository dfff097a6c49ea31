"""Pose refinement (APRS) of predictions along their tracks: what it is worth, offline."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.bones import BoneLengths
from pose_ros.core.refine import refine
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError
from pose_ros.training.datasets.base import ClipDataset, samples
from pose_ros.training.predict import Predicted

Int = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)

#: Fewer frames than this have no acceleration, and nothing to be refined by.
LEAST = 3
#: People whose bones are learned together: what it takes of memory.
AT_ONCE = 64


def runs_of(tracks: Sequence[str], frames: Int, least: int, step: int = 1) -> list[Int]:
    """Rows of one track in at least ``least`` frames that are ``step`` apart, in their order."""
    runs: list[Int] = []
    for picked in _members(tracks, frames):
        breaks = np.flatnonzero(np.diff(frames[picked]) != step) + 1
        runs += [run for run in np.split(picked, breaks) if len(run) >= least]
    return runs


def step_of(tracks: Sequence[str], frames: Int) -> int:
    """Frames of the video from one label of a track to the next: the least that there is.

    1 for PoseTrack; Human3.6M and SportsPose label every ``stride``-th frame. 1 without a track.
    """
    gaps = [np.diff(frames[picked]) for picked in _members(tracks, frames)]
    every = np.concatenate([*gaps, np.zeros(0, np.int64)])
    return int(every[every > 0].min(initial=np.iinfo(np.int64).max)) if (every > 0).any() else 1


def _members(tracks: Sequence[str], frames: Int) -> list[Int]:
    """Rows of every track, in the order of their frames."""
    members: dict[str, list[int]] = defaultdict(list)
    for row, track in enumerate(tracks):
        members[track].append(row)
    return [
        np.array(sorted(rows, key=lambda row: frames[row]), np.int64) for rows in members.values()
    ]


def bone_lengths(
    points: FloatArray, confidence: FloatArray, tracks: Sequence[Int], skeleton: Skeleton
) -> FloatArray:
    """Lengths (R, E) of the bones of R people, each in the rows (T,) of ``tracks``, in order.

    Metres of 3-D points (N, K, 3), or upper bounds in person heights of 2-D ones (N, K, 2); NaN
    where nothing is known. Which way the camera looks is not asked for: all samples count.
    """
    return np.concatenate(
        [
            _learned(points, confidence, tracks[first : first + AT_ONCE], skeleton)
            for first in range(0, max(len(tracks), 1), AT_ONCE)
        ]
    )


def _learned(
    points: FloatArray, confidence: FloatArray, tracks: Sequence[Int], skeleton: Skeleton
) -> FloatArray:
    """Lengths (R, E) of a few people."""
    flat = points.shape[-1] == 2
    learner = BoneLengths(skeleton, points.shape[-1], capacity=max(len(tracks), 1))
    ids, height = np.arange(len(tracks)), np.ones(len(tracks), np.float32)
    for step in range(max((len(track) for track in tracks), default=0)):
        here = np.array([i for i in ids if step < len(tracks[i])], np.int64)
        rows = np.array([tracks[i][step] for i in here], np.int64)
        learner.update(
            here, points[rows], confidence[rows], person_px=height[here] if flat else None,
            view_axis=np.zeros(3),
        )  # fmt: skip
    return learner.lengths(ids, height if flat else None)


def refine_poses(
    points: npt.NDArray[Any],
    confidence: FloatArray,
    runs: Sequence[Int],
    rate_hz: float,
    skeleton: Skeleton,
    tracks: Sequence[str] | None = None,
) -> FloatArray:
    """Points (N, K, d) refined run by run; other rows stay. Metres, or person heights in 2-D.

    The lengths of everybody's bones are learned first, from all runs of the same of ``tracks``
    (N,); without it every run is another person.

    Raises:
        ConfigError: a rate that is not positive.

    """
    if not rate_hz > 0:
        raise ConfigError(f"refinement needs the rate of the frames in Hz, got {rate_hz}")
    out = points.astype(np.float32).copy()
    names = [str(i) if tracks is None else tracks[run[0]] for i, run in enumerate(runs)]
    people = {name: i for i, name in enumerate(dict.fromkeys(names))}
    whole = [
        np.concatenate([run for run, other in zip(runs, names, strict=True) if other == name])
        for name in people
    ]
    lengths = bone_lengths(out, confidence.astype(np.float32), whole, skeleton)
    for run, name in zip(runs, names, strict=True):
        stamps = (np.arange(len(run)) / rate_hz)[None]
        own = lengths[people[name]][None]
        out[run] = refine(points[run][None], confidence[run][None], stamps, own, skeleton)[0]
    return out


def refine_predictions(dataset: ClipDataset, predicted: Predicted, rate_hz: float) -> Predicted:
    """2-D predictions refined along the tracks of the labels, which are evenly spaced frames.

    A joint that was not found keeps its score of 0, also where refinement says where it may be.
    Where no track has LEAST frames in a row, the predictions themselves come back.
    """
    rows = list(samples(dataset))
    frames = np.array([s.frame_index[s.key] for s in rows], np.int64)
    tracks = [s.track for s in rows]
    runs = runs_of(tracks, frames, LEAST, step_of(tracks, frames))
    if not runs:
        _log.warning(
            "%s: no track has %d labelled frames in a row, so there is nothing to refine",
            dataset.name, LEAST,
        )  # fmt: skip
        return predicted
    height = np.array([np.ptp(s.box_xyxy_px[1::2]) for s in rows], np.float64)
    unit = np.ones(len(rows))
    for run in runs:
        unit[run] = max(float(np.median(height[run])), 1.0)
    points = predicted.xy_px / unit[:, None, None]
    moved = refine_poses(points, predicted.score, runs, rate_hz, predicted.skeleton, tracks)
    xy = predicted.xy_px.copy()
    for run in runs:
        xy[run] = moved[run] * unit[run][:, None, None]
    return Predicted(xy, predicted.score, predicted.skeleton)
