"""A recorded bag through the pipeline: without DDS, the same bytes every time.

DIR/poses is a rosbag2 directory with /human_pose, stamped like the images (publish_stamp is the
image's stamp, too). report.json and report.html say how steady the skeletons are, and how far from
the truth when there is one (--truth: the JSON lines of tools.track).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer

from pose_ros.build import build_pipeline
from pose_ros.core.decode import decode_compressed, decode_image
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import ByteArray, Frame, PoseResult
from pose_ros.errors import ConfigError, ShapeError, SourceError
from pose_ros.messages import PoseMessages
from pose_ros.tools import cli, replay_report
from pose_ros.tools.bag_messages import POSES_TYPE, message_types, pose_typestore

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEGRADED_NO_CALIBRATION = 2  # HumanPoseArray.msg


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    out = Path(args.out)
    truth = replay_report.read_truth(Path(args.truth)) if args.truth else None
    with _open_bag(Path(args.bag)) as reader:
        connection = image_connection(reader, args.topic)
        pipeline = build_pipeline(cli.pipeline_config(args))
        out.mkdir(parents=True, exist_ok=True)
        results, ms, skipped = _replay(reader, connection, pipeline, out / "poses")
    report = replay_report.make(results, ms, pipeline.skeleton, truth)
    report |= {"skipped": skipped, "topic": connection.topic, "net": pipeline.net.name}
    report["device"] = pipeline.net.device
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    replay_report.write_html(out / "report.html", report, results, ms)
    return report


def image_connection(reader: AnyReader, topic: str | None) -> Connection:
    """Image topic of a bag; the only one, or the one asked for.

    Raises:
        ConfigError: there is none, there are several, or not the one asked for.

    """
    images = {c.topic: c for c in reader.connections if c.msgtype in IMAGE_TYPES}
    if topic is None and len(images) == 1:
        return next(iter(images.values()))
    if topic in images:
        return images[topic]
    have = ", ".join(sorted(images)) or "none"
    wanted = f"image topic '{topic}'" if topic else "exactly one image topic (choose with --topic)"
    raise ConfigError(f"expected {wanted} in the bag; it has {have}")


def _replay(
    reader: AnyReader, connection: Connection, pipeline: PosePipeline, folder: Path
) -> tuple[list[PoseResult], list[float], int]:
    store = pose_typestore()
    messages = PoseMessages(
        message_types(store), pipeline.skeleton, pipeline.config.model.score_min
    )
    results: list[PoseResult] = []
    ms: list[float] = []
    skipped = 0
    shutil.rmtree(folder, ignore_errors=True)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        poses = writer.add_connection("/human_pose", POSES_TYPE, typestore=store)
        recorded = reader.messages(connections=[connection])
        for _, bag_ns, raw in cli.progress(recorded, connection.msgcount, "image"):
            start = time.perf_counter()
            image = reader.deserialize(raw, connection.msgtype)
            try:
                rgb = _pixels(image, connection.msgtype)
            except ShapeError as error:
                skipped += 1
                _warn(error, skipped)
                continue
            stamp_ns = image.header.stamp.sec * 1_000_000_000 + image.header.stamp.nanosec
            result = pipeline.step(Frame(rgb, stamp_ns, image.header.frame_id))
            ms.append((time.perf_counter() - start) * 1e3)
            message = messages.array(result, image.header)
            message.sequence = len(results) + 1
            message.publish_stamp = image.header.stamp
            message.health = DEGRADED_NO_CALIBRATION
            writer.write(poses, bag_ns, store.serialize_cdr(message, POSES_TYPE))
            results.append(result)
    return results, ms, skipped


def _pixels(image: Any, kind: str) -> ByteArray:
    if kind == IMAGE_TYPES[1]:
        return decode_compressed(image.data, image.format)
    return decode_image(
        image.data, width=image.width, height=image.height, encoding=image.encoding,
        step=image.step, is_bigendian=bool(image.is_bigendian),
    )  # fmt: skip


def _warn(error: ShapeError, count: int) -> None:
    if count <= 3:
        cli.log.warning("an image was skipped: %s", error)


@contextmanager
def _open_bag(path: Path) -> Iterator[AnyReader]:
    try:
        with AnyReader([path], default_typestore=pose_typestore()) as reader:
            yield reader
    except (AnyReaderError, OSError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{path}: expected a rosbag2 directory (sqlite3 or MCAP, metadata.yaml): {error}"
        ) from error


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("replay", __doc__)
    parser.add_argument("bag", help="rosbag2 directory, sqlite3 or MCAP")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--topic", help="image topic (default: the only one)")
    parser.add_argument(
        "--truth", metavar="FILE.jsonl", help="true skeletons, as tools.track writes"
    )
    cli.add_pipeline_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
