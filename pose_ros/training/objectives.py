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
from pose_ros.nets.hstpn import Hstpn, StreamState
from pose_ros.nets.pstpose import PSTPose
from pose_ros.nets.stdpose import STDPose
from pose_ros.nets.video import PoseOut, VideoPoseNet
from pose_ros.nets.vit import TokenPoseNet
from pose_ros.nets.vremd import VREMD
from pose_ros.training import aprs_loss, losses
from pose_ros.training.config import NORMALISATIONS, TrainConfig
from pose_ros.training.targets import STRIDE, flip_columns, gaussians, reach_cells, unflip

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
        self.flip_columns = flip_columns(config.crop.codec, net.size_hw_px)
        self.skeleton = skeleton
        self._teacher: list[VideoPoseNet] = []  # in a list it is no part of this module
        wanted = [n for n in ("loss.aprs", "augment.recrop_p") if _setting(config, n)]
        remembers = isinstance(net, Hstpn) and net.config.temporal == "gru"
        if remembers and net.window.frames > 1 and config.crop.codec == "udp":
            raise ConfigError(
                f"crop.codec=udp: the memory of {config.net.name} follows a live crop in cells of "
                "4 pixels; expected edge or msra"
            )
        if wanted and not (type(net) is Hstpn and remembers):
            raise ConfigError(
                f"{wanted[0]}: expected HSTPN with its recurrent memory, got {config.net.name}"
            )

    def train(self, mode: bool = True) -> Trainee:
        """Set the mode; a frozen backbone stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.net.get_submodule("backbone").eval()
        return self

    def follow(self, teacher: VideoPoseNet) -> None:
        """Agree with a network that sees clean windows, from now on (``loss.mean_teacher``)."""
        self._teacher = [teacher]

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
        if self.config.loss.views and "other" in batch and self.training and not self.still:
            seen = {n: t for n, t in batch.items() if n != "to_key"} | {"frames": batch["other"]}
            other = self.answer(self.features(seen), seen).heatmaps
            terms["views"] = losses.epipolar(
                out.heatmaps.float(), other.float(), batch["epipolar"], self.config.loss.views_min
            )
            terms["total"] = terms["total"] + self.config.loss.views * terms["views"]
        if self._teacher and self.training:
            terms["teacher"] = self.teacher_loss(out.heatmaps, batch)
            terms["total"] = terms["total"] + self.config.loss.mean_teacher * terms["teacher"]
        return {**terms, "heatmaps": out.heatmaps.detach()}

    def features(
        self, batch: Batch, clean: bool = False, net: VideoPoseNet | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Features (B, T, ...) of `encode`; of the key frame only, T = 1, in stage 1.

        ``clean`` takes the window before it was disturbed, ``net`` is another network than ours.
        """
        net = net or self.net
        name, pictures = ("clean", "clean") if clean else ("feature", "frames")
        if f"{name}0" in batch:
            stored: list[torch.Tensor] = []
            while f"{name}{len(stored)}" in batch:
                stored.append(batch[f"{name}{len(stored)}"].float())
            stored = [self._shown(f) for f in stored]
            lead = stored[0].shape[:2]
            flat = tuple(f.flatten(0, 1) for f in stored)
            found = encode_stored(net, flat if len(flat) > 1 else flat[0])
        else:
            frames = self._shown(batch[pictures])
            lead = frames.shape[:2]
            normalised = (frames.flatten(0, 1).float() - self.mean) / self.std
            found = net.encode(normalised)
        return tuple(f.unflatten(0, lead) for f in found)

    def _shown(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (B, T, ...) that the network sees: in stage 1 the key frame (B, 1, ...)."""
        key = self.net.window.key
        return frames[:, key : key + 1] if self.still else frames

    def answer(self, features: tuple[torch.Tensor, ...], batch: Batch) -> PoseOut:
        """Heatmaps and what the objective needs beside them."""
        if self.still:
            return PoseOut(still_heatmaps(self.net, features), {})
        return self._answer_of(self.net, features, batch)

    def _answer_of(
        self, net: VideoPoseNet, features: tuple[torch.Tensor, ...], batch: Batch
    ) -> PoseOut:
        """Answer of our network, or of a teacher that is built like it."""
        to_key = batch.get("to_key")
        burning = self.training and self.config.loss.burn_in_p
        if isinstance(net, Hstpn) and (to_key is not None or burning):
            none = torch.zeros_like(batch["index"])
            return burnt_in(net, features[0], self._burn_in(batch) if burning else none, to_key)
        labels = None
        if isinstance(self.net, STDPose) and self.training and self.config.loss.p_gt_aux:
            labels = self._side_labels(batch)
        return net.fuse(features, batch["dt_left"], batch["dt_right"], labels)

    def objective(self, out: PoseOut, batch: Batch) -> Terms:
        """Terms of the paper whose network this is."""
        key = self.net.window.key
        crop = self.config.crop
        reach = reach_cells(crop.codec, crop.sigma)
        target = gaussians(batch["cells"], self.size_hw, crop.sigma, reach)  # (B, T, K, h, w)
        visible, heatmaps = self.weights(batch), out.heatmaps.float()
        if "window_heatmaps" in out.aux:
            window = out.aux["window_heatmaps"].float()
            truth = torch.nan_to_num(batch["cells"])
            terms = losses.hstpn(
                window, target, truth, visible, batch.get("to_key"), self.joint_weight
            )
            return self._refined(terms, window, truth, batch) if self.config.loss.aprs else terms
        if "heatmaps_initial" in out.aux:
            return self._stdpose(out, target[:, key], visible[:, key])
        heat = losses.joint_mse(heatmaps, target[:, key], visible[:, key], self.joint_weight)
        terms = {"heatmap": heat, "total": heat}
        if isinstance(self.net, VREMD) and self.config.loss.vremd_branches and not self.still:
            for name in ("heatmaps_tokens", "heatmaps_motion"):
                branch = out.aux[name].float()
                terms[name] = losses.joint_mse(
                    branch, target[:, key], visible[:, key], self.joint_weight
                )
                terms["total"] = terms["total"] + self.config.loss.vremd_branches * terms[name]
        return terms

    def weights(self, batch: Batch) -> torch.Tensor:
        """(B, T, K) how much the labels count: ``visible``, times ``loss.pseudo_weight``."""
        if "pseudo" not in batch:
            return batch["visible"]
        less = 1.0 + (self.config.loss.pseudo_weight - 1.0) * batch["pseudo"]
        return batch["visible"] * less[..., None]

    def _refined(
        self, terms: Terms, window: torch.Tensor, truth: torch.Tensor, batch: Batch
    ) -> Terms:
        """Terms with those of eq 32 on the refined joints of maps (B, T, K, h, w)."""
        rules = self.config.loss
        shake = 0.95 + 0.1 * _noise(batch["epoch"] * 1000003 + batch["index"], 4)
        energy, distance = aprs_loss.refined(
            window, truth, self.weights(batch), self.skeleton, rules.aprs_steps,
            shake.to(truth), batch.get("to_key"),
        )  # fmt: skip
        total = terms["total"] + rules.aprs * energy + rules.aprs_truth * distance
        return {**terms, "aprs": energy, "aprs_truth": distance, "total": total}

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
        return losses.stdpose(
            out.heatmaps.float(), initial, target, visible, information, weight, self.joint_weight
        )

    def flip_loss(self, heatmaps: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        """Mean squared difference between maps and those of the mirrored window, mirrored back."""
        columns = self.flip_columns  # which have no partner
        back = unflip(mirrored.float(), self.flip_order, columns)
        return (heatmaps.float() - back)[..., columns:].square().mean()

    def teacher_loss(self, heatmaps: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Squared difference to the teacher's maps of the clean window, where it is sure."""
        (teacher,) = self._teacher
        with torch.no_grad():
            features = self.features(batch, clean=True, net=teacher)
            wanted = self._answer_of(teacher, features, batch).heatmaps.float()
        sure = wanted.flatten(2).amax(2) >= self.config.loss.teacher_min
        return losses.joint_mse(heatmaps.float(), wanted, sure)

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


def burnt_in(
    net: Hstpn, windows: torch.Tensor, frames: torch.Tensor, to_key: torch.Tensor | None = None
) -> PoseOut:
    """HSTPN's answer for psi' (B, T, C, h, w) after ``frames`` (B,) frames of an earlier memory.

    The earlier film is the window played backwards, which moves as continuously as any other; no
    gradient goes into it. 0 frames is what `Hstpn.fuse` answers. Streaming is unbounded while a
    window has T frames: without this the memory is never older than T in training. Where the
    frames are cut differently, ``to_key`` (B, T, 3, 3) maps their cells to the key frame's, and
    the memory moves along as in a stream (`Hstpn.recrop`).
    """
    length = windows.shape[1]
    state = StreamState(torch.zeros_like(windows[:, 0]), (frames > 0).long())
    with torch.no_grad():
        for t in range(length - 1, 0, -1):
            before = _carried(net, state, to_key, min(t + 1, length - 1), t)
            active = (frames >= t)[:, None, None, None]
            hidden = torch.where(active, net.gru(windows[:, t], before.hidden), before.hidden)
            state = StreamState(hidden, state.seen)
    out = []
    for t in range(length):
        state = _carried(net, state, to_key, abs(t - 1) if length > 1 else 0, t)
        hidden = net.gru(windows[:, t], state.hidden)
        known = (state.seen > 0).to(windows.dtype)[:, None, None, None]
        out.append(windows[:, t] + known * net.recall(hidden))
        state = StreamState(hidden, state.seen + 1)
    heatmaps, depths = net.predict(torch.stack(out, 1).flatten(0, 1))
    heatmaps = heatmaps.unflatten(0, (-1, length))
    aux = {"window_heatmaps": heatmaps}
    if depths is not None:
        aux["depths"] = depths.unflatten(0, (-1, length))[:, net.window.key]
    return PoseOut(heatmaps[:, net.window.key], aux)


def _carried(
    net: Hstpn, state: StreamState, to_key: torch.Tensor | None, old: int, new: int
) -> StreamState:
    """Memory in the cells of frame ``new`` that was in those of frame ``old``."""
    if to_key is None:
        return state
    moved = torch.linalg.inv(to_key[:, old]) @ to_key[:, new]
    return net.recrop(state, moved, moved.new_zeros(len(moved)))


def _setting(config: TrainConfig, name: str) -> float:
    part, _, last = name.partition(".")
    return float(getattr(getattr(config, part), last))


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
