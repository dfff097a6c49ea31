"""The loop: schedules, resuming to the bit, several processes, and what ends a run."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dots
import pytest
import torch
from torch import nn

from pose_ros.errors import ConfigError
from pose_ros.training import checkpoints, loop, losses
from pose_ros.training.config import OptimConfig
from pose_ros.training.loop import Diverged, lr_factor, make_optimizer
from pose_ros.training.norms import SharedBatchNorm2d, share_batch_norms
from pose_ros.training.objectives import Trainee
from pose_ros.training.train import make_net, run
from pose_ros.training.windows import WindowDataset

pytest.importorskip("lightning")

HERE = Path(__file__).parent


#: A small HSTPN; and a network without batch norms.
HSTPN = {
    "joints": 17, "size_hw_px": [64, 32], "channels": 16, "backbone": "resnet",
    "blocks": [1, 1, 1, 1], "base": 4,
}  # fmt: skip
NO_NORM = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head": "simple"}


def weights(folder: Path, name: str = "last.ckpt", part: str = "model") -> dict[str, Any]:
    return checkpoints.load(folder / name)[part]


def differ(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    assert set(a) == set(b)
    return [n for n in a if not torch.equal(a[n], b[n])]


def test_multistep_is_the_papers() -> None:
    # PSTPose: 2e-4, 2e-5, 2e-6, 2e-7 from epochs 6, 12, 16 on; 10 steps per epoch
    config = OptimConfig(schedule="multistep", milestones=(6, 12, 16), gamma=0.1)
    rates = [2e-4 * lr_factor(config, 10 * epoch, 10, 200) for epoch in (0, 5, 6, 11, 12, 15, 16)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5, 2e-5, 2e-6, 2e-6, 2e-7])
    assert lr_factor(config, 59, 10, 200) == 1.0


def test_linear_warms_up_and_falls_to_zero() -> None:
    config = OptimConfig(schedule="linear", warmup_share=0.1)  # 10 of 100 steps
    assert lr_factor(config, 0, 10, 100) == pytest.approx(0.1)
    assert lr_factor(config, 9, 10, 100) == 1.0
    assert lr_factor(config, 55, 10, 100) == pytest.approx(0.5)
    assert lr_factor(config, 100, 10, 100) == 0.0
    cosine = OptimConfig(schedule="cosine")
    assert lr_factor(cosine, 50, 10, 100) == pytest.approx(0.5)


def test_backbone_and_norms_have_their_own_groups() -> None:
    trainee = Trainee(make_net(dots.config()), dots.config())
    config = OptimConfig(lr=1.0, weight_decay=0.1)
    optimizer = make_optimizer(trainee, config, 1.0, 0.1)
    rows = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups}
    assert set(rows) == {(0.1, 0.1), (0.1, 0.0), (1.0, 0.1), (1.0, 0.0)}
    assert sum(rows.values()) == len([p for p in trainee.parameters() if p.requires_grad])


def test_lower_layers_of_a_vit_learn_more_slowly() -> None:
    trainee = Trainee(make_net(dots.config()), dots.config())  # two blocks
    optimizer = make_optimizer(trainee, OptimConfig(lr=1.0, layer_decay=0.5), 1.0, 0.1)
    rate = {id(p): g["base_lr"] for g in optimizer.param_groups for p in g["params"]}
    found = {n: rate[id(p)] for n, p in trainee.named_parameters() if p.requires_grad}
    backbone = {
        "patch_embed.weight": 0.0125, "pos_embed": 0.0125, "blocks.0.norm1.weight": 0.025,
        "blocks.1.norm1.weight": 0.05, "norm.weight": 0.1,
    }  # fmt: skip
    assert {n: found[f"net.backbone.{n}"] for n in backbone} == pytest.approx(backbone)
    assert {r for n, r in found.items() if ".backbone." not in n} == {1.0}


def test_layers_of_another_backbone_are_not_decayed() -> None:
    trainee = Trainee(make_net(dots.config(HSTPN, net__name="hstpn_robot")), dots.config())
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5: expected a ViT.*backbone_mult"):
        make_optimizer(trainee, OptimConfig(layer_decay=0.5), 1.0, 1.0)


def test_a_frozen_backbone_stays_as_it_is(tmp_path: Path) -> None:
    config = dots.config(out=str(tmp_path), net__freeze=True, train__epochs=1)
    before = make_net(config).state_dict()
    run(config)
    after = weights(tmp_path, part="net")
    changed = differ(before, after)
    assert not [n for n in changed if n.startswith("backbone.")]
    assert [n for n in changed if n.startswith("head.")]


@pytest.mark.parametrize("where", [3, 2])
def test_a_run_that_was_killed_continues_to_the_bit(tmp_path: Path, where: int) -> None:
    """Three steps an epoch: stops at the end of an epoch and in the middle of one."""

    def train(folder: str, **changes: object) -> Path:
        out = tmp_path / folder
        # it has dropout, which a frozen ViT has not; weights are averaged, too
        run(dots.config(HSTPN, net__name="hstpn_robot", train__ema=0.9, out=str(out), **changes))
        return out

    whole = train("whole")
    train("parts", train__max_steps=where)
    parts = train("parts", resume="must")
    for part in ("model", "net"):
        assert differ(weights(whole, part=part), weights(parts, part=part)) == []
    optimizer = [weights(f, part="optimizer")["state"] for f in (whole, parts)]
    assert all(differ(optimizer[0][k], optimizer[1][k]) == [] for k in optimizer[0])
    assert weights(parts, part="progress")["step"] == 6
    rows = [list(csv.reader((f / "metrics.csv").open())) for f in (whole, parts)]
    losses = [[r for r in found if r[1] == "train/total"] for found in rows]
    assert losses[0] == losses[1]  # one file, nothing twice
    assert len(losses[0]) == 6


def test_a_killed_process_continues_to_the_bit(tmp_path: Path) -> None:
    """SIGKILL somewhere in the run, then the same again."""
    script = [sys.executable, str(HERE / "two_processes.py")]
    rules = ["train.epochs=5", "train.checkpoint_s=0"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*script, str(tmp_path / "killed"), *rules], env=env) as process:
        while not (tmp_path / "killed" / "last.ckpt").is_file():
            assert process.poll() is None
        process.kill()
    step = weights(tmp_path / "killed", part="progress")["step"]
    for folder in ("killed", "whole"):
        run(dots.config(out=str(tmp_path / folder), train__epochs=5, train__checkpoint_s=0))
    assert 0 < step < 15
    assert differ(weights(tmp_path / "killed"), weights(tmp_path / "whole")) == []


def test_a_continued_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    run(dots.config(out=str(tmp_path), train__max_steps=1))
    with pytest.raises(ConfigError, match=r"another optim\.lr: give this one another folder"):
        run(dots.config(out=str(tmp_path), optim__lr=1e-2))
    run(dots.config(out=str(tmp_path), optim__lr=1e-2, resume="never", train__max_steps=1))
    assert weights(tmp_path, part="progress")["step"] == 1


def test_micro_batches_learn_the_same(tmp_path: Path) -> None:
    """Without batch norms, which see a micro-batch only."""
    found = []
    for size in (0, 1, 3):
        folder = tmp_path / str(size)
        changes = {"train__micro_batch": size, "optim__name": "sgd", "train__max_steps": 2}
        run(dots.config(NO_NORM, net__name="vitpose_s", out=str(folder), **changes))
        found.append(weights(folder))
    for other in found[1:]:
        assert max((found[0][n] - other[n]).abs().max() for n in other) < 1e-6


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    """Batch norms included: they see the batches of both."""
    rules = ["train.max_steps=4", "optim.name=sgd", "optim.lr=0.05", "train.max_minutes=9"]
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    env |= {"MASTER_ADDR": "127.0.0.1"}
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
    ]  # fmt: skip
    script = str(HERE / "two_processes.py")
    both = [*torchrun, script, str(tmp_path / "two"), *rules]
    done = subprocess.run(both, env=env, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    run(dots.config(
        out=str(tmp_path / "one"), train__max_steps=4, optim__name="sgd", optim__lr=0.05
    ))  # fmt: skip
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    start = make_net(dots.config()).state_dict()
    moved = max((one[f"net.{n}"] - t).abs().max() for n, t in start.items() if t.ndim > 1)
    worst = max((one[n].float() - two[n].float()).abs().max() for n in one)
    assert moved > 1e-3
    assert worst < 1e-5
    numbers = [json.loads((tmp_path / f / "metrics.json").read_text()) for f in ("one", "two")]
    losses = [found["best"]["loss"] for found in numbers]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2


def test_shared_norm_alone_is_torchs_and_keeps_names() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    shared = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    shared.load_state_dict(plain.state_dict())
    assert share_batch_norms(shared) == 1
    assert isinstance(shared[1], SharedBatchNorm2d)
    x = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(plain(x), shared(x))
    assert differ(plain.state_dict(), shared.state_dict()) == []


def test_a_nan_loss_stops_with_the_batch_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainee.objective

    def broken(self: Trainee, out: Any, batch: Any) -> dict[str, torch.Tensor]:
        terms = real(self, out, batch)
        if 5 in batch["index"].tolist() and int(batch["epoch"][0]) == 1:
            terms["total"] = terms["total"] * float("nan")
        return terms

    monkeypatch.setattr(Trainee, "objective", broken)
    with pytest.raises(Diverged, match=r"step \d: expected a finite loss.*total=nan.*bad_batch_"):
        run(dots.config(out=str(tmp_path), train__epochs=3))
    (file,) = tmp_path.glob("bad_batch_*.pt")
    saved = checkpoints.load(file)
    assert 5 in saved["batch"]["index"].tolist()
    assert saved["batch"]["frames"].shape == (4, 3, 3, 64, 48)
    assert all(t.isfinite().all() for t in weights(tmp_path).values())  # the last good ones


def test_a_nan_loss_before_the_first_checkpoint_names_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainee, out: Any, batch: Any) -> dict[str, torch.Tensor]:
        return {"total": out.heatmaps.sum() * float("nan")}

    monkeypatch.setattr(Trainee, "objective", broken)
    with pytest.raises(Diverged, match=r"no checkpoint was written yet.*begins anew") as told:
        run(dots.config(out=str(tmp_path)))
    assert "last good" not in str(told.value)
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_full_disk_ends_the_run_with_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = torch.save, [0]

    def full(state: object, file: Any) -> None:
        count[0] += 1
        if count[0] > 2:  # best and last of epoch 1 fit
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(checkpoints.CheckpointError, match="No space left"):
        run(dots.config(out=str(tmp_path), train__epochs=3))
    monkeypatch.undo()
    assert weights(tmp_path, part="progress")["epoch"] == 1
    run(dots.config(out=str(tmp_path), train__epochs=3, resume="must"))
    assert weights(tmp_path, part="progress")["epoch"] == 3


def test_early_stopping(tmp_path: Path) -> None:
    config = dots.config(out=str(tmp_path), train__epochs=9, train__patience=2, optim__lr=0.0)
    assert run(config)["epochs"] == 3  # the first is the best, two more are not better


def test_a_run_that_stopped_early_is_over(tmp_path: Path) -> None:
    settings = {"out": str(tmp_path), "train__epochs": 40, "train__patience": 2, "optim__lr": 0.0}
    first = run(dots.config(**settings))
    before = weights(tmp_path)
    again = run(dots.config(**settings))
    assert again["epochs"] == first["epochs"] < 40
    assert differ(weights(tmp_path), before) == []
    more = run(dots.config(**{**settings, "train__patience": 4}))
    assert more["epochs"] == first["epochs"] + 2


def test_asked_to_stop_it_saves_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop._Run._step

    def step(self: Any, batch: Any) -> Any:
        answer = real(self, batch)
        if self.at.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return answer

    monkeypatch.setattr(loop._Run, "_step", step)
    with pytest.raises(loop.Stopped, match="stopped at step 2"):
        run(dots.config(out=str(tmp_path)))
    assert weights(tmp_path, part="progress")["step"] == 2


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_whose_time_is_over_goes_on_to_the_same_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ema: float
) -> None:
    """Every call does one step, for the time was over before it; the last one has none to do."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(dots.config(out=str(whole), train__ema=ema))
    caplog.set_level("INFO", logger="pose_ros")
    answers = []
    for call in range(1, 9):
        answers.append(run(dots.config(
            out=str(parts), train__ema=ema, train__max_minutes=1e-6
        )))  # fmt: skip
        assert weights(parts, part="progress")["step"] == min(call, 6)
        numbers = json.loads((parts / "metrics.json").read_text())
        if "stopped" not in answers[-1]:
            break
        assert numbers["stopped"] == "time"
        assert Path(answers[-1]["card"]).is_file()  # of the best weights, or of the last
        assert f"stops after step {call} of 6, kept in {parts / 'last.ckpt'}" in caplog.text
    assert [a.get("stopped") for a in answers] == ["time"] * 6 + [None]
    assert "stopped" not in numbers
    assert [a["epochs"] for a in answers] == [0, 0, 0, 1, 1, 1, 2]
    assert [bool(a["best"]) for a in answers] == [False] * 3 + [True] * 4
    for part in ("model", "net"):
        assert differ(weights(whole, part=part), weights(parts, part=part)) == []
    assert differ(weights(whole, "best.ckpt", "net"), weights(parts, "best.ckpt", "net")) == []
    assert checkpoints.load(whole / "last.ckpt")["best"] == answers[-1]["best"]
    name = "tiny_test.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()


def test_time_that_is_long_enough_changes_nothing(tmp_path: Path) -> None:
    config = dots.config(out=str(tmp_path), train__max_minutes=60.0, train__epochs=1)
    assert "stopped" not in run(config)


def test_a_first_stage_whose_time_is_over_makes_no_card(tmp_path: Path) -> None:
    """Its head is for the second stage, of which nothing is there yet."""
    rules = {"stage1__epochs": 1, "net__freeze": True, "out": str(tmp_path)}
    answer = run(dots.config(train__max_minutes=1e-6, **rules))
    assert (answer["stopped"], answer["card"], answer["epochs"]) == ("time", None, 0)
    assert weights(tmp_path / "stage1", part="progress")["step"] == 1
    assert not list(tmp_path.glob("*.safetensors"))
    done = run(dots.config(**rules))
    assert done["epochs"] == 2
    assert Path(done["card"]).is_file()
    assert weights(tmp_path / "stage1", part="progress")["step"] == 3


def test_mixed_precision_learns(tmp_path: Path) -> None:
    config = dots.config(out=str(tmp_path), train__precision="bf16-mixed", train__max_steps=2)
    run(config)
    assert all(t.dtype != torch.bfloat16 for t in weights(tmp_path).values())


def test_waiting_for_data_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = WindowDataset.__getitem__

    def slow(self: WindowDataset, key: tuple[int, int]) -> Any:
        time.sleep(0.1)  # 4 windows a step: 0.4 s against some 20 ms of work
        return real(self, key)

    def waited(folder: str) -> dict[str, float]:
        run(dots.config(out=str(tmp_path / folder), train__epochs=1, data__val=[]))
        return json.loads((tmp_path / folder / "metrics.json").read_text())

    quick = waited("quick")
    assert 0.0 < quick["data_wait"] < 1.0
    monkeypatch.setattr(WindowDataset, "__getitem__", slow)
    held_up = waited("slow")
    assert held_up["windows_per_s"] < 10  # 12 windows in at least 1.2 s
    seconds = held_up["data_wait"] * 12 / held_up["windows_per_s"]
    assert seconds > 1.15  # however busy the machine: the wait was 1.2 s at least


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda or cuda:N, got 'tpu'"):
        run(dots.config(out=str(tmp_path), device="tpu"))


def test_an_information_term_that_is_too_heavy_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(losses, "INFORMATION_STEPS", 2)
    monkeypatch.setattr(losses, "INFORMATION_SHARE", 1e-6)
    config = dots.config(
        {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head_channels": 16},
        net__name="stdpose_vitl", train__epochs=2, out=str(tmp_path / "run"),
    )  # fmt: skip
    run(config)
    said = [r.getMessage() for r in caplog.records if "information term" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith("step 2:")
