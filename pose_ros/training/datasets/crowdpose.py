"""CrowdPose: pictures of crowds, 14 joints, in COCO's form with a crowd index per picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pose_ros.core.skeletons import CROWDPOSE14
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import WindowSpec, expected, need
from pose_ros.training.datasets.clips import (
    BOX_MIN,
    LabelledClips,
    check_pictures,
    read_detections,
)
from pose_ros.training.datasets.coco import read_coco
from pose_ros.training.metrics.coco import CROWDPOSE_COVER

LAYOUT = """\
  ROOT/json/crowdpose_{train,val,trainval,test}.json
  ROOT/images/100000.jpg
Links to both: github.com/Jeff-sjtu/CrowdPose."""


@register_dataset("crowdpose")
def crowdpose(
    path: str,
    split: str = "test",
    frames: int = 1,
    key: int = 0,
    boxes: str = "",
    box_min: float = BOX_MIN,
) -> LabelledClips:
    """CrowdPose; its people have no area: 0.53 x width x height, as its evaluator takes it."""
    root = need(Path(path), "the CrowdPose folder", LAYOUT)
    labels = need(root / "json" / f"crowdpose_{split}.json", "the label file", LAYOUT)
    clips = read_coco(labels, root / "images", CROWDPOSE14, _area)
    check_pictures(clips[:1] + clips[-1:], expected(LAYOUT))
    detections = read_detections(Path(boxes), box_min) if boxes else None
    return LabelledClips("crowdpose", CROWDPOSE14, clips, WindowSpec(frames, key), detections)


def _area(annotation: dict[str, Any]) -> float:
    return float(CROWDPOSE_COVER * annotation["bbox"][2] * annotation["bbox"][3])
