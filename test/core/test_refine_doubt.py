"""A network that is sure and wrong for some frames: sides exchanged, a joint elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from swinging import lengths_of, walker

from pose_ros.core.refine_doubt import TURN_S, Doubt
from pose_ros.core.refine_energy import stream_config
from pose_ros.core.refine_stream import StreamRefiner
from pose_ros.core.skeletons import COCO17

FLIP = COCO17.flip_order()
WRIST, NOSE = COCO17.index("left_wrist"), COCO17.index("nose")
PX_PER_M, HEIGHT_PX = 150.0, np.array([260.0], np.float32)


def scene(dims: int, frames: int = 110):
    """Joints of a walker seen from obliquely ahead (T, 17, d) in metres or pixels, and seconds."""
    truth, stamps = walker(frames, speed=0.3)
    if dims == 3:
        return truth, stamps
    angle = 0.9  # the walk is towards the camera, nearly
    across = np.cos(angle) * truth[..., 0] + np.sin(angle) * truth[..., 2]
    return PX_PER_M * np.stack([across, truth[..., 1]], axis=-1), stamps


def stream(truth, stamps, seen, score, lag=0):
    """Refined points (T, 17, d) and the mean error of the raw ones; the unit's noise is added."""
    dims = truth.shape[-1]
    refiner = StreamRefiner(COCO17, dims, replace(stream_config(dims), lag=lag))
    lengths = lengths_of(truth)[None].astype(np.float32) if dims == 3 else None
    size = None if dims == 3 else HEIGHT_PX
    out = []
    for i, stamp in enumerate(stamps):
        now = refiner.update(
            round(stamp * 1e9) + 1, np.array([1]), seen[i, None].astype(np.float32),
            score[i, None].astype(np.float32), None, lengths, size,
        )  # fmt: skip
        out.append(now.points[0])
    return np.array(out[lag:])


def noisy(truth, seed=0):
    noise = 0.02 if truth.shape[-1] == 3 else 0.02 * PX_PER_M
    return truth + noise * np.random.default_rng(seed).standard_normal(truth.shape)


def off(points, truth):
    """(T,) mean error over the body's joints, metres."""
    unit = 1.0 if truth.shape[-1] == 3 else PX_PER_M
    return np.linalg.norm(points - truth[: len(points)], axis=-1)[:, 5:].mean(axis=1) / unit


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("sure", [0.5, 0.7, 0.9])
def test_a_person_whose_sides_are_exchanged_is_put_right(dims, frames, sure):
    truth, stamps = scene(dims)
    seen, score = noisy(truth), np.full(truth.shape[:2], 0.85)
    when = slice(60, 60 + frames)
    usual = off(stream(truth, stamps, seen, score), truth)[when].mean()
    seen[when], score[when] = seen[when][:, FLIP], sure
    got = stream(truth, stamps, seen, score)
    assert off(seen, truth)[when].min() > 0.15  # what the network says
    assert off(got, truth)[when].mean() < 1.6 * usual < 0.06
    assert off(got, truth)[60 + frames :].mean() < 1.3 * usual


def test_with_a_lag_too():
    truth, stamps = scene(3)
    seen, score = noisy(truth), np.full(truth.shape[:2], 0.9)
    seen[60:65] = seen[60:65][:, FLIP]
    assert off(stream(truth, stamps, seen, score, lag=2), truth)[60:65].max() < 0.05


def test_sides_that_stay_exchanged_are_believed_in_the_end():
    truth, stamps = scene(3)
    seen, score = noisy(truth), np.full(truth.shape[:2], 0.9)
    wrong = 30  # the first second was the wrong one
    seen[:wrong] = seen[:wrong][:, FLIP]
    got = stream(truth, stamps, seen, score)
    believed = wrong + round(TURN_S * 30) + 4
    assert off(got, truth)[wrong : wrong + 5].min() > 0.15
    assert off(got, truth)[believed:].max() < 0.06


def test_who_really_turns_round_is_followed():
    truth, stamps = scene(3, 60)
    turn = np.linspace(0, np.pi, 20)  # within two thirds of a second
    angle = np.concatenate([np.zeros(20), turn, np.full(20, np.pi)])
    middle = truth[:, [11, 12]].mean(axis=1, keepdims=True)
    local = truth - middle
    x = np.cos(angle)[:, None] * local[..., 0] + np.sin(angle)[:, None] * local[..., 2]
    z = np.cos(angle)[:, None] * local[..., 2] - np.sin(angle)[:, None] * local[..., 0]
    truth = middle + np.stack([x, local[..., 1], z], axis=-1)
    got = stream(truth, stamps, noisy(truth), np.full(truth.shape[:2], 0.9))
    assert off(got, truth)[10:].max() < 0.07


def test_one_sure_joint_elsewhere_for_one_frame_is_not_followed_and_a_real_leap_is():
    truth, stamps = scene(3)
    seen, score = noisy(truth), np.full(truth.shape[:2], 0.95)
    seen[60, WRIST] += [0.0, -0.5, 0.0]
    seen[80:, WRIST] += [0.0, -0.3, 0.0]
    got = stream(truth, stamps, seen, score)
    assert np.linalg.norm(got[60, WRIST] - truth[60, WRIST]) < 0.2
    assert np.linalg.norm(got[84, WRIST] - seen[84, WRIST]) < 0.12  # at most the leash


def test_what_is_exchanged_by_hand():
    doubt, (truth, _) = Doubt(COCO17, 4), scene(3, 1)
    zero, step = np.zeros(1), np.array([0.1])
    face = truth.copy()
    face[:, 5:] = truth[:, FLIP][:, 5:]  # the body only: the face was right
    for seen in (truth[:, FLIP], face):
        got, held = doubt.turn(seen, truth, zero, step)
        np.testing.assert_array_equal(got, truth)
        assert held[0] == pytest.approx(0.1)
    same, held = doubt.turn(truth, truth, np.array([0.3]), step)
    np.testing.assert_array_equal(same, truth)
    assert held[0] == 0.0
    late, held = doubt.turn(truth[:, FLIP], truth, np.array([0.4]), step)
    np.testing.assert_array_equal(late, truth[:, FLIP])
    assert held[0] == pytest.approx(0.5)
    few = truth[:, FLIP].copy()
    few[:, [7, 8, 9, 10, 13, 14, 15, 16]] = np.nan  # shoulders and hips: two pairs
    np.testing.assert_array_equal(doubt.turn(few, truth, zero, step)[0], few)
    none = np.zeros((0, 17, 3))
    assert doubt.turn(none, none, np.zeros(0), np.zeros(0))[0].shape == (0, 17, 3)


LEGS = [COCO17.index(f"{a}_{b}") for a in ("left", "right") for b in ("hip", "knee", "ankle")]


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("joints", [LEGS, [j for j in LEGS if COCO17.joints[j][-3:] != "hip"]])
def test_legs_exchanged_alone_are_put_right_however_sure_the_network_is(dims, frames, joints):
    truth, stamps = scene(dims)
    apart = np.linalg.norm(truth[:, LEGS[2]] - truth[:, LEGS[5]], axis=-1)
    start = 40 + int(np.argmax(apart[40:80]))  # a wide step
    seen, score = noisy(truth), np.full(truth.shape[:2], 0.95)
    right = stream(truth, stamps, seen, score)
    when = np.arange(start, start + frames)
    seen[np.ix_(when, joints)] = seen[np.ix_(when, FLIP[joints])]
    got = stream(truth, stamps, seen, score)
    np.testing.assert_allclose(got, right, atol=0.03 * (1.0 if dims == 3 else PX_PER_M))


def test_legs_that_stay_exchanged_are_believed_in_the_end():
    truth, stamps = scene(3)
    seen, score = noisy(truth), np.full(truth.shape[:2], 0.95)
    legs = np.ix_(np.arange(60, 110), LEGS)
    seen[legs] = seen[:, FLIP][legs]
    got, end = stream(truth, stamps, seen, score), 60 + round(TURN_S * 30) + 6
    unlike = np.linalg.norm(got - seen, axis=-1)[end:, LEGS]
    assert unlike.mean() < 0.06


def test_which_legs_are_exchanged_by_hand():
    doubt, (truth, _) = Doubt(COCO17, 4), scene(3)
    step = np.argmax(np.linalg.norm(truth[:, LEGS[2]] - truth[:, LEGS[5]], axis=-1))
    truth = truth[step][None]
    zero, dt = np.zeros(1), np.array([0.1])
    wrong = truth.copy()
    wrong[:, LEGS] = truth[:, FLIP][:, LEGS]
    got, held = doubt.uncross(wrong, truth, zero, dt)
    np.testing.assert_array_equal(got, truth)
    assert held[0] == pytest.approx(0.1)
    same, held = doubt.uncross(truth, truth, np.array([0.3]), dt)
    np.testing.assert_array_equal(same, truth)
    assert held[0] == 0.0
    late, held = doubt.uncross(wrong, truth, np.array([0.4]), dt)
    np.testing.assert_array_equal(late, wrong)
    assert held[0] == pytest.approx(0.5)
    whole = truth[:, FLIP]  # then the legs are not alone
    np.testing.assert_array_equal(doubt.uncross(whole, truth, zero, dt)[0], whole)
    few = wrong.copy()
    few[:, LEGS[2]] = np.nan
    np.testing.assert_array_equal(doubt.uncross(few, truth, zero, dt)[0], few)
    close = truth.copy()  # feet and knees side by side: noise must not exchange them
    close[:, LEGS[4:]] = close[:, LEGS[1:3]] + [0.0, 0.0, 0.08]
    crossed = close[:, FLIP]
    crossed[:, :11] = close[:, :11]
    np.testing.assert_array_equal(doubt.uncross(crossed, close, zero, dt)[0], crossed)
    none = np.zeros((0, 17, 3))
    assert doubt.uncross(none, none, np.zeros(0), np.zeros(0))[0].shape == (0, 17, 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_legs_that_pass_each_other_stay_whose_they_are(dims):
    truth, stamps = scene(dims, 300)
    score = np.full(truth.shape[:2], 0.9)
    doubt, changed = Doubt.uncross, []

    def watched(self, points, *rest):
        out = doubt(self, points, *rest)
        changed.append(not np.array_equal(out[0], points, equal_nan=True))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Doubt, "uncross", watched)
        stream(truth, stamps, noisy(truth), score)
    assert len(changed) == 300 and not any(changed)
