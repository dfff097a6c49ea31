"""The standard library's ``logging`` forwarded to a node's logger, and not too much of it."""

from __future__ import annotations

import logging
import time

from rclpy.impl.rcutils_logger import RcutilsLogger


class RosHandler(logging.Handler):
    """Writes the records of ``pose_ros`` to a node's logger, and so to the console and /rosout."""

    def __init__(self, logger: RcutilsLogger) -> None:
        """Forward to ``logger``."""
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Forward one record at its level; rclpy wants one call site per level."""
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


class Sparingly:
    """Tells whether a sentence that could be said for every image is due again."""

    def __init__(self, every_s: float = 5.0) -> None:
        """Once per ``every_s``, the first at once."""
        self._every_s = every_s
        self._said_s = -float("inf")

    def due(self) -> bool:
        """Whether to say it now; from then on the time counts anew."""
        now_s = time.monotonic()
        if now_s - self._said_s < self._every_s:
            return False
        self._said_s = now_s
        return True


def forward(logger: RcutilsLogger) -> None:
    """Send everything that ``pose_ros`` logs to ``logger``, and only there."""
    own = logging.getLogger("pose_ros")
    own.handlers = [RosHandler(logger)]
    own.propagate = False
    own.setLevel(logging.INFO)
