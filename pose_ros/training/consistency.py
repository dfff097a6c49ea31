"""Labels for unlabelled video: a teacher looks at clean pictures, the student at degraded ones.

The teacher is a single-frame network on the key frame of every window, in the crop it likes best.
Its joints become labels, in image pixels, where it is sure; neighbouring frames correct each other
because nothing has to be answered in time here. `WindowDataset` then shows the student the same
window degraded (`augment.degrade_kinds`), so what the student can gain lies in the other frames.
Left/right consistency is `LossConfig.flip`.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pose_ros.core.heatmaps import decode
from pose_ros.core.skeletons import Skeleton, get_skeleton
from pose_ros.core.values import ByteArray, FloatArray, PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import find_card, load_net
from pose_ros.nets.pictures import Uint8Net
from pose_ros.training.augment import Affine, Draw, crop_affine, warp
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.config import TeacherConfig
from pose_ros.training.datasets.base import ClipDataset, ClipSample

log = logging.getLogger(__name__)

AGREE = 0.05  # of the box's height: how far a joint may be from the middle of its neighbours'
CHUNK = 16

#: Joints (N, K, 2) in image pixels and scores (N, K) of images in boxes (N, 4).
Teacher = Callable[[list[ByteArray], FloatArray], tuple[FloatArray, FloatArray]]


def load_teacher(config: TeacherConfig, device: torch.device) -> tuple[Teacher, Skeleton]:
    """Single-frame network of a card, and its joint set.

    Raises:
        ConfigError: the card is no single-frame pose network.
        WeightsError: no such card, or its weights are missing.

    """
    card = find_card(config.card)
    if card.kind != "pose" or card.frames != 1 or card.skeleton is None:
        raise ConfigError(f"teacher.card={card.name}: expected a single-frame pose network")
    net = Uint8Net(load_net(card), card).eval().to(device)

    def teach(images: list[ByteArray], boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
        size = card.input_hw
        affines = [crop_affine(box, size, card.crop_scale, Draw()) for box in boxes]
        crops = np.stack([warp(i, a, size) for i, a in zip(images, affines, strict=True)])
        with torch.no_grad():
            maps = net(torch.from_numpy(crops[:, None]).to(device))
        cells, score = decode(PoseMaps(*(m.float().cpu().numpy() for m in maps)))
        return _to_images(card.crop_px_from_cell(cells), affines), score

    return teach, get_skeleton(card.skeleton)


def _to_images(crop_xy: FloatArray, affines: list[Affine]) -> FloatArray:
    """Crop pixels (N, K, 2) in image pixels through the inverses of (2, 3) maps."""
    full = np.stack([np.vstack((a, (0.0, 0.0, 1.0))) for a in affines])
    back = np.linalg.inv(full)
    return (np.einsum("nab,nkb->nka", back[:, :2, :2], crop_xy) + back[:, None, :2, 2]).astype(
        np.float32
    )


class PseudoLabelled:
    """A data set whose labels are a teacher's."""

    def __init__(
        self, dataset: ClipDataset, labels: FloatArray, skeleton: Skeleton, score_min: float
    ) -> None:
        """Take the labels (N, K, 3), x, y, score, of every sample's key frame."""
        self.dataset, self.skeleton = dataset, skeleton
        self.name = f"pseudo:{dataset.name}"
        sure = (labels[..., 2] >= score_min) & np.isfinite(labels).all(axis=-1)
        self.xy = np.where(sure[..., None], labels[..., :2], np.nan).astype(np.float32)
        self.visible = np.where(sure, 2, 0).astype(np.uint8)
        self.rows = {_place(dataset[i]): i for i in range(len(dataset))}

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``: each frame has the label of the sample whose key frame it is."""
        sample = self.dataset[index]
        xy = np.full((len(sample.images), len(self.skeleton), 2), np.nan, np.float32)
        visible = np.zeros(xy.shape[:2], np.uint8)
        for t, frame in enumerate(sample.frame_index):
            row = self.rows.get((sample.video, sample.track, int(frame)))
            if row is not None:
                xy[t], visible[t] = self.xy[row], self.visible[row]
        return replace(
            sample, xy_px=xy, visible=visible, skeleton=self.skeleton, xyz_m=None,
            pseudo=np.ones(len(sample.images), np.bool_),
        )  # fmt: skip


def _place(sample: ClipSample) -> tuple[str, str, int]:
    """Video, person and frame that a sample's key frame is."""
    return sample.video, sample.track, int(sample.frame_index[sample.key])


def label(dataset: ClipDataset, teach: Teacher, joints: int) -> FloatArray:
    """(N, K, 3) x, y in image pixels and score of the key frame of every sample."""
    out = np.full((len(dataset), joints, 3), np.nan, np.float32)
    chunks = range(0, len(dataset), CHUNK)
    for first in tqdm(chunks, desc="teacher", unit="chunk", disable=not sys.stderr.isatty()):
        samples = [dataset[i] for i in range(first, min(first + CHUNK, len(dataset)))]
        images = [s.images[s.key].read() for s in samples]
        xy, score = teach(images, np.stack([s.box_xyxy_px for s in samples]))
        out[first : first + len(samples)] = np.concatenate((xy, score[..., None]), axis=-1)
    return out


def smooth(labels: FloatArray, dataset: ClipDataset) -> FloatArray:
    """Labels (N, K, 3) averaged 1:2:1 with the frames before and after, where all agree.

    A joint that is further than 5 % of the box's height from the middle of its neighbours' places
    (a fast turn, or a mistake of one frame) stays as it is; so does one without both neighbours.
    """
    samples = [dataset[i] for i in range(len(dataset))]
    places = [_place(s) for s in samples]
    rows = {place: i for i, place in enumerate(places)}
    tall = np.array([s.box_xyxy_px[3] - s.box_xyxy_px[1] for s in samples], np.float32)
    before = np.array([rows.get((v, p, f - 1), -1) for v, p, f in places], np.int64)
    after = np.array([rows.get((v, p, f + 1), -1) for v, p, f in places], np.int64)
    middle = (labels[before, :, :2] + labels[after, :, :2]) / 2.0
    distance = np.linalg.norm(labels[..., :2] - middle, axis=-1)
    both = ((before >= 0) & (after >= 0))[:, None]
    with np.errstate(invalid="ignore"):
        agreed = both & (distance <= AGREE * tall[:, None])
    out = labels.copy()
    out[..., :2] = np.where(agreed[..., None], (labels[..., :2] + middle) / 2.0, labels[..., :2])
    return out


def pseudo_labelled(
    dataset: ClipDataset, config: TeacherConfig, folder: Path, device: torch.device
) -> PseudoLabelled:
    """The data set with a teacher's labels, which are kept in ``folder`` for the next run.

    Raises:
        ConfigError: the card is no single-frame pose network.
        WeightsError: no such card, or its weights are missing.

    """
    card = find_card(config.card)
    digest = hashlib.sha256(f"{card.sha256} {card.input_hw} {config.smooth}".encode())
    for i in range(len(dataset)):
        sample = dataset[i]
        digest.update(repr(_place(sample)).encode() + sample.box_xyxy_px.tobytes())
    path = folder / f"teacher_{digest.hexdigest()[:16]}.npz"
    skeleton = get_skeleton(card.skeleton or "")
    if not path.is_file():
        teach, skeleton = load_teacher(config, device)
        found = label(dataset, teach, len(skeleton))
        found = smooth(found, dataset) if config.smooth else found
        write_atomically(path, lambda file: np.savez_compressed(file, labels=found))
    with np.load(path) as file:
        labels = file["labels"]
    sure = float((labels[..., 2] >= config.score_min).mean())
    log.info(
        "%s: teacher %s is sure of %.0f %% of the joints", dataset.name, card.name, 100 * sure
    )
    return PseudoLabelled(dataset, labels, skeleton, config.score_min)
