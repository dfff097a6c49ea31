"""The worker: a short line, newest wins, survives, finishes what it accepted."""

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


def test_a_slow_job_loses_nothing() -> None:
    gate = Gate()
    worker = Worker(gate, patience=2)
    worker.start()
    worker.offer(1)
    assert gate.entered.wait(5.0)
    worker.offer(2)
    worker.offer(3)
    assert worker.behind
    gate.open.set()
    worker.stop()
    assert gate.done == [1, 2, 3] and worker.dropped == 0


def test_after_a_drop_only_the_newest_waits_until_the_line_was_empty() -> None:
    steps = threading.Semaphore(0)
    begun: list[int] = []

    def handle(job: int) -> None:
        begun.append(job)
        assert steps.acquire(timeout=5.0)

    worker = Worker(handle, patience=2)
    worker.start()
    worker.offer(1)
    wait_for(lambda: begun == [1])
    for job in (2, 3, 4):  # 4 finds the line full: 2 and 3 go
        worker.offer(job)
    steps.release()
    wait_for(lambda: begun == [1, 4])
    for job in (5, 6):  # still behind: 6 takes the place of 5
        worker.offer(job)
    steps.release()
    wait_for(lambda: begun == [1, 4, 6])
    steps.release()
    wait_for(lambda: worker.offer_if_idle(7))  # only then the line was found empty
    wait_for(lambda: begun[-1] == 7)
    for job in (8, 9):  # keeping up again: both may wait
        worker.offer(job)
    for _ in range(3):
        steps.release()
    worker.stop()
    assert begun == [1, 4, 6, 7, 8, 9] and worker.dropped == 3


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
