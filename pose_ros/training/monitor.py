"""PoseTrack's mean average precision while training, to choose the weights by (train.monitor=map).

It is poseval's number on the validation data with the labels' boxes: the joints of every key frame
go back to the picture they came from, and whole frames are judged, unlabelled joints and ignored
regions included. `training.evaluate` says the same of the finished card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pose_ros.core.skeletons import POSETRACK15
from pose_ros.core.values import FloatArray
from pose_ros.errors import ConfigError
from pose_ros.training import protocols
from pose_ros.training.augment import Affine, Draw, apply, crop_affine
from pose_ros.training.datasets.base import ClipDataset, samples
from pose_ros.training.datasets.clips import LabelledClips
from pose_ros.training.metrics import posetrack
from pose_ros.training.predict import Predicted
from pose_ros.training.targets import crop_from_cells
from pose_ros.training.windows import Joined, WindowConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class PosevalJudge:
    """A `validate.Judge` that says ``map``: poseval's total, in percent."""

    def __init__(self, clips: ClipDataset, config: WindowConfig) -> None:
        """Judge the windows of whole data sets, cut as ``config`` says.

        Raises:
            ConfigError: not PoseTrack's data with PoseTrack's joints, or a part of it only.

        """
        parts = clips.datasets if isinstance(clips, Joined) else [clips]
        self.parts = [p for p in parts if isinstance(p, LabelledClips)]
        fits = all(p.skeleton is POSETRACK15 for p in self.parts)
        if not self.parts or len(self.parts) < len(parts) or not fits:
            raise ConfigError(
                "train.monitor=map: expected data.val of whole PoseTrack sets, whose frames have "
                f"head rectangles, and no data.val_limit, got {clips.name}; use train.monitor=pck"
            )
        if config.skeleton is not POSETRACK15:
            raise ConfigError(
                f"train.monitor=map: expected crop.joints=posetrack15, got {config.skeleton.name}"
            )
        self.codec, self.size_hw_px = config.crop.codec, config.size_hw_px
        self.image_from_crop = [_back(s.box_xyxy_px, config) for s in samples(clips)]
        self.start()

    def start(self) -> None:
        """Forget what was collected."""
        self.found = torch.zeros(len(self.image_from_crop), len(POSETRACK15), 4)

    def add(self, index: torch.Tensor, cells: torch.Tensor, score: torch.Tensor) -> None:
        """Take joints (B, K, 2) in cells and scores (B, K) of the windows ``index`` (B,)."""
        known = torch.isfinite(cells).all(-1, keepdim=True).float()
        row = torch.cat((torch.nan_to_num(cells), score[..., None], known), -1)
        self.found[index.cpu()] = row.float().cpu()

    def numbers(self, fabric: Fabric) -> dict[str, float]:
        """Metrics by name, of the windows of all processes."""
        found = self.found
        if fabric.world_size > 1:  # every window was seen by one process, the others have zeros
            summed = fabric.all_reduce(found.to(fabric.device), reduce_op="sum")
            found = torch.as_tensor(summed).cpu()
        cells, score = found[..., :2].numpy(), found[..., 2].numpy()
        cells = np.where(found[..., 3:].numpy() > 0, cells, np.float32("nan"))
        crop = crop_from_cells(cells, self.codec, self.size_hw_px)
        xy = [apply(a, joints) for a, joints in zip(self.image_from_crop, crop, strict=True)]
        return {"map": self._total(np.stack(xy), score)}

    def _total(self, xy_px: FloatArray, score: FloatArray) -> float:
        """Poseval's total of joints (N, K, 2) in image pixels and scores (N, K)."""
        videos: list[posetrack.Video] = []
        first = 0
        for part in self.parts:
            rows = slice(first, first + len(part))
            predicted = Predicted(xy_px[rows], score[rows], POSETRACK15)
            videos += protocols.poseval_videos(part, predicted)
            first = rows.stop
        return posetrack.average_precision(videos)["total"]


def _back(box_xyxy_px: FloatArray, config: WindowConfig) -> Affine:
    """(2, 3) map from crop pixels to image pixels of a window that nothing was drawn for."""
    crop = config.crop
    there = crop_affine(box_xyxy_px, config.size_hw_px, crop.scale, Draw(), crop.codec)
    return np.linalg.inv(np.vstack((there, (0.0, 0.0, 1.0))))[:2]
