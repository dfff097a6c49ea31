"""Which parts of a video network earn their place: small ones, trained with and without each.

Every network gets MoveNet Lightning's trunk, frozen, on crops of 96x64; its answers for the clips
are computed once. Clips are rendered (`occlusion_set.py`) or, with --train-video and --test-video,
cut from real video that `consensus.py` labelled (`occlusion_video.py`). What follows the trunk is
64 channels wide or less and learns by the paper's own objective. All rows of a network see the
same windows in the same order, for the same number of steps, and what they have in common starts
with the same numbers. A seed draws the start, the order and the four fifths of the training clips
that are used.

Two rows say what other pictures are worth: ``off`` is the network without its temporal modules,
``still`` the whole network that is shown the key picture in place of its neighbours.

Each finished run is a line of JSON in --out and is not run again. --table prints what is there, by
default what was published: docs/ablate.jsonl. The last line on stdout is one JSON object.

  ablate --net all --seeds 3                                         on rendered clips
  ablate --train-video A.mp4=A.jsonl --test-video B.mp4=B.jsonl      on real ones (tools.track's)
  ablate --table text --clips video                                  what was published of these
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from pose_ros.core.heatmaps import decode
from pose_ros.core.values import PoseMaps
from pose_ros.errors import ConfigError, PoseRosError, SourceError
from pose_ros.nets.checkpoint import find_card
from pose_ros.nets.layers import map_to_tokens
from pose_ros.nets.registry import build_net
from pose_ros.nets.video import VideoPoseNet
from pose_ros.nets.vit import TokenPoseNet
from pose_ros.training.ablate_rows import (
    FAMILIES,
    LEVELS,
    SIGMA_CELLS,
    SIZE,
    TRUNK,
    Family,
    Row,
    made_of,
)
from pose_ros.training.ablate_table import FORMS, orderings, table
from pose_ros.training.card import start_from
from pose_ros.training.config import (
    NORMALISATIONS,
    CropConfig,
    LossConfig,
    NetConfig,
    OptimConfig,
    TrainConfig,
)
from pose_ros.training.loop import lr_factor, make_optimizer
from pose_ros.training.metrics.pck import errors, share_within
from pose_ros.training.objectives import Batch, Trainee
from pose_ros.training.occlusion_set import (
    KEY,
    KINDS,
    PICTURES,
    SPLITS,
    Clips,
    OcclusionConfig,
    view,
)
from pose_ros.training.occlusion_video import LabelledVideo, VideoConfig
from pose_ros.training.targets import STRIDE, cells_from_crop, inside

REACHES = (0.05, 0.1)  # of the longer side of the person's box
SHARE_USED = 0.8  # of the training clips, drawn by the seed
CHUNK = 64  # windows at once where nothing is learned

#: What `docs/results.md` shows.
PUBLISHED = Path(__file__).parents[2] / "docs" / "ablate.jsonl"
RENDERED, VIDEO = "rendered", "video"

Arrays = dict[str, torch.Tensor]


class ClipSource(Protocol):
    """Where clips come from: `OcclusionConfig` renders them, `VideoConfig` cuts them."""

    train: int
    test: int
    size_hw_px: tuple[int, int]

    def digest(self) -> str:
        """Eight hexadecimal digits of what is shown."""
        ...

    def load(self, split: str, folder: Path) -> Clips:
        """Clips of a split."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How every row is trained."""

    steps: int = 300
    batch: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-4
    views: int = 2  # spoilt versions of every training clip

    def optim(self) -> OptimConfig:
        """Return the optimiser's settings."""
        return OptimConfig(
            lr=self.lr, weight_decay=self.weight_decay, schedule="cosine", warmup_share=0.05
        )


class Store:
    """The trunk's features of all views, computed once and kept in a folder."""

    def __init__(self, folder: Path, data: ClipSource) -> None:
        """Name the files after what is in them."""
        self.folder, self.data = folder, data
        content = (data.digest(), data.train, data.test, find_card(TRUNK).sha256, SIGMA_CELLS, 2)
        self.digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]
        self.where = folder / f"features_{self.digest}"

    def train(self, number: int, family: Family) -> Arrays:
        """Spoilt version ``number`` of the training clips; see `read`."""
        return self.project(self.read("train", "mixed", number + 1, family.levels), family)

    def test(self, kind: str, family: Family) -> Arrays:
        """Test clips of a kind; see `read`."""
        return self.project(self.read("test", kind, 0, family.levels), family)

    def project(self, arrays: Arrays, family: Family) -> Arrays:
        """Put the family's principal components in place of the finest feature's channels."""
        if not family.channels:
            return arrays
        path = self.where / "components.npz"
        if not path.is_file():
            sample = self.read("train", "mixed", 1, 1)["feature0"][::4].float()
            by_channel = sample.transpose(0, 2).flatten(1)
            middle = by_channel.mean(1, keepdim=True)
            spread, axes = torch.linalg.eigh((by_channel - middle) @ (by_channel - middle).T)
            share = spread.flip(0).cumsum(0) / spread.sum()
            np.savez(path, mean=middle[:, 0], axes=axes.flip(1), explained=share)
        with np.load(path, allow_pickle=False) as archive:
            mean, axes = (torch.from_numpy(archive[n]).float() for n in ("mean", "axes"))
        centred = arrays["feature0"].float() - mean[:, None, None]
        kept = torch.einsum("ntchw,cd->ntdhw", centred, axes[:, : family.channels])
        return {**arrays, "feature0": kept.half()}

    def read(self, split: str, kind: str, seed: int, levels: int) -> Arrays:
        """Make or read a view of N clips of 5 pictures.

        ``feature0`` ... (N, 5, C, h, w) float16, ``cells`` (N, 5, 17, 2), ``visible``
        (N, 5, 17), ``hidden`` (N, 17), ``side_cells`` (N,).
        """
        name = f"{split}_{kind}_{seed}"
        done = self.where / f"{name}_labels.npz"
        if not done.is_file():
            self._make(split, kind, seed, name)
        with np.load(done, allow_pickle=False) as archive:
            out = {n: torch.from_numpy(archive[n]) for n in archive.files}
        for level in range(levels):
            out[f"feature{level}"] = torch.from_numpy(np.load(self.where / f"{name}_{level}.npy"))
        return out

    def _make(self, split: str, kind: str, seed: int, name: str) -> None:
        """Compute and write; the labels come last and say that all is there."""
        clips = view(self.data.load(split, self.folder), kind, seed)
        self.where.mkdir(parents=True, exist_ok=True)
        for level, found in enumerate(trunk_features(clips.frames)):
            np.save(self.where / f"{name}_{level}.npy", found)
        cells = cells_from_crop(clips.xy_px, "edge", self.data.size_hw_px)
        part = self.where / f"{name}.part"
        with part.open("wb") as file:
            np.savez(
                file, cells=cells, hidden=clips.hidden, side_cells=clips.side_px / STRIDE,
                visible=inside(cells, self.data.size_hw_px).astype(np.float32),
            )  # fmt: skip
        part.replace(self.where / f"{name}_labels.npz")


def trunk_features(frames: np.ndarray) -> list[np.ndarray]:
    """Trunk's features (N, T, C, h, w) float16, finest first, of frames (N, T, H, W, 3)."""
    net = build_net("hstpn_robot", **{**SIZE, "size_hw_px": frames.shape[2:4]})
    assert isinstance(net, VideoPoseNet)
    start_from(net, TRUNK, "coco17")
    trunk = net.get_submodule("backbone").eval()
    mean, std = NORMALISATIONS["movenet"]
    found: list[list[np.ndarray]] = [[] for _ in range(LEVELS)]
    with torch.no_grad():
        for first in _progress(range(0, len(frames), 16), "trunk"):
            part = torch.from_numpy(frames[first : first + 16])
            shown = (part.float() - torch.tensor(mean)) / torch.tensor(std)
            answer = trunk(shown.flatten(0, 1).permute(0, 3, 1, 2).contiguous())
            for level, feature in enumerate(answer):
                found[level].append(feature.unflatten(0, part.shape[:2]).half().numpy())
    return [np.concatenate(parts) for parts in found]


def _progress(items: Sequence[int], what: str) -> Iterator[int]:
    return iter(tqdm(items, desc=what, leave=False, disable=not sys.stderr.isatty()))


def pictures_of(net: VideoPoseNet, row: Row) -> list[int]:
    """Pictures of a clip that a row's window has, in order; the key picture is `KEY`.

    Raises:
        ConfigError: the clip is too short.

    """
    window = net.window
    if row.still:
        return [KEY] * window.frames
    wanted = [KEY + (t - window.key) * row.spread for t in range(window.frames)]
    if min(wanted) < 0 or max(wanted) >= PICTURES:
        raise ConfigError(f"a clip has {PICTURES} pictures, row '{row.about}' wants {wanted}")
    return wanted


def batch_of(arrays: Arrays, index: torch.Tensor, net: VideoPoseNet, row: Row) -> Arrays:
    """Windows ``index`` as `Trainee` takes them, with stored features."""
    shown = torch.tensor(pictures_of(net, row))
    out = {n: arrays[n][index][:, shown] for n in arrays if n not in ("hidden", "side_cells")}
    if isinstance(net, TokenPoseNet):
        maps = out["feature0"]
        blocks = F.pixel_unshuffle(maps.flatten(0, 1), 16 // STRIDE)
        out["feature0"] = map_to_tokens(blocks).unflatten(0, maps.shape[:2])
    away = torch.full((len(index),), float(row.spread))
    out["dt_left"], out["dt_right"] = away * net.window.key, away * net.window.lookahead
    out["index"], out["epoch"] = index, torch.zeros_like(index)
    return out


def make_trainee(name: str, row: Row, recipe: Recipe, seed: int) -> Trainee:
    """A row's network, what it shares with the whole one started alike, and its objective."""
    family = FAMILIES[name]
    torch.manual_seed(seed)
    whole = build_net(family.net, **family.options)
    options = {**family.options, **row.options}
    net = build_net(family.net, **options)
    assert isinstance(net, VideoPoseNet)
    own = net.state_dict()
    shared = {n: t for n, t in whole.state_dict().items() if n in own and own[n].shape == t.shape}
    net.load_state_dict(shared, strict=False)
    config = TrainConfig(
        net=NetConfig(family.net, options, freeze=True),
        crop=CropConfig(joints="coco17", normalise="movenet", sigma=SIGMA_CELLS),
        loss=LossConfig(p_gt_aux=1.0 if row.labels else 0.0),
        optim=recipe.optim(),
    )
    return Trainee(net, config)


@dataclass(frozen=True)
class Phase:
    """A part of a run with a schedule of its own; without ``aligned`` DSA concatenates."""

    steps: int
    lr: float  # at most
    aligned: bool = True


def phases_of(family: Family, recipe: Recipe) -> list[Phase]:
    """How the rows of a family are trained.

    DSA's alignment is the identity at the start, so that learning begins with concatenation; as
    its steps are costly, all rows learn that first.
    """
    lr = recipe.lr * family.lr
    last = Phase(max(1, round(recipe.steps * family.steps)), lr)
    first = Phase(round(recipe.steps * family.warm), 3.0 * lr, aligned=False)
    return [first, last] if family.warm else [last]


def train_row(
    name: str, row: Row, seed: int, recipe: Recipe, data: Sequence[Arrays]
) -> tuple[Trainee, float]:
    """Train a row on views ``data``; it, and the mean loss of the last tenth of the steps."""
    trainee = make_trainee(name, row, recipe, seed).train()
    generator = torch.Generator().manual_seed(seed)
    count = len(data[0]["cells"])
    used = torch.randperm(count, generator=generator)[: max(1, round(SHARE_USED * count))]

    def next_batch() -> Arrays:
        picked = used[torch.randint(len(used), (recipe.batch,), generator=generator)]
        number = int(torch.randint(len(data), (), generator=generator))
        return batch_of(data[number], picked, trainee.net, row)

    losses: list[float] = []
    align = getattr(trainee.net, "align", None)
    for phase in phases_of(FAMILIES[name], recipe):
        if align is not None:
            trainee.net.align = align if phase.aligned else None
        losses = _learn(trainee, phase, next_batch, f"{name} {row.about[:24]} {seed}")
    return trainee.eval(), float(np.mean(losses[-max(1, len(losses) // 10) :]))


def _learn(
    trainee: Trainee, phase: Phase, next_batch: Callable[[], Arrays], what: str
) -> list[float]:
    """Loss of every step."""
    optim = trainee.config.optim
    optimizer = make_optimizer(trainee, optim, phase.lr, 1.0)
    losses = []
    for step in _progress(range(phase.steps), what):
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor(optim, step, phase.steps, phase.steps)
        total = trainee(next_batch())["total"]
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), optim.clip)
        optimizer.step()
        losses.append(float(total.detach()))
    return losses


def answer(trainee: Trainee, arrays: Arrays, row: Row) -> np.ndarray:
    """Joints (N, 17, 2) of the key pictures in cells, NaN not found."""
    found = []
    with torch.no_grad():
        for first in range(0, len(arrays["cells"]), CHUNK):
            index = torch.arange(first, min(first + CHUNK, len(arrays["cells"])))
            batch = batch_of(arrays, index, trainee.net, row)
            labels = side_labels(batch) if row.labels else None
            features = trainee.features(batch)
            out = trainee.net.fuse(features, batch["dt_left"], batch["dt_right"], labels)
            found.append(decode(PoseMaps(out.heatmaps.float().numpy()))[0])
    return np.concatenate(found)


def side_labels(batch: Batch) -> torch.Tensor:
    """Labels (B, T, K, 3) as `VideoPoseNet.fuse` takes them; it ignores the key picture's."""
    return torch.cat((torch.nan_to_num(batch["cells"]), batch["visible"][..., None]), -1)


def score(found: np.ndarray, arrays: Arrays) -> dict[str, dict[str, float]]:
    """PCK of labelled joints, of ``all`` and of those ``hidden`` under a patch, by reach."""
    truth = arrays["cells"][:, KEY].numpy().copy()
    truth[arrays["visible"][:, KEY].numpy() == 0] = np.nan
    sides = arrays["side_cells"].numpy()
    hidden = np.where(arrays["hidden"].numpy()[..., None], truth, np.nan)
    out = {}
    for group, wanted in (("all", truth), ("hidden", hidden)):
        error = errors(found, wanted, sides)
        if np.isfinite(wanted).any():
            out[group] = {str(reach): share_within(error, reach) for reach in REACHES}
    return out


def run_row(store: Store, name: str, key: str, seed: int, recipe: Recipe) -> dict[str, Any]:
    """Train and measure one row; what is written to the file."""
    family = FAMILIES[name]
    row = family.rows[key]
    begun = time.monotonic()
    data = [store.train(number, family) for number in range(recipe.views)]
    trainee, loss = train_row(name, row, seed, recipe, data)
    tests = {kind: store.test(kind, family) for kind in KINDS}
    scores = {kind: score(answer(trainee, t, row), t) for kind, t in tests.items()}
    learned = sum(p.numel() for p in trainee.net.parameters() if p.requires_grad)
    steps = sum(phase.steps for phase in phases_of(family, recipe))
    return {
        "net": name, "row": key, "seed": seed, **dataclasses.asdict(recipe),
        "clips": VIDEO if isinstance(store.data, VideoConfig) else RENDERED,
        "data": store.digest, "made": made_of(name, key), "trained": steps, "learned": learned,
        "loss": loss, "pck": scores, "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def read_results(path: Path) -> list[dict[str, Any]]:
    """Lines of a results file; none when there is no file.

    Raises:
        SourceError: a line that is no result.

    """
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append(row | {"id": (row["net"], row["row"], row["seed"])})
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{path}:{number}: expected a result of this command") from error
    return rows


def newest_data(results: list[dict[str, Any]], clips: str) -> str:
    """Digest of the data of the last result on clips of this kind; empty when there is none."""
    return next((r["data"] for r in results[::-1] if r.get("clips", RENDERED) == clips), "")


def comparable(results: list[dict[str, Any]], digest: str, recipe: Recipe) -> list[dict[str, Any]]:
    """Results of the same data and recipe, and of rows as they are now."""
    wanted = {**dataclasses.asdict(recipe), "data": digest}
    same = [r for r in results if all(r.get(n) == v for n, v in wanted.items())]
    known = {(name, key) for name, family in FAMILIES.items() for key in family.rows}
    return [
        r for r in same if r["id"][:2] in known and r.get("made") == made_of(r["net"], r["row"])
    ]


def wanted_runs(nets: str, rows: str, seeds: int) -> list[tuple[str, str, int]]:
    """Network, row and seed of every run that is asked for, all seeds of a row together.

    Raises:
        ConfigError: an unknown network or row.

    """
    names = list(FAMILIES) if nets == "all" else nets.split(",")
    for name in names:
        if name not in FAMILIES:
            raise ConfigError(f"--net: expected {', '.join(FAMILIES)} or all, got '{name}'")
    known = {row for name in names for row in FAMILIES[name].rows}
    asked = rows.split(",") if rows else sorted(known)
    for row in asked:
        if row not in known:
            raise ConfigError(
                f"--rows: {', '.join(names)} has {', '.join(sorted(known))}: '{row}'"
            )
    return [
        (name, row, seed)
        for name in names
        for row in FAMILIES[name].rows
        if row in asked
        for seed in range(seeds)
    ]


def clips_of(args: argparse.Namespace) -> ClipSource:
    """Source of clips that was asked for."""
    counts = args.train, args.test
    if not (args.train_video or args.test_video):
        return OcclusionConfig(*counts)
    films = {
        "train": tuple(LabelledVideo.parse(text) for text in args.train_video),
        "test": tuple(LabelledVideo.parse(text) for text in args.test_video),
    }
    return VideoConfig(films, *counts)


def _table(
    args: argparse.Namespace, recipe: Recipe, runs: set[tuple[str, str, int]]
) -> dict[str, Any]:
    """Print what a file has of the rows that were asked for."""
    out = Path(args.out or PUBLISHED)
    if not out.is_file():
        raise SourceError(f"{out}: expected results of this command; name them with --out")
    found = read_results(out)
    mine = comparable(found, newest_data(found, args.clips), recipe)
    mine = [r for r in mine if r["id"] in runs]
    sys.stdout.write(table(mine, FAMILIES, args.table))
    return {"runs": len(mine), "out": str(out), "orderings": orderings(mine)}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; its answer."""
    args = parser().parse_args(argv)
    if args.seeds < 1 or args.steps < 1:
        raise ConfigError(f"--seeds, --steps: expected at least 1, got {args.seeds}, {args.steps}")
    if args.threads:
        torch.set_num_threads(args.threads)
    recipe, runs = Recipe(steps=args.steps), wanted_runs(args.net, args.rows, args.seeds)
    if args.table:
        return _table(args, recipe, set(runs))
    out = Path(args.out or "runs/ablate.jsonl")
    store = Store(Path(args.cache), clips_of(args))
    done = comparable(read_results(out), store.digest, recipe)
    left = [run for run in runs if run not in {r["id"] for r in done}]
    now = left[: args.runs] if args.runs else left
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, row, seed in now:
        result = run_row(store, name, row, seed, recipe)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        found = {kind: round(s["all"]["0.1"], 3) for kind, s in result["pck"].items()}
        sys.stderr.write(f"{name} {row} seed {seed}: PCK@0.1 {found}, {result['seconds']} s\n")
    return {"runs": len(runs), "ran": len(now), "left": len(left) - len(now), "out": str(out)}


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.ablate", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="rows:\n" + "\n".join(
            f"  {name}: {', '.join(family.rows)}" for name, family in FAMILIES.items()
        ),
    )  # fmt: skip
    add, recipe, data = made.add_argument, Recipe(), OcclusionConfig()
    add("--net", default="all", help=f"{', '.join(FAMILIES)}, several with commas, or all")
    add("--rows", default="", help="rows, with commas (default: all of them)")
    add("--seeds", type=int, default=3, help="seeds 0 ... N-1 (default: %(default)s)")
    add("--steps", type=int, default=recipe.steps, help="of training (default: %(default)s)")
    add("--out", help="results (default: runs/ablate.jsonl; with --table docs/ablate.jsonl)")
    add("--cache", default="runs/occlusion", help="clips and features (default: %(default)s)")
    add("--runs", type=int, default=0, help="stop after so many new runs, 0: after all")
    add("--train", type=int, default=data.train, help="training clips (default: %(default)s)")
    add("--test", type=int, default=data.test, help="test clips (default: %(default)s)")
    for split in SPLITS:
        add(
            f"--{split}-video",
            action="append",
            default=[],
            metavar="VIDEO=POSES",
            help=f"film to {split} with, and what tools.track says of it (.jsonl), or labels "
            "(.npz of consensus.save); may be repeated",
        )
    add("--threads", type=int, default=1, help="CPU threads, 0: torch's choice (default: 1)")
    add("--table", choices=FORMS, help="print what --out has instead of training")
    add(
        "--clips", choices=(RENDERED, VIDEO), default=RENDERED, help="whose results --table prints"
    )
    return made


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    try:
        found = main(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on with the runs that are missing\n")
        return 130
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
