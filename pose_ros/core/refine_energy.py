"""The energy of adaptive pose refinement (APRS), its gradients and its constants.

Letters: B people, S frames of a window, K joints, E bones, d axes (2 or 3). The energy is

    lambda_d E_data + lambda_s E_spatial + lambda_t E_temporal + lambda_m E_domain

and is minimised in ``refine.py`` and ``refine_stream.py``. The same code runs on numpy arrays and,
differentiably, on torch tensors. Points are metres in 3-D; in 2-D they are
divided by one size per person and window before they come here.

Source: equations 24 to 32 of the HSTPN paper. Its unit step diverges (`literal_config` shows it)
and nothing in it ties the result to the image; the data term and the step are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import Anatomy
from pose_ros.core.penalties import (
    BonePenalties,
    Context,
    Penalty,
    ground_penalty,
    joint_curvature,
    speed_penalty,
)
from pose_ros.core.refine_arrays import Array, nan_to, ops_of
from pose_ros.errors import ConfigError

#: Weight of a joint that was not seen: free, but bounded.
WEIGHT_FLOOR = 1e-3
#: Confidence of a bone both of whose ends are unseen: its length is still known.
BONE_CONFIDENCE_FLOOR = 0.25
MODES = ("safe", "literal")
SPATIAL_MODES = ("auto", "equality", "upper")


@dataclass(frozen=True)
class RefineConfig:
    """Constants of the refiner; lengths are metres in 3-D and person heights in 2-D.

    The defaults are those of a 3-D stream; `stream_config` and `offline_config` give the others.
    ``lambda_spatial``, ``process`` and ``coast_s`` were tuned on motion capture with 2 cm noise.
    """

    lambda_data: float = 1.0  # pull to the measured points
    lambda_spatial: float = 8.0  # bone lengths
    temporal_per_frame: float = 0.5  # weight of one squared second difference (windows)
    lambda_domain: float = 1.0  # angle limits, bend direction, symmetry, speed, ground, hooks
    iterations: int = 10  # of a stream's frame; the most of an offline chunk
    mode: str = "safe"  # "literal": unit step, no data term, every bone counts the same
    omega: str = "adaptive"  # "uniform": smooth sure frames as much as unsure ones
    spatial_mode: str = "auto"  # "equality" (3-D, literal), "upper": may look shorter (2-D)
    band: float = 0.0  # also push out bones below this share of their length; 0: off
    huber: float = 0.10  # residual from which a measured point pulls no harder
    angle_limits: bool = True  # 3-D only
    bend: bool = True  # 3-D only
    symmetry: bool = True  # 3-D only
    speed: bool = True
    swap: bool = True  # undo exchanged limbs before iterating (streams)
    step_clamp: tuple[float, float] = (0.25, 4.0)  # of the median time step
    tolerance: float = 1e-3  # offline: stop when no joint moves further
    chunk: int = 120  # offline: frames refined at once
    overlap: int = 20  # offline: frames shared with the next chunk
    lag: int = 0  # streams: frames to wait for better points, 0 to 3
    max_gap_s: float = 0.5  # longer without a person or a joint: its history is dropped
    max_prediction_s: float = 0.3  # longer without a joint: it is MISSING
    noise: float = 0.02  # spread per axis of a sure measurement whose spread is not given
    process: float = 1.8  # density of a joint's random acceleration, (length/s^2)^2 s
    first_speed: float = 1.0  # spread of a new joint's velocity, length/s
    gate: float = 3.0  # innovations beyond this many spreads count less
    jump: float = 6.0  # beyond this many (then half) in a row, surely seen: history is dropped
    max_move: float = 0.10  # farthest a surely seen joint is moved from its measurement
    coast_s: float = 0.10  # time constant in which an unseen joint's own motion fades
    score_decay: float = 0.9  # factor on the score per frame without the joint
    stated: float = 0.85  # share of the filter's variances that bones and limits leave, positions
    stated_speed: float = 0.6  # and velocities: both measured on motion capture with 2 cm noise

    def __post_init__(self) -> None:
        """Check words and ranges.

        Raises:
            ConfigError: naming the field and what it may be.

        """
        if self.mode not in MODES:
            raise ConfigError(f"RefineConfig.mode: expected one of {MODES}, got '{self.mode}'")
        if self.omega not in ("adaptive", "uniform"):
            raise ConfigError(f"RefineConfig.omega: adaptive or uniform, got '{self.omega}'")
        if self.spatial_mode not in SPATIAL_MODES:
            raise ConfigError(
                f"RefineConfig.spatial_mode: one of {SPATIAL_MODES}, got '{self.spatial_mode}'"
            )
        if not 0 <= self.lag <= 3:
            raise ConfigError(f"RefineConfig.lag: expected 0 to 3 frames, got {self.lag}")
        if not 0 <= self.overlap < self.chunk:
            raise ConfigError(
                f"RefineConfig.overlap: expected 0 <= overlap < chunk, got {self.overlap} and "
                f"{self.chunk}"
            )

    def lambda_temporal(self, frames: int) -> float:
        """Weight of the temporal energy of a window: undoes its division by S - 2."""
        return 1.0 if self.mode == "literal" else self.temporal_per_frame * (frames - 2) / 2


def stream_config(dims: int) -> RefineConfig:
    """Defaults of a live stream in 2-D (person heights) or 3-D (metres)."""
    if dims == 3:
        return RefineConfig()
    return RefineConfig(
        lambda_spatial=1.0, temporal_per_frame=0.3, lambda_domain=0.5, huber=0.05, noise=0.01,
        process=0.6, first_speed=0.6, max_move=0.06,
    )  # fmt: skip


def offline_config(dims: int) -> RefineConfig:
    """Defaults of a whole track, whose frames all see their future."""
    return replace(
        stream_config(dims), lambda_spatial=2.0, temporal_per_frame=1.0, lambda_domain=1.0,
        iterations=50,
    )  # fmt: skip


def literal_config(dims: int) -> RefineConfig:
    """The paper's own: equations 24, 25, 27 and 31 as printed, all weights 1, five unit steps.

    The paper gives no weights and no number of steps; nothing makes it converge.
    """
    return replace(
        stream_config(dims), mode="literal", lambda_data=0.0, lambda_spatial=1.0,
        lambda_domain=1.0, iterations=5, omega="uniform", spatial_mode="equality",
    )  # fmt: skip


def confidence_weight(confidence: Array) -> Array:
    """Weight in [0.001, 1] of a measured point by its confidence, NaN counting as 0."""
    ops = ops_of(confidence)
    share = ops.minimum(ops.maximum((nan_to(confidence, 0.0, ops) - 0.1) / 0.5, 0.0), 1.0)
    return ops.maximum(share * share, WEIGHT_FLOOR)


def second_difference(
    stamps_s: npt.NDArray[np.float64], clamp: tuple[float, float] = (0.25, 4.0)
) -> npt.NDArray[np.float64]:
    """(B, S-2, S) rows that take second differences on non-uniform times, [1, -2, 1] if uniform.

    ``stamps_s`` (B, S) ascend; every step is clamped to ``clamp`` times the window's median.
    """
    stamps_s = np.asarray(stamps_s, np.float64)
    people, frames = stamps_s.shape
    if frames < 3:
        return np.zeros((people, 0, frames))
    steps = np.diff(stamps_s, axis=1)
    middle = np.maximum(np.median(steps, axis=1, keepdims=True), 1e-6)
    steps = np.clip(steps, clamp[0] * middle, clamp[1] * middle)
    a, b = steps[:, :-1], steps[:, 1:]
    scale = 2.0 * steps.mean(axis=1, keepdims=True) ** 2
    rows = np.zeros((people, frames - 2, frames))
    at = np.arange(frames - 2)
    rows[:, at, at] = scale / (a * (a + b))
    rows[:, at, at + 1] = -scale / (a * b)
    rows[:, at, at + 2] = scale / (b * (a + b))
    return rows


class Constraints:
    """Spatial and domain energy of a window: what the points owe to each other, not to the image.

    ``edge_weight`` (B, S, E) is 0 where a length is unknown; ``dims`` is 2 or 3.
    """

    def __init__(
        self, config: RefineConfig, context: Context, edge_weight: Array, dims: int,
        hooks: tuple[Penalty, ...] = (),
    ) -> None:  # fmt: skip
        """Prepare what stays constant while the points move."""
        ops = self.ops = ops_of(edge_weight)
        auto = "equality" if dims == 3 or config.mode == "literal" else "upper"
        mode = config.spatial_mode if config.spatial_mode != "auto" else auto
        self.upper = mode == "upper"
        self.config, self.context = config, context
        self.weight, self.lengths = edge_weight, context.lengths
        self.incidence = ops.constant(context.anatomy.incidence, edge_weight)
        self.bones = BonePenalties(context, edge_weight)
        self.domain_curvature = joint_curvature(context, hooks)
        self.hook_curvature = float(sum(hook.curvature for hook in hooks))
        terms: list[Callable[[Array, Context], tuple[Array, Array]]] = list(hooks)
        if context.speed_budget is not None:
            terms.append(speed_penalty)
        if context.ground is not None:
            terms.append(ground_penalty)
        self.point_terms = terms

    def curvature(self) -> Array:
        """Bound (B,) of the largest eigenvalue of the weighted spatial and domain energy."""
        config = self.config
        stiff = self.ops.peak(self.weight)
        spatial = config.lambda_spatial * stiff * self.context.anatomy.laplacian_max
        return spatial + config.lambda_domain * self.domain_curvature

    def values(self, points: Array) -> tuple[Array, Array]:
        """Spatial and domain value (B,), without the weights lambda."""
        ops = self.ops
        e = self.incidence @ points
        r = ops.sqrt(ops.dot(e, e) + 1e-12)
        excess, push = self._push(r)
        linear = excess - push
        spatial = (self.weight * (0.5 * excess * excess - 0.25 * linear * linear)).sum(-1).sum(-1)
        domain = self.bones.values(e, r).sum(-1)
        for term in self.point_terms:
            domain = domain + term(points, self.context)[0]
        return spatial, domain

    def gradient(self, points: Array) -> tuple[Array, Array | None]:
        """Weighted gradient (B, S, K, d), and the hinges (B, S, H) that act now, None for none."""
        ops, config = self.ops, self.config
        e = self.incidence @ points
        r = ops.sqrt(ops.dot(e, e) + 1e-12)
        along = config.lambda_spatial * self.weight * self._push(r)[1]
        if self.bones.symmetric:
            along = along + config.lambda_domain * self.bones.symmetry_pull(r)
        pull = (along / r)[..., None] * e
        per_bone, active = self.bones.gradient(e, r)
        if per_bone is not None:
            pull = pull + config.lambda_domain * per_bone
        gradient = self.incidence.T @ pull
        for term in self.point_terms:
            gradient = gradient + config.lambda_domain * term(points, self.context)[1]
        return gradient, active

    def _push(self, r: Array) -> tuple[Array, Array]:
        """How much too long bones of length ``r`` are, and that clamped at -r."""
        ops = self.ops
        excess = r - self.lengths
        if self.upper:
            excess = ops.maximum(excess, 0.0)
            if self.config.band > 0:
                excess = excess + ops.minimum(r - self.config.band * self.lengths, 0.0)
        return excess, excess if self.config.mode == "literal" else ops.maximum(excess, -r)


class Window:
    """The whole energy of a window of S frames of B people.

    ``points`` (B, S, K, d) are finite; where ``confidence`` (B, S, K) is 0 they are a guess.
    ``rows`` (B, S-2, S) are those of `second_difference`; ``free`` (S,) is False for frames that
    must not move; ``smooth`` (B, S-2, K) multiplies the temporal weights.
    """

    def __init__(
        self, points: Array, confidence: Array, rows: Array, constraints: Constraints,
        free: npt.NDArray[np.bool_] | None = None, smooth: Array | None = None,
    ) -> None:  # fmt: skip
        """Prepare weights and the step."""
        ops = self.ops = ops_of(points)
        self.config = config = constraints.config
        self.anchor, self.constraints = points, constraints
        self.weight = confidence_weight(confidence)
        frames = points.shape[1]
        self.rows = ops.constant(rows, points)
        sure = ops.minimum(self.weight[:, 2:], self.weight[:, 1:-1])
        sure = ops.minimum(sure, self.weight[:, :-2])
        adaptive = config.omega == "adaptive" and config.mode == "safe"
        self.omega = 0.2 + 0.8 * (1.0 - sure) if adaptive else 1.0 + 0.0 * sure
        if smooth is not None:
            self.omega = self.omega * smooth
        self.lambda_t = config.lambda_temporal(frames)
        self.lambda_d = 0.0 if config.mode == "literal" else config.lambda_data
        moves = np.ones(frames) if free is None else np.asarray(free, np.float64)
        self.free = ops.constant(moves, points)[:, None, None]
        self.step = self._step(moves)

    def _step(self, free: npt.NDArray[np.float64]) -> Array:
        """One over the curvature of the energy, (B, 1, 1, 1); 1 in the literal mode."""
        ops, config = self.ops, self.config
        total = self.constraints.curvature()
        if config.mode == "literal":
            return 0.0 * total[:, None, None, None] + 1.0
        frames = self.rows.shape[-1]
        total = total + self.lambda_d * ops.peak(self.weight)
        if frames > 2:
            mask = ops.constant(free, self.rows)
            matrix = ops.einsum("btk,bts,btu->bksu", self.omega, self.rows, self.rows)
            bound = (abs(matrix * mask) * mask[:, None]).sum(-1)
            total = total + self.lambda_t * 2.0 / (frames - 2) * ops.peak(bound)
        return (1.0 / total)[:, None, None, None]

    def terms(self, points: Array) -> tuple[Array, Array]:
        """Unweighted data, spatial, temporal and domain energy (4, B), and the gradient.

        The gradient (B, S, K, d) is that of the weighted sum, 0 in frames that must not move.
        """
        ops, config = self.ops, self.config
        spatial, domain = self.constraints.values(points)
        gradient, _ = self.constraints.gradient(points)
        off = points - self.anchor
        distance = ops.sqrt((off * off).sum(-1) + 1e-24)
        near = ops.minimum(distance, config.huber)
        data = (self.weight * near * (distance - 0.5 * near)).sum(-1).sum(-1)
        pull = self.lambda_d * self.weight * ops.detach(near / distance)
        gradient = gradient + pull[..., None] * off
        temporal = 0.0 * data
        frames = points.shape[1]
        if frames > 2:
            flat = points.reshape(*points.shape[:2], -1)
            bend = (self.rows @ flat).reshape(points.shape[0], frames - 2, *points.shape[2:])
            weighted = self.omega[..., None] * bend
            temporal = (weighted * bend).sum(-1).sum(-1).sum(-1) / (frames - 2)
            back = self.rows.swapaxes(-1, -2) @ weighted.reshape(*flat.shape[:1], frames - 2, -1)
            gradient = gradient + self.lambda_t * 2.0 / (frames - 2) * back.reshape(points.shape)
        return ops.stack([data, spatial, temporal, domain]), gradient * self.free

    def energy(self, terms: Array) -> Array:
        """Weighted sum (B,) of `terms`."""
        config = self.config
        return (
            self.lambda_d * terms[0] + config.lambda_spatial * terms[1]
            + self.lambda_t * terms[2] + config.lambda_domain * terms[3]
        )  # fmt: skip


def edge_weight(confidence: Array, anatomy: Anatomy, ramp: Array) -> Array:
    """Weight (B, S, E) of every bone: sqrt of the mean confidence of its ends times ``ramp``.

    ``ramp`` (B, 1, E) in [0, 1] says how well the length is known.
    """
    ops = ops_of(confidence)
    ends = ops.constant(0.5 * np.abs(anatomy.incidence).T, confidence)
    return ops.sqrt(ops.maximum(confidence @ ends, BONE_CONFIDENCE_FLOOR)) * ramp
