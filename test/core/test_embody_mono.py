"""One camera's bodies over time: calibration, statures given late, other sources, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from staged import CAMERA, Stage, error_m, in_camera, inside_95

from pose_ros.core.lift_mono import STATURE_M, STATURE_STD
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import KeypointStatus, ScaleSource
from pose_ros.training.walker import walk

AT = COCO17.index
THIGH = COCO17.edges.index(("left_hip", "left_knee"))
LIMBS = list(range(6, 16))  # bones of the body without hips and shoulders


def film(stature_m: float, seconds: float, seed: int = 0, turn: float = 0.3):
    """Stamps (T,) and joints (T, 17, 3) of somebody who walks through the image."""
    stamps_ns, world = walk(seconds, 30.0, seed, stature_m, speed_m_s=0.6)
    return stamps_ns.tolist(), in_camera(world, 5.0, turn)


def test_the_ellipsoids_hold_walkers_of_all_the_statures_that_are_expected() -> None:
    """The stature's error is one for all joints and frames: only people average it out.

    Beyond two deviations nearly nothing is inside, so people are weighed by how frequent they are.
    """
    off = np.linspace(-2.75, 2.75, 12)
    inside = []
    for seed, deviations in enumerate(off):
        stature_m = STATURE_M * (1 + STATURE_STD * deviations)
        stage, kept = Stage(stature_m, seed), []
        for stamp, real in zip(*film(stature_m, 1.1, seed, 0.2 * deviations), strict=True):
            kept.append(inside_95(stage.step(real, stamp)[1], real))
        inside.append(np.concatenate(kept[18:]).mean())
    assert 0.90 <= np.average(inside, weights=norm.pdf(off)) <= 0.98
    assert min(inside[3:-3]) > 0.85 and max(inside[0], inside[-1]) < 0.7


def test_the_stated_speeds_hold_though_the_distance_wanders() -> None:
    """Of one camera; where metres are measured nothing is added."""
    inside, told = [], {}
    for depth in (False, True):
        spread = []
        for seed in range(4):
            stage = Stage(1.7, seed, **{"lift.source": "auto"})
            stamps, joints = film(1.7, 2.0, seed)
            speed = np.gradient(joints, 1 / 30, axis=0)
            for i, (stamp, real) in enumerate(zip(stamps, joints, strict=True)):
                body = stage.step(real, stamp, depth=depth)[1]
                off = ((body.poses.velocity_m_s[0] - speed[i]) ** 2).sum(axis=-1)
                known = np.isfinite(off) & (i >= 20)
                held = off < 7.815 * body.poses.speed_std_m_s[0] ** 2
                spread += body.poses.speed_std_m_s[0, known].tolist()
                inside += [] if depth else held[known].tolist()
        told[depth] = np.median(spread)
    assert np.mean(inside) > 0.9  # 0.78 without what lasts
    assert told[True] < 0.3 < told[False]


def test_a_stature_given_late_counts_as_if_it_had_been_known() -> None:
    """A person of 1.37 m, taken for one of 1.70 m during three seconds."""
    stamps, joints = film(1.37, 4)
    errors, thigh = {}, {}
    for given in (0, 90):
        stage, off, held = Stage(1.37), [], []
        for i, (stamp, real) in enumerate(zip(stamps, joints, strict=True)):
            if i == given:
                assert stage.stages.sized(1, 1.37)[0] == pytest.approx(1.37)
            body = stage.step(real, stamp)[1]
            off.append(error_m(body, real))
            held.append(inside_95(body, real).mean())
        errors[given], thigh[given] = np.mean(off[91:]), body.lengths_m[0, THIGH]
        assert np.mean(held[95:]) > 0.9
    assert errors[90] < 1.2 * errors[0]
    assert thigh[90] == pytest.approx(0.245 * 1.37, rel=0.05)


def test_a_refused_stature_changes_nothing_and_neither_does_the_same_again() -> None:
    stage = Stage(1.7)
    for stamp, real in zip(*film(1.7, 1), strict=True):
        stage.step(real, stamp)
    before = stage.stages.sized(1, 0.0)
    with pytest.raises(Exception, match="stature"):
        stage.stages.sized(1, 9.0)
    after = stage.stages.sized(1, 1.7)
    assert after[0] == before[0]
    np.testing.assert_array_equal(after[1], before[1])


def test_what_depth_taught_of_a_person_outlives_a_spell_without_depth() -> None:
    """Depth, two seconds of one camera, depth: neither the bones nor the place leap."""
    stage, stature_m = Stage(1.40, **{"lift.source": "auto"}), 1.40
    stamps, joints = film(stature_m, 6)
    off, thigh, scale = [], [], []
    for i, (stamp, real) in enumerate(zip(stamps, joints, strict=True)):
        body = stage.step(real, stamp, depth=not 60 <= i < 120)[1]
        off.append(error_m(body, real))
        thigh.append(stage.stages.bones.lengths(np.array([1]))[0, THIGH])
        scale.append(body.poses.scale[0])
    assert scale[110] == ScaleSource.MONO and scale[130] == ScaleSource.DEPTH
    np.testing.assert_allclose(thigh[50:], 0.245 * stature_m, rtol=0.03)
    assert np.nanmax(off[71:120]) < 0.3  # of 5 m; a person taken for 1.70 m is 1.1 m too far
    assert np.nanmax(off[130:]) < 0.05


def test_what_was_learned_of_a_guessed_stature_ends_with_depth() -> None:
    stage = Stage(1.40, **{"lift.source": "auto"})
    for i, (stamp, real) in enumerate(zip(*film(1.40, 3), strict=True)):
        stage.step(real, stamp, depth=i >= 45)
        if i == 44:
            guessed = stage.stages.bones.lengths(np.array([1]))[0, THIGH]
    assert guessed == pytest.approx(0.245 * 1.70, rel=0.05)
    learned = stage.stages.bones.lengths(np.array([1]))[0, THIGH]
    assert learned == pytest.approx(0.245 * 1.40, rel=0.05)


@pytest.mark.parametrize("kept", [["left_hip", "right_hip"], ["nose", "left_wrist"], []])
def test_two_joints_are_no_body_and_an_old_body_ends_in_time(kept: list[str]) -> None:
    stage = Stage(1.7)
    stamps, joints = film(1.7, 3)
    only = [AT(name) for name in kept]
    for i, (stamp, real) in enumerate(zip(stamps[:60], joints[:60], strict=True)):
        stage.real = real
        poses = stage.poses(only=only if i >= 30 else None)
        raw, body = stage.step(real, stamp, poses)
        known = body.poses.status[0] != KeypointStatus.MISSING
        assert np.isfinite(body.poses.xyz_m[0][known]).all()
        assert np.isnan(body.poses.xyz_m[0][~known]).all()
        if i >= 30:
            assert np.isnan(raw.xyz_m).all()
            assert not (body.poses.status == KeypointStatus.MEASURED).any()
        if 30 <= i < 36:
            assert known.any()
    assert not known.any() and body.poses.scale[0] == ScaleSource.UNKNOWN
    assert stage.refined is not None
    seen = stage.refined.status[0] == KeypointStatus.MEASURED
    assert sorted(np.flatnonzero(seen)) == sorted(only)
    from_nothing = Stage(1.7)  # and somebody of whom there never was more
    from_nothing.real = joints[0]
    raw, body = from_nothing.step(joints[0], 0, from_nothing.poses(only=only))
    assert np.isnan(body.poses.xyz_m).all() and np.isnan(body.poses.velocity_m_s).all()


def test_a_person_cut_by_the_border_is_not_bent_to_fit() -> None:
    """Walks out of the image: what is seen stays right, what is not is never called measured."""
    stage = Stage(1.7)
    stamps, joints = film(1.7, 4, turn=0.0)
    joints = joints - joints[:1, [11, 12]].mean(axis=1, keepdims=True) + [1.9, 0.0, 4.0]
    cut, off, flat = 0, [], []
    for i, (stamp, real) in enumerate(zip(stamps, joints, strict=True)):
        stage.real = real
        poses = stage.poses()
        gone = np.isnan(poses.xy_px[0]).any(axis=-1)
        body = stage.step(real, stamp, poses)[1]
        assert stage.refined is not None
        told = body.poses.status[0]
        assert (told[gone] != KeypointStatus.MEASURED).all()
        if 0 < gone.sum() <= 10 and i > 20:
            cut += 1
            off.append(np.linalg.norm(body.poses.xyz_m[0] - real, axis=-1)[~gone])
            xy = stage.refined.poses.xy_px[0]
            flat.append(np.linalg.norm(xy - CAMERA.project(real), axis=-1)[~gone])
    assert cut >= 10
    assert np.nanmean(np.concatenate(off)) < 0.15
    assert np.nanmean(np.concatenate(flat)) < 3.0
