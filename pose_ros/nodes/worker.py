"""One thread that works on jobs in order while it keeps up, and on the newest when it does not."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from pose_ros.nodes.ros_logging import Sparingly

Job = TypeVar("Job")
_log = logging.getLogger(__name__)


class Worker(Generic[Job]):
    """A thread and a short line of jobs (not None) before it.

    While the thread keeps up, ``patience`` jobs may wait, so that one slow job loses nothing. When
    one more comes, all that wait are dropped, and from then on the newest takes the place of the
    one that waits, until the line was empty once: being late is not carried along.

    A job that raises is counted and logged, at most once per ``log_every_s``; the next goes on.
    """

    def __init__(
        self, handle: Callable[[Job], None], patience: int = 2, log_every_s: float = 5.0
    ) -> None:
        """Remember what to do; ``start`` begins."""
        self.done = 0
        self.dropped = 0
        self.failed = 0
        self._handle = handle
        self._said = Sparingly(log_every_s)
        self._patience = self._room = patience
        self._line: deque[tuple[Job, bool]] = deque()  # with whether the job is counted
        self._busy = False
        self._ending = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def behind(self) -> bool:
        """Whether work is waiting while a job is done."""
        return len(self._line) > 0

    def start(self) -> None:
        """Begin to work."""
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="pose_worker", daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> None:
        """Do ``job`` after those that wait; if too many do, they are dropped and counted."""
        with self._change:
            if len(self._line) >= self._room:
                self.dropped += sum(counts for _, counts in self._line)
                self._line.clear()
                self._room = 1
            self._line.append((job, True))
            self._change.notify()

    def offer_if_idle(self, job: Job) -> bool:
        """Do ``job`` now unless there is other work; says whether it was accepted.

        Such a job is neither counted as done nor as dropped.
        """
        with self._change:
            if self._busy or self._line:
                return False
            self._line.append((job, False))
            self._change.notify()
            return True

    def stop(self) -> None:
        """Finish what was accepted, then end the thread."""
        with self._change:
            self._ending = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            job, counts = taken
            try:
                self._handle(job)
                self.done += counts
            except Exception as error:  # noqa: BLE001 (a bad frame must not end the node)
                self.failed += 1
                self._report(error)

    def _next(self) -> tuple[Job, bool] | None:
        with self._change:
            self._busy = False
            if not self._line:
                self._room = self._patience
            self._change.wait_for(lambda: self._line or self._ending)
            self._busy = bool(self._line)
            return self._line.popleft() if self._line else None

    def _report(self, error: Exception) -> None:
        if self._said.due():
            kind = type(error).__name__
            _log.error("frame skipped (%d so far): %s: %s", self.failed, kind, error)
            _log.debug("where it was raised", exc_info=error)
