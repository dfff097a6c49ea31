"""Sizes of the human body that a joint set needs: how thick at a joint, how long between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton

Array = npt.NDArray[np.float64]

#: From the skin in front of a joint to its centre, metres: half the thickness of the body there.
#: Joints of the face lie on the skin. Rounded means of men and women.
#: Source: Gordon et al., 2012 Anthropometric Survey of U.S. Army Personnel, NATICK/TR-15/007:
#: wrist and ankle circumference over 2 pi, elbow and knee likewise, buttock and chest depth over 2
#: less what lies behind the joint.
THICKNESS_M = {
    "shoulder": 0.06, "elbow": 0.045, "wrist": 0.03, "hip": 0.10, "knee": 0.06, "ankle": 0.04,
    "neck": 0.06, "thorax": 0.10, "spine": 0.11, "pelvis": 0.11,
    "nose": 0.0, "eye": 0.0, "ear": 0.0, "top": 0.0,
}  # fmt: skip
#: Where the skin in front of a joint is not what the joint is behind, its depth is this uncertain,
#: metres: an ear is seen at the edge of the head, a nose sticks out of the face.
ROUGH_M = {"ear": 0.04, "nose": 0.015, "eye": 0.01, "top": 0.05}
#: The way through the flesh differs between people by this share, and at least by this, metres.
ROUGH_SHARE, ROUGH_LEAST_M = 0.3, 0.01
#: What a limb hangs on.
PARENT = {"elbow": "shoulder", "wrist": "elbow", "knee": "hip", "ankle": "knee"}
#: Half the width of what a joint of the face may be looked for on.
FACE_PATCH_M = 0.015
#: Distance of two joints in a person of 1.7 m, metres.
#: Source: Drillis & Contini 1966 in Winter, Biomechanics and Motor Control of Human Movement, 4th
#: ed., figure 4.1 (upper arm 0.186, forearm 0.146, thigh 0.245, shank 0.246 of the height),
#: between joint centres at shoulders and hips.
LENGTH_M = {
    frozenset(pair): length
    for pair, length in {
        ("shoulder",): 0.36, ("hip",): 0.22, ("shoulder", "hip"): 0.50,
        ("shoulder", "elbow"): 0.30, ("elbow", "wrist"): 0.25, ("hip", "knee"): 0.42,
        ("knee", "ankle"): 0.41,
        ("nose", "eye"): 0.05, ("eye", "ear"): 0.11, ("nose", "ear"): 0.14, ("ear",): 0.16,
        ("shoulder", "ear"): 0.25, ("shoulder", "nose"): 0.30,
        ("neck", "shoulder"): 0.19, ("neck", "nose"): 0.25, ("neck", "top"): 0.32,
        ("nose", "top"): 0.20, ("thorax", "shoulder"): 0.19, ("thorax", "neck"): 0.08,
        ("thorax", "nose"): 0.25, ("thorax", "spine"): 0.25, ("thorax", "pelvis"): 0.48,
        ("spine", "pelvis"): 0.25, ("pelvis", "hip"): 0.11,
    }.items()
}  # fmt: skip
#: Tall people, and what pixels add: a bone is at most this many times as long.
LONGEST = 1.3
FACE = ("nose", "eye", "ear", "top")


@dataclass(frozen=True)
class Body:
    """Sizes for the J joints of one joint set."""

    thickness_m: Array  # (J,) skin to joint centre
    rough_m: Array  # (J,) standard deviation of it
    width_m: Array  # (J,) half the width of the limb at the joint
    arms: npt.NDArray[np.int64]  # (J, 2) the far ends of the joint's two limbs; itself: none
    bones: npt.NDArray[np.int64]  # (B, 2) pairs of joints of known distance
    length_m: Array  # (B,)
    reach_m: Array  # (J, J) the furthest two joints can be apart; infinite if not connected
    limbs: npt.NDArray[np.bool_]  # (B,) bones with flesh around them, which can hide a joint
    hangs: tuple[
        npt.NDArray[np.int64], ...
    ]  # joint, what it hangs on (N, 2); the inner ones first
    hangs_m: tuple[Array, ...]  # (N,) length of those bones
    twins: npt.NDArray[np.int64]  # (N, 2) left and right of the same joint, the eyes excepted
    twins_m: Array  # (N,) how far apart they are: ears, shoulders, hips; limbs: at least


def body_of(skeleton: Skeleton) -> Body:
    """Sizes for a joint set; a joint of unknown name is 5 cm thick and has no bones."""
    part = [name.split("_")[-1] for name in skeleton.joints]
    side = [name.split("_")[0] if name.split("_")[0] in ("left", "right") else "" for name in
            skeleton.joints]  # fmt: skip
    thick = np.array([THICKNESS_M.get(p, 0.05) for p in part])
    bones, length = [], []
    count = len(part)
    for i in range(count):
        for j in range(i):
            crossed = side[i] != side[j] and "" not in (side[i], side[j])
            known = LENGTH_M.get(frozenset((part[i], part[j])))
            if known is not None and (not crossed or part[i] == part[j]):
                bones.append((j, i))
                length.append(known)
    pairs = np.array(bones, np.int64).reshape(-1, 2)
    flesh = np.array([part[a] != part[b] and not {part[a], part[b]} & set(FACE) for a, b in bones])
    rough = np.array([ROUGH_M.get(p, np.hypot(ROUGH_SHARE * t, ROUGH_LEAST_M))
                      for p, t in zip(part, thick, strict=True)])  # fmt: skip
    hangs = tuple(_hangs(skeleton, ends) for ends in (("elbow", "knee"), ("wrist", "ankle")))
    lengths = tuple(
        np.array([LENGTH_M[frozenset((part[a], part[b]))] for a, b in h]) for h in hangs
    )
    twins = [
        (skeleton.index(a), skeleton.index(b))
        for a, b in skeleton.flip_pairs
        if a.split("_")[-1] != "eye"
    ]
    apart = np.array([LENGTH_M.get(frozenset((part[a],)), 2 * thick[a]) for a, _ in twins])
    wide = np.where(np.isin(part, FACE), FACE_PATCH_M, np.minimum(thick, 0.07))
    reach = _reach(pairs, np.array(length), count)
    return Body(
        thick, rough, wide, _arms(pairs[flesh], count), pairs, np.array(length), reach,
        flesh.astype(bool), hangs, lengths, np.array(twins, np.int64).reshape(-1, 2), apart,
    )  # fmt: skip


def _hangs(skeleton: Skeleton, ends: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """(N, 2) the joints ``ends`` and what they hang on, where the joint set has both."""
    names = [
        (f"{side}_{end}", f"{side}_{PARENT[end]}") for end in ends for side in ("left", "right")
    ]
    known = [pair for pair in names if set(pair) <= set(skeleton.joints)]
    rows = [[skeleton.index(joint) for joint in pair] for pair in known]
    return np.array(rows, np.int64).reshape(-1, 2)


def _arms(limbs: npt.NDArray[np.int64], joints: int) -> npt.NDArray[np.int64]:
    arms = np.tile(np.arange(joints)[:, None], (1, 2))
    for joint in range(joints):
        ends = [int(b if a == joint else a) for a, b in limbs if joint in (a, b)]
        if ends:
            arms[joint] = (ends * 2)[:2]
    return arms


def _reach(bones: npt.NDArray[np.int64], length: Array, joints: int) -> Array:
    """Longest paths are sums of the longest bones (Floyd and Warshall)."""
    reach = np.full((joints, joints), np.inf)
    reach[bones[:, 0], bones[:, 1]] = reach[bones[:, 1], bones[:, 0]] = LONGEST * length
    reach[np.arange(joints), np.arange(joints)] = 0.0
    for via in range(joints):
        reach = np.minimum(reach, reach[:, via : via + 1] + reach[via])
    return reach
