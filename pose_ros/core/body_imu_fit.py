"""How a sensor sits on a bone, and on which one: from a few seconds of both moving.

Letters: M moments, B bones, K joints, S sensors. Both worlds have z up; the sensor's heading is
off by an unknown yaw. Unknown are the bone x, from its inner to its outer joint, and the way y
from the sensor to the outer joint, both in the sensor's axes. With R world from sensor:

* where the bone is seen, R x is its length times Rot(z, -yaw) u, u its direction;
* where a joint's path bends by q, the sensor's by c, and its orientation by D (`Moments`),
  c + D y is Rot(z, -yaw) q for the outer joint, c + D (y - x) for the inner.

For a yaw that is linear in x and y, and what is left is a trigonometric polynomial in the yaw. A
wrist that moves tells the yaw so even if its elbow is never seen.

Source: ours; the first kind alone is a hand-eye calibration with one axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.body_imu_watch import Moments
from pose_ros.core.values import IntArray

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Yaws that are tried.
YAWS: Floats = np.arange(72, dtype=np.float64) * (2 * np.pi / 72)
#: Spread of a seen joint, and of a sensor from where its strap says that it is; metres.
JOINT_M, STRAP_M = 0.03, 0.05
#: Worth of a bent moment: they come every 0.1 s and are 0.5 s long, so they overlap.
BENT_WORTH = 0.4
#: Least degrees of freedom for a mounting, and moments for a yaw alone.
LEAST_FREEDOM, LEAST_FOR_YAW = 60.0, 20
#: A fit counts with a misfit below the first, and yaw and axis told to the second.
MISFIT_MAX, STD_MAX = 2.5, np.radians(7.0)
#: Nor does it if more than this share of the squared deviations is left.
LEFT_MAX = 0.5
#: Yaws further away than the first must be worse by the second, in squared deviations.
YAW_APART, YAW_MARGIN = np.radians(40.0), 25.0
#: What a misfit may be above the joints' noise where the right bone may be an unseen one.
MISFIT_EXTRA = 0.5
#: Another bone is out of the question if it fits worse than ``factor * misfit + offset``, a
#: misfit below the least counting as that, or explains by this factor less.
WORSE_FACTOR, WORSE_OFFSET, MISFIT_LEAST, EXPLAINS = 1.5, 0.3, 0.6, 1.5


@dataclass(frozen=True)
class Mounts:
    """Best mounting of each of S sensors on each of B bones."""

    axis: Floats  # (S, B, 3) the bone's direction in the sensor's axes
    lever_m: Floats  # (S, B, 3) from the sensor to the bone's outer joint, in its axes
    yaw_rad: Floats  # (S, B)
    misfit: Floats  # (S, B) mean squared deviation in units of the expected; NaN: nothing to fit
    freedom: Floats  # (S, B) of so many numbers
    explained: Floats  # (S, B) squared deviations that moving with the sensor explains
    std_rad: Floats  # (S, B) of yaw and axis, the larger
    sure: Mask  # (S, B) the motion was rich enough to tell axis and yaw
    noise: Floats  # (B,) the misfit that the joints' trembling explains; NaN unknown

    @property
    def clean(self) -> Mask:
        """(S, B) fits as good as the joints' trembling allows."""
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        return np.asarray(self.misfit <= noise + MISFIT_EXTRA)  # NaN is not

    @property
    def residual_rad(self) -> Floats:
        """(S, B) the misfit as an RMS angle of a bone of 0.3 m."""
        return np.asarray(np.sqrt(self.misfit) * JOINT_M / 0.3)


def fit_mounts(told: Moments, bones: IntArray, rho: Floats) -> Mounts:
    """Mountings of S sensors on ``bones`` (B, 2), whose joints are numbers of the K.

    ``rho`` (S,) is where along its bone each sensor is thought to be.
    """
    all_of_it = _equations(told, bones, rho)
    square, sums, rest = all_of_it.square, all_of_it.sums, all_of_it.rest
    count = all_of_it.count
    inverse = np.linalg.inv(square)
    solved = sums @ inverse  # (S, B, 3, 6)
    left = solved @ sums.swapaxes(-1, -2)
    tried = _cost(_parts(YAWS), rest[:, :, None], left[:, :, None])  # (S, B, Y)
    yaw, bend = _sharpen(YAWS[tried.argmin(axis=-1)], rest, left)
    turn, slope = _parts(yaw), _parts(yaw + np.pi / 2) - [1.0, 0.0, 0.0]
    best = np.maximum(_cost(turn, rest, left), 0.0)
    found = (turn[..., None, :] @ solved)[..., 0, :]
    moved = (slope[..., None, :] @ solved)[..., 0, :]
    bone, lever = found[..., :3], found[..., 3:]
    length = np.maximum(np.linalg.norm(bone, axis=-1, keepdims=True), 1e-6)
    axis = bone / length
    misfit = best / np.maximum(count, 1e-9)
    spread = np.maximum(misfit, 1.0)
    yaw_var = np.where(bend > 0, 2.0 / np.where(bend > 0, bend, 1.0), np.inf)
    # Of the bone's covariance what is across it; the two directions' mean.
    block = (
        inverse[..., :3, :3]
        + (moved[..., :3, None] * moved[..., None, :3]) * np.minimum(yaw_var, 1e3)[..., None, None]
    )
    along = (axis * (block @ axis[..., None])[..., 0]).sum(axis=-1)
    axis_var = (np.trace(block, axis1=-2, axis2=-1) - along) / 2 / length[..., 0] ** 2
    std = np.sqrt(np.maximum(yaw_var, axis_var) * spread)
    apart = np.abs((YAWS - yaw[..., None] + np.pi) % (2 * np.pi) - np.pi) > YAW_APART
    rival = np.where(apart, tried, np.inf).min(axis=-1) - best
    enough = count >= LEAST_FREEDOM
    sure = enough & (misfit < MISFIT_MAX) & (std < STD_MAX) & (rival > YAW_MARGIN * spread)
    sure &= best < LEFT_MAX * np.maximum(all_of_it.still, best)
    known = count > 0
    trembling = np.fmax(*told.noise_m[bones.T])
    return Mounts(
        np.where(known[..., None], axis, np.nan), lever, yaw, np.where(known, misfit, np.nan),
        count, np.maximum(all_of_it.still - best, 0.0), std, sure, (trembling / JOINT_M) ** 2,
    )  # fmt: skip


@dataclass
class _Equations:
    """Least squares of every sensor and bone, or joint (Z), in expected deviations.

    Sides and rest are factors of 1, cosine and sine of the yaw.
    """

    square: Floats  # (S, Z, n, n) normal matrix of n unknowns
    sums: Floats  # (S, Z, 3, n) its right sides
    rest: Floats  # (S, Z, 3) what is left of unknowns that are 0
    count: Floats  # (S, Z) of how many numbers
    still: Floats  # (S, Z) what is left of bones and joints that do not turn or leave their line


def _equations(told: Moments, bones: IntArray, rho: Floats) -> _Equations:
    """All that is known of x and y (n = 6)."""
    inner, outer = bones.T
    out, bent = _seen_part(told), _bent_part(told)
    square, sums, a, g = out.square, out.sums, bent.square, bent.sums
    each = np.arange(3)
    square[..., :3, :3] += a[:, inner]
    square[..., 3:, 3:] += a[:, inner] + a[:, outer]
    square[..., :3, 3:] -= a[:, inner]
    square[..., 3:, :3] -= a[:, inner]
    sums[..., :3] -= g[:, inner]
    sums[..., 3:] += g[:, inner] + g[:, outer]
    out.rest += bent.rest[:, inner] + bent.rest[:, outer]
    out.count += bent.count[:, inner] + bent.count[:, outer]
    out.still += bent.still[:, inner] + bent.still[:, outer]
    share, weight = (1.0 - rho)[:, None, None], 1.0 / STRAP_M**2
    square[..., each, each] += share**2 * weight
    square[..., each + 3, each + 3] += weight
    square[..., each, each + 3] -= share * weight
    square[..., each + 3, each] -= share * weight
    axes = np.arange(6)
    square[..., axes, axes] += 1.0  # within a metre
    return out


def _seen_part(told: Moments) -> _Equations:
    """What seen bones tell of x, with room for y; by bone."""
    weight = 0.5 / JOINT_M**2  # of a direction times a length: two joints' noise
    finite = np.isfinite(told.seen.sum(axis=-1))
    known = finite[..., None] & np.isfinite(told.world.sum(axis=(-1, -2)))  # (M, B, S)
    seen = np.where(finite[..., None], told.seen, 0.0)
    r = np.where(known[..., None, None], told.world, 0.0)
    count = known.sum(axis=0).T.astype(np.float64)  # (S, B)
    sensors, bones = count.shape
    squares = weight * count * told.length_m**2
    square = np.zeros((sensors, bones, 6, 6))
    square[..., [0, 1, 2], [0, 1, 2]] = (weight * count)[..., None]
    sums, rest = np.zeros((sensors, bones, 3, 6)), np.zeros((sensors, bones, 3))
    sums[..., :3] = (
        weight * np.einsum("mbsji,mbpj->sbpi", r, _heads(seen)) * told.length_m[:, None, None]
    )
    rest[..., 0] = squares
    mean = np.einsum("mbs,mbj->sbj", known, seen)
    still = squares - weight * told.length_m**2 * (mean**2).sum(-1) / np.maximum(count, 1.0)
    return _Equations(square, sums, rest, 2.0 * count, still)


def _bent_part(told: Moments) -> _Equations:
    """What joints' bent paths tell of the way from a sensor to the joint; by joint (n = 3)."""
    weight = BENT_WORTH / JOINT_M**2
    known = np.isfinite(told.bent.sum(axis=-1))[..., None] & np.isfinite(told.path.sum(axis=-1))
    known &= np.isfinite(told.turn.sum(axis=(-1, -2)))
    d = np.where(known[..., None, None], told.turn, 0.0)  # (M, K, S, 3, 3)
    c = np.where(known[..., None], told.path, 0.0)
    q = _heads(np.nan_to_num(told.bent))
    square = weight * np.einsum("mksji,mksjl->skil", d, d)
    sums = weight * np.einsum("mksji,mkpj->skpi", d, q)
    sums[:, :, 0] -= weight * np.einsum("mksji,mksj->ski", d, c)
    rest = -2.0 * weight * np.einsum("mksj,mkpj->skp", c, q)
    moved = weight * np.einsum("mks,mkj->sk", known, np.nan_to_num(told.bent) ** 2)
    rest[..., 0] += moved + weight * np.einsum("mksj,mksj->sk", c, c)
    return _Equations(square, sums, rest, 3.0 * BENT_WORTH * known.sum(axis=0).T, moved)


def _heads(v: Floats) -> Floats:
    """Parts (..., 3, 3) of Rot(z, -yaw) v: its rows are the factors of 1, cos and sin."""
    upright, flat = v * [0, 0, 1], v * [1, 1, 0]
    return np.stack([upright, flat, np.stack([v[..., 1], -v[..., 0], 0 * v[..., 0]], -1)], -2)


def _parts(yaw: Floats) -> Floats:
    """(..., 3) 1, cosine, sine."""
    return np.stack([np.ones_like(yaw), np.cos(yaw), np.sin(yaw)], axis=-1)


def _cost(turn: Floats, rest: Floats, left: Floats) -> Floats:
    """Squared deviations that remain at yaws whose parts are ``turn`` (..., 3)."""
    return np.asarray((turn * rest).sum(-1) - np.einsum("...p,...pq,...q->...", turn, left, turn))


def _sharpen(yaw: Floats, rest: Floats, left: Floats) -> tuple[Floats, Floats]:
    """Yaw (S, B) between the tried ones by Newton steps, and the second derivative there."""
    for step in range(4):
        turn = _parts(yaw)
        first = np.stack([0 * yaw, -turn[..., 2], turn[..., 1]], axis=-1)
        second = np.stack([0 * yaw, -turn[..., 1], -turn[..., 2]], axis=-1)
        force = rest - 2.0 * (left @ turn[..., None])[..., 0]
        bend = (second * force).sum(-1) - 2.0 * np.einsum(
            "...p,...pq,...q->...", first, left, first
        )
        if step < 3:
            go = np.where(bend > 0, -(first * force).sum(-1) / np.where(bend > 0, bend, 1.0), 0.0)
            yaw = yaw + np.clip(go, -0.06, 0.06)
    return yaw, bend


def fit_yaw(world: Floats, axis: Floats, seen: Floats) -> tuple[float, float]:
    """Yaw of a sensor whose bone's ``axis`` (3,) is known, and the RMS residual; radians.

    ``world`` (M, 3, 3) and ``seen`` (M, 3) as in `Moments`; both NaN without moments.
    """
    said = world @ axis
    known = np.isfinite(said).all(axis=1) & np.isfinite(seen).all(axis=1)
    if known.sum() < LEAST_FOR_YAW:
        return np.nan, np.nan
    d, u = said[known], seen[known]
    yaw = float(np.arctan2((d[:, 0] * u[:, 1] - d[:, 1] * u[:, 0]).sum(), (d * u)[:, :2].sum()))
    cosine = (turn_about_up(d, yaw) * u).sum(axis=1)
    return yaw, float(np.sqrt(np.maximum(2.0 * (1.0 - cosine.mean()), 0.0)))


def turn_about_up(vectors: Floats, yaw_rad: float) -> Floats:
    """Vectors (..., 3) turned about z."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.asarray(vectors @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]))


def contradicted(mounts: Mounts) -> Mask:
    """Sensors on bones (S, B) while another one, of which enough was seen, fits clearly better."""
    misfit = np.where(mounts.freedom >= LEAST_FREEDOM, mounts.misfit, np.inf)
    best = _limit(mounts, misfit).min(axis=1, keepdims=True)
    return np.asarray((mounts.freedom >= LEAST_FREEDOM) & (mounts.misfit > best))


def _limit(mounts: Mounts, misfit: Floats) -> Floats:
    """Misfits (S, B) beyond which another bone is out of the question."""
    unsure = 1.0 + 2.0 * np.sqrt(2.0 / np.maximum(mounts.freedom, 1.0))
    return np.asarray(WORSE_FACTOR * np.maximum(misfit * unsure, MISFIT_LEAST) + WORSE_OFFSET)


def assign(mounts: Mounts, free: Mask) -> dict[int, int]:
    """Bone of every sensor that can be told, among the ``free`` ones (S, B).

    A sensor waits while another bone fits it nearly as well and moves about as much, and while
    another sensor fits its bone so. While there are bones of which too little was seen, which
    the sensor may be on, a fit must also be as good as the joints' trembling allows.
    """
    misfit = np.where(free & (mounts.freedom > 0), mounts.misfit, np.inf)
    explained = np.where(free, mounts.explained, 0.0)
    limit = _limit(mounts, misfit)
    good = mounts.clean
    good |= ~(free & (mounts.freedom < LEAST_FREEDOM)).any(axis=1, keepdims=True)
    good &= ~contradicted(mounts)
    found = {}
    for sensor, bone in np.argwhere(mounts.sure & free & good).tolist():
        other = misfit[sensor] <= limit[sensor, bone]
        other &= EXPLAINS * explained[sensor] >= explained[sensor, bone]
        other[bone] = False
        rival = misfit[:, bone] <= limit[sensor, bone]
        rival &= EXPLAINS * explained[:, bone] >= explained[sensor, bone]
        rival[sensor] = False
        if not other.any() and not rival.any():
            found[sensor] = bone
    return found
