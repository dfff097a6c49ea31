"""The window energy: gradients, safe steps, the literal mode, whole tracks, torch."""

import dataclasses

import numpy as np
import pytest
import torch
from swinging import lengths_of, walker

from pose_ros.core.anthropometry import anatomy_of
from pose_ros.core.refine import (
    RefineConfig,
    literal_config,
    minimise,
    offline_config,
    open_window,
    refine,
    second_difference,
    stream_config,
    unroll,
)
from pose_ros.core.refine_energy import Window, confidence_weight
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.errors import ConfigError, ShapeError

STREAM = dataclasses.replace(
    stream_config(3), lambda_spatial=2.0
)  # the weights of the paper's spec


def scene(frames=9, people=2, jitter=0.0, seed=0):
    """Noisy walkers: points (B, S, 17, 3), confidence, stamps, lengths, truth."""
    rng = np.random.default_rng(seed)
    truth = np.stack([walker(frames, phase=p)[0] for p in range(people)])
    stamps = np.arange(frames) / 30 + jitter / 30 * rng.uniform(-1, 1, (people, frames))
    points = truth + 0.02 * rng.standard_normal(truth.shape)
    confidence = rng.uniform(0.2, 0.9, truth.shape[:3])
    lengths = np.stack([lengths_of(t) for t in truth])
    return points, confidence, np.sort(stamps, axis=1), lengths, truth


class Fence:
    """A task's own penalty: stay on this side of x = limit."""

    curvature = 1.0

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, points, context):
        over = (points[..., 0] - self.limit).clip(0.0, None)
        slope = 0.0 * points
        slope[..., 0] = over
        return 0.5 * (over * over).sum(-1).sum(-1), slope


def test_the_weight_of_a_confidence_by_hand():
    # ((0.35 - 0.1) / 0.5)^2 = 0.25; above 0.6 it is 1; unknown is nearly free
    got = confidence_weight(np.array([0.35, 0.6, 0.9, 0.05, np.nan]))
    np.testing.assert_allclose(got, [0.25, 1.0, 1.0, 1e-3, 1e-3])


def test_second_difference_is_the_stencil_on_even_times_and_kills_straight_lines_on_uneven_ones():
    even = second_difference(np.arange(5.0)[None] / 30)
    np.testing.assert_allclose(even[0, 1], [0, 1, -2, 1, 0], atol=1e-12)
    stamps = np.array([[0.0, 0.03, 0.09, 0.11, 0.17]])  # within the clamp of 0.25 to 4 medians
    rows = second_difference(stamps)
    np.testing.assert_allclose(rows[0] @ (3.0 + 2.0 * stamps[0]), 0.0, atol=1e-12)


def test_a_step_is_clamped_to_a_quarter_of_the_median():
    stamps = np.array([[0.0, 1.0, 1.001, 2.001, 3.001]])
    clamped = np.array([[0.0, 1.0, 1.25, 2.25, 3.25]])
    np.testing.assert_allclose(second_difference(stamps), second_difference(clamped))


@pytest.mark.parametrize("mode", ["equality", "upper"])
@pytest.mark.parametrize("extra", [{}, {"band": 0.9}, {"omega": "uniform"}, {"huber": 0.01}])
def test_the_gradient_is_that_of_the_energy(mode, extra):
    points, confidence, stamps, lengths, _ = scene(frames=5, people=1, jitter=0.4)
    config = dataclasses.replace(STREAM, spatial_mode=mode, **extra)
    hook = Fence(float(points[..., 0].mean()))
    ground = np.array([0.0, -1.0, 0.0, float(points[..., 1].max()) - 0.1])
    window, start = open_window(
        points, confidence, stamps, lengths, COCO17, config, hooks=(hook,), ground=ground
    )
    rng = np.random.default_rng(1)
    at = start + 0.05 * rng.standard_normal(start.shape)
    _, gradient = window.terms(at)

    def energy(p):
        return float(window.energy(window.terms(p)[0])[0])

    for _ in range(20):
        way = rng.standard_normal(at.shape)
        slope = (energy(at + 1e-6 * way) - energy(at - 1e-6 * way)) / 2e-6
        assert slope == pytest.approx(float((gradient * way).sum()), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("jitter", [0.0, 0.9])
def test_the_safe_step_lowers_the_energy_every_time(jitter):
    for seed in range(5):
        points, confidence, stamps, lengths, _ = scene(jitter=jitter, seed=seed)
        window, start = open_window(points, confidence, stamps, lengths, COCO17, STREAM)
        energy = unroll(window, start, 25).energy
        assert (np.diff(energy, axis=0) <= 1e-12).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_literal_mode_is_the_paper_s_by_hand(dims):
    """Two joints, three frames, confidences that must not count: equations 25, 27, 24 and 31."""
    bone = Skeleton("bone", ("a", "b"), (("a", "b"),), (), (0.1, 0.1))
    config = dataclasses.replace(literal_config(dims), speed=False)
    assert config.iterations == 5
    points = np.zeros((1, 3, 2, dims))
    points[0, :, 1, 0] = [1.1, 0.4, 0.2]  # too long, too short, shorter than half: no clamp
    points[0, 1, 0, 1] = 0.3
    confidence = np.array([[[0.9, 0.2], [0.5, 0.7], [0.1, 0.3]]])
    window, start = open_window(
        points, confidence, np.arange(3.0)[None], np.ones((1, 1)), bone, config
    )
    length = np.array([1.1, 0.5, 0.2])
    terms, gradient = window.terms(start)
    _, spatial, temporal, domain = terms[:, 0]
    assert spatial == pytest.approx(0.5 * ((length - 1.0) ** 2).sum())  # equation 25
    # Equation 27 with T = 3: |p1 - 2 p2 + p3|^2 of both joints, here (0, -0.6) and (0.5, 0)
    assert temporal == pytest.approx(0.6**2 + 0.5**2)
    assert domain == 0.0
    assert float(window.energy(terms)[0]) == pytest.approx(spatial + temporal)
    unit = np.zeros((3, dims))
    unit[:, :2] = [[1, 0], [0.8, -0.6], [1, 0]]  # from a to b
    pull = (length - 1.0)[:, None] * unit
    bend = np.zeros((2, dims))
    bend[0, 1], bend[1, 0] = -0.6, 0.5
    stencil = np.array([1.0, -2.0, 1.0])
    wanted = 2.0 * stencil[:, None, None] * bend
    wanted += np.stack([-pull, pull], axis=1)
    np.testing.assert_allclose(gradient[0], wanted, atol=1e-9)
    done = unroll(window, start, 1).points  # equation 24 with the correction of 31
    np.testing.assert_allclose(done[0], points[0] - wanted, atol=1e-9)


def test_the_literal_step_explodes():
    points, confidence, stamps, lengths, _ = scene()
    literal = RefineConfig(mode="literal", lambda_spatial=1.0, lambda_domain=0.0)
    window, start = open_window(points, confidence, stamps, lengths, COCO17, literal)
    energy = unroll(window, start, 10).energy
    assert (energy[-1] > 1e12 * energy[0]).all()


def test_the_literal_step_makes_a_single_bone_oscillate_for_ever():
    # Curvature 2 with step 1: the error changes its sign and keeps its size.
    bone = Skeleton("bone", ("a", "b"), (("a", "b"),), (), (0.1, 0.1))
    points = np.array([[[[0.0, 0, 0], [1.1, 0, 0]]]])
    config = RefineConfig(mode="literal", lambda_spatial=1.0, speed=False)
    window, start = open_window(
        points, np.ones((1, 1, 2)), np.zeros((1, 1)), np.ones((1, 1)), bone, config
    )
    apart = []
    for n in (1, 2, 3):
        done = unroll(window, start, n).points[0, 0]
        apart.append(done[1, 0] - done[0, 0])
    np.testing.assert_allclose(apart, [0.9, 1.1, 0.9], atol=1e-9)


def test_data_and_time_alone_have_the_solution_of_their_linear_system():
    points, confidence, stamps, _, _ = scene(frames=7, people=1, jitter=0.5)
    config = dataclasses.replace(
        STREAM, lambda_spatial=0.0, lambda_domain=0.0, huber=1e9, iterations=1500,
        tolerance=1e-10, lambda_data=0.7,
    )  # fmt: skip
    window, start = open_window(points, confidence, stamps, None, COCO17, config)
    done = minimise(window, start).points
    rows, k = window.rows[0], COCO17.index("left_wrist")
    weight = 0.7 * np.diag(window.weight[0, :, k])
    smooth = window.lambda_t * 2 / 5 * rows.T @ np.diag(window.omega[0, :, k]) @ rows
    wanted = np.linalg.solve(weight + smooth, weight @ points[0, :, k])
    np.testing.assert_allclose(done[0, :, k], wanted, atol=1e-6)


def test_frozen_frames_do_not_move():
    points, confidence, stamps, lengths, _ = scene()
    window, start = open_window(points, confidence, stamps, lengths, COCO17, STREAM)
    free = np.arange(9) >= 7
    part = Window(
        start, window.constraints.context.confidence, window.rows, window.constraints, free
    )
    done = unroll(part, start, 10)
    np.testing.assert_array_equal(done.points[:, :7], start[:, :7])
    assert np.abs(done.points[:, 7:] - start[:, 7:]).max() > 1e-3
    assert (part.step > window.step).all()  # fewer free frames allow a longer step
    assert (np.diff(done.energy, axis=0) <= 1e-12).all()


def test_torch_and_numpy_agree_and_gradients_pass_through_the_iterations():
    points, confidence, stamps, lengths, _ = scene(frames=5)
    points[0, 2, 9] = np.nan
    window, start = open_window(points, confidence, stamps, lengths, COCO17, STREAM)
    wanted = unroll(window, start, 3)
    p, c, length = (
        torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for x in (points, confidence, lengths)
    )
    window_t, start_t = open_window(p, c, stamps, length, COCO17, STREAM)
    got = unroll(window_t, start_t, 3)
    np.testing.assert_allclose(got.points.detach().numpy(), wanted.points, atol=1e-12)
    np.testing.assert_allclose(got.energy.detach().numpy(), wanted.energy, atol=1e-12)
    got.terms[1:, 1:].sum().backward()  # equation 32
    for x in (p, c, length):
        assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0
    assert p.grad[0, 2, 9].abs().max() == 0  # unknown


def test_unrolled_gradient_is_that_of_finite_differences():
    points, confidence, stamps, lengths, _ = scene(frames=4, people=1)
    config = dataclasses.replace(STREAM, huber=1e9, bend=False)  # what counts as constant is off
    p = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    c = torch.tensor(confidence, dtype=torch.float64)
    length = torch.tensor(lengths, dtype=torch.float64)
    way = torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(x):
        window, start = open_window(x, c, stamps, length, COCO17, config)
        return (unroll(window, start, 3).points * way).sum()

    loss(p).backward()
    with torch.no_grad():
        numeric = (loss(p + 1e-6 * way) - loss(p - 1e-6 * way)) / 2e-6
    assert float((p.grad * way).sum()) == pytest.approx(float(numeric), rel=1e-5)


def test_a_whole_track_comes_closer_to_the_truth_and_has_no_gaps_or_seams():
    points, confidence, stamps, lengths, truth = scene(frames=150, people=2)
    confidence[:] = 0.9
    points[:, 20:32, 9] = np.nan
    confidence[:, 20:32, 9] = 0.0
    config = dataclasses.replace(offline_config(3), chunk=60)
    done = refine(points, confidence, stamps, lengths, COCO17, config)
    assert np.isfinite(done).all()
    seen = np.isfinite(points)
    before = np.abs(np.where(seen, points - truth, 0.0)).mean()
    assert np.abs(np.where(seen, done - truth, 0.0)).mean() < 0.6 * before
    share = (np.arange(20, 32) - 19)[:, None] / 13
    straight = (1 - share) * points[:, 19:20, 9] + share * points[:, 32:33, 9]
    gap = np.linalg.norm(done[:, 20:32, 9] - truth[:, 20:32, 9], axis=-1).mean()
    assert gap < 0.9 * np.linalg.norm(straight - truth[:, 20:32, 9], axis=-1).mean()
    once = refine(points, confidence, stamps, lengths, COCO17, offline_config(3))
    assert np.abs(done - once).max() < 0.02  # chunks faded into each other


def test_joints_never_seen_stay_unknown():
    points, confidence, stamps, lengths, _ = scene(frames=6, people=1)
    points[:, :, 9], confidence[:, :, 9] = np.nan, 0.0
    done = refine(points, confidence, stamps, lengths, COCO17)
    assert np.isnan(done[:, :, 9]).all()
    assert np.isfinite(np.delete(done, 9, axis=2)).all()


def test_nobody_and_one_frame():
    none = refine(np.zeros((0, 4, 17, 3)), np.zeros((0, 4, 17)), np.zeros((0, 4)), None, COCO17)
    assert none.shape == (0, 4, 17, 3)
    points, confidence, stamps, lengths, _ = scene(frames=1)
    assert np.isfinite(refine(points, confidence, stamps, lengths, COCO17)).all()


def test_two_dimensions_pull_long_bones_in_and_leave_short_ones():
    bone = Skeleton("bone", ("a", "b"), (("a", "b"),), (), (0.1, 0.1))
    config = dataclasses.replace(offline_config(2), speed=False)
    ones, time = np.ones((2, 1, 2)), np.zeros((2, 1))
    points = np.array([[[[0.0, 0], [0.5, 0]]], [[[0.0, 0], [0.2, 0]]]])
    done = refine(points, ones, time, np.full((2, 1), 0.3), bone, config)
    assert 0.3 < done[0, 0, 1, 0] - done[0, 0, 0, 0] < 0.45
    np.testing.assert_allclose(done[1, 0], points[1, 0], atol=1e-6)


def test_bad_input_is_refused():
    points, confidence, stamps, lengths, _ = scene()
    with pytest.raises(ShapeError, match=r"expected points \(B, S, 17, 2 or 3\)"):
        refine(points[:, :, :5], confidence, stamps, lengths, COCO17)
    with pytest.raises(ShapeError, match="expected confidence"):
        refine(points, confidence[:1], stamps, lengths, COCO17)
    with pytest.raises(ConfigError, match="mode"):
        RefineConfig(mode="fast")
    with pytest.raises(ConfigError, match="lag"):
        RefineConfig(lag=4)


def test_anatomy_of_every_set_is_consistent():
    for edge, mirror in enumerate(anatomy_of(COCO17).mirror_bone):
        assert anatomy_of(COCO17).mirror_bone[mirror] == edge
    np.testing.assert_allclose(anatomy_of(COCO17).carrier.sum(axis=1), 1.0)
