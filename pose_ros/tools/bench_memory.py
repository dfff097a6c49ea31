"""Resident memory of the pipeline over many frames."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import Frame
from pose_ros.tools import bench_pipeline, cli

#: Frames that are shown again and again (they are in memory, too), and frames until the start.
PICTURES, START = 30, 100
SAMPLES = 40


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Resident memory after the first frames and after the last, the video repeated.

    ``slope_mb_per_1000`` is that of a line through the second half: of a leak it stays, while that
    of what an allocator keeps becomes zero. ``kept_mb`` is the most that a video network kept.
    """
    for video in args.video:
        pictures, rate_hz = bench_pipeline.read_frames(video, PICTURES)
        pipeline = bench_pipeline.pipeline(args, "")
        samples: list[tuple[int, float]] = []
        kept = 0
        every = max(1, args.frames // SAMPLES)
        for number in cli.progress(range(args.frames), args.frames, "frame"):
            rgb = pictures[number % len(pictures)].copy()
            pipeline.push(Frame(rgb, round(number * 1e9 / rate_hz)))
            kept = max(kept, kept_bytes(pipeline))
            if number == min(START, args.frames - 1) or (number > START and number % every == 0):
                gc.collect()
                samples.append((number, resident_mb()))
        gc.collect()
        samples.append((args.frames, resident_mb()))
        row: dict[str, Any] = {"video": Path(video).name, "frames": args.frames}
        row |= {"rss_mb_start": samples[0][1], "rss_mb_end": samples[-1][1]}
        row["slope_mb_per_1000"] = slope(samples[len(samples) // 2 :])
        row |= {"kept_mb": round(kept / 2**20, 2), "gpu_mb_end": gpu_mb(pipeline.net.device)}
        yield row | {"net": pipeline.net.name, "device": pipeline.net.device}


def kept_bytes(pipeline: PosePipeline) -> int:
    """Bytes that a video network keeps of earlier frames."""
    return 0 if pipeline.net.stream is None else pipeline.net.stream.nbytes


def slope(samples: list[tuple[int, float]]) -> float:
    """Growth in MB per 1000 frames of samples (frame, MB); 0 of a single one."""
    if len(samples) < 2:
        return 0.0
    frames, mb = np.array(samples, np.float64).T
    return round(float(np.polyfit(frames, mb, 1)[0]) * 1e3, 2)


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
