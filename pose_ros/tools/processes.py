"""Processes of a running graph: started together, watched, ended by their ids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pose_ros.errors import SourceError
from pose_ros.graph import NodeSpec, command

POLL_S = 0.02
END_S = 10.0


class Started:
    """One process; its JSON events from stdout, everything else in a log file."""

    def __init__(self, spec: NodeSpec, logs: Path) -> None:
        """Start it."""
        self.name = spec.name
        self.log = logs / f"{spec.name}.log"
        self.events: dict[str, dict[str, Any]] = {}
        with self.log.open("wb") as log:
            # A group of its own, so that Ctrl-C is ours to pass on; but our session: Linux shares
            # the cores between sessions, and the camera would get as much as the networks.
            self.process = subprocess.Popen(
                command(spec), stdout=subprocess.PIPE, stderr=log, preexec_fn=os.setpgrp
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def end(self) -> int:
        """SIGINT, then wait; a process that does not end in time is killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        return self.process.returncode

    def last_words(self, lines: int = 8) -> str:
        """End of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _read(self) -> None:
        stdout = self.process.stdout
        for line in stdout or ():
            try:
                event = json.loads(line)
                self.events[event.pop("event")] = event
            except (ValueError, KeyError, AttributeError, TypeError):
                continue  # a library's own word on stdout


class Graph:
    """Processes by name; all of them are ended on exit, in the order they were started."""

    def __init__(self, logs: Path) -> None:
        """Logs go to ``logs``."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self.processes: dict[str, Started] = {}

    def start(self, spec: NodeSpec) -> Started:
        """Start a node."""
        self.processes[spec.name] = Started(spec, self._logs)
        return self.processes[spec.name]

    def wait(self, until: Callable[[], bool], timeout_s: float, may_end: str = "") -> bool:
        """Wait for a condition while everybody lives; False after ``timeout_s``.

        Raises:
            SourceError: a process other than ``may_end`` ended, or that one with a failure.

        """
        limit_s = time.monotonic() + timeout_s
        while not until():
            for started in self.processes.values():
                code = started.process.poll()
                if code is not None and (code or started.name != may_end):
                    raise SourceError(
                        f"{started.name} ended with status {code}; the end of {started.log}:\n"
                        f"{started.last_words()}"
                    )
            if time.monotonic() > limit_s:
                return False
            time.sleep(POLL_S)
        return True

    def __enter__(self) -> Graph:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process that is still there."""
        for started in self.processes.values():
            started.end()
