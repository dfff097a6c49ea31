"""What every dataset gives: short clips of one labelled person, read lazily.

Letters in shapes: T frames of a window, K joints of the dataset's joint set. Pixels as everywhere
(`docs/conventions.md`): integers at pixel centres. No augmentation happens here.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray, FloatArray, IntArray, check
from pose_ros.errors import ConfigError, SourceError

#: Values of `ClipSample.visible`, as in COCO files.
UNLABELLED, OCCLUDED, VISIBLE = 0, 1, 2
#: Video files that one process keeps open.
OPEN_VIDEOS = 4


@runtime_checkable
class ImageRef(Protocol):
    """A picture that is read when somebody asks for it."""

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first."""
        ...


@dataclass(frozen=True)
class FileImage:
    """A picture file."""

    path: Path

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first.

        Raises:
            SourceError: there is no such file, or it is no picture.

        """
        try:
            data = np.fromfile(self.path, np.uint8)
            bgr = None if _cut_off(data) else cv2.imdecode(data, cv2.IMREAD_COLOR)
        except (OSError, cv2.error):
            bgr = None
        if bgr is None:
            state = "is not a picture (half downloaded?)" if self.path.is_file() else "is missing"
            raise SourceError(f"{self.path}: the labels name this picture, but it {state}")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _cut_off(data: ByteArray) -> bool:
    """Whether a JPEG lacks its end, which OpenCV would fill with grey without a word."""
    return data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-65536:].tobytes()


@dataclass(frozen=True, eq=False)
class ArrayImage:
    """A picture in memory."""

    rgb: ByteArray

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first."""
        return self.rgb


@dataclass(frozen=True)
class VideoImage:
    """Frame ``index`` (from 0) of a video file.

    Frames are counted by decoding, because seeking by number is off by some frames for many
    codecs; reading in order is therefore fast and jumping back is slow.
    """

    path: Path
    index: int

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first.

        Raises:
            SourceError: the video does not open or ends before this frame.

        """
        return _video(self.path).frame(self.index)


class _Video:
    """An open video with the last frames that were decoded."""

    KEPT = 16

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recent: OrderedDict[int, ByteArray] = OrderedDict()
        self._open()

    def _open(self) -> None:
        self.capture = cv2.VideoCapture(str(self.path))
        self.next = 0
        if not self.path.is_file() or not self.capture.isOpened():
            raise SourceError(f"{self.path}: expected a video that OpenCV's FFmpeg reads")

    def frame(self, index: int) -> ByteArray:
        """Frame ``index``, red first."""
        if index in self.recent:
            return self.recent[index]
        if index < self.next:
            self.capture.release()
            self._open()
        while self.next < index:
            if not self.capture.grab():
                break
            self.next += 1
        good, bgr = self.capture.read()
        if not good:
            raise SourceError(
                f"{self.path}: frame {index} was asked for, but the video ends after {self.next}"
            )
        self.next += 1
        self.recent[index] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        while len(self.recent) > self.KEPT:
            self.recent.popitem(last=False)
        return self.recent[index]


_videos: OrderedDict[tuple[int, Path], _Video] = OrderedDict()


def _video(path: Path) -> _Video:
    """Return the open video; a forked worker opens its own."""
    where = (os.getpid(), path)
    if where not in _videos:
        _videos[where] = _Video(path)
        while len(_videos) > OPEN_VIDEOS:
            _videos.popitem(last=False)
    _videos.move_to_end(where)
    return _videos[where]


@dataclass(frozen=True)
class WindowSpec:
    """Which frames a sample has: ``frames`` of them, ``step`` apart, the labelled one ``key``."""

    frames: int = 1
    key: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        """Refuse windows without their key frame.

        Raises:
            ConfigError: ``key`` is outside the window, or a number is not positive.

        """
        if self.frames < 1 or self.step < 1 or not 0 <= self.key < self.frames:
            raise ConfigError(
                "a window needs frames >= 1, step >= 1 and 0 <= key < frames, "
                f"got frames={self.frames}, key={self.key}, step={self.step}"
            )

    def around(self, key_frame: int, first: int, last: int) -> tuple[IntArray, int, int]:
        """(T,) frame numbers around a key frame in a video of frames ``first`` to ``last``.

        A frame outside the video is replaced by the key frame. The distances ``dt_left`` and
        ``dt_right`` to the outermost frames count a replaced frame as one frame away.
        """
        offset = (np.arange(self.frames) - self.key) * self.step
        index = key_frame + offset
        index = np.where((index < first) | (index > last), key_frame, index).astype(np.int64)
        return index, *self.distances(key_frame, index)

    def distances(self, key_frame: int, index: IntArray) -> tuple[int, int]:
        """``dt_left`` and ``dt_right`` of the frames (T,) that a window really has."""
        left = max(1, key_frame - int(index[0])) if self.key else 0
        right = max(1, int(index[-1]) - key_frame) if self.key < self.frames - 1 else 0
        return left, right


@dataclass(frozen=True, eq=False)
class ClipSample:
    """One labelled person in T frames.

    ``xy_px`` of frames where the person is not labelled is NaN, and so is every joint that nobody
    labelled. ``frame_index`` counts frames of the video; a frame outside it repeats the key frame.
    The fields after ``dt_right`` serve evaluation and are NaN, empty or None where a dataset does
    not know them.
    """

    images: tuple[ImageRef, ...]  # T, read lazily
    key: int  # the frame of the window that the box belongs to
    box_xyxy_px: FloatArray  # (4,)
    xy_px: FloatArray  # (T, K, 2), NaN unknown
    visible: ByteArray  # (T, K) 0 unlabelled, 1 occluded, 2 visible
    skeleton: Skeleton
    track: str  # the same for the same person of a video, else different
    frame_index: IntArray  # (T,)
    dt_left: int  # frames from the key frame to the first frame, at least 1 if there is one
    dt_right: int
    video: str = ""  # name of the sequence or the picture
    image_id: int = -1  # of the key frame, as in the label file
    head_px: float = float("nan")  # head size for PCKh: 0.6 x the diagonal of the head rectangle
    area_px2: float = float("nan")  # segment area for OKS
    box_score: float = 1.0  # 1 for labelled boxes
    xyz_m: FloatArray | None = None  # (T, K, 3) camera frame, NaN unknown
    pseudo: np.ndarray | None = None  # (T,) bool, where a network said the labels; None: nowhere
    other: ClipSample | None = None  # the same person at the same time, seen by another camera
    #: (3, 3): image pixels x here and y there (homogeneous) of one point have y^T epipolar x = 0
    epipolar: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        frames, joints = len(self.images), len(self.skeleton)
        check("ClipSample.box_xyxy_px", self.box_xyxy_px, (4,), np.float32)
        check("ClipSample.xy_px", self.xy_px, (frames, joints, 2), np.float32)
        check("ClipSample.visible", self.visible, (frames, joints), np.uint8)
        check("ClipSample.frame_index", self.frame_index, (frames,), np.int64)
        if self.xyz_m is not None:
            check("ClipSample.xyz_m", self.xyz_m, (frames, joints, 3), np.float32)
        if self.pseudo is not None:
            check("ClipSample.pseudo", self.pseudo, (frames,), np.bool_)
        if not 0 <= self.key < frames:
            raise ConfigError(f"ClipSample.key: expected 0 ... {frames - 1}, got {self.key}")


class ClipDataset(Protocol):
    """Samples by number."""

    name: str
    skeleton: Skeleton

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``; negative ones count from the end."""
        ...


class Subset:
    """Some samples of a dataset."""

    def __init__(self, dataset: ClipDataset, indices: Sequence[int]) -> None:
        """Keep the samples ``indices``."""
        self.dataset = dataset
        self.indices = list(indices)
        self.name = dataset.name
        self.skeleton = dataset.skeleton

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.indices)

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``."""
        return self.dataset[self.indices[index]]


def samples(dataset: ClipDataset) -> Iterator[ClipSample]:
    """Every sample in order."""
    for index in range(len(dataset)):
        yield dataset[index]


def labels_from_triples(triples: object, joints: int, where: str) -> tuple[FloatArray, ByteArray]:
    """Joints (K, 2) and visibility (K,) from the flat x, y, v of COCO-style files.

    A joint with v = 0, or without finite coordinates, is NaN and unlabelled.

    Raises:
        ConfigError: another number of values than ``3 * joints``.

    """
    flat = np.asarray(triples, np.float64).ravel()
    if flat.size != 3 * joints:
        raise ConfigError(
            f"{where}: expected {joints} joints (x, y, visibility), {3 * joints} numbers, got "
            f"{flat.size}; is this a file of another joint set?"
        )
    table = flat.reshape(joints, 3)
    known = (table[:, 2] > 0) & np.isfinite(table).all(axis=1)
    xy = np.where(known[:, None], table[:, :2], np.nan).astype(np.float32)
    return xy, np.where(known, np.clip(np.nan_to_num(table[:, 2]), 1, 2), 0).astype(np.uint8)


def box_from_xywh(xywh: object, where: str) -> FloatArray:
    """(4,) left, top, right, bottom in pixel coordinates from a file's edge-based x, y, w, h.

    Raises:
        ConfigError: not four finite numbers, or a negative size.

    """
    box = np.asarray(xywh, np.float64).ravel()
    if box.size != 4 or not np.isfinite(box).all() or (box[2:] < 0).any():
        raise ConfigError(f"{where}: expected a box x, y, w, h with w, h >= 0, got {xywh!r}")
    return np.array([*box[:2], *(box[:2] + box[2:])], np.float32) - np.float32(0.5)


def clip_box(xyxy_px: FloatArray, size_px: tuple[int, int]) -> FloatArray:
    """Part of a box inside an image of (width, height); without area when it lies outside."""
    width, height = size_px
    high = np.array([width, height, width, height], np.float32) - np.float32(0.5)
    return np.clip(xyxy_px, np.float32(-0.5), high)


def has_area(xyxy_px: FloatArray) -> bool:
    """Whether a box is wider and higher than nothing."""
    return bool((xyxy_px[2:] > xyxy_px[:2]).all())


def box_of_joints(xy_px: FloatArray, margin: float = 0.2) -> FloatArray:
    """(4,) box around the known joints (K, 2), each side ``margin`` of its size further out."""
    known = xy_px[np.isfinite(xy_px).all(axis=1)]
    if len(known) == 0:
        return np.full(4, np.nan, np.float32)
    low, high = known.min(axis=0), known.max(axis=0)
    grow = np.maximum(high - low, 1.0) * margin
    return np.concatenate([low - grow, high + grow]).astype(np.float32)


def read_json(path: Path) -> Any:
    """Parsed JSON file.

    Raises:
        SourceError: the file cannot be read, or is cut off or no JSON.

    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{path}: expected a JSON label file (half downloaded?): {error}"
        ) from error


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of a picture file; of JPEG and PNG without decoding it.

    Raises:
        SourceError: the file is missing or no picture.

    """
    try:
        with path.open("rb") as file:
            head = file.read(24)
            if head[:8] == b"\x89PNG\r\n\x1a\n":
                width, height = struct.unpack(">II", head[16:24])
                return int(width), int(height)
            file.seek(2)
            while head[:2] == b"\xff\xd8" and (marker := file.read(4)):
                kind, length = struct.unpack(">HH", marker)
                if 0xFFC0 <= kind <= 0xFFCF and kind not in (0xFFC4, 0xFFC8, 0xFFCC):
                    height, width = struct.unpack(">xHH", file.read(5))
                    return int(width), int(height)
                file.seek(length - 2, 1)
    except (OSError, struct.error):
        pass
    rgb = FileImage(path).read()
    return rgb.shape[1], rgb.shape[0]


def need(path: Path, what: str, layout: str) -> Path:
    """Return the path, which has to exist.

    Raises:
        SourceError: it does not; the message says what to download and how to lay it out.

    """
    if not path.exists():
        raise SourceError(f"{path}: {what} is missing. {expected(layout)}")
    return path


def expected(layout: str) -> str:
    """Return what to download and how to lay it out, as one line of an error."""
    lines = (" ".join(line.split()) for line in layout.splitlines())
    return "Expected layout: " + "; ".join(line for line in lines if line)


def last_number(name: str) -> int:
    """Last number in a file's name: 12 in frame_000012.png.

    Raises:
        ConfigError: there is none.

    """
    digits = re.findall(r"\d+", Path(name).stem)
    if not digits:
        raise ConfigError(f"'{name}': expected a frame number in the file name, like 000012.jpg")
    return int(digits[-1])
