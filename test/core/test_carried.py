"""What is remembered of people, turned along with the camera."""

from __future__ import annotations

import numpy as np
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig
from pose_ros.core.ego import StillCamera, homography, moved_px, turn_boxes, turn_pixels
from pose_ros.core.lift_mono import MonocularLifter
from pose_ros.core.refine_energy import stream_config
from pose_ros.core.refine_stream import StreamRefiner
from pose_ros.core.skeletons import COCO17
from pose_ros.core.so3 import exp_so3
from pose_ros.core.steady import SteadyPlace
from pose_ros.core.track import Tracker
from pose_ros.core.values import Boxes, Frame, Poses2D

CAMERA = PinholeCamera.from_fov(640, 480, 60.0)
RNG = np.random.default_rng(8)
BODY = np.column_stack([RNG.uniform(-0.3, 0.3, 17), RNG.uniform(-0.8, 0.8, 17), np.full(17, 4.0)])
IDS = np.array([1], np.int64)


def angle(t: float) -> float:
    """Of the camera about its vertical axis: it stands still for a second, then swings."""
    return 0.25 * np.sin(5.0 * max(t - 1.0, 0.0))


def seen(t: float) -> np.ndarray:
    return BODY @ exp_so3(np.array([0.0, -angle(t), 0.0])).T


def since(old: float, new: float) -> np.ndarray:
    return exp_so3(np.array([0.0, angle(old) - angle(new), 0.0]))


def poses_at(t: float) -> Poses2D:
    xy = CAMERA.project(seen(t)).astype(np.float32)
    return Poses2D(IDS, xy[None], np.full((1, 17), 0.9, np.float32))


def followed(carried: bool, until: float = 1.9) -> float:
    """Largest error of the proposed box's centre while the camera swings; detected once."""
    tracker, worst, before = Tracker(PipelineConfig().track, COCO17), 0.0, 0.0
    for n in range(round(until * 30)):
        t = n / 30
        if carried and n:
            tracker.transform(homography(CAMERA, since(before, t)))
        pose, before = poses_at(t), t
        box = np.concatenate([pose.xy_px[0].min(axis=0), pose.xy_px[0].max(axis=0)])[None]
        boxes = Boxes(box, np.ones(1, np.float32)) if n == 0 else None
        people = tracker.propose(round(t * 1e9), boxes)
        if t > 1.0:
            centre = (people.xyxy_px[0, :2] + people.xyxy_px[0, 2:]) / 2
            worst = max(worst, float(np.linalg.norm(centre - (box[0, :2] + box[0, 2:]) / 2)))
        tracker.observe(poses_at(t))
    return worst


def test_the_tracker_s_boxes_stay_on_the_person() -> None:
    assert followed(True) < 8.0 < 12.0 < followed(False)


def test_nobody_can_be_turned() -> None:
    tracker = Tracker(PipelineConfig().track, COCO17)
    tracker.transform(homography(CAMERA, since(0.0, 1.2)))
    assert not tracker.busy
    steady = SteadyPlace(COCO17)
    steady.transform(since(0.0, 1.2))
    MonocularLifter(lambda x: (x, x)).transform(since(0.0, 1.2))


def test_boxes_move_as_their_pixels_do() -> None:
    turn = since(0.0, 1.15)
    box = np.array([[300.0, 200.0, 320.0, 260.0]], np.float32)
    moved = turn_boxes(CAMERA, turn, box)
    want = turn_pixels(CAMERA, turn, np.array([310.0, 230.0]))
    np.testing.assert_allclose((moved[0, :2] + moved[0, 2:]) / 2, want, atol=1e-3)
    corners = turn_pixels(CAMERA, turn, box.reshape(2, 2))
    np.testing.assert_allclose(moved[0], corners.reshape(4), atol=3.0)
    far = np.linalg.norm(want - [310.0, 230.0])
    assert moved_px(CAMERA, turn) == pytest.approx(far, rel=0.15)


def steadied(carried: bool) -> float:
    """Largest error of the hips' distance under the swing; the lifter's errors are none."""
    place, worst, before = SteadyPlace(COCO17), 0.0, 0.0
    cov = np.tile(0.02 * np.eye(3, dtype=np.float32), (1, 17, 1, 1))
    side = np.array([1.5, 0.0, 0.0])  # beside the axis of view: turning changes the distance
    for n in range(60):
        t = n / 30
        if carried and n:
            place.transform(since(before, t))
        before, true = t, (BODY + side) @ exp_so3(np.array([0.0, -angle(t), 0.0])).T
        now = place.update(
            round(t * 1e9), IDS, true[None].astype(np.float32), cov, np.ones(1, bool)
        )
        if t > 1.0:
            hips = now.xyz_m[0, [11, 12], 2].mean() - true[[11, 12], 2].mean()
            worst = max(worst, abs(float(hips)))
    return worst


def test_a_steady_distance_is_that_along_the_new_axis_of_view() -> None:
    assert steadied(True) < 0.01 < 0.03 < steadied(False)


def test_the_lifter_sees_earlier_frames_as_if_the_camera_had_not_turned() -> None:
    windows = []

    def network(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        windows.append(features)
        return np.zeros((1, 17, 3), np.float32), np.zeros((1, 17, 2), np.float32)

    lifter = MonocularLifter(network)
    for t in (1.0, 1.1, 1.2):
        if t > 1.0:
            lifter.transform(since(t - 0.1, t))
        frame = Frame(np.zeros((1, 1, 3), np.uint8), round(t * 1e9), "", CAMERA)
        lifter.lift(frame, poses_at(t))
    joints = windows[-1][0, -3:, :51]  # of somebody who stands still
    np.testing.assert_allclose(joints, np.tile(joints[-1:], (3, 1)), atol=1e-3)


def test_a_camera_on_a_wall() -> None:
    up = StillCamera(0.3).up(0)
    np.testing.assert_allclose(up, [0.0, -np.cos(0.3), -np.sin(0.3)], atol=1e-12)
    ahead = StillCamera(0.3).world(0) @ [0.0, 0.0, 1.0]
    np.testing.assert_allclose(ahead, [np.cos(0.3), 0.0, -np.sin(0.3)], atol=1e-12)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_somebody_behind_the_camera_does_not_come_back_from_the_other_side(side: float) -> None:
    """The camera turns away by 2.9 rad: what is remembered leaves the picture and stays away."""
    turn = homography(CAMERA, exp_so3(np.array([0.0, side * 0.1, 0.0])))
    tracker = Tracker(PipelineConfig().track, COCO17)
    pose = poses_at(0.0)
    box = np.concatenate([pose.xy_px[0].min(axis=0), pose.xy_px[0].max(axis=0)])[None]
    tracker.propose(0, Boxes(box, np.ones(1, np.float32)))
    tracker.observe(pose)
    refiner = StreamRefiner(COCO17, 2, stream_config(2))
    refiner.update(0, IDS, pose.xy_px, pose.score, person_px=np.array([200.0], np.float32))
    for n in range(29):
        tracker.transform(turn)
        refiner.transform(turn)
        (low, high), state = tracker._boxes.xyxy_px[:, ::2].T, refiner._memory.state[0]
        assert np.isfinite([low, high]).all() and np.isfinite(refiner._memory.cov[0]).all()
        if n > 6:  # 0.7 rad: out of a picture of 60 degrees, for good
            assert (side * low > side * 320).all() and (side * high > side * 320).all()
            assert (side * state[:, 0] > side * 320).all()
            assert ((low > 640) | (high < 0)).all()
