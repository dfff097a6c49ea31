"""Points from several cameras: exact, noisy, with wrong views, and what cannot be known."""

import numpy as np
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.triangulate import triangulate
from pose_ros.errors import CalibrationError, ShapeError

CAMERAS = [
    PinholeCamera(1280, 720, 900.0, 905.0, 640.0, 360.0, (0.1, -0.2, 0.001, 0.0, 0.05)),
    PinholeCamera(1280, 720, 910.0, 905.0, 630.0, 365.0),
    PinholeCamera(640, 480, 500.0, 500.0, 320.0, 240.0, (-0.05, 0.1, 0.0, 0.001, 0.0)),
    PinholeCamera(1920, 1080, 1400.0, 1400.0, 960.0, 540.0),
]


def looking_at(eye: tuple[float, float, float]) -> np.ndarray:
    """World (z up) to optical frame of a camera at ``eye`` that looks at (0, 0, 1)."""
    forward = np.array([0, 0, 1.0]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


POSES = np.stack([looking_at(e) for e in ((4, 0, 2), (0, 4, 1.5), (-3.5, -1, 2.2), (1, -4, 1.8))])
POINTS = np.random.default_rng(0).uniform((-1, -1, 0), (1, 1, 2), (6, 17, 3))


def pixels(points: np.ndarray = POINTS) -> np.ndarray:
    return np.stack(
        [c.project(points @ p[:3, :3].T + p[:3, 3]) for c, p in zip(CAMERAS, POSES, strict=True)]
    )


def ones(xy: np.ndarray) -> np.ndarray:
    return np.ones(xy.shape[:3])


def test_two_pixels_by_hand() -> None:
    """Focal length 100 px, base 1 m, 2 m away: the middle, and 50 px left of it."""
    camera = PinholeCamera(200, 200, 100.0, 100.0, 100.0, 100.0)
    poses = np.stack([np.eye(4), np.eye(4)])
    poses[1, 0, 3] = -1.0  # the second camera stands at x = 1
    xy = np.array([[100.0, 100.0], [50.0, 100.0]])[:, None, None]
    found = triangulate([camera, camera], poses, xy, np.full((2, 1, 1), 1.0))
    np.testing.assert_allclose(found.xyz_m[0, 0], [0, 0, 2], atol=1e-9)
    # Disparity d = f b / z with variance 2 px^2: std z = z^2 / (f b) sqrt(2) = 0.0566 m.
    # y is measured twice with 1 px: z / f / sqrt(2).
    assert np.sqrt(found.covariance_m2[0, 0, 2, 2]) == pytest.approx(0.04 * 2**0.5, rel=1e-6)
    assert np.sqrt(found.covariance_m2[0, 0, 1, 1]) == pytest.approx(0.02 / 2**0.5, rel=1e-6)
    assert found.views_used[0, 0] == 2


def test_exact_pixels_give_exact_points() -> None:
    xy = pixels()
    found = triangulate(CAMERAS, POSES, xy, ones(xy))
    np.testing.assert_allclose(found.xyz_m, POINTS, atol=1e-5)
    assert (found.views_used == 4).all()
    assert np.nanmax(found.residual_px) < 0.02


def test_missing_views_and_missing_joints() -> None:
    xy = pixels()
    xy[2:, 0] = np.nan  # the first person: two views
    xy[1:, 1] = np.nan  # the second: one
    xy[:, 2] = np.nan
    found = triangulate(CAMERAS, POSES, xy, ones(xy))
    np.testing.assert_allclose(found.xyz_m[0], POINTS[0], atol=1e-5)
    assert np.isnan(found.xyz_m[1:3]).all() and np.isnan(found.covariance_m2[1:3]).all()
    assert (found.views_used[:3] == [[2], [0], [0]]).all()


@pytest.mark.parametrize("wrong", range(4))
def test_a_wrong_view_is_left_out(wrong: int) -> None:
    rng = np.random.default_rng(wrong)
    xy = pixels() + rng.normal(size=pixels().shape)
    xy[wrong] += rng.choice([-1, 1], xy[wrong].shape) * rng.uniform(60, 300, xy[wrong].shape)
    found = triangulate(CAMERAS, POSES, xy, ones(xy))
    error = np.linalg.norm(found.xyz_m - POINTS, axis=-1)
    assert np.nanmax(error) < 0.03
    assert (~found.used[wrong]).mean() > 0.98 and (found.views_used >= 2).mean() > 0.98


def test_two_views_that_contradict_each_other_say_nothing() -> None:
    xy = pixels()[:2]
    xy[1, :, :, 1] += 60
    found = triangulate(CAMERAS[:2], POSES[:2], xy, ones(xy))
    assert np.isnan(found.xyz_m).mean() > 0.95


def test_behind_a_camera_and_along_one_line_is_unknown() -> None:
    xy = np.stack([pixels()[0], pixels()[0]])
    twice = triangulate([CAMERAS[0]] * 2, POSES[[0, 0]], xy, ones(xy))
    assert np.isnan(twice.xyz_m).all()
    # Rays that part in front of the cameras meet behind them.
    camera = PinholeCamera(200, 200, 100.0, 100.0, 100.0, 100.0)
    poses = np.stack([np.eye(4), np.eye(4)])
    poses[1, 0, 3] = -1.0
    parting = np.array([[50.0, 100.0], [150.0, 100.0]])[:, None, None]
    assert np.isnan(triangulate([camera, camera], poses, parting, ones(parting)).xyz_m).all()


def test_stated_ellipsoids_hold_the_truth() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform((-1, -1, 0), (1, 1, 2), (100, 17, 3))
    std = np.array([3.0, 4.0, 2.0, 6.0])[:, None, None]
    xy = pixels(truth)
    xy = xy + std[..., None] * rng.normal(size=xy.shape)
    xy[3, :50] = np.nan
    weights = np.broadcast_to(1 / std**2, xy.shape[:3])
    found = triangulate(CAMERAS, POSES, xy, weights)
    error = found.xyz_m - truth
    known = np.isfinite(error[..., 0])
    squared = np.einsum(
        "ni,nij,nj->n", error[known], np.linalg.inv(found.covariance_m2[known]), error[known]
    )
    assert known.mean() > 0.99
    assert 0.93 < (squared < 7.815).mean() < 0.98


def test_better_pixels_count_more() -> None:
    rng = np.random.default_rng(4)
    xy = pixels() + rng.normal(size=pixels().shape) * np.array([1, 1, 6, 6.0])[:, None, None, None]
    right = np.broadcast_to(np.array([1, 1, 1 / 36, 1 / 36.0])[:, None, None], xy.shape[:3])
    errors = [
        np.nanmean((triangulate(CAMERAS, POSES, xy, w).xyz_m - POINTS) ** 2)
        for w in (right, np.full_like(right, 1 / 36.0))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_nobody_and_one_camera() -> None:
    nobody = triangulate(CAMERAS, POSES, np.zeros((4, 0, 17, 2)), np.zeros((4, 0, 17)))
    assert nobody.xyz_m.shape == (0, 17, 3)
    alone = triangulate(CAMERAS[:1], POSES[:1], pixels()[:1], ones(pixels()[:1]))
    assert np.isnan(alone.xyz_m).all()


def changed(rotation: np.ndarray) -> np.ndarray:
    """Return the poses with the second one's rotation multiplied."""
    poses = POSES.copy()
    poses[1, :3, :3] = poses[1, :3, :3] @ rotation
    return poses


@pytest.mark.parametrize(
    ("poses", "xy", "weights", "error", "words"),
    [
        (POSES[:3], pixels(), ones(pixels()), ShapeError, "expected 4 matrices of 4 x 4"),
        (POSES, pixels()[:3], ones(pixels()), ShapeError, r"expected \(4, P, J, 2\)"),
        (POSES, pixels(), ones(pixels())[:, :, :3], ShapeError, "weights: expected"),
        (POSES * 1000, pixels(), ones(pixels()), CalibrationError, r"cam_from_world\[0\]"),
        (changed(1.1 * np.eye(3)), pixels(), ones(pixels()), CalibrationError, r"world\[1\]"),
        (changed(-np.eye(3)), pixels(), ones(pixels()), CalibrationError, r"world\[1\]"),
        (POSES * np.nan, pixels(), ones(pixels()), CalibrationError, "a rotation and a"),
    ],
)
def test_what_is_refused(
    poses: np.ndarray, xy: np.ndarray, weights: np.ndarray, error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        triangulate(CAMERAS, poses, xy, weights)


def test_no_camera_at_all_is_refused() -> None:
    with pytest.raises(ShapeError, match="expected at least one, got none"):
        triangulate([], [], np.zeros((0, 1, 17, 2)), np.zeros((0, 1, 17)))
