"""Training when to believe the past: windows, objective, a run that goes on, its card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pose_ros.nets.checkpoint import Card, find_card, load_net, read_card
from pose_ros.nets.hstpn import HstpnPrior
from pose_ros.nets.registry import build_net
from pose_ros.training import train_prior
from pose_ros.training.consensus import Track
from pose_ros.training.train_prior import FRAMES, Film, Store, answers, objective, window_of

SIZE = (64, 64)
SMALL = {"backbone": "movenet_lightning", "size_hw_px": SIZE, "prior": True}


def tiny() -> HstpnPrior:
    torch.manual_seed(0)
    return build_net("hstpn_robot", **SMALL).eval()


def bumps(cells: torch.Tensor, height: float = 1.0) -> torch.Tensor:
    """Gaussian maps (..., 16, 16) about cells (..., 2)."""
    at = torch.arange(16.0)
    square = (at[:, None] - cells[..., 1, None, None]).square()
    return height * (-(square + (at - cells[..., 0, None, None]).square()) / 8.0).exp()


def walking(windows: int) -> torch.Tensor:
    """Joints (B, T, K, 2) that move on evenly, in cells."""
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.uniform(5, 9, (windows, 1, 17, 2))).float()
    speed = torch.from_numpy(rng.uniform(-0.3, 0.3, (windows, 1, 17, 2))).float()
    return start + speed * torch.arange(float(FRAMES))[:, None, None]


def filled(folder: Path, windows: int, net: HstpnPrior) -> Store:
    """Windows in which every joint is often seen elsewhere, dimly."""
    truth, rng = walking(windows), np.random.default_rng(1)
    store = Store(folder, windows, net)
    for cells in truth:
        lost = torch.from_numpy(rng.random((FRAMES, 17)) < 0.3)
        lost[0] = False
        other = torch.from_numpy(rng.uniform(3, 13, cells.shape)).float()
        seen = torch.where(lost[..., None], other, cells)
        now = bumps(seen) * torch.where(lost, 0.3, 0.9)[..., None, None]
        store.add(torch.cat((torch.zeros(FRAMES, 24, 16, 16), now, now), 1), cells.numpy(), net)
    return store


def test_the_truth_costs_least_and_the_unknown_nothing() -> None:
    cells = walking(2)
    right = objective(bumps(cells), cells)
    wrong = objective(bumps(cells + torch.tensor([2.0, 0.0])), cells)
    assert float(right["where"]) < 0.01 < 1.0 < float(wrong["where"])
    assert float(right["place"]) < float(wrong["place"])
    assert float(right["motion"]) < 0.01
    shaky = cells + 0.8 * torch.randn(cells.shape, generator=torch.Generator().manual_seed(0))
    assert float(objective(bumps(shaky), cells)["motion"]) > 0.1
    hidden = cells.clone()
    hidden[:, :, 5] = float("nan")
    maps = bumps(cells)
    maps[:, :, 5] = torch.rand(2, FRAMES, 16, 16)
    assert float(objective(maps, hidden)["total"]) == pytest.approx(
        float(right["total"]), rel=0.05
    )


def test_stored_windows_are_answered_like_windows() -> None:
    """`answers` skips `encode`; the same as `fuse` on what `encode` would have said."""
    net = tiny()
    torch.nn.init.normal_(net.recall.weight, std=0.2)
    torch.nn.init.normal_(net.gate.out.weight, std=0.5)
    psi, now = torch.randn(2, 3, 24, 16, 16), torch.rand(2, 3, 17, 16, 16)
    half = torch.rand(2, 3, 17, 8, 8)
    raw = half.repeat_interleave(2, 3).repeat_interleave(2, 4)
    one = torch.ones(2)
    pooled = torch.nn.functional.avg_pool2d(psi.flatten(0, 1), 2).unflatten(0, (2, 3))
    with torch.no_grad():
        wanted = net.fuse((torch.cat((psi, now, raw), 2),), one, one).heatmaps
        found = answers(net, {"feature": pooled, "now": now, "raw": half})
    torch.testing.assert_close(found[:, -1], wanted, atol=1e-5, rtol=1e-5)


def test_windows_show_labels_where_they_are() -> None:
    """A white dot in a black film is bright at its label, in any draw of the window."""
    xy = np.full((20, 17, 2), np.nan, np.float32)
    frames = []
    for t in range(20):
        image = np.zeros((200, 160, 3), np.uint8)
        xy[t, 0] = (70 + t, 90 + t)
        image[87 + t : 94 + t, 67 + t : 74 + t] = 255
        frames.append(image)
    box = np.tile(np.array([20, 10, 140, 190], np.float32), (20, 1))
    film = Film("dot", frames, [Track(np.arange(20), box, xy)])
    rng, bright = np.random.default_rng(0), []
    for _ in range(40):
        crops, cells = window_of(film, rng, (128, 96), 1.0)
        assert crops.shape == (FRAMES, 128, 96, 3)
        assert np.isnan(cells[:, 1:]).all()
        x, y = np.rint(cells[0, 0] * 4 - 0.5).astype(int)
        bright.append(int(crops[0, y, x].max()) > 100)
    assert np.mean(bright) > 0.8  # not where the dot is hidden, dark or smeared


def card_in(folder: Path) -> Card:
    text = (
        "name: small\nkind: pose\narchitecture: hstpn_robot\ninput_hw: [64, 64]\nframes: 3\n"
        "recurrent: true\ncell_shift_px: -0.5\nmean: [127.5, 127.5, 127.5]\n"
        "std: [127.5, 127.5, 127.5]\nchannels: rgb\nskeleton: coco17\nuntrained: true\n"
        "licence: Apache-2.0\nlicence_notice: x\ntrained: false\ntraining_data: none\n"
        "overrides: {backbone: movenet_lightning, size_hw_px: [64, 64], prior: true}\n"
    )
    (folder / "small.yaml").write_text(text, encoding="utf-8")
    return read_card(folder / "small.yaml")


def test_a_run_learns_goes_on_and_ends_in_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card_in(tmp_path)
    monkeypatch.setenv("POSE_ROS_MODELS", str(tmp_path))
    run = tmp_path / "run"
    run.mkdir()
    filled(run, 16, load_net(find_card("small")))
    argv = ["--card", "small", "--out", str(run), "--windows", "16", "--steps", "24", "--batch"]
    argv += ["2", "--lr", "0.02", "--caution", "0"]
    stopped = train_prior.main([*argv, "--seconds", "0.4"])
    assert stopped["windows"] == 16 and stopped["step"] < 24 and "card" not in stopped
    answer = train_prior.main(argv)
    assert answer["step"] == 24
    assert answer["val_place"] < answer["alone_place"]
    card = read_card(run / "small.yaml")
    assert (card.trained, card.untrained, card.trunk_from) == (True, False, None)
    net = load_net(card)
    saved = torch.load(run / "last.ckpt", weights_only=True)["net"]
    for name, tensor in saved.items():
        torch.testing.assert_close(net.state_dict()[name], tensor, atol=2e-3, rtol=2e-3)
