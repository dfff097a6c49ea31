"""Train the lifting network on motion capture seen by random cameras.

Runs for at most --seconds, keeps its state in --checkpoint and goes on from there when called
again; after --steps it writes the averaged weights (float16) to --out and says how far off they
are on the held-out clips. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pickle
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pose_ros.core.lift_mono_view import place_bodies
from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.nets.lifter import Lifter, LifterConfig
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.training.body_error import procrustes_aligned, root_aligned
from pose_ros.training.datasets.mocap import read_mocap
from pose_ros.training.lifting import (
    HIPS,
    Bank,
    Batch,
    FloatArray,
    Noise,
    draw_batch,
    make_bank,
    split,
)

STATURE_MM = 1700.0  # what errors in statures are multiplied with
WARM_UP = 300  # steps
WINDOWS = 4096  # to validate with
BODY_WEIGHT, BONE_WEIGHT, SPREAD_WEIGHT = 20.0, 5.0, 0.2
BONES = torch.from_numpy(COCO17.edge_indices())


@dataclass(frozen=True)
class Recipe:
    """What a run is made of; the card names the command that gives it."""

    steps: int = 9000
    batch: int = 512
    rate: float = 1.5e-3
    decay: float = 1e-4  # of the weights
    average: float = 0.999  # of the weights, over steps
    seed: int = 1


class Run:
    """One training run: network, its running average, optimiser, generator."""

    def __init__(self, recipe: Recipe) -> None:
        """Start at step 0."""
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.step = 0
        self.net = Lifter(LifterConfig())
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=recipe.rate, weight_decay=recipe.decay
        )
        self.rng = np.random.default_rng(recipe.seed)

    def advance(self, bank: Bank, noise: Noise) -> float:
        """Learn from one batch and return its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe)
        batch = draw_batch(bank, self.rng, self.recipe.batch, noise)
        value = lifting_loss(self.net(torch.from_numpy(batch.features)), batch)
        self.optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        keep = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self.net.state_dict().items():
                self.average[name].lerp_(weight, 1 - keep)
        return float(value.detach())

    def save(self, path: Path) -> None:
        """Write everything that going on needs, atomically."""
        state = {
            "step": self.step, "net": self.net.state_dict(), "average": self.average,
            "optimiser": self.optimiser.state_dict(), "recipe": vars(self.recipe),
            "rng": json.dumps(self.rng.bit_generator.state),
        }  # fmt: skip
        draft = path.with_suffix(".draft")
        torch.save(state, draft)
        os.replace(draft, path)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            ConfigError: it is damaged, or belongs to a run with another recipe.

        """
        try:
            state = torch.load(path, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{path}: expected the state of a run ({reason}): delete it"
            ) from error
        if state["recipe"] != vars(self.recipe):
            raise ConfigError(
                f"{path}: belongs to a run with {state['recipe']}, not {vars(self.recipe)}: "
                "choose another --checkpoint or the same options"
            )
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.rng.bit_generator.state = json.loads(state["rng"])

    def averaged(self) -> Lifter:
        """Return the network with the averaged weights, as float16 rounds them, in eval mode."""
        net = Lifter(LifterConfig())
        net.load_state_dict({name: v.half().float() for name, v in self.average.items()})
        return net.eval()


def learning_rate(step: int, recipe: Recipe) -> float:
    """Return the rate of a step: a linear warm-up, then half a cosine down to 1 %."""
    if step < WARM_UP:
        return recipe.rate * (step + 1) / WARM_UP
    share = (step - WARM_UP) / max(1, recipe.steps - WARM_UP)
    return recipe.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def lifting_loss(answer: tuple[Tensor, Tensor], batch: Batch) -> Tensor:
    """Mean absolute error of joints and bones, and a Laplace likelihood for the spread only.

    The spread learns from errors that it cannot change, so that it does not excuse hard poses.
    Windows in which too little is seen count nothing.
    """
    body, log_spread = answer
    weight = torch.from_numpy(batch.usable).float()
    weight = weight / weight.sum().clamp(min=1.0)
    truth = torch.from_numpy(batch.body)
    error = (body - truth).abs()  # (B, J, 3)
    bones, true_bones = (
        (x[:, BONES[:, 0]] - x[:, BONES[:, 1]]).norm(dim=-1) for x in (body, truth)
    )
    fixed = error.detach()
    grouped = torch.stack([fixed[..., :2].mean(dim=-1), fixed[..., 2]], dim=-1)
    likelihood = grouped * torch.exp(-log_spread) + log_spread
    per_window = (
        BODY_WEIGHT * error.mean(dim=(1, 2))
        + BONE_WEIGHT * (bones - true_bones).abs().mean(dim=1)
        + SPREAD_WEIGHT * likelihood.mean(dim=(1, 2))
    )
    return (per_window * weight).sum()


def validate(net: Lifter, bank: Bank, noise: Noise) -> dict[str, float]:
    """Return errors in mm of a 1.70 m person on windows of a bank, bodies as recorded."""
    batch = draw_batch(bank, np.random.default_rng(7), WINDOWS, noise, vary=False)
    with torch.inference_mode():
        body, log_spread = net(torch.from_numpy(batch.features[batch.usable]))
    found, truth = body.numpy(), batch.body[batch.usable]
    spread = np.exp(log_spread.numpy())
    deviation = np.abs(found - truth)
    across, along = deviation[..., :2].mean(axis=-1), deviation[..., 2]
    depth, sigmas = _depth_errors(found, spread[..., 0], batch)
    return {
        "mpjpe_mm": round(STATURE_MM * float(root_aligned(found, truth, HIPS).mean()), 1),
        "pa_mpjpe_mm": round(STATURE_MM * float(procrustes_aligned(found, truth).mean()), 1),
        "along_ray_mm": round(STATURE_MM * float(along.mean()), 1),
        "across_over_spread": round(float((across / spread[..., 0]).mean()), 2),
        "along_over_spread": round(float((along / spread[..., 1]).mean()), 2),
        "root_depth_rel": round(float(np.abs(depth).mean()), 4),
        "root_depth_rel_bias": round(float(depth.mean()), 4),
        "root_depth_sigmas": round(float(np.sqrt(np.median(sigmas**2) / 0.455)), 2),
        "windows": int(batch.usable.sum()),
    }  # fmt: skip


def _depth_errors(body: FloatArray, spread: FloatArray, batch: Batch) -> tuple[FloatArray, ...]:
    """Relative errors (N,) of the depth where bodies are placed, and in deviations.

    The stature is the true one; the deviations are those of independent joints.
    """
    rays, root = batch.rays[batch.usable], batch.root[batch.usable]
    pixel = np.full(rays.shape[:2], 0.02) / root[:, 2:]
    place = place_bodies(body, rays, spread * np.sqrt(2.0), pixel)
    gap = place.translation[:, 2] - root[:, 2]
    return gap / root[:, 2], gap / np.sqrt(place.covariance[:, 2, 2])


def write_weights(net: Lifter, path: Path) -> dict[str, object]:
    """Write float16 weights and return their sha256 and size."""
    arrays = {name: value.half().numpy() for name, value in net.state_dict().items()}
    data = encode_tensors(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def learn(run: Run, bank: Bank, seconds: float) -> float:
    """Advance until the recipe's end or for some seconds; return the mean loss of the last 100."""
    stop, losses = time.monotonic() + seconds, [math.nan]
    with tqdm(total=run.recipe.steps, initial=run.step, unit="step", file=sys.stderr,
              disable=not sys.stderr.isatty()) as bar:  # fmt: skip
        while run.step < run.recipe.steps and time.monotonic() < stop:
            losses = [*losses[-99:], run.advance(bank, Noise())]
            bar.update()
    return float(np.nanmean(losses)) if len(losses) > 1 else math.nan


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.train_lifter", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    recipe = Recipe()
    parser.add_argument("--mocap", required=True, help="folder of the mocap archives (*.npz)")
    parser.add_argument("--checkpoint", required=True, help="file that keeps the run's state")
    parser.add_argument("--out", help="weights file (.safetensors) to write at the end")
    parser.add_argument("--steps", type=int, default=recipe.steps, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=recipe.batch, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=recipe.seed, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after so long (default: at the end)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command.

    Raises:
        ConfigError: a bad number, no mocap there, or a checkpoint of another run.

    """
    args = parse(argv)
    if min(args.steps, args.batch, args.threads) < 1:
        raise ConfigError("--steps, --batch, --threads: expected at least 1")
    torch.set_num_threads(args.threads)
    train, held = split(read_mocap(args.mocap))
    if not train or not held:
        raise ConfigError(f"{args.mocap}: expected clips to learn from and held-out ones")
    run = Run(Recipe(steps=args.steps, batch=args.batch, seed=args.seed))
    checkpoint = Path(args.checkpoint)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        run.load(checkpoint)
    loss = learn(run, make_bank(train), args.seconds)
    run.save(checkpoint)
    answer: dict[str, Any] = {"net": "lift_mono", "step": run.step, "steps": args.steps}
    answer["loss"] = round(loss, 4) if math.isfinite(loss) else None
    if run.step >= args.steps:
        net, bank = run.averaged(), make_bank(held)
        answer["held_out"] = validate(net, bank, Noise())
        answer["held_out_exact"] = validate(net, bank, Noise(0.0, 0.0, 0.0, 0.0, 0.0))
        if args.out:
            answer |= {"out": args.out, **write_weights(net, Path(args.out))}
    return answer


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1:])))
    except (PoseRosError, OSError) as error:
        sys.exit(f"error: {error}")
