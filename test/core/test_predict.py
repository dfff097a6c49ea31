"""People ahead of their last image: moved, less sure, and never further than a joint may go."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pose_ros.core.predict import PROCESS, carried, predicted
from pose_ros.core.values import (
    Body,
    KeypointStatus,
    PoseResult,
    Poses2D,
    Poses3D,
    Tracks,
    TrackState,
)

STAMP_NS = 10_000_000_000
MS = 1_000_000


def result(people: int = 1, age_s: float = 0.0) -> PoseResult:
    """People at (1, 2, 3) m who move by (0.5, 0, 0) m/s, measured ``age_s`` before the image."""
    ids = np.arange(1, people + 1)
    seen_ns = STAMP_NS - round(age_s * 1e9)
    tracks = Tracks(
        ids, np.full(people, TrackState.TRACKED, np.int8), np.zeros((people, 4), np.float32),
        np.ones(people, np.float32), np.full(people, seen_ns),
    )  # fmt: skip
    flat = Poses2D(ids, np.ones((people, 17, 2), np.float32), np.ones((people, 17), np.float32))
    poses = Poses3D.unknown(ids, 17)
    poses.xyz_m[:], poses.velocity_m_s[:] = (1.0, 2.0, 3.0), (0.5, 0.0, 0.0)
    poses.covariance_m2[:], poses.speed_std_m_s[:] = 0.01 * np.eye(3), 0.2
    poses.score[:] = 0.8
    poses.status[:] = KeypointStatus.PREDICTED if age_s else KeypointStatus.MEASURED
    body = Body(
        poses, np.zeros((people, 16), np.float32), age_s=np.full((people, 17), age_s, np.float32)
    )
    return PoseResult(STAMP_NS, "camera", (8, 8), tracks, flat, True, body=body)


def known(told: PoseResult) -> np.ndarray:
    assert told.body is not None
    poses = told.body.poses
    there = poses.status != KeypointStatus.MISSING
    np.testing.assert_array_equal(np.isfinite(poses.xyz_m).all(axis=-1), there)
    np.testing.assert_array_equal(np.isfinite(poses.velocity_m_s).all(axis=-1), there)
    np.testing.assert_array_equal(poses.score > 0, there)
    return there


def test_a_joint_moves_at_its_speed_and_becomes_less_sure() -> None:
    told = predicted(result(), STAMP_NS + 200 * MS, 0.3)
    assert told.body is not None and known(told).all()
    poses = told.body.poses
    np.testing.assert_allclose(poses.xyz_m[0, 4], [1.1, 2.0, 3.0], rtol=1e-6)
    assert set(poses.status[0].tolist()) == {KeypointStatus.PREDICTED}
    variance = 0.01 + (0.2 * 0.2) ** 2 + PROCESS * 0.2**3 / 3
    np.testing.assert_allclose(poses.covariance_m2[0, 4], variance * np.eye(3), atol=1e-7)
    assert poses.speed_std_m_s[0, 4] == pytest.approx(np.sqrt(0.04 + PROCESS * 0.2))
    assert told.stamp_ns == STAMP_NS + 200 * MS
    assert np.isnan(told.poses.xy_px).all() and told.refined is None


@pytest.mark.parametrize(("age_s", "ahead_ms"), [(0.0, 300), (0.2, 100), (0.3, 0)])
def test_a_joint_goes_no_further_than_the_limit_after_its_measurement(
    age_s: float, ahead_ms: int
) -> None:
    assert known(predicted(result(age_s=age_s), STAMP_NS + ahead_ms * MS, 0.3)).all()
    assert not known(predicted(result(age_s=age_s), STAMP_NS + (ahead_ms + 10) * MS, 0.3)).any()


def test_every_joint_has_its_own_age_and_a_body_without_ages_is_of_its_image() -> None:
    told = result()
    assert told.body is not None and told.body.age_s is not None
    told.body.age_s[0, :5] = 0.25
    assert (
        known(predicted(told, STAMP_NS + 100 * MS, 0.3))[0].tolist() == [False] * 5 + [True] * 12
    )
    later = predicted(predicted(told, STAMP_NS + 100 * MS, 0.3), STAMP_NS + 250 * MS, 0.3)
    assert known(later)[0].tolist() == [False] * 5 + [True] * 12  # ages add up
    again = predicted(predicted(told, STAMP_NS + 200 * MS, 0.3), STAMP_NS + 320 * MS, 0.3)
    assert not known(again).any()
    plain = dataclasses.replace(told, body=dataclasses.replace(told.body, age_s=None))
    assert known(predicted(plain, STAMP_NS + 290 * MS, 0.3)).all()
    assert not known(predicted(plain, STAMP_NS - 10 * MS, 0.3)).any()  # before the image
    plain.tracks.last_seen_ns[:] = STAMP_NS - 200 * MS
    assert not known(predicted(plain, STAMP_NS + 110 * MS, 0.3)).any()


def test_people_leave_in_time_and_are_not_called_tracked_meanwhile() -> None:
    told = result(3)
    told.tracks.last_seen_ns[0] = STAMP_NS - 900 * MS
    told.tracks.state[2] = TrackState.LOST
    soon = predicted(told, STAMP_NS + 50 * MS, 0.3, lost_s=1.0)
    assert soon.tracks.ids.tolist() == [1, 2]
    assert soon.tracks.state.tolist() == [TrackState.OCCLUDED, TrackState.TRACKED]
    assert soon.poses.ids.tolist() == [1, 2] and soon.body is not None
    later = predicted(told, STAMP_NS + 500 * MS, 0.3, lost_s=1.0)
    assert later.tracks.ids.tolist() == [2]
    assert later.tracks.state.tolist() == [TrackState.OCCLUDED]
    assert len(predicted(told, STAMP_NS + 1100 * MS, 0.3, lost_s=1.0).tracks) == 0


def test_bodies_are_carried_on_for_the_people_who_are_still_there() -> None:
    told = result(4)
    told.body.lengths_m[:] = 0.3
    told.body.age_s[2] = 0.25
    told.body.poses.xyz_m[:, :, 2] += np.arange(4)[:, None]
    ids = np.array([2, 3, 4, 9])  # 1 is gone, 9 is new
    state = np.full(4, TrackState.OCCLUDED, np.int8)
    state[2] = TrackState.LOST
    blank = np.zeros((4, 4), np.float32), np.ones(4, np.float32), np.full(4, STAMP_NS)
    still = Tracks(ids, state, *blank)
    body = carried(told, still, STAMP_NS + 100 * MS, 0.3)
    ahead = predicted(told, STAMP_NS + 100 * MS, 0.3).body
    assert body is not None and ahead is not None and body.age_s is not None
    assert body.poses.ids.tolist() == [2, 3, 4, 9]
    np.testing.assert_array_equal(body.poses.xyz_m[0], ahead.poses.xyz_m[1])
    np.testing.assert_array_equal(body.poses.covariance_m2[0], ahead.poses.covariance_m2[1])
    assert (body.poses.status[0] == KeypointStatus.PREDICTED).all()
    np.testing.assert_allclose(body.age_s[0], 0.1, rtol=1e-5)
    unknown = Poses3D.unknown(ids, 17)
    for field in dataclasses.fields(unknown):  # measured too long ago, LOST, never seen
        got, want = getattr(body.poses, field.name), getattr(unknown, field.name)
        np.testing.assert_array_equal(got[1:], want[1:])
    assert np.isnan(body.lengths_m[1:]).all() and (body.lengths_m[0] == np.float32(0.3)).all()


def test_nobody_and_no_metres_are_carried_on() -> None:
    none = result(0)
    body = carried(result(2), none.tracks, STAMP_NS, 0.3)
    assert body is not None and len(body.poses) == 0
    assert carried(none, result(1).tracks, STAMP_NS, 0.3).poses.status.max() == 0
    assert carried(dataclasses.replace(result(), body=None), none.tracks, STAMP_NS, 0.3) is None


def test_nobody_and_no_metres() -> None:
    assert len(predicted(result(0), STAMP_NS, 0.3, 1.0).tracks) == 0
    flat = dataclasses.replace(result(), body=None)
    told = predicted(flat, STAMP_NS + 10 * MS, 0.3)
    assert told.body is None and told.tracks.ids.tolist() == [1]
