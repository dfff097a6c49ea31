"""Bone lengths: learned under noise, kept while hidden, with human proportions at the start."""

import numpy as np
import pytest
from swinging import lengths_of, walker

from pose_ros.core.anthropometry import RATIO_OF_STATURE
from pose_ros.core.bones import BoneConfig, BoneLengths
from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, ShapeError

AT = COCO17.index
FOREARM = COCO17.edges.index(("left_elbow", "left_wrist"))
FOREARM_R = COCO17.edges.index(("right_elbow", "right_wrist"))
THIGH = COCO17.edges.index(("left_hip", "left_knee"))
BODY = [i for i, e in enumerate(COCO17.edges) if "eye" not in e[1]][2:]
ANYWHERE = np.zeros(3)


def feed(bones, truth, ids=(3,), noise=0.02, outliers=0.05, seed=0, hide=(), std=True):
    rng = np.random.default_rng(seed)
    for frame in truth:
        points = frame + noise * rng.standard_normal((len(ids), 17, 3))
        wrong = rng.random((len(ids), 17)) < outliers
        points[wrong] += 0.3 * rng.standard_normal(points[wrong].shape)
        points[:, list(hide)] = np.nan
        score = np.full((len(ids), 17), 0.8, np.float32)
        bones.update(
            np.array(ids), points.astype(np.float32), score,
            np.full((len(ids), 17), noise, np.float32) if std else None, view_axis=ANYWHERE,
        )  # fmt: skip


def test_lengths_are_learned_under_noise_and_outliers():
    truth, _ = walker(400)
    bones = BoneLengths(COCO17, 3)
    feed(bones, truth)
    got, wanted = bones.lengths(np.array([3]))[0], lengths_of(truth)
    np.testing.assert_allclose(got[4:], wanted[4:], rtol=0.05)  # 10 % prior, 90 % measured
    assert (bones.weights(np.array([3])) > 0.9).all()


def test_noise_makes_bones_look_longer_and_that_is_taken_off():
    truth, _ = walker(400)
    hips = COCO17.edges.index(("left_hip", "right_hip"))
    error = {}
    for std in (True, False):
        bones = BoneLengths(COCO17, 3, BoneConfig(prior_samples=1))
        feed(bones, truth, outliers=0.0, noise=0.03, std=std)
        error[std] = bones.lengths(np.array([3]))[0, hips] - 0.18
    noise = 0.03 * np.sqrt(2) * np.random.default_rng(1).standard_normal((100_000, 3))
    bias = (
        np.median(np.linalg.norm(noise + np.array([0.18, 0.0, 0.0]), axis=-1)) - 0.18
    )  # about 1 cm
    assert error[False] == pytest.approx(bias, abs=0.004)
    assert abs(error[True]) < 0.4 * error[False]


def test_mirrored_bones_are_one():
    truth, _ = walker(60)
    bones = BoneLengths(COCO17, 3)
    feed(bones, truth, hide=[AT("right_wrist")])
    got = bones.lengths(np.array([3]))[0]
    assert got[FOREARM] == got[FOREARM_R]
    assert got[FOREARM] == pytest.approx(0.25, rel=0.05)


def test_a_hidden_bone_keeps_its_length_and_so_does_a_person_who_leaves():
    truth, _ = walker(120)
    bones = BoneLengths(COCO17, 3)
    feed(bones, truth[:60])
    forearm = bones.lengths(np.array([3]))[0, FOREARM]
    feed(bones, truth[60:], hide=[AT("left_wrist"), AT("right_wrist")])
    # only the stature behind the prior, half of it at most, may still have moved a little
    assert bones.lengths(np.array([3]))[0, FOREARM] == pytest.approx(forearm, rel=0.01)
    held = bones.lengths(np.array([3]))
    feed(bones, truth[:30], ids=(8,))
    np.testing.assert_array_equal(bones.lengths(np.array([3])), held)
    bones.forget(np.array([3]))
    assert bones.lengths(np.array([3]))[0, THIGH] == pytest.approx(0.245 * 1.7)


def test_the_unknown_have_average_proportions_and_little_weight():
    bones = BoneLengths(COCO17, 3)
    got = bones.lengths(np.array([1, 2]))
    assert got.shape == (2, 16)
    assert got[0, THIGH] == pytest.approx(1.70 * RATIO_OF_STATURE[frozenset({"hip", "knee"})])
    np.testing.assert_allclose(bones.weights(np.array([1])), 0.1)


def test_one_seen_bone_tells_the_others_of_the_stature():
    truth, _ = walker(40)
    child = 0.6 * truth
    bones = BoneLengths(COCO17, 3)
    feed(bones, child, noise=0.002, outliers=0.0, hide=[AT("left_wrist"), AT("right_wrist")])
    stature = 0.6 * np.median([0.31 / 0.186, 0.42 / 0.245, 0.42 / 0.246, 0.36 / 0.21])
    assert bones.stature_m(np.array([3]))[0] == pytest.approx(stature, rel=0.08)
    assert bones.lengths(np.array([3]))[0, FOREARM] == pytest.approx(0.146 * stature, rel=0.08)


def test_bones_along_the_ray_unsure_and_inhuman_ones_do_not_count():
    bones = BoneLengths(COCO17, 3)
    ids, score = np.array([1]), np.full((1, 17), 0.9, np.float32)
    points = np.full((1, 17, 3), np.nan, np.float32)
    points[0, AT("left_elbow")], points[0, AT("left_wrist")] = [0, 0, 3], [0.05, 0, 3.25]
    points[0, AT("left_hip")], points[0, AT("left_knee")] = [0, 0, 3], [0, 1.5, 3]
    points[0, AT("right_hip")], points[0, AT("right_knee")] = [0, 0, 3], [0, 0.42, 3]
    score[0, AT("right_knee")] = 0.4
    for _ in range(20):
        bones.update(ids, points, score)
    # along the ray; 1.5 m long; unsure; and the hips coincide: nothing was accepted
    np.testing.assert_allclose(bones.weights(ids), 0.1)


def test_two_dimensions_give_upper_bounds_in_pixels():
    truth, _ = walker(200)
    bones = BoneLengths(COCO17, 2)
    ids, score = np.array([1]), np.full((1, 17), 0.9, np.float32)
    seen = []
    for number, frame in enumerate(truth):
        height = np.float32(200 + 100 * (number / 200))  # comes closer
        flat = (height * frame[None, :, :2] / 1.6).astype(np.float32)
        bones.update(ids, flat, score, person_px=height[None])
        a, b = COCO17.edge_indices().T
        seen.append(np.linalg.norm(flat[0, a] - flat[0, b], axis=-1) / height)
    bound = bones.lengths(ids, np.array([300.0], np.float32))[0] / 300
    largest = np.percentile(seen, 95, axis=0)
    np.testing.assert_allclose(bound[THIGH], largest[THIGH] * 1.05, rtol=0.05)
    assert (np.array(seen)[:, BODY] <= bound[BODY] + 1e-6).mean() > 0.9
    with pytest.raises(ConfigError, match="person_px"):
        bones.lengths(ids)
    with pytest.raises(ConfigError, match="person_px"):
        bones.update(ids, flat, score)


def test_bones_learned_wrong_are_learned_anew():
    """1.5 s of metres 25 % too long, then right: what was learned is given up within 1.5 s."""
    truth, _ = walker(240)
    bones, ids, wanted = BoneLengths(COCO17, 3), np.array([3]), lengths_of(truth)[4:]
    feed(bones, 1.25 * truth[:45], noise=0.01)
    np.testing.assert_allclose(bones.lengths(ids)[0, 4:], 1.25 * wanted, rtol=0.12)
    feed(bones, truth[45:90], noise=0.01)
    np.testing.assert_allclose(bones.lengths(ids)[0, 4:], wanted, rtol=0.05, atol=0.02)
    feed(bones, 1.3 * truth[90:150], noise=0.01)  # another, taller person under this id
    np.testing.assert_allclose(bones.lengths(ids)[0, 4:], 1.3 * wanted, rtol=0.05, atol=0.02)


def test_wild_samples_and_a_wrong_side_do_not_make_it_forget():
    truth, _ = walker(200)
    bones, ids = BoneLengths(COCO17, 3), np.array([3])
    feed(bones, truth[:100])
    weight, held = bones.weights(ids)[0, FOREARM], bones.lengths(ids)[0, FOREARM]
    feed(bones, truth[100:], outliers=0.2, seed=1)
    assert bones.weights(ids)[0, FOREARM] > weight
    crooked = truth[:60].copy()
    crooked[:, AT("left_wrist")] += 0.15 * np.array([0.0, 1.0, 0.0])  # the right one is fine
    feed(bones, crooked, seed=2)
    assert bones.weights(ids)[0, FOREARM] > weight
    assert bones.lengths(ids)[0, FOREARM] == pytest.approx(held, rel=0.03)


def test_lengths_can_be_rescaled():
    truth, _ = walker(60)
    bones, ids = BoneLengths(COCO17, 3), np.array([3])
    feed(bones, truth)
    before, weight = bones.lengths(ids), bones.weights(ids)
    bones.rescale(np.array([3, 77]), 0.8)
    np.testing.assert_allclose(bones.lengths(ids), 0.8 * before, rtol=1e-5)
    feed(bones, 0.8 * truth[:30], noise=0.016)  # and the new metres fit what was rescaled
    np.testing.assert_allclose(bones.lengths(ids)[0, 4:], 0.8 * before[0, 4:], rtol=0.03)
    assert (bones.weights(ids) >= weight).all()


def test_nobody_and_bad_input():
    bones = BoneLengths(COCO17, 3)
    none = np.zeros((0, 17, 3), np.float32)
    bones.update(np.zeros(0, np.int64), none, none[..., 0])
    assert bones.lengths(np.zeros(0, np.int64)).shape == (0, 16)
    with pytest.raises(ShapeError, match=r"BoneLengths\.points"):
        bones.update(np.array([1]), none, none[..., 0])
    bones.reset()
    assert bones.stature_m(np.array([1]))[0] == pytest.approx(1.70)
