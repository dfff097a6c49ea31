"""Checkpoints: whole or not there."""

import errno
import os
import subprocess
from pathlib import Path
from typing import IO

import pytest
import torch
from torch import nn

from pose_ros.errors import WeightsError
from pose_ros.training import checkpoints
from pose_ros.training.checkpoints import Average, CheckpointError


def test_a_state_comes_back(tmp_path: Path) -> None:
    state = {"net": {"w": torch.randn(3)}, "progress": {"step": 4, "best": None}, "config": [1]}
    checkpoints.save(tmp_path / "a" / "last.ckpt", state)
    again = checkpoints.load(tmp_path / "a" / "last.ckpt")
    assert torch.equal(again["net"]["w"], state["net"]["w"])
    assert (again["progress"], again["config"]) == ({"step": 4, "best": None}, [1])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints.save(path, {"step": 1})

    def half(_state: object, file: IO[bytes]) -> None:
        file.write(b"half of a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match=r"No space left.*the last good one is untouched"):
        checkpoints.save(path, {"step": 2})
    assert checkpoints.load(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]  # no half file stays behind


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints.save(path, {"step": 1})
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: real(Path("/dev/full"), *a, **k))
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.save(path, {"w": torch.zeros(100000)})
    monkeypatch.undo()
    assert checkpoints.load(path) == {"step": 1}


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    checkpoints.save(path, {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(WeightsError, match=r"got 700 bytes that cannot be read"):
        checkpoints.load(path)
    with pytest.raises(WeightsError, match="found no file"):
        checkpoints.load(tmp_path / "none.ckpt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    torch.save({"net": print}, path)
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoints.load(path)


def test_an_average_by_hand() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average = Average(net, decay=0.5)
    nn.init.ones_(net.weight)
    average.update(net, step=100)  # (1 + 100) / (10 + 100) > 0.5: the decay is 0.5
    average.update(net, step=101)
    assert average.state["weight"].item() == 0.75
    average.update(net, step=0)  # early: decay 1 / 10
    assert average.state["weight"].item() == pytest.approx(0.75 * 0.1 + 0.9)
    with average.in_place_of(net):
        assert net.weight.item() == pytest.approx(0.975)
    assert net.weight.item() == 1.0


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    parts = {
        "dead": f".last.ckpt.{gone.pid}.part",
        "fresh": f".last.ckpt.{gone.pid + 1}.part",  # perhaps of another machine
        "alive": f".last.ckpt.{os.getppid()}.part",
        "other": f".best.ckpt.{gone.pid}.part",
    }
    for name, part in parts.items():
        (tmp_path / part).write_bytes(b"half")
        if name != "fresh":
            os.utime(tmp_path / part, (1.0, 1.0))
    checkpoints.save(path, {"step": 1})
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"last.ckpt", parts["fresh"], parts["alive"], parts["other"]}


def test_text_is_whole_or_as_before_and_a_device_gets_it_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answer.json"
    checkpoints.write_text(path, "old ä")
    assert path.read_text(encoding="utf-8") == "old ä"

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old ä"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
        checkpoints.write_text(pipe, "said")
        assert reader.communicate()[0] == "said"
    assert pipe.is_fifo()
