"""Features of a frozen backbone, computed once and kept on disk, so that heads train cheaply.

Every window is stored in a number of augmented versions, of which every epoch shows one. The
memory-mapped files hold the backbone's answer for T frames as float16, cells, visibility and
distances: pictures are not needed any more. A store is known by a digest of everything it depends
on, and one that was interrupted is completed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from pose_ros.errors import SourceError
from pose_ros.training.logs import fingerprint
from pose_ros.training.objectives import Trainee, backbone_features
from pose_ros.training.windows import Item, WindowDataset

log = logging.getLogger(__name__)

SMALL = ("cells", "visible", "dt_left", "dt_right", "to_key", "pseudo")
CHUNK = 8  # windows at once
FLUSH_EVERY = 64  # chunks between two notes of how far it is


class StoredWindows(Dataset[Item]):
    """Windows whose backbone features are on disk; items as of `WindowDataset`, without frames.

    ``feature0`` ... (T, ...) float16 take the place of ``frames``.
    """

    def __init__(self, folder: Path, windows: int, variants: int, seed: int) -> None:
        """Open a complete store."""
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.folder, self.windows, self.variants, self.seed = folder, windows, variants, seed
        self.shapes = {n: tuple(s) for n, s in about["shapes"].items()}
        self.maps: dict[str, np.ndarray] = {}  # opened by each process for itself

    def __getstate__(self) -> dict[str, Any]:
        """State for a worker: files are opened there."""
        return {**self.__dict__, "maps": {}}

    def __len__(self) -> int:
        """Return the number of windows."""
        return self.windows

    def __getitem__(self, key: tuple[int, int]) -> Item:
        """Item of a window in an epoch; epoch by epoch its versions take turns."""
        epoch, index = key
        if not self.maps:
            self.maps = {n: _open(self.folder, n, s, "r") for n, s in self.shapes.items()}
        first = int(np.random.default_rng([self.seed, index]).integers(self.variants))
        row = (first + epoch) % self.variants * self.windows + index
        item = {n: torch.from_numpy(np.array(m[row])) for n, m in self.maps.items()}
        return {**item, "epoch": torch.tensor(epoch), "index": torch.tensor(index)}


def _open(folder: Path, name: str, shape: tuple[int, ...], mode: Any) -> np.ndarray:
    """Memory map of one array: small ones are float32, features float16."""
    dtype = np.float32 if name in SMALL else np.float16
    return np.memmap(folder / f"{name}.bin", dtype, mode, shape=shape)


def store(
    windows: WindowDataset, trainee: Trainee, folder: Path, variants: int, device: torch.device
) -> StoredWindows:
    """Compute what is missing of a store and open it.

    Raises:
        SourceError: the disk is too small for it.

    """
    folder = folder / f"features_{_digest(windows, trainee, variants)}"
    folder.mkdir(parents=True, exist_ok=True)
    total = variants * len(windows)
    done = _done(folder)
    if done < total:
        _fill(windows, trainee, folder, (done, total), device)
    return StoredWindows(folder, len(windows), variants, windows.config.seed)


def _done(folder: Path) -> int:
    """Rows that a store has."""
    about = folder / "about.json"
    return int(json.loads(about.read_text(encoding="utf-8"))["done"]) if about.is_file() else 0


def _digest(windows: WindowDataset, trainee: Trainee, variants: int) -> str:
    """Sixteen hex digits of everything that the stored features depend on."""
    config = windows.config
    digest = hashlib.sha256()
    about = (
        fingerprint(windows.clips), asdict(config.crop),
        None if config.augment is None else asdict(config.augment),
        asdict(config.window), config.size_hw_px, config.seed, config.spread, variants,
    )  # fmt: skip
    extra = b"clean" * config.clean + b"pseudo" * config.pseudo
    digest.update(json.dumps(about, sort_keys=True).encode() + extra)
    for name, tensor in trainee.net.get_submodule("backbone").state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _fill(
    windows: WindowDataset,
    trainee: Trainee,
    folder: Path,
    rows: tuple[int, int],
    device: torch.device,
) -> None:
    """Compute rows [done, total)."""
    done, total = rows
    keys = [(row // len(windows), row % len(windows)) for row in range(done, total)]
    chunks = [keys[i : i + CHUNK] for i in range(0, len(keys), CHUNK)]
    loader: DataLoader[Item] = DataLoader(
        windows, batch_sampler=chunks, collate_fn=default_collate, generator=torch.Generator()
    )
    maps: dict[str, np.ndarray] = {}
    was_training = trainee.training
    trainee.eval()
    bar = tqdm(loader, desc="features", unit="chunk", disable=not sys.stderr.isatty())
    for number, batch in enumerate(bar):
        arrays = _compute(trainee, batch, device)
        if not maps:
            maps = _make(folder, arrays, total, fresh=done == 0)
        count = len(batch["index"])
        for name, array in arrays.items():
            maps[name][done : done + count] = array
        done += count
        if number % FLUSH_EVERY == FLUSH_EVERY - 1 or done == total:
            for array in maps.values():
                array.flush()  # type: ignore[attr-defined]
            shapes = {n: list(m.shape) for n, m in maps.items()}
            text = json.dumps({"done": done, "shapes": shapes})
            (folder / "about.json").write_text(text, encoding="utf-8")
    trainee.train(was_training)


def _compute(trainee: Trainee, batch: Item, device: torch.device) -> dict[str, np.ndarray]:
    """Arrays of a chunk of windows, by name; ``clean0`` ... are of the undisturbed frames."""
    arrays = {n: batch[n].float().numpy() for n in SMALL if n in batch}
    for pictures, name in (("frames", "feature"), ("clean", "clean")):
        if pictures not in batch:
            continue
        frames = batch[pictures].to(device)
        flat = (frames.flatten(0, 1).float() - trainee.mean) / trainee.std
        for i, feature in enumerate(backbone_features(trainee.net, flat)):
            half = feature.unflatten(0, frames.shape[:2]).half().cpu().numpy()
            arrays[f"{name}{i}"] = half
    return arrays


def _make(
    folder: Path, arrays: dict[str, np.ndarray], total: int, fresh: bool
) -> dict[str, np.ndarray]:
    """Open the files for all rows, after a look at the free space."""
    need = sum(array[0].nbytes for array in arrays.values()) * total
    log.info("stored features: %d windows, %s in %s", total, _space(need), folder)
    free = shutil.disk_usage(folder).free
    if fresh and need > free:
        raise SourceError(
            f"{folder}: the features need {_space(need)}, the disk has {_space(free)} "
            "free; lower cache.variants or data.limit, or set cache.folder to another disk"
        )
    mode = "w+" if fresh else "r+"
    return {n: _open(folder, n, (total, *a.shape[1:]), mode) for n, a in arrays.items()}


def _space(number: float) -> str:
    """Bytes as they are said: 1.2 GB, 31.0 MB, 4.5 kB."""
    size, unit = next(
        (pair for pair in ((1e9, "GB"), (1e6, "MB")) if number >= pair[0]), (1e3, "kB")
    )
    return f"{number / size:.1f} {unit}"
