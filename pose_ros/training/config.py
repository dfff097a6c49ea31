"""What a training run can be told, declared once: YAML files and ``key=value`` are read into this.

A recipe (``config/train/*.yaml``) is a nested mapping with these names; on the command line a name
is dotted (``optim.lr=1e-4``) and a value is YAML. Unknown names are refused with near ones.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from pose_ros.core.config import check_value, param
from pose_ros.core.skeletons import SKELETONS
from pose_ros.errors import ConfigError
from pose_ros.nets.registry import build_net, list_nets
from pose_ros.training.corruption import KINDS

#: Mean and deviation of pixels in 0 ... 255, of the data a backbone was trained with.
NORMALISATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "movenet": ((127.50194,) * 3, (127.50194,) * 3),
}


@dataclass(frozen=True)
class NetConfig:
    """The network that learns."""

    name: str = param("", "Network, by its name in the registry")
    options: dict[str, Any] = field(  # the network itself checks them
        default_factory=dict,
        metadata={"doc": "Fields of the network's own config", "free": True},
    )
    init: tuple[str, ...] = param((), "Cards whose weights the network starts with, in order")
    freeze: bool = param(False, "Keep the backbone as it is: no gradient, evaluation mode")


@dataclass(frozen=True)
class DataConfig:
    """What is learned from."""

    train: tuple[str, ...] = param((), "Labelled data sets, NAME:PATH?option=value")
    pseudo: tuple[str, ...] = param(
        (), "Data sets whose labels a teacher gives (see teacher.card)"
    )
    val: tuple[str, ...] = param((), "Data sets that choose the best weights")
    limit: int = param(0, "Use only so many training windows, 0: all", unit="windows", ge=0)
    val_limit: int = param(0, "Use only so many validation windows, 0: all", unit="windows", ge=0)
    spread: int = param(
        0, "Side frames lie d and spread - d frames away, d drawn anew each time; 0: neighbours",
        unit="frames", ge=0, le=60,
    )  # fmt: skip
    workers: int = param(2, "Processes that read and warp pictures; 0: none beside the trainer",
                         ge=0, le=128)  # fmt: skip
    missing_joints: bool = param(False, "Allow joints that no training set labels")


@dataclass(frozen=True)
class CropConfig:
    """How a person is cut out and what the network has to answer."""

    joints: str = param("posetrack15", "Joint set that is learned", one_of=tuple(SKELETONS))
    scale: float = param(1.25, "Crop over the person's box", ge=0.5, le=3.0)
    normalise: str = param("imagenet", "Of the pixels", one_of=tuple(NORMALISATIONS))
    codec: str = param("edge", "Cell of a crop pixel x: edge (x+0.5)/4, msra round(x/4), udp "
                       "x (w-1)/(W-1) in crops cut by unit lengths (ViTPose)",
                       one_of=("edge", "msra", "udp"))  # fmt: skip
    sigma: float = param(2.0, "Spread of a target", unit="cells", ge=0.5, le=10.0)


@dataclass(frozen=True)
class AugmentConfig:
    """One draw per window, the same for all its frames."""

    flip_p: float = param(0.5, "Share of mirrored windows", ge=0.0, le=1.0)
    half_body_p: float = param(0.3, "Share of windows cut to the upper or lower body, of those "
                               "with more than 8 known joints", ge=0.0, le=1.0)  # fmt: skip
    rot_deg: float = param(45.0, "Rotation: deviation (clip_normal) or bound (uniform)",
                           unit="deg", ge=0.0, le=180.0)  # fmt: skip
    rot_p: float = param(0.6, "Share of rotated windows", ge=0.0, le=1.0)
    rot_mode: str = param("clip_normal", "Distribution", one_of=("clip_normal", "uniform"))
    scale: float = param(0.35, "Deviation and bound of the zoom", ge=0.0, le=0.9)
    occluder_p: float = param(0.0, "Share of windows with rectangles over up to two joints",
                              ge=0.0, le=1.0)  # fmt: skip
    degrade_p: float = param(0.0, "Share of windows that are degraded", ge=0.0, le=1.0)
    degrade_kinds: tuple[str, ...] = param((), "Kinds of `training.corruption`, one is drawn")
    degrade_max: float = param(0.7, "Largest severity", ge=0.0, le=1.0)
    recrop_p: float = param(0.0, "HSTPN: share of windows whose crop moves once, between two "
                            "frames; the memory is warped along", ge=0.0, le=1.0)  # fmt: skip
    recrop: float = param(0.15, "Largest move of such a crop, of its size, and of its zoom",
                          ge=0.0, le=0.4)  # fmt: skip
    ego_p: float = param(0.0, "Share of windows in which the camera turns (K R K^-1), at a "
                         "drawn focal length", ge=0.0, le=1.0)  # fmt: skip
    ego_deg: float = param(5.0, "Largest such turn between the key frame and the frame farthest "
                           "from it", unit="deg", ge=0.0, le=20.0)  # fmt: skip
    ego_back: bool = param(True, "Turn these frames back by a gyroscope, as the live pipeline "
                           "with an IMU does; false: leave them turned")  # fmt: skip
    ego_left_deg: float = param(0.3, "With ego_back: what that leaves, root mean square",
                                unit="deg", ge=0.0, le=5.0)  # fmt: skip


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule."""

    name: str = param("adamw", "Optimiser", one_of=("adamw", "adam", "sgd"))
    lr: float = param(5e-4, "Learning rate", ge=0.0, le=10.0)
    backbone_mult: float = param(1.0, "Learning rate of the backbone over lr", ge=0.0, le=10.0)
    layer_decay: float = param(
        1.0, "ViT: learning rate of each block over the one above it, 1: all alike (ViTPose's: "
        "0.75 for B, 0.8 for L)", ge=0.01, le=1.0,
    )  # fmt: skip
    weight_decay: float = param(0.0, "Weight decay of matrices", ge=0.0, le=1.0)
    decay_all: bool = param(False, "Decay biases and norms, too")
    clip: float = param(1.0, "Largest norm of the gradient, 0: any", ge=0.0, le=1e6)
    schedule: str = param("constant", "After the warm-up",
                          one_of=("constant", "multistep", "linear", "cosine"))  # fmt: skip
    milestones: tuple[int, ...] = param((), "Epochs at which multistep multiplies by gamma")
    gamma: float = param(0.1, "Factor of multistep", ge=0.0, le=1.0)
    warmup_steps: int = param(0, "Steps of linear warm-up", unit="steps", ge=0)
    warmup_share: float = param(0.0, "Warm-up as a share of all steps", ge=0.0, le=1.0)


@dataclass(frozen=True)
class LoopConfig:
    """The loop."""

    epochs: int = param(20, "Epochs", ge=1, le=100000)
    batch: int = param(32, "Windows per optimiser step, over all processes", ge=1, le=65536)
    micro_batch: int = param(0, "Windows at once per process, 0: all of its share", ge=0)
    precision: str = param("32-true", "Arithmetic",
                           one_of=("32-true", "bf16-mixed", "16-mixed"))  # fmt: skip
    seed: int = param(0, "Seed of order, augmentation and initial weights", ge=0)
    ema: float = param(0.0, "Decay of averaged weights, 0: off", ge=0.0, le=0.99999)
    val_every: int = param(1, "Epochs between validations", ge=1)
    patience: int = param(0, "Stop after so many validations without a better one, 0: never", ge=0)
    monitor: str = param("pck", "What is better; map: poseval's total on PoseTrack",
                         one_of=("pck", "f1", "loss", "map"))  # fmt: skip
    checkpoint_s: float = param(600.0, "Seconds between checkpoints inside an epoch", unit="s",
                                ge=0.0, le=1e6)  # fmt: skip
    max_steps: int = param(0, "Stop after so many steps, 0: never (for tests and trials)", ge=0)
    max_minutes: float = param(0.0, "Stop, save and write the card after the first step that "
                               "ends so long after the command began, 0: never",
                               unit="min", ge=0.0, le=1e6)  # fmt: skip
    sync_norm: bool = param(True, "Batch norms see the batches of all processes")
    threads: int = param(0, "CPU threads per process, 0: torch's choice", ge=0, le=256)


@dataclass(frozen=True)
class StageConfig:
    """Stage 1: the single-frame head, before the temporal modules."""

    epochs: int = param(0, "Epochs of stage 1, 0: none", ge=0, le=1000)
    lr: float = param(0.0, "Learning rate of stage 1, 0: that of stage 2", ge=0.0, le=10.0)
    finetune_backbone: bool = param(False, "Train the backbone in stage 1, at 0.1 x lr")


@dataclass(frozen=True)
class LossConfig:
    """Terms beside the heatmaps' squared error."""

    pseudo_weight: float = param(1.0, "Weight of labels that a network made: propagated ones "
                                 "(labelled: false in the file) and a teacher's (data.pseudo)",
                                 ge=0.0, le=10.0)  # fmt: skip
    joint_weights: bool = param(False, "DCPose's: elbows, knees 1.2; wrists, ankles 1.5")
    vremd_branches: float = param(
        0.0, "Weight of the loss of each of VREMD's two branches", ge=0.0
    )
    mi: str = param("vsd", "STDPose's mutual information", one_of=("vsd", "fami_compat", "off"))
    initial_head: float = param(1.0, "Weight of STDPose's initial head", ge=0.0)
    p_gt_aux: float = param(0.0, "Share of windows whose side frames come with their labels",
                            ge=0.0, le=1.0)  # fmt: skip
    burn_in_p: float = param(0.0, "HSTPN: share of steps that start from a memory of frames seen "
                             "before, the window played backwards", ge=0.0, le=1.0)  # fmt: skip
    flip: float = param(0.0, "Weight of left/right consistency (a second pass)", ge=0.0)
    views: float = param(0.0, "Weight of consistency between two calibrated views (data set "
                         "views), a second pass", ge=0.0)  # fmt: skip
    views_min: float = param(0.3, "With views: joints of which either view is less sure do not "
                             "count", ge=0.0, le=1.0)  # fmt: skip
    mean_teacher: float = param(0.0, "Weight of agreeing with the averaged weights (train.ema), "
                                "which see the window as it was before augment.degrade_p and "
                                "occluder_p", ge=0.0)  # fmt: skip
    teacher_min: float = param(0.3, "Joints of which that teacher is less sure do not count",
                               ge=0.0, le=1.0)  # fmt: skip
    aprs: float = param(0.0, "HSTPN: weight of eq 32, what refinement leaves of bone lengths, "
                        "smoothness and speed limits", ge=0.0)  # fmt: skip
    aprs_truth: float = param(0.1, "With aprs: weight of the refined joints' distance to the "
                              "labels", ge=0.0)  # fmt: skip
    aprs_steps: int = param(3, "With aprs: iterations of the refinement", ge=1, le=20)


@dataclass(frozen=True)
class TeacherConfig:
    """Where the labels of ``data.pseudo`` come from."""

    card: str = param("movenet_thunder_large", "Single-frame network that sees the clean pictures")
    score_min: float = param(0.3, "Joints with a lower score stay unlabelled", ge=0.0, le=1.0)
    smooth: bool = param(True, "Average with both neighbours where all three agree")


@dataclass(frozen=True)
class CacheConfig:
    """Features of a frozen backbone, computed once."""

    variants: int = param(0, "Augmented versions of every window that are stored, 0: no cache",
                          ge=0, le=1000)  # fmt: skip
    folder: str = param("", "Where to; empty: the run's folder")


@dataclass(frozen=True)
class TrainConfig:
    """One run."""

    out: str = param("", "Folder of the run; empty: runs/<name>")
    name: str = param("", "Name of the run and of its card; empty: the recipe's")
    device: str = param("auto", "auto, cpu, cuda or cuda:N")
    resume: str = param("auto", "Go on where the folder's checkpoint stopped: auto, must, never",
                        one_of=("auto", "must", "never"))  # fmt: skip
    licence: str = param("see training_data", "Licence of the weights, for the card")
    half_card: bool = param(False, "Write the card's weights as float16")
    net: NetConfig = field(default_factory=NetConfig)
    data: DataConfig = field(default_factory=DataConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: LoopConfig = field(default_factory=LoopConfig)
    stage1: StageConfig = field(default_factory=StageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        """Refuse values that are wrong, alone or together."""
        for name, item, value in walk(self):
            if not item.metadata.get("free"):
                check_value(name, item, value)
        frozen = self.net.freeze or bool(self.net.options.get("freeze"))
        passes = self.loss.flip or self.loss.views
        if self.cache.variants and (not frozen or passes or self.optim.backbone_mult == 0):
            raise ConfigError(
                "cache.variants: expected a frozen backbone (net.freeze=true), no loss.flip, no "
                "loss.views and optim.backbone_mult > 0, for stored features cannot change"
            )
        if self.augment.degrade_p and not self.augment.degrade_kinds:
            raise ConfigError("augment.degrade_p: expected augment.degrade_kinds to draw from")
        if self.loss.mean_teacher and not (
            self.train.ema and (self.augment.degrade_p or self.augment.occluder_p)
        ):
            raise ConfigError(
                "loss.mean_teacher: expected train.ema > 0, whose weights teach, and "
                "augment.degrade_p or augment.occluder_p > 0, which the teacher does not see"
            )
        for kind in self.augment.degrade_kinds:
            if kind not in KINDS:
                raise ConfigError(
                    f"augment.degrade_kinds: '{kind}' is not known; known: {', '.join(KINDS)}"
                )


#: Settings that may differ between a run and its continuation.
MAY_CHANGE = (
    "out", "device", "resume", "data.workers", "train.epochs", "train.max_steps",
    "train.max_minutes", "train.checkpoint_s", "train.threads", "train.patience",
    "train.micro_batch", "cache.folder",
)  # fmt: skip


def walk(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Walk the dotted name, field and value of every setting."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from walk(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item, value


def flatten(config: TrainConfig) -> dict[str, Any]:
    """Settings by dotted name, in plain types."""
    return {n: list(v) if isinstance(v, tuple) else v for n, _, v in walk(config)}


def nested(config: TrainConfig) -> dict[str, Any]:
    """Settings as a recipe has them."""
    out: dict[str, Any] = {}
    for name, value in flatten(config).items():
        *path, last = name.split(".")
        part = out
        for step in path:
            part = part.setdefault(step, {})
        part[last] = value
    return out


def read_recipe(path: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Recipe in a YAML file with ``key=value`` settings on top.

    Raises:
        ConfigError: no such file, not YAML, an unknown name (near ones are listed) or a bad value.

    """
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; there are {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: expected a recipe (YAML), found no file{hint}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    flat = dict(_dotted(values))
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"expected key=value, got '{text}'")
        flat[name] = _from_text(name, value)
    flat.setdefault("name", path.stem)
    flat["name"] = flat["name"] or path.stem
    return from_flat(flat)


def _from_text(name: str, text: str) -> Any:
    """Value of a command line: YAML; a list may also be written A,B."""
    item = {n: i for n, i, _ in walk(TrainConfig())}.get(name)
    if item is not None and isinstance(item.default, tuple) and not text.startswith("["):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return [int(p) if p.isdigit() else p for p in parts]
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: '{text}' is not YAML") from error


def from_flat(values: dict[str, Any]) -> TrainConfig:
    """Config from dotted names; lists become tuples, ints where floats belong floats.

    Raises:
        ConfigError: an unknown name or a bad value.

    """
    known = {name: item for name, item, _ in walk(TrainConfig())}
    tree: dict[str, Any] = {}
    for name, value in values.items():
        if name.startswith("net.options."):
            tree.setdefault("net", {}).setdefault("options", {})[name[12:]] = value
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            near = near or [n for n in known if n.split(".")[-1] == name.split(".")[-1]]
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"setting '{name}' is not known; {hint}")
        head, _, rest = name.partition(".")
        if rest:
            tree.setdefault(head, {})[rest] = _typed(name, known[name], value)
        else:
            tree[head] = _typed(name, known[name], value)
    net = tree.get("net", {})
    if net.get("options"):
        net["options"] = in_words(str(net.get("name")), net["options"])
    for item in dataclasses.fields(TrainConfig):
        if item.name in tree and isinstance(item.default_factory, type):
            tree[item.name] = item.default_factory(**tree[item.name])
    return TrainConfig(**tree)


def in_words(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of a network in which "off" is a word where the network wants a word.

    YAML reads off and on as false and true: ``temporal=off`` would be no value of HSTPN's.
    """
    switches = [option for option, value in options.items() if isinstance(value, bool)]
    if not switches or name not in list_nets():
        return options
    with torch.device("meta"):
        own = getattr(build_net(name), "config", None)
    words = {o: "on" if options[o] else "off" for o in switches if type(getattr(own, o, 0)) is str}
    return {**options, **words}


def _typed(name: str, item: dataclasses.Field[Any], value: Any) -> Any:
    """Value as the field wants it, where YAML wrote it otherwise ("1e-4" is a text in YAML)."""
    if item.metadata.get("free"):
        if not isinstance(value, dict):
            raise ConfigError(f"{name}: expected a mapping, got {value!r}")
        return value
    default = item.default
    if isinstance(default, tuple):
        return _items(name, value if isinstance(value, list) else [value])
    if isinstance(default, float) and isinstance(value, str | int) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"{name}: expected a number, got '{value}'") from None
        return number if math.isfinite(number) else value
    return value


def _items(name: str, values: list[Any]) -> tuple[Any, ...]:
    """Items of a list: all whole numbers (milestones) or all texts."""
    # in YAML "synthetic:" inside a list is a mapping to nothing
    plain = [f"{next(iter(v))}:" if isinstance(v, dict) and len(v) == 1 else v for v in values]
    kind = int if name == "optim.milestones" else str
    if not all(type(v) is kind for v in plain):
        raise ConfigError(f"{name}: expected a list of {kind.__name__}, got {values}")
    return tuple(plain)


def _dotted(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names; ``net.options`` stays whole."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name != "net.options":
            yield from _dotted(value, f"{name}.")
        elif isinstance(value, dict):
            yield from ((f"{name}.{option}", v) for option, v in value.items())
        else:
            yield name, value


def differences(old: dict[str, Any], new: TrainConfig) -> list[str]:
    """Names whose values differ and must not, between a run's settings and its continuation's.

    A setting that did not exist when the run began had what is now its default.
    """
    now, before = flatten(new), flatten(TrainConfig()) | old
    return [n for n in now if n not in MAY_CHANGE and before[n] != now[n]]
