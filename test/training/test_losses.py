"""Losses: numbers derived by hand, gradients by finite differences, and what must not matter."""

import math

import pytest
import torch

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training import losses
from pose_ros.training.targets import gaussians

torch.set_num_threads(1)


def gaussian(x: float, y: float, h: int = 16, w: int = 12, sigma: float = 2.0) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def test_joint_mse_by_hand() -> None:
    """2 people, 2 joints, 2x2 cells: errors 1 on 4 cells of a visible map, 3 on an invisible one.

    sum = 4 * 1; joints * people * cells = 16; so 1/4.
    """
    target = torch.zeros(2, 2, 2, 2)
    maps = target.clone()
    maps[0, 0] = 1.0
    maps[1, 1] = 3.0
    visible = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert losses.joint_mse(maps, target, visible).item() == pytest.approx(0.25)
    weight = torch.tensor([1.5, 1.0])
    assert losses.joint_mse(maps, target, visible, weight).item() == pytest.approx(0.375)


def test_what_is_not_visible_does_not_matter_even_as_nan() -> None:
    target = torch.full((1, 2, 3, 3), torch.nan)
    target[:, 0] = 0.0
    maps = torch.ones(1, 2, 3, 3, requires_grad=True)
    loss = losses.joint_mse(maps, target, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert torch.isfinite(maps.grad).all() and not maps.grad[:, 1].any()


def test_nobody_costs_nothing() -> None:
    empty = torch.zeros(0, 3, 4, 4)
    assert losses.joint_mse(empty, empty, torch.zeros(0, 3)).item() == 0
    assert losses.temporal(torch.zeros(0, 3, 2, 2), torch.zeros(0, 3, 2)).item() == 0


def test_joint_mse_refuses_shapes_that_do_not_belong_together() -> None:
    maps = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ShapeError, match=r"got \(1, 2, 3, 3\), \(1, 3, 3, 3\), \(1, 2\)"):
        losses.joint_mse(maps, torch.zeros(1, 3, 3, 3), torch.zeros(1, 2))


@pytest.mark.parametrize(("x", "y"), [(5.0, 7.0), (5.3, 6.8), (3.5, 9.0)])
def test_soft_argmax_finds_the_peak(x: float, y: float) -> None:
    """The softmax of a Gaussian is nearly one, so its mean is the peak, to a tenth of a cell."""
    found = losses.soft_argmax(gaussian(x, y)[None, None])[0, 0]
    assert found.tolist() == pytest.approx([x, y], abs=0.13)


def test_soft_argmax_of_the_whole_map_is_pulled_to_its_centre() -> None:
    maps = gaussian(2.0, 3.0)[None, None]
    assert losses.soft_argmax(maps)[0, 0, 0].item() == pytest.approx(2.0, abs=0.1)
    assert losses.soft_argmax(maps, window=0)[0, 0, 0].item() > 2.0
    sharp = losses.soft_argmax(maps, beta=500.0, window=0)
    torch.testing.assert_close(sharp, torch.tensor([[[2.0, 3.0]]]), atol=1e-3, rtol=0)


def test_soft_argmax_can_be_followed_downhill() -> None:
    maps = gaussian(5.0, 7.0)[None, None].double().requires_grad_(True)
    (slope,) = torch.autograd.grad(losses.soft_argmax(maps)[..., 0].sum(), maps)
    step = 1e-2
    for row, column in ((7, 6), (6, 4), (8, 5)):
        move = torch.zeros_like(maps)
        move[0, 0, row, column] = step
        with torch.no_grad():
            ahead, behind = (losses.soft_argmax(maps + s * move)[..., 0].sum() for s in (1, -1))
        assert slope[0, 0, row, column].item() == pytest.approx(
            ((ahead - behind) / (2 * step)).item(), rel=0.02, abs=1e-4
        )


def walk() -> torch.Tensor:
    """One person, three frames, two joints: one steps by (3, 4) then (0, 1), the other rests."""
    xy = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    xy[0, :, 0] = torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0]])
    return xy


def test_temporal_by_hand() -> None:
    """Eq 20: (25 + 1) / 2 steps; without the last frame's joint 25 / 2; of one frame 0."""
    visible = torch.ones(1, 3, 2)
    assert losses.temporal(walk(), visible).item() == pytest.approx(13.0)
    visible[0, 2, 0] = 0
    assert losses.temporal(walk(), visible).item() == pytest.approx(12.5)
    assert losses.temporal(walk()[:, :1], visible[:, :1]).item() == 0.0
    assert losses.normalised(torch.tensor([32.0, 16.0]), (64, 48)).tolist() == [0.5, 0.25]


def test_motion_by_hand() -> None:
    """Eq 22: a constant offset costs nothing; missing the second step of (0, 1) costs 1 / 2."""
    visible = torch.ones(1, 3, 2)
    assert losses.motion(walk() + 7.0, walk(), visible).item() == 0.0
    still = walk()
    still[0, 2] = still[0, 1]
    assert losses.motion(still, walk(), visible).item() == pytest.approx(0.5)
    still[0, 2, 0] = torch.nan
    visible[0, 2, 0] = 0
    assert losses.motion(still, walk(), visible).item() == 0.0


def test_gradients_of_the_step_losses() -> None:
    visible = torch.tensor([[[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]])
    xy = walk().requires_grad_(True)
    truth = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    torch.autograd.gradcheck(lambda p: losses.temporal(p, visible), (xy,))
    torch.autograd.gradcheck(lambda p: losses.motion(p, truth, visible), (xy,))


def test_hstpn_total_is_the_weighted_sum() -> None:
    """Eq 23 on a joint that moves 2 of 16 cells while the prediction rests.

    temporal 0; motion (2/16)^2 per step.
    """
    target = torch.stack([gaussian(4 + 2 * t, 7.0) for t in range(2)])[None, :, None]
    rests = gaussian(4.0, 7.0).expand(1, 2, 1, -1, -1)
    true_xy = torch.tensor([[[[4.0, 7.0]], [[6.0, 7.0]]]])
    terms = losses.hstpn(rests, target, true_xy, torch.ones(1, 2, 1))
    assert terms["temporal"].item() == pytest.approx(0.0, abs=1e-9)
    assert terms["motion"].item() == pytest.approx((2 / 16) ** 2, rel=1e-5)
    assert terms["heatmap"].item() == pytest.approx((rests - target).square().mean().item())
    assert terms["total"].item() == pytest.approx(terms["heatmap"].item() + 0.1 * (2 / 16) ** 2)
    assert losses.hstpn(target, target, true_xy, torch.ones(1, 2, 1))["motion"].item() < 1e-4
    twice = losses.hstpn(
        rests, target, true_xy, torch.ones(1, 2, 1), joint_weight=torch.tensor([2.0])
    )
    assert twice["heatmap"].item() == pytest.approx(2 * terms["heatmap"].item())
    assert twice["motion"] == terms["motion"]


def test_relevance_by_hand() -> None:
    """Two cells. Label logits (0, ln 3): (1/4, 3/4); map logits 0: (1/2, 1/2), at temperature 1.

    KL = 1/4 ln(1/2) + 3/4 ln(3/2) = 0.1308.
    """
    maps, target = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    target[0, 0, 0, 1] = math.log(3.0)
    target[0, 1] = torch.nan
    visible = torch.tensor([[True, False]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert losses.relevance(maps, target, visible, 1.0).item() == pytest.approx(expected, rel=1e-5)
    assert losses.relevance(maps, target, torch.zeros(1, 2), 1.0).item() == 0.0


def test_relevance_is_least_for_the_label_itself() -> None:
    target = torch.stack([gaussian(4, 5), gaussian(8, 9)])[None]
    visible = torch.ones(1, 2)
    maps = target.clone().requires_grad_(True)
    loss = losses.relevance(maps, target, visible)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(maps.grad, torch.zeros_like(maps), atol=1e-6, rtol=0)
    assert losses.relevance(target.flip(1), target, visible).item() > 1.0


def test_redundancy_by_hand() -> None:
    """Correlation 0.6: a = z, b = 0.6 z + 0.8 u, with z, u uncorrelated and of variance 1."""
    z = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 1, 2, 2)
    u = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
    found = losses.redundancy(5 + 2 * z, 0.6 * z + 0.8 * u)
    assert found.item() == pytest.approx(-0.5 * math.log(1 - 0.36 + 1e-4), rel=1e-4)
    assert losses.redundancy(z, u).item() == pytest.approx(0.0, abs=1e-4)


def test_redundancy_of_constant_and_equal_channels_is_finite() -> None:
    learned = torch.randn(2, 3, 4, 4)
    learned[:, 1] = 7.0
    known = learned.clone().requires_grad_(True)
    learned.requires_grad_(True)
    loss = losses.redundancy(known, learned)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(learned.grad).all()
    assert known.grad is None


def test_gradients_of_the_information_terms() -> None:
    """They are computed in float32, hence the coarse step."""
    torch.manual_seed(0)
    target = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    known = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    maps = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    learned = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    for x, function in (
        (maps, lambda m: losses.relevance(m, target, torch.ones(1, 2), 0.5)),
        (learned, lambda f: losses.redundancy(known, f)),
    ):
        x.requires_grad_(True)
        (slope,) = torch.autograd.grad(function(x), x)
        for i in range(0, x.numel(), 4):
            move = torch.zeros(x.numel(), dtype=x.dtype)
            move[i] = 2e-2
            move = move.view_as(x)
            with torch.no_grad():
                numeric = (function(x + move) - function(x - move)).item() / 4e-2
            assert slope.flatten()[i].item() == pytest.approx(numeric, rel=0.03, abs=2e-4)


def pair() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    features, maps = (2, 4, 4, 3), (2, 1, 16, 12)
    return torch.randn(features), torch.randn(features), torch.rand(maps), torch.rand(maps)


def test_stdpose_is_the_weighted_sum_and_the_switches_work() -> None:
    target = gaussian(4, 5).expand(2, 1, -1, -1)
    read, maps = torch.rand_like(target), torch.rand_like(target)
    visible, pairs = torch.ones(2, 1), pair()
    config = losses.MutualInformation(red_hm=0.5)
    found = losses.stdpose_information(read, maps, target, visible, pairs, config)
    of_feature = losses.relevance(read, target, visible) + 0.1 * losses.redundancy(*pairs[:2])
    of_heatmap = losses.relevance(maps, target, visible) + 0.5 * losses.redundancy(*pairs[2:])
    torch.testing.assert_close(found, (0.1 * of_feature + 0.01 * of_heatmap) / (16 * 12))
    off = losses.MutualInformation(impl="off")
    assert losses.stdpose_information(read, maps, target, visible, pairs, off).item() == 0.0
    terms = losses.stdpose(maps, read, target, visible, found, aux_head_weight=2.0)
    total = terms["heatmap"] + 2.0 * terms["initial"] + found
    torch.testing.assert_close(terms["total"], total)
    with pytest.raises(ConfigError, match="vsd, fami_compat or off, got kl"):
        losses.MutualInformation(impl="kl")


def test_fami_compat_is_what_that_code_computes() -> None:
    """kl_div(p, q) = mean q (ln q - p), with p as a probability; and no gradient for the maps."""
    maps = torch.rand(1, 2, 3, 3, requires_grad=True)
    target = torch.rand(1, 2, 3, 3)
    p, q = ((m.flatten(2) / 0.05).softmax(2) for m in (maps, target))
    found = losses.fami_relevance(maps, target)
    torch.testing.assert_close(found, (q * (q.log() - p)).mean().detach())
    assert not found.requires_grad
    config = losses.MutualInformation(impl="fami_compat")
    pairs = pair()
    mixed = losses.stdpose_information(maps, maps, target, torch.ones(1, 2), pairs, config)
    torch.testing.assert_close(mixed, 0.11 * found)


def test_hstpn_does_not_smooth_what_it_has_not_found() -> None:
    """A peak beyond the window of the soft-argmax costs its heatmap only."""
    truth = torch.tensor([[8.0, 8.0]]).expand(1, 3, 1, 2)
    places = torch.tensor([[8.0, 8.0], [9.0, 8.0], [8.0, 8.0]]).view(1, 3, 1, 2)
    visible = torch.ones(1, 3, 1)

    def maps(cells: torch.Tensor) -> torch.Tensor:
        return gaussians(cells, (24, 24), 1.0)

    near = losses.hstpn(maps(places), maps(truth), truth, visible)
    # one cell of 24 and back, in two steps
    assert near["motion"].item() == pytest.approx(2 * (1 / 24) ** 2 / 2, rel=0.05)
    places = places.clone()
    places[0, 1] = torch.tensor([18.0, 8.0])
    far = losses.hstpn(maps(places), maps(truth), truth, visible)
    assert far["motion"].item() == far["temporal"].item() == 0.0
    assert far["heatmap"] > near["heatmap"]


def test_an_information_term_that_outweighs_the_heatmaps_is_noticed_in_time() -> None:
    """More than half of the heatmaps' error after 1000 steps; before, they are still untrained."""
    heavy = {"heatmap": 4e-3, "information": 2.1e-3}
    assert losses.information_outweighs(heavy, 1000)
    assert not losses.information_outweighs(heavy, 999)
    assert not losses.information_outweighs({**heavy, "information": 1.9e-3}, 5000)
    assert not losses.information_outweighs({"heatmap": 4e-3}, 5000)
