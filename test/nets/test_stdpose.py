"""STDPose against its equations, and its two modes."""

from pathlib import Path

import pytest
import torch
from torch import nn
from video_cases import (
    check_every_parameter_learns,
    check_mixed_precision,
    check_onnx,
    check_shapes_and_people,
    check_strict_reload,
    cost,
    learn_hidden,
    moving_dots,
    overfit,
    split_windows,
    tiny,
    wake,
    windows,
)

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.stdpose import (
    TKS,
    DynamicMask,
    STDPoseConfig,
    draw_gaussians,
    labelled_frames,
    stdpose_robot,
)

SWITCHES = [
    {},
    {"tff": False, "tks": False},  # the paper's table 4: (a),
    {"tks": False},  # (b),
    {"tff": False},  # (c),
    {"dam": False},  # (d)
    {"mi": False},
    {"stda": False},
    {"dam_learnable": True},
    {"dt_embed": False},
    {"label_flag": False},
    {"model_dim": 32},
    {"key": 2},
    {"key": 0},
]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size, fusion, total, cached", [
    ("vit_s", 10.4, 24, 15), ("vit_b", 26.6, 78, 44), ("vit_l", 42.5, 222, 102),
])  # fmt: skip
def test_the_cost_is_the_analytic_one(
    size: str, fusion: float, total: float, cached: float
) -> None:
    got = cost("stdpose_vitl", backbone=size)
    head = cost("vitpose_s", backbone=size, joints=15)
    once = head.cached - head.backbone
    # the analysis counts three first heads per key frame; here a cached frame keeps its heatmaps
    assert got.cached + 2 * once == pytest.approx(cached, rel=0.02)
    assert got.cached - got.backbone + 2 * once == pytest.approx(fusion, rel=0.02)
    assert got.uncached == pytest.approx(total, rel=0.02)


def test_the_robot_sizes_are_small() -> None:
    assert cost("stdpose_robot").cached < 9.0
    assert cost("stdpose_movenet").cached < 3.0


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_runs_and_every_parameter_learns(switches: dict[str, object]) -> None:
    net = tiny("stdpose_vitl", **switches)
    check_shapes_and_people(net)
    if switches.get("label_flag", True) and switches.get("tks", True):
        learns_with_labels(net)
    else:
        check_every_parameter_learns(net)


def learns_with_labels(net: nn.Module) -> None:
    """The weights of the flags learn only where something is labelled."""
    forward = net.forward
    net.forward = lambda x: forward(x, labels=labels_of(net, len(x)))
    check_every_parameter_learns(net)
    net.forward = forward


def labels_of(net: nn.Module, people: int, seed: int = 0) -> torch.Tensor:
    """All joints of all frames known, somewhere."""
    generator = torch.Generator().manual_seed(seed)
    h, w = net.config.heatmap_hw
    size = torch.tensor([w - 1.0, h - 1.0])
    xy = torch.rand((people, 3, net.joints, 2), generator=generator) * size
    return torch.cat((xy, torch.ones(people, 3, net.joints, 1)), -1)


def test_reload_and_precision() -> None:
    check_strict_reload(tiny("stdpose_vitl"), tiny("stdpose_vitl"))
    check_mixed_precision(tiny("stdpose_vitl"))


def test_it_exports(tmp_path: Path) -> None:
    check_onnx(tiny("stdpose_vitl"), tmp_path)
    check_onnx(tiny("stdpose_vitl", key=2), tmp_path)


@pytest.mark.slow
def test_the_robot_size_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_onnx(stdpose_robot(), tmp_path, people=(1, 2))


def test_the_large_crop() -> None:
    net = tiny("stdpose_vitl", size_hw_px=(384, 288), freeze=True).eval()
    with torch.no_grad():
        assert net(windows(net, 1)).heatmaps.shape == (1, 5, 96, 72)


def test_the_neighbours_tell_what_the_key_frame_hides() -> None:
    assert learn_hidden(tiny("stdpose_vitl", joints=2)) <= 1.0


def test_it_learns_four_clips() -> None:
    before, after = overfit(tiny("stdpose_vitl"), 80)
    assert after < 0.5 < before


def test_it_learns_to_propagate_labels() -> None:
    # frames without any picture: only the labels of the sides can tell where the joints are
    net = tiny("stdpose_vitl", joints=2)
    _, target = moving_dots(net, 4)
    peaks = target.flatten(2).argmax(2)
    xy = torch.stack((peaks % 12, peaks // 12), -1).float()
    seen = torch.ones(*xy.shape[:2], 1)
    labels = torch.cat((xy, seen), -1)[:, None].expand(-1, 3, -1, -1)
    frames, dt = torch.zeros(4, 3, 3, 64, 48), torch.full((4,), 3.0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    net.train()
    features = [f.detach() for f in split_windows(net, frames)]
    for _ in range(200):
        optimizer.zero_grad()
        (net.fuse(features, dt, dt, labels).heatmaps - target).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    got = net.fuse(features, dt, dt, labels).heatmaps.flatten(2).argmax(2)
    distance = torch.hypot((got % 12 - xy[..., 0]), (got // 12 - xy[..., 1]))
    assert distance.max() <= 1.0
    blind = net.fuse(features, dt, dt).heatmaps
    assert (blind[0] - blind[1]).abs().max() < 1e-5  # without labels there is nothing to tell


def test_propagation_in_a_still_scene_reproduces_the_labels() -> None:
    """Keypoint semantics alone: three times one picture, labels that it never saw while learning.

    The mask is 1 then and the features say nothing, so what reproduces labels is TKS. The nearest
    cell is 0.38 away on average, and half a diagonal at most.
    """
    net = tiny("stdpose_vitl", joints=2, tff=False)
    generator = torch.Generator().manual_seed(0)
    still = noise(1, 1, 3, 64, 48).expand(-1, 3, -1, -1, -1)
    features = [f.detach() for f in split_windows(net, still)]
    size = torch.tensor([9.0, 13.0])  # one cell from the borders

    def propagate(people: int) -> tuple[torch.Tensor, torch.Tensor]:
        xy = 1.0 + torch.rand((people, 2, 2), generator=generator) * size
        labels = torch.cat((xy, torch.ones(people, 2, 1)), -1)[:, None].expand(-1, 3, -1, -1)
        dt = torch.full((people,), 3.0)
        here = tuple(f.expand(people, *f.shape[1:]) for f in features)
        return xy, net.fuse(here, dt, dt, labels).heatmaps

    def errors() -> torch.Tensor:
        with torch.no_grad():
            xy, heatmaps = propagate(32)
        peaks = heatmaps.flatten(2).argmax(2)
        return torch.hypot(peaks % 12 - xy[..., 0], peaks // 12 - xy[..., 1])

    net.train()
    assert errors().mean() > 3.0
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        xy, heatmaps = propagate(16)
        optimizer.zero_grad()
        (heatmaps - draw_gaussians(xy, (16, 12), 1.5)).square().mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.eval()
    assert errors().mean() < 0.5 and errors().max() <= 1.0


# --- labels


def test_labels_replace_side_heatmaps_only_where_there_are_any() -> None:
    net = tiny("stdpose_vitl", joints=4)
    heatmaps = noise(1, 3, 4, 16, 12)
    labels = labels_of(net, 1)
    labels[0, 0, 1, 2] = 0.0  # not labelled
    labels[0, 2, 2, 0] = float("nan")  # labelled as nonsense
    labels[0, 2, 3] = torch.tensor([5.0, 6.0, 1.0])
    labels[0, 2, :2, 2] = 0.0
    got, flags = net.given(heatmaps, labels)
    assert torch.equal(got[:, 1], heatmaps[:, 1])  # the key frame is what is asked for
    assert torch.equal(got[0, 0, 1], heatmaps[0, 0, 1])
    assert torch.equal(got[0, 2, :3], heatmaps[0, 2, :3])
    assert got[0, 2, 3, 6, 5] == 1.0 and got[0, 2, 3].argmax() == 6 * 12 + 5
    assert flags.tolist() == [[1.0, 0.0, 1.0]]
    labels[:, 2, :, 2] = 0.0
    assert net.given(heatmaps, labels)[1].tolist() == [[1.0, 0.0, 0.0]]
    assert torch.equal(net.given(heatmaps, None)[0], heatmaps)


def test_wrong_labels_are_refused() -> None:
    net = tiny("stdpose_vitl")
    with pytest.raises(ShapeError, match=r"expected labels \(2, 3, 5, 3\), got \(2, 3, 4, 3\)"):
        net(windows(net, 2), labels=torch.zeros(2, 3, 4, 3))


def test_gaussians_by_hand() -> None:
    maps = draw_gaussians(torch.tensor([[2.0, 1.0], [0.5, 0.0]]), (4, 5), 2.0)
    assert maps.shape == (2, 4, 5)
    assert maps[0, 1, 2] == 1.0
    assert maps[0, 1, 4].item() == pytest.approx(2.718281828 ** (-4 / 8))  # two columns away
    assert maps[1, 0, 0] == maps[1, 0, 1]


def test_labels_change_the_answer_and_only_of_their_person() -> None:
    net = wake(tiny("stdpose_vitl")).eval()
    x, labels = windows(net, 2), labels_of(net, 2)
    labels[1, :, :, 2] = 0.0
    plain, given = net(x).heatmaps, net(x, labels=labels).heatmaps
    assert (plain[0] - given[0]).abs().max() > 1e-4
    torch.testing.assert_close(plain[1], given[1])


@pytest.mark.parametrize("interval, percent", [
    (2, 50.0), (3, 36.7), (4, 26.7), (5, 23.3), (7, 16.7), (9, 13.3), (15, 10.0),
])  # fmt: skip
def test_the_labelled_ratio_is_the_papers(interval: int, percent: float) -> None:
    frames = labelled_frames(30, interval)
    assert 100 * len(frames) / 30 == pytest.approx(percent, abs=0.05)
    assert frames[0] == 0 and frames == sorted(set(frames)) and frames[-1] < 30


def test_short_runs_are_labelled() -> None:
    assert labelled_frames(1, 7) == [0]
    assert labelled_frames(4, 7) == [0]  # three frames behind the label
    assert labelled_frames(5, 7) == [0, 4]
    with pytest.raises(ConfigError, match="at least 1"):
        labelled_frames(0, 7)


# --- distances


def test_distances_are_signed_and_the_nearer_frame_weighs_more() -> None:
    net = tiny("stdpose_vitl")
    left, right = torch.tensor([1.0, -3.0]), torch.tensor([5.0, 3.0])
    assert net.signed_distances(left, right).tolist() == [[-1, 0, 5], [3, 0, 3]]
    causal = tiny("stdpose_vitl", key=2)
    assert causal.signed_distances(torch.tensor([2.0]), torch.tensor([0.0])).tolist() == [
        [-2, -1, 0]
    ]


def test_the_distance_code_starts_at_zero() -> None:
    net = tiny("stdpose_vitl")
    code = net.tff.dt_embed(torch.tensor([[-3.0, 0.0, 5.0]]))
    assert (code == 0).all()
    code = wake(net).tff.dt_embed(torch.tensor([[-3.0, 0.0, 3.0, 9.0]]))[0]
    assert all((code[i] - code[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))


# --- keypoint semantics and mask


def test_keypoint_semantics_start_as_the_key_frames_heatmap() -> None:
    torch.manual_seed(0)
    heatmaps, flags = noise(2, 3, 5, 16, 12), torch.ones(2, 3)
    for key in range(3):
        tks = TKS(STDPoseConfig(joints=5, key=key))
        assert torch.equal(tks(heatmaps, flags), heatmaps[:, key])
    net = tiny("stdpose_vitl", tff=False)
    out = net(windows(net, 2))
    assert torch.equal(out.heatmaps, out.aux["heatmaps_initial"][:, 1])


def test_flags_count_only_once_they_are_learnt() -> None:
    torch.manual_seed(0)
    tks = TKS(STDPoseConfig(joints=5)).eval()
    nn.init.normal_(tks.correct.weight)
    heatmaps, off, on = noise(1, 3, 5, 16, 12), torch.zeros(1, 3), torch.ones(1, 3)
    assert torch.equal(tks(heatmaps, off), tks(heatmaps, on))
    wake(tks)
    assert not torch.equal(tks(heatmaps, off), tks(heatmaps, on))


def test_the_mask_has_mean_one_and_is_one_when_nothing_moves() -> None:
    torch.manual_seed(0)
    mask = DynamicMask(STDPoseConfig(joints=5))
    one, three = torch.ones(2), torch.full((2,), 3.0)
    moving = mask(noise(2, 5, 16, 12), noise(2, 5, 16, 12, seed=1), one, three)
    assert moving.shape == (2, 1, 16, 12)
    torch.testing.assert_close(moving.mean((1, 2, 3)), torch.ones(2))
    assert moving.std() > 0.01
    still = mask(torch.zeros(2, 5, 16, 12), torch.zeros(2, 5, 16, 12), one, three)
    torch.testing.assert_close(still, torch.ones(2, 1, 16, 12))


def test_the_mask_is_equation_3() -> None:
    torch.manual_seed(0)
    block = DynamicMask(STDPoseConfig(joints=2))
    forth, back = noise(1, 2, 4, 3), noise(1, 2, 4, 3, seed=1)
    got = block(forth, back, torch.tensor([1.0]), torch.tensor([3.0]))[0, 0]
    s_f, s_b = (1 / (1 + torch.exp(-1.5 * (r.abs() - 0.5))) for r in (forth, back))
    # the left frame is nearer, so the backward residual has the weight 3 / 4
    scores = 0.25 * block.forwards(s_f) + 0.75 * block.backwards(s_b)
    torch.testing.assert_close(got, scores.flatten().softmax(0).view(4, 3) * 12)
    sigmoid = torch.sigmoid(block.k * (torch.tensor([0.0, 1.0]) - block.theta))
    assert sigmoid.tolist() == pytest.approx([0.321, 0.679], abs=1e-3)


@pytest.mark.parametrize("left, right", [(2.0, 2.0), (0.0, 1.0), (1.0, 0.0), (-4.0, 4.0)])
def test_one_sided_and_missing_frames_weigh_the_same(left: float, right: float) -> None:
    torch.manual_seed(0)
    block = DynamicMask(STDPoseConfig(joints=2))
    with torch.no_grad():
        block.backwards.load_state_dict(block.forwards.state_dict())
    forth, back = noise(1, 2, 4, 3), noise(1, 2, 4, 3, seed=1)
    sides = torch.tensor([left]), torch.tensor([right])
    torch.testing.assert_close(block(forth, back, *sides), block(back, forth, *sides))


def test_a_still_window_has_the_mask_one() -> None:
    net = wake(tiny("stdpose_vitl")).eval()
    x = windows(net, 2)[:, 1:2].expand(-1, 3, -1, -1, -1)
    torch.testing.assert_close(net(x).aux["mask"], torch.ones(2, 1, 16, 12))


def test_what_the_objective_needs_is_given_out() -> None:
    net = wake(tiny("stdpose_vitl"))
    aux = net(windows(net, 2)).aux
    assert {name: tuple(value.shape) for name, value in aux.items()} == {
        "features_key": (2, 64, 4, 3), "features_fused": (2, 64, 4, 3),
        "heatmaps_features": (2, 5, 16, 12), "heatmaps_initial": (2, 3, 5, 16, 12),
        "heatmaps_temporal": (2, 5, 16, 12), "mask": (2, 1, 16, 12),
    }  # fmt: skip


def test_wrong_options_are_refused() -> None:
    for wrong in ({"frames": 5}, {"tsk": True}, {"joints": 0}):
        with pytest.raises(ConfigError):
            tiny("stdpose_vitl", **wrong)
