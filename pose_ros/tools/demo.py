"""The whole graph on a video, camera or robot: a camera node, pose_node and a recorder, over DDS.

Writes DIR/poses (rosbag2), DIR/overlay.mp4, DIR/summary.json and, where joint angles are known,
DIR/angles.png; the last line on stdout is the summary.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pose_ros import graph
from pose_ros.core.config import PipelineConfig, parameters
from pose_ros.errors import ConfigError, PoseRosError, SourceError
from pose_ros.tools import cli, demo_report
from pose_ros.tools.processes import Graph
from pose_ros.tools.sample import FOV_DEG, sample_video

try:
    import domain_coordinator
except ImportError:
    domain_coordinator = None  # a random domain will do

START_S = 120.0  # first start on a slow machine, export of the networks included
QUIET_S = 5.0
REPORT_S = 2.5  # the pose node says once per second what it has counted
TOPIC_S = 10.0
OURS = ("poses", "overlay.mp4", "summary.json", "angles.png", "log", "stamps.csv")


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    source: str
    out: Path
    seconds: float
    rate_hz: float
    fov_deg: float  # horizontal; 0: unknown
    pose: dict[str, Any]
    fov_assumed: bool = False  # nobody said it

    @property
    def is_topic(self) -> bool:
        """Whether the source is an image topic of a running robot."""
        name = self.source
        return name.startswith("/") and not name.startswith("/dev/") and not Path(name).exists()

    @property
    def is_live(self) -> bool:
        """Whether the pictures cannot be read a second time."""
        return self.is_topic or self.source.startswith("/dev/")


def parse(argv: list[str] | None) -> Request:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", nargs="?", default="", metavar="SOURCE",
        help="video file, folder of pictures, /dev/videoN, or an image topic such as "
        "/camera/image_raw (default: a sample video, downloaded once)",
    )  # fmt: skip
    add = parser.add_argument
    add(
        "--seconds", type=float, default=0.0, metavar="S",
        help=f"stop after S seconds (default: the whole video; {TOPIC_S:g} for cameras)",
    )  # fmt: skip
    add(
        "--out", type=Path, default=Path("demo_out"), metavar="DIR",
        help="folder to write (default demo_out); results of an earlier run are replaced",
    )  # fmt: skip
    cli.add_pipeline_options(parser)
    add(
        "--rate", type=float, default=0.0, metavar="HZ",
        help="pictures per second (default: the source's own rate)",
    )  # fmt: skip
    add(
        "--camera-fov", type=float, default=0.0, metavar="DEG",
        help="horizontal field of view in degrees, for 3-D and joint angles (default: "
        f"{FOV_DEG:g}, an assumption, for the sample video; unknown for others; not for topics, "
        "whose camera_info tells)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    defaults = {name: value for name, _, value in parameters(PipelineConfig())}
    chosen = {name: value for name, _, value in parameters(cli.pipeline_config(args))}
    source = args.source
    if source and Path(source).exists():
        source = str(Path(source).absolute())
    request = Request(
        source, args.out.absolute(), args.seconds, args.rate, args.camera_fov,
        {name: value for name, value in chosen.items() if value != defaults[name]},
    )  # fmt: skip
    if request.is_topic and request.fov_deg:
        raise ConfigError(
            f"--camera-fov: expected a video or a camera, got the topic {request.source}: its "
            "calibration is taken from the camera_info beside it"
        )
    if request.is_live and not request.seconds:
        request = replace(request, seconds=TOPIC_S)
    return request


def main(argv: list[str] | None = None) -> int:
    """Run; 0 only if poses were received."""
    try:
        request = parse(argv)
        if not request.source:
            request = _of_sample(request)
        _clear(request.out)
        with _domain(request):
            told, interrupted = run(request)
        if interrupted and not demo_report.complete(request):
            sys.stderr.write("stopped before the first picture was answered\n")
            return 130
        summary = demo_report.write(request, told)
    except PoseRosError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    if interrupted:
        sys.stderr.write("stopped early\n")
    print(json.dumps(summary))
    return 0 if summary["frames_out"] else 1


def _of_sample(request: Request) -> Request:
    """The request on the sample video, whose lens nobody knows."""
    assumed = not request.fov_deg
    return replace(
        request,
        source=str(sample_video()),
        fov_deg=request.fov_deg or FOV_DEG,
        fov_assumed=assumed,
    )


def run(request: Request) -> tuple[demo_report.Told, bool]:
    """Run the graph until the source ends; what the pose node says of itself, and if stopped."""
    interrupted = False
    image = request.source if request.is_topic else graph.IMAGE
    info = image.rpartition("/")[0] + "/camera_info"
    with Graph(request.out / "log") as nodes:
        recorder = nodes.start(
            graph.recorder(str(request.out / "poses"), image=image if request.is_topic else "")
        )
        nodes.start(graph.pose(image, info, **request.pose))
        sys.stderr.write(f"starting the graph; logs in {request.out}/log …\n")
        try:
            _watch(nodes, request)
        except KeyboardInterrupt:
            interrupted = True
    events = recorder.events
    return demo_report.Told(events.get("layout", {}), events.get("report", {})), interrupted


def _camera(request: Request) -> graph.NodeSpec:
    return graph.camera(
        request.source,
        rate_hz=request.rate_hz,
        duration_s=request.seconds,
        fov_deg=request.fov_deg,
        wait_for_subscribers=1,
        stamps_file=str(request.out / "stamps.csv"),
    )


def _watch(nodes: Graph, request: Request) -> None:
    """Wait for the first pose, the end of the source, and the last pose."""
    begin = time.monotonic()
    events = nodes.processes["recorder"].events
    if not request.is_topic:
        # pose_node says STALE_INPUT while it waits: once the recorder heard it, no pose is lost.
        nodes.wait(lambda: "stale" in events, START_S)
        nodes.start(_camera(request))
    if not nodes.wait(lambda: "first" in events, START_S, may_end="camera"):
        words = nodes.processes["pose_node"].last_words()
        raise SourceError(f"no pose within {START_S:g} s; pose_node says:\n{words}")
    sys.stderr.write(f"first pose after {time.monotonic() - begin:.1f} s\n")
    camera = nodes.processes.get("camera")
    if camera is None:
        nodes.wait(lambda: False, request.seconds)
    else:
        nodes.wait(lambda: camera.process.poll() is not None, float("inf"), may_end="camera")
        # STALE_INPUT after frames: everything that was accepted has been answered.
        nodes.wait(lambda: events["stale"]["sequence"] > 0, QUIET_S, may_end="camera")
    known = events.get("report", {}).get("number", 0)
    nodes.wait(
        lambda: events.get("report", {}).get("number", 0) > known, REPORT_S, may_end="camera"
    )


def _clear(out: Path) -> None:
    """Remove the results of an earlier run, and nothing else."""
    out.mkdir(parents=True, exist_ok=True)
    for name in OURS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _domain(request: Request) -> Iterator[None]:
    """Choose a DDS domain of our own unless one is set or a running robot is the source."""
    if request.is_topic or "ROS_DOMAIN_ID" in os.environ:
        yield
        return
    # Held by a port number until the end, so that two demos do not hear each other. Left by hand:
    # the coordinator's own `with` does not end when an error passes through.
    held = domain_coordinator.domain_id() if domain_coordinator else None
    os.environ["ROS_DOMAIN_ID"] = str(held.__enter__() if held else random.randint(1, 99))
    try:
        yield
    finally:
        del os.environ["ROS_DOMAIN_ID"]
        if held:
            held.__exit__(None, None, None)


if __name__ == "__main__":
    raise SystemExit(main())
