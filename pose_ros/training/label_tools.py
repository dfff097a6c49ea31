"""Exports of annotation tools: CVAT 1.1 XML, and Label Studio JSON.

Both count pixels from the picture's edge, so that the middle of the first pixel is 0.5; here it is
0. Joints are matched to a joint set by name (`label_records.plain`).

* **CVAT for video 1.1**: a ``<track>`` is a person; its shapes are ``<skeleton>``s of named
  points, or ``<points>`` with all joints in the joint set's order. ``outside`` joints are
  unlabelled, ``occluded`` ones occluded. A frame is labelled where anybody has a key frame;
  there the shapes that CVAT interpolated for the others count, too: whoever labelled saw them.
  A person drawn as a single shape is a track of one key frame, behind which CVAT ends it with an
  ``outside`` shape that nobody drew: it labels nothing.
* **CVAT for images 1.1**: ``<image>`` with ``<skeleton>`` or ``<points>``; ``group_id`` or an
  attribute ``track_id`` tells people apart over time, else their place in the picture does.
* **Label Studio, pictures**: a task per frame, ``keypointlabels`` regions. Points of a person
  share a ``parentID`` (the person's ``rectanglelabels`` region) or a ``meta.text``.
* **Label Studio, video**: ``videorectangle`` regions, a small rectangle per joint whose middle is
  the joint, labelled with the joint's name, and rectangles of any other label as boxes of people;
  ``sequence`` frames count from 1. People as above, labelled frames as for CVAT.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from pose_ros.core.skeletons import COCO17, SKELETONS, Skeleton
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets.base import read_json
from pose_ros.training.label_records import (
    ROW,
    FrameRecord,
    LabelFile,
    last_number,
    our_name,
    person_from_joints,
    plain,
    skeleton_of,
)

#: Middle of the first pixel, in these tools' coordinates.
EDGE = 0.5
SHAPES = ("skeleton", "points")
#: Names of joints of any joint set; other labels of rectangles mean people.
JOINTS = {joint for skeleton in SKELETONS.values() for joint in skeleton.joints}
#: name -> (x, y, 1 occluded or 2 visible) in our pixels
Points = dict[str, tuple[float, float, int]]


def read_cvat(path: Path, text: str, wanted: Skeleton | None) -> LabelFile:
    """Read an export "CVAT for video 1.1" or "CVAT for images 1.1".

    Raises:
        SourceError: no XML of that form.
        ConfigError: unknown joints, a track id twice, or points that do not fit the joint set.

    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SourceError(f"{path}: expected plain XML, got a document type definition")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise SourceError(f"{path}: expected CVAT 1.1 XML (half downloaded?): {error}") from error
    if root.tag != "annotations":
        raise SourceError(f"{path}: expected CVAT's <annotations>, got <{root.tag}>")
    found: dict[tuple[int, str], tuple[Points, tuple[int, int] | None]] = {}
    if root.find("image") is not None:
        _cvat_images(path, root, found)
    else:
        _cvat_tracks(path, root, found)
    return _assembled(path, "cvat", found, {}, _cvat_length(root), wanted)


def _cvat_length(root: ET.Element) -> int | None:
    """Number of frames of the video, where the task is all of it: then its size is that."""
    task = root.find("meta/task")
    if task is None or root.find("image") is not None:
        return None  # `size` of a job is that of the job, its frames are numbered in the task
    begins = (task.findtext("start_frame") or "0").strip()
    if (task.findtext("frame_filter") or "").strip() or begins != "0":
        return None  # of every n-th frame, or from a later one on: numbered in the video
    text = (task.findtext("size") or "").strip()
    return int(text) if text.isdigit() else None


def _cvat_tracks(path: Path, root: ET.Element, found: dict[Any, Any]) -> None:
    size = None
    for place in ("meta/task/original_size", "meta/original_size", "meta/job/original_size"):
        node = root.find(place)
        if node is not None:
            size = int(node.findtext("width", "0")), int(node.findtext("height", "0"))
    ids = [track.get("id", "") for track in root.iter("track")]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise ConfigError(f"{path}: track id {twice[0]} is there twice")
    shapes = [(t.get("id", ""), s) for t in root.iter("track") for s in _cvat_drawn(t)]
    marks = {int(s.get("frame", "-1")) for _, s in shapes if _is_key(s)}
    for track, shape in shapes:
        number = int(shape.get("frame", "-1"))
        if number in marks:
            if (number, track) in found:
                raise ConfigError(f"{path}, frame {number}: track {track} is there twice")
            found[number, track] = _cvat_shape(path, shape), size


def _cvat_drawn(track: ET.Element) -> list[ET.Element]:
    """Shapes of a track without the end that CVAT itself puts behind a single shape."""
    shapes = [s for s in track if s.tag in SHAPES]
    there = [s for s in shapes if not _is_outside(s)]
    if sum(_is_key(s) for s in there) == 1:
        return there
    return shapes


def _is_outside(shape: ET.Element) -> bool:
    points = shape.findall("points") if shape.tag == "skeleton" else [shape]
    gone = [node.get("outside", "0") == "1" for node in points]
    return shape.get("outside", "0") == "1" or (bool(gone) and all(gone))


def _is_key(shape: ET.Element) -> bool:
    return any(node.get("keyframe", "1") == "1" for node in (shape, *shape.findall("points")))


def _cvat_images(path: Path, root: ET.Element, found: dict[Any, Any]) -> None:
    for image in root.iter("image"):
        number = last_number(image.get("name") or image.get("id") or "")
        size = int(image.get("width", "0")), int(image.get("height", "0"))
        for row, shape in enumerate(s for s in image if s.tag in SHAPES):
            named = [
                a.text or "" for a in shape.findall("attribute") if a.get("name") == "track_id"
            ]
            track = (named or [shape.get("group_id") or f"{ROW}{row}"])[0]
            if (number, track) in found:
                raise ConfigError(
                    f"{path}, frame {number}: person {track} is there twice; give every person a "
                    "group_id or an attribute track_id of his own"
                )
            found[number, track] = _cvat_shape(path, shape), size


def _cvat_shape(path: Path, shape: ET.Element) -> Points:
    """Points of a shape by name, or by number when it does not name them; none if outside."""
    where = f"{path}, frame {shape.get('frame', '?')}"
    if shape.tag == "skeleton":
        points: Points = {}
        for node in shape.findall("points"):
            (xy,) = _numbers(where, node.get("points", ""), 1)
            if node.get("outside", "0") != "1":
                points[node.get("label", "")] = (*xy, 1 if node.get("occluded") == "1" else 2)
        return points
    if shape.tag == "points" and shape.get("outside", "0") != "1":
        state = 1 if shape.get("occluded") == "1" else 2
        rows = _numbers(where, shape.get("points", ""), None)
        return {str(i): (x, y, state) for i, (x, y) in enumerate(rows)}
    return {}


def _numbers(where: str, text: str, count: int | None) -> list[tuple[float, float]]:
    """Pairs x,y;x,y in our pixels."""
    try:
        rows = [tuple(float(v) - EDGE for v in part.split(",")) for part in text.split(";")]
    except ValueError:
        rows = []
    good = rows and all(len(row) == 2 and np.isfinite(row).all() for row in rows)
    if not good or (count is not None and len(rows) != count):
        raise SourceError(f"{where}: expected points as x,y;x,y, got '{text[:60]}'")
    return rows  # type: ignore[return-value]


def read_label_studio(
    path: Path, wanted: Skeleton | None, size_px: tuple[int, int] | None = None
) -> LabelFile:
    """Read Label Studio's JSON export (not JSON-MIN).

    ``size_px`` is the picture size of a video, which the export does not say.

    Raises:
        SourceError: another form.
        ConfigError: unknown joints, several videos in one file, or a video of unknown size.

    """
    tasks = read_json(path)
    found: dict[tuple[int, str], tuple[Points, tuple[int, int] | None]] = {}
    boxes: dict[tuple[int, str], FloatArray] = {}
    lengths: set[int] = set()
    videos: set[str] = set()
    try:
        for task in tasks:
            regions = _regions(task)
            if any(r.get("type") == "videorectangle" for r in regions):
                videos.add(str(next(iter(task["data"].values()))))
                lengths |= _ls_video(path, regions, found, boxes, size_px)
            else:
                _ls_picture(path, task, regions, found, boxes)
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise SourceError(f"{path}: expected Label Studio's JSON export, got {error!r}") from error
    if len(videos) > 1 or len(lengths) > 1:
        raise ConfigError(f"{path}: expected one video, got {', '.join(sorted(videos))}")
    length = next(iter(lengths)) if lengths else None
    return _assembled(path, "label-studio", found, boxes, length, wanted)


def _regions(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Regions of the last annotation of a task that was not cancelled."""
    made = [a for a in task["annotations"] if not a.get("was_cancelled")]
    return list(made[-1]["result"]) if made else []


def _ls_group(region: dict[str, Any], own: bool = False) -> str:
    """Name of the person a region belongs to."""
    text = (region.get("meta") or {}).get("text")
    text = text[0] if isinstance(text, list) and text else text
    if text:
        return str(text)
    return str(region["id"]) if own else str(region.get("parentID") or "0")


def _ls_picture(
    path: Path,
    task: dict[str, Any],
    regions: list[dict[str, Any]],
    found: dict[Any, Any],
    boxes: dict[Any, Any],
) -> None:
    source = str(task["data"].get("image") or next(iter(task["data"].values())))
    plain_path = source.split("?")[0]  # local storage has it behind it: /data/local-files/?d=PATH
    number = last_number(parse_qs(urlsplit(source).query).get("d", [plain_path])[0])
    names = {
        r["id"]: _ls_group(r, own=True) for r in regions if r.get("type") == "rectanglelabels"
    }
    for region in regions:
        kind, value = region.get("type"), region["value"]
        if kind not in ("keypointlabels", "rectanglelabels"):
            continue
        size = int(region["original_width"]), int(region["original_height"])
        low = np.array([value["x"], value["y"]]) / 100 * size - EDGE
        if kind == "rectanglelabels":
            extent = np.array([value["width"], value["height"]]) / 100 * size
            where = (number, names[region["id"]])
            boxes[where] = np.concatenate([low, low + extent]).astype(np.float32)
            continue
        group = _ls_group(region)
        points, _ = found.setdefault((number, names.get(group, group)), ({}, size))
        _once(path, number, points, value["keypointlabels"][0])
        points[value["keypointlabels"][0]] = (float(low[0]), float(low[1]), 2)


def _ls_video(
    path: Path,
    regions: list[dict[str, Any]],
    found: dict[Any, Any],
    boxes: dict[Any, Any],
    size_px: tuple[int, int] | None,
) -> set[int]:
    """Fill in the key frames of a video; the numbers of frames that its regions state."""
    shapes = [r for r in regions if r.get("type") == "videorectangle"]
    lengths = {int(r["value"]["framesCount"]) for r in shapes if r["value"].get("framesCount")}
    names = {r["id"]: _ls_group(r, own=True) for r in shapes}
    marks = sorted({int(key["frame"]) for r in shapes for key in r["value"]["sequence"]})
    for region in shapes:
        stated = region.get("original_width"), region.get("original_height")
        size = stated if all(stated) else size_px
        if size is None:
            raise ConfigError(
                f"{path}: Label Studio gives places in a video in percent, and not the picture's "
                "size; expected to be read together with the video (--video)"
            )
        label, group = region["value"]["labels"][0], _ls_group(region)
        for frame in marks:
            box = _ls_at(region["value"]["sequence"], frame)
            if box is None:
                continue
            number = frame - 1
            edges = box / 100 * np.array([*size, *size]) - EDGE
            if plain(label) not in JOINTS:
                boxes[number, names[region["id"]]] = edges.astype(np.float32)
                continue
            points, _ = found.setdefault((number, names.get(group, group)), ({}, size))
            _once(path, number, points, label)
            x, y = (edges[:2] + edges[2:]) / 2
            points[label] = (float(x), float(y), 2)
    return lengths


def _ls_at(sequence: list[dict[str, Any]], frame: int) -> np.ndarray | None:
    """Rectangle (4,) left, top, right, bottom in percent at a frame; None if not there."""
    keys = sorted(sequence, key=lambda key: int(key["frame"]))
    before = [key for key in keys if int(key["frame"]) <= frame]
    if not before:
        return None
    first = before[-1]
    after = [key for key in keys if int(key["frame"]) > frame]
    if int(first["frame"]) != frame and (not first.get("enabled", True) or not after):
        return None
    last = after[0] if int(first["frame"]) != frame else first
    share = (frame - int(first["frame"])) / max(int(last["frame"]) - int(first["frame"]), 1)
    ends = [
        np.array([key[n] for n in ("x", "y", "width", "height")], float) for key in (first, last)
    ]
    x, y, width, height = (1 - share) * ends[0] + share * ends[1]
    return np.array([x, y, x + width, y + height])


def _once(path: Path, number: int, points: Points, label: str) -> None:
    if label in points:
        raise ConfigError(
            f"{path}, frame {number}: {label} is there twice; tie the points of each person to "
            "his rectangle (parentID), or name the person in the region's meta text"
        )


def _assembled(
    path: Path,
    form: str,
    found: dict[tuple[int, str], tuple[Points, tuple[int, int] | None]],
    boxes: dict[tuple[int, str], FloatArray],
    length: int | None,
    wanted: Skeleton | None,
) -> LabelFile:
    """Return frames in order, joints in the order of the joint set."""
    names = list(dict.fromkeys(name for points, _ in found.values() for name in points))
    if not names:
        raise ConfigError(f"{path}: found no labelled joint")
    numbered = all(name.isdigit() for name in names)
    skeleton = (wanted or COCO17) if numbered else skeleton_of(path, names, wanted)
    frames: dict[int, FrameRecord] = {}
    people: dict[int, list[Any]] = defaultdict(list)
    for (number, track), (points, size) in found.items():
        size = size if size and all(size) else None
        frames.setdefault(number, FrameRecord(number, None, size))
        if not points:
            continue  # looked at, and the person was not there
        table = _table(path, number, points, skeleton, numbered)
        xy, visible = table[:, :2].astype(np.float32), table[:, 2].astype(np.uint8)
        people[number].append(person_from_joints(xy, visible, track, boxes.get((number, track))))
    for number, here in people.items():
        frames[number].people.extend(here)
    ordered = tuple(frames[number] for number in sorted(frames))
    return LabelFile(path, form, skeleton, ordered, length)


def _table(
    path: Path, number: int, points: Points, skeleton: Skeleton, numbered: bool
) -> np.ndarray:
    """(K, 3) x, y and visibility, NaN and 0 where a joint is not labelled."""
    table = np.full((len(skeleton), 3), np.nan)
    table[:, 2] = 0
    first = 0 if "0" in points or not numbered else 1
    for name, value in points.items():
        if numbered and int(name) - first >= len(skeleton):
            raise ConfigError(
                f"{path}, frame {number}: {len(points)} points without names; expected the "
                f"{len(skeleton)} joints of {skeleton.name}, in its order"
            )
        row = int(name) - first if numbered else _row(skeleton, name)
        table[row] = value
    return table


def _row(skeleton: Skeleton, name: str) -> int:
    return skeleton.index(our_name(name))
