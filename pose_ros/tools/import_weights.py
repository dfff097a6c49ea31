"""A published checkpoint (ViTPose, HRNet, ResNet families) as weights and card of a network here.

Every tensor of the checkpoint is accounted for: loaded, left out for a stated reason, or the
import is refused. Parameters that no checkpoint has (a video network's temporal layers) get
reproducible random values, and the card says so. Files are read as data only: code in them is
refused.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from pose_ros.errors import ConfigError, WeightsError
from pose_ros.nets import import_vit
from pose_ros.nets.checkpoint import LATENCY_MODES, Card
from pose_ros.nets.cost import build_meta, is_recurrent
from pose_ros.nets.import_conv import Imported, describe, import_conv, joint_rows
from pose_ros.nets.registry import build_net
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.nets.video import VideoPoseNet
from pose_ros.tools import cli
from pose_ros.tools.checkpoint_file import read_checkpoint

State = dict[str, torch.Tensor]

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and std, RGB, 0 ... 255
MOVENET = ((127.50194,) * 3, (127.50194,) * 3)
SKELETONS = {17: "coco17", 15: "posetrack15"}  # by number of joints, when nobody says otherwise
#: How published heads were taught: crop pixel of a heatmap cell c is 4 c + this, or UDP's; and
#: where the cells of a head are that is still to be trained: in the middle of their crop pixels.
CODEC_SHIFT_PX = {"edge": -0.5, "msra": 0.0, "udp": 0.0}
OWN_SHIFT_PX = 1.5
BOX_SCALE = 1.25  # of the boxes that published heads were taught on
FINAL = re.compile(r"(?:final_layer|head\.final)\.(?:weight|bias)")
_log = logging.getLogger(__name__)


def recognise(checkpoint: Mapping[str, Any], net: VideoPoseNet) -> Imported:
    """Checkpoint under our names, whatever its family.

    Raises:
        WeightsError: it is of no family, or broken.

    """
    source = import_vit.unwrap(checkpoint)
    try:
        family = import_vit.family_of(source)
    except WeightsError:
        return import_conv(checkpoint)
    grid = (net.size_hw_px[0] // 16, net.size_hw_px[1] // 16)
    ours, unused = import_vit.import_vit(checkpoint, grid)
    unexplained = tuple(import_vit.unexplained(unused))
    ignored = {name: "no part of the pose network" for name in unused if name not in unexplained}
    state = import_vit.vitpose_state(ours)
    return Imported(f"ViT ({family})", "coco17", state, ignored, unexplained)


@dataclasses.dataclass(frozen=True)
class Fit:
    """What of a checkpoint goes into a network."""

    loaded: State
    missing: tuple[str, ...]  # parameters of the network that keep random values
    ignored: dict[str, str]


def fit(imported: Imported, target: Mapping[str, torch.Tensor], joints: tuple[str, str]) -> Fit:
    """Match a checkpoint with a network's state dict; ``joints`` are the sets of both heads.

    Raises:
        WeightsError: other backbones, a backbone with tensors missing, or tensors nobody knows.

    """
    if imported.unexplained:
        names = ", ".join(imported.unexplained[:5])
        raise WeightsError(
            f"{imported.family}: {len(imported.unexplained)} tensors of the checkpoint are not "
            f"known ({names} …); nothing was imported"
        )
    loaded, ignored = {}, dict(imported.ignored)
    for name, tensor in imported.state.items():
        if FINAL.fullmatch(name) and name in target:
            try:
                tensor = joint_rows(tensor, *joints)
            except WeightsError as error:
                ignored[name] = str(error)
                continue
        if name.startswith("backbone."):
            if name not in target or target[name].shape != tensor.shape:
                _refuse_backbone(imported, target, name)
        elif name not in target or target[name].shape != tensor.shape:
            ignored[name] = "the network has a head of its own"
            continue
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{imported.family}: {name} of the checkpoint is not finite")
        loaded[name] = tensor
    wanted = [name for name in target if not name.endswith("num_batches_tracked")]
    missing = tuple(name for name in wanted if name not in loaded)
    lacking = [name for name in missing if name.startswith("backbone.")]
    if lacking:
        raise WeightsError(
            f"{imported.family}: the checkpoint lacks {len(lacking)} tensors of "
            f"{describe(target)} ({', '.join(lacking[:3])} …): is it whole?"
        )
    return Fit(loaded, missing, ignored)


def _refuse_backbone(imported: Imported, target: Mapping[str, torch.Tensor], name: str) -> None:
    """Say which backbone was expected, and which came."""
    came = tuple(imported.state[name].shape)
    want = tuple(target[name].shape) if name in target else "no such tensor"
    raise WeightsError(
        f"expected a checkpoint with {describe(target)}, got {describe(imported.state)} of family "
        f"{imported.family} ({name}: expected {want}, got {came})"
    )


def has_public_head(net: VideoPoseNet, found: Fit) -> bool:
    """Whether the heatmaps are the checkpoint's: of a single frame, by its own last layer."""
    return net.window.frames == 1 and any(FINAL.fullmatch(name) for name in found.loaded)


def cells_of(
    net: VideoPoseNet, found: Fit, family: str, wanted: str | None
) -> tuple[str, float, float]:
    """Codec, cell shift in pixels, and crop scale for a card.

    ViTPose's boxes are as wide as the distance between the outermost pixels' centres, n - 1 of n
    pixels; here they are as wide as all pixels together.

    Raises:
        ConfigError: ``wanted`` for a head that the checkpoint does not have.

    """
    trunk = any(name.startswith("backbone.trunk.") for name in found.loaded)
    scale = 1.1 if trunk else BOX_SCALE
    if not has_public_head(net, found):
        if wanted:
            raise ConfigError(
                f"--codec {wanted}: the head is not the checkpoint's, it is to be trained; its "
                "codec is crop.codec of training.train"
            )
        return "shift", OWN_SHIFT_PX, scale
    codec = wanted or ("udp" if family.startswith("ViT") else "msra")
    if codec == "udp":
        return "udp", CODEC_SHIFT_PX[codec], scale * net.size_hw_px[0] / (net.size_hw_px[0] - 1)
    return "shift", CODEC_SHIFT_PX[codec], scale


def latency_modes(
    name: str, overrides: dict[str, Any], net: VideoPoseNet
) -> dict[str, dict[str, object]]:
    """Overrides by latency mode in which the same weights fit; none when there is no choice."""
    modes: dict[str, dict[str, object]] = {}
    if is_recurrent(net) or net.window.frames == 1:
        return modes
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    changes: list[dict[str, object]] = [{"key": key} for key in range(net.window.frames)]
    for change in (*changes, {"causal": False}, {"causal": True}):
        try:
            other = build_meta(name, **{**overrides, **change})
        except ConfigError:
            continue  # it has no such option
        fits = {key: value.shape for key, value in other.state_dict().items()} == shapes
        window = getattr(other, "window", None)
        for mode, lookahead in LATENCY_MODES.items():
            if fits and window is not None and window.frames == net.window.frames:
                modes |= {mode: change} if window.lookahead == lookahead else {}
    return modes if len(modes) > 1 else {}


def make_card(args: argparse.Namespace, net: VideoPoseNet, found: Fit, family: str) -> Card:
    """Card of the imported weights; digest and size are filled in by `write`."""
    trunk = any(name.startswith("backbone.trunk.") for name in found.loaded)
    mean, std = MOVENET if trunk else IMAGENET
    codec, shift, scale = cells_of(net, found, family, args.codec)
    notes = f"Imported from a checkpoint of family {family}."
    if found.missing:
        notes += (
            f" UNTRAINED: {len(found.missing)} tensors have random values, {len(found.loaded)} "
            "are the checkpoint's; the network answers nonsense until it is trained."
        )
    return Card(
        name=args.out.stem,
        kind="pose",
        architecture=args.net,
        overrides=args.overrides,
        input_hw=net.size_hw_px,
        mean=mean,
        std=std,
        channels="rgb",
        weights=args.out.name,
        sha256="",
        bytes=0,
        licence=args.licence,
        licence_notice=args.licence_notice,
        trained=False,
        training_data=args.training_data,
        frames=net.window.frames,
        lookahead_frames=net.window.lookahead,
        recurrent=is_recurrent(net),
        latency_modes=latency_modes(args.net, args.overrides, net),
        codec=codec,
        cell_shift_px=shift,
        crop_scale=scale,
        skeleton=args.skeleton,
        notes=notes,
    )


def write(path: Path, state: State, card: Card) -> None:
    """Write weights, float32, and the card beside them; each replaces an older file at once."""
    arrays = {name: t.detach().float().numpy() for name, t in state.items()}
    data = encode_tensors(arrays)
    card = dataclasses.replace(card, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    values = {k: v for k, v in dataclasses.asdict(card).items() if k not in ("folder", "source")}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    _replace(path, data)
    _replace(path.with_suffix(".yaml"), text.encode())


def _replace(path: Path, data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def parse(argv: list[str]) -> argparse.Namespace:
    """Options; ``overrides`` is a dict.

    Raises:
        ConfigError: a value is not usable.

    """
    parser = cli.command("import_weights", __doc__)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="checkpoint, torch or safetensors"
    )
    parser.add_argument("--net", required=True, help="network here that shall have the weights")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE",
        help="FILE.safetensors; FILE.yaml, the card, goes beside it",
    )  # fmt: skip
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[],
        help="option of the network, for example joints=15",
    )  # fmt: skip
    parser.add_argument(
        "--joints", choices=("coco17", "posetrack17", "posetrack15"),
        help="joint set of the checkpoint's head (default: the family's)",
    )  # fmt: skip
    parser.add_argument(
        "--codec", choices=tuple(CODEC_SHIFT_PX),
        help="how the checkpoint's head was taught (default: udp of ViTPose, msra of others)",
    )  # fmt: skip
    parser.add_argument("--skeleton", help="joint set of the network (default: by its joints)")
    parser.add_argument("--licence", default="unknown", help="of the weights (default: unknown)")
    parser.add_argument("--licence-notice", default="", help="who owns them")
    parser.add_argument("--training-data", default="unknown", help="what they were trained on")
    args = parser.parse_args(argv)
    if args.out.suffix != ".safetensors":
        raise ConfigError(f"--out: expected FILE.safetensors, got {args.out}")
    args.overrides = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set: expected NAME=VALUE, got '{text}'")
        args.overrides[name] = yaml.safe_load(value)
    return args


def main(argv: list[str]) -> dict[str, Any]:
    """Import one checkpoint; the answer is `commands.md`'s, with the reasons for what is unused.

    Raises:
        PoseRosError: the checkpoint cannot be used; nothing is written then.

    """
    args = parse(argv)
    checkpoint = read_checkpoint(args.source)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the layers that the checkpoint lacks are the same every time
        net = build_net(args.net, **args.overrides)
    if not isinstance(net, VideoPoseNet):
        raise ConfigError(f"--net: expected a network that takes checkpoints, got {args.net}")
    args.skeleton = args.skeleton or SKELETONS.get(net.joints)
    if args.skeleton is None:
        raise ConfigError(f"--skeleton: name the joint set of {args.net}'s {net.joints} joints")
    imported = recognise(checkpoint, net)
    found = fit(imported, net.state_dict(), (args.joints or imported.joints, args.skeleton))
    net.load_state_dict(found.loaded, strict=False)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.out, net.state_dict(), make_card(args, net, found, imported.family))
    reasons = collections.Counter(found.ignored.values())
    for reason, count in reasons.items():
        _log.info("not used: %d tensors (%s)", count, reason)
    if found.missing:
        _log.warning("%d tensors have random values: the network is untrained", len(found.missing))
    return {
        "net": args.net,
        "family": imported.family,
        "loaded": len(found.loaded),
        "missing": list(found.missing),
        "unexpected": [],
        "ignored": dict(reasons),
        "path": str(args.out),
    }


if __name__ == "__main__":
    cli.run(main)
