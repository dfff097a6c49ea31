"""DSA against its equations."""

from pathlib import Path

import conv_cases as cases
import pytest
import torch
import torch.nn.functional as F

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets import dsa
from pose_ros.nets.cost import build_meta, count
from pose_ros.nets.dsa import Dsa, DsaConfig
from pose_ros.nets.registry import build_net


def tiny(**overrides: object) -> Dsa:
    torch.manual_seed(0)
    small = {
        "width": 8, "modules": (1, 1, 1), "blocks": 1, "joints": 3, "size_hw_px": (64, 64),
        "supports": 2, "freeze": False,
    }  # fmt: skip
    return build_net("dsa_w48", **small | overrides)


def test_cost_is_the_specified_one() -> None:
    """48 GMACs of fusion; the backbone's 35.3 are mmpose's count, the specification has 32.9."""
    net, found = build_meta("dsa_w48"), count("dsa_w48")
    pair = count("dsa_w48", align=False).fuse
    assert (net.window.frames, net.window.key, net.joints) == (5, 2, 15)
    assert found.encode == pytest.approx(35.3, rel=0.01)
    assert found.fuse == pytest.approx(48, rel=0.03)
    assert (found.fuse - pair) / 12 == pytest.approx(3.7, rel=0.04)  # 3 levels, 4 supports
    assert found.params_m == pytest.approx(75.16, abs=0.01)


def test_robot_size() -> None:
    net, found = build_meta("dsa_robot"), count("dsa_robot")
    assert (net.window.frames, net.window.lookahead, net.joints) == (3, 1, 17)
    assert found.params_m == pytest.approx(9.14, abs=0.01)
    assert found.encode == pytest.approx(0.859, rel=0.01)


@pytest.mark.parametrize(
    "overrides",
    [{}, {"supports": 4}, {"causal": True}, {"unet": False}, {"align": False}, {"gab": "conv"},
     {"gab": "none"}, {"leb": False}, {"dcn_groups": 4}, {"freeze": True}],
)  # fmt: skip
def test_every_switch_gives_a_working_network(overrides: dict[str, object]) -> None:
    cases.check_shapes_and_people(cases.wake(tiny(**overrides), spread=0.02))


def test_every_parameter_learns_and_reloads() -> None:
    cases.check_every_parameter_learns(tiny())
    cases.check_strict_reload(tiny(), tiny())


def test_a_frozen_backbone_stays_as_it_is() -> None:
    net = tiny(freeze=True).train()
    before = {k: v.clone() for k, v in net.backbone.state_dict().items()}
    net(cases.windows(net, 2)).heatmaps.sum().backward()
    assert not net.backbone.training and net.head.training
    assert all(p.grad is None for p in net.backbone.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.backbone.state_dict().items())


@pytest.mark.parametrize("overrides", [{}, {"unet": False}, {"gab": "conv"}, {"dcn_groups": 2}])
def test_alignment_is_the_identity_at_initialisation(overrides: dict[str, object]) -> None:
    net = tiny(**overrides).eval()
    support, key = torch.randn(2, 3, 8, 16, 12), torch.randn(2, 8, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(net.align(support, key), support, atol=2e-4, rtol=0)


def test_local_alignment_without_a_move_is_a_plain_convolution() -> None:
    leb = dsa.LocalEnhancement(4).eval()
    torch.nn.init.normal_(leb.weight)
    support = torch.randn(1, 4, 6, 7)
    expected = F.conv2d(support, leb.weight, padding=1)
    torch.testing.assert_close(
        leb(support, torch.randn(1, 4, 6, 7)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_rotation_turns_the_taps() -> None:
    """Q turns by 90 degrees, (y, x) -> (-x, y): tap (0, 1) then reads the cell above."""
    affine = torch.tensor([0.0, -1.0, 1.0, 0.0, 0.0, 0.0])[None, :, None, None].expand(1, 6, 5, 5)
    offsets = dsa.affine_offsets(affine)
    taps = torch.tensor(dsa.LATTICE)
    places = offsets[0, :, 2, 2].view(9, 2) + taps
    assert places.tolist() == [[-x, y] for y, x in taps.tolist()]
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 2] = 1.0  # the tap (0, 1)
    image = torch.randn(1, 1, 5, 5)
    turned = dsa.deform(image, offsets, weight)
    torch.testing.assert_close(turned[:, :, 1:], image[:, :, :-1], atol=1e-5, rtol=1e-5)


def test_a_shift_moves_the_picture() -> None:
    """K = (1, -2): every cell reads one row below and two columns to the left."""
    affine = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, -2.0])[None, :, None, None].expand(1, 6, 6, 6)
    weight = torch.nn.init.dirac_(torch.empty(1, 1, 3, 3))
    image = torch.randn(1, 1, 6, 6)
    out = dsa.deform(image, dsa.affine_offsets(affine), weight)
    torch.testing.assert_close(out[:, :, :-1, 2:], image[:, :, 1:, :-2], atol=1e-5, rtol=1e-5)


def test_modulation_and_offsets_of_the_global_alignment() -> None:
    """Eq 2, 3: offsets (0, 1) on every tap read one column to the right; M scales what is read."""
    gab = dsa.GlobalAlignment(2, 1, "dcn").eval()
    with torch.no_grad():
        gab.offset.out.bias.copy_(torch.tensor([0.0, 1.0]).repeat(9))
        gab.modulation.out.bias.fill_(-torch.log(torch.tensor(3.0)))  # 2 * sigmoid = 1/2
        support = torch.randn(1, 2, 5, 5)
        out = gab(support, torch.randn(1, 2, 5, 5))
    torch.testing.assert_close(out[..., :-1], 0.5 * support[..., 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[..., -1], torch.zeros(1, 2, 5))  # beyond the border: zero


def test_gradients_of_the_alignment_are_right() -> None:
    """Finite differences of the taps' places in float32, away from whole cells."""
    torch.manual_seed(2)
    image = torch.randn(1, 1, 4, 4)
    weight = torch.randn(1, 1, 3, 3)
    affine = torch.randn(1, 6, 4, 4) * 0.1 + torch.tensor([1.0, 0, 0, 1, 0.3, 0.4])[:, None, None]
    affine.requires_grad_(True)

    def loss(a: torch.Tensor) -> torch.Tensor:
        return dsa.deform(image, dsa.affine_offsets(a), weight).square().sum()

    (gradient,) = torch.autograd.grad(loss(affine), affine)
    step = 1e-3
    worst = 0.0
    for i in range(0, affine.numel(), 5):
        move = torch.zeros(affine.numel())
        move[i] = step
        move = move.view_as(affine)
        with torch.no_grad():
            slope = (loss(affine + move) - loss(affine - move)).item() / (2 * step)
        worst = max(worst, abs(slope - gradient.flatten()[i].item()) / (1 + abs(slope)))
    assert worst < 0.02


def test_supports_are_the_frames_beside_the_key() -> None:
    """With raw concatenation, changing any frame changes the answer; the aligned are in order."""
    net = cases.wake(tiny(supports=4, align=False)).eval()
    features = torch.randn(1, 5, 8, 16, 16)
    dt = torch.ones(1)
    with torch.no_grad():
        out = net.fuse((features,), dt, dt)
        assert out.aux["aligned"].equal(features[:, [0, 1, 3, 4]])
        for t in range(5):
            other = features.clone()
            other[:, t] += 1.0
            assert (net.fuse((other,), dt, dt).heatmaps - out.heatmaps).abs().max() > 1e-4, t


def test_alignment_shares_its_weights_between_frames() -> None:
    net = cases.wake(tiny(), spread=0.02).eval()
    support, key = torch.randn(1, 3, 8, 16, 16), torch.randn(1, 8, 16, 16)
    order = [2, 0, 1]
    with torch.no_grad():
        torch.testing.assert_close(
            net.align(support[:, order], key), net.align(support, key)[:, order]
        )


def test_bfloat16_is_close() -> None:
    net = cases.wake(tiny(), spread=0.02).eval()
    x = cases.windows(net, 2)
    with torch.no_grad():
        exact = net(x).heatmaps
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x).heatmaps.float()
    assert (rough - exact).abs().max() < 0.06 * exact.abs().max()


def test_learns_four_clips_by_heart() -> None:
    before, after = cases.overfit(tiny(), steps=40)
    assert before > 3.0 and after < 0.8, (before, after)


def test_refuses_what_does_not_fit() -> None:
    net = tiny()
    with pytest.raises(ShapeError, match="expected windows"):
        net(torch.zeros(1, 5, 3, 64, 64))
    with pytest.raises(
        ShapeError, match="features of 3 frames and no labels, got 2 frames and labels"
    ):
        net.fuse((torch.zeros(1, 2, 8, 16, 16),), torch.ones(1), torch.ones(1), torch.zeros(1))
    with pytest.raises(ConfigError, match="2, 4 or 6"):
        DsaConfig(supports=3)
    with pytest.raises(ConfigError, match="gab dcn, conv or none"):
        build_net("dsa_robot", gab="stn")
    with pytest.raises(ConfigError, match="no option colour"):
        build_net("dsa_robot", colour="red")


def test_robot_size_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = cases.wake(build_net("dsa_robot"), spread=0.02).eval()
    inputs = [(cases.windows(net, n),) for n in (1, 2)]
    assert cases.onnx_difference(cases.Maps(net), inputs, tmp_path / "d.onnx") <= 1e-4
