"""The iterations of a live frame: from the filter's answer to points that obey the body.

Letters: P people, m frames, K joints, d axes (2 or 3).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.penalties import ANGLE_CURVATURE, BEND_CURVATURE, SPEED_CURVATURE
from pose_ros.core.refine_energy import Constraints
from pose_ros.core.refine_motion import SURE, Floats


def descend(
    anchor: Floats, cov: Floats, energy: Constraints
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Refined points (P, m, K, d) and the people (P,) who stay at ``anchor`` as the energy rose.

    ``anchor`` (P, m, K, d) with covariance ``cov`` (P, m, K, d, d) pulls with its information,
    in units of a sure measurement's. Every joint steps by the inverse of a bound of the curvature
    it takes part in: its information, twice its bones' and its hinges' (block Gershgorin).
    """
    config, anatomy, d = energy.config, energy.context.anatomy, anchor.shape[-1]
    information = np.linalg.inv(cov) * config.noise**2
    eye = np.eye(d)
    stiff = 2.0 * config.lambda_spatial * (energy.weight @ abs(anatomy.incidence))
    stiff = stiff + config.lambda_domain * _domain_stiffness(energy)
    budget = energy.context.speed_budget
    if budget is not None:
        limited = np.isfinite(budget).any(axis=1, keepdims=True)
        stiff = stiff + config.lambda_domain * SPEED_CURVATURE * limited
    base = information + stiff[..., None, None] * eye
    step = np.linalg.inv(base)
    hinge = config.lambda_domain * (ANGLE_CURVATURE + BEND_CURVATURE) * anatomy.hinge_members
    points, acting = anchor, None
    for _ in range(config.iterations):
        gradient, active = energy.gradient(points)
        gradient = gradient + (information @ (points - anchor)[..., None])[..., 0]
        if active is not None and (acting is None or (active > acting).any()):
            acting = active if acting is None else active | acting
            step = np.linalg.inv(base + (acting @ hinge)[..., None, None] * eye)
        points = points - (step @ gradient[..., None])[..., 0]
    start = _total(energy, anchor)
    end = _total(energy, points)
    off = points - anchor
    pull = (off * (information @ off[..., None])[..., 0]).sum(axis=(1, 2, 3))
    bad = ~(end + 0.5 * pull <= start + 1e-12)
    return np.where(bad[:, None, None, None], anchor, points), bad


def _total(energy: Constraints, points: Floats) -> Floats:
    """Weighted spatial and domain energy (P,)."""
    spatial, domain = energy.values(points)
    config = energy.config
    return np.asarray(config.lambda_spatial * spatial + config.lambda_domain * domain)


def _domain_stiffness(energy: Constraints) -> Floats:
    """Curvature (K,) at each joint of the penalties that may act on everybody."""
    context, anatomy = energy.context, energy.context.anatomy
    stiff = np.full(len(anatomy.skeleton), energy.hook_curvature)
    if context.symmetry:
        stiff += 4.0 * (abs(anatomy.mirror_pairs) @ abs(anatomy.incidence)).sum(axis=0)
    if context.ground is not None:
        stiff[anatomy.ground] += 1.0
    return stiff


def leash(points: Floats, raw: Floats, confidence: Floats, reach: float) -> Floats:
    """Points (P, m, K, d), surely seen joints no farther than ``reach`` from ``raw``."""
    sure = (confidence > SURE) & np.isfinite(raw[..., 0])
    off = np.where(sure[..., None], points - raw, 0.0)
    far = np.sqrt((off * off).sum(axis=-1, keepdims=True))
    share = np.minimum(reach / np.maximum(far, 1e-9), 1.0)
    return np.where(sure[..., None] & (share < 1.0), raw + share * off, points)
