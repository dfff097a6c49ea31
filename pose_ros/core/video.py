"""Writing videos."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import cv2

from pose_ros.core.values import ByteArray
from pose_ros.errors import SourceError


class VideoWriter:
    """An MPEG-4 file that opens with the first picture; a context manager.

    The headless OpenCV wheel has no H.264 encoder; ``mp4v`` is what it has everywhere.
    """

    def __init__(self, path: str | Path, rate_hz: float) -> None:
        """Remember where to write, and how fast it plays."""
        self.path = Path(path)
        self.rate_hz = rate_hz
        self._writer: cv2.VideoWriter | None = None
        self._size_px: tuple[int, int] | None = None
        self._count = 0

    def write(self, rgb: ByteArray) -> None:
        """Append a picture (H, W, 3); one of another size than the first is resized to it.

        Raises:
            SourceError: the file cannot be written.

        """
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._size_px = (rgb.shape[1], rgb.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate_hz, self._size_px)
            if not self._writer.isOpened():
                raise SourceError(f"{self.path}: cannot write an mp4v video there")
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        if (rgb.shape[1], rgb.shape[0]) != self._size_px:
            bgr = cv2.resize(bgr, self._size_px)
        self._writer.write(bgr)
        self._count += 1

    def __enter__(self) -> VideoWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, and look whether it is there: OpenCV says nothing of a full disk.

        Raises:
            SourceError: what was written cannot be read; not when there was an error before.

        """
        if self._writer is None:
            return
        self._writer.release()
        if kind is None and not self._is_whole():
            raise SourceError(
                f"{self.path}: of {self._count} pictures, the file does not have all; is the disk "
                "full? It can be removed"
            )

    def _is_whole(self) -> bool:
        """Whether the file says as many pictures as were written (some forms round it)."""
        capture = cv2.VideoCapture(str(self.path))
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        readable = capture.grab()
        capture.release()
        return readable and found >= self._count - 1
