"""What a network is asked for: the module whose forward pass is a batch's loss.

Letters in shapes: B windows, T frames, K joints, (h, w) cells. Every paper's network has its own
terms (`objective_of`); all have ``total``. In a batch are the items of `WindowDataset`, or, with
stored features, ``feature0`` ... (B, T, ...) in place of ``frames``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from pose_ros.core.skeletons import get_skeleton
from pose_ros.errors import ConfigError
from pose_ros.nets.dsa import Dsa
from pose_ros.nets.hstpn import Hstpn
from pose_ros.nets.pstpose import PSTPose
from pose_ros.nets.stdpose import STDPose
from pose_ros.nets.video import PoseOut, VideoPoseNet
from pose_ros.nets.vit import TokenPoseNet
from pose_ros.nets.vremd import VREMD
from pose_ros.training import losses
from pose_ros.training.config import NORMALISATIONS, TrainConfig
from pose_ros.training.targets import STRIDE, gaussians, unflip

Batch = Mapping[str, torch.Tensor]
Terms = dict[str, torch.Tensor]

#: DCPose's weights of joints that are hard to find.
HARD = {"elbow": 1.2, "knee": 1.2, "wrist": 1.5, "ankle": 1.5}


class Trainee(nn.Module):
    """A network with its objective; ``still`` trains its single-frame path only (stage 1)."""

    mean: torch.Tensor
    std: torch.Tensor
    flip_order: torch.Tensor
    joint_weight: torch.Tensor

    def __init__(self, net: VideoPoseNet, config: TrainConfig, still: bool = False) -> None:
        """Wrap a network.

        Raises:
            ConfigError: the network answers another number of joints than the joint set has.

        """
        super().__init__()
        skeleton = get_skeleton(config.crop.joints)
        if net.joints != len(skeleton):
            raise ConfigError(
                f"{config.net.name} answers {net.joints} joints, crop.joints={skeleton.name} has "
                f"{len(skeleton)}: set net.options.joints={len(skeleton)} or another joint set"
            )
        self.net, self.config, self.still = net, config, still
        self.frozen = freeze(net, config, still)
        mean, std = (torch.tensor(v)[:, None, None] for v in NORMALISATIONS[config.crop.normalise])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        order = torch.from_numpy(skeleton.flip_order())
        self.register_buffer("flip_order", order, persistent=False)
        weight = [HARD.get(joint.split("_")[-1], 1.0) for joint in skeleton.joints]
        hard = config.loss.joint_weights
        self.register_buffer(
            "joint_weight", torch.tensor(weight if hard else [1.0] * len(weight)), persistent=False
        )
        self.size_hw = (net.size_hw_px[0] // STRIDE, net.size_hw_px[1] // STRIDE)

    def train(self, mode: bool = True) -> Trainee:
        """Set the mode; a frozen backbone stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.net.get_submodule("backbone").eval()
        return self

    def forward(self, batch: Batch) -> Terms:
        """Terms and ``total`` of a batch, float32 scalars, and ``heatmaps`` of the key frame."""
        features = self.features(batch)
        out = self.answer(features, batch)
        terms = self.objective(out, batch)
        if self.config.loss.flip and not self.still:
            mirrored = {**batch, "frames": batch["frames"].flip(-1)}
            other = self.answer(self.features(mirrored), mirrored).heatmaps
            terms["flip"] = self.flip_loss(out.heatmaps, other)
            terms["total"] = terms["total"] + self.config.loss.flip * terms["flip"]
        return {**terms, "heatmaps": out.heatmaps.detach()}

    def features(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """Features (B, T, ...) of `encode`; of the key frame only, T = 1, in stage 1."""
        if "feature0" in batch:
            stored: list[torch.Tensor] = []
            while f"feature{len(stored)}" in batch:
                stored.append(batch[f"feature{len(stored)}"].float())
            stored = [self._shown(f) for f in stored]
            lead = stored[0].shape[:2]
            flat = tuple(f.flatten(0, 1) for f in stored)
            found = encode_stored(self.net, flat if len(flat) > 1 else flat[0])
        else:
            frames = self._shown(batch["frames"])
            lead = frames.shape[:2]
            normalised = (frames.flatten(0, 1).float() - self.mean) / self.std
            found = self.net.encode(normalised)
        return tuple(f.unflatten(0, lead) for f in found)

    def _shown(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (B, T, ...) that the network sees: in stage 1 the key frame (B, 1, ...)."""
        key = self.net.window.key
        return frames[:, key : key + 1] if self.still else frames

    def answer(self, features: tuple[torch.Tensor, ...], batch: Batch) -> PoseOut:
        """Heatmaps and what the objective needs beside them."""
        if self.still:
            return PoseOut(still_heatmaps(self.net, features), {})
        if isinstance(self.net, Hstpn) and self.training and self.config.loss.burn_in_p:
            return burnt_in(self.net, features[0], self._burn_in(batch))
        labels = None
        if isinstance(self.net, STDPose) and self.training and self.config.loss.p_gt_aux:
            labels = self._side_labels(batch)
        return self.net.fuse(features, batch["dt_left"], batch["dt_right"], labels)

    def objective(self, out: PoseOut, batch: Batch) -> Terms:
        """Terms of the paper whose network this is."""
        key = self.net.window.key
        target = gaussians(batch["cells"], self.size_hw, self.config.crop.sigma)  # (B, T, K, h, w)
        visible, heatmaps = batch["visible"], out.heatmaps.float()
        if "window_heatmaps" in out.aux:
            window = out.aux["window_heatmaps"].float()
            return losses.hstpn(window, target, torch.nan_to_num(batch["cells"]), visible)
        if "heatmaps_initial" in out.aux:
            return self._stdpose(out, target[:, key], visible[:, key])
        heat = losses.joint_mse(heatmaps, target[:, key], visible[:, key], self.joint_weight)
        terms = {"heatmap": heat, "total": heat}
        if isinstance(self.net, VREMD) and self.config.loss.vremd_branches and not self.still:
            for name in ("heatmaps_tokens", "heatmaps_motion"):
                branch = out.aux[name].float()
                terms[name] = losses.joint_mse(branch, target[:, key], visible[:, key])
                terms["total"] = terms["total"] + self.config.loss.vremd_branches * terms[name]
        return terms

    def _stdpose(self, out: PoseOut, target: torch.Tensor, visible: torch.Tensor) -> Terms:
        """Paper 003's objective; without its fused parts the information term is left out."""
        key = self.net.window.key
        initial = out.aux["heatmaps_initial"][:, key].float()
        information = initial.new_zeros(())
        if "heatmaps_features" in out.aux and "heatmaps_temporal" in out.aux:
            names = ("features_key", "features_fused", "heatmaps_initial", "heatmaps_temporal")
            known = {n: out.aux[n].float() for n in names}
            known["heatmaps_initial"] = initial
            information = losses.stdpose_information(
                out.aux["heatmaps_features"].float(), known["heatmaps_temporal"], target, visible,
                tuple(known[n] for n in names),  # type: ignore[arg-type]
                losses.MutualInformation(impl=self.config.loss.mi),
            )  # fmt: skip
        weight = self.config.loss.initial_head
        return losses.stdpose(out.heatmaps.float(), initial, target, visible, information, weight)

    def flip_loss(self, heatmaps: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        """Mean squared difference between maps and those of the mirrored window, mirrored back."""
        back = unflip(mirrored.float(), self.flip_order)
        return (heatmaps.float() - back)[..., 1:].square().mean()  # column 0 has no partner

    def _burn_in(self, batch: Batch) -> torch.Tensor:
        """(B,) frames of burn-in, 0 for most; decided by epoch and index, so the same anywhere."""
        chance = _noise(batch["epoch"] * 1000003 + batch["index"], 1)
        length = _noise(batch["epoch"] * 1000003 + batch["index"], 2)
        frames = 1 + (length * (self.net.window.frames - 1)).long()
        return torch.where(chance < self.config.loss.burn_in_p, frames, torch.zeros_like(frames))

    def _side_labels(self, batch: Batch) -> torch.Tensor:
        """(B, T, K, 3) labels of some windows' side frames, the others unknown."""
        given = _noise(batch["epoch"] * 1000003 + batch["index"], 3) < self.config.loss.p_gt_aux
        visible = batch["visible"] * given[:, None, None]
        return torch.cat((torch.nan_to_num(batch["cells"]), visible[..., None]), -1)


def freeze(net: VideoPoseNet, config: TrainConfig, still: bool) -> bool:
    """Freeze the backbone, or let it learn, as the stage wants it; whether it is frozen now."""
    own = getattr(net, "config", None)
    frozen = config.net.freeze or bool(config.net.options.get("freeze", getattr(own, "freeze", 0)))
    if still:
        frozen = not config.stage1.finetune_backbone
    if dataclasses.is_dataclass(own) and hasattr(own, "freeze"):
        net.config = dataclasses.replace(own, freeze=frozen)  # type: ignore
    net.get_submodule("backbone").requires_grad_(not frozen)
    return frozen


def _noise(key: torch.Tensor, salt: int) -> torch.Tensor:
    """(B,) numbers in [0, 1) that depend on int64 keys (B,) and nothing else."""
    mixed = (key * 2654435761 + salt * 40503) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 3266489917) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFFFF).double() / float(1 << 24)


def burnt_in(net: Hstpn, windows: torch.Tensor, frames: torch.Tensor) -> PoseOut:
    """HSTPN's answer for psi' (B, T, C, h, w) after ``frames`` (B,) frames of an earlier memory.

    The earlier film is the window played backwards, which moves as continuously as any other; no
    gradient goes into it. 0 frames is what `Hstpn.fuse` answers. Streaming is unbounded while a
    window has T frames: without this the memory is never older than T in training.
    """
    length = windows.shape[1]
    hidden = torch.zeros_like(windows[:, 0])
    known = (frames > 0).to(windows.dtype)
    with torch.no_grad():
        for t in range(length - 1, 0, -1):
            active = (frames >= t)[:, None, None, None]
            hidden = torch.where(active, net.gru(windows[:, t], hidden), hidden)
    out = []
    for t in range(length):
        hidden = net.gru(windows[:, t], hidden)
        out.append(windows[:, t] + known[:, None, None, None] * net.recall(hidden))
        known = torch.ones_like(known)
    heatmaps, depths = net.predict(torch.stack(out, 1).flatten(0, 1))
    heatmaps = heatmaps.unflatten(0, (-1, length))
    aux = {"window_heatmaps": heatmaps}
    if depths is not None:
        aux["depths"] = depths.unflatten(0, (-1, length))[:, net.window.key]
    return PoseOut(heatmaps[:, net.window.key], aux)


def still_heatmaps(net: VideoPoseNet, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Heatmaps (B, K, h, w) of a network's single-frame path, features (B, 1, ...).

    The papers' baseline: backbone and head, every temporal module left out.
    """
    first = features[0][:, 0]
    if isinstance(net, STDPose) and net.head0 is not None:
        return features[1][:, 0]
    if isinstance(net, PSTPose):
        first = net.norm(first)
    if isinstance(net, TokenPoseNet):
        return net.get_submodule("head")(net.to_map(first))
    if isinstance(net, Dsa):
        return net.head(first)
    one = features[0].new_zeros(len(first))
    return net.fuse(features, one, one).heatmaps


def share_head(net: VideoPoseNet) -> list[str]:
    """Copy the head that stage 1 trained into every head of the same shape; their names."""
    children = dict(net.named_children())
    trained = "head0" if children.get("head0") is not None else "head"
    if trained not in children:
        return []
    state = {n: t.clone() for n, t in children[trained].state_dict().items()}
    shapes = {n: t.shape for n, t in state.items()}
    copied = []
    for name, part in children.items():
        own = {n: t.shape for n, t in part.state_dict().items()} if name != trained else {}
        if own and own == shapes and type(part) is type(children[trained]):
            part.load_state_dict(state)
            copied.append(name)
    return copied


class _Stored(nn.Module):
    """Stands for a backbone whose answer is already there."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return what came."""
        return features


def encode_stored(
    net: VideoPoseNet, stored: torch.Tensor | tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """What `encode` answers when its backbone answers ``stored`` (N, ...)."""
    backbone = net.get_submodule("backbone")
    net.backbone = _Stored()
    try:
        return net.encode(stored)  # type: ignore[arg-type]
    finally:
        net.backbone = backbone


def backbone_features(net: VideoPoseNet, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a network's backbone says about normalised frames (N, 3, H, W); no gradient."""
    with torch.no_grad():
        found = net.get_submodule("backbone")(frames)
    if isinstance(found, torch.Tensor):
        return (found,)
    return tuple(found[:1]) if isinstance(net, Dsa) else tuple(found)
