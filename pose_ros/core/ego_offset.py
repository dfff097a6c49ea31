"""The clock difference of camera and sensor, from what both see of the same turning.

Source: the idea of Mair et al., Spatio-temporal initialization for IMU to camera registration,
2011: correlate the magnitudes of both angular velocities, which needs no calibration.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.imu import Imu
from pose_ros.core.so3 import log_so3
from pose_ros.core.values import ByteArray, FloatArray

Floats = npt.NDArray[np.float64]

#: Least images, spread of the rate and correlation for an answer.
LEAST_IMAGES, LEAST_RAD_S, LEAST_CORRELATION = 20, 0.05, 0.8
#: Width in pixels at which pictures are compared.
FLOW_WIDTH_PX = 320
#: Least share of points that must agree on one rotation, and least points.
LEAST_AGREEING, LEAST_POINTS = 0.4, 12


@dataclass(frozen=True)
class Offset:
    """Add ``seconds`` to an image's stamp to get the sensor's stamp of the same moment."""

    seconds: float
    correlation: float  # of the two angular velocities at that offset


class OffsetEstimator:
    """Collects how far pictures turned and compares that with a gyro."""

    def __init__(self, longest_s: float = 0.1, images: int = 300) -> None:
        """Look for offsets up to ``longest_s``, from the last ``images`` pairs."""
        self.longest_s = longest_s
        self._turns: deque[tuple[int, int, float]] = deque(maxlen=images)

    def push(self, old_ns: int, new_ns: int, turn_rad: float) -> None:
        """Add the angle between two consecutive images; NaN and steps back are passed over."""
        if new_ns > old_ns and np.isfinite(turn_rad):
            self._turns.append((old_ns, new_ns, float(turn_rad)))

    def estimate(self, imu: Imu) -> Offset | None:
        """Best offset; None while the camera has not turned enough to tell."""
        if len(self._turns) < LEAST_IMAGES:
            return None
        table = np.array(self._turns)
        span = round((self.longest_s + 0.05) * 1e9)
        stamps, rates = imu.rates(int(table[0, 0]) - span, int(table[-1, 1]) + span)
        if len(stamps) < LEAST_IMAGES:
            return None
        base = int(stamps[0])
        at = (stamps - base) * 1e-9
        speed = np.linalg.norm(rates, axis=1)
        way = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * np.diff(at))])
        old, new = (table[:, 0] - base) * 1e-9, (table[:, 1] - base) * 1e-9
        inside = (old - self.longest_s >= at[0]) & (new + self.longest_s <= at[-1])
        old, new = old[inside], new[inside]
        seen = table[inside, 2] / (new - old)
        if len(old) < LEAST_IMAGES or seen.std() < LEAST_RAD_S:
            return None
        shifts = np.linspace(-self.longest_s, self.longest_s, 81)
        said = np.interp(new + shifts[:, None], at, way) - np.interp(
            old + shifts[:, None], at, way
        )
        match = _correlation(said / (new - old), seen)
        k = int(match.argmax())
        if match[k] < LEAST_CORRELATION or k in (0, len(shifts) - 1):
            return None
        low, mid, high = match[k - 1 : k + 2]
        peak = 0.5 * (low - high) / (low - 2 * mid + high)
        return Offset(float(shifts[k] + peak * (shifts[1] - shifts[0])), float(mid))


def _correlation(rows: Floats, one: Floats) -> Floats:
    """Pearson correlation (S,) of every row of (S, N) with (N,)."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    one = one - one.mean()
    scale = np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
    return np.asarray(rows @ one / np.maximum(scale, 1e-12))


def image_turn(
    camera: PinholeCamera, old_rgb: ByteArray, new_rgb: ByteArray,
    people_px: FloatArray | None = None,
) -> Floats | None:  # fmt: skip
    """Rotation vector (3,) of the camera between two pictures of the same size.

    It is that of ``new_from_old``. Corners are followed by optical flow and fitted by one
    rotation; what moves otherwise (near things) is voted out, what lies in the boxes
    ``people_px`` (P, 4) is not looked at. None without agreement.
    """
    scale = min(FLOW_WIDTH_PX / camera.width_px, 1.0)
    small = [
        cv2.resize(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), None, fx=scale, fy=scale,
                   interpolation=cv2.INTER_AREA)
        for rgb in (old_rgb, new_rgb)
    ]  # fmt: skip
    corners = cv2.goodFeaturesToTrack(
        small[0], 150, 0.01, 7, mask=_outside(small[0], people_px, scale)
    )
    if corners is None or len(corners) < LEAST_POINTS:
        return None
    moved, found, _ = cv2.calcOpticalFlowPyrLK(small[0], small[1], corners, None)  # type: ignore[call-overload, unused-ignore]
    kept = found[:, 0] == 1
    if kept.sum() < LEAST_POINTS:
        return None
    rays = []
    for points in (corners[kept, 0], moved[kept, 0]):
        ray = camera.rays((points + 0.5) / scale - 0.5)
        rays.append(ray / np.linalg.norm(ray, axis=1, keepdims=True))
    return _fit_rotation(rays[0], rays[1], 2.0 / (scale * camera.fx_px))


def _outside(small: ByteArray, people_px: FloatArray | None, scale: float) -> ByteArray:
    """(h, w) 1 where nobody's box (P, 4) is."""
    mask = np.ones(small.shape[:2], np.uint8)
    for left, top, right, bottom in [] if people_px is None else (scale * people_px).tolist():
        mask[
            max(int(top), 0) : max(int(bottom) + 1, 0), max(int(left), 0) : max(int(right) + 1, 0)
        ] = 0
    return mask


def _fit_rotation(old: Floats, new: Floats, tolerance: float) -> Floats | None:
    """Rotation vector that most unit vectors (N, 3) agree on within ``tolerance`` radians."""
    rng = np.random.default_rng(0)
    best = np.zeros(len(old), bool)
    for _ in range(40):
        pair = rng.choice(len(old), 2, replace=False)
        turn = kabsch(old[pair], new[pair])
        near = np.linalg.norm(new - old @ turn.T, axis=1) < tolerance
        if near.sum() > best.sum():
            best = near
    if best.sum() < max(LEAST_POINTS, LEAST_AGREEING * len(old)):
        return None
    return log_so3(kabsch(old[best], new[best]))


def kabsch(old: Floats, new: Floats) -> Floats:
    """Rotation (3, 3) that turns directions ``old`` (N, 3) into ``new`` best; N >= 2."""
    u, _, vt = np.linalg.svd(new.T @ old)
    return np.asarray(u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt)
