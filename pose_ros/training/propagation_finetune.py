"""STDPose learns from the few labels of the very video that it is to propagate.

The key frame of every window is a labelled one. Its side frames are, in turns,

  * the neighbouring labelled frames, with their labels: further away than they will be;
  * frames as far away as they will be, labelled by `propagation_fuse` without a network;
  * the same without labels (PoseWarper's scheme, models.md 4.5).

The backbone stays as it is and its features are computed once per window and augmented version.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate
from tqdm import tqdm

from pose_ros.core.skeletons import mapping
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError
from pose_ros.nets.stdpose import STDPose
from pose_ros.training.augment import live_scale
from pose_ros.training.config import (
    AugmentConfig,
    CropConfig,
    LossConfig,
    NetConfig,
    TrainConfig,
)
from pose_ros.training.datasets.base import ClipSample
from pose_ros.training.features import StoredWindows, store
from pose_ros.training.objectives import Trainee
from pose_ros.training.predict import Network
from pose_ros.training.propagation import Sparse, boxes_between, ends_of
from pose_ros.training.propagation_fuse import fused
from pose_ros.training.propagation_nets import joints_of
from pose_ros.training.targets import CELL_SHIFT_PX, stride_px
from pose_ros.training.windows import WindowConfig, WindowDataset

#: Augmented versions of every window, windows per step, learning rate.
VARIANTS, BATCH, RATE = 4, 8, 1e-3
#: Labels of side frames that are surer than this are shown.
SCORE_MIN = 0.6
AUGMENT = AugmentConfig(flip_p=0.5, half_body_p=0.1, rot_deg=15.0, scale=0.2)


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a fine-tuning came to."""

    windows: int
    steps: int
    first_loss: float  # mean of the first tenth of the steps
    last_loss: float
    network: Network  # what learned, its maps read as they were taught


class SparseWindows:
    """A ClipDataset of windows of three frames about the labelled people of a video."""

    def __init__(self, video: Sparse, network: Network, seed: int = 0) -> None:
        """Choose the windows, in the joint set of the network.

        Raises:
            ConfigError: fewer than two labelled frames, or nobody in them.

        """
        self.name, self.skeleton = f"sparse-{video.name}", network.skeleton
        self.video = video
        marks = np.flatnonzero(video.labelled)
        if len(marks) < 2 or not video.present.any():
            raise ConfigError(
                f"{video.name}: fine-tuning needs people in two labelled frames at least, got "
                f"{len(marks)} labelled frames"
            )
        joints_of(network, video.skeleton)
        order = mapping(video.skeleton, network.skeleton)
        guess = fused(video, None)
        sure = np.where(guess.score[..., None] >= SCORE_MIN, guess.xy_px, np.float32("nan"))
        sure = np.where(video.labelled[:, None, None], video.xy_px, sure)
        self.xy = np.where((order >= 0)[:, None], sure[:, :, order], np.float32("nan"))
        self.boxes = boxes_between(video, ends_of(video))
        self.windows = self._choose(marks, np.random.default_rng(seed))

    def _choose(
        self, marks: np.ndarray, rng: np.random.Generator
    ) -> list[tuple[int, int, int, int, bool]]:
        """Person, left, key and right frame, and whether side labels are shown."""
        gap = int(np.median(np.diff(marks)))
        last = len(self.video.images) - 1
        chosen = []
        for person, key in np.argwhere(self.video.present):
            i = int(np.searchsorted(marks, key))
            before, after = marks[max(i - 1, 0)], marks[min(i + 1, len(marks) - 1)]
            if before < key < after:
                chosen.append((int(person), int(before), int(key), int(after), True))
            for shown in (True, False):
                left = int(rng.integers(1, max(gap, 2)))
                near = max(0, key - left), min(last, key + max(gap - left, 1))
                if near[0] < key < near[1]:
                    chosen.append((int(person), int(near[0]), int(key), int(near[1]), shown))
        return chosen

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> ClipSample:
        """Window ``index``."""
        person, left, key, right, shown = self.windows[index]
        frames = np.array([left, key, right], np.int64)
        xy: FloatArray = self.xy[person, frames].astype(np.float32)
        if not shown:
            xy[[0, 2]] = np.nan
        return ClipSample(
            images=tuple(self.video.images[t] for t in frames),
            key=1,
            box_xyxy_px=self.boxes[person, key],
            xy_px=xy,
            visible=np.where(np.isfinite(xy).all(axis=2), 2, 0).astype(np.uint8),
            skeleton=self.skeleton,
            track=self.video.tracks[person],
            frame_index=frames,
            dt_left=key - left,
            dt_right=right - key,
            video=self.video.name,
            image_id=key,
        )


def fine_tune(video: Sparse, network: Network, steps: int, folder: Path, seed: int = 0) -> Tuned:
    """Train a network's weights in place; ``folder`` takes the stored features.

    Its maps are to be read by the answer's ``network``: an untrained card's cells are elsewhere
    than where the targets taught them to be.

    Raises:
        ConfigError: the network is no STDPose, or there is too little to learn from.

    """
    net = network.module
    if not isinstance(net, STDPose) or network.key != 1:
        raise ConfigError(
            f"{network.name}: only STDPose is fine-tuned here (--net stdpose_movenet)"
        )
    config = _settings(network)
    trainee = Trainee(net, config)
    device = next(net.parameters()).device
    windows = WindowDataset(
        SparseWindows(video, network, seed),
        WindowConfig(config.crop, AUGMENT, net.window, net.size_hw_px, network.skeleton, seed),
    )
    stored = store(windows, trainee, folder, VARIANTS, device)
    torch.manual_seed(seed)
    losses = _learn(trainee, stored, steps, seed, device)
    net.eval()
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    codec, size = config.crop.codec, network.size_hw_px
    taught = replace(
        network, cell_shift_px=CELL_SHIFT_PX[codec], cell_stride_px=stride_px(codec, size)
    )
    return Tuned(len(windows), steps, first, last, taught)


def _settings(network: Network) -> TrainConfig:
    """Training settings that fit how the network's card feeds it."""
    size = network.size_hw_px
    codec = "udp" if network.cell_stride_px == stride_px("udp", size) else "edge"
    return TrainConfig(
        net=NetConfig(name=network.name, freeze=True),
        crop=CropConfig(
            joints=network.skeleton.name,
            scale=network.crop_scale / live_scale(1.0, size, codec),
            normalise="movenet" if abs(network.mean[0] - network.mean[2]) < 1 else "imagenet",
            codec=codec,
        ),
        loss=LossConfig(p_gt_aux=1.0),
    )


def _learn(
    trainee: Trainee, stored: StoredWindows, steps: int, seed: int, device: torch.device
) -> list[float]:
    """Losses of the steps: AdamW, cosine."""
    learning = [p for p in trainee.net.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=RATE, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    trainee.train()
    losses = []
    for step in tqdm(range(steps), desc="fine-tuning", disable=not sys.stderr.isatty()):
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        for group in optimiser.param_groups:
            group["lr"] = RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = rng.choice(len(stored), BATCH, replace=len(stored) < BATCH)
        items = [stored[(int(rng.integers(VARIANTS)), int(row))] for row in rows]
        batch = {n: t.to(device) for n, t in default_collate(items).items()}
        loss = trainee(batch)["total"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses
