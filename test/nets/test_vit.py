"""The ViT backbone, the single-frame networks on it, and what the token networks share."""

from pathlib import Path

import pytest
import torch
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
    windows,
)

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets import movenet
from pose_ros.nets.import_vit import import_vit, unexplained, vitpose_state
from pose_ros.nets.registry import build_net

# Millions of parameters and GMACs of the backbones at 256x192, parameters of the classic head.
SIZES = {"s": (21.7, 4.5, 2.6), "b": (85.8, 17.1, 4.2), "l": (303.3, 59.9, 5.3)}


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_published_ones(size: str) -> None:
    got = cost(f"vitpose_{size}")
    parameters, gmacs, head = SIZES[size]
    assert got.backbone_params_m == pytest.approx(parameters, abs=0.1)
    assert got.backbone == pytest.approx(gmacs, rel=0.01)
    assert got.params_m - got.backbone_params_m == pytest.approx(head, abs=0.06)


def test_every_check_of_a_network() -> None:
    net = tiny("vitpose_s")
    check_shapes_and_people(net)
    check_every_parameter_learns(net)
    check_strict_reload(net, tiny("vitpose_s"))
    check_mixed_precision(net)


def test_it_exports(tmp_path: Path) -> None:
    check_onnx(tiny("vitpose_s"), tmp_path)
    check_onnx(tiny("vitpose_s", head="simple"), tmp_path)


def test_the_large_crop() -> None:
    net = tiny("vitpose_s", size_hw_px=(384, 288), freeze=True).eval()
    with torch.no_grad():
        assert net(windows(net, 1)).heatmaps.shape == (1, 5, 96, 72)


def test_one_frame_cannot_tell_what_it_hides() -> None:
    assert learn_hidden(tiny("vitpose_s", joints=2)) > 1.0


def test_it_learns_four_clips() -> None:
    before, after = overfit(tiny("vitpose_s"), 80)
    assert after < 0.5 < before


def test_a_patch_is_seen_two_pixels_early() -> None:
    # padding 2: token (0, 0) sees pixels -2 ... 13, token (1, 1) pixels 14 ... 29
    backbone = tiny("vitpose_s").backbone
    frame = torch.zeros(1, 3, 64, 48)
    frame[:, :, 13, 13] = 1.0
    moved = (backbone.patch_embed(frame) - backbone.patch_embed(0 * frame)).abs().sum(1)[0]
    assert moved.nonzero().tolist() == [[0, 0]]
    frame = torch.zeros(1, 3, 64, 48)
    frame[:, :, 14, 29] = 1.0
    moved = (backbone.patch_embed(frame) - backbone.patch_embed(0 * frame)).abs().sum(1)[0]
    assert moved.nonzero().tolist() == [[1, 1]]


def test_a_frozen_backbone_stays_as_it_is() -> None:
    net = tiny("vitpose_s", freeze=True, model_dim=32).train()
    assert net.training and not net.backbone.training
    net(windows(net, 1)).heatmaps.sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert net.adapter.linear.weight.grad is not None


def test_drop_path_only_where_the_backbone_learns() -> None:
    with torch.device("meta"):
        rates = [b.drop_path.rate for b in build_net("vitpose_b").backbone.blocks]
        assert rates[0] == 0.0 and rates[-1] == pytest.approx(0.3)
        frozen = build_net("vitpose_b", freeze=True).backbone.blocks
        assert all(b.drop_path.rate == 0.0 for b in frozen)


def test_movenets_trunk_as_backbone() -> None:
    torch.manual_seed(0)
    source = movenet.movenet_lightning()
    net = tiny("vitpose_s", backbone="movenet_lightning", size_hw_px=(64, 64), model_dim=64)
    wanted = set(net.backbone.state_dict())
    shared = {n: t for n, t in source.state_dict().items() if n in wanted}
    net.backbone.load_state_dict(shared, strict=True)
    x = windows(net, 2)[:, 0]
    tokens = net.eval().backbone(x)
    feature = source.eval().forward_features(x)  # (2, 24, 16, 16)
    assert tokens.shape == (2, 16, 384)
    block = feature[:, :, 4:8, 8:12].flatten(1)  # row 1, column 2 of the 4x4 grid
    torch.testing.assert_close(tokens[:, 1 * 4 + 2], block)
    assert net.encode(x)[0].shape == (2, 16, 64)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"dephth": 3}, r"no option dephth; it has .*backbone"),
        ({"backbone": "vit_x"}, "backbone: expected .*vit_s.*, got 'vit_x'"),
        ({"size_hw_px": (250, 192)}, r"size_hw_px: expected multiples of 16, got \(250, 192\)"),
        ({"size_hw_px": (256,)}, "size_hw_px"),
        ({"backbone": "movenet_lightning", "size_hw_px": (48, 64)}, "multiples of 32"),
        ({"joints": 0}, "joints"),
        ({"model_dim": 100}, "model_dim: expected a multiple of 32"),
        ({"head": "wide"}, "head: expected"),
        ({"key": 3}, r"key: expected 0 \.\.\. 0, got 3"),
        ({"frames": 3}, r"frames: expected \(1,\), got 3"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_net("vitpose_s", **wrong)


def test_wrong_windows_are_refused() -> None:
    net = tiny("vitpose_s")
    for shape in ((1, 3, 3, 64, 48), (1, 1, 3, 64, 64), (1, 1, 1, 64, 48), (1, 3, 64, 48)):
        with pytest.raises(ShapeError, match=r"ViTPose: expected windows \(B, 1, 3, 64, 48\)"):
            net(torch.zeros(shape))
    with pytest.raises(ShapeError, match="uint8"):
        net(torch.zeros(1, 1, 3, 64, 48, dtype=torch.uint8))


def test_a_cards_list_is_a_size() -> None:
    assert tiny("vitpose_s", size_hw_px=[64, 64]).size_hw_px == (64, 64)


def hugging_face(simple: bool, experts: int = 1) -> torch.nn.Module:
    """Hugging Face's own VitPose, tiny, with random weights."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("transformers.models.vitpose")
    torch.manual_seed(3)
    plus = {"num_experts": experts, "part_features": 16} if experts > 1 else {}
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=64, num_hidden_layers=2,
        num_attention_heads=2, mlp_ratio=4, out_indices=[2], **plus,
    )  # fmt: skip
    config = transformers.VitPoseConfig(
        backbone_config=backbone, num_labels=17, use_simple_decoder=simple, scale_factor=4
    )
    theirs = transformers.VitPoseForPoseEstimation(config).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # away from the initialisation, batch norms and class slot too
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.copy_(tensor * noise.exp() if "running_var" in name else tensor + noise)
    return theirs


@pytest.mark.parametrize("simple", [False, True], ids=["classic", "simple"])
@pytest.mark.parametrize("experts", [1, 6], ids=["vitpose", "vitpose_plus"])
def test_the_heatmaps_are_hugging_faces(simple: bool, experts: int) -> None:
    theirs = hugging_face(simple, experts)
    state, unused = import_vit(theirs.state_dict(), (4, 3))
    assert unexplained(unused) == []
    head = "simple" if simple else "classic"
    ours = tiny("vitpose_s", joints=17, head=head, head_channels=256).eval()
    missing, unexpected = ours.load_state_dict(vitpose_state(state), strict=False)
    assert unexpected == []
    assert all(name.endswith("num_batches_tracked") for name in missing)
    x = windows(ours, 2)
    dataset = {"dataset_index": torch.zeros(2, dtype=torch.long)} if experts > 1 else {}
    with torch.no_grad():
        wanted = theirs(x[:, 0], **dataset).heatmaps
        torch.testing.assert_close(ours(x).heatmaps, wanted, atol=1e-4, rtol=1e-4)
