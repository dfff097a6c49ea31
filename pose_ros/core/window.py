"""The last frames, the moment between them that is answered, and the crop box of every person."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.boxes import iou
from pose_ros.core.config import WindowConfig
from pose_ros.core.values import FloatArray, Frame, IntArray, People, Windows

#: A held crop box is given up when the person's box overlaps it less (``IoU``).
HOLD_IOU_MIN = 0.85

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moment:
    """T frames around a key frame, the same for all people; oldest first.

    A frame that does not exist repeats its neighbour, and its number.
    """

    frames: tuple[Frame, ...]  # T
    numbers: IntArray  # (T,) running number of each frame, never used again
    exists: npt.NDArray[np.bool_]  # (T,)
    key: int  # index of the key frame: the one that is answered

    @property
    def key_frame(self) -> Frame:
        """Frame whose people are looked at."""
        return self.frames[self.key]

    def of(self, people: People) -> Windows:
        """Windows of ``people``, one box each."""
        key_ns = self.key_frame.stamp_ns
        offset_s = np.array([(f.stamp_ns - key_ns) * 1e-9 for f in self.frames], np.float32)
        return Windows(people, self.frames, np.tile(self.exists, (len(people), 1)), offset_s)


class WindowBuffer:
    """A ring of the last T frames, shared by all people, and each person's crop box.

    The key frame has ``lookahead`` frames after it: so many frames pass before it is answered.
    Memory is bounded by T images and one box per person. The box of a network of single frames
    follows the person; with ``hold`` it is held still for ``box_hold`` frames while it fits, so
    that a network may keep the features of earlier frames.
    """

    def __init__(
        self, frames: int, config: WindowConfig, lookahead: int = 0, hold: bool | None = None
    ) -> None:
        """Hold at most ``frames`` images; boxes are held when there are several, by default."""
        self.config = config
        self.lookahead = lookahead
        self._holds = frames > 1 if hold is None else hold
        self._before = frames - 1 - lookahead  # frames before the key frame
        self._ring: deque[tuple[int, Frame]] = deque(maxlen=frames)
        self._next = 0
        self._held: dict[int, tuple[FloatArray, int]] = {}

    def reset(self) -> None:
        """Forget every frame and box; numbers go on."""
        self._ring.clear()
        self._held.clear()

    def breaks(self, frame: Frame) -> bool:
        """Whether ``frame`` cannot continue the window.

        A gap longer than ``max_gap_s``, a step back in time or another image size.
        """
        if not self._ring:
            return False
        last = self._ring[-1][1]
        gap_s = (frame.stamp_ns - last.stamp_ns) * 1e-9
        return not 0.0 <= gap_s <= self.config.max_gap_s or last.size_px != frame.size_px

    def push(self, frame: Frame) -> Moment | None:
        """Add a frame; the moment that it completes, None while the look-ahead fills.

        A frame that `breaks` the window starts it anew: what was still waiting is lost, so ask for
        `rest` before.
        """
        if self.breaks(frame):
            _log.info("window starts anew at stamp %d ns", frame.stamp_ns)
            self.reset()
        self._ring.append((self._next, frame))
        self._next += 1
        at = len(self._ring) - 1 - self.lookahead
        return self._moment(at) if at >= 0 else None

    def rest(self) -> list[Moment]:
        """Moments that wait for frames that will not come; then every frame is forgotten."""
        count = len(self._ring)
        moments = [self._moment(at) for at in range(max(count - self.lookahead, 0), count)]
        self._ring.clear()
        return moments

    def hold(self, people: People) -> People:
        """People with the boxes to crop: held ones while they fit."""
        if not self._holds:
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

    def _moment(self, at: int) -> Moment:
        """Window around the frame at ``at`` of the ring."""
        wanted = np.arange(at - self._before, at + self.lookahead + 1)
        inside = np.clip(wanted, 0, len(self._ring) - 1)
        numbers, frames = zip(*(self._ring[i] for i in inside.tolist()), strict=True)
        return Moment(frames, np.array(numbers, np.int64), inside == wanted, self._before)
