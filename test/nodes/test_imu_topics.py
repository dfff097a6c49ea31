"""Inertial sensors over DDS: a camera that pans, one in another clock's time, worn ones."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Quaternion, Vector3
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, Imu
from std_msgs.msg import Header

from pose_ros import graph
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.ego import cut_turned
from pose_ros.core.so3 import exp_so3
from pose_ros.msg import HumanPose, HumanPoseArray
from pose_ros.nodes import conversions

PICTURE = cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg"))
HEIGHT, WIDTH = PICTURE.shape[:2]
CAMERA = PinholeCamera.from_fov(WIDTH, HEIGHT, 60.0)
FRAME_NS, SAMPLE_NS = 40_000_000, 5_000_000
FIRST_NS = 1_700_000_000_000_000_001
SENSOR = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
NET = {"model.name": "movenet_lightning", "device": "cpu", "threads": 1}
RATE_RAD_S = 0.5


def angle(t: float) -> float:
    """Turn of the camera to its right, radians: to and fro, standing still first."""
    return 0.12 * float(np.sin(RATE_RAD_S / 0.12 * max(t - 0.4, 0.0)))


def seen(t: float) -> np.ndarray:
    out = np.zeros_like(PICTURE)
    turn = exp_so3(np.array([0.0, -angle(t), 0.0]))  # new axes from old
    cut_turned(PICTURE, CAMERA, turn, np.array([0, 0, WIDTH, HEIGHT]), out)
    return out


class Robot:
    """A camera with a sensor, and the answers to it."""

    def __init__(self, peer: Any, imu_topics: tuple[str, ...] = (graph.IMU,)) -> None:
        self.peer, self.t, node = peer, 0.0, peer.node
        self.images = node.create_publisher(Image, graph.IMAGE, SENSOR)
        self.infos = node.create_publisher(CameraInfo, graph.CAMERA_INFO, SENSOR)
        self.imus = [node.create_publisher(Imu, topic, SENSOR) for topic in imu_topics]
        self.answers: list[HumanPoseArray] = []
        self.reports: list[dict[str, str]] = []
        self.readers = [
            node.create_subscription(
                HumanPoseArray, graph.POSES, self.answers.append, QoSProfile(depth=50)
            ),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._report, 10),
        ]

    def _report(self, message: DiagnosticArray) -> None:
        self.reports.append({pair.key: pair.value for pair in message.status[0].values})

    def connect(self) -> None:
        wanted = (self.images, *self.imus)
        ready = lambda: self.answers and all(p.get_subscription_count() for p in wanted)  # noqa: E731
        assert self.peer.spin_until(ready)
        self.answers.clear()

    def run(self, frames: int, late_ns: int = 0, silent: bool = False) -> list[HumanPoseArray]:
        """Show pictures, with the samples of the time between; returns the answers."""
        out = []
        for _ in range(frames):
            stamp_ns = FIRST_NS + round(self.t * 1e9)
            header = Header(stamp=conversions.time_from_ns(stamp_ns), frame_id="camera")
            for back in range(FRAME_NS // SAMPLE_NS, 0, -1) if not silent else ():
                self._feel(stamp_ns - (back - 1) * SAMPLE_NS, late_ns)
            self.peer.spin_for(0.005)
            if not self.t:
                for _ in range(3):
                    self.infos.publish(conversions.info_from_camera(CAMERA, header))
                    self.peer.spin_for(0.1)
            self.images.publish(conversions.image_from_pixels(seen(self.t), "bgr8", header))
            found = lambda: [a for a in self.answers if a.header.stamp == header.stamp]  # noqa: B023, E731
            if self.peer.spin_until(found, 5.0):
                out.append(found()[0])
            self.t += FRAME_NS * 1e-9
        return out

    def _feel(self, stamp_ns: int, late_ns: int) -> None:
        t = (stamp_ns - FIRST_NS) * 1e-9
        rate = (angle(t + 1e-4) - angle(t - 1e-4)) / 2e-4
        for publisher in self.imus:
            publisher.publish(Imu(
                header=Header(stamp=conversions.time_from_ns(stamp_ns + late_ns), frame_id="imu"),
                angular_velocity=Vector3(x=0.0, y=rate, z=0.0),
                linear_acceleration=Vector3(x=0.0, y=-9.81, z=0.0),
                orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=1.0),
                orientation_covariance=[-1.0] + [0.0] * 8,
            ))  # fmt: skip

    def report(self) -> dict[str, str]:
        """The next report of the node."""
        self.reports.clear()
        assert self.peer.spin_until(lambda: self.reports, 5.0)
        return self.reports[-1]

    def close(self) -> None:
        for publisher in (self.images, self.infos, *self.imus):
            self.peer.node.destroy_publisher(publisher)
        for reader in self.readers:
            self.peer.node.destroy_subscription(reader)


@pytest.fixture
def robot(peer: Any) -> Iterator[Robot]:
    robot = Robot(peer)
    yield robot
    robot.close()


@pytest.fixture
def launch(start: Any) -> Iterator[Any]:
    """Start the node; it ends with the test."""
    programs: list[Any] = []

    def launch(**values: Any) -> Any:
        programs.append(start(graph.pose(**NET, **values)))
        return programs[-1]

    yield launch
    for program in programs:
        program.end()


def change(peer: Any, transition: int) -> None:
    client = peer.node.create_client(ChangeState, "/pose_node/change_state")
    assert peer.spin_until(client.service_is_ready)
    future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
    assert peer.spin_until(future.done) and future.result().success
    peer.node.destroy_client(client)


def test_a_pan_is_felt_believed_and_reported_until_the_node_is_deactivated(
    launch: Any, robot: Robot
) -> None:
    level = {"imu.enable": True, "imu.level_frame": "level", "filter.ground": "1.2"}
    program = launch(**level)
    robot.connect()
    answers = robot.run(60)
    report = robot.report()
    assert float(report["imu_received"]) > 300 and report["imu_helps"].startswith("yes: "), report
    assert float(report["imu_compensated"]) > 5 and float(report["imu_saturated"]) == 0
    assert 0.0 <= float(report["imu_behind_image_s"]) < 0.02
    assert abs(float(report["imu_offset_s"])) < 0.02 and report["imu_axes"].startswith("the image")
    assert float(report["imu_ms_p50"]) < 50.0
    last = answers[-1]
    assert any(human.state == HumanPose.TRACKED for human in last.humans)
    assert last.header.frame_id == "level"
    # the walker stands on the ground in front: ahead of the camera (x), z up
    body = max(last.humans, key=lambda human: human.confidence)
    known = np.array([[k.position.x, k.position.z] for k in body.keypoints])
    assert np.nanmean(known[:, 0]) > 1.0 and known[0, 1] > np.nanmean(known[15:, 1])
    change(robot.peer, Transition.TRANSITION_DEACTIVATE)
    (sensor,) = robot.imus
    assert robot.peer.spin_until(lambda: not sensor.get_subscription_count(), 10.0)
    change(robot.peer, Transition.TRANSITION_ACTIVATE)
    assert robot.peer.spin_until(sensor.get_subscription_count, 10.0)
    assert program.end() == 0


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"late_ns": 3_600_000_000_000}, "no: its stamps are +3600.0 s off the image's"),
        ({"silent": True}, "no: no samples come"),
    ],
    ids=["another clock", "silent"],
)
def test_a_sensor_that_cannot_help_is_named_and_nothing_else_changes(
    launch: Any, robot: Robot, run: dict[str, Any], words: str
) -> None:
    program = launch(**{"imu.enable": True})
    robot.connect()
    answers = robot.run(25, **run)
    report = robot.report()
    before = time.monotonic()
    while not report["imu_helps"].startswith(words) and time.monotonic() < before + 5.0:
        robot.run(3, **run)
        report = robot.report()
    if not run.get("silent"):
        assert float(report["imu_received"]) > 100
    assert report["imu_helps"].startswith(words), report
    assert float(report["imu_compensated"]) == 0 < float(report["imu_missing"])
    assert any(human.state == HumanPose.TRACKED for human in answers[-1].humans)
    assert {answer.header.frame_id for answer in answers} == {"camera"}
    assert "inertial sensor does not help" in program.text


def test_worn_sensors_have_the_topics_of_their_map(launch: Any, peer: Any, tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("left:\n  bone: left_forearm\n  topic: /tag/a7\nright:\n", encoding="utf-8")
    wall = {"imu.enable": True, "imu.axes": "none", "imu.topic_map": str(path)}
    robot = Robot(peer, ("/tag/a7", "/imu/right"))
    try:
        launch(**wall)
        robot.connect()
        robot.run(20)
        report = robot.report()
        assert float(report["worn_received"]) > 200
        assert (report["worn_silent"], report["worn_placed"]) == ("none", "none")
        assert "imu_helps" not in report  # the camera has no sensor
    finally:
        robot.close()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"imu.axes": "sideways"},
            "imu.axes: expected auto, optical, rep103, none or nine numbers",
        ),
        ({"imu.topic_map": "/nowhere.yaml"}, "sensor map /nowhere.yaml"),
        ({"imu.enable": False, "imu.level_frame": "level"}, "needs imu.enable"),
        (
            {"imu.enable": False, "filter.ground": "1.2"},
            "filter.ground: a height needs imu.enable",
        ),
        ({"filter.ground": "0 1"}, "filter.ground: expected a height of 0.01 to 50 m or a plane"),
        ({"filter.lag": 1, "filter.type": "none"}, "filter.lag and filter.ground: need filter"),
    ],
    ids=["axes", "map", "level", "floor without up", "no floor", "lag"],
)
def test_a_bad_configuration_fails_with_a_sentence(
    launch: Any, values: dict[str, Any], words: str
) -> None:
    program = launch(**({"imu.enable": True} | values))
    assert program.process.wait(60.0) == 1
    assert words in program.text
