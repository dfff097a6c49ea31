"""How wrong propagated labels are: every T-th frame labelled, error on the rest, methods compared.

  propagate_benchmark --labels ALL.json --video V.mp4 [--labels B.json --video B.mp4 ...]

ALL labels many frames in a row. The table has a row per method and a column per T: mean error in
pixels, in percent of the box's longer side, and PCK at 0.05 and 0.1 of it, on frames without label
only. STDPose is run where ``--finetune`` or a trained network is given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose_ros.errors import ConfigError
from pose_ros.training.footage import attach, open_footage
from pose_ros.training.label_files import read_labels
from pose_ros.training.propagate import METHODS, NET, PLAIN, command, every, judge, open_for
from pose_ros.training.propagation import Estimate, Sparse, finish
from pose_ros.training.propagation_finetune import fine_tune
from pose_ros.training.propagation_fuse import fused
from pose_ros.training.propagation_nets import anchored, looked_at, propagated

INTERVALS = (2, 3, 5, 7, 10, 15)


@dataclass(frozen=True)
class Row:
    """One method at one interval on one video."""

    video: str
    interval: int
    method: str
    seconds: float
    numbers: dict[str, float]


def compare(truth: Sparse, interval: int, args: argparse.Namespace) -> list[Row]:
    """Every method on one video, with every ``interval``-th label."""
    video = every(truth, interval)
    rows = []
    looked: Estimate | None = None
    for method in args.methods:
        start = time.process_time()
        if method in ("auto", "network", "anchored") and looked is None:
            network = open_for(method, args.net, args.device)
            assert network is not None
            looked = looked_at(video, network)
        found = _run(method, video, looked, args)
        spent = time.process_time() - start
        # what is not sure counts here, too: a method must not win by leaving out what is hard
        done = finish(video, found, len(video.images), 0.0)
        rows.append(Row(truth.name, interval, method, spent, judge(truth, video, done)))
    return rows


def _run(
    method: str, video: Sparse, looked: Estimate | None, args: argparse.Namespace
) -> Estimate:
    if method in PLAIN:
        return PLAIN[method](video)
    if method == "stdpose":
        network = open_for(method, args.stdpose, args.device)
        assert network is not None
        if args.finetune:
            with tempfile.TemporaryDirectory(prefix="propagate_") as folder:
                network = fine_tune(video, network, args.finetune, Path(folder)).network
        return propagated(video, network, len(video.images))
    assert looked is not None
    if method == "auto":
        return fused(video, looked)
    return looked if method == "network" else anchored(video, looked)


def slower(video: Sparse, step: int) -> Sparse:
    """Every ``step``-th frame of a video: what a slower camera would have seen."""
    some = slice(None, None, step)
    return replace(
        video,
        images=video.images[some],
        labelled=video.labelled[some],
        xy_px=video.xy_px[:, some],
        visible=video.visible[:, some],
        box_xyxy_px=video.box_xyxy_px[:, some],
    )


def table(rows: Sequence[Row], methods: Sequence[str], intervals: Sequence[int]) -> str:
    """Markdown: a row per method, means over videos."""
    lines = [
        "| method | " + " | ".join(f"T = {t}" for t in intervals) + " |",
        "|---|" + "---|" * len(intervals),
    ]
    for method in methods:
        cells = [
            _cell([r for r in rows if (r.method, r.interval) == (method, t)]) for t in intervals
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    px, share, near, far = (
        float(np.nanmean([r.numbers.get(n, np.nan) for r in rows]))
        for n in ("px", "share", "pck05", "pck10")
    )
    return f"{px:.1f} px, {100 * share:.2f} %, {100 * near:.1f} / {100 * far:.1f}"


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    if len(args.labels) != len(args.video):
        raise ConfigError(
            f"expected a --video for every --labels, got {len(args.video)} and {len(args.labels)}"
        )
    torch.set_num_threads(args.threads or torch.get_num_threads())
    rows: list[Row] = []
    for labels, video in zip(args.labels, args.video, strict=True):
        footage = open_footage(Path(video), args.topic)
        truth = attach(read_labels(Path(labels), size_px=footage.size_px), footage)
        truth = slower(replace(truth, name=Path(labels).stem), args.stride)
        for interval in args.intervals:
            rows += compare(truth, interval, args)
            sys.stderr.write(f"{truth.name}, T = {interval}: done\n")
    sys.stdout.write(table(rows, args.methods, args.intervals) + "\n")
    plain = [
        {"video": r.video, "interval": r.interval, "method": r.method,
         "cpu_s": round(r.seconds, 2), **r.numbers}
        for r in rows
    ]  # fmt: skip
    return {"rows": plain}


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.propagate_benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--labels", action="append", required=True, metavar="ALL.json", help="dense labels")
    add("--video", action="append", required=True, help="what they belong to")
    add("--topic", default="", help="image topic of bags")
    add("--intervals", type=_numbers, default=INTERVALS, metavar="T,T", help="(2,3,5,7,10,15)")
    add("--stride", type=int, default=1, metavar="N", help="see every N-th frame only")
    add("--methods", type=_methods, default=tuple(m for m in METHODS if m != "stdpose"),
        metavar="A,B", help=f"of {', '.join(METHODS)} (default: all but stdpose)")  # fmt: skip
    add("--net", default=NET, help="single-frame card (default: %(default)s)")
    add("--stdpose", default="stdpose_movenet", help="STDPose card (default: %(default)s)")
    add("--finetune", type=int, default=0, help="steps on the labels before STDPose propagates")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--threads", type=int, default=0, help="CPU threads, 0: torch's choice")
    return made


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _methods(text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    strange = [m for m in chosen if m not in METHODS]
    if strange:
        raise argparse.ArgumentTypeError(f"unknown {strange[0]}; known: {', '.join(METHODS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(command(main, sys.argv[1:]))
