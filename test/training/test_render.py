"""Rendered pictures and their truth."""

from dataclasses import replace

import numpy as np
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training.raycast import meet_capsule
from pose_ros.training.render import Rendered, joint_visibility, render
from pose_ros.training.scene import (
    CameraPath,
    Person,
    Room,
    Scene,
    SceneConfig,
    Sensor,
    Thing,
    random_scene,
)
from pose_ros.training.scene_body import BOX, Look, Shapes
from pose_ros.training.walker import reach, walk

CAMERA = PinholeCamera.from_fov(240, 180, 55.0)
SCENE = random_scene(SceneConfig(seed=3, people=2, seconds=0.2, size_px=(240, 180)))


def standing(towards: float, wrist_behind: bool = False) -> Scene:
    """Somebody who faces +x, seen from the side of x that ``towards`` points to."""
    xyz_m = reach(0.1, 30, 0)[1][:1].copy()
    if wrist_behind:
        back = xyz_m[0, COCO17.index("left_hip")] + [-0.25, -0.09, 0.2]
        xyz_m[0, COCO17.index("left_wrist")] = back
    person = Person(np.zeros(1, np.int64), xyz_m, Look.random(np.random.default_rng(0)))
    path = CameraPath((towards * 3.2, 0.0, 1.2), (0.0, 0.0, 0.95))
    return Scene((person,), CAMERA, path, SCENE.room, SCENE.materials, frames=1)


def distance_to(shapes: Shapes, point: np.ndarray) -> float:
    """Least signed distance (in the primitives' own frames) of a world point: an oracle."""
    least = np.inf
    for n in range(len(shapes)):
        local = np.linalg.solve(shapes.axes[n], point - shapes.origin[n])
        if shapes.kind[n] == BOX:
            least = min(least, np.abs(local).max() - 1)
            continue
        s = np.linspace(0, 1, 400)
        centre = np.stack([0 * s, s * shapes.length[n], 0 * s], -1)
        radius = shapes.ends[n, 0] + s * (shapes.ends[n, 1] - shapes.ends[n, 0])
        least = min(least, (np.linalg.norm(local - centre, axis=-1) - radius).min())
    return float(least)


def test_joints_are_the_projected_world_joints():
    scene = replace(SCENE, path=replace(SCENE.path, kind="handheld", swing_rad=0.05))
    made = render(scene, 3)
    homogeneous = np.concatenate([made.xyz_world_m, np.ones((2, 17, 1))], -1)
    in_camera = homogeneous @ made.cam_from_world.T
    assert made.xyz_camera_m == pytest.approx(in_camera[..., :3], abs=1e-5)
    assert made.xy_px == pytest.approx(made.camera.project(made.xyz_camera_m), abs=1e-2)
    assert made.xyz_world_m == pytest.approx(
        np.stack([p.at(made.stamp_ns * 1e-9) for p in scene.people]), abs=1e-6
    )


def test_depth_is_where_a_ray_first_meets_the_body():
    made = render(SCENE, 0)
    shapes = SCENE.shapes_at(0.0)
    world_from_cam = np.linalg.inv(made.cam_from_world)
    rows, columns = np.nonzero(made.owner >= 0)
    for pick in np.random.default_rng(0).integers(0, len(rows), 25):
        pixel = np.array([columns[pick], rows[pick]], float)
        ray = made.camera.rays(pixel)
        depth = float(made.depth_m[rows[pick], columns[pick]])

        def at(t: float, ray: np.ndarray = ray) -> float:
            return distance_to(shapes, world_from_cam[:3, :3] @ (ray * t) + world_from_cam[:3, 3])

        assert abs(at(depth)) < 1e-3
        assert min(at(depth - back) for back in (0.02, 0.1, 0.3, 0.8)) > 0


def test_a_ray_along_a_capsule_and_a_ray_beside_it():
    x = np.array([[0.0, 0.3]], np.float32)
    way = [x, np.zeros_like(x), np.ones_like(x)]  # the capsule lies along y, 2 m ahead
    depth = meet_capsule(np.array([0.0, 0.5, -2.0]), way, 1.0, 0.2, 0.2)
    assert depth[0, 0] == pytest.approx(1.8, abs=1e-5)
    assert np.isinf(depth[0, 1])
    end_on = [np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), np.zeros((1, 1), "f4")]
    depth = meet_capsule(np.array([0.0, -3.0, 0.0]), end_on, 1.0, 0.2, 0.4)
    assert depth[0, 0] == pytest.approx(2.8, abs=1e-5)  # the near ball
    depth = meet_capsule(np.array([0.0, -3.0, 0.0]), end_on, 0.1, 0.2, 0.4)
    assert depth[0, 0] == pytest.approx(2.7, abs=1e-5)  # the far ball swallows the near one


def test_a_wrist_behind_the_trunk_is_occluded_and_seen_from_behind():
    wrist = COCO17.index("left_wrist")
    assert render(standing(1.0, wrist_behind=True), 0).visible[0, wrist] == 1
    assert render(standing(-1.0, wrist_behind=True), 0).visible[0, wrist] == 2


def test_faces_are_seen_from_the_front_only():
    face = slice(0, 3)  # nose and eyes
    assert (render(standing(1.0), 0).visible[0, face] == 2).all()
    assert (render(standing(-1.0), 0).visible[0, face] == 1).all()
    hips_and_shoulders = [COCO17.index(f"{s}_{j}") for s in ("left", "right")
                          for j in ("hip", "shoulder")]  # fmt: skip
    for side in (1.0, -1.0):
        assert (render(standing(side), 0).visible[0, hips_and_shoulders] == 2).all()


def test_a_board_in_front_hides_everybody_and_owns_its_pixels():
    scene = standing(1.0)
    board = Shapes.box(np.array([1.5, 0.0, 1.0]), np.array([0.02, 3.0, 1.0]), 0.0, 4)
    made = render(replace(scene, things=(Thing(board),)), 0)
    assert (made.visible == 1).all()
    assert (made.owner == -1).all()
    middle = made.depth_m[90, 120]
    assert middle == pytest.approx(3.2 - 1.52, abs=0.02)
    assert np.isfinite(made.box_xyxy_px).all()  # the box is of the whole body


def test_the_floor_and_the_walls_have_their_own_depth():
    scene = replace(standing(1.0), people=(), room=Room(low_m=(-4, -4, 0), high_m=(4, 4, 3),
                    floor=0, walls=(1, 1, 1, 1), ceiling=3))  # fmt: skip
    made = render(scene, 0)
    rays = made.camera.rays(np.stack(np.meshgrid(np.arange(240), np.arange(180)), -1))
    world = np.linalg.inv(made.cam_from_world)
    points = (rays * made.depth_m[..., None]) @ world[:3, :3].T + world[:3, 3]
    beside = np.min(
        [
            np.abs(points[..., 2]),
            3 - points[..., 2],
            *(4 - np.abs(points[..., k]) for k in (0, 1)),
        ],
        axis=0,
    )
    assert np.abs(beside).max() < 1e-4
    assert made.xy_px.shape == (0, 17, 2)


def test_sky_and_pictures_have_no_depth():
    picture = np.full((60, 80, 3), 77, np.uint8)
    made = render(replace(standing(1.0), room=Room("picture", picture=picture)), 0)
    assert np.isnan(made.depth_m[0, 0]) and made.rgb[0, 0].tolist() == [77, 77, 77]
    above = render(replace(standing(1.0), room=Room("open")), 0)
    assert np.isnan(above.depth_m[0, 0]) and np.isfinite(above.depth_m[-1, 0])


def test_joints_outside_the_image_are_not_labelled_visible():
    depth_m = np.full((10, 20), np.inf, np.float32)
    xy_px = np.array([[[-0.6, 3], [19.4, 9.4], [5, 10], [np.nan, np.nan]] + [[2, 2]] * 13])
    visible = joint_visibility(xy_px, np.ones((1, 17, 3)), depth_m, np.ones(1))
    assert visible[0, :5].tolist() == [0, 2, 0, 0, 2]


def test_blur_averages_the_exposure_and_leaves_the_truth_alone():
    stamps_ns, xyz_m = walk(1.0, 100, 0, speed_m_s=1.8)
    person = Person(stamps_ns, xyz_m, Look.random(np.random.default_rng(1)))
    sharp = replace(SCENE, people=(person,), things=(), frames=20)
    blurred = replace(sharp, sensor=Sensor(exposure_s=0.08, subframes=6))
    one, other = render(sharp, 10), render(blurred, 10)
    assert one.depth_m.tobytes() == other.depth_m.tobytes()
    assert one.xy_px.tobytes() == other.xy_px.tobytes()

    def edges(made: Rendered) -> float:
        body = made.rgb[made.owner.any(axis=1)].astype(float)
        return float(np.abs(np.diff(body, axis=1)).mean())

    assert edges(other) < 0.9 * edges(one)


def test_noise_and_darkness():
    plain = render(SCENE, 0).rgb.astype(float)
    dark = render(replace(SCENE, sensor=Sensor(brightness=0.4)), 0).rgb.astype(float)
    noisy = render(replace(SCENE, sensor=Sensor(noise=8.0)), 0).rgb.astype(float)
    assert dark.mean() == pytest.approx(0.4 * plain.mean(), rel=0.03)
    assert 7.0 < (noisy - plain)[(plain > 40) & (plain < 200)].std() < 20.0


def test_the_same_seed_gives_the_same_bytes():
    config = SceneConfig(
        seed=8, people=2, occluders=2, blur=True, noise=True, camera="orbit", size_px=(120, 90)
    )
    one, other = (render(random_scene(config), 2) for _ in range(2))
    assert one.rgb.tobytes() == other.rgb.tobytes()
    assert one.depth_m.tobytes() == other.depth_m.tobytes()
    another = render(random_scene(replace(config, seed=9)), 2)
    assert one.rgb.tobytes() != another.rgb.tobytes()


def test_a_distorted_lens_bends_picture_and_joints_alike():
    lens = replace(CAMERA, distortion=(-0.25, 0.05, 0.001, 0.0, 0.0))
    made = render(replace(standing(1.0), camera=lens), 0)
    straight = render(standing(1.0), 0)
    assert np.abs(made.xy_px - straight.xy_px).max() > 1.0
    inside = made.visible[0] > 0
    assert (made.visible[0][inside] == straight.visible[0][inside]).mean() > 0.8
    for joint in (COCO17.index("left_hip"), COCO17.index("right_knee")):
        x, y = np.rint(made.xy_px[0, joint]).astype(int)
        assert made.owner[y, x] == 0
    assert (made.owner == 0).sum() == pytest.approx((straight.owner == 0).sum(), rel=0.2)


def test_the_box_holds_the_body():
    made = render(SCENE, 0)
    for person in range(2):
        rows, columns = np.nonzero(made.owner == person)
        left, top, right, bottom = made.box_xyxy_px[person]
        assert left - 0.5 <= columns.min() and columns.max() <= right + 0.5
        assert top - 0.5 <= rows.min() and rows.max() <= bottom + 0.5
    made = render(standing(1.0), 0)
    rows, columns = np.nonzero(made.owner == 0)
    extent = [columns.min(), rows.min(), columns.max(), rows.max()]
    assert made.box_xyxy_px[0] == pytest.approx(extent, abs=4)


def test_a_frame_for_the_pipeline_carries_camera_and_depth():
    frame = render(SCENE, 1).frame("cam")
    assert frame.camera is SCENE.camera and frame.frame_id == "cam"
    assert frame.depth is not None and frame.depth.stamp_ns == frame.stamp_ns == 33333333


@pytest.mark.parametrize("frame", [-1, 6])
def test_a_frame_that_is_not_there_is_refused(frame):
    with pytest.raises(ConfigError, match="0 to 5"):
        render(SCENE, frame)


def test_bad_scenes_are_refused():
    with pytest.raises(ConfigError, match="orbit"):
        CameraPath((1, 0, 1), (0, 0, 1), "crane")
    for wrong in ({"room": "picture"}, {"people": -1}, {"fps": 0.0}, {"camera": "crane"}):
        with pytest.raises(ConfigError):
            random_scene(SceneConfig(**wrong))
    with pytest.raises(ShapeError, match="finite"):
        Person(
            np.zeros(1, np.int64), np.full((1, 17, 3), np.nan, np.float32), SCENE.people[0].look
        )
