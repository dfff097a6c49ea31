"""Domain penalties of the refiner: what a body cannot do, as energies with their gradients.

Letters: B people, S frames, K joints, E bones, H hinges, d axes (2 or 3). Everything runs on numpy
arrays and on torch tensors. Angle limits, bend direction and symmetry depend on bone vectors only,
so their gradients are formed per bone and carried to the joints once.

Every value has unit length^2 and a curvature bound, which the refiner adds up for its step.

Source: equations 29 and 30 of the HSTPN paper, which leave the penalty open; the terms are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from pose_ros.core.anthropometry import Anatomy
from pose_ros.core.refine_arrays import Array, nan_to, ops_of
from pose_ros.core.skeletons import Skeleton
from pose_ros.errors import ShapeError

#: Upper bounds of the curvature of one penalty, with the guards below.
ANGLE_CURVATURE, BEND_CURVATURE, SPEED_CURVATURE, GROUND_CURVATURE = 6.0, 6.0, 4.0, 1.0
#: Slack of the bend direction: a hinge may fold the wrong way by this sine.
BEND_SLACK = 0.05
#: Shares of the model length: bones shorter than the first have no direction, shorter than the
#: second they steepen no further.
SHORTEST, GUARD = 0.3, 0.5
#: The body's lateral axis counts while both hips have at least this confidence.
HIP_CONFIDENCE = 0.5
#: Exchange a limb if that lowers its cost below this share and nobody was sure of it.
SWAP_SHARE, SWAP_CONFIDENCE = 0.7, 0.6

#: n @ _CROSS, reshaped to (3, 3), is the matrix that takes the cross product with n: x cross n.
_CROSS = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0],
        [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


@dataclass(frozen=True)
class Context:
    """What the penalties know of a window; constants while the points move.

    Lengths are in the unit of the points. Arrays of a missing kind are None, which switches off
    the penalty that needs them.
    """

    anatomy: Anatomy
    lengths: Array  # (B, 1, E), 0 where unknown: hinges with such a bone are free
    confidence: Array  # (B, S, K) in [0, 1]
    speed_budget: Array | None  # (B, S', K) largest step to the next frame; S' = S with `previous`
    previous: Array | None = None  # (B, K, d) the published frame before the window, fixed
    lateral: Array | None = None  # (B, S, 3) unit vector right hip -> left hip, 0 where unsure
    ground: Array | None = None  # (4,) unit normal and offset: n . p + d >= 0 above the floor
    angles: bool = True
    bend: bool = True
    symmetry: bool = True


class Penalty(Protocol):
    """A task's own penalty: ``curvature`` bounds its second derivative."""

    curvature: float

    def __call__(self, points: Array, context: Context) -> tuple[Array, Array]:
        """Value (B,) and gradient (B, S, K, d) at ``points`` (B, S, K, d)."""
        ...


def lateral_axis(points: Array, confidence: Array, anatomy: Anatomy) -> Array | None:
    """Unit vectors (B, S, 3) from the right to the left hip, without history; 0 where unsure.

    None for joint sets without hips and for 2-D.
    """
    if anatomy.hips is None or points.shape[-1] != 3:
        return None
    ops = ops_of(points)
    left, right = anatomy.hips
    axis = ops.detach(points[..., left, :] - points[..., right, :])
    length = ops.sqrt((axis * axis).sum(-1))[..., None]
    sure = (confidence[..., left] >= HIP_CONFIDENCE) & (confidence[..., right] >= HIP_CONFIDENCE)
    sure = sure[..., None] & (length > 0.05)
    zero = ops.zeros_like(axis)
    return ops.where(sure, axis / ops.maximum(length, 1e-6), zero)


class BonePenalties:
    """Angle limits, bend direction and symmetry of one window.

    Constants of the window are prepared once: ``hinges`` is how many are looked at, ``twist``
    (B, S, 3, 3) takes the cross product with the lateral axis, None while the bend is off, and
    ``bend_unit`` (B, 1, H) turns triple products into signed sines. Arguments of the methods:
    ``bones`` (B, S, E, d), first joint minus second, and ``length`` (B, S, E), their norms.
    """

    def __init__(self, context: Context, like: Array) -> None:
        """Prepare for ``context``; ``like`` has the dtype (and device) of the points."""
        anatomy, ops = context.anatomy, ops_of(like)
        self._ops, self._context = ops, context
        self.hinges = len(anatomy.hinge_joint) if context.angles or context.bend else 0
        self.symmetric = context.symmetry and len(anatomy.mirrored) > 0
        if self.symmetric:
            self.pairs = ops.constant(anatomy.mirror_pairs, like)
            self.pair_laplacian = ops.constant(anatomy.mirror_laplacian, like)
        if self.hinges:
            self._prepare_hinges(anatomy, like)

    def _prepare_hinges(self, anatomy: Anatomy, like: Array) -> None:
        ops, context, hinges = self._ops, self._context, self.hinges
        self._bones = anatomy.hinge_bones
        self._signs = ops.constant(anatomy.hinge_signs, like)
        self._spread = ops.constant(anatomy.hinge_spread, like)
        lengths = context.lengths[..., self._bones]
        first, second = lengths[..., :hinges], lengths[..., hinges:]
        self._shortest, self._guard = SHORTEST * lengths, ops.maximum(GUARD * lengths, 1e-9)
        shorter = ops.minimum(first, second)  # 0 where a length is unknown
        self._scale = shorter * shorter  # ell^2
        self._cos_max = ops.constant(anatomy.cos_max, like)
        self._cos_min = ops.constant(anatomy.cos_min, like)
        self.twist = None
        if context.bend and context.lateral is not None:
            n = context.lateral
            turn = n @ ops.constant(_CROSS, like)
            self.twist = turn.reshape(*n.shape[:-1], 3, 3)  # (B, S, 3, 3): x @ twist = x cross n
            sign = ops.constant(anatomy.bend_sign, like)
            self.bend_unit = sign / ops.maximum(first * second, 1e-9)

    def values(self, bones: Array, length: Array) -> Array:
        """Sum (B, S) of the penalties that are on."""
        ops = self._ops
        value = 0.0 * length[..., 0]
        if self.symmetric:
            difference = length @ self.pairs.T
            value = value + 0.5 * ops.dot(difference, difference)
        return value + self.hinge_values(bones, length) if self.hinges else value

    def hinge_values(self, bones: Array, length: Array) -> Array:
        """Sum (B, S) of angle limits and bend direction; needs ``hinges``."""
        ops = self._ops
        scale, over, under, wrong, *_ = self._violations(bones, length)
        value = 0.5 * ops.dot(scale, over * over + under * under)
        return value if wrong is None else value + 0.5 * ops.dot(scale, wrong * wrong)

    def symmetry_pull(self, length: Array) -> Array:
        """Derivative of the symmetry's value by the bone lengths (B, S, E)."""
        return length @ self.pair_laplacian

    def gradient(self, bones: Array, length: Array) -> tuple[Array | None, Array | None]:
        """Gradient per bone vector (B, S, E, d) of the hinges, and which of them act (B, S, H).

        Both are None while no hinge is violated. `symmetry_pull` is not in it.
        """
        if not self.hinges:
            return None, None
        ops, hinges = self._ops, self.hinges
        scale, over, under, wrong, cosine, arms, reach = self._violations(bones, length)
        active = over + under if wrong is None else over + under + wrong
        active = (active * scale) > 0
        if not bool(active.any()):
            return None, None
        unit = arms / reach[..., None]
        u, v = unit[..., :hinges, :], unit[..., hinges:, :]
        pull = (scale * (over - under))[..., None]
        guard = ops.maximum(reach, self._guard + 0.0 * reach)[..., None]
        cosine = cosine[..., None]
        to_upper = pull * (v - cosine * u) / guard[..., :hinges, :]
        to_lower = pull * (u - cosine * v) / guard[..., hinges:, :]
        if wrong is not None:
            across = arms @ self.twist
            push = (scale * wrong * self.bend_unit)[..., None]
            to_upper = to_upper - push * across[..., hinges:, :]
            to_lower = to_lower + push * across[..., :hinges, :]
        return self._spread @ ops.concatenate([to_upper, to_lower], -2), active

    def _violations(self, bones: Array, length: Array) -> tuple[Array, ...]:
        """Scale, angle over and under, wrong bend (B, S, H); cosine, arms and their lengths.

        Arms (B, S, 2 H, d) lead from the hinge to its upper, then lower neighbours. The scale is 0
        where a bone is too short to have a direction; the bend is None when it is off.
        """
        ops, hinges = self._ops, self.hinges
        arms = bones[..., self._bones, :] * self._signs
        reach = length[..., self._bones]
        a, b = arms[..., :hinges, :], arms[..., hinges:, :]
        cosine = ops.dot(a, b) / (reach[..., :hinges] * reach[..., hinges:])
        usable = reach >= self._shortest
        scale = self._scale * (usable[..., :hinges] & usable[..., hinges:])
        over = under = 0.0 * cosine
        if self._context.angles:
            over = ops.maximum(cosine - self._cos_max, 0.0)
            under = ops.maximum(self._cos_min - cosine, 0.0)
        if self.twist is None:
            return scale, over, under, None, cosine, arms, reach
        turned = ops.dot(a, b @ self.twist) * self.bend_unit
        wrong = ops.maximum(-turned - BEND_SLACK, 0.0)
        return scale, over, under, wrong, cosine, arms, reach


def speed_penalty(points: Array, context: Context) -> tuple[Array, Array]:
    """Steps beyond the fastest plausible motion: value (B,) and gradient (B, S, K, d).

    1/2 max(0, |p_t - p_(t-1)| - budget)^2; the frame before the window (``previous``) is fixed.
    """
    ops = ops_of(points)
    chain = points
    if context.previous is not None:
        chain = ops.concatenate([context.previous[:, None], points], 1)
    step = chain[:, 1:] - chain[:, :-1]
    length = ops.sqrt((step * step).sum(-1) + 1e-12)
    excess = ops.maximum(length - context.speed_budget, 0.0)
    pull = (excess / length)[..., None] * step
    value = 0.5 * (excess * excess).sum(-1).sum(-1)
    none = ops.zeros_like(points[:, :1])
    if context.previous is None:
        return value, ops.concatenate([none, pull], 1) - ops.concatenate([pull, none], 1)
    if points.shape[1] > 1:
        return value, pull - ops.concatenate([pull[:, 1:], none], 1)
    return value, pull


def ground_penalty(points: Array, context: Context) -> tuple[Array, Array]:
    """Ankles and knees below the floor: value (B,) and gradient (B, S, K, 3).

    ``context.ground`` holds the floor's unit normal n and offset d; n . p + d is the height.
    """
    ops, joints = ops_of(points), context.anatomy.ground
    plane = ops.constant(context.ground, points)
    height = points @ plane[:3] + plane[3]
    mask = np.zeros(points.shape[-2])
    mask[joints] = 1.0
    below = ops.maximum(-height, 0.0) * ops.constant(mask, points)
    return 0.5 * (below * below).sum(-1).sum(-1), -below[..., None] * plane[:3]


def checked_plane(plane: Array) -> np.ndarray:
    """``plane`` (4,), a unit normal and an offset in metres, as `Context.ground` wants it.

    Raises:
        ShapeError: it is none.

    """
    plane = np.asarray(plane, np.float64)
    if plane.shape != (4,) or not abs(np.linalg.norm(plane[:3]) - 1.0) < 1e-3:
        raise ShapeError(
            f"ground: expected a unit normal and an offset, 4 numbers, got {plane.tolist()}"
        )
    return plane


def joint_curvature(context: Context, hooks: tuple[Penalty, ...] = ()) -> float:
    """Sum of the curvature bounds of the penalties that are on (per unit of their weight)."""
    anatomy = context.anatomy
    hinges = len(anatomy.hinge_joint) > 0
    total = ANGLE_CURVATURE * (context.angles and hinges)
    total += BEND_CURVATURE * (context.bend and hinges and context.lateral is not None)
    total += 2.0 * anatomy.mirrored_max * context.symmetry
    total += SPEED_CURVATURE * (context.speed_budget is not None)
    total += GROUND_CURVATURE * (context.ground is not None)
    return float(total + sum(hook.curvature for hook in hooks))


def swap_limbs(
    points: Array, expected: Array, confidence: Array, anatomy: Anatomy
) -> tuple[Array, Array]:
    """Exchange mirrored limbs that were mistaken for each other: points (B, K, d) and who (B, K).

    A limb is elbow and wrist, or knee and ankle, of both sides. It is exchanged if its distance
    to ``expected`` (B, K, d), squared and weighted by confidence (B, K), falls by more than 30 %
    and none of its four joints reaches the confidence at which a network is sure of a side. NaN
    points take no part. numpy only: the decision has no gradient.
    """
    flip, limbs = _limbs_of(anatomy.skeleton)
    # First what is cheap and seldom leaves a limb: somebody was sure of most of them.
    unsure = ((confidence >= SWAP_CONFIDENCE) @ limbs.T) == 0  # (B, L)
    if not unsure.any():
        return points, np.zeros(points.shape[:2], bool)
    other = points[:, flip]
    seen = np.isfinite(points).all(axis=-1) & np.isfinite(expected).all(axis=-1)
    both = seen & seen[:, flip]
    weight = np.sqrt(confidence * confidence[:, flip]) * both
    own = nan_to(((points - expected) ** 2).sum(axis=-1), 0.0, ops_of(points)) * weight
    exchanged = nan_to(((other - expected) ** 2).sum(axis=-1), 0.0, ops_of(points)) * weight
    swap = (exchanged @ limbs.T < SWAP_SHARE * (own @ limbs.T)) & unsure
    who = (swap @ limbs > 0) & both
    return np.where(who[..., None], other, points), who


@cache
def _limbs_of(skeleton: Skeleton) -> tuple[Array, Array]:
    """Flip order (K,) and limbs as rows (L, K) of 0 and 1; computed once per joint set."""
    rows = []
    for parts in (("elbow", "wrist"), ("knee", "ankle")):
        names = [side + part for side in ("left_", "right_") for part in parts]
        if set(names) <= set(skeleton.joints):
            rows.append([float(joint in names) for joint in skeleton.joints])
    return skeleton.flip_order(), np.array(rows).reshape(-1, len(skeleton))
