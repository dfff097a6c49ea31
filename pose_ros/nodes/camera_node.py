"""A video file, a folder of pictures or a V4L2 camera as a ROS camera."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from pose_ros.core.calibration_file import load_calibration
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.node_config import CameraConfig
from pose_ros.core.source import PictureSource, open_source
from pose_ros.core.values import ByteArray
from pose_ros.errors import CalibrationError, SourceError
from pose_ros.nodes import conversions, parameters, process, ros_logging
from pose_ros.nodes.inputs import sensor_qos

AHEAD = 8  # pictures of a file decoded before they are due; of a camera the newest is kept
Taken = tuple[ByteArray, Time]  # a picture and when it was read
_log = logging.getLogger(__name__)


class CameraNode(Node):
    """Publishes ``image`` and ``camera_info`` on a steady schedule, stamped when published."""

    def __init__(self) -> None:
        """Open the source; the first picture is sent when the wanted readers are there."""
        super().__init__("camera_node")
        ros_logging.forward(self.get_logger())
        self.exit_status: int | None = None
        self.config = parameters.declare(self, CameraConfig())
        self._source = open_source(self.config.source)
        self._rate_hz = self.config.rate_hz or self._source.rate_hz
        self._camera = self._calibration()
        self._images = self.create_publisher(Image, "image", sensor_qos(2))
        self._infos = self.create_publisher(CameraInfo, "camera_info", sensor_qos(10))
        self._stamps_ns: list[int] = []
        self._reader = Reader(self._source, self.config.loop, self.get_clock().now)
        self._reader.start()
        self._timer = self.create_timer(0.02, self._wait)
        _log.info("%s at %g Hz on %s", self.config.source, self._rate_hz, self._images.topic_name)

    def close(self) -> None:
        """Stop reading and write the stamps."""
        self._reader.stop()
        if self.config.stamps_file:
            rows = "".join(f"{i},{stamp}\n" for i, stamp in enumerate(self._stamps_ns))
            Path(self.config.stamps_file).write_text(rows, encoding="utf-8")

    def _wait(self) -> None:
        if self._images.get_subscription_count() < self.config.wait_for_subscribers:
            return
        if not self._reader.ready:
            return
        self.destroy_timer(self._timer)
        self._started_s = time.monotonic()
        self._timer = self.create_timer(1.0 / self._rate_hz, self._publish_next)

    def _publish_next(self) -> None:
        limit_s = self.config.duration_s
        if limit_s and time.monotonic() - self._started_s >= limit_s:
            return self._end(0)
        try:
            taken = self._reader.next()
        except queue.Empty:
            return None  # the source is slower than the schedule
        if taken is None:
            return self._end(self._reader.status)
        return self._publish(*taken)

    def _publish(self, pixels: ByteArray, taken_at: Time) -> None:
        now = taken_at if self._source.live else self.get_clock().now()
        header = Header(stamp=now.to_msg(), frame_id=self.config.frame_id)
        self._images.publish(conversions.image_from_pixels(pixels, "bgr8", header))
        self._infos.publish(self._info(header, pixels))
        self._stamps_ns.append(now.nanoseconds)

    def _info(self, header: Header, pixels: ByteArray) -> CameraInfo:
        height, width = pixels.shape[:2]
        if self._camera is None and self.config.fov_deg:
            self._camera = PinholeCamera.from_fov(width, height, self.config.fov_deg)
        if self._camera is None:
            return CameraInfo(header=header, width=width, height=height)
        return conversions.info_from_camera(self._camera, header)

    def _calibration(self) -> PinholeCamera | None:
        if self.config.calibration and self.config.fov_deg:
            raise CalibrationError("expected calibration or fov_deg, got both: leave one out")
        return load_calibration(self.config.calibration) if self.config.calibration else None

    def _end(self, status: int) -> None:
        """End after a while, so that the last image is delivered."""
        self.destroy_timer(self._timer)
        _log.info("end of %s after %d images", self.config.source, len(self._stamps_ns))

        def finish() -> None:
            self.exit_status = status

        self._timer = self.create_timer(max(self.config.linger_s, 1e-3), finish)


class Reader:
    """Decodes pictures ahead of time in a thread of its own."""

    def __init__(self, source: PictureSource, loop: bool, now: Callable[[], Time]) -> None:
        """Read ``source`` once, or again and again; ``now`` tells when a picture was taken."""
        self.status = 0
        self._source = source
        self._loop = loop
        self._stopped = threading.Event()
        self._now = now
        self._pictures: queue.Queue[Taken | None] = queue.Queue(1 if source.live else AHEAD)
        self._thread = threading.Thread(target=self._run, name="camera_reader", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether a picture, or the end, is there to be taken."""
        return not self._pictures.empty()

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    def next(self) -> Taken | None:
        """Next picture, BGR, and when it was read; None at the end.

        Raises:
            queue.Empty: it is not decoded yet.

        """
        return self._pictures.get_nowait()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            going = True
            while going:
                going = all(self._put((p, self._now())) for p in self._source) and self._loop
        except SourceError as error:
            _log.error("%s", error)
            self.status = 1
        self._put(None)

    def _put(self, picture: Taken | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._pictures.put(picture, block=not self._source.live, timeout=0.1)
                return True
            except queue.Full:
                if self._source.live and picture is not None:
                    self._skip_oldest()
                elif self._source.live:
                    time.sleep(0.01)  # the last picture is still to be taken
        return False

    def _skip_oldest(self) -> None:
        """Make room: a camera does not wait, and its newest picture counts."""
        with contextlib.suppress(queue.Empty):
            self._pictures.get_nowait()


def main() -> int:
    """Run the node."""
    return process.run(CameraNode)
