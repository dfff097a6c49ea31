"""Measure the product on this machine: medians after a warm-up, variants in turn in one process.

pipeline   milliseconds per frame and per stage, on frames decoded beforehand
transport  images from process to process over DDS: lost ones and delay
memory     resident memory over many frames
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_ros.build import build_pipeline
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.source import open_source
from pose_ros.core.values import ByteArray, Frame, TrackState
from pose_ros.errors import ConfigError, SourceError
from pose_ros.tools import cli

WARM_UP_FRAMES = 10
SIZES_PX = ((640, 480), (1920, 1080))


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    rows = {"pipeline": bench_pipeline, "transport": bench_transport, "memory": bench_memory}
    answer = rows[args.what](args)
    for row in answer:
        sys.stderr.write(json.dumps(row) + "\n")
    return {"rows": answer}


def bench_pipeline(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per video and variant; the variants take turns on every frame."""
    rows = []
    variants = args.variant or [""]
    for video in args.video:
        frames, rate_hz = _read_frames(video, args.frames + WARM_UP_FRAMES)
        pipelines = [_pipeline(args, variant) for variant in variants]
        ms: list[list[float]] = [[] for _ in variants]
        stages: list[list[dict[str, float]]] = [[] for _ in variants]
        people: list[list[int]] = [[] for _ in variants]
        turns = cli.progress(enumerate(frames), len(frames), "frame")
        for number, rgb in turns:
            frame = Frame(rgb, round(number * 1e9 / rate_hz))
            for column, pipeline in enumerate(pipelines):
                start = time.perf_counter()
                result = pipeline.step(frame)
                ms[column].append((time.perf_counter() - start) * 1e3)
                stages[column].append(result.stage_ms)
                people[column].append(int((result.tracks.state == TrackState.TRACKED).sum()))
        for column, variant in enumerate(variants):
            keep = slice(WARM_UP_FRAMES, None)
            row: dict[str, Any] = {
                "video": Path(video).name,
                "people": _mean_and_max(people[column][keep]),
            }
            row |= {"net": pipelines[column].net.name, "variant": variant or "default"}
            row |= _percentiles("ms_per_frame", ms[column][keep])
            row["stages"] = _stage_medians(stages[column][keep])
            row |= {"device": pipelines[column].net.device, "frames": len(frames) - WARM_UP_FRAMES}
            rows.append(row)
    return rows


def bench_transport(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per image size and reliability; each measures two processes of its own."""
    rows = []
    for width, height in SIZES_PX:
        for reliability in ("best_effort", "reliable"):
            command = [sys.executable, "-m", "pose_ros.nodes.transport_bench"]
            command += ["--width", str(width), "--height", str(height), "--rate", str(args.rate)]
            command += ["--seconds", str(args.seconds), "--reliability", reliability]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ConfigError(
                    f"transport needs the built ROS environment (scripts/run python -m "
                    f"pose_ros.tools.bench transport); it ended with: {last}"
                )
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return rows


def bench_memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Resident memory after the first 100 frames and after the last, the video repeated."""
    rows = []
    for video in args.video:
        pictures, rate_hz = _read_frames(video, 100)
        pipeline = _pipeline(args, "")
        start_mb = 0.0
        for number in cli.progress(range(args.frames), args.frames, "frame"):
            rgb = pictures[number % len(pictures)].copy()
            pipeline.step(Frame(rgb, round(number * 1e9 / rate_hz)))
            if number == min(100, args.frames - 1):
                gc.collect()
                start_mb = resident_mb()
        gc.collect()
        row: dict[str, Any] = {
            "video": Path(video).name,
            "frames": args.frames,
            "rss_mb_start": start_mb,
        }
        row |= {"rss_mb_end": resident_mb(), "gpu_mb_end": gpu_mb(pipeline.net.device)}
        rows.append(row | {"net": pipeline.net.name, "device": pipeline.net.device})
    return rows


def resident_mb() -> float:
    """Memory of this process that is in RAM, in MB (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)


def gpu_mb(device: str) -> float | None:
    """Memory that torch holds on the GPU, in MB; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    return round(torch.cuda.memory_reserved(device) / 2**20, 1)


def _pipeline(args: argparse.Namespace, variant: str) -> PosePipeline:
    changes = [text for text in variant.split(",") if text]
    config = cli.pipeline_config(argparse.Namespace(**(vars(args) | {"set": args.set + changes})))
    return build_pipeline(config)


def _read_frames(video: str, count: int) -> tuple[list[ByteArray], float]:
    source = open_source(video)
    frames = [cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) for bgr in islice(iter(source), count)]
    if len(frames) <= WARM_UP_FRAMES:
        raise SourceError(
            f"{video}: expected more than {WARM_UP_FRAMES} frames, got {len(frames)}"
        )
    return frames, source.rate_hz


def _percentiles(name: str, ms: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(ms, [50, 95])
    return {f"{name}_p50": round(float(p50), 2), f"{name}_p95": round(float(p95), 2)}


def _stage_medians(stages: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: round(float(np.median([stage[name] for stage in stages])), 2) for name in stages[0]
    }


def _mean_and_max(people: list[int]) -> dict[str, float]:
    return {"mean": round(float(np.mean(people)), 2), "max": int(np.max(people))}


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("bench", __doc__)
    parser.add_argument("what", choices=("pipeline", "transport", "memory"))
    parser.add_argument("--video", action="append", help="video file; may be given several times")
    parser.add_argument("--frames", type=int, help="frames (default: 100; memory: 1000)")
    parser.add_argument(
        "--variant", action="append", metavar="NAME=VALUE[,...]",
        help="pipeline: run these parameters side by side; may be given several times",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=30.0, help="transport: Hz (default: 30)")
    parser.add_argument("--seconds", type=float, default=10.0, help="transport: s (default: 10)")
    cli.add_pipeline_options(parser)
    args = parser.parse_args(argv)
    args.frames = args.frames or (1000 if args.what == "memory" else 100)
    if args.what != "transport" and not args.video:
        parser.error(f"{args.what} needs --video FILE")
    return args


if __name__ == "__main__":
    cli.run(main)
