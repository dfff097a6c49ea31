"""Inertial sensors: the camera's on ``imu``, worn ones on the topics of the map file."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from rclpy.subscription import Subscription
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu as ImuMessage

from pose_ros.core.body_imu import BodyImus
from pose_ros.core.ego import EgoMotion
from pose_ros.core.imu import Imu
from pose_ros.nodes.conversions import ns_from_time
from pose_ros.nodes.imu_axes import ImuAxes
from pose_ros.nodes.inputs import sensor_qos
from pose_ros.nodes.ros_logging import Sparingly

Floats = npt.NDArray[np.float64]

#: Samples that may wait; at 400 Hz and 10 Hz of images 40 come between two.
WAITING = 50
#: Samples of all sensors that wait for the next image; older ones are dropped.
KEPT = 8192
#: How far a quaternion's length may be from 1.
UNIT = 0.05
#: A worn sensor whose last sample is older than the newest of all by more is silent.
SILENT_NS = 1_000_000_000
#: Time between two words in the log about a sensor that does not help.
LOG_EVERY_S = 30.0
#: The given offset of the clocks is said to be wrong if the pictures tell another by more.
OFF_S = 0.01
_log = logging.getLogger(__name__)


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


class ImuInput:
    """Subscriptions that fill `Imu` rings; they exist from construction to ``close``.

    Messages come on the executor's thread; `drain` pushes them into the rings on the thread that
    reads these, before each image.
    """

    def __init__(
        self, node: Node, camera: EgoMotion | None, body: BodyImus | None, by_tf: bool = False
    ) -> None:
        """Subscribe to ``imu`` for the camera, and to the topic of every worn sensor.

        ``by_tf`` asks TF how the camera's sits; its samples are passed over until that is known.
        """
        self._axes = ImuAxes(node, camera) if by_tf and camera is not None else None
        self._waiting: deque[tuple[Imu, ImuMessage]] = deque(maxlen=KEPT)
        self._node, self._camera, self._body = node, camera, body
        self._subscriptions: list[Subscription] = []
        self._behind_s = math.nan
        self._counted, self._counted_s = 0, time.monotonic()
        self._said = Sparingly(LOG_EVERY_S)
        if camera is not None:
            self._subscribe("imu", partial(self.take, camera.imu))
        for strap in body.straps if body is not None else ():
            self._subscribe(strap.topic, partial(self.take, body.imus[strap.sensor]))  # type: ignore[union-attr]

    def _subscribe(self, topic: str, callback: Callable[[ImuMessage], None]) -> None:
        self._subscriptions.append(
            self._node.create_subscription(ImuMessage, topic, callback, sensor_qos(WAITING))
        )

    def close(self) -> None:
        """Unsubscribe; what waits is dropped."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        self._waiting.clear()
        if self._axes is not None:
            self._axes.close()

    def take(self, imu: Imu, message: ImuMessage) -> None:
        """Keep a message until `drain`."""
        self._waiting.append((imu, message))

    def drain(self, stamp_ns: int | None = None, camera_frame: str = "") -> int:
        """Push what waits into the rings; returns how many messages that were.

        ``stamp_ns`` and ``camera_frame`` are of the image that is looked at next.
        """
        count = len(self._waiting)
        for _ in range(count):
            imu, message = self._waiting.popleft()
            if self._sits(imu, message, camera_frame, stamp_ns):
                imu.push(*readings(message))
        if stamp_ns is not None and self._camera is not None:
            span = self._camera.imu.span_ns
            theirs_ns = stamp_ns + round(self._camera.offset_s * 1e9)
            self._behind_s = math.nan if span is None else (theirs_ns - span[1]) * 1e-9
        return count

    def _sits(self, imu: Imu, message: ImuMessage, frame: str, stamp_ns: int | None) -> bool:
        """Whether the axes of a sample are known; those of worn sensors are learned."""
        if self._axes is None or self._camera is None or imu is not self._camera.imu:
            return True
        return self._axes.ready(message.header.frame_id, frame, stamp_ns)

    def report(self) -> dict[str, float | str]:
        """What the diagnostics say: rates, ages, refused samples, and whether it helps."""
        out: dict[str, float | str] = {}
        if self._camera is not None:
            counts, now_s = self._camera.imu.counts, time.monotonic()
            new, self._counted = counts["received"] - self._counted, counts["received"]
            out["imu_rate_hz"] = round(new / max(now_s - self._counted_s, 1e-3), 1)
            out["imu_behind_image_s"] = round(self._behind_s, 4)
            self._counted_s = now_s
            both = counts | self._camera.counts
            out |= {f"imu_{name}": number for name, number in both.items()}
            out |= self._clock(self._camera)
            if self._axes is not None:
                self._axes.rest()
                out["imu_axes"] = self._axes.words
            out["imu_helps"] = self._helps(self._camera, new)
        if self._body is not None:
            out |= _worn(self._body)
        return out

    def _clock(self, camera: EgoMotion) -> dict[str, float | str]:
        """The offset of the clocks in use, and what the pictures say of it."""
        found = camera.found  # the worker may replace it meanwhile
        out: dict[str, float | str] = {"imu_offset_s": round(camera.offset_s, 4)}
        if camera.clock is None:
            return out
        words = "not known" if found is None else f"{found.seconds:+.4f}"
        if found is not None:
            words += f" (correlation {found.correlation:.2f}{', sure' if found.sure else ''})"
        if found is not None and found.sure and abs(found.seconds - camera.offset_s) > OFF_S:
            self._doubt(f"no: imu.offset_s is {camera.offset_s:+.3f}, pictures say {words}")
        return out | {"imu_offset_seen": words}

    def _helps(self, camera: EgoMotion, new: int) -> str:
        """Say in words what the camera's sensor is worth; doubts are logged now and then."""
        if not new:
            return self._doubt("no: no samples come")
        if abs(self._behind_s) > 1.0:
            return self._doubt(
                f"no: its stamps are {-self._behind_s:+.1f} s off the image's; let both drivers "
                "stamp with one clock"
            )
        check = camera.check
        if check is None:
            return "not compared with the pictures: imu.check is off"
        if math.isnan(check.unexplained):
            return "not known: the camera has not turned yet"
        share = f"{100 * check.unexplained:.0f} % of the pictures' turning is left"
        if check.trusted:
            return f"yes: {share}"
        return self._doubt(f"no: {share}; are imu.axes and imu.offset_s right?")

    def _doubt(self, words: str) -> str:
        if self._said.due():
            _log.warning("the camera's inertial sensor does not help: %s", words[4:])
        return words


def _worn(body: BodyImus) -> dict[str, float | str]:
    """What worn sensors are doing."""
    total = {
        name: sum(imu.counts[name] for imu in body.imus.values())
        for name in ("received", "late", "broken", "gaps", "saturated")
    }
    spans = {name: imu.span_ns for name, imu in body.imus.items()}  # the worker may reset one
    ends = {name: -SILENT_NS if span is None else span[1] for name, span in spans.items()}
    newest_ns = max(ends.values(), default=0)
    silent = [name for name, end in ends.items() if end < 0 or newest_ns - end > SILENT_NS]
    placed = ", ".join(f"{sensor} on {bone}" for sensor, bone in body.assigned().items())
    return {
        **{f"worn_{name}": number for name, number in (total | body.counts).items()},
        "worn_silent": ", ".join(silent) or "none",
        "worn_placed": placed or "none",
        "worn_by": "nobody yet" if body.wearer is None else str(body.wearer),
    }
