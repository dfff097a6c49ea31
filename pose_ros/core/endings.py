"""Tracks that ended: told once, whatever becomes of the frame in which they did."""

from __future__ import annotations

import dataclasses

import numpy as np

from pose_ros.core.values import PoseResult, Poses2D, Tracks, TrackState

_FIELDS = tuple(item.name for item in dataclasses.fields(Tracks))


def no_tracks() -> Tracks:
    """Nobody."""
    none = np.zeros(0, np.int64)
    return Tracks(
        none, none.astype(np.int8), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none
    )


def joined(first: Tracks, second: Tracks) -> Tracks:
    """Those of both, by id."""
    if not len(first) or not len(second):
        return first if len(first) else second
    both = [np.concatenate([getattr(first, n), getattr(second, n)]) for n in _FIELDS]
    order = np.argsort(both[0], kind="stable")
    return Tracks(*(column[order] for column in both))


def lost_of(tracks: Tracks) -> Tracks:
    """Those who are LOST."""
    rows = np.flatnonzero(tracks.state == TrackState.LOST)
    return Tracks(*(getattr(tracks, name)[rows] for name in _FIELDS))


def with_ended(result: PoseResult, ended: Tracks) -> PoseResult:
    """The result with tracks that ended before its frame, without a pose."""
    if len(ended) == 0:
        return result
    tracks, old = joined(ended, result.tracks), result.poses
    rows = np.searchsorted(tracks.ids, result.tracks.ids)
    people, joints = len(tracks), old.xy_px.shape[1]
    xy_px = np.full((people, joints, 2), np.nan, np.float32)
    score = np.zeros((people, joints), np.float32)
    xy_px[rows], score[rows] = old.xy_px, old.score
    poses = Poses2D(tracks.ids, xy_px, score)
    # Everybody before a restart is gone, so what was made smooth since is at most one frame old.
    return dataclasses.replace(result, tracks=tracks, poses=poses, refined=None, body=None)
