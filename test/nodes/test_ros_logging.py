"""What is said now and then."""

import time

import pytest

from pose_ros.nodes.ros_logging import Sparingly


def test_a_sentence_is_due_at_once_and_then_after_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    said = Sparingly(2.0)
    due = []
    for now[0] in (100.0, 100.1, 101.9, 102.0, 103.0, 104.5, 104.6):
        due.append(said.due())
    assert due == [True, False, False, True, False, True, False]
