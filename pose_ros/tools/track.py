"""Skeletons of the people in a video, without ROS.

Writes one JSON object per frame (``--out``) and, if wanted, the video with the skeletons drawn. A
network that looks ahead answers a frame when later ones have come; the line is that frame's.
Joints in metres and joint angles need --camera-fov or --camera-info.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_ros.build import build_pipeline
from pose_ros.core.calibration_file import load_calibration
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.draw import draw_result
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.source import PictureSource, open_source
from pose_ros.core.values import ByteArray, Frame, PoseResult, TrackState
from pose_ros.core.video import VideoWriter
from pose_ros.errors import CalibrationError
from pose_ros.tools import cli


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    source = open_source(args.video)
    pipeline = build_pipeline(cli.pipeline_config(args))
    rate_hz = args.rate or source.rate_hz
    spent_ms: list[float] = []
    seen = Seen()
    calibrated = load_calibration(args.camera_info) if args.camera_info else None
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(_text_file(args.out))
        video = stack.enter_context(VideoWriter(args.overlay, rate_hz)) if args.overlay else None
        waiting: deque[Frame] = deque()  # frames not yet answered

        def write(answers: list[PoseResult]) -> None:
            for result in answers:
                rgb = waiting.popleft().rgb
                lines.write(json.dumps(frame_record(seen.frames, result)) + "\n")
                seen.add(result)
                if video:
                    draw_result(rgb, result, pipeline.skeleton, pipeline.config.model.score_min)
                    video.write(rgb)

        for number, bgr in enumerate(cli.progress(source, source.count, "frame")):
            if args.frames and number >= args.frames:
                break
            rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            camera = _camera(args, calibrated, rgb)
            waiting.append(Frame(rgb, round(number * 1e9 / rate_hz), camera=camera))
            start = time.perf_counter()
            answers = pipeline.push(waiting[-1])
            spent_ms.append((time.perf_counter() - start) * 1e3)
            write(answers)
        write(pipeline.finish())
    return _summary(source, pipeline, spent_ms, seen)


def _camera(
    args: argparse.Namespace, calibrated: PinholeCamera | None, rgb: ByteArray
) -> PinholeCamera | None:
    """Camera of an image, if it is known.

    Raises:
        CalibrationError: it was calibrated for images of another size.

    """
    height, width = rgb.shape[:2]
    if args.camera_fov:
        return PinholeCamera.from_fov(width, height, args.camera_fov)
    if calibrated and (calibrated.width_px, calibrated.height_px) != (width, height):
        raise CalibrationError(
            f"{args.camera_info}: expected the calibration of a {width} x {height} image, got "
            f"that of {calibrated.width_px} x {calibrated.height_px}: calibrate the camera as it "
            "is used, or give --camera-fov"
        )
    return calibrated


@dataclass
class Seen:
    """Who was in the frames answered so far."""

    frames: int = 0
    people_max: int = 0
    ids: set[int] = field(default_factory=set)

    def add(self, result: PoseResult) -> None:
        """Count the people of one more frame."""
        present = result.tracks.ids[result.tracks.state == TrackState.TRACKED]
        self.frames += 1
        self.people_max = max(self.people_max, len(present))
        self.ids.update(present.tolist())


def frame_record(number: int, result: PoseResult) -> dict[str, Any]:
    """One line of the output, for one frame: who is where; NaN is written as null.

    Keypoints are as published: refined where that is on. ``xyz_m`` is in the camera's optical
    frame, null for people of whom nothing metric is known.
    """
    people = []
    shown = result.shown
    for row in range(len(result.tracks)):
        joints = np.column_stack([shown.xy_px[row], shown.score[row]])
        people.append(
            {
                "id": int(result.tracks.ids[row]),
                "state": TrackState(result.tracks.state[row]).name,
                "score": round(float(result.tracks.confidence[row]), 4),
                "box_xyxy_px": [round(float(v), 2) for v in result.tracks.xyxy_px[row]],
                "keypoints_px": _numbers(joints),
                **_metric(result, row),
            }
        )
    return {"frame": number, "stamp_ns": result.stamp_ns, "people": people}


def _metric(result: PoseResult, row: int) -> dict[str, Any]:
    """Joints in metres and joint angles of one person."""
    body = result.body
    if body is None or not np.isfinite(body.poses.xyz_m[row]).any():
        return {"xyz_m": None, "joint_angles_rad": {}}
    told = body.angles
    angles = {}
    if told is not None:
        values = [_number(v) for v in told.angle_rad[row].tolist()]
        angles = dict(zip(told.names, values, strict=True))
    return {"xyz_m": _numbers(body.poses.xyz_m[row]), "joint_angles_rad": angles}


def _numbers(rows: np.ndarray) -> list[list[float | None]]:
    return [[_number(v) for v in row] for row in rows.tolist()]


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _summary(
    source: PictureSource, pipeline: PosePipeline, ms: list[float], seen: Seen
) -> dict[str, Any]:
    p50, p95 = np.percentile(ms, [50, 95]) if ms else (float("nan"), float("nan"))
    return {
        "frames": seen.frames,
        "people_max": seen.people_max,
        "ids": sorted(seen.ids),
        "fps": round(1e3 * len(ms) / sum(ms), 1) if ms else 0.0,
        "ms_per_frame": {"p50": round(float(p50), 2), "p95": round(float(p95), 2)},
        "net": pipeline.net.name,
        "trained": pipeline.net.trained,
        "lookahead_frames": pipeline.net.lookahead,
        "lag_frames": pipeline.lag,
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
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument(
        "--camera-fov", type=float, metavar="DEG", help="horizontal field of view of the camera"
    )
    lens.add_argument(
        "--camera-info", metavar="FILE", help="calibration as ROS's camera_calibration writes it"
    )
    cli.add_pipeline_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
