"""Weights are chosen by poseval's mAP: labels score highest, the number is the protocol's."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
import torch
import toy_posetrack

from pose_ros.core.skeletons import POSETRACK15
from pose_ros.errors import ConfigError
from pose_ros.nets.video import Window
from pose_ros.training import protocols
from pose_ros.training.augment import Draw, apply, crop_affine
from pose_ros.training.config import CropConfig
from pose_ros.training.datasets import Subset, parse_spec
from pose_ros.training.monitor import PosevalJudge
from pose_ros.training.predict import Predicted
from pose_ros.training.targets import cells_from_crop
from pose_ros.training.train import run
from pose_ros.training.windows import Joined, WindowConfig

WINDOWS = WindowConfig(CropConfig(), None, Window(1, 0), (256, 192), POSETRACK15)


class Alone:
    """Stands for Fabric in one process."""

    world_size = 1


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    root, _found = toy_posetrack.write(tmp_path, 18)
    return Joined([parse_spec(f"posetrack18:{root}")], POSETRACK15)


def in_cells(joined: Joined, xy: np.ndarray, codec: str = "edge") -> torch.Tensor:
    """(N, K, 2) cells of image pixels, as the network would answer them."""
    cells = []
    for i, joints in enumerate(xy):
        affine = crop_affine(joined[i].box_xyxy_px, (256, 192), 1.25, Draw(), codec)
        cells.append(cells_from_crop(apply(affine, joints), codec, (256, 192)))
    return torch.from_numpy(np.stack(cells))


def test_cells_go_back_to_the_picture_by_the_codec(joined: Joined) -> None:
    windows = replace(WINDOWS, crop=CropConfig(codec="udp"))
    judge = PosevalJudge(joined, windows)
    seen: list[np.ndarray] = []
    judge._total = lambda xy, score: seen.append(xy) or 0.0  # type: ignore[method-assign]
    truth = np.stack([joined[i].xy_px[0] for i in range(len(joined))])
    cells = in_cells(joined, truth, "udp")
    judge.add(torch.arange(len(joined)), cells, torch.ones(cells.shape[:2]))
    judge.numbers(Alone())  # type: ignore[arg-type]
    np.testing.assert_allclose(seen[0], truth, atol=0.01)


def test_the_labels_themselves_score_100(joined: Joined) -> None:
    judge = PosevalJudge(joined, WINDOWS)
    truth = np.stack([joined[i].xy_px[0] for i in range(len(joined))])
    cells = in_cells(joined, truth)
    score = torch.ones(cells.shape[:2])
    for rows in torch.arange(len(joined)).split(5):
        judge.add(rows, cells[rows], score[rows])
    known = judge.numbers(Alone())["map"]  # type: ignore[arg-type]
    # the toys have people without a box or a joint, whom no window shows: recall is below 1
    assert known == pytest.approx(_protocol(joined, truth, np.ones(truth.shape[:2])))
    assert known > 90
    judge.start()
    assert judge.numbers(Alone())["map"] < 1  # type: ignore[arg-type]


def _protocol(joined: Joined, xy: np.ndarray, score: np.ndarray) -> float:
    predicted = Predicted(xy.astype(np.float32), score.astype(np.float32), POSETRACK15)
    return protocols.poseval(joined.datasets[0], predicted, protocols.Options())["total"]


def test_it_is_the_number_of_the_protocol_in_any_number_of_processes(joined: Joined) -> None:
    rng = np.random.default_rng(0)
    truth = np.stack([joined[i].xy_px[0] for i in range(len(joined))])
    xy = truth + rng.normal(0, 12, truth.shape).astype(np.float32)
    score = rng.random(truth.shape[:2]).astype(np.float32)
    wanted = _protocol(joined, xy, score)
    assert 5 < wanted < 95
    cells, rate = in_cells(joined, xy), torch.from_numpy(score)
    judges = [PosevalJudge(joined, WINDOWS) for _ in range(2)]
    for rank, judge in enumerate(judges):
        rows = torch.arange(rank, len(joined), 2)
        judge.add(rows, cells[rows], rate[rows])

    class Both:
        world_size, device = 2, torch.device("cpu")

        @staticmethod
        def all_reduce(mine: torch.Tensor, reduce_op: str) -> Any:
            assert reduce_op == "sum"
            return judges[0].found + judges[1].found

    assert judges[0].numbers(Both())["map"] == pytest.approx(wanted)  # type: ignore[arg-type]


def test_parts_of_frames_and_other_data_are_refused(joined: Joined) -> None:
    with pytest.raises(ConfigError, match=r"expected data\.val of whole PoseTrack sets"):
        PosevalJudge(Subset(joined, [0, 1]), WINDOWS)
    other = Joined([parse_spec("dots:?clips=3")], POSETRACK15)
    with pytest.raises(ConfigError, match=r"got dots3; use train\.monitor=pck"):
        PosevalJudge(other, WINDOWS)


def test_a_run_keeps_the_weights_of_the_best_map(tmp_path: Path, joined: Joined) -> None:
    spec = f"posetrack18:{tmp_path / 'root'}"
    config = dots.config(
        {"backbone": "vit_tiny", "size_hw_px": [64, 48], "head": "simple", "joints": 15},
        net__name="vitpose_s", crop__joints="posetrack15", data__train=[spec], data__val=[spec],
        train__monitor="map", train__epochs=2, data__limit=8, out=str(tmp_path / "run"),
    )  # fmt: skip
    best = run(config)["best"]
    rows = list(csv.reader((tmp_path / "run" / "metrics.csv").open()))
    values = [float(r[2]) for r in rows if r[1] == "val/map"]
    assert len(values) == 2
    assert best["map"] == pytest.approx(max(values))
    assert all(math.isfinite(v) and 0 <= v <= 100 for v in values)
