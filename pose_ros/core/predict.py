"""People a little later than they were seen: for readers that need a fixed rate."""

from __future__ import annotations

import dataclasses

import numpy as np

from pose_ros.core.values import Body, KeypointStatus, PoseResult, TrackState

#: Density of a joint's random acceleration, (m/s^2)^2 s: how fast a prediction becomes unsure.
PROCESS = 4.0


def predicted(result: PoseResult, stamp_ns: int, longest_s: float) -> PoseResult:
    """Everybody of ``result`` at ``stamp_ns``, joints moved on at their own speed.

    Positions, and what they were known to, age: covariances grow by the deviation of the velocity
    and by accelerations nobody can foresee. Every joint is PREDICTED, and MISSING when it was,
    when its velocity is unknown, or when ``stamp_ns`` is more than ``longest_s`` after the result.
    Pixels are left out: they belong to an image. People already LOST are left out.
    """
    ahead_s = (stamp_ns - result.stamp_ns) * 1e-9
    rows = np.flatnonzero(result.tracks.state != TrackState.LOST)
    tracks = dataclasses.replace(
        result.tracks,
        **{
            f.name: getattr(result.tracks, f.name)[rows] for f in dataclasses.fields(result.tracks)
        },
    )
    poses = result.poses.select(rows)
    blank = dataclasses.replace(
        poses, xy_px=np.full_like(poses.xy_px, np.nan), score=np.zeros_like(poses.score)
    )
    body = None
    if result.body is not None:
        body = _ahead(result.body, rows, ahead_s, known=0.0 <= ahead_s <= longest_s)
    return dataclasses.replace(
        result, stamp_ns=stamp_ns, tracks=tracks, poses=blank, refined=None, body=body,
        detected=False, stage_ms={},
    )  # fmt: skip


def _ahead(body: Body, rows: np.ndarray, ahead_s: float, known: bool) -> Body:
    was = body.poses
    here = {f.name: getattr(was, f.name)[rows] for f in dataclasses.fields(was)}
    moves, spread = here["velocity_m_s"], here["speed_std_m_s"]
    told = np.isfinite(moves).all(axis=-1) & np.isfinite(here["xyz_m"]).all(axis=-1) & known
    variance = (spread * ahead_s) ** 2 + PROCESS * ahead_s**3 / 3
    grown = here["covariance_m2"] + variance[..., None, None] * np.eye(3, dtype=np.float32)
    here["xyz_m"] = np.where(told[..., None], here["xyz_m"] + moves * ahead_s, np.nan)
    here["covariance_m2"] = np.where(told[..., None, None], grown, np.nan).astype(np.float32)
    here["velocity_m_s"] = np.where(told[..., None], moves, np.nan)
    faster = np.sqrt(spread**2 + PROCESS * ahead_s)
    here["speed_std_m_s"] = np.where(told, faster, np.nan).astype(np.float32)
    here["status"] = np.where(told, KeypointStatus.PREDICTED, KeypointStatus.MISSING).astype(
        np.int8
    )
    here["score"] = np.where(told, here["score"], 0.0).astype(np.float32)
    return Body(dataclasses.replace(was, **here), body.lengths_m[rows])
