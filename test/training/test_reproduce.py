"""Rows of the papers' tables from data on disk: what is run for each, in which order, and once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_propagate_dataset
import torch

from pose_ros.errors import ConfigError
from pose_ros.training import checkpoints, reproduce
from pose_ros.training.config import flatten, read_recipe
from pose_ros.training.objectives import Trainee
from pose_ros.training.propagate import command
from pose_ros.training.reproduce import SETS, Step, averaged, finished
from pose_ros.training.tables import TABLES, Row, Table, get_table
from pose_ros.training.train import make_net

torch.set_num_threads(1)
DATA = [f"--data={name}=/data/{name}" for name in (*SETS, "coco")]
SPORTS = [f"--{part}=sportspose:/s?split=S0{i}" for i, part in enumerate(("train", "val", "test"))]
OURS = [(t, r) for t in TABLES.values() for r in t.rows if r.flags is not None]


VIT = ["backbone=vit_tiny", "size_hw_px=[64, 48]", "head_channels=16"]
SMALL = {
    "hstpn_r50": ["base=8", "channels=16", "size_hw_px=[64, 32]"], "pstpose_vitl": VIT,
    "stdpose_vitl": VIT, "vremd_vitl": VIT,
    "dsa_w48": ["width=8", "modules=[1, 1, 1]", "blocks=1", "size_hw_px=[64, 64]"],
}  # fmt: skip


def planner(*options: str, seed: int = 0) -> reproduce.Planner:
    words = ["x", *DATA, *options]
    return reproduce.Planner(reproduce._parser().parse_intermixed_args(words), seed)


def get_row(table: str, row: str) -> tuple[Table, Row]:
    return get_table(table), get_table(table).row(row)


def options_of(step: Step) -> dict[str, str]:
    return {a: b for a, b in zip(step.argv, step.argv[1:], strict=False) if a.startswith("--")}


@pytest.mark.parametrize(("table", "row"), OURS, ids=lambda x: x.key)
def test_every_row_of_ours_has_commands_that_can_be_typed(table: Table, row: Row) -> None:
    small = [f"net.options.{text}" for text in SMALL[table.net]]
    sports = SPORTS if table.dataset == "sportspose" else []
    steps = planner(*sports, "net.init=", *small).steps(table, row)
    last = options_of(steps[-1])
    assert (last["--table"], last["--row"]) == (table.key, row.key)
    assert last["--save"].endswith(f"results/{table.key}.{row.key}.json")
    assert steps[-1].made == Path(last["--save"])
    for step in steps:
        if step.program == "train":
            config = read_recipe(Path(step.argv[0]), step.argv[1:])  # refuses what is unknown
            Trainee(make_net(config), config)  # and this what does not fit together
            assert config.net.name == table.net
            assert {k: config.net.options[k] for k in row.flags or {}} == dict(row.flags or {})
            assert step.made == Path(config.out) / f"{config.name}.yaml"
            if table.dataset != "sportspose":
                source = SETS[table.dataset].train_set or table.dataset
                assert config.data.train[0].startswith(f"{source}:/data/{source}?split=train")
                assert config.data.val[0].startswith(f"{table.dataset}:")
            spread = row.interval or 0
            assert config.data.spread in (spread, 0)
    if table.protocol == "poseval" and row.interval is None:
        assert last["--dataset"] == f"{table.dataset}:/data/{table.dataset}?" + SETS[
            table.dataset
        ].test  # fmt: skip
        assert last["--net"] == str(steps[0].made)
        assert "--macro" not in steps[-1].argv
        assert ("quarter" in steps[-1].argv) == (table.net == "dsa_w48")


def test_rows_that_share_a_training_train_once() -> None:
    made = {
        planner().steps(get_table(name), get_table(name).row(row))[0].made
        for name, row in (
            ("stdpose.1.17", "full"), ("stdpose.4", "f"), ("stdpose.4.interval", "t7"),
        )
    }  # fmt: skip
    assert len(made) == 1
    refined, plain = (
        planner(*SPORTS).steps(get_table("hstpn.4.sportspose"), row)
        for row in get_table("hstpn.4.sportspose").rows
        if row.key in ("full", "aprs")
    )
    assert refined[0] == plain[0]
    assert sum("--refine" in step.argv for step in (*refined, *plain)) == 1


def test_table_3_of_stdpose_learns_from_what_few_labels_gave() -> None:
    few, propagate, learn, judge = planner().steps(
        get_table("stdpose.3"), get_table("stdpose.3").row("t4")
    )
    config = read_recipe(Path(few.argv[0]), few.argv[1:])
    assert config.data.train == ("posetrack17:/data/posetrack17?split=train&interval=4",)
    assert config.data.spread == 4
    given = options_of(propagate)
    assert given["--net"] == str(few.made) and given["--interval"] == "4"
    assert given["--dataset"] == "posetrack17:/data/posetrack17?split=train"
    config = read_recipe(Path(learn.argv[0]), learn.argv[1:])
    assert config.data.train == (f"{given['--dataset']}&labels={given['--labels']}",)
    assert config.data.spread == 0 and learn.made != few.made
    assert options_of(judge)["--net"] == str(learn.made)


def test_stills_are_learned_by_a_network_of_one_frame() -> None:
    step = planner().steps(get_table("hstpn.4.ochuman"), get_table("hstpn.4.ochuman").row("msf"))[
        0
    ]
    config = read_recipe(Path(step.argv[0]), step.argv[1:])
    assert (config.net.options["frames"], config.net.options["joints"]) == (1, 17)
    assert (config.loss.burn_in_p, config.augment.recrop_p, config.train.monitor) == (0, 0, "f1")


def test_crowdpose_is_judged_by_joint_types() -> None:
    crowded = [planner().steps(t, r)[-1].argv for t, r in OURS if t.dataset == "crowdpose"]
    crowded.append(
        planner().steps(get_table("hstpn.6"), get_table("hstpn.6").row("crowd"))[-1].argv
    )
    assert len(crowded) > 5 and all("--macro" in argv for argv in crowded)
    scene = planner().steps(get_table("hstpn.6"), get_table("hstpn.6").row("blur"))[-1].argv
    assert "--macro" not in scene and "blur:0.5" in scene


def test_commands_are_printed_and_nothing_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "PROGRAMS", {})
    argv = ["pstpose.4", *DATA, "--out", str(tmp_path), "--print", "--seeds", "2",
            "train.batch=16"]  # fmt: skip
    assert command(reproduce.main, argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {"table": "pstpose.4", "rows": 5, "commands": 30}
    assert len(lines) == 31 and all(line.startswith("python -m pose_ros.") for line in lines[:-1])
    trained = [line for line in lines if ".train " in line]
    assert len(trained) == 10 and all("train.batch=16" in line for line in trained)
    assert sum("train.seed=1" in line for line in trained) == 5
    assert not list(tmp_path.iterdir())


def test_what_was_finished_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    stop = {"now": True}

    def learn(argv: Any) -> dict[str, Any]:
        calls.append("train")
        config = read_recipe(Path(argv[0]), argv[1:])
        folder = Path(config.out)
        folder.mkdir(parents=True, exist_ok=True)
        answer = {"stopped": "time"} if stop["now"] else {}
        (folder / "metrics.json").write_text(json.dumps(answer))
        (folder / f"{config.name}.yaml").write_text("")
        return answer

    def judge(argv: Any) -> dict[str, Any]:
        calls.append("evaluate")
        path = Path(argv[list(argv).index("--save") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = 1.0 if "seed1" in str(path) else 0.0
        answer = {"table": "pstpose.4", "row": "a", "metrics": {"total": 70.0 + seed, "m7": None}}
        path.write_text(json.dumps(answer))
        return answer

    monkeypatch.setattr(reproduce, "PROGRAMS", {"train": learn, "evaluate": judge})
    argv = ["pstpose.4", "--row", "a", "--data", f"posetrack17={tmp_path}", "--out", str(tmp_path)]
    assert command(reproduce.main, argv) == 1  # the time was over
    stop["now"] = False
    assert reproduce.main(argv)["metrics"]["a"]["total"] == 70.0
    done = ["train", "train", "evaluate", "evaluate"]  # the second one without time
    assert calls == done
    assert reproduce.main(argv)["measured"] == 1
    assert calls == done
    assert (tmp_path / "results" / "temporal_off" / "pstpose.4.a.json").is_file()
    both = reproduce.main([*argv, "--seeds", "2"])
    # the first seed is trained already
    assert calls[4:] == ["evaluate", "evaluate", "train", "evaluate", "evaluate"]
    assert both["metrics"]["a"]["total"] == 70.5
    saved = json.loads((tmp_path / "results" / "pstpose.4.a.json").read_text())
    assert saved["seeds"] == 2 and saved["spread"]["total"] == pytest.approx(0.5**0.5, abs=1e-5)
    assert saved["metrics"]["m7"] is None
    # the mean is no answer of one training: that is judged again, nothing else
    assert reproduce.main(argv)["metrics"]["a"]["total"] == 70.0 and len(calls) == 10


def test_help_says_how_commands_that_were_run_by_hand_are_gathered() -> None:
    text = " ".join(reproduce._parser().format_help().split())
    assert "leaves finished commands out and writes the mean" in text


def judged_before(folder: Path, made: str = "a.json", word: str = "x:/d") -> Step:
    return Step("evaluate", ("--dataset", word, "--device", "cpu"), folder / made)


def test_what_another_command_made_is_no_answer_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def judge(argv: Any) -> dict[str, Any]:
        calls.append(argv[1])
        (tmp_path / "a.json").write_text("{}")
        return {}

    monkeypatch.setattr(reproduce, "PROGRAMS", {"evaluate": judge})
    step = judged_before(tmp_path)
    reproduce.run([step])
    reproduce.run([step])
    reproduce.run([replace(step, argv=("--dataset", "x:/d", "--device", "cuda"))])  # as good
    assert calls == ["x:/d"]
    with pytest.raises(ConfigError, match="x:/d; give another --out"):
        reproduce.run([judged_before(tmp_path, word="x:/other")])
    with pytest.raises(ConfigError, match="made by another command"):  # after another training
        finished(step, ["python -m pose_ros.training.train x.yaml train.batch=3"])
    assert [path.name for path in tmp_path.glob("*.json")] == ["a.json"]


def test_what_was_run_by_hand_counts_if_it_says_that_it_is_the_same(tmp_path: Path) -> None:
    step = judged_before(tmp_path)
    step.made.write_text(json.dumps({"spec": "x:/d"}))
    assert finished(step)
    step.made.write_text(json.dumps({}))
    assert not finished(step)
    step.made.write_text(json.dumps({"spec": "x:/other"}))
    with pytest.raises(ConfigError, match="--dataset x:/other"):
        finished(step)
    first = planner("--out", str(tmp_path)).steps(*get_row("pstpose.4", "a"))[0]
    first.made.parent.mkdir(parents=True)
    first.made.write_text("")
    (first.made.parent / "metrics.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"there is no .*last.ckpt"):
        finished(first)
    config = read_recipe(Path(first.argv[0]), [*first.argv[1:], "data.workers=7"])
    checkpoints.save(first.made.parent / "last.ckpt", {"config": flatten(config)})
    (first.made.parent / "config.yaml").write_text("train: {batch: 3}")  # of a refused command
    assert finished(first)
    other = planner("--out", str(tmp_path), "train.batch=3").steps(*get_row("pstpose.4", "a"))[0]
    with pytest.raises(ConfigError, match=r"train\.batch="):
        finished(other)


def test_given_data_replace_those_of_the_set_that_they_name() -> None:
    plan = planner("--test=mpii:/m?split=test", "--train=coco:/c?split=half")
    for name in ("mpii", "crowdpose", "ochuman"):
        first, judge = plan.steps(*get_row(f"hstpn.4.{name}", "full"))
        config = read_recipe(Path(first.argv[0]), first.argv[1:])
        source = "coco:/c?split=half" if name == "ochuman" else f"{name}:/data/{name}?split=train"
        assert config.data.train == (source,)
        part = "/m?split=test" if name == "mpii" else f"/data/{name}?{SETS[name].test}"
        assert options_of(judge)["--dataset"] == f"{name}:{part}"
    plan.complete()


def test_stills_are_said_to_have_two_equal_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reproduce.main(["hstpn.4.mpii", *DATA, "--out", str(tmp_path), "--print"])
    assert "'aprs' and 'full' are the same network" in caplog.text
    caplog.clear()
    reproduce.main(["hstpn.4.sportspose", *SPORTS, "--out", str(tmp_path), "--print"])
    assert not caplog.text


def test_a_card_of_a_stopped_training_is_not_finished(tmp_path: Path) -> None:
    step = Step("train", (), tmp_path / "x.yaml")
    assert not finished(step)
    step.made.write_text("")
    step.record.write_text(step.meant)
    for stopped in (True, False):
        told = {"stopped": "time"} if stopped else {}
        (tmp_path / "metrics.json").write_text(json.dumps(told))
        assert finished(step) is not stopped
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"metrics": {"f1": 2.0}}))
    averaged([path, path, path], tmp_path / "mean.json")
    assert json.loads((tmp_path / "mean.json").read_text())["spread"] == {"f1": 0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["pstpose.4"], "expected --data posetrack17=FOLDER"),
        (["hstpn.4.ochuman", "--data", "ochuman=/o"], "expected --data coco=FOLDER"),
        (["hstpn.4.sportspose", *DATA], "no published split"),
        (["dsa.3", "--row", "cpm", *DATA], "none of our networks"),
        (["pstpose", "--row", "full", *DATA], "expected one table"),
        (["nosuch", *DATA], "is not known"),
        (["pstpose.4", "--data", "posetrack17"], "expected NAME=FOLDER"),
        (["pstpose.4", *DATA, "--seeds", "0"], "expected at least 1"),
        (["pstpose.4", *DATA, "train.batsch=3"], "did you mean train.batch"),
        (["pstpose.4", *DATA, "train.batsch=3", "--print"], "did you mean train.batch"),
        (
            ["pstpose", "--data", "posetrack17=/d"],
            "expected --data posetrack18=FOLDER --data posetrack21=FOLDER",
        ),
        (["pstpose.4", *DATA, "--data", "postrack17=/d"], "did you mean posetrack17"),
        (["pstpose.4", *DATA, "--train", "postrack17:/d"], "did you mean posetrack17"),
        (["pstpose.4", *DATA], "--data posetrack17=/data/posetrack17: expected a folder"),
        (
            ["pstpose.4", "--data=posetrack17=.", "--boxes", "/no.json"],
            "/no.json: expected a file",
        ),
        (["stdpose.1.17", *DATA, "--boxes", "b"], "propagates labels in their own boxes"),
        (["stdpose.4", *DATA, "--boxes", "b"], "propagates labels in their own boxes"),
        (["hstpn.3", "--boxes", "b"], "measures cost"),
        (["hstpn.6", "--row", "crowd", *DATA, "--boxes", "b"], "another data set than its table"),
        (["hstpn.4.mpii", *DATA, "--boxes", "b"], "mpii takes no detected boxes"),
        (["pstpose", *DATA, "--boxes", "b"], "expected rows of one data set"),
        (["pstpose.4", *DATA, "--val=mpii:/m"], "no row that was asked for has mpii as its val"),
        (["pstpose.4", *DATA, "train.seed=3"], "expected --seeds N"),
        (["pstpose.4", *DATA, "net.options.joints=3"], "the row decides it"),
        (
            ["pstpose.4", "--row", "full", *DATA, "net.options.fcg=false"],
            "in pstpose.4, row full, net.options.fcg is its recipe's: leave it out, or ask for",
        ),
        (
            ["stdpose.4", "--row", "e", *DATA, "net.options.mi=true"],
            "the row decides it",
        ),
        (
            ["hstpn.4.mpii", "--data", "mpii=/d", "net.options.frames=5"],
            "net.options.frames is 1",
        ),
        (["stdpose.4", *DATA, "data.spread=3"], "data.spread is 7"),
    ],
)
def test_what_cannot_be_run_is_said_first(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(reproduce.main, [*options, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_few_labels_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = test_propagate_dataset.write(tmp_path / "root")
    shutil.copytree(root / "annotations" / "val", root / "annotations" / "train")
    small = ["net.options.backbone=vit_tiny", "net.options.size_hw_px=[64, 48]", "net.init=",
             "net.options.head_channels=16", "data.workers=0", "train.precision=32-true",
             "train.batch=4", "train.epochs=1", "stage1.epochs=1"]  # fmt: skip
    # the toy is PoseTrack18's form, which the reader of 17 reads as well
    argv = ["stdpose.3", "--row", "t2", "--data", f"posetrack17={root}", "--device", "cpu",
            "--out", str(tmp_path / "out"), *small]  # fmt: skip
    assert command(reproduce.main, argv) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["measured"] == 1 and 0.0 <= answer["metrics"]["t2"]["m7"] <= 100.0
    labels = json.loads((tmp_path / "out" / "labels" / "posetrack17_every2.json").read_text())
    assert labels["labelled_ratio"] == 0.5  # 0, 2, 4 and 6 of 8


def test_settings_that_a_row_has_anyway_and_those_that_no_row_names_may_follow() -> None:
    free = planner("net.options.fcg=false", "net.options.head_channels=8", "train.monitor=pck")
    step = free.training(*get_row("pstpose.4", "b"))
    config = read_recipe(Path(step.argv[0]), step.argv[1:])
    assert (config.net.options["fcg"], config.net.options["head_channels"]) == (False, 8)
    assert config.train.monitor == "pck"
    with pytest.raises(ConfigError, match=r"row a, net\.options\.fcg is its recipe's"):
        free.training(*get_row("pstpose.4", "a"))
