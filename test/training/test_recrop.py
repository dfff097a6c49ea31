"""Crops that move inside a window: labels, pictures and HSTPN's memory move along."""

from __future__ import annotations

from pathlib import Path

import dots
import numpy as np
import pytest
import torch

from pose_ros.errors import ConfigError
from pose_ros.nets.hstpn import Hstpn
from pose_ros.nets.registry import build_net
from pose_ros.training.config import TrainConfig
from pose_ros.training.losses import moved
from pose_ros.training.objectives import Trainee, burnt_in
from pose_ros.training.train import make_net, run, window_config
from pose_ros.training.windows import WindowDataset

SMALL = {
    "joints": 17, "size_hw_px": [64, 32], "channels": 16, "backbone": "resnet",
    "blocks": [1, 1, 1, 1], "base": 4, "frames": 3,
}  # fmt: skip


def config(**changes: object) -> TrainConfig:
    return dots.config(SMALL, net__name="hstpn_robot", **changes)


def item(index: int, **changes: object) -> dict[str, torch.Tensor]:
    wanted = config(**changes)
    shape = window_config(wanted, make_net(wanted), augmented=True)
    return WindowDataset(dots.Dots(8, dots.WindowSpec(**shape.asked)), shape)[(0, index)]


def test_labels_of_a_moved_crop_map_back_to_the_key_frames() -> None:
    changed = 0
    for index in range(8):
        still, jumps = item(index), item(index, augment__recrop_p=1.0, augment__recrop=0.3)
        back = moved(jumps["cells"][None], jumps["to_key"][None])[0]
        torch.testing.assert_close(back, still["cells"], atol=2e-4, rtol=0)
        torch.testing.assert_close(jumps["to_key"][2], torch.eye(3))  # the newest frame is the key
        assert torch.equal(jumps["frames"][2], still["frames"][2])
        assert not torch.equal(jumps["frames"][0], still["frames"][0])
        changed += int(not torch.equal(jumps["to_key"][1], torch.eye(3)))
    assert 0 < changed < 8  # it jumps after the first or after the second frame


@pytest.fixture
def net() -> Hstpn:
    torch.manual_seed(0)
    made = build_net("hstpn_robot", **{**SMALL, "attn": False})  # attention looks everywhere
    assert isinstance(made, Hstpn)
    torch.nn.init.normal_(made.recall.weight, std=0.5)
    return made.eval()


@pytest.mark.parametrize("burn", [0, 2])
def test_the_memory_moves_with_the_crop(net: Hstpn, burn: int) -> None:
    scene = torch.randn(2, 3, 16, 44, 44)  # cells of the whole picture, frame by frame
    here, there = (..., slice(4, 36), slice(4, 36)), (..., slice(2, 34), slice(7, 39))
    first = scene[here]
    jump = torch.stack([scene[:, t][there if t < 2 else here] for t in range(3)], 1)
    to_key = torch.eye(3).repeat(2, 3, 1, 1)
    to_key[:, :2, :2, 2] = torch.tensor([3.0, -2.0])  # a cell there is 3 right, 2 up here
    frames = torch.full((2,), burn)
    wanted = burnt_in(net, first, frames).heatmaps
    found = burnt_in(net, jump, frames, to_key).heatmaps
    blind = burnt_in(net, jump, frames).heatmaps
    inside = (..., slice(13, 19), slice(13, 19))  # no convolution saw a border from there
    torch.testing.assert_close(found[inside], wanted[inside], atol=1e-4, rtol=1e-3)
    assert (blind - wanted)[inside].abs().max() > 0.1
    plain = burnt_in(net, first, frames, torch.eye(3).repeat(2, 3, 1, 1)).heatmaps
    torch.testing.assert_close(plain, wanted, atol=1e-5, rtol=1e-5)


def test_a_memory_of_elsewhere_is_dropped(net: Hstpn) -> None:
    windows = torch.randn(1, 3, 16, 16, 8)
    to_key = torch.eye(3).repeat(1, 3, 1, 1)
    to_key[:, :2, 0, 2] = 100.0
    alone = net.step(windows[:, 2], net.start(1, windows))[0].heatmaps
    found = burnt_in(net, windows, torch.zeros(1, dtype=torch.int64), to_key).heatmaps
    torch.testing.assert_close(found, alone)


def test_other_networks_are_refused() -> None:
    wanted = dots.config(augment__recrop_p=0.5)
    with pytest.raises(ConfigError, match=r"augment\.recrop_p: expected HSTPN.*pstpose_vitl"):
        Trainee(make_net(wanted), wanted)


def test_everything_together_learns_from_stored_features(tmp_path: Path) -> None:
    """Moving crops, an older memory, refinement in the loss and a teacher, two epochs."""
    wanted = config(
        out=str(tmp_path), net__freeze=True, cache__variants=2, augment__recrop_p=0.7,
        loss__burn_in_p=0.5, loss__aprs=0.01, loss__mean_teacher=0.5, train__ema=0.9,
        loss__teacher_min=0.0, augment__degrade_p=1.0, augment__degrade_kinds=["blur"],
    )  # fmt: skip
    run(wanted)
    rows = [r.split(",") for r in (tmp_path / "metrics.csv").read_text().splitlines()[1:]]
    for name in ("train/aprs", "train/aprs_truth", "train/teacher", "train/motion"):
        values = [float(value) for _step, term, value in rows if term == name]
        assert len(values) == 6
        assert np.isfinite(values).all()
