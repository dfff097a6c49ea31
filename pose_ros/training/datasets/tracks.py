"""Unlabelled video with tracked people: windows without labels, for a teacher to label.

``tracks:VIDEO?poses=FILE.jsonl`` reads a video, or a folder of pictures in the order of their
names, and what ``python -m pose_ros.tools.track VIDEO --out FILE.jsonl`` says about it. Only boxes
and ids are used. Reading a video out of order is slow: give a folder of pictures, or ``cache=DIR``
(`kept`), or let features be stored (``cache.variants``), which reads in order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import FloatArray
from pose_ros.errors import SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import (
    ClipSample,
    FileImage,
    ImageRef,
    VideoImage,
    WindowSpec,
    has_area,
    need,
)
from pose_ros.training.datasets.kept import kept

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MEASURED = "TRACKED"  # state of a person who was seen in this very frame


class TrackedVideo:
    """Every tracked person of a video in every n-th frame, without labels."""

    def __init__(
        self, video: Path, rows: list[dict[str, Any]], window: WindowSpec, every: int = 1
    ) -> None:
        """Take what `tools.track` says, a row per frame."""
        self.name, self.skeleton = f"tracks-{video.stem}", COCO17
        self.video, self.window = video, window
        self.pictures = _pictures(video)
        self.last = (len(self.pictures) if self.pictures else len(rows)) - 1
        self.people: list[tuple[int, str, FloatArray]] = []
        self.kept: dict[int, FileImage] = {}
        for row in rows:
            for person in row["people"] if row["frame"] % every == 0 else ():
                box = np.asarray(person["box_xyxy_px"], np.float32)
                if person["state"] == MEASURED and box.shape == (4,) and has_area(box):
                    self.people.append((int(row["frame"]), str(person["id"]), box))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.people)

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``; all of its joints are unknown."""
        frame, track, box = self.people[index]
        frames, left, right = self.window.around(frame, 0, self.last)
        shape = (len(frames), len(self.skeleton))
        return ClipSample(
            images=tuple(self._image(int(f)) for f in frames),
            key=self.window.key,
            box_xyxy_px=box,
            xy_px=np.full((*shape, 2), np.nan, np.float32),
            visible=np.zeros(shape, np.uint8),
            skeleton=self.skeleton,
            track=track,
            frame_index=frames,
            dt_left=left,
            dt_right=right,
            video=self.video.stem,
            image_id=frame,
        )

    def _image(self, frame: int) -> ImageRef:
        if self.pictures:
            return FileImage(self.pictures[frame])
        return self.kept.get(frame) or VideoImage(self.video, frame)

    def keep(self, root: str) -> None:
        """Let the frames that windows need be read from pictures under ``root``."""
        if self.pictures or not root:
            return
        wanted = {
            int(number)
            for frame in {frame for frame, _track, _box in self.people}
            for number in self.window.around(frame, 0, self.last)[0]
        }
        self.kept = kept({n: VideoImage(self.video, n) for n in wanted}, self.video, Path(root))


def _pictures(video: Path) -> list[Path]:
    """Pictures of a folder by name; none for a video file."""
    if not video.is_dir():
        return []
    found = sorted(p for p in video.iterdir() if p.suffix.lower() in PICTURES)
    if not found:
        raise SourceError(f"{video}: expected a video or a folder of pictures, found no picture")
    return found


@register_dataset("tracks")
def tracks(
    path: str,
    poses: str = "",
    every: int = 1,
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    cache: str = "",
) -> TrackedVideo:
    """Tracked people of an unlabelled video; ``poses`` is the file of `tools.track`."""
    video = need(Path(path), "the video", "  VIDEO or a folder of pictures")
    file = need(
        Path(poses or f"{path}.jsonl"),
        "what the tracker says (python -m pose_ros.tools.track VIDEO --out FILE.jsonl)",
        "  FILE.jsonl, given as poses=FILE.jsonl",
    )
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({"frame": row["frame"], "people": row["people"]})
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{file}, line {number}: expected an object with frame and people, as "
                f"pose_ros.tools.track writes it ({error})"
            ) from error
    tracked = TrackedVideo(video, rows, WindowSpec(frames, key, step), every)
    tracked.keep(cache)
    return tracked
