"""What the two angle conventions share: how they are described, and the four limbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.body_axes import LIMBS, columns, cross, held_hinges, hinges, limb_segments
from pose_ros.core.chains import SINGULAR, Array, Chains, compose, decompose
from pose_ros.core.skeletons import COCO17

BoolArray = npt.NDArray[np.bool_]

HEAD = tuple(range(5))
TRUNK = tuple(LIMBS[:, 0].tolist())
THIGHS = (*TRUNK, *LIMBS[2:, 1].tolist())


@dataclass(frozen=True)
class Given:
    """What the joints themselves do not say, for N rows and K angles."""

    reference_rad: Array  # (N, K) angles before, NaN unknown
    gain: Array  # (N, 4) how far the twist of a limb follows its hinge: 1 fully, 0 not at all
    turn: Array  # (N, 4) rad by which the twist before is turned
    together: int = 1  # so many rows are one body, slightly moved; the first row decides


#: (joints (N, 17, 3), what is given) -> angles (N, K) rad, and which are singular (N, K).
Solver = Callable[[Array, Given], tuple[Array, BoolArray]]


@dataclass(frozen=True)
class Convention:
    """A set of K angles: names, stated ranges, what each rests on, and how to find them."""

    name: str
    names: tuple[str, ...]
    lower_rad: Array  # (K,)
    upper_rad: Array  # (K,)
    rests_on: BoolArray  # (K, 17) COCO joints that an angle may depend on
    spine: int  # column of the forward bend of the spine
    limbs: int  # first column of the limbs: three chain angles and a bend for each of four
    twist: npt.NDArray[np.int64]  # (4,) the column of each limb that its twist moves most
    solve: Solver


def limb_angles(
    xyz_m: Array, parents: Array, chains: Chains, reference_rad: Array, given: Given
) -> tuple[Array, BoolArray]:
    """Three chain angles and the bend, (N, 4, 4) rad, and which are singular, (N, 4, 4).

    ``parents`` (N, 4, 3, 3) are the frames that the four chains start from,
    ``reference_rad`` (N, 4, 4) the angles before. A limb without its far joint has a held twist
    and an unknown bend.
    """
    near, far = limb_segments(xyz_m)
    y, sine = hinges(near, far)
    bend = np.arctan2(sine, (near * far) @ np.ones(3))
    local = parents.swapaxes(-1, -2) @ columns(near, y, y)[..., :2]
    near, y = local[..., 0], local[..., 1].copy()
    before = reference_rad[..., :3]
    gain = np.where(sine >= SINGULAR, given.gain, 0.0)
    some = gain < 1
    if some.any():
        first = before[:: given.together]
        known = np.isfinite(first).all(axis=-1, keepdims=True)
        prior = np.repeat(compose(chains, np.where(known, first, 0.0)), given.together, axis=0)
        y[some] = held_hinges(near[some], y[some], prior[some], gain[some], given.turn[some])
    down = -near
    angle, singular = decompose(chains, columns(cross(y, down), y, down), before, given.together)
    both = np.concatenate([angle, bend[..., None]], axis=-1)
    flags = np.zeros(both.shape, np.bool_)
    flags[..., 0] = flags[..., 2] = singular
    return both, flags


def spine_or_held(spine_rad: Array, reference_rad: Array) -> Array:
    """``spine_rad`` (N,), where unknown the reference's, where that is unknown upright: 0."""
    return np.where(np.isnan(spine_rad), np.nan_to_num(reference_rad), spine_rad)


def rests_on(rows: list[tuple[int, ...]]) -> BoolArray:
    """(K, 17) mask from a tuple of COCO indices per angle."""
    mask = np.zeros((len(rows), len(COCO17)), np.bool_)
    for row, joints in zip(mask, rows, strict=True):
        row[list(joints)] = True
    return mask
