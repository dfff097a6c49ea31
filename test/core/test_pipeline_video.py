"""Video networks in the pipeline: which frame is answered, when, and what is cut for it."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest
from world import SECOND, Person, World, times

from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.crop import Crops
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import Boxes, Clips, Frame, PoseMaps, PoseResult, TrackState
from pose_ros.errors import ConfigError

WALKER = Person(lambda t: (150.0 + 60.0 * t, 240.0))
EVERY_FRAME = with_values(PipelineConfig(), {"detect.interval": 1})


class Timed(World):
    """A world whose pictures say when they were taken, so that an older one is seen as it was."""

    def frame(self, t: float, size_px: tuple[int, int] = (640, 480)) -> Frame:
        frame = super().frame(t, size_px)
        frame.rgb[0, 0] = np.array([round(t * 100) // 256, round(t * 100) % 256, 0], np.uint8)
        return frame

    def detect(self, rgb: np.ndarray) -> Boxes:
        self.t = (int(rgb[0, 0, 0]) * 256 + int(rgb[0, 0, 1])) / 100
        return super().detect(rgb)


def video_pipeline(world: World, frames: int, lookahead: int) -> PosePipeline:
    plain = world.pipeline(frames)
    net = dataclasses.replace(plain.net, lookahead=lookahead, mode="delayed", trained=False)
    return PosePipeline(world.config, plain.detector, net)


def show(world: World, pipeline: PosePipeline, moments: list[float]) -> list[list[PoseResult]]:
    """Answers to each frame, and at the end to the rest."""
    return [pipeline.push(world.frame(t)) for t in moments] + [pipeline.finish()]


@pytest.mark.parametrize("lookahead", [1, 2])
def test_a_delayed_answer_is_that_of_the_older_image(lookahead: int) -> None:
    world = Timed([WALKER], EVERY_FRAME)
    moments = times(20, 0.5)
    at_once = world.run(moments, world.pipeline())
    answers = show(world, video_pipeline(world, 5, lookahead), moments)
    assert [len(a) for a in answers] == [0] * lookahead + [1] * (10 - lookahead) + [lookahead]
    later = [result for some in answers for result in some]
    for a, b in zip(at_once, later, strict=True):
        assert (a.stamp_ns, a.frame_id, a.size_px) == (b.stamp_ns, b.frame_id, b.size_px)
        np.testing.assert_array_equal(a.tracks.ids, b.tracks.ids)
        np.testing.assert_array_equal(a.tracks.state, b.tracks.state)
        np.testing.assert_allclose(a.tracks.xyxy_px, b.tracks.xyxy_px, atol=0.01)
        np.testing.assert_allclose(a.poses.xy_px, b.poses.xy_px, atol=0.01)


def test_after_a_gap_the_frames_that_waited_are_answered_first() -> None:
    world = Timed([WALKER], EVERY_FRAME)
    answers = show(world, video_pipeline(world, 3, 1), [0.0, 0.1, 0.2, 0.9, 1.0])
    stamps = [[round(r.stamp_ns / SECOND, 1) for r in some] for some in answers]
    assert stamps == [[], [0.0], [0.1], [0.2], [0.9], [1.0]]


@pytest.mark.parametrize("why", ["backwards", "resized"])
def test_a_fresh_start_loses_everybody_after_the_last_answer(why: str) -> None:
    world = Timed([WALKER], EVERY_FRAME)
    pipeline = video_pipeline(world, 3, 1)
    show_all = [pipeline.push(world.frame(t)) for t in (5.0, 5.1, 5.2, 5.3)]
    assert [len(a) for a in show_all] == [0, 1, 1, 1]
    frame = world.frame(1.0) if why == "backwards" else world.frame(5.4, (320, 240))
    (waited,) = pipeline.push(frame)
    assert waited.stamp_ns == round(5.3 * SECOND) and waited.size_px == (640, 480)
    assert waited.tracks.state.tolist() == [TrackState.TRACKED]
    (first,) = pipeline.finish()
    assert first.stamp_ns == frame.stamp_ns and first.size_px == frame.size_px
    assert first.tracks.ids.tolist()[0] == 1 and first.tracks.state[0] == TrackState.LOST
    assert 1 not in pipeline.flush().tracks.ids


def test_losses_that_nobody_heard_of_are_told_by_flush() -> None:
    world = Timed([WALKER], EVERY_FRAME)
    pipeline = video_pipeline(world, 3, 1)
    for t in (5.0, 5.1, 5.2, 1.0):
        pipeline.push(world.frame(t))
    told = pipeline.flush().tracks
    assert told.ids.tolist() == [1] and told.state.tolist() == [TrackState.LOST]
    assert pipeline.finish() == [] and len(pipeline.flush().tracks) == 0


def test_step_is_for_networks_that_answer_at_once() -> None:
    world = World([WALKER])
    with pytest.raises(ConfigError, match="world answers 1 frames later"):
        video_pipeline(world, 3, 1).step(world.frame(0.0))
    assert world.pipeline(3).step(world.frame(0.0)).stamp_ns == 0


def test_the_facts_of_a_network_are_words() -> None:
    facts = video_pipeline(World([]), 3, 1).net.facts
    assert facts == {
        "net": "world", "trained": "false", "mode": "delayed", "lookahead_frames": "1",
        "device": "cpu", "backend": "numpy", "weights": "",
    }  # fmt: skip


@dataclass
class Recorder:
    """A stream that sees like a world, and knows the crops that it was shown."""

    world: World
    known: set[tuple[int, bytes, int]] = field(default_factory=set)
    cut: list[int] = field(default_factory=list)

    def wanted(self, ids: np.ndarray, image_from_crop: np.ndarray, numbers: np.ndarray):
        self.asked = [
            [(int(i), crop.tobytes(), int(n)) for n in numbers]
            for i, crop in zip(ids, image_from_crop, strict=True)
        ]
        missing = [(p, t) for p, row in enumerate(self.asked) for t, key in enumerate(row)
                   if key not in self.known and key not in row[:t]]  # fmt: skip
        return np.array(missing, int).reshape(-1, 2)

    def run(self, crops: Crops) -> PoseMaps:
        self.cut.append(len(crops.rgb))
        self.known.update(key for row in self.asked for key in row)
        people, count = len(crops.ids), len(crops.numbers)
        clips = np.zeros((people, count, *crops.rgb.shape[1:]), np.uint8)
        return self.world.look(Clips(clips, crops.image_from_crop, np.ones((people, count), bool)))

    def reset(self) -> None:
        self.known.clear()


def test_a_stream_is_shown_only_what_it_does_not_know() -> None:
    world = World([Person(lambda t: (150.0, 240.0)), Person(lambda t: (450.0, 240.0))])
    plain = world.pipeline(3)
    stream = Recorder(world)
    pipeline = PosePipeline(world.config, plain.detector,
                            dataclasses.replace(plain.net, stream=stream))  # fmt: skip
    moments = times(30, 0.5)
    results = world.run(moments, pipeline)
    # a frame repeated; then a new one each, but the window anew when the boxes are placed anew:
    # once the joints say where, and after they were held for 8 frames
    assert stream.cut == [2, 2, 6] + [2] * 8 + [6] + [2] * 3
    assert sum(stream.cut) < 2 * 3 * len(moments) / 2
    for a, b in zip(results, world.run(moments, world.pipeline(3)), strict=True):
        np.testing.assert_allclose(a.poses.xy_px, b.poses.xy_px, atol=1e-3)
    assert stream.known
    pipeline.flush()
    assert not stream.known
    empty = World([])
    nobody = empty.pipeline(3)
    shown = Recorder(empty)
    net = dataclasses.replace(nobody.net, stream=shown)
    empty.run(times(30, 0.2), PosePipeline(empty.config, nobody.detector, net))
    assert shown.cut == []
