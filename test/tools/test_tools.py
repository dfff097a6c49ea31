"""The commands end to end on small input, with the real networks."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError, SourceError, WeightsError
from pose_ros.tools import bench, evaluate, track

LIGHT = ["--net", "movenet_lightning", "--device", "cpu"]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames of an empty grey room."""
    path = tmp_path_factory.mktemp("video") / "room.mp4"
    with VideoWriter(path, 20.0) as out:
        for _ in range(20):
            out.write(np.full((240, 320, 3), 128, np.uint8))
    return path


def test_track_answers_every_frame_of_an_empty_room(video: Path, tmp_path: Path) -> None:
    out, overlay = tmp_path / "a.jsonl", tmp_path / "o.mp4"
    answer = track.main([str(video), "--out", str(out), "--overlay", str(overlay), *LIGHT])
    assert (answer["frames"], answer["people_max"], answer["ids"]) == (20, 0, [])
    assert answer["net"] == "movenet_lightning" and answer["device"] == "cpu"
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(20))
    assert [line["stamp_ns"] for line in lines[:3]] == [0, 50_000_000, 100_000_000]
    assert all(line["people"] == [] for line in lines)
    assert cv2.VideoCapture(str(overlay)).get(cv2.CAP_PROP_FRAME_COUNT) == 20


def test_track_stops_where_it_is_told(video: Path, tmp_path: Path) -> None:
    argv = [
        str(video),
        "--out",
        str(tmp_path / "a.jsonl"),
        "--frames",
        "5",
        "--rate",
        "10",
        *LIGHT,
    ]
    assert track.main(argv)["frames"] == 5


def test_track_names_a_missing_video_and_an_unknown_network(video: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected a video file"):
        track.main(["missing.mp4", "--out", str(tmp_path / "a.jsonl")])
    with pytest.raises(WeightsError, match="movenet_lightning"):
        track.main([str(video), "--out", str(tmp_path / "a.jsonl"), "--net", "movenet_lighning"])


def test_a_json_line_has_every_field_and_null_for_the_unknown() -> None:
    from pose_ros.core.values import PoseResult, Poses2D, Tracks

    ids = np.array([7])
    xy = np.full((1, 17, 2), np.nan, np.float32)
    xy[0, 0] = 10.5, 20.25
    score = np.zeros((1, 17), np.float32)
    score[0, 0] = 0.5
    tracks = Tracks(ids, np.array([2], np.int8), np.array([[1, 2, 3, 4]], np.float32),
                    np.array([0.9], np.float32), np.array([5]))  # fmt: skip
    result = PoseResult(9, "cam", (64, 48), tracks, Poses2D(ids, xy, score), detected=True)
    record = json.loads(json.dumps(track.frame_record(3, result), allow_nan=False))
    person = record["people"][0]
    assert (record["frame"], record["stamp_ns"]) == (3, 9)
    assert (person["id"], person["state"], person["box_xyxy_px"]) == (7, "OCCLUDED", [1, 2, 3, 4])
    assert person["keypoints_px"][0] == [10.5, 20.25, 0.5]
    assert person["keypoints_px"][1] == [None, None, 0.0]
    assert person["xyz_m"] is None and person["joint_angles_rad"] == {}


def test_a_json_line_holds_the_refined_joints_metres_and_angles() -> None:
    from pose_ros.core.values import (
        Body,
        JointAngles,
        PoseResult,
        Poses2D,
        Poses3D,
        Refined2D,
        Tracks,
    )

    ids = np.array([7, 8])
    xy, score = np.full((2, 17, 2), 3.0, np.float32), np.full((2, 17), 0.5, np.float32)
    tracks = Tracks(ids, np.ones(2, np.int8), np.zeros((2, 4), np.float32),
                    np.ones(2, np.float32), ids)  # fmt: skip
    bodies = Poses3D.unknown(ids, 17)
    bodies.xyz_m[0, 0] = 0.25, -0.5, 2.0
    angle = np.array([[-1.5, np.nan], [np.nan, np.nan]], np.float32)
    told = JointAngles(ids, "rep155", ("l_knee", "waist"), angle, angle, angle,
                       np.ones((2, 2), np.int8), np.zeros((2, 2), bool))  # fmt: skip
    result = PoseResult(
        9, "cam", (64, 48), tracks, Poses2D(ids, xy, score), detected=True,
        refined=Refined2D(Poses2D(ids, xy + 1, score), np.ones((2, 17), np.int8)),
        body=Body(bodies, np.full((2, 16), np.nan, np.float32), told),
    )  # fmt: skip
    record = json.loads(json.dumps(track.frame_record(0, result), allow_nan=False))
    first, second = record["people"]
    assert first["keypoints_px"][5] == [4.0, 4.0, 0.5]
    assert first["xyz_m"][0] == [0.25, -0.5, 2.0] and first["xyz_m"][1] == [None] * 3
    assert first["joint_angles_rad"] == {"l_knee": -1.5, "waist": None}
    assert second["xyz_m"] is None and second["joint_angles_rad"] == {}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Two pictures; somebody is labelled in the first one."""
    folder = tmp_path_factory.mktemp("labelled")
    for number in (1, 2):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((200, 160, 3), 90, np.uint8))
    keypoints = np.column_stack(
        [np.linspace(50, 90, 17), np.linspace(40, 160, 17), np.full(17, 2)]
    )
    coco = {
        "info": {},
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 160, "height": 200, "source": "ab"[n - 1]}
            for n in (1, 2)
        ],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
                "bbox": [40, 30, 60, 140], "area": 5000.0, "keypoints": keypoints.ravel().tolist(),
            }
        ],
    }  # fmt: skip
    (folder / "labels.json").write_text(json.dumps(coco))
    return folder, coco


def right_answer(coco: dict, shift_px: float = 0.0) -> list[dict]:
    keypoints = np.array(coco["annotations"][0]["keypoints"]).reshape(17, 3)
    keypoints = keypoints + np.array([shift_px, 0, 0])
    return [
        {"image_id": 1, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": 0.9}
    ]


def test_the_right_answer_scores_one_and_none_scores_zero(labelled: tuple[Path, dict]) -> None:
    coco = labelled[1]
    assert evaluate.coco_metrics(coco, right_answer(coco), [1, 2]) == {
        "ap": 1.0, "ap50": 1.0, "ap75": 1.0, "ar": 1.0,
    }  # fmt: skip
    assert evaluate.coco_metrics(coco, [], [1, 2])["ap"] == 0.0
    data = evaluate.load_annotations(labelled[0] / "labels.json", None)
    assert evaluate.pck(data, right_answer(coco), 0.1) == 1.0
    assert evaluate.pck(data, right_answer(coco, 13.0), 0.1) == 1.0  # box height 140: within 14 px
    assert evaluate.pck(data, right_answer(coco, 15.0), 0.1) == 0.0
    assert evaluate.pck(data, [], 0.1) == 0.0


def test_evaluate_runs_and_writes_a_results_file(
    labelled: tuple[Path, dict], tmp_path: Path
) -> None:
    folder, out = labelled[0], tmp_path / "r.json"
    argv = [
        "--annotations",
        str(folder / "labels.json"),
        "--images",
        str(folder),
        "--out",
        str(out),
    ]
    answer = evaluate.main([*argv, "--boxes", "labelled", *LIGHT])
    assert (answer["images"], answer["people"], answer["boxes"]) == (2, 1, "labelled")
    assert math.isfinite(answer["ms_per_image"])
    for result in json.loads(out.read_text()):
        assert len(result["keypoints"]) == 51 and result["category_id"] == 1
    answer = evaluate.main([*argv, "--sources", "b", *LIGHT])
    assert (answer["images"], answer["people"]) == (1, 0)


def test_evaluate_refuses_what_it_cannot_use(labelled: tuple[Path, dict], tmp_path: Path) -> None:
    folder = labelled[0]
    (tmp_path / "bad.json").write_text("[1, 2]")
    with pytest.raises(SourceError, match="expected COCO keypoint annotations"):
        evaluate.main(["--annotations", str(tmp_path / "bad.json"), "--images", str(folder)])
    with pytest.raises(ConfigError, match="no pictures of sources z; the file has a, b"):
        evaluate.load_annotations(folder / "labels.json", "z")
    with pytest.raises(SourceError, match="expected a picture named by the annotations"):
        evaluate.main(
            ["--annotations", str(folder / "labels.json"), "--images", str(tmp_path), *LIGHT]
        )


def test_bench_pipeline_puts_variants_side_by_side(video: Path) -> None:
    argv = ["pipeline", "--video", str(video), "--frames", "8", *LIGHT]
    argv += ["--variant", "detect.interval=1", "--variant", "detect.interval=5,track.min_hits=1"]
    rows = bench.main(argv)["rows"]
    assert [row["variant"] for row in rows] == argv[-3::2]
    for row in rows:
        assert row["ms_per_frame_p50"] <= row["ms_per_frame_p95"]
        assert {"detect", "track", "crop", "network", "decode", "refine", "lift"} <= set(
            row["stages"]
        )
        assert (row["people"], row["frames"]) == ({"mean": 0.0, "max": 0}, 8)
        assert row["agreement"] is None  # nobody has joints


def test_bench_memory_reports_resident_memory(video: Path) -> None:
    row = bench.main(["memory", "--video", str(video), "--frames", "30", *LIGHT])["rows"][0]
    assert row["rss_mb_start"] > 20 and row["rss_mb_end"] < row["rss_mb_start"] + 200
    assert row["gpu_mb_end"] is None and row["kept_mb"] == 0.0
