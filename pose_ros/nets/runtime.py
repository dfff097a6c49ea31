"""Runners: a card in, a callable from uint8 RGB pictures to float32 numpy arrays out.

On CPU ONNX Runtime runs a file that is exported from the network once, checked against torch and
kept in a cache; once it is there, torch is not imported. On a GPU, and as a fallback that says so,
torch runs the network itself. Both normalise inside: pictures go in as uint8 RGB.
"""

import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pose_ros.errors import ConfigError, ShapeError, WeightsError
from pose_ros.nets.checkpoint import Card, load_net, read_weights, warn_if_untrained
from pose_ros.nets.export import cached_onnx

if TYPE_CHECKING:
    import onnxruntime
    import torch

log = logging.getLogger(__name__)

GPU_NODES = (
    "/dev/nvidiactl",
    "/dev/nvmap",
    "/dev/dxg",
    "/dev/kfd",
)  # without one, torch need not be asked


class Runner:
    """A network ready to run: `runner(pictures)` returns its outputs as float32 numpy arrays.

    A pose network takes (P, T, h, w, 3) of the card's size and returns `PoseHeads`' arrays, a
    video network its heatmaps alone (and in a live stream it runs as `stream.StreamRunner`); a
    detector takes (B, h, w, 3), h and w multiples of 32, and returns boxes (B, n, 4) in input
    pixels and scores (B, n). No pictures in: empty arrays of the same trailing shapes out.
    """

    def __init__(
        self,
        card: Card,
        backend: str,
        device: str,
        forward: Callable[[np.ndarray], list[np.ndarray]],
    ) -> None:
        """Wrap `forward`; used by `open_runner`."""
        self.card = card
        self.backend = backend  # "onnxruntime" or "torch"
        self.device = device  # "cpu", "cuda:0"
        self._forward = forward
        self._empty: dict[tuple[int, ...], tuple[np.ndarray, ...]] = {}  # by picture shape

    def __call__(self, pictures: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run the network on a batch of uint8 RGB pictures.

        Raises:
            ShapeError: the pictures have another shape or dtype than the network takes.
        """
        self._check(pictures)
        if len(pictures):
            return tuple(self._forward(np.ascontiguousarray(pictures)))
        shape = pictures.shape[1:]
        if (
            shape not in self._empty
        ):  # one run tells the shapes; callers with nobody in sight pay it once
            blank = np.zeros((1, *shape), np.uint8)
            self._empty[shape] = tuple(out[:0].copy() for out in self._forward(blank))
        return self._empty[shape]

    def _check(self, pictures: np.ndarray) -> None:
        """Raise a ShapeError unless the pictures are what this network takes."""
        (h, w), name = self.card.input_hw, self.card.name
        if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8:
            got = getattr(pictures, "dtype", type(pictures).__name__)
            raise ShapeError(f"{name} wants uint8 RGB pictures, got {got}")
        if self.card.kind == "pose":
            wanted, fits = (
                f"(P, {self.card.frames}, {h}, {w}, 3)",
                pictures.shape[1:] == (self.card.frames, h, w, 3),
            )
        else:
            wanted = "(B, h, w, 3) with h and w multiples of 32"
            fits = (
                pictures.ndim == 4
                and pictures.shape[3] == 3
                and all(n and n % 32 == 0 for n in pictures.shape[1:3])
            )
        if not fits:
            raise ShapeError(f"{name} wants pictures of shape {wanted}, got {pictures.shape}")


def open_runner(
    card: Card, device: str = "auto", threads: int | None = None, half: bool = False
) -> Runner:
    """Return the runner of a card on "auto", "cpu", "cuda" or "cuda:N".

    `threads` are those of the CPU backends (default: the cores this process may use); `half` runs
    a GPU in float16 autocast.

    Raises:
        WeightsError: the weights are missing or damaged.
        ConfigError: the device is unknown or not there.
    """
    read_weights(card)  # a damaged file must fail here, also when a cached export would do
    warn_if_untrained(card)
    device = resolve_device(device)
    threads = threads or len(os.sched_getaffinity(0))
    if device != "cpu":
        return _torch_runner(card, device, threads, half)
    try:
        session = open_session(cached_onnx(card), threads)
    except (WeightsError, ConfigError):
        raise  # torch would not do better
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's errors have no base class of their own
        reason = f"{type(error).__name__}: {error}"
        log.warning(
            "%s runs in torch, slower than in ONNX Runtime, because of %s", card.name, reason
        )
        return _torch_runner(card, device, threads, half)
    return Runner(card, "onnxruntime", device, lambda x: session.run(None, {"pictures": x}))


def resolve_device(device: str) -> str:
    """Return "cpu" or "cuda:N" for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigError: the device is unknown or not there.
    """
    if device == "cpu" or (
        device == "auto" and not any(os.path.exists(node) for node in GPU_NODES)
    ):
        return "cpu"
    found = re.fullmatch(r"auto|cuda(?::(\d+))?", device)
    if found is None:
        raise ConfigError(f"device {device!r} is unknown: use auto, cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(found[1] or 0)
    if index < count:
        return f"cuda:{index}"
    if device == "auto":
        return "cpu"
    raise ConfigError(
        f"device {device!r} is not there: torch sees {count} GPUs; use device cpu or auto"
    )


def open_session(path: Path, threads: int) -> "onnxruntime.InferenceSession":
    """Open an ONNX file in a session that leaves idle cores to the rest of the graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3  # errors
    # Spinning threads starve DDS and the camera: 97 to 180 of 230 frames answered, not 229.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Small blocks of work: a core that is needed elsewhere for a while does not hold up the other.
    options.add_session_config_entry("session.dynamic_block_base", "4")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _torch_runner(card: Card, device: str, threads: int, half: bool) -> Runner:
    """Return the runner that calls the network itself."""
    import torch

    from pose_ros.nets.pictures import Uint8Net

    if device == "cpu":
        torch.set_num_threads(threads)
    net = Uint8Net(load_net(card), card).to(device)

    def forward(pictures: np.ndarray) -> list[np.ndarray]:
        outputs = _run_torch(net, torch.from_numpy(pictures).to(device), half and device != "cpu")
        return [out.float().cpu().numpy() for out in outputs]

    return Runner(card, "torch", device, forward)


def _run_torch(
    net: "torch.nn.Module", pictures: "torch.Tensor", half: bool
) -> tuple["torch.Tensor", ...]:
    """Run a module without gradients, in float16 autocast if `half`."""
    import torch

    with torch.inference_mode(), torch.autocast(pictures.device.type, torch.float16, enabled=half):
        return net(pictures)
