"""What makes a live video hard: disturbances of a person's crops that go on from frame to frame.

`corruption` disturbs the windows that the papers' protocols look at; here a stream of any length
is disturbed, so that a memory sees what a robot's would: the shake of a camera changes from frame
to frame, and what hides a part of a person moves on. Everything random comes from the seed.
Crops are (H, W, 3) uint8 RGB and are not changed.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pose_ros.core.values import ByteArray
from pose_ros.errors import ConfigError

Rng = np.random.Generator
Disturb = Callable[[ByteArray], ByteArray]

#: Longest smear of motion blur in shares of the crop's height.
SMEAR_MAX = 1.0 / 8.0
#: Share of the crop that a passing object hides at severity 1, and how long it takes to pass it.
HIDDEN_MAX, PASS_FRAMES = 0.6, (10, 30)
#: Exposure of the darkest picture, and its read noise in grey levels.
DARKEST, DARK_NOISE = 0.04, 6.0
#: Widest blur out of focus: standard deviation in shares of the crop's height.
BLUR_MAX = 1.0 / 40.0


class Shake:
    """Motion blur of a shaken camera: smears whose length and direction wander."""

    def __init__(self, severity: float, rng: Rng) -> None:
        """Draw the first smear."""
        self.severity, self.rng = severity, rng
        self.angle, self.length = rng.uniform(0, np.pi), rng.uniform(0.3, 1.0)

    def __call__(self, crop: ByteArray) -> ByteArray:
        """The crop, smeared."""
        self.angle += self.rng.normal(0.0, 0.35)
        self.length = float(np.clip(self.length + self.rng.normal(0.0, 0.25), 0.2, 1.0))
        reach = self.severity * SMEAR_MAX * crop.shape[0] * self.length / 2.0
        size = 2 * int(np.ceil(reach)) + 3
        middle = (size - 1) / 2.0
        kernel = np.zeros((size, size), np.float32)
        steps = np.linspace(-reach, reach, 4 * size)
        x = middle + np.cos(self.angle) * steps
        y = middle + np.sin(self.angle) * steps
        np.add.at(kernel, (np.rint(y).astype(int), np.rint(x).astype(int)), 1.0)
        return np.asarray(cv2.filter2D(crop, -1, kernel / kernel.sum()), np.uint8)


class Passing:
    """Something passes in front of the person, again and again: a textured patch that moves."""

    def __init__(self, severity: float, rng: Rng) -> None:
        """Draw the first object."""
        self.severity, self.rng = severity, rng
        self.left = 0

    def _next(self, shape: tuple[int, ...]) -> None:
        """Draw an object of the given share of the crop, and its way through the middle."""
        height, width = shape[:2]
        area = self.severity * HIDDEN_MAX * height * width
        aspect = float(np.exp(self.rng.uniform(-0.7, 0.7)))
        tall = float(np.clip(np.sqrt(area * aspect), area / width, height))
        self.size = np.array([area / tall, tall])  # (w, h)
        self.left = int(self.rng.integers(*PASS_FRAMES))
        middle = self.rng.uniform(0.25, 0.75, 2) * (width, height)
        way = self.rng.normal(0.0, 1.0, 2)
        way *= self.rng.uniform(0.2, 0.6) * width / max(float(np.linalg.norm(way)), 1e-6)
        self.at, self.step = middle - way / 2.0, way / self.left
        grain = self.rng.uniform(0, 255, (int(self.rng.integers(1, 9)), 4, 3)).astype(np.float32)
        size = (max(1, round(self.size[0])), max(1, round(self.size[1])))
        texture = cv2.resize(grain, size, interpolation=cv2.INTER_LINEAR)
        noise = self.rng.normal(0, 8, texture.shape)
        self.texture = np.clip(texture + noise, 0, 255).astype(np.uint8)
        self.oval = self.rng.random() < 0.5

    def __call__(self, crop: ByteArray) -> ByteArray:
        """The crop, with the object in front."""
        if self.left == 0:
            self._next(crop.shape)
        self.left -= 1
        self.at = self.at + self.step
        out = crop.copy()
        height, width = crop.shape[:2]
        h, w = self.texture.shape[:2]
        left, top = (int(v) for v in np.rint(self.at - np.array([w, h]) / 2.0))
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
        if x1 <= x0 or y1 <= y0:
            return out
        piece = self.texture[y0 - top : y1 - top, x0 - left : x1 - left]
        if self.oval:
            mask = np.zeros((h, w), np.uint8)
            cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, (1,), -1)
            shown = mask[y0 - top : y1 - top, x0 - left : x1 - left, None] > 0
            piece = np.where(shown, piece, out[y0:y1, x0:x1])
        out[y0:y1, x0:x1] = piece
        return out


class Dark:
    """A dark scene: less light, shot noise and read noise, in 8 bits; new noise every frame."""

    def __init__(self, severity: float, rng: Rng) -> None:
        """Keep the severity."""
        self.severity, self.rng = severity, rng

    def __call__(self, crop: ByteArray) -> ByteArray:
        """The crop, darker."""
        light = crop * np.float32(DARKEST**self.severity)
        grain = self.rng.standard_normal(crop.shape, np.float32) * np.sqrt(light + 1.0)
        read = self.rng.standard_normal(crop.shape, np.float32) * DARK_NOISE
        out = light + (grain + read) * np.float32(self.severity)
        return np.clip(np.rint(out), 0, 255).astype(np.uint8)


class Defocus:
    """Out of focus: a Gaussian blur."""

    def __init__(self, severity: float, rng: Rng) -> None:
        """Keep the severity."""
        self.severity, self.rng = severity, rng

    def __call__(self, crop: ByteArray) -> ByteArray:
        """The crop, blurred."""
        sigma = self.severity * BLUR_MAX * crop.shape[0]
        return np.asarray(cv2.GaussianBlur(crop, (0, 0), sigma), np.uint8)


class Jpeg:
    """What a bad radio link leaves: strong JPEG compression."""

    def __init__(self, severity: float, rng: Rng) -> None:
        """Keep the severity."""
        self.quality = round(40 - 35 * severity)

    def __call__(self, crop: ByteArray) -> ByteArray:
        """The crop, compressed and read again."""
        _ok, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


KINDS: dict[str, Callable[[float, Rng], Disturb]] = {
    "motion": Shake,
    "occlusion": Passing,
    "lowlight": Dark,
    "defocus": Defocus,
    "jpeg": Jpeg,
}


def disturbance(kind: str, severity: float, seed: list[int]) -> Disturb:
    """A stream's disturbance, to be called with crop after crop; "clean" leaves them.

    Raises:
        ConfigError: an unknown kind, or a severity outside 0 ... 1.

    """
    if kind == "clean":
        return lambda crop: crop
    if kind not in KINDS:
        raise ConfigError(f"disturbance '{kind}' is not known; known: clean, {', '.join(KINDS)}")
    if not 0.0 <= severity <= 1.0:
        raise ConfigError(f"disturbance: expected a severity of 0 ... 1, got {severity}")
    return KINDS[kind](severity, np.random.default_rng(seed))
