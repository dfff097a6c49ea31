"""A rig's cameras as lifters: metres per camera, ids matched across, one signature for all."""

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from depth_scene import COCO17, VGA, Scene, person
from test_lift_mono import Oracle
from test_multiview import THREE, views
from test_triangulate import CAMERAS, POSES

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.lift import DepthLifter, Lifter
from pose_ros.core.lift_mono import STATURE_M, MonocularLifter
from pose_ros.core.lift_views import RigLifter
from pose_ros.core.multiview import View
from pose_ros.core.values import Frame, KeypointStatus, Poses2D, Poses3D, ScaleSource
from pose_ros.errors import CalibrationError, ShapeError

NAMES = ("front", "left", "back", "right")
RIG = dict(zip(NAMES, POSES, strict=True))
MISSING, MEASURED = int(KeypointStatus.MISSING), int(KeypointStatus.MEASURED)


def frame(number: int, stamp_ns: int = 0, camera: PinholeCamera | None = None) -> Frame:
    lens = camera or CAMERAS[number]
    rgb = np.zeros((lens.height_px, lens.width_px, 3), np.uint8)
    return Frame(rgb, stamp_ns, NAMES[number], lens)


def lift_all(rig: RigLifter, seen: list[View], stamp_ns: int = 0) -> list[Poses3D]:
    for number, view in enumerate(seen):
        rig.see(frame(number, stamp_ns), view.poses)
    return [rig.lift(frame(n, stamp_ns), view.poses) for n, view in enumerate(seen)]


def in_camera(world: np.ndarray, number: int) -> np.ndarray:
    pose = POSES[number]
    return world @ pose[:3, :3].T + pose[:3, 3]


def test_everybody_in_every_camera_s_own_frame_and_order() -> None:
    rig, seen = RigLifter(COCO17, RIG), views(THREE)
    told: dict[int, set[int]] = {}
    for number, result in enumerate(lift_all(rig, seen)):
        poses = seen[number].poses
        assert result.ids.tolist() == poses.ids.tolist()
        who = (poses.ids - 100 * number - 1).tolist()  # `views` rolls people and numbers them
        truth = in_camera(np.array(THREE), number)[who]
        np.testing.assert_allclose(result.xyz_m, truth, atol=2e-3)
        assert (result.status == MEASURED).all() and (result.scale == ScaleSource.MULTIVIEW).all()
        for row, world in enumerate(rig.world_ids(NAMES[number], poses.ids).tolist()):
            told.setdefault(world, set()).add(who[row])
    assert sorted(told) == [1, 2, 3] and all(len(people) == 1 for people in told.values())


def test_covariances_are_turned_into_the_camera() -> None:
    rng = np.random.default_rng(0)
    rig, seen = RigLifter(COCO17, RIG), views(THREE[:1], rng)
    for number, result in enumerate(lift_all(rig, seen)):
        error = (result.xyz_m[0] - in_camera(THREE[0], number)).astype(float)
        surprise = error[:, None] @ np.linalg.solve(result.covariance_m2[0], error[..., None])
        assert np.median(surprise) < 7.8  # 95 % of a chi-square with three degrees of freedom
        eigen = np.linalg.eigvalsh(result.covariance_m2[0].astype(float))
        assert (eigen > 0).all()


def test_live_the_last_camera_of_a_moment_knows_most() -> None:
    rig, seen = RigLifter(COCO17, RIG), views(THREE[:1])
    known = []
    for number, view in enumerate(seen):
        result = rig.lift(frame(number, number * 1_000_000), view.poses)
        known.append(bool((result.status == MEASURED).all()))
    assert known == [False, True, True, True]


def test_sights_of_another_time_do_not_count() -> None:
    rig, seen = RigLifter(COCO17, RIG, max_skew_s=0.02), views(THREE[:1])
    rig.see(frame(1, 10**9), seen[1].poses)
    late = rig.lift(frame(0, 10**9 + 20_000_001), seen[0].poses)
    assert (late.status == MISSING).all() and np.isnan(late.xyz_m).all()
    assert late.scale.tolist() == [ScaleSource.UNKNOWN]
    assert rig.world_ids("front", seen[0].poses.ids).tolist() == [0]
    assert (rig.lift(frame(1, 10**9 + 10_000_000), seen[1].poses).status == MEASURED).all()


def test_ids_stay_while_cameras_take_turns() -> None:
    rng, rig, told = np.random.default_rng(1), RigLifter(COCO17, RIG), []
    for step in range(20):
        people = [p + np.array([0.03 * step, 0, 0]) for p in THREE]
        for number, view in enumerate(views(people, rng)):
            # each camera a little before or after the others, never all in order
            stamp_ns = round(step * 1e9 / 30) + (5_000_000 if number % 2 else 0)
            rig.lift(frame(number, stamp_ns), view.poses)
        person = [rig.world_ids(name, np.array([100 * n + 1])) for n, name in enumerate(NAMES)]
        told.append(np.concatenate(person).tolist())
    assert told == [told[0]] * 20 and len(set(told[0])) == 1 and 1 <= told[0][0] <= 3


def test_who_is_seen_by_one_camera_only_is_unknown_and_the_others_are_not() -> None:
    seen = views(THREE[:2])
    alone = seen[0].poses.ids[1]
    others = [v._replace(poses=v.poses.select(v.poses.ids % 100 == 1)) for v in seen[1:]]
    rig = RigLifter(COCO17, RIG)
    result = lift_all(rig, [seen[0], *others])[0]
    row = int(np.flatnonzero(result.ids == alone)[0])
    assert (result.status[row] == MISSING).all() and (result.status[1 - row] == MEASURED).all()


@pytest.mark.parametrize("bad", ["no camera", "other size"])
def test_a_picture_without_its_calibration_tells_nothing(bad: str) -> None:
    rig, seen = RigLifter(COCO17, RIG), views(THREE[:1])
    for number in (1, 2):
        rig.see(frame(number), seen[number].poses)
    assert (rig.lift(frame(0), seen[0].poses).status == MEASURED).all()
    wrong = dataclasses.replace(frame(0, 1), camera=None if bad == "no camera" else VGA)
    assert (rig.lift(wrong, seen[0].poses).status == MISSING).all()
    assert (rig.lift(frame(1, 1), seen[1].poses).status == MEASURED).all()  # by camera 2


def test_nobody_and_starting_anew() -> None:
    rig, seen = RigLifter(COCO17, RIG), views(THREE[:1])
    assert len(rig.lift(frame(0), Poses2D.empty(17))) == 0
    lift_all(rig, seen, 10**9)
    assert rig.world_ids("front", seen[0].poses.ids).tolist() == [1]
    lift_all(rig, seen, 0)  # a bag that starts again
    assert rig.world_ids("front", seen[0].poses.ids).tolist() == [2]
    rig.reset()
    assert rig.world_ids("front", seen[0].poses.ids).tolist() == [0]
    lift_all(rig, seen, 10**9)
    assert rig.world_ids("front", seen[0].poses.ids).tolist() == [3]


def test_what_is_refused() -> None:
    with pytest.raises(CalibrationError, match="at least one camera"):
        RigLifter(COCO17, {})
    with pytest.raises(ShapeError, match="cam_from_world"):
        RigLifter(COCO17, {"front": np.eye(3)})
    with pytest.raises(CalibrationError, match="a rotation and a translation"):
        RigLifter(COCO17, {"front": 2 * np.eye(4)})
    rig = RigLifter(COCO17, RIG)
    unnamed = dataclasses.replace(frame(0), frame_id="kitchen")
    with pytest.raises(CalibrationError, match="'kitchen' is of no camera of the rig; known: fr"):
        rig.lift(unnamed, views(THREE[:1])[0].poses)


SCENE = Scene([person(2.7, -0.3), person(3.3, 0.5)])


@cache
def picture() -> Frame:
    return dataclasses.replace(SCENE.frame(), frame_id="camera")


def several() -> RigLifter:
    """The camera of `SCENE`, and one 0.8 m to its right that has seen everybody."""
    aside = np.eye(4)
    aside[0, 3] = -0.8
    rig = RigLifter(COCO17, {"camera": np.eye(4), "beside": aside})
    poses = SCENE.poses()
    xy = VGA.project(SCENE.truth() + aside[:3, 3]).astype(np.float32)
    other = dataclasses.replace(picture(), frame_id="beside")
    rig.see(other, Poses2D(poses.ids + 40, xy, poses.score, poses.std_px))
    return rig


WAYS: dict[ScaleSource, Callable[[np.ndarray], Lifter]] = {
    ScaleSource.DEPTH: lambda order: DepthLifter(COCO17),
    ScaleSource.MONO: lambda order: MonocularLifter(Oracle(SCENE.truth()[order] / STATURE_M)),
    ScaleSource.MULTIVIEW: lambda order: several(),
}


@pytest.mark.parametrize("source", WAYS)
def test_three_ways_with_one_signature(source: ScaleSource) -> None:
    """The same call, rows and units; how well each does is in its own tests."""
    poses, order, turned = SCENE.poses(), np.array([0, 1]), np.array([1, 0])
    lifter = WAYS[source](order)
    result = lifter.lift(picture(), poses)
    assert lifter.skeleton == COCO17 and result.ids.tolist() == poses.ids.tolist()
    assert (result.scale == source).all() and (result.status == MEASURED).mean() > 0.5
    error = np.linalg.norm(result.xyz_m - SCENE.truth(), axis=-1)
    assert np.nanmedian(error) < 0.2  # metres, in the camera's frame; one camera guesses statures
    again = WAYS[source](turned).lift(picture(), poses.select(turned))
    np.testing.assert_allclose(again.xyz_m, result.xyz_m[turned], atol=1e-4)
    assert len(lifter.lift(picture(), Poses2D.empty(17))) == 0
    blind = dataclasses.replace(picture(), camera=None, depth=None)
    assert np.isnan(lifter.lift(blind, poses).xyz_m).all()
    lifter.reset()
    assert np.isnan(lifter.lift(blind, poses).xyz_m).all()
