"""Exports: parts, what is compared, and what is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from stream_cases import small_card

from pose_ros.errors import ConfigError
from pose_ros.nets import export
from pose_ros.nets.checkpoint import Card, find_card, list_cards, with_latency
from pose_ros.nets.export import (
    ExportError,
    cached_onnx,
    export_onnx,
    export_torchscript,
    parts_of,
)

ROBOTS = [card for card in list_cards() if card.is_video]


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.set_num_threads(1)


def test_the_lifter_is_no_video_network_and_exports_too(tmp_path: Path) -> None:
    card = find_card("lift_mono")
    assert card.frames > 1 and card not in ROBOTS and len(ROBOTS) >= 8
    assert parts_of(card) == ("whole",)
    assert export_onnx(card, tmp_path / "a.onnx")["max_abs_diff"] < 1e-4
    assert export_torchscript(card, tmp_path / "a.pt")["max_abs_diff"] < 1e-4
    with pytest.raises(ConfigError, match="lift_mono has no part 'encode'; it has whole"):
        export_onnx(card, tmp_path / "a.onnx", "encode")


def test_parts() -> None:
    assert parts_of(find_card("movenet_thunder")) == ("whole",)
    assert parts_of(find_card("pstpose_robot")) == ("encode", "fuse")
    assert parts_of(find_card("hstpn_robot")) == ("encode", "step", "recrop")


@pytest.mark.parametrize("family", ["stdpose", "hstpn"])
def test_every_part_agrees_with_torch(family: str, tmp_path: Path) -> None:
    card = small_card(tmp_path, family)
    for part in ("whole", *parts_of(card)):
        report = export_onnx(card, tmp_path / "a.onnx", part)
        assert report["part"] == part and report["max_abs_diff"] < 1e-4
        report = export_torchscript(card, tmp_path / "a.pt", part)
        assert report["max_abs_diff"] < 1e-4


def test_a_video_network_of_one_frame_exports(tmp_path: Path) -> None:
    """What is fine-tuned on single labelled frames is no video network, and has one output."""
    card = small_card(tmp_path, "hstpn")
    alone = {"frames": 1, "recurrent": False, "overrides": {**card.overrides, "frames": 1}}
    card = dataclasses.replace(card, **alone)
    assert parts_of(card) == ("whole",)
    assert export_onnx(card, tmp_path / "a.onnx")["max_abs_diff"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("card", ROBOTS, ids=lambda card: card.name)
def test_every_robot_size_exports(card: Card, tmp_path: Path) -> None:
    for part in ("whole", *parts_of(card)):
        assert export_onnx(card, tmp_path / "a.onnx", part)["max_abs_diff"] < 1e-3


def test_a_part_that_a_network_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="movenet_lightning has no part 'fuse'; it has whole"):
        export_onnx(find_card("movenet_lightning"), tmp_path / "a.onnx", "fuse")


def test_small_outputs_are_compared_by_their_own_size() -> None:
    small, off = (torch.tensor([2e-6, -1e-6]),), [np.array([2e-6, -0.9e-6])]
    absolute, relative = export._compare(small, off)
    assert absolute == pytest.approx(1e-7) and relative == pytest.approx(0.05)
    card = find_card("movenet_lightning")
    with pytest.raises(ExportError, match=r"differs from torch by 0\.05"):
        export._accept(card, [(0.0, 0.0), (absolute, relative)])
    large = (torch.tensor([400.0]),), [np.array([400.0005])]
    assert export._compare(*large)[1] == pytest.approx(5e-4, rel=0.1)
    with pytest.raises(ExportError, match="nan"):
        export._accept(card, [export._compare((torch.tensor([1.0]),), [np.array([np.nan])])])


def test_an_export_belongs_to_its_seed_mode_and_overrides(tmp_path: Path) -> None:
    modes = {"delayed_1": {"key": 1}, "causal": {"key": 2}}
    trained = small_card(tmp_path, "pstpose", latency_modes=modes)
    card = dataclasses.replace(trained, untrained=True, weights="", sha256="", bytes=0)
    paths = {
        cached_onnx(variant, "fuse")
        for variant in (
            trained,
            card,
            dataclasses.replace(card, seed=4),
            dataclasses.replace(card, overrides={**card.overrides, "joints": 6}),
            with_latency(card, "causal"),
        )
    }
    assert len(paths) == 5 and all(path.is_file() for path in paths)
    assert cached_onnx(card, "fuse") in paths
