"""What joints take over from each other: a trunk moves as one body, a head too, a limb in part.

A joint that is not seen follows the motion that the seen ones turn out to have, and the velocities
of the trunk's joints are made those of one rigid body, which lowers their noise. This stands in
for the correlations between joints that filters of single joints do not keep.

Letters: P people, K joints, n kinds of motion, d axes (2 or 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import part_of
from pose_ros.core.skeletons import Skeleton

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_TRUNK = ("shoulder", "hip", "neck", "thorax", "spine", "pelvis")
_HEAD = ("nose", "eye", "ear", "head_top")
#: Share in which a part turns with the trunk; all others wholly. Rounded from regressions on
#: three sets of motion capture (displacements within 0.13 s): 0.4 to 0.7 and 0.3 to 0.6.
TURNS = {"knee": 0.5, "ankle": 0.35}
#: What a joint that is not seen takes over of the unforeseen motion of its limb's other joint:
#: half of what regressions without noise say.
PARTNER = {
    "elbow": ("wrist", 0.2), "wrist": ("elbow", 0.3), "knee": ("ankle", 0.15),
    "ankle": ("knee", 0.15),
}  # fmt: skip
#: Say of joints off the trunk, and of those not seen now, in how the trunk moves.
FAINT = 0.03
#: Weighted square of the trunk's extent at which half of a turn is believed, square metres (3-D)
#: and person heights (2-D): of a velocity, which is smooth, and of what a frame corrects.
RIDGE = {2: (0.002, 0.035), 3: (0.005, 0.1)}
#: Arms reach out from a body at rest.
CALM = {"elbow": 0.2, "wrist": 0.2}
#: Weight of joints at which the velocities of trunk and head become, by half, a rigid body's.
STIFF = 0.4


def _levi_civita() -> Floats:
    """(3, 9): spin @ this, as (3, 3), turns row vectors: r @ that = spin x r."""
    table = np.zeros((3, 3, 3))
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        table[c, a, b], table[c, b, a] = 1.0, -1.0
    return table.reshape(3, 9)


_SPIN = _levi_civita()


@dataclass(frozen=True)
class Ties:
    """What a joint set fixes."""

    weight: Floats  # (K,) say in the trunk's motion
    turns: Floats  # (K, 1) share of the trunk's turn
    rest: Floats  # (K, K) rows: shares of other joints' motion beyond the trunk's
    stiff: Floats  # (K, 1) 1 for joints of trunk and head, 0 elsewhere
    calm: Floats  # (K,) how much a joint rests while the body does


@cache
def ties_of(skeleton: Skeleton) -> Ties:
    """Return the tables of a joint set; computed once per set."""
    parts = [part_of(joint) for joint in skeleton.joints]
    trunk = np.array([part in _TRUNK for part in parts])
    head = np.array([part in _HEAD for part in parts])
    rest = np.zeros((len(parts), len(parts)))
    rest[np.ix_(head, head)] = 1.0 / max(int(head.sum()), 1)
    for row, (joint, part) in enumerate(zip(skeleton.joints, parts, strict=True)):
        other, share = PARTNER.get(part, ("", 0.0))
        name = joint.removesuffix(part) + other
        if other and name in skeleton.joints:
            rest[row, skeleton.index(name)] = share
    turns = np.array([TURNS.get(part, 1.0) for part in parts])
    stiff = (trunk | head).astype(np.float64)
    calm = np.array([CALM.get(part, 1.0) for part in parts])
    return Ties(np.where(trunk, 1.0, FAINT), turns[:, None], rest, stiff[:, None], calm)


def say(ties: Ties, age_s: Floats, longest_s: float) -> Floats:
    """Weights (P, K) of joints last measured ``age_s`` ago; none beyond ``longest_s``."""
    return ties.weight * np.where(age_s > 0, np.where(age_s <= longest_s, FAINT, 0.0), 1.0)


def with_trunk(
    points: Floats, weight: Floats, moves: Floats, ties: Ties, corrections: int = 0
) -> Floats:
    """Motion (P, n, K, d) of every joint if it belonged to the trunk.

    ``moves`` (P, n, K, d) are velocities or displacements of the joints at ``points`` (P, K, d),
    of which the rigid (2-D: affine, as a turning body looks) motion that fits best by ``weight``
    (P, K) is taken. The first ``corrections`` of the n kinds are noisy. Without any weight nothing
    moves.
    """
    people, kinds, _, dims = moves.shape
    share = (weight / np.maximum(weight.sum(axis=-1, keepdims=True), 1e-9))[:, None]
    arm = points - share @ points
    mean = share[:, None] @ moves
    arms = (weight[..., None] * arm).swapaxes(1, 2)
    spread, turning = arms @ arm, arms[:, None] @ moves
    smooth, noisy = RIDGE[dims]
    ridge = np.where(np.arange(kinds) < corrections, noisy, smooth)[:, None, None] * np.eye(dims)
    spread = spread[:, None]
    if dims == 2:
        slope = np.linalg.inv(spread + ridge) @ turning
    else:
        size = spread.trace(axis1=-2, axis2=-1)[..., None, None] * np.eye(3)
        spin = turning.reshape(people, kinds, 1, 9) @ _SPIN.T
        spin = spin @ np.linalg.inv(size - spread + ridge)
        slope = (spin @ _SPIN).reshape(people, kinds, 3, 3)
    return np.asarray(mean + ties.turns * (arm[:, None] @ slope))


def take_over(
    state: Floats,
    predicted: Floats,
    cov: Floats,
    seen: tuple[Mask, Mask, Mask, Floats],
    ties: Ties,
) -> None:
    """Move unseen joints as the seen ones turned out to move, and stiffen the trunk, in place.

    ``state`` (P, K, 2 d) and ``cov`` (P, K, 2 d, 2 d) are those after the measurements,
    ``predicted`` the states before. ``seen`` holds which joints (P, K) are measured now as in the
    frame before, which are to follow, which are left as they are, and the weights of `say` of
    joints that may have a say.
    """
    fresh, follow, own_motion, weight = seen
    dims = state.shape[-1] // 2
    moves = np.empty((len(state), 3, state.shape[1], dims))
    change = state - predicted
    moves[:, 0], moves[:, 1] = change[..., :dims], change[..., dims:]
    moves[:, 2] = state[..., dims:]
    led = with_trunk(predicted[..., :dims], weight, moves, ties, corrections=2)
    led += ties.rest @ np.where(fresh[:, None, :, None], moves - led, 0.0)
    if follow.any():
        state += np.where(follow[..., None], np.concatenate([led[:, 0], led[:, 1]], axis=-1), 0.0)
    # Velocities give way, and positions by as much as they hang together with them.
    axes = np.arange(dims)
    joint = cov[..., axes, axes + dims] @ np.ones(dims)
    own = cov[..., axes + dims, axes + dims] @ np.ones(dims)
    total = weight.sum(axis=-1)[:, None, None]
    pull = total / (total + STIFF) * ties.stiff * (led[:, 2] - state[..., dims:])
    pull[own_motion] = 0.0
    state[..., dims:] += pull
    state[..., :dims] += (joint / np.maximum(own, 1e-12))[..., None] * pull
