"""The demo: the whole graph in processes of its own, its files and its summary."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image

from pose_ros import graph
from pose_ros.core.records import people_record
from pose_ros.msg import HumanPose, HumanPoseArray
from pose_ros.nodes import conversions
from pose_ros.nodes.recorder_node import sequence_and_health

PICTURE = Path(__file__).parents[1] / "data" / "walker.jpg"
FRAMES = 24
FIELDS = {"frames_in", "frames_out", "lost", "people_max", "ids", "latency_ms", "fps", "net",
          "device", "out", "jitter_px", "bone_cv", "angles", "camera_fov_deg"}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walking person")
    for index in range(FRAMES):
        shutil.copy(PICTURE, folder / f"{index:03d}.jpg")
    return folder


def demo(*arguments: Any, domain: int | None = None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "ROS_DOMAIN_ID"}
    if domain is not None:
        env["ROS_DOMAIN_ID"] = str(domain)
    command = [sys.executable, "-m", "pose_ros.tools.demo", *map(str, arguments),
               "--net", "movenet_lightning", "--device", "cpu"]  # fmt: skip
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def topics(bag: Path) -> dict[str, int]:
    with AnyReader([bag]) as reader:
        return {name: info.msgcount for name, info in reader.topics.items()}


def frames(movie: Path) -> int:
    return int(cv2.VideoCapture(str(movie)).get(cv2.CAP_PROP_FRAME_COUNT))


def test_a_folder_of_pictures_becomes_poses_a_film_and_a_summary(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "the results"
    ran = demo(pictures, "--rate", 10, "--camera-fov", 60, "--out", out)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary.keys() >= FIELDS
    assert summary["frames_in"] == FRAMES
    assert summary["frames_out"] >= FRAMES - 3
    assert summary["lost"] == FRAMES - summary["frames_out"]
    assert summary["people_max"] >= 1 and summary["net"] == "movenet_lightning"
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert frames(out / "overlay.mp4") == FRAMES
    counts = topics(out / "poses")
    assert counts[graph.POSES] >= summary["frames_out"] and counts[graph.MARKERS] > 0
    # the recording ends between any two messages, and repeated poses come without angles
    assert summary["frames_out"] <= counts[graph.ANGLES] <= counts[graph.POSES]
    assert (summary["camera_fov_deg"], summary["camera_fov_assumed"]) == (60.0, False)
    low, high = summary["angles"]["knee_range_deg"]
    assert -10 < low <= high < 160 and summary["why_no_angles"] is None
    assert 0.0 <= summary["bone_cv"] < 0.1, "the same picture again and again"
    assert cv2.imread(str(out / "angles.png")) is not None


def test_the_field_of_view_of_a_topic_is_its_own(tmp_path: Path) -> None:
    ran = demo("/camera/image_raw", "--camera-fov", 60, "--out", tmp_path / "out")
    assert ran.returncode == 1 and "camera_info beside it" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_source_that_is_not_there_ends_with_a_sentence(tmp_path: Path) -> None:
    ran = demo("nothing.mp4", "--out", tmp_path / "out")
    assert ran.returncode == 1 and ran.stdout == ""
    assert "nothing.mp4: expected a video file" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_topic_of_a_running_robot_is_recorded_with_its_images(
    pictures: Path, tmp_path: Path, start: Any, domain: int
) -> None:
    robot = start(graph.camera(str(pictures), rate_hz=10.0, loop=True))
    ran = demo(graph.IMAGE, "--seconds", 1.5, "--out", tmp_path, domain=domain)
    assert robot.end() == 0
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout.splitlines()[-1])
    counts = topics(tmp_path / "poses")
    assert counts[graph.IMAGE] == summary["frames_in"] >= 10
    assert summary["frames_out"] >= 8
    assert frames(tmp_path / "overlay.mp4") == summary["frames_in"]


def test_the_overlay_draws_on_the_image_the_poses_belong_to(
    pictures: Path, start: Any, peer: Any
) -> None:
    drawings: list[Image] = []
    sensor = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    reader = peer.node.create_subscription(Image, graph.DEBUG_IMAGE, drawings.append, sensor)
    start(graph.pose(**{"model.name": "movenet_lightning", "device": "cpu"}))
    start(graph.overlay())
    robot = start(graph.camera(str(pictures), rate_hz=10.0, loop=True, wait_for_subscribers=2))
    assert peer.spin_until(lambda: len(drawings) > 8)
    assert robot.end() == 0
    original = cv2.cvtColor(cv2.imread(str(PICTURE)), cv2.COLOR_BGR2RGB)
    drawn = conversions.rgb_from_image(drawings[-1])
    changed = (np.abs(drawn.astype(int) - original).max(axis=2) > 40).mean()
    assert 0.001 < changed < 0.3, "a skeleton is drawn, and little else"
    peer.node.destroy_subscription(reader)


def test_recorded_poses_are_read_without_ros(pictures: Path, tmp_path: Path) -> None:
    ran = demo(pictures, "--rate", 10, "--seconds", 1, "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    with AnyReader([tmp_path / "poses"]) as reader:
        wanted = [c for c in reader.connections if c.topic == graph.POSES]
        records = [
            people_record(reader.deserialize(data, connection.msgtype))
            for connection, _, data in reader.messages(connections=wanted)
        ]
    full = [record for record in records if len(record.ids)]
    assert full and full[0].xy_px.shape[1:] == (17, 2)
    assert np.isnan(full[-1].xyz_m).all()
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["angles"] is None and "give --camera-fov" in summary["why_no_angles"]
    assert not (tmp_path / "angles.png").exists()


@pytest.mark.parametrize("frame_id", ["", "c", "cam", "camera", "camera_optical_frame"])
def test_the_recorder_reads_two_fields_without_the_rest(frame_id: str) -> None:
    message = HumanPoseArray(sequence=7_000_001, health=HumanPoseArray.STALE_INPUT)
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.publish_stamp.nanosec = 5, 9
    message.humans = [HumanPose(id=3)]
    data = serialize_message(message)
    assert sequence_and_health(data) == (7_000_001, HumanPoseArray.STALE_INPUT)
