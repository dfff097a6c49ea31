"""Inertial sensors in the stages after the network, on rendered people with exact truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from panned import film, sensor

from pose_ros.core.body_imu import BodyImus
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.ego import EgoMotion
from pose_ros.core.embody import Embodier
from pose_ros.core.imu import Imu
from pose_ros.core.skeletons import COCO17
from pose_ros.core.so3 import exp_so3
from pose_ros.training import bench_imu
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import Scene
from pose_ros.training.scene_imu import ImuTrack

WRISTS = [COCO17.index("left_wrist"), COCO17.index("right_wrist")]
BEFORE_S = 3.0


@pytest.mark.parametrize(("dims", "least"), [(2, 2.0), (3, 0.02)])
def test_a_pan_is_refined_better_when_the_memories_turn_along(dims: int, least: float) -> None:
    frames = list(film()[1])
    still, _, _ = bench_imu._run_pan(frames, None, dims, 0)
    turned, _, _ = bench_imu._run_pan(frames, sensor(), dims, 0)
    silent, _, _ = bench_imu._run_pan(frames, Imu(), dims, 0)
    assert turned < 0.85 * still and still > least
    assert silent == still  # bit for bit


@cache
def hidden() -> tuple[Scene, list[Rendered]]:
    """Somebody who reaches, whom a board hides for a second."""
    scene = bench_imu.hidden_scene("reach", 0, BEFORE_S)
    scene = replace(scene, camera=PinholeCamera.from_fov(128, 96, 60.0))
    return scene, [render(scene, n) for n in range(round((BEFORE_S + 1.2) * bench_imu.FPS))]


def as_it_is(track: ImuTrack) -> ImuTrack:
    return track


@cache
def run(
    sensors: str, spoil: Callable[[ImuTrack], ImuTrack] = as_it_is
) -> tuple[float, np.ndarray]:
    """Mean error of the wrists while nothing is seen, and everything that was said (T, 17, 3)."""
    scene, frames = hidden()
    said, _ = bench_imu.run_body(scene, frames, 0, sensors, spoil)
    gone = np.array([not (frame.visible[0] == 2).any() for frame in frames])
    gone[np.flatnonzero(gone)[0] + 30 :] = False
    true = np.array([frame.xyz_camera_m[0] for frame in frames])
    far = np.linalg.norm(said - true, axis=-1)[gone][:, WRISTS]
    assert gone.sum() == 30
    return float(far.mean()), said


def test_worn_sensors_halve_the_error_of_wrists_that_nobody_sees() -> None:
    plain, _ = run("none")
    worn, _ = run("known")
    assert worn < 0.5 * plain and plain > 0.15


def silent(track: ImuTrack) -> ImuTrack:
    return replace(track, stamps_ns=track.stamps_ns[:0])


def elsewhere(track: ImuTrack) -> ImuTrack:
    """Stamps of a clock that started a day earlier."""
    return replace(track, stamps_ns=track.stamps_ns + 86_400_000_000_000)


def stopped(track: ImuTrack) -> ImuTrack:
    rates = track.gyro_rad_s.copy()
    rates[::5] = 40.0
    return replace(track, gyro_rad_s=rates)


@pytest.mark.parametrize("spoil", [silent, elsewhere, stopped])
def test_worn_sensors_that_cannot_be_believed_change_no_bit(
    spoil: Callable[[ImuTrack], ImuTrack],
) -> None:
    _, plain = run("none")
    _, said = run("known", spoil)
    np.testing.assert_array_equal(said, plain)


def leapt(track: ImuTrack) -> ImuTrack:
    """Stamps that leap ahead by an hour while nobody is seen."""
    late = track.stamps_ns > round((BEFORE_S + 0.5) * 1e9)
    return replace(track, stamps_ns=track.stamps_ns + late * 3_600_000_000_000)


def test_a_leap_of_their_stamps_ends_the_help_and_nothing_else() -> None:
    plain, _ = run("none")
    whole, fine = run("known")
    part, said = run("known", leapt)
    before = round((BEFORE_S + 0.4) * bench_imu.FPS)
    np.testing.assert_array_equal(said[:before], fine[:before])
    assert np.isfinite(said[-1]).any() and whole < part < plain


def test_a_camera_that_was_knocked_aside_costs_part_of_the_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told wrongly by 15 degrees from a second before: never worse than without sensors."""
    knocked = exp_so3(np.array([0.0, 0.0, np.radians(15.0)]))

    class Knocked(bench_imu.TrueCamera):
        def world(self, stamp_ns: int) -> np.ndarray:
            true = super().world(stamp_ns)
            return knocked @ true if stamp_ns > (BEFORE_S - 1.0) * 1e9 else true

    plain, _ = run("none")
    fine, _ = run("known")
    monkeypatch.setattr(bench_imu, "TrueCamera", Knocked)
    moved, _ = run.__wrapped__("known")
    assert fine < moved < 0.5 * plain


def test_without_the_camera_s_orientation_nothing_is_said() -> None:
    _, frames = hidden()
    stages = Embodier(COCO17, PipelineConfig(), None, None, BodyImus(COCO17, ()))
    points = frames[0].xyz_camera_m.astype(np.float32)
    said = bench_imu._refined(stages, frames[0], points)
    np.testing.assert_array_equal(
        said, bench_imu._refined(Embodier(COCO17, PipelineConfig(), None), frames[0], points)
    )
    silent = Embodier(COCO17, PipelineConfig(), None, EgoMotion(Imu()), BodyImus(COCO17, ()))
    np.testing.assert_array_equal(said, bench_imu._refined(silent, frames[0], points))


def test_a_prediction_lasts_as_long_as_it_was_asked_for() -> None:
    """Also beyond the half second after which a gap starts a history anew."""
    _, frames = hidden()
    config = with_values(PipelineConfig(), {"filter.max_prediction_s": 1.0})
    stages = Embodier(COCO17, config, None)
    seen = [f for f in frames[:20] if (f.visible[0] == 2).sum() > 10]
    for frame in seen:
        bench_imu._refined(stages, frame, frame.xyz_camera_m.astype(np.float32))
    gone = next(f for f in frames if not (f.visible[0] == 2).any())
    for late_s, known in ((0.8, True), (1.2, False)):
        unseen = replace(gone, stamp_ns=seen[-1].stamp_ns + round(late_s * 1e9))
        said = bench_imu._refined(stages, unseen, gone.xyz_camera_m.astype(np.float32))
        assert np.isfinite(said).any() == known
