"""sensor_msgs/Imu to core: values, and what is absent."""

from collections import deque

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Vector3
from sensor_msgs.msg import Imu as ImuMessage
from std_msgs.msg import Header

from pose_ros.core.body_imu import BodyImus
from pose_ros.core.body_imu_place import Strap
from pose_ros.core.imu import Imu
from pose_ros.core.skeletons import COCO17
from pose_ros.nodes.conversions import time_from_ns
from pose_ros.nodes.imu_input import ImuInput, _worn, readings

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


def test_worn_sensors_that_fell_silent_are_named() -> None:
    body = BodyImus(COCO17, tuple(Strap(name, topic=name) for name in ("a", "b", "c")))
    for n in range(600):
        for name in ("a", "b") if n < 300 else ("a",):
            stamp = time_from_ns(STAMP_NS + n * 5_000_000)
            body.imus[name].push(*readings(message(header=Header(stamp=stamp))))
    report = _worn(body)
    assert report["worn_silent"] == "b, c" and report["worn_received"] == 900
    assert (report["worn_placed"], report["worn_by"]) == ("none", "nobody yet")


def test_messages_fill_the_ring() -> None:
    source, imu = ImuInput.__new__(ImuInput), Imu()
    source._waiting, source._camera, source._axes = deque(), None, None
    for n in range(50):
        header = Header(stamp=time_from_ns(STAMP_NS + n * 5_000_000))
        source.take(imu, message(header=header))
    assert len(imu) == 0 and source.drain() == 50 and source.drain() == 0
    assert len(imu) == 50 and imu.healthy(STAMP_NS + 49 * 5_000_000)
