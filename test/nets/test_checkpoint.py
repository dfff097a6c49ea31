"""Cards, weight files, and what is said when one of them is wrong."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from pose_ros.errors import ConfigError, WeightsError
from pose_ros.nets import checkpoint
from pose_ros.nets.checkpoint import (
    LATENCY_MODES,
    Card,
    find_card,
    list_cards,
    load_net,
    model_folders,
    read_card,
    read_state,
    weights_digest,
    weights_path,
    with_latency,
)
from pose_ros.nets.registry import list_nets
from pose_ros.nets.tensorfile import decode_tensors, encode_tensors

NAME = "movenet_lightning"
REMEDY = f"run: python -m pose_ros.tools.fetch {NAME}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of its own with one network, and no other folder to find things in."""
    card = find_card(NAME)
    shutil.copy(card.folder / f"{NAME}.yaml", tmp_path)
    shutil.copy(weights_path(card), tmp_path)
    monkeypatch.setattr(checkpoint, "model_folders", lambda: [tmp_path])
    return tmp_path


def edited(folder: Path, /, **changes: object) -> Path:
    path = folder / f"{NAME}.yaml"
    values = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v != "DROP"}))
    return path


TRAINED = [card for card in list_cards() if not card.untrained]
UNTRAINED = [card for card in list_cards() if card.untrained]


@pytest.mark.parametrize("card", TRAINED, ids=lambda card: card.name)
def test_every_card_describes_its_weights(card: Card) -> None:
    net = load_net(card)  # strict, sha256 verified
    assert not net.training
    assert all(value.dtype == torch.float32 for value in net.state_dict().values())
    assert card.licence and card.licence_notice and card.training_data
    assert all(torch.isfinite(value).all() for value in net.parameters())


def test_every_robot_size_has_a_card_that_says_whether_it_is_trained() -> None:
    robots = {name for name in list_nets() if name.endswith(("_robot", "_movenet"))}
    assert robots - {"hstpn_robot"} == {card.name for card in UNTRAINED}
    assert find_card("hstpn_robot").trained
    for card in UNTRAINED:
        assert not card.trained and not card.metrics and "Not for use" in card.notes


@pytest.mark.parametrize("card", UNTRAINED, ids=lambda card: card.name)
def test_an_untrained_card_describes_its_network(card: Card) -> None:
    before = torch.random.get_rng_state()
    net = load_net(card)
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's numbers change
    assert not net.training
    assert (net.window.frames, net.window.lookahead) == (card.frames, card.lookahead_frames)
    assert tuple(net.size_hw_px) == tuple(card.input_hw)
    assert net.joints == 17 and card.skeleton == "coco17"
    for mode, overrides in card.latency_modes.items():
        other = with_latency(card, mode)
        assert load_net(other).window.lookahead == other.lookahead_frames == LATENCY_MODES[mode]
        assert other.lookahead_frames == card.lookahead_frames or overrides


def test_a_seed_is_a_network_and_a_trunk_is_the_donors() -> None:
    card = find_card("pstpose_movenet")
    one, two = load_net(card).state_dict(), load_net(card).state_dict()
    other = load_net(replace(card, seed=1)).state_dict()
    trunk = load_net(find_card("movenet_thunder")).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["fcg.score.weight"], other["fcg.score.weight"])
    of_trunk = [name for name in one if name.startswith("backbone.")]
    assert len(of_trunk) > 100
    for name in of_trunk:
        assert torch.equal(one[name], trunk[name.removeprefix("backbone.")]), name
    assert weights_digest(card) != weights_digest(replace(card, seed=1))
    assert weights_digest(card) != weights_digest(replace(card, trunk_from=None))
    assert weights_digest(find_card(NAME)) == find_card(NAME).sha256[:8]


def test_a_trunk_that_does_not_fit_is_refused() -> None:
    card = replace(find_card("pstpose_movenet"), trunk_from=NAME)
    with pytest.raises(
        WeightsError, match=f"pstpose_movenet: {NAME} does not fit its trunk: .*size"
    ):
        load_net(card)


def test_a_trained_network_may_leave_its_trunk_to_another_card(tmp_path: Path) -> None:
    whole = load_net(find_card("pstpose_movenet"))
    own = {n: t for n, t in whole.state_dict().items() if not n.startswith("backbone.")}
    data = encode_tensors({n: t.numpy() for n, t in own.items()})
    (tmp_path / "light.safetensors").write_bytes(data)
    donor = find_card("movenet_thunder")
    card = replace(
        find_card("pstpose_movenet"), name="light", folder=tmp_path, weights="light.safetensors",
        sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), untrained=False, trained=True,
        trunk_sha256=donor.sha256,
    )  # fmt: skip
    found = load_net(card).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.state_dict().items())
    assert read_state(card).keys() == found.keys()
    assert len({weights_digest(card), card.sha256[:8], donor.sha256[:8]}) == 3
    with pytest.raises(WeightsError, match="light: made for weights 00000000 of movenet_thunder"):
        load_net(replace(card, trunk_sha256="0" * 64))


def test_latency_modes() -> None:
    card = find_card("stdpose_movenet")
    assert with_latency(card, "auto") is card and with_latency(card, "delayed_1") is card
    causal = with_latency(card, "causal")
    assert (causal.lookahead_frames, causal.mode, card.mode) == (0, "causal", "delayed")
    assert find_card("hstpn_robot").mode == "recurrent"
    assert with_latency(find_card(NAME), "causal").mode == "causal"
    with pytest.raises(ConfigError, match="network hstpn_robot runs causal, not delayed_1"):
        with_latency(find_card("hstpn_robot"), "delayed_1")


def test_cells_of_both_codecs_by_hand(folder: Path) -> None:
    cells = np.array([[0.0, 0.0], [47.0, 63.0], [10.5, 20.25]], np.float32)
    shift = read_card(edited(folder, input_hw=[256, 192]))
    assert (shift.codec, shift.cell_stride_px) == ("shift", (4.0, 4.0))
    np.testing.assert_array_equal(shift.crop_px_from_cell(cells), cells * 4.0 - 0.5)
    assert shift.crop_px_from_cell(cells).dtype == np.float32
    udp = read_card(edited(folder, codec="udp", cell_shift_px=0.0))
    assert udp.cell_stride_px == (191 / 47, 255 / 63)
    pixels = [[0, 0], [191, 255], [10.5 * 191 / 47, 20.25 * 255 / 63]]
    np.testing.assert_allclose(udp.crop_px_from_cell(cells), pixels, rtol=1e-6)


@pytest.mark.parametrize("card", list_cards(), ids=lambda card: card.name)
def test_no_shipped_card_changes_its_cells(card: Card) -> None:
    cells = np.random.default_rng(0).uniform(0, 60, (5, 17, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        card.crop_px_from_cell(cells), (cells * 4.0 + card.cell_shift_px).astype(np.float32)
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codec": "unbiased"}, "codec 'unbiased' to be one of"),
        ({"codec": "udp"}, "cell_shift_px 0 with codec udp"),
        ({"codec": "udp", "cell_shift_px": 0.0, "recurrent": True}, "codec shift of a recurrent"),
        ({"codec": "udp", "cell_shift_px": 0.0, "kind": "detector"}, "only of a pose network"),
        ({"codec": "udp", "cell_shift_px": 0.0, "input_hw": [64, 4]}, "two cells a side"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(
    folder: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(WeightsError, match=words):
        read_card(edited(folder, **changes))


def test_a_pickled_checkpoint_is_refused_and_its_code_not_run(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(folder / "harm"),)

    torch.save({"weight": Evil()}, folder / f"{NAME}.safetensors")
    data = (folder / f"{NAME}.safetensors").read_bytes()
    edited(folder, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    with pytest.raises(WeightsError, match="expected a whole safetensors file"):
        load_net(find_card(NAME))
    assert not (folder / "harm").exists()


def test_weights_of_another_joint_set_are_refused(folder: Path) -> None:
    edited(folder, overrides={"joints": 15})
    with pytest.raises(WeightsError, match=r"weights do not fit .*size mismatch .*34.*30"):
        load_net(find_card(NAME))


@pytest.mark.parametrize("card", TRAINED, ids=lambda card: card.name)
def test_weights_are_stored_in_half_precision(card: Card) -> None:
    arrays = decode_tensors(weights_path(card).read_bytes(), weights_path(card))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}


def test_missing_weights_name_the_remedy(folder: Path) -> None:
    (folder / f"{NAME}.safetensors").unlink()
    with pytest.raises(WeightsError, match=f"are missing .*; {REMEDY}"):
        load_net(find_card(NAME))


def test_truncated_weights_name_the_remedy(folder: Path) -> None:
    path = folder / f"{NAME}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=rf"1000 bytes, card {NAME} says \d+; {REMEDY}"):
        load_net(find_card(NAME))


def test_one_flipped_bit_is_noticed(folder: Path) -> None:
    path = folder / f"{NAME}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        WeightsError, match=rf"sha256 .{{8}} differs from card {NAME} .*; {REMEDY}"
    ):
        load_net(find_card(NAME))


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    edited(folder, architecture="movenet_thunder")
    with pytest.raises(WeightsError, match=r"weights do not fit movenet_thunder: .*size mismatch"):
        load_net(find_card(NAME))


def test_a_file_that_is_not_safetensors_is_refused(folder: Path) -> None:
    data = b"no weights at all" * 3
    (folder / f"{NAME}.safetensors").write_bytes(data)
    edited(folder, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    with pytest.raises(WeightsError, match="expected a whole safetensors file, got 51 bytes"):
        load_net(find_card(NAME))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "posse"}, "expected kind 'posse' to be one of"),
        ({"channels": "gray"}, "expected channels 'gray' to be 'rgb' or 'bgr'"),
        ({"input_hw": [192]}, "expected input_hw to be two sizes"),
        ({"std": [1, 0, 1]}, "expected std to be positive"),
        ({"crop_scale": 0.0}, "expected crop_scale to be positive"),
        ({"name": "other"}, "expected name 'other' to be the file's"),
        ({"untrained": True}, "expected weights, or untrained: true, and not both"),
        ({"weights": "DROP"}, "expected weights, or untrained: true, and not both"),
        ({"sha256": "DROP"}, "expected sha256 to be 64 hex digits"),
        ({"trunk_from": "movenet_thunder"}, "expected trunk_sha256 where a trained network has"),
        ({"trunk_sha256": "0" * 64}, "expected trunk_sha256 where a trained network has"),
        ({"lookahead_frames": 1}, "expected lookahead_frames to be 0 ... frames - 1"),
        ({"frames": 3, "lookahead_frames": 1, "recurrent": True}, "not to look ahead"),
        ({"latency_modes": {"late": {}}}, "expected latency_modes to be of causal, delayed_1"),
        ({"licence": "DROP"}, "missing 1 required positional argument: 'licence'"),
        ({"lisence": "MIT"}, "unknown field lisence"),
        ({"folder": "/"}, "unknown field folder"),
        ({"source": {"package": "x"}}, "missing 3 required positional arguments"),
    ],
)
def test_a_wrong_field_of_a_card_is_named(
    folder: Path, changes: dict[str, object], text: str
) -> None:
    path = edited(folder, **changes)
    with pytest.raises(WeightsError, match="not a usable model card") as caught:
        read_card(path)
    assert text in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- a list", ""])
def test_a_card_that_is_no_mapping_is_refused(folder: Path, text: str) -> None:
    (folder / f"{NAME}.yaml").write_text(text)
    with pytest.raises(WeightsError, match="not a usable model card"):
        find_card(NAME)


def test_an_unknown_card_lists_near_ones(folder: Path) -> None:
    with pytest.raises(WeightsError, match=f"'movenet_lightnin'.*did you mean {NAME}"):
        find_card("movenet_lightnin")


@pytest.mark.parametrize("name", ["../models/movenet_lightning", "/etc/passwd", ""])
def test_a_name_is_not_a_path(folder: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="no model card is called"):
        find_card(name)


def test_the_users_folder_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = replace(find_card(NAME), notes="mine")
    shutil.copy(mine.folder / f"{NAME}.yaml", tmp_path)
    edited(tmp_path, notes="mine")
    monkeypatch.setenv("POSE_ROS_MODELS", str(tmp_path))
    installed = os.environ.get("AMENT_PREFIX_PATH", "")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/opt/a:/opt/b:{installed}")
    assert find_card(NAME).notes == "mine"
    load_net(find_card(NAME))  # the weights may stay where they were
    folders = model_folders()
    assert folders[0] == tmp_path
    assert (
        folders.index(Path("/opt/a/share/pose_ros/models"))
        == folders.index(Path("/opt/b/share/pose_ros/models")) - 1
    )


def test_tensors_survive_a_round_trip_and_are_reproducible() -> None:
    tensors = {"b": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.array(3, np.int64)}
    data = encode_tensors(tensors)
    back = decode_tensors(data, Path("x"))
    assert data == encode_tensors(dict(reversed(tensors.items())))
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype


def test_the_safetensors_library_reads_our_files() -> None:
    library = pytest.importorskip("safetensors.numpy")
    theirs = library.load(weights_path(find_card(NAME)).read_bytes())
    ours = decode_tensors(weights_path(find_card(NAME)).read_bytes(), Path("x"))
    assert theirs.keys() == ours.keys()
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name])


def test_cards_are_read_without_torch() -> None:
    code = "import sys; from pose_ros.nets import checkpoint, runtime; checkpoint.list_cards(); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_card_is_found_by_its_path(tmp_path: Path) -> None:
    card = find_card(NAME)
    for file in (f"{NAME}.yaml", card.weights):
        shutil.copy(card.folder / file, tmp_path / file)
    text = (tmp_path / f"{NAME}.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace(f"name: {NAME}", "name: mine"))
    mine = find_card(str(tmp_path / "mine.yaml"))
    assert (mine.name, mine.folder) == ("mine", tmp_path)
    assert load_net(mine).state_dict().keys() == load_net(card).state_dict().keys()
    with pytest.raises(WeightsError, match=r"no model card is called '.*none\.yaml'"):
        find_card(str(tmp_path / "none.yaml"))
