"""MPII Human Pose: pictures of activities, 16 joints, from the release's own .mat file.

Coordinates in the file count pixels from 1; here they count from 0. Boxes are made of centre and
scale, which the file has for every person: as high as 200 x scale and three quarters as wide, a
little below the centre, as HRNet's reader shifts it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from pose_ros.core.skeletons import MPII16
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import FileImage, WindowSpec, expected, need, read_json
from pose_ros.training.datasets.clips import (
    Clip,
    FrameLabel,
    LabelledClips,
    PersonLabel,
    check_pictures,
)
from pose_ros.training.metrics.posetrack import head_size_px

LAYOUT = """\
  ROOT/mpii_human_pose_v1_u12_1.mat
  ROOT/images/015601864.jpg
  ROOT/annot/valid.json          optional: the usual validation split (HRNet's file)
Download the pictures and "annotations" at human-pose.mpi-inf.mpg.de; only the training pictures
have public labels."""
MAT = "mpii_human_pose_v1_u12_1.mat"
#: Height of a person of scale 1, and how much lower than its centre the box lies, in pixels.
SCALE_PX, SHIFT_PX = 200.0, 15.0
SPLITS = ("train", "val", "trainval")


@register_dataset("mpii")
def mpii(path: str, split: str = "val", frames: int = 1, key: int = 0) -> LabelledClips:
    """MPII: ``trainval`` is every labelled picture; ``train`` and ``val`` need annot/valid.json.

    Raises:
        ConfigError: an unknown split.
        SourceError: files are missing or damaged.

    """
    if split not in SPLITS:
        raise ConfigError(f"mpii: expected split {', '.join(SPLITS)}, got '{split}'")
    root = need(Path(path), "the MPII folder", LAYOUT)
    clips = read_mpii(need(root / MAT, "the label file", LAYOUT), root / "images")
    if split != "trainval":
        chosen = need(root / "annot" / "valid.json", "the list of the split", LAYOUT)
        held = {entry["image"] for entry in read_json(chosen)}
        clips = [c for c in clips if (c.frames[0].file in held) == (split == "val")]
    check_pictures(clips[:1] + clips[-1:], expected(LAYOUT))
    return LabelledClips("mpii", MPII16, clips, WindowSpec(frames, key))


def read_mpii(path: Path, images: Path) -> list[Clip]:
    """Training pictures of the release file that have people, in its order.

    Raises:
        SourceError: the file is damaged or another one.

    """
    try:
        release = loadmat(path, squeeze_me=True, struct_as_record=False)["RELEASE"]
        entries, training = np.atleast_1d(release.annolist), np.atleast_1d(release.img_train)
        if len(entries) != len(training):
            raise ValueError(f"{len(entries)} pictures, {len(training)} flags")
        frames = [
            _frame(entry, number, images)
            for number, (entry, used) in enumerate(zip(entries, training, strict=True))
            if used
        ]
    except (OSError, KeyError, AttributeError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: expected MPII's release file, got {error!r}") from error
    return [Clip(Path(frame.file).stem, (frame,)) for frame in frames if frame.people]


def _frame(entry: Any, number: int, images: Path) -> FrameLabel:
    name = str(entry.image.name)
    people = [_person(p, row) for row, p in enumerate(_list(entry.annorect))]
    return FrameLabel(
        image=FileImage(images / name),
        number=0,
        image_id=number,
        file=name,
        people=[person for person in people if person is not None],
    )


def _list(value: Any) -> list[Any]:
    """Return a MATLAB struct array as a list; an empty one is an empty array."""
    return [item for item in np.atleast_1d(value) if hasattr(item, "_fieldnames")]


def _person(rect: Any, row: int) -> PersonLabel | None:
    """Label of one person; None without joints, as the release has people with a head only."""
    points = _list(getattr(getattr(rect, "annopoints", None), "point", []))
    place = _list(getattr(rect, "objpos", []))
    scale = np.asarray(getattr(rect, "scale", []), np.float64).ravel()
    if not points or not place or not len(scale):
        return None
    xy = np.full((len(MPII16), 2), np.nan, np.float32)
    visible = np.zeros(len(MPII16), np.uint8)
    for point in points:
        xy[int(point.id)] = float(point.x) - 1.0, float(point.y) - 1.0
        visible[int(point.id)] = 2 if str(getattr(point, "is_visible", "")) == "1" else 1
    half = scale[0] * SCALE_PX / 2 * np.array([0.75, 1.0])
    centre = np.array([place[0].x, place[0].y], np.float64) - 1.0
    centre[1] += SHIFT_PX * scale[0]
    head = np.array([getattr(rect, side) for side in ("x1", "y1", "x2", "y2")], np.float64)
    size = float(head_size_px(head))
    return PersonLabel(
        xy,
        visible,
        np.concatenate([centre - half, centre + half]).astype(np.float32),
        f"row{row}",
        head_px=size if size > 0 else float("nan"),
    )
