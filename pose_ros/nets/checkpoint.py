"""Model cards and their weights: what a network is, where it comes from, how to feed it.

A card is `models/<name>.yaml`. Importing this module does not import torch.
"""

import difflib
import hashlib
import logging
import os
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from pose_ros.errors import ConfigError, WeightsError
from pose_ros.nets.tensorfile import decode_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

#: Names of the numbers of frames that a network may look ahead.
LATENCY_MODES = {"causal": 0, "delayed_1": 1, "delayed_2": 2, "delayed_3": 3}
KINDS = ("pose", "detector", "lifter")
#: Where heatmap cells lie in the crop: a cell every 4 pixels, or ViTPose's unit lengths, by which
#: the first cell is the crop's first pixel and the last one its last.
CODECS = ("shift", "udp")
STRIDE = 4  # crop pixels of the sides of a heatmap cell


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
    licence: str
    licence_notice: str
    trained: bool  # by this project
    training_data: str
    weights: str = ""  # file name, beside the card; none for an untrained network
    sha256: str = ""
    bytes: int = 0
    untrained: bool = (
        False  # by anybody: its weights are drawn from `seed`, its joints mean nothing
    )
    seed: int = 0
    trunk_from: str | None = None  # the card whose weights its MoveNet trunk has, not its own file
    trunk_sha256: str | None = None  # of that card's weights, for which a trained network was made
    overrides: dict[str, object] = field(default_factory=dict)  # of the architecture's config
    frames: int = 1  # T, the window's length
    lookahead_frames: int = 0  # how many of them come after the key frame: the delay it costs
    recurrent: bool = False  # in a stream, a memory takes the place of the earlier frames
    # of LATENCY_MODES those that these weights can run in: the overrides that each needs
    latency_modes: dict[str, dict[str, object]] = field(default_factory=dict)
    codec: str = "shift"  # of CODECS; with "udp" the shift is 0
    cell_shift_px: float = -0.5  # with codec "shift": heatmap cell c is the crop pixel 4 c + this
    crop_scale: float = 1.0  # the crop's size over the person box's, at which the network is best
    skeleton: str | None = None  # name in `core/skeletons.py`; None for detectors
    # Of one person, counted by `nets/cost.py`: millions of parameters, GMACs per key frame when
    # nothing is kept and when the earlier frames' features are; None: not counted, or none kept.
    params_m: float | None = None
    gmacs: float | None = None
    gmacs_cached: float | None = None
    source: Source | None = None  # None: not made by `tools.fetch`
    metrics: tuple[dict[str, object], ...] = ()  # each: what was measured, the value, the command
    notes: str = ""
    folder: Path = Path()  # where the card was found; not in the file

    @property
    def is_video(self) -> bool:
        """Whether the network looks at the pictures of more than the key frame."""
        return self.kind == "pose" and self.frames > 1

    @property
    def mode(self) -> str:
        """How it meets a stream: "causal", "delayed" or "recurrent"."""
        if self.recurrent:
            return "recurrent"
        return "delayed" if self.lookahead_frames else "causal"

    @property
    def cell_stride_px(self) -> tuple[float, float]:
        """Crop pixels from one heatmap cell to the next, along x and y."""
        return cell_stride_px(self.codec, self.input_hw)

    def crop_px_from_cell(self, cells: np.ndarray) -> np.ndarray:
        """Return crop pixels (..., 2) of heatmap cells (..., 2), both (x, y)."""
        stride = np.array(self.cell_stride_px, np.float32)
        return cells * stride + np.float32(self.cell_shift_px)


def cell_stride_px(codec: str, input_hw: tuple[int, int]) -> tuple[float, float]:
    """Return the crop pixels from one heatmap cell to the next, along x and y.

    Source of udp: Huang et al., The Devil Is in the Details: Delving Into Unbiased Data
    Processing for Human Pose Estimation, CVPR 2020, section 3: lengths are counted in unit
    lengths between pixel centres, of which a row of n pixels has n - 1.
    """
    height, width = input_hw
    if codec != "udp":
        return float(STRIDE), float(STRIDE)
    return (width - 1) / (width // STRIDE - 1), (height - 1) / (height // STRIDE - 1)


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
    """Return the card called `name`, or the one in the file of that path, NAME.yaml.

    Raises:
        WeightsError: there is none; the message names near ones and the folders searched.
    """
    if name.endswith(".yaml") and Path(name).is_file():
        return read_card(Path(name))
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
        values["latency_modes"] = values.get("latency_modes") or {}
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
        f"codec {card.codec!r} to be one of {CODECS}": card.codec in CODECS,
        **_udp_rules(card),
        "sha256 to be 64 hex digits": card.untrained or len(str(card.sha256)) == 64,
        "weights, or untrained: true, and not both": card.untrained != bool(card.weights),
        "trunk_sha256 where a trained network has trunk_from, and only there": bool(
            card.trunk_sha256
        )
        == bool(card.trunk_from and not card.untrained),
        "lookahead_frames to be 0 ... frames - 1": 0 <= card.lookahead_frames < card.frames,
        "a recurrent network not to look ahead": not (card.recurrent and card.lookahead_frames),
        f"latency_modes to be of {', '.join(LATENCY_MODES)}": set(card.latency_modes)
        <= set(LATENCY_MODES),
    }
    for sentence, holds in wanted.items():
        if not holds:
            raise ValueError(f"expected {sentence}")


def _udp_rules(card: Card) -> dict[str, bool]:
    """What has to hold of a card whose cells are UDP's."""
    if card.codec != "udp":
        return {}
    return {
        "codec udp only of a pose network": card.kind == "pose",
        "cell_shift_px 0 with codec udp": card.cell_shift_px == 0.0,
        "codec shift of a recurrent network, whose memory moves in cells of 4 pixels":
        not card.recurrent,
        "input_hw of at least two cells a side with codec udp": min(card.input_hw) >= 2 * STRIDE,
    }  # fmt: skip


def with_latency(card: Card, mode: str) -> Card:
    """Return the card in a latency mode: "auto" (the card's own) or one of LATENCY_MODES.

    Raises:
        ConfigError: the network cannot run in this mode.
    """
    if mode == "auto" or LATENCY_MODES.get(mode) == card.lookahead_frames:
        return card
    if mode not in card.latency_modes:
        own = next(name for name, k in LATENCY_MODES.items() if k == card.lookahead_frames)
        can = ", ".join(sorted({own, *card.latency_modes}))
        raise ConfigError(f"network {card.name} runs {can}, not {mode}")
    overrides = {**card.overrides, **card.latency_modes[mode]}
    return replace(card, overrides=overrides, lookahead_frames=LATENCY_MODES[mode])


def weights_digest(card: Card) -> str:
    """Return eight hex digits that change with the weights, also with those of a seed."""
    if not card.untrained and not card.trunk_from:
        return card.sha256[:8]
    trunk = find_card(card.trunk_from).sha256 if card.trunk_from else ""
    own = f"seed {card.seed}" if card.untrained else card.sha256
    return hashlib.sha256(f"{own} {trunk}".encode()).hexdigest()[:8]


def warn_if_untrained(card: Card) -> None:
    """Say in the log that a network's answers mean nothing, if that is so."""
    if card.untrained:
        trunk = f" (only its trunk is trained, {card.trunk_from}'s)" if card.trunk_from else ""
        log.warning("%s is UNTRAINED: its joints are meaningless%s", card.name, trunk)


def weights_path(card: Card) -> Path:
    """Return where the card's weights are or belong: beside the card, or in a models folder."""
    for folder in (card.folder, *model_folders()):
        if (folder / card.weights).is_file():
            return folder / card.weights
    return card.folder / card.weights


def read_weights(card: Card) -> bytes:
    """Return the card's weight file, sha256 verified; nothing for an untrained network.

    Raises:
        WeightsError: the file is missing, or is not the one the card describes.
    """
    if card.untrained:
        return b""
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

    The weights of an untrained network are drawn from its card's seed.

    Raises:
        WeightsError: the weights are missing, damaged, or of another architecture.
    """
    import torch

    from pose_ros.nets.registry import build_net

    if card.untrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(card.seed)
            net = build_net(card.architecture, **card.overrides)
        if card.trunk_from:
            _start_trunk(net, card)
        return net.eval()
    net = build_net(card.architecture, **card.overrides)
    state = _own_state(card)
    if card.trunk_from:
        _start_trunk(net, card)
        trunk = net.get_submodule("backbone").state_dict()
        state |= {f"backbone.{name}": value for name, value in trunk.items()}
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"card {card.name}: weights do not fit {card.architecture}: {detail}"
        ) from error
    return net.eval()


def read_state(card: Card) -> "dict[str, torch.Tensor]":
    """Return the tensors of a trained card by name, float32, its trunk's among them.

    Raises:
        WeightsError: as `load_net`.
    """
    return load_net(card).state_dict() if card.trunk_from else _own_state(card)


def _own_state(card: Card) -> "dict[str, torch.Tensor]":
    """Tensors of the card's own weight file."""
    import torch

    arrays = decode_tensors(read_weights(card), weights_path(card))
    return {name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()}


def _start_trunk(net: "nn.Module", card: Card) -> None:
    """Give the network's backbone the weights of the MoveNet that `trunk_from` names."""
    import torch

    donor = find_card(card.trunk_from or "")
    if card.trunk_sha256 not in (None, donor.sha256):
        raise WeightsError(
            f"card {card.name}: made for weights {str(card.trunk_sha256)[:8]} of {donor.name}, "
            f"found {donor.sha256[:8]}; get both cards from one release"
        )
    arrays = decode_tensors(read_weights(donor), weights_path(donor))
    backbone = net.get_submodule("backbone")
    state = {
        name: torch.from_numpy(arrays[name].astype("float32"))
        for name in backbone.state_dict()
        if name in arrays
    }
    try:
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:300]
        raise WeightsError(
            f"card {card.name}: {donor.name} does not fit its trunk: {detail}"
        ) from error
