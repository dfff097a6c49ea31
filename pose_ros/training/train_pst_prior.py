"""Train what `PstPosePrior` has beside MoveNet: which frames of a window to believe, and where.

  train_pst_prior --video V.mp4=V.jsonl … --out runs/pst            (jsonl: of tools.track)

Labels are a consensus of the large clean network, smoothed (`consensus`); the network sees the
same film shaken, hidden, dark, out of focus, compressed or with every second frame missing.
MoveNet is frozen, so its answers are computed once and kept in the folder (`evidence_clips`); an
interrupted run goes on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.nets.checkpoint import find_card, load_net
from pose_ros.nets.movenet_trunk import positions
from pose_ros.nets.pstpose_prior import FACTS, PstPosePrior
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.evidence_clips import LENGTH, MIX, Clips
from pose_ros.training.train_prior import read_film, write

log = logging.getLogger(__name__)

KEYS = 4  # consecutive key frames of a clip in a step
JOINTS = 8  # whose maps are read in a step, drawn anew: reading costs most
BLIND = 0.5  # how often MoveNet's features are withheld: few films are soon known by heart
ALONE = 0.15  # how often a side of the window lacks frames
SPREAD = 1.5  # cells, of the Gaussian that a label is
#: Weights of the terms of `objective`.
WEIGHTS = {"place": 1.0, "where": 1.0, "motion": 0.3, "votes": 0.15}
STILL = 0.15  # cells: a joint that trembles by more counts in full
SIDE = 58.0  # cells: the longer side of a box in its crop


def windows(
    net: PstPosePrior, batch: dict[str, torch.Tensor], keys: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps (B * keys, T, K, h, w), facts and labels (B * keys, K, 2) of consecutive key frames.

    The batch has the frames of all their windows, `keys` + T - 1 of them.
    """
    length, key = net.window.frames, net.window.key
    rows = torch.arange(keys)[:, None] + torch.arange(length)  # (keys, T)
    maps, facts = (batch[n][:, rows].flatten(0, 1) for n in ("maps", "facts"))
    return maps, facts, batch["cells"][:, key : key + keys].flatten(0, 1)


def objective(
    maps: torch.Tensor, votes: torch.Tensor, cells: torch.Tensor, keys: int
) -> dict[str, torch.Tensor]:
    """Terms and ``total`` for answers (B * keys, K, h, w), votes (B * keys, T, K, 2) and labels.

    Labels (B * keys, K, 2) are in cells, NaN: none. ``place``: which peak is the joint's, a cross
    entropy over cells. ``where``: its distance. ``motion``: its steps from frame to frame, and the
    steps of those. ``votes``: the distance of what each frame of the window says.
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
    xy = positions(maps)
    apart = _length(xy - truth, 0.25)
    terms = {"place": _mean(place, known), "where": _mean(apart.clamp_max(12.0), known)}
    terms["votes"] = _mean(_length(votes - truth[:, None], 1.0).mean(1), known)
    error, both = ((xy - truth).unflatten(0, (-1, keys)), known.unflatten(0, (-1, keys)))
    terms["motion"] = maps.new_zeros(())
    for _ in range(2):
        error, both = error[:, 1:] - error[:, :-1], both[:, 1:] & both[:, :-1]
        terms["motion"] = terms["motion"] + _mean(_length(error, STILL).clamp_max(8.0), both)
    total = torch.stack([WEIGHTS[n] * term for n, term in terms.items()]).sum()
    return terms | {"total": total}


def _length(moves: torch.Tensor, beta: float) -> torch.Tensor:
    """How long moves (..., 2) are, squared where shorter than about ``beta``."""
    return F.smooth_l1_loss(moves, torch.zeros_like(moves), beta=beta, reduction="none").sum(-1)


def _mean(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean of the known values."""
    return torch.where(known, values, torch.zeros_like(values)).sum() / known.sum().clamp_min(1)


def learn(
    net: PstPosePrior, clips: Clips, args: argparse.Namespace, until: float
) -> Iterator[tuple[int, dict[str, float]]]:
    """Optimise from the last checkpoint on; yields (step, terms)."""
    path = Path(args.out) / "last.ckpt"
    own = {n: p for n, p in net.named_parameters() if not n.startswith("backbone.")}
    net.backbone.requires_grad_(False)
    gates = [p for n, p in own.items() if n == "dsf.strength"]
    rest = [p for n, p in own.items() if n != "dsf.strength"]
    optimiser = torch.optim.AdamW(
        [{"params": rest, "scale": 1.0}, {"params": gates, "scale": 10.0, "weight_decay": 0.0}],
        lr=args.lr,
        weight_decay=0.05,
    )
    step, saved_at = 0, time.monotonic()
    if path.is_file():
        saved = torch.load(path, weights_only=True)
        net.load_state_dict(saved["net"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    while step < args.steps and time.monotonic() < until:
        rate = min(1.0, (step + 1) / 30.0) * (0.5 + 0.5 * np.cos(np.pi * step / args.steps))
        for group in optimiser.param_groups:
            group["lr"] = args.lr * max(float(rate), 0.01) * group["scale"]
        terms = _step_terms(net, clips, np.random.default_rng([4, step]), args.batch)
        optimiser.zero_grad()
        terms["total"].backward()
        torch.nn.utils.clip_grad_norm_(own.values(), 1.0)
        optimiser.step()
        step += 1
        yield step, {n: float(v.detach()) for n, v in terms.items()}
        if time.monotonic() - saved_at > 60.0:
            _save(net, optimiser, step, path)
            saved_at = time.monotonic()
    _save(net, optimiser, step, path)


def _step_terms(
    net: PstPosePrior, clips: Clips, rng: np.random.Generator, batch: int
) -> dict[str, torch.Tensor]:
    rows = rng.integers(0, clips.done, batch)
    first = int(rng.integers(0, LENGTH - KEYS - net.window.frames + 2))
    frames = slice(first, first + KEYS + net.window.frames - 1)
    maps, facts, cells = windows(net, clips.batch(rows, frames), KEYS)
    left, right = (
        torch.from_numpy(
            np.where(rng.random(batch) < ALONE, rng.integers(0, most, batch), most)
        ).float().repeat_interleave(KEYS)
        for most in (net.window.key, net.window.lookahead)
    )  # fmt: skip
    blind = torch.from_numpy(rng.random(batch) < BLIND).repeat_interleave(KEYS)
    looks = facts[..., FACTS:] * (~blind[:, None, None, None])
    tokens, exists, _aux = net.tokens(torch.cat((facts[..., :FACTS], looks), 3), left, right)
    some = torch.from_numpy(rng.choice(net.joints, JOINTS, replace=False))
    picked = (part[:, :, some] for part in (tokens, maps, facts))
    heatmaps, votes = net.dsf(*picked, exists, some)
    return objective(heatmaps, votes, cells[:, some], KEYS)


def _save(net: PstPosePrior, optimiser: torch.optim.Optimizer, step: int, path: Path) -> None:
    state = {n: t for n, t in net.state_dict().items() if not n.startswith("backbone.")}
    saved = {"net": state, "optimiser": optimiser.state_dict(), "step": step}
    write_atomically(path, lambda file: torch.save(saved, file))


def validate(net: PstPosePrior, clips: Clips, least: int = 8) -> dict[str, dict[str, float]]:
    """Disturbance to PCK@0.05 and jitter in percent, of the network and of its trunk."""
    keys = LENGTH - net.window.frames + 1
    errors: dict[str, list[np.ndarray]] = {}
    for row in range(clips.done):
        batch = clips.batch(np.array([row]), slice(0, LENGTH))
        maps, facts, cells = windows(net, batch, keys)
        one = torch.ones(keys)
        with torch.no_grad():
            out = net.fuse((maps, facts), one * net.window.key, one * net.window.lookahead)
        name = MIX[int(batch["kind"])][0]
        answers = {"": out.heatmaps, "trunk": maps[:, net.window.key]}
        for who, answer in answers.items():
            found = decode(PoseMaps(answer.numpy()))[0]
            errors.setdefault(f"{name} {who}".strip(), []).append(found - cells.numpy())
    table = {}
    for name, parts in errors.items():
        if len(parts) >= least:
            stack = np.stack(parts)  # (clips, keys, K, 2)
            size = np.linalg.norm(stack, axis=-1) / SIDE
            third = np.linalg.norm(np.diff(stack, n=3, axis=1), axis=-1) / SIDE
            table[name] = {
                "pck05": 100.0 * float(np.mean(size[np.isfinite(size)] < 0.05)),
                "jitter": 100.0 * float(np.nanmean(third)),
            }
    return table


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    until = time.monotonic() + args.seconds
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    out = Path(args.out)
    card = find_card(args.card)
    torch.manual_seed(0)
    net = load_net(card)
    if not isinstance(net, PstPosePrior):
        raise ConfigError(f"card {card.name}: expected architecture pstpose_prior")
    facts = FACTS + 2 * net.backbone.config.fpn_channels[-1]
    stores = {}
    for name, count in (("val", args.clips // 10), ("train", args.clips)):
        (out / name).mkdir(parents=True, exist_ok=True)
        stores[name] = Clips(out / name, count, card, facts)
    full = all(store.done == store.count for store in stores.values())
    if not full and not args.early:
        pairs = [item.partition("=")[::2] for item in args.video]
        films = [read_film(Path(v), Path(p), out, args.threads) for v, p in pairs]
        for name, store in stores.items():
            store.fill(films, card, name == "val", until)
        full = all(store.done == store.count for store in stores.values())
    answer: dict[str, Any] = {"clips": stores["train"].done, "step": 0}
    if full or args.early:
        net.train()
        for step, terms in learn(net, stores["train"], args, until):
            if step % 20 == 0:
                text = " ".join(f"{n} {v:.3f}" for n, v in terms.items())
                sys.stderr.write(f"{step} {text}\n")
        answer["step"] = torch.load(out / "last.ckpt", weights_only=True)["step"]
        net.eval()
        with torch.no_grad():
            net.dsf.when[net.window.key] += args.caution
        answer["held_out"] = validate(net, stores["val"])
        if answer["step"] == args.steps:
            films_ = ", ".join(i.partition("=")[0].rpartition("/")[2] for i in args.video)
            answer["card"] = write(net, card, out, films_, " ".join(argv)).name
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.train_pst_prior",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--video", action="append", default=[], metavar="VIDEO=POSES.jsonl")
    add("--out", required=True, help="folder of the run")
    add("--card", default="pstpose_prior", help="card that says what to build")
    add("--clips", type=int, default=1600, help=f"stored clips of {LENGTH} frames")
    add("--steps", type=int, default=900)
    add("--batch", type=int, default=6)
    add("--lr", type=float, default=2e-3)
    add("--caution", type=float, default=2.0, help="added to the key frame's logit at the end")
    add("--threads", type=int, default=1)
    add("--seconds", type=float, default=1e9, help="stop then; the same command goes on")
    add("--early", action="store_true", help="learn from the clips that are stored so far")
    return parser


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
