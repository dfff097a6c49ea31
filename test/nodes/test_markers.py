"""Markers: the joints' rays at 1 m, gone with the person."""

import numpy as np
import pytest
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import PoseResult, Poses2D, Tracks, TrackState
from pose_ros.nodes.markers import MarkerBuilder

CAMERA = PinholeCamera(640, 480, 500.0, 500.0, 320.0, 240.0)
HEADER = Header(frame_id="cam")


def result(state: TrackState) -> PoseResult:
    xy = np.full((1, 17, 2), np.nan, np.float32)
    left, right = COCO17.index("left_shoulder"), COCO17.index("right_shoulder")
    xy[0, left], xy[0, right] = (420.0, 240.0), (320.0, 290.0)
    score = np.where(np.isfinite(xy[..., 0]), 0.9, 0.0).astype(np.float32)
    ids = np.array([12])
    tracks = Tracks(
        ids, np.array([state], np.int8), np.zeros((1, 4), np.float32),
        np.ones(1, np.float32), np.zeros(1, np.int64),
    )  # fmt: skip
    return PoseResult(0, "cam", (640, 480), tracks, Poses2D(ids, xy, score), False)


def test_a_bone_lies_on_the_rays_one_metre_ahead() -> None:
    builder = MarkerBuilder(COCO17, 0.2)
    bones, label = builder.build(result(TrackState.TRACKED), CAMERA, HEADER).markers
    assert (bones.ns, bones.type) == ("b00012/rays", Marker.LINE_LIST)
    assert bones.header.frame_id == "cam"
    # (420 - 320) / 500 = 0.2 and (290 - 240) / 500 = 0.1, at z = 1
    assert [(p.x, p.y, p.z) for p in bones.points] == [
        (pytest.approx(0.2), pytest.approx(0.0), 1.0),
        (pytest.approx(0.0), pytest.approx(0.1), 1.0),
    ]  # fmt: skip
    assert bones.lifetime.nanosec == 300_000_000
    assert label.text == "b00012" and label.type == Marker.TEXT_VIEW_FACING


def test_a_lost_person_is_deleted() -> None:
    markers = MarkerBuilder(COCO17, 0.2).build(result(TrackState.LOST), CAMERA, HEADER).markers
    assert [(m.ns, m.id, m.action) for m in markers] == [
        ("b00012/rays", 0, Marker.DELETE), ("b00012/rays", 1, Marker.DELETE),
    ]  # fmt: skip


def test_nothing_is_shown_without_a_calibration_or_a_joint() -> None:
    told = result(TrackState.TRACKED)
    assert MarkerBuilder(COCO17, 0.2).build(told, None, HEADER).markers == []
    assert MarkerBuilder(COCO17, 0.95).build(told, CAMERA, HEADER).markers == []
