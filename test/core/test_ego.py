"""A camera that turns: pixels, windows, the refiner's memory, level frames, clock differences."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pose_ros.core import crop, ego
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.ego import (
    EgoMotion,
    cut_turned,
    homography,
    level_from_camera,
    turn_pixels,
)
from pose_ros.core.ego_offset import image_turn, kabsch
from pose_ros.core.imu import GRAVITY_M_S2, Imu
from pose_ros.core.refine_energy import stream_config
from pose_ros.core.refine_stream import StreamRefiner
from pose_ros.core.skeletons import COCO17
from pose_ros.core.so3 import exp_so3, log_so3
from pose_ros.core.values import Frame

CAMERA = PinholeCamera.from_fov(320, 240, 60.0)
TURN = exp_so3(np.array([0.02, -0.05, 0.03]))
STEP_NS = 5_000_000


def picture(seed: int = 0, size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (size_hw[0] // 8, size_hw[1] // 8, 3), dtype=np.uint8)
    return cv2.resize(small, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def swung(seconds: float = 3.0, rate: float = 6.0, swing: float = 0.2, late_ns: int = 0) -> Imu:
    """A camera panning by swing sin(rate t) about its y axis; stamps ``late_ns`` late."""
    imu = Imu()
    for n in range(int(seconds * 200)):
        t = n * STEP_NS * 1e-9
        gyro = np.array([0.0, swing * rate * np.cos(rate * t), 0.0])
        imu.push(n * STEP_NS + late_ns, gyro, np.array([0.0, -GRAVITY_M_S2, 0.0]))
    return imu


def test_the_homography_moves_far_and_near_points_alike() -> None:
    points = np.array([[0.3, -0.2, 1.0], [3.0, -2.0, 10.0], [-1.0, 0.5, 4.0]])
    old, new = CAMERA.project(points), CAMERA.project(points @ TURN.T)
    assert np.allclose(old[0], old[1])
    h = homography(CAMERA, TURN) @ np.column_stack([old, np.ones(3)]).T
    assert np.allclose((h[:2] / h[2]).T, new, atol=1e-9)
    assert np.allclose(turn_pixels(CAMERA, TURN, old), new, atol=1e-6)


def test_a_lens_with_distortion_is_turned_exactly() -> None:
    lens = PinholeCamera(320, 240, 280.0, 280.0, 160.0, 120.0, (-0.2, 0.05, 0.0, 0.0, 0.0))
    points = np.array([[0.4, -0.3, 1.0], [-0.3, 0.2, 1.0]])
    want = lens.project(points @ TURN.T)
    assert np.allclose(turn_pixels(lens, TURN, lens.project(points)), want, atol=1e-3)
    flat = homography(lens, TURN) @ np.column_stack([lens.project(points), np.ones(2)]).T
    assert abs((flat[:2] / flat[2]).T - want).max() > 0.1  # which a homography alone is not


def test_without_a_turn_the_cut_is_the_usual_one() -> None:
    rgb, edges = picture(), np.array([-20.0, 15.0, 140.0, 255.0])
    usual, turned = np.zeros((2, 64, 48, 3), np.uint8)
    crop.cut(Frame(rgb, 0, "cam", CAMERA), edges, usual)
    cut_turned(rgb, CAMERA, np.eye(3), edges, turned)
    assert np.array_equal(usual, turned)


@pytest.mark.parametrize("distortion", [(), (-0.1, 0.02, 0.0, 0.0, 0.0)])
def test_a_turned_window_shows_the_key_frame_s_content(distortion) -> None:
    """A dot drawn where a ray meets the old image lands where it meets the new one."""
    camera = PinholeCamera(320, 240, 280.0, 280.0, 160.0, 120.0, distortion)
    rgb = np.zeros((240, 320, 3), np.uint8)
    ys, xs = np.mgrid[:240, :320]
    rgb[...] = (200 * np.exp(-((xs - 190.0) ** 2 + (ys - 90.0) ** 2) / 18.0))[..., None]
    out = np.zeros((160, 200, 3), np.uint8)
    cut_turned(rgb, camera, TURN, np.array([100.0, 40.0, 300.0, 200.0]), out)
    weight = out[..., 0].astype(float)
    ys, xs = np.mgrid[:160, :200]
    centre = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum() + [100.0, 40.0]
    want = turn_pixels(camera, TURN, np.array([190.0, 90.0]))
    assert np.linalg.norm(centre - want) < 0.1
    assert np.linalg.norm(want - [190.0, 90.0]) > 10


def test_the_lookup_of_a_lens_is_exact_to_a_hundredth_of_a_pixel() -> None:
    lens = PinholeCamera(640, 480, 540.0, 540.0, 320.0, 240.0, (-0.3, 0.1, 0.001, 0.0, 0.0))
    corner, size = (37, 21), (203, 307)
    found = ego._lookup(lens, TURN.T, corner, size, size)
    xs, ys = np.meshgrid(corner[0] + np.arange(size[0]), corner[1] + np.arange(size[1]))
    want = turn_pixels(lens, TURN.T, np.stack([xs, ys], axis=-1))
    assert found.shape == (307, 203, 2) and found.dtype == np.float32
    assert np.abs(found - want).max() < 0.02


@pytest.mark.parametrize("distortion", [(), (-0.1, 0.02, 0.0, 0.0, 0.0)])
def test_a_box_larger_than_the_image_is_turned_at_the_image_s_size(
    distortion, monkeypatch
) -> None:
    """Somebody very near: the place is right, and memory does not grow with the box."""
    camera = PinholeCamera(320, 240, 280.0, 280.0, 160.0, 120.0, distortion)
    rgb = np.zeros((240, 320, 3), np.uint8)
    ys, xs = np.mgrid[:240, :320]
    rgb[...] = (250 * np.exp(-((xs - 190.0) ** 2 + (ys - 90.0) ** 2) / 150.0))[..., None]
    sizes, out = [], np.zeros((256, 192, 3), np.uint8)
    resize = ego.resize
    monkeypatch.setattr(ego, "resize", lambda box, *a: sizes.append(box.shape) or resize(box, *a))
    left, top = -400, -600
    cut_turned(rgb, camera, TURN, np.array([left, top, left + 1050, top + 1400]), out)
    assert sizes == [(320, 240, 3)]
    weight = out[..., 0].astype(float)
    ys, xs = np.mgrid[:256, :192]
    cell = np.array([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()
    centre = (cell + 0.5) * [1050 / 192, 1400 / 256] + [left, top] - 0.5
    want = turn_pixels(camera, TURN, np.array([190.0, 90.0]))
    assert np.linalg.norm(centre - want) < 1.5  # a crop pixel is 5.5


def test_level_frames_have_z_up_and_look_ahead() -> None:
    tilted = exp_so3(np.array([-0.4, 0.0, 0.2])) @ np.array([0.0, -1.0, 0.0])
    level = level_from_camera(tilted)
    assert np.allclose(level @ level.T, np.eye(3)) and np.linalg.det(level) == pytest.approx(1.0)
    assert np.allclose(level @ tilted, [0, 0, 1])
    ahead = level @ np.array([0.0, 0.0, 1.0])
    assert ahead[0] > 0 and ahead[1] == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(level_from_camera(np.array([0.0, 0.0, 1.0]))).all()


def run(imu: Imu | None, dims: int, until: int = 45, gone: range = range(30, 42)) -> float:
    """Mean error of a standing person's hidden joints under a pan, with the imu's help."""
    rng = np.random.default_rng(4)
    free = replace(stream_config(dims), angle_limits=False, bend=False, symmetry=False)
    refiner = StreamRefiner(COCO17, dims, free)
    motion = None if imu is None else EgoMotion(imu)
    body = np.column_stack(
        [rng.uniform(-0.3, 0.3, 17), rng.uniform(-0.8, 0.8, 17), np.full(17, 3)]
    )
    ids, off = np.array([3], np.int64), []
    for n in range(until):
        stamp = 100_000_000 + round(n * 1e9 / 30)
        turn = exp_so3(np.array([0.0, -0.2 * np.sin(6.0 * stamp * 1e-9), 0.0]))
        true = body @ turn.T
        points = (CAMERA.project(true) if dims == 2 else true).astype(np.float32)
        score = np.full((1, 17), 0.9, np.float32)
        if n in gone:
            score[0, 9:11] = 0.0
        if motion is not None:
            flat, deep = ((refiner,), ()) if dims == 2 else ((), (refiner,))
            motion.carry(stamp, CAMERA, flat, deep)
        size = np.array([130.0], np.float32) if dims == 2 else None
        now = refiner.update(stamp, ids, points[None], score, person_px=size)
        if n in gone and n - gone.start < 8:
            off.append(np.linalg.norm(now.points[0, 9:11] - points[9:11], axis=-1).mean())
    return float(np.mean(off))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_memory_that_turns_along_keeps_hidden_joints_in_place(dims: int) -> None:
    plain, turned = run(None, dims), run(swung(), dims)
    assert turned < 0.1 * plain
    assert turned < (0.5 if dims == 2 else 0.005)


def test_a_sensor_that_dies_changes_nothing() -> None:
    """Bit for bit what the refiner says without one."""
    dead, empty = swung(seconds=0.05), Imu()
    for imu in (dead, empty):
        assert run(imu, 2) == run(None, 2)
    motion = EgoMotion(empty)
    assert motion.step(1) is None and motion.step(2) is None and motion.up(2) is None
    assert motion.counts == {"compensated": 0, "missing": 1, "doubted": 0}


def test_pictures_tell_how_the_camera_turned() -> None:
    old = picture(1)
    new = np.zeros_like(old)
    turn = exp_so3(np.array([0.01, 0.03, -0.01]))
    cut_turned(old, CAMERA, turn, np.array([0, 0, 320, 240]), new)
    found = image_turn(CAMERA, old, new)
    assert found is not None
    assert np.linalg.norm(log_so3(exp_so3(found) @ turn.T)) < np.radians(0.2)
    assert image_turn(CAMERA, np.zeros_like(old), np.zeros_like(old)) is None


def test_kabsch_finds_a_rotation() -> None:
    rays = np.random.default_rng(6).standard_normal((5, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    assert np.allclose(kabsch(rays, rays @ TURN.T), TURN)
