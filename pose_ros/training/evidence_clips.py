"""Disturbed clips as a frozen MoveNet answers them, stored once, to train what comes after it.

A clip is a person in consecutive frames of a video, cut with one box, disturbed
(`stream_corruption`) and answered frame by frame by `PstPosePrior.encode`; beside it are the
labels of the undisturbed film (`consensus`). Clip number i is the same on every machine. The first
frames of every track are for training, the last HELD_OUT of it for choosing: clips of the two
never share a frame.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import ByteArray, FloatArray, Frame
from pose_ros.nets.checkpoint import Card
from pose_ros.nets.stream import OnnxParts
from pose_ros.training.stream_corruption import disturbance
from pose_ros.training.train_prior import Film

CELL_PX = 4.0
LENGTH = 12  # frames of a clip
HELD_OUT = 0.2  # share of every track, its end
EVERY_SECOND = 0.3  # share of the clips, where the film is long enough
#: What clips are disturbed by, how often, and how strongly.
MIX = (
    ("clean", 0.15, (0.0, 0.0)),
    ("motion", 0.30, (0.3, 1.0)),
    ("occlusion", 0.33, (0.3, 0.8)),
    ("lowlight", 0.10, (0.3, 0.8)),
    ("defocus", 0.05, (0.3, 1.0)),
    ("jpeg", 0.07, (0.3, 1.0)),
)
WHOLE = 0.6  # share of the clips that are disturbed all through
FLUSH = 16


@dataclass(frozen=True, eq=False)
class Cut:
    """Crops of a clip and where its joints are in them."""

    crops: ByteArray  # (LENGTH, h, w, 3) RGB
    cells: FloatArray  # (LENGTH, K, 2), NaN: no label
    kind: int  # row of MIX


def draw(films: list[Film], rng: np.random.Generator, held_out: bool, card: Card) -> Cut:
    """A random clip of the films' training part, or of the held-out one."""
    weights = np.sqrt([sum(len(t) for t in film.tracks) for film in films])
    while True:
        film = films[int(rng.choice(len(films), p=weights / weights.sum()))]
        lengths = np.array([len(t) for t in film.tracks], np.float64)
        track = film.tracks[int(rng.choice(len(lengths), p=lengths / lengths.sum()))]
        border = round(len(track) * (1.0 - HELD_OUT))
        first, last = (border, len(track)) if held_out else (0, border)
        step = 2 if rng.random() < EVERY_SECOND else 1
        reach = (LENGTH - 1) * step + 1
        if last - first < reach:
            step, reach = 1, LENGTH
        if last - first >= reach:
            break
    start = int(rng.integers(first, last - reach + 1))
    rows = np.arange(start, start + reach, step)
    crops, cells = _cut(film, track.frames[rows], track.box_xyxy_px[rows], track.xy_px[rows],
                        rng, card)  # fmt: skip
    kind = int(rng.choice(len(MIX), p=[share for _, share, _ in MIX]))
    name, _share, (low, high) = MIX[kind]
    disturb = disturbance(name, float(rng.uniform(low, high)), [int(rng.integers(1 << 31))])
    begin, end = 0, LENGTH
    if rng.random() >= WHOLE:
        begin = int(rng.integers(0, LENGTH - 3))
        end = int(rng.integers(begin + 2, LENGTH + 1))
    shown = [disturb(c) if begin <= t < end else c for t, c in enumerate(crops)]
    return Cut(np.stack(shown), cells, kind)


def _cut(
    film: Film, frames: np.ndarray, boxes: FloatArray, xy_px: FloatArray,
    rng: np.random.Generator, card: Card,
) -> tuple[ByteArray, FloatArray]:  # fmt: skip
    """Crops with one box about the person, which is not quite right, and labels in cells."""
    box = boxes[int(rng.integers(0, 2 * LENGTH // 3))]
    middle, size = (box[:2] + box[2:]) / 2.0, box[2:] - box[:2]
    middle = middle + rng.normal(0.0, 0.03, 2) * size
    size = size * float(np.exp(rng.normal(0.0, 0.08)))
    held = np.concatenate([middle - size / 2, middle + size / 2])[None].astype(np.float32)
    height, width = card.input_hw
    edges = fit_boxes(held, card.input_hw, card.crop_scale)
    affine = affine_from_boxes(edges, card.input_hw)[0]
    crops = np.empty((LENGTH, height, width, 3), np.uint8)
    for t, number in enumerate(frames):
        cut(Frame(film.frames[int(number)], 0), edges[0], crops[t])
    xy = (xy_px - affine[:, 2]) / (affine[0, 0], affine[1, 1])
    if rng.random() < 0.5:
        crops = np.ascontiguousarray(crops[:, :, ::-1])
        xy = xy[:, COCO17.flip_order()] * (-1, 1) + (width - 1, 0)
    inside = ((xy >= 0) & (xy <= (width - 1, height - 1))).all(-1)
    cells = np.where(inside[..., None], (xy - card.cell_shift_px) / CELL_PX, np.nan)
    return crops, cells.astype(np.float32)


class Clips:
    """Clips on disk: maps as bytes (their square roots), the rest as float32."""

    def __init__(self, folder: Path, count: int, card: Card, facts: int) -> None:
        """Open or start the files for ``count`` clips with ``facts`` numbers per joint."""
        rows, columns = (side // 4 for side in card.input_hw)
        joints = len(COCO17)
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "maps": ((LENGTH, joints, rows, columns), np.uint8),
            "facts": ((LENGTH, joints, facts), np.float32),
            "cells": ((LENGTH, joints, 2), np.float32),
            "kind": ((), np.uint8),
        }
        self.count, self.about = count, folder / "clips.json"
        self.done = json.loads(self.about.read_text())["done"] if self.about.is_file() else 0
        self.arrays = {
            name: np.memmap(
                folder / f"{name}.bin", kind, "r+" if self.done else "w+", shape=(count, *shape)
            )
            for name, (shape, kind) in shapes.items()
        }

    def add(self, maps: np.ndarray, facts: np.ndarray, clip: Cut) -> None:
        """Append a clip, answered by `PstPosePrior.encode`: (T, K, h, w) and (T, K, facts)."""
        row = self.done
        self.arrays["maps"][row] = np.rint(np.sqrt(np.clip(maps, 0.0, 1.0)) * 255.0)
        self.arrays["facts"][row], self.arrays["cells"][row] = facts, clip.cells
        self.arrays["kind"][row] = clip.kind
        self.done += 1
        if self.done % FLUSH == 0 or self.done == self.count:
            self.about.write_text(json.dumps({"done": self.done, "count": self.count}))

    def batch(self, rows: np.ndarray, frames: slice) -> dict[str, torch.Tensor]:
        """Some frames of clips ``rows``, float32."""
        found = {n: torch.from_numpy(np.array(a[rows])) for n, a in self.arrays.items()}
        cut_ = {n: t[:, frames].float() for n, t in found.items() if n != "kind"}
        return {**cut_, "maps": (cut_["maps"] / 255.0).square(), "kind": found["kind"]}

    def fill(self, films: list[Film], card: Card, held_out: bool, until: float) -> None:
        """Add clips until all are there or the time is over."""
        parts = OnnxParts(card, 1)
        while self.done < self.count and time.monotonic() < until:
            clip = draw(films, np.random.default_rng([3, held_out, self.done]), held_out, card)
            maps, facts = parts.run("encode", clip.crops)
            self.add(maps, facts, clip)
