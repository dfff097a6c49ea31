"""Constant-velocity Kalman filters, one per joint, for all joints of all people at once.

Letters: P people, K joints, d axes. A joint's state is its position and velocity, (P, K, 2 d); its
covariance is (P, K, 2 d, 2 d). The filter is what remains of the temporal energy when all older
frames are integrated out: its mean is the closed-form start of the refinement and its information
the weight of that start.

Source: Bar-Shalom et al., Estimation with Applications to Tracking and Navigation, 2001, sections
6.2.2 (white-noise acceleration) and 8.6 (fixed-interval smoothing).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import Anatomy
from pose_ros.core.refine_carry import say, take_over, ties_of, with_trunk
from pose_ros.core.refine_energy import RefineConfig
from pose_ros.core.refine_inertia import AGEING, MEASURED_PROCESS, Inertia, carried, hang
from pose_ros.core.values import IntArray

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: An unseen joint may change its own motion this much more than a seen one.
UNSEEN_PROCESS = 2.0
#: Shares of the process density that a joint at rest keeps, of a body that moves and of a body at
#: rest; at `first_speed` it is all of it. A body moves from `STILL` times that speed on.
REST_PROCESS, STILL_PROCESS, STILL = 0.15, 0.005, 0.3
#: Share of its variance that is taken off a velocity squared before it counts as speed.
CHANCE = 0.5
#: A joint that goes out of sight keeps of its own velocity what exceeds this share of the
#: variance (the estimate of James and Stein).
BELIEVED = 1.0
#: Confidence of a network that is sure of a joint.
SURE = 0.8


@dataclass
class Belief:
    """States of P people; ``age_s`` is the time since a joint was measured, inf for never."""

    state: Floats  # (P, K, 2 d) position, velocity
    cov: Floats  # (P, K, 2 d, 2 d)
    age_s: Floats  # (P, K)
    jumps: npt.NDArray[np.int64]  # (P, K) surely seen innovations beyond the gate in a row


@dataclass(frozen=True)
class Step:
    """One frame's passage through the filter, kept for smoothing."""

    predicted: Floats  # (P, K, 2 d)
    predicted_cov: Floats  # (P, K, 2 d, 2 d)
    transition: Floats  # (P, K) factor on the velocity
    dt_s: Floats  # (P,)
    restarted: Mask  # (P, K) joints whose history was dropped
    far: Mask  # (P, K) joints measured beyond the gate that were not restarted
    after: Belief


def predict(
    belief: Belief, dt_s: Floats, unseen: Mask, anatomy: Anatomy, config: RefineConfig,
    gain: Floats | None = None,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """State and covariance ``dt_s`` (P,) later, and the factor (P, K) on each velocity.

    A joint that is ``unseen`` (P, K) is carried by the trunk; what it moves relative to that
    fades, and counts from the start only as far as it was no chance. A joint whose ``gain``
    (P, K, d) of velocity was measured keeps its own motion; NaN where it was not.
    """
    dims = belief.state.shape[-1] // 2
    state, dt = belief.state.copy(), dt_s[:, None, None]
    velocity = state[..., dims:]
    felt = None if gain is None else np.isfinite(gain[..., 0])
    if felt is not None:
        unseen = unseen & ~felt
    keep = np.ones(unseen.shape)
    variance = belief.cov.diagonal(0, -2, -1)[..., dims:] @ np.ones(dims)
    if unseen.any():
        keep = np.where(unseen, np.exp(-dt[..., 0] / config.coast_s), 1.0)
        ties = ties_of(anatomy.skeleton)
        weight = say(ties, belief.age_s, config.max_gap_s)
        led = with_trunk(state[..., :dims], weight, velocity[:, None], ties)[:, 0]
        own = velocity - led
        chance = BELIEVED * variance / np.maximum((own * own) @ np.ones(dims), 1e-12)
        known = np.where(unseen & (belief.age_s <= 0), np.maximum(1.0 - chance, 0.0), 1.0)
        # What was no velocity was a position off by as much as the two hang together.
        axes = np.arange(dims)
        joint = belief.cov[..., axes, axes + dims] @ np.ones(dims) / np.maximum(variance, 1e-12)
        state[..., :dims] -= (joint * (1.0 - known))[..., None] * own
        velocity[...] = led + (known * keep)[..., None] * own
    state[..., :dims] += dt * velocity
    if gain is not None and felt is not None:
        pushed = np.where(felt[..., None], gain, 0.0)
        state[..., :dims] += 0.5 * dt * pushed
        velocity += pushed
    calm = ties_of(anatomy.skeleton).calm
    lively = _liveliness(velocity, variance, (belief.age_s <= 0, calm), config)
    density = config.process * anatomy.mobility * lively * (1.0 + UNSEEN_PROCESS * unseen)
    if felt is not None:  # a measured acceleration drifts alike at rest and in motion
        density = np.where(felt, MEASURED_PROCESS * config.process * anatomy.mobility, density)
    transition, noise = _passage(dims, dt_s, keep)
    cov = transition @ belief.cov @ transition.swapaxes(-1, -2)
    cov += density[..., None, None] * noise
    return state, cov, keep


def _liveliness(
    velocity: Floats, variance: Floats, joints: tuple[Mask, Floats], config: RefineConfig
) -> Floats:
    """Share (P, K) of the process density: little for joints at rest, least if the body rests.

    ``velocity`` (P, K, d) has the ``variance`` (P, K), summed over the axes. ``joints`` are those
    seen (P, K), which tell how the body moves, and how calm they are with it (K,).
    """
    seen, calm = joints
    square = (velocity * velocity) @ np.ones(velocity.shape[-1])
    speed = np.sqrt(np.maximum(square - CHANCE * calm * variance, 0.0))
    excess = ((square - variance) * seen).sum(axis=-1, keepdims=True)
    body = np.sqrt(np.maximum(excess, 0.0) / np.maximum(seen.sum(axis=-1, keepdims=True), 1))
    awake = np.minimum(body / (STILL * config.first_speed), 1.0)
    rest = REST_PROCESS + (STILL_PROCESS - REST_PROCESS) * (1.0 - awake) * calm
    return np.asarray(np.minimum(rest + speed / config.first_speed, 1.0))


@cache
def _parts(dims: int) -> tuple[Floats, Floats, Floats]:
    """Parts of a transition, (2 d, 2 d): positions, velocities, velocities to positions."""
    eye = np.eye(dims)
    place, speed, moves = np.zeros((3, 2 * dims, 2 * dims))
    place[:dims, :dims], speed[dims:, dims:], moves[:dims, dims:] = eye, eye, eye
    return place, speed, moves


def _passage(dims: int, dt_s: Floats, keep: Floats) -> tuple[Floats, Floats]:
    """Transition (P, K, 2 d, 2 d) and the noise (P, 1, 2 d, 2 d) that unit density brings.

    ``dt_s`` (P,) are the steps; ``keep`` (P, K) scales the velocities before they move anything.
    """
    place, speed, moves = _parts(dims)
    t = dt_s[:, None, None, None]
    transition = place + keep[..., None, None] * (speed + t * moves)
    cross = moves + moves.T
    return transition, (t * t * t / 3) * place + (t * t / 2) * cross + t * speed


def advance(
    belief: Belief,
    seen: tuple[Floats, Floats, Floats],
    dt_s: Floats,
    anatomy: Anatomy,
    config: RefineConfig,
    worn: tuple[Inertia, IntArray] | None = None,
) -> Step:
    """Predict ``dt_s`` (P,) ahead and take in the measured joints.

    ``seen`` holds points (P, K, d) with NaN where missing, confidences (P, K) and covariances
    (P, K, d, d) that already contain the confidence. Innovations beyond ``config.gate`` spreads
    count less. One beyond ``config.jump`` of a surely seen joint, followed by one beyond half of
    that (the first has moved the joint already), restarts it. ``worn`` is what sensors say and of
    which bones; joints that they carry age slowly.
    """
    points, confidence, spread = seen
    dims = points.shape[-1]
    usable = np.isfinite(points[..., 0])
    unseen = ~usable | (belief.age_s > 0)
    gain_m_s = None if worn is None else worn[0].gain_m_s
    state, cov, keep = predict(belief, dt_s, unseen, anatomy, config, gain_m_s)
    innovation = np.where(usable[..., None], points - state[..., :dims], 0.0)
    place = cov[..., :dims, :dims]
    expected = (place + spread).diagonal(0, -2, -1)
    surprise = ((innovation * innovation / expected) @ np.ones(dims)) / dims
    far = dims * surprise > np.where(belief.jumps > 0, 0.25, 1.0) * config.jump**2
    jumps = np.where(far & (confidence > SURE), belief.jumps + 1, 0)
    passed_s = dt_s[:, None] * (1.0 if worn is None else np.where(carried(*worn), AGEING, 1.0))
    age_s = belief.age_s + passed_s
    lost = age_s > config.max_gap_s
    restarted = usable & (lost | (jumps >= 2))
    excuse = np.maximum(surprise / config.gate**2, 1.0)[..., None, None]
    gain = cov[..., :dims] @ np.linalg.inv(place + spread * excuse)
    gain *= usable[..., None, None]
    new_state = state + (gain @ innovation[..., None])[..., 0]
    new_cov = cov - gain @ cov[..., :dims, :]
    follow = ~usable if gain_m_s is None else ~usable & np.isnan(gain_m_s[..., 0])
    _take_over(new_state, state, new_cov, (usable & ~restarted, follow), (belief, anatomy, config))
    if restarted.any():
        _restart(new_state, new_cov, points, spread, restarted, (anatomy, config, lost))
        jumps = np.where(restarted, 0, jumps)
    age_s = np.where(usable, 0.0, age_s)
    if worn is not None:
        hang(new_state, new_cov, age_s, worn[0], (worn[1], config.max_gap_s))
    after = Belief(new_state, new_cov, age_s, jumps)
    far = usable & (surprise > config.gate**2) & ~restarted
    return Step(state, cov, keep, dt_s, restarted, far, after)


def _take_over(
    state: Floats, predicted: Floats, cov: Floats, seen: tuple[Mask, Mask],
    rest: tuple[Belief, Anatomy, RefineConfig],
) -> None:  # fmt: skip
    """`take_over`; a joint that was out of sight tells of its own error and has no say.

    What is neither seen nor to follow is carried by sensors, and keeps its own motion.
    """
    belief, anatomy, config = rest
    usable, follow = seen
    ties = ties_of(anatomy.skeleton)
    fresh = usable & (belief.age_s <= 0)
    weight = np.where(fresh, ties.weight, 0.0)
    weight += ~usable * say(ties, np.maximum(belief.age_s, 1e-9), config.max_gap_s)
    own = ~usable & ~follow
    take_over(state, predicted, cov, (fresh, follow, own, weight), ties)


def _restart(
    state: Floats,
    cov: Floats,
    points: Floats,
    spread: Floats,
    which: Mask,
    rest: tuple[Anatomy, RefineConfig, Mask],
) -> None:
    """Begin the joints ``which`` (P, K) anew, moving as their neighbours move."""
    anatomy, config, lost = rest
    dims = points.shape[-1]
    velocity = np.where(lost[..., None], 0.0, state[..., dims:])
    carried = anatomy.carrier @ velocity
    start = np.concatenate([points, carried], axis=-1)
    state[which] = start[which]
    fresh = np.zeros((int(which.sum()), 2 * dims, 2 * dims))
    fresh[:, :dims, :dims] = spread[which]
    axes = np.arange(dims, 2 * dims)
    fresh[:, axes, axes] = config.first_speed**2
    cov[which] = fresh


def smooth(steps: list[Step]) -> tuple[Floats, Floats]:
    """Positions (P, m, K, d) and covariances (P, m, K, d, d) of the steps, given all of them."""
    last = steps[-1].after
    state, cov = last.state, last.cov
    dims = state.shape[-1] // 2
    states, covs = [state], [cov]
    for step, following in zip(steps[-2::-1], steps[:0:-1], strict=True):
        before = step.after
        cross = before.cov.copy()  # before.cov @ F^T
        cross[..., dims:] *= following.transition[..., None, None]
        cross[..., :dims] += following.dt_s[:, None, None, None] * cross[..., dims:]
        gain = cross @ np.linalg.inv(following.predicted_cov)
        gain *= ~following.restarted[..., None, None]
        moved = (gain @ (state - following.predicted)[..., None])[..., 0]
        change = gain @ (cov - following.predicted_cov) @ gain.swapaxes(-1, -2)
        state, cov = before.state + moved, before.cov + change
        states.append(state)
        covs.append(cov)
    states, covs = states[::-1], covs[::-1]
    return (
        np.stack([s[..., :dims] for s in states], axis=1),
        np.stack([c[..., :dims, :dims] for c in covs], axis=1),
    )
