"""MoveNet that learns from itself: views of people, what is hidden, the objective, a run."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from pose_ros.core.crop import cut, fit_boxes
from pose_ros.core.values import Frame
from pose_ros.errors import ConfigError, PoseRosError, SourceError
from pose_ros.nets.checkpoint import Card, find_card, load_net
from pose_ros.nets.movenet import MoveNet, MoveNetConfig
from pose_ros.training import person_views, train_trunk
from pose_ros.training.person_views import Picture, Views, crop, draw, of_pictures, paste
from pose_ros.training.train_prior import UNWRITTEN
from pose_ros.training.train_trunk import Maps, centre_cell, maps_of, objective, prior_at

WALKER = Path(__file__).parents[1] / "data" / "walker.jpg"
SIZE = (64, 64)


def waves(height: int, width: int) -> np.ndarray:
    """A smooth picture, different everywhere."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    channels = [128 + 100 * np.sin(x / a + y / b) for a, b in ((23, 31), (17, -41), (37, 19))]
    return np.stack(channels, 2).astype(np.uint8)


def box(*edges: float) -> np.ndarray:
    return np.array([edges], np.float32)


def small() -> MoveNet:
    torch.manual_seed(0)
    return MoveNet(MoveNetConfig()).eval()


@pytest.fixture
def views(tmp_path: Path) -> Views:
    found = Views(tmp_path, SIZE, 1.1)
    found.add("one", [Picture("film", waves(480, 640), box(200, 100, 320, 380))])
    return found


def still(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURN_DEG", "ZOOM", "MOVE", "MIRRORED", "GREY", "RECOLOURED", "ANYHOW"):
        monkeypatch.setattr(person_views, name, 0.0)


def test_an_undrawn_crop_is_what_the_pipeline_cuts(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    still(monkeypatch)
    expected = np.empty((*SIZE, 3), np.uint8)
    edges = fit_boxes(box(200, 100, 320, 380), SIZE, 1.1)[0]
    cut(Frame(waves(480, 640), 0), edges, expected)
    found = crop(views[0], SIZE, np.random.default_rng(0))
    apart = np.abs(found.astype(int) - expected)
    assert apart.mean() < 3.0  # both interpolate, and the view's sides are whole pixels
    moved = np.abs(np.roll(found, 2, 1).astype(int) - expected)
    assert apart.mean() < 0.4 * moved.mean()


def test_a_mirrored_crop_is_the_mirrored_crop(
    views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    still(monkeypatch)
    plain = crop(views[0], SIZE, np.random.default_rng(0))
    monkeypatch.setattr(person_views, "MIRRORED", 1.1)
    assert (
        np.abs(crop(views[0], SIZE, np.random.default_rng(0))[:, ::-1] - plain.astype(int)).max()
        <= 1
    )


def test_views_are_made_once_and_kept(tmp_path: Path) -> None:
    first = Views(tmp_path, SIZE, 1.1)
    people = np.concatenate((box(50, 50, 150, 350), box(300, 60, 420, 400), box(5, 5, 20, 60)))
    assert first.add("a", [Picture("a", waves(480, 640), people)]) == 2  # the third is too small
    again = Views(tmp_path, SIZE, 1.1)
    assert again.add("a", []) == 2
    assert again.add("b", [Picture("b", waves(480, 640)[::-1], people[:1])]) == 1
    assert len(again) == 3 and again.sources == ["a", "a", "b"]
    np.testing.assert_array_equal(again[0], first[0])
    assert not np.array_equal(again[2], again[0])
    np.testing.assert_allclose(again.shares(), np.array([0.5**0.5, 0.5**0.5, 1.0]) / (1 + 2**0.5))
    with pytest.raises(ConfigError, match="name another --out"):
        Views(tmp_path, (32, 32), 1.1)


def test_an_interrupted_film_leaves_no_views(tmp_path: Path) -> None:
    def broken() -> Iterator[Picture]:
        yield Picture("a", waves(480, 640), box(50, 50, 150, 350))
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        Views(tmp_path, SIZE, 1.1).add("a", broken())
    again = Views(tmp_path, SIZE, 1.1)
    assert len(again) == 0
    assert again.add("b", [Picture("b", waves(480, 640), box(300, 60, 420, 400))]) == 1
    whole = np.fromfile(tmp_path / "views.bin", np.uint8)
    np.testing.assert_array_equal(again[0].ravel(), whole)


def test_a_paste_hides_about_what_was_asked() -> None:
    rng = np.random.default_rng(0)
    below, above = np.zeros((128, 96, 3), np.uint8), np.full((128, 96, 3), 9, np.uint8)
    shares = [(paste(below, above, 0.5, rng) > 0).mean() for _ in range(200)]
    assert 0.12 < np.mean(shares) < 0.36  # 0.3 less what overlaps, leaves the crop, has corners
    assert np.mean([(paste(below, above, 0.2, rng) > 0).mean() for _ in range(200)]) < 0.15


def test_the_student_sees_what_the_teacher_sees_disturbed(views: Views) -> None:
    changed = {name: 0 for name, _, _ in person_views.MIX}
    for seed in range(60):
        clean, shown, kind = draw(views, np.random.default_rng(seed), views.shares())
        changed[person_views.MIX[kind][0]] += not np.array_equal(clean, shown)
    assert changed.pop("clean") == 0
    assert all(changed.values())


def test_a_line_without_a_box_is_named(tmp_path: Path) -> None:
    listing = tmp_path / "boxes.jsonl"
    listing.write_text('{"file": "a.png", "box_xyxy_px": [1, 2, 3]}\n')
    with pytest.raises(SourceError, match="line 1"):
        list(of_pictures(listing, tmp_path))
    listing.write_text('{"file": "a.png", "box_xyxy_px": [1, 2, 30, 40]}\n')
    with pytest.raises(SourceError, match="expected a picture"):
        list(of_pictures(listing, tmp_path))


def test_centre_and_prior_are_movenets() -> None:
    net = small()
    feature = torch.randn(3, 24, 16, 12)
    maps, heads = maps_of(net, feature), net.forward_head(feature)
    torch.testing.assert_close(
        prior_at(maps.reach, centre_cell(maps.centre)), heads.prior, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(maps.heat.sigmoid(), heads.heatmaps)


def test_agreement_costs_nothing_and_moves_nothing() -> None:
    net = small()
    feature = torch.randn(2, 24, 16, 16)
    ours, theirs = maps_of(net, feature), maps_of(net, feature.clone())
    terms = objective(ours, Maps(*(m.detach() for m in theirs)))
    assert all(abs(float(t.detach())) < 1e-4 for t in terms.values())
    terms["total"].backward()
    assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) < 1e-3


def test_every_term_sees_its_own_error() -> None:
    maps = Maps(*(torch.zeros(1, n, 16, 16) - (n < 18) * 4.0 for n in (17, 1, 34, 34)))
    maps.heat[0, :, 6, 5] = 4.0
    maps.centre[0, 0, 8, 8] = 4.0
    for name, field in (("heat", 0), ("centre", 1), ("reach", 2), ("offset", 3)):
        changed = [m.clone() for m in maps]
        changed[field] += 0.5
        terms = objective(Maps(*changed), maps)
        assert float(terms[name]) > 1e-3, name
        others = {"heat", "centre", "reach", "offset"} - {name}
        assert all(abs(float(terms[other])) < 1e-5 for other in others), name


def card_of(folder: Path) -> Card:
    """A folder of cards with Lightning for 64x64 crops."""
    card = find_card("movenet_lightning")
    (folder / card.weights).write_bytes((card.folder / card.weights).read_bytes())  # type: ignore[operator]
    tiny = replace(card, name="tiny", input_hw=SIZE)
    values = {f.name: getattr(tiny, f.name) for f in fields(Card)}
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    for name in (*UNWRITTEN, "metrics"):
        plain.pop(name, None)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(plain))
    return tiny


def test_a_run_learns_goes_on_and_writes_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    card_of(models)
    monkeypatch.setenv("POSE_ROS_MODELS", str(models))
    height, width = cv2.imread(str(WALKER)).shape[:2]
    row = {
        "file": WALKER.name,
        "box_xyxy_px": [0.2 * width, 0.1 * height, 0.8 * width, 0.95 * height],
    }
    (tmp_path / "boxes.jsonl").write_text(json.dumps(row) + "\n")
    command = [
        "--pictures", f"{tmp_path / 'boxes.jsonl'}={WALKER.parent}", "--card", "tiny", "--name",
        "sturdy", "--batch", "4", "--threads", "1", "--steps", "12", "--no-bf16",
    ]  # fmt: skip
    monkeypatch.setattr(train_trunk.Batches, "draw", same_batch(train_trunk.Batches.draw))
    half = train_trunk.main([*command, "--out", str(tmp_path / "a"), "--seconds", "0"])
    assert half["step"] == 1
    done = train_trunk.main([*command, "--out", str(tmp_path / "a")])
    assert done["step"] == 12 and done["card"] == "sturdy"
    rows = [json.loads(r) for r in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == list(range(1, 13))
    assert rows[-1]["total"] < 0.9 * rows[0]["total"]
    whole = train_trunk.main([*command, "--out", str(tmp_path / "b")])
    assert whole["total"] == pytest.approx(done["total"], rel=1e-3)  # going on changes nothing
    monkeypatch.setenv("POSE_ROS_MODELS", str(tmp_path / "a"))
    card = find_card("sturdy")
    assert card.licence_notice.startswith("Every value was changed by fine-tuning tiny. Of that:")
    assert card.trained and card.source is None and "boxes.jsonl" in card.training_data
    net = load_net(card)
    assert isinstance(net, MoveNet)


def same_batch(draw_: Callable[..., object]) -> Callable[..., object]:
    """Every step sees the same crops, two of them disturbed: the loss has to fall."""
    return lambda batches, step: draw_(batches, 3)


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected --video"):
        train_trunk.main(["--out", str(tmp_path)])
    with pytest.raises(ConfigError, match="expected a MoveNet"):
        train_trunk.main(["--out", str(tmp_path), "--card", "nanodet_g"])


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_learned(tmp_path: Path) -> None:
    net = small()
    args = Namespace(out=str(tmp_path), lr=1e-3, steps=5, bf16=False)
    student = train_trunk.Student(net, find_card("movenet_lightning"), args)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    nothing = Maps(*(torch.full((1, n, 16, 16), torch.nan) for n in (17, 1, 34, 34)))
    with pytest.raises(PoseRosError, match="step 0: the loss is not finite"):
        student.learn(np.zeros((1, *SIZE, 3), np.uint8), nothing)
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
