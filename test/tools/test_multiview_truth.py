"""Calibration files and reference bodies: what cameras see of a walker becomes the walker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.multiview import View
from pose_ros.core.values import Poses2D, Poses3D
from pose_ros.errors import CalibrationError, ConfigError
from pose_ros.tools import multiview_truth
from pose_ros.tools.multiview_truth import follow, match, refine_rotations, smooth, turned
from pose_ros.tools.pose2sim_calibration import read_cameras
from pose_ros.training.evaluate_lifter import read_truth

FRAMES = 24
CAMERA = PinholeCamera(640, 480, 500.0, 500.0, 319.5, 239.5, (-0.05, 0.1, 0.001, -0.001))
#: A standing person in metres, x to the person's left, y down: nose to ankles as COCO has them.
BODY = np.array(
    [[0, -1.60, 0.1], [0.03, -1.63, 0.08], [-0.03, -1.63, 0.08], [0.08, -1.6, 0], [-0.08, -1.6, 0],
     [0.18, -1.4, 0], [-0.18, -1.4, 0], [0.25, -1.1, 0], [-0.25, -1.1, 0], [0.27, -0.85, 0.1],
     [-0.27, -0.85, 0.1], [0.12, -0.9, 0], [-0.12, -0.9, 0], [0.12, -0.48, 0.03],
     [-0.12, -0.48, 0.03], [0.12, -0.05, 0], [-0.12, -0.05, 0]]
)  # fmt: skip


def around(angle_deg: float, away_m: float) -> np.ndarray:
    """Pose of a camera that looks at (0, -1, 0) from ``away_m``, y down."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", angle_deg, degrees=True).as_matrix()
    pose[:3, 3] = pose[:3, :3] @ [0, 1.0, 0] + [0, 0, away_m]
    return pose


POSES = np.stack([around(0, 4.0), around(70, 4.5), around(-60, 4.2)])


def walk(x_m: float) -> np.ndarray:
    """(T, J, 3) a person who walks by, swinging the wrists."""
    t = np.arange(FRAMES) / 30.0
    out = np.repeat(BODY[None], FRAMES, axis=0) + x_m * np.eye(3)[0]
    out[..., 0] += 0.5 * t[:, None]
    out[:, 9:11, 2] += 0.2 * np.sin(6 * t)[:, None] * np.array([1, -1])
    return out


def sights(bodies: list[np.ndarray], noise_px: float = 0.0) -> list[list[Poses2D]]:
    """What each camera sees in each frame; every view counts its people in another order."""
    rng = np.random.default_rng(3)
    views = []
    for v, pose in enumerate(POSES):
        order = np.roll(np.arange(len(bodies)), v)
        xyz = np.stack([bodies[i] for i in order], axis=1)
        xy = CAMERA.project(xyz @ pose[:3, :3].T + pose[:3, 3])
        xy += noise_px * rng.standard_normal(xy.shape)
        score = np.full((len(bodies), 17), 0.9, np.float32)
        views.append([Poses2D(order + 10 * v + 1, f.astype(np.float32), score) for f in xy])
    return views


TOML = """
[cam_a]
name = "cam_a"
size = [ 640.0, 480.0]
matrix = [ [ 500.0, 0.0, 319.5], [ 0.0, 510.0, 239.5], [ 0.0, 0.0, 1.0]]
distortions = [ -0.05, 0.1, 0.001, -0.001]
rotation = [ 0.0, 1.5707963267948966, 0.0]
translation = [ 0.1, 0.2, 3.0]
fisheye = false

[metadata]
adjusted = false
error = 0.0
"""


def test_a_toml_camera_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A quarter turn about y takes x to -z; the point then moves by the translation."""
    path = tmp_path / "calib.toml"
    path.write_text(TOML, encoding="utf-8")
    (camera,), poses = read_cameras(path)
    assert (camera.width_px, camera.height_px) == (640, 480)
    assert (camera.fx_px, camera.fy_px, camera.cx_px, camera.cy_px) == (500.0, 510.0, 319.5, 239.5)
    assert camera.distortion == (-0.05, 0.1, 0.001, -0.001)
    assert poses[0] @ [1, 0, 0, 1] == pytest.approx([0.1, 0.2, 2.0, 1])


def qualisys(**transform: float) -> str:
    """One camera of 100 x 200 px whose focal length is 300 px."""
    place = " ".join(f'{k}="{v}"' for k, v in transform.items())
    return (
        "<?xml version='1.0'?><calibration><cameras><camera serial='a'>"
        '<fov_video left="0" right="99" top="0" bottom="199"/>'
        f"<transform {place}/>"
        '<intrinsic focalLengthU="19200" focalLengthV="19200" centerPointU="3200" '
        'centerPointV="6400" radialDistortion1="-0.1" radialDistortion2="0.2" '
        'radialDistortion3="0.3" tangentalDistortion1="0.01" tangentalDistortion2="0.02"/>'
        "</camera></cameras></calibration>"
    )


def test_a_qualisys_camera_looks_along_its_negative_z(tmp_path: Path) -> None:
    """Unturned at 2 m height, it looks down: the origin lies 2 m ahead, +y is up in the image."""
    identity = {f"r{i}{j}": float(i == j) for i in (1, 2, 3) for j in (1, 2, 3)}
    path = tmp_path / "calib.qca.txt"
    path.write_text(qualisys(**identity, x=0.0, y=0.0, z=2000.0), encoding="utf-8")
    (camera,), poses = read_cameras(path)
    assert (camera.width_px, camera.height_px, camera.fx_px) == (100, 200, 300.0)
    assert (camera.cx_px, camera.cy_px) == (50.0, 100.0)
    assert camera.distortion == (-0.1, 0.2, 0.01, 0.02, 0.3)
    assert poses[0] @ [0, 0, 0, 1] == pytest.approx([0, 0, 2.0, 1])
    assert poses[0] @ [0, 1, 0, 1] == pytest.approx([0, -1.0, 2.0, 1])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "[cam]\nsize = [1, 2]\n"),
        ("a.toml", "no toml"),
        ("a.toml", TOML.replace("fisheye = false", "fisheye = true")),
        ("a.toml", "[metadata]\nerror = 0.0\n"),
        ("a.txt", "no xml"),
        ("a.txt", "<calibration><cameras><camera/></cameras></calibration>"),
        ("a.txt", "<calibration/>"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(CalibrationError, match="expected"):
        read_cameras(tmp_path / name)
    with pytest.raises(CalibrationError, match="absent"):
        read_cameras(tmp_path / "absent.toml")


def stamps() -> np.ndarray:
    return np.round(np.arange(FRAMES) * 1e9 / 30).astype(np.int64)


def test_two_people_are_followed_through_three_views() -> None:
    bodies = [walk(-0.6), walk(0.6)]
    views = sights(bodies)
    people = follow([CAMERA] * 3, POSES, views, stamps())
    assert len(people) == 2
    nose = [[CAMERA.project(b[0, 0] @ p[:3, :3].T + p[:3, 3]) for p in POSES] for b in bodies]
    shown = []
    for sight in people.values():
        assert (sight.score > 0).all()
        near = np.linalg.norm(sight.xy_px[:, 0, 0] - np.array(nose), axis=-1) < 0.01
        shown.append(near.all(axis=1).tolist())  # all views show the same one
    assert sorted(shown) == [[False, True], [True, False]]


def test_who_is_seen_by_two_of_three_views_is_no_reference() -> None:
    views = sights([walk(0.0)])
    views[2] = [Poses2D.empty(17)] * FRAMES
    assert follow([CAMERA] * 3, POSES, views, stamps()) == {}
    assert len(follow([CAMERA] * 2, POSES[:2], views[:2], stamps())) == 1


def test_nobody_matches_nobody() -> None:
    view = View(CAMERA, POSES[0], Poses2D.empty(17))
    assert match(view, Poses3D.unknown(np.zeros(0, np.int64), 17)) == []
    assert match(view, Poses3D.unknown(np.array([1]), 17)) == []


def test_turned_cameras_are_turned_back() -> None:
    """Cameras turned by 0.3 degrees, each about another axis; pixels are exact."""
    wrong = turned(POSES, np.radians(0.3) * np.eye(3))
    centre = [-p[:3, :3].T @ p[:3, 3] for p in (*POSES, *wrong)]
    assert np.allclose(centre[:3], centre[3:])
    people = follow([CAMERA] * 3, wrong, sights([walk(0.0)]), stamps())
    better, degrees = refine_rotations([CAMERA] * 3, wrong, list(people.values()))
    assert degrees.max() < 0.6

    def gap(poses: np.ndarray) -> float:
        xy = next(iter(people.values()))
        points = multiview_truth.triangulate([CAMERA] * 3, poses, xy.xy_px, xy.weights())
        return float(np.nanmean(points.residual_px))

    assert gap(wrong) > 1.0 and gap(better) < 0.25 * gap(wrong)


def test_smoothing_keeps_slow_motion_and_bridges_short_gaps_only() -> None:
    t = np.arange(120) / 60.0
    truth = np.repeat(np.sin(2 * np.pi * t)[:, None, None], 3, axis=2) * np.ones((1, 17, 1))
    noisy = truth + 0.02 * np.random.default_rng(0).standard_normal(truth.shape)
    noisy[40:44, 5], noisy[60:90, 6], noisy[10:, 7] = np.nan, np.nan, np.nan
    out = smooth(noisy, 60.0)
    inner = slice(10, 110)
    assert np.nanstd(out[inner, 0] - truth[inner, 0]) < 0.012
    assert np.isfinite(out[:, 5]).all() and np.isnan(out[66:84, 6]).all()
    assert np.isnan(out[:, 7]).all()  # ten frames tell nothing


def test_the_command_refuses_another_number_of_videos(tmp_path: Path) -> None:
    path = tmp_path / "calib.toml"
    path.write_text(TOML, encoding="utf-8")
    argv = ["--videos", "a.mp4", "b.mp4", "--calibration", str(path), "--out", "x.npz"]
    with pytest.raises(ConfigError, match="1 cameras and 2 videos"):
        multiview_truth.main(argv)


def test_an_archive_is_what_the_evaluation_reads(tmp_path: Path) -> None:
    cameras, path = [CAMERA] * 3, tmp_path / "new" / "truth.npz"
    sight = next(iter(follow(cameras, POSES, sights([walk(0.0)]), stamps()).values()))
    points = multiview_truth.triangulate(cameras, POSES, sight.xy_px, sight.weights())
    more = multiview_truth._lenses(cameras) | {"T_cam_world": POSES}
    more["xyz_smooth_m"] = smooth(points.xyz_m, 30.0)
    multiview_truth._save(path, sight, points, stamps(), more)
    truth = read_truth(path)
    assert truth.xyz_m.shape == (FRAMES, 1, 17, 3) and truth.xy_px.shape == (3, FRAMES, 1, 17, 2)
    assert truth.cameras == (CAMERA,) * 3 and np.array_equal(truth.cam_from_world, POSES)
    assert np.linalg.norm(truth.xyz_m[5:-5, 0] - walk(0.0)[5:-5], axis=-1).max() < 0.03
    assert np.array_equal(truth.stamps_ns, stamps())
