"""Identity over time: people who walk, cross, hide, come back; at any frame rate."""

import dataclasses

import numpy as np
import pytest
from world import SECOND, Person, World, times

from pose_ros.core.boxes import around_joints
from pose_ros.core.config import PipelineConfig, TrackConfig, with_values
from pose_ros.core.skeletons import COCO17
from pose_ros.core.track import JOINT_BOX_PAD, Tracker
from pose_ros.core.values import Boxes, PoseResult, Poses2D, TrackState

STILL = Person(lambda t: (150.0, 240.0))
WALKER = Person(lambda t: (60.0 + 150.0 * t, 240.0))
TENTATIVE, TRACKED, OCCLUDED, LOST = TrackState


def states(results: list[PoseResult], track_id: int) -> list[int]:
    return [
        int(s)
        for r in results
        for i, s in zip(r.tracks.ids, r.tracks.state, strict=True)
        if i == track_id
    ]


def ids_of(person: Person, results: list[PoseResult]) -> set[int]:
    """Ids under which a person's own joints were ever reported."""
    found = set()
    for result in results:
        truth = person.joints(result.stamp_ns / SECOND)
        for row, track_id in enumerate(result.tracks.ids.tolist()):
            if (
                np.nanmax(np.abs(result.poses.xy_px[row] - truth), initial=0) < 2
                and np.isfinite(result.poses.xy_px[row]).any()
            ):
                found.add(track_id)
    return found


@pytest.mark.parametrize("rate_hz", [5, 10, 30, 60])
@pytest.mark.parametrize("interval", [1, 5])
def test_a_walker_keeps_one_id_and_the_joints_are_right(rate_hz: int, interval: int) -> None:
    world = World([WALKER], with_values(PipelineConfig(), {"detect.interval": interval}))
    results = world.run(times(rate_hz, 3.0))
    assert {i for r in results for i in r.tracks.ids.tolist()} == {1}
    assert states(results, 1) == [TENTATIVE] * 2 + [TRACKED] * (len(results) - 2)
    for result in results:
        truth = WALKER.joints(result.stamp_ns / SECOND)
        np.testing.assert_allclose(result.poses.xy_px[0], truth, atol=0.1)
    assert world.detections == -(-len(results) // interval)


def test_irregular_stamps_do_not_matter() -> None:
    steps = np.random.default_rng(0).choice([0.0, 0.011, 0.033, 0.09, 0.2], 60)
    results = World([WALKER, Person(lambda t: (500.0, 200.0))]).run(np.cumsum(steps).tolist())
    assert {i for r in results for i in r.tracks.ids.tolist()} == {1, 2}
    assert LOST not in states(results, 1) + states(results, 2)


@pytest.mark.parametrize("rate_hz", [10, 30])
@pytest.mark.parametrize("interval", [1, 5])
def test_two_people_who_cross_keep_their_ids(rate_hz: int, interval: int) -> None:
    left = Person(lambda t: (120.0 + 150.0 * t, 240.0), 220.0)
    right = Person(lambda t: (520.0 - 150.0 * t, 255.0), 180.0, turned=-1.0)
    world = World([left, right], with_values(PipelineConfig(), {"detect.interval": interval}))
    results = world.run(times(rate_hz, 2.6))
    first, last = results[3], results[-1]
    for person in (left, right):
        start, end = ids_of(person, [first]), ids_of(person, [last])
        assert len(start) == 1 and start == end
    assert len(last.tracks) == 2


def test_an_occluded_person_comes_back_under_the_same_id() -> None:
    hides = dataclasses.replace(WALKER, hidden=lambda t: 1.0 <= t < 1.6)
    results = World([hides]).run(times(30, 3.0))
    seen = states(results, 1)
    assert seen.count(LOST) == 0 and seen[-1] == TRACKED
    assert [s for s, r in zip(seen, results, strict=True) if 1.0 <= r.stamp_ns / SECOND < 1.6] == [
        OCCLUDED
    ] * 18
    hidden = next(r for r in results if r.tracks.state[0] == OCCLUDED)
    assert np.isnan(hidden.poses.xy_px).all() and (hidden.poses.score == 0).all()
    assert hidden.tracks.last_seen_ns[0] < hidden.stamp_ns


def test_after_max_lost_s_the_id_is_lost_once_and_never_used_again() -> None:
    hides = dataclasses.replace(STILL, hidden=lambda t: 1.0 <= t < 2.5)
    results = World([hides]).run(times(30, 4.0))
    assert states(results, 1).count(LOST) == 1 and states(results, 1)[-1] == LOST
    others = {i for r in results for i in r.tracks.ids.tolist()} - {1}
    assert len(others) == 1 and min(others) > 1
    gone = next(r.stamp_ns for r in results if LOST in r.tracks.state.tolist()) / SECOND
    assert 2.0 - 1 / 30 < gone <= 2.0 + 2 / 30  # last seen one frame before 1.0 s


def test_nobody_gives_empty_answers() -> None:
    results = World([]).run(times(30, 0.5))
    assert all(len(r.tracks) == 0 and r.poses.xy_px.shape == (0, 17, 2) for r in results)


def test_a_box_without_a_person_is_never_reported() -> None:
    world = World([dataclasses.replace(STILL, hidden=lambda t: True), WALKER])
    world.visible = lambda: [WALKER]
    detect = world.detect

    def with_ghost(rgb: np.ndarray):
        found = detect(rgb)
        ghost = np.array([[400, 100, 480, 300]], np.float32)
        return dataclasses.replace(
            found,
            xyxy_px=np.concatenate([found.xyxy_px, ghost]),
            score=np.append(found.score, np.float32(0.9)),
        )

    world.detect = with_ghost
    results = world.run(times(30, 1.0))
    assert {i for r in results for i in r.tracks.ids.tolist()} == {1}


def test_a_false_detection_is_looked_at_again_only_after_a_while() -> None:
    world = World([STILL])
    detect, looked = world.detect, []

    def with_ghost(rgb: np.ndarray):
        found = detect(rgb)
        ghost = np.array([[400, 100, 480, 300]], np.float32)
        return dataclasses.replace(
            found,
            xyxy_px=np.concatenate([found.xyxy_px, ghost]),
            score=np.append(found.score, np.float32(0.9)),
        )

    look = world.look

    def counted(clips):
        looked.append(len(clips.rgb))
        return look(clips)

    world.detect, world.look = with_ghost, counted
    world.run(times(30, 2.0))
    assert looked.count(2) == 3  # at 0, 0.67 and 1.33 s: the detector runs every 1/6 s


def test_one_person_detected_twice_is_one_person() -> None:
    world = World([STILL])
    detect = world.detect

    def twice(rgb: np.ndarray):
        found = detect(rgb)
        shifted = found.xyxy_px + np.array([40, 0, 40, 0], np.float32)
        return dataclasses.replace(
            found,
            xyxy_px=np.concatenate([found.xyxy_px, shifted]),
            score=np.append(found.score, np.float32(0.8)),
        )

    world.detect = twice
    results = world.run(times(30, 1.0))
    assert all(len(r.tracks) == 1 for r in results)


def test_at_most_max_people_are_looked_at() -> None:
    crowd = [Person(lambda t, x=x: (60.0 + 90 * x, 240.0), 150.0) for x in range(6)]
    world = World(crowd, with_values(PipelineConfig(), {"track.max_people": 4}))
    results = world.run(times(30, 1.0))
    assert max(len(r.tracks) for r in results) == 4
    assert {i for r in results for i in r.tracks.ids.tolist()} == {1, 2, 3, 4}


def test_same_input_same_output_and_the_order_of_detections_does_not_matter() -> None:
    people = [
        WALKER,
        Person(lambda t: (500.0 - 60 * t, 190.0), 120.0),
        Person(lambda t: (150.0, 400.0), 120.0),
    ]
    runs = [World(people, order=order).run(times(20, 2.0)) for order in (1, 1, -1)]
    for a, b, c in zip(*runs, strict=True):
        np.testing.assert_array_equal(a.poses.xy_px, b.poses.xy_px)
        np.testing.assert_array_equal(a.tracks.xyxy_px, b.tracks.xyxy_px)
        by_place = [np.sort(r.poses.xy_px[:, 0, 0]) for r in (a, c)]
        np.testing.assert_allclose(*by_place, atol=1e-3)


def test_a_jump_of_the_stamps_ends_everybody() -> None:
    world = World([STILL])
    pipeline = world.pipeline()
    world.run(times(30, 0.5), pipeline)
    after = pipeline.step(world.frame(100.0))
    assert after.tracks.state.tolist()[0] == LOST and after.tracks.ids[0] == 1
    later = [pipeline.step(world.frame(100.0 + t)) for t in times(30, 0.5)[1:]]
    assert {i for r in later for i in r.tracks.ids.tolist()} == {2}


def test_repeated_stamps_are_survived() -> None:
    results = World([WALKER]).run([0.0, 0.0, 0.0, 0.1, 0.1, 0.2])
    assert all(r.tracks.ids.tolist() == [1] for r in results)
    assert all(np.isfinite(r.tracks.xyxy_px).all() for r in results)


def test_how_sure_a_joint_is_stays_with_its_person() -> None:
    """Two people, told in the other order: what a pose says of itself goes where the pose goes."""
    tracker = Tracker(TrackConfig(min_hits=1), COCO17)
    left, right = (Person(lambda t, x=x: (x, 240.0)).joints(0.0) for x in (150.0, 450.0))
    boxes = around_joints(np.stack([left, right]), np.ones((2, 17), np.bool_), JOINT_BOX_PAD)
    tracker.propose(0, Boxes(boxes, np.ones(2, np.float32)))
    swapped = np.stack([right, left]).astype(np.float32)
    std = np.array([3.0, 1.0], np.float32)[:, None].repeat(17, 1)
    seen = Poses2D(np.array([1, 2]), swapped, np.ones((2, 17), np.float32), std)
    _, poses = tracker.observe(seen)
    assert poses.std_px is not None
    by_place = {float(xy[0, 0]): s[0] for xy, s in zip(poses.xy_px, poses.std_px, strict=True)}
    assert by_place == {float(left[0, 0]): 1.0, float(right[0, 0]): 3.0}
    tracker.propose(SECOND // 30, None)
    _, again = tracker.observe(dataclasses.replace(seen, std_px=None))
    assert again.std_px is None


@pytest.mark.parametrize("rate_hz", [2.0, 3.0, 5.0])
def test_a_slow_camera_keeps_who_is_who(rate_hz: float) -> None:
    """The detector looks at every fifth picture only."""
    world = World([Person(lambda t: (300 + 5 * t, 240))])
    results = world.run(times(rate_hz, 20 / rate_hz))
    assert {i for r in results for i in r.tracks.ids.tolist()} == {1}
    assert all(r.tracks.state.tolist() == [TrackState.TRACKED] for r in results[3:])


@pytest.mark.parametrize("rate_hz", [1.0, 1.6, 2.0])
def test_a_slow_camera_keeps_who_is_who_though_silence_is_told_meanwhile(rate_hz: float) -> None:
    """As the node does every half `output_deadline_s` without an image."""
    world = World([Person(lambda t: (300 + 5 * t, 240))])
    pipeline, results = world.pipeline(), []
    for t in times(rate_hz, 12 / rate_hz):
        results += pipeline.push(world.frame(t))
        for silent_s in np.arange(0.28, 1 / rate_hz, 0.28):
            pipeline.coast(round((t + silent_s) * SECOND))
    # nobody knows the rate of a camera that has shown one image
    assert len({i for r in results[3:] for i in r.tracks.ids.tolist()}) == 1
    assert all(r.tracks.state.tolist() == [TrackState.TRACKED] for r in results[3:])
