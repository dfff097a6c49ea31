"""Heatmap decoding: exact Gaussians, offsets, priors and broken maps."""

import numpy as np
import pytest

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps


def gaussian(
    x: float, y: float, sigma: float = 2.0, size: tuple[int, int] = (64, 48)
) -> np.ndarray:
    rows, cols = np.mgrid[: size[0], : size[1]]
    return np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).astype(np.float32)


@pytest.mark.parametrize("centre", [(20.0, 30.0), (20.3, 30.4), (10.5, 50.49), (23.77, 12.12)])
def test_dark_finds_the_centre_of_a_gaussian(centre: tuple[float, float]) -> None:
    cell, score = decode(PoseMaps(gaussian(*centre)[None, None]))
    # A Gaussian smoothed by a Gaussian is one: its logarithm is a parabola, the step is exact.
    np.testing.assert_allclose(cell[0, 0], centre, atol=0.05)
    assert 0.9 < score[0, 0] <= 1.0


def test_dark_at_the_border_stays_within_one_cell() -> None:
    cell, _ = decode(PoseMaps(gaussian(0.0, 63.0)[None, None]))
    assert np.abs(cell[0, 0] - (0, 63)).max() <= 1.0


def test_offsets_are_read_at_the_peak_and_the_prior_chooses_it() -> None:
    maps = np.zeros((1, 1, 4, 5), np.float32)
    maps[0, 0, 1, 2], maps[0, 0, 3, 4] = 0.6, 0.9  # the stronger peak belongs to somebody else
    prior = np.ones_like(maps)
    prior[0, 0, 3, 4] = 0.1
    offsets = np.zeros((1, 1, 2, 4, 5), np.float32)
    offsets[0, 0, :, 1, 2] = 0.25, -0.5
    cell, score = decode(PoseMaps(maps, prior, offsets))
    np.testing.assert_allclose(cell, [[[2.25, 0.5]]])
    np.testing.assert_allclose(score, [[0.6]])
    cell, score = decode(PoseMaps(maps, None, offsets))
    np.testing.assert_allclose((*cell[0, 0], score[0, 0]), (4, 3, 0.9))


def test_a_map_without_a_peak_is_no_joint() -> None:
    maps = np.zeros((1, 3, 8, 8), np.float32)
    maps[0, 1] = np.nan
    maps[0, 2, 4, 4] = 1.0
    cell, score = decode(PoseMaps(maps))
    assert np.isnan(cell[0, :2]).all() and (score[0, :2] == 0).all()
    assert np.isfinite(cell[0, 2]).all() and score[0, 2] == 1


def test_nobody() -> None:
    cell, score = decode(PoseMaps(np.zeros((0, 17, 8, 8), np.float32)))
    assert cell.shape == (0, 17, 2) and score.shape == (0, 17)


def test_people_do_not_mix() -> None:
    maps = np.stack([[gaussian(10, 10), gaussian(30, 20)], [gaussian(5.5, 40), gaussian(40, 60)]])
    together, _ = decode(PoseMaps(maps))
    for row in range(2):
        np.testing.assert_array_equal(decode(PoseMaps(maps[row : row + 1]))[0][0], together[row])
    np.testing.assert_array_equal(decode(PoseMaps(maps[::-1].copy()))[0], together[::-1])
