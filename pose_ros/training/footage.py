"""What labels belong to: the frames of a video, a folder of pictures or a bag."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pose_ros.core.source import FOLDER_RATE_HZ, PICTURES, open_source
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import rosbag
from pose_ros.training.datasets.base import FileImage, ImageRef, VideoImage, picture_size
from pose_ros.training.datasets.video_coco import VIDEOS
from pose_ros.training.label_records import FrameRecord, LabelFile, tracks_of
from pose_ros.training.propagation import Sparse

#: Frames by which the length that a label file states may differ from the video's header.
HEADER_ERROR = 1


@dataclass(frozen=True, eq=False)
class Footage:
    """Frames in order, read lazily."""

    name: str
    images: tuple[ImageRef, ...]  # L
    size_px: tuple[int, int]  # width, height
    rate_hz: float
    stamps_ns: tuple[int, ...] | None = None  # L, of a bag

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.images)


def is_bag(path: Path) -> bool:
    """Whether a path is a rosbag2 recording: an .mcap file or a folder with its metadata."""
    return path.suffix == ".mcap" or (path / "metadata.yaml").is_file()


def open_footage(path: Path, topic: str = "") -> Footage:
    """Open a video file, a folder of pictures, or a rosbag2 recording (folder or .mcap).

    Raises:
        SourceError: there is nothing of the kind.
        ConfigError: a bag with several image topics and none named.

    """
    if is_bag(path):
        return _bag(path, topic)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        if not files:
            raise SourceError(f"{path}: expected a bag or pictures, found neither")
        images = tuple(FileImage(file) for file in files)
        return Footage(path.name, images, picture_size(files[0]), FOLDER_RATE_HZ)
    source = open_source(str(path))
    if not source.count:
        raise SourceError(f"{path}: expected a video that says how many frames it has")
    frames = tuple(VideoImage(path, number) for number in range(source.count))
    height, width = frames[0].read().shape[:2]
    return Footage(path.stem, frames, (width, height), source.rate_hz)


def _bag(path: Path, topic: str) -> Footage:
    recording = rosbag.open_topic(path, topic)
    stamps = tuple(recording.stamps())
    if len(set(stamps)) != len(stamps):
        raise ConfigError(f"{path}: two images have the same stamp, labels cannot tell them apart")
    if not stamps:
        raise SourceError(f"{path}: its image topic has no message")
    images = tuple(rosbag.BagImage(path, topic, number) for number in range(len(stamps)))
    height, width = images[0].read().shape[:2]
    step = float(np.median(np.diff(stamps))) / 1e9 if len(stamps) > 1 else 1 / FOLDER_RATE_HZ
    return Footage(path.stem, images, (width, height), 1 / max(step, 1e-3), stamps)


def footage_beside(labels: Path) -> Path:
    """Video beside a label file, of the same name.

    Raises:
        SourceError: there is none.

    """
    found = [f for f in (labels.with_suffix(s) for s in VIDEOS) if f.is_file()]
    if not found:
        raise SourceError(f"{labels}: found no video of that name beside it; name it with --video")
    return found[0]


def attach(labels: LabelFile, footage: Footage) -> Sparse:
    """Labels with the frames that they belong to.

    Raises:
        ConfigError: they belong to another video: frames or stamps that it does not have, another
            number of frames or picture size, or boxes outside the picture.

    """
    where = f"{labels.path}, labels of {footage.name}"
    _check_length(labels, footage, where)
    tracks = tracks_of(labels.frames)
    shape = (len(tracks), len(footage), len(labels.skeleton))
    xy = np.full((*shape, 2), np.nan, np.float32)
    visible = np.zeros(shape, np.uint8)
    boxes = np.full((*shape[:2], 4), np.nan, np.float32)
    labelled = np.zeros(len(footage), np.bool_)
    for frame in labels.frames:
        time = _time(frame, footage, where)
        _check_place(frame, footage, where)
        labelled[time] = True
        for person in frame.people:
            row = tracks.index(person.track)
            xy[row, time], visible[row, time] = person.xy_px, person.visible
            boxes[row, time] = person.box_xyxy_px
    return Sparse(
        footage.name, footage.images, footage.size_px, labels.skeleton, tracks, labelled, xy,
        visible, boxes,
    )  # fmt: skip


def _check_length(labels: LabelFile, footage: Footage, where: str) -> None:
    stated = labels.video_frames
    if stated is not None and abs(stated - len(footage)) > HEADER_ERROR:
        rate = (
            "; or did Label Studio count them at another rate? Its <Video> counts 24 a second "
            f'unless it says frameRate="{footage.rate_hz:g}"'
        )
        raise ConfigError(
            f"{where}: they are of a video of {stated} frames, this one has {len(footage)}; are "
            f"these the labels of another video{rate if labels.form == 'label-studio' else '?'}"
        )


def _time(frame: FrameRecord, footage: Footage, where: str) -> int:
    if frame.number is None:
        if footage.stamps_ns is None or frame.stamp_ns not in footage.stamps_ns:
            raise ConfigError(
                f"{where}: a label is of the image of stamp {frame.stamp_ns}, which is not there; "
                "are these the labels of another recording?"
            )
        return footage.stamps_ns.index(frame.stamp_ns)
    if not 0 <= frame.number < len(footage):
        raise ConfigError(
            f"{where}: frame {frame.number} is labelled, but there are frames 0 to "
            f"{len(footage) - 1}; are these the labels of another video, or do its frames count "
            "from 1?"
        )
    if footage.stamps_ns is not None and frame.stamp_ns not in (
        None,
        footage.stamps_ns[frame.number],
    ):
        raise ConfigError(
            f"{where}: frame {frame.number} has stamp {footage.stamps_ns[frame.number]}, the "
            f"labels say {frame.stamp_ns}; are these the labels of another recording?"
        )
    return frame.number


def _check_place(frame: FrameRecord, footage: Footage, where: str) -> None:
    size = footage.size_px
    if frame.size_px is not None and frame.size_px != size:
        raise ConfigError(
            f"{where}: {frame.called} was labelled at {frame.size_px[0]}x{frame.size_px[1]} "
            f"pixels, here are {size[0]}x{size[1]}; are these the labels of another video?"
        )
    high = np.array(size, np.float32) - 0.5
    for person in frame.people:
        box = person.box_xyxy_px
        if (box[:2] >= high).any() or (box[2:] <= -0.5).any():
            raise ConfigError(
                f"{where}, {frame.called}: the box {box.round(1).tolist()} of person "
                f"{person.track} lies outside the picture of {size[0]}x{size[1]} pixels"
            )
