"""REP-155's 20 joints from COCO joints in 3-D, so that ``body_model.forward`` undoes it."""

from __future__ import annotations

import numpy as np

from pose_ros.core.body_axes import LIMBS, head_frame, pitched, spine_flexion, trunk_frame
from pose_ros.core.body_model import JOINT_NAMES, limits_rad
from pose_ros.core.chains import Array, Chains, decompose
from pose_ros.core.inverse import (
    HEAD,
    THIGHS,
    TRUNK,
    BoolArray,
    Convention,
    Given,
    limb_angles,
    rests_on,
    spine_or_held,
)  # fmt: skip

_LOWER, _UPPER = limits_rad()
_FIRST = 4  # column of the first limb; before it waist and head
_AXES = (("zxz", (-1, 1, 1)), ("zxz", (1, -1, -1)), ("zxy", (-1, 1, -1)), ("zxy", (-1, -1, -1)))


def _ranges(first: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(_LOWER[first : first + 3]), tuple(_UPPER[first : first + 3])


_HEAD_CHAIN = Chains.of(("xzy", (1, 1, -1), *_ranges(1)))
_LIMB_CHAINS = Chains.of(
    *((*axes, *_ranges(_FIRST + 4 * limb)) for limb, axes in enumerate(_AXES))
)
#: Knees count backwards from 0.
_BEND_SIGN = np.array([1.0, 1.0, -1.0, -1.0])


def body_frame(xyz_m: Array, waist_rad: Array | None = None) -> tuple[Array, Array]:
    """Root of the body: rotation (P, 3, 3) of x forward, y left, z to the head; mid-hips (P, 3).

    ``xyz_m`` is (P, 17, 3) in COCO's order. The body is the trunk's frame bent back by the waist:
    ``waist_rad`` (P,), or as the thighs say, or 0 where they are unknown. NaN where a hip or a
    shoulder is unknown.
    """
    trunk = trunk_frame(xyz_m)
    if waist_rad is None:
        waist_rad = spine_or_held(spine_flexion(xyz_m, trunk), np.full(len(xyz_m), np.nan))
    return pitched(trunk, -waist_rad), xyz_m[:, LIMBS[2:, 0]].mean(axis=1)


def solve(xyz_m: Array, given: Given) -> tuple[Array, BoolArray]:
    """Angles (N, 20) in the order of ``JOINT_NAMES``, and which of them are singular (N, 20)."""
    before = given.reference_rad
    trunk = trunk_frame(xyz_m)
    waist = spine_or_held(spine_flexion(xyz_m, trunk), before[:, 0])
    waist = np.where(np.isnan(trunk[:, 0, 0]), np.nan, waist)
    pelvis = pitched(trunk, -waist)
    head = np.swapaxes(trunk, -1, -2) @ head_frame(xyz_m)
    head_rad, head_singular = decompose(
        _HEAD_CHAIN, head[:, None], before[:, None, 1:4], given.together
    )
    parents = np.stack([trunk, trunk, pelvis, pelvis], axis=1)
    limbs, limb_singular = limb_angles(
        xyz_m, parents, _LIMB_CHAINS, before[:, _FIRST:].reshape(-1, 4, 4), given
    )
    limbs[..., 3] *= _BEND_SIGN
    rows = len(xyz_m)
    angle = np.concatenate([waist[:, None], head_rad[:, 0], limbs.reshape(rows, 16)], axis=1)
    singular = np.zeros(angle.shape, np.bool_)
    singular[:, [1, 3]] = head_singular
    singular[:, _FIRST:] = limb_singular.reshape(rows, 16)
    return angle, singular


def _rests_on() -> BoolArray:
    rows = [THIGHS, *[(*TRUNK, *HEAD)] * 3]
    for limb, (near, middle, far) in enumerate(LIMBS.tolist()):
        if limb < 2:
            rows += [(*TRUNK, middle)] * 2 + [(*TRUNK, middle, far)]
        else:
            rows += [(*THIGHS, far)] * 3
        rows.append((near, middle, far))
    return rests_on(rows)


REP155 = Convention(
    name="rep155",
    names=JOINT_NAMES,
    lower_rad=_LOWER,
    upper_rad=_UPPER,
    rests_on=_rests_on(),
    spine=0,
    limbs=_FIRST,
    twist=_FIRST + np.array([2, 6, 8, 12]),
    solve=solve,
)
