"""Is a video network with a window better than its own trunk? Both on the same disturbed people.

  compare_window --video V.mp4=V.jsonl … --labels DIR [--pictures COCO.json=DIR]

What `compare_trunk` is for networks with a memory, for networks that see the frames around the
one they answer: the same boxes, labels, conditions and numbers. The network runs as in a live
stream: its window is cut with the box that is held at the key frame, features are kept while it is
held, and frames that do not exist repeat their neighbour. A frame that is cut anew is disturbed as
it was the first time. The last line is JSON.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from pose_ros.core.config import WindowConfig
from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes
from pose_ros.core.values import ByteArray, FloatArray, Frame, People, PoseMaps
from pose_ros.core.window import WindowBuffer
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import Card
from pose_ros.nets.runtime import open_runner
from pose_ros.nets.stream import open_stream
from pose_ros.training import compare_trunk
from pose_ros.training.compare_trunk import AREA, Command, Condition, Parts, Shown, joints, measure
from pose_ros.training.consensus import Track
from pose_ros.training.stream_corruption import Disturb, disturbance
from pose_ros.training.train_prior import Film


class Person:
    """A person's disturbed frames, in any box: the disturbance of a frame is always the same."""

    def __init__(
        self, film: Film, track: Track, card: Card, condition: Condition, seed: list[int],
    ) -> None:  # fmt: skip
        """Hold the boxes as `core.window` does, and disturb every frame once, in its own."""
        _name, kind, severity, every = condition
        self.film, self.track, self.card = film, track, card
        self.rows = np.arange(0, len(track), every)
        holder = WindowBuffer(1, WindowConfig(), hold=True)
        one = np.ones(1, np.int64)
        held = [
            holder.hold(People(one, track.box_xyxy_px[r : r + 1], np.ones(1, np.float32))).xyxy_px
            for r in self.rows
        ]
        self.edges = fit_boxes(np.concatenate(held), card.input_hw, card.crop_scale)  # (T, 4)
        self.affine = affine_from_boxes(self.edges, card.input_hw)  # (T, 2, 3)
        self._before: list[Disturb] = []
        disturb = disturbance(kind, severity, seed)
        crops = []
        for t in range(len(self.rows)):
            self._before.append(copy.deepcopy(disturb))
            crops.append(disturb(self._clean(t, t)))
        self.crops = np.stack(crops)

    def _clean(self, t: int, box_of: int) -> ByteArray:
        crop = np.empty((*self.card.input_hw, 3), np.uint8)
        number = int(self.track.frames[self.rows[t]])
        cut(Frame(self.film.frames[number], 0), self.edges[box_of], crop)
        return crop

    def crop(self, t: int, box_of: int) -> ByteArray:
        """Frame ``t`` (h, w, 3) in the box of frame ``box_of``."""
        if (self.edges[t] == self.edges[box_of]).all():
            return self.crops[t]
        return copy.deepcopy(self._before[t])(self._clean(t, box_of))

    def shown(self, rate_hz: float) -> Shown:
        """What `measure` needs."""
        box = self.track.box_xyxy_px[self.rows]
        size = box[:, 2:] - box[:, :2]
        stamps = [round(int(n) * 1e9 / rate_hz) for n in self.track.frames[self.rows]]
        truth = self.track.xy_px[self.rows]
        return Shown(self.crops, self.affine, stamps, truth, size.max(1), AREA * size.prod(1))


class Pair:
    """The video network and its trunk."""

    def __init__(self, card: Card, trunk: Card, threads: int) -> None:
        """Open both.

        Raises:
            ConfigError: they do not see the same crops, or the network has no window.

        """
        same = (card.input_hw, card.crop_scale, card.skeleton)
        if same != (trunk.input_hw, trunk.crop_scale, trunk.skeleton):
            raise ConfigError(
                f"{card.name} and {trunk.name}: expected the same crops and joints, got {same} "
                f"and {(trunk.input_hw, trunk.crop_scale, trunk.skeleton)}"
            )
        if card.recurrent or not card.is_video:
            raise ConfigError(
                f"{card.name}: expected a network with a window of frames; for a memory, "
                "python -m pose_ros.training.compare_trunk"
            )
        self.card, self.trunk = card, trunk
        self.stream = open_stream(card, "cpu", threads)
        self.runner = open_runner(trunk, "cpu", threads)

    def single(self, person: Person) -> FloatArray:
        """The trunk's joints (T, K, 2), image pixels."""
        found = [
            joints(PoseMaps(*self.runner(crop[None, None])), person.affine[t : t + 1], self.trunk)
            for t, crop in enumerate(person.crops)
        ]
        return np.concatenate(found)

    def streamed(self, person: Person) -> FloatArray:
        """The video network's joints (T, K, 2), image pixels."""
        self.stream.reset()
        one, found = np.ones(1, np.int64), []
        before = self.card.frames - 1 - self.card.lookahead_frames
        last = len(person.rows) - 1
        for t in range(last + 1):
            numbers = np.clip(np.arange(t - before, t - before + self.card.frames), 0, last)
            affine = person.affine[t : t + 1]
            wanted = self.stream.wanted(one, affine, numbers)
            crops = np.empty((len(wanted), *self.card.input_hw, 3), np.uint8)
            for row, (_person, place) in enumerate(wanted):
                crops[row] = person.crop(int(numbers[place]), t)
            maps = self.stream.run(one, affine, numbers, int(numbers[-1]) * 33_000_000, crops)
            found.append(joints(PoseMaps(maps), affine, self.card))
        return np.concatenate(found)

    def compare(
        self, film: Film, track: Track, condition: Condition, seed: list[int], rate_hz: float,
        parts: Parts,
    ) -> None:  # fmt: skip
        """Add one person's numbers, of both and of the labels, to ``parts``."""
        person = Person(film, track, self.card, condition, seed)
        shown = person.shown(rate_hz)
        parts["trunk"].append(measure(self.single(person), shown))
        parts["video"].append(measure(self.streamed(person), shown))
        parts["labels"].append(measure(shown.truth, shown))


THIS = Command("compare_window", __doc__, "pstpose_prior", "network with a window", Pair)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    return compare_trunk.main(argv, THIS)


if __name__ == "__main__":
    sys.exit(compare_trunk.command(sys.argv[1:], THIS))
