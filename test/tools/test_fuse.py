"""Several tracks and a calibration become one set of bodies in metres."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_multiview import THREE, views
from test_triangulate import CAMERAS, POSES, looking_at

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Poses2D
from pose_ros.core.video import VideoWriter
from pose_ros.errors import CalibrationError, ConfigError, SourceError
from pose_ros.tools import fuse, track
from pose_ros.training.render import render
from pose_ros.training.scene import CameraPath, SceneConfig, random_scene

pytest.importorskip("tomllib", reason="Pose2Sim's .toml needs Python 3.11")
RATE_HZ, FRAMES = 20.0, 12
STEP_M = 0.02  # that everybody walks per frame


def calibration(path: Path, cameras: list[PinholeCamera], poses: np.ndarray) -> Path:
    """As Pose2Sim writes it."""
    text = ""
    for number, (camera, pose) in enumerate(zip(cameras, poses, strict=True)):
        lens = list(camera.distortion) or [0.0] * 4
        turn = Rotation.from_matrix(pose[:3, :3]).as_rotvec().tolist()
        text += (
            f"[camera_{number}]\nsize = [{camera.width_px}.0, {camera.height_px}.0]\n"
            f"matrix = {camera.matrix.tolist()}\ndistortions = {lens}\n"
            f"rotation = {turn}\ntranslation = {pose[:3, 3].tolist()}\nfisheye = false\n"
        )
    path.write_text(text)
    return path


def line(number: int, stamp_ns: int, poses: Poses2D, state: str = "TRACKED") -> str:
    """As tools.track writes it."""
    joints = np.concatenate([poses.xy_px, poses.score[..., None]], axis=-1).astype(float)
    people = [
        {"id": int(i), "state": state, "score": 0.8, "box_xyxy_px": [0, 0, 1, 1],
         "keypoints_px": [[v if np.isfinite(v) else None for v in row] for row in rows],
         "xyz_m": None, "joint_angles_rad": {}}
        for i, rows in zip(poses.ids.tolist(), joints.tolist(), strict=True)
    ]  # fmt: skip
    return json.dumps({"frame": number, "stamp_ns": stamp_ns, "people": people}) + "\n"


def world(step: int) -> np.ndarray:
    return np.array(THREE) + np.array([STEP_M * step, 0.0, 0.0])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """What four cameras saw of three people; the last one started half a second later."""
    rng = np.random.default_rng(0)
    out = [tmp_path / f"{n}.jsonl" for n in range(4)]
    for step in range(FRAMES):
        for number, view in enumerate(views(list(world(step)), rng, std_px=1.0)):
            stamp_ns = round(step * 1e9 / RATE_HZ) - (500_000_000 if number == 3 else 0)
            with out[number].open("a") as lines:
                lines.write(line(step, stamp_ns, view.poses))
    return out


@pytest.fixture
def lenses(tmp_path: Path) -> Path:
    return calibration(tmp_path / "cameras.toml", CAMERAS, POSES)


def run(files: list[Path], lenses: Path, *more: str) -> tuple[dict[str, Any], list[Any]]:
    out = files[0].with_name("out.jsonl")
    names = [str(path) for path in files]
    answer = fuse.main([*names, "--calibration", str(lenses), "--out", str(out), *more])
    return answer, [json.loads(text) for text in out.read_text().splitlines()]


OFFSETS = ("--offsets", "0", "0", "0", "0.5")


def test_three_people_in_four_files(files: list[Path], lenses: Path) -> None:
    answer, lines = run(files, lenses, *OFFSETS)
    assert (answer["frames"], answer["people_max"], answer["ids"]) == (FRAMES, 3, [1, 2, 3])
    assert answer["matched"] == 1.0 and 0.3 < answer["residual_px_median"] < 2.0
    assert [told["frame"] for told in lines] == list(range(FRAMES))
    assert lines[1]["stamp_ns"] == 50_000_000
    for step, told in enumerate(lines):
        for person in told["people"]:
            # every view numbers people from 1 + 100 x view, in the order of the world
            who = {own % 100 for own in person["views"]}
            assert len(who) == 1 and len(person["views"]) == 4
            truth = world(step)[who.pop() - 1]
            error = np.linalg.norm(np.array(person["xyz_m"], float) - truth, axis=-1)
            assert np.median(error) < 0.01
            std = np.array(person["std_m"], float)
            assert ((std > 0) & (std < 0.1)).all()
            angles = person["joint_angles_rad"]
            assert len(angles) == 20 and abs(angles["l_knee"]) < 0.3


def test_without_its_offset_a_late_camera_is_outvoted(files: list[Path], lenses: Path) -> None:
    """Ten frames late it shows everybody 0.2 m aside; the other three agree all the same."""
    _, lines = run(files, lenses, "--angles", "none")
    for step, told in enumerate(lines):
        assert len(told["people"]) == 3
        for person in told["people"]:
            assert person["joint_angles_rad"] == {} and None not in person["views"][:3]
            truth = world(step)[person["views"][0] - 1]
            error = np.linalg.norm(np.array(person["xyz_m"], float) - truth, axis=-1)
            assert np.nanmedian(error) < 0.02
    assert all(person["views"][3] is None for person in lines[-1]["people"])  # it has ended


def test_who_is_predicted_or_shown_once_is_not_there(files: list[Path], lenses: Path) -> None:
    nobody = Poses2D.empty(17)
    for path in files[1:]:
        path.write_text(line(0, 0, nobody))
    with pytest.raises(ConfigError, match="no two views show anybody at the same time"):
        run(files, lenses)
    seen = views(THREE)
    files[0].write_text(line(0, 0, seen[0].poses))
    files[1].write_text(line(0, 0, seen[1].poses, "OCCLUDED"))
    with pytest.raises(ConfigError, match="no two views"):
        run(files, lenses)
    files[1].write_text(line(0, 0, seen[1].poses, "TENTATIVE"))
    answer, lines = run(files, lenses)
    assert answer["people_max"] == 3 and lines[0]["people"][0]["views"][2:] == [None, None]


def test_unknown_joints_are_null(files: list[Path], lenses: Path) -> None:
    for number, view in enumerate(views(THREE[:1])):
        view.poses.xy_px[0, COCO17.index("left_wrist")] = np.nan
        view.poses.score[0, COCO17.index("left_wrist")] = 0.0
        files[number].write_text(line(0, 0, view.poses))
    _, lines = run(files, lenses)
    person = lines[0]["people"][0]
    assert person["xyz_m"][9] == [None] * 3 and person["std_m"][9] is None
    assert person["joint_angles_rad"]["l_elbow"] is None
    assert person["joint_angles_rad"]["r_elbow"] is not None


def test_files_in_another_order_are_noticed(
    files: list[Path], lenses: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three, four = files
    with pytest.raises(ConfigError, match="nobody's joints meet: another calibration, or files"):
        run([three, one, two, four], lenses, *OFFSETS)
    run([one, three, two, four], lenses, *OFFSETS)
    assert "only 50 % of the skeletons were matched" in caplog.text
    caplog.clear()
    run(files, lenses, *OFFSETS)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected a line per frame, found none"),
        ("frame,stamp\n", "line 1: expected a frame of tools.track"),
        (line(0, 0, Poses2D.empty(17)) * 2, "expected stamps that ascend"),
        (line(0, 0, Poses2D(np.array([1]), np.ones((1, 14, 2), np.float32),
                            np.ones((1, 14), np.float32))), "17 keypoints .coco17."),
        ('{"frame": 0, "stamp_ns": 0}\n', "line 1: .* KeyError: 'people'"),
    ],
)  # fmt: skip
def test_files_that_are_something_else(
    files: list[Path], lenses: Path, content: str, words: str
) -> None:
    files[2].write_text(content)
    with pytest.raises(SourceError, match=words):
        run(files, lenses)


def test_what_is_refused(files: list[Path], lenses: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(4\), got 2 files and 2 offsets"):
        run(files[:2], lenses)
    with pytest.raises(ConfigError, match="got 4 files and 1 offsets"):
        run(files, lenses, "--offsets", "0")
    with pytest.raises(SourceError, match=r"expected a file of tools\.track"):
        run([*files[:3], tmp_path / "missing.jsonl"], lenses)
    with pytest.raises(CalibrationError, match="expected a calibration of Pose2Sim"):
        run(files, tmp_path / "missing.toml")


def test_rendered_videos_through_track_and_fuse(tmp_path: Path) -> None:
    """The whole way: three cameras film one scene, each video is tracked, the tracks fused."""
    config = SceneConfig(seed=42, seconds=0.4, fps=30.0, people=1, size_px=(320, 240), clutter=2)
    scene = random_scene(config)
    x, y, z = scene.path.position_m
    filmed, tracks = [], []
    for number, angle in enumerate((0.0, 0.9, -0.8)):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        path = CameraPath((*(turn @ [x, y]).tolist(), z), scene.path.target_m)
        filmed.append(dataclasses.replace(scene, path=path))
        video = tmp_path / f"{number}.mp4"
        with VideoWriter(video, scene.fps) as out:
            for frame in range(scene.frames):
                out.write(render(filmed[-1], frame).rgb)
        tracks.append(tmp_path / f"{number}.jsonl")
        light = ["--net", "movenet_lightning", "--device", "cpu", "--set", "filter.type=none"]
        track.main([str(video), "--out", str(tracks[-1]), *light])
    poses = np.stack([one.path.cam_from_world(0.0) for one in filmed])
    lenses = calibration(tmp_path / "cameras.toml", [scene.camera] * 3, poses)
    answer, lines = run(tracks, lenses)
    assert answer["people_max"] == 1 and answer["ids"] == [1]
    assert answer["frames"] == scene.frames and answer["matched"] > 0.8
    limbs = np.arange(5, 17)
    error = []
    for told in lines[3:]:
        (person,) = told["people"]
        truth = render(filmed[0], told["frame"]).xyz_world_m[0]
        got = np.array(person["xyz_m"], float)
        error.append(np.linalg.norm(got - truth, axis=-1)[limbs])
    known = np.isfinite(np.stack(error))
    assert known.mean() > 0.8 and np.nanmedian(np.stack(error)) < 0.08


def test_by_hand_the_world_is_the_calibration_s() -> None:
    """A camera 4 m along x of the world looks back along x: its right is the world's y."""
    pose = looking_at((4.0, 0.0, 1.0))
    np.testing.assert_allclose(pose[:3, :3] @ [0, 1, 0], [1, 0, 0], atol=1e-12)
