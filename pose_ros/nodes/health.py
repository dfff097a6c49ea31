"""What the health field says, and when input counts as missing."""

from __future__ import annotations

import time

from pose_ros.msg import HumanPoseArray

#: Somebody looks so often per deadline whether a message is due: after a silence of half of it
#: when images are missing, of three quarters when one takes long. The rest is for the system.
ASKED_PER_DEADLINE = 8
IDLE_SILENCE, BUSY_SILENCE = 0.5, 0.75


class Health:
    """Knows how the input is doing, from counters of the worker and the last image's age."""

    def __init__(self, overload_share: float, deadline_s: float) -> None:
        """Start with no image seen."""
        self.overload_share = overload_share
        self._deadline_s = deadline_s
        self._overloaded = False
        self._counted = (0, 0)
        self._last_image_s = self._last_answer_s = time.monotonic()

    def image_came(self) -> None:
        """Note that an image was received."""
        self._last_image_s = time.monotonic()

    def image_answered(self) -> None:
        """Note that an image could be used."""
        self._last_answer_s = time.monotonic()

    @property
    def image_age_s(self) -> float:
        """Time since an image was received, or since the start."""
        return time.monotonic() - self._last_image_s

    @property
    def stale(self) -> bool:
        """Whether no image was answered for half the deadline; bad images are not answered."""
        return time.monotonic() - self._last_answer_s >= self._deadline_s * IDLE_SILENCE

    def count(self, dropped: int, done: int) -> None:
        """Take the worker's totals, once per second."""
        skipped, worked = dropped - self._counted[0], done - self._counted[1]
        self._counted = (dropped, done)
        total = skipped + worked
        self._overloaded = total > 0 and skipped / total > self.overload_share

    def of_image(self, calibrated: bool, with_depth: bool) -> int:
        """Health of a message that answers an image."""
        if self._overloaded:
            return HumanPoseArray.OVERLOADED
        if not calibrated:
            return HumanPoseArray.DEGRADED_NO_CALIBRATION
        return HumanPoseArray.OK if with_depth else HumanPoseArray.DEGRADED_NO_DEPTH
