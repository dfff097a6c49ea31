"""Rows of the papers' tables, from data on disk to the number: train, judge, print beside.

  reproduce pstpose.4 --row a --data posetrack17=/data/pt17
  reproduce stdpose.3 --row t4 --data posetrack17=/data/pt17      few labels, propagated, learned
  reproduce vremd --data posetrack17=... --data posetrack18=... --data posetrack21=...
  reproduce dsa.4 --data posetrack17=/data/pt17 --print            the commands only, a line each

A row is some commands of training.train, training.propagate_dataset and training.evaluate, which
--print shows: under torchrun or on another machine they are run by hand. Without --row it is every
row of ours, without a table's number all tables of a paper. Rows that share a training train once;
the same command goes on where it stopped, and leaves out what it finished; what another command
made there (other settings, data or boxes) is an error. Settings of training.train can follow:
train.batch=16 net.init= data.workers=4.

--train, --val and --test replace a part of the data set that they name, of no other one.
With --print the commands can be run by hand, in this order and these folders; the same command
without --print then leaves finished ones out, and with --seeds N writes the mean.

OUT gets runs/ (a folder per training), labels/ and results/, which
`evaluate --table NAME --results OUT/results` prints; results/temporal_off/ has the same networks'
answers to the key frame alone.
"""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import math
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pose_ros.core.skeletons import get_skeleton
from pose_ros.errors import ConfigError
from pose_ros.training import checkpoints, cost, evaluate, propagate_dataset, train
from pose_ros.training.checkpoints import BEST, LAST, write_text
from pose_ros.training.config import TrainConfig, flatten, nested, read_recipe
from pose_ros.training.datasets import dataset_options
from pose_ros.training.propagate import command
from pose_ros.training.reproduce_sets import NO_MEMORY, SETS
from pose_ros.training.tables import Row, Table, get_table, tables_of

_log = logging.getLogger(__name__)

RECIPES = Path("config/train")
PROGRAMS: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "train": train.main,
    "propagate_dataset": propagate_dataset.main,
    "evaluate": evaluate.main,
}
#: Options of `training.evaluate` in a row that are another data set, and its name.
_ELSEWHERE = "--dataset"
#: Options of a row that is refined along its tracks (`training.tables`).
_REFINED = "--refine RATE_HZ"
#: Shows the key frame in place of its neighbours: what time is worth (models.md, G9).
_STILL = "--temporal-off"
#: Settings that a row decides, and what to give instead.
_DECIDED = {
    "name": "--out DIR, the folder of all rows",
    "out": "--out DIR",
    "device": "--device",
    "train.seed": "--seeds N",
    "data.train": "--train SPEC",
    "data.val": "--val SPEC",
    "crop.joints": "no other one: the table's data set has its joints",
    "net.options.joints": "no other one: the table's data set has its joints",
    "net.options": "net.options.NAME=VALUE, one by one",
}
#: Settings of a row that may be replaced: it is no other row with another one.
_OPEN = ("train.monitor",)
#: Settings that may differ between two commands whose answers are the same.
_FREE = (
    "device", "data.workers", "train.max_minutes", "train.checkpoint_s", "train.threads",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One command; ``made`` is the file that says that it is done."""

    program: str
    argv: tuple[str, ...]
    made: Path

    @property
    def text(self) -> str:
        """The command as it is typed."""
        return f"python -m pose_ros.training.{self.program} {shlex.join(self.argv)}"

    @property
    def meant(self) -> str:
        """The command without what does not change its answer."""
        words = [w for w in self.argv if w.partition("=")[0] not in _FREE]
        if "--device" in words:
            at = words.index("--device")
            del words[at : at + 2]
        return f"python -m pose_ros.training.{self.program} {shlex.join(words)}"

    @property
    def record(self) -> Path:
        """Where is kept which commands made it; no answer of ``evaluate --results``."""
        return self.made.with_name(f".{self.made.name}.cmd")


class Planner:
    """What has to be run for a row, with the data and folders of one command line."""

    def __init__(self, args: argparse.Namespace, seed: int = 0) -> None:
        """Take where data are, and where results go.

        Raises:
            ConfigError: a data set without a row, or a setting that the row decides.

        """
        self.data = _pairs(args.data)
        self.given = {"train": args.train, "val": args.val, "test": args.test}
        for name in self.data:
            _known_set(name, "--data")
        for part, spec in self.given.items():
            if spec:
                _known_set(_set_of(spec), f"--{part} {spec}")
        for text in args.settings:
            name = text.partition("=")[0]
            if name in _DECIDED:
                raise ConfigError(f"{name}: the row decides it; expected {_DECIDED[name]}")
        self.missing: list[str] = []  # sets without --data
        self.used: set[str] = set()  # parts of which the given data were taken
        self.boxed: set[str] = set()  # sets whose detected boxes are judged in
        self.boxes, self.out, self.seed = args.boxes, Path(args.out), seed
        self.several = args.seeds > 1
        self.asked: list[str] = list(args.settings)
        self.settings = [*args.settings, f"device={args.device}", f"train.seed={seed}"]
        self.device = args.device

    def spec(self, name: str, part: str, **more: object) -> str:
        """Specification of a part (train, val, test) of a data set.

        A set that nobody said where it is goes to ``missing``, for `complete`.

        Raises:
            ConfigError: nobody said which people are which part of SportsPose.

        """
        parts = SETS[name]
        source = parts.train_set if part == "train" and parts.train_set else name
        spec = str(self.given[part])
        if spec and _set_of(spec) in (name, source):
            self.used.add(part)
            options = "&".join(f"{k}={v}" for k, v in more.items())
            return f"{spec}{'&' if '?' in spec else '?'}{options}" if options else spec
        if name == "sportspose":
            raise ConfigError(
                "sportspose: no published split; give --train, --val and --test, e.g. "
                "'sportspose:ROOT?split=S04,S05'"
            )
        if source not in self.data and source not in self.missing:
            self.missing.append(source)
        query = "&".join([getattr(parts, part), *(f"{k}={v}" for k, v in more.items())])
        return f"{source}:{self.data.get(source, '')}?{query}"

    def complete(self) -> None:
        """Look whether the rows that were planned have data, and used what was given.

        Raises:
            ConfigError: data are missing, or were given for nothing, or boxes for several sets.

        """
        if self.missing:
            wanted = " ".join(f"--data {name}=FOLDER" for name in self.missing)
            raise ConfigError(f"expected {wanted}, where {', '.join(self.missing)} lies")
        for part, spec in self.given.items():
            if spec and part not in self.used:
                raise ConfigError(
                    f"--{part} {spec}: no row that was asked for has {_set_of(spec)} as its "
                    f"{part} data; it replaces data of the set that it names only"
                )
        if len(self.boxed) > 1:
            raise ConfigError(
                f"--boxes {self.boxes}: expected rows of one data set, got "
                f"{', '.join(sorted(self.boxed))}; ask for one table"
            )

    def on_disk(self) -> None:
        """Look whether what was given is there, before anything is trained.

        Raises:
            ConfigError: a folder or the file of boxes is not there.

        """
        for name, folder in self.data.items():
            if not Path(folder).is_dir():
                raise ConfigError(f"--data {name}={folder}: expected a folder, found none")
        if self.boxes and not Path(self.boxes).is_file():
            raise ConfigError(f"--boxes {self.boxes}: expected a file of boxes, found none")

    def detected(self, table: Table, row: Row) -> dict[str, str]:
        """Option of the judged data that takes the boxes that were given.

        Raises:
            ConfigError: boxes were given, and the row is not judged in such.

        """
        if not self.boxes:
            return {}
        row_of = f"--boxes {self.boxes}: {table.key}, row {row.key}"
        if table.protocol == cost.PROTOCOL:
            raise ConfigError(f"{row_of} measures cost, without pictures; leave --boxes out")
        if row.interval is not None and not _few_labels(table, row):
            raise ConfigError(f"{row_of} propagates labels in their own boxes; leave --boxes out")
        if row.evaluate.startswith(_ELSEWHERE):
            raise ConfigError(
                f"{row_of} is judged on another data set than its table; give --row, or leave "
                "--boxes out"
            )
        if "boxes" not in dataset_options(table.dataset):
            raise ConfigError(f"{row_of}: {table.dataset} takes no detected boxes")
        self.boxed.add(table.dataset)
        return {"boxes": self.boxes}

    def training(
        self, table: Table, row: Row, name: str = "", spread: int = 0, **source: object
    ) -> Step:
        """Training of a row's network; ``source`` are options of the data that it learns from."""
        paper, flags = table.net.split("_")[0], dict(row.flags or {})
        data = SETS[table.dataset]
        words = [paper, table.dataset, name, *(f"{k}-{v}" for k, v in flags.items())]
        words += [f"s{self.seed}"] if self.seed else []
        title = "_".join(word for word in words if word)
        folder = self.out / "runs" / title
        settings = [f"net.options.{name}={value}" for name, value in flags.items()]
        settings += NO_MEMORY if flags.get("temporal") == "off" else []
        settings += [f"crop.joints={data.joints}", *data.settings]
        settings += [f"net.options.joints={len(get_skeleton(data.joints))}"]
        settings += [f"data.spread={spread}"] if spread else []
        self._undecided(table, row, settings)
        argv = [
            str(RECIPES / f"{paper}.yaml"), f"name={title}", f"out={folder}",
            f"data.train=[{json.dumps(self.spec(table.dataset, 'train', **source))}]",
            f"data.val=[{json.dumps(self.spec(table.dataset, 'val'))}]",
            *settings, *self.settings,
        ]  # fmt: skip
        return Step("train", tuple(argv), folder / f"{title}.yaml")

    def _undecided(self, table: Table, row: Row, decided: Sequence[str]) -> None:
        """Look whether no setting that was given is one by which the rows of a table differ.

        Raises:
            ConfigError: one is, and is not what the row has.

        """
        has = {name: value for name, _, value in (text.partition("=") for text in decided)}
        theirs = {f"net.options.{name}" for other in table.rows for name in other.flags or {}}
        for text in self.asked:
            name, _, value = text.partition("=")
            if name in _OPEN or (name not in has and name not in theirs):
                continue
            own = has.get(name)
            if own is None or yaml.safe_load(own) != yaml.safe_load(value):
                told = "its recipe's" if own is None else own
                raise ConfigError(
                    f"{text}: the row decides it; in {table.key}, row {row.key}, {name} is "
                    f"{told}: leave it out, or ask for the row that has it"
                )

    def result(self, table: Table, row: Row, kind: str = "") -> Path:
        """Where the answer of a row goes; that of one of several seeds is no row yet."""
        folder = self.out / "results"
        folder = folder / f"seed{self.seed}" if self.several else folder
        return folder / kind / f"{table.key}.{row.key}.json"

    def judged(self, table: Table, row: Row, card: Path, *options: str) -> Step:
        """Evaluation of a card on the judged part of the table's data."""
        saved = self.result(table, row, "temporal_off" if _STILL in options else "")
        if table.net.startswith("dsa"):
            options = (*options, "--subpixel", "quarter")  # as the code it is built on
        argv = ["--net", str(card), "--protocol", table.protocol, *options,
                "--table", table.key, "--row", row.key, "--save", str(saved),
                "--device", self.device]  # fmt: skip
        if _ELSEWHERE not in options:
            boxes = self.detected(table, row)
            argv[2:2] = [_ELSEWHERE, self.spec(table.dataset, "test", **boxes)]
        return Step("evaluate", tuple(argv), saved)

    def propagated(self, table: Table, row: Row, card: Path, interval: int) -> Step:
        """Propagation on the judged part, from every ``interval``-th label."""
        saved = self.result(table, row)
        argv = ["--net", str(card), _ELSEWHERE, self.spec(table.dataset, "test"),
                "--interval", str(interval), "--method", "stdpose", "--table", table.key,
                "--row", row.key, "--save", str(saved), "--device", self.device]  # fmt: skip
        return Step("propagate_dataset", tuple(argv), saved)

    def steps(self, table: Table, row: Row) -> list[Step]:
        """Commands of a row, in order.

        Raises:
            ConfigError: it is no row of ours, or cannot be judged in the boxes that were given.

        """
        if row.flags is None:
            raise ConfigError(f"{table.key}, row {row.key}: {row.title} is none of our networks")
        self.detected(table, row)
        if table.protocol == cost.PROTOCOL:
            saved = self.result(table, row)
            argv = ("--net", table.net, "--protocol", cost.PROTOCOL, "--table", table.key,
                    "--row", row.key, "--save", str(saved), "--device", self.device)  # fmt: skip
            return [Step("evaluate", argv, saved)]
        if _few_labels(table, row):
            return self._from_propagated_labels(table, row)
        if row.interval is not None:
            spread = row.interval
            first = self.training(table, row, f"spread{spread}" if spread else "", spread)
            return [first, self.propagated(table, row, first.made, row.interval)]
        first = self.training(table, row)
        options = self._options(table, row)
        steps = [first, self.judged(table, row, first.made, *options)]
        if table.protocol == "poseval":
            steps.insert(1, self.judged(table, row, first.made, *options, _STILL))
        return steps

    def _from_propagated_labels(self, table: Table, row: Row) -> list[Step]:
        """Paper 003's section 4.3: few labels, a network that propagates them, one that learns."""
        interval = row.interval
        assert interval is not None
        first = self.training(table, row, f"sparse{interval}", interval, interval=interval)
        tail = f"_s{self.seed}" if self.seed else ""
        labels = self.out / "labels" / f"{table.dataset}_every{interval}{tail}"
        answer = labels.with_suffix(".json")
        argv = ("--net", str(first.made), _ELSEWHERE, self.spec(table.dataset, "train"),
                "--interval", str(interval), "--method", "stdpose", "--labels", str(labels),
                "--save", str(answer), "--device", self.device)  # fmt: skip
        second = Step("propagate_dataset", argv, answer)
        third = self.training(table, row, f"pseudo{interval}", labels=labels)
        return [first, second, third, self.judged(table, row, third.made)]

    def _options(self, table: Table, row: Row) -> list[str]:
        """Options of `training.evaluate` that make a row."""
        words = shlex.split(row.evaluate)
        usual = list(SETS[table.dataset].judging)
        if words[:1] == ["--refine"]:
            rate = SETS[table.dataset].refine_hz
            return [*usual, "--refine", f"{rate:g}"] if rate else usual
        if words[:1] == [_ELSEWHERE]:
            name = words[1].partition(":")[0]
            return [*SETS[name].judging, _ELSEWHERE, self.spec(name, "test")]
        return [*usual, *words]


def chosen(name: str, row: str) -> list[tuple[Table, Row]]:
    """Rows of ours of a table, or of all tables whose names go on behind it.

    Raises:
        ConfigError: there is no such table or row.

    """
    tables = tables_of(name)
    if row and len(tables) > 1:
        raise ConfigError(f"--row {row}: expected one table, {name} are {len(tables)}")
    if row:
        return [(tables[0], tables[0].row(row))]
    return [(table, r) for table in tables for r in table.rows if r.flags is not None]


def finished(step: Step, before: Sequence[str] = ()) -> bool:
    """Whether a command was run to its end before, after the commands ``before``.

    Raises:
        ConfigError: what is there was made by another command.

    """
    if not step.made.is_file():
        return False
    told = _answer(step.made.parent / "metrics.json" if step.program == "train" else step.made)
    if told.get("stopped") or "seeds" in told:  # of several seeds: a mean, no answer of a command
        return False
    if not step.record.is_file():
        return _made_by_hand(step, told)
    old, new = step.record.read_text(encoding="utf-8").splitlines(), [*before, step.meant]
    if old != new:
        other = next((line for line in old if line not in new), " && ".join(old))
        raise _other(step, other)
    return True


def _answer(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: expected a JSON object; remove it") from None


def _made_by_hand(step: Step, told: Mapping[str, Any]) -> bool:
    """Whether an answer that nobody noted the command of is this command's, by what it says.

    False where it does not say it; to make it again costs time only.
    """
    if step.program == "train":
        kept = [p for p in (step.made.parent / n for n in (LAST, BEST)) if p.is_file()]
        if not kept:  # config.yaml alone says what began there, not what learned
            raise _other(step, f"unknown, there is no {step.made.parent / LAST}")
        old = flatten(TrainConfig()) | checkpoints.load(kept[0], lazily=True)["config"]
        new = flatten(read_recipe(Path(step.argv[0]), step.argv[1:]))
        names = [n for n in new if n not in (*_FREE, "out", "resume") and old[n] != new[n]]
        if names:
            raise _other(step, " ".join(f"{name}={old[name]}" for name in names))
        return True
    if step.program != "evaluate" or "spec" not in told:
        return False
    given = dict(zip(step.argv, step.argv[1:], strict=False))
    if told["spec"] != given.get(_ELSEWHERE):
        raise _other(step, f"{_ELSEWHERE} {told['spec']}")
    return True


def _other(step: Step, how: str) -> ConfigError:
    return ConfigError(f"{step.made} was made by another command: {how}; give another --out")


def run(steps: Sequence[Step]) -> None:
    """Run what is not finished yet, in order.

    Raises:
        PoseRosError: whatever a command has to say, or what is there is another command's.

    """
    before: list[str] = []
    for step in steps:
        if finished(step, before):
            _log.info("done before: %s", step.made)
        else:
            step.record.unlink(missing_ok=True)
            _log.info("%s", step.text)
            answer = PROGRAMS[step.program](step.argv)
            if answer.get("stopped"):
                raise ConfigError(
                    "the training stopped because its time was over (train.max_minutes); the same "
                    "command goes on"
                )
            step.record.parent.mkdir(parents=True, exist_ok=True)
            write_text(step.record, "\n".join([*before, step.meant]) + "\n")
        before.append(step.meant)


def averaged(paths: Sequence[Path], out: Path) -> None:
    """Write the mean of some answers, with the deviation of every metric beside it."""
    answers = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    mean, spread = {}, {}
    for name in answers[0]["metrics"]:
        values = [answer["metrics"].get(name) for answer in answers]
        known = [float(v) for v in values if v is not None and math.isfinite(v)]
        whole = len(known) == len(values)
        mean[name] = round(statistics.fmean(known), 6) if whole else None
        spread[name] = round(statistics.stdev(known), 6) if whole else None
    answer = {**answers[0], "metrics": mean, "seeds": len(paths), "spread": spread}
    write_text(out, json.dumps(answer, indent=1))


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_intermixed_args(argv)
    rows = chosen(args.table, args.row)
    if args.seeds < 1:
        raise ConfigError(f"--seeds: expected at least 1, got {args.seeds}")
    planners = [Planner(args, seed) for seed in range(args.seeds)]
    plans = [[p.steps(table, row) for p in planners] for table, row in rows]
    for planner in planners:
        planner.complete()
    _check(plans)
    _tell(rows)
    lines = list(dict.fromkeys(s.text for seeds in plans for steps in seeds for s in steps))
    if args.print:
        sys.stdout.write("\n".join(lines) + "\n")
        return {"table": args.table, "rows": len(rows), "commands": len(lines)}
    planners[0].on_disk()
    results = Path(args.out) / "results"
    for seeds in plans:
        for steps in seeds:
            run(steps)
        if args.seeds > 1:
            answers = [steps[-1].made for steps in seeds]
            averaged(answers, results / answers[0].name)
    return evaluate.main(["--table", args.table, "--results", str(results)])


def _check(plans: Sequence[Sequence[Sequence[Step]]]) -> None:
    """Refuse recipes with bad settings before the first of them is trained for a day."""
    for seeds in plans:
        for step in (s for steps in seeds for s in steps if s.program == "train"):
            nested(read_recipe(Path(step.argv[0]), step.argv[1:]))


def _tell(rows: Sequence[tuple[Table, Row]]) -> None:
    """Say of which tables two rows cannot differ."""
    for key in dict.fromkeys(t.key for t, row in rows if row.key in ("aprs", "full")):
        table = get_table(key)
        refined = any(row.evaluate == _REFINED for row in table.rows)
        if refined and not SETS[table.dataset].refine_hz:
            _log.warning(
                "%s: its pictures are stills, where nothing is refined, neither in training nor "
                "after it: the rows 'aprs' and 'full' are the same network and number", key,
            )  # fmt: skip


def _few_labels(table: Table, row: Row) -> bool:
    """Whether a network learns from what another one made of few labels (paper 003, 4.3)."""
    return table.key.startswith("stdpose.3") and bool(row.interval)


def _set_of(spec: str) -> str:
    """Name of a specification's data set."""
    return spec.partition(":")[0]


def _known_set(name: str, where: str) -> None:
    known = sorted({*SETS, *(parts.train_set for parts in SETS.values() if parts.train_set)})
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
        raise ConfigError(f"{where}: no table has a data set '{name}'; {hint}")


def _pairs(texts: Sequence[str]) -> Mapping[str, str]:
    pairs = [text.partition("=") for text in texts]
    bad = [name for name, equals, path in pairs if not equals or not path]
    if bad:
        raise ConfigError(f"--data: expected NAME=FOLDER, got '{bad[0]}'")
    return {name: path for name, _equals, path in pairs}


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.reproduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("table", help="table by its name, or the beginning of several (evaluate --table)")
    add("settings", nargs="*", metavar="key=value", help="settings of training.train")
    add("--row", default="", metavar="KEY", help="one row (default: all of ours)")
    add("--data", action="append", default=[], metavar="NAME=FOLDER", help="where a data set lies")
    add("--out", default="runs/tables", metavar="DIR", help="(default: %(default)s)")
    add(
        "--boxes",
        default="",
        metavar="FILE",
        help="detected boxes of the judged pictures; an "
        "error for rows that are not judged in boxes",
    )
    for part in ("train", "val", "test"):
        add(
            f"--{part}",
            default="",
            metavar="SPEC",
            help=f"{part} data in place of the plan's, of the set that it names",
        )
    add(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="mean of N trainings (default: 1); after --print: without it, once they were run by "
        "hand, leaves finished commands out and writes the mean",
    )
    add("--print", action="store_true", help="print the commands, run nothing")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    return made


if __name__ == "__main__":
    sys.exit(command(main, sys.argv[1:]))
