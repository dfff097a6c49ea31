"""The live energy against the generic one, whose gradients are checked by finite differences."""

import numpy as np
import pytest
from swinging import lengths_of, walker

from pose_ros.core.anthropometry import anatomy_of
from pose_ros.core.penalties import Context, lateral_axis
from pose_ros.core.refine_descent import descend
from pose_ros.core.refine_energy import Constraints, edge_weight, stream_config
from pose_ros.core.refine_live import LiveEnergy, bone_weight
from pose_ros.core.skeletons import COCO17, POSETRACK15

CASES = [
    (skeleton, dims, spread)
    for skeleton in (COCO17, POSETRACK15) for dims in (2, 3) for spread in (0.0, 0.03, 0.3)
]  # fmt: skip


def scene(skeleton, dims, spread, seed=0, frames=2, people=3):
    """Points (P, m, K, d) of walkers with noise, confidences, and the context of their window."""
    rng, anatomy = np.random.default_rng(seed), anatomy_of(skeleton)
    walk = walker(frames + people)[0]
    truth = np.stack([walk[p : p + frames] for p in range(people)])
    lengths = np.repeat(lengths_of(walk)[None, None], people, axis=0)
    if skeleton is not COCO17:  # joints of another set, anywhere
        truth = rng.normal(size=(people, frames, len(skeleton), 3))
        lengths = rng.uniform(0.1, 0.5, (people, 1, len(anatomy.edges)))
    lengths[0, 0, 2] = 0.0  # unknown
    points = (truth + spread * rng.normal(size=truth.shape))[..., :dims].copy()
    confidence = rng.uniform(0.0, 1.0, points.shape[:3])
    confidence[..., -8:] = 0.9
    budget = np.full(points.shape[:3], 0.02)
    deep = dims == 3
    ground = np.array([0.0, 0.0, 1.0, 0.0]) if deep else None
    context = Context(
        anatomy, lengths, confidence, budget, points[:, 0] + 0.05,
        lateral_axis(points, confidence, anatomy), ground, deep, deep, deep,
    )  # fmt: skip
    ramp = rng.uniform(0.2, 1.0, lengths.shape) * (lengths > 0)
    return points, confidence, context, ramp


@pytest.mark.parametrize(("skeleton", "dims", "spread"), CASES)
def test_it_is_the_generic_energy(skeleton, dims, spread):
    points, confidence, context, ramp = scene(skeleton, dims, spread)
    config, anatomy = stream_config(dims), context.anatomy
    weight = edge_weight(confidence, anatomy, ramp)
    np.testing.assert_allclose(bone_weight(confidence, anatomy, ramp), weight, atol=1e-15)
    live, generic = (kind(config, context, weight, dims) for kind in (LiveEnergy, Constraints))
    versions = np.stack([points, points + 0.01, 1.1 * points])
    for ours, version in zip(live.value(versions), versions, strict=True):
        spatial, domain = generic.values(version)
        wanted = config.lambda_spatial * spatial + config.lambda_domain * domain
        np.testing.assert_allclose(ours, wanted, rtol=1e-12, atol=1e-15)
        (gradient, active), (wanted, acting) = live.gradient(version), generic.gradient(version)
        np.testing.assert_allclose(gradient, wanted, rtol=1e-10, atol=1e-13)
        assert (active is None) == (acting is None)
        if active is not None:
            np.testing.assert_array_equal(active, acting)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_descent_takes_the_stated_steps(dims):
    """The iterations as they are written down, one array operation after the other."""
    points, confidence, context, ramp = scene(COCO17, dims, 0.03)
    config, anatomy = stream_config(dims), context.anatomy
    weight = edge_weight(confidence, anatomy, ramp)
    energy = LiveEnergy(config, context, weight, dims)
    precision = np.linalg.inv(1e-4 * (1.0 + confidence)[..., None, None] * np.eye(dims))
    ours, bad = descend(points, precision, energy)
    assert not bad.any()
    information, members = precision * config.noise**2, abs(anatomy.incidence)
    stiff = 2.0 * config.lambda_spatial * (weight @ members)
    domain = 4.0 * (abs(anatomy.mirror_pairs) @ members).sum(axis=0) * (dims == 3)
    domain = domain + 4.0  # of the speed
    if dims == 3:
        domain[anatomy.ground] += 1.0
    base = information + (stiff + config.lambda_domain * domain)[..., None, None] * np.eye(dims)
    wanted, acting = points, np.zeros((*points.shape[:2], len(anatomy.hinge_joint)), bool)
    for _ in range(config.iterations):
        gradient, active = energy.gradient(wanted)
        gradient = gradient + (information @ (wanted - points)[..., None])[..., 0]
        acting = acting if active is None else acting | active
        more = config.lambda_domain * 12.0 * (acting @ anatomy.hinge_members)
        step = np.linalg.inv(base + more[..., None, None] * np.eye(dims))
        wanted = wanted - (step @ gradient[..., None])[..., 0]
    assert np.abs(ours - points).max() > 1e-3
    np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-12)


def test_where_nothing_pulls_nothing_moves():
    points, confidence, context, ramp = scene(COCO17, 2, 0.0)
    context = Context(
        context.anatomy, 10.0 + context.lengths, confidence, None,
        angles=False, bend=False, symmetry=False,
    )  # fmt: skip
    energy = LiveEnergy(stream_config(2), context, ramp, 2)
    precision = np.broadcast_to(np.eye(2), (*points.shape, 2))
    ours, bad = descend(points, precision, energy)
    np.testing.assert_array_equal(ours, points)
    assert ours is not points and not bad.any()


def test_nobody_is_no_problem():
    points, confidence, context, ramp = scene(COCO17, 3, 0.0)
    none = Context(
        context.anatomy, context.lengths[:0], confidence[:0], None, None,
        lateral_axis(points[:0], confidence[:0], context.anatomy),
    )  # fmt: skip
    energy = LiveEnergy(stream_config(3), none, ramp[:0].repeat(2, axis=1), 3)
    ours, bad = descend(points[:0], np.zeros((*points[:0].shape, 3)), energy)
    assert ours.shape == points[:0].shape and bad.shape == (0,)
