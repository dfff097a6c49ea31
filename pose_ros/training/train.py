"""Train a network: ``python -m pose_ros.training.train CONFIG.yaml [key=value ...]``.

CONFIG.yaml is a recipe (config/train/). Any setting can be given on the command line by its dotted
name, for example optim.lr=1e-4 train.epochs=2 'data.train=synthetic:?clips=40'; lists are A,B or
[A, B]. The same command goes on where a killed run stopped, or one whose time was over
(train.max_minutes=20; scripts/train does it for a machine that is lent). Under torchrun it is one
of several processes, which together learn what one would:

  torchrun --nproc-per-node 2 -m pose_ros.training.train config/train/tiny.yaml device=cpu

Everything is in the folder `out`: config.yaml, run.json (commit, data), metrics.csv, tensorboard/,
last.ckpt, best.ckpt, metrics.json, and at the end the weights with their card.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from pose_ros.core.skeletons import get_skeleton
from pose_ros.errors import ConfigError, PoseRosError, WeightsError
from pose_ros.nets.registry import build_net
from pose_ros.nets.video import VideoPoseNet
from pose_ros.training import checkpoints
from pose_ros.training.card import start_from, write_card
from pose_ros.training.config import TrainConfig, read_recipe, walk
from pose_ros.training.consistency import pseudo_labelled
from pose_ros.training.datasets import Subset, parse_spec
from pose_ros.training.datasets.base import ClipDataset
from pose_ros.training.features import store
from pose_ros.training.logs import command_line, fingerprint, write_run
from pose_ros.training.loop import Result, fit, open_fabric
from pose_ros.training.monitor import PosevalJudge
from pose_ros.training.objectives import Trainee, share_head
from pose_ros.training.run_folder import alone, check_continued
from pose_ros.training.windows import Item, Joined, WindowConfig, WindowDataset

if TYPE_CHECKING:
    from lightning.fabric import Fabric

log = logging.getLogger(__name__)


def make_net(config: TrainConfig) -> VideoPoseNet:
    """Network of a config, seeded, with the weights it starts from.

    Raises:
        ConfigError: no such network or option, or it is no video network.
        WeightsError: a card of ``net.init`` is missing or of another network.

    """
    torch.manual_seed(config.train.seed)
    net = build_net(config.net.name, **config.net.options)
    if not isinstance(net, VideoPoseNet):
        raise ConfigError(
            f"net.name={config.net.name}: expected a network that learns heatmaps of a window or "
            f"a still, got {type(net).__name__}"
        )
    for name in config.net.init:
        try:
            taken = start_from(net, name, config.crop.joints)
        except WeightsError as error:
            raise WeightsError(
                f"net.init: {error}. Cards of public checkpoints are made by "
                "python -m pose_ros.tools.import_weights; net.init= starts with random weights"
            ) from error
        log.info("starts with %d tensors of %s", len(taken), name)
    return net


def window_config(config: TrainConfig, net: VideoPoseNet, augmented: bool) -> WindowConfig:
    """What the windows of a network have to be.

    Raises:
        ConfigError: the camera shall turn between the frames of a network that sees one frame.

    """
    if config.augment.ego_p and net.window.frames == 1:
        raise ConfigError(
            f"augment.ego_p={config.augment.ego_p}: expected a network with a window, "
            f"{config.net.name} sees one frame"
        )
    return WindowConfig(
        config.crop,
        config.augment if augmented else None,
        net.window,
        net.size_hw_px,
        get_skeleton(config.crop.joints),
        config.train.seed,
        config.data.spread if augmented else 0,
        augmented and config.loss.mean_teacher > 0,
        augmented and config.loss.views > 0,
        augmented and config.loss.pseudo_weight != 1.0,
    )


def open_data(
    specs: Sequence[str], wanted: WindowConfig, pseudo: Sequence[ClipDataset] = ()
) -> Joined:
    """Data sets of specifications in the wanted windows and joint set.

    Raises:
        ConfigError: an unknown data set or option, or one without a joint that is learned.
        SourceError: its files are missing.

    """
    parts: list[ClipDataset] = [parse_spec(spec, **wanted.asked) for spec in specs]
    return Joined([*parts, *pseudo], wanted.skeleton)


def limited(clips: Joined, limit: int) -> ClipDataset:
    """At most ``limit`` samples, spread over all of them; 0 is all."""
    if not limit or limit >= len(clips):
        return clips
    return Subset(clips, [i * len(clips) // limit for i in range(limit)])


def run(config: TrainConfig, since_s: float | None = None) -> dict[str, Any]:
    """Train, write the card, and say what it came to.

    ``train.max_minutes`` counts from ``since_s`` (`time.monotonic`), without it from now.

    Raises:
        PoseRosError: whatever is wrong with settings, data, weights, disk or the loss.

    """
    begun = time.monotonic() if since_s is None else since_s
    folder = Path(config.out or f"runs/{config.name}")
    fabric = open_fabric(config)
    log.info("learns on %s", fabric.device)
    net = make_net(config)
    with alone(folder) if fabric.global_rank == 0 else contextlib.nullcontext():
        return _run(config, net, folder, fabric, begun)


def _run(
    config: TrainConfig, net: VideoPoseNet, folder: Path, fabric: Fabric, begun: float
) -> dict[str, Any]:
    """`run` in a folder that nobody else is in."""
    train, val = _data(config, net, folder, fabric)
    data = {n: fingerprint(d.clips) for n, d in (("train", train), ("val", val)) if d}
    check_continued(folder, config, data)
    if fabric.global_rank == 0:
        write_run(folder, config, data, fabric.world_size)
    sets, first = (train, val, data), None
    if config.stage1.epochs:
        own = getattr(net, "config", None)  # stage 1 has its own idea of what is frozen
        first = _stage(config, net, sets, folder / "stage1", fabric, begun, still=True)
        if first.stopped:
            return _unfinished(config, first, (folder, fabric))
        net.config = own  # type: ignore[assignment]
        net.load_state_dict(checkpoints.load(first.checkpoint)["net"])
        log.info("stage 1 done; its head went to %s", ", ".join(share_head(net)) or "no other")
    result = _stage(config, net, sets, folder, fabric, begun)
    return _finish(config, net, result, first, (folder, fabric))


def _data(
    config: TrainConfig, net: VideoPoseNet, folder: Path, fabric: Fabric
) -> tuple[WindowDataset, WindowDataset | None]:
    """Training and validation windows."""
    wanted = window_config(config, net, augmented=True)
    pseudo: list[ClipDataset] = []
    for spec in config.data.pseudo:
        with fabric.rank_zero_first():
            plain = parse_spec(spec, **wanted.asked)
            pseudo.append(pseudo_labelled(plain, config.teacher, folder, fabric.device))
    train = open_data(config.data.train, wanted, pseudo)
    missing = train.unlabelled_joints()
    if missing and not config.data.missing_joints:
        raise ConfigError(
            f"no training set labels {', '.join(missing)} of {wanted.skeleton.name}: choose "
            "another crop.joints, or data.missing_joints=true to leave them untrained"
        )
    val = None
    if config.data.val:
        plain_windows = window_config(config, net, augmented=False)
        found = limited(open_data(config.data.val, plain_windows), config.data.val_limit)
        val = WindowDataset(found, plain_windows)
    return WindowDataset(limited(train, config.data.limit), wanted), val


def _stage(
    config: TrainConfig,
    net: VideoPoseNet,
    data: tuple[WindowDataset, WindowDataset | None, dict[str, Any]],
    folder: Path,
    fabric: Fabric,
    begun_s: float,
    still: bool = False,
) -> Result:
    """One stage of training, in a command that began at ``begun_s`` (`time.monotonic`).

    ``data`` are windows to learn from and to validate on, and what the checkpoint says of them.
    """
    trainee = Trainee(net, config, still)
    sets: list[Dataset[Item] | None] = list(data[:2])
    if config.cache.variants:
        trainee.to(fabric.device)
        root = folder.parent if still else folder  # both stages read the same features
        where = Path(config.cache.folder) if config.cache.folder else root
        for i, windows in enumerate(data[:2]):
            if windows is not None:
                variants = 1 if i else config.cache.variants
                with fabric.rank_zero_first():
                    sets[i] = store(windows, trainee, where, variants, fabric.device)
    assert sets[0] is not None
    judge = None
    if config.train.monitor == "map" and data[1] is not None:
        judge = PosevalJudge(data[1].clips, data[1].config)
    return fit(trainee, sets[0], sets[1], config, folder, fabric, judge, begun_s, data[2])


def _unfinished(config: TrainConfig, first: Result, where: tuple[Path, Fabric]) -> dict[str, Any]:
    """Answer and metrics of a run whose time was over in stage 1: there is no card yet."""
    folder, fabric = where
    answer: dict[str, Any] = {
        "net": config.net.name, "epochs": 0, "best": {}, "checkpoint": str(first.checkpoint),
        "card": None, "stopped": first.stopped,
    }  # fmt: skip
    if fabric.global_rank == 0:
        numbers = {**answer, "steps": 0, "stage1": {**first.best, **first.metrics}}
        checkpoints.write_text(folder / "metrics.json", json.dumps(numbers, indent=1))
    fabric.barrier()
    return answer


def _finish(
    config: TrainConfig,
    net: VideoPoseNet,
    result: Result,
    first: Result | None,
    where: tuple[Path, Fabric],
) -> dict[str, Any]:
    """Metrics and card of a finished run."""
    folder, fabric = where
    best = {n: v for n, v in result.best.items() if n != "epoch"}
    answer: dict[str, Any] = {
        "net": config.net.name, "epochs": result.epochs, "best": result.best,
        "checkpoint": str(result.checkpoint), "card": str(folder / f"{config.name}.yaml"),
        **({"stopped": result.stopped} if result.stopped else {}),
    }  # fmt: skip
    if fabric.global_rank == 0:
        numbers = {**answer, "steps": result.steps, **result.metrics}
        if first is not None:
            numbers["stage1"] = {**first.best, **first.metrics}
        checkpoints.write_text(folder / "metrics.json", json.dumps(numbers, indent=1))
        about = {
            "training_data": ", ".join((*config.data.train, *config.data.pseudo)),
            "metrics": best,
            "command": command_line(f"python -m pose_ros.training.train {config.name}.yaml"),
        }
        state = checkpoints.load(result.checkpoint)["net"]
        write_card(net, state, config, folder, about)
    fabric.barrier()
    return answer


def parser() -> argparse.ArgumentParser:
    """Options, and every setting with its default in the epilogue."""
    lines = []
    for name, item, value in walk(TrainConfig()):
        unit = f" {item.metadata['unit']}" if item.metadata.get("unit") else ""
        shown = list(value) if isinstance(value, tuple) else value
        lines.append(f"  {name} = {shown!r}{unit}: {item.metadata['doc']}")
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.train",
        description=__doc__,
        epilog="settings:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("config", type=Path, help="recipe, a YAML file")
    made.add_argument("settings", nargs="*", metavar="key=value", help="settings on top of it")
    return made


def main(argv: Sequence[str], since_s: float | None = None) -> dict[str, Any]:
    """Run the command, which began at ``since_s`` as in `run`; its answer."""
    args = parser().parse_args(argv)
    return run(read_recipe(args.config, args.settings), since_s)


def process_began() -> float:
    """When this process was started, by `time.monotonic`; now where the system does not say it.

    Reading torch alone takes seconds, tens of them on a machine that was just switched on.
    """
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        began = int(ticks) / os.sysconf("SC_CLK_TCK")
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, AttributeError, IndexError, ValueError):
        return time.monotonic()


def command(argv: Sequence[str], since_s: float | None = None) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(argv, since_s)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last checkpoint\n")
        return 130
    if os.environ.get("RANK", "0") == "0":  # of several processes, one says it
        sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:], process_began()))
