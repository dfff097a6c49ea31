"""PoseTrack's label files, both forms, as plain values; and predictions in the same forms.

PoseTrack17: ``{"annolist": [{"image": [{"name"}], "annorect": [...], "ignore_regions"}]}``, a file
per video. PoseTrack18 and 21: ``{"images", "annotations", "categories"}``, a file per video.
Source: poseval's converter (``convert.py``, commit 4258a15), read for its behaviour: a joint of a
PoseTrack18 file is unlabelled only when x, y and the flag are all 0, so occluded joints count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.core.skeletons import POSETRACK15, POSETRACK17_SLOTS, POSEVAL15, mapping
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets.base import FileImage, box_from_xywh, last_number, read_json
from pose_ros.training.datasets.clips import Clip, FrameLabel, PersonLabel
from pose_ros.training.metrics.posetrack import (
    NO_SCORE,
    PredictedFrame,
    TruthFrame,
    head_size_px,
)

#: Names of joints in the files where they differ from ours.
FILE_NAMES = {"head_bottom": "neck"}
#: PoseTrack17 has no boxes: the extent of the joints times this, as poseval's converter does.
EXTENT = 1.3


def truth_frames(clip: Clip) -> list[TruthFrame]:
    """Return what the evaluator needs of every frame."""
    return [_truth(frame) for frame in clip.frames]


def _truth(frame: FrameLabel) -> TruthFrame:
    xy = np.array([p.xy_px for p in frame.people], np.float64).reshape(-1, len(POSETRACK15), 2)
    return TruthFrame(
        xy,
        np.array([p.head_px for p in frame.people], np.float64),
        np.array([int(p.track) for p in frame.people], np.int64),
        frame.ignore,
        frame.labelled,
    )


def read_labels(path: Path, root: Path) -> Clip:
    """Labels of one video, of either form; pictures are named relative to ``root``.

    Raises:
        SourceError: the file cannot be read or is of neither form.
        ConfigError: other joints than PoseTrack's, an id twice in a frame, a broken value.

    """
    data = read_json(path)
    try:
        if "annolist" in data:
            frames = [
                _frame17(entry, root, f"{path} frame {i}")
                for i, entry in enumerate(data["annolist"])
            ]
        else:
            frames = _frames18(data, root, path)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise SourceError(
            f"{path}: expected a PoseTrack label file ('annolist', or 'images' and "
            f"'annotations'), got {error!r}"
        ) from error
    _check(frames, path)
    return Clip(path.stem, tuple(frames))


def _check(frames: list[FrameLabel], path: Path) -> None:
    """Refuse ids that are not unique and frames that are there twice or of another video."""
    for frame in frames:
        tracks = [person.track for person in frame.people]
        if len(set(tracks)) != len(tracks):
            raise ConfigError(f"{path}: {frame.file} has a track id twice: {sorted(tracks)}")
    numbers = [frame.number for frame in frames]
    if len(set(numbers)) != len(numbers):
        raise ConfigError(f"{path}: a frame is listed twice (numbers {sorted(numbers)[:8]} ...)")
    folders = {str(Path(frame.file).parent) for frame in frames}
    if len(folders) > 1:
        raise ConfigError(
            f"{path}: expected the frames of one video, got those of {', '.join(sorted(folders))}"
        )


def frame_number(name: str) -> int:
    """Return the number of a frame by its file: what the name begins with, or its last number.

    12 for 000012.jpg, 000012_crop.jpg, frame_000012.png and cam2_000012.png.

    Raises:
        ConfigError: there is none.

    """
    first = re.match(r"\d+", Path(name).stem)
    return int(first.group()) if first else last_number(name)


def _frames18(data: dict[str, Any], root: Path, path: Path) -> list[FrameLabel]:
    order = _slots(data, path)
    people: dict[int, list[Any]] = defaultdict(list)
    for person in data["annotations"]:
        people[int(person["image_id"])].append(person)
    frames = [_frame18(image, people, root, order) for image in data["images"]]
    for image in data["images"]:
        stated = image.get("nframes")
        if stated is not None and int(stated) < len(frames):
            raise ConfigError(
                f"{path}: states {stated} frames but lists {len(frames)}; "
                "is this a label file of another video?"
            )
    unknown = sorted(set(people) - {frame.image_id for frame in frames})
    if unknown:
        raise ConfigError(
            f"{path}: people on pictures that the file does not list ({unknown[:3]} ...); is this "
            "a label file of another video?"
        )
    return frames


def _frame18(
    image: dict[str, Any], people: dict[int, list[Any]], root: Path, order: np.ndarray
) -> FrameLabel:
    image_id = int(image["id"])
    here = people.get(image_id, [])
    where = f"picture {image['file_name']}"
    people_here = [_person18(person, order, where) for person in here]
    size = (int(image["width"]), int(image["height"])) if image.get("width") else None
    return FrameLabel(
        image=FileImage(root / image["file_name"]),
        number=frame_number(image["file_name"]),
        image_id=image_id,
        file=image["file_name"],
        people=people_here,
        ignore=_regions18(image),
        size_px=size,
        labelled=_counts(image, people_here),
    )


def _counts(image: dict[str, Any], people: list[PersonLabel]) -> bool:
    """Whether a frame counts: it has people, and somebody looked at their joints.

    PoseTrack21 has boxes without joints in frames that it calls not labelled; poseval, which knows
    no such frames, would take every prediction there as wrong.
    """
    looked = bool(image.get("is_labeled", True)) or any(person.known for person in people)
    return bool(people) and looked


def _slots(data: dict[str, Any], path: Path) -> np.ndarray:
    """Which slot of the file every joint of POSETRACK15 is in."""
    names = data.get("categories", [{}])[0].get("keypoints") or POSETRACK17_SLOTS.joints
    ours = [FILE_NAMES.get(name, name) for name in names]
    missing = [joint for joint in POSETRACK15.joints if joint not in ours]
    if missing:
        raise ConfigError(
            f"{path}: expected PoseTrack's joints, {', '.join(missing)} are missing among "
            f"{', '.join(names)}; is this a file of another joint set?"
        )
    return np.array([ours.index(joint) for joint in POSETRACK15.joints] + [len(ours)])


def _person18(person: dict[str, Any], order: np.ndarray, where: str) -> PersonLabel:
    flat = np.asarray(person.get("keypoints", []), np.float64)
    slots = int(order[-1])
    if flat.size not in (0, 3 * slots):
        raise ConfigError(
            f"{where}: expected {slots} joints (x, y, visibility), got {flat.size} numbers; is "
            "this a file of another joint set?"
        )
    table = flat.reshape(-1, 3)[order[:-1]] if flat.size else np.zeros((len(POSETRACK15), 3))
    known = (table != 0).any(axis=1) & np.isfinite(table).all(axis=1)
    head = person.get("bbox_head")
    xy = np.where(known[:, None], table[:, :2], np.nan)
    return PersonLabel(
        xy,
        np.where(known, np.where(table[:, 2] > 0, 2, 1), 0).astype(np.uint8),
        box_from_xywh(person["bbox"], where) if person.get("bbox") else _extent(xy),
        str(int(person["track_id"])),
        _head([head[0], head[1], head[0] + head[2], head[1] + head[3]] if head else None),
        pseudo=person.get("labelled") is False,  # `training.propagate_dataset` wrote it
    )


def _regions18(image: dict[str, Any]) -> tuple[np.ndarray, ...]:
    xs, ys = image.get("ignore_regions_x") or [], image.get("ignore_regions_y") or []
    if xs and not isinstance(xs[0], list):
        xs, ys = [xs], [ys]
    return tuple(np.column_stack([x, y]).astype(np.float64) for x, y in zip(xs, ys, strict=True))


def _frame17(entry: dict[str, Any], root: Path, where: str) -> FrameLabel:
    name = entry["image"][0]["name"]
    people = [_person17(rect, where) for rect in entry["annorect"] if _has_points(rect)]
    regions = tuple(
        np.array([[p["x"][0], p["y"][0]] for p in region["point"]], np.float64)
        for region in entry.get("ignore_regions") or []
    )
    number = frame_number(name)
    return FrameLabel(
        image=FileImage(root / name),
        number=number,
        image_id=number,
        file=name,
        people=people,
        ignore=regions,
        labelled=len(entry["annorect"]) > 0,
    )


def _has_points(rect: dict[str, Any]) -> bool:
    points = rect.get("annopoints") or [{}]
    return "point" in points[0]


def _person17(rect: dict[str, Any], where: str) -> PersonLabel:
    to_ours = mapping(POSETRACK15, POSEVAL15)
    xy = np.full((len(POSETRACK15), 2), np.nan)
    visible = np.zeros(len(POSETRACK15), np.uint8)
    for point in rect["annopoints"][0]["point"]:
        file_id = int(point["id"][0])
        if not 0 <= file_id < len(POSEVAL15):
            raise ConfigError(f"{where}: expected joint ids 0 ... 14, got {file_id}")
        joint = to_ours[file_id]
        if np.isfinite(xy[joint]).all():
            continue  # the evaluator takes the first one
        xy[joint] = point["x"][0], point["y"][0]
        visible[joint] = 1 if (point.get("is_visible") or [1])[0] in (0, "0", False) else 2
    corners = [(rect.get(side) or [np.nan])[0] for side in ("x1", "y1", "x2", "y2")]
    return PersonLabel(xy, visible, _extent(xy), str(int(rect["track_id"][0])), _head(corners))


def _head(xyxy: Any) -> float:
    if xyxy is None or len(xyxy) != 4:
        return float("nan")
    size = float(head_size_px(np.asarray(xyxy, np.float64)))
    return size if size > 0 else float("nan")


def _extent(xy: np.ndarray) -> FloatArray:
    known = xy[np.isfinite(xy).all(axis=1)]
    if len(known) == 0:
        return np.full(4, np.nan, np.float32)
    low, high = known.min(axis=0), known.max(axis=0)
    half = (high - low) * EXTENT / 2
    centre = (low + high) / 2
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def predictions_to_json(video: Clip, predicted: list[PredictedFrame]) -> dict[str, Any]:
    """Predictions in PoseTrack18's form, for poseval: 17 slots, the ears empty."""
    slot = mapping(POSETRACK15, POSETRACK17_SLOTS)
    annotations: list[dict[str, Any]] = []
    for frame, people in zip(video.frames, predicted, strict=True):
        for row in range(len(people.xy_px)):
            xy, score = people.xy_px[row][slot], people.score[row][slot]
            known = (slot >= 0) & np.isfinite(xy).all(axis=1)
            table = np.where(known[:, None], np.column_stack([xy, np.ones(len(xy))]), 0.0)
            annotations.append(
                {
                    "image_id": frame.image_id,
                    "id": len(annotations) + 1,
                    "category_id": 1,
                    "track_id": int(people.track[row]) if people.track is not None else row,
                    "keypoints": [round(float(v), 3) for v in table.ravel()],
                    "scores": [float(v) for v in np.where(known, score, 0.0)],
                }
            )
    images = [{"id": f.image_id, "file_name": f.file} for f in video.frames]
    names = ["head_bottom" if j == "neck" else j for j in POSETRACK17_SLOTS.joints]
    category = {"id": 1, "name": "person", "keypoints": names}
    return {"images": images, "annotations": annotations, "categories": [category]}


def read_predictions(path: Path, video: Clip) -> list[PredictedFrame]:
    """Predictions of one video in either form, frame by frame as the labels.

    Raises:
        SourceError: the file is missing or of another form.
        ConfigError: another number of frames, frames of another video, or an id twice in a frame.

    """
    data = read_json(path)
    try:
        frames = _predictions17(data) if "annolist" in data else _predictions18(data, path)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise SourceError(
            f"{path}: expected predictions in PoseTrack's form: {error!r}"
        ) from error
    if len(frames) != len(video.frames):
        raise ConfigError(
            f"{path}: expected predictions for {len(video.frames)} frames of {video.name}, got "
            f"{len(frames)}; a frame without people needs an entry, too"
        )
    for frame, (name, _people) in zip(video.frames, frames, strict=True):
        if Path(name).name != Path(frame.file).name:
            raise ConfigError(f"{path}: expected frame {frame.file}, got {name}: another video?")
    return [people for _name, people in frames]


def _predictions18(data: dict[str, Any], path: Path) -> list[tuple[str, PredictedFrame]]:
    order = _slots(data, path)
    people: dict[int, list[Any]] = defaultdict(list)
    for person in data["annotations"]:
        people[int(person["image_id"])].append(person)
    out = []
    for image in data["images"]:
        here = people[int(image["id"])]
        rows = [_person18(person, order, str(path)) for person in here]
        score = [
            np.asarray(p["scores"], np.float64)[order[:-1]] if p.get("scores") else None
            for p in here
        ]
        out.append((image["file_name"], _predicted(rows, score)))
    return out


def _predictions17(data: dict[str, Any]) -> list[tuple[str, PredictedFrame]]:
    to_ours = mapping(POSETRACK15, POSEVAL15)
    out = []
    for entry in data["annolist"]:
        rects = [rect for rect in entry["annorect"] if _has_points(rect)]
        rows = [_person17(rect, entry["image"][0]["name"]) for rect in rects]
        scores = []
        for rect in rects:
            score = np.full(len(POSETRACK15), np.nan)
            for point in reversed(rect["annopoints"][0]["point"]):
                score[to_ours[int(point["id"][0])]] = (point.get("score") or [np.nan])[0]
            scores.append(score)
        out.append((entry["image"][0]["name"], _predicted(rows, scores)))
    return out


def _predicted(rows: list[PersonLabel], scores: list[Any]) -> PredictedFrame:
    if not rows:
        return PredictedFrame.empty()
    table = [np.full(len(POSETRACK15), np.nan) if s is None else s for s in scores]
    return PredictedFrame(
        np.array([row.xy_px for row in rows], np.float64),
        np.nan_to_num(np.array(table, np.float64), nan=NO_SCORE),
        np.array([int(row.track) for row in rows], np.int64),
    )
