"""Training which frames to believe: objective, windows, a run that goes on and ends in a card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import Card, load_net, read_card
from pose_ros.nets.pstpose_prior import FACTS, PstPosePrior
from pose_ros.training import train_pst_prior
from pose_ros.training.evidence_clips import LENGTH, Clips, Cut
from pose_ros.training.train_pst_prior import objective, validate, windows

KEYS = 4
SIZE = 16  # cells


def bumps(cells: torch.Tensor, height: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Gaussian maps (..., 16, 16) about cells (..., 2)."""
    at = torch.arange(float(SIZE))
    square = (at[:, None] - cells[..., 1, None, None]).square()
    return height * (-(square + (at - cells[..., 0, None, None]).square()) / 8.0).exp()


def walking(clips: int, frames: int) -> torch.Tensor:
    """Joints (N, T, K, 2) that move on evenly, in cells."""
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.uniform(5, 9, (clips, 1, 17, 2))).float()
    speed = torch.from_numpy(rng.uniform(-0.3, 0.3, (clips, 1, 17, 2))).float()
    return start + speed * torch.arange(float(frames))[:, None, None]


def card_in(folder: Path) -> Card:
    text = (
        "name: small\nkind: pose\narchitecture: pstpose_prior\ninput_hw: [64, 64]\nframes: 5\n"
        "lookahead_frames: 1\ncell_shift_px: -0.5\nmean: [127.5, 127.5, 127.5]\n"
        "std: [127.5, 127.5, 127.5]\nchannels: rgb\nskeleton: coco17\nuntrained: true\n"
        "licence: Apache-2.0\nlicence_notice: x\ntrained: false\ntraining_data: none\n"
        "overrides: {backbone: movenet_lightning, size_hw_px: [64, 64], model_dim: 32}\n"
    )
    (folder / "small.yaml").write_text(text, encoding="utf-8")
    return read_card(folder / "small.yaml")


def fill(folder: Path, count: int, card: Card) -> Clips:
    """Clips in which every joint is often seen elsewhere, dimly."""
    folder.mkdir(parents=True)
    clips, rng = Clips(folder, count, card, FACTS + 48), np.random.default_rng(count)
    crops = np.zeros((LENGTH, 64, 64, 3), np.uint8)
    for cells in walking(count, LENGTH):
        lost = torch.from_numpy(rng.random((LENGTH, 17)) < 0.3)
        other = torch.from_numpy(rng.uniform(3, 13, cells.shape)).float()
        seen = torch.where(lost[..., None], other, cells)
        score = torch.where(lost, 0.2, 0.9)
        facts = torch.zeros(LENGTH, 17, FACTS + 48)
        facts[..., :2], facts[..., 2] = seen, score
        maps = bumps(seen, score[..., None, None])
        clips.add(maps.numpy(), facts.numpy(), Cut(crops, cells.numpy(), 1))
    return clips


def test_the_truth_costs_least_and_the_unknown_nothing() -> None:
    cells = walking(2, KEYS).flatten(0, 1)
    votes = cells[:, None].repeat(1, 5, 1, 1)
    right = objective(bumps(cells), votes, cells, KEYS)
    wrong = objective(bumps(cells + torch.tensor([2.0, 0.0])), votes + 2.0, cells, KEYS)
    for term in ("where", "place", "votes"):
        assert float(right[term]) < float(wrong[term]), term
    assert float(right["votes"]) == 0.0 and float(right["motion"]) < 0.01
    shaky = cells + 0.8 * torch.randn(cells.shape, generator=torch.Generator().manual_seed(0))
    assert float(objective(bumps(shaky), votes, cells, KEYS)["motion"]) > 0.1
    hidden, maps = cells.clone(), bumps(cells)
    hidden[:, 5], maps[:, 5] = float("nan"), torch.rand(2 * KEYS, SIZE, SIZE)
    total = float(objective(maps, votes, hidden, KEYS)["total"])
    assert total == pytest.approx(float(right["total"]), rel=0.05)


def test_windows_are_the_frames_around_each_key_frame(tmp_path: Path) -> None:
    net = load_net(card_in(tmp_path))
    assert isinstance(net, PstPosePrior)
    number = torch.arange(8.0)[None, :, None, None].repeat(2, 1, 17, 2)
    batch = {"maps": number[..., :1, None], "facts": number, "cells": number}
    maps, facts, cells = windows(net, batch, KEYS)
    assert facts[:, :, 0, 0].tolist() == [[t + s for s in range(5)] for t in range(4)] * 2
    assert maps[:, :, 0, 0, 0].tolist() == facts[:, :, 0, 0].tolist()
    assert cells[:, 0, 0].tolist() == [3, 4, 5, 6] * 2  # the fourth of five


def test_a_run_learns_goes_on_and_ends_in_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = card_in(tmp_path)
    monkeypatch.setenv("POSE_ROS_MODELS", str(tmp_path))
    run = tmp_path / "run"
    fill(run / "train", 80, card)
    held_out = fill(run / "val", 8, card)
    argv = [
        "--card",
        "small",
        "--out",
        str(run),
        "--clips",
        "80",
        "--batch",
        "2",
        "--caution",
        "0",
    ]
    stopped = train_pst_prior.main([*argv, "--steps", "60", "--seconds", "0"])
    assert stopped["clips"] == 80 and stopped["step"] == 0 and "card" not in stopped
    assert train_pst_prior.main([*argv, "--steps", "20"])["step"] == 20
    capsys.readouterr()
    answer = train_pst_prior.main([*argv, "--steps", "60"])
    printed = [int(line.split()[0]) for line in capsys.readouterr().err.splitlines()]
    assert answer["step"] == 60 and printed == [40, 60]  # the first 20 are not done again
    ours, trunk = answer["held_out"]["motion"], answer["held_out"]["motion trunk"]
    assert ours["pck05"] > trunk["pck05"] + 3.0  # of 80
    assert ours["jitter"] < 0.9 * trunk["jitter"]
    done = read_card(run / "small.yaml")
    assert (done.trained, done.untrained, done.lookahead_frames) == (True, False, 1)
    net = load_net(done)
    assert isinstance(net, PstPosePrior)
    again = validate(net, held_out)["motion"]
    assert again["pck05"] == pytest.approx(ours["pck05"], abs=1.0)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected architecture pstpose_prior"):
        train_pst_prior.main(["--card", "hstpn_robot", "--out", str(tmp_path)])
