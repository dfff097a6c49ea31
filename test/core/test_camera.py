"""The pinhole camera, against OpenCV and against itself."""

import numpy as np
import pytest

from pose_ros.core.camera import COEFFICIENTS, PinholeCamera
from pose_ros.errors import CalibrationError

CAMERA = PinholeCamera(640, 480, 500.0, 510.0, 320.0, 235.0, (0.1, -0.05, 0.001, 0.002, 0.01))


def test_project_by_hand() -> None:
    plain = PinholeCamera(640, 480, 500.0, 510.0, 320.0, 235.0)
    np.testing.assert_allclose(plain.project(np.array([0.2, -0.1, 2.0])), [370.0, 209.5])


def test_rays_undo_project() -> None:
    points = np.random.default_rng(0).uniform((-1, -1, 2), (1, 1, 5), (4, 5, 3))
    rays = CAMERA.rays(CAMERA.project(points))
    np.testing.assert_allclose(rays * points[..., 2:], points, atol=1e-4)


def test_behind_the_lens_and_unknown_are_nan() -> None:
    assert np.isnan(CAMERA.project(np.array([[0, 0, -1.0], [0, 0, 0.0]]))).all()
    assert np.isnan(CAMERA.rays(np.array([[np.nan, 3.0]]))).all()


def test_field_of_view() -> None:
    camera = PinholeCamera.from_fov(640, 480, 90.0)
    assert camera.fx_px == pytest.approx(320.0)  # tan 45 degrees = 1
    edge = camera.rays(np.array([639.5, 239.5]))
    assert np.degrees(np.arctan(edge[0])) == pytest.approx(45.0)


def test_crop_and_binning_keep_the_direction() -> None:
    point = np.array([0.3, 0.2, 2.0])
    pixel = CAMERA.project(point)
    np.testing.assert_allclose(CAMERA.cropped(100, 50, 200, 200).project(point), pixel - (100, 50))
    np.testing.assert_allclose(CAMERA.binned(2, 2).project(point), (pixel + 0.5) / 2 - 0.5)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((640, 480, 0.0, 0.0, 0.0, 0.0), "all-zero K means 'uncalibrated'"),
        ((640, 480, 500.0, float("nan"), 320.0, 240.0), "finite numbers"),
        ((0, 480, 500.0, 500.0, 320.0, 240.0), "width and height > 0 px, got 0 x 480"),
        ((640, 480, 500.0, 500.0, 320.0, 240.0, (0.1, 0.0, 0.0)), "coefficients .* got 3"),
    ],
)
def test_unusable_calibrations_are_refused(numbers: tuple, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        PinholeCamera(*numbers)


@pytest.mark.parametrize("count", COEFFICIENTS)
def test_lenses_of_every_length_project_and_come_back(count: int) -> None:
    camera = PinholeCamera(640, 480, 500.0, 500.0, 320.0, 240.0, (0.01,) * count)
    ray = np.array([[0.1, -0.2, 1.0]])
    np.testing.assert_allclose(camera.rays(camera.project(ray)), ray, atol=1e-4)


@pytest.mark.parametrize("angle", [0.0, 180.0, -5.0])
def test_impossible_fields_of_view_are_refused(angle: float) -> None:
    with pytest.raises(CalibrationError, match="0 to 180 degrees"):
        PinholeCamera.from_fov(640, 480, angle)
