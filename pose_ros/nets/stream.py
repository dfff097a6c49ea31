"""Video networks in a live stream: features of earlier frames are kept while a crop is held.

`StreamRunner` answers P people at once. Whose crop did not change costs one encoded picture per
frame; whose crop moved, or who is new, has the whole window encoded again, everybody's missing
pictures in one batch (a CPU works it off in slices). A recurrent network has a memory in place of
the earlier frames, which moves along with the crop. What is kept is bounded by the people of the
last frames, and thrown away when it is of no use any more.

On a CPU the parts of a network run in ONNX Runtime, on a GPU (or without ONNX Runtime) in torch,
where features stay on the device. Importing this module does not import torch.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np

from pose_ros.errors import ConfigError, ShapeError, WeightsError
from pose_ros.nets.checkpoint import Card, read_weights, warn_if_untrained
from pose_ros.nets.export import cached_onnx, parts_of
from pose_ros.nets.runtime import log, open_session, resolve_device

STRIDE_PX = 4.0  # crop pixels per heatmap cell
#: After a longer gap the memory is asked whether it still holds, also where the crop did not move.
GAP_S = 0.2
#: Rows that a CPU takes at once: more leave its caches (16 people took 1.25 times as long per
#: person as 4) and need memory in proportion.
CPU_BATCH = 4
#: A memory that nobody asked for is kept for this long.
MEMORY_S = 1.0

Array = Any  # np.ndarray with ONNX Runtime, torch.Tensor with torch


class Parts(Protocol):
    """The parts of a network, on the backend's own arrays."""

    backend: str
    device: str

    def run(self, part: str, *inputs: Array) -> list[Array]:
        """Outputs of a part; the inputs may be numpy arrays."""

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """Array of zeros of the type of ``like``."""

    def index(self, rows: np.ndarray) -> Array:
        """``rows`` as the backend's arrays take it for an index."""

    def numpy(self, array: Array) -> np.ndarray:
        """``array`` as numpy, on this side."""


class OnnxParts:
    """Parts in ONNX Runtime on the CPU."""

    backend, device = "onnxruntime", "cpu"

    def __init__(self, card: Card, threads: int) -> None:
        """Open the exported parts, exporting them when the cache has none."""
        import onnxruntime  # noqa: F401 - before exporting: without it, that would be in vain

        self._sessions = {p: open_session(cached_onnx(card, p), threads) for p in parts_of(card)}
        self._names = {
            part: [item.name for item in session.get_inputs()]
            for part, session in self._sessions.items()
        }

    def run(self, part: str, *inputs: Array) -> list[Array]:
        """Outputs of a part; inputs in the order of its module."""
        if len(inputs[0]) > CPU_BATCH:
            slices = [slice(i, i + CPU_BATCH) for i in range(0, len(inputs[0]), CPU_BATCH)]
            out = [self.run(part, *(x[rows] for x in inputs)) for rows in slices]
            return [np.concatenate(pieces) for pieces in zip(*out, strict=True)]
        feeds = dict(zip(self._order(part, len(inputs)), inputs, strict=True))
        # What a network does not use, a distance say, its export does not have.
        return self._sessions[part].run(None, {n: feeds[n] for n in self._names[part]})

    @staticmethod
    def _order(part: str, count: int) -> list[str]:
        """Return the names of a part's inputs, those that the export dropped too."""
        features = [f"feature{i}" for i in range(count - 2)]
        return {
            "encode": ["pictures"],
            "fuse": [*features, "dt_left", "dt_right"],
            "step": ["feature0", "hidden", "seen"],
            "recrop": ["hidden", "seen", "old_from_new", "gap_s"],
        }[part]

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """Array of zeros of the type of ``like``."""
        return np.zeros(shape, like.dtype)

    def index(self, rows: np.ndarray) -> Array:
        """``rows`` itself."""
        return rows

    def numpy(self, array: Array) -> np.ndarray:
        """``array`` itself."""
        return array


class TorchParts:
    """Parts in torch, on any device; ``half`` runs a GPU in float16 autocast."""

    backend = "torch"

    def __init__(self, card: Card, device: str, threads: int, half: bool = False) -> None:
        """Load the network onto the device."""
        import torch

        from pose_ros.nets.checkpoint import load_net
        from pose_ros.nets.pictures import part_of

        if device == "cpu":
            torch.set_num_threads(threads)
        net = load_net(card)
        self.device = device
        self._half = half and device != "cpu"
        self._modules = {part: part_of(net, card, part).to(device) for part in parts_of(card)}

    def run(self, part: str, *inputs: Array) -> list[Array]:
        """Outputs of a part, float32."""
        import torch

        tensors = [torch.as_tensor(x, device=self.device) for x in inputs]
        kind = torch.device(self.device).type
        with torch.no_grad(), torch.autocast(kind, torch.float16, enabled=self._half):
            out = self._modules[part](*tensors)
        return [y.float() if y.is_floating_point() else y for y in out]

    def zeros(self, shape: tuple[int, ...], like: Array) -> Array:
        """Array of zeros of the type and device of ``like``."""
        import torch

        with torch.no_grad():
            return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def index(self, rows: np.ndarray) -> Array:
        """Tensor of ``rows`` on the device."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)

    def numpy(self, array: Array) -> np.ndarray:
        """Copy to this side."""
        return array.cpu().numpy()


class StreamRunner:
    """A video network in a stream, for all people of a frame at once.

    A frame is answered in two calls with the same ``ids`` (P,), ``image_from_crop`` (P, 2, 3) and
    ``numbers`` (T,): `wanted` says which crops are missing, `run` takes them and answers. A window
    is the running numbers of its frames, which never come back for another frame; one that does
    not exist repeats the number of its neighbour. A recurrent network has windows of one frame.
    """

    def __init__(self, card: Card, parts: Parts) -> None:
        """Know nobody; used by `open_stream`."""
        self.card = card
        self.backend, self.device = parts.backend, parts.device
        self.length = 1 if card.recurrent else card.frames
        self.parts = parts
        self.reset()

    def reset(self) -> None:
        """Forget everybody, and free what was kept of them."""
        self._ids = np.zeros(0, np.int64)  # -1: free
        self._crops = np.zeros((0, 2, 3), np.float32)
        self._numbers = np.zeros((0, self.length), np.int64)  # of the frames kept; -1: none
        self._stamps_ns = np.zeros(0, np.int64)
        self._store: list[Array] = []  # features (S, T, ...) by slot, or memory (S, ...)

    @property
    def people(self) -> int:
        """Number of people of whom something is kept."""
        return int((self._ids >= 0).sum())

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept, free slots included."""
        return sum(int(array.nbytes) for array in self._store)

    def wanted(
        self, ids: np.ndarray, image_from_crop: np.ndarray, numbers: np.ndarray
    ) -> np.ndarray:
        """(N, 2) person and place in the window of each crop that must be cut and encoded."""
        numbers = np.asarray(numbers, np.int64)
        if numbers.shape != (self.length,):
            raise ShapeError(
                f"{self.card.name}: expected windows of {self.length} frames, got {numbers.shape}"
            )
        first = np.append(True, numbers[1:] != numbers[:-1])
        if self.card.recurrent:
            known = np.zeros((len(ids), 1), np.bool_)
        else:
            slots, found = self._find(ids)
            known = np.zeros((len(ids), self.length), np.bool_)
            same = found & self._same_crop(slots, found, image_from_crop)
            known[same] = self._numbers[slots[same]][:, numbers % self.length] == numbers
        return np.argwhere(first & ~known)

    def run(
        self,
        ids: np.ndarray,
        image_from_crop: np.ndarray,
        numbers: np.ndarray,
        stamp_ns: int,
        pictures: np.ndarray,
    ) -> np.ndarray:
        """Heatmaps (P, K, h, w) of everybody in the key frame.

        ``pictures`` (N, h, w, 3) uint8 RGB are the crops that `wanted` asked for, in its order;
        ``stamp_ns`` is the time of the window's newest frame.

        Raises:
            ShapeError: other pictures than wanted.

        """
        numbers = np.asarray(numbers, np.int64)
        wanted = self.wanted(ids, image_from_crop, numbers)
        self._check(pictures, len(wanted))
        if len(ids) == 0:
            raise ShapeError(f"{self.card.name}: expected somebody to look at, got nobody")
        self._forget(numbers, stamp_ns)
        features = self.parts.run("encode", pictures) if len(pictures) else []
        if self.card.recurrent:
            return self._remember(ids, image_from_crop, stamp_ns, features[0])
        slots = self._claim(ids, image_from_crop)
        if not self._store:
            self._store = [self.parts.zeros((0, self.length, *f.shape[1:]), f) for f in features]
        self._grow()
        rows, places = slots[wanted[:, 0]], numbers[wanted[:, 1]] % self.length
        at = self.parts.index(rows), self.parts.index(places)
        for array, new in zip(self._store, features, strict=False):
            array[at] = new
        self._numbers[rows, places] = numbers[wanted[:, 1]]
        self._stamps_ns[slots] = stamp_ns
        window = self.parts.index(slots[:, None]), self.parts.index(numbers[None] % self.length)
        key = numbers[self.length - 1 - self.card.lookahead_frames]
        left, right = (np.full(len(ids), abs(key - numbers[end]), np.float32) for end in (0, -1))
        (heatmaps,) = self.parts.run("fuse", *(a[window] for a in self._store), left, right)
        return self.parts.numpy(heatmaps)

    def _remember(
        self, ids: np.ndarray, image_from_crop: np.ndarray, stamp_ns: int, feature: Array
    ) -> np.ndarray:
        """Answer of a recurrent network, and its memory after it."""
        slots, found = self._find(ids)
        old_crops, gap_s = self._crops.copy(), (stamp_ns - self._stamps_ns) * 1e-9
        moved = found & ~self._same_crop(slots, found, image_from_crop)
        moved[found] |= gap_s[slots[found]] > GAP_S
        slots = self._claim(ids, image_from_crop)
        if not self._store:
            seen = self.parts.index(np.zeros(0, np.int64))
            hidden = self.parts.zeros((0, *feature.shape[1:]), feature)
            self._store = [hidden, seen]
        self._grow()
        fresh = self.parts.index(slots[~found])
        for array in self._store:
            array[fresh] = 0
        if moved.any():
            rows = slots[moved]
            cells = cells_old_from_new(
                old_crops[rows], image_from_crop[moved], self.card.cell_shift_px
            )
            gap = gap_s[rows].astype(np.float32)
            at = self.parts.index(rows)
            kept = self.parts.run("recrop", *(a[at] for a in self._store), cells, gap)
            for array, new in zip(self._store, kept, strict=True):
                array[at] = new
        at = self.parts.index(slots)
        heatmaps, *after = self.parts.run("step", feature, *(a[at] for a in self._store))
        for array, new in zip(self._store, after, strict=True):
            array[at] = new
        self._stamps_ns[slots] = stamp_ns
        return self.parts.numpy(heatmaps)

    def _check(self, pictures: np.ndarray, count: int) -> None:
        wanted = (count, *self.card.input_hw, 3)
        if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8:
            got = getattr(pictures, "dtype", type(pictures).__name__)
            raise ShapeError(f"{self.card.name} wants uint8 RGB pictures, got {got}")
        if pictures.shape != wanted:
            raise ShapeError(
                f"{self.card.name} wants pictures of shape {wanted}, got {pictures.shape}"
            )

    def _find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Slot (P,) of each person, and whether there is one (0 where not)."""
        match = ids[:, None] == self._ids[None]
        found = match.any(1)
        return (match.argmax(1) if match.shape[1] else np.zeros(len(ids), np.int64)), found

    def _same_crop(
        self, slots: np.ndarray, found: np.ndarray, image_from_crop: np.ndarray
    ) -> np.ndarray:
        """(P,) whether a person's crop is the one that is kept."""
        same = np.zeros(len(found), np.bool_)
        same[found] = (self._crops[slots[found]] == image_from_crop[found]).all((1, 2))
        return same

    def _forget(self, numbers: np.ndarray, stamp_ns: int) -> None:
        """Free the slots whose content is of no use any more."""
        if self.card.recurrent:
            useless = np.abs(stamp_ns - self._stamps_ns) > MEMORY_S * 1e9
        else:
            useless = self._numbers.max(1, initial=-1) < numbers[0]
        self._ids[useless] = -1
        if len(self._ids) and (self._ids < 0).all():
            self.reset()

    def _claim(self, ids: np.ndarray, image_from_crop: np.ndarray) -> np.ndarray:
        """Slot (P,) of each person; a new one, or one whose crop moved, starts empty."""
        slots, found = self._find(ids)
        free = np.flatnonzero(self._ids < 0)
        lacking = int((~found).sum()) - len(free)
        if lacking > 0:
            size = len(self._ids)
            more = max(lacking, size)  # twice as many, so that growing is rare
            self._ids = np.append(self._ids, np.full(more, -1))
            self._stamps_ns = np.append(self._stamps_ns, np.zeros(more, np.int64))
            empty = np.full((more, self.length), -1)
            self._numbers = np.concatenate([self._numbers, empty])
            self._crops = np.concatenate([self._crops, np.zeros((more, 2, 3), np.float32)])
            free = np.append(free, np.arange(size, size + more))
        slots[~found] = free[: int((~found).sum())]
        changed = ~(found & self._same_crop(slots, found, image_from_crop))
        self._numbers[slots[changed]] = -1
        self._ids[slots] = ids
        self._crops[slots] = image_from_crop
        return slots

    def _grow(self) -> None:
        """Make the store as long as there are slots."""
        for i, array in enumerate(self._store):
            if len(array) < len(self._ids):
                larger = self.parts.zeros((len(self._ids), *array.shape[1:]), array)
                larger[: len(array)] = array
                self._store[i] = larger


def cells_old_from_new(old: np.ndarray, new: np.ndarray, shift_px: float) -> np.ndarray:
    """Map (P, 3, 3) of a new crop's heatmap cells to an old one's, from their (P, 2, 3) affines.

    The affines map crop pixels to image pixels; cell c is the crop pixel 4 c + ``shift_px``.
    """
    row = np.tile(np.array([[[0.0, 0.0, 1.0]]]), (len(old), 1, 1))
    image_from_old, image_from_new = (np.concatenate([a, row], 1) for a in (old, new))
    px_from_cell = np.array([[STRIDE_PX, 0, shift_px], [0, STRIDE_PX, shift_px], [0, 0, 1]])
    cell_from_px = np.linalg.inv(px_from_cell)
    moved = np.linalg.inv(image_from_old) @ image_from_new
    return (cell_from_px @ moved @ px_from_cell).astype(np.float32)


def open_stream(
    card: Card, device: str = "auto", threads: int | None = None, half: bool = False
) -> StreamRunner:
    """Return the stream runner of a video card on "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        WeightsError: the weights are missing or damaged.
        ConfigError: the device is unknown or not there, or the card is of no video network.

    """
    if not card.is_video:
        raise ConfigError(f"{card.name} sees single frames: open it with open_runner")
    read_weights(card)  # a damaged file must fail here, also when a cached export would do
    warn_if_untrained(card)
    device = resolve_device(device)
    threads = threads or len(os.sched_getaffinity(0))
    if device != "cpu":
        return StreamRunner(card, TorchParts(card, device, threads, half))
    try:
        return StreamRunner(card, OnnxParts(card, threads))
    except (WeightsError, ConfigError):
        raise  # torch would not do better
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no base of their own
        reason = f"{type(error).__name__}: {error}"
        log.warning(
            "%s runs in torch, slower than in ONNX Runtime, because of %s", card.name, reason
        )
        return StreamRunner(card, TorchParts(card, device, threads))
