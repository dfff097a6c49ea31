"""Domain penalties: values by hand, gradients against finite differences, guards, swaps."""

import dataclasses

import numpy as np
import pytest
from swinging import lengths_of, walker

from pose_ros.core.anthropometry import anatomy_of
from pose_ros.core.penalties import (
    BonePenalties,
    Context,
    ground_penalty,
    joint_curvature,
    lateral_axis,
    speed_penalty,
    swap_limbs,
)
from pose_ros.core.skeletons import COCO17, POSETRACK15

ANATOMY = anatomy_of(COCO17)
AT = COCO17.index


def body():
    """(1, 1, 17, 3) a walker in mid-stride."""
    return walker(8)[0][None, 5:6].copy()


def context(points, **changes):
    lengths = lengths_of(walker(60)[0])[None, None]
    sure = np.ones(points.shape[:3])
    made = Context(ANATOMY, lengths, sure, None, lateral=lateral_axis(points, sure, ANATOMY))
    return dataclasses.replace(made, **changes)


def hinge_terms(points, ctx):
    bones = ANATOMY.incidence @ points
    length = np.linalg.norm(bones, axis=-1)
    terms = BonePenalties(ctx, points)
    return terms.values(bones, length).sum(), terms, bones, length


def total_and_gradient(points, ctx):
    value, terms, bones, length = hinge_terms(points, ctx)
    gradient = np.zeros_like(bones)
    per_bone, _ = terms.gradient(bones, length)
    if per_bone is not None:
        gradient = gradient + per_bone
    if terms.symmetric:
        gradient = gradient + (terms.symmetry_pull(length) / length)[..., None] * bones
    return value, ANATOMY.incidence.T @ gradient


def numeric(value, points, step=1e-6):
    gradient = np.zeros_like(points)
    for index in np.ndindex(points.shape):
        ahead, behind = points.copy(), points.copy()
        ahead[index] += step
        behind[index] -= step
        gradient[index] = (value(ahead) - value(behind)) / (2 * step)
    return gradient


def folded():
    """A body whose left elbow is folded to 10 degrees and whose right knee bends forwards."""
    points = body()
    shoulder, elbow = points[0, 0, AT("left_shoulder")], points[0, 0, AT("left_elbow")]
    up = (shoulder - elbow) / np.linalg.norm(shoulder - elbow)
    angle = np.radians(10.0)
    points[0, 0, AT("left_wrist")] = elbow + 0.25 * (
        np.cos(angle) * up + np.sin(angle) * np.cross([0.0, 0.0, 1.0], up)
    )
    knee = points[0, 0, AT("right_knee")]
    points[0, 0, AT("right_ankle")] = knee + 0.42 * np.array([np.sin(1.0), np.cos(1.0), 0.05])
    return points


def test_a_walker_violates_nothing():
    points = walker(60)[0][None]
    only = context(points, symmetry=False)
    value, *_ = hinge_terms(points, only)
    assert value == 0.0


def test_an_elbow_folded_to_ten_degrees_costs_what_the_formula_says():
    points = folded()
    value, *_ = hinge_terms(points, context(points, symmetry=False, bend=False, lateral=None))
    # 1/2 ell^2 (cos 10 - cos 25)^2 with ell the forearm, 0.25 m
    assert value == pytest.approx(
        0.5 * 0.25**2 * (np.cos(np.pi / 18) - np.cos(np.radians(25))) ** 2
    )


def test_a_knee_that_bends_forwards_costs_and_backwards_does_not():
    points = folded()
    ctx = context(points, symmetry=False, angles=False)
    _, terms, bones, length = hinge_terms(points, ctx)
    _, active = terms.gradient(bones, length)
    knee = list(ANATOMY.hinge_joint).index(AT("right_knee"))
    assert active[0, 0, knee]
    assert not active[0, 0, list(ANATOMY.hinge_joint).index(AT("left_knee"))]


@pytest.mark.parametrize("kinds", [{}, {"bend": False, "lateral": None}, {"angles": False}])
def test_gradients_are_those_of_the_values(kinds):
    points = folded()
    ctx = context(points, **kinds)
    value, gradient = total_and_gradient(points, ctx)
    assert value > 0
    wanted = numeric(lambda p: hinge_terms(p, ctx)[0], points)
    np.testing.assert_allclose(gradient, wanted, atol=2e-8)


def test_the_gradient_stays_bounded_and_dead_bones_have_no_direction():
    points = folded()
    elbow, wrist = AT("left_elbow"), AT("left_wrist")
    ctx = context(points, symmetry=False, bend=False, lateral=None)
    away = points[0, 0, wrist] - points[0, 0, elbow]
    points[0, 0, wrist] = points[0, 0, elbow] + 0.29 * away  # shorter than 0.3 of the model
    value, gradient = total_and_gradient(points, ctx)
    assert value == 0.0 and not gradient.any()


def test_symmetry_by_hand():
    points = body()
    ctx = context(points, angles=False, bend=False, lateral=None)
    before, _ = total_and_gradient(points, ctx)
    arm = points[0, 0, AT("left_wrist")] - points[0, 0, AT("left_elbow")]
    points[0, 0, AT("left_wrist")] += (
        0.03 * arm / np.linalg.norm(arm)
    )  # the forearm is 3 cm longer
    after, _ = total_and_gradient(points, ctx)
    assert before == pytest.approx(0.0, abs=1e-12)
    assert after == pytest.approx(0.5 * 0.03**2, rel=1e-6)


def test_no_lateral_axis_without_sure_hips():
    points, sure = body(), np.ones((1, 1, 17))
    np.testing.assert_allclose(lateral_axis(points, sure, ANATOMY)[0, 0], [0, 0, 1], atol=1e-9)
    sure[..., AT("left_hip")] = 0.4
    assert not lateral_axis(points, sure, ANATOMY).any()
    assert lateral_axis(points[..., :2], sure, ANATOMY) is None


@pytest.mark.parametrize("fixed", [False, True])
def test_speed_gradient(fixed):
    points = walker(4, speed=3.0)[0][None]
    points[0, 2, AT("nose")] += [0.4, 0.0, 0.1]
    budget = np.full((1, 4 if fixed else 3, 17), 0.12)
    previous = points[:, 0] - [0.3, 0.0, 0.0] if fixed else None
    ctx = context(points, speed_budget=budget, previous=previous)
    value, gradient = speed_penalty(points, ctx)
    assert value[0] > 0.01
    wanted = numeric(lambda p: speed_penalty(p, ctx)[0].sum(), points)
    np.testing.assert_allclose(gradient, wanted, atol=1e-8)


def test_the_ground_holds_ankles_only():
    points = body()
    floor = points[..., 1].max() - 0.05  # y points down: 5 cm of the lowest ankle are below it
    ctx = context(points, ground=np.array([0.0, -1.0, 0.0, floor]))
    value, gradient = ground_penalty(points, ctx)
    assert value[0] == pytest.approx(0.5 * 0.05**2)
    assert (gradient[..., 1] > 0).sum() == 1
    wanted = numeric(lambda p: ground_penalty(p, ctx)[0].sum(), points)
    np.testing.assert_allclose(gradient, wanted, atol=1e-8)


def test_curvature_adds_up_as_specified():
    points = walker(3)[0][None]
    everything = context(
        points, speed_budget=np.ones((1, 2, 17)), ground=np.array([0.0, -1.0, 0.0, 9.0])
    )
    symmetric = 2 * ANATOMY.mirrored_max
    assert joint_curvature(everything) == pytest.approx(6 + 6 + symmetric + 4 + 1)
    # 9.3 is the value for PoseTrack's joints, 5.9 the largest eigenvalue of all their bones
    assert 2 * anatomy_of(POSETRACK15).mirrored_max == pytest.approx(9.3, abs=0.05)
    assert anatomy_of(POSETRACK15).laplacian_max == pytest.approx(5.9, abs=0.05)


def test_swapped_legs_are_put_right_only_when_nobody_was_sure():
    expected = body()[0]
    points = expected.copy()
    for part in ("knee", "ankle"):
        pair = [AT(f"left_{part}"), AT(f"right_{part}")]
        points[0, pair] = points[0, pair[::-1]]
    unsure = np.full((1, 17), 0.5)
    fixed, who = swap_limbs(points, expected, unsure, ANATOMY)
    np.testing.assert_array_equal(fixed, expected)
    assert who.sum() == 4
    sure = unsure.copy()
    sure[0, AT("left_ankle")] = 0.7
    kept, who = swap_limbs(points, expected, sure, ANATOMY)
    np.testing.assert_array_equal(kept, points)
    assert not who.any()


def test_a_hidden_joint_takes_no_part_in_a_swap():
    expected = body()[0]
    points = expected.copy()
    points[0, AT("left_ankle")] = np.nan
    fixed, who = swap_limbs(points, expected, np.full((1, 17), 0.5), ANATOMY)
    np.testing.assert_array_equal(fixed, points)
    assert not who.any()
