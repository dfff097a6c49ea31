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
#: For a sure one: the correlation, and how much less every other offset must have.
SURE_CORRELATION, CLEARLY = 0.95, 0.1
#: A picture so much newer than the newest sample is of another clock.
OTHER_CLOCK_NS = 1_000_000_000
#: Time between the offsets that are tried.
STEP_S = 0.005
#: Width in pixels at which pictures are compared.
FLOW_WIDTH_PX = 320
#: Least share of points that must agree on one rotation, and least points.
LEAST_AGREEING, LEAST_POINTS = 0.4, 12


@dataclass(frozen=True)
class Offset:
    """Add ``seconds`` to an image's stamp to get the sensor's stamp of the same moment."""

    seconds: float
    correlation: float  # of the two angular velocities at that offset
    sure: bool  # no other offset explains the pictures nearly as well


class OffsetEstimator:
    """Compares how far pictures turned with what a gyro says for every offset that may be."""

    def __init__(self, longest_s: float = 0.2, images: int = 200) -> None:
        """Look for offsets up to ``longest_s``, from the last ``images`` pairs."""
        self.longest_s = longest_s
        self._shifts = (
            np.arange(-round(longest_s / STEP_S), round(longest_s / STEP_S) + 1) * STEP_S
        )
        self._waiting: deque[tuple[int, int, float]] = deque(maxlen=images)
        self._seen: deque[float] = deque(maxlen=images)  # rad/s
        self._said: deque[Floats] = deque(maxlen=images)  # (S,) rad/s, for every offset

    def push(self, old_ns: int, new_ns: int, turn_rad: float) -> None:
        """Add the angle between two images; NaN and steps back are passed over."""
        if new_ns > old_ns and np.isfinite(turn_rad):
            self._waiting.append((old_ns, new_ns, float(turn_rad)))

    def estimate(self, imu: Imu) -> Offset | None:
        """Best offset; None while the camera has not turned enough to tell.

        Samples after an image decide, too: a pair counts once they have come.
        """
        self._ask(imu)
        if len(self._seen) < LEAST_IMAGES:
            return None
        seen = np.array(self._seen)
        if seen.std() < LEAST_RAD_S:
            return None
        match = _correlation(np.array(self._said).T, seen)
        k = int(match.argmax())
        if match[k] < LEAST_CORRELATION or k in (0, len(match) - 1):
            return None
        low, mid, high = match[k - 1 : k + 2]
        peak = 0.5 * (low - high) / (low - 2 * mid + high)
        others = np.delete(match, _hill(match, k))
        sure = bool(mid >= SURE_CORRELATION and (others < mid - CLEARLY).all())
        return Offset(float(self._shifts[k] + peak * STEP_S), float(mid), sure)

    def _ask(self, imu: Imu) -> None:
        """What the gyro says of the pairs that its samples cover for all offsets."""
        span, margin_ns = imu.span_ns, round(self.longest_s * 1e9)
        while span is not None and self._waiting:
            old_ns, new_ns, turn_rad = self._waiting[0]
            if new_ns + margin_ns > span[1] and old_ns - span[1] < OTHER_CLOCK_NS:
                return
            self._waiting.popleft()
            if old_ns - margin_ns < span[0] or new_ns + margin_ns > span[1]:
                continue  # forgotten, or of another clock
            stamps, rates = imu.rates(old_ns - 2 * margin_ns, new_ns + 2 * margin_ns)
            if len(stamps) < 2 or np.diff(stamps).max() > margin_ns:
                continue  # the sensor was silent
            at, speed = (stamps - old_ns) * 1e-9, np.linalg.norm(rates, axis=1)
            way = np.append(0.0, np.cumsum(0.5 * (speed[1:] + speed[:-1]) * np.diff(at)))
            took_s = (new_ns - old_ns) * 1e-9
            ends = np.interp(self._shifts + took_s, at, way) - np.interp(self._shifts, at, way)
            self._said.append(np.asarray(ends / took_s))
            self._seen.append(turn_rad / took_s)


def _hill(match: Floats, top: int) -> npt.NDArray[np.int64]:
    """Indices around ``top`` from which there is no way down before it."""
    falls = np.diff(match) < 0
    right = next((i for i in range(top, len(falls)) if not falls[i]), len(falls))
    left = next((i for i in range(top - 1, -1, -1) if falls[i]), -1)
    return np.arange(left + 1, right + 1)


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
