"""HSTPN against its equations, as a window and as a stream."""

import math
from pathlib import Path

import conv_cases as cases
import pytest
import torch
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets import hstpn
from pose_ros.nets.cost import build_meta, count
from pose_ros.nets.hstpn import Hstpn, StreamState
from pose_ros.nets.registry import build_net


def tiny(**overrides: object) -> Hstpn:
    torch.manual_seed(0)
    small = {
        "blocks": (1, 1, 1, 1), "base": 4, "channels": 16, "joints": 3, "frames": 3,
        "size_hw_px": (64, 64), "dropout": 0.0,
    }  # fmt: skip
    return build_net("hstpn_r50", **small | overrides)


def test_parameters_and_cost_are_the_specified_ones() -> None:
    """26.8 M parameters (the paper's Table 3); 11.9 GMACs per new frame of a stream."""
    found = count("hstpn_r50")
    assert round(found.params_m, 2) == 26.80
    assert round(count("hstpn_r50", mrfb=False).params_m, 2) == 26.76
    assert found.cached == found.uncached == pytest.approx(11.9, rel=0.005)


def test_robot_size() -> None:
    found = count("hstpn_robot")
    window = build_meta("hstpn_robot").window
    assert (window.frames, window.lookahead, build_meta("hstpn_robot").joints) == (3, 0, 17)
    assert found.params_m == pytest.approx(6.59, abs=0.01)
    assert found.encode == pytest.approx(0.889, rel=0.01)
    assert found.fuse == pytest.approx(0.841, rel=0.01)  # of a step


@pytest.mark.parametrize(
    "overrides",
    [{}, {"temporal": "tconv"}, {"temporal": "off"}, {"msf": False}, {"attn": False},
     {"mrfb": False}, {"frames": 1}],
)  # fmt: skip
def test_every_switch_gives_a_working_network(overrides: dict[str, object]) -> None:
    cases.check_shapes_and_people(cases.wake(tiny(**overrides)))


@pytest.mark.parametrize("temporal", ["gru", "tconv"])
def test_every_parameter_learns_and_reloads(temporal: str) -> None:
    cases.check_every_parameter_learns(tiny(temporal=temporal, depth=True))
    cases.check_strict_reload(tiny(temporal=temporal), tiny(temporal=temporal))


def test_key_frames() -> None:
    assert tiny().window.lookahead == 0
    assert tiny(temporal="tconv").window.key == 1
    assert tiny(temporal="tconv", causal=True).window.lookahead == 0


@pytest.mark.parametrize("switch", [{"temporal": "gru"}, {"temporal": "tconv"}, {"attn": True}])
def test_modules_are_neutral_at_initialisation(switch: dict[str, object]) -> None:
    off = {"temporal": "off", "attn": False}
    on = tiny(**off | switch).eval()
    without = tiny(**off).eval()
    without.window = on.window  # the same key frame
    without.load_state_dict(on.state_dict(), strict=False)
    x = cases.windows(on, 2)
    with torch.no_grad():
        torch.testing.assert_close(on(x).heatmaps, without(x).heatmaps, atol=1e-5, rtol=1e-5)


def test_scales_are_weighted_by_a_softmax_of_their_means() -> None:
    """Eq 8, 9 by hand: constant maps 1 and 2 in two levels, w all 1/C, so scores 1 and 2."""
    fusion = hstpn.MultiScaleFusion((4, 4), hstpn.HstpnConfig(channels=4, mrfb=False)).eval()
    for lateral, level in zip(fusion.laterals, (1.0, 2.0), strict=True):
        nn.init.zeros_(lateral[0].weight)
        nn.init.constant_(lateral[1].bias, level)
    nn.init.constant_(fusion.score, 0.25)
    seen = []
    normalise, hstpn.normalise = hstpn.normalise, lambda psi: seen.append(psi) or psi
    try:
        fusion((torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 4, 4)))
    finally:
        hstpn.normalise = normalise
    alpha = math.exp(2) / (math.exp(1) + math.exp(2))
    torch.testing.assert_close(seen[0], torch.full((1, 4, 8, 8), 1 - alpha + 2 * alpha))


def test_normalised_feature_has_mean_zero_and_deviation_one() -> None:
    psi = hstpn.normalise(3.0 + 5.0 * torch.randn(2, 8, 6, 6))
    torch.testing.assert_close(psi.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(psi.var((1, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert not hstpn.normalise(torch.full((1, 2, 3, 3), 7.0)).any()  # constant: zero, not NaN


def test_taps_see_the_frames_around_and_repeat_the_ends() -> None:
    """Eq 17 with W_i = i + 3 on frames 1, 10, 100: frame 1 gets 2*1 + 3*10 + 4*100."""
    taps = hstpn.TemporalTaps(1, 3, causal=False)
    with torch.no_grad():
        taps.weights.copy_(torch.tensor([2.0, 3.0, 4.0])[:, None, None])
    frames = torch.tensor([1.0, 10.0, 100.0])[None, :, None, None, None]
    assert [taps(frames, t).item() for t in range(3)] == [2 + 3 + 40, 2 + 30 + 400, 20 + 300 + 400]
    assert hstpn.TemporalTaps(1, 3, causal=True).offsets == (-2, -1, 0)


def test_gru_equals_its_equations() -> None:
    """A 1x1 map: the 3x3 convolutions reduce to their middle taps."""
    gru = hstpn.ConvGru(2)
    x, h = torch.randn(1, 2, 1, 1), torch.randn(1, 2, 1, 1)
    gates, candidate = gru.gates.weight[:, :, 1, 1], gru.candidate.weight[:, :, 1, 1]
    both = torch.cat((x, h), 1).flatten()
    z, r = (gates @ both + gru.gates.bias).sigmoid().chunk(2)
    n = (candidate @ torch.cat((x.flatten(), r * h.flatten())) + gru.candidate.bias).tanh()
    torch.testing.assert_close(gru(x, h).flatten(), (1 - z) * h.flatten() + z * n)
    torch.testing.assert_close(gru(x, None), gru(x, torch.zeros_like(x)))


def test_a_stream_answers_like_a_window() -> None:
    net = cases.wake(tiny()).eval()
    x = cases.windows(net, 2)
    with torch.no_grad():
        (psi,) = net.encode(x.flatten(0, 1))
        psi = psi.unflatten(0, (2, 3))
        state = net.start(2, psi)
        for t in range(3):
            out, state = net.step(psi[:, t], state)
            dt = torch.zeros(2)
            window = net.fuse((psi[:, : t + 1],), dt, dt)
            torch.testing.assert_close(out.heatmaps, window.heatmaps, atol=1e-5, rtol=1e-5)
    assert state.seen.tolist() == [3, 3]


@pytest.mark.parametrize("prior", [False, True])
def test_the_large_crop(prior: bool) -> None:
    """384x288: shapes of a window, and of a step of a stream, which answers like the window."""
    size = {"size_hw_px": (384, 288)}
    net: Hstpn = tiny(**size)
    if prior:
        net = build_net("hstpn_robot", backbone="movenet_lightning", prior=True, **size)
    net = cases.wake(net, spread=0.02).eval()
    x = cases.windows(net, 1)
    assert x.shape[-2:] == (384, 288)
    with torch.no_grad():
        features = net.encode(x[:, -1])
        assert features[0].shape == (1, net.config.channels, 96, 72)
        out, state = net.step(features[0], net.start(1, features[0]))
        assert out.heatmaps.shape == (1, net.joints, 96, 72)
        assert state.hidden.shape == (1, net.config.channels, 96, 72)
        assert torch.isfinite(out.heatmaps).all() and out.heatmaps.std() > 0
        window = net.fuse((features[0][:, None],), torch.zeros(1), torch.zeros(1)).heatmaps
        torch.testing.assert_close(out.heatmaps, window, atol=1e-5, rtol=1e-5)
        assert net(x).heatmaps.shape == (1, net.joints, 96, 72)
        moved = net.recrop(state, cells_of_a_shift(8.0, 4.0), torch.tensor([0.1]))
        torch.testing.assert_close(
            moved.hidden[:, :, :95, :70], state.hidden[:, :, 1:, 2:], atol=1e-5, rtol=0
        )


def cells_of_a_shift(x_px: float, y_px: float) -> torch.Tensor:
    return hstpn.cells_old_from_new(affine(1, 0, 0), affine(1, x_px, y_px))


def test_memory_changes_the_answer_and_nobody_new_has_any() -> None:
    net = cases.wake(tiny()).eval()
    with torch.no_grad():
        psi = torch.randn(2, 16, 16, 16)
        _, state = net.step(torch.randn(2, 16, 16, 16), net.start(2, psi))
        moved = hstpn.pick(state, torch.tensor([-1, 0]))
        assert moved.seen.tolist() == [0, 1]
        out, _ = net.step(psi, moved)
        fresh, _ = net.step(psi, net.start(2, psi))
    torch.testing.assert_close(out.heatmaps[0], fresh.heatmaps[0], atol=1e-5, rtol=1e-5)
    assert (out.heatmaps[1] - fresh.heatmaps[1]).abs().max() > 1e-3
    assert hstpn.pick(net.start(0, psi), torch.tensor([-1, -1])).hidden.shape == psi.shape


def affine(scale: float, x: float, y: float) -> torch.Tensor:
    return torch.tensor([[[scale, 0.0, x], [0.0, scale, y]]])


def test_memory_moves_with_the_crop_by_whole_cells_exactly() -> None:
    """A new crop 8 px right and 4 px down of the old one: cell (x, y) was cell (x + 2, y + 1)."""
    net = tiny()
    hidden = torch.randn(1, 16, 16, 16)
    cells = hstpn.cells_old_from_new(affine(1, 100, 50), affine(1, 108, 54))
    torch.testing.assert_close(cells[0], torch.tensor([[1.0, 0, 2], [0, 1, 1], [0, 0, 1]]))
    moved = net.recrop(StreamState(hidden, torch.tensor([4])), cells, torch.tensor([0.1]))
    expected = torch.zeros_like(hidden)
    expected[:, :, :15, :14] = hidden[:, :, 1:, 2:]
    torch.testing.assert_close(moved.hidden, expected, atol=1e-5, rtol=0)
    assert moved.seen.tolist() == [4]


def test_memory_survives_a_zoom_and_a_turn_of_the_camera() -> None:
    """Zoom: the crop of twice the size has the old one in its middle. Turn: one cell."""
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    out, covered = hstpn.warp(ramp, hstpn.cells_old_from_new(affine(1, 32, 0), affine(2, 0, 0)))
    torch.testing.assert_close(out[0, 0, 0, 4:12], torch.arange(0.0, 16.0, 2.0))
    assert covered.item() == pytest.approx(0.25, abs=0.04)
    turn = torch.eye(3)[None].clone()
    turn[0, 0, 2] = 4.0  # what is at x in the new image was at x + 4 px in the old one
    cells = hstpn.cells_old_from_new(affine(1, 9, 9), affine(1, 9, 9), turn)
    torch.testing.assert_close(hstpn.warp(ramp, cells)[0][0, 0, :, :15], ramp[0, 0, :, 1:])


@pytest.mark.parametrize(
    ("shift_px", "gap_s", "kept"), [(28, 0.4, True), (36, 0.4, False), (0, 0.6, False)]
)
def test_memory_is_dropped_after_a_jump_or_a_gap(shift_px: int, gap_s: float, kept: bool) -> None:
    """Half of a 64 px crop is 32 px."""
    net = tiny()
    state = StreamState(torch.ones(1, 16, 16, 16), torch.tensor([7]))
    cells = hstpn.cells_old_from_new(affine(1, 0, 0), affine(1, shift_px, 0))
    after = net.recrop(state, cells, torch.tensor([gap_s]))
    assert (after.seen.item() == 7, bool(after.hidden.any())) == (kept, kept)


def test_a_singular_homography_forgets_instead_of_exploding() -> None:
    out, covered = hstpn.warp(torch.ones(1, 1, 4, 4), torch.zeros(1, 3, 3))
    assert not out.any() and covered.item() == 0


def test_depth_is_read_where_the_heatmap_is() -> None:
    """A sharp peak (softmax weight almost 1) at a cell reads the depth map there."""
    head = hstpn.AttentionPrediction(
        hstpn.HstpnConfig(channels=2, joints=1, attn=False, depth=True)
    ).eval()
    head.feature = nn.Identity()
    with torch.no_grad():
        head.out.weight.copy_(torch.tensor([1.0, 0.0])[None, :, None, None])
        head.depth.weight.copy_(torch.tensor([0.0, 1.0])[None, :, None, None])
        head.out.bias.zero_()
        head.depth.bias.fill_(0.5)
        x = torch.zeros(1, 2, 4, 4)
        x[0, 0, 1, 2], x[0, 1, 1, 2], x[0, 1, 3, 3] = 3.0, 0.25, 9.0
        heatmaps, depths = head(x)
    assert heatmaps[0, 0].argmax().item() == 1 * 4 + 2
    assert depths.item() == pytest.approx(0.75, abs=1e-3)


def test_queries_gradients_are_right() -> None:
    """Finite differences through the float32 softmax island, with everything else in float64."""
    torch.manual_seed(1)
    queries = cases.wake(hstpn.JointQueries(4, 2, 0.0), spread=0.5).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    gru = hstpn.ConvGru(2).double()
    h = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(gru, (y, h))
    torch.autograd.gradcheck(queries, (x,), eps=1e-2, atol=2e-3, rtol=1e-2, nondet_tol=1e-6)


def test_bfloat16_is_close() -> None:
    net = cases.wake(tiny()).eval()
    x = cases.windows(net, 2)
    with torch.no_grad():
        exact = net(x).heatmaps
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x).heatmaps.float()
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("temporal", ["gru", "tconv"])
def test_learns_four_clips_by_heart(temporal: str) -> None:
    before, after = cases.overfit(tiny(temporal=temporal, mrfb=True), steps=60)
    assert before > 2.0 and after < 0.5, (before, after)


def test_window_heatmaps_are_there_to_supervise() -> None:
    net = tiny().train()
    out = net(cases.windows(net, 2))
    assert out.aux["window_heatmaps"].shape == (2, 3, 3, 16, 16)
    assert out.aux["window_heatmaps"][:, -1].equal(out.heatmaps)
    assert net.eval()(cases.windows(net, 1)).aux == {}


def test_refuses_what_does_not_fit() -> None:
    net = tiny()
    whole = torch.zeros(1, 3, 3, 64, 64)
    for bad in (whole[:, :2], whole[..., :48], whole.int(), whole[0]):
        with pytest.raises(ShapeError, match="expected windows"):
            net(bad)
    with pytest.raises(ShapeError, match="no labels"):
        net(cases.windows(net, 1), labels=torch.zeros(1, 3, 3, 3))
    with pytest.raises(ShapeError, match="like the memory"):
        net.step(torch.zeros(2, 16, 16, 16), net.start(1, torch.zeros(1)))
    with pytest.raises(ConfigError, match="no memory"):
        tiny(temporal="tconv").step(torch.zeros(1, 16, 16, 16), net.start(1, torch.zeros(1)))
    with pytest.raises(ConfigError, match="no option colour"):
        build_net("hstpn_robot", colour="red")
    with pytest.raises(ConfigError, match=r"two multiples of 32, got \(64, 48\)"):
        build_net("hstpn_robot", size_hw_px=[64, 48])
    with pytest.raises(ConfigError, match="temporal gru, tconv or off"):
        build_net("hstpn_robot", temporal="lstm")


class Step(nn.Module):
    """One frame of a stream, with plain tensors in and out."""

    def __init__(self, net: Hstpn) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, frames: torch.Tensor, hidden: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        out, state = self.net.step(self.net.encode(frames)[0], StreamState(hidden, seen))
        return out.heatmaps, *state


def test_robot_size_exports_to_onnx(tmp_path: Path) -> None:
    """As a window, and as a step of a stream; one and two people."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = cases.wake(build_net("hstpn_robot"), spread=0.02).eval()
    inputs = [(cases.windows(net, n),) for n in (1, 2)]
    assert cases.onnx_difference(cases.Maps(net), inputs, tmp_path / "w.onnx") <= 1e-4
    steps = []
    for n in (1, 2):
        frames = cases.windows(net, n)[:, 0]
        steps.append((frames, torch.randn(n, 64, 64, 48), torch.arange(n)))
    assert cases.onnx_difference(Step(net).eval(), steps, tmp_path / "s.onnx") <= 1e-4
