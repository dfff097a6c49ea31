"""The occlusion benchmark and the ablations on it, at a size that takes seconds."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training import ablate, ablate_table, occlusion_set
from pose_ros.training.ablate import FAMILIES, Recipe, Row
from pose_ros.training.occlusion_set import KEY, Clips, OcclusionConfig

TINY = OcclusionConfig(train=2, test=2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered clips of each split."""
    folder = tmp_path_factory.mktemp("occlusion")
    patch = pytest.MonkeyPatch()
    patch.setattr(occlusion_set, "SHARD", 2)
    for split in occlusion_set.SPLITS:
        occlusion_set.load(TINY, split, folder)
    patch.undo()
    return folder


@pytest.fixture
def clips(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Clips:
    monkeypatch.setattr(occlusion_set, "SHARD", 2)
    return occlusion_set.load(TINY, "test", cache)


def test_clips_move_and_hold_their_person(clips: Clips) -> None:
    assert clips.frames.shape == (2, 5, 96, 64, 3)
    known = np.isfinite(clips.xy_px[:, KEY]).all(-1)
    assert known.mean() > 0.8
    inside = (clips.xy_px[:, KEY] > -0.5).all(-1) & (clips.xy_px[:, KEY] < (63.5, 95.5)).all(-1)
    assert inside[known].mean() > 0.95
    # the box, 1.25 times enlarged, fills one side of the crop: 96 / 1.25 or 64 / 1.25 px
    assert all(np.isclose(side, [96 / 1.25, 64 / 1.25], atol=0.1).any() for side in clips.side_px)
    step = np.linalg.norm(np.diff(clips.xy_px, axis=1), axis=-1)
    assert np.nanmax(step, axis=(1, 2)).min() > 1.5  # somebody moves, in every clip
    assert (clips.frames[:, 0] != clips.frames[:, KEY]).any()


def test_clips_are_made_once_and_follow_from_the_seed(
    cache: Path, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = occlusion_set.make_clip(TINY, "test", 1)
    np.testing.assert_array_equal(again.frames[0], clips.frames[1])
    train = occlusion_set.load(TINY, "train", cache)
    assert not np.array_equal(train.frames, clips.frames)
    monkeypatch.setattr(occlusion_set, "make_clip", None)  # nothing is rendered again
    np.testing.assert_array_equal(occlusion_set.load(TINY, "test", cache).frames, clips.frames)
    with pytest.raises(SourceError, match="not rendered yet"):
        occlusion_set.load(dataclasses.replace(TINY, seed=1), "test", cache, missing=0)


def test_views_spoil_what_they_say(clips: Clips) -> None:
    made = {kind: occlusion_set.view(clips, kind, 3) for kind in occlusion_set.KINDS}
    clean = made["clean"].frames
    others = [t for t in range(5) if t != KEY]
    for kind in ("occluded", "blurred"):
        np.testing.assert_array_equal(made[kind].frames[:, others], clean[:, others])
        assert (made[kind].frames[:, KEY] != clean[:, KEY]).any(axis=(1, 2, 3)).all()
        np.testing.assert_array_equal(made[kind].xy_px, made["clean"].xy_px)
    assert made["dark"].frames.mean() < 0.4 * clean.mean()
    sharp = [np.abs(np.diff(v.astype(float), axis=1)).mean()
             for v in (clean[:, KEY], made["blurred"].frames[:, KEY])]  # fmt: skip
    assert sharp[1] < 0.5 * sharp[0]
    np.testing.assert_array_equal(occlusion_set.view(clips, "mixed", 5).frames,
                                  occlusion_set.view(clips, "mixed", 5).frames)  # fmt: skip
    with pytest.raises(ConfigError, match="clean"):
        occlusion_set.view(clips, "foggy", 0)


def test_hidden_joints_are_those_under_the_patch(clips: Clips) -> None:
    clean, covered = (occlusion_set.view(clips, kind, 3) for kind in ("clean", "occluded"))
    assert not clean.hidden.any() and covered.hidden.any(axis=1).all()
    changed = (clean.frames[:, KEY] != covered.frames[:, KEY]).any(-1)
    for person in range(len(clips)):
        for joint in range(len(COCO17)):
            at = np.rint(clean.xy_px[person, KEY, joint])
            if np.isfinite(at).all() and (at >= 0).all() and (at < (64, 96)).all():
                x, y = at.astype(int)
                block = changed[person, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                assert block.any() if covered.hidden[person, joint] else not block.all()


def test_a_patch_has_its_size_and_stays_inside() -> None:
    picture = np.zeros((96, 64, 3), np.uint8)
    corner = np.full((17, 2), 0.0, np.float32)
    rng = np.random.default_rng(0)
    left, top, right, bottom = occlusion_set.cover(picture, corner, 1.0, rng)
    assert (left, top) == (0, 0)
    assert 0.3 * 96 - 1 <= bottom <= 0.5 * 96 + 1 and 0.5 * 64 - 1 <= right <= 0.9 * 64 + 1
    assert not picture[bottom:].any() and not picture[:, right:].any()


def test_a_mirror_image_of_a_mirror_image_is_the_clip(clips: Clips) -> None:
    once = occlusion_set.mirrored(clips)
    twice = occlusion_set.mirrored(once)
    np.testing.assert_array_equal(twice.frames, clips.frames)
    np.testing.assert_allclose(twice.xy_px, clips.xy_px, atol=1e-4)
    left, right = COCO17.index("left_wrist"), COCO17.index("right_wrist")
    np.testing.assert_allclose(once.xy_px[..., left, 0], 63 - clips.xy_px[..., right, 0])


def test_a_shaken_clip_shows_the_same_things_at_its_joints() -> None:
    """A white dot moves with its joint, whatever the zoom."""
    frames = np.zeros((1, 5, 96, 64, 3), np.uint8)
    frames[:, :, 50:53, 30:33] = 255
    xy_px = np.full((1, 5, 17, 2), (31.0, 51.0), np.float32)
    clip = Clips(frames, xy_px, np.array([70.0], np.float32), np.zeros((1, 17), np.bool_))
    for seed in range(5):
        moved = occlusion_set.shaken(clip, np.random.default_rng(seed))
        weight = moved.frames[0, 0, :, :, 0].astype(float)
        rows, columns = np.mgrid[:96, :64]
        at = [(weight * grid).sum() / weight.sum() for grid in (columns, rows)]
        np.testing.assert_allclose(moved.xy_px[0, 0, 0], at, atol=0.2)
        assert 0.85 * 70 <= moved.side_px[0] <= 1.1 * 70


def arrays(count: int = 3, levels: int = 4) -> dict[str, torch.Tensor]:
    """Random features of clips and labels in the middle of the maps."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((24, 24, 16), (32, 12, 8), (64, 6, 4), (1280, 3, 2))[:levels]
    out = {f"feature{i}": torch.randn(count, 5, *s, generator=generator).half()
           for i, s in enumerate(shapes)}  # fmt: skip
    cells = torch.rand(count, 5, 17, 2, generator=generator) * 8 + 4
    out |= {"cells": cells, "visible": torch.ones(count, 5, 17)}
    return out | {"hidden": torch.zeros(count, 17, dtype=torch.bool),
                  "side_cells": torch.full((count,), 20.0)}  # fmt: skip


def of_family(name: str) -> dict[str, torch.Tensor]:
    made, channels = arrays(levels=FAMILIES[name].levels), FAMILIES[name].channels
    return made | {"feature0": made["feature0"][:, :, : channels or 24]}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_row_learns_something_and_has_its_window(name: str) -> None:
    """One step of every row; what differs from the whole network is what its name says."""
    data = of_family(name)
    for row in FAMILIES[name].rows.values():
        trainee, loss = ablate.train_row(name, row, 0, Recipe(steps=1, batch=2), [data])
        assert np.isfinite(loss) and loss > 0
        found = ablate.answer(trainee, data, row)
        assert found.shape == (3, 17, 2)
        shown = ablate.pictures_of(trainee.net, row)
        assert shown[trainee.net.window.key] == KEY
        assert len(set(shown)) == (1 if row.still else trainee.net.window.frames)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_the_whole_network_looks_at_other_pictures(name: str) -> None:
    """Changing the neighbours changes the answer of ``full``, and of neither control."""
    data = of_family(name)
    changed = {n: t.clone() for n, t in data.items()}
    others = [t for t in range(5) if t != KEY]
    for feature in [n for n in data if n.startswith("feature")]:
        changed[feature][:, others] += 1.0
    for key, sees in (("off", False), ("still", False), ("full", True)):
        row = FAMILIES[name].rows[key]
        trainee = ablate.make_trainee(name, row, Recipe(steps=1), 0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in trainee.net.parameters():  # no layer is zero any more
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
        maps = []
        for shown in (data, changed):
            batch = ablate.batch_of(shown, torch.arange(3), trainee.net, row)
            with torch.no_grad():
                maps.append(trainee.eval()(batch)["heatmaps"])
        assert ((maps[0] - maps[1]).abs().max() > 1e-4) == sees, key


def test_rows_of_a_network_start_alike_where_they_share_parts() -> None:
    full, off = (
        ablate.make_trainee("vremd", FAMILIES["vremd"].rows[key], Recipe(), 5).net.state_dict()
        for key in ("full", "off")
    )
    shared = [n for n in off if n.startswith(("adapter", "head.")) and n in full]
    assert shared and all(torch.equal(full[n], off[n]) for n in shared)


def test_windows_and_distances() -> None:
    rows = FAMILIES["stdpose"].rows
    net = ablate.make_trainee("stdpose", rows["full"], Recipe(), 0).net
    assert ablate.pictures_of(net, rows["full"]) == [1, 2, 3]
    assert ablate.pictures_of(net, rows["labels_far"]) == [0, 2, 4]
    assert ablate.pictures_of(net, rows["still"]) == [2, 2, 2]
    batch = ablate.batch_of(of_family("stdpose"), torch.tensor([1]), net, rows["labels_far"])
    assert batch["dt_left"].tolist() == batch["dt_right"].tolist() == [2.0]
    torch.testing.assert_close(batch["cells"][0, 1], of_family("stdpose")["cells"][1, KEY])
    hstpn = ablate.make_trainee("hstpn", FAMILIES["hstpn"].rows["full"], Recipe(), 0).net
    assert ablate.pictures_of(hstpn, Row("")) == [0, 1, 2]  # it never sees what comes after
    with pytest.raises(ConfigError, match="5 pictures"):
        ablate.pictures_of(net, Row("", spread=3))


def test_score_by_hand() -> None:
    """Side 20 cells: 0.1 is 2 cells, 0.05 is 1 cell. One of 17 joints is 1.5 cells off."""
    data = arrays(count=1)
    data["hidden"][0, :2] = True
    found = data["cells"][:, KEY].numpy().copy()
    found[0, 0, 0] += 1.5
    scores = ablate.score(found, data)
    assert scores["all"] == pytest.approx({"0.05": 16 / 17, "0.1": 1.0})
    assert scores["hidden"] == pytest.approx({"0.05": 0.5, "0.1": 1.0})
    found[0, 0] = np.nan  # not found is wrong
    assert ablate.score(found, data)["all"]["0.1"] == pytest.approx(16 / 17)
    data["visible"][:, KEY, 0] = 0  # not labelled is not counted
    assert ablate.score(found, data)["all"]["0.1"] == 1.0


def test_the_command_goes_on_where_it_stopped(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(occlusion_set, "SHARD", 2)
    out = tmp_path / "results.jsonl"
    asked = ["--net", "pstpose", "--rows", "off,full", "--seeds", "2", "--steps", "2", "--train",
             "2", "--test", "2", "--cache", str(cache), "--out", str(out)]  # fmt: skip
    assert ablate.main([*asked, "--runs", "1"])["left"] == 3
    first = out.read_text()
    assert ablate.main(asked) == {"runs": 4, "ran": 3, "left": 0, "out": str(out)}
    assert out.read_text().startswith(first) and len(out.read_text().splitlines()) == 4
    assert ablate.main(asked)["ran"] == 0
    redone = ablate.run_row(
        ablate.Store(cache, OcclusionConfig(2, 2)), "pstpose", "off", 0, Recipe(steps=2)
    )
    kept = json.loads(first)
    assert {**redone, "seconds": 0} == {**kept, "seconds": 0}  # the same numbers again
    capsys.readouterr()
    found = ablate.main([*asked, "--table", "text"])
    text = capsys.readouterr().out
    assert found["runs"] == 4 and "| pstpose | full | 2 |" in text
    assert {"full > off"} == {o["claim"] for o in found["orderings"]}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(["--net", "dcpose"], "hstpn"), (["--net", "dsa", "--rows", "tff"], "no_gab"),
     (["--seeds", "0"], "--seeds"), (["--train", "0"], "positive")],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(
    wrong: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate.command([*wrong, "--out", str(tmp_path / "x"), "--cache", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and said in errors[0]


def test_a_broken_results_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"net": "dsa"}\n')
    with pytest.raises(SourceError, match="x:1"):
        ablate.read_results(tmp_path / "x")


def result(row: str, seed: int, percent: float) -> dict[str, object]:
    """A result whose every number is the same."""
    both = {"0.05": percent / 200, "0.1": percent / 100}
    kinds = {kind: {"all": both} for kind in occlusion_set.KINDS}
    kinds["occluded"] = {"all": both, "hidden": both}
    return {"net": "dsa", "row": row, "seed": seed, "pck": kinds}


def test_differences_are_paired_by_seed() -> None:
    """Seeds differ by 20 points, full is 1 to 2 points better each time: mean 1.5, spread 0.5."""
    off, full = (30.0, 50.0, 70.0), (31.0, 51.5, 72.0)
    results = [result("off", i, v) for i, v in enumerate(off)]
    results += [result("full", i, v) for i, v in enumerate(full)]
    found = {o["on"]: o for o in ablate_table.orderings(results) if o["claim"] == "full > off"}
    assert found["occluded"]["difference"] == pytest.approx(1.5)
    assert found["occluded"]["spread"] == pytest.approx(0.5)
    assert found["occluded"]["verdict"] == "holds"
    text = ablate_table.table(results, FAMILIES, "text")
    assert "| dsa | off | 3 | 50.0 ± 20.0 |" in text
    assert "| dsa | full - off | 3 |" + " +1.5 ± 0.5 |" * 6 in text
    assert ablate_table.table(results, FAMILIES, "csv").startswith('"net","row","seeds"')
    assert r"50.0 $\pm$ 20.0" in ablate_table.table(results, FAMILIES, "latex")


@pytest.mark.parametrize(
    ("difference", "said"),
    [((1.0, 1.5, 2.0), "holds"), ((-1.0, -1.5, -2.0), "reversed"),
     ((1.0, 1.0, -0.1), "within the spread"), ((0.1, 0.2, 3.0), "within the spread"),
     ((1.0, np.nan, np.nan), "too few seeds"), ((1.0, 1.2, np.nan), "too few seeds")],
)  # fmt: skip
def test_verdicts(difference: tuple[float, ...], said: str) -> None:
    assert ablate_table.verdict(np.array(difference)) == said


def test_the_document_shows_what_the_published_results_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every line of both tables is in docs/results.md; a fresh clone prints them."""
    docs = Path(__file__).parents[2] / "docs"
    document = (docs / "results.md").read_text(encoding="utf-8").splitlines()
    runs = str(docs / "ablate.jsonl")
    for clips in (ablate.RENDERED, ablate.VIDEO):
        found = ablate.main(["--table", "text", "--clips", clips, "--out", runs])
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        assert found["runs"] >= 45 and len(lines) > 15
        assert [line for line in lines if line not in document] == []
