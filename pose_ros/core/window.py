"""The last frames, the moment between them that is answered, and the crop box of every person."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.boxes import iou
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import WindowConfig
from pose_ros.core.ego import EgoMotion, homography, turn_boxes, turn_pixels
from pose_ros.core.refine_memory import warp
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


@dataclass(frozen=True)
class Aims:
    """The box that is cropped of each person, and in which image it lies: the *reference*.

    It is the key frame, or an earlier one in which the box was first held, when a sensor tells how
    the camera turned since: every frame is then shown as the camera saw it in the reference, so
    that a held crop stays on the person under a pan and the features of its frames fit together.
    """

    people: People  # boxes in the pixels of the reference
    reference_ns: IntArray  # (P,) stamp of each person's reference
    drift: npt.NDArray[np.float64]  # (P, 3, 3) first reference from this one, as affine maps

    @staticmethod
    def at(people: People, stamp_ns: int) -> Aims:
        """Boxes in the image of ``stamp_ns``."""
        count = len(people)
        return Aims(people, np.full(count, stamp_ns), np.tile(np.eye(3), (count, 1, 1)))

    def kept(self, image_from_crop: FloatArray) -> FloatArray:
        """The affines (P, 2, 3) of crops in pixels that references share, for what is kept.

        Two crops at the same place of two references are different crops: what was seen in one
        lies elsewhere in the other.
        """
        if (self.drift == np.eye(3)).all():
            return image_from_crop
        linear = self.drift[:, :2, :2] @ image_from_crop[:, :, :2]
        shift = self.drift[:, :2, :2] @ image_from_crop[:, :, 2:] + self.drift[:, :2, 2:]
        return np.concatenate([linear, shift], axis=2).astype(np.float32)

    def to_key(self, xy_px: FloatArray, key: Frame, ego: EgoMotion | None) -> FloatArray:
        """Pixels (P, J, 2) of the references as pixels of the key frame."""
        if ego is None or key.camera is None or (self.reference_ns == key.stamp_ns).all():
            return xy_px
        out = xy_px.copy()
        for stamp_ns in np.unique(self.reference_ns).tolist():
            if (turn := ego.view(key.camera, stamp_ns, key.stamp_ns)) is not None:
                rows = self.reference_ns == stamp_ns
                out[rows] = turn_pixels(key.camera, turn, xy_px[rows])
        return out


@dataclass(frozen=True)
class _Held:
    """A person's box while it is held."""

    box: FloatArray  # (4,)
    age: int  # frames
    reference_ns: int
    drift: npt.NDArray[np.float64]  # (3, 3)


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
        self.holds = frames > 1 if hold is None else hold
        self._before = frames - 1 - lookahead  # frames before the key frame
        self._ring: deque[tuple[int, Frame]] = deque(maxlen=frames)
        self._next = 0
        self._held: dict[int, _Held] = {}

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
        """Moments that wait for frames that will not come; then every frame is forgotten.

        Without a look-ahead nothing waits and nothing is forgotten: the window goes on.
        """
        if not self.lookahead:
            return []
        count = len(self._ring)
        moments = [self._moment(at) for at in range(max(count - self.lookahead, 0), count)]
        self._ring.clear()
        return moments

    def hold(self, people: People) -> People:
        """People with the boxes to crop: held ones while they fit."""
        return self.aim(people, 0, None, None).people

    def aim(
        self, people: People, key_ns: int, camera: PinholeCamera | None, ego: EgoMotion | None
    ) -> Aims:
        """Where to look for ``people`` of the key frame, which ``camera`` took at ``key_ns``."""
        if not self.holds or not len(people):
            self._held = {}
            return Aims.at(people, key_ns)
        held: dict[int, _Held] = {}
        for box, number in zip(people.xyxy_px, people.ids.tolist(), strict=True):
            new, was = _Held(box.copy(), 0, key_ns, np.eye(3)), self._held.get(number)
            held[number] = new if was is None else self._continued(was, new, camera, ego)
        self._held = held
        rows = list(held.values())
        boxes = People(people.ids, np.array([row.box for row in rows]), people.score)
        drift = np.array([row.drift for row in rows])
        return Aims(boxes, np.array([row.reference_ns for row in rows]), drift)

    def _continued(
        self, was: _Held, new: _Held, camera: PinholeCamera | None, ego: EgoMotion | None
    ) -> _Held:
        """The old box while it fits, otherwise the new one."""
        turn = None if ego is None else ego.view(camera, new.reference_ns, was.reference_ns)
        here, drift = new.box, was.drift
        if camera is not None and turn is not None:
            here = turn_boxes(camera, turn, new.box[None])[0]
            centre = (new.box[:2] + new.box[2:]).astype(np.float64) / 2.0
            drift = drift @ _affine_at(centre, homography(camera, turn))
        fits = iou(was.box[None], here[None])[0, 0] >= HOLD_IOU_MIN
        if was.age < self.config.box_hold and fits:
            return _Held(was.box, was.age + 1, was.reference_ns, was.drift)
        return _Held(new.box, 0, new.reference_ns, drift)

    def _moment(self, at: int) -> Moment:
        """Window around the frame at ``at`` of the ring."""
        wanted = np.arange(at - self._before, at + self.lookahead + 1)
        inside = np.clip(wanted, 0, len(self._ring) - 1)
        numbers, frames = zip(*(self._ring[i] for i in inside.tolist()), strict=True)
        return Moment(frames, np.array(numbers, np.int64), inside == wanted, self._before)


def _affine_at(
    xy_px: npt.NDArray[np.float64], matrix: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The affine map (3, 3) that touches a homography at a pixel (2,)."""
    moved, slope = warp(matrix, xy_px)
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = slope, moved - slope @ xy_px
    return out
