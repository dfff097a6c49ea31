"""Labels for unlabelled video that a single-frame network agrees on with itself, smoothed.

  python -m pose_ros.training.consensus VIDEO --poses VIDEO.jsonl --out ALL.json

VIDEO.jsonl is what `tools.track` says; ALL.json is COCO JSON as `training.propagate` reads it, to
try things on video that nobody labelled.

A large network looks at every clean frame several times: as it is, mirrored, and with more around
the person. Where the looks agree and are sure, their mean is a label; pose refinement (APRS) then
smooths every track with the frames before and after. What comes out depends on the network that
was asked: differences between networks mean something, levels do not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes, to_image
from pose_ros.core.heatmaps import decode
from pose_ros.core.skeletons import COCO17, get_skeleton
from pose_ros.core.values import FloatArray, Frame, IntArray, PoseMaps
from pose_ros.errors import SourceError
from pose_ros.nets.checkpoint import find_card
from pose_ros.nets.runtime import Runner, open_runner
from pose_ros.training.footage import Footage, open_footage
from pose_ros.training.label_files import DenseLabels, write_labels
from pose_ros.training.refined import refine_poses, runs_of

TEACHER = "movenet_thunder_large"
SCORE_MIN = 0.35  # mean of the looks, from which a label counts
AGREE = 0.03  # of the box's longer side: how far a look may be from the mean
SCALES = (1.0, 1.15)  # of the card's own; mirrored at each
STRIDE_PX = 4.0
LEAST = 4  # consecutive frames of a person, from which they are of use


@dataclass(frozen=True, eq=False)
class Track:
    """One person in consecutive frames of a video, in image pixels; ``xy_px`` NaN: no label."""

    frames: IntArray  # (T,) running numbers, without gaps
    box_xyxy_px: FloatArray  # (T, 4)
    xy_px: FloatArray  # (T, K, 2)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.frames)


def boxes_of(poses: Path) -> tuple[list[str], IntArray, FloatArray]:
    """Ids (N), frames (N,) and boxes (N, 4) of the people that `tools.track` measured.

    Raises:
        SourceError: the file is not what `tools.track` writes.

    """
    ids: list[str] = []
    frames, boxes = [], []
    try:
        for line in poses.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for person in row["people"]:
                if person["state"] in ("TRACKED", "TENTATIVE"):
                    ids.append(str(person["id"]))
                    frames.append(int(row["frame"]))
                    boxes.append(person["box_xyxy_px"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise SourceError(
            f"{poses}: expected what python -m pose_ros.tools.track writes ({error!r})"
        ) from error
    return ids, np.array(frames, np.int64), np.array(boxes, np.float32).reshape(-1, 4)


class Consensus:
    """The teacher: several looks at clean crops, and how far they agree."""

    def __init__(self, threads: int = 1) -> None:
        """Open the network."""
        self.runner: Runner = open_runner(find_card(TEACHER), "cpu", threads)
        self.flip = get_skeleton(self.runner.card.skeleton or "").flip_order()

    def __call__(self, frame: Frame, boxes: FloatArray) -> FloatArray:
        """Joints (P, K, 2) of the people in boxes (P, 4), NaN where the looks do not agree."""
        looks = [look for scale in SCALES for look in self._looks(frame, boxes, scale)]
        xy = np.stack([points for points, _ in looks])  # (L, P, K, 2)
        score = np.stack([s for _, s in looks]).mean(0)
        mean = np.median(xy, axis=0)
        side = (boxes[:, 2:] - boxes[:, :2]).max(1)[:, None]
        apart = np.linalg.norm(xy - mean, axis=-1).max(0) / side
        with np.errstate(invalid="ignore"):
            sure = (score >= SCORE_MIN) & (apart <= AGREE)
        return np.where(sure[..., None], mean, np.nan).astype(np.float32)

    def _looks(
        self, frame: Frame, boxes: FloatArray, scale: float
    ) -> Iterable[tuple[FloatArray, FloatArray]]:
        card = self.runner.card
        edges = fit_boxes(boxes, card.input_hw, card.crop_scale * scale)
        crops = np.empty((len(boxes), *card.input_hw, 3), np.uint8)
        for row, edge in enumerate(edges):
            cut(frame, edge, crops[row])
        affine = affine_from_boxes(edges, card.input_hw)
        for mirrored in (False, True):
            shown = crops[:, :, ::-1] if mirrored else crops
            heads = self.runner(np.ascontiguousarray(shown)[:, None])
            cells, score = decode(PoseMaps(*heads))
            points = cells * STRIDE_PX + card.cell_shift_px
            if mirrored:
                points = points[:, self.flip] * (-1, 1) + (card.input_hw[1] - 1, 0)
                score = score[:, self.flip]
            yield to_image(points.astype(np.float32), affine), score


def tracks(
    poses: Path, frames: Iterable[tuple[int, Frame]], rate_hz: float, teacher: Consensus
) -> list[Track]:
    """Labelled tracks of a video: numbered frames, and what `tools.track` says of it."""
    ids, number, boxes = boxes_of(poses)
    xy = np.full((len(ids), len(COCO17), 2), np.nan, np.float32)
    for index, frame in frames:
        here = np.flatnonzero(number == index)
        if len(here):
            xy[here] = teacher(frame, boxes[here])
    runs = runs_of(ids, number, LEAST)
    known = np.isfinite(xy).all(-1)
    height = boxes[:, 3] - boxes[:, 1]
    unit = np.ones(len(ids), np.float32)
    for run in runs:
        unit[run] = max(float(np.median(height[run])), 1.0)
    smooth = refine_poses(
        xy / unit[:, None, None], known.astype(np.float32), runs, rate_hz, COCO17
    )
    smooth = np.where(known[..., None], smooth * unit[:, None, None], np.nan).astype(np.float32)
    return [Track(number[run], boxes[run], smooth[run]) for run in runs]


def origin(video: Path, poses: Path) -> str:
    """Sixteen hex digits of what labels are made from: a film, its tracks and who looks at it.

    Raises:
        SourceError: there are no such tracks.

    """
    digest = hashlib.sha256(TEACHER.encode())
    for path in (poses, video):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        elif path == poses:
            raise SourceError(f"{poses}: expected what python -m pose_ros.tools.track writes")
        else:
            digest.update(str(video).encode())
    return digest.hexdigest()[:16]


def origin_of(path: Path) -> str:
    """`origin` that `save` was told; empty where it was not, or there is no such file."""
    if not path.is_file():
        return ""
    with np.load(path) as file:
        return str(file["origin"]) if "origin" in file else ""


def save(path: Path | IO[bytes], found: list[Track], origin: str = "") -> None:
    """Write tracks as one .npz, with what they were made from."""
    arrays = {
        f"{name}{i}": getattr(t, name)
        for i, t in enumerate(found)
        for name in ("frames", "box_xyxy_px", "xy_px")
    }
    named = {"origin": np.array(origin)} if origin else {}
    np.savez_compressed(path, count=np.array(len(found)), **named, **arrays)


def load(path: Path) -> list[Track]:
    """Tracks that `save` wrote."""
    with np.load(path) as file:
        return [
            Track(*(file[f"{name}{i}"] for name in ("frames", "box_xyxy_px", "xy_px")))
            for i in range(int(file["count"]))
        ]


def dense(found: Sequence[Track], footage: Footage) -> DenseLabels:
    """Tracks as labels of every frame of a video: a person per track."""
    shape = (len(found), len(footage), len(COCO17))
    xy = np.full((*shape, 2), np.nan, np.float32)
    boxes = np.full((*shape[:2], 4), np.nan, np.float32)
    for row, track in enumerate(found):
        xy[row, track.frames] = track.xy_px
        boxes[row, track.frames] = track.box_xyxy_px
    known = np.isfinite(xy).all(axis=-1)
    empty = ~known.any(axis=-1)
    boxes[empty] = np.nan  # a box in which nothing is sure labels nobody
    return DenseLabels(
        COCO17, footage.size_px, tuple(str(row + 1) for row in range(len(found))),
        np.ones(len(footage), np.bool_), footage.stamps_ns, xy, known.astype(np.float32),
        np.where(known, 2, 0).astype(np.uint8), boxes,
        {"description": f"Consensus of {TEACHER} with itself: no person labelled this"},
    )  # fmt: skip


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.consensus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("video", help="video, folder of pictures or bag")
    parser.add_argument("--poses", required=True, help="what tools.track says of it, .jsonl")
    parser.add_argument("--out", required=True, metavar="ALL.json", help="labels, COCO JSON")
    parser.add_argument("--topic", default="", help="image topic of a bag (default: its only one)")
    parser.add_argument("--least", type=int, default=LEAST, metavar="FRAMES",
                        help="leave out shorter tracks (default: %(default)s)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    footage = open_footage(Path(args.video), args.topic)
    bar = tqdm(range(len(footage)), desc="consensus", disable=not sys.stderr.isatty())
    frames = ((t, Frame(footage.images[t].read(), 0)) for t in bar)
    found = tracks(Path(args.poses), frames, footage.rate_hz, Consensus(args.threads))
    labels = dense([track for track in found if len(track) >= args.least], footage)
    write_labels(Path(args.out), labels)
    there = np.isfinite(labels.box_xyxy_px).all(axis=-1)
    share = float(np.isfinite(labels.xy_px[there]).all(-1).mean()) if there.any() else 0.0
    return {
        "frames": len(footage), "people": len(labels.tracks), "labels": int(there.sum()),
        "joints_labelled": round(share, 4), "out": args.out,
    }  # fmt: skip


if __name__ == "__main__":
    from pose_ros.training.propagate import command

    sys.exit(command(main, sys.argv[1:]))
