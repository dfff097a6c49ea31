"""The end of a run: weights and their card, as `nets/checkpoint.py` reads them; and the start."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from pose_ros.errors import WeightsError
from pose_ros.nets.checkpoint import (
    Card,
    find_card,
    load_net,
    read_card,
    read_state,
)
from pose_ros.nets.hstpn import Hstpn
from pose_ros.nets.import_conv import import_conv, joint_rows
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.nets.video import VideoPoseNet
from pose_ros.training.augment import live_scale
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.config import NORMALISATIONS, TrainConfig, nested
from pose_ros.training.logs import commit
from pose_ros.training.targets import CELL_SHIFT_PX, card_codec

FINAL = ("final.weight", "final.bias", "final_layer.weight", "final_layer.bias")


def start_from(net: VideoPoseNet, card_name: str, joints: str) -> list[str]:
    """Give a network what a card's weights have of it; the names of what was loaded.

    Backbones are taken whole or not at all. A head is taken where it fits, its joints turned from
    COCO's to PoseTrack's where that is what differs (`import_conv.joint_rows`), and goes to every
    head of the network with the same names inside (``head``, ``head0``).

    Raises:
        WeightsError: no such card, or nothing of it fits, or a part of the backbone is missing.

    """
    card = find_card(card_name)
    state = read_state(card)
    if card.architecture.startswith("movenet"):
        state = import_conv(state).state
    target = net.state_dict()
    for name in [n for n in state if n.startswith("head.")]:
        state.setdefault(f"head0.{name.removeprefix('head.')}", state[name])
    taken = {}
    for name, tensor in state.items():
        if name.endswith(FINAL) and card.skeleton and len(tensor) != len(target.get(name, tensor)):
            tensor = joint_rows(tensor, card.skeleton, joints)
        if name in target and target[name].shape == tensor.shape:
            taken[name] = tensor
    wanted = [n for n in target if n.startswith("backbone.") and "num_batches" not in n]
    lacking = [n for n in wanted if n not in taken]
    if lacking:
        raise WeightsError(
            f"card {card.name} ({card.architecture}) lacks {len(lacking)} of the {len(wanted)} "
            f"tensors of the backbone, {lacking[0]} for one: it is of another network"
        )
    net.load_state_dict(taken, strict=False)
    return sorted(taken)


def write_card(
    net: VideoPoseNet,
    state: Mapping[str, torch.Tensor],
    config: TrainConfig,
    folder: Path,
    about: Mapping[str, Any],
) -> Card:
    """Write ``<name>.safetensors`` and ``<name>.yaml`` and read both back; the card.

    ``about`` has ``training_data`` (text), ``metrics`` (name to value) and ``command``.

    Raises:
        CheckpointError: they could not be written.
        WeightsError: what was written is not what is in memory.

    """
    arrays = {}
    for name, tensor in state.items():
        plain = tensor.detach().cpu()
        if plain.is_floating_point():
            plain = plain.half() if config.half_card else plain.float()
        arrays[name] = plain.numpy()
    data = encode_tensors(arrays)
    card = _describe(net, config, about, data)
    path = folder / f"{config.name}.yaml"
    write_atomically(folder / card.weights, lambda file: file.write(data))
    skipped = {"folder", "source"}
    values = {
        f.name: getattr(card, f.name) for f in dataclasses.fields(card) if f.name not in skipped
    }
    plain_values = {n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}
    text = yaml.safe_dump(plain_values, sort_keys=False, allow_unicode=True)
    write_atomically(path, lambda file: file.write(text.encode()))
    _check(path, arrays)
    return read_card(path)


def _describe(
    net: VideoPoseNet, config: TrainConfig, about: Mapping[str, Any], data: bytes
) -> Card:
    """Card of a run."""
    mean, std = NORMALISATIONS[config.crop.normalise]
    metrics = tuple(
        {
            "what": f"validation {name}",
            "value": round(float(value), 6),
            "command": about["command"],
        }
        for name, value in about["metrics"].items()
    )
    return Card(
        name=config.name,
        kind="pose",
        architecture=config.net.name,
        overrides=nested(config)["net"]["options"],
        input_hw=net.size_hw_px,
        mean=mean,  # type: ignore[arg-type]
        std=std,  # type: ignore[arg-type]
        channels="rgb",
        weights=f"{config.name}.safetensors",
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        licence=config.licence,
        licence_notice="Trained with pose_ros; see training_data for what it was trained on.",
        trained=True,
        training_data=about["training_data"],
        frames=net.window.frames,
        lookahead_frames=net.window.lookahead,
        # of one frame there is nothing to remember, and no memory has learned
        recurrent=isinstance(net, Hstpn)
        and net.config.temporal == "gru"
        and net.window.frames > 1,
        codec=card_codec(config.crop.codec),
        cell_shift_px=CELL_SHIFT_PX[config.crop.codec],
        crop_scale=live_scale(config.crop.scale, net.size_hw_px, config.crop.codec),
        skeleton=config.crop.joints,
        metrics=metrics,
        notes=f"Recipe {config.name}, commit {commit()}.",
    )


def _check(path: Path, arrays: Mapping[str, Any]) -> None:
    """Read the card back as everybody will, strictly."""
    state = load_net(read_card(path)).state_dict()
    for name, array in arrays.items():
        if not torch.equal(state[name].float(), torch.from_numpy(array).float()):
            raise WeightsError(f"{path}: {name} reads back as something else than was written")
