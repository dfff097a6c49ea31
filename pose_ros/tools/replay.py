"""A recorded bag through the pipeline: without DDS, the same bytes every time.

DIR/poses is a rosbag2 directory with /human_pose and, where joint angles are on,
/human_pose/joint_angles, stamped like the images (publish_stamp is the image's stamp, too). The
calibration is that of the camera_info topic beside the images. report.json and report.html say how
steady the skeletons are, and how far from the truth when there is one (--truth: the JSON lines of
tools.track).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import deque
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer

from pose_ros import graph
from pose_ros.build import build_pipeline
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.values import PoseResult
from pose_ros.errors import ShapeError
from pose_ros.messages import PoseMessages
from pose_ros.tools import cli, replay_report
from pose_ros.tools.bag_input import BagInput, open_bag
from pose_ros.tools.bag_messages import ANGLES_TYPE, POSES_TYPE, message_types, pose_typestore

OK, DEGRADED_NO_DEPTH, DEGRADED_NO_CALIBRATION = range(3)  # HumanPoseArray.msg


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    out = Path(args.out)
    truth = replay_report.read_truth(Path(args.truth)) if args.truth else None
    with open_bag(Path(args.bag)) as reader:
        config = cli.pipeline_config(args)
        bag = BagInput(reader, args.topic, args.depth, config.depth.extrinsics)
        pipeline = build_pipeline(config)
        out.mkdir(parents=True, exist_ok=True)
        results, ms, skipped = _replay(bag, pipeline, out / "poses")
    report = replay_report.make(results, ms, pipeline.skeleton, truth)
    report |= {"skipped": skipped, "topic": bag.image.topic, "net": pipeline.net.name}
    report |= {"trained": pipeline.net.trained, "lookahead_frames": pipeline.net.lookahead}
    report |= {"lag_frames": pipeline.lag, "device": pipeline.net.device}
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    replay_report.write_html(out / "report.html", report, (results, pipeline.skeleton), ms)
    return report


class PoseBag:
    """Writes answers into a bag, in the order and under the headers of the images."""

    def __init__(self, writer: Writer, pipeline: PosePipeline) -> None:
        """Add the topics."""
        config = pipeline.config
        self._store = pose_typestore()
        types = message_types(self._store)
        self._messages = PoseMessages(types, pipeline.skeleton, config.model.score_min)
        self._convention = config.joints.convention if config.lift.source != "none" else "none"
        self._writer = writer
        add = writer.add_connection
        self._poses = add(graph.POSES, POSES_TYPE, typestore=self._store)
        told = self._convention != "none"
        self._angles = add(graph.ANGLES, ANGLES_TYPE, typestore=self._store) if told else None
        self._asked: deque[tuple[Any, int, bool]] = deque()  # images not yet answered
        self.results: list[PoseResult] = []

    def ask(self, header: Any, bag_ns: int, calibrated: bool) -> None:
        """Note an image that was given to the pipeline."""
        self._asked.append((header, bag_ns, calibrated))

    def write(self, answers: list[PoseResult]) -> None:
        """Write the answers to the images that waited longest."""
        for result in answers:
            header, bag_ns, calibrated = self._asked.popleft()
            health = _health(calibrated, result.with_depth)
            message = self._messages.array(result, header)
            message.sequence = len(self.results) + 1
            message.publish_stamp = header.stamp
            message.health = health
            self._put(self._poses, bag_ns, message, POSES_TYPE)
            if self._angles is not None:
                angles = self._messages.joint_angles(result, header, self._convention)
                angles.health = health
                self._put(self._angles, bag_ns, angles, ANGLES_TYPE)
            self.results.append(result)

    def _put(self, connection: Any, bag_ns: int, message: Any, kind: str) -> None:
        self._writer.write(connection, bag_ns, self._store.serialize_cdr(message, kind))


def _health(calibrated: bool, with_depth: bool) -> int:
    """What the live node says of an image."""
    if not calibrated:
        return DEGRADED_NO_CALIBRATION
    return OK if with_depth else DEGRADED_NO_DEPTH


def _replay(
    bag: BagInput, pipeline: PosePipeline, folder: Path
) -> tuple[list[PoseResult], list[float], int]:
    ms: list[float] = []
    skipped = 0
    shutil.rmtree(folder, ignore_errors=True)
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        out = PoseBag(writer, pipeline)
        arriving = bag.images(pipeline.config.depth.max_skew_s)
        for arrived in cli.progress(arriving, len(bag), "image"):
            start = time.perf_counter()
            try:
                frame = arrived.frame()
            except ShapeError as error:
                skipped += 1
                _warn(error, skipped)
                continue
            out.ask(arrived.message.header, arrived.bag_ns, frame.camera is not None)
            answers = pipeline.push(frame)
            ms.append((time.perf_counter() - start) * 1e3)
            out.write(answers)
        out.write(pipeline.finish())
    return out.results, ms, skipped


def _warn(error: ShapeError, count: int) -> None:
    if count <= 3:
        cli.log.warning("an image was skipped: %s", error)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("replay", __doc__)
    parser.add_argument("bag", help="rosbag2 directory, sqlite3 or MCAP")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--topic", help="image topic (default: the only one)")
    parser.add_argument(
        "--depth", metavar="TOPIC", help="depth image topic, registered to the image "
        "(default: none is used); its camera_info lies beside it",
    )  # fmt: skip
    parser.add_argument(
        "--truth", metavar="FILE.jsonl", help="true skeletons, as tools.track writes"
    )
    cli.add_pipeline_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
