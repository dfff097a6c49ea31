"""rosbag2 recordings (MCAP or sqlite3) with labels in COCO's form.

``rosbag:BAG?labels=FILE.json&topic=/camera/image_raw``. A picture of the label file names its
message by ``stamp_ns``, the stamp in the header. Every image of the topic is a frame; those that
the file does not list are unlabelled and serve windows. Images are decoded when they are read.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pose_ros.core.decode import decode_compressed, decode_image
from pose_ros.core.values import ByteArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import WindowSpec, need
from pose_ros.training.datasets.clips import Clip, FrameLabel, LabelledClips
from pose_ros.training.datasets.coco import coco_tables
from pose_ros.training.datasets.kept import keep_clips
from pose_ros.training.datasets.video_coco import joint_set, person_in_video

LAYOUT = """\
  BAG/metadata.yaml and BAG/*.mcap or *.db3     a rosbag2 folder, or a single .mcap file
  BAG/labels.json                               COCO keypoints; pictures carry stamp_ns"""
TYPES = {"sensor_msgs/msg/Image": False, "sensor_msgs/msg/CompressedImage": True}
KEPT = 16


@dataclass(frozen=True)
class BagImage:
    """One image message of a bag, by its number on the topic."""

    bag: Path
    topic: str
    number: int

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first.

        Raises:
            SourceError: the bag has no such message any more.

        """
        return open_topic(self.bag, self.topic).image(self.number)


class Topic:
    """The images of one topic; messages are found by iterating, the last ones are kept."""

    def __init__(self, bag: Path, topic: str) -> None:
        """Open the bag and list the stamps."""
        self.bag, self.topic = bag, topic
        self.recent: OrderedDict[int, ByteArray] = OrderedDict()
        self.reader, self.connection = _reader(bag, topic)
        self.compressed = TYPES[self.connection.msgtype]
        self._walk: Any = None
        self._next = 0

    def stamps(self) -> list[int]:
        """Header stamps in nanoseconds, in the order of the bag."""
        return [_stamp(self._message(raw)) for _c, _t, raw in self._messages()]

    def _messages(self) -> Any:
        return self.reader.messages(connections=[self.connection])

    def _message(self, raw: bytes) -> Any:
        return self.reader.deserialize(raw, self.connection.msgtype)

    def image(self, number: int) -> ByteArray:
        """Image of a message; going back starts over."""
        if number in self.recent:
            return self.recent[number]
        if self._walk is None or number < self._next:
            self._walk, self._next = self._messages(), 0
        for _connection, _time, raw in self._walk:
            self._next += 1
            if self._next == number + 1:
                self.recent[number] = self._decoded(self._message(raw))
                while len(self.recent) > KEPT:
                    self.recent.popitem(last=False)
                return self.recent[number]
        raise SourceError(f"{self.bag}: {self.topic} has no image {number}; did the bag change?")

    def _decoded(self, message: Any) -> ByteArray:
        if self.compressed:
            return decode_compressed(message.data, message.format)
        return decode_image(
            message.data,
            width=message.width,
            height=message.height,
            encoding=message.encoding,
            step=message.step,
            is_bigendian=bool(message.is_bigendian),
        )


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


_topics: dict[tuple[int, Path, str], Topic] = {}


def open_topic(bag: Path, topic: str) -> Topic:
    """Return the open topic; a forked worker opens its own."""
    where = (os.getpid(), bag, topic)
    if where not in _topics:
        _topics[where] = Topic(bag, topic)
    return _topics[where]


def _reader(bag: Path, topic: str) -> tuple[Any, Any]:
    """Open reader and the connection of the images; the only image topic when none is named."""
    try:
        from rosbags.highlevel import AnyReader
        from rosbags.highlevel.anyreader import AnyReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise ConfigError("bags need rosbags: pip install 'pose_ros[bags]'") from None
    try:
        reader = AnyReader([bag], default_typestore=get_typestore(Stores.LATEST))
        reader.open()
    except (AnyReaderError, OSError, ValueError) as error:
        raise SourceError(f"{bag}: expected a rosbag2 recording: {error}") from error
    images = [c for c in reader.connections if c.msgtype in TYPES]
    chosen = [c for c in images if not topic or c.topic == topic]
    if len(chosen) != 1:
        have = ", ".join(sorted(c.topic for c in images)) or "none"
        raise ConfigError(f"{bag}: expected one image topic, topic='{topic}'; there are {have}")
    return reader, chosen[0]


@register_dataset("rosbag")
def rosbag(
    path: str,
    labels: str = "",
    topic: str = "",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    cache: str = "",
) -> LabelledClips:
    """Open a labelled bag; ``labels`` is BAG/labels.json, ``topic`` the only image topic.

    ``cache`` as in `kept`.

    Raises:
        SourceError: files are missing.
        ConfigError: labels of stamps that the bag does not have.

    """
    bag = need(Path(path), "the bag", LAYOUT)
    file = need(Path(labels) if labels else bag / "labels.json", "the label file", LAYOUT)
    skeleton = joint_set(file)
    clip = read_bag(bag, topic, file)
    window = WindowSpec(frames, key, step)
    keep_clips([clip], [bag], window, cache)
    return LabelledClips("rosbag", skeleton, [clip], window)


def read_bag(bag: Path, topic: str, labels: Path) -> Clip:
    """Every image of the topic, with the labels of a COCO file.

    Raises:
        ConfigError: a labelled stamp that no image has, or two images of one stamp.

    """
    stamps = open_topic(bag, topic).stamps()
    if len(set(stamps)) != len(stamps):
        raise ConfigError(f"{bag}: two images have the same stamp, labels cannot tell them apart")
    pictures, people = coco_tables(labels)
    if any("stamp_ns" not in picture for picture in pictures):
        raise ConfigError(f"{labels}: expected stamp_ns in every picture, the header's stamp")
    listed = {int(picture["stamp_ns"]): picture for picture in pictures}
    strange = sorted(set(listed) - set(stamps))
    if strange:
        raise ConfigError(
            f"{labels}: {len(strange)} labelled stamps are of no image in {bag} (first "
            f"{strange[0]}); are these the labels of another recording?"
        )
    skeleton = joint_set(labels)
    frames = []
    for number, stamp in enumerate(stamps):
        picture = listed.get(stamp)
        here = people.get(int(picture["id"]), []) if picture else []
        where = f"{labels} stamp {stamp}"
        frames.append(
            FrameLabel(
                image=BagImage(bag, topic, number),
                number=number,
                image_id=int(picture["id"]) if picture else -1,
                people=[person_in_video(a, skeleton, where, row) for row, a in enumerate(here)],
                labelled=picture is not None,
            )
        )
    return Clip(bag.stem, tuple(frames))
