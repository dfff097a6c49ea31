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

    @cached_property
    def middle(self) -> Array:
        """(C, 3) the middles of the ranges."""
        return (self.lower + self.upper) / 2

    @cached_property
    def proper(self) -> npt.NDArray[np.bool_]:
        """(C,) whether the third axis is the first again."""
        return np.asarray(self.axis[:, 2] == self.axis[:, 0])

    @cached_property
    def odd(self) -> Array:
        """(C,) +1 where first and second axis follow each other as x, y, z do, else -1."""
        return np.where((self.axis[:, 1] - self.axis[:, 0]) % 3 == 1, 1.0, -1.0)

    @cached_property
    def entries(self) -> tuple[npt.NDArray[np.int64], Array]:
        """Which entries of the rotations, (9 C,) of 9 C flattened, and their signs (C, 9).

        Per chain: tangent of the first angle (across, along); then what cosine and sine of it are
        multiplied with for the third angle's tangent (two) and for what is left for the second;
        last the entry of the second's tangent that needs no first angle.
        """
        places, signs = [], []
        for chain, (axes, odd, proper) in enumerate(
            zip(self.axis.tolist(), self.odd.tolist(), self.proper.tolist(), strict=True)
        ):
            i, j = axes[0], axes[1]
            order = (i, j, 3 - i - j)  # rows and columns renamed to 0, 1, 2
            if proper:
                wanted = (
                    (1, 0, 1.0), (2, 0, -odd),
                    (1, 2, -odd), (1, 1, 1.0), (2, 0, 1.0),
                    (2, 2, -1.0), (2, 1, odd), (1, 0, -odd), (0, 0, 1.0),
                )  # fmt: skip
            else:
                wanted = (
                    (1, 2, -odd), (2, 2, 1.0),
                    (1, 0, odd), (1, 1, 1.0), (2, 2, 1.0),
                    (2, 0, 1.0), (2, 1, odd), (1, 2, -odd), (0, 2, odd),
                )  # fmt: skip
            places += [9 * chain + 3 * order[a] + order[b] for a, b, _ in wanted]
            signs.append([sign for *_, sign in wanted])
        return np.array(places), np.array(signs)

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
    places, signs = chains.entries
    rows, count = rotation.shape[:2]
    m = rotation.reshape(rows, 9 * count).take(places, axis=1).reshape(rows, count, 9) * signs
    across, along = m[..., 0], m[..., 1]
    first = np.arctan2(across, along)
    lead = slice(None, None, together)
    singular = np.hypot(across[lead], along[lead]) < SINGULAR
    before = reference_rad[lead]
    start = first[lead]
    if singular.any():
        held = np.nan_to_num(before[..., 0]) * chains.sign[:, 0]
        start = np.where(singular, held, start)
    one, two = both = _angles(chains, m[lead], np.stack([start, start + np.pi]))
    cost = _cost(chains, both, before)
    flip = ~singular & (cost[1] < cost[0])
    if together == 1:
        return np.where(flip[..., None], two, one), singular
    flip = np.repeat(flip, together, axis=0)
    first = first + np.pi * flip
    if singular.any():
        singular = np.repeat(singular, together, axis=0)
        first = np.where(singular, np.repeat(held, together, axis=0), first)
    else:
        singular = np.zeros_like(flip)
    return _angles(chains, m, first), singular


def _angles(chains: Chains, m: Array, first: Array) -> Array:
    """(..., N, C, 3) once the first (..., N, C) is chosen: undone, it leaves R_second R_third.

    ``m`` (N, C, 9) are the signed ``entries`` of the rotations.
    """
    cos, sin = np.cos(first)[..., None], np.sin(first)[..., None]
    mixed = cos * m[..., 2:5] + sin * m[..., 5:8]
    turned, proper = mixed[..., 2], chains.proper
    raw = np.empty((*first.shape, 3))
    raw[..., 0] = first
    raw[..., 1] = np.arctan2(
        np.where(proper, -chains.odd * turned, m[..., 8]), np.where(proper, m[..., 8], turned)
    )
    raw[..., 2] = np.arctan2(mixed[..., 0], mixed[..., 1])
    raw *= chains.sign
    return np.asarray(chains.middle + wrap(raw - chains.middle))


def _cost(chains: Chains, angle: Array, reference: Array) -> Array:
    """(..., N, C) how far angles (..., N, C, 3) leave their ranges, jump, and are large."""
    beyond = np.maximum(chains.lower - angle, 0) + np.maximum(angle - chains.upper, 0)
    jump = np.fmax(np.abs(wrap(angle - reference)), 0.0)  # 0 where nothing is known
    return np.asarray((beyond + JUMP_COST * jump + LARGE_COST * np.abs(angle)).sum(axis=-1))
