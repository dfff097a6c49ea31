"""ONNX files of networks: exported once, checked against torch, cached, replaced atomically.

A cached file's name holds the card's name and digests of weights (or seed), card and code, so a
change of any of them makes a new file. A video network is exported in the parts that a stream
runs. Importing this module does not import torch.
"""

import hashlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.nets.checkpoint import Card, load_net, weights_digest

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

OPSET = 17
MAX_ABS_DIFF = 1e-3  # between torch and the export, any output; of its peak if that is below 1
# Files whose code is in the exports of all networks, and of all video networks.
SHARED = ("export.py", "layers.py", "pictures.py")
SHARED_VIDEO = (
    "video.py", "vit.py", "deform.py", "movenet.py", "movenet_trunk.py", "resnet.py", "hrnet.py",
    "pstpose.py", "pstpose_prior.py",
)  # fmt: skip


class ExportError(PoseRosError, RuntimeError):
    """An exported network is missing a part or does not agree with torch."""


def cache_folder() -> Path:
    """Return where exports are kept: POSE_ROS_CACHE, else pose_ros in the user's cache folder."""
    if os.environ.get("POSE_ROS_CACHE"):
        return Path(os.environ["POSE_ROS_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pose_ros"


def parts_of(card: Card) -> tuple[str, ...]:
    """Return the parts (`pictures.PARTS`) that the card's network runs in, in a live stream."""
    if not card.is_video:
        return ("whole",)
    return ("encode", "step", "recrop") if card.recurrent else ("encode", "fuse")


def cached_onnx(card: Card, part: str = "whole") -> Path:
    """Return the ONNX file of a part of the card's network, exported unless the cache has it.

    Raises:
        ExportError: the export does not agree with torch.
        ImportError: a package that exporting needs is missing.
    """
    name = card.name if part == "whole" else f"{card.name}.{part}"
    path = cache_folder() / f"{name}-{weights_digest(card)}-{_recipe_digest(card)}.onnx"
    if not _is_sound(path):
        log.info("exporting %s to %s (once)", name, path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder) / path.name
            report = export_onnx(card, draft, part)
            _sidecar(draft).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, path)
            os.replace(_sidecar(draft), _sidecar(path))
    return path


def export_onnx(card: Card, path: Path, part: str = "whole") -> dict[str, object]:
    """Write a part of the card's network, uint8 RGB in, to an ONNX file; return what was checked.

    A lifting network takes its float32 windows. The number of people is free, and for detectors
    the pictures' height and width too.

    Raises:
        ExportError: ONNX Runtime's outputs differ from torch's by more than MAX_ABS_DIFF.
    """
    import torch

    net = load_net(card)
    module = _part_of(net, card, part)
    examples = [_inputs(net, card, part, count) for count in (1, 3)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on shape checks, and on its own age
        names = _outputs(card, part, len(module(*examples[0].values())))
        torch.onnx.export(
            module, tuple(examples[0].values()), str(path), input_names=list(examples[0]),
            output_names=names, dynamic_axes=_axes(card, [*examples[0], *names]),
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    worst = _accept(card, [_difference(module, path, inputs) for inputs in examples])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "name": card.name,
        "part": part,
        "trained": not card.untrained,
        "sha256": sha256,
        "max_abs_diff": worst,
        "torch": torch.__version__,
        "opset": OPSET,
    }


def export_torchscript(card: Card, path: Path, part: str = "whole") -> dict[str, object]:
    """Write a part of the card's network as traced TorchScript; return what was checked.

    Raises:
        ExportError: the file, loaded again, differs from the network by more than MAX_ABS_DIFF.
    """
    import torch

    net = load_net(card)
    module = _part_of(net, card, part)
    examples = [tuple(_inputs(net, card, part, count).values()) for count in (1, 3)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, examples[0], check_trace=False).save(str(path))
        again = torch.jit.load(str(path))
        worst = _accept(card, [_compare(module(*x), again(*x)) for x in examples])
    return {"name": card.name, "part": part, "max_abs_diff": worst, "torch": torch.__version__}


def _accept(card: Card, found: list[tuple[float, float]]) -> float:
    """Return the largest absolute of (absolute, relative) differences when all are small."""
    relative = float(np.max([r for _, r in found]))  # a NaN wins, and is refused
    if not relative <= MAX_ABS_DIFF:
        raise ExportError(
            f"{card.name}: export differs from torch by {relative:.2g}, at most {MAX_ABS_DIFF:.2g}"
        )
    return max(a for a, _ in found)


def _compare(
    ours: tuple["torch.Tensor", ...], theirs: Sequence["torch.Tensor"]
) -> tuple[float, float]:
    """Return the largest difference of any output, absolute and of min(1, its peak)."""
    absolute, relative = 0.0, 0.0
    for a, b in zip(ours, theirs, strict=True):
        difference = float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
        peak = float(np.abs(np.asarray(a, np.float64)).max())
        absolute = max(absolute, difference)
        relative = np.maximum(relative, difference / min(1.0, max(peak, 1e-12)))
    return absolute, float(relative)


def _part_of(net: "torch.nn.Module", card: Card, part: str) -> "torch.nn.Module":
    from pose_ros.nets.pictures import part_of

    if card.kind == "lifter" and part == "whole":
        return net  # it takes no pictures
    allowed = ("whole", *parts_of(card))
    if part not in allowed:
        raise ConfigError(f"{card.name} has no part {part!r}; it has {', '.join(allowed)}")
    return part_of(net, card, part)


def _axes(card: Card, names: list[str]) -> dict[str, dict[int, str]]:
    """Return the free axes of inputs and outputs."""
    if card.kind != "detector":
        return {name: {0: "people"} for name in names}
    free = {name: {0: "batch", 1: "n"} for name in names}
    return {**free, "pictures": {0: "batch", 1: "height", 2: "width"}}


def _outputs(card: Card, part: str, count: int) -> list[str]:
    """Return the names of a part's outputs."""
    if part == "encode":
        return [f"feature{i}" for i in range(count)]
    heatmaps = ["heatmaps"] if count == 1 else ["heatmaps", "prior", "offsets"]
    whole = {"detector": ["boxes", "scores"], "lifter": ["body", "log_spread"], "pose": heatmaps}
    named = {
        "whole": whole[card.kind],
        "fuse": heatmaps,
        "step": ["heatmaps", "hidden_after", "seen_after"],
        "recrop": ["hidden_after", "seen_after"],
    }
    return named[part]


def _inputs(
    net: "torch.nn.Module", card: Card, part: str, people: int
) -> dict[str, "torch.Tensor"]:
    """Return reproducible noise that a part takes; `people` also varies free sizes."""
    import torch

    if card.kind == "lifter":
        shape = people, card.frames, card.input_hw[1]
        windows = np.random.default_rng(people).normal(size=shape).astype(np.float32)
        return {"windows": torch.from_numpy(windows)}
    noise = torch.from_numpy(_pictures(card, people))
    if part == "whole":
        return {"pictures": noise}
    if part == "encode":
        return {"pictures": noise[:, 0]}
    with torch.no_grad():
        features = _part_of(net, card, "encode")(noise.flatten(0, 1))
    kept = [f.unflatten(0, (people, card.frames)) for f in features]
    if part == "fuse":
        ones = torch.ones(people)
        distances = {"dt_left": ones, "dt_right": ones * card.lookahead_frames}
        return {**{f"feature{i}": w for i, w in enumerate(kept)}, **distances}
    memory = {"hidden": kept[0][:, 0], "seen": torch.arange(people)}
    if part == "step":
        return {"feature0": kept[0][:, -1], **memory}
    move = torch.eye(3).repeat(people, 1, 1)
    move[:, 0, 2] = 1.25 * torch.arange(people)
    return {**memory, "old_from_new": move, "gap_s": 0.3 * torch.arange(people)}


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
    shared = SHARED + SHARED_VIDEO if card.is_video else SHARED
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


def _difference(
    module: "torch.nn.Module", path: Path, inputs: dict[str, "torch.Tensor"]
) -> tuple[float, float]:
    """Return the differences (`_compare`) between torch and ONNX Runtime."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {item.name: inputs[item.name].numpy() for item in session.get_inputs()}
    theirs = session.run(None, feeds)
    with torch.no_grad():
        ours = module(*inputs.values())
    return _compare(ours, theirs)
