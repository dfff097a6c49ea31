"""The frames of a recorded bag: images with the calibration and the depth image beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.camera_info import camera_from_info, is_rectified
from pose_ros.core.decode import decode_compressed, decode_image
from pose_ros.core.depth import (
    decode_compressed_depth,
    decode_depth,
    depth_image,
    parse_extrinsics,
)
from pose_ros.core.values import ByteArray, DepthImage, Frame
from pose_ros.errors import CalibrationError, ConfigError, ShapeError, SourceError
from pose_ros.tools.bag_messages import pose_typestore
from pose_ros.tools.cli import log

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
TRANSPORTS = ("compressed", "compressedDepth")  # last part of such a topic's name
KEPT = 30  # depth images that may still belong to an image


@contextmanager
def open_bag(path: Path) -> Iterator[AnyReader]:
    """Open a rosbag2 directory.

    Raises:
        SourceError: it is none.

    """
    try:
        with AnyReader([path], default_typestore=pose_typestore()) as reader:
            yield reader
    except (AnyReaderError, OSError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"{path}: expected a rosbag2 directory (sqlite3 or MCAP, metadata.yaml): {error}"
        ) from error


def info_topic(topic: str) -> str:
    """Where the calibration of an image topic is published: beside it, whatever its transport."""
    names = topic.split("/")
    if names[-1] in TRANSPORTS:
        names.pop()
    return "/".join([*names[:-1], "camera_info"])


def image_connection(reader: AnyReader, topic: str | None, depth: str | None = None) -> Connection:
    """Image topic of a bag; the only one beside ``depth``, or the one asked for.

    Raises:
        ConfigError: there is none, there are several, or not the one asked for.

    """
    images = {c.topic: c for c in reader.connections if c.msgtype in IMAGE_TYPES}
    others = [name for name in images if name != depth]
    if topic is None and len(others) == 1:
        return images[others[0]]
    if topic in images:
        return images[topic]
    have = ", ".join(sorted(images)) or "none"
    wanted = f"image topic '{topic}'" if topic else "exactly one image topic (choose with --topic)"
    raise ConfigError(f"expected {wanted} in the bag; it has {have}")


@dataclass(frozen=True)
class Arrived:
    """An image of the bag, not yet decoded, with what belongs to it."""

    message: Any
    kind: str  # of the message
    bag_ns: int
    camera: PinholeCamera | None
    depth: tuple[Any, str, PinholeCamera] | None  # message, its kind, its camera
    rgb_from_depth: npt.NDArray[np.float64] | None = None  # (4, 4); None: only of the same frame

    @property
    def stamp_ns(self) -> int:
        """Stamp of the image."""
        return _stamp_ns(self.message)

    def frame(self) -> Frame:
        """Decode; a camera of another image size does not belong to the image and is left out.

        Raises:
            ShapeError: for an encoding, size or buffer that does not fit.

        """
        rgb = _pixels(self.message, self.kind)
        camera = self.camera
        if camera is not None and rgb.shape[:2] != (camera.height_px, camera.width_px):
            camera = None
        depth = self._depth() if camera is not None else None
        return Frame(rgb, self.stamp_ns, self.message.header.frame_id, camera, depth)

    def _depth(self) -> DepthImage | None:
        """Depth image as the live node would use it: its place known, readable; else None."""
        if self.depth is None:
            return None
        message, kind, camera = self.depth
        here = self.rgb_from_depth
        if here is None and message.header.frame_id != self.message.header.frame_id:
            return None
        try:
            if kind == IMAGE_TYPES[1]:
                metres = decode_compressed_depth(message.data, message.format)
            else:
                metres = decode_depth(
                    message.data, width=message.width, height=message.height,
                    encoding=message.encoding, step=message.step,
                    is_bigendian=bool(message.is_bigendian),
                )  # fmt: skip
            return depth_image(metres, _stamp_ns(message), camera, here)
        except (ShapeError, CalibrationError) as error:
            log.warning("a depth image was not used: %s", error)
            return None


class BagInput:
    """The images of one topic in the order of the bag, each with calibration and depth."""

    def __init__(
        self, reader: AnyReader, topic: str | None, depth: str | None, extrinsics: str = ""
    ) -> None:
        """Choose the topics; calibration is that of ``camera_info`` beside them.

        ``extrinsics`` says where a depth camera of another frame is, as `parse_extrinsics` reads
        it; without it depth counts of the image's own frame only.

        Raises:
            ConfigError: an image topic is not in the bag, or not clear.
            CalibrationError: ``extrinsics`` that are no place.

        """
        self._reader = reader
        self._rgb_from_depth = parse_extrinsics(extrinsics)
        self.image = image_connection(reader, topic, depth)
        self.depth = image_connection(reader, depth) if depth else None
        #: Topic of each calibration, and whether it is read for a rectified image.
        self._wanted = {
            info_topic(c.topic): is_rectified(c.topic)
            for c in (self.depth, self.image)
            if c is not None
        }
        self._infos = [
            c for c in reader.connections if c.msgtype == INFO_TYPE and c.topic in self._wanted
        ]
        self._cameras: dict[str, PinholeCamera | None] = {}
        for connection in self._infos:  # images recorded before the first one use that one, too
            for _, _, raw in reader.messages(connections=[connection]):
                self._calibrate(connection, raw)
                break

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.image.msgcount)

    def images(self, max_skew_s: float) -> Iterator[Arrived]:
        """Every image; one waits for depth until ``max_skew_s`` after it in the bag."""
        waiting: deque[tuple[Any, int]] = deque()
        kept: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        skew_ns = round(max_skew_s * 1e9) if self.depth is not None else -1
        connections = [self.image, *self._infos, *([self.depth] if self.depth else [])]
        for connection, bag_ns, raw in self._reader.messages(connections=connections):
            if connection.msgtype == INFO_TYPE:
                self._calibrate(connection, raw)
                continue
            message = self._reader.deserialize(raw, connection.msgtype)
            if connection is self.image:
                waiting.append((message, bag_ns))
            else:
                kept.append((_stamp_ns(message), message))
            newest_ns = kept[-1][0] if kept else -1
            while waiting and (
                newest_ns >= _stamp_ns(waiting[0][0]) or bag_ns - waiting[0][1] > skew_ns
            ):
                yield self._arrived(*waiting.popleft(), kept, skew_ns)
        for message, bag_ns in waiting:
            yield self._arrived(message, bag_ns, kept, skew_ns)

    def _arrived(
        self, message: Any, bag_ns: int, kept: deque[tuple[int, Any]], skew_ns: int
    ) -> Arrived:
        depth, stamp_ns = None, _stamp_ns(message)
        near = min(kept, key=lambda one: abs(one[0] - stamp_ns), default=None)
        if self.depth is not None and near is not None and abs(near[0] - stamp_ns) <= skew_ns:
            camera = self._camera(self.depth)
            depth = (near[1], self.depth.msgtype, camera) if camera is not None else None
        return Arrived(
            message, self.image.msgtype, bag_ns, self._camera(self.image), depth,
            self._rgb_from_depth,
        )  # fmt: skip

    def _camera(self, connection: Connection) -> PinholeCamera | None:
        return self._cameras.get(info_topic(connection.topic))

    def _calibrate(self, connection: Connection, raw: bytes) -> None:
        try:
            info = self._reader.deserialize(raw, connection.msgtype)
            camera = camera_from_info(info, self._wanted[connection.topic])
        except CalibrationError as error:
            if connection.topic not in self._cameras:
                log.warning("%s cannot be used: %s", connection.topic, error)
            camera = None
        self._cameras[connection.topic] = camera


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec * 1_000_000_000 + stamp.nanosec)


def _pixels(image: Any, kind: str) -> ByteArray:
    if kind == IMAGE_TYPES[1]:
        return decode_compressed(image.data, image.format)
    return decode_image(
        image.data, width=image.width, height=image.height, encoding=image.encoding,
        step=image.step, is_bigendian=bool(image.is_bigendian),
    )  # fmt: skip
