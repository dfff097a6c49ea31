"""The badminton set of the DSA paper: match videos in PoseTrack's form, 15 joints."""

from __future__ import annotations

from pathlib import Path

from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import WindowSpec
from pose_ros.training.datasets.clips import BOX_MIN, LabelledClips
from pose_ros.training.datasets.posetrack import open_posetrack

LAYOUT = """\
  ROOT/annotations/{train,val,test}/NAME.json    PoseTrack's form, one per video
  ROOT/images/<as the labels name them>
Data: Zenodo 10.5281/zenodo.15666349, and the link in github.com/tzwx/Badminton."""


@register_dataset("badminton")
def badminton(
    path: str,
    split: str = "test",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    boxes: str = "",
    box_min: float = BOX_MIN,
    only: str = "",
    without: str = "",
) -> LabelledClips:
    """Badminton; ``boxes`` is a file of detections, the labels' boxes without one.

    ``only`` and ``without`` are names of videos, A,B. Train and test are frames of the same
    videos; what a network says of a match that it has not seen is ``without=A`` there, ``only=A``
    here (models.md, D11).
    """
    return open_posetrack(
        "badminton",
        Path(path),
        Path(path) / "annotations" / split,
        LAYOUT,
        WindowSpec(frames, key, step),
        (boxes, box_min),
        videos=(only, without),
    )
