"""Disturbances of streams: repeatable, new in every frame, and as strong as they say."""

from __future__ import annotations

import numpy as np
import pytest

from pose_ros.errors import ConfigError
from pose_ros.training.stream_corruption import KINDS, disturbance


def crop() -> np.ndarray:
    """A person-like texture with edges, 64 x 48."""
    y, x = np.mgrid[0:64, 0:48]
    still = 128 + 60 * np.sin(x / 5) + 50 * (y % 16 < 8)
    return np.stack([still, still[::-1], still * 0.7], axis=2).clip(0, 255).astype(np.uint8)


def stream(kind: str, severity: float, frames: int, seed: int = 3) -> np.ndarray:
    disturb = disturbance(kind, severity, [seed])
    return np.stack([disturb(crop()) for _ in range(frames)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_repeatable_and_leaves_its_input(kind: str) -> None:
    before = crop()
    kept = before.copy()
    after = disturbance(kind, 0.7, [3])(before)
    assert (after.shape, after.dtype) == (before.shape, np.uint8)
    np.testing.assert_array_equal(before, kept)
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(stream(kind, 0.7, 3), stream(kind, 0.7, 3))


@pytest.mark.parametrize("kind", ["motion", "occlusion", "lowlight"])
def test_a_stream_changes_from_frame_to_frame_and_with_the_seed(kind: str) -> None:
    found = stream(kind, 0.7, 4)
    assert not np.array_equal(found[0], found[3])
    assert not np.array_equal(found, stream(kind, 0.7, 4, seed=4))


@pytest.mark.parametrize("kind", ["motion", "lowlight", "defocus", "jpeg"])
def test_more_severe_is_further_from_the_truth(kind: str) -> None:
    far = [np.abs(stream(kind, s, 8).astype(float) - crop()).mean() for s in (0.2, 0.6, 1.0)]
    assert far[0] < far[1] < far[2]


def test_half_an_occlusion_hides_thirty_percent() -> None:
    """Less where the object is round or partly outside; never more."""
    changed = (stream("occlusion", 0.5, 400) != crop()).any(-1).mean((1, 2))
    assert changed.max() <= 0.32
    assert 0.18 <= changed.mean() <= 0.30


def test_a_smear_keeps_the_light() -> None:
    flat = np.full((64, 48, 3), 100, np.uint8)
    found = disturbance("motion", 1.0, [1])(flat)
    assert np.abs(found.astype(int) - 100).max() <= 1


def test_clean_and_refusals() -> None:
    np.testing.assert_array_equal(disturbance("clean", 0.0, [1])(crop()), crop())
    with pytest.raises(ConfigError, match="'fog' is not known; known: clean, motion"):
        disturbance("fog", 0.5, [1])
    with pytest.raises(ConfigError, match=r"severity of 0 \.\.\. 1, got 1\.5"):
        disturbance("motion", 1.5, [1])
