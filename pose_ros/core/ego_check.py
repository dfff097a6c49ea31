"""Whether a camera's inertial sensor is to be believed: do the pictures turn as it says?

Wrong axes, stamps of another clock, a sensor on another part of the robot and a camera that mostly
moves sideways all look the same from here: turning the pictures back makes them less alike. So the
sensor is believed once it has explained most of what the pictures show, and doubted when it does
not any more. Nothing is compared while the sensor says that the camera stands still.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pose_ros.core.ego_offset import image_turn
from pose_ros.core.so3 import exp_so3, log_so3
from pose_ros.core.values import FloatArray, Frame

Floats = npt.NDArray[np.float64]
#: ``new_from_old`` (3, 3) of two stamps; None when it is not known.
Turns = Callable[[int, int], Floats | None]

#: Turn between two pictures that are compared, and how old the first may be.
LEAST_RAD, OLDEST_S = math.radians(0.6), 0.5
#: Time between comparisons while the sensor is not believed, and while it is.
DOUBTED_S, TRUSTED_S = 0.1, 1.0
#: Comparisons that count, and the fewest that decide.
KEPT, FEWEST = 8, 5
#: Share of the pictures' turn that is left unexplained: to be believed, and to be doubted again.
BELIEVE, DOUBT = 0.4, 0.8


class EgoCheck:
    """Compares the turns that a sensor tells with those that pictures show, now and then."""

    def __init__(self) -> None:
        """Believe nothing yet."""
        self.trusted = False
        self.eager = False  # compare as often as while it is doubted
        self.counts = {"agreed": 0, "disagreed": 0}
        self._compared: deque[tuple[float, float]] = deque(maxlen=KEPT)  # unexplained, whole turn
        self.reset()

    def reset(self) -> None:
        """Forget the last picture; what is thought of the sensor stays."""
        self._old: Frame | None = None
        self._last_ns: int | None = None

    @property
    def unexplained(self) -> float:
        """Share of the pictures' turn that the sensor leaves; 0 is perfect, NaN: not compared."""
        compared = list(self._compared)  # asked by another thread than the one that looks
        if not compared:
            return math.nan
        left, whole = np.sqrt(np.mean(np.square(compared), axis=0))
        return float(left / max(whole, 1e-9))

    def start_over(self) -> None:
        """Decide by what is compared from now on: the sensor is read otherwise."""
        self._compared.clear()
        self.reset()

    def look(
        self, frame: Frame, between: Turns, people_px: FloatArray, about: Turns | None = None
    ) -> tuple[int, int, float] | None:
        """Take an image; ``between`` tells the turn (3, 3) of two stamps, None if it cannot.

        People (P, 4) move by themselves: what is inside their boxes is not compared. Returns the
        stamps of two pictures and how far the camera turned between them as they show it,
        radians; None where nothing was compared. Where ``between`` cannot tell, ``about`` may say
        whether the camera turned at all; what the pictures show is then for the caller only.
        """
        if self._last_ns is not None:
            wait_s = TRUSTED_S if self.trusted and not self.eager else DOUBTED_S
            if 0 <= frame.stamp_ns - self._last_ns < wait_s * 1e9:
                return None
        old = self._old
        fresh = old is not None and 0 < frame.stamp_ns - old.stamp_ns < OLDEST_S * 1e9
        if old is None or not fresh:
            self._old = frame
            return None
        told = between(old.stamp_ns, frame.stamp_ns)
        turn = about(old.stamp_ns, frame.stamp_ns) if told is None and about else told
        if turn is None:
            self._old = frame
        elif np.linalg.norm(log_so3(turn)) >= LEAST_RAD:
            self._old = None
            return self._compare(old, frame, told, people_px)
        return None

    def _compare(
        self, old: Frame, new: Frame, told: Floats | None, people_px: FloatArray
    ) -> tuple[int, int, float] | None:
        """Note how much of the pictures' turn is explained, and think again."""
        self._last_ns = new.stamp_ns
        if new.camera is None or old.size_px != new.size_px:
            return None
        seen = image_turn(new.camera, old.rgb, new.rgb, people_px)
        if seen is None:
            return None
        whole = float(np.linalg.norm(seen))
        if told is not None:
            self._think(float(np.linalg.norm(log_so3(exp_so3(seen) @ told.T))), whole)
        return old.stamp_ns, new.stamp_ns, whole

    def _think(self, left: float, whole: float) -> None:
        """Believe or doubt, ``left`` radians of ``whole`` ones being unexplained."""
        agrees = left < BELIEVE * whole
        self.counts["agreed" if agrees else "disagreed"] += 1
        self._compared.append((left, whole))
        if not agrees:
            self._last_ns = None  # the next pair is compared at once
        if len(self._compared) >= FEWEST:
            self.trusted = self.unexplained < (DOUBT if self.trusted else BELIEVE)
