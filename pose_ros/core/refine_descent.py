"""The iterations of a live frame: from the filter's answer to points that obey the body.

Letters: P people, m frames, K joints, d axes (2 or 3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.penalties import ANGLE_CURVATURE, BEND_CURVATURE, SPEED_CURVATURE
from pose_ros.core.refine_live import LiveEnergy
from pose_ros.core.refine_motion import SURE, Floats


def descend(
    anchor: Floats, precision: Floats, energy: LiveEnergy
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Refined points (P, m, K, d) and the people (P,) who stay at ``anchor`` as the energy rose.

    ``anchor`` (P, m, K, d) pulls with its information, the inverse ``precision`` (P, m, K, d, d)
    of its covariance in units of a sure measurement's. Every joint steps by the inverse of a bound
    of the curvature it takes part in: its information, twice its bones' and its hinges' (block
    Gershgorin).
    """
    config, anatomy = energy.config, energy.context.anatomy
    people, frames, joints, dims = anchor.shape
    eye, bones = np.eye(dims), len(anatomy.edges)
    # What moves the joints: how far they are from the anchor, and the pull of the bones, in one
    # vector, so that an iteration is one product of a matrix with it.
    forces = np.zeros((people, frames, joints + bones, dims))
    off, pull = forces[:, :, :joints], forces[:, :, joints:]
    flat = (people, frames, (joints + bones) * dims, 1)
    active, others = energy.pull(anchor, pull), energy.point_gradient(anchor)
    if others is None and not pull.any():  # nothing pulls: a third of the frames in 2-D
        return anchor.copy(), np.zeros(people, np.bool_)
    information = precision * config.noise**2
    base = information + _stiffness(energy)[..., None, None] * eye
    step: Floats = np.linalg.inv(base).astype(np.float64, copy=False)
    hinge = config.lambda_domain * (ANGLE_CURVATURE + BEND_CURVATURE) * anatomy.hinge_members
    passage = _passage(step, information, energy.back)
    points, acting = anchor, None
    for iteration in range(config.iterations):
        if iteration:
            active, others = energy.pull(points, pull), energy.point_gradient(points)
        if active is not None and (acting is None or (active > acting).any()):
            acting = active if acting is None else active | acting
            stiffer = base + (acting @ hinge)[..., None, None] * eye
            step = np.linalg.inv(stiffer).astype(np.float64, copy=False)
            passage = _passage(step, information, energy.back)
        off[...] = (passage @ forces.reshape(flat)).reshape(anchor.shape)
        if others is not None:
            off -= (step @ others[..., None])[..., 0]
        points = anchor + off
    start, end = energy.value(np.stack([anchor, points]))
    held = (off * (information @ off[..., None])[..., 0]).sum(axis=(1, 2, 3))
    bad = ~(end + 0.5 * held <= start + 1e-12)
    if bad.any():
        points = np.where(bad[:, None, None, None], anchor, points)
    return points, bad


def _passage(step: Floats, information: Floats, back: Floats) -> Floats:
    """Matrix (P, m, K d, (K + E) d) from offsets and pulls to the offsets after a step.

    off - step (information off + back pull), all joints at once; ``step`` and ``information``
    (P, m, K, d, d), ``back`` (K, E) carries bones' pulls to the joints.
    """
    people, frames, joints, dims, _ = step.shape
    bones = back.shape[1]
    whole = np.zeros((people, frames, joints, dims, joints + bones, dims))
    own = np.einsum("pmkikj->pmkij", whole[..., :joints, :])  # a view of every joint's own block
    own[...] = np.eye(dims) - step @ information
    np.multiply(step[..., None, :], -back[:, None, :, None], out=whole[..., joints:, :])
    return whole.reshape(people, frames, joints * dims, (joints + bones) * dims)


def _stiffness(energy: LiveEnergy) -> Floats:
    """Curvature (P, m, K) at each joint of bones and of the penalties that may act on anybody."""
    config, context, tables = energy.config, energy.context, energy.tables
    stiff = 2.0 * config.lambda_spatial * (energy.weight @ tables.members)
    domain = energy.hook_curvature + (tables.symmetry if context.symmetry else 0.0)
    if context.ground is not None:
        domain = domain + np.zeros(stiff.shape[-1])
        domain[context.anatomy.ground] += 1.0
    if context.speed_budget is not None:
        limited = np.isfinite(context.speed_budget).any(axis=1, keepdims=True)
        domain = domain + SPEED_CURVATURE * limited
    return np.asarray(stiff + config.lambda_domain * domain)


def leash(points: Floats, raw: Floats, confidence: Floats, reach: float) -> Floats:
    """Points (P, m, K, d), surely seen joints no farther than ``reach`` from ``raw``."""
    off = points - raw
    # NaN where nothing was measured: neither comparison holds for it
    far = (off * off) @ np.ones(off.shape[-1]) > reach * reach
    far &= confidence > SURE
    if not far.any():
        return points
    length = np.sqrt((off * off).sum(axis=-1, keepdims=True))
    return np.where(far[..., None], raw + reach / np.maximum(length, 1e-9) * off, points)
