"""Heatmap decoding: exact Gaussians, offsets, priors and broken maps."""

import cv2
import numpy as np
import pytest

from pose_ros.core import heatmaps
from pose_ros.core.heatmaps import dark_sigma, decode, spread
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


def test_dark_smooths_large_maps_as_their_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """17 cells at 96 x 72, 11 at 64 x 48: models.md 0.4. MoveNet's small maps keep theirs."""
    sizes = {(64, 48): 11, (56, 40): 11, (96, 72): 17}
    assert {size: 2 * int(2.5 * dark_sigma(size) + 0.5) + 1 for size in sizes} == sizes
    assert [dark_sigma(size) for size in sizes] == [2.0, 2.0, 3.0]
    rng = np.random.default_rng(0)
    centres = rng.uniform((12, 12), (60, 84), (30, 2))
    maps = np.stack([gaussian(float(x), float(y), 3.0, (96, 72)) for x, y in centres])[:, None]
    cell, _ = decode(PoseMaps(maps))
    assert np.abs(cell[:, 0] - centres).max() < 0.05
    noisy = maps + 0.1 * rng.random(maps.shape, np.float32)

    def error() -> float:
        return float(np.linalg.norm(decode(PoseMaps(noisy))[0][:, 0] - centres, axis=1).mean())

    wide = error()
    monkeypatch.setattr(heatmaps, "DARK_SIDE_CELLS", 96)
    assert dark_sigma((96, 72)) == 2.0 and wide < error()


def test_dark_in_a_corner_stays_in_its_cell() -> None:
    cell, _ = decode(PoseMaps(gaussian(0.0, 63.0)[None, None]))
    np.testing.assert_array_equal(cell[0, 0], (0, 63))


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_dark_near_a_border_is_right_along_it_and_half_a_cell_across(side: str) -> None:
    distance = np.arange(-0.4, 9.0, 0.1)
    lengthwise = 20.3
    across = distance if side in ("left", "top") else {"right": 47, "bottom": 63}[side] - distance
    upright = side in ("left", "right")
    maps = [gaussian(a, lengthwise) if upright else gaussian(lengthwise, a) for a in across]
    cell, _ = decode(PoseMaps(np.stack(maps)[:, None]))
    error = np.abs(cell[:, 0, 0 if upright else 1] - across)
    # a cell without two neighbours on either side stays whole: half a cell at most
    assert error[distance < 1.5].max() <= 0.5 + 1e-5
    assert error[distance >= 1.5].max() < 0.4  # mirrored at the border it was 1.0 at 2 cells
    assert error[distance >= 3.0].max() < 0.06
    assert error[distance >= 5.5].max() < 1e-3
    np.testing.assert_allclose(cell[:, 0, 1 if upright else 0], lengthwise, atol=0.01)


def dark_of_its_authors(heatmap: np.ndarray) -> np.ndarray:
    """(2,) x, y by the steps of DARK's released code: zeros outside, no step near a border."""
    height, width = heatmap.shape
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    blurred = cv2.GaussianBlur(np.pad(heatmap, 5), (11, 11), 0)[5:-5, 5:-5]
    at = np.log(np.maximum(blurred, 1e-10))
    if not (1 < column < width - 2 and 1 < row < height - 2):
        return np.array([column, row], np.float64)
    x = at[row, column - 2 : column + 3].astype(np.float64)
    y = at[row - 2 : row + 3, column].astype(np.float64)
    square = at[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64)
    mixed = (square[0, 0] + square[2, 2] - square[0, 2] - square[2, 0]) / 4
    hessian = np.array(
        [[(x[0] - 2 * x[2] + x[4]) / 4, mixed], [mixed, (y[0] - 2 * y[2] + y[4]) / 4]]
    )
    gradient = np.array([x[3] - x[1], y[3] - y[1]]) / 2
    return np.array([column, row]) - np.linalg.solve(hessian, gradient)


def test_dark_is_that_of_its_authors() -> None:
    rng = np.random.default_rng(0)
    for x, y in rng.uniform((1.6, 1.6), (45.4, 61.4), (40, 2)):
        heatmap = gaussian(float(x), float(y)) + 0.3 * gaussian(float(x) + 3, float(y) - 4)
        cell, _ = decode(PoseMaps(heatmap[None, None]))
        # they cut their kernel a little differently (OpenCV derives another spread from 11 cells)
        np.testing.assert_allclose(cell[0, 0], dark_of_its_authors(heatmap), atol=0.05)


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


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("height", [1.0, 0.03])
def test_the_spread_of_a_gaussian_is_its_own(sigma: float, height: float) -> None:
    centres = [(20.0, 30.0), (23.4, 30.7)]
    maps = np.stack([height * gaussian(*centre, sigma) for centre in centres])[:, None]
    np.testing.assert_allclose(spread(PoseMaps(maps)), [[sigma], [sigma]], rtol=0.01)


def test_a_second_peak_spreads_unless_the_prior_gives_it_to_somebody_else() -> None:
    here, there = gaussian(12, 40), gaussian(36, 8)  # 20 cells from their middle
    prior = np.where(here > there, 1.0, 0.05)[None, None].astype(np.float32)
    both = (here + there)[None, None]
    np.testing.assert_allclose(spread(PoseMaps(both)), [[np.hypot(20, 2)]], rtol=0.01)
    # 0.05^2 of the weight is 40 cells away
    np.testing.assert_allclose(
        spread(PoseMaps(both, prior)), [[np.hypot(0.05 * 40, 2)]], rtol=0.01
    )
    weaker = (here + 0.3 * there)[None, None]
    assert 2.0 < spread(PoseMaps(weaker))[0, 0] < spread(PoseMaps(both))[0, 0]


def test_the_spread_of_a_broken_map_is_unknown() -> None:
    maps = np.zeros((1, 4, 8, 8), np.float32)
    maps[0, 1, 2, 3], maps[0, 1, 4, 4] = np.nan, 1.0
    maps[0, 2] = -1.0
    maps[0, 3, 4, 4] = 1.0
    np.testing.assert_array_equal(spread(PoseMaps(maps)), [[np.nan, np.nan, np.nan, 0.0]])
    assert spread(PoseMaps(maps[:0])).shape == (0, 4)


def test_the_spread_of_people_does_not_mix() -> None:
    maps = np.stack([[gaussian(10, 10), gaussian(30, 20, 3.0)], [gaussian(5, 40), gaussian(9, 9)]])
    together = spread(PoseMaps(maps))
    for row in range(2):
        np.testing.assert_allclose(spread(PoseMaps(maps[row : row + 1]))[0], together[row], 1e-5)
