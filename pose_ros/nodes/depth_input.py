"""Depth images and their calibration, matched to the colour images by their stamps."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.camera_info import is_rectified
from pose_ros.core.depth import (
    decode_compressed_depth,
    decode_depth,
    depth_image,
    parse_extrinsics,
)
from pose_ros.core.values import DepthImage
from pose_ros.errors import CalibrationError, ShapeError
from pose_ros.nodes.conversions import camera_from_info, ns_from_time
from pose_ros.nodes.frames import Transforms, tf_is_installed
from pose_ros.nodes.inputs import sensor_qos
from pose_ros.nodes.ros_logging import Sparingly

KEPT = 6  # depth images waiting for their colour image
_log = logging.getLogger(__name__)


class DepthInput:
    """Subscriptions to ``depth`` and ``depth_camera_info``; they exist until ``close``.

    Depth whose frame is the colour image's is registered to it, of whatever size. Depth of
    another frame is another camera's: where that is, its ``extrinsics`` say, or else TF at the
    time of the depth image.
    """

    def __init__(
        self, node: Node, transport: str, max_skew_s: float, *, extrinsics: str = "",
        tf_timeout_s: float = 0.02, offset_s: float = 0.0,
    ) -> None:  # fmt: skip
        """Subscribe to raw images, or those of the compressedDepth transport.

        ``offset_s`` is added to the stamps, as to those of the colour images.

        Raises:
            CalibrationError: ``extrinsics`` that `parse_extrinsics` refuses.

        """
        self.counts = {"depth_received": 0, "depth_used": 0, "depth_missing": 0, "depth_bad": 0}
        self.max_skew_s = max_skew_s
        self._given = parse_extrinsics(extrinsics)
        self._node = node
        self._tf_timeout_s = tf_timeout_s
        self._transforms: Transforms | None = None
        self._offset_ns = round(offset_s * 1e9)
        self._camera: PinholeCamera | None = None
        self._refused = ""
        self._kept: deque[tuple[int, Image | CompressedImage]] = deque(maxlen=KEPT)
        self._came = threading.Condition()
        self._said = Sparingly()
        kind = CompressedImage if transport == "compressedDepth" else Image
        self._depth = node.create_subscription(kind, "depth", self._take, sensor_qos(2))
        self._info = node.create_subscription(
            CameraInfo, "depth_camera_info", self._take_info, sensor_qos(10)
        )

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._depth)
        self._node.destroy_subscription(self._info)
        if self._transforms is not None:
            self._transforms.close()

    def of(self, stamp_ns: int, frame_id: str) -> DepthImage | None:
        """Depth image nearest to ``stamp_ns``, waiting for it for at most ``max_skew_s``.

        None when there is none of that time, none whose place is known, or that can be read; each
        is counted, and said in the log now and then.
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
        if self._camera is None:
            raise CalibrationError(
                self._refused or f"no calibration on {self._info.topic_name} yet"
            )
        place = self._place(message.header.frame_id, frame_id, stamp_ns)
        if isinstance(message, CompressedImage):
            metres = decode_compressed_depth(message.data, message.format)
        else:
            metres = decode_depth(
                message.data, width=message.width, height=message.height,
                encoding=message.encoding, step=message.step,
                is_bigendian=bool(message.is_bigendian),
            )  # fmt: skip
        return depth_image(metres, stamp_ns, self._camera, place)

    def _place(self, source: str, target: str, stamp_ns: int) -> npt.NDArray[np.float64] | None:
        """(4, 4) depth camera to colour camera; None where the depth image is registered."""
        if self._given is not None:
            return self._given
        if source == target:
            return None
        if not tf_is_installed():
            raise CalibrationError(
                f"depth is in frame '{source}', the image in '{target}', and tf2_ros is not "
                "installed: publish aligned (registered) depth in the colour camera's frame, or "
                "say in depth.extrinsics where the depth camera is"
            )
        if self._transforms is None:
            self._transforms = Transforms(self._node, self._tf_timeout_s)
        try:
            return self._transforms.lookup(target, source, stamp_ns)
        except CalibrationError as error:
            raise CalibrationError(
                f"{error}; publish it, or say in depth.extrinsics where the depth camera is"
            ) from error

    def _take(self, message: Image | CompressedImage) -> None:
        with self._came:
            self.counts["depth_received"] += 1
            stamp_ns = ns_from_time(message.header.stamp) + self._offset_ns
            self._kept.append((stamp_ns, message))
            self._came.notify_all()

    def _take_info(self, info: CameraInfo) -> None:
        try:
            self._camera = camera_from_info(info, is_rectified(self._depth.topic_name))
        except CalibrationError as error:
            self._camera = None
            self._refused = f"{self._info.topic_name} cannot be used: {error}"
            self._say(self._refused)

    def _say(self, sentence: str) -> None:
        if self._said.due():
            _log.warning("depth: %s (%s)", sentence, self.counts)
