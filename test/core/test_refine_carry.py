"""Joints that take motion over from each other: rigid trunks, limbs, bodies at rest."""

from __future__ import annotations

import numpy as np
import pytest
from swinging import lengths_of, walker

from pose_ros.core.refine_carry import PARTNER, TURNS, say, take_over, ties_of, with_trunk
from pose_ros.core.refine_energy import stream_config
from pose_ros.core.refine_stream import StreamRefiner
from pose_ros.core.skeletons import COCO17, SKELETONS

AT = COCO17.index
TRUNK = [AT(f"{side}_{part}") for side in ("left", "right") for part in ("shoulder", "hip")]


def stream(truth, seed=0, noise=0.02, hidden=None, rate_hz=30.0, lengths=None):
    """Refined points (T, 17, 3) of a noisy person; joints ``hidden`` (T, 17) are not seen."""
    points = truth + noise * np.random.default_rng(seed).standard_normal(truth.shape)
    score = np.full(truth.shape[:2], 0.9, np.float32)
    if hidden is not None:
        points[hidden], score[hidden] = np.nan, 0.0
    refiner = StreamRefiner(COCO17, 3, stream_config(3))
    lengths = None if lengths is None else lengths[None].astype(np.float32)
    frames = [
        refiner.update(
            round(i / rate_hz * 1e9) + 1, np.array([1]), p[None], c[None], None, lengths
        )
        for i, (p, c) in enumerate(zip(points.astype(np.float32), score, strict=True))
    ]
    return np.concatenate([frame.points for frame in frames])


def turning(frames, rad_s):
    """Somebody who stands and turns as one body about the vertical (y), (T, 17, 3)."""
    body = walker(1)[0][0]
    middle = body[TRUNK].mean(axis=0)
    angle = rad_s * np.arange(frames) / 30
    c, s, zero = np.cos(angle), np.sin(angle), 0 * angle
    turn = np.stack([c, zero, s, zero, zero + 1, zero, -s, zero, c], -1).reshape(-1, 3, 3)
    return (body - middle) @ turn.swapaxes(1, 2) + middle


def test_the_motion_of_a_rigid_body_is_found():
    rng = np.random.default_rng(0)
    ties, points = ties_of(COCO17), 1e3 * rng.standard_normal((2, 17, 3))  # noise makes no turn
    spin, speed = rng.standard_normal((2, 1, 3)), rng.standard_normal((2, 1, 3))
    weight = say(ties, np.zeros((2, 17)), 0.5)
    centre = (weight[..., None] * points).sum(1, keepdims=True) / weight.sum(1)[:, None, None]
    moves = speed + np.cross(spin, points - centre)
    got = with_trunk(points, weight, np.stack([moves, 2 * moves], axis=1), ties)
    whole = [j for j, name in enumerate(COCO17.joints) if name.split("_")[-1] not in TURNS]
    np.testing.assert_allclose(got[:, 0][:, whole], moves[:, whole], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got[:, 1], 2 * got[:, 0])
    knee = AT("left_knee")  # turns by half
    wanted = speed[:, 0] + TURNS["knee"] * (moves[:, knee] - speed[:, 0])
    np.testing.assert_allclose(got[:, 0, knee], wanted, rtol=1e-4, atol=1e-3)


def test_in_pixels_it_is_affine():
    rng = np.random.default_rng(1)
    ties, points = ties_of(COCO17), 1e3 * rng.standard_normal((1, 17, 2))
    weight = say(ties, np.zeros((1, 17)), 0.5)
    centre = (weight[..., None] * points).sum(1, keepdims=True) / weight.sum()
    moves = [0.3, -0.1] + (points - centre) @ rng.standard_normal((2, 2))  # a body turns away
    got = with_trunk(points, weight, moves[:, None], ties)[:, 0]
    np.testing.assert_allclose(got[:, TRUNK], moves[:, TRUNK], rtol=1e-4, atol=1e-3)


def test_small_trunks_do_not_spin_and_nobody_stays():
    ties = ties_of(COCO17)
    points, moves = np.zeros((1, 17, 3)), np.random.default_rng(0).standard_normal((1, 1, 17, 3))
    weight = say(ties, np.zeros((1, 17)), 0.5)
    got = with_trunk(points, weight, moves, ties)
    mean = (weight[0, :, None] * moves[0, 0]).sum(axis=0) / weight.sum()
    np.testing.assert_allclose(got[0, 0], np.repeat(mean[None], 17, axis=0))
    assert (say(ties, np.full((1, 17), np.inf), 0.5) == 0).all()
    assert (with_trunk(points, 0 * weight, moves, ties) == 0).all()
    none = np.zeros((0, 1, 17, 3))
    assert with_trunk(none[:, 0], np.zeros((0, 17)), none, ties).shape == (0, 1, 17, 3)


def test_a_wrist_takes_over_its_share_of_the_elbow_by_hand():
    ties, body = ties_of(COCO17), walker(1)[0]
    predicted = np.concatenate([body, np.zeros_like(body)], axis=-1)
    state, cov = predicted.copy(), np.broadcast_to(np.eye(6), (1, 17, 6, 6)).copy()
    wrist, elbow = AT("left_wrist"), AT("left_elbow")
    state[0, elbow, :3] += [0.1, 0.0, 0.0]
    fresh = np.ones((1, 17), bool)
    fresh[0, wrist] = False
    weight = np.where(fresh, ties.weight, 0.0)
    weight[0, elbow] = 0.0  # so that the trunk stays
    take_over(state, predicted, cov, (fresh, ~fresh, np.zeros_like(fresh), weight), ties)
    share = PARTNER["wrist"][1]
    np.testing.assert_allclose(state[0, wrist, :3] - predicted[0, wrist, :3], [0.1 * share, 0, 0])
    others = [j for j in range(17) if j not in (wrist, elbow)]
    np.testing.assert_allclose(state[0, others], predicted[0, others], atol=1e-12)


def test_what_sensors_carry_keeps_its_own_velocity():
    """A shoulder that moves against a still trunk is slowed down, unless a sensor says so."""
    ties, body, shoulder = ties_of(COCO17), walker(1)[0], AT("left_shoulder")
    predicted = np.concatenate([body, np.zeros_like(body)], axis=-1)
    predicted[0, shoulder, 3] = 1.0
    cov = np.broadcast_to(np.eye(6), (1, 17, 6, 6)).copy()
    hidden, own = np.zeros((2, 1, 17), bool)
    fresh = ~hidden
    left = []
    for carried in (False, True):
        state = predicted.copy()
        own[0, shoulder] = carried
        take_over(state, predicted, cov, (fresh, hidden, own, ties.weight[None]), ties)
        left.append(state[0, shoulder, 3])
    assert left[0] < 0.8 and left[1] == 1.0


@pytest.mark.parametrize(
    ("joint", "most"), [("left_shoulder", 0.045), ("right_hip", 0.03), ("nose", 0.02)]
)
def test_a_hidden_joint_of_trunk_and_head_turns_with_the_body(joint, most):
    # Carried by the mean of its neighbours it is 76, 40 and 33 mm off.
    truth = turning(70, 2.5)
    hidden = np.zeros(truth.shape[:2], bool)
    hidden[50:59, AT(joint)] = True
    error = [
        np.linalg.norm(stream(truth, seed, hidden=hidden) - truth, axis=-1)[50:59, AT(joint)]
        for seed in range(6)
    ]
    assert np.mean(error) < most


def test_who_stands_still_is_steadier_and_a_hidden_joint_stays_where_it_was():
    truth = np.repeat(walker(1)[0], 90, axis=0)
    hidden = np.zeros(truth.shape[:2], bool)
    for joint in range(17):
        hidden[40 + 2 * joint : 48 + 2 * joint, joint] = True
    error = np.linalg.norm(stream(truth, hidden=hidden) - truth, axis=-1)
    late = np.arange(90)[:, None] >= 30
    assert np.nanmean(error[late & ~hidden]) < 0.014  # the noise is 32 mm
    assert np.nanmean(error[late & hidden]) < 0.018


def test_an_arm_that_reaches_out_from_a_body_at_rest_is_followed():
    truth = np.repeat(walker(1)[0], 90, axis=0)
    way = np.clip((np.arange(90) - 60) / 30, 0.0, 0.3)  # 1 m/s at once
    wrist = AT("left_wrist")
    truth[:, wrist, 2] -= way
    error = np.mean(
        [np.linalg.norm(stream(truth, s) - truth, axis=-1)[:, wrist] for s in range(8)], axis=0
    )
    assert error[61:72].max() < 0.09  # 0.3 m away at the end
    assert error[72:80].mean() < 0.045


def test_a_trunk_that_does_not_show_stiffens_nobody():
    # Only head and ankle are seen, and move apart: neither is taken for a part of the other.
    truth = np.repeat(walker(1)[0], 60, axis=0)
    truth[:, AT("nose"), 0] += 0.6 * np.arange(60) / 30
    hidden = np.ones(truth.shape[:2], bool)
    hidden[:, [AT("nose"), AT("left_ankle")]] = False
    error = np.linalg.norm(stream(truth, noise=0.01, hidden=hidden) - truth, axis=-1)
    assert error[20:, [AT("nose"), AT("left_ankle")]].mean() < 0.02


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_every_joint_set_has_ties(name):
    skeleton = SKELETONS[name]
    ties = ties_of(skeleton)
    assert ties.weight.shape == (len(skeleton),) and (ties.weight == 1.0).sum() >= 4
    flip = skeleton.flip_order()
    np.testing.assert_array_equal(ties.rest[flip][:, flip], ties.rest)
    np.testing.assert_array_equal(ties.turns[flip], ties.turns)


def test_bones_and_ties_agree_on_a_walk():
    truth, _ = walker(200)
    hidden = np.zeros(truth.shape[:2], bool)
    rng = np.random.default_rng(3)
    for joint in range(17):
        for start in range(30 + int(rng.integers(30)), 185, 40):
            hidden[start : start + 9, joint] = True
    got = stream(truth, hidden=hidden, lengths=lengths_of(truth))
    error = np.linalg.norm(got - truth, axis=-1)[30:]
    assert np.nanmean(error[~hidden[30:]]) < 0.0203  # joint by joint 20.5 mm
    assert np.nanmean(error[hidden[30:]]) < 0.060  # and 62
