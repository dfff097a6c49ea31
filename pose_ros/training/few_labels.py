"""From the labels of few frames to a trained network, and what the frames between were worth.

  few_labels --video V.mp4 --labels FEW.json --out DIR
  few_labels --video V.mp4 --labels ALL.json --interval 7 --out DIR --test 'W.mp4=W.json'

Procedure of paper 003 (Table 3), with the networks of a recipe: the labels are propagated to every
frame (`training.propagate`); one network learns from the few labels alone, another one from them
and what was propagated, both from the same start, for as many steps, with the same recipe. With
--interval every T-th label of ALL is used, and both networks and the one that looks at single
frames (--net) are judged on the frames in between; --test VIDEO=LABELS judges them elsewhere.

DIR gets few.json, dense.json, and the runs few/ and dense/ with their cards. The same command goes
on where a killed one stopped. Settings of the recipe can follow: train.epochs=5.
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
from pose_ros.training.footage import attach, open_footage
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
    labels: str
    frames: frozenset[int] | None = None

    def dataset(self, frames: int, key: int) -> ClipDataset:
        """Samples of the labels in windows of a network.

        Raises:
            ConfigError: no frame is left to judge by.

        """
        every = parse_spec(_spec(self.labels, self.video), frames=frames, key=key)
        if self.frames is None:
            return every
        rows = [i for i in range(len(every)) if _frame(every, i) in self.frames]
        if not rows:
            raise ConfigError(f"{self.labels}: expected labels of frames that are not used")
        return Subset(every, rows)


def _frame(dataset: ClipDataset, index: int) -> int:
    sample = dataset[index]
    return int(sample.frame_index[sample.key])


def _spec(labels: str, video: str) -> str:
    return f"video_coco:{labels}?video={video}"


def few_labels(video: Sparse) -> DenseLabels:
    """Only the labels that a video has, to be written as COCO JSON."""
    known = np.isfinite(video.xy_px).all(axis=-1) & (video.visible > 0)
    return DenseLabels(
        video.skeleton, video.size_px, video.tracks, video.labelled, None, video.xy_px,
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
        data=replace(base.data, train=(_spec(str(labels), args.video),), val=(), pseudo=()),
        train=replace(base.train, epochs=round(base.train.epochs * longer), batch=min(batch, own)),
        cache=replace(base.cache, variants=base.cache.variants * times),
    )


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    out = Path(args.out)
    truth = attach(read_labels(Path(args.labels)), open_footage(Path(args.video)))
    video = propagate.every(truth, args.interval) if args.interval else truth
    few, dense = out / "few.json", out / "dense.json"
    write_labels(few, few_labels(video), only_labelled=True)
    asked = ["--video", args.video, "--labels", str(few), "--out", str(dense)]
    asked += ["--method", args.method, "--net", args.net, "--device", args.device]
    propagated = propagate.main([*asked, "--threads", str(args.threads)])
    rest = frozenset(np.flatnonzero(truth.labelled & ~video.labelled).tolist())
    judged = [Judged("between", args.video, args.labels, rest)] if rest else []
    for pair in args.test:
        film, equals, labels = pair.partition("=")
        if not equals:
            raise ConfigError(f"--test: expected VIDEO=LABELS, got '{pair}'")
        judged.append(Judged(Path(film).stem, film, labels))
    files = {"few": few, "dense": dense}
    windows = {n: len(parse_spec(_spec(str(f), args.video))) for n, f in files.items()}
    answer: dict[str, Any] = {
        "labelled": int(video.labelled.sum()), "frames": len(video.images), "windows": windows,
        "method": propagated["method"], "single_frame": judge(args.net, judged, _torch(args)),
    }  # fmt: skip
    if rest:
        found = attach(read_labels(dense), open_footage(Path(args.video)))
        answer["propagated"] = _labels_judged(truth, video, found)
    for name, file in files.items():
        done = run(recipe_of(args, name, (windows[name], max(windows.values())), file))
        answer[name] = {"card": done["card"], **judge(done["card"], judged, _torch(args))}
    return answer


def _labels_judged(truth: Sparse, video: Sparse, found: Sparse) -> dict[str, float]:
    """How right the propagated labels are, on the frames between."""
    rows = [found.tracks.index(name) if name in found.tracks else -1 for name in truth.tracks]
    xy = np.full(truth.xy_px.shape, np.nan, np.float32)
    for row, at in enumerate(rows):
        if at >= 0:
            xy[row] = found.xy_px[at]
    estimate = propagate.Estimate(xy, np.isfinite(xy).all(-1).astype(np.float32))
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
    add("--video", required=True, help="video that the labels are of")
    add("--labels", required=True, metavar="FEW", help="labels (COCO JSON, CVAT, Label Studio)")
    add("--out", required=True, metavar="DIR", help="folder of labels and runs")
    add("--interval", type=int, default=0, metavar="T", help="use every T-th label, judge by rest")
    add("--test", action="append", default=[], metavar="VIDEO=LABELS", help="judge there, too")
    add("--method", default="auto", choices=propagate.METHODS, help="of propagation (auto)")
    add("--net", default=propagate.NET, help="card of the single-frame network (%(default)s)")
    add("--config", type=Path, default=RECIPE, help="recipe of both networks (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads, 0: torch's choice")
    add("settings", nargs="*", metavar="key=value", help="settings on top of the recipe")
    return made


if __name__ == "__main__":
    sys.exit(propagate.command(main, sys.argv[1:]))
