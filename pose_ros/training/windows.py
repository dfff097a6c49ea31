"""Windows as the trainer wants them: crops, cells and visibility, from labelled clips.

Letters in shapes: T frames, K joints, (H, W) crop. Everything random about window ``index`` in
epoch ``epoch`` depends on (seed, epoch, index) only, so that neither the number of workers nor of
processes, nor a pause, changes what is learned from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pose_ros.core.skeletons import Skeleton, mapping
from pose_ros.core.values import ByteArray
from pose_ros.errors import ConfigError, PoseRosError, ShapeError
from pose_ros.nets.video import Window
from pose_ros.training import augment
from pose_ros.training.config import AugmentConfig, CropConfig
from pose_ros.training.corruption import corrupt
from pose_ros.training.datasets.base import ClipDataset, ClipSample
from pose_ros.training.targets import (
    cells_from_crop,
    cells_of_map,
    image_from_cells,
    inside,
    reach_cells,
)

T = TypeVar("T")
Item = dict[str, Any]
Key = tuple[int, int]  # epoch, index


@dataclass(frozen=True)
class WindowConfig:
    """What a window dataset needs to know."""

    crop: CropConfig
    augment: AugmentConfig | None  # None: no augmentation
    window: Window
    size_hw_px: tuple[int, int]
    skeleton: Skeleton
    seed: int = 0
    spread: int = 0  # `DataConfig.spread`
    clean: bool = False  # give the window before it was disturbed, too
    views: bool = False  # give the other view of the window, too
    pseudo: bool = False  # say which labels a network made

    @property
    def asked(self) -> dict[str, int]:
        """Options with which a data set has to be opened so that its samples fit."""
        if not self.spread:
            return {"frames": self.window.frames, "key": self.window.key}
        return {"frames": 2 * self.spread - 1, "key": self.spread - 1}


class Joined:
    """Several data sets one after the other, in one joint set."""

    def __init__(self, datasets: Sequence[ClipDataset], skeleton: Skeleton) -> None:
        """Join them.

        Raises:
            ConfigError: a data set shares no joint with the joint set, or there is none.

        """
        if not datasets:
            raise ConfigError("expected at least one data set, got none (data.train, data.pseudo)")
        for part in datasets:
            if (mapping(part.skeleton, skeleton) < 0).all():
                raise ConfigError(
                    f"data set {part.name}: its joint set {part.skeleton.name} shares no joint "
                    f"with {skeleton.name}, which the network learns (crop.joints)"
                )
        self.datasets = list(datasets)
        self.skeleton = skeleton
        self.name = "+".join(part.name for part in datasets)
        self.starts = np.cumsum([0, *(len(part) for part in datasets)])

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``, its joints by name; joints it does not have are unlabelled."""
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        sample = self.datasets[part][index - int(self.starts[part])]
        source = sample.skeleton
        if source.joints == self.skeleton.joints:
            return sample
        order = mapping(source, self.skeleton)
        has = order >= 0
        xy = np.where(has[:, None], sample.xy_px[:, order], np.float32("nan"))
        visible = np.where(has, sample.visible[:, order], np.uint8(0))
        return replace(
            sample,
            xy_px=xy.astype(np.float32),
            visible=visible,
            skeleton=self.skeleton,
            xyz_m=None,
        )

    def unlabelled_joints(self) -> list[str]:
        """Joints of the joint set that no data set has."""
        had = {joint for part in self.datasets for joint in part.skeleton.joints}
        return [joint for joint in self.skeleton.joints if joint not in had]


class WindowDataset(Dataset[Item]):
    """Items by (epoch, index): what `Trainee` learns from.

    ``frames`` (T, 3, H, W) uint8; ``cells`` (T, K, 2) float32, NaN unknown; ``visible`` (T, K)
    float32, 1 where a joint is labelled inside the crop; ``dt_left``, ``dt_right`` float32,
    frames; ``epoch``, ``index`` int64. With ``clean``: the frames before they were disturbed. With
    ``augment.recrop_p``: ``to_key`` (T, 3, 3) float32, from cells of a frame to the key frame's.
    With ``views``: ``other`` like ``frames``, and ``epipolar`` (3, 3) float32 between cells of the
    key frames, of unit norm; both zero where a sample has one view. With ``pseudo``: ``pseudo``
    (T,) float32, 1 where the labels are a network's.
    """

    def __init__(self, clips: ClipDataset, config: WindowConfig) -> None:
        """Read windows of ``clips``, whose joint set has to be the config's."""
        if clips.skeleton.joints != config.skeleton.joints:
            raise ConfigError(
                f"data set {clips.name} has joint set {clips.skeleton.name}, the network learns "
                f"{config.skeleton.name}: join it first (windows.Joined)"
            )
        self.clips = clips
        self.config = config
        self.flip_order = config.skeleton.flip_order()

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.clips)

    def __getitem__(self, key: Key) -> Item:
        """Item of a window in an epoch."""
        epoch, index = key
        rng = np.random.default_rng([self.config.seed, epoch, index])
        sample = self.clips[index]
        pick, dt = self._pick(sample, rng)
        return {
            **self._cut(sample, pick, rng),
            "dt_left": torch.tensor(dt[0]),
            "dt_right": torch.tensor(dt[1]),
            "epoch": torch.tensor(epoch),
            "index": torch.tensor(index),
        }

    def _pick(
        self, sample: ClipSample, rng: np.random.Generator
    ) -> tuple[list[int], tuple[float, float]]:
        """Frames of the sample that are used, and their distances to the key frame."""
        window, spread = self.config.window, self.config.spread
        if len(sample.images) == 1:  # a still is a film in which nothing moves
            return [0] * window.frames, (float(window.key), float(window.lookahead))
        if not spread:
            if (len(sample.images), sample.key) != (window.frames, window.key):
                raise ShapeError(
                    f"data set {self.clips.name}: expected windows of {window.frames} frames with "
                    f"key {window.key}, got {len(sample.images)} with key {sample.key}"
                )
            return list(range(window.frames)), (float(sample.dt_left), float(sample.dt_right))
        left = int(rng.integers(1, spread))
        picked = [sample.key - left, sample.key, sample.key + spread - left]
        if window.frames != 3 or picked[0] < 0 or picked[-1] >= len(sample.images):
            raise ShapeError(
                f"data.spread={spread} wants a network of 3 frames and samples of "
                f"{2 * spread - 1} frames, got {window.frames} and {len(sample.images)}"
            )
        steps = np.abs(sample.frame_index[picked] - sample.frame_index[sample.key])
        return picked, (float(max(steps[0], 1)), float(max(steps[2], 1)))

    def _cut(self, sample: ClipSample, pick: list[int], rng: np.random.Generator) -> Item:
        """Crops, cells and visibility of the picked frames, and what else the config wants."""
        config, size = self.config, self.config.size_hw_px
        xy, labelled = sample.xy_px[pick], sample.visible[pick] > 0
        drawn = augment.Draw()
        if config.augment is not None:
            key = config.window.key
            drawn = augment.draw(rng, config.augment, xy[key], labelled[key], config.skeleton)
        codec = config.crop.codec
        affine = augment.crop_affine(sample.box_xyxy_px, size, config.crop.scale, drawn, codec)
        moved, moves = self._recrop(len(pick), rng)
        affines = [move[:2] @ np.vstack((affine, (0.0, 0.0, 1.0))) for move in moved]
        images, affines = self._crops(sample, pick, affines, rng)
        crop_xy = np.stack([augment.apply(a, p) for a, p in zip(affines, xy, strict=True)])
        if drawn.flip:
            crop_xy, labelled = crop_xy[:, self.flip_order], labelled[:, self.flip_order]
        clean = _channels_first(images.copy()) if config.clean else None
        images = self._disturb(images, crop_xy, labelled, rng)
        cells = cells_from_crop(crop_xy, codec, size)
        reach = reach_cells(codec, config.crop.sigma)
        visible = (labelled & inside(cells, size, reach)).astype(np.float32)
        return {
            "frames": _channels_first(images),
            "cells": torch.from_numpy(cells),
            "visible": torch.from_numpy(visible),
            **({} if clean is None else {"clean": clean}),
            **({"pseudo": _pseudo(sample, pick)} if config.pseudo else {}),
            **(self._second(sample, pick, (affine, drawn.flip), rng) if config.views else {}),
            **moves,
        }

    def _crops(
        self,
        sample: ClipSample,
        pick: list[int],
        affines: list[augment.Affine],
        rng: np.random.Generator,
    ) -> tuple[ByteArray, list[augment.Affine]]:
        """Crops (T, H, W, 3) of the picked frames, and the maps by which they were cut."""
        config, size = self.config, self.config.size_hw_px
        rules = config.augment
        if rules is not None and rules.ego_p and rng.random() < rules.ego_p:
            turned = augment.turns(rng, rules, len(pick), config.window.key)
            pictures = {i: sample.images[i].read() for i in set(pick)}
            cuts = [
                augment.cut_turned(pictures[i], own, turn, size)
                for i, own, turn in zip(pick, affines, turned, strict=True)
            ]
            return np.stack([crop for crop, _ in cuts]), [whole for _, whole in cuts]
        cut: dict[tuple[int, bytes], ByteArray] = {}
        for i, own in zip(pick, affines, strict=True):
            if (i, own.tobytes()) not in cut:
                cut[i, own.tobytes()] = augment.warp(sample.images[i].read(), own, size)
        images = np.stack([cut[i, a.tobytes()] for i, a in zip(pick, affines, strict=True)])
        return images, affines

    def _second(
        self,
        sample: ClipSample,
        pick: list[int],
        first: tuple[augment.Affine, bool],
        rng: np.random.Generator,
    ) -> Item:
        """Crops of the other view and its geometry; mirrored if the first (affine, flip) is."""
        config, size = self.config, self.config.size_hw_px
        other = sample.other
        if other is None or sample.epipolar is None:
            nothing = torch.zeros(len(pick), 3, *size, dtype=torch.uint8)
            return {"other": nothing, "epipolar": torch.zeros(3, 3)}
        drawn = augment.Draw(flip=first[1])
        if config.augment is not None:
            unknown = np.zeros(len(other.skeleton), np.bool_)
            own = augment.draw(
                rng, config.augment, other.xy_px[other.key], unknown, other.skeleton
            )
            drawn = replace(own, flip=first[1], box_xyxy_px=None)
        codec = config.crop.codec
        affine = augment.crop_affine(other.box_xyxy_px, size, config.crop.scale, drawn, codec)
        images = np.stack([augment.warp(other.images[i].read(), affine, size) for i in pick])
        here, there = (image_from_cells(a, codec, size) for a in (first[0], affine))
        matrix = there.T @ sample.epipolar @ here
        matrix = matrix / np.linalg.norm(matrix)
        return {
            "other": _channels_first(images),
            "epipolar": torch.from_numpy(matrix.astype(np.float32)),
        }

    def _recrop(self, frames: int, rng: np.random.Generator) -> tuple[list[np.ndarray], Item]:
        """(3, 3) moves of the frames' crops away from the key frame's, and what the item says."""
        rules, still = self.config.augment, [np.eye(3)] * frames
        if rules is None or not rules.recrop_p:
            return still, {}
        moved = still
        if frames > 1 and rng.random() < rules.recrop_p:
            move = augment.recrop(rng, rules.recrop, self.config.size_hw_px)
            first = int(rng.integers(1, frames))
            key = self.config.window.key
            moved = [move if (t < first) == (key >= first) else np.eye(3) for t in range(frames)]
        codec, size = self.config.crop.codec, self.config.size_hw_px
        back = [cells_of_map(np.linalg.inv(m), codec, size) for m in moved]
        return moved, {"to_key": torch.from_numpy(np.stack(back).astype(np.float32))}

    def _disturb(
        self, images: ByteArray, xy: np.ndarray, known: np.ndarray, rng: np.random.Generator
    ) -> ByteArray:
        """Occlude and degrade as configured."""
        rules, key = self.config.augment, self.config.window.key
        if rules is None:
            return images
        if rules.occluder_p and rng.random() < rules.occluder_p:
            augment.occlude(images, xy[key], known[key], rng)
        if rules.degrade_p and rng.random() < rules.degrade_p:
            kind = rules.degrade_kinds[int(rng.integers(len(rules.degrade_kinds)))]
            severity = float(rng.uniform(0.1, max(rules.degrade_max, 0.1)))
            images = corrupt(images, kind, severity, rng)
        return images


def _pseudo(sample: ClipSample, pick: list[int]) -> torch.Tensor:
    """(T,) 1 where the labels of the picked frames are a network's."""
    if sample.pseudo is None:
        return torch.zeros(len(pick))
    return torch.from_numpy(sample.pseudo[pick].astype(np.float32))


def _channels_first(images: ByteArray) -> torch.Tensor:
    """(T, 3, H, W) of crops (T, H, W, 3)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class EpochSampler:
    """Batches of (epoch, index) for one of several processes; can start in the middle of an epoch.

    The global batch s of an epoch is ``order[s * batch : (s + 1) * batch]``, of which process r
    of n takes the r-th n-th part: together they see what one process would see. The last,
    incomplete batch of an epoch is left out; fewer windows than a batch repeat.
    """

    def __init__(self, length: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """Sample ``length`` windows.

        Raises:
            ConfigError: the batch cannot be split evenly, or there are no windows.

        """
        if batch % world:
            raise ConfigError(f"train.batch={batch} cannot be split among {world} processes")
        if length == 0:
            raise ConfigError("the training data have no windows")
        self.length, self.batch, self.seed = length, batch, seed
        self.rank, self.world = rank, world
        self.epoch, self.start = 0, 0

    @property
    def steps(self) -> int:
        """Batches of a whole epoch."""
        return max(self.length // self.batch, 1)

    def seek(self, epoch: int, start: int) -> None:
        """Iterate over an epoch from batch ``start`` the next time."""
        self.epoch, self.start = epoch, start

    def order(self, epoch: int) -> np.ndarray:
        """Indices of an epoch in order, whole batches of them."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return np.resize(order, self.steps * self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        """Iterate over this process's batches."""
        order, share = self.order(self.epoch), self.batch // self.world
        for step in range(self.start, self.steps):
            first = step * self.batch + self.rank * share
            yield [(self.epoch, int(i)) for i in order[first : first + share]]

    def __len__(self) -> int:
        """Return the number of batches left."""
        return self.steps - self.start


class ValidationSampler:
    """Every window once, in order, split among processes; epoch 0 everywhere."""

    def __init__(self, length: int, batch: int, rank: int = 0, world: int = 1) -> None:
        """Split ``length`` windows into batches of at most ``batch``."""
        self.indices, self.batch = list(range(rank, length, world)), batch

    def __iter__(self) -> Iterator[list[Key]]:
        """Iterate over this process's batches."""
        for first in range(0, len(self.indices), self.batch):
            yield [(0, i) for i in self.indices[first : first + self.batch]]

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.indices) // self.batch)


def loader(dataset: Dataset[Item], sampler: Any, workers: int, pin: bool) -> DataLoader[Item]:
    """Loader of a sampler's batches; it draws nothing from torch's global generator."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),
    )


def plain_errors(batches: Iterable[T]) -> Iterator[T]:
    """Batches of a loader; an error that a worker found says what it would have said here.

    torch's loaders put the whole traceback of the worker into the message.

    Raises:
        PoseRosError: the worker's, in one line.

    """
    try:
        yield from batches
    except PoseRosError as error:
        lines = str(error).strip().splitlines()
        if not lines or "DataLoader worker" not in lines[0]:
            raise
        raise type(error)(lines[-1].partition(": ")[2]) from None


def _quiet_worker(_worker: int) -> None:
    """One thread per worker: they are many already."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
