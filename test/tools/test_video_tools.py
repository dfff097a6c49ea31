"""Video networks by name in the commands; export and bench of networks."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pose_ros.build import build_pipeline, load_pose_net
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.values import Frame, PoseMaps
from pose_ros.core.video import VideoWriter
from pose_ros.errors import CalibrationError, ConfigError
from pose_ros.nets.checkpoint import find_card
from pose_ros.tools import bench, evaluate, export, track

WALKER = Path(__file__).parents[1] / "data" / "walker.jpg"
CPU = ["--device", "cpu", "--set", "threads=1"]


@pytest.fixture(scope="module", autouse=True)
def small_nets(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The robot networks' families with a small crop, under names of their own."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("pstpose_movenet", "hstpn_robot"):
        card = find_card(name)
        values = yaml.safe_load((card.folder / f"{name}.yaml").read_text())
        values |= {"name": f"small_{name}", "input_hw": [64, 64]}
        values["overrides"] = {**values.get("overrides", {}), "size_hw_px": [64, 64]}
        (folder / f"small_{name}.yaml").write_text(yaml.safe_dump(values))
    before = os.environ.get("POSE_ROS_MODELS")
    os.environ["POSE_ROS_MODELS"] = str(folder)
    yield
    os.environ.pop("POSE_ROS_MODELS")
    if before is not None:
        os.environ["POSE_ROS_MODELS"] = before


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of a real man who slides to the right, 2 px per frame."""
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    picture = cv2.imread(str(WALKER))
    with VideoWriter(path, 20.0) as out:
        for step in range(12):
            out.write(np.ascontiguousarray(np.roll(picture, 2 * step, axis=1)[..., ::-1]))
    return path


@pytest.mark.parametrize(
    ("net", "mode", "lookahead"),
    [("small_pstpose_movenet", "auto", 1), ("small_pstpose_movenet", "causal", 0),
     ("small_hstpn_robot", "auto", 0)],
)  # fmt: skip
def test_track_answers_every_frame_once_and_says_whether_it_is_trained(
    net: str, mode: str, lookahead: int, walk: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    out, overlay = tmp_path / "a.jsonl", tmp_path / "o.mp4"
    argv = [str(walk), "--out", str(out), "--overlay", str(overlay), "--net", net, *CPU]
    with caplog.at_level("INFO"):
        answer = track.main([*argv, "--set", f"model.latency_mode={mode}"])
    trained = net == "small_hstpn_robot"
    assert (answer["net"], answer["trained"]) == (net, trained)
    assert (answer["frames"], answer["lookahead_frames"]) == (12, lookahead)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["stamp_ns"] for line in lines] == [n * 50_000_000 for n in range(12)]
    for line in lines:
        for person in line["people"]:
            assert len(person["keypoints_px"]) == 17
    assert cv2.VideoCapture(str(overlay)).get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert (f"{net} is UNTRAINED: its joints are meaningless" in caplog.text) != trained
    assert (f"UNTRAINED pose network {net}" in caplog.text) != trained


def test_the_pipeline_answers_the_same_when_nothing_is_kept() -> None:
    picture = cv2.imread(str(WALKER))[..., ::-1]
    config = with_values(
        PipelineConfig(),
        {"model.name": "small_pstpose_movenet", "device": "cpu", "threads": 1,
         "track.pose_min": 0.0},
    )  # fmt: skip
    maps: dict[bool, list[np.ndarray]] = {True: [], False: []}
    cut: dict[bool, int] = {True: 0, False: 0}
    for keeps in (True, False):
        pipeline = build_pipeline(config)
        stream = pipeline.net.stream
        ask, run = stream.wanted, stream.run

        def wanted(*args, ask=ask, stream=stream, keeps=keeps):
            if not keeps:
                stream.reset()
            return ask(*args)

        def look(crops, run=run, keeps=keeps):
            cut[keeps] += len(crops.rgb)
            maps[keeps].append(run(crops).heatmaps)
            louder = 0.8 / maps[keeps][0].max()  # or else the untrained network sees nobody
            return PoseMaps(maps[keeps][-1] * louder)

        stream.wanted, stream.run = wanted, look
        for step in range(10):
            rgb = np.ascontiguousarray(np.roll(picture, step, axis=1))
            pipeline.push(Frame(rgb, step * 33_000_000))
    assert len(maps[True]) == len(maps[False]) >= 9
    for kept, anew in zip(maps[True], maps[False], strict=True):
        np.testing.assert_allclose(kept, anew, atol=1e-3 * np.abs(anew).max())
    assert cut[True] < cut[False]


def test_a_network_of_other_joints_than_its_card_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "small_pstpose_movenet"
    values = yaml.safe_load((find_card(name).folder / f"{name}.yaml").read_text())
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values | {"skeleton": "posetrack15"}))
    monkeypatch.setenv("POSE_ROS_MODELS", str(tmp_path))
    config = with_values(PipelineConfig(), {"model.name": name, "device": "cpu"})
    with pytest.raises(ConfigError, match="the 15 joints of posetrack15, its heatmaps have 17"):
        load_pose_net(config)


def test_a_latency_mode_that_a_network_does_not_have_is_refused(walk: Path) -> None:
    argv = [str(walk), "--out", os.devnull, "--net", "small_hstpn_robot", *CPU]
    with pytest.raises(ConfigError, match="small_hstpn_robot runs causal, not delayed_2"):
        track.main([*argv, "--set", "model.latency_mode=delayed_2"])
    with pytest.raises(ConfigError, match="latency_mode: expected one of auto, causal"):
        track.main([*argv, "--set", "model.latency_mode=late"])


def test_track_takes_a_camera(walk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Frame] = []
    build = track.build_pipeline

    def spy(config):
        pipeline = build(config)
        push = pipeline.push
        pipeline.push = lambda frame: seen.append(frame) or push(frame)
        return pipeline

    monkeypatch.setattr(track, "build_pipeline", spy)
    argv = [str(walk), "--out", os.devnull, "--frames", "1", "--net", "movenet_lightning", *CPU]
    track.main([*argv, "--camera-fov", "90"])
    camera = seen[-1].camera
    assert (camera.width_px, camera.fx_px) == (640, pytest.approx(320.0))
    info = tmp_path / "camera.yaml"
    calibration = {
        "image_width": 640, "image_height": 360, "distortion_model": "plumb_bob",
        "camera_matrix": {"rows": 3, "cols": 3, "data": [500, 0, 320, 0, 510, 180, 0, 0, 1]},
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0, 0, 0, 0, 0]},
    }  # fmt: skip
    info.write_text(yaml.safe_dump(calibration))
    track.main([*argv, "--camera-info", str(info)])
    assert (seen[-1].camera.fx_px, seen[-1].camera.fy_px) == (500, 510)
    track.main(argv)
    assert seen[-1].camera is None
    with pytest.raises(CalibrationError, match="expected 0 to 180 degrees, got 200"):
        track.main([*argv, "--camera-fov", "200"])
    with pytest.raises(CalibrationError, match="expected a camera_calibration YAML"):
        track.main([*argv, "--camera-info", str(tmp_path / "none.yaml")])
    info.write_text(yaml.safe_dump({**calibration, "image_width": 1280, "image_height": 720}))
    with pytest.raises(CalibrationError, match="a 640 x 360 image, got that of 1280 x 720"):
        track.main([*argv, "--camera-info", str(info)])


def test_evaluate_shows_a_video_network_the_picture_repeated(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), cv2.imread(str(WALKER)))
    labels = {
        "info": {}, "categories": [{"id": 1, "name": "person"}],
        "images": [{"id": 1, "file_name": "1.png", "width": 640, "height": 360}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9000.0,
                         "num_keypoints": 17, "bbox": [250, 60, 100, 280],
                         "keypoints": [300, 200, 2] * 17}],
    }  # fmt: skip
    (tmp_path / "l.json").write_text(json.dumps(labels))
    argv = ["--annotations", str(tmp_path / "l.json"), "--images", str(tmp_path)]
    argv += ["--boxes", "labelled", "--net", "small_hstpn_robot", *CPU]
    answer = evaluate.main([*argv, "--out", str(tmp_path / "r.json")])
    assert (answer["images"], answer["trained"]) == (1, True)
    (result,) = json.loads((tmp_path / "r.json").read_text())
    assert len(result["keypoints"]) == 51


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_export_writes_a_checked_file(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "deep" / f"net.{kind}"
    answer = export.main(["small_pstpose_movenet", "--format", kind, "--out", str(out)])
    assert (answer["format"], answer["bytes"]) == (kind, out.stat().st_size)
    assert 0 <= answer["max_abs_diff"] < 1e-4 and answer["trained"] is False
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
        (heatmaps,) = session.run(None, {"pictures": np.zeros((2, 3, 64, 64, 3), np.uint8)})
        assert heatmaps.shape == (2, 17, 16, 16)


def test_export_refuses_a_part_that_is_not_there(tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    with pytest.raises(
        ConfigError, match="has no part 'fuse'; it has whole, encode, step, recrop"
    ):
        export.main(["small_hstpn_robot", "--part", "fuse", "--out", str(out)])
    assert not list(tmp_path.iterdir())


def test_bench_nets_has_a_row_per_network_size_and_people() -> None:
    names = "small_pstpose_movenet,movenet_lightning,dsa_w48,nanodet_g"
    argv = ["nets", "--device", "cpu", "--nets", names, "--people", "2", "--people", "1"]
    rows = bench.main([*argv, "--threads", "1"])["rows"]
    by_net = {(row["net"], row["people"]): row for row in rows}
    assert set(by_net) == {
        ("small_pstpose_movenet", 1), ("small_pstpose_movenet", 2), ("movenet_lightning", 1),
        ("movenet_lightning", 2), ("dsa_w48", None),
    }  # fmt: skip
    wanted = {"net", "size", "params_m", "gmacs", "people", "ms", "ms_cached", "memory_mb",
              "device"}  # fmt: skip
    assert all(wanted <= set(row) for row in rows)
    windowed = by_net["small_pstpose_movenet", 2]
    assert (windowed["size"], windowed["trained"]) == ("64x64", False)
    assert 0 < windowed["ms_cached"] < windowed["ms"]
    assert windowed["gmacs_cached"] < windowed["gmacs"] and windowed["memory_mb"] > 1
    assert by_net["movenet_lightning", 1]["ms_cached"] is None
    paper = by_net["dsa_w48", None]
    assert (paper["size"], paper["ms"]) == ("384x288", None)
    assert paper["params_m"] == pytest.approx(75.16, abs=0.01)
    assert paper["gmacs_cached"] == pytest.approx(82.43, abs=0.01)
