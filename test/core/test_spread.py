"""The default deviation of a joint's pixel."""

import numpy as np
import pytest

from pose_ros.core.spread import pixel_std
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
