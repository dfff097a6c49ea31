"""COCO person keypoints, and everything that is written in its form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import (
    FileImage,
    WindowSpec,
    box_from_xywh,
    expected,
    labels_from_triples,
    need,
    read_json,
)
from pose_ros.training.datasets.clips import (
    BOX_MIN,
    Clip,
    FrameLabel,
    LabelledClips,
    PersonLabel,
    check_pictures,
    read_detections,
)

LAYOUT = """\
  ROOT/annotations/person_keypoints_val2017.json
  ROOT/val2017/000000397133.jpg
Download "2017 Train/Val annotations" and the pictures of the split at cocodataset.org."""

#: (annotation) -> area in pixels squared, for sets whose files have none.
Area = Callable[[dict[str, Any]], float]


@register_dataset("coco")
def coco(
    path: str,
    split: str = "val2017",
    frames: int = 1,
    key: int = 0,
    boxes: str = "",
    box_min: float = BOX_MIN,
) -> LabelledClips:
    """COCO; a window of more than one frame repeats the picture."""
    root = need(Path(path), "the COCO folder", LAYOUT)
    labels = need(
        root / "annotations" / f"person_keypoints_{split}.json", "the label file", LAYOUT
    )
    detections = read_detections(Path(boxes), box_min) if boxes else None
    clips = read_coco(labels, root / split, COCO17)
    check_pictures(clips[:1] + clips[-1:], expected(LAYOUT))
    return LabelledClips("coco", COCO17, clips, WindowSpec(frames, key), detections)


@register_dataset("coco_file")
def coco_file(
    path: str, images: str = "", frames: int = 1, key: int = 0, boxes: str = "", source: str = ""
) -> LabelledClips:
    """Any label file in COCO's form; pictures in ``images`` or beside the file.

    ``source`` keeps only pictures whose field of that name is one of these, separated by commas.
    """
    labels = need(Path(path), "the label file", "  FILE.json in COCO's keypoint form")
    folder = Path(images) if images else labels.parent
    clips = read_coco(labels, folder, COCO17, source=source)
    check_pictures(clips[:1] + clips[-1:], "Give the folder of the pictures as images=DIR")
    detections = read_detections(Path(boxes)) if boxes else None
    return LabelledClips("coco_file", COCO17, clips, WindowSpec(frames, key), detections)


def read_coco(
    labels: Path,
    images: Path,
    skeleton: Skeleton,
    area: Area | None = None,
    source: str = "",
) -> list[Clip]:
    """Pictures of a COCO keypoint file, each a clip of one frame.

    Raises:
        SourceError: the file cannot be read or is of another form.
        ConfigError: ids that are not unique, joints of another set, people on unknown pictures.

    """
    pictures, people = coco_tables(labels)
    if source:
        pictures = [p for p in pictures if p.get("source") in source.split(",")]
        if not pictures:
            raise ConfigError(f"{labels}: no picture is of source '{source}'")
    return [
        Clip(Path(picture["file_name"]).stem, (frame_of(picture, people, images, skeleton, area),))
        for picture in pictures
    ]


def coco_tables(labels: Path) -> tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]:
    """Pictures of a COCO file in order, and the annotations of people by picture id.

    Pictures on which everybody was interpolated, as CVAT says by ``attributes.keyframe``, are left
    out: nobody labelled them.

    Raises:
        SourceError: the file cannot be read or is of another form.
        ConfigError: an id twice, or people on pictures that the file does not list.

    """
    data = read_json(labels)
    try:
        pictures = data["images"]
        annotations = [a for a in data["annotations"] if a.get("category_id", 1) == 1]
        ids = [int(picture["id"]) for picture in pictures]
        people: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in annotations:
            people[int(annotation["image_id"])].append(annotation)
        names = [a["id"] for a in annotations if "id" in a]
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{labels}: expected COCO keypoint labels, got {error!r}") from error
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{labels}: a picture id is there twice")
    if len(set(names)) != len(names):
        raise ConfigError(f"{labels}: an annotation id is there twice")
    unknown = sorted(set(people) - set(ids))
    if unknown:
        raise ConfigError(
            f"{labels}: {len(unknown)} pictures with people are not listed ({unknown[:3]} ...); "
            "are these the labels of another video or split?"
        )
    if all(_is_key(annotation) for annotation in annotations):
        return pictures, people
    return [p for p in pictures if any(map(_is_key, people.get(int(p["id"]), [])))], people


def _is_key(annotation: dict[str, Any]) -> bool:
    return (annotation.get("attributes") or {}).get("keyframe", True) is not False


def track_of(annotation: dict[str, Any]) -> str | None:
    """Name of the person over time: ``track_id``, CVAT's among the attributes; None: none."""
    track = annotation.get("track_id")
    if track is None:
        track = (annotation.get("attributes") or {}).get("track_id")
    return None if track is None else str(track)


def frame_of(
    picture: dict[str, Any],
    people: dict[int, list[dict[str, Any]]],
    images: Path,
    skeleton: Skeleton,
    area: Area | None = None,
) -> FrameLabel:
    """One picture with its people.

    Raises:
        ConfigError: joints of another set, or a broken box.

    """
    where = f"picture {picture['file_name']}"
    size = (picture.get("width"), picture.get("height"))
    here = people.get(int(picture["id"]), [])
    return FrameLabel(
        image=FileImage(images / picture["file_name"]),
        number=0,
        image_id=int(picture["id"]),
        file=picture["file_name"],
        people=[person_of(a, skeleton, where, i, area) for i, a in enumerate(here)],
        size_px=(int(size[0]), int(size[1])) if size[0] and size[1] else None,
        crowd_index=float(picture.get("crowdIndex", float("nan"))),
    )


def person_of(
    annotation: dict[str, Any], skeleton: Skeleton, where: str, row: int, area: Area | None = None
) -> PersonLabel:
    """Label of one person; without ``track_id`` the row in the picture tells people apart."""
    joints = len(skeleton)
    triples = annotation.get("keypoints") or np.zeros(3 * joints)
    xy, visible = labels_from_triples(triples, joints, where)
    track = track_of(annotation)
    size = area(annotation) if area else float(annotation.get("area", float("nan")))
    return PersonLabel(
        xy_px=xy,
        visible=visible,
        box_xyxy_px=box_from_xywh(annotation["bbox"], where),
        track=f"row{row}" if track is None else track,
        area_px2=size,
        ignore=bool(annotation.get("iscrowd", 0)) or bool(annotation.get("ignore", 0)),
        pseudo=annotation.get("labelled") is False,  # `training.propagate` wrote it
    )
