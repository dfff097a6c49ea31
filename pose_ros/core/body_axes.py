"""Directions of a body from its COCO joints: trunk, pelvis, head, limbs, and how limbs twist.

Every function takes ``xyz_m`` (N, 17, 3) in COCO's order, in any right-handed frame with metres,
NaN unknown. A frame is a rotation (N, 3, 3) whose columns are x (out of the chest), y (to the
person's left) and z (to the head); drawings and definitions are in ``docs/angles.md``.
"""

from __future__ import annotations

import numpy as np

from pose_ros.core.chains import Array
from pose_ros.core.skeletons import COCO17

#: Proximal, middle and distal joint of left arm, right arm, left leg, right leg: (4, 3).
LIMBS = np.array(
    [
        [COCO17.index(f"{side}_{part}") for part in parts.split()]
        for parts in ("shoulder elbow wrist", "hip knee ankle")
        for side in ("left", "right")
    ]
)
#: Elbows bend forwards, knees backwards.
BENDS = np.array([1.0, 1.0, -1.0, -1.0])
#: Share of the flexion between thighs and trunk that happens in the spine, the rest being in the
#: hips. COCO has two joints on the pelvis, so its pitch cannot be measured; the true share varies
#: with the depth of the bend and from person to person. Source: our choice, after Esola et al.,
#: Spine 21(1), 1996, where hips and lumbar spine share forward bending.
SPINE_SHARE = 1.0 / 3.0
#: Ears, eyes and nose of a mean face: metres (ahead, up) from between the ears at a level gaze.
FACE_M = ((0.0, 0.0), (0.09, 0.02), (0.115, -0.025))

NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
_SHOULDERS, _HIPS = LIMBS[:2, 0], LIMBS[2:, 0]
_KNEES = LIMBS[2:, 1]
_ROOTS = tuple(LIMBS[:, 0].tolist())  # as plain numbers, which index without a copy
_LEFT_ENDS, _RIGHT_ENDS = LIMBS[::2, 0], LIMBS[1::2, 0]  # of the lines of shoulders and of hips
_ONES = np.ones(3)  # a product with it is a sum over x, y, z, quicker than numpy's sum
_YZX, _ZXY = np.array([1, 2, 0]), np.array([2, 0, 1])


def unit(vector: Array) -> Array:
    """Vectors of length 1; NaN where the length is 0."""
    length = np.sqrt((vector * vector) @ _ONES)[..., None]
    return np.asarray(vector / np.where(length > 0, length, np.nan))


def cross(a: Array, b: Array) -> Array:
    """Cross product over the last axis, without ``np.cross``'s overhead."""
    return a.take(_YZX, -1) * b.take(_ZXY, -1) - a.take(_ZXY, -1) * b.take(_YZX, -1)


def columns(x: Array, y: Array, z: Array) -> Array:
    """Matrices (..., 3, 3) with these columns (..., 3), without ``np.stack``'s overhead."""
    out = np.empty((*x.shape, 3))
    out[..., 0], out[..., 1], out[..., 2] = x, y, z
    return out


def trunk_frame(xyz_m: Array) -> Array:
    """The torso of REP-155's model: z from mid-hips to mid-shoulders exactly.

    y is what fits the lines of shoulders and of hips best (least squares, so the wider line
    counts more), because the model has no joint between them that could turn or bend sideways.
    """
    lines = xyz_m[:, _LEFT_ENDS] - xyz_m[:, _RIGHT_ENDS]
    width = np.sqrt((lines * lines) @ _ONES)
    return _frame(_up(xyz_m), (width[:, None] @ lines)[:, 0])


def thorax_frame(xyz_m: Array) -> Array:
    """Clinical thorax: z from mid-hips to mid-shoulders, y nearest to the shoulders' line."""
    return _frame(_up(xyz_m), xyz_m[:, _SHOULDERS[0]] - xyz_m[:, _SHOULDERS[1]])


def upright_pelvis_frame(xyz_m: Array) -> Array:
    """Clinical pelvis before its pitch: y along the hips exactly, z towards the shoulders."""
    y = unit(xyz_m[:, _HIPS[0]] - xyz_m[:, _HIPS[1]])
    x = unit(cross(y, _up(xyz_m)))
    return columns(x, y, cross(x, y))


def pitched(frame: Array, forward_rad: Array) -> Array:
    """``frame`` (N, 3, 3) turned about its y, so that z moves forwards by ``forward_rad`` (N,)."""
    cos, sin = np.cos(forward_rad)[:, None], np.sin(forward_rad)[:, None]
    x, z = frame[..., 0], frame[..., 2]
    out = frame.copy()
    out[..., 0], out[..., 2] = cos * x - sin * z, cos * z + sin * x
    return out


def spine_flexion(xyz_m: Array, trunk: Array) -> Array:
    """Forward bend (N,) of the trunk against the pelvis, rad; NaN unless both thighs are known.

    The mean of both thighs against the trunk, times ``SPINE_SHARE``. The half-angle form equals
    the angle for parallel thighs and stays smooth when they point apart, as in a split.
    """
    left, right = unit(xyz_m[:, _KNEES] - xyz_m[:, _HIPS]).swapaxes(0, 1)
    local = (trunk.swapaxes(-1, -2) @ (0.5 * (left + right))[..., None])[..., 0]
    return np.asarray(SPINE_SHARE * 2 * np.arctan2(local[:, 0], 1.0 - local[:, 2]))


def head_frame(xyz_m: Array) -> Array:
    """The head from what is known of the face; NaN without a line across and a point ahead.

    Across: ears, else eyes. Ahead, first of: ears to nose and eyes, ears to nose, ears to eyes,
    eyes to nose; each has its own pitch in ``FACE_M``, taken off so that a level gaze is level.
    """
    across = xyz_m[:, [LEFT_EAR, LEFT_EYE]] - xyz_m[:, [RIGHT_EAR, RIGHT_EYE]]
    y = unit(np.where(np.isnan(across[:, :1]), across[:, 1:], across[:, :1])[:, 0])
    ears = (xyz_m[:, LEFT_EAR] + xyz_m[:, RIGHT_EAR]) / 2
    eyes = (xyz_m[:, LEFT_EYE] + xyz_m[:, RIGHT_EYE]) / 2
    ahead, pitch = _ahead(ears, eyes, xyz_m[:, NOSE])
    z = unit(cross(ahead, y))
    y = y + 0.0 * z  # a head is known whole or not at all
    return pitched(columns(cross(y, z), y, z), pitch)


def face_used(xyz_m: Array) -> np.ndarray:
    """(N, 5) which face joints ``head_frame`` rests on, in COCO's order."""
    known = ~np.isnan(xyz_m[:, :5].sum(axis=-1))
    nose, both_eyes, both_ears = known[:, 0], known[:, 1:3].all(1), known[:, 3:5].all(1)
    enough = (both_ears & (nose | both_eyes)) | (both_eyes & nose)
    used = np.stack([nose, both_eyes, both_eyes, both_ears, both_ears], axis=1)
    return np.where(enough[:, None], used, True)


def limb_segments(xyz_m: Array) -> tuple[Array, Array]:
    """Unit vectors of the proximal and the distal segment of the four limbs, (N, 4, 3) each."""
    joints = xyz_m[:, LIMBS]
    segments = unit(joints[:, :, 1:] - joints[:, :, :-1])
    return segments[:, :, 0], segments[:, :, 1]


def bend(near: Array, far: Array) -> Array:
    """Angle between the segments of a limb, in [0, pi] rad; 0 is straight."""
    across = cross(near, far)
    return np.asarray(np.arctan2(np.sqrt(_dot(across, across)), _dot(near, far)))


def hinges(near: Array, far: Array) -> tuple[Array, Array]:
    """What bent limbs show: the hinge (N, 4, 3) of elbow or knee, and the sine of the bend."""
    across = cross(far, near) * BENDS[:, None]
    sine = np.sqrt(_dot(across, across))
    return across / np.where(sine > 0, sine, np.nan)[..., None], sine


def held_hinges(near: Array, shown: Array, prior: Array, gain: Array, turn: Array) -> Array:
    """Hinges (M, 3) of M limbs that are too straight to show theirs well.

    Those of ``prior`` (M, 3, 3, earlier rotations of the near segments), carried to the new
    direction ``near`` (M, 3) without twisting, turned about the limb by ``turn`` (M,) rad, and
    then ``gain`` (M,), in [0, 1), of the way to the ``shown`` ones.
    """
    held = _turned(_carry(prior, near), near, turn)
    if not (gain > 0).any():
        return held
    off = np.arctan2(_dot(cross(held, shown), -near), _dot(held, shown))
    return _turned(held, near, np.where(gain > 0, gain * off, 0.0))


def _turned(hinge: Array, near: Array, angle: Array) -> Array:
    return np.asarray(
        np.cos(angle)[..., None] * hinge + np.sin(angle)[..., None] * cross(hinge, near)
    )


def _carry(prior: Array, near: Array) -> Array:
    """``prior``'s y after the shortest turn that brings its -z to ``near``; unit, square to it."""
    start, y = -prior[..., 2], prior[..., 1]
    axis = cross(start, near)
    cosine = _dot(start, near)[..., None]
    once = cross(axis, y)
    moved = y + once + cross(axis, once) / np.maximum(1.0 + cosine, 1e-12)
    moved = np.where(cosine < -1 + 1e-9, y, moved)  # opposite: turned about y itself
    return unit(moved - near * _dot(moved, near)[..., None])


def _up(xyz_m: Array) -> Array:
    left_shoulder, right_shoulder, left_hip, right_hip = _ROOTS
    shoulders = xyz_m[:, left_shoulder] + xyz_m[:, right_shoulder]
    return 0.5 * (shoulders - (xyz_m[:, left_hip] + xyz_m[:, right_hip]))


def _dot(a: Array, b: Array) -> Array:
    return np.asarray((a * b) @ _ONES)


def _frame(z_exact: Array, y_hint: Array) -> Array:
    z = unit(z_exact)
    x = unit(cross(y_hint, z))
    return columns(x, cross(z, x), z)


def _ways_ahead(ears: Array, eyes: Array, nose: Array) -> list[Array]:
    """Vectors that point ahead, the best first; NaN where a point is unknown."""
    return [(eyes + nose) / 2 - ears, nose - ears, eyes - ears, nose - eyes]


#: How far each of them points up in the mean face, rad.
_PITCH = [float(np.arctan2(v[1], v[0])) for v in _ways_ahead(*(np.array(p) for p in FACE_M))]


def _ahead(ears: Array, eyes: Array, nose: Array) -> tuple[Array, Array]:
    """The first known vector ahead (N, 3) and how far it points up in the mean face (N,)."""
    *others, ahead = _ways_ahead(ears, eyes, nose)
    pitch = np.full(len(ahead), _PITCH[-1])
    for vector, up in zip(others[::-1], _PITCH[-2::-1], strict=True):
        known = ~np.isnan(vector.sum(axis=-1))
        ahead = np.where(known[:, None], vector, ahead)
        pitch = np.where(known, up, pitch)
    return ahead, pitch
