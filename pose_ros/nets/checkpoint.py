"""Model cards and their weights: what a network is, where it comes from, how to feed it.

A card is `models/<name>.yaml`. Importing this module does not import torch.
"""

import difflib
import hashlib
import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pose_ros.errors import WeightsError
from pose_ros.nets.tensorfile import decode_tensors

if TYPE_CHECKING:
    from torch import nn

KINDS = ("pose", "detector")


@dataclass(frozen=True)
class Source:
    """The published file that weights were converted from."""

    package: str  # of the npm registry
    version: str
    sha256: str  # of the package's tarball
    members: dict[str, str]  # path in the tarball: sha256; the graph is .json


@dataclass(frozen=True)
class Card:
    """Everything that is known about one set of weights."""

    name: str
    kind: str  # "pose" or "detector"
    architecture: str  # name in the registry
    input_hw: tuple[
        int, int
    ]  # pixels; a detector takes other multiples of 32, this is its default
    mean: tuple[float, float, float]  # in 0 ... 255, in the order of `channels`
    std: tuple[float, float, float]
    channels: str  # "rgb" or "bgr": what the network wants; runners always take RGB
    weights: str  # file name, beside the card
    sha256: str
    bytes: int
    licence: str
    licence_notice: str
    trained: bool  # by this project
    training_data: str
    overrides: dict[str, object] = field(default_factory=dict)  # of the architecture's config
    frames: int = 1  # T, the window's length
    lookahead_frames: int = 0  # how many of them come after the key frame
    crop_scale: float = 1.0  # the crop's size over the person box's, at which the network is best
    skeleton: str | None = None  # name in `core/skeletons.py`; None for detectors
    source: Source | None = None  # None: not made by `tools.fetch`
    metrics: tuple[dict[str, object], ...] = ()  # each: what was measured, the value, the command
    notes: str = ""
    folder: Path = Path()  # where the card was found; not in the file


def model_folders() -> list[Path]:
    """Return the folders that are searched for cards, best first.

    POSE_ROS_MODELS (one or more folders) goes first; then, in a source tree, its `models/`, as
    cards belong to the code that reads them; then the install spaces of ROS and of Python.
    """
    folders = [Path(p) for p in os.environ.get("POSE_ROS_MODELS", "").split(os.pathsep) if p]
    root = Path(__file__).resolve().parents[2]
    if (root / "package.xml").is_file() or (root / ".git").exists():
        folders.append(root / "models")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders += [Path(p) / "share" / "pose_ros" / "models" for p in (*prefixes, sys.prefix)]
    return folders


def list_cards() -> list[Card]:
    """Return all cards that can be found, by name; the first folder that has a name wins."""
    files: dict[str, Path] = {}
    for folder in model_folders():
        for path in folder.glob("*.yaml"):
            files.setdefault(path.stem, path)
    return [read_card(files[name]) for name in sorted(files)]


def find_card(name: str) -> Card:
    """Return the card called `name`.

    Raises:
        WeightsError: there is none; the message names near ones and the folders searched.
    """
    folders = model_folders()
    for folder in folders:
        path = folder / f"{name}.yaml"
        if path.parent == folder and path.is_file():
            return read_card(path)
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
    hint = (
        f"did you mean {', '.join(near)}?"
        if near
        else "set POSE_ROS_MODELS to the folder of the cards"
    )
    raise WeightsError(
        f"no model card is called {name!r} (searched {', '.join(map(str, folders))}): {hint}"
    )


def read_card(path: Path) -> Card:
    """Read and check one card.

    Raises:
        WeightsError: the file is not YAML, or a field is missing, unknown or wrong.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise TypeError("a card is a mapping")
        unknown = set(values) - ({f.name for f in fields(Card)} - {"folder"})
        if unknown:
            raise TypeError(f"unknown field {', '.join(sorted(unknown))}")
        if values.get("source"):
            values["source"] = Source(**values["source"])
        for name in ("input_hw", "mean", "std", "metrics"):
            values[name] = tuple(values.get(name, ()))
        card = Card(**values, folder=path.parent)
        _check(card, path)
    except (yaml.YAMLError, TypeError, ValueError, OSError) as error:
        raise WeightsError(f"{path}: not a usable model card: {error}") from error
    return card


def _check(card: Card, path: Path) -> None:
    """Raise a ValueError that names the first wrong field."""
    wanted = {
        f"name {card.name!r} to be the file's": card.name == path.stem,
        f"kind {card.kind!r} to be one of {KINDS}": card.kind in KINDS,
        f"channels {card.channels!r} to be 'rgb' or 'bgr'": card.channels in ("rgb", "bgr"),
        "input_hw to be two sizes": len(card.input_hw) == 2,
        "mean and std to be three numbers each": len(card.mean) == len(card.std) == 3,
        "std to be positive": all(value > 0 for value in card.std),
        "crop_scale to be positive": card.crop_scale > 0,
        "sha256 to be 64 hex digits": len(str(card.sha256)) == 64,
    }
    for sentence, holds in wanted.items():
        if not holds:
            raise ValueError(f"expected {sentence}")


def weights_path(card: Card) -> Path:
    """Return where the card's weights are or belong: beside the card, or in a models folder."""
    for folder in (card.folder, *model_folders()):
        if (folder / card.weights).is_file():
            return folder / card.weights
    return card.folder / card.weights


def read_weights(card: Card) -> bytes:
    """Return the card's weight file, sha256 verified.

    Raises:
        WeightsError: the file is missing, or is not the one the card describes.
    """
    path, remedy = weights_path(card), f"run: python -m pose_ros.tools.fetch {card.name}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"{path}: weights of card {card.name} are missing ({error.strerror}); {remedy}"
        ) from error
    if len(data) != card.bytes:
        raise WeightsError(
            f"{path}: {len(data)} bytes, card {card.name} says {card.bytes}; {remedy}"
        )
    got = hashlib.sha256(data).hexdigest()
    if got != card.sha256:
        raise WeightsError(
            f"{path}: sha256 {got[:8]} differs from card {card.name} ({card.sha256[:8]}); {remedy}"
        )
    return data


def load_net(card: Card) -> "nn.Module":
    """Return the card's network in float32 and eval mode, its weights loaded strictly.

    Raises:
        WeightsError: the weights are missing, damaged, or of another architecture.
    """
    import torch

    from pose_ros.nets.registry import build_net

    arrays = decode_tensors(read_weights(card), weights_path(card))
    state = {name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()}
    net = build_net(card.architecture, **card.overrides)
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"card {card.name}: weights do not fit {card.architecture}: {detail}"
        ) from error
    return net.eval()
