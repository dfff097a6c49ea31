"""How a sensor sits on a bone, and on which one: from a few seconds of both moving.

Letters: N moments, B bones. Both worlds have z up; the sensor's heading is off by an unknown yaw.
A bone along ``axis`` in the sensor's axes then points along Rot(z, yaw) R axis in the camera's
world, R being world from sensor. For every yaw the best axis is the mean of R^T Rot(z, -yaw) u
over the seen directions u, and the length of that mean says how well they agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Floats = npt.NDArray[np.float64]

#: Yaws that are tried.
YAWS = np.arange(72) * (2 * np.pi / 72)
#: Least moments for a mounting, and for a yaw alone.
LEAST_MOMENTS, LEAST_FOR_YAW = 60, 20
#: A fit counts with a residual below the first, if the bone swung by the second; radians.
RESIDUAL_MAX, SWING_MIN = np.radians(20.0), np.radians(7.0)
#: Other bones, and yaws further away than the last, must be worse by these: the roots of the
#: squares' difference, as the noise of the seen bones adds to both squares. A wrong yaw is put
#: right later, so less is asked: the second, and so many standard errors of a mean square.
MARGIN, YAW_MARGIN, YAW_ERRORS, YAW_APART = (
    np.radians(5.5), np.radians(3.0), 3.0, np.radians(40.0),
)  # fmt: skip


@dataclass(frozen=True)
class Mounts:
    """Best mounting of one sensor on each of B bones; NaN with too few moments."""

    axis: Floats  # (B, 3) the bone's direction in the sensor's axes
    yaw_rad: Floats  # (B,)
    residual_rad: Floats  # (B,) RMS angle between what is said and seen
    sure: npt.NDArray[np.bool_]  # (B,) the motion was rich enough to tell axis and yaw


def fit_mounts(world: Floats, seen: Floats) -> Mounts:
    """Mountings of a sensor of orientations ``world`` (N, B, 3, 3) on bones ``seen`` (N, B, 3).

    Every bone has its own moments; (N, 3, 3) are those of all of them. Directions are unit
    vectors in a world with z up, NaN where a bone was not seen.
    """
    bones = seen.shape[1]
    world = world[:, None] if world.ndim == 3 else world
    whole = np.asarray(np.isfinite(world).all(axis=(-1, -2)))
    known = np.asarray(np.isfinite(seen).all(axis=-1)) & whole
    u = np.where(known[..., None], seen, 0.0)
    r = np.broadcast_to(np.nan_to_num(world), (*u.shape, 3))
    upright, flat = u * [0, 0, 1], u * [1, 1, 0]
    across = np.stack([-u[..., 1], u[..., 0], 0 * u[..., 0]], axis=-1)
    a, b, c = (np.einsum("nbji,nbj->bi", r, part) for part in (upright, flat, across))
    count = known.sum(axis=0)
    cos, sin = np.cos(YAWS)[:, None], np.sin(YAWS)[:, None]
    mean = (a[:, None] + cos * b[:, None] - sin * c[:, None]) / np.maximum(count, 1)[:, None, None]
    length = np.linalg.norm(mean, axis=-1)  # (B, Y)
    residual = np.sqrt(np.maximum(2.0 * (1.0 - length), 0.0))
    best = length.argmax(axis=1)
    rows = np.arange(bones)
    yaw, axis = _sharpen((a, b, c), YAWS[best], count)
    apart = np.abs((YAWS[None] - yaw[:, None] + np.pi) % (2 * np.pi) - np.pi) > YAW_APART
    rival = np.where(apart, residual, np.inf).min(axis=1)
    said = np.einsum("nbij,bj->nbi", r, axis) * known[..., None]
    middle = np.linalg.norm(said.sum(axis=0), axis=-1) / np.maximum(count, 1)
    swing = np.sqrt(np.maximum(2.0 * (1.0 - middle), 0.0))
    left = residual[rows, best]
    enough = count >= LEAST_MOMENTS
    doubt = YAW_ERRORS * left**2 / np.sqrt(np.maximum(count, 1))
    told = rival**2 - left**2 > np.maximum(doubt, YAW_MARGIN**2)
    sure = enough & (left < RESIDUAL_MAX) & (swing > SWING_MIN) & told
    left = np.where(enough, left, np.nan)
    return Mounts(np.where(enough[:, None], axis, np.nan), yaw, left, sure)


def _sharpen(
    sums: tuple[Floats, Floats, Floats], yaw: Floats, count: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Yaw (B,) between the tried ones by two Newton steps on |mean|^2, and its axes (B, 3)."""
    a, b, c = sums
    for _ in range(2):
        cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        mean, slope = a + cos * b - sin * c, -sin * b - cos * c
        bend = -cos * b + sin * c
        first = (mean * slope).sum(axis=-1)
        second = (slope * slope).sum(axis=-1) + (mean * bend).sum(axis=-1)
        step = np.where(second < 0, -first / np.where(second < 0, second, -1.0), 0.0)
        yaw = yaw + np.clip(step, -0.05, 0.05)
    mean = a + np.cos(yaw)[:, None] * b - np.sin(yaw)[:, None] * c
    axis = mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
    return yaw, np.where((count > 0)[:, None], axis, np.nan)


def fit_yaw(world: Floats, axis: Floats, seen: Floats) -> tuple[float, float]:
    """Yaw of a sensor whose bone's ``axis`` (3,) is known, and the RMS residual; radians.

    ``world`` (N, 3, 3) and ``seen`` (N, 3) as in `fit_mounts`; both NaN without moments.
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


def assign(residual_rad: Floats, sure: npt.NDArray[np.bool_]) -> dict[int, int]:
    """Bone of every sensor that can be told, from (S, B) residuals; NaN: impossible.

    The cheapest one-to-one assignment; a sensor waits while another bone fits it nearly as well.
    """
    cost = np.where(np.isfinite(residual_rad), residual_rad, 10.0)
    found = {}
    for sensor, bone in zip(*linear_sum_assignment(cost), strict=True):
        others = np.delete(cost[sensor], bone)
        clear = not others.size or others.min() ** 2 - cost[sensor, bone] ** 2 > MARGIN**2
        if sure[sensor, bone] and clear:
            found[int(sensor)] = int(bone)
    return found
