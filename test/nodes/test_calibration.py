"""Questions about people's sizes: asked by one thread, answered by the other, never left open."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pose_ros.core.bones import BoneLengths
from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError
from pose_ros.nodes.calibration import LONGEST_S, Calibrations
from pose_ros.srv import CalibratePerson

IDS = {7}


class People:
    """Stands in for the embodier: one person whose bones are learned from what `see` says."""

    def __init__(self) -> None:
        self.bones = BoneLengths(COCO17, 3)
        self.stature_m = 1.7

    def sized(self, person_id: int, stature_m: float) -> tuple[float, Any, Any]:
        if stature_m > 2.6:
            raise ConfigError("stature: expected 0.4 to 2.6 m")
        self.stature_m = stature_m or self.stature_m
        ids = np.array([person_id])
        return self.stature_m, self.bones.lengths(ids)[0], self.bones.weights(ids)[0]

    def see(self, forearm_m: float, frames: int) -> None:
        points = np.full((1, 17, 3), np.nan, np.float32)
        for side, x in (("left", 0.0), ("right", 1.0)):
            points[0, COCO17.index(f"{side}_elbow")] = (x, 0.0, 3.0)
            points[0, COCO17.index(f"{side}_wrist")] = (x, forearm_m, 3.0)
        for _ in range(frames):
            self.bones.update(np.array([7]), points, np.full((1, 17), 0.9, np.float32))


def ask(calibrations: Calibrations, **request: Any) -> Any:
    asked = CalibratePerson.Request(**request)
    return calibrations.ask(asked, CalibratePerson.Response(), None)


FOREARM = COCO17.edges.index(("left_elbow", "left_wrist"))


def test_a_question_waits_for_the_worker_and_is_answered_at_once() -> None:
    calibrations, people = Calibrations(), People()
    people.see(0.25, 100)
    future = ask(calibrations, id=7, stature_m=1.8)
    assert not future.done() and people.stature_m == 1.7  # nothing happens in the asking thread
    calibrations.serve(people, IDS, 0.0)
    answer = future.result()
    assert future.done() and answer.success
    assert answer.stature_m == pytest.approx(1.8)
    assert answer.segment_lengths[FOREARM] == pytest.approx(0.25, rel=0.02)
    assert answer.learned[FOREARM] > 0.8


def test_a_person_is_measured_anew_for_the_time_that_was_asked_for() -> None:
    calibrations, people = Calibrations(), People()
    people.see(0.31, 200)  # what was learned before was wrong
    future = ask(calibrations, id=7, seconds=2.0)
    calibrations.serve(people, IDS, 10.0)
    for second in range(3):
        assert not future.done()
        people.see(0.25, 30)
        calibrations.serve(people, IDS, 10.9 + second)
    answer = future.result()
    assert answer.success and answer.message == ""
    assert answer.segment_lengths[FOREARM] == pytest.approx(0.25, rel=0.02)
    thigh = COCO17.edges.index(("left_hip", "left_knee"))
    assert answer.learned[FOREARM] > 0.7 > 0.2 > answer.learned[thigh]  # the legs were not seen


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"id": 8}, "nobody is followed under id 8"),
        ({"id": 7, "stature_m": 9.0}, "expected 0.4 to 2.6"),
        ({"id": 7, "seconds": -1.0}, "seconds: expected 0 to 60"),
        ({"id": 7, "seconds": math.nan}, "seconds: expected 0 to 60"),
        ({"id": 7, "seconds": LONGEST_S + 1}, "seconds: expected 0 to 60"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_changes(request_: Any, words: str) -> None:
    calibrations, people = Calibrations(), People()
    people.see(0.25, 100)
    future = ask(calibrations, **request_)
    calibrations.serve(people, IDS, 0.0)
    answer = future.result()
    assert not answer.success and words in answer.message and math.isnan(answer.stature_m)
    assert people.bones.weights(np.array([7]))[0, FOREARM] > 0.8


def test_no_question_stays_open() -> None:
    calibrations, people = Calibrations(), People()
    gone, unseen = ask(calibrations, id=7, seconds=5.0), ask(calibrations, id=7, seconds=1.0)
    calibrations.serve(people, IDS, 0.0)
    calibrations.serve(people, IDS, 1.5)
    assert "no bone of person 7" in unseen.result().message
    assert not gone.done()
    calibrations.serve(people, set(), 2.0)
    assert "lost while being measured" in gone.result().message
    running, new = ask(calibrations, id=7, seconds=5.0), None
    calibrations.serve(people, IDS, 3.0)
    new = ask(calibrations, id=7)
    calibrations.close("deactivated")
    for future in (running, new):
        assert future.result().message == "deactivated" and not future.result().success
    none = ask(calibrations, id=7)
    calibrations.serve(None, IDS, 4.0)
    assert "nobody is followed" in none.result().message


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_question_that_fails_is_refused_and_costs_no_image(
    seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker serves questions before it looks at an image: nothing may get out of there."""
    calibrations, people = Calibrations(), People()
    bad, good = ask(calibrations, id=7, seconds=seconds), None
    calls = []

    def failing(*args: Any) -> Any:
        calls.append(args)
        raise RuntimeError("bones are broken")

    people.sized = failing  # type: ignore[method-assign]
    calibrations.serve(people, IDS, 0.0)
    answer = bad.result()
    assert calls and not answer.success and math.isnan(answer.stature_m)
    assert "RuntimeError: bones are broken" in answer.message and "bones are broken" in caplog.text
    del people.sized
    good = ask(calibrations, id=7, stature_m=1.8)
    calibrations.serve(people, IDS, 1.0)  # the failed one is not asked again
    assert good.result().success and len(calls) == 1


def test_a_measurement_that_fails_at_its_end_is_refused() -> None:
    calibrations, people = Calibrations(), People()
    people.see(0.25, 100)
    future = ask(calibrations, id=7, seconds=1.0)
    calibrations.serve(people, IDS, 0.0)
    people.bones = None  # type: ignore[assignment]
    calibrations.serve(people, IDS, 2.0)
    assert future.done() and not future.result().success
    calibrations.serve(people, IDS, 3.0)
