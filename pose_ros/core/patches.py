"""The depth of joints from small patches along their limbs: layers, and which the body agrees on.

Letters: P people, J joints, K samples of a patch, 2 layers (the nearer and the further one).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.body import LONGEST, Body

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Where a patch is looked at: shares of its reach along each of two limbs, and of the half width.
ALONG = (0.0, 1 / 3, 2 / 3, 1.0)
ACROSS = (-0.55, 0.0, 0.55)
#: Beside a thin limb lies something further away: looked for at this many half widths. Surfaces
#: that go on there, within half a width, are no limb but a table, a wall, a skirt.
FLANK, FLAT = 2.5, 1.0
#: Longest reach along a limb: of the bone, and in half widths.
REACH_BONE, REACH_WIDTH = 0.25, 1.5
#: A layer of fewer samples is not a layer.
LEAST_SAMPLES = 4
#: The nearer of two possible layers is the limb if it covers at least this share of the patch, and
#: of what the further one covers; the torso is preferred behind an arm from TORSO_SHARE on.
LIMB_SHARE, LIMB_RATIO, TORSO_SHARE = 0.2, 0.6, 0.4
#: Joints that may be wrong before the body's vote: of the weight that a joint must agree with.
AGREE = 0.6
#: A bone is at most this many times as long as the person's others say, which are compared by
#: this quantile: some are seen from their end.
STRETCH, SCALE_QUANTILE = 1.2, 0.75
#: The body agrees on at least this share of the joints that have a depth, or it is not believed.
BELIEVED = 0.5
#: A person of less than this share of the tables' size is a picture of one.
SMALLEST = 0.45
#: Slack of distances between joints that are measured, metres.
SLACK_M = 0.04
#: One of more than this is no person, but what lies behind one: so large are all its bones with
#: everything that is seen within LEVEL_M of its middle, metres.
LARGEST, LEVEL_M = 1.5, 0.4


@dataclass(frozen=True)
class Patch:
    """Where to look for each joint in the colour image."""

    xy_px: Array  # (P, J, K, 2); NaN for a joint that was not found
    along_px: Array  # (P, J, K) from the joint towards the end of the limb
    rise_m: Array  # (J, K) how far the joint's centre lies behind the skin of an upright limb
    limb: npt.NDArray[np.int64]  # (K,) 0 or 1: which of the joint's limbs
    limb_px: Array  # (P, J, 2) length of the limbs; NaN: none
    flank_px: Array  # (P, J, 2, 2, 2) pixels left and right of both limbs, beyond their skin


@dataclass(frozen=True)
class Layers:
    """The nearer and the further surface of each patch."""

    z_m: Array  # (P, J, 2) median; NaN: no such layer
    spread_m: Array  # (P, J, 2) half the width of the middle 68 %
    share: Array  # (P, J, 2) of the patch


def dot(a: Array, b: Array) -> Array:
    """(...,) inner products of vectors (..., D); NumPy's sum over a short axis is slower."""
    product: Array = np.einsum("...i,...i->...", a, b)
    return product


def patch(body: Body, xy_px: Array, px_per_m: Array) -> Patch:
    """Samples along both limbs of every joint (P, J, 2); ``px_per_m`` (P,) at the person."""
    ends = xy_px[:, body.arms]  # (P, J, 2, 2)
    limb = ends - xy_px[:, :, None]
    length = np.sqrt(dot(limb, limb))
    usable = np.isfinite(length) & (length > 1e-3)
    axis = limb / np.where(usable, length, 1.0)[..., None]
    axis = np.where(usable[..., None], axis, ((1.0, 0.0), (-1.0, 0.0)))
    width = body.width_m[None, :] * px_per_m[:, None]
    bony = np.where(usable, REACH_BONE * length, np.inf)
    reach = np.minimum(bony, REACH_WIDTH * width[..., None])
    step = np.repeat(ALONG, len(ACROSS))  # (K / 2,)
    side = np.tile(ACROSS, len(ALONG))
    along = reach[..., None] * step  # (P, J, 2, K / 2)
    normal = np.stack([-axis[..., 1], axis[..., 0]], axis=-1)
    offset = along[..., None] * axis[..., None, :]
    offset = offset + (width[:, :, None, None] * side)[..., None] * normal[..., None, :]
    aside = FLANK * width[:, :, None, None] * normal
    flank = xy_px[:, :, None, None] + np.stack([aside, -aside], axis=3)
    shape = (*xy_px.shape[:2], -1)
    rise = body.thickness_m[:, None] * np.tile(np.sqrt(1.0 - side**2), 2)
    return Patch(
        xy_px[:, :, None] + offset.reshape(*shape, 2), along.reshape(shape), rise,
        np.repeat([0, 1], len(step)), np.where(usable, length, np.nan), flank,
    )  # fmt: skip


def layers(z_m: Array, band_m: Array) -> Layers:
    """Surfaces of the samples (P, J, K): around their first and last fifth, ``band_m`` (P, J)."""
    ordered = np.sort(z_m, axis=-1)
    count = np.isfinite(ordered).sum(axis=-1)
    quantile = np.stack([0.2 * (count - 1), 0.8 * (count - 1)], axis=-1)
    anchor = _pick(ordered, np.rint(np.maximum(quantile, 0)))
    return _layers_at(ordered, anchor, band_m)


def layer_at(z_m: Array, centre_m: Array, band_m: Array) -> tuple[Array, Array]:
    """Median and spread (P, J) of the samples (P, J, K) within a band around ``centre_m``."""
    found = _layers_at(np.sort(z_m, axis=-1), centre_m[..., None], band_m)
    return found.z_m[..., 0], found.spread_m[..., 0]


def _layers_at(ordered: Array, anchor: Array, band_m: Array) -> Layers:
    band = band_m[..., None]
    with np.errstate(invalid="ignore"):
        low = (ordered[..., None, :] < (anchor - band)[..., None]).sum(axis=-1)
        high = (ordered[..., None, :] <= (anchor + band)[..., None]).sum(axis=-1)
    size = high - low
    enough = size >= LEAST_SAMPLES
    middle = _pick(ordered, (low + high - 1) // 2) + _pick(ordered, (low + high) // 2)
    wide = _pick(ordered, low + np.rint(0.84 * (size - 1)))
    wide = wide - _pick(ordered, low + np.rint(0.16 * (size - 1)))
    return Layers(
        np.where(enough, middle / 2, np.nan), np.where(enough, wide / 2, np.nan),
        np.where(enough, size, 0) / ordered.shape[-1],
    )  # fmt: skip


def _pick(ordered: Array, index: npt.NDArray[np.generic]) -> Array:
    where = np.clip(index, 0, ordered.shape[-1] - 1).astype(np.int64)
    return np.take_along_axis(ordered, where, axis=-1)


def agreed(body: Body, ray: Array, found: Layers, score: Array, torso: Mask) -> Array:
    """(P, J) the depth of the layer that fits the rest of the body; NaN where neither does.

    No two joints are further apart than bones allow (`Body.reach_m`). The layer that most of the
    others can live with is the body's; what is too far from it or from most of what fits it is
    background, something in front, or another person. A body of one joint is not believed.
    """
    people, joints = score.shape
    point = (ray[:, :, None] * found.z_m[..., None]).reshape(people, 2 * joints, 3)
    valid = np.isfinite(point[..., 2])
    point = np.where(valid[..., None], point, 1e9)
    square = dot(point, point)
    apart = square[:, :, None] + square[:, None] - 2 * point @ point.transpose(0, 2, 1)
    reach = np.repeat(np.repeat(body.reach_m, 2, axis=0), 2, axis=1) + SLACK_M
    fits = (apart <= reach**2) & valid[:, None] & valid[:, :, None]
    weight = np.where(valid, (score[..., None] * found.share).reshape(people, -1), 0.0)
    votes = np.where(valid, _votes(fits, weight), -1.0)
    best = votes.argmax(axis=1)
    near = fits[np.arange(people), best]
    inner = _votes(fits & near[:, None], weight)
    total = np.where(near, weight, 0.0).reshape(people, joints, 2).max(axis=-1).sum(axis=-1)
    good = (near & (inner >= AGREE * total[:, None])).reshape(people, joints, 2)
    most = weight.reshape(people, joints, 2).max(axis=-1)
    share = np.where(good.any(axis=-1), most, 0.0).sum(axis=1) >= BELIEVED * most.sum(axis=1)
    good &= ((good.any(axis=-1).sum(axis=-1) >= 2) & share)[:, None, None]
    further = good[..., 1] & np.where(torso, found.share[..., 1] >= TORSO_SHARE, False)
    least = np.maximum(LIMB_SHARE, np.where(good[..., 1], LIMB_RATIO * found.share[..., 1], 0.0))
    further |= ~(good[..., 0] & (found.share[..., 0] >= least))
    z = np.where(further, found.z_m[..., 1], found.z_m[..., 0])
    return np.where(np.where(further, good[..., 1], good[..., 0]), z, np.nan)


def _votes(fits: Mask, weight: Array) -> Array:
    """(P, 2 J) weight of the other joints that fit each layer; a joint counts once."""
    people, count, _ = fits.shape
    each = np.where(fits, weight[:, None], 0.0).reshape(people, count, count // 2, 2)
    total: Array = np.maximum(each[..., 0], each[..., 1]).sum(axis=-1)
    return total


def anchored(body: Body, ray: Array, z_m: Array, found: Layers) -> Array:
    """Depths (P, J) without limbs that are torn off or lie on something in front of the person.

    A limb too long for the person loses its outer end. So does one whose inner end was refused,
    where the outer end fits what was refused: both show the same wrong thing. A body that is too
    small or too large for a person is refused as a whole.
    """
    size = _ratio(body, ray, z_m)
    size = np.where(np.isfinite(size), np.minimum(size, LONGEST), LONGEST)
    large = _ratio(body, ray, _level(z_m, found)) > LARGEST
    z = np.where(((size >= SMALLEST) & ~large)[:, None], z_m, np.nan)
    for pairs, length in zip(body.hangs, body.hangs_m, strict=True):
        outer, inner = pairs.T
        limit = (STRETCH * np.maximum(size, 0.5)[:, None] * length + SLACK_M) ** 2
        tip = ray[:, outer] * z[:, outer, None]
        with np.errstate(invalid="ignore"):
            limb = tip - ray[:, inner] * z[:, inner, None]
            torn = dot(limb, limb) > limit
            refused = ray[:, inner, None] * found.z_m[:, inner, :, None]  # (P, N, 2, 3)
            limbs = tip[:, :, None] - refused
            along = dot(limbs, limbs) <= limit[..., None]
        torn |= along.any(axis=-1) & ~np.isfinite(z[:, inner])
        z[:, outer] = np.where(torn, np.nan, z[:, outer])
    return z


def without_flat(body: Body, z_m: Array, flank_m: Array) -> Array:
    """Depths (P, J) without elbows, wrists, knees and ankles whose surface goes on beside them.

    ``flank_m`` (P, J, 2, 2) is the surface at `Patch.flank_px`. A limb has something further away
    beside it, on one side at least, even where it rests on the body.
    """
    skin = (z_m - body.thickness_m)[..., None]
    with np.errstate(invalid="ignore"):
        level = np.abs(flank_m.mean(axis=-1) - skin) < FLAT * body.width_m[:, None]
    flat = level.all(axis=-1)
    thin = np.zeros(z_m.shape[1], bool)
    for pairs in body.hangs:
        thin[pairs[:, 0]] = True
    return np.where(flat & thin, np.nan, z_m)


def _level(z_m: Array, found: Layers) -> Array:
    """(P, J) the layer nearest to the middle of what the body agrees on; NaN: none is near it."""
    ordered = np.sort(z_m, axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    middle = ordered[np.arange(len(z_m)), np.maximum(count - 1, 0) // 2]
    away = np.abs(found.z_m - middle[:, None, None])
    away = np.where(away <= LEVEL_M, away, np.inf)
    nearest = np.take_along_axis(found.z_m, away.argmin(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(np.isfinite(away).any(axis=-1), nearest, np.nan)


def _ratio(body: Body, ray: Array, z_m: Array) -> Array:
    """(P,) size of the person over that of the tables; NaN where too little is known."""
    a, b = body.bones[body.limbs].T
    point = ray * z_m[..., None]
    bone = point[:, a] - point[:, b]
    ratio = np.sort(np.sqrt(dot(bone, bone)) / body.length_m[body.limbs], axis=1)
    count = np.isfinite(ratio).sum(axis=1)
    which = np.rint(SCALE_QUANTILE * np.maximum(count - 1, 0)).astype(np.int64)
    size = ratio[np.arange(len(ratio)), which] if ratio.shape[1] else np.full(len(z_m), np.nan)
    return np.where(count >= 4, size, np.nan)
