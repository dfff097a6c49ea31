"""Is a video network with a window better than its own trunk? Both on the same disturbed people.

  compare_window --video V.mp4=V.jsonl … --labels DIR [--pictures COCO.json=DIR]

What `compare_trunk` is for networks with a memory, for networks that see the frames around the
one they answer: the same boxes, labels, conditions and numbers. The network runs as in a live
stream: its window is cut with the box that is held at the key frame, features are kept while it is
held, and frames that do not exist repeat their neighbour. A frame that is cut anew is disturbed as
it was the first time. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_ros.core.config import WindowConfig
from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes, to_image
from pose_ros.core.heatmaps import decode
from pose_ros.core.values import ByteArray, FloatArray, Frame, People, PoseMaps
from pose_ros.core.window import WindowBuffer
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.nets.checkpoint import Card, find_card
from pose_ros.nets.runtime import open_runner
from pose_ros.nets.stream import open_stream
from pose_ros.training.compare_trunk import AREA, CONDITIONS, LEAST, Row, Shown, measure, summary
from pose_ros.training.consensus import Track
from pose_ros.training.datasets.base import read_json
from pose_ros.training.stream_corruption import Disturb, disturbance
from pose_ros.training.train_prior import Film, read_film

CELL_PX = 4.0
Parts = dict[str, list[dict[str, np.ndarray]]]


class Person:
    """A person's disturbed frames, in any box: the disturbance of a frame is always the same."""

    def __init__(
        self, film: Film, track: Track, card: Card, condition: tuple[str, str, float, int],
        seed: list[int],
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
            _joints(PoseMaps(*self.runner(crop[None, None])), person.affine[t : t + 1], self.trunk)
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
            found.append(_joints(PoseMaps(maps), affine, self.card))
        return np.concatenate(found)

    def compare(self, person: Person, rate_hz: float, parts: Parts) -> None:
        """Add the numbers of both, and of the labels, to ``parts``."""
        shown = person.shown(rate_hz)
        parts["trunk"].append(measure(self.single(person), shown))
        parts["video"].append(measure(self.streamed(person), shown))
        parts["labels"].append(measure(shown.truth, shown))


def _joints(maps: PoseMaps, affine: FloatArray, card: Card) -> FloatArray:
    cells, _score = decode(maps)
    crop = (cells * CELL_PX + card.cell_shift_px).astype(np.float32)
    return np.asarray(to_image(crop, affine), np.float32)


def videos(
    pair: Pair, films: list[tuple[Film, float]], wanted: Sequence[str], limit: int
) -> dict[str, dict[str, Row]]:
    """Condition to network to numbers, and of the labels, whose jitter is the film's motion."""
    out: dict[str, dict[str, Row]] = {}
    for condition in CONDITIONS:
        if wanted and condition[0] not in wanted:
            continue
        parts: Parts = defaultdict(list)
        for number, (film, rate_hz) in enumerate(films):
            for index, track in enumerate(film.tracks):
                if len(track) < LEAST:
                    continue
                head = slice(0, limit or None)
                some = Track(track.frames[head], track.box_xyxy_px[head], track.xy_px[head])
                person = Person(film, some, pair.card, condition, [7, number, index])
                pair.compare(person, rate_hz, parts)
        out[condition[0]] = {name: summary(rows) for name, rows in parts.items()}
        _print(condition[0], out[condition[0]])
    return out


def pictures(pair: Pair, annotations: Path, folder: Path) -> dict[str, Row]:
    """Both networks on labelled COCO pictures, each a stream of one frame."""
    data = read_json(annotations)
    names = {i["id"]: i["file_name"] for i in data["images"] if "coco" in i.get("source", "coco")}
    parts: Parts = defaultdict(list)
    for person in data["annotations"]:
        points = np.array(person["keypoints"], np.float32).reshape(-1, 3)
        if person["image_id"] not in names or not (points[:, 2] > 0).any():
            continue
        bgr = cv2.imread(str(folder / names[person["image_id"]]))
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        x, y, w, h = person["bbox"]
        box = np.array([[x, y, x + w, y + h]], np.float32) - 0.5
        truth = np.where(points[:, 2:] > 0, points[:, :2], np.nan)[None].astype(np.float32)
        track = Track(np.zeros(1, np.int64), box, truth)
        alone = Person(Film("picture", [rgb], [track]), track, pair.card, CONDITIONS[0], [0])
        pair.compare(alone, 1.0, parts)
    out = {name: summary(parts[name]) for name in ("trunk", "video")}
    _print("COCO pictures, T = 1", out)
    return out


def _print(name: str, rows: dict[str, Row]) -> None:
    for net in ("trunk", "video", "labels"):
        if net in rows:
            text = "  ".join(f"{n} {v:6.2f}" for n, v in rows[net].items())
            sys.stdout.write(f"{name:22s} {net:7s} {text}\n")
    sys.stdout.flush()


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    if not args.video and not args.pictures:
        raise ConfigError("expected --video VIDEO=POSES.jsonl, --pictures COCO.json=DIR, or both")
    cv2.setNumThreads(args.threads)
    pair = Pair(find_card(args.card), find_card(args.trunk), args.threads)
    labels = Path(args.labels)
    labels.mkdir(parents=True, exist_ok=True)
    films = []
    for item in args.video:
        video, _equals, poses = item.partition("=")
        rate_hz = cv2.VideoCapture(video).get(cv2.CAP_PROP_FPS)
        films.append((read_film(Path(video), Path(poses), labels, args.threads), rate_hz))
    answer: dict[str, Any] = {"card": pair.card.name, "trunk": pair.trunk.name}
    if films:
        frames = sum(len(t) for film, _ in films for t in film.tracks if len(t) >= LEAST)
        answer |= {"person_frames": frames, "videos": [film.name for film, _ in films]}
        answer["conditions"] = videos(pair, films, args.condition, args.limit)
    if args.pictures:
        annotations, _equals, folder = args.pictures.partition("=")
        answer["pictures"] = pictures(pair, Path(annotations), Path(folder))
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.compare_window",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--card", default="pstpose_prior", help="video network with a window (%(default)s)")
    add("--trunk", default="movenet_thunder_large", help="single frames (default: %(default)s)")
    add("--video", action="append", default=[], metavar="VIDEO=POSES.jsonl")
    add("--labels", default="labels", metavar="DIR", help="where labels are kept")
    add("--condition", action="append", default=[], choices=[c[0] for c in CONDITIONS])
    add("--limit", type=int, default=0, metavar="N", help="first N frames of everybody; 0: all")
    add("--pictures", metavar="COCO.json=DIR", help="labelled pictures, each a single frame")
    add("--threads", type=int, default=1)
    return parser


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(_rounded(answer)) + "\n")
    return 0


def _rounded(value: Any) -> Any:
    """Numbers to two digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 2) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
