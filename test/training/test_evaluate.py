"""The evaluate command: networks, files, protocols, the papers' tables."""

from __future__ import annotations

import csv
import json
import os
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import toy_posetrack
from torch import nn

from pose_ros.core.skeletons import COCO17, POSETRACK15
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.cost import count as cost_of
from pose_ros.nets.registry import build_net
from pose_ros.nets.video import PoseOut
from pose_ros.training import cost, evaluate, protocols
from pose_ros.training.datasets import ClipDataset, parse_spec
from pose_ros.training.metrics.smoothness import bone_variation, jitter
from pose_ros.training.predict import Network, Predicted, Predictor, open_network
from pose_ros.training.refined import (
    bone_lengths,
    refine_poses,
    refine_predictions,
    runs_of,
    step_of,
)
from pose_ros.training.report import Grid, metrics_grid, table_grid
from pose_ros.training.tables import TABLES, flags_text, get_table
from pose_ros.training.walker import walk

torch.set_num_threads(1)
TINY = {
    "backbone": "vit_tiny", "size_hw_px": [64, 48], "head_channels": 16, "cluster_ratio": 0.5,
}  # fmt: skip
TINY_OPTIONS = [f"--net-option={name}={value}" for name, value in TINY.items()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy_posetrack.write(tmp_path, 18)[0]


def truth_of(dataset: ClipDataset, score: float = 0.9) -> Predicted:
    """Predictions that are the labels."""
    xy = np.array([dataset[i].xy_px[dataset[i].key] for i in range(len(dataset))])
    known = np.isfinite(xy).all(axis=2)
    return Predicted(
        xy, np.where(known, np.float32(score), 0).astype(np.float32), dataset.skeleton
    )


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# The command


def test_a_network_on_posetrack(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"posetrack18:{root}"
    out, saved = root / "out", root / "answer.json"
    options = ["--net", "pstpose_vitl", *TINY_OPTIONS, "--dataset", spec, "--device", "cpu"]
    code = evaluate.command([*options, "--out", str(out), "--save", str(saved)])
    answer = last_line(capsys)
    assert code == 0
    assert set(answer) >= {"dataset", "protocol", "metrics"}
    assert (answer["dataset"], answer["protocol"]) == ("posetrack18", "poseval")
    assert answer["trained"] is False
    assert 0.0 <= answer["metrics"]["total"] <= 100.0
    assert json.loads(saved.read_text())["metrics"] == answer["metrics"]
    # What it wrote is judged the same when it comes back as files.
    assert evaluate.command(["--dataset", spec, "--predictions", str(out)]) == 0
    again = last_line(capsys)["metrics"]
    for name in ("total", "m7", "Head", "precision"):
        assert again[name] == pytest.approx(answer["metrics"][name], abs=0.5), name
    assert "mota_total" in again


def test_a_run_is_repeatable_and_corruption_changes_it(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}?frames=3&key=1")
    torch.manual_seed(0)
    network = open_network("pstpose_vitl", **TINY)
    plain = Predictor(network, batch=5)(dataset)
    np.testing.assert_allclose(Predictor(network, batch=3)(dataset).xy_px, plain.xy_px, atol=0.05)
    spec = evaluate.CorruptionSpec.parse("noise:0.8")
    noisy = Predictor(network, corruption=spec)(dataset)
    assert not np.allclose(noisy.score, plain.score)
    np.testing.assert_array_equal(
        Predictor(network, corruption=spec, batch=16)(dataset).xy_px, noisy.xy_px
    )
    lost = Predictor(network, corruption=evaluate.CorruptionSpec.parse("dropkp:1"))(dataset)
    assert np.isnan(lost.xy_px).all()


def test_a_trained_network_finds_a_drawn_person_where_the_labels_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = Path(__file__).parents[1] / "nets" / "picture.py"
    drawing = runpy.run_path(str(code))
    short = {
        "sho": "shoulder",
        "elb": "elbow",
        "wri": "wrist",
        "hip": "hip",
        "kne": "knee",
        "ank": "ankle",
    }
    images, people = [], []
    for number, (size, left, top) in enumerate(((256, 40, 12), (300, 7, 3)), start=1):
        picture = np.full((340, 380, 3), 90, np.uint8)
        picture[top : top + size, left : left + size] = drawing["drawn_person"](size)
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture[..., ::-1])
        table = np.zeros((17, 3))
        for name, (x, y) in drawing["JOINTS"].items():
            side = {"l": "left_", "r": "right_"}.get(name[0], "")
            joint = COCO17.index(side + short[name[2:]] if side else name)
            table[joint] = left + x * size - 0.5, top + y * size - 0.5, 2
        images.append({"id": number, "file_name": f"{number}.png", "width": 380, "height": 340})
        box = [left + 0.2 * size, top + 0.05 * size, 0.55 * size, 0.93 * size]
        people.append(
            {
                "id": number, "image_id": number, "category_id": 1, "bbox": box,
                "area": 0.5 * box[2] * box[3], "keypoints": table.ravel().tolist(),
            }
        )  # fmt: skip
    (tmp_path / "labels.json").write_text(json.dumps({"images": images, "annotations": people}))
    argv = ["--net", "movenet_thunder", "--dataset", f"coco_file:{tmp_path / 'labels.json'}"]
    assert evaluate.command([*argv, "--device", "cpu"]) == 0
    answer = last_line(capsys)
    assert answer["trained"] is True
    assert answer["metrics"]["ap"] > 0.7
    assert evaluate.command([*argv, "--protocol", "pck", "--device", "cpu"]) == 0
    assert last_line(capsys)["metrics"]["pck10"] > 90.0


class Spy(nn.Module):
    """Answers with one bright cell, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.seen.append(frames)
        maps = torch.zeros(len(frames), 15, 16, 12)
        maps[..., 7, 5] = 0.8
        return maps, torch.ones_like(maps), torch.full((len(frames), 15, 2, 16, 12), 0.25)


def spy_network(frames: int = 3) -> Network:
    return Network(
        "spy", Spy(), (64, 48), (10.0, 10.0, 10.0), (2.0, 2.0, 2.0), "rgb", 1.0, POSETRACK15,
        frames, frames // 2, -0.5, True,
    )  # fmt: skip


def test_crops_are_fed_and_joints_come_back_as_the_card_says(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}?frames=3&key=1")
    network = spy_network()
    xy, score = Predictor(network).run([dataset[0]])
    np.testing.assert_allclose(score, 0.8)
    box = dataset[0].box_xyxy_px
    # Cell (5.25, 7.25) is crop pixel (20.5, 28.5): 21 of 48 and 29 of 64 edges. The crop is the
    # box made 3:4 about its centre, with edges at whole pixels.
    centre = (box[:2] + box[2:]) / 2
    size = box[2:] - box[:2]
    tall = max(size[1], size[0] * 4 / 3)
    expected = centre + tall * np.array([0.75 * (21 / 48 - 0.5), 29 / 64 - 0.5])
    np.testing.assert_allclose(xy[0, 0], expected, atol=3.0)
    # Grey levels 20 n, normalised as (x - 10) / 2; the middle of the crop is inside the picture.
    seen = network.module.seen[0]  # type: ignore[union-attr,index]
    assert tuple(seen.shape) == (1, 3, 3, 64, 48)
    levels = seen[0, :, 0, 32, 24].tolist()
    wanted = [(20 * n - 10) / 2 for n in dataset[0].frame_index.tolist()]
    np.testing.assert_allclose(levels, wanted, atol=1.5)


def test_without_time_every_frame_is_the_key_frame(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}?frames=3&key=1")
    sample = next(
        s for s in (dataset[i] for i in range(len(dataset))) if 2 <= s.frame_index[1] <= 5
    )
    network = spy_network()
    Predictor(network, temporal=False).run([sample])
    levels = network.module.seen[0][0, :, 0, 32, 24]  # type: ignore[union-attr,index]
    assert len(set(levels.tolist())) == 1


def test_windows_that_do_not_fit_are_refused(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}?frames=5&key=2")
    with pytest.raises(ConfigError, match="wants windows of 3 frames with the key at 1"):
        Predictor(spy_network()).run([dataset[0]])
    assert Predictor(spy_network()).run([])[0].shape == (0, 15, 2)


def test_a_video_network_gets_its_distances(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}?frames=3&key=1&step=2")
    given: list[list[float]] = []

    class Listener(type(build_net("pstpose_vitl", **TINY))):  # type: ignore[misc]
        def forward(self, frames: torch.Tensor, dt_left: Any, dt_right: Any) -> PoseOut:
            given.append([dt_left.tolist(), dt_right.tolist()])
            return PoseOut(torch.zeros(len(frames), 15, 16, 12), {})

    network = open_network("pstpose_vitl", **TINY)
    network.module.__class__ = Listener
    Predictor(network).run([dataset[0], dataset[len(dataset) - 1]])
    first, last = dataset[0], dataset[len(dataset) - 1]
    assert given == [[[first.dt_left, last.dt_left], [first.dt_right, last.dt_right]]]


def test_bad_commands_say_what_is_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"posetrack18:{root}"
    cases = {
        "expected --dataset SPEC": [],
        "expected either --net NAME or --predictions FILE": ["--dataset", spec],
        "no model card is called 'nonesuch'": ["--dataset", spec, "--net", "nonesuch"],
        "--net-option: expected NAME=VALUE": [
            "--dataset", spec, "--net", "pstpose_vitl", "--net-option", "x"],
        "table 'pstpose.9' is not known": ["--table", "pstpose.9"],
        "table dsa.4 has no row 'x'": [
            "--dataset", spec, "--predictions", "x", "--table", "dsa.4", "--row", "x"],
        "--limit leaves people out": [
            "--dataset", spec, "--net", "pstpose_vitl", *TINY_OPTIONS, "--limit", "2"],
        "--device: expected auto": [
            "--dataset", spec, "--net", "pstpose_vitl", "--device", "tpu"],
        "is missing": ["--dataset", "posetrack18:/nowhere", "--predictions", "x"],
        "options are for networks by architecture": [
            "--dataset", spec, "--net", "movenet_thunder_large", "--net-option", "x=1"],
    }  # fmt: skip
    for sentence, argv in cases.items():
        assert evaluate.command(argv) == 1, sentence
        assert sentence in capsys.readouterr().err


# Protocols


def test_labels_as_predictions_score_100_where_every_label_can_be_found(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}")
    answer = protocols.measure(dataset, truth_of(dataset), "poseval", protocols.Options())
    assert answer["total"] == pytest.approx(100.0)
    assert answer["accel_error_px"] == pytest.approx(0.0)


def test_weak_joints_can_be_left_out(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}")
    weak = protocols.Options(keypoint_min=0.95)
    answer = protocols.measure(dataset, truth_of(dataset), "poseval", weak)
    assert answer["total"] == 0.0


def test_a_coco_network_speaks_posetrack() -> None:
    xy = np.zeros((1, 17, 2), np.float32)
    xy[0, COCO17.index("left_shoulder")] = 4, 10
    xy[0, COCO17.index("right_shoulder")] = -4, 10
    score = np.full((1, 17), 0.5, np.float32)
    ours = protocols.to_joint_set(Predicted(xy, score, COCO17), POSETRACK15)
    np.testing.assert_allclose(ours.xy_px[0, POSETRACK15.index("neck")], [0, 10])
    np.testing.assert_allclose(ours.xy_px[0, POSETRACK15.index("head_top")], [0, -10])


def coco_root(folder: Path) -> Path:
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    images, people = [], []
    for number in (1, 2, 3):
        cv2.imwrite(str(folder / "val2017" / f"{number}.jpg"), np.zeros((60, 80, 3), np.uint8))
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 80, "height": 60})
        table = np.stack([20.0 + np.arange(17), 10 + 2.0 * np.arange(17), np.full(17, 2)], axis=1)
        people.append(
            {
                "id": number, "image_id": number, "category_id": 1, "bbox": [15, 5, 40, 50],
                "area": 1500.0, "num_keypoints": 17, "keypoints": table.ravel().tolist(),
            }
        )  # fmt: skip
    data = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(data))
    return folder


def test_coco_from_predictions_and_from_a_file(tmp_path: Path) -> None:
    dataset = parse_spec(f"coco:{coco_root(tmp_path)}")
    found = truth_of(dataset)
    found.xy_px[2] += 500.0
    answer = protocols.measure(dataset, found, "coco", protocols.Options())
    # Two of three are right, all with one score: precision 1 to recall 2/3, where the wrong one
    # comes last in the order of the pictures. COCO reads recalls 0, 0.01 ... 0.66: 67 of 101.
    assert answer["ap"] == pytest.approx(67 / 101)
    assert answer["ar"] == pytest.approx(2 / 3)
    file = tmp_path / "results.json"
    file.write_text(json.dumps(protocols.coco_results(dataset, found)))  # type: ignore[arg-type]
    again = protocols.measure_file(dataset, file, "coco")
    assert again == pytest.approx({k: answer[k] for k in again}, nan_ok=True)
    entries = json.loads(file.read_text())
    for change, match in (
        ({"image_id": 9}, "picture 9 is not in the dataset"),
        ({"keypoints": [0.0] * 42}, "expected 17 joints, got 42"),
    ):
        file.write_text(json.dumps([{**entries[0], **change}]))
        with pytest.raises(ConfigError, match=match):
            protocols.measure_file(dataset, file, "coco")


def test_refinement_steadies_noisy_tracks(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}")
    rows = [dataset[i] for i in range(len(dataset))]
    # Whoever is labelled walks straight on; what is predicted trembles about it.
    body = np.stack([20.0 * np.cos(np.arange(15)), 12.0 * np.arange(15)], axis=1)
    walk = np.stack([body + 2.0 * s.frame_index[0] for s in rows]).astype(np.float32)
    shaken = walk + np.random.default_rng(0).normal(0, 3, walk.shape).astype(np.float32)
    found = Predicted(shaken, np.full(walk.shape[:2], 0.5, np.float32), POSETRACK15)
    refined = refine_predictions(dataset, found, 30.0)
    frames = np.array([s.frame_index[0] for s in rows])
    runs = runs_of([s.track for s in rows], frames, 3)
    assert len(runs) >= 3
    alone = np.setdiff1d(np.arange(len(rows)), np.concatenate(runs))
    assert len(alone) > 0
    np.testing.assert_array_equal(refined.xy_px[alone], shaken[alone])
    before, after = (
        np.mean([jitter(points[run]) for run in runs if len(run) > 3])
        for points in (shaken, refined.xy_px)
    )
    assert after < 0.7 * before
    with pytest.raises(ConfigError, match="needs the rate"):
        refine_predictions(dataset, found, -1.0)


def test_refinement_of_stills_says_that_there_is_nothing_to_refine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = parse_spec(f"coco:{coco_root(tmp_path)}")
    found = truth_of(dataset)
    assert refine_predictions(dataset, found, 30.0) is found
    assert "no track has 3 labelled frames in a row" in caplog.text


def test_refinement_learns_the_bones_of_everybody() -> None:
    """Two walkers of other sizes, 2 cm of noise: bones vary by less than 3 %, not by 13."""
    rng, bodies = np.random.default_rng(4), []
    for seed, stature_m in ((3, 1.8), (4, 1.55)):
        bodies.append(walk(3.0, 30.0, seed, stature_m, 1.4)[1][:85])
    truth = np.concatenate(bodies)
    tracks = ["tall"] * 85 + ["small"] * 85
    frames = np.tile(np.delete(np.arange(90), np.arange(40, 45)), 2)  # a gap: two runs of each
    noisy = (truth + rng.normal(0, 0.02, truth.shape)).astype(np.float32)
    sure = np.ones(truth.shape[:2], np.float32)
    runs = runs_of(tracks, frames, 3)
    assert len(runs) == 4
    refined = refine_poses(noisy, sure, runs, 30.0, COCO17, tracks)
    whole = [np.arange(85), np.arange(85, 170)]
    lengths = bone_lengths(noisy, sure, whole, COCO17)
    edges = COCO17.edge_indices()
    real = np.linalg.norm(truth[:, edges[:, 0]] - truth[:, edges[:, 1]], axis=-1)
    limbs = np.array([min(edge) > 4 for edge in edges.tolist()])
    for row, person in enumerate(whole):
        assert bone_variation(noisy[person], COCO17) > 0.1
        assert bone_variation(refined[person], COCO17) < 0.03
        np.testing.assert_allclose(
            lengths[row, limbs], real[person].mean(axis=0)[limbs], rtol=0.06
        )
    off = [np.linalg.norm(points - truth, axis=-1).mean() for points in (noisy, refined)]
    assert off[1] < 0.7 * off[0]
    assert bone_lengths(noisy, sure, [], COCO17).shape == (0, len(edges))


def test_pck_and_hstpns_measures(tmp_path: Path) -> None:
    dataset = parse_spec(f"coco:{coco_root(tmp_path)}")
    found = truth_of(dataset)
    found.xy_px[0] += 500.0
    options = protocols.Options(tau=0.5)
    pck = protocols.measure(dataset, found, "pck", options)
    assert pck["pck10"] == pytest.approx(100 * 2 / 3)
    answer = protocols.measure(dataset, found, "hstpn", options)
    assert answer["accuracy"] == pytest.approx(100 * 2 / 3)
    assert answer["recall"] == pytest.approx(100 * 2 / 3)
    assert answer["tau"] == 0.5
    coco = protocols.measure(dataset, found, "coco", options)
    assert answer["oks_ap"] == pytest.approx(100 * coco["ap"])
    for wrong in (0.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="expected a confidence above 0"):
            protocols.measure(dataset, found, "hstpn", protocols.Options(tau=wrong))


def test_people_without_a_head_rectangle_do_not_count_as_wrong(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}")
    rows = protocols.slots(dataset, truth_of(dataset))
    assert np.isfinite(rows.head_px).all()
    headless = np.where(np.arange(len(rows.head_px)) % 2 == 0, np.nan, rows.head_px)
    told = protocols.Options(tau=0.5)
    whole = protocols.score_hstpn(dataset, rows, told)
    half = protocols.score_hstpn(dataset, replace(rows, head_px=headless), told)
    assert whole["recall"] == pytest.approx(100.0) == half["recall"]
    kept = rows.of(np.isfinite(headless))
    assert len(kept.track) == len(kept.truth) == int(np.isfinite(headless).sum()) > 0


def test_pckh_stands_beside_hstpns_measures_where_heads_are_known(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}")
    found = truth_of(dataset)
    found.xy_px[::2] += 1000.0
    options = protocols.Options(tau=0.5)
    beside = protocols.measure(dataset, found, "hstpn", options)
    alone = protocols.measure(dataset, found, "pckh", options)
    assert beside["pckh"] == pytest.approx(alone["pckh"])
    assert 10.0 < beside["pckh"] < 90.0


def test_motion_per_second_and_bones_that_are_too_long(root: Path) -> None:
    dataset = parse_spec(f"posetrack18:{root}")
    found = truth_of(dataset)
    rng = np.random.default_rng(3)
    found.xy_px[:] += rng.normal(0, 3, found.xy_px.shape).astype(np.float32)
    rows = protocols.slots(dataset, found)
    plain, timed = protocols.motion_of(rows), protocols.motion_of(rows, 25.0)
    assert plain == {name: timed[name] for name in plain} and 0.0 < plain["overlong"] < 1.0
    assert timed["velocity_error_px_s"] == pytest.approx(25 * plain["velocity_error_px"])
    assert timed["accel_error_head_s2"] == pytest.approx(625 * plain["accel_error_head"])
    assert timed["jitter_px_s3"] == pytest.approx(15625 * plain["jitter_px"])
    assert protocols.motion_of(protocols.slots(dataset, truth_of(dataset)))["overlong"] == 0.0
    found.score[0] = 0.1  # now the wrong ones are the unsure ones
    best = protocols.measure(dataset, found, "hstpn", protocols.Options())
    assert best["auc"] == pytest.approx(100.0)
    assert best["precision"] == pytest.approx(100.0)


def test_the_default_protocol(tmp_path: Path, root: Path) -> None:
    assert protocols.default_protocol(parse_spec(f"posetrack18:{root}")) == "poseval"
    assert protocols.default_protocol(parse_spec(f"coco:{coco_root(tmp_path / 'c')}")) == "coco"
    assert protocols.default_protocol(Standing()) == "pck"


def test_protocols_that_do_not_fit(tmp_path: Path, root: Path) -> None:
    coco = parse_spec(f"coco:{coco_root(tmp_path / 'coco')}")
    found, options = truth_of(coco), protocols.Options()
    for protocol, match in (
        ("poseval", "needs PoseTrack's joints, coco has coco17"),
        ("pckh", "needs head rectangles"),
        ("mpjpe", "--predictions"),
        ("oks", "protocol 'oks' is not known"),
    ):
        with pytest.raises(ConfigError, match=match):
            protocols.measure(coco, found, protocol, options)
    with pytest.raises(ConfigError, match="not with pck"):
        protocols.measure_file(coco, tmp_path, "pck")
    with pytest.raises(ConfigError, match="needs 3-D labels"):
        protocols.measure_file(coco, tmp_path, "mpjpe")
    other = Predicted(found.xy_px[:, :1], found.score[:, :1], COCO17)
    with pytest.raises((ShapeError, IndexError)):
        protocols.to_joint_set(other, POSETRACK15)


#: A standing body in metres: x to its left, y down, z away from its front; COCO's order.
BODY = np.array(
    [
        [0, -0.62, -0.1], [0.03, -0.65, -0.08], [-0.03, -0.65, -0.08], [0.07, -0.63, 0],
        [-0.07, -0.63, 0], [0.18, -0.45, 0], [-0.18, -0.45, 0], [0.22, -0.17, 0.02],
        [-0.22, -0.17, 0.02], [0.24, 0.08, -0.03], [-0.24, 0.08, -0.03], [0.1, 0, 0],
        [-0.1, 0, 0], [0.11, 0.42, -0.02], [-0.11, 0.42, -0.02], [0.11, 0.84, 0.02],
        [-0.11, 0.84, 0.02],
    ]
)  # fmt: skip


class Standing:
    """Thirty frames of one person in 3-D."""

    name = "standing"
    skeleton = COCO17

    def __init__(self) -> None:
        self.xyz = BODY[None].repeat(30, axis=0)

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        from pose_ros.training.datasets import ArrayImage, ClipSample

        return ClipSample(
            (ArrayImage(np.zeros((4, 4, 3), np.uint8)),), 0, np.ones(4, np.float32),
            np.zeros((1, 17, 2), np.float32), np.full((1, 17), 2, np.uint8), COCO17, "one",
            np.array([index]), 0, 0, xyz_m=self.xyz[[index]].astype(np.float32),
        )  # fmt: skip


def test_tracks_of_every_fifth_frame_are_tracks() -> None:
    """Human3.6M and SportsPose are labelled every stride-th frame; motion is between these."""

    class Strided(Standing):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return replace(sample, frame_index=5 * sample.frame_index)

    dataset = Strided()
    frames = np.array([5 * i for i in range(30)])
    assert step_of(["one"] * 30, frames) == 5
    assert step_of(["a", "b"], np.array([3, 3])) == 1  # nobody is seen twice
    assert step_of(["a", "a", "a", "b", "b"], np.array([0, 4, 5, 0, 4])) == 1
    rng = np.random.default_rng(0)
    found = Predicted(
        rng.normal(100, 2, (30, 17, 2)).astype(np.float32), np.ones((30, 17), np.float32), COCO17
    )
    moved = protocols.motion_of(protocols.slots(dataset, found))
    assert moved == protocols.motion_of(protocols.slots(Standing(), found))
    assert moved["jitter_px"] > 1.0
    assert refine_predictions(dataset, found, 10.0) is not found


def test_3d_predictions_from_a_file(tmp_path: Path) -> None:
    dataset = Standing()
    path = tmp_path / "poses.npz"
    np.savez(path, xyz_m=dataset.xyz + 1.0)
    answer = protocols.measure_file(dataset, path, "mpjpe")
    assert answer["mpjpe_mm"] == pytest.approx(0.0, abs=1e-3)
    assert answer["accel_error_mm"] == pytest.approx(0.0, abs=1e-3)
    assert answer["bone_cv"] == pytest.approx(0.0, abs=1e-6)
    steady = ("velocity_error_mm", "jitter_mm", "asymmetry")
    assert all(answer[name] == pytest.approx(0.0, abs=0.02) for name in steady)
    assert "jitter_mm_s3" not in answer and answer["angle_violations"] == 0.0
    noisy = dataset.xyz + np.random.default_rng(2).normal(0, 0.03, dataset.xyz.shape)
    np.savez(path, xyz_m=noisy)
    both = protocols.measure_file(dataset, path, "mpjpe", protocols.Options(refine_hz=30.0))
    assert both["accel_error_mm_refined"] < 0.5 * both["accel_error_mm"]
    for name, per_second in (("velocity_error_mm", 30.0), ("jitter_mm", 30.0**3)):
        power = "_s" if per_second == 30.0 else "_s3"
        assert both[f"{name}{power}"] == pytest.approx(per_second * both[name])
        assert both[f"{name}{power}_refined"] < 0.7 * both[f"{name}{power}"]
    assert both["asymmetry_refined"] < both["asymmetry"]
    slow = protocols.measure_file(dataset, path, "mpjpe", protocols.Options(rate_hz=10.0))
    assert slow["accel_error_mm_s2"] == pytest.approx(both["accel_error_mm_s2"] / 9)
    assert both["bone_cv_refined"] < both["bone_cv"]
    assert both["mpjpe_mm_refined"] < both["mpjpe_mm"]
    np.savez(path, xyz_m=dataset.xyz[:4])
    with pytest.raises(ShapeError, match="expected 30 poses, one per sample, got 4"):
        protocols.measure_file(dataset, path, "mpjpe")


# Tables


@pytest.mark.parametrize("key", sorted(TABLES))
def test_every_row_has_a_value_per_column_and_flags_that_its_network_has(key: str) -> None:
    table = get_table(key)
    module = __import__(f"pose_ros.nets.{table.net.split('_')[0]}", fromlist=["x"])
    configs = {
        "pstpose": "PSTPoseConfig", "vremd": "VREMDConfig", "stdpose": "STDPoseConfig",
        "dsa": "DsaConfig", "hstpn": "HstpnConfig",
    }  # fmt: skip
    config = getattr(module, configs[table.net.split("_")[0]])
    assert len({row.key for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert len(row.values) == len(table.columns), row.key
        config(**(row.flags or {}))  # refuses unknown fields and values
    assert table.protocol in (*protocols.PROTOCOLS, cost.PROTOCOL)


@pytest.mark.parametrize("key", [k for k, t in TABLES.items() if len(t.columns) == 8])
def test_the_printed_means_are_those_of_the_printed_columns(key: str) -> None:
    """A typing error in a table shows: m15 or m7 of the columns is the mean, to rounding.

    DSA's table 3 prints 70.3 for HRNet, whose columns have 70.43 and 69.97.
    """
    for row in get_table(key).rows:
        values = np.array(row.values, float)
        if np.isnan(values[:7]).any():
            continue  # another method, of which little more than the mean is known
        m7 = values[:7].mean()
        m15 = (3 * values[0] + 2 * values[1:7].sum()) / 15
        # what others printed was copied from paper to paper, with means of either kind
        reach = 0.13 if row.flags is not None else 0.31
        assert min(abs(values[7] - m7), abs(values[7] - m15)) < reach, row.key


def test_a_paper_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = {"table": "pstpose.4", "row": "a", "metrics": {"total": 71.25, "m7": None}}
    (tmp_path / "a.json").write_text(json.dumps(saved))
    (tmp_path / "other.json").write_text(json.dumps({"table": "dsa.4", "metrics": {}}))
    files = {name: tmp_path / f"t.{name}" for name in ("csv", "latex", "png")}
    argv = ["--table", "pstpose.4", "--results", str(tmp_path), "--csv", str(files["csv"])]
    argv += ["--latex", str(files["latex"]), "--plot", str(files["png"])]
    assert evaluate.command(argv) == 0
    out = capsys.readouterr().out
    answer = json.loads(out.splitlines()[-1])
    assert (answer["rows"], answer["measured"]) == (6, 1)
    lines = [line.split() for line in out.splitlines()]
    index = next(i for i, line in enumerate(lines) if line[:2] == ["w/o", "DFE"])
    assert lines[index][2:] == ["paper", "86.5", "net.options.dfe=mhsa"]
    assert lines[index + 1] == ["ours", "71.2"]
    rows = list(csv.reader(files["csv"].open()))
    assert rows[0] == ["row", "", "Mean", "flags"]
    assert rows[1] == ["DSTA", "paper", "85.6", "(not one of our networks)"]
    assert len(rows) == 1 + 1 + 2 * 5
    assert r"\begin{tabular}{lrrr}" in files["latex"].read_text()
    picture = cv2.imread(str(files["png"]))
    assert picture.std() > 10
    (tmp_path / "b.json").write_text(json.dumps(saved))
    assert evaluate.command(argv) == 1
    assert "was saved twice" in capsys.readouterr().err
    assert evaluate.command(["--table", "pstpose.4", "--results", str(tmp_path / "nosuch")]) == 1
    assert "expected a folder of answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paper", "tables"), [("hstpn", 10), ("pstpose", 4), ("vremd", 6), ("stdpose", 9), ("dsa", 5)]
)
def test_all_tables_of_a_paper_are_printed(
    paper: str, tables: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HSTPN: 1 and 2 (a table per set), 3, 4 and 5 as four, 6; STDPose: 1 and 2 per set."""
    out = tmp_path / "all.csv"
    assert evaluate.command(["--table", paper, "--csv", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    answer = json.loads(printed[-1])
    assert sum(line.startswith("row ") for line in printed) == tables
    assert answer["measured"] == 0 and answer["rows"] > 2 * tables
    assert len(out.read_text().split("row,")) == 1 + tables
    assert evaluate.command(["--table", paper + "x"]) == 1


def test_every_row_of_ours_says_what_makes_it() -> None:
    for table in TABLES.values():
        for row in table.rows:
            text = flags_text(row)
            assert (row.flags is None) == (text == "(not one of our networks)")
    refined = get_table("hstpn.4.mpii")
    assert [flags_text(row) for row in refined.rows] == [
        "net.options.msf=False --refine RATE_HZ", "net.options.temporal=off --refine RATE_HZ",
        "net.options.attn=False --refine RATE_HZ", "(as it is)", "--refine RATE_HZ",
    ]  # fmt: skip
    given = [flags_text(row) for row in get_table("stdpose.4.interval").rows]
    assert given == [f"--interval {t}" for t in (2, 3, 5, 7, 9, 15)]


def test_what_a_network_costs_is_a_row_of_table_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["backbone=resnet", "channels=16", "base=8", "size_hw_px=[64, 32]"]
    argv = ["--net", "hstpn_r50", "--protocol", "cost", "--device", "cpu", "--table", "hstpn.3",
            "--save", str(tmp_path / "ours.json")]  # fmt: skip
    for option in small:
        argv += ["--net-option", option]
    assert evaluate.command(argv) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    wanted = cost_of("hstpn_r50", backbone="resnet", channels=16, base=8, size_hw_px=(64, 32))
    assert metrics["params_m"] == pytest.approx(wanted.params_m, rel=1e-4)
    assert metrics["gflops"] == pytest.approx(2 * wanted.uncached, rel=1e-4)
    assert 0 < metrics["ms"] <= metrics["ms_p95"]
    assert evaluate.command(["--table", "hstpn.3", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1])["measured"] == 1
    assert f"{metrics['params_m']:.1f}" in out


def test_latex_escapes_and_unknown_is_a_dash() -> None:
    grid = metrics_grid("title", {"a_b": float("nan"), "c%": 1.5})
    assert r"a\_b & -" in grid.latex()
    assert r"c\% & 1.5000" in grid.latex()
    assert Grid("t", ("a", "b"), (("x", "12"), ("long", "3"))).text().splitlines()[1:] == [
        "a      b", "x     12", "long   3",
    ]  # fmt: skip
    others = table_grid(get_table("dsa.3"), {})
    assert [row[1] for row in others.rows] == ["paper"] * 5 + ["ours"]


def test_a_full_disk_leaves_an_older_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is opened for writing before the new content is on the disk."""

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    told = {"metrics": {"pck5": 1.0}, "dataset": "d", "protocol": "pck", "net": "n"}
    monkeypatch.setattr(evaluate, "_network", lambda _args: told)
    monkeypatch.setattr(os, "fsync", full)
    for option in ("--save", "--csv", "--latex"):
        file = tmp_path / f"old{option}"
        file.write_text("an older answer")
        assert evaluate.command(["--net", "n", "--dataset", "d:", option, str(file)]) == 1
        assert "No space left" in capsys.readouterr().err
        assert file.read_text() == "an older answer"
