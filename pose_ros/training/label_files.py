"""Label files of people in videos: COCO JSON, CVAT 1.1 XML, Label Studio JSON.

`read_labels` knows the form by looking at it and answers a `LabelFile` in our pixels (integers at
pixel centres, `docs/conventions.md`). Only what somebody labelled is read: positions that a tool
interpolated between its key frames are left out. `write_labels` writes COCO JSON in the form that
the data sets `video_coco` and `rosbag` open, with the confidence of every joint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.core.skeletons import COCO17, Skeleton, get_skeleton
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.datasets.base import read_json
from pose_ros.training.datasets.coco import coco_tables, person_of
from pose_ros.training.label_records import (
    FrameRecord,
    LabelFile,
    check_labels,
    last_number,
    our_name,
    same_joints,
    skeleton_of,
)
from pose_ros.training.label_tools import read_cvat, read_label_studio


def read_labels(path: Path, joints: str = "", size_px: tuple[int, int] | None = None) -> LabelFile:
    """Read a label file of any of the three forms.

    ``joints`` names the joint set for files that do not name their joints; ``size_px`` is the
    picture's width and height, for files that do not say it.

    Raises:
        SourceError: no such file, or of another form.
        ConfigError: ids that are there twice, joints of no joint set we know or of another one
            than ``joints``, boxes outside the picture.

    """
    text = _text(path)
    wanted = get_skeleton(joints) if joints else None
    if text.lstrip().startswith("<"):
        file = read_cvat(path, text, wanted)
    elif text.lstrip().startswith("["):
        file = read_label_studio(path, wanted, size_px)
    else:
        file = read_coco_labels(path, wanted)
    check_labels(file)
    return file


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{path}: expected labels (COCO JSON, CVAT 1.1 XML or Label Studio JSON): {error}"
        ) from error


def read_coco_labels(path: Path, wanted: Skeleton | None = None) -> LabelFile:
    """Read COCO JSON; pictures have ``frame_number``, ``stamp_ns`` or a number in the name."""
    data = read_json(path)
    pictures, people = coco_tables(path)
    named = (data.get("categories") or [{}])[0].get("keypoints") or ()
    skeleton = _joint_set(path, named, wanted)
    frames = []
    for picture in pictures:
        stamp = picture.get("stamp_ns")
        record = FrameRecord(_number(path, picture, stamp), stamp, _size(picture))
        where = f"{path}, {record.called}"
        for row, annotation in enumerate(people.get(int(picture["id"]), [])):
            try:
                person = person_of(_ordered(annotation, named, skeleton), skeleton, where, row)
            except KeyError as error:
                raise SourceError(f"{where}: a person has no {error}") from error
            if not person.ignore:
                record.people.append(person)
        frames.append(record)
    stated = (data.get("info") or {}).get("video_frames")
    return LabelFile(path, "coco", skeleton, tuple(frames), stated)


def _joint_set(path: Path, named: Sequence[str], wanted: Skeleton | None) -> Skeleton:
    """Joint set that has the named joints, in any order; the wanted one if it has."""
    if not named:
        return wanted or COCO17
    if wanted is not None and {our_name(n) for n in named} <= set(wanted.joints):
        return wanted
    found = skeleton_of(path, named, None)
    same_joints(path, found, wanted)
    return found


def _ordered(
    annotation: dict[str, Any], named: Sequence[str], skeleton: Skeleton
) -> dict[str, Any]:
    """Annotation with its joints in the order of a joint set that has them, the others unknown."""
    names = [our_name(name) for name in named]
    triples = annotation.get("keypoints") or ()
    if not names or tuple(names) == skeleton.joints or len(triples) != 3 * len(names):
        return annotation
    table = np.zeros((len(skeleton), 3))
    table[[skeleton.index(name) for name in names]] = np.asarray(triples, float).reshape(-1, 3)
    return {**annotation, "keypoints": table.ravel().tolist()}


def _number(path: Path, picture: dict[str, Any], stamp: Any) -> int | None:
    stated = picture.get("frame_number")
    if stated is None and stamp is not None:
        return None
    try:
        return int(stated) if stated is not None else last_number(str(picture["file_name"]))
    except (KeyError, ValueError, ConfigError) as error:
        raise ConfigError(
            f"{path}: picture {picture.get('id')} says not which frame it is; expected "
            "frame_number (from 0), stamp_ns, or a file_name that ends with a number"
        ) from error


def _size(picture: dict[str, Any]) -> tuple[int, int] | None:
    size = picture.get("width"), picture.get("height")
    return (int(size[0]), int(size[1])) if size[0] and size[1] else None


@dataclass(frozen=True, eq=False)
class DenseLabels:
    """What is written: P people in L frames; frames are known by number and perhaps by stamp."""

    skeleton: Skeleton
    size_px: tuple[int, int]
    tracks: tuple[str, ...]  # P
    labelled: np.ndarray  # (L,) frames that somebody labelled
    stamps_ns: tuple[int, ...] | None  # L
    xy_px: FloatArray  # (P, L, K, 2), NaN unknown
    score: FloatArray  # (P, L, K), 0 unknown
    visible: ByteArray  # (P, L, K) of labelled frames
    box_xyxy_px: FloatArray  # (P, L, 4), NaN where the person is not there
    about: dict[str, Any]  # how the labels came about; goes to the file's info


def write_labels(path: Path, dense: DenseLabels, only_labelled: bool = False) -> None:
    """Write COCO JSON, a picture per frame (or labelled frame), an annotation per person with box.

    Beside COCO's own fields: ``frame_number`` and perhaps ``stamp_ns`` and ``labelled`` of
    pictures, ``track_id``, ``keypoint_scores`` and ``score`` (their mean) of annotations. What is
    not known is 0, 0, 0 with score 0.
    """
    frames = len(dense.labelled)
    times = [t for t in range(frames) if dense.labelled[t] or not only_labelled]
    images = [_picture(dense, t) for t in times]
    rows = [(p, t) for t in times for p in range(len(dense.tracks))]
    there = [(p, t) for p, t in rows if np.isfinite(dense.box_xyxy_px[p, t]).all()]
    data = {
        "info": {**dense.about, "video_frames": frames},
        "images": images,
        "categories": [_category(dense.skeleton)],
        "annotations": [_annotation(dense, i, p, t) for i, (p, t) in enumerate(there, 1)],
    }
    text = json.dumps(data, indent=None, separators=(",", ":"))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def _picture(dense: DenseLabels, time: int) -> dict[str, Any]:
    stamp = {} if dense.stamps_ns is None else {"stamp_ns": dense.stamps_ns[time]}
    return {
        "id": time + 1,
        "file_name": f"{time:06d}.jpg",
        "frame_number": time,
        **stamp,
        "width": dense.size_px[0],
        "height": dense.size_px[1],
        "labelled": bool(dense.labelled[time]),
    }


def _category(skeleton: Skeleton) -> dict[str, Any]:
    bones = (skeleton.edge_indices() + 1).tolist()
    return {"id": 1, "name": "person", "keypoints": list(skeleton.joints), "skeleton": bones}


def _annotation(dense: DenseLabels, number: int, person: int, time: int) -> dict[str, Any]:
    box = dense.box_xyxy_px[person, time].astype(float) + 0.5
    xy, score = dense.xy_px[person, time], dense.score[person, time]
    known = np.isfinite(xy).all(axis=1)
    flag = np.where(dense.labelled[time], dense.visible[person, time], 2) * known
    triples = np.column_stack([np.where(known[:, None], xy, 0), flag]).astype(float)
    size = box[2:] - box[:2]
    return {
        "id": number,
        "image_id": time + 1,
        "category_id": 1,
        "track_id": _track(dense.tracks[person]),
        "bbox": [round(float(v), 2) for v in (*box[:2], *size)],
        "area": round(float(size.prod()), 1),
        "iscrowd": 0,
        "num_keypoints": int(known.sum()),
        "keypoints": [_short(v) for v in triples.ravel()],
        "keypoint_scores": [round(float(v), 3) for v in score],
        "score": round(float(score[known].mean()), 3) if known.any() else 0.0,
        "labelled": bool(dense.labelled[time]),
    }


def _track(name: str) -> int | str:
    return int(name) if name.isdigit() else name


def _short(value: float) -> float | int:
    rounded = round(float(value), 2)
    return int(rounded) if rounded.is_integer() else rounded
