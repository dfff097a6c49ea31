"""Surfaces in patches of depth, by hand: how many, where, how wide, and which is the body's."""

import numpy as np
import pytest
from depth_scene import Scene, person

from pose_ros.core.body import body_of
from pose_ros.core.patches import LARGEST, LEAST_SAMPLES, SMALLEST, anchored, layer_at, layers
from pose_ros.core.skeletons import COCO17

BAND = np.full((1, 1), 0.1)


def patch_of(*depths_m: float) -> np.ndarray:
    return np.array(depths_m, np.float64)[None, None]


def test_two_surfaces_their_middles_shares_and_widths() -> None:
    """Of 24 samples 6 lie at 1.00 to 1.05 m, 12 at 2 m, 6 are holes."""
    near = np.linspace(1.00, 1.05, 6)
    found = layers(patch_of(*near, *[2.0] * 12, *[np.nan] * 6), BAND)
    np.testing.assert_allclose(found.z_m[0, 0], [1.025, 2.0])
    np.testing.assert_allclose(found.share[0, 0], [6 / 24, 12 / 24])
    # the middle 68 % of 0 ... 5 steps of 1 cm: from step 0.8 to 4.2, to whole ones 1 to 4
    np.testing.assert_allclose(found.spread_m[0, 0], [0.015, 0.0], atol=1e-12)


def test_one_surface_is_both_layers_and_too_few_samples_are_none() -> None:
    one = layers(patch_of(*np.linspace(1.0, 1.02, 24)), BAND)
    np.testing.assert_allclose(one.z_m[0, 0], 1.01)
    few = layers(patch_of(*[1.0] * (LEAST_SAMPLES - 1), *[np.nan] * 20), BAND)
    assert np.isnan(few.z_m).all() and (few.share == 0).all()
    enough = layers(patch_of(*[1.0] * LEAST_SAMPLES, *[np.nan] * 20), BAND)
    np.testing.assert_allclose(enough.z_m[0, 0], 1.0)


def test_a_layer_ends_with_its_band() -> None:
    samples = patch_of(*np.linspace(1.0, 2.0, 101))
    middle, spread = layer_at(samples, np.array([[1.5]]), BAND)
    assert middle[0, 0] == pytest.approx(1.5) and spread[0, 0] == pytest.approx(0.07, abs=0.005)
    beside, _ = layer_at(samples, np.array([[2.2]]), BAND)
    assert np.isnan(beside[0, 0])


@pytest.mark.parametrize(
    ("size", "believed"),
    [(0.9 * SMALLEST, False), (1.1 * SMALLEST, True), (1.0, True), (1.25, True),
     (1.2 * LARGEST, False)],
)  # fmt: skip
def test_bodies_of_no_person_s_size_are_refused(size: float, believed: bool) -> None:
    """Somebody and the same pixels nearer or further: a picture of one, or the wall behind."""
    body, joints = body_of(COCO17), Scene([person(2.5)]).truth()
    ray = joints / joints[..., 2:]
    z = size * joints[..., 2]
    found = layers(np.repeat(z[..., None], 24, axis=2), np.full(z.shape, 0.1))
    kept = np.isfinite(anchored(body, ray, z, found))
    assert kept.all() if believed else not kept.any()


def test_a_forearm_that_is_torn_off_loses_its_hand_only() -> None:
    body, joints = body_of(COCO17), Scene([person(2.5)]).truth()
    ray, z = joints / joints[..., 2:], joints[..., 2].copy()
    wrist = COCO17.index("left_wrist")
    for ahead, kept in ((0.2, True), (0.5, False)):
        z[0, wrist] = joints[0, wrist, 2] - ahead
        found = layers(np.repeat(z[..., None], 24, axis=2), np.full(z.shape, 0.1))
        left = np.isfinite(anchored(body, ray, z, found))
        assert left[0, wrist] == kept and np.delete(left[0], wrist).all()
