"""Every T-th label of a PoseTrack set to all frames, and poseval's verdict: paper 003's protocol.

  propagate_dataset --net CARD --dataset 'posetrack17:ROOT?split=val' --interval 7
      a row of its tables 1 and 4, with --table stdpose.1.17 --save DIR/full.json
  propagate_dataset --net CARD --dataset 'posetrack17:ROOT?split=train' --interval 4 --labels DENSE
      labels to learn from (table 3)

Of every video the longest run of labelled frames counts. Every T-th of them keeps its labels
(`datasets.sparse`), the others are answered from these and judged; given frames count, as in the
paper, and `unlabelled` is the verdict without them. --interval 0 gives no label at all: pose
estimation on the same frames (row a of table 4).

DENSE gets a label file per video in PoseTrack18's form, of the given and the propagated joints:
data.train='posetrack17:ROOT?split=train&labels=DENSE'.

Boxes are the labels' in every frame, as in PoseWarper's protocol; --boxes between guesses them
from the given ones. Methods are those of `training.propagate`: flow and network are two of the
paper's baselines.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from pose_ros.core.skeletons import POSETRACK15, POSETRACK17_SLOTS, mapping
from pose_ros.errors import ConfigError
from pose_ros.training.checkpoints import write_atomically, write_text
from pose_ros.training.datasets import parse_spec
from pose_ros.training.datasets.base import FileImage, clip_box, picture_size
from pose_ros.training.datasets.clips import Clip, FrameLabel, LabelledClips
from pose_ros.training.datasets.posetrack_files import predictions_to_json, truth_frames
from pose_ros.training.datasets.sparse import given_frames, longest_run
from pose_ros.training.metrics import posetrack
from pose_ros.training.predict import Network, net_options, open_network
from pose_ros.training.propagate import METHODS, PLAIN, command, estimate
from pose_ros.training.propagation import Estimate, Sparse, finish, finished_boxes
from pose_ros.training.tables import get_table

#: Further from a label on one side only, an estimate without labels is better (models.md, S13).
REACH = 9


@dataclass(frozen=True, eq=False)
class Propagated:
    """One video: its run of labelled frames, what was given, and what was answered."""

    clip: Clip  # the frames of the run only
    video: Sparse  # the same frames, labelled where labels were given
    raw: Estimate  # what the method says
    score_min: float = 0.2  # less sure joints are nothing to learn from
    reach: int = REACH

    @cached_property
    def found(self) -> Estimate:
        """Given labels and the answers between, unsure ones too: to be judged."""
        return finish(self.video, self.raw, self.reach, 0.0)

    @cached_property
    def sure(self) -> Estimate:
        """The same without what is not sure: to learn from."""
        return finish(self.video, self.raw, self.reach, self.score_min)

    @property
    def frames(self) -> list[posetrack.PredictedFrame]:
        """Answers frame by frame, as poseval takes them."""
        order = mapping(self.video.skeleton, POSETRACK15)
        out = []
        for t in range(len(self.clip.frames)):
            known = np.asarray(np.isfinite(self.found.xy_px[:, t]).all(axis=2))
            here = known.any(axis=1)
            xy = self.found.xy_px[here, t][:, order].astype(np.float64)
            score = self.found.score[here, t][:, order].astype(np.float64)
            tracks = np.flatnonzero(here).astype(np.int64)
            out.append(posetrack.PredictedFrame(xy, score, tracks))
        return out

    def judged(self, given: bool) -> posetrack.Video:
        """For poseval; frames that were given are left out unless ``given``."""
        rows = [t for t, label in enumerate(self.video.labelled) if given or not label]
        truth, found = truth_frames(self.clip), self.frames
        return posetrack.Video(self.clip.name, [truth[t] for t in rows], [found[t] for t in rows])


def sparse_video(clip: Clip, interval: int, known_boxes: bool) -> tuple[Clip, Sparse]:
    """The run of a clip, and the same with every ``interval``-th frame's labels only.

    Raises:
        ConfigError: no frame of the clip is labelled.

    """
    run = longest_run(clip)
    if not len(run):
        raise ConfigError(f"{clip.name}: expected labelled frames, it has none")
    frames = clip.frames[run.start : run.stop]
    tracks = tuple(dict.fromkeys(p.track for frame in frames for p in frame.people))
    shape = (len(tracks), len(frames), len(POSETRACK15))
    xy = np.full((*shape, 2), np.nan, np.float32)
    visible, boxes = np.zeros(shape, np.uint8), np.full((*shape[:2], 4), np.nan, np.float32)
    size = _size(frames[0])
    for t, frame in enumerate(frames):
        for person in frame.people:
            row = tracks.index(person.track)
            xy[row, t], visible[row, t] = person.xy_px, person.visible
            boxes[row, t] = clip_box(person.box_xyxy_px, size)
    every = Sparse(
        clip.name, tuple(f.image for f in frames), size, POSETRACK15, tracks,
        np.ones(len(frames), np.bool_), xy, visible, boxes, boxes if known_boxes else None,
    )  # fmt: skip
    given = [i - run.start for i in given_frames(clip, interval)]
    return replace(clip, frames=frames), every.only(given)


def _size(frame: FrameLabel) -> tuple[int, int]:
    if frame.size_px is not None:
        return frame.size_px
    assert isinstance(frame.image, FileImage)
    return picture_size(frame.image.path)


def answer(video: Sparse, method: str, network: Network | None, reach: int = REACH) -> Estimate:
    """What a method says of a video; nothing where nobody is known."""
    if not video.tracks:
        nothing = np.zeros((0, len(video.images), len(video.skeleton)), np.float32)
        return Estimate(np.zeros((*nothing.shape, 2), np.float32), nothing)
    return estimate(video, method, network, reach)


def dense_clip(clip: Clip, done: Propagated) -> dict[str, Any]:
    """Label file, in PoseTrack18's form, of a whole clip whose run was answered."""
    found = done.sure
    boxes = finished_boxes(done.video, found)
    frames = {id(frame): t for t, frame in enumerate(done.clip.frames)}
    slots = mapping(POSETRACK15, POSETRACK17_SLOTS)
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    for frame in clip.frames:
        t = frames.get(id(frame))
        images.append({"id": frame.image_id, "file_name": frame.file,
                       "is_labeled": t is not None})  # fmt: skip
        for p, name in enumerate(done.video.tracks if t is not None else ()):
            xy, box = found.xy_px[p, t][slots], boxes[p, t]
            known = (slots >= 0) & np.isfinite(xy).all(axis=1)
            if not known.any() or not np.isfinite(box).all():
                continue
            table = np.where(known[:, None], np.column_stack([xy, np.ones(len(xy))]), 0.0)
            edges = box.astype(float) + 0.5
            people.append({
                "id": len(people) + 1, "image_id": frame.image_id, "category_id": 1,
                "track_id": int(name),
                "bbox": [round(float(v), 2) for v in (*edges[:2], *(edges[2:] - edges[:2]))],
                "keypoints": [round(float(v), 2) for v in table.ravel()],
                "scores": [round(float(s), 3) for s in found.score[p, t][slots] * known],
                "labelled": bool(done.video.labelled[t]),
            })  # fmt: skip
    names = ["head_bottom" if j == "neck" else j for j in POSETRACK17_SLOTS.joints]
    category = {"id": 1, "name": "person", "keypoints": names}
    return {"images": images, "annotations": people, "categories": [category]}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    if args.table:
        args.row = get_table(args.table).row(args.row or "full").key
    dataset = parse_spec(args.dataset)
    if not isinstance(dataset, LabelledClips) or dataset.skeleton is not POSETRACK15:
        raise ConfigError(f"--dataset: expected a PoseTrack set, got {dataset.name}")
    method = args.method or ("stdpose" if args.net else "flow")
    network = None
    if method not in PLAIN:
        if not args.net:
            raise ConfigError(f"method {method} needs a network: --net CARD")
        network = open_network(args.net, _device(args.device), **net_options(args.net_option))
    done = []
    for clip in tqdm(dataset.clips, desc="videos", disable=not sys.stderr.isatty()):
        if not len(longest_run(clip)):
            continue
        run, video = sparse_video(clip, args.interval, args.boxes == "labelled")
        raw = answer(video, method, network, args.reach)
        done.append(Propagated(run, video, raw, args.score_min, args.reach))
        _write(args, clip, done[-1])
    return _summary(args, dataset, done, network, method)


def _write(args: argparse.Namespace, clip: Clip, done: Propagated) -> None:
    """Files of one video."""
    for folder, data in ((args.labels, dense_clip), (args.out, None)):
        if not folder:
            continue
        path = Path(folder) / f"{clip.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = data(clip, done) if data else predictions_to_json(done.clip, done.frames)
        write_atomically(path, partial(_write_json, content))


def _write_json(content: object, file: IO[bytes]) -> None:
    file.write(json.dumps(content, separators=(",", ":")).encode())


def _summary(
    args: argparse.Namespace,
    dataset: LabelledClips,
    done: Sequence[Propagated],
    network: Network | None,
    method: str,
) -> dict[str, Any]:
    given = sum(int(one.video.labelled.sum()) for one in done)
    frames = sum(len(one.clip.frames) for one in done)
    metrics = posetrack.average_precision([one.judged(given=True) for one in done])
    rest = posetrack.average_precision([one.judged(given=False) for one in done])
    metrics |= {f"unlabelled_{name}": rest[name] for name in ("total", "m7")}
    result: dict[str, Any] = {
        "dataset": dataset.name, "protocol": "poseval",
        "metrics": {n: round(v, 6) if math.isfinite(v) else None for n, v in metrics.items()},
        "labelled_ratio": round(given / max(frames, 1), 4), "frames": frames, "labelled": given,
        "videos": len(done), "interval": args.interval, "method": method,
        "reach": args.reach,
        "net": network.name if network else None,
        "trained": network.trained if network else None, "boxes": args.boxes,
        **({"labels": args.labels} if args.labels else {}),
        **({"table": args.table, "row": args.row} if args.table else {}),
    }  # fmt: skip
    if args.save:
        Path(args.save).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(args.save), json.dumps(result, indent=1))
    return result


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.propagate_dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--dataset", required=True, metavar="SPEC", help="posetrack17, 18 or 21:ROOT?split=...")
    add("--interval", type=int, default=7, metavar="T", help="give every T-th label, 0: none (7)")
    add("--net", help="card by name or path, or an architecture (random weights)")
    add("--net-option", action="append", default=[], metavar="NAME=VALUE",
        help="field of the architecture's config; only without a card")  # fmt: skip
    add("--method", choices=METHODS, help="default: stdpose, and flow without --net")
    add("--boxes", choices=("labelled", "between"), default="labelled",
        help="people and boxes of the frames between (default: %(default)s)")  # fmt: skip
    add("--out", metavar="DIR", help="prediction files in PoseTrack's form, of the runs")
    add("--labels", metavar="DENSE", help="label files of all frames, to learn from")
    add("--score-min", type=float, default=0.2,
        help="with --labels: less sure joints are left out (default: %(default)s)")  # fmt: skip
    add("--reach", type=int, default=REACH, metavar="FRAMES",
        help="further from a label on one side only, the estimate without labels counts "
        "(default: %(default)s)")  # fmt: skip
    add("--table", metavar="NAME", help="table that the answer belongs to, e.g. stdpose.1.17")
    add("--row", metavar="KEY", help="its row (default: full)")
    add("--save", metavar="FILE.json", help="write the answer, for evaluate --results")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads, 0: torch's choice")
    return made


if __name__ == "__main__":
    sys.exit(command(main, sys.argv[1:]))
