"""One thread that works on the newest job and never falls behind."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")
_log = logging.getLogger(__name__)


class Worker(Generic[Job]):
    """A thread with a slot for one job (not None): a newer one replaces one that has not begun.

    A job that raises is counted and logged, at most once per ``log_every_s``; the next goes on.
    """

    def __init__(self, handle: Callable[[Job], None], log_every_s: float = 5.0) -> None:
        """Remember what to do; ``start`` begins."""
        self.done = 0
        self.dropped = 0
        self.failed = 0
        self._handle = handle
        self._log_every_s = log_every_s
        self._logged_s = -float("inf")
        self._slot: Job | None = None
        self._counts = True
        self._busy = False
        self._ending = False
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work."""
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="pose_worker", daemon=True)
        self._thread.start()

    def offer(self, job: Job) -> None:
        """Do ``job`` next; one that is waiting is dropped and counted."""
        with self._change:
            if self._slot is not None and self._counts:
                self.dropped += 1
            self._slot, self._counts = job, True
            self._change.notify()

    def offer_if_idle(self, job: Job) -> bool:
        """Do ``job`` now unless there is other work; says whether it was accepted.

        Such a job is neither counted as done nor as dropped.
        """
        with self._change:
            if self._busy or self._slot is not None:
                return False
            self._slot, self._counts = job, False
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
        while (job := self._next()) is not None:
            try:
                counts = self._counts
                self._handle(job)
                self.done += counts
            except Exception as error:  # noqa: BLE001 (a bad frame must not end the node)
                self.failed += 1
                self._report(error)

    def _next(self) -> Job | None:
        with self._change:
            self._busy = False
            self._change.wait_for(lambda: self._slot is not None or self._ending)
            job, self._slot = self._slot, None
            self._busy = job is not None
            return job

    def _report(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._logged_s >= self._log_every_s:
            self._logged_s = now
            kind = type(error).__name__
            _log.error("frame skipped (%d so far): %s: %s", self.failed, kind, error)
            _log.debug("where it was raised", exc_info=error)
