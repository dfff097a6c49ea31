"""The import command: what goes in comes out, and what does not fit is refused."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_ros.errors import ConfigError, WeightsError
from pose_ros.nets import dsa, hrnet, hstpn, movenet, resnet, vit  # noqa: F401  (registers them)
from pose_ros.nets.checkpoint import load_net, read_card, with_latency
from pose_ros.nets.registry import build_net
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.tools.checkpoint_file import read_checkpoint
from pose_ros.tools.import_weights import latency_modes, main

torch.set_num_threads(1)
TINY = ("width=8", "modules=[1, 1, 1]", "blocks=1", "size_hw_px=[64, 64]")
SMALL_TOKENS = {
    "backbone": "vit_tiny", "size_hw_px": (64, 48), "model_dim": 32, "head_channels": 16,
}  # fmt: skip
OUT = ("--out", "x.safetensors")
OFFICIAL_VIT = {
    "patch_embed.": "patch_embed.proj.",
    "backbone.norm.": "backbone.last_norm.",
    "head.deconv.": "keypoint_head.deconv_layers.",
    "head.final.": "keypoint_head.final_layer.",
}


def options(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def official(width: int = 8, joints: int = 17) -> dict[str, torch.Tensor]:
    """A tiny HRNet checkpoint with the official names and random weights."""
    torch.manual_seed(3)
    net = build_net("hrnet_w32", width=width, modules=(1, 1, 1), blocks=1, joints=joints)
    return {name.removeprefix("backbone."): t for name, t in net.state_dict().items()}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "pose_hrnet.pth"
    torch.save({"state_dict": official()}, path)
    return path


def test_a_checkpoint_becomes_a_card_that_loads(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "hrnet.tiny.safetensors"
    answer = main([
        str(checkpoint), "--net", "hrnet_w32", "--out", str(out), "--licence", "MIT",
        *options(*TINY),
    ])  # fmt: skip
    assert (answer["net"], answer["missing"], answer["unexpected"]) == ("hrnet_w32", [], [])
    card = read_card(out.with_suffix(".yaml"))
    assert (card.skeleton, card.licence, card.trained, card.frames) == ("coco17", "MIT", False, 1)
    assert card.mean == (123.675, 116.28, 103.53) and "UNTRAINED" not in card.notes
    # HRNet's targets are round(x / 4): cell c is the crop pixel 4 c
    assert (card.codec, card.cell_shift_px, card.crop_scale) == ("shift", 0.0, 1.25)
    assert (card.recurrent, card.latency_modes) == (False, {})
    state = load_net(card).state_dict()
    for name, tensor in official().items():
        ours = name if name.startswith("final_layer") else f"backbone.{name}"
        torch.testing.assert_close(state[ours], tensor)
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert answer["loaded"] == len(state) - counters
    assert answer["ignored"] == {"a counter of a batch norm": counters}


def test_a_video_network_gets_its_backbone_and_says_what_is_untrained(
    checkpoint: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / f"dsa{i}.safetensors" for i in range(2)]
    for out in outs:
        answer = main([str(checkpoint), "--net", "dsa_w48", "--out", str(out), *options(*TINY)])
    assert outs[0].read_bytes() == outs[1].read_bytes()  # the random values too
    assert answer["missing"] and not [n for n in answer["missing"] if n.startswith("backbone.")]
    assert answer["ignored"]["the network has a head of its own"] == 2
    card = read_card(outs[0].with_suffix(".yaml"))
    assert (card.skeleton, card.frames, card.lookahead_frames) == ("posetrack15", 5, 2)
    assert f"UNTRAINED: {len(answer['missing'])} tensors" in card.notes
    assert load_net(card).align is not None
    assert (card.codec, card.cell_shift_px, card.recurrent) == ("shift", 1.5, False)
    assert card.latency_modes == {"delayed_2": {"causal": False}, "causal": {"causal": True}}
    causal = with_latency(card, "causal")
    assert load_net(causal).window.lookahead == causal.lookahead_frames == 0


@pytest.mark.parametrize(
    ("codec", "told"), [("edge", ("shift", -0.5)), ("udp", ("udp", 0.0)), ("msra", ("shift", 0.0))]
)
def test_who_knows_how_a_head_was_taught_says_so(
    checkpoint: Path, tmp_path: Path, codec: str, told: tuple[str, float]
) -> None:
    out = tmp_path / "h.safetensors"
    common = ["--out", str(out), "--codec", codec, *options(*TINY)]
    main([str(checkpoint), "--net", "hrnet_w32", *common])
    card = read_card(out.with_suffix(".yaml"))
    assert (card.codec, card.cell_shift_px) == told
    with pytest.raises(ConfigError, match=f"--codec {codec}: the head is not the checkpoint's"):
        main([str(checkpoint), "--net", "dsa_w48", *common])


def test_a_head_changes_its_joints(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.safetensors"
    main([str(checkpoint), "--net", "hrnet_w32", "--out", str(out), *options(*TINY, "joints=15")])
    rows = official()["final_layer.weight"]
    ours = load_net(read_card(out.with_suffix(".yaml"))).final_layer.weight
    torch.testing.assert_close(ours[3], rows[5])
    torch.testing.assert_close(ours[1], rows[[5, 6]].mean(0))


def test_posetrack_rows_are_not_taken_for_coco_s(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.safetensors"
    answer = main([
        str(checkpoint), "--net", "hrnet_w32", "--out", str(out), "--joints", "posetrack17",
        *options(*TINY),
    ])  # fmt: skip
    assert answer["missing"] == ["final_layer.weight", "final_layer.bias"]
    assert read_card(out.with_suffix(".yaml")).cell_shift_px == 1.5  # the head is to be trained
    assert answer["ignored"]["a head of posetrack17 cannot become one of coco17"] == 2


def test_vitpose_goes_into_a_vit_network(tmp_path: Path) -> None:
    """The smallest ViT there is, with the official names; 193 positions are folded to 192."""
    torch.manual_seed(0)
    ours = {k: v * 0 for k, v in build_net("vitpose_s").state_dict().items()}
    state = {}
    for name, tensor in ours.items():
        for mine, theirs in OFFICIAL_VIT.items():
            name = name.replace(mine, theirs)
        state[name] = tensor
    state["backbone.pos_embed"] = torch.ones(1, 193, 384)
    torch.save(state, tmp_path / "v.pth")
    out = tmp_path / "v.safetensors"
    answer = main([str(tmp_path / "v.pth"), "--net", "vitpose_s", "--out", str(out)])
    assert answer["missing"] == [] and answer["family"] == "ViT (official)"
    card = read_card(out.with_suffix(".yaml"))
    assert (card.codec, card.cell_shift_px) == ("udp", 0.0)
    assert card.crop_scale == pytest.approx(1.25 * 256 / 255)
    torch.testing.assert_close(load_net(card).backbone.pos_embed, torch.full((1, 192, 384), 2.0))
    with pytest.raises(WeightsError, match="with HRNet-W8, got a ViT of width 384"):
        main([str(tmp_path / "v.pth"), "--net", "dsa_w48", "--out", str(out), *options(*TINY)])


def test_movenet_s_own_weights_start_a_robot_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build_net("movenet_lightning").state_dict()
    source = tmp_path / "m.safetensors"
    source.write_bytes(encode_tensors({k: v.numpy() for k, v in state.items()}))
    out = tmp_path / "r.safetensors"
    answer = main([
        str(source), "--net", "hstpn_robot", "--out", str(out),
        *options("backbone=movenet_lightning", "size_hw_px=[64, 64]", "channels=8"),
    ])  # fmt: skip
    assert answer["family"] == "MoveNet"
    card = read_card(out.with_suffix(".yaml"))
    assert card.mean[0] == pytest.approx(127.5, abs=0.01)
    assert (card.recurrent, card.lookahead_frames, card.latency_modes) == (True, 0, {})
    assert card.cell_shift_px == 1.5
    loaded = load_net(card).backbone.trunk.stem.conv.weight
    torch.testing.assert_close(loaded, state["trunk.stem.conv.weight"])


@pytest.mark.parametrize("key", [0, 1, 2])
def test_a_window_of_tokens_may_have_any_key_frame(key: int) -> None:
    net = build_net("vremd_vitl", **SMALL_TOKENS, key=key)
    modes = {"delayed_2": {"key": 0}, "delayed_1": {"key": 1}, "causal": {"key": 2}}
    assert latency_modes("vremd_vitl", {**SMALL_TOKENS, "key": key}, net) == modes
    single = build_net("vitpose_s", backbone="vit_tiny")
    assert latency_modes("vitpose_s", {"backbone": "vit_tiny"}, single) == {}


@pytest.mark.parametrize(
    ("net", "extra", "words"),
    [
        ("hrnet_w32", ["modules=[1, 1, 1]", "blocks=1"], "with HRNet-W32, got HRNet-W8 of family"),
        ("simplebaseline_r50", [], r"with ResNet-50, got HRNet-W8 of family HRNet \(official\)"),
        ("hstpn_robot", [], "with MoveNet's trunk of 56 stem channels, got HRNet-W8"),
        (
            "hrnet_w32",
            [*TINY[:1], "modules=[1, 2, 1]", "blocks=1"],
            "lacks .* tensors of HRNet-W8",
        ),
    ],
)
def test_another_backbone_is_refused_with_both_names(
    checkpoint: Path, tmp_path: Path, net: str, extra: list[str], words: str
) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match=words):
        main([str(checkpoint), "--net", net, "--out", str(out), *options(*extra)])
    assert not out.exists() and not out.with_suffix(".yaml").exists()


def refused(path: Path, words: str) -> None:
    out = path.parent / "x.safetensors"
    with pytest.raises(WeightsError, match=words):
        main([str(path), "--net", "hrnet_w32", "--out", str(out), *options(*TINY)])
    assert not out.exists()


def test_unknown_tensors_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save(official() | {"surprise.weight": torch.zeros(1)}, path)
    refused(path, "1 tensors of the checkpoint are not known .surprise.weight")


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    state = official()
    state["conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "c.pth")
    refused(tmp_path / "c.pth", "backbone.conv1.weight of the checkpoint is not finite")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_are_refused(tmp_path: Path, zipped: bool) -> None:
    whole = io.BytesIO()
    torch.save(official(), whole, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "c.pth"
    for share in (0.0, 0.01, 0.5, 0.95):
        path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
        refused(path, "expected a whole checkpoint .*truncated")
    path = tmp_path / "c.safetensors"
    data = encode_tensors({k: v.numpy() for k, v in official().items()})
    path.write_bytes(data[: len(data) // 2])
    refused(path, "expected a whole safetensors file")
    refused(tmp_path / "none.pth", "expected a checkpoint file, found none")
    torch.save([torch.zeros(1)], tmp_path / "l.pth")
    refused(tmp_path / "l.pth", "expected named tensors, got list")


class Trap:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "c.pth"
    content = {"state_dict": official(), "meta": Trap(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"expected tensors only, got code \(builtins.eval\)")
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert mark.exists()


def test_torchscript_is_code_too(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "s.pth"))
    refused(tmp_path / "s.pth", "cannot be read .*TorchScript")


def test_objects_of_other_libraries_are_left_out(tmp_path: Path) -> None:
    """Old mmpose files have numpy arrays and their own classes beside the tensors."""
    path = tmp_path / "c.pth"
    torch.save({"state_dict": official(), "meta": {"sigmas": np.ones(3), "dog": "MMCV_DOG"}}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in parts if n.endswith("data.pkl"))
    text = pickle.dumps("MMCV_DOG", 2)[2:-1].split(b"q")[0]
    assert text in parts[name]
    # the string becomes the class mmcv.nowhere.Dog, which does not exist here
    parts[name] = parts[name].replace(text, b"cmmcv.nowhere\nDog\n")
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in parts.items():
            archive.writestr(key, value)
    found = read_checkpoint(path)
    assert set(found["state_dict"]) == set(official())
    torch.testing.assert_close(found["state_dict"]["conv1.weight"], official()["conv1.weight"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--net", "hrnet_w32", "--out", "x.pth"], "expected FILE.safetensors, got x.pth"),
        (["--net", "hrnet_w32", *OUT, "--set", "joints"], "expected NAME=VALUE"),
        (["--net", "hrnet_w33", *OUT], "did you mean"),
        (["--net", "movenet_lightning", *OUT], "a network that takes"),
        (["--net", "hrnet_w32", *OUT, *options(*TINY, "joints=14")], "--skeleton"),
    ],
)
def test_bad_options_are_refused(checkpoint: Path, argv: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        main([str(checkpoint), *argv])
