"""Corruptions: what they do, that they are repeatable, and that they grow with the severity."""

from __future__ import annotations

import numpy as np
import pytest

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training.corruption import (
    DROP_JOINTS,
    KINDS,
    CorruptionSpec,
    corrupt,
    drop_joints,
)


def clip(frames: int = 4) -> np.ndarray:
    """Smooth texture with edges that moves 2 px per frame."""
    y, x = np.mgrid[0:64, 0:48]
    still = 128 + 60 * np.sin(x / 5) + 50 * (y % 16 < 8)
    rgb = np.stack([still, still[::-1], still * 0.7], axis=2).clip(0, 255).astype(np.uint8)
    return np.stack([np.roll(rgb, 2 * t, axis=1) for t in range(frames)])


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def change(kind: str, severity: float) -> float:
    before = clip()
    return float(np.abs(corrupt(before, kind, severity, rng()).astype(float) - before).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str) -> None:
    before = clip()
    kept = before.copy()
    after = corrupt(before, kind, 0.7, rng())
    assert (after.shape, after.dtype) == (before.shape, np.uint8)
    np.testing.assert_array_equal(before, kept)  # the clip that came in is untouched
    np.testing.assert_array_equal(after, corrupt(before, kind, 0.7, rng()))
    np.testing.assert_array_equal(corrupt(before, kind, 0.0, rng()), before)
    assert change(kind, 1.0) > change(kind, 0.3) > 0.0
    assert corrupt(before[:0], kind, 0.5, rng()).shape == before[:0].shape
    corrupt(before[:1, :3, :3], kind, 1.0, rng())  # a crop of a few pixels


def test_blur_takes_edges_and_keeps_the_mean() -> None:
    for kind in ("blur", "motion", "lowres"):
        before, after = clip().astype(float), corrupt(clip(), kind, 1.0, rng()).astype(float)
        assert after.mean() == pytest.approx(before.mean(), rel=0.03)
        rough = np.abs(np.diff(before, axis=2)).mean() + np.abs(np.diff(before, axis=1)).mean()
        smooth = np.abs(np.diff(after, axis=2)).mean() + np.abs(np.diff(after, axis=1)).mean()
        assert smooth < 0.9 * rough


def test_noise_has_the_stated_spread() -> None:
    grey = np.full((2, 64, 48, 3), 128, np.uint8)
    assert corrupt(grey, "noise", 0.5, rng()).std() == pytest.approx(30.0, rel=0.05)


def test_low_light_is_dark_and_noisy() -> None:
    grey = np.full((2, 64, 48, 3), 200, np.uint8)
    after = corrupt(grey, "lowlight", 1.0, rng())
    assert after.mean() == pytest.approx(200 * 0.04, rel=0.2)
    assert after.std() / after.mean() > 0.3


def test_an_occluder_stays_where_it_is() -> None:
    before = clip()
    hidden = (corrupt(before, "occlusion", 0.5, rng()) != before).any(axis=3)
    covered = hidden.any(axis=0)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    box = covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert box.mean() > 0.97  # one rectangle
    assert 0.1 < box.size / covered.size < 0.3  # about 0.5 x 0.4 of the crop
    patch = corrupt(before, "occlusion", 0.5, rng())[:, rows[0], columns[0]]
    assert (patch == patch[0]).all()


def test_a_lost_frame_repeats_the_last_one_that_came() -> None:
    before = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    seen = corrupt(before, "dropframes", 0.5, rng())[:, 0, 0, 0]
    assert seen[0] == 0
    assert (np.diff(seen.astype(int)) >= 0).all()
    assert (seen <= np.arange(8)).all()
    assert len(set(seen.tolist())) < 8
    assert set(corrupt(before, "dropframes", 1.0, rng())[:, 0, 0, 0].tolist()) == {0}


def test_dropped_joints_are_unknown() -> None:
    xy, score = np.ones((50, 17, 2), np.float32), np.ones((50, 17), np.float32)
    lost_xy, lost_score = drop_joints(xy, score, 0.3, rng())
    lost = np.isnan(lost_xy).all(axis=2)
    assert lost.mean() == pytest.approx(0.3, abs=0.05)
    np.testing.assert_array_equal(lost_score == 0, lost)


def test_specifications() -> None:
    assert CorruptionSpec.parse("blur:0.25") == CorruptionSpec("blur", 0.25)
    assert CorruptionSpec.parse("occl") == CorruptionSpec("occlusion", 0.5)
    assert CorruptionSpec.parse("dropkp:1").kind == DROP_JOINTS
    with pytest.raises(ConfigError, match="corruption 'fog' is not known; known: blur"):
        CorruptionSpec.parse("fog")
    with pytest.raises(ConfigError, match="expected a number, got 'much'"):
        CorruptionSpec.parse("blur:much")
    with pytest.raises(ConfigError, match=r"a severity of 0 \.\.\. 1, got 2"):
        CorruptionSpec.parse("blur:2")


def test_bad_clips() -> None:
    with pytest.raises(ConfigError, match="not known"):
        corrupt(clip(), "fog", 0.5, rng())
    with pytest.raises(ConfigError, match="severity"):
        corrupt(clip(), "blur", -0.1, rng())
    with pytest.raises(ShapeError, match="clip"):
        corrupt(clip()[0], "blur", 0.5, rng())
