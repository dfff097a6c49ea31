"""The worker: newest wins, survives, finishes what it accepted."""

import logging
import threading
import time
from collections.abc import Callable

import pytest

from pose_ros.nodes.worker import Worker


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


class Gate:
    """A job handler that waits to be let through."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, job: int) -> None:
        self.entered.set()
        assert self.open.wait(5.0)
        self.done.append(job)


def test_the_newest_job_wins_and_drops_are_counted() -> None:
    gate = Gate()
    worker = Worker(gate)
    worker.start()
    worker.offer(1)
    assert gate.entered.wait(5.0)
    for job in (2, 3, 4):
        worker.offer(job)
    gate.open.set()
    worker.stop()
    assert gate.done == [1, 4]
    assert (worker.dropped, worker.done, worker.failed) == (2, 2, 0)


def test_stop_finishes_what_was_accepted() -> None:
    gate = Gate()
    worker = Worker(gate)
    worker.start()
    worker.offer(1)
    assert gate.entered.wait(5.0)
    worker.offer(2)
    threading.Timer(0.05, gate.open.set).start()
    worker.stop()
    assert gate.done == [1, 2]


def test_a_job_that_fails_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def handle(job: int) -> None:
        if job < 3:
            raise ValueError(f"job {job} is bad")
        done.append(job)

    worker = Worker(handle)
    worker.start()
    logging.getLogger("pose_ros").propagate = True
    with caplog.at_level(logging.ERROR, "pose_ros"):
        for job in (1, 2, 3):
            worker.offer(job)
            wait_for(lambda job=job: worker.failed + worker.done == job)
    worker.stop()
    assert done == [3] and worker.failed == 2
    assert [r.getMessage() for r in caplog.records] == [
        "frame skipped (1 so far): ValueError: job 1 is bad"
    ]


def test_idle_work_never_displaces_a_frame() -> None:
    gate = Gate()
    worker = Worker(gate)
    worker.start()
    assert worker.offer_if_idle(1)
    assert gate.entered.wait(5.0)
    assert not worker.offer_if_idle(2)
    worker.offer(3)
    assert not worker.offer_if_idle(4)
    gate.open.set()
    worker.stop()
    assert gate.done == [1, 3] and worker.dropped == 0


def test_it_starts_again() -> None:
    done: list[int] = []
    worker = Worker(done.append)
    for job in (1, 2):
        worker.start()
        worker.offer(job)
        worker.stop()
    assert done == [1, 2]
    worker.stop()


def test_a_job_for_idle_times_is_neither_done_nor_dropped() -> None:
    gate = Gate()
    worker = Worker(gate)
    worker.start()
    assert worker.offer_if_idle(1)
    assert gate.entered.wait(5.0)
    worker.offer(2)
    gate.open.set()
    worker.stop()
    assert gate.done == [1, 2]
    assert (worker.dropped, worker.done) == (0, 1)
