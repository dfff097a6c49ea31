"""ONNX files of networks: exported once, checked against torch, cached, replaced atomically.

A cached file's name holds the card's name and digests of weights, card and code, so a change of
any of them makes a new file. Importing this module does not import torch.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pose_ros.errors import PoseRosError
from pose_ros.nets.checkpoint import Card, load_net

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

OPSET = 17
MAX_ABS_DIFF = 1e-3  # between torch and ONNX Runtime, any output
OUTPUTS = {"pose": ("heatmaps", "prior", "offsets"), "detector": ("boxes", "scores")}


class ExportError(PoseRosError, RuntimeError):
    """An exported network is missing a part or does not agree with torch."""


def cache_folder() -> Path:
    """Return where exports are kept: POSE_ROS_CACHE, else pose_ros in the user's cache folder."""
    if os.environ.get("POSE_ROS_CACHE"):
        return Path(os.environ["POSE_ROS_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pose_ros"


def cached_onnx(card: Card) -> Path:
    """Return the card's ONNX file, exporting it first when the cache has no sound one.

    Raises:
        ExportError: the export does not agree with torch.
        ImportError: a package that exporting needs is missing.
    """
    path = cache_folder() / f"{card.name}-{card.sha256[:8]}-{_recipe_digest(card)}.onnx"
    if not _is_sound(path):
        log.info("exporting %s to %s (once)", card.name, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            report = export_onnx(card, draft)
            _sidecar(draft).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, path)
            os.replace(_sidecar(draft), _sidecar(path))
    return path


def export_onnx(card: Card, path: Path) -> dict[str, object]:
    """Write the card's network, uint8 RGB in, to an ONNX file, and return what was checked.

    The number of pictures is free, and for detectors their height and width too.

    Raises:
        ExportError: ONNX Runtime's outputs differ from torch's by more than MAX_ABS_DIFF.
    """
    import torch

    from pose_ros.nets.pictures import Uint8Net

    net = Uint8Net(load_net(card), card).eval()
    names = OUTPUTS[card.kind]
    axes = {name: {0: "people"} for name in ("pictures", *names)}
    if card.kind == "detector":
        axes = {
            "pictures": {0: "batch", 1: "height", 2: "width"},
            **{n: {0: "batch", 1: "n"} for n in names},
        }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on shape checks, and on its own age
        torch.onnx.export(
            net, (torch.from_numpy(_pictures(card, 1)),), str(path), input_names=["pictures"],
            output_names=list(names), dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    worst = max(_difference(net, path, _pictures(card, count)) for count in (1, 3))
    if not worst <= MAX_ABS_DIFF:
        raise ExportError(
            f"{card.name}: export differs from torch by {worst:.2g}, at most {MAX_ABS_DIFF:.2g}"
        )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "name": card.name,
        "sha256": sha256,
        "max_abs_diff": worst,
        "torch": torch.__version__,
        "opset": OPSET,
    }


def _recipe_digest(card: Card) -> str:
    """Return eight hex digits that change with the card's numbers or its export's code."""
    numbers = (
        card.architecture,
        sorted(card.overrides.items()),
        card.input_hw,
        card.frames,
        card.mean,
        card.std,
        card.channels,
    )
    digest = hashlib.sha256(repr(numbers).encode())
    shared = ("export.py", "layers.py", "pictures.py")
    for source in sorted(Path(__file__).parent.glob("*.py")):
        code = source.read_bytes()
        # By text, because importing the module that registers the network would import torch.
        if source.name in shared or f'@register_net("{card.architecture}")'.encode() in code:
            digest.update(code)
    return digest.hexdigest()[:8]


def _sidecar(path: Path) -> Path:
    """Return the JSON file that lies beside an export."""
    return path.with_suffix(".json")


def _is_sound(path: Path) -> bool:
    """Whether a cached export is whole, by the sha256 in its sidecar."""
    try:
        report = json.loads(_sidecar(path).read_text(encoding="utf-8"))
        return hashlib.sha256(path.read_bytes()).hexdigest() == report["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _pictures(card: Card, count: int) -> np.ndarray:
    """Return reproducible noise for the card's network; `count` also varies free sizes."""
    h, w = card.input_hw
    shape = (
        (count, card.frames, h, w, 3)
        if card.kind == "pose"
        else (count, h, w + 32 * (count - 1), 3)
    )
    return np.random.default_rng(count).integers(0, 256, shape).astype(np.uint8)


def _difference(net: "torch.nn.Module", path: Path, pictures: np.ndarray) -> float:
    """Return the largest absolute difference of any output between torch and ONNX Runtime."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"pictures": pictures})
    with torch.no_grad():
        ours = net(torch.from_numpy(pictures))
    return max(float(np.abs(a.numpy() - b).max()) for a, b in zip(ours, theirs, strict=True))
