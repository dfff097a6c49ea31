"""Pictures over time from a video file, a folder of pictures or a V4L2 camera."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from pose_ros.core.values import ByteArray
from pose_ros.errors import SourceError

#: A folder of pictures has no rate of its own.
FOLDER_RATE_HZ = 30.0
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

_log = logging.getLogger(__name__)


class PictureSource(Protocol):
    """Pictures in order, at a nominal rate; ``count`` is None where it is not known."""

    name: str
    rate_hz: float
    count: int | None
    live: bool

    def __iter__(self) -> Iterator[ByteArray]:
        """BGR pictures (H, W, 3) uint8; from the start again for files, onwards for a camera."""
        ...


def open_source(name: str) -> PictureSource:
    """Open a video file, a folder of pictures, or a camera ``/dev/videoN``.

    Raises:
        SourceError: there is no such thing, or no picture can be read from it.

    """
    path = Path(name)
    if name.startswith("/dev/video"):
        return VideoSource(name, live=True)
    if path.is_dir():
        return FolderSource(path)
    if not path.is_file():
        raise SourceError(
            f"{name}: expected a video file, a folder of pictures or /dev/videoN, "
            "found nothing there"
        )
    return VideoSource(name, live=False)


class VideoSource:
    """A video file or a camera through OpenCV."""

    def __init__(self, name: str, live: bool) -> None:
        """Open it and read its rate."""
        self.name = name
        self.live = live
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.rate_hz = float(rate) if 0.5 <= rate <= 1000.0 else FOLDER_RATE_HZ
        if self.rate_hz != rate:
            _log.warning(
                "%s states %s frames per second; %g are assumed", name, rate, self.rate_hz
            )
        self.count = frames if frames > 0 and not live else None
        capture.release()

    def __iter__(self) -> Iterator[ByteArray]:
        """BGR pictures until the end of the file, or for as long as the camera delivers.

        Raises:
            SourceError: not a single picture could be read.

        """
        capture = self._open()
        read = 0
        try:
            while True:
                good, picture = capture.read()
                if not good:
                    break
                read += 1
                yield picture
        finally:
            capture.release()
        if read == 0:
            raise SourceError(f"{self.name}: opened, but no picture could be read from it")
        if self.count and read < self.count:
            _log.warning("%s: %d of %d frames could be read", self.name, read, self.count)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(self.name)
        if not capture.isOpened():
            what = "camera" if self.live else "video"
            raise SourceError(
                f"{self.name}: this {what} does not open; expected "
                + ("a free V4L2 device" if self.live else "a format that OpenCV's FFmpeg reads")
            )
        return capture


class FolderSource:
    """The pictures of a folder in the order of their names."""

    live = False

    def __init__(self, folder: Path) -> None:
        """List the pictures."""
        self.name = str(folder)
        self.files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
        self.count: int | None = len(self.files)
        self.rate_hz = FOLDER_RATE_HZ
        if not self.files:
            raise SourceError(f"{folder}: expected pictures ({', '.join(PICTURES)}), found none")

    def __iter__(self) -> Iterator[ByteArray]:
        """BGR pictures.

        Raises:
            SourceError: a file is not a picture.

        """
        for path in self.files:
            try:
                picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
            except cv2.error:
                picture = None
            if picture is None:
                raise SourceError(f"{path}: expected a picture, OpenCV cannot read it")
            yield picture
