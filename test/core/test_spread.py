"""The default deviation of a joint's pixel."""

import numpy as np
import pytest

from pose_ros.core.spread import GUESS_SHARE, SPREAD_SHARE, map_std, pixel_std
from pose_ros.core.values import Poses2D


def one(score: float, std_px: float | None = None) -> Poses2D:
    xy = np.array([[[0.0, 0.0], [200.0, 400.0], [np.nan, np.nan]]], np.float32)
    spread = None if std_px is None else np.full((1, 3), std_px, np.float32)
    return Poses2D(np.array([1]), xy, np.full((1, 3), score, np.float32), spread)


def test_by_hand() -> None:
    # 200 x 400 px, 53 % of it filled: 206 px; 1.8 % of that is 3.7 px, over 0.5 ** 1.5 10.5 px.
    np.testing.assert_allclose(pixel_std(one(1.0)), [[3.706, 3.706, np.nan]], rtol=1e-3)
    np.testing.assert_allclose(pixel_std(one(0.5)), [[10.48, 10.48, np.nan]], rtol=1e-3)


def test_what_the_network_states_counts() -> None:
    np.testing.assert_allclose(pixel_std(one(0.5, 4.0)), [[4.0, 4.0, np.nan]])
    np.testing.assert_allclose(pixel_std(one(0.5, np.nan)), pixel_std(one(0.5)))


def test_nobody_nothing_and_one_joint() -> None:
    assert pixel_std(Poses2D.empty(17)).shape == (0, 17)
    poses = one(0.9)
    poses.xy_px[0, 1] = np.nan
    assert pixel_std(poses)[0, 0] == pytest.approx(1.0)
    poses.xy_px[:] = np.nan
    assert np.isnan(pixel_std(poses)).all()


def scaled(factor: float, degrees: float = 0.0) -> np.ndarray:
    """(1, 2, 3) affine that scales, turns and shifts."""
    c, s = factor * np.cos(np.radians(degrees)), factor * np.sin(np.radians(degrees))
    return np.array([[[c, -s, 50.0], [s, c, -20.0]]], np.float32)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 180.0])
def test_a_wide_map_counts_in_pixels_of_the_image(degrees: float) -> None:
    pitch, cells = np.array([4.0, 4.0]), np.full((1, 3), 2.0, np.float32)
    # 2 cells of 4 crop pixels of 3 image pixels each
    wide, guess = SPREAD_SHARE * 24.0, GUESS_SHARE * pixel_std(one(0.5))[0, 0]
    std = map_std(one(0.5), cells, pitch, scaled(3.0, degrees))
    np.testing.assert_allclose(std, [[np.hypot(wide, guess)] * 2 + [np.nan]], rtol=1e-4)
    far = map_std(one(0.5), cells * 100, pitch, scaled(3.0, degrees))
    assert far[0, 0] == pytest.approx(100 * wide, rel=1e-3)
    assert far.dtype == np.float32


def test_an_unknown_width_is_unknown_and_what_was_stated_is_not_used() -> None:
    pitch, cells = np.array([4.0, 4.0]), np.array([[np.nan, 1.0, 1.0]], np.float32)
    std = map_std(one(0.5), cells, pitch, scaled(1.0))
    assert np.isnan(std[0, [0, 2]]).all() and std[0, 1] > 0
    np.testing.assert_array_equal(map_std(one(0.5, 99.0), cells, pitch, scaled(1.0)), std)
    nobody = map_std(Poses2D.empty(17), np.zeros((0, 17), np.float32), pitch, scaled(1.0)[:0])
    assert nobody.shape == (0, 17)
