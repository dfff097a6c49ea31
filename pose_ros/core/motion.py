"""A constant-velocity Kalman filter for the boxes of all people at once."""

from __future__ import annotations

import numpy as np

from pose_ros.core.refine_memory import warp
from pose_ros.core.values import FloatArray

#: Spread of a person's acceleration, in own heights per second squared.
ACCELERATION = 3.0
#: Spread of a measured box edge, in own heights.
MEASURED = 0.03
#: Spread of an edge that moved inwards: a box that loses a limb would not find it again.
MEASURED_SMALLER = 0.15
#: Spread of an unseen person's velocity when first measured, in own heights per second.
FIRST_VELOCITY = 1.0
#: Time after which the velocity of an unseen person, and of any box's size, has halved.
COAST_HALF_S = 0.3


class BoxFilter:
    """Centre, width and height of each person with their velocities; the four do not interact.

    Each is a two-state (value, velocity) filter with the same noise, scaled by the person's
    height, so that near and far people are treated alike; arrays are (P, 4), a person a row.
    ``filterpy`` would need an object per person and a loop.

    Source: Bar-Shalom et al., Estimation with Applications to Tracking and Navigation, 2001,
    section 6.3.2 (white-noise acceleration).
    """

    def __init__(self) -> None:
        """Nobody."""
        self.value = np.zeros((0, 4))
        self.velocity = np.zeros((0, 4))
        self.cov = np.zeros((0, 3, 4))  # rows: var(value), cov(value, velocity), var(velocity)

    def add(self, xyxy_px: FloatArray) -> None:
        """Append people measured for the first time, (P, 4) boxes."""
        value = _cxcywh(xyxy_px)
        tall = _tall(value)
        cov = np.zeros((len(value), 3, 4))
        cov[:, 0] = (MEASURED * tall) ** 2
        cov[:, 2] = (FIRST_VELOCITY * tall) ** 2
        self.value = np.concatenate([self.value, value])
        self.velocity = np.concatenate([self.velocity, np.zeros_like(value)])
        self.cov = np.concatenate([self.cov, cov])

    def keep(self, which: np.ndarray) -> None:
        """Keep the rows ``which`` (indices or mask), drop the others."""
        self.value, self.velocity, self.cov = (
            self.value[which], self.velocity[which], self.cov[which],
        )  # fmt: skip

    def transform(self, homography: np.ndarray) -> None:
        """Move everybody by a homography (3, 3) of pixels, when the camera turned."""
        moved, slope = warp(homography, self.value[:, :2])
        grow = np.sqrt(np.abs(np.linalg.det(slope)))[:, None]
        self.value = np.concatenate([moved, grow * self.value[:, 2:]], axis=1)
        speed = (slope @ self.velocity[:, :2, None])[..., 0]
        self.velocity = np.concatenate([speed, grow * self.velocity[:, 2:]], axis=1)
        self.cov = self.cov * grow[..., None] ** 2

    def predict(self, dt_s: float, unseen: np.ndarray) -> None:
        """Move everybody ``dt_s`` ahead; people ``unseen`` (P,) slow down and keep their size.

        Nobody grows or shrinks for long, so the velocity of the size always fades.
        """
        noise = (ACCELERATION * _tall(self.value)) ** 2
        p, c, v = self.cov[:, 0], self.cov[:, 1], self.cov[:, 2]
        fade = 0.5 ** (dt_s / COAST_HALF_S)
        self.velocity[:, :2] *= np.where(unseen, fade, 1.0)[:, None]
        self.velocity[:, 2:] *= np.where(unseen, 0.0, fade)[:, None]
        self.value = self.value + dt_s * self.velocity
        self.cov = np.stack(
            [
                p + 2 * dt_s * c + dt_s**2 * v + noise * dt_s**4 / 4,
                c + dt_s * v + noise * dt_s**3 / 2,
                v + noise * dt_s**2,
            ],
            axis=1,
        )
        self.value[:, 2:] = np.maximum(self.value[:, 2:], 2.0)

    def update(self, rows: np.ndarray, xyxy_px: FloatArray) -> None:
        """Take measured boxes (R, 4) of the people ``rows`` (R,) into account."""
        if len(rows) == 0:
            return
        measured = _cxcywh(xyxy_px)
        p, c, v = self.cov[rows, 0], self.cov[rows, 1], self.cov[rows, 2]
        residual = measured - self.value[rows]
        spread = np.full_like(residual, MEASURED)
        spread[:, 2:] = np.where(residual[:, 2:] < 0, MEASURED_SMALLER, MEASURED)
        gain = 1.0 / (p + (spread * _tall(self.value[rows])) ** 2)
        self.value[rows] += p * gain * residual
        self.velocity[rows] += c * gain * residual
        self.cov[rows] = np.stack([p - p * p * gain, c - p * c * gain, v - c * c * gain], axis=1)

    @property
    def xyxy_px(self) -> FloatArray:
        """(P, 4) boxes as they are believed now."""
        half = self.value[:, 2:] / 2
        return np.concatenate([self.value[:, :2] - half, self.value[:, :2] + half], axis=1).astype(
            np.float32
        )


def _cxcywh(xyxy: FloatArray) -> np.ndarray:
    box = xyxy.astype(np.float64)
    return np.concatenate([(box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]], axis=1)


def _tall(value: np.ndarray) -> np.ndarray:
    """(P, 1) the longer side: a sitting or cut-off person is judged by it too."""
    return np.maximum(value[:, 2:].max(axis=1, keepdims=True), 2.0)
