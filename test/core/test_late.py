"""A filter with a lag: which frame is answered when, how much steadier, and what breaks do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from test_pipeline import AHEAD_M, CAMERA, MetricWorld, Wall
from world import SECOND, Person, World, times

from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.ego import EgoMotion
from pose_ros.core.imu import Imu
from pose_ros.core.values import (
    Clips,
    Frame,
    KeypointStatus,
    PoseMaps,
    PoseResult,
    Poses2D,
    Poses3D,
    TrackState,
)
from pose_ros.errors import ConfigError

WALKER = Person(lambda t: (150.0 + 60.0 * t, 240.0))
NOISE_M = 0.02


def lagging(lag: int, **values: object) -> PipelineConfig:
    return with_values(PipelineConfig(), {"detect.interval": 1, "filter.lag": lag, **values})


def show(config: PipelineConfig, moments: list[float], **person: object) -> list[list[PoseResult]]:
    """Answers to each frame, and at the end to the rest."""
    world = MetricWorld([dataclasses.replace(WALKER, **person)], config)
    pipeline = world.pipeline()
    return [pipeline.push(world.frame(t)) for t in moments] + [pipeline.finish()]


def flat(answers: list[list[PoseResult]]) -> list[PoseResult]:
    return [result for some in answers for result in some]


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_every_frame_is_answered_once_under_its_own_stamp(lag: int) -> None:
    moments = times(20, 0.6)
    at_once, later = show(lagging(0), moments), show(lagging(lag), moments)
    assert [len(a) for a in later] == [0] * lag + [1] * (len(moments) - lag) + [lag]
    for a, b in zip(flat(at_once), flat(later), strict=True):
        assert (a.stamp_ns, a.frame_id, a.size_px, a.with_depth, a.detected) == (
            b.stamp_ns, b.frame_id, b.size_px, b.with_depth, b.detected
        )  # fmt: skip
        np.testing.assert_array_equal(a.tracks.ids, b.tracks.ids)
        np.testing.assert_array_equal(a.tracks.state, b.tracks.state)
        np.testing.assert_array_equal(a.tracks.xyxy_px, b.tracks.xyxy_px)
        np.testing.assert_array_equal(a.poses.xy_px, b.poses.xy_px)
        assert b.refined is not None and b.body is not None and b.body.angles is not None
        # of that frame and of no other: the walker moves by 3 px and 2.5 cm from frame to frame
        np.testing.assert_allclose(b.refined.poses.xy_px, a.poses.xy_px, atol=1.0)
        right = 4.0 * CAMERA.rays(a.poses.xy_px)[..., 0]
        assert abs(float((b.body.poses.xyz_m[..., 0] - right).mean())) < 0.005
        np.testing.assert_array_equal(a.refined.status, b.refined.status)
        np.testing.assert_array_equal(a.body.poses.status, b.body.poses.status)


class Shaky(Wall):
    """A depth camera with noise."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        out = super().lift(frame, poses)
        out.xyz_m[...] += NOISE_M * self.rng.standard_normal(out.xyz_m.shape)
        out.covariance_m2[...] = NOISE_M**2 * np.eye(3)
        return out


def test_the_more_frames_it_waits_for_the_smaller_the_error() -> None:
    off, jitter = [], []
    for lag in (0, 1, 3):
        world = MetricWorld([WALKER], lagging(lag))
        pipeline = world.pipeline()
        pipeline.embodier.depth = Shaky()  # type: ignore[union-attr, assignment]
        answers = [a for t in times(30, 1.5) for a in pipeline.push(world.frame(t))]
        answers = (answers + pipeline.finish())[10:]
        assert len(answers) == 35
        found = np.array([a.body.poses.xyz_m[0] for a in answers])
        truth = np.array([4.0 * CAMERA.rays(a.poses.xy_px)[0] for a in answers])
        off.append(np.linalg.norm(found - truth, axis=-1).mean())
        jitter.append(np.linalg.norm(np.diff(found - truth, n=2, axis=0), axis=-1).mean())
    assert off[2] < 0.9 * off[0] and off[1] < off[0]
    assert jitter[2] < 0.5 * jitter[0] and jitter[1] < jitter[0]


def test_somebody_hidden_is_bridged_from_both_sides() -> None:
    """What comes after tells where somebody was who turned round while nobody saw it."""
    turning = Person(lambda t: (250.0 + 120.0 * abs(t - 1.0), 240.0))
    off = []
    for lag in (0, 3):
        world = MetricWorld([turning], lagging(lag))
        pipeline, look = world.pipeline(), world.look

        def blind(clips: Clips, world: MetricWorld = world, look: Any = look) -> PoseMaps:
            maps = look(clips)
            maps.heatmaps[...] *= not 0.98 < world.t < 1.12
            return maps

        pipeline.net = dataclasses.replace(pipeline.net, run=blind)
        answers = [a for t in times(30, 1.6) for a in pipeline.push(world.frame(t))]
        away = [a for a in answers if 0.98 < a.stamp_ns / SECOND < 1.12]
        assert [a.tracks.state.tolist() for a in away] == [[TrackState.OCCLUDED]] * 4
        truth = np.array([turning.joints(a.stamp_ns / SECOND) for a in away])
        found = np.array([a.refined.poses.xy_px[0] for a in away])
        assert all((a.refined.status == KeypointStatus.PREDICTED).all() for a in away)
        off.append(np.linalg.norm(found - truth, axis=-1).mean(axis=1))
    assert off[1][1:].max() < 0.6 * off[0][1:].max(), off


@pytest.mark.parametrize("why", ["gap", "backwards", "resized", "uncalibrated"])
def test_what_waits_is_answered_before_a_frame_that_does_not_continue_it(why: str) -> None:
    world = MetricWorld([WALKER], lagging(2))
    pipeline = world.pipeline()
    for t in (5.0, 5.1, 5.2, 5.3):
        before = pipeline.push(world.frame(t))
    assert [r.stamp_ns for r in before] == [round(5.1 * SECOND)]
    frame = world.frame({"gap": 5.9, "backwards": 1.0}.get(why, 5.4))
    if why == "resized":
        frame = World.frame(world, 5.4, (320, 240))
    if why == "uncalibrated":
        frame = dataclasses.replace(frame, camera=None, depth=None)
    waited = pipeline.push(frame)
    assert [r.stamp_ns for r in waited] == [round(5.2 * SECOND), round(5.3 * SECOND)]
    assert all(r.tracks.state.tolist() == [TrackState.TRACKED] for r in waited)
    assert all(np.isfinite(r.body.poses.xyz_m).all() for r in waited)
    (last,) = pipeline.finish()
    assert last.stamp_ns == frame.stamp_ns and (last.body is None) == (why != "gap")
    lost = last.tracks.ids[last.tracks.state == TrackState.LOST].tolist()
    assert lost == ([1] if why in ("backwards", "resized") else [])
    assert pipeline.finish() == []


def test_what_cannot_be_answered_late_is_not_asked_for_again(monkeypatch) -> None:
    """A failure costs the frames that waited and the image that ended their wait, no more."""
    world = MetricWorld([WALKER], lagging(2))
    pipeline = world.pipeline()
    for t in times(20, 0.3):
        pipeline.push(world.frame(t))

    def fails(*_args: object) -> None:
        raise ValueError("a stage fails")

    with monkeypatch.context() as broken:
        broken.setattr(pipeline.embodier, "_refined", fails)
        with pytest.raises(ValueError, match="a stage fails"):
            pipeline.push(world.frame(2.0))
    answers = [r for t in times(20, 0.3) for r in pipeline.push(world.frame(2.1 + t))]
    assert answers[-1].body is not None and answers[-1].tracks.state.tolist()[-1] == (
        TrackState.TRACKED
    )


def test_after_a_pause_the_stream_goes_on_with_the_same_people() -> None:
    """As when images are missed: what waited was answered, and nothing is answered twice."""
    world = MetricWorld([WALKER], lagging(2))
    pipeline = world.pipeline()
    answers = [a for t in times(20, 0.5) for a in pipeline.push(world.frame(t))]
    answers += pipeline.finish()
    pipeline.coast(round(0.6 * SECOND))
    answers += [a for t in times(20, 0.5) for a in pipeline.push(world.frame(t + 0.7))]
    answers += pipeline.finish()
    stamps = [a.stamp_ns / SECOND for a in answers]
    np.testing.assert_allclose(stamps, [*times(20, 0.5), *(t + 0.7 for t in times(20, 0.5))])
    assert {tuple(a.tracks.ids.tolist()) for a in answers} == {(1,)}
    for a in answers:
        truth = 4.0 * CAMERA.rays(a.poses.xy_px)
        np.testing.assert_allclose(a.body.poses.xyz_m, truth, atol=0.05)


def test_a_lagging_answer_is_in_the_axes_of_its_own_frame() -> None:
    """The camera swings meanwhile, by up to 18 px a frame: what is remembered turned along."""
    swing, rate = 0.2, 6.0
    panning = Person(
        lambda t: (CAMERA.cx_px - CAMERA.fx_px * np.tan(swing * np.sin(rate * t)), 240.0)
    )
    imu = Imu()
    for n in range(-200, 400):
        gyro = np.array([0.0, swing * rate * np.cos(rate * n / 200), 0.0])
        imu.push(n * 5_000_000 + SECOND, gyro, np.array([0.0, -9.81, 0.0]))
    world = MetricWorld([panning], lagging(2))
    pipeline = world.pipeline()
    pipeline.ego = EgoMotion(imu)
    answers = []
    for t in times(30, 1.5):
        frame = world.frame(t)
        answers += pipeline.push(dataclasses.replace(frame, stamp_ns=frame.stamp_ns + SECOND))
    answers += pipeline.finish()
    assert len(answers) == 45 and pipeline.ego.counts["compensated"] == 44
    for a in answers[5:]:
        assert np.abs(a.refined.poses.xy_px - a.poses.xy_px).max() < 4.0
        truth = 4.0 * CAMERA.rays(a.poses.xy_px)
        assert np.linalg.norm(a.body.poses.xyz_m - truth, axis=-1).max() < 0.06


def test_who_starts_anew_in_metres_is_meanwhile_as_each_frame_alone_tells() -> None:
    """As when a stature is given, or metres change from depth to one camera."""
    world = MetricWorld([WALKER, Person(lambda t: (500.0, 240.0))], lagging(2))
    pipeline, answers = world.pipeline(), []
    for n, t in enumerate(times(20, 1.0)):
        if n == 10:
            pipeline.embodier._deep.forget(np.array([1]))  # type: ignore[union-attr]
        answers += pipeline.push(world.frame(t))
    for n, answer in enumerate(answers):
        (one, other), moves = answer.body.poses.xyz_m, answer.body.poses.velocity_m_s
        assert np.isfinite(one).all() and np.isfinite(other).all() and np.isfinite(moves[1]).all()
        alone = n in (8, 9)  # answered while the new history is too short
        assert np.isnan(moves[0]).all() == alone
        raw = AHEAD_M * CAMERA.rays(answer.poses.xy_px[0])
        assert np.allclose(one, raw, atol=1e-5) == alone
        assert (answer.body.poses.status == KeypointStatus.MEASURED).all()
        assert (answer.body.age_s == 0).all() and np.isfinite(
            answer.body.poses.covariance_m2
        ).all()


def test_a_lag_needs_a_filter_and_is_three_at_most() -> None:
    with pytest.raises(ConfigError, match=r"filter\.lag and filter\.ground: need filter\.type"):
        lagging(1, **{"filter.type": "none"})
    with pytest.raises(ConfigError, match="expected 0 to 3 frames, got 4"):
        lagging(4)
    world = MetricWorld([WALKER], lagging(2))
    with pytest.raises(ConfigError, match="world answers 2 frames later"):
        world.pipeline().step(world.frame(0.0))
    assert world.pipeline().facts["lag_frames"] == "2"
