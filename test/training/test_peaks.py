"""Heatmaps to joints as the papers' code does it: quarter steps, raw peaks, the flip test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.training.peaks import joints_of, with_mirrored
from pose_ros.training.predict import Predictor, open_network
from pose_ros.training.targets import gaussians

SIZE = (64, 48)


def maps_of(xy: list[tuple[float, float]], peak: float = 1.0) -> PoseMaps:
    cells = torch.tensor(xy, dtype=torch.float32)[None]
    return PoseMaps(peak * gaussians(cells, SIZE, 2.0).numpy())


def test_a_quarter_of_a_cell_goes_to_the_higher_neighbour() -> None:
    maps = maps_of([(20.3, 30.6), (20.0, 30.0), (10.9, 12.1)])
    cells, _ = joints_of(maps, "quarter")
    np.testing.assert_allclose(cells[0], [(20.25, 30.75), (20, 30), (10.75, 12.25)])
    whole, _ = joints_of(maps, "none")
    np.testing.assert_array_equal(whole[0], [(20, 31), (20, 30), (11, 12)])
    dark, _ = joints_of(maps, "dark")
    np.testing.assert_allclose(dark[0], [(20.3, 30.6), (20.0, 30.0), (10.9, 12.1)], atol=0.02)


def test_quarters_are_within_a_quarter_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform((3, 3), (SIZE[1] - 4, SIZE[0] - 4), (200, 2))
    cells, _ = joints_of(maps_of([tuple(row) for row in truth]), "quarter")
    assert np.abs(cells[0] - truth).max() < 0.2501


def test_the_outermost_cells_are_not_moved() -> None:
    maps = maps_of([(0.3, 20.3), (1.2, 20.2), (46.8, 20.2), (20.2, 62.7), (20.2, 1.2), (2.3, 2.3)])
    cells, _ = joints_of(maps, "quarter")
    np.testing.assert_allclose(
        cells[0], [(0, 20), (1, 20), (47, 20), (20, 63), (20, 1), (2.25, 2.25)]
    )


def test_scores_are_the_peaks_as_they_are_and_nothing_is_nothing() -> None:
    for name in ("dark", "quarter", "none"):
        _, score = joints_of(maps_of([(20, 30)], 1.3), name)
        assert score[0, 0] == pytest.approx(1.3)
        cells, score = joints_of(maps_of([(20, 30)], -1.0), name)
        assert np.isnan(cells).all() and score[0, 0] == 0.0
        cells, score = joints_of(PoseMaps(np.zeros((0, 3, 8, 8), np.float32)), name)
        assert cells.shape == (0, 3, 2) and score.shape == (0, 3)


def test_what_a_network_does_not_say_is_refused() -> None:
    maps = maps_of([(20, 30)])
    with pytest.raises(ConfigError, match="expected dark, quarter, none"):
        joints_of(maps, "nearest")
    offsets = PoseMaps(maps.heatmaps, None, np.zeros((1, 1, 2, *SIZE), np.float32))
    assert joints_of(offsets)[0].shape == (1, 1, 2)
    with pytest.raises(ConfigError, match="says itself"):
        joints_of(offsets, "quarter")
    with pytest.raises(ConfigError, match="for a flip test"):
        Predictor(open_network("movenet_lightning"), flip=True)


def test_mirrored_maps_meet_where_the_joint_is() -> None:
    """Cell c of the picture is w - c of its mirror image: a symmetric network changes nothing."""
    xy = torch.from_numpy(np.random.default_rng(1).uniform(6, 40, (1, 17, 2)).astype(np.float32))
    maps = gaussians(xy, SIZE, 2.0)
    order = torch.from_numpy(COCO17.flip_order())
    mirrored_xy = xy[:, order].clone()
    mirrored_xy[..., 0] = SIZE[1] - mirrored_xy[..., 0]
    mean = with_mirrored(maps, gaussians(mirrored_xy, SIZE, 2.0), order)
    torch.testing.assert_close(mean, maps, atol=2e-4, rtol=0)
    assert (mean - maps.flip(-1)).abs().max() > 0.5
