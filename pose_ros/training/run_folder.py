"""Whose a run's folder is: one process at a time, and one run with its settings and data."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pose_ros.errors import ConfigError
from pose_ros.training import checkpoints
from pose_ros.training.checkpoints import LAST
from pose_ros.training.config import TrainConfig, differences

LOCK = ".lock"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder while a run is in it; the lock of a process that died holds nothing.

    A folder that was made for it and stayed empty is taken away again.

    Raises:
        ConfigError: another process holds it.

    """
    path = folder / LOCK
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    number = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held
        os.close(number)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _locked(path: Path) -> int:
    """Open file of a lock that this process holds."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(number, 200).decode(errors="replace").strip()
            os.close(number)
            raise ConfigError(
                f"{path.parent}: {holder or 'another process'} trains there; wait for its end, or "
                "give this run another folder (out=...)"
            ) from error
        except OSError:  # a disk without locks
            return number
        if path.exists() and os.path.samestat(os.fstat(number), path.stat()):
            os.ftruncate(number, 0)
            os.write(number, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return number
        os.close(number)  # whoever held it has taken the file away


def check_continued(folder: Path, config: TrainConfig, data: Mapping[str, Any]) -> None:
    """Refuse to go on in a folder, of either stage, before anything is written there.

    Raises:
        ConfigError: its checkpoint learned with other settings or from other data.
        WeightsError: it is damaged.

    """
    for path in (folder / LAST, folder / "stage1" / LAST):
        if config.resume != "never" and path.is_file():
            check_same(path, checkpoints.load(path, lazily=True), config, data)


def check_same(
    path: Path, state: Mapping[str, Any], config: TrainConfig, data: Mapping[str, Any]
) -> None:
    """Refuse a checkpoint of another run; ``data`` as `fingerprint` says it, empty: unknown.

    Raises:
        ConfigError: it learned with other settings or from other data.

    """
    otherwise = (
        "give this one another folder (out=..., few_labels: --out), or resume=never to start "
        "anew there"
    )
    changed = differences(state["config"], config)
    if changed:
        raise ConfigError(f"{path} is of a run with another {', '.join(changed[:5])}: {otherwise}")
    before = state.get("data") or {}  # older checkpoints do not say it
    other = [part for part in before if data and before[part] != data.get(part)]
    if other:
        raise ConfigError(
            f"{path} learned from other data: {', '.join(map(_named, other))} changed since "
            f"(labels, boxes or number of windows); {otherwise}"
        )


def _named(part: str) -> str:
    return {"train": "the training set", "val": "the validation set"}.get(part, part)
