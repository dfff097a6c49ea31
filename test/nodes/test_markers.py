"""Markers: the joints' rays at 1 m, gone with the person."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Body, PoseResult, Poses2D, Poses3D, Tracks, TrackState
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
    assert all(m.action == Marker.DELETE for m in markers)
    # bones, label and a ball per joint where it stood; bones and label of its rays
    assert sorted((m.ns, m.id) for m in markers) == [
        *(("b00012", i) for i in range(19)), ("b00012/rays", 0), ("b00012/rays", 1),
    ]  # fmt: skip


def test_a_body_is_drawn_where_it_stands_with_its_ellipsoids() -> None:
    told = result(TrackState.TRACKED)
    poses = Poses3D.unknown(told.tracks.ids, 17)
    left, right = COCO17.index("left_shoulder"), COCO17.index("right_shoulder")
    poses.xyz_m[0, left], poses.xyz_m[0, right] = (0.4, 0.0, 2.0), (0.0, 0.2, 2.0)
    # deviations 0.01, 0.02 and 0.1 m along x, y and z
    poses.covariance_m2[0, left] = np.diag([1e-4, 4e-4, 1e-2])
    told = dataclasses.replace(told, body=Body(poses, np.full((1, 16), np.nan, np.float32)))
    bones, label, ball = MarkerBuilder(COCO17, 0.2).build(told, None, HEADER).markers
    assert bones.ns == label.ns == ball.ns == "b00012"
    assert [(p.x, p.y, p.z) for p in bones.points] == [
        (pytest.approx(0.4), 0.0, 2.0), (0.0, pytest.approx(0.2), 2.0),
    ]  # fmt: skip
    assert (ball.id, ball.type) == (2 + left, Marker.SPHERE)
    sizes = sorted((ball.scale.x, ball.scale.y, ball.scale.z))
    assert sizes == pytest.approx([2 * 2.795 * s for s in (0.01, 0.02, 0.1)], rel=1e-3)
    q = ball.pose.orientation
    axes = [ball.scale.x, ball.scale.y, ball.scale.z]
    long = np.eye(3)[int(np.argmax(axes))]  # the long axis of the ball, turned, is the camera's z
    turned = Rotation.from_quat([q.x, q.y, q.z, q.w]).apply(long)
    assert abs(turned[2]) == pytest.approx(1.0, abs=1e-5)


def test_nothing_is_shown_without_a_calibration_or_a_joint() -> None:
    told = result(TrackState.TRACKED)
    assert MarkerBuilder(COCO17, 0.2).build(told, None, HEADER).markers == []
    assert MarkerBuilder(COCO17, 0.95).build(told, CAMERA, HEADER).markers == []


@pytest.mark.parametrize(
    ("frame", "place"),
    [
        ("", (0.0, -0.4, 3.0)), ("head_camera_optical_frame", (0.0, -0.4, 3.0)),
        ("base_link", (3.0, 0.5, 0.6)), ("level", (3.0, 0.5, 0.6)),
    ],
)  # fmt: skip
def test_the_name_stands_above_the_highest_joint(frame: str, place: tuple[float, ...]) -> None:
    """Up is against y of an optical frame, and along z of a robot's."""
    told = result(TrackState.TRACKED)
    poses = Poses3D.unknown(told.tracks.ids, 17)
    low, high = COCO17.index("left_ankle"), COCO17.index("nose")
    if frame in ("", "head_camera_optical_frame"):
        poses.xyz_m[0, low], poses.xyz_m[0, high] = (0.0, 1.4, 2.0), (0.0, -0.2, 3.0)
    else:  # the other one is the first by y
        poses.xyz_m[0, low], poses.xyz_m[0, high] = (3.0, -0.5, -1.2), (3.0, 0.5, 0.4)
    told = dataclasses.replace(told, body=Body(poses, np.full((1, 16), np.nan, np.float32)))
    _, label = MarkerBuilder(COCO17, 0.2, frame).build(told, None, HEADER).markers
    at = label.pose.position
    assert (at.x, at.y, at.z) == pytest.approx(place)
