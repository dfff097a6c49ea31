"""The pipeline as a whole: order of things, fresh starts, live parameters."""

import numpy as np
import pytest
from world import SECOND, Person, World, times

from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.values import TrackState
from pose_ros.errors import ConfigError

STILL = Person(lambda t: (150.0, 240.0))
OTHER = Person(lambda t: (450.0, 240.0))


def test_a_result_carries_the_frame_it_answers() -> None:
    result = World([STILL]).run([1.25])[0]
    assert (result.stamp_ns, result.frame_id, result.size_px) == (
        1_250_000_000,
        "camera",
        (640, 480),
    )
    assert result.detected
    assert set(result.stage_ms) == {"detect", "track", "crop", "network", "decode"}


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
