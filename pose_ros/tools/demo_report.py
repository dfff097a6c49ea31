"""What a recorded run says: the summary, the joint angles, the skeletons on the pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from tqdm import tqdm

from pose_ros import graph
from pose_ros.core.decode import decode_image
from pose_ros.core.draw import draw_skeletons
from pose_ros.core.records import (
    STALE_INPUT,
    AnglesRecord,
    PeopleRecord,
    angles_record,
    people_record,
)
from pose_ros.core.skeletons import get_skeleton
from pose_ros.core.source import open_source
from pose_ros.core.steadiness import bone_cv
from pose_ros.core.values import ByteArray, TrackState
from pose_ros.errors import SourceError
from pose_ros.tools import angle_plot, gait

if TYPE_CHECKING:
    from pose_ros.tools.demo import Request


NO_CALIBRATION = 2  # HumanPoseArray.msg


@dataclass(frozen=True)
class Told:
    """What the pose node said of itself while it ran."""

    layout: dict[str, Any]
    report: dict[str, str]  # its last diagnostics


@dataclass(frozen=True)
class Recorded:
    """The answers of a run by stamp, and how late each was received."""

    people: dict[int, PeopleRecord]
    angles: dict[int, AnglesRecord]
    latency_ms: dict[int, float]
    received_ns: list[int]
    layout: str


def complete(request: Request) -> bool:
    """Whether a run got as far as a bag that can be read and the stamps of what was sent."""
    sent = request.is_topic or (request.out / "stamps.csv").is_file()
    return sent and (request.out / "poses" / "metadata.yaml").is_file()


def write(request: Request, told: Told) -> dict[str, Any]:
    """Write summary.json, angles.png and overlay.mp4 beside the recorded poses.

    Returns the summary.
    """
    bag = request.out / "poses"
    recorded = _read(bag)
    stamps_ns = _stamps(request, bag)
    summary = _summary(recorded, stamps_ns, request.out, told.layout)
    summary |= _steadiness(recorded, told.report) | _body(request, recorded)
    (request.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if recorded.people:
        _overlay(request, recorded, stamps_ns)
    return summary


def _read(bag: Path) -> Recorded:
    people, angles, latency_ms, received_ns, layout = {}, {}, {}, [], "coco17"
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic in (graph.POSES, graph.ANGLES)]
        for connection, now_ns, data in reader.messages(connections=wanted):
            message: Any = reader.deserialize(data, connection.msgtype)
            if message.health == STALE_INPUT:
                continue
            if connection.topic == graph.ANGLES:
                told = angles_record(message)
                angles[told.stamp_ns] = told
                continue
            record = people_record(message)
            if record.stamp_ns in people:
                continue
            people[record.stamp_ns] = record
            latency_ms[record.stamp_ns] = (now_ns - record.stamp_ns) * 1e-6
            received_ns.append(now_ns)
            layout = message.layout
    return Recorded(people, angles, latency_ms, received_ns, layout)


def _stamps(request: Request, bag: Path) -> list[int]:
    """Stamps of the pictures that were sent, in order."""
    if not request.is_topic:
        rows = (request.out / "stamps.csv").read_text().split()
        return [int(row.partition(",")[2]) for row in rows]
    return [stamp_ns for stamp_ns, _ in _recorded_images(bag, request.source, decode=False)]


def _summary(
    recorded: Recorded, stamps_ns: list[int], out: Path, layout: dict[str, Any]
) -> dict[str, Any]:
    answered = [stamp for stamp in stamps_ns if stamp in recorded.people]
    tracked: Counter[int] = Counter()
    people_max = 0
    for stamp in answered:
        record = recorded.people[stamp]
        seen = record.ids[record.state == TrackState.TRACKED].tolist()
        tracked.update(seen)
        people_max = max(people_max, len(seen))
    late = [recorded.latency_ms[stamp] for stamp in answered] or [float("nan")]
    p50, p95, p99 = np.percentile(late, (50, 95, 99)).round(1).tolist()
    times = recorded.received_ns
    span_s = (times[-1] - times[0]) * 1e-9 if len(times) > 1 else 0.0
    return {
        "frames_in": len(stamps_ns),
        "frames_out": len(answered),
        "lost": len(stamps_ns) - len(answered),
        "people_max": people_max,
        "ids": sorted(tracked),
        "ids_share": {str(i): round(tracked[i] / len(answered), 3) for i in sorted(tracked)},
        "latency_ms": {"p50": p50, "p95": p95, "p99": p99} if answered else None,
        "fps": round((len(times) - 1) / span_s, 1) if span_s else None,
        "net": layout.get("net"),
        "device": layout.get("device"),
        "backend": layout.get("backend"),
        "out": str(out),
    }


def _steadiness(recorded: Recorded, report: dict[str, str]) -> dict[str, Any]:
    """Jitter as the pose node counted it, and the spread of the recorded bones."""
    jitter = {
        when: float(report[name]) if name in report else None
        for when, name in (("before", "jitter_before_px"), ("after", "jitter_after_px"))
    }
    stages = {
        name.removesuffix("_ms_p50"): float(value)
        for name, value in report.items()
        if name.endswith("_ms_p50") and name != "stamp_to_publish_ms_p50"
    }
    people = [record for record in recorded.people.values() if len(record.ids)]
    spread = None
    if people:
        ids = np.concatenate([record.ids for record in people])
        xyz_m = np.concatenate([record.xyz_m for record in people])
        spread = bone_cv(ids, xyz_m, get_skeleton(recorded.layout))
    return {
        "jitter_px": jitter,
        "bone_cv": None if spread is None else round(spread, 4),
        "stage_ms": stages,
    }


def _body(request: Request, recorded: Recorded) -> dict[str, Any]:
    """Write angles.png; what the joint angles are of whom, or why there are none."""
    told = [
        gait.Moment(
            stamp_ns, recorded.people[stamp_ns].ids, recorded.people[stamp_ns].xyz_m, a.angles
        )
        for stamp_ns, a in sorted(recorded.angles.items())
        if stamp_ns in recorded.people
    ]
    walk = gait.walker(told, get_skeleton(recorded.layout))
    angles = None
    if walk is not None:
        angle_plot.write(request.out / "angles.png", walk)
        angles = gait.summary(walk)
    return {
        "camera_fov_deg": request.fov_deg or None,
        "camera_fov_assumed": request.fov_assumed,
        "angles": angles,
        "why_no_angles": None if angles else _why_no_angles(recorded),
    }


def _why_no_angles(recorded: Recorded) -> str:
    health = {record.health for record in recorded.people.values()}
    if not any(len(record.ids) for record in recorded.people.values()):
        return "nobody was seen"
    if NO_CALIBRATION in health:
        return (
            "nothing is known of the lens, so nobody is lifted to 3-D: give --camera-fov DEG, or "
            "publish camera_info beside the image topic"
        )
    if not recorded.angles:
        return "3-D or joint angles are switched off (lift.source, joints.convention)"
    return "nobody's knees were seen"


def _overlay(request: Request, recorded: Recorded, stamps_ns: list[int]) -> None:
    """Draw every picture that was sent; one without an answer stays as it is."""
    if request.source.startswith("/dev/"):
        return  # a camera's pictures are gone
    if request.is_topic:
        bag = request.out / "poses"
        pictures: Iterator[tuple[int, ByteArray]] = _recorded_images(bag, request.source)
    else:
        pictures = _source_images(request.source, stamps_ns)
    rate_hz = request.rate_hz or _rate(stamps_ns)
    skeleton = get_skeleton(recorded.layout)
    movie = None
    for stamp_ns, rgb in tqdm(pictures, "overlay.mp4", len(stamps_ns), leave=False, disable=None):
        record = recorded.people.get(stamp_ns)
        if record is not None:
            draw_skeletons(
                rgb, record.ids, record.state, record.xy_px, record.score, skeleton,
                record.xyxy_px, record.status,
            )  # fmt: skip
        if movie is None:
            movie = _movie(request.out / "overlay.mp4", rate_hz, rgb)
        movie.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if movie is not None:
        movie.release()


def _movie(path: Path, rate_hz: float, rgb: ByteArray) -> cv2.VideoWriter:
    height, width = rgb.shape[:2]
    movie = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate_hz, (width, height))
    if not movie.isOpened():
        raise SourceError(f"{path}: OpenCV cannot write an mp4v video here")
    return movie


def _rate(stamps_ns: list[int]) -> float:
    steps = np.diff(stamps_ns)
    return round(1e9 / float(np.median(steps)), 2) if len(steps) else 30.0


def _source_images(source: str, stamps_ns: list[int]) -> Iterator[tuple[int, ByteArray]]:
    for stamp_ns, bgr in zip(stamps_ns, open_source(source), strict=False):
        yield stamp_ns, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _recorded_images(
    bag: Path, topic: str, decode: bool = True
) -> Iterator[tuple[int, ByteArray]]:
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        for connection, _, data in reader.messages(connections=wanted):
            image: Any = reader.deserialize(data, connection.msgtype)
            stamp = image.header.stamp
            rgb = np.zeros((0, 0, 3), np.uint8)
            if decode:
                rgb = decode_image(
                    image.data, width=image.width, height=image.height, encoding=image.encoding,
                    step=image.step, is_bigendian=bool(image.is_bigendian),
                ).copy()  # fmt: skip
            yield stamp.sec * 1_000_000_000 + stamp.nanosec, rgb
