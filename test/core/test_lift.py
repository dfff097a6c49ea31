"""Joints from depth images of rendered people: millimetres, statuses, and stated uncertainty."""

import dataclasses

import numpy as np
import pytest
from depth_scene import BENT, COCO17, VGA, I, Person, Scene, person

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.lift import DepthConfig, DepthLifter, depth_std_m
from pose_ros.core.skeletons import SKELETONS, convert
from pose_ros.core.values import DepthImage, Frame, KeypointStatus, Poses2D, Poses3D, ScaleSource
from pose_ros.errors import CalibrationError, ConfigError, ShapeError

MISSING, MEASURED, INFERRED, _, OUT = (int(s) for s in KeypointStatus)
BODY = np.arange(5, 17)
#: The lens centre is 1.1 m above the floor, so a wide board from here down hides the legs.
BOARD = np.array([[-2.0, 0.3, 1.9], [4.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
ARM = {"left_elbow": (0.2, 1.2, -0.2), "left_wrist": (0.02, 1.2, -0.35)}
ASIDE = np.eye(4)
ASIDE[:3, 3] = (-0.05, 0.002, 0.001)


def lift(scene: Scene, poses: Poses2D | None = None, frame: Frame | None = None) -> Poses3D:
    poses = scene.poses() if poses is None else poses
    return DepthLifter(COCO17).lift(frame or scene.frame(), poses)


def error_mm(scene: Scene, result: Poses3D) -> np.ndarray:
    return 1000 * np.linalg.norm(result.xyz_m - scene.truth(), axis=-1)


def with_score(poses: Poses2D, joints: list[str], score: float) -> Poses2D:
    new = poses.score.copy()
    new[:, [I[j] for j in joints]] = score
    return dataclasses.replace(poses, score=new)


def moved(poses: Poses2D, joint: str, by_px: tuple[float, float]) -> Poses2D:
    xy = poses.xy_px.copy()
    xy[:, I[joint]] += by_px
    return dataclasses.replace(poses, xy_px=xy)


def surprise(result: Poses3D, truth: np.ndarray) -> np.ndarray:
    """(P, J) squared error in standard deviations; NaN where unknown."""
    error = (result.xyz_m - truth).astype(float)[..., None]
    known = np.isfinite(error[..., 0, 0])
    covariance = np.where(known[..., None, None], result.covariance_m2, np.eye(3)).astype(float)
    return (np.swapaxes(error, -1, -2) @ np.linalg.solve(covariance, np.nan_to_num(error)))[
        ..., 0, 0
    ] + np.where(known, 0.0, np.nan)


@pytest.mark.parametrize("camera", [VGA, BENT])
@pytest.mark.parametrize("wall_m", [5.0, 2.9])
def test_a_person_before_a_wall(camera: PinholeCamera, wall_m: float) -> None:
    scene = Scene([person(2.7, aside_m=0.2)], wall_m=wall_m)
    result = lift(scene, scene.poses(camera), scene.frame(camera))
    assert (result.status == MEASURED).all()
    assert error_mm(scene, result)[:, BODY].max() < 15
    assert error_mm(scene, result).max() < 60  # an ear: the cheek before it is seen too
    assert result.scale.tolist() == [ScaleSource.DEPTH]
    assert np.isnan(result.velocity_m_s).all() and np.isnan(result.speed_std_m_s).all()


def test_an_arm_before_the_torso_and_a_hand_before_the_hip() -> None:
    hand = {"right_elbow": (-0.3, 1.13, -0.1), "right_wrist": (-0.14, 0.95, -0.19)}
    scene = Scene([person(moved=ARM | hand)])
    result = lift(scene)
    assert (result.status == MEASURED).all()
    assert error_mm(scene, result)[:, BODY].max() < 40


def test_an_outstretched_arm_is_uncertain_where_the_hand_hides_it() -> None:
    reach = {"left_elbow": (0.2, 1.35, -0.25), "left_wrist": (0.2, 1.38, -0.5)}
    scene = Scene([person(moved=reach)])
    assert (surprise(lift(scene), scene.truth())[:, BODY] < 11.3).all()  # 99 %


@pytest.mark.parametrize("gap", [0.4, 0.6, 1.0])
def test_legs_behind_a_board_are_inferred_not_put_on_the_board(gap: float) -> None:
    board = BOARD.copy()
    board[0, 2] = 2.5 - gap
    scene = Scene([person()], boards=[board])
    result = lift(scene)
    legs = [I[f"{s}_{j}"] for s in ("left", "right") for j in ("knee", "ankle")]
    assert (result.status[0, legs] == INFERRED).all()
    assert error_mm(scene, result)[0, legs].max() < 120
    assert (np.sqrt(result.covariance_m2[0, legs, 2, 2]) > 0.1).all()
    assert (surprise(result, scene.truth())[0] < 11.3).all()
    assert (result.status[0, BODY[:6]] == MEASURED).all()


def test_a_wrist_whose_pixel_is_on_the_wall_is_not_on_the_wall() -> None:
    scene = Scene([person()])
    result = lift(scene, moved(scene.poses(), "left_wrist", (40, 0)))
    assert result.status[0, I["left_wrist"]] == INFERRED
    assert abs(result.xyz_m[0, I["left_wrist"], 2] - 2.5) < 0.2
    others = np.delete(BODY, I["left_wrist"] - 5)
    assert error_mm(scene, result)[0, others].max() < 15


def test_a_hole_over_the_wrist() -> None:
    scene = Scene([person()])
    depth = scene.render(VGA)
    x, y = VGA.project(scene.truth()[0, I["left_wrist"]]).astype(int)
    depth[y - 25 : y + 26, x - 25 : x + 26] = np.nan
    result = lift(scene, frame=scene.frame(depth_m=depth))
    assert result.status[0, I["left_wrist"]] == INFERRED
    assert error_mm(scene, result)[0, I["left_wrist"]] < 150
    assert (surprise(result, scene.truth())[0] < 11.3).all()


def test_half_of_the_pixels_missing_everywhere() -> None:
    scene = Scene([person()])
    depth = scene.render(VGA)
    depth[np.random.default_rng(0).random(depth.shape) < 0.5] = np.nan
    result = lift(scene, frame=scene.frame(depth_m=depth))
    assert (result.status[0, BODY] == MEASURED).all()
    assert error_mm(scene, result)[0, BODY].max() < 25


def test_far_side_of_a_person_in_profile_is_not_on_the_near_side() -> None:
    scene = Scene([person(3.0, turn_deg=90)])  # the right side is near
    far = [f"left_{j}" for j in ("ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")]
    result = lift(scene, with_score(scene.poses(), far, 0.35))
    status, error = result.status[0], error_mm(scene, result)[0]
    near = [I[j.replace("left", "right")] for j in far[1:]]
    assert (status[near] == MEASURED).all() and error[near].max() < 100  # a hand before the hip
    assert (status[[I[j] for j in far]] == INFERRED).sum() >= 5
    assert (surprise(result, scene.truth())[0, BODY] < 16.3).all()  # 99.9 %


def test_two_people_one_partly_behind_the_other() -> None:
    scene = Scene([person(2.7, -0.25), person(3.9, 0.15)])
    poses = scene.poses()
    result = lift(scene, poses)
    assert error_mm(scene, result)[0, BODY].max() < 25
    there = result.status[1] == MEASURED
    assert there.sum() >= 8
    assert error_mm(scene, result)[1][there & (np.arange(17) > 4)].max() < 150
    assert (result.xyz_m[1, result.status[1] == INFERRED, 2] > 3.3).all()


def test_people_do_not_change_each_other() -> None:
    scene = Scene([person(2.5, -0.8), person(3.0, 0.1, 30), person(3.6, 1.1)])
    frame, poses = scene.frame(), scene.poses()
    together = lift(scene, poses, frame)
    order = np.array([2, 0, 1])
    shuffled = lift(scene, poses.select(order), frame)
    np.testing.assert_array_equal(shuffled.xyz_m, together.xyz_m[order])
    for row in range(3):
        alone = lift(scene, poses.select(np.array([row])), frame)
        np.testing.assert_allclose(alone.xyz_m[0], together.xyz_m[row], atol=1e-5)


@pytest.mark.parametrize("camera", [VGA, BENT])
def test_an_unregistered_depth_camera_gives_the_same_people(camera: PinholeCamera) -> None:
    scene = Scene([person(2.7, -0.3), person(3.3, 0.5)])
    own = PinholeCamera(512, 424, 365.0, 365.0, 256.0, 208.0)
    picture = scene.render(own, np.linalg.inv(ASIDE))
    frame = dataclasses.replace(scene.frame(camera), depth=DepthImage(picture, 10**9, own, ASIDE))
    result = lift(scene, scene.poses(camera), frame)
    assert (result.status[:, BODY] == MEASURED).all()
    assert error_mm(scene, result)[:, BODY].max() < 25


def test_a_registered_depth_image_of_half_the_size() -> None:
    scene = Scene([person()])
    half = VGA.binned(2, 2)
    frame = dataclasses.replace(scene.frame(), depth=DepthImage(scene.render(half), 10**9, half))
    assert error_mm(scene, lift(scene, frame=frame))[:, BODY].max() < 15


def test_a_person_cut_at_the_border() -> None:
    scene = Scene([person(1.6, 0.6)])
    result = lift(scene)
    outside = result.status[0] == OUT
    assert outside[[I["left_ankle"], I["right_ankle"]]].all() and not outside.all()
    assert np.isnan(result.xyz_m[0, outside]).all() and (result.score[0, outside] == 0).all()
    seen = (result.status[0] == MEASURED) & (np.arange(17) > 4)
    assert seen.sum() >= 5 and error_mm(scene, result)[0, seen].max() < 40


def test_all_joints_missing_and_nobody() -> None:
    scene = Scene([person()])
    poses = scene.poses()
    blank = Poses2D(poses.ids, np.full_like(poses.xy_px, np.nan), np.zeros_like(poses.score))
    result = lift(scene, blank)
    assert (result.status == MISSING).all() and np.isnan(result.xyz_m).all()
    assert result.scale.tolist() == [ScaleSource.UNKNOWN]
    assert len(lift(scene, Poses2D.empty(17))) == 0


def test_two_joints_are_believed_and_one_is_not() -> None:
    scene = Scene([person()])
    for joints, count in ((["left_hip", "left_knee"], 2), (["left_hip"], 0)):
        others = [j for j in COCO17.joints if j not in joints]
        result = lift(scene, with_score(scene.poses(), others, 0.0))
        measured = result.status[0] == MEASURED
        assert measured.sum() == count
        assert np.isnan(result.xyz_m[0, result.status[0] == MISSING]).all()
        assert not count or error_mm(scene, result)[0, measured].max() < 20


def test_a_person_of_whom_the_depth_image_shows_nothing() -> None:
    scene = Scene([person()])
    empty = np.full((480, 640), np.nan, np.float32)
    background = np.full((480, 640), 7.5, np.float32)
    assert (lift(scene, frame=scene.frame(depth_m=empty)).status == MISSING).all()
    far = lift(scene, frame=scene.frame(depth_m=background))
    assert (far.status == MISSING).all()  # a 5 m tall person is not one


@pytest.mark.parametrize("wall_m", [4.1, 4.6, 5.5, 7.0])
@pytest.mark.parametrize("turn_deg", [0, 55])
def test_a_person_of_whom_only_the_wall_behind_is_measured(wall_m: float, turn_deg: int) -> None:
    """Sensors lose dark clothes: then the depth around a person is that of the background."""
    scene = Scene([person(2.5, turn_deg=turn_deg)])
    result = lift(scene, frame=scene.frame(depth_m=np.full((480, 640), wall_m, np.float32)))
    assert (result.status == MISSING).all() and np.isnan(result.xyz_m).all()
    assert result.scale.tolist() == [ScaleSource.UNKNOWN]


@pytest.mark.parametrize("size", [0.6, 1.0, 1.25])
def test_children_and_tall_people_are_believed(size: float) -> None:
    """0.6 to 1.25 times the person of the other tests: 1.0 m to 2.1 m."""
    scene = Scene([person(2.5)])
    # what is `size` times as far away and as large looks the same
    depth = (size * scene.render(VGA)).astype(np.float32)
    result = lift(scene, frame=scene.frame(depth_m=depth))
    limbs = result.xyz_m[0, BODY] - size * scene.truth()[0, BODY]
    assert (result.status[0, BODY] == MEASURED).all()
    assert np.linalg.norm(limbs, axis=-1).max() < 0.08


@pytest.mark.parametrize("change", ["no depth", "no camera", "other K", "late", "early"])
def test_a_depth_image_that_does_not_belong_to_the_picture(change: str) -> None:
    scene, lifter = Scene([person()]), DepthLifter(COCO17)
    late = {"late": 10**9 + 30_000_001, "early": 10**9 - 40_000_000}.get(change, 10**9)
    frame = scene.frame(stamp_ns=late)
    frame = dataclasses.replace(frame, depth=None) if change == "no depth" else frame
    frame = dataclasses.replace(frame, camera=None) if change == "no camera" else frame
    other = PinholeCamera.from_fov(1280, 960, 60.0)
    frame = dataclasses.replace(frame, camera=other) if change == "other K" else frame
    result = lifter.lift(frame, scene.poses())
    assert (result.status == MISSING).all() and np.isnan(result.xyz_m).all()
    keys = {"no depth": "no_depth", "no camera": "no_camera", "other K": "wrong_camera"}
    key = keys.get(change, "skew")
    assert lifter.counts == {"frames": 1, key: 1}
    lifter.lift(scene.frame(stamp_ns=10**9 + 29_000_000), scene.poses())
    assert lifter.counts["measured"] == 17


def test_sizes_and_ranges_that_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"expected shape \(480, 640\)"):
        DepthImage(np.zeros((240, 320), np.float32), 0, VGA)
    with pytest.raises(CalibrationError, match="an all-zero K"):
        PinholeCamera(640, 480, 0.0, 0.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="max_skew_s"):
        DepthConfig(max_skew_s=-1.0)


def test_uncertainty_by_hand() -> None:
    """Across the ray std_px z / f; along it the sensor, the flesh and the patch."""
    wall = Scene([], wall_m=2.0)
    pixels = VGA.project(person(2.0).joints)[None].astype(np.float32)
    score = np.full((1, 17), 0.9, np.float32)
    poses = Poses2D(np.array([1]), pixels, score, np.full((1, 17), 4.0, np.float32))
    result = lift(wall, poses)
    hip = I["left_hip"]
    ray = result.xyz_m[0, hip] / np.linalg.norm(result.xyz_m[0, hip])
    along = ray @ result.covariance_m2[0, hip] @ ray
    side = np.cross(ray, [0, 1, 0]) / np.linalg.norm(np.cross(ray, [0, 1, 0]))
    across = side @ result.covariance_m2[0, hip] @ side
    assert across == pytest.approx((4.0 * result.xyz_m[0, hip, 2] / 570.0) ** 2, rel=1e-3)
    # The patch expects a round hip: its rim, 0.55 widths aside, 16 % of 0.1 m behind the middle;
    # half of that is the spread.
    flesh = 0.01**2 + (0.3 * 0.1) ** 2
    assert along == pytest.approx(depth_std_m(2.1) ** 2 + flesh + 0.008**2, rel=0.05)
    assert depth_std_m(0.4) == pytest.approx(0.0012)  # by the published equation


@pytest.mark.parametrize("name", sorted(SKELETONS))
def test_every_joint_set(name: str) -> None:
    scene, skeleton = Scene([person()]), SKELETONS[name]
    poses = scene.poses()
    xy, score = convert(poses.xy_px, poses.score, COCO17, skeleton)
    truth, _ = convert(scene.truth().astype(np.float32), poses.score, COCO17, skeleton)
    result = DepthLifter(skeleton).lift(scene.frame(), Poses2D(poses.ids, xy, score))
    limb = [i for i, j in enumerate(skeleton.joints) if j.split("_")[-1] in
            ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")]  # fmt: skip
    assert (result.status[0, limb] == MEASURED).all()
    assert np.linalg.norm(result.xyz_m - truth, axis=-1)[0, limb].max() < 0.02


def random_person(rng: np.random.Generator) -> Person:
    arms: dict[str, tuple[float, float, float]] = {}
    choice = (
        {},
        {"elbow": (0.2, 1.2, -0.2), "wrist": (0.05, 1.15, -0.32)},
        {"elbow": (0.42, 1.3, -0.1), "wrist": (0.5, 1.52, -0.15)},
        {"elbow": (0.22, 1.14, -0.12), "wrist": (0.22, 1.10, -0.36)},
    )
    for side, sign in (("left", 1), ("right", -1)):
        for joint, (x, y, z) in choice[rng.integers(4)].items():
            arms[f"{side}_{joint}"] = (sign * x, y, z)
    return person(rng.uniform(1.6, 4), rng.uniform(-0.3, 0.3), rng.uniform(-75, 75), arms)


def test_stated_ellipsoids_hold_the_truth() -> None:
    """Noise of pixels and depth as stated; what is hidden from the camera, the network doubts."""
    rng = np.random.default_rng(7)
    lifter, inside, status = DepthLifter(COCO17), [], []
    for _ in range(40):
        scene = Scene([random_person(rng)], wall_m=rng.uniform(4.6, 7))
        depth = scene.render(VGA)
        exact = scene.poses(std_px=3.0)
        xy = exact.xy_px + 3.0 * rng.normal(size=exact.xy_px.shape)
        x, y = np.clip(np.rint(exact.xy_px[0]).astype(int), 0, (639, 479)).T
        hidden = scene.truth()[0, :, 2] - depth[y, x] > lifter._body.thickness_m + 0.07
        score = np.where(hidden, 0.4, 0.9).astype(np.float32)[None]
        noisy = (depth + depth_std_m(depth) * rng.normal(size=depth.shape)).astype(np.float32)
        poses = Poses2D(exact.ids, xy.astype(np.float32), score, exact.std_px)
        result = lifter.lift(scene.frame(depth_m=noisy), poses)
        inside.append(surprise(result, scene.truth())[0] < 7.815)  # 95 %, three dimensions
        status.append(result.status[0])
    hit, kind = np.concatenate(inside), np.concatenate(status)
    for which in (kind == MEASURED, (kind == MEASURED) | (kind == INFERRED)):
        assert 0.90 < hit[which].mean() < 0.98
    assert (kind == MEASURED).sum() > 500
