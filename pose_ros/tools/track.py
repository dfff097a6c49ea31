"""Skeletons of the people in a video, without ROS.

Writes one JSON object per frame (``--out``) and, if wanted, the video with the skeletons drawn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_ros.build import build_pipeline
from pose_ros.core.draw import draw_result
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.source import PictureSource, open_source
from pose_ros.core.values import Frame, PoseResult, TrackState
from pose_ros.core.video import VideoWriter
from pose_ros.tools import cli


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    source = open_source(args.video)
    pipeline = build_pipeline(cli.pipeline_config(args))
    rate_hz = args.rate or source.rate_hz
    spent_ms: list[float] = []
    ids: set[int] = set()
    people_max = 0
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_text_file(args.out))
        video = stack.enter_context(VideoWriter(args.overlay, rate_hz)) if args.overlay else None
        for number, bgr in enumerate(cli.progress(source, source.count, "frame")):
            if args.frames and number >= args.frames:
                break
            rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            start = time.perf_counter()
            result = pipeline.step(Frame(rgb, round(number * 1e9 / rate_hz)))
            spent_ms.append((time.perf_counter() - start) * 1e3)
            lines.write(json.dumps(frame_record(number, result)) + "\n")
            present = result.tracks.ids[result.tracks.state == TrackState.TRACKED]
            ids.update(present.tolist())
            people_max = max(people_max, len(present))
            if video:
                draw_result(rgb, result, pipeline.skeleton, pipeline.config.model.score_min)
                video.write(rgb)
    return _summary(source, pipeline, spent_ms, people_max, ids)


def frame_record(number: int, result: PoseResult) -> dict[str, Any]:
    """One line of the output, for one frame: who is where; NaN is written as null."""
    people = []
    for row in range(len(result.tracks)):
        joints = np.column_stack([result.poses.xy_px[row], result.poses.score[row]])
        people.append(
            {
                "id": int(result.tracks.ids[row]),
                "state": TrackState(result.tracks.state[row]).name,
                "score": round(float(result.tracks.confidence[row]), 4),
                "box_xyxy_px": [round(float(v), 2) for v in result.tracks.xyxy_px[row]],
                "keypoints_px": [[_number(v) for v in joint] for joint in joints.tolist()],
                "xyz_m": None,
                "joint_angles_rad": {},
            }
        )
    return {"frame": number, "stamp_ns": result.stamp_ns, "people": people}


def _number(value: float) -> float | None:
    return round(value, 3) if np.isfinite(value) else None


def _summary(
    source: PictureSource, pipeline: PosePipeline, ms: list[float], people_max: int, ids: set[int]
) -> dict[str, Any]:
    p50, p95 = np.percentile(ms, [50, 95]) if ms else (float("nan"), float("nan"))
    return {
        "frames": len(ms),
        "people_max": people_max,
        "ids": sorted(ids),
        "fps": round(1e3 * len(ms) / sum(ms), 1) if ms else 0.0,
        "ms_per_frame": {"p50": round(float(p50), 2), "p95": round(float(p95), 2)},
        "net": pipeline.net.name,
        "device": pipeline.net.device,
    }


def _text_file(path: str) -> Any:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return open(path, "w", encoding="utf-8")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("track", __doc__)
    parser.add_argument("video", help="video file, folder of pictures or /dev/videoN")
    parser.add_argument(
        "--out", required=True, metavar="FILE.jsonl", help="one JSON line per frame"
    )
    parser.add_argument("--overlay", metavar="FILE.mp4", help="video with the skeletons drawn")
    parser.add_argument("--rate", type=float, help="frames per second (default: the video's own)")
    parser.add_argument("--frames", type=int, help="stop after this many frames")
    cli.add_pipeline_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
