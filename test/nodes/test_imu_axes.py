"""How the camera's sensor sits, by TF: samples wait for it, and turn as it says."""

from __future__ import annotations

import numpy as np
import pytest
import stand_ins
from geometry_msgs.msg import Vector3
from sensor_msgs.msg import Imu as ImuMessage
from std_msgs.msg import Header

from pose_ros.core.ego import EgoMotion
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.ego_offset import Offset, OffsetEstimator
from pose_ros.core.imu import Imu
from pose_ros.nodes import frames, imu_axes
from pose_ros.nodes.conversions import time_from_ns
from pose_ros.nodes.imu_input import ImuInput

STAMP_NS = 1_700_000_000_500_000_000
STEP_NS = 5_000_000
#: The housing's axes (x ahead, y left, z up) in the image's, as a quaternion.
HOUSING = (0.5, -0.5, 0.5, 0.5)


class Driver:
    """A sensor in a level housing that turns to its left, and the input that listens to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, known: dict | None) -> None:
        self.known = known
        tf = None if known is None else stand_ins.tf2(known)
        monkeypatch.setattr(frames, "tf2_ros", tf)
        self.now_s = 50.0
        monkeypatch.setattr(imu_axes.time, "monotonic", lambda: self.now_s)
        self.ego = EgoMotion(Imu(), check=EgoCheck())
        self.input = ImuInput(stand_ins.Node(), self.ego, None, True)  # type: ignore[arg-type]
        self.sent = 0

    def send(self, count: int, frame: str = "imu") -> None:
        for _ in range(count):
            stamp = time_from_ns(STAMP_NS + self.sent * STEP_NS)
            self.input.take(self.ego.imu, ImuMessage(
                header=Header(stamp=stamp, frame_id=frame),
                angular_velocity=Vector3(x=0.0, y=0.0, z=0.3),
                linear_acceleration=Vector3(x=0.0, y=0.0, z=9.81),
                orientation_covariance=[-1.0] + [0.0] * 8,
            ))  # fmt: skip
            self.sent += 1

    def image(self, frame: str = "camera") -> int:
        """The next image; how many samples are held then."""
        self.now_s += 0.25
        self.input.drain(STAMP_NS, frame)
        return len(self.ego.imu)


PLACE = ("camera", "imu", STAMP_NS)


def test_samples_turn_as_tf_says(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, {PLACE: (0.1, 0.0, 0.0, *HOUSING)})
    driver.send(100)
    assert driver.image() == 100
    end = STAMP_NS + 99 * STEP_NS
    np.testing.assert_allclose(driver.ego.up(end), (0.0, -1.0, 0.0), atol=1e-6)
    # to the left, about the image's upward axis
    np.testing.assert_allclose(driver.ego.imu.rate(end), (0.0, -0.3, 0.0), atol=1e-6)
    assert driver.input.report()["imu_axes"] == "as TF says of 'imu'"
    assert stand_ins.TransformListener.listeners == []  # there is nothing more to learn
    driver.send(50)
    assert driver.image() == 150 and len(stand_ins.Buffer.asked) == 1


def test_samples_wait_for_tf_for_a_while_and_axes_learned_late_start_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(monkeypatch, {})
    driver.send(10)
    driver.input.drain()  # no image yet: nobody knows what to ask
    assert stand_ins.Buffer.asked == []
    held = []
    for _ in range(16):  # 4 s
        driver.send(10)
        held.append(driver.image())
    assert held == [0] * 13 + [10, 20, 30]
    assert driver.input.report()["imu_axes"].startswith("the image's: no transform from 'imu'")
    assert caplog.text.count("are taken for the image's") == 1
    assert len(stand_ins.TransformListener.listeners) == 1
    driver.known[PLACE] = (0.0, 0.0, 0.0, *HOUSING)
    driver.send(100)
    assert driver.image() == 100  # what came in other axes is forgotten
    np.testing.assert_allclose(
        driver.ego.up(STAMP_NS + (driver.sent - 1) * STEP_NS), (0.0, -1.0, 0.0), atol=1e-6
    )
    driver.input.close()
    assert stand_ins.TransformListener.listeners == []


@pytest.mark.parametrize(
    ("known", "frame", "words"),
    [
        (None, "imu", "the image's: tf2_ros is not installed"),
        ({}, "camera", "the image's: frame 'camera'"),
        ({}, "", "the image's: frame ''"),
    ],
    ids=["no tf2", "the same frame", "no name"],
)
def test_without_anything_to_ask_the_axes_are_the_image_s(
    monkeypatch: pytest.MonkeyPatch, known: dict | None, frame: str, words: str
) -> None:
    driver = Driver(monkeypatch, known)
    driver.send(100, frame)
    assert driver.image() == 100
    np.testing.assert_allclose(driver.ego.up(STAMP_NS + 99 * STEP_NS), (0.0, 0.0, 1.0), atol=1e-6)
    assert driver.input.report()["imu_axes"] == words


def test_the_offset_of_the_clocks_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver(monkeypatch, None)
    assert driver.input.report()["imu_offset_s"] == 0.0
    assert "imu_offset_seen" not in driver.input.report()  # nobody looks for it
    ego = driver.ego
    ego.clock = OffsetEstimator()
    assert driver.input.report()["imu_offset_seen"] == "not known"
    ego.offset_s, ego.found = 0.041, Offset(0.0412, 0.987, True)
    report = driver.input.report()
    assert report["imu_offset_s"] == 0.041
    assert report["imu_offset_seen"] == "+0.0412 (correlation 0.99, sure)"
    assert "imu.offset_s is" not in caplog.text
    driver.now_s += 60.0
    ego.offset_s, ego.given = -0.1, True
    driver.input.report()
    assert "imu.offset_s is -0.100, pictures say +0.0412" in caplog.text
