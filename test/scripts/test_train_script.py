"""scripts/train: a limit that holds, and a folder from which the same command goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train"


def environment(folder: Path, stand_in: str = "") -> dict[str, str]:
    """Environment that is set up already, with this Python or a stand-in for it."""
    tools = folder / "bin"
    tools.mkdir()
    stand_in = stand_in or f"exec '{sys.executable}' \"$@\""  # a link would not be in its venv
    (tools / "python").write_text(f"#!/bin/bash\n{stand_in}\n")
    (tools / "python").chmod(0o755)
    found = {
        **os.environ,
        "POSE_ROS_READY": str(ROOT),
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return {"PYTHONPATH": str(ROOT), **found}


def start(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *arguments], env=env, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_the_training_is_told_its_folder_and_its_time(tmp_path: Path) -> None:
    env = environment(tmp_path, 'echo a warning >&2; printf "%s\\n" "$@"; exit 3')
    back = tmp_path / "a folder"
    for _ in range(2):
        process = start(env, "a.yaml", "--minutes", "20", "x=[1, 2]", "--back", str(back))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 3
        said = out.splitlines()
        assert said[:5] == ["-m", "pose_ros.training.train", "a.yaml", "x=[1, 2]", f"out={back}"]
        name, _, minutes = said[5].partition("=")
        assert name == "train.max_minutes"
        assert 18.5 < float(minutes) <= 19.0  # a minute for the end, and what setting up took
        assert err == "a warning\n"
    log = (back / "train.log").read_text()
    assert log.count("a warning\n") == 2
    assert log.count(r"a.yaml x=\[1\,\ 2\] --minutes 20") == 2


def test_no_limit_is_none(tmp_path: Path) -> None:
    process = start(environment(tmp_path, 'echo "${!#}"'), "a.yaml", "--back", f"{tmp_path}/b")
    assert process.communicate(timeout=60)[0] == "train.max_minutes=0.0000\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("stand_in", "status"),
    [
        ("trap 'echo saved; exit 1' TERM; while :; do sleep 0.1; done", 124),
        ("trap '' TERM; echo deaf; while :; do sleep 0.1; done", 137),
    ],
)
def test_what_does_not_stop_by_itself_is_ended(tmp_path: Path, stand_in: str, status: int) -> None:
    begun = time.monotonic()
    back = str(tmp_path / "back")
    process = start(environment(tmp_path, stand_in), "a.yaml", "--minutes", "0.05", "--back", back)
    out, _ = process.communicate(timeout=60)
    assert out in ("saved\n", "deaf\n")
    assert process.returncode == status
    assert time.monotonic() - begun > 1.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--back", "DIR"], "expected a recipe"),
        (["a.yaml"], "expected --back DIR"),
        (["a.yaml", "--back"], "--back: expected a value"),
        (["a.yaml", "--back", "DIR", "--minutes", "soon"], "expected a number, got 'soon'"),
        (["a.yaml", "--back", "DIR", "--minutes", "0.001"], "--minutes 0.001 is no second"),
        (["a.yaml", "--back", "DIR", "out=x"], "out=x: is what --back and --minutes say"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    found = [str(tmp_path / "no") if a == "DIR" else a for a in arguments]
    process = start(environment(tmp_path, "echo ran"), *found)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "no").exists()


def test_help_says_what_comes_back() -> None:
    ran = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    for word in ("--minutes N", "--back DIR", "last.ckpt", "metrics.json", "SIGTERM"):
        assert word in ran.stdout


@pytest.mark.slow
def test_a_machine_that_is_taken_away_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM, then the same with a copy of the folder; it comes to the end of a whole run."""
    pytest.importorskip("lightning")
    from pose_ros.training import checkpoints, train
    from pose_ros.training.config import read_recipe

    env = environment(tmp_path)
    data = f"synthetic:?clips=2&people=1&size=160x120&seed=1&cache={tmp_path}/clips"
    rules = [
        "config/train/tiny.yaml", f'data.train=["{data}"]', f'data.val=["{data}"]', "device=cpu",
        "optim.schedule=constant", "train.threads=1", "train.checkpoint_s=0", "train.val_every=1",
    ]  # fmt: skip
    first, second, whole = (tmp_path / name for name in ("first", "second", "whole"))
    process = start(env, *rules, "train.epochs=5000", "--minutes", "4", "--back", str(first))
    wait_for(first / "best.ckpt", process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "error: stopped at step" in err.splitlines()[-1]
    assert err.splitlines()[-1] in (first / "train.log").read_text()
    names = {p.name for p in first.iterdir()}
    assert {"last.ckpt", "best.ckpt", "config.yaml", "run.json", "metrics.csv"} <= names

    shutil.copytree(first, second)
    epochs = checkpoints.load(first / "last.ckpt")["progress"]["epoch"] + 1
    process = start(env, *rules, f"train.epochs={epochs}", "--back", str(second))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "goes on from" in (second / "train.log").read_text()
    answer = json.loads(out.splitlines()[-1])
    assert answer["epochs"] == epochs
    recipe, *settings = rules
    settings += [f"train.epochs={epochs}", f"out={whole}"]
    assert train.run(read_recipe(ROOT / recipe, settings))["best"] == answer["best"]
    assert (second / "tiny.safetensors").read_bytes() == (whole / "tiny.safetensors").read_bytes()
    cards = [yaml.safe_load((run / "tiny.yaml").read_text()) for run in (second, whole)]
    for metric in (metric for card in cards for metric in card["metrics"]):
        assert "pose_ros.training.train" in metric.pop("command")  # each as it was typed
    assert cards[0] == cards[1]
    assert (second / "metrics.json").is_file()
