"""What the pipeline costs per frame and stage, and how far variants of it agree."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from pose_ros.build import build_pipeline
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.source import open_source
from pose_ros.core.values import ByteArray, Frame, PoseResult, TrackState
from pose_ros.errors import SourceError
from pose_ros.tools import cli

WARM_UP_FRAMES = 10
#: Joints of the first variant that others are compared at, and how near they must come.
AGREE_SCORE, AGREE_SHARE = 0.3, 0.05  # of the height of the person's box


@dataclass
class Column:
    """What one variant did on a video."""

    name: str
    pipeline: PosePipeline
    ms: list[float] = field(default_factory=list)
    answers: dict[int, PoseResult] = field(default_factory=dict)  # by stamp

    def push(self, frame: Frame) -> None:
        """Show it one more frame."""
        start = time.perf_counter()
        results = self.pipeline.push(frame)
        self.ms.append((time.perf_counter() - start) * 1e3)
        self.answers |= {result.stamp_ns: result for result in results}

    def row(self, video: str, first: Column) -> dict[str, Any]:
        """Numbers of all frames but the first ones, the agreement with the ``first`` variant."""
        results = list(self.answers.values())[WARM_UP_FRAMES:]
        people = [int((r.tracks.state == TrackState.TRACKED).sum()) for r in results]
        net = self.pipeline.net
        row: dict[str, Any] = {"video": Path(video).name, "people": mean_and_max(people)}
        row |= {"net": net.name, "trained": net.trained, "variant": self.name or "default"}
        row |= percentiles("ms_per_frame", self.ms[WARM_UP_FRAMES:])
        row["stages"] = stage_medians([r.stage_ms for r in results])
        row["agreement"] = agreement(first.answers, self.answers)
        return row | {"device": net.device, "frames": len(self.ms) - WARM_UP_FRAMES}


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per video and variant; the variants take turns on every frame."""
    for video in args.video:
        frames, rate_hz = read_frames(video, args.frames + WARM_UP_FRAMES)
        columns = [Column(v, pipeline(args, v)) for v in args.variant or [""]]
        height, width = frames[0].shape[:2]
        camera = None
        if args.camera_fov:
            camera = PinholeCamera.from_fov(width, height, args.camera_fov)
        for number, rgb in cli.progress(enumerate(frames), len(frames), "frame"):
            frame = Frame(rgb, round(number * 1e9 / rate_hz), camera=camera)
            for column in columns:
                column.push(frame)
        for column in columns:
            yield column.row(video, columns[0])


def agreement(first: dict[int, PoseResult], other: dict[int, PoseResult]) -> float | None:
    """Share of the joints of one run that another run puts at the same place, by stamp.

    Joints with a score of at least AGREE_SCORE count, from WARM_UP_FRAMES on; the same place is
    within AGREE_SHARE of the height of the person's box. People are paired for the most joints in
    common, so a person that the other run lacks costs all of its joints; frames that it has not
    answered are left out. None without joints.
    """
    same, total = 0, 0
    for stamp in list(first)[WARM_UP_FRAMES:]:
        if stamp in other:
            near, wanted = common_joints(first[stamp], other[stamp])
            rows_, columns = linear_sum_assignment(near, maximize=True)
            same += int(near[rows_, columns].sum())
            total += wanted
    return round(same / total, 4) if total else None


def common_joints(first: PoseResult, other: PoseResult) -> tuple[np.ndarray, int]:
    """(P, Q) joints of P people of a frame that are near those of Q people, and how many P has."""
    score, xy_px = first.poses.score, first.poses.xy_px
    sure = (score >= AGREE_SCORE) & np.isfinite(xy_px).all(-1)  # (P, J)
    boxes = first.tracks.xyxy_px
    reach_px = AGREE_SHARE * (boxes[:, 3] - boxes[:, 1])
    off_px = np.linalg.norm(xy_px[:, None] - other.poses.xy_px[None], axis=-1)  # (P, Q, J)
    near = sure[:, None] & (off_px <= reach_px[:, None, None])  # NaN is never near
    return near.sum(-1), int(sure.sum())


def pipeline(args: argparse.Namespace, variant: str) -> PosePipeline:
    """Pipeline of the options and of a variant's NAME=VALUE[,...]."""
    changes = [text for text in variant.split(",") if text]
    config = cli.pipeline_config(argparse.Namespace(**(vars(args) | {"set": args.set + changes})))
    return build_pipeline(config)


def read_frames(video: str, count: int) -> tuple[list[ByteArray], float]:
    """Read the first ``count`` frames, RGB, and the frame rate.

    Raises:
        SourceError: the video is too short.

    """
    source = open_source(video)
    frames = [cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB) for bgr in islice(iter(source), count)]
    if len(frames) <= WARM_UP_FRAMES:
        raise SourceError(
            f"{video}: expected more than {WARM_UP_FRAMES} frames, got {len(frames)}"
        )
    return frames, source.rate_hz


def percentiles(name: str, ms: list[float]) -> dict[str, float]:
    """Median and 95 % quantile as ``name_p50`` and ``name_p95``."""
    p50, p95 = np.percentile(ms, [50, 95])
    return {f"{name}_p50": round(float(p50), 2), f"{name}_p95": round(float(p95), 2)}


def stage_medians(stages: list[dict[str, float]]) -> dict[str, float]:
    """Median per stage, of the frames in which it ran."""
    names = dict.fromkeys(name for stage in stages for name in stage)
    return {
        name: round(float(np.median([s[name] for s in stages if name in s])), 2) for name in names
    }


def mean_and_max(people: list[int]) -> dict[str, float]:
    """Mean and maximum of counts."""
    return {"mean": round(float(np.mean(people)), 2), "max": int(np.max(people))}
