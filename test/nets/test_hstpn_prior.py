"""HSTPN on top of MoveNet's own answer: neutral without a past, a weighted mean with one."""

from pathlib import Path

import conv_cases as cases
import numpy as np
import pytest
import torch

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.hstpn import HstpnPrior, StreamState
from pose_ros.nets.movenet import PoseHeads
from pose_ros.nets.movenet_trunk import BeliefGate, evidence, positions, shift
from pose_ros.nets.registry import build_net

JOINTS = 17


def tiny(**overrides: object) -> HstpnPrior:
    torch.manual_seed(0)
    small = {"backbone": "movenet_lightning", "size_hw_px": (64, 64), "prior": True}
    return build_net("hstpn_robot", **small | overrides).eval()


def bump(x: float, y: float, height: float = 1.0, size: int = 32) -> torch.Tensor:
    """A Gaussian of 2 cells in (size, size) cells."""
    cells = torch.arange(size, dtype=torch.float32)
    square = (cells[:, None] - y).square() + (cells - x).square()
    return height * (-square / 8.0).exp()


def heads(seed: int, people: int = 2) -> PoseHeads:
    """Heatmaps with two bumps each, the prior of a person in the middle, and offsets."""
    rng = np.random.default_rng(seed)
    maps = torch.zeros(people, JOINTS, 32, 32)
    for p in range(people):
        for j in range(JOINTS):
            for height in (0.8, 0.6):
                x, y = rng.uniform(5, 27, 2)
                maps[p, j] = torch.maximum(maps[p, j], bump(x, y, height))
    prior = torch.from_numpy(rng.uniform(0.2, 0.6, maps.shape)).float()
    offsets = torch.from_numpy(rng.uniform(0, 1, (people, JOINTS, 2, 32, 32))).float()
    return PoseHeads(maps, prior, offsets)


def test_the_peak_of_the_evidence_is_the_single_frame_answer() -> None:
    """Read as any heatmap, it says what MoveNet's own decoding says, scores included."""
    for seed in range(3):
        given = heads(seed)
        wanted, score = decode(PoseMaps(*(part.numpy() for part in given)))
        drawn, raw = evidence(given)
        found, height = decode(PoseMaps(drawn.numpy()))
        np.testing.assert_allclose(height, score, atol=2e-4)
        near = np.abs(found - wanted).max(-1)
        assert np.quantile(near, 0.9) < 0.15  # cells; other bumps nearby pull a little
        assert (raw.amax((2, 3)).numpy() >= score - 1e-5).all()
        assert float(drawn.min()) >= 0.0 and float(drawn.max()) <= 1.0


def test_maps_move_by_whole_cells_exactly_and_by_parts_of_cells_smoothly() -> None:
    maps = torch.stack([bump(10, 12), bump(20, 8)])[None]
    moved = shift(maps, torch.tensor([[[3.0, -2.0], [-4.0, 1.0]]]))
    torch.testing.assert_close(moved[0, 0], bump(13, 10), atol=1e-3, rtol=0)
    torch.testing.assert_close(moved[0, 1], bump(16, 9), atol=1e-3, rtol=0)
    half = shift(maps, torch.tensor([[[0.5, 0.0], [0.0, 0.25]]]))
    torch.testing.assert_close(
        positions(half)[0], torch.tensor([[10.5, 12.0], [20.0, 8.25]]), atol=0.02, rtol=0
    )


def test_positions_are_those_of_the_higher_bump() -> None:
    maps = torch.maximum(bump(8, 9, 0.9), bump(24, 20, 0.5))[None, None]
    torch.testing.assert_close(positions(maps)[0, 0], torch.tensor([8.0, 9.0]), atol=0.15, rtol=0)
    assert torch.isfinite(positions(torch.zeros(1, 1, 8, 8))).all()


def test_without_a_past_the_answer_is_the_trunks() -> None:
    net = cases.wake(tiny()).eval()
    with torch.no_grad():
        (feature,) = net.encode(torch.randn(2, 3, 64, 64))
        out, state = net.step(feature, net.start(2, feature))
    now = feature.split(net.split, 1)[1]
    assert torch.equal(out.heatmaps, now)
    assert state.seen.tolist() == [1, 1]


def test_an_untrained_gate_believes_the_past_by_five_percent() -> None:
    gate = BeliefGate(24, JOINTS)
    maps = torch.rand(2, JOINTS, 16, 16)
    share = gate(maps, maps, maps, torch.zeros(2, JOINTS), torch.rand(2, 24, 8, 8))
    assert share.shape == maps.shape
    torch.testing.assert_close(share, torch.full_like(share, 1 / (1 + np.exp(3.0))))


def test_the_answer_lies_between_the_frame_and_what_was_expected() -> None:
    net = cases.wake(tiny()).eval()
    now, last, older = (torch.rand(3, JOINTS, 16, 16) for _ in range(3))
    feature = torch.randn(3, 24, 8, 8)
    with torch.no_grad():
        seen = torch.tensor([0, 1, 5])
        out = net.mix(feature, (now, now), (last, last), seen)  # standing still: no speed
    low, high = torch.minimum(now, last), torch.maximum(now, last)
    assert (out >= low - 1e-6).all() and (out <= high + 1e-6).all()
    assert torch.equal(out[0], now[0])
    assert not torch.equal(out[1], now[1])
    assert older.shape == out.shape


def test_what_moves_is_expected_further_on_and_a_jump_is_not() -> None:
    net = tiny()
    torch.nn.init.constant_(net.gate.out.bias, 20.0)  # believes the past alone
    torch.nn.init.constant_(net.pace, 20.0)
    feature, now = torch.zeros(1, 24, 16, 16), torch.zeros(1, JOINTS, 32, 32)
    last = bump(14, 15)[None, None].repeat(1, JOINTS, 1, 1)
    cases_ = {(12.0, 16.0): (16.0, 14.0), (14.0, 28.0): (14.0, 15.0)}
    for before, wanted in cases_.items():
        older = bump(*before)[None, None].repeat(1, JOINTS, 1, 1)
        with torch.no_grad():
            out = net.mix(feature, (now, now), (last, older), torch.tensor([2]))
        found = positions(out)[0, 0]
        torch.testing.assert_close(found, torch.tensor(wanted), atol=0.1, rtol=0)


def test_a_stream_answers_like_a_window() -> None:
    net = cases.wake(tiny(frames=4)).eval()
    frames = torch.randn(2, 4, 3, 64, 64)
    with torch.no_grad():
        window = net(frames).heatmaps
        state = None
        for t in range(4):
            (feature,) = net.encode(frames[:, t])
            state = net.start(2, feature) if state is None else state
            out, state = net.step(feature, state)
    torch.testing.assert_close(out.heatmaps, window, atol=1e-5, rtol=1e-5)


def test_memory_moves_with_the_crop() -> None:
    """All three parts of it, by whole cells."""
    net = tiny()
    hidden = torch.rand(1, sum(net.split), 16, 16)
    move = torch.eye(3)[None].clone()
    move[0, 0, 2] = 2.0
    after = net.recrop(StreamState(hidden, torch.tensor([3])), move, torch.zeros(1))
    torch.testing.assert_close(after.hidden[..., :-2], hidden[..., 2:], atol=1e-5, rtol=1e-5)
    assert after.seen.tolist() == [3]


def test_everything_beside_movenet_learns() -> None:
    net = cases.wake(tiny()).train()
    net.backbone.requires_grad_(False)
    net(torch.randn(2, 3, 3, 64, 64)).heatmaps.square().mean().backward()
    own = [p for n, p in net.named_parameters() if not n.startswith("backbone.")]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in own)
    assert sum(p.numel() for p in own) < 40_000


def test_refuses_what_does_not_fit() -> None:
    for wrong in ({"temporal": "tconv"}, {"depth": True}):
        with pytest.raises(ConfigError, match="HSTPN with prior: expected a MoveNet backbone"):
            tiny(**wrong)
    net = tiny()
    with pytest.raises(ShapeError, match="like the memory"):
        net.step(torch.zeros(1, 3, 16, 16), net.start(1, torch.zeros(1)))
    with pytest.raises(ShapeError, match="takes no labels"):
        one = torch.ones(1)
        net.fuse((torch.zeros(1, 1, sum(net.split), 16, 16),), one, one, torch.zeros(1, 1, 17, 3))


class Step(torch.nn.Module):
    """A frame and a memory to answer and memory, as a stream runs it."""

    def __init__(self, net: HstpnPrior) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, frames: torch.Tensor, hidden: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        out, state = self.net.step(self.net.encode(frames)[0], StreamState(hidden, seen))
        return out.heatmaps, *state


def test_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net = cases.wake(tiny(), spread=0.02).eval()
    steps = []
    for n in (1, 2):
        hidden = torch.rand(n, sum(net.split), 16, 16)
        steps.append((torch.randn(n, 3, 64, 64), hidden, 1 + torch.arange(n)))
    assert cases.onnx_difference(Step(net).eval(), steps, tmp_path / "s.onnx") <= 1e-4
