"""Checkpoints that are either whole or not there, and the state from which a run goes on.

A file is written under another name, flushed to the disk and renamed: a kill or a full disk in
between leaves the last good one as it was.
"""

from __future__ import annotations

import contextlib
import copy
import glob
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from pose_ros.errors import SourceError, WeightsError

LAST, BEST = "last.ckpt", "best.ckpt"
#: A part of a dead process may be removed when nobody wrote it for so long: on a disk that several
#: machines see, a process that is not here may be alive elsewhere.
STALE_S = 60.0


class CheckpointError(SourceError):
    """A checkpoint could not be written; the last good one is still there."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file and put it in place of ``path`` at once.

    Raises:
        CheckpointError: it could not be written (disk full, no permission); ``path`` is as before.

    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch reports a short write as a RuntimeError
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        kept = "the last good one is untouched" if path.is_file() else "there was none before"
        raise CheckpointError(
            f"{path}: could not be written ({' '.join(str(error).split())[:160]}); {kept}. Free "
            "some disk space and start the same command again"
        ) from error


def _remove_stale(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left of it."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        owner = part.name.split(".")[-2]
        with contextlib.suppress(OSError):
            old = time.time() - part.stat().st_mtime > STALE_S
            if owner.isdigit() and old and not _alive(int(owner)):
                part.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is whole or as before; a device or pipe gets it as it is.

    Raises:
        CheckpointError: it could not be written; an older file is untouched.

    """
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_text(text, encoding="utf-8")
    else:
        write_atomically(path, lambda file: file.write(text.encode()))


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors and plain values.

    Raises:
        CheckpointError: it could not be written; an older file is untouched.

    """
    write_atomically(path, lambda file: torch.save(dict(state), file))


def load(path: Path, lazily: bool = False) -> dict[str, Any]:
    """Read what `save` wrote, on the CPU; tensors and plain values only, no code.

    ``lazily`` reads tensors when they are looked at, which is much faster for the values alone.

    Raises:
        WeightsError: no such file, or it is damaged.

    """
    if not path.is_file():
        raise WeightsError(f"{path}: expected a checkpoint, found no file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch has a dozen ways to fail on a damaged file
        raise WeightsError(
            f"{path}: expected a checkpoint of a training run, got {path.stat().st_size} bytes "
            f"that cannot be read: {' '.join(str(error).split())[:160]}"
        ) from error
    return dict(state)


@dataclass
class Progress:
    """Where a run is. Everything random follows from it and the seed, so it is all there is."""

    epoch: int = 0  # of the next step
    batch: int = 0  # of the next step in its epoch
    step: int = 0  # optimiser steps done
    best: float | None = None  # of `train.monitor`, higher is better
    best_epoch: int = -1
    stale: int = 0  # validations without a better one


class Average:
    """Exponential moving average of a module's floating-point state; other state is copied."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the module's weights; ``module`` has a network with the averaged ones."""
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.state = self.module.state_dict()  # the very tensors

    @torch.no_grad()
    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take averaged weights of a checkpoint."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights; slower the more steps were done."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1.0 - decay)
            else:
                self.state[name].copy_(tensor)

    @contextlib.contextmanager
    def in_place_of(self, module: nn.Module) -> Any:
        """Give the module the averaged weights for a while."""
        own = {n: t.detach().clone() for n, t in module.state_dict().items()}
        module.load_state_dict(self.state)
        try:
            yield module
        finally:
            module.load_state_dict(own)
