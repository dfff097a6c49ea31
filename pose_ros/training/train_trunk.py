"""Teach MoveNet to answer hidden, blurred and dark pictures as it answers clean ones.

  train_trunk --video V.mp4=V.jsonl … --pictures BOXES.jsonl=DIR … --out runs/trunk

Self-distillation: the network as it is (the teacher) sees a clean crop of a person, the network
that learns (the student) the same crop hidden in part, shaken, dark, out of focus or compressed
(`person_views`). No labels are needed; on clean crops the student is held to what the teacher
says, so that nothing is forgotten. V.jsonl is of tools.track; BOXES.jsonl has a line per person,
``file`` and ``box_xyxy_px``. The weights that are written are the mean over the last steps, mixed
with a quarter of those it started from, which is better on clean pictures and no worse on others.
An interrupted run goes on. The last line is JSON.

Source of the mixture: Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from pose_ros.core.values import ByteArray
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.nets.checkpoint import Card, find_card, load_net
from pose_ros.nets.export import OPSET
from pose_ros.nets.movenet import DISTANCE_SOFTENING, MoveNet
from pose_ros.nets.pictures import Uint8Net
from pose_ros.nets.runtime import open_session
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.person_views import MIX, Views, draw, of_pictures, of_video
from pose_ros.training.train_prior import rounded, shell, write

log = logging.getLogger(__name__)

DECAY = 0.998  # of the mean of the weights
SAVE_EVERY = 100  # steps
#: Weights of the terms of `objective`.
PLACE, HEAT, CENTRE, REACH, OFFSET = 1.0, 30.0, 10.0, 0.1, 0.6
PEAK = 20.0  # how much more a cell of a peak counts than an empty one
SURE = 0.2  # score of the teacher's joint, below which its place is not learned
NEAR = 2.0  # cells around the teacher's joint in which offsets are learned


class Maps(NamedTuple):
    """Everything MoveNet says of crops, before anything is decoded."""

    heat: torch.Tensor  # (B, K, h, w) logits
    centre: torch.Tensor  # (B, 1, h, w) logits
    reach: torch.Tensor  # (B, 2 K, h, w) cells (y, x) from a centre to its joints
    offset: torch.Tensor  # (B, 2 K, h, w) cells (y, x)


def maps_of(net: MoveNet, feature: torch.Tensor) -> Maps:
    """The heads' maps of a feature (B, C, h, w)."""
    return Maps(
        net.heatmap(feature), net.center(feature), net.regression(feature), net.offset(feature)
    )


def prior_at(reach: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """MoveNet's prior (B, K, h, w) of the person whose centre is in cell (B,), a flat index."""
    rows, columns = reach.shape[-2:]
    index = cell[:, None, None].expand(-1, reach.shape[1], 1)
    steps = reach.flatten(2).gather(2, index).unflatten(1, (-1, 2))[..., 0]  # (B, K, 2)
    at = torch.stack((cell // columns, cell % columns), 1).to(steps)[:, None] + steps
    dy = torch.arange(rows, dtype=reach.dtype)[:, None] - at[..., 0, None, None]
    dx = torch.arange(columns, dtype=reach.dtype) - at[..., 1, None, None]
    return 1.0 / ((dy.square() + dx.square() + 1e-6).sqrt() + DISTANCE_SOFTENING)


def centre_cell(centre: torch.Tensor) -> torch.Tensor:
    """Cell (B,) of the person nearest the middle, as `MoveNet` chooses it."""
    rows, columns = centre.shape[-2:]
    y = torch.arange(rows, dtype=centre.dtype)[:, None] - rows // 2
    x = torch.arange(columns, dtype=centre.dtype) - columns // 2
    away = (y.square() + x.square()).sqrt() + DISTANCE_SOFTENING
    return (centre.sigmoid() / away).flatten(1).argmax(1)


def objective(ours: Maps, theirs: Maps) -> dict[str, torch.Tensor]:
    """Terms and ``total`` of the student's maps, given the teacher's; all 0 where they agree.

    ``place``: which cell a joint is decoded in, a Kullback-Leibler divergence over cells.
    ``heat`` and ``centre``: the maps themselves, a binary one over the cells. ``reach``: from the
    teacher's centre to the joints, and ``offset``: from the cells near a joint to it, in cells.
    """
    with torch.no_grad():
        cell = centre_cell(theirs.centre)
        heat = theirs.heat.sigmoid()
        weighted = heat * prior_at(theirs.reach, cell)
        _top, peak = weighted.flatten(2).max(2, keepdim=True)
        score = heat.flatten(2).gather(2, peak)[..., 0]  # (B, K)
        sure = score * (score >= SURE)
        wanted = _shares(weighted)
    share = _shares(ours.heat.sigmoid() * prior_at(ours.reach, cell))
    apart = (wanted * (wanted.clamp_min(1e-9).log() - share.clamp_min(1e-9).log())).sum(2)
    index = cell[:, None, None].expand(-1, ours.reach.shape[1], 1)
    mine, wished = (m.flatten(2).gather(2, index)[..., 0] for m in (ours.reach, theirs.reach))
    reach = F.smooth_l1_loss(mine, wished, reduction="none").unflatten(1, (-1, 2)).sum(2)
    rows, columns = heat.shape[-2:]
    y = torch.arange(rows)[:, None] - (peak // columns)[..., None]
    x = torch.arange(columns) - (peak % columns)[..., None]
    near = (y.square() + x.square() <= NEAR**2) * sure[..., None, None]  # (B, K, h, w)
    off = (ours.offset - theirs.offset).abs().unflatten(1, (-1, 2)).sum(2)
    terms = {
        "place": (apart * sure).sum() / sure.sum().clamp_min(1e-3),
        "heat": (_divergence(ours.heat, theirs.heat) * (1.0 + PEAK * heat)).mean(),
        "centre": _divergence(ours.centre, theirs.centre).mean(),
        "reach": (reach * sure).sum() / sure.sum().clamp_min(1e-3),
        "offset": (off * near).sum() / near.sum().clamp_min(1e-3),
    }
    weights = {"place": PLACE, "heat": HEAT, "centre": CENTRE, "reach": REACH, "offset": OFFSET}
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return terms | {"total": total}


def _shares(weighted: torch.Tensor) -> torch.Tensor:
    """Maps (B, K, h, w) > 0 as distributions over cells (B, K, h w)."""
    flat = weighted.clamp_min(1e-6).flatten(2).square()
    return flat / flat.sum(2, keepdim=True)


def _divergence(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of yes and no, per element, from logits."""
    p = theirs.sigmoid()
    entropy = p * F.logsigmoid(theirs) + (1.0 - p) * F.logsigmoid(-theirs)
    return F.binary_cross_entropy_with_logits(ours, p, reduction="none") + entropy


class Teacher:
    """The network as it was: its feature in ONNX Runtime, its heads in torch."""

    def __init__(self, net: MoveNet, card: Card, folder: Path, threads: int) -> None:
        """Export the feature into ``folder`` and open it."""
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

        class Feature(Uint8Net):
            """The pyramid's output of uint8 RGB crops (B, h, w, 3)."""

            def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return (self.net.forward_features(self.normalised(pictures)),)

        path = folder / "teacher.onnx"
        crops = torch.zeros(2, *card.input_hw, 3, dtype=torch.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's remarks on shape checks, its own age
            torch.onnx.export(
                Feature(self.net, card), (crops,), str(path), input_names=["x"],
                output_names=["y"], opset_version=OPSET, dynamo=False,
                dynamic_axes={"x": {0: "b"}, "y": {0: "b"}},
            )  # fmt: skip
        self.session = open_session(path, threads)

    def __call__(self, crops: ByteArray) -> Maps:
        """Maps of crops (B, h, w, 3)."""
        pieces = [
            self.session.run(None, {"x": crops[i : i + 4]})[0] for i in range(0, len(crops), 4)
        ]
        with torch.no_grad():
            return maps_of(self.net, torch.from_numpy(np.concatenate(pieces)))


class Batches:
    """Crops of step after step, drawn while the step before is learned from."""

    def __init__(self, views: Views, size: int) -> None:
        """Take the views and the number of crops of a step."""
        self.views, self.size, self.shares = views, size, views.shares()
        self.pool = ThreadPoolExecutor(1)

    def draw(self, step: int) -> tuple[ByteArray, ByteArray, np.ndarray]:
        """Clean and disturbed crops (B, h, w, 3) of a step, and the rows of MIX (B,)."""
        rng = np.random.default_rng([5, step])
        found = [draw(self.views, rng, self.shares) for _ in range(self.size)]
        clean, shown, kind = zip(*found, strict=True)
        return np.stack(clean), np.stack(shown), np.array(kind)

    def __call__(self, first: int, last: int) -> Iterator[tuple[ByteArray, ByteArray, np.ndarray]]:
        """Those of steps ``first`` to ``last`` - 1."""
        ahead = self.pool.submit(self.draw, first)
        for step in range(first, last):
            found = ahead.result()
            if step + 1 < last:
                ahead = self.pool.submit(self.draw, step + 1)
            yield found


class Student:
    """What learns, its mean, and how; kept in a file."""

    def __init__(self, net: MoveNet, card: Card, args: argparse.Namespace) -> None:
        """Start as the teacher, or where the folder's last checkpoint was."""
        self.path, self.args = Path(args.out) / "last.ckpt", args
        self.net = net.train()
        for value in net.parameters():
            if value.ndim == 4:
                value.data = value.data.contiguous(memory_format=torch.channels_last)
        self.border = Uint8Net(self.net, card)
        self.mean = {n: p.detach().clone() for n, p in net.named_parameters()}
        # Folded batch norms leave tensors of very different size: rates are in shares of it.
        self.sizes = [
            float(p.detach().square().mean().sqrt().clamp_min(1e-3)) for p in net.parameters()
        ]
        groups = [{"params": [p]} for p in net.parameters()]
        self.optimiser = torch.optim.Adam(groups, lr=args.lr)
        self.step = 0
        if self.path.is_file():
            saved = torch.load(self.path, weights_only=True)
            net.load_state_dict(saved["net"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.mean, self.step = saved["mean"], saved["step"]

    def learn(self, shown: ByteArray, theirs: Maps) -> dict[str, float]:
        """One step on disturbed crops (B, h, w, 3)."""
        warm = min(1.0, (self.step + 1) / 50.0)
        rate = warm * (0.5 + 0.5 * np.cos(np.pi * min(self.step / self.args.steps, 1.0)))
        for group, size in zip(self.optimiser.param_groups, self.sizes, strict=True):
            group["lr"] = self.args.lr * max(float(rate), 0.01) * size
        x = self.border.normalised(torch.from_numpy(shown))
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
            feature = self.net.forward_features(x)
        terms = objective(maps_of(self.net, feature.float().contiguous()), theirs)
        self.optimiser.zero_grad()
        terms["total"].backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        if not torch.isfinite(norm):
            raise PoseRosError(
                f"step {self.step}: the loss is not finite; {self.path} is of an earlier step: "
                "go on from there with a smaller --lr"
            )
        self.optimiser.step()
        self.step += 1
        decay = min(DECAY, self.step / (self.step + 10.0))
        with torch.no_grad():
            for name, value in self.net.named_parameters():
                self.mean[name].lerp_(value, 1.0 - decay)
        return {n: float(v.detach()) for n, v in terms.items()} | {"norm": float(norm)}

    def save(self) -> None:
        """Write the checkpoint."""
        state = {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict(),
                 "mean": self.mean, "step": self.step}  # fmt: skip
        write_atomically(self.path, lambda file: torch.save(state, file))


def collect(args: argparse.Namespace, card: Card) -> Views:
    """The views of all videos and pictures, made where they are not there yet.

    Raises:
        ConfigError: there is none.

    """
    views = Views(Path(args.out), card.input_hw, card.crop_scale)
    for kind, items in ((of_video, args.video), (of_pictures, args.pictures)):
        for item in items:
            one, _equals, other = item.partition("=")
            count = views.add(item, kind(Path(one), Path(other)))
            log.info("%s: %d views", one, count)
    if not len(views):
        raise ConfigError("expected --video VIDEO=POSES.jsonl or --pictures BOXES.jsonl=DIR")
    return views


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    until = time.monotonic() + args.seconds
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    card = find_card(args.card)
    net = load_net(card)
    if not isinstance(net, MoveNet):
        raise ConfigError(f"card {card.name}: expected a MoveNet, got {card.architecture}")
    views = collect(args, card)
    teacher = Teacher(net, card, out, args.threads)
    student = Student(net, card, args)
    terms: dict[str, float] = {}
    bar = tqdm(
        total=args.steps, initial=student.step, unit="step", disable=not sys.stderr.isatty()
    )
    with (out / "log.jsonl").open("a", encoding="utf-8") as journal:
        for clean, shown, kind in Batches(views, args.batch)(student.step, args.steps):
            terms = student.learn(shown, teacher(clean))
            bar.update()
            kinds = [MIX[int(k)][0] for k in kind]
            journal.write(
                json.dumps({"step": student.step, **rounded(terms), "kinds": kinds}) + "\n"
            )
            if student.step % SAVE_EVERY == 0:
                student.save()
                journal.flush()
            if time.monotonic() > until:
                break
    student.save()
    start = teacher.net.state_dict()
    net.load_state_dict({n: v.lerp(start[n], args.keep) for n, v in student.mean.items()})
    films = ", ".join(
        item.partition("=")[0].rpartition("/")[2] for item in args.video + args.pictures
    )
    notice = f"Every value was changed by fine-tuning {card.name}. Of that: {card.licence_notice}"
    card = replace(card, name=args.name, licence_notice=notice)
    done = write(net.eval(), card, out, films, " ".join(argv))
    return {"views": len(views), "step": student.step, "card": done.name, **terms}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.train_trunk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--video", action="append", default=[], metavar="VIDEO=POSES.jsonl")
    add("--pictures", action="append", default=[], metavar="BOXES.jsonl=DIR")
    add("--out", required=True, help="folder of the run")
    add("--card", default="movenet_thunder_large", help="the network to start from")
    add("--name", default="movenet_robust", help="of the card that is written")
    add("--steps", type=int, default=3300)
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=1e-4, help="a step, in shares of a tensor's size")
    add(
        "--keep", type=float, default=0.25, help="share of the first weights in the last (WiSE-FT)"
    )
    add("--bf16", action=argparse.BooleanOptionalAction, default=True,
        help="learn in bfloat16, half the time on CPUs that have it")  # fmt: skip
    add("--threads", type=int, default=2)
    add("--seconds", type=float, default=1e9, help="stop then; the same command goes on")
    return parser


if __name__ == "__main__":
    sys.exit(shell(main, sys.argv[1:]))
