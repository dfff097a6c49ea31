"""The service ``~/calibrate_person``: asked in the executor's thread, done in the worker's.

What people remember of themselves belongs to the worker, which may be in the middle of a frame. So
a question waits for the worker, and one that takes some seconds waits without a thread.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rclpy.executors import Executor
from rclpy.task import Future

from pose_ros.core.embody import Embodier
from pose_ros.errors import ConfigError
from pose_ros.srv import CalibratePerson

LONGEST_S = 60.0
#: A bone of which nothing was measured is known to at most this share (human proportions).
GUESSED = 0.11
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Question:
    asked: CalibratePerson.Request
    answer: CalibratePerson.Response
    done: Future
    until_s: float = math.inf

    def refuse(self, why: str) -> None:
        """Answer that it cannot be done."""
        self.answer.success, self.answer.message = False, why
        self.answer.stature_m = math.nan
        self.done.set_result(self.answer)


class Calibrations:
    """Questions that wait for the worker."""

    def __init__(self) -> None:
        """Nobody asked anything yet."""
        self._lock = threading.Lock()
        self._new: deque[_Question] = deque()
        self._running: list[_Question] = []

    def ask(
        self,
        asked: CalibratePerson.Request,
        answer: CalibratePerson.Response,
        executor: Executor | None,
    ) -> Future:
        """Put a question; the future holds ``answer``, filled in, at the latest after LONGEST_S.

        Await it in a callback group of its own: the executor goes on meanwhile.
        """
        done: Future = Future(executor=executor)
        question = _Question(asked, answer, done)
        if not 0.0 <= asked.seconds <= LONGEST_S:
            question.refuse(f"seconds: expected 0 to {LONGEST_S:.0f}, got {asked.seconds}")
        else:
            with self._lock:
                self._new.append(question)
        return done

    def serve(self, embodier: Embodier | None, ids: Set[int], now_s: float) -> None:
        """In the worker's thread, between two frames: begin and end what is due.

        ``ids`` are the people who are followed; ``now_s`` is of any clock that does not stand.
        A question that cannot be answered is refused and costs no image.
        """
        with self._lock:
            new, self._new = self._new, deque()
        begun = [_tried(q, partial(_begin, q, embodier, ids, now_s)) for q in new]
        running = [*self._running, *(q for q in begun if q is not None)]
        self._running = []
        for question in running:
            if _tried(question, partial(_ended, question, embodier, ids, now_s)) is False:
                self._running.append(question)

    def close(self, why: str) -> None:
        """Refuse whatever waits."""
        with self._lock:
            new, self._new = self._new, deque()
        running, self._running = self._running, []
        for question in (*new, *running):
            question.refuse(why)


def _tried(question: _Question, job: Callable[[], Any]) -> Any:
    """What ``job`` returns; None, and the question is refused, if it fails."""
    try:
        return job()
    except Exception as error:  # noqa: BLE001 (a question must not cost an image)
        _log.error("~/calibrate_person: %s: %s", type(error).__name__, error)
        question.refuse(f"{type(error).__name__}: {error}")
        return None


def _begin(
    question: _Question, embodier: Embodier | None, ids: Set[int], now_s: float
) -> _Question | None:
    """Answer at once, or return the question with the time when it will be answered."""
    asked = question.asked
    if embodier is None or asked.id not in ids:
        question.refuse(f"nobody is followed under id {asked.id}")
        return None
    try:
        embodier.sized(int(asked.id), float(asked.stature_m))
    except ConfigError as error:
        question.refuse(str(error))
        return None
    if asked.seconds == 0.0:
        _tell(question, embodier)
        return None
    embodier.bones.forget(np.array([asked.id]))
    return _Question(asked, question.answer, question.done, now_s + asked.seconds)


def _ended(question: _Question, embodier: Embodier | None, ids: Set[int], now_s: float) -> bool:
    number = question.asked.id
    if embodier is None or number not in ids:
        question.refuse(f"person {number} was lost while being measured")
        return True
    if now_s < question.until_s:
        return False
    if embodier.bones.weights(np.array([number])).max() < GUESSED:
        question.refuse(f"no bone of person {number} was measured: see that joints have metres")
        return True
    _tell(question, embodier)
    return True


def _tell(question: _Question, embodier: Embodier) -> None:
    answer: Any = question.answer
    answer.stature_m, lengths, learned = embodier.sized(int(question.asked.id), 0.0)
    answer.segment_lengths, answer.learned = lengths.tolist(), learned.tolist()
    answer.success = True
    question.done.set_result(answer)
