"""Train what `HstpnPrior` has beside MoveNet: when, where and how far to believe the past.

  train_prior --video V.mp4=V.jsonl … --out runs/prior             (jsonl: of tools.track)

Labels are a consensus of the large clean network, smoothed (`consensus`); the network sees the
same film shaken, hidden, dark, out of focus, compressed or with frames missing. MoveNet is frozen,
so its answers are computed once and kept in the folder; an interrupted run goes on. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import ByteArray, FloatArray, Frame
from pose_ros.errors import ConfigError, PoseRosError, SourceError
from pose_ros.nets.checkpoint import Card, find_card, load_net, read_card
from pose_ros.nets.hstpn import HstpnPrior
from pose_ros.nets.movenet_trunk import positions
from pose_ros.nets.stream import OnnxParts
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.training import consensus
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.logs import commit
from pose_ros.training.stream_corruption import disturbance

log = logging.getLogger(__name__)

CELL_PX = 4.0
FRAMES = 8  # of a window: as long as a live crop box is held
#: What windows are disturbed by, how often, and how strongly.
MIX = (
    ("clean", 0.15, (0.0, 0.0)),
    ("motion", 0.25, (0.3, 1.0)),
    ("occlusion", 0.35, (0.2, 0.8)),
    ("lowlight", 0.12, (0.5, 1.0)),
    ("defocus", 0.05, (0.3, 1.0)),
    ("jpeg", 0.08, (0.3, 1.0)),
)
SPREAD = 1.5  # cells, of the Gaussian that a label is
MOTION = 0.3  # weight; at 1 the network learns to lag behind
FLUSH = 16
#: Fields of a card that its file does not have.
UNWRITTEN = ("folder", "source")


@dataclass(frozen=True, eq=False)
class Film:
    """A video in memory, and the labelled tracks of its people."""

    name: str
    frames: list[ByteArray]  # (H, W, 3) RGB
    tracks: list[consensus.Track]


def read_film(video: Path, poses: Path, folder: Path, threads: int) -> Film:
    """Read a video and its labels, made where ``folder`` has none of this film and these tracks.

    Raises:
        SourceError: no video, no tracks, or tracks of a longer video.

    """
    capture = cv2.VideoCapture(str(video))
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    frames = []
    while True:
        found, bgr = capture.read()
        if not found:
            break
        frames.append(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))
    if not frames or not rate_hz > 0:
        raise SourceError(f"{video}: expected a video, OpenCV reads no picture from it")
    last = int(max(consensus.boxes_of(poses)[1], default=-1))
    if last >= len(frames):
        raise SourceError(
            f"{poses}: has people in frame {last}, but {video} can be read up to frame "
            f"{len(frames) - 1} only (cut off, or of another video?)"
        )
    path = folder / f"labels_{video.parent.name}_{video.stem}.npz"
    origin = consensus.origin(video, poses)
    if consensus.origin_of(path) != origin:
        numbered = ((i, Frame(rgb, round(i * 1e9 / rate_hz))) for i, rgb in enumerate(frames))
        found_tracks = consensus.tracks(poses, numbered, rate_hz, consensus.Consensus(threads))
        write_atomically(path, lambda file: consensus.save(file, found_tracks, origin))
    return Film(f"{video.parent.name}/{video.name}", frames, consensus.load(path))


def window_of(
    film: Film, rng: np.random.Generator, size_hw: tuple[int, int], scale: float
) -> tuple[ByteArray, FloatArray] | None:
    """Crops (T, h, w, 3) of a random disturbed window and labels (T, K, 2) in cells, or none."""
    lengths = np.array([len(t) for t in film.tracks], np.float64)
    track = film.tracks[int(rng.choice(len(lengths), p=lengths / lengths.sum()))]
    step = 1 if rng.random() < 0.75 else 2
    reach = (FRAMES - 1) * step + 1
    if len(track) < reach:
        return None
    first = int(rng.integers(0, len(track) - reach + 1))
    rows = np.arange(first, first + reach, step)
    box = track.box_xyxy_px[rows[int(rng.integers(0, 3))]]
    middle, size = (box[:2] + box[2:]) / 2.0, box[2:] - box[:2]
    middle = middle + rng.normal(0.0, 0.03, 2) * size
    size = size * float(np.exp(rng.normal(0.0, 0.08)))
    held = np.concatenate([middle - size / 2, middle + size / 2])[None].astype(np.float32)
    edges = fit_boxes(held, size_hw, scale)
    affine = affine_from_boxes(edges, size_hw)[0]
    crops = np.empty((FRAMES, *size_hw, 3), np.uint8)
    for t, row in enumerate(rows):
        cut(Frame(film.frames[int(track.frames[row])], 0), edges[0], crops[t])
    xy = (track.xy_px[rows] - affine[:, 2]) / (affine[0, 0], affine[1, 1])
    if rng.random() < 0.5:
        crops = np.ascontiguousarray(crops[:, :, ::-1])
        xy = xy[:, COCO17.flip_order()] * (-1, 1) + (size_hw[1] - 1, 0)
    inside = ((xy >= 0) & (xy <= (size_hw[1] - 1, size_hw[0] - 1))).all(-1)
    cells = np.where(inside[..., None], (xy + 0.5) / CELL_PX, np.nan)
    return _disturbed(crops, rng), cells.astype(np.float32)


def _disturbed(crops: ByteArray, rng: np.random.Generator) -> ByteArray:
    """A window disturbed by one of MIX, from some frame on and perhaps for a while only."""
    kind = MIX[int(rng.choice(len(MIX), p=[share for _, share, _ in MIX]))]
    severity = float(rng.uniform(*kind[2]))
    disturb = disturbance(kind[0], severity, [int(rng.integers(1 << 31))])
    first, last = 0, len(crops)
    if rng.random() < 0.5:
        first = int(rng.integers(1, len(crops) - 2))
        last = int(rng.integers(first + 2, len(crops) + 1))
    return np.stack([disturb(c) if first <= t < last else c for t, c in enumerate(crops)])


class Store:
    """Windows as MoveNet answers them, on disk as float16."""

    def __init__(self, folder: Path, count: int, net: HstpnPrior) -> None:
        """Open or start the files for ``count`` windows."""
        rows, columns = (side // 4 for side in net.size_hw_px)
        joints, channels = net.joints, net.split[0]
        self.shapes = {
            "feature": (channels, rows // 2, columns // 2),
            "now": (joints, rows, columns),
            "raw": (joints, rows // 2, columns // 2),
            "cells": (joints, 2),
        }
        self.count, self.about = count, folder / "stored.json"
        self.done = json.loads(self.about.read_text())["done"] if self.about.is_file() else 0
        self.maps = {
            name: np.memmap(
                folder / f"{name}.bin", np.float16, "r+" if self.done else "w+",
                shape=(count, FRAMES, *shape),
            )
            for name, shape in self.shapes.items()
        }  # fmt: skip

    def add(self, feature: torch.Tensor, cells: FloatArray, net: HstpnPrior) -> None:
        """Append a window: `encode`'s feature (T, C + 2 K, h, w) and labels (T, K, 2)."""
        psi, now, raw = feature.split(net.split, 1)
        row = self.done
        self.maps["feature"][row] = F.avg_pool2d(psi, 2).numpy()
        self.maps["now"][row] = now.numpy()
        self.maps["raw"][row] = F.max_pool2d(raw, 2).numpy()
        self.maps["cells"][row] = cells
        self.done += 1
        if self.done % FLUSH == 0 or self.done == self.count:
            self.about.write_text(json.dumps({"done": self.done, "count": self.count}))

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Windows ``rows``, float32."""
        return {n: torch.from_numpy(np.array(m[rows], np.float32)) for n, m in self.maps.items()}


def fill(store: Store, films: list[Film], net: HstpnPrior, card: Card, until: float) -> None:
    """Add windows until the store is full or the time is over; row by row the same windows."""
    parts = OnnxParts(card, 1)
    weights = np.sqrt([sum(len(t) for t in film.tracks) for film in films])
    while store.done < store.count and time.monotonic() < until:
        rng = np.random.default_rng([1, store.done])
        found = None
        while found is None:
            film = films[int(rng.choice(len(films), p=weights / weights.sum()))]
            found = window_of(film, rng, card.input_hw, card.crop_scale)
        (feature,) = parts.run("encode", found[0])
        store.add(torch.from_numpy(feature), found[1], net)


def answers(net: HstpnPrior, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Heatmaps (B, T, K, h, w) of stored windows: `HstpnPrior.step` without `encode`."""
    maps, memory = [], None
    past = (torch.zeros_like(batch["now"][:, 0]),) * 2
    for t in range(batch["now"].shape[1]):
        x = batch["feature"][:, t]
        memory = net.gru(x, torch.zeros_like(x) if memory is None else memory)
        raw = F.interpolate(batch["raw"][:, t], scale_factor=2.0)
        seen = torch.full((len(x),), t)
        out = net.mix(x + net.recall(memory), (batch["now"][:, t], raw), past, seen)
        maps.append(out)
        past = (out, past[0])
    return torch.stack(maps, 1)


def objective(maps: torch.Tensor, cells: torch.Tensor) -> dict[str, torch.Tensor]:
    """Terms and ``total`` for maps (B, T, K, h, w) and labels (B, T, K, 2) in cells, NaN: none.

    ``place``: which peak is the joint's, a cross entropy over cells. ``where``: its distance.
    ``motion``: its steps from frame to frame (eq 22 of paper 000), and the steps of those.
    """
    known = torch.isfinite(cells).all(-1)
    truth = torch.nan_to_num(cells)
    rows, columns = maps.shape[-2:]
    y = torch.arange(rows)[:, None] - truth[..., 1, None, None]
    x = torch.arange(columns) - truth[..., 0, None, None]
    target = (-(x.square() + y.square()) / (2 * SPREAD**2)).exp()
    target = target / target.sum((-2, -1), keepdim=True).clamp_min(1e-6)
    share = (maps.clamp_min(0.0) + 1e-4).square()
    logs = share.log() - share.sum((-2, -1), keepdim=True).log()
    place = -(target * logs).sum((-2, -1))
    xy = positions(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    apart = F.smooth_l1_loss(xy, truth, beta=0.25, reduction="none").sum(-1).clamp_max(12.0)
    terms = {
        "place": _mean(place[:, 1:], known[:, 1:]),
        "where": _mean(apart[:, 1:], known[:, 1:]),
    }
    error, both = xy - truth, known
    terms["motion"] = maps.new_zeros(())
    for _ in range(2):
        error, both = error[:, 1:] - error[:, :-1], both[:, 1:] & both[:, :-1]
        size = F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.5, reduction="none")
        terms["motion"] = terms["motion"] + _mean(size.sum(-1).clamp_max(8.0), both)
    total = terms["place"] + terms["where"] + MOTION * terms["motion"]
    return terms | {"total": total}


def _mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of the known values."""
    return torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp_min(1)


def learn(
    net: HstpnPrior, store: Store, args: argparse.Namespace, until: float
) -> Iterator[tuple[int, dict[str, float]]]:
    """Optimise from the last checkpoint on; yields (step, terms)."""
    path = Path(args.out) / "last.ckpt"
    own = {n: p for n, p in net.named_parameters() if not n.startswith("backbone.")}
    net.backbone.requires_grad_(False)
    optimiser = torch.optim.AdamW(own.values(), lr=args.lr, weight_decay=1e-4)
    step = 0
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        net.load_state_dict(saved["net"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    while step < args.steps and time.monotonic() < until:
        rate = min(1.0, (step + 1) / 20.0) * (0.5 + 0.5 * np.cos(np.pi * step / args.steps))
        for group in optimiser.param_groups:
            group["lr"] = args.lr * max(float(rate), 0.02)
        rows = np.random.default_rng([2, step]).integers(_held_out(store), store.done, args.batch)
        batch = store.batch(rows)
        terms = objective(answers(net, batch), batch["cells"])
        optimiser.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
        optimiser.step()
        step += 1
        yield step, {n: float(v.detach()) for n, v in terms.items()}
    state = {n: t for n, t in net.state_dict().items() if not n.startswith("backbone.")}
    saved = {"net": state, "optimiser": optimiser.state_dict(), "step": step}
    write_atomically(path, lambda file: torch.save(saved, file))


def _held_out(store: Store) -> int:
    """The first windows are for validation."""
    return min(64, store.done // 10)


def validate(net: HstpnPrior, store: Store) -> dict[str, float]:
    """Terms on the held-out windows, with and without the past."""
    batch = store.batch(np.arange(_held_out(store)))
    with torch.no_grad():
        ours = objective(answers(net, batch), batch["cells"])
        alone = objective(batch["now"], batch["cells"])
    found = {f"val_{n}": float(v) for n, v in ours.items()}
    return found | {f"alone_{n}": float(v) for n, v in alone.items()}


def write(net: nn.Module, card: Card, out: Path, training_data: str, command: str) -> Card:
    """Write the weights, float16, and their card beside them, without metrics.

    Where the card says of which network its trunk is (`trunk_from`), the trunk is left out.
    """
    shared = "backbone." if card.trunk_from else "nothing is"
    arrays = {
        n: t.detach().half().numpy()
        for n, t in net.state_dict().items()
        if not n.startswith(shared)
    }
    data = encode_tensors(arrays)
    name = f"{card.name}.safetensors"
    write_atomically(out / name, lambda file: file.write(data))
    done = replace(
        card, weights=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data),
        trunk_sha256=find_card(card.trunk_from).sha256 if card.trunk_from else None,
        untrained=False, seed=0, trained=True, training_data=training_data,
        metrics=(), notes=f"Commit {commit()}; {command}",
    )  # fmt: skip
    values = {f.name: getattr(done, f.name) for f in fields(Card) if f.name not in UNWRITTEN}
    plain = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    write_atomically(out / f"{card.name}.yaml", lambda file: file.write(text.encode()))
    return read_card(out / f"{card.name}.yaml")


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    until = time.monotonic() + args.seconds
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    card = find_card(args.card)
    torch.manual_seed(0)
    net = load_net(card)
    if not isinstance(net, HstpnPrior):
        raise ConfigError(f"card {card.name}: expected architecture hstpn_robot with prior: true")
    store = Store(out, args.windows, net)
    if store.done < store.count and not args.early:
        pairs = [item.partition("=")[::2] for item in args.video]
        films = [read_film(Path(v), Path(p), out, args.threads) for v, p in pairs]
        fill(store, films, net, card, until)
    step, terms = 0, {}
    if store.done == store.count or args.early:
        net.train()
        for step, terms in learn(net, store, args, until):
            if step % 10 == 0:
                sys.stderr.write(f"{step} {json.dumps(rounded(terms))}\n")
        net.eval()
        step = int(torch.load(out / "last.ckpt", weights_only=True)["step"])
    answer: dict[str, Any] = {"windows": store.done, "step": step, **terms}
    if step and step == args.steps:
        answer |= validate(net, store)
        with torch.no_grad():
            net.gate.out.bias -= args.caution  # type: ignore[operator]
        films = ", ".join(item.partition("=")[0].rpartition("/")[2] for item in args.video)
        answer["card"] = write(net, card, out, films, " ".join(argv)).name
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.train_prior",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--video", action="append", default=[], metavar="VIDEO=POSES.jsonl")
    add("--out", required=True, help="folder of the run")
    add("--card", default="hstpn_robot", help="card that says what to build")
    add("--windows", type=int, default=1600, help="stored windows of 8 frames")
    add("--steps", type=int, default=500)
    add("--batch", type=int, default=8)
    add("--lr", type=float, default=3e-3)
    add("--caution", type=float, default=0.7, help="taken off the gate's last bias in the card")
    add("--threads", type=int, default=1)
    add("--seconds", type=float, default=1e9, help="stop then; the same command goes on")
    add("--early", action="store_true", help="learn from the windows that are stored so far")
    return parser


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell."""
    return shell(main, argv)


def shell(run: Callable[[Sequence[str]], dict[str, Any]], argv: Sequence[str]) -> int:
    """Run a command's ``main``: the answer on stdout, errors in one line on stderr; the status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = run(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(rounded(answer)) + "\n")
    return 0


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers to five digits."""
    return {n: round(v, 5) if isinstance(v, float) else v for n, v in values.items()}


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
