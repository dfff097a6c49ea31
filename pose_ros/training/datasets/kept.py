"""Frames of videos and bags as picture files, so that training can read them in any order.

A video is decoded from its beginning to reach a frame: a window drawn at random costs up to a
second. With the option ``cache=DIR`` of `video_coco`, `rosbag` and `tracks` the frames that
windows need are written to DIR once, in order, as JPEG of quality 95, and read from there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
from tqdm import tqdm

from pose_ros.core.values import ByteArray
from pose_ros.errors import SourceError
from pose_ros.training.datasets.base import FileImage, ImageRef, WindowSpec
from pose_ros.training.datasets.clips import Clip

log = logging.getLogger(__name__)

JPEG = (
    cv2.IMWRITE_JPEG_QUALITY, 95,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip


def keep_clips(
    clips: Sequence[Clip], origins: Sequence[Path], window: WindowSpec, root: str
) -> None:
    """Let the frames that windows need be read from pictures under ``root``; nothing without one.

    ``origins`` are the videos or bags of the clips, of which frames are needed where somebody is
    labelled, and around.
    """
    if not root:
        return
    for clip, origin in zip(clips, origins, strict=True):
        frames = {frame.number: frame for frame in clip.frames}
        first, last = min(frames), max(frames)
        wanted = {
            int(number)
            for frame in clip.frames
            if frame.people
            for number in window.around(frame.number, first, last)[0]
        }
        images = {n: frames[n].image for n in wanted if n in frames}
        for number, picture in kept(images, origin, Path(root)).items():
            frames[number].image = picture


def kept(images: Mapping[int, ImageRef], origin: Path, root: Path) -> dict[int, FileImage]:
    """Pictures of some frames of ``origin``; what is not there yet is written, in order.

    A video that changed, by size or date, is another one.

    Raises:
        SourceError: they cannot be written.

    """
    facts = origin.stat()
    folder = root / f"{origin.stem}_{facts.st_size:x}_{facts.st_mtime_ns:x}"
    found = {number: FileImage(folder / f"{number:06d}.jpg") for number in images}
    missing = [number for number in sorted(images) if not found[number].path.is_file()]
    if missing:
        log.info("writes %d frames of %s to %s, once", len(missing), origin.name, folder)
    for number in tqdm(missing, desc=origin.name, disable=not sys.stderr.isatty()):
        _write(found[number].path, images[number].read())
    return found


def _write(path: Path, rgb: ByteArray) -> None:
    """Write a picture whole or not at all; several processes may write the same one."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _good, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), JPEG)
        part.write_bytes(data.tobytes())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise SourceError(f"{path}: could not be written: {error}") from error
