"""The last frames of every person, for networks that see video."""

from __future__ import annotations

import logging
from collections import deque

import numpy as np

from pose_ros.core.boxes import iou
from pose_ros.core.config import WindowConfig
from pose_ros.core.values import FloatArray, Frame, People, Windows

#: A held crop box is given up when the person's box overlaps it less (``IoU``).
HOLD_IOU_MIN = 0.85

_log = logging.getLogger(__name__)


class WindowBuffer:
    """A ring of the last T frames, shared by all people, and each person's crop box.

    Memory is bounded by T images and one box per person. With T = 1 the box follows the person;
    with T > 1 it is held still for ``box_hold`` frames while it fits, so that a network may keep
    the features of earlier frames.
    """

    def __init__(self, frames: int, config: WindowConfig) -> None:
        """Hold at most ``frames`` images."""
        self.config = config
        self._ring: deque[Frame] = deque(maxlen=frames)
        self._held: dict[int, tuple[FloatArray, int]] = {}

    def reset(self) -> None:
        """Forget every frame and box."""
        self._ring.clear()
        self._held.clear()

    def push(self, frame: Frame, people: People) -> Windows:
        """Windows of ``people`` that end with ``frame``.

        A gap longer than ``max_gap_s``, a step back in time or another image size starts anew.
        A frame that does not exist yet repeats its successor and is marked invalid.
        """
        if self._ring and self._breaks(self._ring[-1], frame):
            _log.info("window starts anew at stamp %d ns", frame.stamp_ns)
            self.reset()
        self._ring.append(frame)
        missing = (self._ring.maxlen or 1) - len(self._ring)
        frames = (self._ring[0],) * missing + tuple(self._ring)
        valid = np.ones((len(people), len(frames)), np.bool_)
        valid[:, :missing] = False
        offset_s = np.array([(f.stamp_ns - frame.stamp_ns) * 1e-9 for f in frames], np.float32)
        return Windows(self._hold(people), frames, valid, offset_s)

    def _breaks(self, last: Frame, frame: Frame) -> bool:
        gap_s = (frame.stamp_ns - last.stamp_ns) * 1e-9
        return not 0.0 <= gap_s <= self.config.max_gap_s or last.size_px != frame.size_px

    def _hold(self, people: People) -> People:
        if self._ring.maxlen == 1:
            return people
        boxes = people.xyxy_px.copy()
        held: dict[int, tuple[FloatArray, int]] = {}
        for row, key in enumerate(people.ids.tolist()):
            box, age = self._held.get(key, (boxes[row], self.config.box_hold))
            fits = iou(box[None], boxes[row : row + 1])[0, 0] >= HOLD_IOU_MIN
            if age < self.config.box_hold and fits:
                boxes[row] = box
                held[key] = (box, age + 1)
            else:
                held[key] = (boxes[row].copy(), 0)
        self._held = held
        return People(people.ids, boxes, people.score)
