"""Ball joints as chains of three hinges: rotation to angles and back, for many chains at once.

``N`` rows (people, or perturbed copies of them), ``C`` chains, each with its own three axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Sine (or cosine) of the middle angle below which the first and third axis count as parallel;
#: what is then held costs at most this much of a radian in direction.
SINGULAR = 5e-4
#: Reach of the limits that another branch must save, per radian of jump that it costs. The two
#: branches of a chain are 2 pi apart, so a branch is left when the other is 0.5 rad better.
JUMP_COST = 0.08
#: Reach that smaller angles may cost, per radian: an arm turned a little beyond its range has
#: not gone over the top.
LARGE_COST = 0.1


@dataclass(frozen=True)
class Chains:
    """Three axes per chain: ``axis`` names x, y, z as 0, 1, 2; ``sign`` is that of the axis.

    The rotation of a chain is the product of its three, the first nearest to the parent.
    Middle axis and first differ; the third may be the first again.
    """

    axis: npt.NDArray[np.int64]  # (C, 3)
    sign: Array  # (C, 3) +1 or -1
    lower: Array  # (C, 3) rad, the stated range
    upper: Array  # (C, 3) rad

    @staticmethod
    def of(*rows: tuple[str, tuple[int, ...], tuple[float, ...], tuple[float, ...]]) -> Chains:
        """Build from rows such as ("zxz", (-1, 1, 1), lower_rad, upper_rad)."""
        axis = np.array([["xyz".index(letter) for letter in row[0]] for row in rows])
        sign, lower, upper = (np.array([row[i] for row in rows], np.float64) for i in (1, 2, 3))
        return Chains(axis, sign, lower, upper)

    @cached_property
    def _turn(self) -> Array:
        """(C, 3, 3, 3) cross-product matrices of the signed axes."""
        unit = np.eye(3)[self.axis] * self.sign[..., None]
        return -np.cross(unit[..., None, :], np.eye(3))

    @cached_property
    def _along(self) -> Array:
        """(C, 3, 3, 3) projections on the axes."""
        unit = np.eye(3)[self.axis]
        return np.asarray(unit[..., :, None] * unit[..., None, :])

    def hinges(self, angle_rad: Array) -> Array:
        """(N, C, 3, 3, 3): the rotation of every hinge at ``angle_rad`` (N, C, 3)."""
        cos, sin = np.cos(angle_rad)[..., None, None], np.sin(angle_rad)[..., None, None]
        return np.asarray(cos * (np.eye(3) - self._along) + sin * self._turn + self._along)


def wrap(angle_rad: Array) -> Array:
    """The same direction in [-pi, pi]."""
    return np.asarray(angle_rad - 2 * np.pi * np.rint(angle_rad / (2 * np.pi)))


def compose(chains: Chains, angle_rad: Array) -> Array:
    """Rotations (N, C, 3, 3) of the chains at ``angle_rad`` (N, C, 3): child to parent."""
    first, second, third = np.moveaxis(chains.hinges(angle_rad), 2, 0)
    return np.asarray(first @ second @ third)


def decompose(
    chains: Chains, rotation: Array, reference_rad: Array, together: int = 1
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Angles (N, C, 3) whose ``compose`` is ``rotation`` (N, C, 3, 3), and which are singular.

    Of the two branches the one that exceeds the stated range less and jumps less from
    ``reference_rad`` (N, C, 3; NaN unknown) is taken; angles are unwrapped around the middle of
    their range, not clamped. Where first and third axis are parallel (``True`` in the second
    result, (N, C)) the first angle is the reference's, or 0, and the third takes up the rest.
    Of every ``together`` rows the first decides about branch and singularity for all.

    Source: the closed forms for three axes, e.g. Shoemake, Euler Angle Conversion, Graphics
    Gems IV, 1994, written so that any first angle gives the other two.
    """
    i, j = chains.axis[:, 0], chains.axis[:, 1]
    order = np.stack([i, j, 3 - i - j], axis=-1)  # (C, 3); rows and columns renamed to 0, 1, 2
    c = np.arange(len(order))[:, None, None]
    m = rotation[:, c, order[:, :, None], order[:, None, :]]
    odd = np.where((j - i) % 3 == 1, 1.0, -1.0)
    proper = chains.axis[:, 2] == i
    across = np.where(proper, m[..., 1, 0], -odd * m[..., 1, 2])
    along = np.where(proper, -odd * m[..., 2, 0], m[..., 2, 2])
    first = np.arctan2(across, along)
    lead = slice(None, None, together)
    singular = np.hypot(across[lead], along[lead]) < SINGULAR
    held = np.nan_to_num(reference_rad[lead, :, 0]) * chains.sign[:, 0]
    start = np.where(singular, held, first[lead])
    one, two = (_angles(chains, m[lead], start + turn, odd, proper) for turn in (0.0, np.pi))
    before = reference_rad[lead]
    flip = ~singular & (_cost(chains, two, before) < _cost(chains, one, before))
    if together == 1:
        return np.where(flip[..., None], two, one), singular
    singular, flip = (np.repeat(mask, together, axis=0) for mask in (singular, flip))
    held = np.repeat(held, together, axis=0)
    first = np.where(singular, held, first + np.pi * flip)
    return _angles(chains, m, first, odd, proper), singular


def _angles(chains: Chains, m: Array, first: Array, odd: Array, proper: Array) -> Array:
    """(N, C, 3) once the first is chosen: undone, it leaves R_second R_third."""
    cos, sin = np.cos(first), odd * np.sin(first)
    entry = (
        np.where(proper, m[..., 1, 2], m[..., 1, 0]),
        np.where(proper, m[..., 2, 2], m[..., 2, 0]),
    )
    sign = np.where(proper, -odd, odd)
    third = np.arctan2(
        sign * (cos * entry[0] + sin * entry[1]), cos * m[..., 1, 1] + sin * m[..., 2, 1]
    )
    low, high = (
        np.where(proper, m[..., 1, 0], m[..., 1, 2]),
        np.where(proper, m[..., 2, 0], m[..., 2, 2]),
    )
    turned = cos * high - sin * low
    second = np.arctan2(
        odd * np.where(proper, -turned, m[..., 0, 2]), np.where(proper, m[..., 0, 0], turned)
    )
    raw = np.stack([first, second, third], axis=-1) * chains.sign
    middle = (chains.lower + chains.upper) / 2
    return np.asarray(middle + wrap(raw - middle))


def _cost(chains: Chains, angle: Array, reference: Array) -> Array:
    """(N, C) how far angles (N, C, 3) leave their ranges, jump, and are large."""
    beyond = np.maximum(chains.lower - angle, 0) + np.maximum(angle - chains.upper, 0)
    jump = wrap(angle - reference)
    jump = np.where(np.isnan(jump), 0.0, np.abs(jump))
    return np.asarray((beyond + JUMP_COST * jump + LARGE_COST * np.abs(angle)).sum(axis=-1))
