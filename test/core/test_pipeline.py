"""The pipeline as a whole: order of things, fresh starts, live parameters."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from world import SECOND, SIZE_PX, Person, World, times

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.embody import Embodier
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.predict import predicted
from pose_ros.core.skeletons import COCO17
from pose_ros.core.spread import GUESS_SHARE, SPREAD_SHARE, pixel_std
from pose_ros.core.values import (
    Clips,
    DepthImage,
    Frame,
    KeypointStatus,
    PoseMaps,
    Poses2D,
    Poses3D,
    ScaleSource,
    Tracks,
    TrackState,
)
from pose_ros.errors import ConfigError

STILL = Person(lambda t: (150.0, 240.0))
OTHER = Person(lambda t: (450.0, 240.0))
WALKER = Person(lambda t: (150.0 + 120.0 * t, 240.0))
CAMERA = PinholeCamera.from_fov(*SIZE_PX, 70.0)
AHEAD_M = 4.0


class Wall:
    """Stands in for the depth lifter: everybody is `AHEAD_M` ahead."""

    def reset(self) -> None:
        """Nothing is remembered."""

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        """Measured joints."""
        out = Poses3D.unknown(poses.ids, len(COCO17))
        seen = np.isfinite(poses.xy_px).all(axis=-1)
        out.xyz_m[seen] = AHEAD_M * CAMERA.rays(poses.xy_px)[seen]
        out.covariance_m2[seen] = 1e-4 * np.eye(3)
        out.status[seen], out.score[seen] = KeypointStatus.MEASURED, poses.score[seen]
        out.scale[:] = ScaleSource.DEPTH
        return out


class MetricWorld(World):
    """A world in front of a calibrated depth camera."""

    def pipeline(self, frames: int = 1) -> PosePipeline:
        """Metres, too."""
        pipeline = super().pipeline(frames)
        pipeline.embodier = Embodier(COCO17, self.config, None)
        pipeline.embodier.depth = Wall()  # type: ignore[assignment]
        return pipeline

    def frame(self, t: float, size_px: tuple[int, int] = SIZE_PX) -> Frame:
        """Picture, camera and depth."""
        frame = super().frame(t, size_px)
        deep = np.full(size_px[::-1], np.nan, np.float32)
        return dataclasses.replace(
            frame, camera=CAMERA, depth=DepthImage(deep, frame.stamp_ns, CAMERA)
        )


class BlurredWorld(World):
    """A world whose network is `SIGMA_CELLS` unsure of where joints are, and has a prior."""

    SIGMA_CELLS = 1.5

    def look(self, clips: Clips) -> PoseMaps:
        """Every joint's cell, blurred."""
        maps = super().look(clips)
        sigma = (0, 0, self.SIGMA_CELLS, self.SIGMA_CELLS)
        blurred = np.minimum(10 * gaussian_filter(maps.heatmaps, sigma), 1)
        return PoseMaps(blurred, np.ones_like(blurred), maps.offsets)


def test_a_result_carries_the_frame_it_answers() -> None:
    result = World([STILL]).run([1.25])[0]
    assert (result.stamp_ns, result.frame_id, result.size_px) == (
        1_250_000_000,
        "camera",
        (640, 480),
    )
    assert result.detected
    assert set(result.stage_ms) == {"detect", "track", "crop", "network", "decode"}


def handed_to_the_tracker(world: World) -> Poses2D:
    """What the network's maps of the first picture became."""
    pipeline, handed = world.pipeline(), []
    observe = pipeline.tracker.observe

    def listening(poses: Poses2D) -> tuple[Tracks, Poses2D]:
        handed.append(poses)
        return observe(poses)

    pipeline.tracker.observe = listening  # type: ignore[method-assign]
    pipeline.step(world.frame(0.0))
    return handed[0]


def test_joints_state_how_wide_their_maps_are_in_pixels_of_the_image() -> None:
    world = BlurredWorld([STILL])
    poses = handed_to_the_tracker(world)
    assert poses.std_px is not None
    # 4 crop pixels per cell; a box of 200 px, enlarged by 1.1, became 256 crop pixels
    wide = SPREAD_SHARE * world.SIGMA_CELLS * 4 * 220 / 256
    guess = GUESS_SHARE * pixel_std(dataclasses.replace(poses, std_px=None))
    np.testing.assert_allclose(poses.std_px, np.hypot(wide, guess), rtol=0.02)


def test_a_network_without_a_prior_does_not_state_how_sure_it_is() -> None:
    assert handed_to_the_tracker(World([STILL])).std_px is None


def test_all_people_are_looked_at_in_one_network_call_and_nobody_in_none() -> None:
    world = World([STILL, OTHER])
    world.run(times(30, 1.0))
    assert world.looks == 30
    empty = World([])
    empty.run(times(30, 1.0))
    assert empty.looks == 0 and empty.detections == 30  # nobody to carry on: detect in every frame


@pytest.mark.parametrize("why", ["backwards", "resized"])
def test_a_fresh_start_says_lost_once_and_uses_new_ids(why: str) -> None:
    world = World([STILL])
    pipeline = world.pipeline()
    world.run([5.0, 5.1, 5.2, 5.3], pipeline)
    frame = world.frame(1.0) if why == "backwards" else world.frame(5.4, (320, 240))
    after = pipeline.step(frame)
    assert after.tracks.ids.tolist()[0] == 1 and after.tracks.state[0] == TrackState.LOST
    assert np.isnan(after.poses.xy_px[0]).all()
    assert after.detected
    again = pipeline.step(world.frame(frame.stamp_ns / SECOND + 0.1, frame.size_px))
    assert 1 not in again.tracks.ids


def test_coasting_without_images_goes_from_occluded_to_lost_once() -> None:
    world = World([STILL])
    pipeline = world.pipeline()
    world.run(times(30, 0.5), pipeline)
    coasted = [pipeline.coast(round((0.5 + 0.25 * step) * SECOND)) for step in range(8)]
    told = [s for r in coasted for s in r.tracks.state.tolist()]
    assert told == [TrackState.OCCLUDED] * 4 + [TrackState.LOST]
    assert all(np.isnan(r.poses.xy_px).all() for r in coasted)


def test_coasting_carries_bodies_on_until_the_limit_and_moves_nothing() -> None:
    world, twin = MetricWorld([WALKER]), MetricWorld([WALKER])
    pipeline, undisturbed = world.pipeline(), twin.pipeline()
    last = world.run(times(30, 1.0), pipeline)[-1]
    twin.run(times(30, 1.0), undisturbed)
    longest_s = world.config.filter.max_prediction_s
    speed_m_s = AHEAD_M * 120.0 / CAMERA.fx_px
    variance = last.body.poses.covariance_m2[0, :, 0, 0]
    for ahead_s in (0.1, 0.2, longest_s):
        coasted = pipeline.coast(last.stamp_ns + round(ahead_s * SECOND))
        assert coasted.tracks.state.tolist() == [TrackState.OCCLUDED]
        body = coasted.body
        assert (body.poses.status == KeypointStatus.PREDICTED).all()
        assert body.poses.scale.tolist() == [ScaleSource.DEPTH]
        moved = (body.poses.xyz_m - last.body.poses.xyz_m)[0].mean(axis=0)
        np.testing.assert_allclose(moved, [speed_m_s * ahead_s, 0, 0], atol=0.03)
        before, variance = variance, body.poses.covariance_m2[0, :, 0, 0]
        assert (variance > before).all()
        straight = predicted(last, coasted.stamp_ns, longest_s).body.poses  # not step by step
        np.testing.assert_array_equal(body.poses.covariance_m2, straight.covariance_m2)
        assert body.angles is None and np.isnan(coasted.poses.xy_px).all()
    over = pipeline.coast(last.stamp_ns + round((longest_s + 0.01) * SECOND)).body
    assert (over.poses.status == KeypointStatus.MISSING).all()
    assert np.isnan(over.poses.xyz_m).all() and np.isnan(over.lengths_m).all()
    assert over.poses.scale.tolist() == [ScaleSource.UNKNOWN]
    late = last.stamp_ns / SECOND + 1 / 30  # older than what was coasted to
    after, same = pipeline.step(world.frame(late)), undisturbed.step(twin.frame(late))
    np.testing.assert_array_equal(after.body.poses.xyz_m, same.body.poses.xyz_m)
    np.testing.assert_array_equal(after.body.poses.covariance_m2, same.body.poses.covariance_m2)


def test_coasting_after_a_fresh_start_or_without_metres_carries_no_body_on() -> None:
    world = MetricWorld([STILL])
    pipeline = world.pipeline()
    last = world.run(times(30, 0.5), pipeline)[-1]
    assert pipeline.coast(last.stamp_ns + 1).body is not None
    pipeline.flush()
    assert pipeline.coast(last.stamp_ns + 2).body is None
    flat = World([STILL])
    pipeline = flat.pipeline()
    flat.run(times(30, 0.5), pipeline)
    assert pipeline.coast(SECOND // 2).body is None


def test_coasting_before_any_image_is_empty() -> None:
    assert len(World([STILL]).pipeline().coast(SECOND).tracks) == 0


def test_flush_ends_everybody() -> None:
    world = World([STILL, OTHER])
    pipeline = world.pipeline()
    world.run(times(30, 0.2), pipeline)
    last = pipeline.flush()
    assert last.tracks.state.tolist() == [TrackState.LOST] * 2
    assert len(pipeline.flush().tracks) == 0


def test_live_parameters_change_at_once_and_the_others_are_refused() -> None:
    world = World([STILL])
    pipeline = world.pipeline()
    pipeline.reconfigure(with_values(PipelineConfig(), {"detect.interval": 1}))
    world.run(times(30, 0.5), pipeline)
    assert world.detections == 15
    with pytest.raises(ConfigError, match=r"model.name: cannot change while running .* again"):
        pipeline.reconfigure(with_values(PipelineConfig(), {"model.name": "other"}))


def test_windows_of_a_video_network_end_with_the_key_frame() -> None:
    world = World([STILL])
    shapes = []
    look = world.look

    def video_look(clips):
        shapes.append(clips.rgb.shape)
        return look(clips)

    world.look = video_look
    world.run(times(30, 0.2), world.pipeline(frames=5))
    assert shapes == [(1, 5, 256, 256, 3)] * 6


def test_a_late_image_after_coasting_keeps_everybody() -> None:
    world = World([STILL])
    pipeline = world.pipeline()
    last = world.run(times(30, 1.0), pipeline)[-1]
    pipeline.coast(last.stamp_ns + SECOND // 4)
    late = pipeline.step(world.frame(last.stamp_ns / SECOND + 0.033))
    assert late.tracks.ids.tolist() == [1] and late.tracks.state.tolist() == [TrackState.TRACKED]


def test_people_who_end_keep_their_box() -> None:
    world = World([STILL])
    pipeline = world.pipeline()
    before = world.run(times(30, 0.2), pipeline)[-1]
    last = pipeline.flush()
    assert last.size_px == before.size_px
    np.testing.assert_array_equal(last.tracks.xyxy_px, before.tracks.xyxy_px)


def test_a_detection_is_put_off_while_frames_wait_but_not_for_ever() -> None:
    def detected(hurried: bool) -> list[int]:
        world = World([STILL])
        pipeline = world.pipeline()
        results = [pipeline.push(world.frame(t), hurried)[0] for t in times(30, 1.0)]
        return [i for i, result in enumerate(results) if result.detected]

    interval = PipelineConfig().detect.interval
    assert detected(hurried=False)[1] == interval
    late = detected(hurried=True)
    assert late[:2] == [0, 2 * interval]  # at once while nobody is known


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("stage", ["refine", "lift", "embody"])
def test_who_is_lost_in_a_frame_that_fails_is_told_with_the_next(stage: str, lag: int) -> None:
    """LOST is said once, and nobody else says it: not a word of it may go with a frame."""
    leaving = Person(lambda t: (150.0, 240.0), hidden=lambda t: t > 0.45)
    config = with_values(PipelineConfig(), {"detect.interval": 1, "filter.lag": lag})
    world = MetricWorld([leaving, OTHER], config)
    pipeline, told, failed = world.pipeline(), [], []
    assert pipeline.embodier is not None
    whole = getattr(pipeline.embodier, stage)
    for t in times(10, 2.5):

        def failing(*args: object, t: float = t) -> object:
            if 1.25 < t < 1.75:  # the second after which somebody is LOST ends at 1.4 s
                raise RuntimeError("a stage that fails")
            return whole(*args)

        setattr(pipeline.embodier, stage, failing)
        try:
            told += pipeline.push(world.frame(t))
        except RuntimeError:
            failed.append(t)
    told += pipeline.finish()
    assert failed == [1.3, 1.4, 1.5, 1.6, 1.7]
    lost = [r for r in told if (r.tracks.state == TrackState.LOST).any()]
    assert len(lost) == 1 and lost[0].stamp_ns == round(1.8 * SECOND)
    assert lost[0].tracks.ids.tolist() == [1, 2]
    assert lost[0].tracks.state.tolist() == [TrackState.LOST, TrackState.TRACKED]
    assert np.isnan(lost[0].poses.xy_px[0]).all() and np.isfinite(lost[0].poses.xy_px[1]).all()
    stamps = [r.stamp_ns for r in told]
    assert stamps == sorted(set(stamps)) and len(stamps) == 20
    assert told[-1].body is not None and np.isfinite(told[-1].body.poses.xyz_m).all()


def test_who_is_lost_in_a_frame_that_waits_is_told_by_flush() -> None:
    leaving = Person(lambda t: (150.0, 240.0), hidden=lambda t: t > 0.45)
    config = with_values(PipelineConfig(), {"detect.interval": 1, "filter.lag": 3})
    world = MetricWorld([leaving, OTHER], config)
    pipeline = world.pipeline()
    answers = [r for t in times(10, 1.6) for r in pipeline.push(world.frame(t))]
    assert all((r.tracks.state != TrackState.LOST).all() for r in answers)
    ended = pipeline.flush()
    assert ended.tracks.ids.tolist() == [1, 2]
    assert (ended.tracks.state == TrackState.LOST).all() and pipeline.finish() == []
