"""Depth images and their calibration, matched to the colour images by their stamps."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.depth import decode_compressed_depth, decode_depth, depth_image
from pose_ros.core.values import DepthImage
from pose_ros.errors import CalibrationError, ShapeError
from pose_ros.nodes.conversions import camera_from_info, ns_from_time
from pose_ros.nodes.inputs import sensor_qos

KEPT = 6  # depth images waiting for their colour image
LOG_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class DepthInput:
    """Subscriptions to ``depth`` and ``depth_camera_info``; they exist until ``close``.

    Only depth registered to the colour image is used: both images name the same frame, which
    is what drivers publish as aligned depth.
    """

    def __init__(self, node: Node, transport: str, max_skew_s: float) -> None:
        """Subscribe to raw images, or those of the compressedDepth transport."""
        self.counts = {"depth_received": 0, "depth_used": 0, "depth_missing": 0, "depth_bad": 0}
        self.max_skew_s = max_skew_s
        self._node = node
        self._camera: PinholeCamera | None = None
        self._kept: deque[tuple[int, Image | CompressedImage]] = deque(maxlen=KEPT)
        self._came = threading.Condition()
        self._logged_s = -float("inf")
        kind = CompressedImage if transport == "compressedDepth" else Image
        self._depth = node.create_subscription(kind, "depth", self._take, sensor_qos(2))
        self._info = node.create_subscription(
            CameraInfo, "depth_camera_info", self._take_info, sensor_qos(10)
        )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._depth)
        self._node.destroy_subscription(self._info)

    def of(self, stamp_ns: int, frame_id: str) -> DepthImage | None:
        """Depth image nearest to ``stamp_ns``, waiting for it for at most ``max_skew_s``.

        None when there is none of that time, of that frame, or that can be read; each is counted,
        and said in the log now and then.
        """
        found = self._nearest(stamp_ns)
        if found is None:
            self.counts["depth_missing"] += 1
            self._say(f"no depth image within {self.max_skew_s:g} s of the colour image")
            return None
        try:
            image = self._decoded(found[0], found[1], frame_id)
        except (ShapeError, CalibrationError) as error:
            self.counts["depth_bad"] += 1
            self._say(str(error))
            return None
        self.counts["depth_used"] += 1
        return image

    def _nearest(self, stamp_ns: int) -> tuple[int, Image | CompressedImage] | None:
        limit_ns, end_s = self.max_skew_s * 1e9, time.monotonic() + self.max_skew_s
        with self._came:
            # A later one may still be nearer; one at least as new as the image ends the wait.
            while not (self._kept and self._kept[-1][0] >= stamp_ns):
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not self._came.wait(left_s):
                    break
            near = min(self._kept, key=lambda one: abs(one[0] - stamp_ns), default=None)
        return near if near is not None and abs(near[0] - stamp_ns) <= limit_ns else None

    def _decoded(
        self, stamp_ns: int, message: Image | CompressedImage, frame_id: str
    ) -> DepthImage:
        if message.header.frame_id != frame_id:
            raise CalibrationError(
                f"depth is in frame '{message.header.frame_id}', the image in '{frame_id}': "
                "publish aligned (registered) depth, in the colour camera's frame"
            )
        if self._camera is None:
            raise CalibrationError(f"no usable calibration on {self._info.topic_name} yet")
        if isinstance(message, CompressedImage):
            metres = decode_compressed_depth(message.data, message.format)
        else:
            metres = decode_depth(
                message.data, width=message.width, height=message.height,
                encoding=message.encoding, step=message.step,
                is_bigendian=bool(message.is_bigendian),
            )  # fmt: skip
        return depth_image(metres, stamp_ns, self._camera)

    def _take(self, message: Image | CompressedImage) -> None:
        with self._came:
            self.counts["depth_received"] += 1
            self._kept.append((ns_from_time(message.header.stamp), message))
            self._came.notify_all()

    def _take_info(self, info: CameraInfo) -> None:
        try:
            self._camera = camera_from_info(info)
        except CalibrationError as error:
            self._camera = None
            self._say(f"{self._info.topic_name} cannot be used: {error}")

    def _say(self, sentence: str) -> None:
        now = time.monotonic()
        if now - self._logged_s >= LOG_EVERY_S:
            self._logged_s = now
            _log.warning("depth: %s (%s)", sentence, self.counts)
