"""A lab's own videos with labels in COCO's form, the way annotation tools export them.

``ROOT/NAME.mp4`` with ``ROOT/NAME.json``, for every video of a folder, or one such JSON file with
``video=FILE``. A picture of the JSON is a frame of the video: its number, from 0, is the field
``frame_number``, else the last number in its ``file_name``. ``track_id`` of an annotation tells
people apart over time; without it every label stands alone. The joints are those that
``categories`` name, and have to be one of our joint sets. Frames that the file does not list are
there for windows, and unlabelled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

from pose_ros.core.skeletons import COCO17, SKELETONS, Skeleton
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import (
    VideoImage,
    WindowSpec,
    expected,
    last_number,
    need,
    read_json,
)
from pose_ros.training.datasets.clips import Clip, FrameLabel, LabelledClips, PersonLabel
from pose_ros.training.datasets.coco import coco_tables, person_of, track_of
from pose_ros.training.datasets.kept import keep_clips
from pose_ros.training.datasets.posetrack_files import FILE_NAMES

VIDEOS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
LAYOUT = """\
  ROOT/NAME.mp4     (or .avi, .mkv, .mov, .webm)
  ROOT/NAME.json    COCO keypoints; pictures carry frame_number, from 0"""


@register_dataset("video_coco")
def video_coco(
    path: str,
    video: str = "",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    cache: str = "",
) -> LabelledClips:
    """Videos of a folder, or one label file with its ``video``; ``cache`` as in `kept`."""
    root = need(Path(path), "the folder or label file", LAYOUT)
    if root.is_file():
        pairs = [(root, Path(video) if video else _video_of(root))]
    else:
        pairs = [(file, _video_of(file)) for file in sorted(root.glob("*.json"))]
    if not pairs:
        raise SourceError(f"{root}: found no label file. {expected(LAYOUT)}")
    sets = [joint_set(file) for file, _ in pairs]
    if len(set(sets)) > 1:
        named = ", ".join(f"{f.name}: {s.name}" for (f, _), s in zip(pairs, sets, strict=True))
        raise ConfigError(f"{root}: expected one joint set in all label files, got {named}")
    clips = [read_video(file, film, sets[0]) for file, film in pairs]
    window = WindowSpec(frames, key, step)
    keep_clips(clips, [film for _, film in pairs], window, cache)
    return LabelledClips("video_coco", sets[0], clips, window)


def _video_of(labels: Path) -> Path:
    """Video beside a label file."""
    found = [f for f in (labels.with_suffix(s) for s in VIDEOS) if f.is_file()]
    if not found:
        raise SourceError(f"{labels}: found no video of that name. {expected(LAYOUT)}")
    return found[0]


def joint_set(labels: Path) -> Skeleton:
    """Joint set that a file's categories name; COCO's when they name none.

    Raises:
        ConfigError: other joints than any joint set we know.

    """
    data = read_json(labels)
    categories = data.get("categories") if isinstance(data, dict) else None
    names = tuple(FILE_NAMES.get(n, n) for n in (categories or [{}])[0].get("keypoints") or ())
    if not names:
        return COCO17
    same = [s for s in SKELETONS.values() if s.joints == names]
    if not same:
        known = "; ".join(f"{s.name} ({len(s)})" for s in SKELETONS.values())
        raise ConfigError(
            f"{labels}: the joints {', '.join(names)} are no joint set we know, in this order: "
            f"{known}"
        )
    return same[0]


def read_video(labels: Path, video: Path, skeleton: Skeleton) -> Clip:
    """Every frame of a video, with the labels of a COCO file.

    Raises:
        SourceError: the video does not open.
        ConfigError: labels of frames that the video does not have, or of another picture size:
            they belong to another video.

    """
    count, size = _facts(need(video, "the video", LAYOUT))
    pictures, people = coco_tables(labels)
    listed: dict[int, dict[str, Any]] = {}
    for picture in pictures:
        number = _number(picture)
        if number in listed:
            raise ConfigError(f"{labels}: frame {number} is listed twice")
        listed[number] = picture
        _check_frame(picture, number, count, size, f"{labels}, labels of {video.name}")
    images = [VideoImage(video, number) for number in range(count)]
    frames = []
    for number, image in enumerate(images):
        picture = listed.get(number, {})
        here = people.get(int(picture["id"]), []) if picture else []
        where = f"{labels} frame {number}"
        frames.append(
            FrameLabel(
                image=image,
                number=number,
                image_id=int(picture["id"]) if picture else -1,
                file=str(picture.get("file_name", "")),
                people=[person_in_video(a, skeleton, where, row) for row, a in enumerate(here)],
                size_px=size,
                labelled=bool(picture),
            )
        )
    return Clip(video.stem, tuple(frames))


def person_in_video(
    annotation: dict[str, Any], skeleton: Skeleton, where: str, row: int
) -> PersonLabel:
    """Label of a person; without ``track_id`` nobody in other frames is the same person."""
    person = person_of(annotation, skeleton, where, row)
    if track_of(annotation) is None:
        person.track = f"{annotation['image_id']}/{row}"
    return person


def _number(picture: dict[str, Any]) -> int:
    stated = picture.get("frame_number")
    return int(stated) if stated is not None else last_number(str(picture["file_name"]))


def _check_frame(
    picture: dict[str, Any], number: int, count: int, size: tuple[int, int], where: str
) -> None:
    if not 0 <= number < count:
        raise ConfigError(
            f"{where}: frame {number} is labelled, but the video has frames 0 to {count - 1}; are "
            "these the labels of another video, or do its frames count from 1?"
        )
    stated = (picture.get("width"), picture.get("height"))
    if all(stated) and stated != size:
        raise ConfigError(
            f"{where}: labelled at {stated[0]}x{stated[1]} pixels, the video has "
            f"{size[0]}x{size[1]}; are these the labels of another video?"
        )


def _facts(video: Path) -> tuple[int, tuple[int, int]]:
    """Number of frames and picture size."""
    capture = cv2.VideoCapture(str(video))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        size = (
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
    finally:
        capture.release()
    if count < 1 or min(size) < 1:
        raise SourceError(f"{video}: expected a video that OpenCV's FFmpeg reads (half copied?)")
    return count, size
