"""Running a network on labelled clips: crops as its card says, joints back in image pixels."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes, to_image
from pose_ros.core.skeletons import POSETRACK15, SKELETONS, Skeleton, get_skeleton
from pose_ros.core.values import ByteArray, FloatArray, Frame, PoseMaps
from pose_ros.errors import ConfigError, WeightsError
from pose_ros.nets.checkpoint import Card, find_card, load_net, read_card
from pose_ros.nets.registry import build_net, list_nets
from pose_ros.nets.video import VideoPoseNet
from pose_ros.training.config import in_words
from pose_ros.training.corruption import DROP_JOINTS, CorruptionSpec, corrupt, drop_joints
from pose_ros.training.datasets.base import ClipDataset, ClipSample, ImageRef
from pose_ros.training.peaks import joints_of, with_mirrored
from pose_ros.training.targets import mirror_shift

#: Crop pixels per heatmap cell.
STRIDE_PX = 4.0
#: Normalisation and margin of a network without a card (models.md 0.3).
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
BOX_SCALE = 1.25
#: Pictures kept between samples, because people share frames and windows overlap.
PICTURES_KEPT = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Network:
    """A network and how to feed it."""

    name: str
    module: nn.Module
    size_hw_px: tuple[int, int]
    mean: tuple[float, float, float]  # in 0 ... 255, in the order of `channels`
    std: tuple[float, float, float]
    channels: str
    crop_scale: float
    skeleton: Skeleton
    frames: int
    key: int
    cell_shift_px: float  # heatmap cell c is the crop pixel cell_stride_px c + this
    trained: bool  # False: weights are random, its joints mean nothing
    cell_stride_px: tuple[float, float] = (STRIDE_PX, STRIDE_PX)  # along x and y

    @property
    def flip_columns(self) -> int:
        """`targets.mirror_shift` of its maps."""
        return mirror_shift(self.cell_stride_px[0], self.cell_shift_px, self.size_hw_px[1])

    def crop_px_from_cell(self, cells: FloatArray) -> FloatArray:
        """Crop pixels (..., 2) of heatmap cells (..., 2)."""
        pixels = cells * np.array(self.cell_stride_px, np.float32) + self.cell_shift_px
        return np.asarray(pixels, np.float32)

    def cell_from_crop_px(self, xy_px: FloatArray) -> FloatArray:
        """Heatmap cells (..., 2) of crop pixels (..., 2)."""
        cells = (xy_px - self.cell_shift_px) / np.array(self.cell_stride_px, np.float32)
        return np.asarray(cells, np.float32)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Joints of N samples, in the network's joint set and image pixels."""

    xy_px: FloatArray  # (N, K, 2), NaN where nothing was found
    score: FloatArray  # (N, K)
    skeleton: Skeleton


def net_options(texts: Iterable[str]) -> dict[str, object]:
    """Options of an architecture from texts NAME=VALUE, the values as YAML reads them.

    Raises:
        ConfigError: a text of another form.

    """
    options: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--net-option: expected NAME=VALUE, got '{text}'")
        options[name] = yaml.safe_load(value)
    return options


def open_network(name: str, device: str = "cpu", **overrides: object) -> Network:
    """Open a card by name or path, or an architecture of the registry with random weights.

    Raises:
        WeightsError: the card's weights are missing or damaged.
        ConfigError: neither a card nor an architecture, or options for a card.

    """
    if name.endswith(".yaml"):
        network = _of_card(read_card(Path(name)))
    elif name in list_nets() and overrides:
        network = _of_architecture(name, overrides)
    else:
        network = _by_name(name)
    if overrides and network.trained:
        raise ConfigError(f"card {name}: options are for networks by architecture, not for cards")
    network.module.to(torch.device(device)).eval()
    if not network.trained:
        _log.warning("%s has random weights: its numbers mean nothing", name)
    return network


def _by_name(name: str) -> Network:
    try:
        return _of_card(find_card(name))
    except WeightsError:
        if name not in list_nets():
            raise
        return _of_architecture(name, {})


def _of_card(card: Card) -> Network:
    if card.kind != "pose":
        raise ConfigError(f"card {card.name}: expected a pose network, it is a {card.kind}")
    module = load_net(card)
    # A recurrent network's card describes the stream; offline it sees the window it was built for.
    frames, key = card.frames, card.frames - 1 - card.lookahead_frames
    if isinstance(module, VideoPoseNet):
        frames, key = module.window.frames, module.window.key
    return Network(
        name=card.name,
        module=module,
        size_hw_px=(card.input_hw[0], card.input_hw[1]),
        mean=card.mean,
        std=card.std,
        channels=card.channels,
        crop_scale=card.crop_scale,
        skeleton=get_skeleton(card.skeleton or ""),
        frames=frames,
        key=key,
        cell_shift_px=card.cell_shift_px,
        cell_stride_px=card.cell_stride_px,
        trained=not card.untrained,
    )


def _of_architecture(name: str, overrides: dict[str, object]) -> Network:
    module = build_net(name, **in_words(name, overrides))
    if not isinstance(module, VideoPoseNet):
        raise ConfigError(
            f"{name}: there is no card of that name; only video networks run without"
        )
    same = [s for s in SKELETONS.values() if len(s) == module.joints]
    skeleton = POSETRACK15 if module.joints == len(POSETRACK15) else same[0]
    return Network(
        name=name,
        module=module,
        size_hw_px=module.size_hw_px,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channels="rgb",
        crop_scale=BOX_SCALE,
        skeleton=skeleton,
        frames=module.window.frames,
        key=module.window.key,
        cell_shift_px=-0.5,
        trained=False,
    )


class Predictor:
    """Runs a network over samples, in batches."""

    def __init__(
        self,
        network: Network,
        batch: int = 16,
        corruption: CorruptionSpec | None = None,
        temporal: bool = True,
        seed: int = 0,
        subpixel: str = "dark",
        flip: bool = False,
    ) -> None:
        """Prepare; without ``temporal`` every window is the key frame repeated.

        ``flip`` averages with the maps of the mirrored window.

        Raises:
            ConfigError: ``flip`` or ``subpixel`` for a network that answers more than heatmaps.

        """
        if flip and not isinstance(network.module, VideoPoseNet):
            raise ConfigError(f"{network.name}: expected a network of heatmaps for a flip test")
        self.subpixel, self.flip = subpixel, flip
        order = network.skeleton.flip_order()
        self._order = torch.from_numpy(order)
        self.network = network
        self.batch = batch
        self.corruption = corruption
        self.temporal = temporal
        self.seed = seed
        self._pictures: OrderedDict[ImageRef, Frame] = OrderedDict()

    def __call__(
        self,
        dataset: ClipDataset,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,  # type: ignore[assignment]
    ) -> Predicted:
        """Joints of every sample of a dataset."""
        joints = len(self.network.skeleton)
        xy = np.full((len(dataset), joints, 2), np.nan, np.float32)
        score = np.zeros((len(dataset), joints), np.float32)
        for first in progress(range(0, len(dataset), self.batch)):
            rows = range(first, min(first + self.batch, len(dataset)))
            xy[first : rows.stop], score[first : rows.stop] = self.run(
                [dataset[row] for row in rows], first
            )
        if self.corruption and self.corruption.kind == DROP_JOINTS:
            rng = np.random.default_rng(self.seed)
            xy, score = drop_joints(xy, score, self.corruption.severity, rng)
        return Predicted(xy, score, self.network.skeleton)

    def run(self, samples: Sequence[ClipSample], first: int = 0) -> tuple[FloatArray, FloatArray]:
        """Joints (B, K, 2) in image pixels and scores (B, K); ``first`` numbers the samples."""
        if not samples:
            joints = len(self.network.skeleton)
            return np.zeros((0, joints, 2), np.float32), np.zeros((0, joints), np.float32)
        boxes = np.stack([sample.box_xyxy_px for sample in samples])
        edges = fit_boxes(boxes, self.network.size_hw_px, self.network.crop_scale)
        clips = np.stack(
            [
                self._clip(s, edge, first + i)
                for i, (s, edge) in enumerate(zip(samples, edges, strict=True))
            ]
        )
        left = [sample.dt_left for sample in samples]
        right = [sample.dt_right for sample in samples]
        cells, score = joints_of(self._maps(clips, left, right), self.subpixel)
        crop = self.network.crop_px_from_cell(cells)
        affine = affine_from_boxes(edges, self.network.size_hw_px)
        return to_image(crop, affine).astype(np.float32), score

    def _clip(self, sample: ClipSample, edges: np.ndarray, number: int) -> ByteArray:
        """(T, h, w, 3) crops of the frames the network wants, by one affine."""
        net = self.network
        out = np.empty((net.frames, *net.size_hw_px, 3), np.uint8)
        for time, image in enumerate(self._window(sample)):
            cut(self._read(image), edges, out[time])
        if self.corruption and self.corruption.kind != DROP_JOINTS:
            rng = np.random.default_rng([self.seed, number])
            out = corrupt(out, self.corruption.kind, self.corruption.severity, rng)
        return out

    def _window(self, sample: ClipSample) -> tuple[ImageRef, ...]:
        net = self.network
        if not self.temporal or (len(sample.images) == 1 and net.frames > 1):
            return (sample.images[sample.key],) * net.frames
        if (len(sample.images), sample.key) != (net.frames, net.key):
            raise ConfigError(
                f"{net.name} wants windows of {net.frames} frames with the key at {net.key}, the "
                f"dataset gives {len(sample.images)} with {sample.key}: open it with "
                f"frames={net.frames} and key={net.key}"
            )
        return sample.images

    def _read(self, image: ImageRef) -> Frame:
        if image not in self._pictures:
            self._pictures[image] = Frame(image.read(), 0)
            while len(self._pictures) > PICTURES_KEPT:
                self._pictures.popitem(last=False)
        self._pictures.move_to_end(image)
        return self._pictures[image]

    def _maps(self, clips: ByteArray, left: list[int], right: list[int]) -> PoseMaps:
        net = self.network
        device = next(net.module.parameters()).device
        x = torch.from_numpy(clips).to(device).permute(0, 1, 4, 2, 3).float()
        if net.channels == "bgr":
            x = x.flip(2)
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (net.mean, net.std))
        x = (x - mean) / std
        with torch.inference_mode():
            if isinstance(net.module, VideoPoseNet):
                dt = [torch.tensor(v, dtype=x.dtype, device=device) for v in (left, right)]
                if not self.temporal:
                    dt = [torch.ones_like(v) for v in dt]
                maps = net.module(x, *dt).heatmaps.float()
                if self.flip:
                    mirrored = net.module(x.flip(-1), *dt).heatmaps.float()
                    maps = with_mirrored(maps, mirrored, self._order.to(device), net.flip_columns)
                return PoseMaps(maps.cpu().numpy())
            heads = net.module(x)
        return PoseMaps(*(part.float().cpu().numpy() for part in heads))
