"""PSTPose against its equations."""

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
from pose_ros.nets.pstpose import (
    ClusterGrouping,
    DeformableFusion,
    DiffAttention,
    PSTPoseConfig,
    dpc_knn,
    pstpose_robot,
    rank,
)

SWITCHES = [
    {},
    {"dfe": "mhsa", "fcg": False, "dsf": "none"},  # the rows of the paper's table 4: the baseline,
    {"dfe": "mhsa"},  # (a),
    {"fcg": False},  # (b),
    {"dsf": "none"},  # (c)
    {"dfe": "none"},
    {"dsf": "mhsa"},
    {"restore": "revattn"},
    {"integration": "channel"},
    {"lambda_mode": "head"},
    {"subln": False},
    {"literal": True},
    {"knn_include_self": True},
    {"frames": 1, "key": 0},
    {"key": 2},
    {"frames": 5, "key": 2},
    {"model_dim": 32},
    {"key_only": True},
]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size, fusion, total, cached, parameters", [
    ("vit_s", 4.5, 18, 9, 5.5), ("vit_b", 13.1, 64, 30, 22), ("vit_l", 21.6, 201, 82, 39),
])  # fmt: skip
def test_the_cost_is_the_analytic_one(
    size: str, fusion: float, total: float, cached: float, parameters: float
) -> None:
    got = cost("pstpose_vitl", backbone=size)
    head = cost("vitpose_s", backbone=size, joints=15)
    assert got.cached - got.backbone == pytest.approx(fusion, rel=0.02)
    assert got.uncached == pytest.approx(total, rel=0.02)
    assert got.cached == pytest.approx(cached, rel=0.02)
    own = got.params_m - head.params_m
    assert own == pytest.approx(parameters, rel=0.02)


def test_the_robot_size_costs_little_more_than_its_backbone() -> None:
    got = cost("pstpose_robot")
    assert got.cached < 1.5 * got.backbone
    assert cost("pstpose_movenet").cached < 2.0


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_runs_and_every_parameter_learns(switches: dict[str, object]) -> None:
    net = tiny("pstpose_vitl", **switches)
    check_shapes_and_people(net)
    check_every_parameter_learns(net)


@pytest.mark.parametrize("switches", [{}, {"key": 2}, {"literal": True}, {"dsf": "mhsa"},
                                      {"dsf": "none"}, {"integration": "channel"}])  # fmt: skip
def test_the_key_frames_tokens_are_enough(switches: dict[str, object]) -> None:
    whole = wake(tiny("pstpose_vitl", **switches)).eval()
    less = tiny("pstpose_vitl", key_only=True, **switches).eval()
    less.load_state_dict(whole.state_dict())
    x = windows(whole, 2)
    with torch.no_grad():
        torch.testing.assert_close(less(x).heatmaps, whole(x).heatmaps, atol=1e-5, rtol=1e-5)


def test_reload_and_precision() -> None:
    check_strict_reload(tiny("pstpose_vitl"), tiny("pstpose_vitl"))
    check_mixed_precision(tiny("pstpose_vitl", fcg=False))  # a cluster is a choice: it may flip
    check_mixed_precision(tiny("pstpose_vitl"), tolerance=0.5)


def test_lambda_init_is_stored() -> None:
    assert "dfe.mix.lambda_init" in tiny("pstpose_vitl").state_dict()


def test_it_exports(tmp_path: Path) -> None:
    check_onnx(tiny("pstpose_vitl"), tmp_path)
    check_onnx(tiny("pstpose_vitl", frames=1, key=0), tmp_path)


@pytest.mark.slow
def test_the_robot_size_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_onnx(pstpose_robot(), tmp_path, people=(1, 2))


def test_the_large_crop() -> None:
    net = tiny("pstpose_vitl", size_hw_px=(384, 288), freeze=True).eval()
    with torch.no_grad():
        assert net(windows(net, 1)).heatmaps.shape == (1, 5, 96, 72)


def test_the_neighbours_tell_what_the_key_frame_hides() -> None:
    assert learn_hidden(tiny("pstpose_vitl", joints=2)) <= 1.0


def test_it_learns_four_clips() -> None:
    before, after = overfit(tiny("pstpose_vitl"), 80)
    assert after < 0.5 < before


def test_a_constant_first_frame_does_not_hide_the_key_frame() -> None:
    net = wake(tiny("pstpose_vitl")).eval()
    x = windows(net, 1)
    changed = x.clone()
    changed[:, 0] = 0.0
    assert (net(x).heatmaps - net(changed).heatmaps).abs().max() > 1e-4  # neighbours count


# --- differential attention


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.t() / math.sqrt(q.shape[1]), 1) @ v


@pytest.mark.parametrize("mode", ["channel", "head"])
def test_differential_attention_is_equations_1_to_3(mode: str) -> None:
    torch.manual_seed(0)
    block = DiffAttention(256, PSTPoseConfig(lambda_mode=mode))  # two heads of 128
    x = noise(1, 7, 256)
    q, k, v = (p(x)[0] for p in (block.q, block.k, block.v))
    heads = []
    for head in range(2):
        at = head * 128
        q1, k1, q2, k2 = block.lambdas[:, head]
        if mode == "head":
            lam = (q1 @ k1).exp() - (q2 @ k2).exp() + 0.8
        else:
            lam = (q1 * k1).exp() - (q2 * k2).exp() + 0.8
        values = v[:, at : at + 128]
        positive = plain_attention(q[:, at : at + 64], k[:, at : at + 64], values)
        negative = plain_attention(q[:, at + 64 : at + 128], k[:, at + 64 : at + 128], values)
        out = positive - lam * negative
        out = out / (out.square().mean(1, keepdim=True) + 1e-5).sqrt()
        heads.append(out * (1.0 - 0.8))
    torch.testing.assert_close(block(x)[0], block.proj(torch.cat(heads, 1)), atol=1e-5, rtol=1e-5)


def test_lambda_starts_near_its_constant_and_counts_channels() -> None:
    torch.manual_seed(0)
    per_channel = DiffAttention(384, PSTPoseConfig()).balance()
    assert per_channel.shape == (3, 128)
    assert per_channel.mean().item() == pytest.approx(0.8, abs=0.01)
    assert DiffAttention(384, PSTPoseConfig(lambda_mode="head")).balance().shape == (3, 1)


def test_equal_pathways_cancel() -> None:
    torch.manual_seed(0)
    block = DiffAttention(64, PSTPoseConfig(lambda_init=1.0, subln=False))
    with torch.no_grad():
        block.lambdas.zero_()
        for layer in (block.q, block.k):
            layer.weight[32:] = layer.weight[:32]
    assert block(noise(2, 5, 64)).abs().max() < 1e-6


# --- clusters


def slow_dpc_knn(tokens: torch.Tensor, clusters: int, knn: int) -> list[int]:
    """The definition, token by token, of one sequence (L, D)."""
    x = F.layer_norm(tokens, tokens.shape[1:]).double()
    count, dim = x.shape
    d = [
        [(x[i] - x[j]).norm().item() / math.sqrt(dim) for j in range(count)] for i in range(count)
    ]
    rho = []
    for i in range(count):
        nearest = sorted(d[i][j] for j in range(count) if j != i)[:knn]
        rho.append(math.exp(-sum(v * v for v in nearest) / len(nearest)))
    delta = []
    for i in range(count):
        denser = [d[i][j] for j in range(count) if rho[j] > rho[i]]
        delta.append(min(denser) if denser else max(d[i]))
    order = sorted(range(count), key=lambda i: -rho[i] * delta[i])[:clusters]
    nearest = [min(range(clusters), key=lambda m: d[i][order[m]]) for i in range(count)]
    for m, i in enumerate(order):
        nearest[i] = m
    return nearest


@pytest.mark.parametrize("seed", range(4))
def test_clusters_are_those_of_the_definition(seed: int) -> None:
    tokens = noise(2, 40, 16, seed=seed)
    assigned, centre = dpc_knn(tokens, 7)
    for person in range(2):
        assert assigned[person].tolist() == slow_dpc_knn(tokens[person], 7, 5)
        assert assigned[person][centre[person]].tolist() == list(range(7))


def test_obvious_clusters_are_found() -> None:
    # three bundles of tokens around three directions, in a shuffled order
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    bundle = torch.arange(3).repeat_interleave(10)[order]
    tokens = 5.0 * noise(3, 32)[bundle] + 0.2 * noise(30, 32, seed=1)
    assigned = dpc_knn(tokens[None], 3)[0][0]
    assert len({(a.item(), b.item()) for a, b in zip(assigned, bundle, strict=True)}) == 3


def test_as_many_clusters_as_tokens_or_one() -> None:
    tokens = noise(2, 12, 8)
    assert sorted(dpc_knn(tokens, 12)[0][1].tolist()) == list(range(12))
    assert (dpc_knn(tokens, 1)[0] == 0).all()


def test_clusters_follow_a_permutation_of_tokens() -> None:
    torch.manual_seed(0)
    group = wake(ClusterGrouping(64, PSTPoseConfig(), 30))
    x, order = noise(1, 30, 64), torch.randperm(30)
    torch.testing.assert_close(group(x)[0][:, order], group(x[:, order])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("std", [1.0, 3.0, 6.0])
def test_densities_do_not_underflow(std: float) -> None:
    tokens = std * noise(1, 60, 1024)
    x = F.layer_norm(tokens, (1024,))
    squared = torch.cdist(x, x).square() / 1024
    density = (-squared.topk(6, largest=False).values[..., 1:].mean(-1)).exp()
    assert (density > 0).all()
    assigned, centre = dpc_knn(tokens, 15)
    assert assigned.min() == 0 and assigned.max() == 14
    assert len(set(centre[0].tolist())) == 15


def test_identical_tokens_have_one_densest() -> None:
    ranks = rank(torch.full((1, 576), 0.5))[0]
    assert ranks.tolist() == list(range(576))
    assigned, centre = dpc_knn(torch.ones(1, 576, 8), 144)
    assert len(set(centre[0].tolist())) == 144
    assert torch.isfinite(assigned.float()).all()


def test_ranks_by_hand() -> None:
    assert rank(torch.tensor([[0.2, 0.9, 0.2, 0.5]])).tolist() == [[2, 0, 3, 1]]


def test_one_token_alone() -> None:
    assert dpc_knn(torch.ones(2, 1, 8), 1)[0].tolist() == [[0], [0]]


def test_merging_is_a_softmax_of_scores_inside_each_cluster() -> None:
    torch.manual_seed(0)
    group = ClusterGrouping(8, PSTPoseConfig(cluster_ratio=0.4), 5)
    x, assigned = noise(1, 5, 8), torch.tensor([[0, 1, 0, 1, 1]])
    score = group.score(x)[0, :, 0]
    for m, members in enumerate(([0, 2], [1, 3, 4])):
        weight = score[members].softmax(0)
        wanted = (weight[:, None] * x[0, members]).sum(0)
        torch.testing.assert_close(group.merge(x, assigned)[0, m], wanted)
    group.merge(x, assigned).sum().backward()
    assert group.score.weight.grad.abs().max() > 0


def test_gradients_of_the_merge_are_finite_differences() -> None:
    torch.manual_seed(0)
    group = ClusterGrouping(8, PSTPoseConfig(cluster_ratio=0.4), 5).double()
    x = noise(1, 5, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(group.merge, (x, torch.tensor([[0, 1, 0, 1, 1]])))


def test_gradients_of_differential_attention_are_finite_differences() -> None:
    torch.manual_seed(0)
    block = DiffAttention(8, PSTPoseConfig()).double()
    x = noise(1, 4, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(block, (x,))


# --- deformable fusion


def test_at_undeformed_places_it_is_attention() -> None:
    torch.manual_seed(0)
    deform = DeformableFusion(64, PSTPoseConfig(), (3, 4, 3))
    plain = DeformableFusion(64, PSTPoseConfig(dsf="mhsa"), (3, 4, 3))
    with torch.no_grad():
        deform.offset.out.weight.zero_()
    plain.load_state_dict({n: t for n, t in deform.state_dict().items() if "offset" not in n})
    x = noise(2, 36, 64)
    torch.testing.assert_close(deform(x), plain(x), atol=1e-5, rtol=1e-5)


def test_offsets_move_by_frames_rows_and_columns_within_their_range() -> None:
    torch.manual_seed(0)
    block = DeformableFusion(64, PSTPoseConfig(offset_groups=1), (3, 9, 9))
    volume = torch.arange(3 * 81.0).view(1, -1, 1).expand(-1, -1, 64)
    middle = 1 * 81 + 4 * 9 + 4
    assert volume[0, middle, 0] == middle
    block.offset.norm = torch.nn.Identity()
    block.offset.depthwise = torch.nn.Identity()
    for axis, step in enumerate((1 * 81, 4 * 9, 4)):  # the whole reach: 1 frame, 4 rows, 4 columns
        with torch.no_grad():
            block.offset.out.weight.zero_()
            block.offset.out.weight[axis] = 100.0
            moved = block.sample(volume, torch.ones_like(volume))
        assert moved[0, middle, 0].item() == pytest.approx(middle + step)


def test_one_frame_is_the_two_dimensional_case() -> None:
    torch.manual_seed(0)
    block = DeformableFusion(64, PSTPoseConfig(), (1, 4, 3))
    with torch.no_grad():
        block.offset.out.weight.normal_()
        x = noise(1, 12, 64)
        first = block(x)
        block.offset.out.weight[0] = 9.0  # moves in time, of which there is none
        torch.testing.assert_close(block(x), first)


def test_wrong_options_are_refused() -> None:
    for wrong in ({"dfe": "difff"}, {"restore": "copy"}, {"cluster_ratio": 0.0},
                  {"offset_groups": 3}, {"cluster_ratio": 1.5}):  # fmt: skip
        with pytest.raises(ConfigError):
            tiny("pstpose_vitl", **wrong)
