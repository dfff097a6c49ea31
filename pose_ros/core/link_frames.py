"""Where the links of a person's model are in their parents: what TF says beside the root.

The same tree and lengths as the person's URDF, so that these frames are those that a
robot_state_publisher would compute from that URDF and the person's joint angles.
"""

from __future__ import annotations

import numpy as np

from pose_ros.core.body_model import (
    JOINT_NAMES,
    LENGTHS,
    LINKS,
    TREE,
    body_lengths,
    complete_lengths,
)
from pose_ros.core.chains import Array

#: A model is a new one when a length has changed by more than this share.
CHANGE = 0.03
#: Weight of a new frame in a person's mean lengths.
SHARE = 0.05

_FIXED = -1
_COLUMN = np.array([_FIXED if j.axis is None else JOINT_NAMES.index(j.name) for j in TREE])
_AXIS = np.array([(0, 0, 0) if j.axis is None else j.axis for j in TREE], np.float64)
_PARENT = [LINKS.index(j.parent) for j in TREE]
_OFFSET = np.array([j.offset for j in TREE], np.float64)
_LENGTH = np.array([LENGTHS.index(j.length) for j in TREE])


def link_transforms(angle_rad: Array, lengths_m: Array) -> tuple[Array, Array]:
    """Every link in its parent: origins (P, 26, 3) and unit quaternions (P, 26, 4) x, y, z, w.

    In the order of ``body_model.TREE``. ``angle_rad`` (P, 20) in that of ``JOINT_NAMES``,
    ``lengths_m`` (P, 13) in that of ``LENGTHS``. A link whose angle or length is unknown is NaN,
    with every link that hangs on it: there is no way to it from the root.
    """
    angle = np.asarray(angle_rad, np.float64)
    turn = np.where(_COLUMN == _FIXED, 0.0, angle[:, np.maximum(_COLUMN, 0)])
    size = np.asarray(lengths_m, np.float64)[:, _LENGTH, None]
    xyz_m = np.where(_OFFSET == 0, 0.0, _OFFSET * size)
    unknown = np.isnan(turn) | np.isnan(xyz_m).any(axis=-1)
    below = np.zeros((len(angle), len(LINKS)), np.bool_)
    for i, parent in enumerate(_PARENT):
        below[:, i + 1] = unknown[:, i] | below[:, parent]
    half = turn[..., None] / 2
    quaternion = np.concatenate([_AXIS * np.sin(half), np.cos(half)], axis=-1)
    quaternion = np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    lost = below[:, 1:, None]
    return np.where(lost, np.nan, xyz_m), np.where(lost, np.nan, quaternion)


class PersonSize:
    """Mean lengths of one person, and those that were last given out."""

    def __init__(self) -> None:
        """Know nothing."""
        self._mean_m: Array | None = None  # (13,) of body_model.LENGTHS, metres
        self.told_m: Array | None = None  # (13,) complete; None before the first known length

    def update(self, joints_m: Array) -> bool:
        """Learn from joints (17, 3) in COCO's order; whether ``told_m`` is new."""
        lengths = body_lengths(joints_m[None])[0]
        if not np.isfinite(lengths).any():
            return False
        lengths = complete_lengths(lengths)
        if self._mean_m is None or self.told_m is None:
            self._mean_m = self.told_m = lengths
            return True
        self._mean_m = self._mean_m + SHARE * (lengths - self._mean_m)
        if (np.abs(self._mean_m - self.told_m) <= CHANGE * self.told_m).all():
            return False
        self.told_m = self._mean_m
        return True
