"""PoseTrack 2017, 2018 and 2021: videos of several people, 15 joints, a label file per video.

The window is always of consecutive video frames, labelled or not. Labels are those of
`posetrack_files`; boxes of PoseTrack17 are the extent of the joints x 1.3. Options of all three:
``boxes`` is a file of detections, the labels' boxes without one; ``labels`` is another folder of
label files of the same pictures (what `training.propagate_dataset` writes); with ``interval`` T
only every T-th label of a video is used (`sparse`).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from pose_ros.core.skeletons import POSETRACK15
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import FileImage, WindowSpec, expected, need, picture_size
from pose_ros.training.datasets.clips import (
    BOX_MIN,
    Clip,
    LabelledClips,
    check_pictures,
    read_detections,
)
from pose_ros.training.datasets.posetrack_files import read_labels
from pose_ros.training.datasets.sparse import sparse_clips

#: Room for the frames of a video where ids have to be made up.
IDS_PER_VIDEO = 10000
LAYOUT17 = """\
  ROOT/annotations/{train,val}/*.json      PoseTrack17's JSON labels ('annolist'), one per video
  ROOT/images/<as the labels name them>/00000001.jpg
Register and download at posetrack.net; poseval's mat2json makes the JSON of the .mat labels."""
LAYOUT18 = """\
  ROOT/annotations/{train,val}/000342_mpii_test.json
  ROOT/images/{train,val}/000342_mpii_test/000000.jpg
Register and download at posetrack.net (use v0.45: 170 videos in val)."""
LAYOUT21 = """\
  ROOT/posetrack_data/{train,val}/000342_mpii_test.json
  ROOT/images/{train,val}/000342_mpii_test/000000.jpg
Labels: github.com/anDoer/PoseTrack21 (needs a token); pictures: PoseTrack18's."""


@register_dataset("posetrack17")
def posetrack17(
    path: str,
    split: str = "val",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    boxes: str = "",
    box_min: float = BOX_MIN,
    labels: str = "",
    interval: int = 0,
) -> LabelledClips:
    """PoseTrack17."""
    return open_posetrack(
        "posetrack17",
        Path(path),
        Path(labels) if labels else Path(path) / "annotations" / split,
        LAYOUT17,
        WindowSpec(frames, key, step),
        (boxes, box_min),
        interval,
    )


@register_dataset("posetrack18")
def posetrack18(
    path: str,
    split: str = "val",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    boxes: str = "",
    box_min: float = BOX_MIN,
    labels: str = "",
    interval: int = 0,
) -> LabelledClips:
    """PoseTrack18."""
    return open_posetrack(
        "posetrack18",
        Path(path),
        Path(labels) if labels else Path(path) / "annotations" / split,
        LAYOUT18,
        WindowSpec(frames, key, step),
        (boxes, box_min),
        interval,
    )


@register_dataset("posetrack21")
def posetrack21(
    path: str,
    split: str = "val",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    boxes: str = "",
    box_min: float = BOX_MIN,
    labels: str = "",
    interval: int = 0,
) -> LabelledClips:
    """PoseTrack21."""
    return open_posetrack(
        "posetrack21",
        Path(path),
        Path(labels) if labels else Path(path) / "posetrack_data" / split,
        LAYOUT21,
        WindowSpec(frames, key, step),
        (boxes, box_min),
        interval,
    )


def open_posetrack(
    name: str,
    root: Path,
    labels: Path,
    layout: str,
    window: WindowSpec,
    boxes: tuple[str, float] = ("", BOX_MIN),
    interval: int = 0,
    videos: tuple[str, str] = ("", ""),
) -> LabelledClips:
    """Every video with a label file in a folder, of either form; every ``interval``-th label.

    ``videos`` are names, A,B: those that are read (all without), and those that are left out.

    Raises:
        SourceError: files are missing; the message shows the layout.
        ConfigError: labels that contradict themselves, or a video that is not there.

    """
    need(root, f"the {name} folder", layout)
    need(labels, "the folder of label files", layout)
    files = sorted(labels.glob("*.json"))
    if not files:
        raise SourceError(f"{labels}: expected a label file per video. {expected(layout)}")
    clips = [read_labels(file, root) for file in chosen_files(files, *videos)]
    clips = [clip for clip in clips if clip.frames]
    check_pictures(clips, expected(layout))
    _complete(clips)
    detections = read_detections(Path(boxes[0]), boxes[1]) if boxes[0] else None
    clips = sparse_clips(clips, interval)
    return LabelledClips(name, POSETRACK15, clips, window, detections)


def chosen_files(files: list[Path], only: str, without: str) -> list[Path]:
    """Label files of the videos ``only`` (A,B; empty: all) but for those ``without``.

    Raises:
        ConfigError: a name without a file, or nothing is left.

    """
    kept, left = ([name for name in text.split(",") if name] for text in (only, without))
    known = [file.stem for file in files]
    for name in (*kept, *left):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
            raise ConfigError(f"there is no video '{name}'; did you mean {', '.join(near)}?")
    found = [f for f in files if (not kept or f.stem in kept) and f.stem not in left]
    if not found:
        raise ConfigError(f"only={only}, without={without}: no video of {len(files)} is left")
    return found


def _complete(clips: list[Clip]) -> None:
    """Fill in image sizes, which the pictures of a video share, and ids that tell them apart."""
    ids = {frame.image_id for clip in clips for frame in clip.frames}
    named = len(ids) == sum(len(clip.frames) for clip in clips)
    for video, clip in enumerate(clips, start=1):
        image = clip.frames[0].image
        size = clip.frames[0].size_px
        if size is None and isinstance(image, FileImage):
            size = picture_size(image.path)
        for frame in clip.frames:
            frame.size_px = frame.size_px or size
            if not named:
                frame.image_id += video * IDS_PER_VIDEO
