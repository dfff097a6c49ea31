"""VREMD against its equations."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from video_cases import (
    check_every_parameter_learns,
    check_mixed_precision,
    check_onnx,
    check_shapes_and_people,
    check_strict_reload,
    cost,
    learn_hidden,
    overfit,
    tiny,
    wake,
    windows,
)

from pose_ros.errors import ConfigError
from pose_ros.nets.vremd import (
    BMD,
    DeformableCrossAttention,
    HumanMask,
    MotionConv,
    VREMDConfig,
    keypoint_mask,
    vremd_robot,
)

SWITCHES = [
    {},
    {"hkme": False, "bmd": False},  # the paper's table 4
    {"hkme": False},
    {"bmd": False},
    {"human_mask": False},  # table 5
    {"keypoint_mask": False},
    {"human_mask": False, "keypoint_mask": False},
    {"motion_op": "dc"},  # table 6
    {"motion_op": "da"},
    {"bidir": False},
    {"adc_share_directions": True},
    {"mask_act": "none"},
    {"model_dim": 32},
    {"key": 2},
    {"key": 0},
]
SMALL = VREMDConfig(size_hw_px=(64, 48), dca_heads=2, dca_points=3)  # 4x3 tokens


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size, fusion, total, cached, own, shared", [
    ("vit_s", 12.6, 26, 17, 33, 24), ("vit_b", 45.5, 97, 63, 131, 92),
    ("vit_l", 79.2, 259, 139, 232, 162),
])  # fmt: skip
def test_the_cost_is_the_analytic_one(
    size: str, fusion: float, total: float, cached: float, own: float, shared: float
) -> None:
    got = cost("vremd_vitl", backbone=size)
    assert got.cached - got.backbone == pytest.approx(fusion, rel=0.02)
    assert got.uncached == pytest.approx(total, rel=0.02)
    assert got.cached == pytest.approx(cached, rel=0.02)
    single = cost("vitpose_s", backbone=size, joints=15).params_m
    assert got.params_m - single == pytest.approx(own, rel=0.02)
    one = cost("vremd_vitl", backbone=size, adc_share_directions=True).params_m
    assert one - single == pytest.approx(shared, rel=0.03)


def test_the_robot_sizes_are_small() -> None:
    assert cost("vremd_robot").cached < 11.0
    assert cost("vremd_movenet").cached < 3.0


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_runs_and_every_parameter_learns(switches: dict[str, object]) -> None:
    net = tiny("vremd_vitl", **switches)
    check_shapes_and_people(net)
    check_every_parameter_learns(net)


def test_reload_and_precision() -> None:
    check_strict_reload(tiny("vremd_vitl"), tiny("vremd_vitl"))
    check_mixed_precision(tiny("vremd_vitl"))


@pytest.mark.parametrize("switches", [{}, {"motion_op": "dc"}, {"motion_op": "da"}], ids=str)
def test_it_exports(switches: dict[str, object], tmp_path: Path) -> None:
    check_onnx(tiny("vremd_vitl", **switches), tmp_path)


@pytest.mark.slow
def test_the_robot_size_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_onnx(vremd_robot(), tmp_path, people=(1, 2))


def test_the_large_crop() -> None:
    net = tiny("vremd_vitl", size_hw_px=(384, 288), freeze=True).eval()
    with torch.no_grad():
        assert net(windows(net, 1)).heatmaps.shape == (1, 5, 96, 72)


def test_the_neighbours_tell_what_the_key_frame_hides() -> None:
    assert learn_hidden(tiny("vremd_vitl", joints=2)) <= 1.0


def test_it_learns_four_clips() -> None:
    before, after = overfit(tiny("vremd_vitl"), 80)
    assert after < 0.5 < before


def test_the_answer_is_the_mean_of_both_streams() -> None:
    net = wake(tiny("vremd_vitl")).eval()
    heatmaps, aux = net(windows(net, 2))
    both = 0.5 * aux["heatmaps_tokens"] + 0.5 * aux["heatmaps_motion"]
    torch.testing.assert_close(heatmaps, both)


def test_a_still_window_has_no_motion() -> None:
    net = wake(tiny("vremd_vitl", hkme=False)).eval()
    x = windows(net, 1)
    seen = []
    net.bmd.register_forward_hook(lambda module, args, out: seen.append(args[:2]))
    net(x[:, 1:2].expand(-1, 3, -1, -1, -1))
    assert all((motion == 0).all() for motion in seen[0])
    net(x)
    features = net.encode(x[0])[0]
    torch.testing.assert_close(seen[1][0][0], features[0] - features[1])  # M_b = F_{t-1} - F_t
    torch.testing.assert_close(seen[1][1][0], features[2] - features[1])  # M_f = F_{t+1} - F_t


# --- masks


def test_the_human_mask_is_a_scaled_cosine() -> None:
    torch.manual_seed(0)
    block, features, token = HumanMask(8, "sigmoid"), noise(2, 5, 8), noise(2, 1, 8, seed=1)
    got = block(features, token)
    assert got.shape == (2, 5, 1)
    a, b = block.feature(features[1, 3]), block.token(token[1, 0])
    wanted = torch.sigmoid(5.0 * F.cosine_similarity(a, b, dim=0))
    assert got[1, 3, 0].item() == pytest.approx(wanted.item(), abs=1e-6)
    torch.testing.assert_close(block(3.0 * features, token), got)  # length does not matter
    literal = HumanMask(8, "none")(features, token)
    assert literal[1, 3, 0].item() == pytest.approx(
        (features[1, 3] @ token[1, 0]).item(), abs=1e-5
    )


def test_the_keypoint_mask_has_mean_one_and_is_not_constant() -> None:
    tokens, features = noise(2, 3 * 5, 64), noise(2, 3 * 12, 64, seed=1)
    mask = keypoint_mask(tokens, features)
    assert mask.shape == (2, 36, 1)
    assert (mask >= 0).all()
    torch.testing.assert_close(mask.mean((1, 2)), torch.ones(2))
    assert mask.std() > 0.01  # a softmax over keypoints would give the constant 1
    logits = tokens[0] @ features[0].t() / 8.0
    wanted = logits.softmax(1).sum(0) * 12 / 5
    torch.testing.assert_close(mask[0, :, 0], wanted)


def test_both_masks_are_given_out() -> None:
    net = wake(tiny("vremd_vitl")).eval()
    aux = net(windows(net, 2)).aux
    assert aux["human_mask"].shape == aux["keypoint_mask"].shape == (2, 3, 12, 1)
    torch.testing.assert_close(aux["keypoint_mask"].mean((1, 2, 3)), torch.ones(2))
    assert ((aux["human_mask"] > 0) & (aux["human_mask"] < 1)).all()


# --- deformable cross attention


def slow_dca(
    block: DeformableCrossAttention, x: torch.Tensor, source: torch.Tensor
) -> torch.Tensor:
    """Eq 3 and 4 of one person, query by query, head by head: sample x, then project."""
    rows, columns = block.grid_hw
    width = x.shape[1] // block.heads
    q, z = block.q(x), block.z(source)
    both = torch.cat((q, z), 1).t().reshape(1, -1, rows, columns)
    moves = block.offset(F.gelu(block.mix(both)))[0]
    moves = moves.reshape(block.heads, block.points, 2, rows * columns)
    plane = torch.zeros(rows + 20, columns + 20, x.shape[1])  # zeros around the map
    plane[10 : 10 + rows, 10 : 10 + columns] = x.view(rows, columns, -1)
    inside = torch.zeros(rows + 20, columns + 20, 1)
    inside[10 : 10 + rows, 10 : 10 + columns] = 1.0
    out = torch.zeros(rows * columns, x.shape[1])
    for n in range(rows * columns):
        for h in range(block.heads):
            part = slice(h * width, (h + 1) * width)
            scores, values = [], []
            for p in range(block.points):
                at = (
                    n % columns + moves[h, p, 0, n].item(),
                    n // columns + moves[h, p, 1, n].item(),
                )
                left, top = math.floor(at[0]), math.floor(at[1])
                sampled, weight_in = 0.0, 0.0
                for dy in (0, 1):
                    for dx in (0, 1):
                        w = (1 - abs(at[0] - left - dx)) * (1 - abs(at[1] - top - dy))
                        sampled = sampled + w * plane[top + dy + 10, left + dx + 10]
                        weight_in = weight_in + w * inside[top + dy + 10, left + dx + 10]
                # a linear map after the sampling: its bias counts where there is something to see
                key = block.k.weight @ sampled + block.k.bias * weight_in
                value = block.v.weight @ sampled + block.v.bias * weight_in
                scores.append(q[n, part] @ key[part] / math.sqrt(width))
                values.append(value[part])
            weight = torch.stack(scores).softmax(0)
            out[n, part] = (weight[:, None] * torch.stack(values)).sum(0)
    return block.proj(out)


def test_deformable_cross_attention_is_equations_3_and_4() -> None:
    torch.manual_seed(0)
    block = DeformableCrossAttention(8, SMALL, True)
    block.reset_offsets()
    wake(block, spread=0.2)
    x, source = noise(2, 12, 8), noise(2, 12, 8, seed=1)
    with torch.no_grad():
        got = block(x, source)
        for person in range(2):
            wanted = slow_dca(block, x[person], source[person])
            torch.testing.assert_close(got[person], wanted, atol=1e-5, rtol=1e-4)


def test_one_undeformed_place_returns_the_values() -> None:
    torch.manual_seed(0)
    config = VREMDConfig(size_hw_px=(64, 48), dca_heads=2, dca_points=1)
    block = DeformableCrossAttention(8, config, True)
    with torch.no_grad():
        block.offset.weight.zero_()
        block.offset.bias.zero_()
        x = noise(2, 12, 8)
        wanted = block.proj(block.v(x))
        torch.testing.assert_close(block(x, noise(2, 12, 8, seed=1)), wanted, atol=1e-5, rtol=1e-5)


def test_offsets_start_as_a_ring() -> None:
    block = DeformableCrossAttention(64, VREMDConfig(), True)
    block.reset_offsets()
    ring = block.offset.bias.view(8, 4, 2)
    steps = torch.tensor([[1.0, 2, 3, 4]]).t()
    torch.testing.assert_close(ring[0], steps * torch.tensor([1.0, 0.0]))  # head 0 looks right
    torch.testing.assert_close(ring[1], steps * torch.tensor([1.0, 1.0]))  # head 1 diagonally
    torch.testing.assert_close(ring[2], steps * torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0.0)


def test_the_constraint_moves_the_places_only_in_dca() -> None:
    torch.manual_seed(0)
    x, source, other = (noise(1, 12, 8, seed=s) for s in range(3))
    for constrained in (True, False):
        block = wake(DeformableCrossAttention(8, SMALL, constrained))
        same = torch.equal(block(x, source), block(x, other))
        assert same is not constrained


def test_gradients_of_dca_are_finite_differences() -> None:
    torch.manual_seed(0)
    config = VREMDConfig(size_hw_px=(32, 32), dca_heads=2, dca_points=2)
    block = wake(DeformableCrossAttention(4, config, True), spread=0.1).double()
    x, source = (noise(1, 4, 4, seed=s).double().requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(block, (x, source))


def test_the_deformable_convolution_starts_as_a_dilated_one() -> None:
    torch.manual_seed(0)
    block = MotionConv(8, (6, 7))
    block.reset_offsets()
    x = noise(2, 42, 8)
    image = x.transpose(1, 2).unflatten(2, (6, 7))
    wanted = F.conv2d(image, block.weight, padding=3, dilation=3).flatten(2).transpose(1, 2)
    torch.testing.assert_close(block(x, x), wanted, atol=1e-5, rtol=1e-5)


def test_directions_have_their_own_weights_unless_shared() -> None:
    torch.manual_seed(0)
    back, forth, source = (noise(1, 12, 64, seed=s) for s in range(3))
    apart, shared = (
        BMD(64, VREMDConfig(size_hw_px=(64, 48), adc_share_directions=s)) for s in (False, True)
    )
    assert len(apart.stacks) == 2 and len(shared.stacks) == 1
    for net in (apart, shared):  # a merge that adds both directions
        with torch.no_grad():
            net.merge.weight.copy_(torch.cat((torch.eye(64), torch.eye(64)), 1))
    assert not torch.allclose(apart(back, forth, source), apart(forth, back, source), atol=1e-3)
    torch.testing.assert_close(shared(back, forth, source), shared(forth, back, source))


def test_wrong_options_are_refused() -> None:
    for wrong in ({"motion_op": "dcn"}, {"frames": 5}, {"mask_act": "relu"}, {"dca_heads": 7}):
        with pytest.raises(ConfigError):
            tiny("vremd_vitl", **wrong)
