"""The rendered dataset and its command."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.calibration_file import load_calibration
from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training import render_clip
from pose_ros.training.datasets import parse_spec
from pose_ros.training.datasets.base import WindowSpec
from pose_ros.training.datasets.synthetic import SyntheticConfig, SyntheticDataset

SMALL = SyntheticConfig(clips=3, length=6, width_px=96, height_px=72, people=2, seed=5)
WINDOW = WindowSpec(frames=3, key=1)
DATA = Path(__file__).parents[1] / "data" / "rendered"


@pytest.fixture(scope="module")
def dataset() -> SyntheticDataset:
    return SyntheticDataset(SMALL, WINDOW)


def test_samples_are_clips_of_one_person(dataset):
    assert dataset.name == "synthetic" and len(dataset.skeleton) == 17
    tracks = {dataset[n].track for n in range(len(dataset))}
    assert len(tracks) == sum(len(dataset.scene(c).people) for c in range(3))
    sample = dataset[0]
    assert sample.frame_index.tolist() == [1, 2, 3]
    assert (sample.dt_left, sample.dt_right) == (1, 1)
    assert [image.read().shape for image in sample.images] == [(72, 96, 3)] * 3
    assert sample.xyz_m is not None and sample.xyz_m.shape == (3, 17, 3)


def test_labels_are_the_projection_of_the_bodies(dataset):
    for n in range(len(dataset)):
        sample = dataset[n]
        camera = dataset.scene(int(dataset.plan[n, 0])).camera
        known = sample.visible > 0
        pixels = camera.project(sample.xyz_m)
        assert sample.xy_px[known] == pytest.approx(pixels[known], abs=1e-2)
        assert np.isnan(sample.xy_px[~known]).all()
        left, top, right, bottom = sample.box_xyxy_px
        joints = sample.xy_px[sample.key][known[sample.key]]
        assert (joints >= [left - 1, top - 1]).all() and (joints <= [right + 1, bottom + 1]).all()


def test_the_same_seed_gives_the_same_samples_in_any_order(dataset):
    other = SyntheticDataset(SMALL, WINDOW)
    last = other[-1]
    for one, two in ((dataset[-1], last), (dataset[0], other[0])):
        assert one.images[0].read().tobytes() == two.images[0].read().tobytes()
        assert one.xy_px.tobytes() == two.xy_px.tobytes()
    changed = SyntheticDataset(SyntheticConfig(**{**vars(SMALL), "seed": 6}), WINDOW)
    assert changed[0].images[0].read().tobytes() != dataset[0].images[0].read().tobytes()


def test_a_cached_frame_is_the_rendered_frame(tmp_path, dataset):
    first = SyntheticDataset(SMALL, WINDOW, cache=str(tmp_path))[0]
    files = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert files == ["00001.npz", "00001.png", "00002.npz", "00002.png", "00003.npz", "00003.png"]
    again = SyntheticDataset(SMALL, WINDOW, cache=str(tmp_path))
    again.scene = None  # type: ignore[assignment]  # whoever renders fails
    for sample in (first, again[0]):
        assert sample.images[1].read().tobytes() == dataset[0].images[1].read().tobytes()
        assert sample.xyz_m.tobytes() == dataset[0].xyz_m.tobytes()
        assert sample.visible.tobytes() == dataset[0].visible.tobytes()
        assert sample.area_px2 == dataset[0].area_px2


def test_it_travels_to_a_worker_without_its_pictures(dataset):
    dataset[0].images[0].read()
    text = pickle.dumps(dataset)
    assert len(text) < 20_000
    assert pickle.loads(text)[0].xy_px.tobytes() == dataset[0].xy_px.tobytes()


def test_it_opens_by_name():
    found = parse_spec("synthetic:?clips=2&people=1&seed=3&size=80x60&frames=3&key=1&step=2")
    assert isinstance(found, SyntheticDataset)
    assert (found.config.clips, found.config.width_px, found.window.step) == (2, 80, 2)
    assert len(found) == 2 * 4
    with pytest.raises(ConfigError, match="640x480"):
        parse_spec("synthetic:?size=80")
    with pytest.raises(ConfigError, match="mocap"):
        parse_spec("synthetic:/nowhere/at/all")


def test_motion_capture_moves_the_people(tmp_path):
    rng = np.random.default_rng(0)
    names = ("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
             "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
             "right_ankle", "neck", "head_end", "pelvis")  # fmt: skip
    x = [.2, -.2, .25, -.25, .27, -.27, .1, -.1, .1, -.1, .1, -.1, 0, 0, 0]  # fmt: skip
    y = [1.4, 1.4, 1.1, 1.1, 0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.08, 0.08, 1.45, 1.7, 0.95]
    body_mm = np.array([x, y, [0.0] * 15]).T * 1000
    motion_mm = np.round(body_mm + rng.normal(0, 1, (20, 1, 3)).cumsum(0)).astype(np.int16)
    delta = np.diff(motion_mm, axis=0, prepend=np.zeros((1, 15, 3), np.int16))
    np.savez(tmp_path / "made.npz", names=np.array(names), xyz_mm_delta=delta,
             start=np.array([0, 20]), clips=np.array(["made"]), fps=np.array(30.0))  # fmt: skip
    made = SyntheticDataset(SMALL, mocap=str(tmp_path))
    arm = np.linalg.norm(made[0].xyz_m[0, 5] - made[0].xyz_m[0, 7])
    assert arm == pytest.approx(np.hypot(0.05, 0.3), abs=0.005)


def test_bad_configurations_are_refused(tmp_path):
    for wrong in ({"clips": 0}, {"width_px": 3}, {"blurred": 1.5}, {"fps": 0.0}):
        with pytest.raises(ConfigError):
            SyntheticConfig(**wrong)
    with pytest.raises(SourceError, match="pictures"):
        SyntheticDataset(SMALL, pictures=str(tmp_path))


def test_the_command_writes_what_it_says(tmp_path):
    options = {"seconds": 0.4, "fps": 10, "people": 2, "seed": 2, "size": "96x72",
               "camera": "orbit", "format": "png", "imu": "exact", "out": tmp_path}  # fmt: skip
    argv = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    answer = render_clip.main([*argv, "--depth"])
    assert answer["frames"] == 4 and answer["people"] == 2
    truth = np.load(tmp_path / "truth.npz")
    assert truth["xy_px"].shape == (4, 2, 17, 2) and truth["joints"][0] == "nose"
    assert truth["stamps_ns"].tolist() == [0, 100_000_000, 200_000_000, 300_000_000]
    camera = load_calibration(str(tmp_path / "camera_info.yaml"))
    assert camera.project(truth["xyz_camera_m"]) == pytest.approx(truth["xy_px"], abs=1e-2)
    depth = cv2.imread(str(tmp_path / "depth" / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16 and depth.shape == (72, 96)
    labels = json.loads((tmp_path / "annotations.json").read_text())
    assert len(labels["images"]) == 4 and len(labels["annotations"]) == 8
    assert cv2.imread(str(tmp_path / labels["images"][3]["file_name"])).shape == (72, 96, 3)
    person = labels["annotations"][-1]
    assert (
        np.reshape(person["keypoints"], (17, 3))[:, 2].tolist() == truth["visible"][3, 1].tolist()
    )
    imu = np.load(tmp_path / "imu.npz")
    assert imu["stamps_ns"][-1] == 300_000_000
    assert imu["body_quaternion"].shape == (18, 61, 4) == (*imu["bone"].shape, 61, 4)
    assert np.linalg.norm(imu["camera_force_m_s2"], axis=-1) == pytest.approx(9.81, abs=0.2)


def test_the_committed_clip_is_whole_and_true():
    truth = np.load(DATA / "truth.npz")
    video = cv2.VideoCapture(str(DATA / "video.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == len(truth["stamps_ns"]) == 24
    width, height = (int(v) for v in truth["size_px"])
    assert frames[0].shape == (height, width, 3)
    k = truth["camera_matrix"]
    camera = PinholeCamera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2])
    assert camera.project(truth["xyz_camera_m"]) == pytest.approx(truth["xy_px"], abs=1e-2)
    t = truth["cam_from_world"]
    moved = (
        np.einsum("tij,tpkj->tpki", t[:, :3, :3], truth["xyz_world_m"]) + t[:, None, None, :3, 3]
    )
    assert moved == pytest.approx(truth["xyz_camera_m"], abs=1e-4)
    assert (truth["visible"] == 2).mean() > 0.4
    assert sum(f.stat().st_size for f in DATA.iterdir() if f.is_file()) < 600_000
