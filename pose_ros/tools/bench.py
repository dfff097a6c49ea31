"""Measure the product on this machine: medians after a warm-up, variants in turn in one process.

pipeline   milliseconds per frame and per stage, on frames decoded beforehand; how far the variants
           agree with the first one
nets       parameters, GMACs, milliseconds, memory of networks, with and without kept features
transport  images from process to process over DDS: lost ones and delay
refine     the refiner against other filters, on bodies of exactly known motion that are spoiled
memory     resident memory over many frames

Every row is written to stderr as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from pose_ros.core.refine import stream_config
from pose_ros.errors import ConfigError
from pose_ros.tools import bench_memory, bench_nets, bench_pipeline, cli
from pose_ros.tools.bench_refine import refine_rows
from pose_ros.training.datasets.mocap import read_mocap, to_coco17
from pose_ros.training.walker import reach, walk

SIZES_PX = ((640, 480), (1920, 1080))
#: Of `refine`: frame rate of bodies that are made, and people and seconds unless told otherwise.
RATE_HZ, PEOPLE, SECONDS = 30.0, 4, 10.0


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    rows = []
    for row in BENCHES[args.what](args):
        sys.stderr.write(json.dumps(row) + "\n")
        sys.stderr.flush()
        rows.append(row)
    return {"rows": rows}


def bench_transport(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per image size and reliability; each measures two processes of its own."""
    for width, height in SIZES_PX:
        for reliability in ("best_effort", "reliable"):
            command = [sys.executable, "-m", "pose_ros.nodes.transport_bench"]
            command += ["--width", str(width), "--height", str(height), "--rate", str(args.rate)]
            command += ["--seconds", str(args.seconds or SECONDS), "--reliability", reliability]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ConfigError(
                    f"transport needs the built ROS environment (scripts/run python -m "
                    f"pose_ros.tools.bench transport); it ended with: {last}"
                )
            yield json.loads(done.stdout.strip().splitlines()[-1])


def bench_refine(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per method, over all people; see `refine_rows`."""
    for row in refine_rows(bodies(args), config=replace(stream_config(3), lag=args.lag)):
        row = {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()}
        row |= {"jitter": row.pop("jitter_m_s3"), "ms": row.pop("ms_per_frame", None)}
        yield {**row, "people": (args.people or [PEOPLE])[-1]}


def bodies(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, joints (T, 17, 3) in metres and stamps (T,) in s of each of ``--people``.

    Made ones walk and reach in turn; with ``--mocap``, they are its longest clips.
    """
    people, seconds = (args.people or [PEOPLE])[-1], args.seconds or SECONDS
    if args.mocap:
        clips = sorted(read_mocap(args.mocap), key=lambda clip: -len(clip) / clip.fps)
        for clip in islice(clips, people):
            xyz_m = to_coco17(clip)[: round(seconds * clip.fps)]
            yield clip.name, xyz_m, np.arange(len(xyz_m)) / clip.fps
        return
    for seed in range(people):
        make = reach if seed % 2 else walk
        stamps_ns, xyz_m = make(seconds, RATE_HZ, seed)
        yield f"{make.__name__} {seed}", xyz_m, stamps_ns * 1e-9


#: What can be measured; each takes the options and yields its rows.
BENCHES: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "pipeline": bench_pipeline.rows,
    "nets": bench_nets.rows,
    "transport": bench_transport,
    "refine": bench_refine,
    "memory": bench_memory.rows,
}
NEED_VIDEO = ("pipeline", "memory")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("bench", __doc__)
    parser.add_argument("what", choices=tuple(BENCHES))
    parser.add_argument("--video", action="append", help="video file; may be given several times")
    parser.add_argument("--frames", type=int, help="frames (default: 100; memory: 1000)")
    parser.add_argument(
        "--variant", action="append", metavar="NAME=VALUE[,...]",
        help="pipeline: run these parameters side by side; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--camera-fov", type=float, metavar="DEG",
        help="pipeline: horizontal field of view, so that metres and angles are measured, too",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=30.0, help="transport: Hz (default: 30)")
    parser.add_argument("--seconds", type=float, help="transport, refine: s (default: 10)")
    parser.add_argument(
        "--people", type=int, action="append", metavar="N",
        help="nets: people at once, may be given several times (default: 1, 4, 16); refine: "
        "bodies (default: 4)",
    )  # fmt: skip
    parser.add_argument(
        "--mocap", metavar="FOLDER", help="refine: longest clips of these archives (*.npz)"
    )
    parser.add_argument(
        "--lag", type=int, default=0, choices=range(4), help="refine: filter.lag (default: 0)"
    )
    bench_nets.add_options(parser)
    cli.add_pipeline_options(parser)
    args = parser.parse_args(argv)
    args.frames = args.frames or (1000 if args.what == "memory" else 100)
    if args.what in NEED_VIDEO and not args.video:
        parser.error(f"{args.what} needs --video FILE")
    if args.people and min(args.people) < 1:
        parser.error(f"--people: expected at least 1, got {min(args.people)}")
    return args


if __name__ == "__main__":
    cli.run(main)
