"""HSTPN: features of all scales are fused, remembered over time, and read by joint queries.

Source: paper 000, "Hierarchical Spatio-Temporal Pose Network", equations 7 to 19. The paper's
refinement (APRS) is not a network and is not here. What the paper leaves open, and what was done:
  * the backbone is ResNet-50: with it the network has the 26.8 M parameters the paper claims;
  * eq 10's statistics are per picture, over channels and cells; eq 11, 16 and 17 read the
    normalised feature (eq 10 says so, they print the other symbol);
  * eq 16's encoder is a convolutional GRU whose memory is added to the feature, so that a network
    without memory is the start of one with it; eq 17 is the alternative, ``temporal="tconv"``;
  * "attention-driven prediction" has no attention in eq 11: a channel gate and one query per joint
    that weights the channels of that joint's output, both neutral at initialisation;
  * decoding, eq 12 to 15 and 19, is the pipeline's, as for every network.
``hstpn_r50`` is the paper's size, ``hstpn_robot`` has MoveNet Thunder's; neither looks ahead.
``HstpnPrior`` (``prior=True``, the shipped weights) starts from MoveNet's own answer: see there.
In a stream, `Hstpn.step` carries the memory from frame to frame, and `Hstpn.recrop` moves it along
when a person's crop moves. Checked in `test/nets/test_hstpn.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.deform import lattice, sample_map
from pose_ros.nets.movenet import MoveNet, MoveNetConfig
from pose_ros.nets.movenet_trunk import (
    FASTEST,
    MOVENET_WIDTHS,
    BeliefGate,
    MoveNetTrunk,
    evidence,
    positions,
    shift,
)
from pose_ros.nets.registry import register_net
from pose_ros.nets.resnet import ResNet, ResNetConfig, crop_size
from pose_ros.nets.video import PoseOut, VideoPoseNet, Window

EPS = 1e-5  # of eq 10
SHARPNESS = 10.0  # of the softmax that reads a joint's depth
STRIDE = 4  # crop pixels per heatmap cell


@dataclass(frozen=True)
class HstpnConfig:
    """Size and switches of HSTPN; the defaults are the paper's."""

    joints: int = 15
    size_hw_px: tuple[int, int] = (256, 192)
    backbone: str = "resnet"  # or one of MOVENET_WIDTHS
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # of ResNet
    base: int = 64  # of ResNet, channels after the stem
    channels: int = 192  # of the fused feature
    frames: int = 5
    msf: bool = True  # multi-scale fusion; off: the coarsest feature only
    mrfb: bool = True  # multiple receptive fields after the fusion
    temporal: str = "gru"  # eq 16, newest frame is the key; "tconv": eq 17; "off"
    taps: int = 5  # of tconv, odd: its w
    causal: bool = False  # tconv looks at earlier frames only, and the newest is the key
    attn: bool = True  # attention-driven prediction
    depth: bool = False  # a depth per joint, metres relative to the root
    dropout: float = 0.1  # of the attention of the joint queries
    overlap_min: float = 0.5  # memory is dropped when the old crop covers less of the new one
    gap_max_s: float = 0.5  # or after a longer gap
    prior: bool = False  # start from MoveNet's single-frame answer: `HstpnPrior`

    def __post_init__(self) -> None:
        """Refuse what is not built."""
        backbones = ("resnet", *MOVENET_WIDTHS)
        known = self.backbone in backbones
        if not known or self.temporal not in ("gru", "tconv", "off") or self.taps % 2 == 0:
            raise ConfigError(
                f"HSTPN: expected backbone {', '.join(backbones)}, temporal gru, tconv or off, "
                f"and odd taps, got {self.backbone}, {self.temporal} and {self.taps}"
            )

    @property
    def window(self) -> Window:
        """Window of the configured temporal encoder."""
        centred = self.temporal == "tconv" and not self.causal
        return Window(self.frames, self.frames // 2 if centred else self.frames - 1)


class StreamState(NamedTuple):
    """What a stream remembers of B people; `Hstpn.start` makes one."""

    hidden: torch.Tensor  # (B, C, h, w), in cells of the person's latest crop
    seen: torch.Tensor  # (B,) int64, frames behind it; 0: nothing is remembered


class ReceptiveFields(nn.Module):
    """The figure's MRFBBlock: three dilated depthwise convolutions, summed, mixed and added."""

    def __init__(self, channels: int) -> None:
        """Build the convolutions with dilations 1, 2 and 4."""
        super().__init__()
        self.fields = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d, groups=channels, bias=False)
            for d in (1, 2, 4)
        )
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, h, w) to the same shape."""
        a, b, c = (conv(x) for conv in self.fields)
        return x + self.mix(a + b + c)


class MultiScaleFusion(nn.Module):
    """Align, weight and add the features of all scales: eq 7 to 10."""

    def __init__(self, widths: tuple[int, ...], config: HstpnConfig) -> None:
        """Build a lateral per scale, finest first; only the coarsest without ``msf``."""
        super().__init__()
        channels = config.channels
        self.used = widths if config.msf else widths[-1:]
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for c in self.used
        )
        self.score = nn.Parameter(torch.zeros(channels)) if config.msf else None  # eq 8, w
        self.mrfb = ReceptiveFields(channels) if config.mrfb else None

    def forward(self, features: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Map features, finest first, to psi' (N, C, H / 4, W / 4)."""
        size = features[0].shape[-2:]
        aligned: list[torch.Tensor] = []
        for lateral, x in zip(self.laterals, features[-len(self.used) :], strict=True):
            y = lateral(x)  # eq 7
            if len(aligned) > 0 or len(self.used) == 1:
                y = F.interpolate(y, size, mode="bilinear", align_corners=False)
            aligned.append(y)
        psi = aligned[0]
        if self.score is not None:
            scores = torch.stack([y.mean((2, 3)) @ self.score for y in aligned], 1)  # (N, L)
            alpha = scores.softmax(1)[:, :, None, None, None]  # eq 8
            psi = (torch.stack(aligned, 1) * alpha).sum(1)  # eq 9
        return normalise(psi if self.mrfb is None else self.mrfb(psi))


def normalise(psi: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance per picture of (N, C, h, w), in float32: eq 10."""
    x = psi.float()
    x = x - x.mean((1, 2, 3), keepdim=True)
    deviation = (x.square().mean((1, 2, 3), keepdim=True) + EPS).sqrt()
    return (x / deviation).to(psi.dtype)


class ConvGru(nn.Module):
    """Gated recurrent unit with 3x3 convolutions: eq 16.

    Source: Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video
    Representations", ICLR 2016, eq 4 to 7.
    """

    def __init__(self, channels: int) -> None:
        """Build the three convolutions, two of them as one."""
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.candidate = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """Memory (B, C, h, w) after the feature ``x`` (B, C, h, w); None is one of zeros."""
        if hidden is None:  # the half of the weights that would meet zeros is left out
            width = x.shape[1]
            gates = F.conv2d(x, self.gates.weight[:, :width], self.gates.bias, padding=1)
            candidate = self.candidate
            fresh = F.conv2d(x, candidate.weight[:, :width], candidate.bias, padding=1)
            return gates.chunk(2, 1)[0].sigmoid() * fresh.tanh()
        z, r = self.gates(torch.cat((x, hidden), 1)).sigmoid().chunk(2, 1)
        fresh = self.candidate(torch.cat((x, r * hidden), 1)).tanh()
        return (1.0 - z) * hidden + z * fresh


class TemporalTaps(nn.Module):
    """A 1x1 convolution per frame of a window of w frames, summed: eq 17."""

    def __init__(self, channels: int, taps: int, causal: bool) -> None:
        """Build the taps; the one of the frame itself starts as 1, the others as 0."""
        super().__init__()
        first = 1 - taps if causal else -(taps // 2)
        self.offsets = tuple(range(first, first + taps))
        self.weights = nn.Parameter(torch.zeros(taps, channels, channels))
        with torch.no_grad():
            self.weights[self.offsets.index(0)].copy_(torch.eye(channels))

    def forward(self, windows: torch.Tensor, t: int) -> torch.Tensor:
        """Feature of frame ``t`` of (B, T, C, h, w); beyond the window its end frames repeat."""
        last = windows.shape[1] - 1
        picked = [windows[:, min(max(t + i, 0), last)] for i in self.offsets]
        weight = self.weights.permute(1, 0, 2).flatten(1)[:, :, None, None]  # (C, w * C, 1, 1)
        return F.conv2d(torch.cat(picked, 1), weight)


class ChannelGate(nn.Module):
    """The figure's CAGBlock: every channel times a factor in (0, 2) that the picture decides."""

    def __init__(self, channels: int) -> None:
        """Build the two layers; the factor starts as 1."""
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 2)
        self.fc2 = nn.Linear(channels // 2, channels)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to the same shape."""
        gate = 2.0 * self.fc2(F.relu(self.fc1(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]


class JointQueries(nn.Module):
    """One query per joint looks at the whole feature and says which channels matter for it."""

    def __init__(self, channels: int, joints: int, dropout: float) -> None:
        """Build queries, keys, values and gate; the gate starts as 1."""
        super().__init__()
        self.queries = nn.Parameter(torch.empty(joints, channels))
        nn.init.normal_(self.queries, std=1.0)
        self.keys = nn.Conv2d(channels, channels, 1)
        self.values = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Linear(channels, channels)
        self.dropout = dropout
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to gates (B, K, C) in (0, 2); the softmax is float32."""
        logits = self.queries @ self.keys(x).flatten(2) / math.sqrt(x.shape[1])  # (B, K, h*w)
        attention = F.dropout(logits.float().softmax(2), self.dropout, self.training)
        values = self.values(x).flatten(2).transpose(1, 2)
        return 2.0 * self.gate(attention.to(values.dtype) @ values).sigmoid()


class AttentionPrediction(nn.Module):
    """Heatmaps, and depths, from a feature: g_k of eq 11 and 18."""

    def __init__(self, config: HstpnConfig) -> None:
        """Build gates (with ``attn``), 3x3 and 1x1 convolution."""
        super().__init__()
        channels, joints = config.channels, config.joints
        self.channel_gate = ChannelGate(channels) if config.attn else None
        self.queries = JointQueries(channels, joints, config.dropout) if config.attn else None
        self.feature = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.out = nn.Conv2d(channels, joints, 1)
        self.depth = nn.Conv2d(channels, joints, 1) if config.depth else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Map (B, C, h, w) to heatmaps (B, K, h, w) and depths (B, K) in metres, or none."""
        g = x if self.channel_gate is None else self.channel_gate(x)
        f = self.feature(g)
        heatmaps = self.out(f) if self.queries is None else self._gated(f, self.queries(g))
        if self.depth is None:
            return heatmaps, None
        where = (SHARPNESS * heatmaps.flatten(2).float()).softmax(2)
        return heatmaps, (where * self.depth(f).flatten(2)).sum(2)

    def _gated(self, f: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """H_k = <w_k * gate_k, f> + b_k."""
        weight = self.out.weight[:, :, 0, 0] * gates  # (B, K, C)
        assert self.out.bias is not None
        maps = weight @ f.flatten(2) + self.out.bias[:, None]
        return maps.unflatten(2, f.shape[-2:])


class Hstpn(VideoPoseNet):
    """Paper 000 without its refinement.

    ``aux`` has ``depths`` (B, K) with the depth head, and while training ``window_heatmaps``
    (B, T, K, h, w), which eq 21 supervises.
    """

    def __init__(self, config: HstpnConfig) -> None:
        """Build the network with random weights."""
        super().__init__()
        self.config = config
        self.window = config.window
        self.size_hw_px = config.size_hw_px
        self.joints = config.joints
        if config.backbone == "resnet":
            self.backbone: nn.Module = ResNet(ResNetConfig(config.blocks, config.base))
        else:
            self.backbone = MoveNetTrunk(MoveNetConfig(MOVENET_WIDTHS[config.backbone]))
        self.fusion = MultiScaleFusion(self.backbone.widths, config)  # type: ignore[arg-type]
        c = config.channels
        if config.temporal == "gru":
            self.gru = ConvGru(c)
            self.recall = nn.Conv2d(c, c, 1, bias=False)  # W_o
            nn.init.zeros_(self.recall.weight)
        elif config.temporal == "tconv":
            self.taps = TemporalTaps(c, config.taps, config.causal)
        self.predict = AttentionPrediction(config)

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to psi' (N, C, H / 4, W / 4)."""
        return (self.fusion(self.backbone(frames)),)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps (B, K, H / 4, W / 4) of the key frame; any T, the distances are not used."""
        if labels is not None:
            raise ShapeError("HSTPN takes no labels: only propagation networks do")
        (windows,) = features  # (B, T, C, h, w)
        length = windows.shape[1]
        centred = self.window.key < self.window.frames - 1
        key = length // 2 if centred else length - 1
        wanted = range(length) if self.training else range(key, key + 1)
        g = self._remember(windows, wanted)  # (B, len(wanted), C, h, w)
        heatmaps, depths = self.predict(g.flatten(0, 1))
        heatmaps = heatmaps.unflatten(0, (-1, len(wanted)))
        at = wanted.index(key)
        aux = {"window_heatmaps": heatmaps} if self.training else {}
        if depths is not None:
            aux["depths"] = depths.unflatten(0, (-1, len(wanted)))[:, at]
        return PoseOut(heatmaps[:, at], aux)

    def _remember(self, windows: torch.Tensor, wanted: range) -> torch.Tensor:
        """Features g_t of the wanted frames; one frame alone is its own feature."""
        length = windows.shape[1]
        if length == 1 or self.config.temporal == "off":
            return windows[:, wanted.start : wanted.stop]
        if self.config.temporal == "tconv":
            return torch.stack([self.taps(windows, t) for t in wanted], 1)
        hidden = None
        out = []
        for t in range(wanted.stop):
            x = windows[:, t]
            hidden = self.gru(x, hidden)
            if t in wanted:
                out.append(x + self.recall(hidden) if t else x)
        return torch.stack(out, 1)

    def start(self, people: int, like: torch.Tensor) -> StreamState:
        """Memory of ``people`` nobody has seen yet; ``like`` gives device and type."""
        cells = (self.size_hw_px[0] // STRIDE, self.size_hw_px[1] // STRIDE)
        hidden = like.new_zeros((people, self.config.channels, *cells))
        return StreamState(hidden, torch.zeros(people, dtype=torch.int64, device=like.device))

    def step(self, feature: torch.Tensor, state: StreamState) -> tuple[PoseOut, StreamState]:
        """Heatmaps of the newest frame, psi' (B, C, h, w) of `encode`, and the memory after it.

        From a fresh memory, T steps give the answer of a window of T frames.

        Raises:
            ShapeError: the feature is not of the people and cells that the memory is of.
            ConfigError: the network has no recurrent encoder.

        """
        if self.config.temporal != "gru":
            raise ConfigError(f"HSTPN with temporal={self.config.temporal} has no memory to step")
        if feature.shape != state.hidden.shape:
            raise ShapeError(
                f"HSTPN: expected a feature of {tuple(state.hidden.shape)} like the memory, "
                f"got {tuple(feature.shape)}"
            )
        hidden = self.gru(feature, state.hidden)
        known = (state.seen > 0).to(feature)[:, None, None, None]
        heatmaps, depths = self.predict(feature + known * self.recall(hidden))
        aux = {} if depths is None else {"depths": depths}
        return PoseOut(heatmaps, aux), StreamState(hidden, state.seen + 1)

    def recrop(
        self, state: StreamState, old_from_new: torch.Tensor, gap_s: torch.Tensor
    ) -> StreamState:
        """Memory in the cells of new crops, dropped where they overlap little or came too late.

        ``old_from_new`` (B, 3, 3) maps cells of the new crop to cells of the old one
        (`cells_old_from_new`), ``gap_s`` (B,) is the time since the memory was updated, seconds.
        """
        hidden, covered = warp(state.hidden, old_from_new)
        keep = (covered >= self.config.overlap_min) & (gap_s <= self.config.gap_max_s)
        hidden = torch.where(keep[:, None, None, None], hidden, torch.zeros_like(hidden))
        return StreamState(hidden, torch.where(keep, state.seen, torch.zeros_like(state.seen)))


class HstpnPrior(Hstpn):
    """HSTPN whose answer to a single frame is that of its trunk, MoveNet with its own heads.

    Differs from the paper, because weights that MoveNet's authors trained on all of COCO cannot be
    matched by a new head and little data: g_k (eq 11, 18) is MoveNet's, and only time is learned.
    The memory has three parts: the recurrent unit's (eq 16, at half the resolution), and the maps
    answered for the last two frames. The last ones, moved on by the joints' speed, are mixed with
    what the new frame says; `BeliefGate` decides by how much, cell by cell. A frame without a
    memory is answered exactly as MoveNet answers it. Cells are MoveNet's: the card's
    ``cell_shift_px`` is -0.5.
    """

    def __init__(self, config: HstpnConfig) -> None:
        """Build the network with random weights."""
        VideoPoseNet.__init__(self)
        if config.backbone not in MOVENET_WIDTHS or config.temporal != "gru" or config.depth:
            raise ConfigError(
                "HSTPN with prior: expected a MoveNet backbone, temporal gru and no depth, got "
                f"{config.backbone}, {config.temporal} and depth {config.depth}"
            )
        self.window, self.size_hw_px, self.joints = config.window, config.size_hw_px, config.joints
        sizes = MoveNetConfig(MOVENET_WIDTHS[config.backbone], joints=config.joints)
        self.backbone = MoveNet(sizes)
        self.split = (sizes.fpn_channels[-1], config.joints, config.joints)
        self.config = replace(config, channels=sum(self.split))
        c = self.split[0]
        self.gru = ConvGru(c)
        self.recall = nn.Conv2d(c, c, 1, bias=False)  # W_o
        nn.init.zeros_(self.recall.weight)
        self.gate = BeliefGate(c, config.joints)
        # How much of a speed goes on, as a logit: nearly all, for what is lost here is a lag.
        self.pace = nn.Parameter(torch.full((config.joints,), 2.5))

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (N, 3, H, W) to psi', evidence and raw maps: (N, C + 2 K, H / 4, W / 4)."""
        feature = self.backbone.forward_features(frames)
        now, raw = evidence(self.backbone.forward_head(feature))
        return (torch.cat((normalise(feature), now, raw), 1),)

    def fuse(
        self,
        features: tuple[torch.Tensor, ...],
        dt_left: torch.Tensor,
        dt_right: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> PoseOut:
        """Heatmaps (B, K, H / 4, W / 4) of the newest frame; any T, the distances are not used."""
        if labels is not None:
            raise ShapeError("HSTPN takes no labels: only propagation networks do")
        (windows,) = features  # (B, T, C + 2 K, h, w)
        nobody = (windows[:, 0, 0, 0, 0] * 0.0).long()  # start() would fix their number in exports
        state = StreamState(windows[:, 0] * 0.0, nobody)
        maps = []
        for t in range(windows.shape[1]):
            out, state = self.step(windows[:, t], state)
            maps.append(out.heatmaps)
        return PoseOut(
            maps[-1], {"window_heatmaps": torch.stack(maps, 1)} if self.training else {}
        )

    def step(self, feature: torch.Tensor, state: StreamState) -> tuple[PoseOut, StreamState]:
        """Heatmaps of the newest frame, from `encode`'s feature, and the memory after it.

        Raises:
            ShapeError: the feature is not of the people and cells that the memory is of.

        """
        if feature.shape != state.hidden.shape:
            raise ShapeError(
                f"HSTPN: expected a feature of {tuple(state.hidden.shape)} like the memory, "
                f"got {tuple(feature.shape)}"
            )
        psi, now, raw = feature.split(self.split, 1)
        hidden, last, older = state.hidden.split(self.split, 1)
        x = F.avg_pool2d(psi, 2)
        memory = self.gru(x, F.avg_pool2d(hidden, 2))
        maps = self.mix(x + self.recall(memory), (now, raw), (last, older), state.seen)
        grown = F.interpolate(memory, scale_factor=2.0)
        return PoseOut(maps, {}), StreamState(torch.cat((grown, maps, last), 1), state.seen + 1)

    def mix(
        self,
        feature: torch.Tensor,
        evidence: tuple[torch.Tensor, torch.Tensor],
        past: tuple[torch.Tensor, torch.Tensor],
        seen: torch.Tensor,
    ) -> torch.Tensor:
        """Answer (B, K, h, w) from the frame's two sets of maps and the last two answers."""
        (now, raw), (last, older) = evidence, past
        speed = positions(last) - positions(older)  # (B, K, 2), cells per frame
        steady = (speed.square().sum(2, keepdim=True) < FASTEST**2) & (seen > 1)[:, None, None]
        speed = torch.where(steady, speed, torch.zeros_like(speed))
        expected = shift(last, speed * self.pace.sigmoid()[:, None])
        how_fast = speed.square().sum(2).add(1e-6).sqrt()
        share = self.gate(now, raw, expected, how_fast, feature)
        known = (seen > 0).to(share)[:, None, None, None]
        return now + known * share * (expected - now)


def pick(state: StreamState, rows: torch.Tensor) -> StreamState:
    """Memory of other people: row ``rows[i]`` (B,) of the old ones, or nobody's for -1."""
    known = rows >= 0
    if len(state.seen) == 0:
        shape = (len(rows), *state.hidden.shape[1:])
        return StreamState(state.hidden.new_zeros(shape), state.seen.new_zeros(len(rows)))
    hidden = state.hidden[rows.clamp_min(0)] * known.to(state.hidden)[:, None, None, None]
    return StreamState(hidden, state.seen[rows.clamp_min(0)] * known)


def warp(hidden: torch.Tensor, old_from_new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (B, C, h, w) seen from new cells, zero outside, and how much of them the old cover.

    ``old_from_new`` (B, 3, 3) is an affine map or a homography of cells (x, y, 1); the answers are
    (B, C, h, w) and the covered share (B,) in [0, 1].
    """
    rows, columns = hidden.shape[-2:]
    cells = lattice(rows, columns, like=old_from_new)  # (h, w, 2)
    points = F.pad(cells, (0, 1), value=1.0).flatten(0, 1)  # (h*w, 3)
    moved = points @ old_from_new.transpose(1, 2)  # (B, h*w, 3)
    depth = moved[..., 2:]
    xy = moved[..., :2] / depth.clamp_min(1e-6)
    last = xy.new_tensor([columns - 1.0, rows - 1.0])
    inside = ((xy > -0.5) & (xy < last + 0.5) & (depth > 1e-6)).all(2)
    places = torch.where(depth > 1e-6, xy, torch.full_like(xy, -10.0)).unflatten(1, (rows, -1))
    return sample_map(hidden.float(), places).to(hidden.dtype), inside.float().mean(1)


def cells_old_from_new(
    old_image_from_crop: torch.Tensor,
    new_image_from_crop: torch.Tensor,
    old_image_from_new: torch.Tensor | None = None,
) -> torch.Tensor:
    """Map (B, 3, 3) of a new crop's cells to an old crop's, from their (B, 2, 3) affine maps.

    ``old_image_from_new`` (B, 3, 3) is the homography K R K^-1 of a camera that turned meanwhile.
    """
    row = old_image_from_crop.new_tensor([[0.0, 0.0, 1.0]]).expand(len(old_image_from_crop), 1, 3)
    old = torch.cat((old_image_from_crop, row), 1)
    new = torch.cat((new_image_from_crop, row), 1)
    moved = new if old_image_from_new is None else old_image_from_new @ new
    scale = new.new_tensor([STRIDE, STRIDE, 1.0])
    return torch.linalg.inv(old) @ moved * scale / scale[:, None]


def _build(defaults: HstpnConfig, overrides: dict[str, object]) -> Hstpn:
    """Build an HSTPN from defaults and overrides; an unknown override is a ConfigError."""
    unknown = set(overrides) - {item.name for item in fields(HstpnConfig)}
    if unknown:
        raise ConfigError(f"HSTPN has no option {', '.join(sorted(unknown))}")
    config = replace(defaults, **overrides)  # type: ignore[arg-type]
    size = crop_size(config.size_hw_px)
    kind = HstpnPrior if config.prior else Hstpn
    return kind(replace(config, blocks=tuple(config.blocks), size_hw_px=size))


@register_net("hstpn_r50")
def hstpn_r50(**overrides: object) -> Hstpn:
    """HSTPN of the paper: ResNet-50, 26.8 M parameters, 256x192 crops, five frames."""
    return _build(HstpnConfig(), overrides)


@register_net("hstpn_robot")
def hstpn_robot(**overrides: object) -> Hstpn:
    """HSTPN for live use: MoveNet's trunk, 64 channels, COCO joints; no look-ahead."""
    robot = HstpnConfig(joints=17, backbone="movenet_thunder", channels=64, frames=3)
    return _build(robot, overrides)
