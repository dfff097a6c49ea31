"""What is known of bodies in general: proportions, hinges, speeds and mobility, by joint name.

Letters in shapes: K joints, E bones, H hinges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton

FloatArray64 = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

#: Stature in metres of somebody of whom nothing is known.
STATURE_M = 1.70

#: Bone lengths as shares of the stature, by the two parts that a bone joins (no sides).
#: Source: Winter, Biomechanics and Motor Control of Human Movement, figure 4.1 (after Drillis and
#: Contini) for limbs and trunk; the face from eye height .936, ear height .93 and head breadth.
#: The shoulders' .259 and the hips' .191 there are breadths of the body; the joints' centres in
#: motion capture lie .20 to .22 and .09 to .13 apart.
RATIO_OF_STATURE: dict[frozenset[str], float] = {
    frozenset({"shoulder"}): 0.210,  # left to right
    frozenset({"hip"}): 0.110,
    frozenset({"shoulder", "elbow"}): 0.186,
    frozenset({"elbow", "wrist"}): 0.146,
    frozenset({"hip", "knee"}): 0.245,
    frozenset({"knee", "ankle"}): 0.246,
    frozenset({"shoulder", "hip"}): 0.288,
    frozenset({"neck", "shoulder"}): 0.105,
    frozenset({"thorax", "shoulder"}): 0.105,
    frozenset({"pelvis", "hip"}): 0.055,
    frozenset({"pelvis", "thorax"}): 0.288,
    frozenset({"pelvis", "spine"}): 0.144,
    frozenset({"spine", "thorax"}): 0.144,
    frozenset({"neck", "thorax"}): 0.052,
    frozenset({"neck", "head_top"}): 0.182,
    frozenset({"nose", "eye"}): 0.030,
    frozenset({"eye", "ear"}): 0.057,
}

#: Least and largest included angle at a hinge, degrees, by (outer, hinge, outer) parts.
ANGLE_LIMIT_DEG: dict[tuple[str, str, str], tuple[float, float]] = {
    ("shoulder", "elbow", "wrist"): (25.0, 180.0),
    ("hip", "knee", "ankle"): (25.0, 180.0),
    ("shoulder", "hip", "knee"): (30.0, 180.0),
}

#: Sign of n . (a x b) at a legally bent hinge: n from the right to the left hip, a and b from the
#: hinge to its upper and lower neighbour. Elbows fold forwards, knees backwards.
BEND_SIGN: dict[str, float] = {"elbow": 1.0, "knee": -1.0}

#: Fastest plausible motion, m/s; in 2-D the same numbers are person heights per second.
SPEED_LIMIT_M_S: dict[str, float] = {"wrist": 15.0, "ankle": 15.0, "elbow": 10.0, "knee": 10.0}
TRUNK_SPEED_LIMIT_M_S = 4.0

#: How freely a joint's velocity wanders: share of the refiner's ``process`` density.
MOBILITY: dict[str, float] = {
    "wrist": 2.5, "elbow": 1.0, "ankle": 2.0, "knee": 1.0, "hip": 0.4, "shoulder": 0.5,
}  # fmt: skip
MOBILITY_ELSEWHERE = 0.6

#: The joint that carries another one while that is out of sight; sides are kept.
CARRIER: dict[str, tuple[str, ...]] = {
    "wrist": ("elbow",),
    "elbow": ("shoulder",),
    "ankle": ("knee",),
    "knee": ("hip",),
}


def part_of(joint: str) -> str:
    """Return the joint's name without its side."""
    return joint.removeprefix("left_").removeprefix("right_")


def mirror_of(joint: str) -> str:
    """Return the same joint of the other side; a joint without a side is its own mirror."""
    if joint.startswith("left_"):
        return "right_" + joint[5:]
    return "left_" + joint[6:] if joint.startswith("right_") else joint


@dataclass(frozen=True)
class Anatomy:
    """A joint set with everything that the refiner needs of it, as arrays.

    A hinge is a joint with two bones of the set; ``hinge_bones`` and ``hinge_signs`` turn bone
    vectors (first joint minus second) into the vectors from the hinge to its two neighbours.
    """

    skeleton: Skeleton
    edges: IndexArray  # (E, 2)
    incidence: FloatArray64  # (E, K) +1 at the first joint of a bone, -1 at the second
    ratio: FloatArray64  # (E,) share of the stature, NaN without a table value
    mirrored: IndexArray  # (M, 2) bones that mirror each other, left and right
    mirror_bone: IndexArray  # (E,) the mirrored bone, itself where it has none
    mirror_pairs: FloatArray64  # (M, E) +1 at the left, -1 at the right bone of a mirrored pair
    mirror_laplacian: FloatArray64  # (E, E) mirror_pairs^T mirror_pairs
    laplacian_max: float  # largest eigenvalue of incidence^T incidence
    mirrored_max: float  # the same of the mirrored bones only
    hinge_joint: IndexArray  # (H,)
    hinge_bones: IndexArray  # (2 H,) bones to the upper, then to the lower neighbours
    hinge_signs: FloatArray64  # (2 H, 1)
    hinge_spread: FloatArray64  # (E, 2 H) carries the neighbour vectors back to the bones
    hinge_members: FloatArray64  # (H, K) 1 at the three joints of a hinge
    cos_max: FloatArray64  # (H,) cosine of the least included angle
    cos_min: FloatArray64  # (H,) cosine of the largest included angle
    bend_sign: FloatArray64  # (H,) 0 where any direction is legal
    hips: tuple[int, int] | None  # left and right hip, None if the set lacks one
    speed_limit: FloatArray64  # (K,) m/s or person heights per second
    mobility: FloatArray64  # (K,)
    carrier: FloatArray64  # (K, K) rows: weights of the joints that carry an unseen joint
    ground: IndexArray  # joints that cannot be below the floor


@cache
def anatomy_of(skeleton: Skeleton) -> Anatomy:
    """Return the tables of a joint set; computed once per set."""
    edges = skeleton.edge_indices()
    count, bones = len(skeleton), len(edges)
    incidence = np.zeros((bones, count))
    incidence[np.arange(bones), edges[:, 0]] = 1.0
    incidence[np.arange(bones), edges[:, 1]] = -1.0
    parts = [part_of(joint) for joint in skeleton.joints]
    ratio = [
        RATIO_OF_STATURE.get(frozenset(map(part_of, edge)), math.nan) for edge in skeleton.edges
    ]
    mirror = _mirror_bones(skeleton)
    pairs = np.array([(e, m) for e, m in enumerate(mirror) if e < m], np.int64).reshape(-1, 2)
    sides = incidence[np.unique(pairs)]
    signed = np.zeros((len(pairs), bones))
    signed[np.arange(len(pairs)), pairs[:, 0]] = 1.0
    signed[np.arange(len(pairs)), pairs[:, 1]] = -1.0
    has_hips = {"left_hip", "right_hip"} <= set(skeleton.joints)
    return Anatomy(
        skeleton=skeleton, edges=edges, incidence=incidence, ratio=np.array(ratio),
        mirrored=pairs, mirror_bone=mirror,
        mirror_pairs=signed, mirror_laplacian=signed.T @ signed,
        laplacian_max=_largest(incidence), mirrored_max=_largest(sides),
        **_hinges(skeleton),
        hips=(skeleton.index("left_hip"), skeleton.index("right_hip")) if has_hips else None,
        speed_limit=np.array([SPEED_LIMIT_M_S.get(p, TRUNK_SPEED_LIMIT_M_S) for p in parts]),
        mobility=np.array([MOBILITY.get(p, MOBILITY_ELSEWHERE) for p in parts]),
        carrier=_carriers(skeleton),
        ground=np.flatnonzero([p in ("ankle", "knee") for p in parts]),
    )  # fmt: skip


def _largest(incidence: FloatArray64) -> float:
    if not len(incidence):
        return 0.0
    return float(np.linalg.eigvalsh(incidence.T @ incidence)[-1])


def _mirror_bones(skeleton: Skeleton) -> IndexArray:
    """(E,) index of the bone between the mirrored joints, a bone's own index where none is."""
    where = {frozenset(edge): index for index, edge in enumerate(skeleton.edges)}
    return np.array(
        [
            where.get(frozenset(map(mirror_of, edge)), index)
            for index, edge in enumerate(skeleton.edges)
        ],
        np.int64,
    )


def _hinges(skeleton: Skeleton) -> dict[str, Any]:
    """Every hinge of `ANGLE_LIMIT_DEG` whose two bones the set has."""
    where = {edge: (index, 1.0) for index, edge in enumerate(skeleton.edges)}
    where |= {(b, a): (index, -1.0) for index, (a, b) in enumerate(skeleton.edges)}
    joints, ends, upper, lower, limits, signs = [], [], [], [], [], []
    for side in ("left_", "right_"):
        for (first, middle, last), degrees in ANGLE_LIMIT_DEG.items():
            names = side + first, side + middle, side + last
            if (names[0], names[1]) not in where or (names[2], names[1]) not in where:
                continue
            joints.append(skeleton.index(names[1]))
            ends.append([skeleton.index(names[0]), skeleton.index(names[2])])
            upper.append(where[names[0], names[1]])
            lower.append(where[names[2], names[1]])
            limits.append(np.cos(np.radians(degrees)))
            signs.append(BEND_SIGN.get(middle, 0.0))
    both = upper + lower
    spread = np.zeros((len(skeleton.edges), len(both)))
    members = np.zeros((len(joints), len(skeleton)))
    for column, (bone, sign) in enumerate(both):
        spread[bone, column] = sign
    for row, joint in enumerate(joints):
        members[row, [joint, *ends[row]]] = 1.0
    return {
        "hinge_spread": spread,
        "hinge_members": members,
        "hinge_joint": np.array(joints, np.int64),
        "hinge_bones": np.array([bone for bone, _ in both], np.int64),
        "hinge_signs": np.array([[sign] for _, sign in both], np.float64).reshape(-1, 1),
        "cos_max": np.array([limit[0] for limit in limits], np.float64),
        "cos_min": np.array([limit[1] for limit in limits], np.float64),
        "bend_sign": np.array(signs, np.float64),
    }


def _carriers(skeleton: Skeleton) -> FloatArray64:
    """(K, K) rows that sum to 1: a limb's joint moves with its carrier, others with the trunk."""
    parts = [part_of(joint) for joint in skeleton.joints]
    trunk = [i for i, p in enumerate(parts) if p in ("shoulder", "hip")] or list(range(len(parts)))
    face = [i for i, p in enumerate(parts) if p in ("nose", "eye", "ear", "head_top")]
    table = np.zeros((len(parts), len(parts)))
    for row, (joint, part) in enumerate(zip(skeleton.joints, parts, strict=True)):
        side = joint.removesuffix(part)
        above = [side + name for name in CARRIER.get(part, ())]
        wanted = [skeleton.index(name) for name in above if name in skeleton.joints]
        if not wanted:
            wanted = face if row in face and len(face) > 1 else trunk
        others = [i for i in wanted if i != row] or wanted
        table[row, others] = 1.0 / len(others)
    return table
