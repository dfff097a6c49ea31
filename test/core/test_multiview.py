"""Who is who in several views, and over time."""

import dataclasses

import numpy as np
import pytest
from depth_scene import COCO17, person
from test_triangulate import CAMERAS, POSES

from pose_ros.core.multiview import MultiViewConfig, MultiViewLifter, View
from pose_ros.core.values import KeypointStatus, Poses2D, ScaleSource
from pose_ros.errors import ConfigError, ShapeError

#: From the camera axes of ``person`` (x right, y down, z away) to a world with z up.
TO_WORLD = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])


def standing(x: float, y: float, turn_deg: float = 0.0) -> np.ndarray:
    """(17, 3) joints of somebody standing at (x, y) of the world's floor."""
    return person(0.0, 0.0, turn_deg, eye_level_m=0.0).joints @ TO_WORLD.T + [x, y, 0.0]


def views(
    people: list[np.ndarray], rng: np.random.Generator | None = None, std_px: float = 2.0
) -> list[View]:
    """What the four cameras see; in each, the people have other ids and another order."""
    out = []
    for number, (camera, pose) in enumerate(zip(CAMERAS, POSES, strict=True)):
        points = np.array(people).reshape(-1, 17, 3)
        xy = camera.project(points @ pose[:3, :3].T + pose[:3, 3])
        if rng is not None:
            xy = xy + std_px * rng.normal(size=xy.shape)
        order = np.roll(np.arange(len(points)), number)
        score = np.full(xy.shape[:2], 0.8, np.float32)
        spread = np.full_like(score, std_px)
        ids = np.arange(len(points)) + 100 * number + 1
        poses = Poses2D(ids, xy.astype(np.float32), score, spread).select(order)
        out.append(View(camera, pose, poses))
    return out


def without(view: View, rows: list[int]) -> View:
    keep = np.setdiff1d(np.arange(len(view.poses)), rows)
    return view._replace(poses=view.poses.select(keep))


def without_joint(view: View, joint: int) -> View:
    xy, score = view.poses.xy_px.copy(), view.poses.score.copy()
    xy[:, joint], score[:, joint] = np.nan, 0.0
    return view._replace(poses=dataclasses.replace(view.poses, xy_px=xy, score=score))


THREE = [standing(0.0, 0.0), standing(0.7, 0.5, 60.0), standing(-0.6, 0.6, -100.0)]


def test_three_people_in_four_views() -> None:
    found = MultiViewLifter(COCO17).update(views(THREE), 0)
    assert found.ids.tolist() == [1, 2, 3]
    distance = np.linalg.norm(found.xyz_m[:, None] - np.array(THREE)[None], axis=-1).mean(axis=-1)
    assert sorted(distance.argmin(axis=1)) == [0, 1, 2] and distance.min(axis=1).max() < 0.001
    assert (found.status == KeypointStatus.MEASURED).all()
    assert (found.scale == ScaleSource.MULTIVIEW).all()
    np.testing.assert_allclose(found.score, 0.8, atol=1e-6)
    assert np.isnan(found.velocity_m_s).all()


def test_ids_stay_while_people_walk_and_cross() -> None:
    rng, lifter = np.random.default_rng(0), MultiViewLifter(COCO17)
    for step in range(40):
        x = -1.0 + step * 0.05
        people = [standing(x, 0.0), standing(-x, 0.35, 90.0)]
        found = lifter.update(views(people, rng), round(step * 1e9 / 30))
        assert found.ids.tolist() == [1, 2]
        order = np.argsort([np.linalg.norm(found.xyz_m[0, 11] - p[11]) for p in people])
        if step == 0:
            first = order[0]
        assert order[0] == first
        error = np.linalg.norm(found.xyz_m[0] - people[first], axis=-1)
        assert np.nanmedian(error) < 0.02


def test_ids_of_a_view_that_are_swapped_do_not_swap_the_people() -> None:
    lifter = MultiViewLifter(COCO17)
    one = views(THREE[:2])
    before = lifter.update(one, 0)
    ids = one[2].poses.ids[::-1].copy()
    wrong = Poses2D(ids, one[2].poses.xy_px, one[2].poses.score, one[2].poses.std_px)
    after = lifter.update([one[0], one[1], one[2]._replace(poses=wrong), one[3]], 10**8)
    assert after.ids.tolist() == before.ids.tolist()
    np.testing.assert_allclose(after.xyz_m, before.xyz_m, atol=1e-4)


def test_who_is_seen_by_one_camera_has_no_place() -> None:
    seen = views(THREE[:2])
    alone = [seen[0], *(View(v.camera, v.cam_from_world, Poses2D.empty(17)) for v in seen[1:])]
    assert len(MultiViewLifter(COCO17).update(alone, 0)) == 0
    two = MultiViewLifter(COCO17).update([seen[0], without(seen[1], [1]), *alone[2:]], 0)
    assert len(two) == 1


def test_a_person_comes_back() -> None:
    lifter = MultiViewLifter(COCO17, MultiViewConfig(max_lost_s=0.5))
    both, one = views(THREE[:2]), views(THREE[:1])
    assert lifter.update(both, 0).ids.tolist() == [1, 2]
    stays = lifter.update(one, 10**8)
    assert len(stays) == 1
    gone = ({1, 2} - set(stays.ids.tolist())).pop()
    assert gone in lifter.update(both, 4 * 10**8).ids
    lifter.update(one, 5 * 10**8)
    late = lifter.update(both, 2 * 10**9).ids.tolist()  # 1.5 s later: somebody new
    assert gone not in late and 3 in late


@pytest.mark.parametrize(
    ("away_m", "after_s", "same"),
    [(0.3, 0.033, True), (0.8, 0.033, False), (1.2, 0.5, True), (2.5, 0.5, False)],
)
def test_nobody_s_id_goes_to_somebody_too_far_away(
    away_m: float, after_s: float, same: bool
) -> None:
    """0.4 m, and 3 m/s; the views know their own people under other ids then."""
    lifter = MultiViewLifter(COCO17)
    first = lifter.update(views([standing(-0.8, 0.0)]), 10**9)
    then = [
        v._replace(poses=dataclasses.replace(v.poses, ids=v.poses.ids + 50))
        for v in views([standing(-0.8 + away_m, 0.0)])
    ]
    found = lifter.update(then, 10**9 + round(after_s * 1e9))
    assert (found.ids.tolist() == first.ids.tolist()) is same


def test_going_back_in_time_starts_anew_with_new_ids() -> None:
    lifter = MultiViewLifter(COCO17)
    lifter.update(views(THREE[:1]), 10**9)
    assert lifter.update(views(THREE[:1]), 0).ids.tolist() == [2]


def test_nobody_anywhere_and_no_camera() -> None:
    lifter = MultiViewLifter(COCO17)
    assert len(lifter.update(views([]), 0)) == 0
    blank = [
        v._replace(poses=Poses2D(v.poses.ids, v.poses.xy_px * np.nan, v.poses.score * 0))
        for v in views(THREE)
    ]
    assert len(lifter.update(blank, 1)) == 0
    assert len(lifter.update([], 2)) == 0


def test_a_hidden_joint_is_missing_and_nothing_else_changes() -> None:
    seen = views(THREE[:1])
    for view in seen[1:]:
        view.poses.score[0, 9] = 0.05
    found = MultiViewLifter(COCO17).update(seen, 0)
    assert found.status[0, 9] == KeypointStatus.MISSING and np.isnan(found.xyz_m[0, 9]).all()
    assert found.score[0, 9] == 0 and (np.delete(found.status[0], 9) == 1).all()


def test_a_joint_that_no_body_has_there_is_missing() -> None:
    """Two of the views agree on a wrong place: the first two see the wrist a metre off."""
    wrist = COCO17.index("left_wrist")
    people = [THREE[0].copy(), THREE[1]]
    right = views(people)
    people[0][wrist] += [0.9, 0.3, 0.4]
    wrong = views(people)
    mixed = wrong[:2] + [without_joint(view, wrist) for view in right[2:]]
    found = MultiViewLifter(COCO17).update(mixed, 0)
    row = int(np.linalg.norm(found.xyz_m[:, 11] - THREE[0][11], axis=-1).argmin())
    assert found.status[row, wrist] == KeypointStatus.MISSING and found.score[row, wrist] == 0
    assert np.isnan(found.xyz_m[row, wrist]).all()
    assert np.isnan(found.covariance_m2[row, wrist]).all()
    others = np.delete(np.arange(17), wrist)
    np.testing.assert_allclose(found.xyz_m[row, others], THREE[0][others], atol=1e-4)
    assert (found.status[1 - row] == KeypointStatus.MEASURED).all()


def test_people_of_all_sizes_and_noisy_views_keep_their_joints() -> None:
    rng = np.random.default_rng(4)
    for size in (0.5, 1.0, 1.25):
        people = [size * standing(0.0, 0.0, 40.0), size * standing(0.9, 0.3)]
        found = MultiViewLifter(COCO17).update(views(people, rng, 4.0), 0)
        assert (found.status == KeypointStatus.MEASURED).mean() > 0.97


def test_the_order_of_people_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    seen = views(THREE, rng)
    mixed = [v._replace(poses=v.poses.select(rng.permutation(3))) for v in seen]
    a, b = (MultiViewLifter(COCO17).update(v, 0).xyz_m for v in (seen, mixed))
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1).max(axis=-1)
    assert apart.min(axis=1).max() < 1e-4


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="match_max"):
        MultiViewConfig(match_max=100.0)
    bad = views(THREE[:1])
    bad[0] = bad[0]._replace(cam_from_world=np.eye(3))
    with pytest.raises(ShapeError, match="cam_from_world"):
        MultiViewLifter(COCO17).update(bad, 0)
