"""Joints that the depth image cannot show: behind another limb, or inferred from neighbours."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.body import Body
from pose_ros.core.patches import dot

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: A reading this near to the skin of a limb in front is a reading of that limb.
ON_SKIN_M = 0.04
#: The network doubts what it cannot see: the joint's score over that of the limb in front.
DOUBT = 0.7
#: Left and right that are nearer to each other than this share of their distance (for limbs: of
#: two thicknesses, as near as two can be) are the same one seen twice.
MERGED = 0.5
#: Steps along the skeleton: from one shoulder to the other side's wrist.
ROUNDS = 3
#: Least standard deviation of a depth that comes from a neighbour, metres.
LEAST_STD_M = 0.05


def hidden_behind(
    body: Body, xy_px: Array, z_m: Array, score: Array, px_per_m: Array
) -> tuple[Mask, Array]:
    """Which joints (P, J) show something in front of them, and the least depth of those.

    A joint is hidden where its pixel lies on a limb, of its person or of another, that it does
    not belong to, its reading lies on that limb's skin, and the network is less sure of it than
    of the limb. Of two shoulders, or hips, that come out at one place the doubtful one is hidden.
    """
    behind = _covered(body, xy_px, z_m, score, px_per_m)
    twin, twin_z = _merged(body, xy_px, z_m, score, px_per_m)
    least = np.fmax(behind, np.where(twin, twin_z, np.nan))
    return np.isfinite(least), least


def _covered(body: Body, xy_px: Array, z_m: Array, score: Array, px_per_m: Array) -> Array:
    """(P, J) depth of a joint just behind what covers it; NaN: nothing does."""
    people, joints = z_m.shape
    limbs = body.bones[body.limbs]
    a, b = xy_px[:, limbs[:, 0]].reshape(-1, 2), xy_px[:, limbs[:, 1]].reshape(-1, 2)
    z_a, z_b = z_m[:, limbs[:, 0]].reshape(-1), z_m[:, limbs[:, 1]].reshape(-1)
    sure = np.minimum(score[:, limbs[:, 0]], score[:, limbs[:, 1]]).reshape(-1)
    width = np.minimum(body.width_m[limbs[:, 0]], body.width_m[limbs[:, 1]])
    width_px = (px_per_m[:, None] * width).reshape(-1)
    joint = xy_px.reshape(-1, 1, 2)
    bone = b - a
    square = np.maximum(dot(bone, bone), 1e-9)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.clip(dot(joint - a, bone) / square, 0.0, 1.0)  # (P J, P E)
        away = joint - a - t[..., None] * bone
        off = dot(away, away) / width_px**2
        centre = z_a + t * (z_b - z_a)
        thick = np.tile(width, people)
        skin = centre - thick * np.sqrt(np.clip(1.0 - off, 0.0, 1.0))
        reading = (z_m - body.thickness_m).reshape(-1, 1)
        hides = (off < 0.8) & (np.abs(reading - skin) < ON_SKIN_M)
        hides &= score.reshape(-1, 1) < DOUBT * sure
    own = np.kron(np.eye(people, dtype=bool), _attached(joints, limbs))
    depth = np.where(hides & ~own, centre + thick, -np.inf).max(axis=1, initial=-np.inf)
    behind = depth.reshape(people, joints) + body.thickness_m
    return np.where(np.isfinite(behind), behind, np.nan)


def _attached(joints: int, limbs: npt.NDArray[np.int64]) -> Mask:
    """(J, E) limbs that end at a joint or at its neighbour's: they meet there anyway."""
    ends = np.zeros((joints, len(limbs)), bool)
    ends[limbs[:, 0], np.arange(len(limbs))] = True
    ends[limbs[:, 1], np.arange(len(limbs))] = True
    return ends


def _merged(
    body: Body, xy_px: Array, z_m: Array, score: Array, px_per_m: Array
) -> tuple[Mask, Array]:
    """Which of a left and right joint at one place is the hidden one, and where it must be."""
    pairs, length = body.twins, body.twins_m
    a, b = pairs.T
    apart = xy_px[:, a] - xy_px[:, b]
    flat = np.sqrt(dot(apart, apart)) / px_per_m[:, None]
    with np.errstate(invalid="ignore"):
        same = np.hypot(flat, z_m[:, a] - z_m[:, b]) < MERGED * length
    first = score[:, a] < score[:, b]
    loser, winner = np.where(first, a, b), np.where(first, b, a)
    person = np.arange(len(z_m))[:, None]
    beyond = z_m[person, winner] + 0.8 * np.sqrt(np.maximum(length**2 - flat**2, 0.0))
    hidden = np.zeros(z_m.shape, bool)
    least = np.full(z_m.shape, np.nan)
    who, which = np.nonzero(same)
    hidden[who, loser[who, which]] = True
    least[who, loser[who, which]] = beyond[who, which]
    return hidden, least


def infer(
    body: Body, xy_px: Array, known: tuple[Array, Array], least_m: Array, px_per_m: Array
) -> tuple[Array, Array]:
    """Depths (P, J) and their variances where neighbours on the skeleton tell them; else NaN.

    ``known`` are the depths and variances (P, J) of what was measured, NaN elsewhere; ``least_m``
    (P, J) is the depth of what hides a joint, NaN where nothing does: it lies behind that.

    A neighbour at distance d across the picture and L along the bone is sqrt(L^2 - d^2) nearer
    or further: no mean, but a variance. Neighbours are weighted by it, in rounds, so that a
    neighbour may itself be inferred.
    """
    z_m, variance_m2 = known
    start = np.concatenate([body.bones[:, 0], body.bones[:, 1]])
    stop = np.concatenate([body.bones[:, 1], body.bones[:, 0]])
    length = np.tile(body.length_m, 2)
    to = np.zeros((len(start), z_m.shape[1]))
    to[np.arange(len(start)), stop] = 1.0
    apart = xy_px[:, start] - xy_px[:, stop]
    flat = np.sqrt(dot(apart, apart)) / px_per_m[:, None]
    lean = np.maximum(length**2 - flat**2, LEAST_STD_M**2)
    for _ in range(ROUNDS):
        told = np.isfinite(z_m[:, start]) & np.isfinite(lean)
        weight = np.where(told, 1.0 / (lean + np.where(told, variance_m2[:, start], 0.0)), 0.0)
        total = weight @ to
        with np.errstate(invalid="ignore", divide="ignore"):
            guess = (weight * np.where(told, z_m[:, start], 0.0)) @ to / total
            guess, spread = np.fmax(guess, least_m), 1.0 / total
        new = ~np.isfinite(z_m) & (total > 0)
        z_m, variance_m2 = np.where(new, guess, z_m), np.where(new, spread, variance_m2)
    return z_m, variance_m2
