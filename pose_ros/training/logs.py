"""What a run leaves behind beside its weights: configuration, commit, data, numbers."""

from __future__ import annotations

import csv
import hashlib
import json
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pose_ros.training.checkpoints import write_text
from pose_ros.training.config import TrainConfig, nested
from pose_ros.training.datasets.base import ClipDataset

SAMPLED = 256  # samples of a data set that its fingerprint looks at


class RunLog:
    """Numbers over time, as CSV and for TensorBoard; a continued run goes on in the same files."""

    def __init__(self, folder: Path, step: int, active: bool) -> None:
        """Open the logs in ``folder``; rows after ``step`` of an earlier run are taken back."""
        self.active = active
        self.path = folder / "metrics.csv"
        self.board: Any = None
        if not active:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._take_back(step)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except (
            ImportError
        ):  # tensorboard comes with the extra [train]; the CSV has the same numbers
            return
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def _take_back(self, step: int) -> None:
        """Keep the header and the rows up to ``step``."""
        if not self.path.is_file():
            return
        with self.path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
        kept = [row for row in rows if not row[0].isdigit() or int(row[0]) <= step]
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows(kept)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append values at a step: rows of step, name, value."""
        if not self.active:
            return
        new = not self.path.is_file()
        with self.path.open("a", newline="") as file:
            out = csv.writer(file)
            if new:
                out.writerow(("step", "name", "value"))
            out.writerows((step, name, f"{value:.8g}") for name, value in values.items())
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush everything."""
        if self.board is not None:
            self.board.close()


def commit() -> str:
    """Commit of this source tree, with ``+changes`` when files differ from it; else "unknown"."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10,
                check=True,
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        ]  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answers[0] + ("+changes" if answers[1] else "")


def command_line(otherwise: str) -> str:
    """Command that this process was started by, as it can be typed again.

    ``otherwise`` where the process is no command of ours (a test, somebody's program).
    """
    module = Path(sys.argv[0])
    if module.suffix != ".py" or module.parent.name != "training":
        return otherwise
    words = shlex.join(sys.argv[1:])
    return f"python -m pose_ros.training.{module.stem} {words}".strip()


def fingerprint(dataset: ClipDataset) -> dict[str, Any]:
    """Name, size and a digest of the labels of up to 256 samples spread over a data set."""
    digest = hashlib.sha256()
    count = len(dataset)
    for index in np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).round().astype(int)):
        sample = dataset[int(index)]
        digest.update(f"{index} {sample.track} {sample.video} {sample.key}".encode())
        for array in (sample.frame_index, sample.box_xyxy_px, sample.xy_px, sample.visible):
            digest.update(np.ascontiguousarray(array).tobytes())
        if sample.pseudo is not None:
            digest.update(sample.pseudo.tobytes())
    return {
        "name": dataset.name, "windows": count, "skeleton": dataset.skeleton.name,
        "sha256": digest.hexdigest(),
    }  # fmt: skip


def write_run(folder: Path, config: TrainConfig, data: dict[str, Any], world: int) -> None:
    """Write ``config.yaml`` and ``run.json`` of a run that begins."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(nested(config), sort_keys=False, allow_unicode=True)
    write_text(folder / "config.yaml", text)
    import torch

    about = {
        "commit": commit(), "command": sys.argv, "processes": world, "data": data,
        "torch": torch.__version__, "python": sys.version.split()[0],
    }  # fmt: skip
    write_text(folder / "run.json", json.dumps(about, indent=1))


def peak_rss_mb() -> float:
    """Largest resident memory this process ever had, in MB (its workers not included)."""
    unit = 1024.0 if sys.platform != "darwin" else 1024.0 * 1024.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
