"""Inertial sensors: the camera's on ``imu``, worn ones on ``imu/<sensor>``.

A map file says which sensors are worn and what is known of them:

    left_wrist_tag:            # topic imu/left_wrist_tag
      bone: left_forearm       # optional: found from the pictures without
      axis: [0.0, 1.0, 0.0]    # optional: the bone's direction, elbow to wrist, in sensor axes
      rho: 0.7                 # optional: where along the bone, 0.5 is the middle
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml
from rclpy.node import Node
from rclpy.subscription import Subscription
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu as ImuMessage

from pose_ros.core.body_imu import BodyImus
from pose_ros.core.body_imu_place import Strap
from pose_ros.core.ego import EgoMotion
from pose_ros.core.imu import Imu
from pose_ros.errors import ConfigError
from pose_ros.nodes.conversions import ns_from_time
from pose_ros.nodes.inputs import sensor_qos

Floats = npt.NDArray[np.float64]

#: Samples that may wait; at 400 Hz and 10 Hz of images 40 come between two.
WAITING = 50
#: Samples of all sensors that wait for the next image; older ones are dropped.
KEPT = 8192
#: How far a quaternion's length may be from 1.
UNIT = 0.05


def readings(message: ImuMessage) -> tuple[int, Floats, Floats, Floats | None]:
    """Stamp (ns), rate (3,), specific force (3,) and world from sensor (3, 3) of a message.

    The orientation is None if the driver says that it has none (``covariance[0]`` is -1), or left
    it zero. Rate or force are NaN if the driver says so of them.
    """
    gyro, force, q = message.angular_velocity, message.linear_acceleration, message.orientation
    rate = np.array([gyro.x, gyro.y, gyro.z])
    felt = np.array([force.x, force.y, force.z])
    if message.angular_velocity_covariance[0] == -1.0:
        rate[:] = np.nan
    if message.linear_acceleration_covariance[0] == -1.0:
        felt[:] = np.nan
    four = np.array([q.x, q.y, q.z, q.w])
    length = float(np.linalg.norm(four))
    world = None
    if message.orientation_covariance[0] != -1.0 and abs(length - 1.0) < UNIT:
        world = Rotation.from_quat(four).as_matrix()
    return ns_from_time(message.header.stamp), rate, felt, world


def read_straps(path: str) -> tuple[Strap, ...]:
    """Sensors of a map file.

    Raises:
        ConfigError: the file cannot be read, or says something else than it may.

    """
    try:
        told: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"sensor map {path}: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"sensor map {path}: expected 'sensor: {{bone: ...}}', got {told!r}")
    straps = []
    for name, entry in told.items():
        entry = entry or {}
        unknown = set(entry) - {"bone", "axis", "rho"} if isinstance(entry, dict) else {entry}
        if unknown:
            raise ConfigError(f"sensor '{name}': expected bone, axis, rho; got {sorted(unknown)}")
        axis = entry.get("axis")
        if axis is not None and (len(axis) != 3 or not np.linalg.norm(axis) > 0):
            raise ConfigError(f"sensor '{name}': axis is three numbers, not all 0; got {axis}")
        straps.append(
            Strap(str(name), entry.get("bone", ""), None if axis is None else tuple(axis),
                  float(entry.get("rho", 0.5)))
        )  # fmt: skip
    return tuple(straps)


class ImuInput:
    """Subscriptions that fill `Imu` rings; they exist from construction to ``close``.

    Messages come on the executor's thread; `drain` pushes them into the rings on the thread that
    reads these, before each image.
    """

    def __init__(self, node: Node, camera: EgoMotion | None, body: BodyImus | None) -> None:
        """Subscribe to ``imu`` for the camera and ``imu/<sensor>`` for every worn sensor."""
        self._waiting: deque[tuple[Imu, ImuMessage]] = deque(maxlen=KEPT)
        self._node = node
        self._subscriptions: list[Subscription] = []
        if camera is not None:
            self._subscribe("imu", partial(self.take, camera.imu))
        for name, imu in (body.imus if body is not None else {}).items():
            self._subscribe(f"imu/{name}", partial(self.take, imu))

    def _subscribe(self, topic: str, callback: Callable[[ImuMessage], None]) -> None:
        self._subscriptions.append(
            self._node.create_subscription(ImuMessage, topic, callback, sensor_qos(WAITING))
        )

    def close(self) -> None:
        """Unsubscribe."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())

    def take(self, imu: Imu, message: ImuMessage) -> None:
        """Keep a message until `drain`."""
        self._waiting.append((imu, message))

    def drain(self) -> int:
        """Push what waits into the rings; returns how many messages that were."""
        count = len(self._waiting)
        for _ in range(count):
            imu, message = self._waiting.popleft()
            imu.push(*readings(message))
        return count
