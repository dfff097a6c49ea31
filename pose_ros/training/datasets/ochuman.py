"""OCHuman: people who hide each other, COCO's 17 joints; for testing, there is no train split."""

from __future__ import annotations

from pathlib import Path

from pose_ros.core.skeletons import COCO17
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import WindowSpec, expected, need
from pose_ros.training.datasets.clips import (
    BOX_MIN,
    LabelledClips,
    check_pictures,
    read_detections,
)
from pose_ros.training.datasets.coco import read_coco

LAYOUT = """\
  ROOT/annotations/ochuman_coco_format_{val,test}_range_0.00_1.00.json
  ROOT/images/000001.jpg
Ask for the download by the form that github.com/liruilong940607/OCHumanApi links to."""


@register_dataset("ochuman")
def ochuman(
    path: str,
    split: str = "val",
    frames: int = 1,
    key: int = 0,
    boxes: str = "",
    box_min: float = BOX_MIN,
) -> LabelledClips:
    """OCHuman; label files in ``annotations/`` or, as the archive unpacks, beside ``images/``."""
    root = need(Path(path), "the OCHuman folder", LAYOUT)
    name = f"ochuman_coco_format_{split}_range_0.00_1.00.json"
    beside = root / name
    labels = beside if beside.is_file() else need(root / "annotations" / name, "labels", LAYOUT)
    clips = read_coco(labels, root / "images", COCO17)
    check_pictures(clips[:1] + clips[-1:], expected(LAYOUT))
    detections = read_detections(Path(boxes), box_min) if boxes else None
    return LabelledClips("ochuman", COCO17, clips, WindowSpec(frames, key), detections)
