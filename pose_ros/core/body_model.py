"""The kinematic tree of REP-155's human: joints, axes, limits, offsets, forward kinematics.

Names, parents, axes and limits are those of the URDF template that REP-155 refers to, so that
angles mean the same to every reader of ``/humans/bodies/<id>/joint_states``.

Source: ros4hri/human_description, urdf/human-tpl.xacro@a0fcf79 (facts only; no text taken).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.body_axes import LIMBS
from pose_ros.core.chains import Array

#: Lengths that give a body its size, metres; half widths from the middle to one side.
LENGTHS = (
    "torso", "neck", "head_radius", "shoulder_half", "hip_half",
    *(f"{side}_{part}" for side in "lr" for part in ("upper_arm", "forearm", "thigh", "shank")),
)  # fmt: skip
#: The template's artist's proportions, in its unit of body height / 7.5.
TEMPLATE = np.array([2.75, 0.25, 0.5, 0.8, 0.6] + [1.6, 1.0, 1.5, 2.0] * 2)
TEMPLATE_HEIGHT_M = 1.65


@dataclass(frozen=True)
class Joint:
    """A joint and the link it moves; a joint without an axis is fixed."""

    name: str
    parent: str
    child: str
    axis: tuple[int, int, int] | None
    lower_rad: float
    upper_rad: float
    offset: tuple[float, float, float]  # in the parent link, in units of ``length``
    length: str = "torso"


Triple = tuple[int, int, int]


def _hinge(
    name: str, links: tuple[str, str], axis: Triple, limits: tuple[float, float],
    offset: tuple[float, float, float] = (0, 0, 0), length: str = "torso",
) -> Joint:  # fmt: skip
    return Joint(name, links[0], links[1] or name, axis, limits[0], limits[1], offset, length)


def _fixed(name: str, parent: str, offset: tuple[float, float, float], length: str) -> Joint:
    return Joint(name, parent, name, None, 0.0, 0.0, offset, length)


def _arm(side: str, s: int) -> tuple[Joint, ...]:
    y, p, r = (f"{side}_{letter}_shoulder" for letter in "ypr")
    arm, elbow = f"{side}_shoulder", f"{side}_elbow"
    return (
        _hinge(y, ("torso", y), (0, 0, -s), (-1.1, 1.9), (0, s, 0), "shoulder_half"),
        _hinge(p, (y, p), (s, 0, 0), (-0.4, 3.3)),
        _hinge(r, (p, arm), (0, 0, s), (-1.7, 1.5)),
        _hinge(elbow, (arm, elbow), (0, -1, 0), (0.0, 2.5), (0, 0, -1), f"{side}_upper_arm"),
        _fixed(f"{side}_wrist", elbow, (0, 0, -1), f"{side}_forearm"),
    )


def _leg(side: str, s: int) -> tuple[Joint, ...]:
    y, p, r = (f"{side}_{letter}_hip" for letter in "ypr")
    thigh, knee = f"{side}_hip", f"{side}_knee"
    return (
        _hinge(y, ("body", y), (0, 0, -1), (-0.1, 0.6), (0, s, 0), "hip_half"),
        _hinge(p, (y, p), (s, 0, 0), (-0.4, 3.3)),
        _hinge(r, (p, thigh), (0, -1, 0), (-0.4, 0.7)),
        _hinge(knee, (thigh, knee), (0, -1, 0), (-2.5, 0.0), (0, 0, -1), f"{side}_thigh"),
        _fixed(f"{side}_ankle", knee, (0, 0, -1), f"{side}_shank"),
    )


#: Every joint after its parent; the order of the movable ones is that of JointState.
TREE: tuple[Joint, ...] = (
    _hinge("waist", ("body", "waist"), (0, 1, 0), (-0.2, 1.0)),
    _fixed("torso", "waist", (0, 0, 1), "torso"),
    _hinge("r_head", ("torso", "r_head"), (1, 0, 0), (-1.0, 1.0), (0, 0, 1), "neck"),
    _hinge("y_head", ("r_head", "y_head"), (0, 0, 1), (-1.4, 1.4)),
    _hinge("p_head", ("y_head", "p_head"), (0, -1, 0), (-1.5, 1.5)),
    _fixed("head", "p_head", (0.5, 0, 1), "head_radius"),
    *_arm("l", 1),
    *_arm("r", -1),
    *_leg("l", 1),
    *_leg("r", -1),
)
LINKS = ("body", *(joint.child for joint in TREE))
MOVABLE = tuple(joint for joint in TREE if joint.axis is not None)
#: The 20 joints whose angles are published, in the order of other REP-155 nodes.
JOINT_NAMES = tuple(joint.name for joint in MOVABLE)
#: Links at the proximal, middle and distal joint of left arm, right arm, left leg, right leg.
LIMB_LINKS = np.array(
    [
        [LINKS.index(f"{side}_{part}") for part in parts.split()]
        for parts in ("y_shoulder elbow wrist", "y_hip knee ankle")
        for side in "lr"
    ]
)

_ANGLE = {name: i for i, name in enumerate(JOINT_NAMES)}
_AXIS = np.array([joint.axis for joint in MOVABLE], np.float64)
_TURN = -np.cross(_AXIS[:, None, :], np.eye(3))
_ALONG = _AXIS[:, :, None] * _AXIS[:, None, :]
_PARENT = [LINKS.index(joint.parent) for joint in TREE]
_OFFSET = np.array([joint.offset for joint in TREE])
_LENGTH = np.array([LENGTHS.index(joint.length) for joint in TREE])


@dataclass(frozen=True)
class LinkPoses:
    """Where the links of P people are, in the frame their roots were given in."""

    xyz_m: Array  # (P, links, 3) origin of each of ``LINKS``
    rotation: Array  # (P, links, 3, 3) link to frame

    def limbs_m(self) -> Array:
        """(P, 4, 3, 3) proximal, middle and distal joint of the limbs; last axis x, y, z."""
        return self.xyz_m[:, LIMB_LINKS]


def forward(
    angle_rad: Array, lengths_m: Array, rotation: Array, origin_m: Array,
    shift_m: Array | None = None,
) -> LinkPoses:  # fmt: skip
    """Place every link of P bodies.

    ``angle_rad`` (P, 20) in the order of ``JOINT_NAMES``, ``lengths_m`` (P, 13) in that of
    ``LENGTHS``, root ``rotation`` (P, 3, 3) and ``origin_m`` (P, 3). ``shift_m`` (P, 4, 3) moves
    the roots of the limbs in the frame of the roots; see ``limb_shift``. A NaN angle makes the
    links below it NaN and no others.
    """
    turns = _turns(np.asarray(angle_rad, np.float64))
    offsets = _OFFSET * np.asarray(lengths_m, np.float64)[:, _LENGTH, None]
    offsets = np.where(_OFFSET == 0, 0.0, offsets)  # an unknown length moves only its own axis
    people = len(turns)
    xyz_m = np.empty((people, len(LINKS), 3))
    frames = np.empty((people, len(LINKS), 3, 3))
    xyz_m[:, 0], frames[:, 0] = origin_m, rotation
    roots = {int(link): limb for limb, link in enumerate(LIMB_LINKS[:, 0])}
    for i, (joint, parent) in enumerate(zip(TREE, _PARENT, strict=True)):
        frame = frames[:, parent]
        moved = (frame @ offsets[:, i, :, None])[..., 0]
        if shift_m is not None and i + 1 in roots:
            moved = moved + shift_m[:, roots[i + 1]]
        xyz_m[:, i + 1] = xyz_m[:, parent] + moved
        turn = None if joint.axis is None else turns[:, _ANGLE[joint.name]]
        frames[:, i + 1] = frame if turn is None else frame @ turn
    return LinkPoses(xyz_m, frames)


def body_lengths(xyz_m: Array) -> Array:
    """Lengths (P, 13) of bodies in COCO's order (P, 17, 3), metres; NaN where a joint is unknown.

    The face does not show where the neck ends, so neck and head follow from the torso in the
    template's proportions.
    """
    joints = xyz_m[:, LIMBS].astype(np.float64)  # (P, limb, joint, 3)
    bones = np.linalg.norm(np.diff(joints, axis=2), axis=-1)  # (P, limb, 2)
    roots = joints[:, :, 0]
    torso = np.linalg.norm(roots[:, :2].mean(axis=1) - roots[:, 2:].mean(axis=1), axis=-1)
    halves = np.linalg.norm(roots[:, ::2] - roots[:, 1::2], axis=-1) / 2
    trunk = torso[:, None] * TEMPLATE[:3] / TEMPLATE[0]
    return np.concatenate([trunk, halves, bones[:, [0, 2, 1, 3]].reshape(-1, 8)], axis=1)


def complete_lengths(lengths_m: Array) -> Array:
    """Fill unknown lengths (..., 13): from the other side, else in the template's proportions.

    The size is the median over the known lengths; nothing known gives the template's 1.65 m.
    """
    lengths = np.array(lengths_m, np.float64)
    mirrored = np.concatenate([lengths[..., :5], lengths[..., 9:], lengths[..., 5:9]], axis=-1)
    lengths = np.where(np.isnan(lengths), mirrored, lengths)
    ratio = np.where(np.isnan(lengths), np.nan, lengths / TEMPLATE)
    none = np.isnan(ratio).all(axis=-1, keepdims=True)
    size = np.nanmedian(np.where(none, TEMPLATE_HEIGHT_M / 7.5, ratio), axis=-1, keepdims=True)
    return np.asarray(np.where(np.isnan(lengths), size * TEMPLATE, lengths))


def limb_shift(xyz_m: Array, links: LinkPoses) -> Array:
    """How far the true roots of the limbs (P, 4, 3) are from where the model has them, metres.

    The model's hips and shoulders lie on parallel lines square to the trunk; real ones twist and
    tilt. With this as ``shift_m``, ``forward`` puts every joint of every limb where it was.
    """
    return np.asarray(xyz_m[:, LIMBS[:, 0]] - links.limbs_m()[:, :, 0])


def _turns(angle_rad: Array) -> Array:
    """(P, 20, 3, 3) rotations about the axes of the movable joints."""
    cos, sin = np.cos(angle_rad)[..., None, None], np.sin(angle_rad)[..., None, None]
    return np.asarray(cos * (np.eye(3) - _ALONG) + sin * _TURN + _ALONG)


def limits_rad() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(20,) lower and (20,) upper limits of the movable joints."""
    lower = np.array([joint.lower_rad for joint in MOVABLE])
    return lower, np.array([joint.upper_rad for joint in MOVABLE])
