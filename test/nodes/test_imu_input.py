"""sensor_msgs/Imu to core: values, what is absent, the map of worn sensors."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Vector3
from sensor_msgs.msg import Imu as ImuMessage
from std_msgs.msg import Header

from pose_ros.core.imu import Imu
from pose_ros.errors import ConfigError
from pose_ros.nodes.conversions import time_from_ns
from pose_ros.nodes.imu_input import ImuInput, read_straps, readings

STAMP_NS = 1_700_000_000_123_456_789


def message(**changes: object) -> ImuMessage:
    values: dict[str, object] = {
        "header": Header(stamp=time_from_ns(STAMP_NS), frame_id="imu"),
        "angular_velocity": Vector3(x=0.1, y=-0.2, z=0.3),
        "linear_acceleration": Vector3(x=1.0, y=2.0, z=9.0),
        "orientation": Quaternion(x=0.0, y=0.0, z=np.sqrt(0.5), w=np.sqrt(0.5)),
    }
    return ImuMessage(**(values | changes))


def test_values_arrive_in_order_and_unit() -> None:
    stamp, rate, force, world = readings(message())
    assert stamp == STAMP_NS
    assert rate.tolist() == [0.1, -0.2, 0.3] and force.tolist() == [1.0, 2.0, 9.0]
    # A quarter turn about z: the sensor's x is the world's y.
    assert np.allclose(world @ [1, 0, 0], [0, 1, 0])


@pytest.mark.parametrize(
    "changes",
    [
        {"orientation_covariance": [-1.0] + [0.0] * 8},
        {"orientation": Quaternion(x=0.0, y=0.0, z=0.0, w=0.0)},
        {"orientation": Quaternion(x=float("nan"), y=0.0, z=0.0, w=1.0)},
    ],
    ids=["says so", "left zero", "not a number"],
)
def test_an_absent_orientation_is_none(changes: dict[str, object]) -> None:
    assert readings(message(**changes))[3] is None


def test_a_sensor_without_gyro_or_force_is_refused_by_the_ring() -> None:
    for name in ("angular_velocity_covariance", "linear_acceleration_covariance"):
        imu = Imu()
        assert not imu.push(*readings(message(**{name: [-1.0] + [0.0] * 8})))
        assert imu.counts["broken"] == 1


def test_messages_fill_the_ring() -> None:
    source, imu = ImuInput.__new__(ImuInput), Imu()
    source._waiting = deque()
    for n in range(50):
        header = Header(stamp=time_from_ns(STAMP_NS + n * 5_000_000))
        source.take(imu, message(header=header))
    assert len(imu) == 0 and source.drain() == 50 and source.drain() == 0
    assert len(imu) == 50 and imu.healthy(STAMP_NS + 49 * 5_000_000)


def test_the_map_of_sensors(tmp_path: Path) -> None:
    path = tmp_path / "sensors.yaml"
    path.write_text("a: {bone: left_forearm, axis: [0, 1, 0], rho: 0.7}\nb:\n", encoding="utf-8")
    first, second = read_straps(str(path))
    assert (first.sensor, first.bone, first.axis, first.rho) == (
        "a",
        "left_forearm",
        (0, 1, 0),
        0.7,
    )
    assert (second.sensor, second.bone, second.axis, second.rho) == ("b", "", None, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: {bon: x}", "sensor 'a': expected bone, axis, rho; got"),
        ("a: {axis: [0, 0, 0]}", "axis is three numbers"),
        ("- a", "expected 'sensor:"),
        ("a: [", "sensor map"),
    ],
)
def test_a_bad_map_says_what_is_wrong(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "sensors.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        read_straps(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        read_straps(str(tmp_path / "none.yaml"))
