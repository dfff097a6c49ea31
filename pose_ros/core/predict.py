"""People a little later than they were seen: for readers that need a fixed rate."""

from __future__ import annotations

import dataclasses

import numpy as np

from pose_ros.core.values import Body, KeypointStatus, PoseResult, Poses3D, Tracks, TrackState

#: Density of a joint's random acceleration, (m/s^2)^2 s: how fast a prediction becomes unsure.
PROCESS = 4.0
#: Ages are single precision.
SLACK_S = 1e-6


def predicted(
    result: PoseResult, stamp_ns: int, longest_s: float, lost_s: float = np.inf
) -> PoseResult:
    """Everybody of ``result`` at ``stamp_ns``, joints moved on at their own speed.

    Positions, and what they were known to, age: covariances grow by the deviation of the velocity
    and by accelerations nobody can foresee. Every joint is PREDICTED, and MISSING when it was,
    when its velocity is unknown, when ``stamp_ns`` is before the result, or more than
    ``longest_s`` after the joint was measured. Pixels are left out: they belong to an image.
    People already LOST are left out, and those last measured more than ``lost_s`` ago; whoever
    was not measured for ``longest_s`` is OCCLUDED.
    """
    ahead_s = (stamp_ns - result.stamp_ns) * 1e-9
    unseen_s = (stamp_ns - result.tracks.last_seen_ns) * 1e-9
    here = (result.tracks.state != TrackState.LOST) & (unseen_s <= lost_s)
    rows = np.flatnonzero(here)
    tracks = dataclasses.replace(
        result.tracks,
        **{
            f.name: getattr(result.tracks, f.name)[rows] for f in dataclasses.fields(result.tracks)
        },
    )
    away = (unseen_s[rows] > longest_s) & (tracks.state == TrackState.TRACKED)
    state = np.where(away, TrackState.OCCLUDED, tracks.state).astype(np.int8)
    tracks = dataclasses.replace(tracks, state=state)
    poses = result.poses.select(rows)
    blank = dataclasses.replace(
        poses, xy_px=np.full_like(poses.xy_px, np.nan), score=np.zeros_like(poses.score)
    )
    body = None
    if result.body is not None:
        age_s = result.body.age_s
        if age_s is None:  # no joint is younger than the person's last measurement
            person_s = (result.stamp_ns - result.tracks.last_seen_ns) * 1e-9
            age_s = np.broadcast_to(person_s[:, None], result.poses.score.shape)
        body = _ahead(result.body, rows, ahead_s, ahead_s + age_s[rows] <= longest_s + SLACK_S)
        body = dataclasses.replace(body, age_s=(age_s[rows] + ahead_s).astype(np.float32))
    return dataclasses.replace(
        result, stamp_ns=stamp_ns, tracks=tracks, poses=blank, refined=None, body=body,
        detected=False, stage_ms={},
    )  # fmt: skip


def carried(last: PoseResult, tracks: Tracks, stamp_ns: int, longest_s: float) -> Body | None:
    """Bodies of ``tracks``, row by row, as `predicted` moves those of ``last`` to ``stamp_ns``.

    For a time without images: ``tracks`` are who is still known of ``last``, the answer to the
    last image. Nothing metric is known of who is LOST, and of who has no joint that was measured
    within ``longest_s``. None when ``last`` had no metres.
    """
    moved = predicted(last, stamp_ns, longest_s).body
    if moved is None:
        return None
    people, (joints, edges) = len(tracks), (last.poses.score.shape[1], moved.lengths_m.shape[1])
    told = (moved.poses.status != KeypointStatus.MISSING).any(axis=1)
    same = (tracks.ids[:, None] == moved.poses.ids) & told
    rows, here = np.nonzero(same & (tracks.state != TrackState.LOST)[:, None])
    poses = Poses3D.unknown(tracks.ids, joints)
    lengths_m = np.full((people, edges), np.nan, np.float32)
    age_s = np.full((people, joints), np.inf, np.float32)
    for name in (item.name for item in dataclasses.fields(poses) if item.name != "ids"):
        getattr(poses, name)[rows] = getattr(moved.poses, name)[here]
    lengths_m[rows] = moved.lengths_m[here]
    if moved.age_s is not None:
        age_s[rows] = moved.age_s[here]
    return Body(poses, lengths_m, age_s=age_s)


def _ahead(body: Body, rows: np.ndarray, ahead_s: float, known: np.ndarray) -> Body:
    """Joints ``known`` (P, J) of the people in ``rows``, moved on."""
    was = body.poses
    known = known & (ahead_s >= 0.0)
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
