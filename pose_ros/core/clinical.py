"""Clinical angles: flexion, abduction, rotation, as ISB's joint coordinate systems order them.

Every ball joint turns about the proximal segment's left-right axis (flexion), then a floating
axis (abduction, lateral bend), then the distal segment's long axis (rotation). Positive are
flexion, abduction, internal rotation; for trunk and neck flexion forwards, bend to the right,
rotation to the left. Zero is standing upright, arms down, palms in; see ``docs/angles.md``.

Source: Wu et al., J. Biomechanics 35, 2002 (hip, spine; the sequence Z-X-Y in ISB's axes) and
38, 2005 (shoulder, elbow). For the shoulder ISB proposes Y-X-Y, which is singular for a hanging
arm; this uses the hip's sequence, singular at 90 degrees of abduction. Segment axes are those a
COCO skeleton can give, not ISB's bony landmarks. Ranges: AAOS, Joint Motion, 1965, rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pose_ros.core.body_axes import (
    LIMBS,
    head_frame,
    pitched,
    spine_flexion,
    thorax_frame,
    trunk_frame,
    upright_pelvis_frame,
)  # fmt: skip
from pose_ros.core.chains import Array, Chains, compose, decompose
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

#: joint group: (signs of the turns about y, x, z), lower and upper ends of the ranges in degrees
_GROUPS = {
    "trunk": ((1, 1, 1), (-30, -35, -45), (80, 35, 45)),
    "neck": ((1, 1, 1), (-45, -45, -60), (45, 45, 60)),
    "left_shoulder": ((-1, 1, -1), (-60, -75, -90), (180, 180, 70)),
    "right_shoulder": ((-1, -1, 1), (-60, -75, -90), (180, 180, 70)),
    "left_hip": ((-1, 1, -1), (-30, -30, -45), (120, 45, 45)),
    "right_hip": ((-1, -1, 1), (-30, -30, -45), (120, 45, 45)),
}
_HINGES = {"elbow": (0, 150), "knee": (0, 135)}
_FIRST = 6  # column of the first limb; before it trunk and neck


def _chains(*names: str) -> Chains:
    rows = [_GROUPS[name] for name in names]
    return Chains.of(
        *(
            ("yxz", sign, tuple(np.radians(low)), tuple(np.radians(high)))
            for sign, low, high in rows
        )
    )


_AXIAL = _chains("trunk", "neck")
_LIMB_CHAINS = _chains("left_shoulder", "right_shoulder", "left_hip", "right_hip")


def solve(xyz_m: Array, given: Given) -> tuple[Array, BoolArray]:
    """Angles (N, 22) in the order of ``ISB.names``, and which of them are singular (N, 22)."""
    before = given.reference_rad
    spine = spine_or_held(spine_flexion(xyz_m, trunk_frame(xyz_m)), before[:, 0])
    pelvis, thorax = pitched(upright_pelvis_frame(xyz_m), -spine), thorax_frame(xyz_m)
    axial = np.stack(
        [
            np.swapaxes(pelvis, -1, -2) @ thorax,
            np.swapaxes(thorax, -1, -2) @ head_frame(xyz_m),
        ],
        axis=1,
    )
    axial_rad, axial_singular = decompose(
        _AXIAL, axial, before[:, :_FIRST].reshape(-1, 2, 3), given.together
    )
    parents = np.stack([thorax, thorax, pelvis, pelvis], axis=1)
    limbs, limb_singular = limb_angles(
        xyz_m, parents, _LIMB_CHAINS, before[:, _FIRST:].reshape(-1, 4, 4), given
    )
    rows = len(xyz_m)
    angle = np.concatenate([axial_rad.reshape(rows, 6), limbs.reshape(rows, 16)], axis=1)
    singular = np.zeros(angle.shape, np.bool_)
    singular[:, [0, 2]] = axial_singular[:, :1]
    singular[:, [3, 5]] = axial_singular[:, 1:]
    singular[:, _FIRST:] = limb_singular.reshape(rows, 16)
    return angle, singular


@dataclass(frozen=True)
class ClinicalPose:
    """Where clinical angles put P bodies, in the frame that their pelvises were given in."""

    limbs_m: Array  # (P, 4, 3, 3) left arm, right arm, left leg, right leg; near to far; xyz
    thorax: Array  # (P, 3, 3)
    head: Array  # (P, 3, 3)


def from_clinical(
    angle_rad: Array, lengths_m: Array, roots_m: Array, rotation: Array, origin_m: Array
) -> ClinicalPose:
    """Place P bodies.

    ``angle_rad`` (P, 22) in the order of ``ISB.names``; ``lengths_m`` (P, 4, 2) of the segments,
    near then far; ``roots_m`` (P, 4, 3) shoulders in the thorax, whose origin is mid-hips, and
    hips in the pelvis; ``rotation`` (P, 3, 3) and ``origin_m`` (P, 3) of the pelvis.
    """
    angle = np.asarray(angle_rad, np.float64)
    axial = compose(_AXIAL, angle[:, :_FIRST].reshape(-1, 2, 3))
    thorax = rotation @ axial[:, 0]
    parents = np.stack([thorax, thorax, rotation, rotation], axis=1)
    limbs = angle[:, _FIRST:].reshape(-1, 4, 4)
    near = parents @ compose(_LIMB_CHAINS, limbs[..., :3])
    bend = limbs[..., 3:] * np.array([1.0, 1.0, -1.0, -1.0])[:, None]
    far = np.concatenate([np.sin(bend), np.zeros_like(bend), -np.cos(bend)], axis=-1)
    root = origin_m[:, None] + np.einsum("plxi,pli->plx", parents, roots_m)
    middle = root - near[..., 2] * lengths_m[..., :1]
    end = middle + np.einsum("plxi,pli->plx", near, far) * lengths_m[..., 1:]
    return ClinicalPose(np.stack([root, middle, end], axis=2), thorax, thorax @ axial[:, 1])


def pelvis_frame(xyz_m: Array) -> tuple[Array, Array]:
    """Rotation (P, 3, 3) of the clinical pelvis and its origin (P, 3), mid-hips."""
    spine = spine_flexion(xyz_m, trunk_frame(xyz_m))
    spine = spine_or_held(spine, np.full(len(xyz_m), np.nan))
    return pitched(upright_pelvis_frame(xyz_m), -spine), xyz_m[:, LIMBS[2:, 0]].mean(axis=1)


def _names() -> list[tuple[str, float, float]]:
    """Names with the ends of their ranges, degrees."""
    turns = {
        "trunk": ("flexion", "lateral", "rotation"),
        "neck": ("flexion", "lateral", "rotation"),
    }
    rows: list[tuple[str, float, float]] = []
    for group, (_, low, high) in _GROUPS.items():
        parts = turns.get(group, ("flexion", "abduction", "rotation"))
        rows += [(f"{group}_{p}", a, b) for p, a, b in zip(parts, low, high, strict=True)]
        side, _, ball = group.partition("_")
        if ball:
            hinge = "elbow" if ball == "shoulder" else "knee"
            rows.append((f"{side}_{hinge}_flexion", *_HINGES[hinge]))
    return rows


def _rests_on() -> BoolArray:
    rows = [THIGHS, TRUNK, TRUNK, *[(*TRUNK, *HEAD)] * 3]
    for limb, (near, middle, far) in enumerate(LIMBS.tolist()):
        parent = TRUNK if limb < 2 else THIGHS
        rows += [(*parent, middle)] * 2 + [(*parent, middle, far), (near, middle, far)]
    return rests_on(rows)


ISB = Convention(
    name="isb",
    names=tuple(name for name, _, _ in _names()),
    lower_rad=np.radians([low for _, low, _ in _names()]),
    upper_rad=np.radians([high for _, _, high in _names()]),
    rests_on=_rests_on(),
    spine=0,
    limbs=_FIRST,
    twist=_FIRST + np.array([2, 6, 10, 14]),
    solve=solve,
)
