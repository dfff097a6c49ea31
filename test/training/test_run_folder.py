"""A run's folder belongs to one run, and to one process at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dots
import pytest

from pose_ros.errors import ConfigError
from pose_ros.training import checkpoints, datasets, loop
from pose_ros.training.datasets.base import ClipDataset, WindowSpec
from pose_ros.training.run_folder import LOCK, alone, check_same
from pose_ros.training.train import command, run

pytest.importorskip("lightning")

HERE = Path(__file__).parent
WRITTEN = ("config.yaml", "run.json", "last.ckpt", "metrics.json", "metrics.csv")


def corrected(path: str, frames: int = 1, key: int = 0) -> ClipDataset:
    """Clips whose labels are what the file ``path`` says: their seed."""
    return dots.Dots(12, WindowSpec(frames, key), int(Path(path).read_text()))


@pytest.fixture
def corrected_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set ``corrected:PATH``, for one test."""
    monkeypatch.setitem(datasets._FACTORIES, "corrected", corrected)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in WRITTEN}


@pytest.mark.usefixtures("corrected_set")
@pytest.mark.parametrize("part", ["train", "val"])
def test_corrected_labels_are_not_answered_by_old_weights(tmp_path: Path, part: str) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "run"
    labels.write_text("0")
    settings = {f"data__{part}": [f"corrected:{labels}"], "out": str(out), "train__max_steps": 1}
    run(dots.config(**settings))
    run(dots.config(**settings, resume="must"))  # the same data: it goes on
    before = contents(out)
    labels.write_text("1")
    named = {"train": "training", "val": "validation"}[part]
    with pytest.raises(ConfigError, match=rf"last.ckpt learned from other data: the {named} set"):
        run(dots.config(**settings))
    assert contents(out) == before
    run(dots.config(**settings, resume="never"))
    told = json.loads((out / "run.json").read_text())["data"]
    assert checkpoints.load(out / "last.ckpt")["data"] == told
    assert told != json.loads(before["run.json"])["data"]


def test_a_checkpoint_from_before_data_were_kept_goes_on() -> None:
    state = {"config": {}, "data": {"train": {"sha256": "a"}}}
    config = dots.config()
    state["config"] = loop.flatten(config)
    check_same(Path("last.ckpt"), {"config": state["config"]}, config, {"train": {"sha256": "b"}})
    with pytest.raises(ConfigError, match="other data"):
        check_same(Path("last.ckpt"), state, config, {"train": {"sha256": "b"}})


def test_a_refused_command_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    run(dots.config(out=str(tmp_path), train__max_steps=1))
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"another optim\.lr"):
        run(dots.config(out=str(tmp_path), optim__lr=1e-2, train__max_steps=1))
    assert contents(tmp_path) == before


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    hold = (
        "import sys, time; from pathlib import Path; from pose_ros.training.run_folder import "
        f"alone\nwith alone(Path({str(folder)!r})):\n    print('in', flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", hold], env=env, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(ConfigError, match=rf"process {other.pid} on .* trains there"):
            run(dots.config(out=str(folder)))
        other.kill()  # no chance to take its lock away
        other.wait()
    assert [p.name for p in folder.iterdir()] == [LOCK]
    with alone(folder):
        assert (folder / LOCK).read_text().startswith(f"process {os.getpid()} ")
    assert not list(folder.iterdir())


def test_a_folder_that_got_nothing_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(ConfigError), alone(tmp_path / "new"):
        raise ConfigError("no data")
    assert not (tmp_path / "new").exists()
    with alone(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_one_of_several_processes_says_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pose_ros.training.train.main", lambda *_: {"net": "x"})
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert command([]) == 0
        said.append(capsys.readouterr().out)
    assert said == ['{"net": "x"}\n', ""]
