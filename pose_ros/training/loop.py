"""The training loop, on Lightning Fabric: `fit` one network on windows, resumable to the bit.

Nothing random is carried from step to step: order and augmentation follow from (seed, epoch,
index), dropout from (seed, step, process). A run that was killed therefore continues exactly where
its checkpoint stands. Which learning rate a step has is a function of the step alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.training import checkpoints
from pose_ros.training.checkpoints import BEST, LAST, Average, Progress
from pose_ros.training.config import OptimConfig, TrainConfig, flatten
from pose_ros.training.logs import RunLog, peak_rss_mb
from pose_ros.training.losses import information_outweighs
from pose_ros.training.norms import share_batch_norms
from pose_ros.training.objectives import Trainee
from pose_ros.training.run_folder import check_same
from pose_ros.training.validate import Judge, validate
from pose_ros.training.windows import EpochSampler, Item, ValidationSampler, loader, plain_errors

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger(__name__)

LOG_EVERY_S = 1.0
STAGE1_BACKBONE_MULT = 0.1  # learning rate of the backbone in stage 1, where it learns at all


class Diverged(PoseRosError, ArithmeticError):
    """The loss or its gradient is not finite; the batch was saved."""


class Stopped(PoseRosError):
    """The run was asked to stop and saved where it was."""


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    epochs: int  # done
    steps: int
    best: dict[str, float]  # metrics of the best validation, empty without one
    metrics: dict[str, float]  # windows_per_s, data_wait, peak_rss_mb, ...
    checkpoint: Path  # the best weights, or the last ones without validation
    stopped: str = ""  # "time" where train.max_minutes ended it


def open_fabric(config: TrainConfig) -> Fabric:
    """Fabric for this process: alone, or one of those that torchrun started.

    Raises:
        ConfigError: lightning is not installed, or the device is not there.

    """
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy
    except ImportError as error:
        raise ConfigError(
            "training needs lightning: pip install 'pose_ros[train]' (lightning, tensorboard)"
        ) from error
    for noisy in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    accelerator, devices = _device(config.device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=_precision(config))
    else:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
        backend = "gloo" if accelerator == "cpu" else "nccl"
        strategy = DDPStrategy(process_group_backend=backend, find_unused_parameters=True)
        fabric = Fabric(
            accelerator=accelerator, devices=local, num_nodes=max(world // local, 1),
            strategy=strategy, precision=_precision(config),
        )  # fmt: skip
    fabric.launch()
    return fabric


def _precision(config: TrainConfig) -> Any:
    return config.train.precision


def _device(name: str) -> tuple[str, Any]:
    """Fabric's accelerator and devices for a device's name."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got '{name}'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no CUDA device here; use device=cpu")
    return kind, [int(index)] if index else 1


def lr_factor(config: OptimConfig, step: int, steps_per_epoch: int, total: int) -> float:
    """Learning rate of a step over ``optim.lr``.

    Milestones are epochs, as the papers have them; linear and cosine fall to 0 at step ``total``.
    """
    warmup = config.warmup_steps + round(config.warmup_share * total)
    if step < warmup:
        return (step + 1) / warmup
    share = min((step - warmup) / max(total - warmup, 1), 1.0)
    if config.schedule == "linear":
        return 1.0 - share
    if config.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * share))
    if config.schedule == "multistep":
        epoch = step // steps_per_epoch
        return config.gamma ** sum(epoch >= m for m in config.milestones)
    return 1.0


def make_optimizer(
    module: nn.Module, config: OptimConfig, lr: float, backbone_mult: float
) -> torch.optim.Optimizer:
    """Optimiser of what learns: backbone (by layers) and rest, with and without weight decay.

    Raises:
        ConfigError: nothing learns, or there are no layers to decay by.

    """
    learns = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    rates = _layer_rates([n for n, _ in module.named_parameters()], config.layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in learns:
        decayed = config.decay_all or parameter.ndim > 1
        rate = lr * (backbone_mult if "net.backbone." in name else 1.0) * rates.get(name, 1.0)
        groups.setdefault((rate, decayed), []).append(parameter)
    if not groups:
        raise ConfigError("no parameter of the network learns: net.freeze and nothing else?")
    made: list[dict[str, Any]] = []
    for (rate, decayed), parameters in groups.items():
        decay = config.weight_decay if decayed else 0.0
        made.append({"params": parameters, "lr": rate, "base_lr": rate, "weight_decay": decay})
    if config.name == "sgd":
        return torch.optim.SGD(made, lr=lr, momentum=0.9)
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(made, lr=lr)


def _layer_rates(names: Sequence[str], decay: float) -> dict[str, float]:
    """Factor on the learning rate of every parameter of a ViT backbone, by name.

    Block i of n has ``decay ** (n - i)``, patches and positions ``decay ** (n + 1)``, what comes
    after the blocks 1. Source: ViTPose's released training code, after BEiT.

    Raises:
        ConfigError: the backbone has no blocks.

    """
    if decay == 1.0:
        return {}
    block = re.compile(r"net\.backbone\.blocks\.(\d+)\.")
    number = {n: int(m.group(1)) for n in names if (m := block.search(n))}
    if not number:
        raise ConfigError(
            f"optim.layer_decay={decay}: expected a ViT backbone (its layers are decayed), this "
            "network has another one: use optim.backbone_mult"
        )
    count = max(number.values()) + 1
    rates = {n: decay ** (count - i) for n, i in number.items()}
    for name in names:
        if name.endswith(("net.backbone.pos_embed",)) or "net.backbone.patch_embed." in name:
            rates[name] = decay ** (count + 1)
    return rates


def fit(
    trainee: Trainee,
    train: Dataset[Item],
    val: Dataset[Item] | None,
    config: TrainConfig,
    folder: Path,
    fabric: Fabric,
    judge: Judge | None = None,
    since_s: float | None = None,
    data: dict[str, Any] | None = None,
) -> Result:
    """Train until the epochs or the time are over, nothing gets better, or somebody asks to stop.

    ``judge`` measures what the validation windows alone do not tell (``train.monitor=map``).
    ``train.max_minutes`` counts from ``since_s`` (`time.monotonic`), without it from now.
    ``data`` says what is learned from (`logs.fingerprint` by name) and is kept in the checkpoint.

    Goes on from ``folder/last.ckpt`` if there is one and ``config.resume`` allows it.

    Raises:
        Diverged: the loss is not finite.
        CheckpointError: a checkpoint could not be written.
        ConfigError: the checkpoint is of a run with other settings or data.
        Stopped: on SIGTERM, after saving.

    """
    begun = time.monotonic() if since_s is None else since_s
    run = _Run(trainee, train, val, config, folder, fabric, data or {})
    run.judge = judge
    if config.train.max_minutes:
        run.ends_at = begun + 60.0 * config.train.max_minutes
    try:
        with _stoppable(run):
            return run.run()
    finally:
        run.log.close()


@contextlib.contextmanager
def _stoppable(run: _Run) -> Iterator[None]:
    """Let SIGTERM end a run after its step; only the main thread may do that."""

    def ask(_signal: int, _frame: object) -> None:
        run.asked_to_stop = True

    try:
        before = signal.signal(signal.SIGTERM, ask)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """State of one `fit`."""

    def __init__(
        self,
        trainee: Trainee,
        train: Dataset[Item],
        val: Dataset[Item] | None,
        config: TrainConfig,
        folder: Path,
        fabric: Fabric,
        data: dict[str, Any],
    ) -> None:
        """Set up module, optimiser, loaders and logs, and load the checkpoint if there is one."""
        self.config, self.folder, self.fabric, self.data = config, folder, fabric, data
        rules, world = config.train, fabric.world_size
        if rules.threads:
            torch.set_num_threads(rules.threads)
        if rules.sync_norm and world > 1:
            share_batch_norms(trainee)
        lr = (config.stage1.lr if trainee.still else 0.0) or config.optim.lr
        mult = STAGE1_BACKBONE_MULT if trainee.still else config.optim.backbone_mult
        optimizer = make_optimizer(trainee, config.optim, lr, mult)
        self.trainee = trainee
        self.module, self.optimizer = fabric.setup(trainee, optimizer)
        self.epochs = config.stage1.epochs if trainee.still else rules.epochs
        cuda, workers = fabric.device.type == "cuda", config.data.workers
        length = len(train)  # type: ignore[arg-type]
        self.sampler = EpochSampler(length, rules.batch, rules.seed, fabric.global_rank, world)
        self.loader = loader(train, self.sampler, workers, cuda)
        self.val_loader = None
        if val is not None:
            count, share = len(val), max(rules.batch // world, 1)  # type: ignore[arg-type]
            own = ValidationSampler(count, share, fabric.global_rank, world)
            self.val_loader = loader(val, own, workers, cuda)
        self.average = Average(trainee.net, rules.ema) if rules.ema else None
        if self.average is not None and config.loss.mean_teacher and not trainee.still:
            trainee.follow(self.average.module)
        self.at = Progress()
        self.best: dict[str, float] = {}
        self.judge: Judge | None = None
        self.asked_to_stop, self.warned = False, False
        self.ends_at = math.inf  # by time.monotonic
        self.stopped = ""
        self.clock = {"step_s": 0.0, "wait_s": 0.0, "windows": 0.0}
        self.saved_at = time.monotonic()
        self._resume()
        self.log = RunLog(folder, self.at.step, fabric.global_rank == 0)

    def run(self) -> Result:
        """Epoch after epoch."""
        early = self._stale()  # of a run that ended so before
        while self.at.epoch < self.epochs and not early:
            done = self._epoch()
            if not done:
                break
            early = self._close_epoch()
        self._save(LAST)
        self.fabric.barrier()
        name = BEST if (self.folder / BEST).is_file() else LAST
        return Result(
            self.at.epoch, self.at.step, self.best, self._numbers(), self.folder / name,
            self.stopped,
        )  # fmt: skip

    def _epoch(self) -> bool:
        """Steps of an epoch; whether it came to its end."""
        self.module.train()
        self.sampler.seek(self.at.epoch, self.at.batch)
        bar = self._bar()
        waited_since = time.perf_counter()
        logged_at, terms = 0.0, {}
        for batch in plain_errors(self.loader):
            begun = time.perf_counter()
            terms = self._step(self.fabric.to_device(batch))
            ended = time.perf_counter()
            self.clock["wait_s"] += begun - waited_since
            self.clock["step_s"] += ended - begun
            self.clock["windows"] += self.config.train.batch
            bar.update(1)
            if ended - logged_at > LOG_EVERY_S or len(self.loader) < 50:
                self._log_step(terms, bar)
                logged_at = ended
            if self._interrupted():
                bar.close()
                return False
            waited_since = time.perf_counter()
        bar.close()
        self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        return True

    def _interrupted(self) -> bool:
        """Save if it is time to; whether the run ends here."""
        limit = self.config.train.max_steps
        time_is_up = time.monotonic() >= self.ends_at
        stop = self._most(2 if self.asked_to_stop else int(time_is_up))  # alike in all processes
        if stop == 2:
            self._save(LAST)
            raise Stopped(f"stopped at step {self.at.step}, kept in {self.folder / LAST}")
        if stop == 1:  # `run` saves
            self.stopped = "time"
            log.info(
                "the time is up (train.max_minutes=%g): stops after step %d of %d, kept in %s; "
                "the same command goes on", self.config.train.max_minutes, self.at.step,
                self.epochs * self.sampler.steps, self.folder / LAST,
            )  # fmt: skip
            return True
        if time.monotonic() - self.saved_at > self.config.train.checkpoint_s:
            self._save(LAST)
        return bool(limit) and self.at.step >= limit

    def _most(self, here: int) -> int:
        """Return the largest number that any process has."""
        if self.fabric.world_size == 1:
            return here
        flag = torch.tensor(float(here), device=self.fabric.device)
        return round(float(torch.as_tensor(self.fabric.all_reduce(flag, reduce_op="max"))))

    def _step(self, batch: Item) -> dict[str, torch.Tensor]:
        """One optimiser step; the mean terms of the batch."""
        rules, optim = self.config.train, self.config.optim
        torch.manual_seed(_mix(rules.seed, self.at.step, self.fabric.global_rank))
        share = len(batch["cells"])
        size = rules.micro_batch or share
        total: dict[str, torch.Tensor] = {}
        for first in range(0, share, size):
            part = {n: t[first : first + size] for n, t in batch.items()}
            weight = len(part["cells"]) / share
            last = first + size >= share
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                terms = self.module(part)
                self.fabric.backward(terms["total"] * weight)
            for name, term in terms.items():
                if name != "heatmaps":
                    total[name] = total.get(name, 0.0) + term.detach() * weight
        bad = not bool(torch.isfinite(total["total"]))
        norm: torch.Tensor | None = None
        if optim.clip and not bad:
            norm = self.fabric.clip_gradients(
                self.module, self.optimizer, max_norm=optim.clip, error_if_nonfinite=False
            )
            scaled = rules.precision == "16-mixed"  # its scaler skips such a step by itself
            bad = not scaled and norm is not None and not bool(torch.isfinite(norm))
        if self._most(int(bad)):
            self._give_up(batch, total, float("nan") if norm is None else float(norm))
        self._set_rate()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.trainee.net, self.at.step)
        self.at.step += 1
        self.at.batch += 1
        return total

    def _set_rate(self) -> None:
        """Give every group its learning rate at this step."""
        total = self.epochs * self.sampler.steps
        factor = lr_factor(self.config.optim, self.at.step, self.sampler.steps, total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor

    def _give_up(self, batch: Item, terms: dict[str, torch.Tensor], norm: float) -> None:
        """Save the batch that broke the run, and end it."""
        name = f"bad_batch_{self.at.step}_{self.fabric.global_rank}.pt"
        values = {n: float(t) for n, t in terms.items()}
        plain = {n: t.cpu() for n, t in batch.items()}
        checkpoints.save(self.folder / name, {"batch": plain, "terms": values, "norm": norm})
        raise Diverged(
            f"step {self.at.step}: expected a finite loss and gradient, got "
            f"{', '.join(f'{n}={v:.3g}' for n, v in values.items())}, gradient norm {norm:.3g}; "
            f"the batch is in {self.folder / name}, {self._kept()}. Look at the batch; a "
            "lower optim.lr or train.precision=32-true begins anew (out=..., or resume=never)"
        )

    def _kept(self) -> str:
        """Where the weights before this step are, for messages."""
        path = self.folder / LAST
        if path.is_file():
            return f"the last good weights in {path}"
        return "no checkpoint was written yet (train.checkpoint_s)"

    def _close_epoch(self) -> bool:
        """Validate and save; whether the run shall stop early."""
        rules = self.config.train
        stop = False
        due = self.at.epoch % rules.val_every == 0 or self.at.epoch == self.epochs
        if self.val_loader is not None and due:
            found = self._validate()
            sign = -1.0 if rules.monitor == "loss" else 1.0
            score = sign * found[rules.monitor]
            if self.at.best is None or score > self.at.best:
                self.at = dataclasses.replace(
                    self.at, best=score, best_epoch=self.at.epoch, stale=0
                )
                self.best = {**found, "epoch": float(self.at.epoch)}
                self._save(BEST)
            else:
                self.at.stale += 1
            stop = self._stale()
        self._save(LAST)
        return stop

    def _stale(self) -> bool:
        """Whether nothing got better for as long as somebody is patient."""
        patience = self.config.train.patience
        return bool(patience) and self.at.stale >= patience

    def _validate(self) -> dict[str, float]:
        """Metrics of the (averaged) weights on the validation windows of all processes."""
        scope: Any = contextlib.nullcontext()
        if self.average is not None:
            scope = self.average.in_place_of(self.trainee.net)
        with scope:
            found = validate(
                self.trainee,
                self.val_loader,
                self.fabric,
                self.judge,  # type: ignore[arg-type]
            )
        values = {f"val/{name}": value for name, value in found.items()}
        self.log.write(self.at.step, values)
        if self.fabric.global_rank == 0:
            text = ", ".join(f"{n} {v:.4f}" for n, v in found.items())
            log.info("epoch %d of %d: %s", self.at.epoch, self.epochs, text)
        return found

    def _save(self, name: str) -> None:
        """Write a checkpoint, from process 0; the best one has the weights only."""
        self.saved_at = time.monotonic()
        if self.fabric.global_rank != 0:
            return
        net = self.trainee.net.state_dict() if self.average is None else self.average.state
        state: dict[str, Any] = {"net": net, "best": self.best, "config": flatten(self.config)}
        if name == LAST:
            state |= {
                "model": self.trainee.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": dataclasses.asdict(self.at),
                "precision": self.fabric.strategy.precision.state_dict(),
                "data": self.data,
            }
        checkpoints.save(self.folder / name, state)

    def _resume(self) -> None:
        """Go on from the last checkpoint, if there is one and it is wanted."""
        path, mode = self.folder / LAST, self.config.resume
        if mode == "never":
            self.fabric.barrier()
            if self.fabric.global_rank == 0:
                for name in (LAST, BEST):
                    (self.folder / name).unlink(missing_ok=True)
        if mode == "never" or (mode == "auto" and not path.is_file()):
            return
        state = checkpoints.load(path)
        check_same(path, state, self.config, self.data)
        self.trainee.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.at = Progress(**state["progress"])
        self.best = state["best"]
        if self.average is not None:
            self.average.load(state["net"])
        log.info("goes on from %s: epoch %d, step %d", path, self.at.epoch, self.at.step)

    def _bar(self) -> Any:
        """Progress bar of an epoch; none where stderr is no terminal."""
        quiet = self.fabric.global_rank != 0 or not sys.stderr.isatty()
        return tqdm(
            total=self.sampler.steps, initial=self.at.batch, disable=quiet, unit="step",
            desc=f"epoch {self.at.epoch + 1}/{self.epochs}",
        )  # fmt: skip

    def _log_step(self, terms: dict[str, torch.Tensor], bar: Any) -> None:
        """Write the latest terms and how busy the trainer is."""
        numbers = {name: float(term) for name, term in terms.items()}
        if not self.warned and information_outweighs(numbers, self.at.step):
            self.warned = True
            log.warning(
                "step %d: STDPose's information term is %.2g, the heatmaps' error %.2g: it should "
                "be a small part of it (loss.mi=off leaves it out)", self.at.step,
                numbers["information"], numbers["heatmap"],
            )  # fmt: skip
        values = {f"train/{name}": number for name, number in numbers.items()}
        values["train/lr"] = float(self.optimizer.param_groups[-1]["lr"])
        values |= {f"speed/{name}": value for name, value in self._numbers().items()}
        self.log.write(self.at.step, values)
        bar.set_postfix(loss=f"{values['train/total']:.2e}", refresh=False)

    def _numbers(self) -> dict[str, float]:
        """Throughput over all processes, share of the time spent waiting for data, memory."""
        busy, wait = self.clock["step_s"], self.clock["wait_s"]
        numbers = {
            "windows_per_s": self.clock["windows"] / max(busy + wait, 1e-9),
            "data_wait": wait / max(busy + wait, 1e-9),
            "peak_rss_mb": peak_rss_mb(),
        }
        if self.fabric.device.type == "cuda":
            numbers["gpu_mb"] = torch.cuda.max_memory_allocated(self.fabric.device) / 2**20
        return numbers


def _mix(seed: int, step: int, rank: int) -> int:
    """A seed for the noise of one step in one process."""
    return (seed * 1000003 + step * 8191 + rank * 131071 + 1) % (2**63)
