"""PSTPose on MoveNet's answer: neutral when new and when alone, and its fusion by hand."""

from pathlib import Path

import conv_cases as cases
import numpy as np
import pytest
import torch
from stream_cases import (
    FAMILIES,
    SECOND,
    affine,
    answer_without_cache,
    pictures,
    small_card,
    window,
)
from video_cases import check_onnx, cost

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.checkpoint import find_card, load_net
from pose_ros.nets.movenet import PoseHeads
from pose_ros.nets.movenet_trunk import evidence, positions
from pose_ros.nets.pstpose import PSTPoseConfig
from pose_ros.nets.pstpose_prior import (
    FACTS,
    GEOMETRY,
    EvidenceFusion,
    PstPosePrior,
    describe,
    geometry,
)
from pose_ros.nets.registry import build_net
from pose_ros.nets.stream import StreamRunner, TorchParts

JOINTS = 17


def tiny(**overrides: object) -> PstPosePrior:
    torch.manual_seed(0)
    small = {"backbone": "movenet_lightning", "size_hw_px": (64, 64), "model_dim": 32}
    return build_net("pstpose_prior", **small | overrides).eval()


def awake(net: PstPosePrior) -> PstPosePrior:
    """The network with other weights than it starts with, MoveNet's included."""
    return cases.wake(net).eval()


def bump(x: float, y: float, height: float = 1.0, size: int = 32) -> torch.Tensor:
    """A Gaussian of 2 cells in (size, size) cells."""
    cells = torch.arange(size, dtype=torch.float32)
    square = (cells[:, None] - y).square() + (cells - x).square()
    return height * (-square / 8.0).exp()


def seen(net: PstPosePrior, people: int = 2) -> tuple[torch.Tensor, ...]:
    """Features of windows of noise."""
    frames = torch.randn(people, net.window.frames, 3, *net.size_hw_px)
    with torch.no_grad():
        features = net.encode(frames.flatten(0, 1))
    return tuple(f.unflatten(0, (people, -1)) for f in features)


def test_a_new_network_answers_exactly_as_its_trunk() -> None:
    net = tiny()
    features = seen(net)
    with torch.no_grad():
        out = net.fuse(features, torch.full((2,), 3.0), torch.ones(2)).heatmaps
    assert torch.equal(out, features[0][:, net.window.key])


def test_without_other_frames_any_network_answers_as_its_trunk() -> None:
    net = awake(tiny())
    features = seen(net)
    with torch.no_grad():
        alone = net.fuse(features, torch.zeros(2), torch.zeros(2)).heatmaps
        company = net.fuse(features, torch.full((2,), 3.0), torch.ones(2)).heatmaps
    assert torch.equal(alone, features[0][:, net.window.key])
    assert not torch.allclose(company, alone, atol=1e-4)


def test_frames_that_do_not_exist_change_nothing() -> None:
    """One frame before and none after: the other three may be anything."""
    net = awake(tiny())
    maps, facts = seen(net)
    others = (torch.rand_like(maps), torch.rand_like(facts))
    for mine, other in zip((maps, facts), others, strict=True):
        other[:, 2:4] = mine[:, 2:4]
    left, right = torch.ones(2), torch.zeros(2)
    with torch.no_grad():
        first = net.fuse((maps, facts), left, right).heatmaps
        second = net.fuse(others, left, right).heatmaps
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def fusion(dim: int = 32) -> EvidenceFusion:
    """One that mixes wholly, all frames alike, at places that only the joints' speed moves."""
    torch.manual_seed(0)
    block = EvidenceFusion(dim, PSTPoseConfig(joints=1, frames=5, key=3))
    with torch.no_grad():
        block.strength.fill_(20.0)
        for layer in (block.q, block.steady, block.offset[2], block.bias[2]):
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()
    return block


def walking(x0: float, speed: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (1, 5, 1, 32, 32) and facts of a joint that is surely seen on a straight way."""
    at = [x0 + speed * (t - 3) for t in range(5)]
    maps = torch.stack([bump(x, 16.0) for x in at])[None, :, None]
    facts = torch.zeros(1, 5, 1, FACTS)
    facts[0, :, 0, 0], facts[..., 1], facts[..., 2] = torch.tensor(at), 16.0, 0.9
    return maps, facts


def test_what_moves_evenly_is_fetched_to_where_it_is_now() -> None:
    """Equations 7 to 9 by hand: five frames, 2 cells a frame; a ridge of 0.1 holds 5 % back."""
    maps, facts = walking(14.0, 2.0)
    with torch.no_grad():
        out, votes = fusion()(torch.zeros(1, 5, 1, 32), maps, facts, torch.ones(1, 5))
    steps = torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0])
    held_back = 2.0 * steps * 0.1 / 2.1  # the variance of five steps is 2
    torch.testing.assert_close(votes[0, :, 0, 0], 14.0 - held_back, atol=1e-3, rtol=0)
    wanted = torch.tensor([[[14.0 - float(held_back.mean()), 16.0]]])
    torch.testing.assert_close(positions(out), wanted, atol=0.05, rtol=0)


def test_a_frame_that_is_lost_is_answered_by_its_neighbours() -> None:
    """The key frame sees the joint elsewhere, dimly: its place comes from the others."""
    maps, facts = walking(14.0, 1.0)
    maps[0, 3, 0] = bump(25.0, 5.0, 0.1)
    facts[0, 3, 0, :3] = torch.tensor([25.0, 5.0, 0.02])
    with torch.no_grad():
        out, _ = fusion()(torch.zeros(1, 5, 1, 32), maps, facts, torch.ones(1, 5))
    found = positions(out)[0, 0]
    torch.testing.assert_close(found, torch.tensor([14.0, 16.0]), atol=0.6, rtol=0)


def test_learned_moves_stay_within_four_tokens() -> None:
    block = fusion()
    _maps, facts = walking(16.0, 0.0)
    with torch.no_grad():
        torch.nn.init.normal_(block.offset[2].weight, std=100.0)
        x = block.norm(torch.randn(1, 5, 1, 32))
        places = block.places(x, facts[..., :2], facts[..., 2:3], torch.ones(1, 5))
    assert 15.0 < float(places.abs().max()) <= 16.0


def heads(people: int = 2) -> PoseHeads:
    """Two bumps per joint, the prior of a person in the middle, and offsets."""
    rng = np.random.default_rng(0)
    maps = torch.zeros(people, JOINTS, 32, 32)
    for p in range(people):
        for j in range(JOINTS):
            for height in (0.8, 0.6):
                x, y = rng.uniform(5, 27, 2)
                maps[p, j] = torch.maximum(maps[p, j], bump(x, y, height))
    prior = torch.from_numpy(rng.uniform(0.2, 0.6, maps.shape)).float()
    offsets = torch.from_numpy(rng.uniform(0, 1, (people, JOINTS, 2, 32, 32))).float()
    return PoseHeads(maps, prior, offsets)


def test_the_facts_of_a_frame_are_movenets() -> None:
    """Place and score as the pipeline decodes them; the second peak is another one, and lower."""
    given = heads()
    psi = torch.randn(2, 24, 16, 16)
    drawn, _raw = evidence(given)
    facts = describe(psi, given, drawn)
    assert facts.shape == (2, JOINTS, FACTS + 48)
    xy, score = decode(PoseMaps(*(part.numpy() for part in given)))
    np.testing.assert_allclose(facts[..., :2].numpy(), xy, atol=1e-4)
    np.testing.assert_allclose(facts[..., 2].numpy(), score, atol=1e-6)
    apart, height = facts[..., 3:5].norm(dim=2), facts[..., 5]
    assert (apart > 3.0).all() and (height <= facts[..., 2] + 1e-6).all()
    second = (facts[..., :2] + facts[..., 3:5]).round().long()
    there = drawn.flatten(2).gather(2, (second[..., 1:] * 32 + second[..., :1]))[..., 0]
    torch.testing.assert_close(there, height, atol=1e-6, rtol=0)
    torch.testing.assert_close(facts[0, 3, -24:], psi[0].mean((1, 2)), atol=1e-5, rtol=1e-5)


def test_geometry_does_not_know_where_in_the_crop_the_person_is() -> None:
    facts = torch.rand(1, 5, JOINTS, FACTS)
    exists = torch.ones(1, 5)
    moved = facts.clone()
    moved[..., :2] += torch.tensor([7.0, -3.0])
    first, second = (geometry(f, exists, 3) for f in (facts, moved))
    assert first.shape[3] == GEOMETRY
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("switches", [{}, {"dfe": "mhsa"}, {"dfe": "none"}, {"fcg": False},
                                      {"key": 4}, {"frames": 3, "key": 1}], ids=str)  # fmt: skip
def test_everything_beside_movenet_learns(switches: dict[str, object]) -> None:
    net = cases.wake(tiny(**switches)).train()
    net.backbone.requires_grad_(False)
    out = net(torch.randn(2, net.window.frames, 3, 64, 64))
    (out.heatmaps.square().mean() + out.aux["votes"].square().mean()).backward()
    own = {n: p for n, p in net.named_parameters() if not n.startswith("backbone.")}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in own.values())
    assert sum(p.numel() for p in own.values()) < 60_000


def test_what_it_costs() -> None:
    """A new frame costs MoveNet and 4 % more."""
    got = cost("pstpose_prior")
    assert got.params_m - got.backbone_params_m == pytest.approx(0.123, abs=0.002)
    assert got.params_m == pytest.approx(6.35, abs=0.01)
    assert got.encode == pytest.approx(0.915, abs=0.005)
    assert got.fuse < 0.045


def test_refuses_what_does_not_fit() -> None:
    for wrong in ({"backbone": "vit_s"}, {"dsf": "mhsa"}, {"integration": "channel"}):
        with pytest.raises(ConfigError, match="expected a MoveNet backbone"):
            tiny(**wrong)
    net = tiny()
    with pytest.raises(ShapeError, match="takes no labels"):
        net.fuse(seen(net), torch.ones(2), torch.ones(2), torch.zeros(2, 5, 17, 3))


def test_a_stream_keeps_the_features_of_earlier_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A held crop costs one picture a frame; the answers are those of whole windows."""
    sizes = {"backbone": "movenet_lightning", "size_hw_px": [64, 64], "model_dim": 32}
    sizes |= {"frames": 3, "key": 1, "joints": 5}
    monkeypatch.setitem(FAMILIES, "prior", ("pstpose_prior", sizes, (64, 64), False))
    card = small_card(tmp_path, "prior")
    net, stream = load_net(card), StreamRunner(card, TorchParts(card, "cpu", 1))
    story = [(window(0, last=0), 0.0, 1), (window(1), 0.0, 1), (window(2), 0.0, 1),
             (window(3), 4.0, 3), (window(4, last=3), 4.0, 0)]  # fmt: skip
    for numbers, shift_px, new in story:
        ids, crops = np.array([7]), affine(shift_px)[None]
        wanted = stream.wanted(ids, crops, numbers)
        assert len(wanted) == new
        stamp = int(numbers[-1]) * SECOND // 30
        got = stream.run(ids, crops, numbers, stamp, pictures(card, crops, numbers, wanted))
        whole = answer_without_cache(net, card, crops, numbers)
        np.testing.assert_allclose(got, whole, atol=1e-4 * np.abs(whole).max())


def test_exports_to_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    check_onnx(tiny(), tmp_path)


def test_the_shipped_weights_are_trained_and_keep_movenet_as_it_was() -> None:
    card = find_card("pstpose_prior")
    assert card.trained and not card.untrained and card.lookahead_frames == 1
    assert card.bytes < 13_000_000
    net, donor = load_net(card), load_net(find_card("movenet_robust_large"))
    for name, tensor in donor.state_dict().items():
        assert torch.equal(net.state_dict()[f"backbone.{name}"], tensor), name
    assert float(net.dsf.strength.detach().min()) > 0.1  # every joint uses the other frames
