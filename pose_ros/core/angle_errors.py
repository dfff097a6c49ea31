"""How joint angles move and err with the joints: one numeric Jacobian for velocity and spread.

All perturbed bodies of all people go through one call of the solver. Joints that no angle shares
are moved together, so that 17 joints need 9 x 3 moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pose_ros.core.body_axes import LIMBS, cross
from pose_ros.core.chains import Array, wrap
from pose_ros.core.inverse import BoolArray, Convention, Given
from pose_ros.core.skeletons import COCO17
from pose_ros.core.steady import COMMON, split_along_rays

#: Size of a move, metres; rounding and curvature then stay below 1e-8 rad for bent limbs.
STEP_M = 1e-6
STEP_RAD = 1e-6
#: Deviation of an angle that could be anything: uniform over the circle.
ANY_RAD = float(np.pi / np.sqrt(3.0))

_TOGETHER = (
    *((joint,) for joint in LIMBS[:, 0].tolist()),
    (0, *LIMBS[:2, 1].tolist(), LIMBS[2, 1]),  # nose, elbows, left knee
    (1, *LIMBS[:2, 2].tolist(), LIMBS[3, 1]),  # left eye, wrists, right knee
    (2, *LIMBS[2:, 2].tolist()),  # right eye, ankles
    (3,),
    (4,),
)
_GROUP = np.array([[j in group for group in _TOGETHER].index(True) for j in range(len(COCO17))])
_MOVES = np.zeros((len(_TOGETHER), 3, len(COCO17), 3))
for _joint, _group in enumerate(_GROUP):
    _MOVES[_group, :, _joint] = np.eye(3)
_STILL = np.zeros((1, len(COCO17), 3))
_MOVES = np.concatenate([_STILL, _MOVES.reshape(-1, len(COCO17), 3), _STILL])


@dataclass(frozen=True)
class Jacobian:
    """Derivatives of K angles of P people."""

    by_joint: Array  # (P, 17, K, 3) rad per metre; 0 where an angle does not rest on a joint
    by_twist: Array  # (P, K) rad per rad of turn of the twist that a limb had before

    def velocity(self, velocity_m_s: Array) -> Array:
        """(P, K) rad/s from the joints' velocities (P, 17, 3); NaN if one that matters is NaN."""
        each = (self.by_joint @ velocity_m_s[..., None])[..., 0]
        return np.asarray(np.where(self._matters, each, 0.0).sum(axis=1))

    def variance(self, covariance_m2: Array) -> Array:
        """(P, K) rad^2 from the joints' covariances (P, 17, 3, 3), taken as independent."""
        each = ((self.by_joint @ covariance_m2) * self.by_joint) @ np.ones(3)
        return np.asarray(np.where(self._matters, each, 0.0).sum(axis=1))

    @cached_property
    def _matters(self) -> BoolArray:
        return np.asarray((self.by_joint != 0) @ np.ones(3, np.bool_))


def solve_with_jacobian(
    convention: Convention, xyz_m: Array, reference_rad: Array, gain: Array
) -> tuple[Array, BoolArray, Jacobian]:
    """Angles (P, K) of joints (P, 17, 3), which are singular (P, K), and their derivatives.

    ``reference_rad`` (P, K) and ``gain`` (P, 4) as in ``Given``.
    """
    people, moves = len(xyz_m), len(_MOVES)
    moved = (xyz_m[:, None] + STEP_M * _MOVES).reshape(people * moves, *xyz_m.shape[1:])
    turn = np.zeros((people, moves, 4))
    turn[:, -1] = STEP_RAD
    given = Given(
        np.repeat(reference_rad, moves, axis=0), np.repeat(gain, moves, axis=0),
        turn.reshape(people * moves, 4), moves,
    )  # fmt: skip
    angle, singular = convention.solve(moved, given)
    angle = angle.reshape(people, moves, reference_rad.shape[1])
    off = wrap(angle[:, 1:] - angle[:, :1])
    by_move = (off[:, :-1] / STEP_M).reshape(people, len(_TOGETHER), 3, angle.shape[-1])
    by_joint = np.swapaxes(by_move[:, _GROUP], -1, -2)
    by_joint = np.where(convention.rests_on.T[:, :, None], by_joint, 0.0)
    return angle[:, 0], singular[::moves], Jacobian(by_joint, off[:, -1] / STEP_RAD)


def without_distance(xyz_m: Array, covariance_m2: Array, one_camera: BoolArray) -> Array:
    """Covariances (P, 17, 3, 3) without the error that moves a whole person along the rays.

    Of people whom ``one_camera`` (P,) shows, joints in its optical frame, mainly the distance is
    unknown. It is one error of all joints, which turns no bone: as errors of their own it would
    make every angle several times as uncertain as it is.
    """
    if not one_camera.any():
        return covariance_m2
    xyz = np.where(one_camera[:, None, None], xyz_m, np.nan)
    along = split_along_rays(xyz.astype(np.float32), covariance_m2.astype(np.float32))[1]
    ratio = along / np.where(np.isfinite(along), xyz[..., 2] ** 2, 1.0)
    least = np.where(np.isfinite(ratio), ratio, np.inf).min(axis=1)
    shared = np.where(np.isfinite(least), COMMON * least, 0.0)[:, None, None, None]
    outer = np.nan_to_num(xyz[..., :, None] * xyz[..., None, :])
    return np.asarray(covariance_m2 - shared * outer)


def twist_deviation(xyz_m: Array, covariance_m2: Array, near: Array, far: Array) -> Array:
    """Standard deviation (P, 4) of the twist that bent limbs show, rad; NaN if not estimated.

    The far joint's distance from the plane that the hinge is square to, over its distance from
    the line through the near segment: the straighter the limb, the less it says.
    """
    joints, spread = xyz_m[:, LIMBS], covariance_m2[:, LIMBS]
    ones, steps = np.ones(3), joints[:, :, 1:] - joints[:, :, :-1]
    bones = np.sqrt((steps * steps) @ ones)  # (P, 4, 2)
    across = cross(near, far)
    sine = np.sqrt((across * across) @ ones)
    along = ((near * far) @ ones) * bones[..., 1] / bones[..., 0]
    square = (across / np.maximum(sine, 1e-12)[..., None])[:, :, None]  # (P, 4, 1, 3)
    each = ((spread @ square[..., None])[..., 0] * square) @ ones  # (P, 4, 3) near to far
    variance = along**2 * each[..., 0] + (1.0 + along) ** 2 * each[..., 1] + each[..., 2]
    return np.asarray(np.sqrt(variance) / np.maximum(sine * bones[..., 1], 1e-12))
