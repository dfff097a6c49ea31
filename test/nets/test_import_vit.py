"""Published ViT checkpoints: every family's names, positions, experts, and wrong files."""

from __future__ import annotations

import re

import pytest
import torch
from video_cases import tiny, wake, windows

from pose_ros.errors import WeightsError
from pose_ros.nets import import_vit
from pose_ros.nets.import_vit import fold_positions, posetrack15_rows, unexplained, vitpose_state

GRID = (4, 3)


@pytest.fixture
def ours() -> dict[str, torch.Tensor]:
    """A tiny ViTPose's weights under the names of `import_vit`."""
    state = wake(tiny("vitpose_s", joints=17)).state_dict()
    return {name.removeprefix("backbone."): tensor for name, tensor in state.items()}


def rename(state: dict[str, torch.Tensor], *rules: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Apply every rule to every name."""
    renamed = {}
    for name, tensor in state.items():
        for old, new in rules:
            name = re.sub(old, new, name)
        renamed[name] = tensor
    return renamed


def official(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = rename(
        ours, (r"^patch_embed", "backbone.patch_embed.proj"),
        (r"^pos_embed", "backbone.pos_embed"), (r"^blocks", "backbone.blocks"),
        (r"^norm", "backbone.last_norm"), (r"^head\.deconv", "keypoint_head.deconv_layers"),
        (r"^head\.final", "keypoint_head.final_layer"),
    )  # fmt: skip
    cls = torch.full((1, 1, 64), 0.25)
    state["backbone.pos_embed"] = torch.cat((cls, state["backbone.pos_embed"] - cls), 1)
    state["backbone.cls_token"] = torch.zeros(1, 1, 64)
    return state


def mmpose(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return rename(
        ours, (r"^patch_embed", "backbone.patch_embed.projection"),
        (r"^pos_embed", "backbone.pos_embed"), (r"^norm\.", "backbone.ln1."),
        (r"^blocks\.(\d+)\.norm(\d)", r"backbone.layers.\1.ln\2"),
        (r"^blocks\.(\d+)\.mlp\.fc1", r"backbone.layers.\1.ffn.layers.0.0"),
        (r"^blocks\.(\d+)\.mlp\.fc2", r"backbone.layers.\1.ffn.layers.1"),
        (r"^blocks", "backbone.layers"), (r"^head\.deconv", "head.deconv_layers"),
        (r"^head\.final", "head.final_layer"),
    )  # fmt: skip


def huggingface(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names of the published files; `test_vit` has those of the installed library."""
    state = rename(
        ours, (r"^patch_embed", "backbone.embeddings.patch_embeddings.projection"),
        (r"^pos_embed", "backbone.embeddings.position_embeddings"),
        (r"^norm", "backbone.layernorm"), (r"^blocks", "backbone.encoder.layer"),
        (r"norm1", "layernorm_before"), (r"norm2", "layernorm_after"),
        (r"attn\.proj", "attention.output.dense"), (r"^head\.deconv\.0", "head.deconv1"),
        (r"^head\.deconv\.1", "head.batchnorm1"), (r"^head\.deconv\.3", "head.deconv2"),
        (r"^head\.deconv\.4", "head.batchnorm2"), (r"^head\.final", "head.conv"),
    )  # fmt: skip
    for name in [n for n in state if ".attn.qkv." in n]:
        packed = state.pop(name)
        for part, tensor in zip(("query", "key", "value"), packed.chunk(3), strict=True):
            state[name.replace("attn.qkv", f"attention.attention.{part}")] = tensor
    return state


def mae(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    state = {n: t for n, t in ours.items() if not n.startswith("head.")}
    state = rename(state, (r"^patch_embed", "patch_embed.proj"))
    state["cls_token"] = torch.zeros(1, 1, 64)
    state["decoder_embed.weight"] = torch.zeros(3, 3)
    return state


@pytest.mark.parametrize("family", [official, mmpose, huggingface, mae])
@pytest.mark.parametrize("wrap", ["plain", "wrapped"])
def test_every_family_gives_the_same_network(
    ours: dict[str, torch.Tensor], family: object, wrap: str
) -> None:
    state: dict[str, object] = family(ours)
    if wrap == "wrapped":
        state = {"meta": {"epoch": 3}, "state_dict": {f"module.{n}": t for n, t in state.items()}}
    got, unused = import_vit.import_vit(state, GRID)
    assert unexplained(unused) == []
    wanted = {n: t for n, t in ours.items() if "num_batches" not in n}
    if family is mae:
        wanted = {n: t for n, t in wanted.items() if not n.startswith("head.")}
    assert set(got) == set(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor)


def test_the_imported_network_answers_the_same(ours: dict[str, torch.Tensor]) -> None:
    source, other = tiny("vitpose_s", joints=17).eval(), tiny("vitpose_s", joints=17).eval()
    source.load_state_dict(vitpose_state(ours))
    got, _ = import_vit.import_vit(mmpose(ours), GRID)
    other.load_state_dict(vitpose_state(got), strict=False)
    x = windows(source, 1)
    torch.testing.assert_close(other(x).heatmaps, source(x).heatmaps)


def test_every_head_can_start_from_the_imported_one(ours: dict[str, torch.Tensor]) -> None:
    net = tiny("stdpose_vitl", joints=17)
    got, _ = import_vit.import_vit(official(ours), GRID)
    missing, unexpected = net.load_state_dict(vitpose_state(got, ("head", "head0")), strict=False)
    assert unexpected == []
    assert not [n for n in missing if n.startswith(("backbone", "head")) and "num_batch" not in n]
    assert torch.equal(net.head.final.weight, net.head0.final.weight)


def test_experts_are_joined_and_others_left_out(ours: dict[str, torch.Tensor]) -> None:
    state = official(ours)
    for i in (0, 1):
        name = f"backbone.blocks.{i}.mlp"
        for part in ("weight", "bias"):
            whole = state[f"{name}.fc2.{part}"]
            state[f"{name}.fc2.{part}"] = whole[:48]
            state[f"{name}.experts.0.{part}"] = whole[48:]
            state[f"{name}.experts.1.{part}"] = whole[48:] + 1.0
    state["associate_keypoint_heads.0.final_layer.bias"] = torch.zeros(14)
    got, unused = import_vit.import_vit(state, GRID)
    assert torch.equal(got["blocks.1.mlp.fc2.weight"], ours["blocks.1.mlp.fc2.weight"])
    assert torch.equal(got["blocks.0.mlp.fc2.bias"], ours["blocks.0.mlp.fc2.bias"])
    assert "backbone.blocks.0.mlp.experts.1.weight" in unused
    assert unexplained(unused) == []


def test_every_key_is_accounted_for(ours: dict[str, torch.Tensor]) -> None:
    state = {**official(ours), "backbone.extra.weight": torch.zeros(3)}
    got, unused = import_vit.import_vit(state, GRID)
    assert unexplained(unused) == ["backbone.extra.weight"]
    assert len(got) + len(unused) == len(state)


@pytest.mark.parametrize("entries", [12, 13])
def test_positions_of_the_same_grid_are_exact(entries: int) -> None:
    positions = torch.randn(1, entries, 8)
    folded = fold_positions(positions, GRID)
    wanted = positions if entries == 12 else positions[:, 1:] + positions[:, :1]
    assert torch.equal(folded, wanted)


@pytest.mark.parametrize(
    "entries, new",
    [(192, (24, 18)), (193, (24, 18)), (432, (16, 12)), (433, (16, 12)), (197, (16, 12)),
     (196, (16, 12)), (193, (16, 16)), (192, (12, 16))],
)  # fmt: skip
def test_positions_are_resized(entries: int, new: tuple[int, int]) -> None:
    # a linear ramp over the old grid stays one, from the first row to the last
    offset = entries - max(n for n in (192, 432, 196) if n <= entries)
    old = {192: (16, 12), 432: (24, 18), 196: (14, 14)}[entries - offset]
    ramp = torch.linspace(0, 1, old[0])[:, None].expand(old).flatten()[None, :, None]
    positions = torch.cat((torch.zeros(1, offset, 1), ramp), 1)
    rows = fold_positions(positions, new)[0, :, 0].view(new)
    if new == (12, 16) and entries == 192:
        return  # as many entries as wanted: taken as they are
    middle = rows[2:-2].mean(1)
    steps = middle.diff()
    assert (steps > 0).all()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=0.15, atol=0.0)
    torch.testing.assert_close(rows, rows[:, :1].expand_as(rows))


def test_the_class_slot_of_a_classifier_is_dropped() -> None:
    positions = torch.cat((torch.full((1, 1, 2), 9.0), torch.ones(1, 196, 2)), 1)
    assert fold_positions(positions, (16, 12)) == pytest.approx(torch.ones(1, 192, 2), abs=1e-5)


def test_positions_that_fit_no_grid_are_refused() -> None:
    with pytest.raises(WeightsError, match="pos_embed has 191 entries, which fit no grid"):
        fold_positions(torch.zeros(1, 191, 4), (16, 12))
    with pytest.raises(WeightsError, match=r"expected pos_embed \(1, n, D\), got \(192, 4\)"):
        fold_positions(torch.zeros(192, 4), (16, 12))


def test_other_families_are_refused(ours: dict[str, torch.Tensor]) -> None:
    hrnet = {"stage2.0.branches.0.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match="got a convolutional one"):
        import_vit.import_vit(hrnet)
    with pytest.raises(WeightsError, match="none has the names"):
        import_vit.import_vit({"something": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no tensors"):
        import_vit.import_vit({})
    state = official(ours)
    del state["backbone.pos_embed"]
    with pytest.raises(WeightsError, match="without pos_embed"):
        import_vit.import_vit(state, GRID)
    wrong = {**official(ours), "backbone.patch_embed.proj.weight": torch.zeros(64, 3, 14, 14)}
    with pytest.raises(WeightsError, match=r"expected patches of 16x16 RGB, got .*14, 14"):
        import_vit.import_vit(wrong, GRID)


def test_half_a_query_key_value_is_refused() -> None:
    layer = "backbone.encoder.layer.0.attention.attention"
    state = {f"{layer}.query.weight": torch.zeros(4, 4), f"{layer}.key.weight": torch.zeros(4, 4)}
    with pytest.raises(WeightsError, match=r"but not blocks\.0\.attn\.v\.weight"):
        import_vit.import_vit(state)


def test_cocos_rows_become_posetracks() -> None:
    rows = torch.arange(17.0)[:, None] * 10
    # nose, neck (mean of shoulders 5 and 6), top (nose), then shoulders 5, 6 to ankles 15, 16
    wanted = [0, 55, 0, *range(50, 170, 10)]
    assert posetrack15_rows(rows)[:, 0].tolist() == wanted
    with pytest.raises(WeightsError, match="expected a final layer of COCO's 17 joints, got 15"):
        posetrack15_rows(rows[:15])
