"""From the labels of few frames to a trained network, and what the frames between were worth.

  few_labels --video V.mp4 --labels FEW.json --out DIR
  few_labels --video V.mp4 --labels ALL.json --interval 7 --out DIR --test 'W.mp4=W.json'
  few_labels --video BAG --topic /camera/image_raw --labels FEW.json --out DIR

Procedure of paper 003 (Table 3), with the networks of a recipe: the labels are propagated to every
frame (`training.propagate`); one network learns from the few labels alone, another one from them
and what was propagated, both from the same start, for as many steps, with the same recipe. With
--interval every T-th label of ALL is used, and both networks and the one that looks at single
frames (--net) are judged on the frames in between; --test VIDEO=LABELS judges them elsewhere.

DIR gets few.json, dense.json, what is judged by (truth.json, test_0.json, ...) and the runs few/
and dense/ with their cards, all labels as COCO JSON whatever they were read from. The same command
goes on where a killed one stopped. Settings of the recipe can follow: train.epochs=5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose_ros.errors import ConfigError
from pose_ros.training import propagate, protocols
from pose_ros.training.config import TrainConfig, read_recipe
from pose_ros.training.datasets import Subset, parse_spec
from pose_ros.training.datasets.base import ClipDataset
from pose_ros.training.footage import Footage, attach, is_bag, open_footage
from pose_ros.training.label_files import DenseLabels, read_labels, write_labels
from pose_ros.training.predict import Predictor, open_network
from pose_ros.training.propagation import Sparse
from pose_ros.training.train import run

RECIPE = Path("config/train/few_labels.yaml")


@dataclass(frozen=True)
class Judged:
    """Labels to judge by: a video, its label file, and the frames that count (None: all)."""

    name: str
    video: str
    labels: str  # COCO JSON
    frames: frozenset[int] | None = None
    topic: str = ""  # of a bag

    def dataset(self, frames: int, key: int) -> ClipDataset:
        """Samples of the labels in windows of a network.

        Raises:
            ConfigError: no frame is left to judge by.

        """
        every = parse_spec(_spec(self.labels, self.video, self.topic), frames=frames, key=key)
        if self.frames is None:
            return every
        rows = [i for i in range(len(every)) if _frame(every, i) in self.frames]
        if not rows:
            raise ConfigError(f"{self.labels}: expected labels of frames that are not used")
        return Subset(every, rows)


def _frame(dataset: ClipDataset, index: int) -> int:
    sample = dataset[index]
    return int(sample.frame_index[sample.key])


def _spec(labels: str, video: str, topic: str = "") -> str:
    """Data set of a video, or of a bag, with its labels."""
    if is_bag(Path(video)):
        return f"rosbag:{video}?labels={labels}" + (f"&topic={topic}" if topic else "")
    return f"video_coco:{labels}?video={video}"


def open_labelled(labels: str, video: str, topic: str) -> tuple[Sparse, Footage]:
    """A video, or a bag, with its labels.

    Raises:
        ConfigError: a folder of pictures, which no data set of labelled videos reads; a bag with
            several image topics and none named; or the labels are another video's.
        SourceError: there is no such video, bag or label file.

    """
    path = Path(video)
    if path.is_dir() and not is_bag(path):
        raise ConfigError(f"{video}: expected a video file or a bag (a folder with metadata.yaml)")
    footage = open_footage(path, topic)
    return attach(read_labels(Path(labels), size_px=footage.size_px), footage), footage


def few_labels(video: Sparse, stamps_ns: tuple[int, ...] | None = None) -> DenseLabels:
    """Only the labels that a video has, to be written as COCO JSON; of a bag with its stamps."""
    known = np.isfinite(video.xy_px).all(axis=-1) & (video.visible > 0)
    return DenseLabels(
        video.skeleton, video.size_px, video.tracks, video.labelled, stamps_ns, video.xy_px,
        known.astype(np.float32), video.visible, video.box_xyxy_px,
        {"description": f"{int(video.labelled.sum())} labelled frames of {video.name}"},
    )  # fmt: skip


def judge(net: str, judged: Sequence[Judged], device: str) -> dict[str, dict[str, float]]:
    """PCK in percent of a card's network on every set: ``pck5``, ``pck10`` and ``samples``."""
    network = open_network(net, device)
    out = {}
    for one in judged:
        dataset = one.dataset(network.frames, network.key)
        predicted = Predictor(network)(dataset)
        found = protocols.score_pck(protocols.slots(dataset, predicted))
        out[one.name] = {
            **{n: round(found[n], 2) for n in ("pck5", "pck10")}, "samples": len(dataset),
        }  # fmt: skip
    return out


def recipe_of(
    args: argparse.Namespace, name: str, counts: tuple[int, int], labels: Path
) -> TrainConfig:
    """Config of one of the two runs; ``counts`` are windows of this and of the larger set.

    The smaller set gets so many more epochs that there are as many steps, and as many more
    versions of each window as it has fewer windows.
    """
    own, most = counts
    base = read_recipe(args.config, args.settings)
    batch = base.train.batch
    times = max(round(most / max(own, 1)), 1)
    longer = max(most // batch, 1) / max(own // min(batch, own), 1)
    return replace(
        base,
        name=f"{base.name}_{name}",
        out=str(Path(args.out) / name),
        device=args.device,
        data=replace(
            base.data, train=(_spec(str(labels), args.video, args.topic),), val=(), pseudo=()
        ),
        train=replace(base.train, epochs=round(base.train.epochs * longer), batch=min(batch, own)),
        cache=replace(base.cache, variants=base.cache.variants * times),
    )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    out = Path(args.out)
    truth, footage = open_labelled(args.labels, args.video, args.topic)
    video = propagate.every(truth, args.interval) if args.interval else truth
    few, dense = out / "few.json", out / "dense.json"
    write_labels(few, few_labels(video, footage.stamps_ns), only_labelled=True)
    judged, rest = _judged(args, truth, video, footage), truth.labelled & ~video.labelled
    asked = ["--video", args.video, "--labels", str(few), "--out", str(dense)]
    asked += ["--method", args.method, "--net", args.net, "--device", args.device]
    propagated = propagate.main([*asked, "--topic", args.topic, "--threads", str(args.threads)])
    files = {"few": few, "dense": dense}
    specs = {n: _spec(str(f), args.video, args.topic) for n, f in files.items()}
    windows = {n: len(parse_spec(spec)) for n, spec in specs.items()}
    answer: dict[str, Any] = {
        "labelled": int(video.labelled.sum()), "frames": len(video.images), "windows": windows,
        "method": propagated["method"], "single_frame": judge(args.net, judged, _torch(args)),
    }  # fmt: skip
    if rest.any():
        found = attach(read_labels(dense), footage)
        answer["propagated"] = _labels_judged(truth, video, found)
    for name, file in files.items():
        done = run(recipe_of(args, name, (windows[name], max(windows.values())), file))
        answer[name] = {"card": done["card"], **judge(done["card"], judged, _torch(args))}
    return answer


def _judged(
    args: argparse.Namespace, truth: Sparse, video: Sparse, footage: Footage
) -> list[Judged]:
    """What to judge by, its labels written as COCO JSON whatever they came as."""
    out, judged = Path(args.out), []
    rest = frozenset(np.flatnonzero(truth.labelled & ~video.labelled).tolist())
    if rest:
        file = out / "truth.json"
        write_labels(file, few_labels(truth, footage.stamps_ns), only_labelled=True)
        judged.append(Judged("between", args.video, str(file), rest, args.topic))
    for number, pair in enumerate(args.test):
        film, equals, labels = pair.partition("=")
        if not equals:
            raise ConfigError(f"--test: expected VIDEO=LABELS, got '{pair}'")
        other, shown = open_labelled(labels, film, args.topic)
        file = out / f"test_{number}.json"
        write_labels(file, few_labels(other, shown.stamps_ns), only_labelled=True)
        name = Path(film).stem
        name = f"{name}_{number}" if name in {one.name for one in judged} else name
        judged.append(Judged(name, film, str(file), None, args.topic))
    return judged


def _labels_judged(truth: Sparse, video: Sparse, found: Sparse) -> dict[str, float]:
    """How right the propagated labels are, on the frames between."""
    rows = [found.tracks.index(name) if name in found.tracks else -1 for name in truth.tracks]
    xy = np.full(truth.xy_px.shape, np.nan, np.float32)
    for row, at in enumerate(rows):
        if at >= 0:
            xy[row] = found.xy_px[at]
    known = np.asarray(np.isfinite(xy).all(axis=-1))
    estimate = propagate.Estimate(xy, known.astype(np.float32))
    numbers = propagate.judge(truth, video, estimate)
    return {"pck5": 100 * numbers["pck05"], "pck10": 100 * numbers["pck10"],
            "share": numbers["share"]}  # fmt: skip


def _torch(args: argparse.Namespace) -> str:
    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(args.device)


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.few_labels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--video", required=True, help="video or bag (folder or .mcap) that the labels are of")
    add("--topic", default="", help="image topic of bags (default: their only one)")
    add("--labels", required=True, metavar="FEW", help="labels (COCO JSON, CVAT, Label Studio)")
    add("--out", required=True, metavar="DIR", help="folder of labels and runs")
    add("--interval", type=int, default=0, metavar="T", help="use every T-th label, judge by rest")
    add("--test", action="append", default=[], metavar="VIDEO=LABELS",
        help="judge there, too; a video or a bag")  # fmt: skip
    add("--method", default="auto", choices=propagate.METHODS, help="of propagation (auto)")
    add("--net", default=propagate.NET, help="card of the single-frame network (%(default)s)")
    add("--config", type=Path, default=RECIPE, help="recipe of both networks (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads, 0: torch's choice")
    add("settings", nargs="*", metavar="key=value", help="settings on top of the recipe")
    return made


if __name__ == "__main__":
    sys.exit(propagate.command(main, sys.argv[1:]))
