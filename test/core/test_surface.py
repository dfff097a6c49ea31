"""Rays of the colour camera against depth images of planes and balls, registered or not."""

import numpy as np
import pytest
from depth_scene import BENT, VGA, Scene, person

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.surface import Surface
from pose_ros.core.values import DepthImage

DEPTH = PinholeCamera(512, 424, 365.0, 365.0, 256.0, 208.0)
ASIDE = np.eye(4)
ASIDE[:3, :3] = [[0.9998477, 0, 0.0174524], [0, 1, 0], [-0.0174524, 0, 0.9998477]]  # 1 degree
ASIDE[:3, 3] = (0.06, 0.005, -0.004)
SLOPE = np.array([[-3.0, -3.0, 2.0], [6.0, 0.0, 1.5], [0.0, 6.0, 0.0]])  # z = 2 + (x + 3) / 4


def ask(surface: Surface, xy: np.ndarray) -> np.ndarray:
    return surface.along(xy, np.full(len(xy), 0.3), np.full(len(xy), 8.0))


def grid(camera: PinholeCamera, step: int = 41) -> np.ndarray:
    y, x = np.mgrid[40 : camera.height_px - 40 : step, 60 : camera.width_px - 60 : step]
    return np.column_stack([x.ravel(), y.ravel()]).astype(float)


def slope_truth(surface: Surface, xy: np.ndarray) -> np.ndarray:
    ray = surface.rays(xy)  # z = 2.75 + x / 4, x = ray_x z
    return 2.75 / (1.0 - ray[:, 0] / 4.0)


@pytest.mark.parametrize("camera", [VGA, BENT])
def test_registered_of_the_same_and_of_half_the_size(camera: PinholeCamera) -> None:
    scene = Scene([], wall_m=9.0, boards=[SLOPE])
    for own in (camera, camera.binned(2, 2)):
        surface = Surface(DepthImage(scene.render(own), 0, own), camera, 0.3, 8.0)
        xy = grid(camera)
        pixel = 0.25 * 4.0 / min(own.fx_px, own.fy_px)  # slope times a pixel at 4 m
        np.testing.assert_allclose(ask(surface, xy), slope_truth(surface, xy), atol=pixel)


@pytest.mark.parametrize("camera", [VGA, BENT])
def test_unregistered_slope_is_met_where_it_is(camera: PinholeCamera) -> None:
    scene = Scene([], wall_m=9.0, boards=[SLOPE])
    picture = scene.render(DEPTH, np.linalg.inv(ASIDE))
    surface = Surface(DepthImage(picture, 0, DEPTH, ASIDE), camera, 0.3, 8.0)
    xy = grid(camera)
    np.testing.assert_allclose(ask(surface, xy), slope_truth(surface, xy), atol=0.004)


def test_a_depth_camera_that_is_only_turned_is_read_along_its_own_axis() -> None:
    """Turned by 15 degrees about the same centre: depths differ by the cosine, up to 3 %."""
    scene = Scene([], wall_m=9.0, boards=[SLOPE])
    turned = np.eye(4)
    c, s = np.cos(np.radians(15)), np.sin(np.radians(15))
    turned[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    picture = scene.render(DEPTH, np.linalg.inv(turned))
    surface = Surface(DepthImage(picture, 0, DEPTH, turned), VGA, 0.3, 8.0)
    assert surface.registered
    xy = grid(VGA)
    got, wanted = ask(surface, xy), slope_truth(surface, xy)
    seen = np.isfinite(got)
    assert seen.mean() > 0.8
    np.testing.assert_allclose(got[seen], wanted[seen], atol=0.004)


def test_unregistered_people_look_as_registered_ones() -> None:
    scene = Scene([person(1.8)], wall_m=4.0)
    own = Surface(DepthImage(scene.render(VGA), 0, VGA), VGA, 0.3, 8.0)
    other = DepthImage(scene.render(DEPTH, np.linalg.inv(ASIDE)), 0, DEPTH, ASIDE)
    xy = grid(VGA, 7)
    a, b = ask(own, xy), ask(Surface(other, VGA, 0.3, 8.0), xy)
    both = np.isfinite(a) & np.isfinite(b)
    assert both.mean() > 0.9
    # A pixel of the other camera is 5 mm wide, and skin may be steep; outlines may differ.
    assert np.median(np.abs(a - b)[both]) < 0.003
    assert (np.abs(a - b)[both] < 0.03).mean() > 0.97


def test_behind_something_is_unknown_not_background() -> None:
    """The colour camera sees the wall beside a post that hides that wall from the depth camera."""
    post = np.array([[-0.1, -2.0, 1.0], [0.2, 0.0, 0.0], [0.0, 4.0, 0.0]])
    scene = Scene([], wall_m=4.0, boards=[post])
    far_aside = np.eye(4)
    far_aside[0, 3] = 0.3  # the depth camera is to the right: the post hides the wall to its left
    picture = scene.render(DEPTH, np.linalg.inv(far_aside))
    surface = Surface(DepthImage(picture, 0, DEPTH, far_aside), VGA, 0.3, 8.0)
    points = np.array([[0.0, 0, 1.0], [-0.8, 0, 4.0], [1.5, 0, 4.0], [-2.0, 0, 4.0]])
    z = ask(surface, VGA.project(points))
    np.testing.assert_allclose(z[[0, 2, 3]], [1.0, 4.0, 4.0], atol=1e-3)
    assert np.isnan(z[1])


def test_holes_range_and_the_edge_are_unknown() -> None:
    picture = np.full((480, 640), 2.0, np.float32)
    picture[100:200, 100:200] = np.nan
    picture[300:, :] = 9.0
    surface = Surface(DepthImage(picture, 0, VGA), VGA, 0.3, 8.0)
    xy = np.array([[150.0, 150], [400, 150], [400, 400], [-3, 150], [640.2, 150], [np.nan, 1]])
    np.testing.assert_array_equal(np.isfinite(ask(surface, xy)), [0, 1, 0, 0, 0, 0])
    moved = Surface(DepthImage(picture, 0, VGA, ASIDE), VGA, 0.3, 8.0)
    np.testing.assert_array_equal(np.isfinite(ask(moved, xy))[[0, 1, 3, 5]], [0, 1, 0, 0])


def test_nobody_asks() -> None:
    picture = np.full((480, 640), 2.0, np.float32)
    for pose in (None, ASIDE):
        surface = Surface(DepthImage(picture, 0, VGA, pose), VGA, 0.3, 8.0)
        assert ask(surface, np.zeros((0, 2))).shape == (0,)
