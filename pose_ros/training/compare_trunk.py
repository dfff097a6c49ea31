"""Is a video network better than its own trunk? Both on the same crops of the same people.

  compare_trunk --video V.mp4=V.jsonl … --labels DIR [--pictures COCO.json=DIR]

Boxes are the tracker's on the clean video (V.jsonl, of tools.track), held still as in a live
stream; the labels are a smoothed consensus of the large clean network (`consensus`, kept in DIR).
The video network streams, memory and all; the trunk sees every frame by itself. Conditions: clean,
motion blur, 30 % of the crop (on average) hidden by passing objects, low light
(`stream_corruption`), and every second frame missing. In percent: PCK of the box's longer side,
OKS, and jitter, the mean third difference of a joint's track in shares of that side. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from pose_ros.core.config import WindowConfig
from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes, to_image
from pose_ros.core.heatmaps import decode
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import ByteArray, FloatArray, Frame, People, PoseMaps
from pose_ros.core.window import WindowBuffer
from pose_ros.errors import ConfigError, PoseRosError, SourceError
from pose_ros.nets.checkpoint import Card, find_card
from pose_ros.nets.runtime import Runner, open_runner
from pose_ros.nets.stream import open_stream
from pose_ros.training.consensus import Track
from pose_ros.training.datasets.base import read_json
from pose_ros.training.metrics import pck
from pose_ros.training.metrics.arrays import mean_known
from pose_ros.training.stream_corruption import disturbance
from pose_ros.training.train_prior import Film, read_film

#: Name, disturbance, severity, and every how many frames one arrives.
CONDITIONS = (
    ("clean", "clean", 0.0, 1),
    ("motion blur", "motion", 0.7, 1),
    ("30 % occluded", "occlusion", 0.6, 1),
    ("low light", "lowlight", 0.5, 1),
    ("every 2nd frame", "clean", 0.0, 2),
)
CELL_PX = 4.0
BATCH = 4
AREA = 0.53  # of the box, that a person covers
LEAST = 10  # frames of a person, from which they are looked at

Row = dict[str, float]
Condition = tuple[str, str, float, int]
Parts = dict[str, list[dict[str, np.ndarray]]]  # network -> what `measure` found, per person


@dataclass(frozen=True, eq=False)
class Shown:
    """A person's disturbed crops: what both networks see."""

    crops: ByteArray  # (T, h, w, 3)
    affine: FloatArray  # (T, 2, 3) image from crop
    stamps_ns: list[int]  # T
    truth: FloatArray  # (T, K, 2) image pixels, NaN: no label
    side_px: FloatArray  # (T,) longer side of the box
    area_px2: FloatArray  # (T,)


def show(
    film: Film, track: Track, card: Card, condition: Condition, seed: list[int],
    rate_hz: float,
) -> Shown:  # fmt: skip
    """Cut and disturb a person's crops, boxes held as `core.window` holds them."""
    _name, kind, severity, every = condition
    rows = np.arange(0, len(track), every)
    holder = WindowBuffer(1, WindowConfig(), hold=True)
    disturb = disturbance(kind, severity, seed)
    one = np.ones(1, np.int64)
    crops = np.empty((len(rows), *card.input_hw, 3), np.uint8)
    affines = []
    for t, row in enumerate(rows):
        box = track.box_xyxy_px[row : row + 1]
        held = holder.hold(People(one, box, np.ones(1, np.float32))).xyxy_px
        edges = fit_boxes(held, card.input_hw, card.crop_scale)
        cut(Frame(film.frames[int(track.frames[row])], 0), edges[0], crops[t])
        crops[t] = disturb(crops[t])
        affines.append(affine_from_boxes(edges, card.input_hw)[0])
    size = track.box_xyxy_px[rows, 2:] - track.box_xyxy_px[rows, :2]
    stamps = [round(int(track.frames[row]) * 1e9 / rate_hz) for row in rows]
    return Shown(
        crops, np.stack(affines), stamps, track.xy_px[rows], size.max(1), AREA * size.prod(1)
    )


class Comparison(Protocol):
    """A video network and its trunk, that can be shown the same person."""

    card: Card
    trunk: Card

    def compare(
        self, film: Film, track: Track, condition: Condition, seed: list[int], rate_hz: float,
        parts: Parts,
    ) -> None:  # fmt: skip
        """Add one person's numbers, of both and of the labels, to ``parts``."""


class Both:
    """The video network and its trunk."""

    def __init__(self, card: Card, trunk: Card, threads: int) -> None:
        """Open both.

        Raises:
            ConfigError: they do not see the same crops.

        """
        _check_crops(card, trunk)
        if not card.recurrent or card.skeleton != trunk.skeleton:
            raise ConfigError(f"{card.name}: expected a recurrent network with the trunk's joints")
        self.card, self.trunk = card, trunk
        self.stream = open_stream(card, "cpu", threads)
        self.runner = open_runner(trunk, "cpu", threads)

    def single(self, shown: Shown, runner: Runner | None = None) -> FloatArray:
        """Joints (T, K, 2) of a single-frame network, the trunk when none is named."""
        runner, found = runner or self.runner, []
        for first in range(0, len(shown.crops), BATCH):
            rows = slice(first, first + BATCH)
            heads = runner(shown.crops[rows, None])
            found.append(joints(PoseMaps(*heads), shown.affine[rows], runner.card))
        return np.concatenate(found)

    def streamed(self, shown: Shown) -> FloatArray:
        """The video network's joints (T, K, 2)."""
        self.stream.reset()
        one, found = np.ones(1, np.int64), []
        for t, stamp in enumerate(shown.stamps_ns):
            affine = shown.affine[t : t + 1]
            maps = self.stream.run(one, affine, np.array([t]), stamp, shown.crops[t : t + 1])
            found.append(joints(PoseMaps(maps), affine, self.card))
        return np.concatenate(found)

    def compare(
        self, film: Film, track: Track, condition: Condition, seed: list[int], rate_hz: float,
        parts: Parts,
    ) -> None:  # fmt: skip
        """Add one person's numbers, of both and of the labels, to ``parts``."""
        shown = show(film, track, self.card, condition, seed, rate_hz)
        parts["trunk"].append(measure(self.single(shown), shown))
        parts["video"].append(measure(self.streamed(shown), shown))
        parts["labels"].append(measure(shown.truth, shown))


class Alone(Both):
    """Two single-frame networks that see the same crops."""

    def __init__(self, card: Card, trunk: Card, threads: int) -> None:
        """Open both.

        Raises:
            ConfigError: they do not see the same crops.

        """
        _check_crops(card, trunk)
        self.card, self.trunk = card, trunk
        self.runner = open_runner(trunk, "cpu", threads)
        self.own = open_runner(card, "cpu", threads)

    def streamed(self, shown: Shown) -> FloatArray:
        """The first network's joints (T, K, 2)."""
        return self.single(shown, self.own)


def open_both(card: Card, trunk: Card, threads: int) -> Both:
    """A recurrent or a single-frame network beside a single-frame one.

    Raises:
        ConfigError: they do not see the same crops, or the first one is of another kind.

    """
    return Both(card, trunk, threads) if card.is_video else Alone(card, trunk, threads)


def _check_crops(card: Card, trunk: Card) -> None:
    if (card.input_hw, card.crop_scale) != (trunk.input_hw, trunk.crop_scale):
        raise ConfigError(
            f"{card.name} and {trunk.name}: expected the same crops, got {card.input_hw} at "
            f"{card.crop_scale} and {trunk.input_hw} at {trunk.crop_scale}"
        )


def joints(maps: PoseMaps, affine: FloatArray, card: Card) -> FloatArray:
    """Joints (T, K, 2) in image pixels, of maps of the crops with these affines."""
    cells, _score = decode(maps)
    crop = card.crop_px_from_cell(cells).astype(np.float32)
    return np.asarray(to_image(crop, affine), np.float32)


def measure(found: FloatArray, shown: Shown) -> dict[str, np.ndarray]:
    """Errors (T, K) over the side, OKS (T,) and jitter (1,) of one person's joints."""
    error = pck.errors(found, shown.truth, shown.side_px)
    sigma = np.array(COCO17.oks_sigma)
    pixels = error * shown.side_px[:, None]
    kernel = np.exp(-(pixels**2) / (2 * shown.area_px2[:, None] * (2 * sigma) ** 2))
    oks = np.array([mean_known(row) for row in kernel])
    place = np.where(np.isnan(shown.truth), np.nan, found) / float(np.median(shown.side_px))
    return {"error": error.ravel(), "oks": oks, "jitter": _jitter(place)}


def _jitter(track: FloatArray) -> np.ndarray:
    """Lengths of the known third differences of a track (T, K, 2)."""
    third = np.linalg.norm(np.diff(track.astype(np.float64), n=3, axis=0), axis=-1)
    return np.asarray(third[np.isfinite(third)])


def summary(parts: list[dict[str, np.ndarray]]) -> Row:
    """Numbers in percent of all people of a condition."""
    pooled = {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}
    row = {
        "pck05": pck.share_within(pooled["error"], 0.05),
        "pck10": pck.share_within(pooled["error"], 0.1),
        "oks": mean_known(pooled["oks"]),
        "jitter": mean_known(pooled["jitter"]),
    }
    return {n: 100.0 * v for n, v in row.items() if not math.isnan(v)}


def videos(
    both: Comparison, films: list[tuple[Film, float]], wanted: Sequence[str], limit: int
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
                both.compare(film, some, condition, [7, number, index], rate_hz, parts)
        out[condition[0]] = {name: summary(rows) for name, rows in parts.items()}
        _print(condition[0], out[condition[0]])
    return out


def pictures(both: Comparison, annotations: Path, folder: Path) -> dict[str, Row]:
    """Both networks on labelled COCO pictures, each a stream of one frame."""
    data = read_json(annotations)
    names = {i["id"]: i["file_name"] for i in data["images"] if "coco" in i.get("source", "coco")}
    parts: Parts = defaultdict(list)
    for person in data["annotations"]:
        points = np.array(person["keypoints"], np.float32).reshape(-1, 3)
        if person["image_id"] not in names or not (points[:, 2] > 0).any():
            continue
        path = folder / names[person["image_id"]]
        bgr = cv2.imread(str(path))
        if bgr is None:
            raise SourceError(f"{path}: {annotations} names this picture; it cannot be read")
        rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
        x, y, w, h = person["bbox"]
        box = np.array([[x, y, x + w, y + h]], np.float32) - 0.5
        truth = np.where(points[:, 2:] > 0, points[:, :2], np.nan)[None].astype(np.float32)
        track = Track(np.zeros(1, np.int64), box, truth)
        both.compare(Film("picture", [rgb], [track]), track, CONDITIONS[0], [0], 1.0, parts)
    out = {name: summary(parts[name]) for name in ("trunk", "video")}
    _print("COCO pictures, T = 1", out)
    return out


def _print(name: str, rows: dict[str, Row]) -> None:
    for net in ("trunk", "video", "labels"):
        if net in rows:
            text = "  ".join(f"{n} {v:6.2f}" for n, v in rows[net].items())
            sys.stdout.write(f"{name:22s} {net:7s} {text}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Command:
    """What differs between this command and the one for networks with a window."""

    name: str
    about: str | None
    card: str
    kind: str
    open: Callable[[Card, Card, int], Comparison]


def main(argv: Sequence[str], this: Command | None = None) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    this = this or Command(
        "compare_trunk", __doc__, "hstpn_robot", "recurrent or single-frame network", open_both
    )
    args = _parser(this).parse_args(argv)
    if not args.video and not args.pictures:
        raise ConfigError("expected --video VIDEO=POSES.jsonl, --pictures COCO.json=DIR, or both")
    cv2.setNumThreads(args.threads)
    both = this.open(find_card(args.card), find_card(args.trunk), args.threads)
    labels = Path(args.labels)
    labels.mkdir(parents=True, exist_ok=True)
    films = []
    for item in args.video:
        video, _equals, poses = item.partition("=")
        rate_hz = cv2.VideoCapture(video).get(cv2.CAP_PROP_FPS)
        films.append((read_film(Path(video), Path(poses), labels, args.threads), rate_hz))
    answer: dict[str, Any] = {"card": both.card.name, "trunk": both.trunk.name}
    if films:
        lengths = [len(t) for film, _ in films for t in film.tracks if len(t) >= LEAST]
        frames = sum(min(length, args.limit or length) for length in lengths)
        answer |= {"person_frames": frames, "videos": [film.name for film, _ in films]}
        answer["conditions"] = videos(both, films, args.condition, args.limit)
    if args.pictures:
        annotations, _equals, folder = args.pictures.partition("=")
        answer["pictures"] = pictures(both, Path(annotations), Path(folder))
    return answer


def _parser(this: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m pose_ros.training.{this.name}",
        description=this.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--card", default=this.card, help=f"{this.kind} (default: %(default)s)")
    add("--trunk", default="movenet_thunder_large", help="single frames (default: %(default)s)")
    add("--video", action="append", default=[], metavar="VIDEO=POSES.jsonl")
    add("--labels", default="labels", metavar="DIR", help="where labels are kept")
    add("--condition", action="append", default=[], choices=[c[0] for c in CONDITIONS])
    add("--limit", type=int, default=0, metavar="N", help="first N frames of everybody; 0: all")
    add("--pictures", metavar="COCO.json=DIR", help="labelled pictures, each a single frame")
    add("--threads", type=int, default=1)
    return parser


def command(argv: Sequence[str], this: Command | None = None) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(argv, this)
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
