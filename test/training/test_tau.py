"""Tau: measured in validation, written with the weights, read by the evaluation."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pose_ros.errors import SourceError
from pose_ros.training import tau as taus
from pose_ros.training.tau import validated_tau
from pose_ros.training.validate import validate

CARD = Path(__file__).parents[2] / "models" / "movenet_lightning.yaml"


class Loud(torch.nn.Module):
    """Answers with peaks of a given height in given cells of 16x12 maps."""

    size_hw = (16, 12)

    def __init__(self) -> None:
        super().__init__()
        self.net = SimpleNamespace(window=SimpleNamespace(key=0))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        maps = torch.zeros(len(batch["cells"]), 2, 16, 12)
        for row, (cells, height) in enumerate(zip(batch["at"], batch["height"], strict=True)):
            for joint in range(2):
                x, y = cells[joint].tolist()
                maps[row, joint, y, x] = height[joint]
        return {"total": torch.tensor(0.0), "heatmaps": maps}


def test_validation_finds_the_confidence_that_separates() -> None:
    """Right joints have 0.6 and more, wrong ones 0.4 and less, as many: tau lies between."""
    rng, _ = np.random.default_rng(0), torch.manual_seed(0)
    cells = torch.from_numpy(rng.integers(3, 9, (40, 1, 2, 2)))
    right = torch.from_numpy(rng.uniform(size=(40, 2)) < 0.5)
    height = torch.where(right, 0.6 + 0.3 * torch.rand(40, 2), 0.1 + 0.3 * torch.rand(40, 2))
    at = cells[:, 0] + torch.where(right, 0, 3)[..., None]
    batches = [
        {"cells": cells[s].float(), "visible": torch.ones(len(cells[s]), 1, 2), "at": at[s],
         "height": height[s], "index": torch.arange(40)[s]}
        for s in (slice(0, 25), slice(25, 40))
    ]  # fmt: skip
    fabric: Any = SimpleNamespace(
        to_device=lambda b: b, autocast=contextlib.nullcontext, world_size=1
    )
    found = validate(Loud(), batches, fabric)  # type: ignore[arg-type]
    assert 0.4 < found["tau"] <= float(height[right].min())
    assert found["pck"] == pytest.approx(float(right.float().mean()))


def card_in(folder: Path, **changes: object) -> str:
    """A card in a folder of its own, as training writes it."""
    values = yaml.safe_load(CARD.read_text(encoding="utf-8"))
    values |= {"name": "mine", "metrics": [], **changes}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def test_tau_is_read_from_the_card_or_from_the_run_beside_it(tmp_path: Path) -> None:
    card = card_in(tmp_path)
    assert validated_tau(card) is None
    run = {"card": "runs/x/mine.yaml", "best": {"pck": 0.5, "tau": 0.35}}
    numbers = tmp_path / "metrics.json"
    numbers.write_text(json.dumps(run), encoding="utf-8")
    assert validated_tau(card) == 0.35
    numbers.write_text(json.dumps({**run, "card": "runs/x/another.yaml"}), encoding="utf-8")
    assert validated_tau(card) is None
    numbers.write_text(json.dumps({**run, "best": {"pck": 0.5}}), encoding="utf-8")
    assert validated_tau(card) is None
    said = [{"what": taus.WHAT, "value": 0.2, "command": "x"}]
    assert validated_tau(card_in(tmp_path, metrics=said)) == 0.2
    assert validated_tau("hstpn_r50") is None  # an architecture, without weights


@pytest.mark.parametrize("text", ["{", "[]", '{"card": "mine.yaml"}', '{"best": {"tau": 0.4}}'])
def test_a_damaged_run_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"metrics\.json"):
        validated_tau(card_in(tmp_path))


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5])
def test_a_tau_that_is_no_confidence_is_refused(tmp_path: Path, value: float) -> None:
    said = [{"what": taus.WHAT, "value": value, "command": "x"}]
    with pytest.raises(SourceError, match="above 0"):
        validated_tau(card_in(tmp_path, metrics=said))
