"""Small video networks with a card and weights of their own, and a stream to show them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch
import yaml
from conv_cases import wake

from pose_ros.nets.checkpoint import Card, load_net, read_card
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.nets.video import VideoPoseNet

TOKENS = {
    "backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 5, "model_dim": 32,
    "head_channels": 16,
}  # fmt: skip
#: Every family in a size that a test can afford: architecture, overrides, crop, recurrent
FAMILIES = {
    "pstpose": ("pstpose_vitl", TOKENS, (64, 48), False),
    "vremd": ("vremd_vitl", TOKENS, (64, 48), False),
    "stdpose": ("stdpose_vitl", TOKENS, (64, 48), False),
    "dsa": (
        "dsa_w48", {"width": 8, "modules": [1, 1, 1], "blocks": 1, "supports": 2, "joints": 5,
                    "size_hw_px": [64, 64]}, (64, 64), False,
    ),
    "hstpn": (
        "hstpn_r50", {"blocks": [1, 1, 1, 1], "base": 4, "channels": 16, "joints": 5, "frames": 3,
                      "size_hw_px": [64, 64]}, (64, 64), True,
    ),
}  # fmt: skip
SECOND = 10**9


def small_card(folder: Path, family: str, **changes: object) -> Card:
    """Card in ``folder``, beside weights none of which is zero; read back from its file."""
    architecture, overrides, size, recurrent = FAMILIES[family]
    card = Card(
        name=f"small_{family}", kind="pose", architecture=architecture, input_hw=size,
        mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0), channels="rgb", licence="none",
        licence_notice="none", trained=False, training_data="none", untrained=True, seed=3,
        overrides=overrides, frames=3, lookahead_frames=0 if recurrent else 1,
        recurrent=recurrent, cell_shift_px=0.0,
    )  # fmt: skip
    net = wake(load_net(card))
    data = encode_tensors({name: t.numpy() for name, t in net.state_dict().items()})
    weights = {"weights": f"{card.name}.safetensors", "bytes": len(data), "untrained": False,
               "sha256": hashlib.sha256(data).hexdigest()}  # fmt: skip
    (folder / f"{card.name}.safetensors").write_bytes(data)
    values = dataclasses.asdict(dataclasses.replace(card, **weights, **changes))
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    del values["folder"]
    path = folder / f"{card.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return read_card(path)


def affine(shift_px: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Crop of ``scale`` image pixels per pixel, (2, 3)."""
    return np.array([[scale, 0, shift_px], [0, scale, 2 * shift_px]], np.float32)


def picture(card: Card, number: int, crop: np.ndarray) -> np.ndarray:
    """What the crop of a frame shows: noise that belongs to both of them."""
    seed = [number, *np.round(crop.ravel() * 8).astype(np.int64) + 10_000]
    return np.random.default_rng(seed).integers(0, 256, (*card.input_hw, 3)).astype(np.uint8)


def pictures(card: Card, crops: np.ndarray, numbers: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The crops (N, h, w, 3) that a runner asked for."""
    shown = [picture(card, int(numbers[place]), crops[person]) for person, place in wanted]
    return np.array(shown, np.uint8).reshape(-1, *card.input_hw, 3)


def window(newest: int, oldest: int = 0, last: int = 10**9, length: int = 3) -> np.ndarray:
    """Numbers of a window; frames before ``oldest`` and after ``last`` repeat their neighbour."""
    return np.clip(np.arange(newest - length + 1, newest + 1), oldest, last)


def normalised(card: Card, rgb: np.ndarray) -> torch.Tensor:
    """Pictures (..., h, w, 3) as the network takes them, (..., 3, h, w)."""
    x = (rgb.astype(np.float32) - np.array(card.mean)) / np.array(card.std)
    return torch.from_numpy(np.moveaxis(x, -1, -3).astype(np.float32))


def answer_without_cache(
    net: VideoPoseNet, card: Card, crops: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Heatmaps (P, K, h, w) of whole windows, by the network's own `forward`."""
    shown = np.array([[picture(card, n, crop) for n in numbers.tolist()] for crop in crops])
    key = numbers[card.frames - 1 - card.lookahead_frames]
    left, right = (torch.full((len(crops),), abs(float(key - numbers[i]))) for i in (0, -1))
    with torch.no_grad():
        return net(normalised(card, shown), left, right).heatmaps.numpy()
