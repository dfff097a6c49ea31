"""The runner of a lifting network: a card in, a callable on float32 windows out.

ONNX Runtime runs a file that is exported from the network once, checked against torch and kept in
the cache beside the picture networks' (`export.py`); once it is there, torch is not imported. When
ONNX Runtime or the export is missing, torch runs the network and the log says so.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pose_ros.errors import ConfigError, ShapeError, WeightsError
from pose_ros.nets.checkpoint import Card, load_net, read_weights
from pose_ros.nets.export import MAX_ABS_DIFF, OPSET, ExportError, cache_folder

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

OUTPUTS = ("body", "log_spread")
Forward = Callable[[np.ndarray], list[np.ndarray]]


class LiftRunner:
    """A lifting network ready to run: `runner(windows)` returns body and log spread.

    Windows (P, T, F) float32 give (P, J, 3) and (P, J, 2) float32, see `lifter.py`; P = 0 works.
    """

    def __init__(self, card: Card, backend: str, forward: Forward) -> None:
        """Wrap `forward`; used by `open_lifter`."""
        self.card = card
        self.backend = backend  # "onnxruntime" or "torch"
        self._forward = forward
        self._shape = (card.frames, card.input_hw[1])

    def __call__(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the network.

        Raises:
            ShapeError: the windows have another shape or dtype than the network takes.
        """
        if windows.dtype != np.float32 or windows.shape[1:] != self._shape:
            raise ShapeError(
                f"{self.card.name} wants float32 windows (P, {self._shape[0]}, {self._shape[1]}), "
                f"got {windows.dtype} {windows.shape}"
            )
        if not len(windows):
            body, log_spread = self._forward(np.zeros((1, *self._shape), np.float32))
            return body[:0], log_spread[:0]
        body, log_spread = self._forward(np.ascontiguousarray(windows))
        return body, log_spread


def open_lifter(card: Card, threads: int = 1) -> LiftRunner:
    """Return the runner of a lifting network's card, on the CPU: it is too small for a GPU.

    Raises:
        WeightsError: the weights are missing or damaged.
        ConfigError: the card is another network's.
    """
    if card.kind != "lifter":
        raise ConfigError(f"card {card.name}: expected a lifter, got a {card.kind}")
    read_weights(card)  # a damaged file must fail here, also when a cached export would do
    try:
        return LiftRunner(card, "onnxruntime", _session(lifter_onnx(card), threads))
    except (WeightsError, ConfigError):
        raise  # torch would not do better
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no base class of their own
        log.warning(
            "%s runs in torch, slower than in ONNX Runtime, because of %s: %s",
            card.name, type(error).__name__, error,
        )  # fmt: skip
        return LiftRunner(card, "torch", _torch_forward(load_net(card)))


def lifter_onnx(card: Card) -> Path:
    """Return the card's ONNX file, exporting it first when the cache has no sound one.

    Raises:
        ExportError: the export does not agree with torch.
        ImportError: a package that exporting needs is missing.
    """
    here = Path(__file__).parent
    code = b"".join((here / name).read_bytes() for name in ("lifter.py", "lift_runtime.py"))
    recipe = repr((card.architecture, sorted(card.overrides.items()))).encode()
    digest = hashlib.sha256(recipe + code).hexdigest()[:8]
    path = cache_folder() / f"{card.name}-{card.sha256[:8]}-{digest}.onnx"
    side = path.with_suffix(".json")
    if not _is_sound(path, side):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            worst = export_lifter(card, draft)
            report = {
                "name": card.name,
                "sha256": hashlib.sha256(draft.read_bytes()).hexdigest(),
                "max_abs_diff": worst,
            }
            draft.with_suffix(".json").write_text(json.dumps(report) + "\n", encoding="utf-8")
            os.replace(draft, path)
            os.replace(draft.with_suffix(".json"), side)
    return path


def export_lifter(card: Card, path: Path) -> float:
    """Write the network as ONNX, any number of people, and return its difference from torch.

    Raises:
        ExportError: the difference of an output is larger than MAX_ABS_DIFF.
    """
    import torch

    net = load_net(card)
    shape = (card.frames, card.input_hw[1])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on its own age
        torch.onnx.export(
            net, (torch.zeros(1, *shape),), str(path), input_names=["windows"],
            output_names=list(OUTPUTS), opset_version=OPSET, dynamo=False,
            dynamic_axes={name: {0: "people"} for name in ("windows", *OUTPUTS)},
        )  # fmt: skip
    run, check, worst = _session(path, 1), _torch_forward(net), 0.0
    for count in (1, 3):
        windows = np.random.default_rng(count).normal(size=(count, *shape)).astype(np.float32)
        pairs = zip(run(windows), check(windows), strict=True)
        worst = max(worst, *(float(np.abs(a - b).max()) for a, b in pairs))
    if not worst <= MAX_ABS_DIFF:
        raise ExportError(f"{card.name}: export differs from torch by {worst:.2g}")
    return worst


def _is_sound(path: Path, side: Path) -> bool:
    """Whether a cached export is whole, by the sha256 beside it."""
    try:
        report = json.loads(side.read_text(encoding="utf-8"))
        return bool(hashlib.sha256(path.read_bytes()).hexdigest() == report["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _session(path: Path, threads: int) -> Forward:
    """Open an ONNX file whose threads leave idle cores to the rest of the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(windows: np.ndarray) -> list[np.ndarray]:
        return session.run(list(OUTPUTS), {"windows": windows})

    return forward


def _torch_forward(net: "nn.Module") -> Forward:
    """Run the network itself."""
    import torch

    def forward(windows: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [out.numpy() for out in net(torch.from_numpy(windows))]

    return forward
