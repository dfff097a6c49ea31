"""What makes a video hard, added to crops: the scenes of HSTPN's Table 6, and more.

A severity of 0 changes nothing and 1 is about as bad as a person can still read. Everything random
comes from the generator that is passed in. Clips are (T, H, W, 3) uint8 RGB and are not changed.

The paper names the scenes (occlusion, crowd, fast motion, low light) but not how they were made;
the amounts are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.values import ByteArray, FloatArray, check
from pose_ros.errors import ConfigError

Rng = np.random.Generator
Corruption = Callable[[ByteArray, float, Rng], ByteArray]

#: Widest blur: standard deviation in shares of the crop's height.
BLUR_MAX = 1.0 / 32.0
#: Longest smear of motion blur in shares of the crop's height.
SMEAR_MAX = 1.0 / 6.0
#: Standard deviation of the strongest noise, in grey levels.
NOISE_MAX = 60.0
#: Area of the largest occluder in shares of the crop.
OCCLUDER_MAX = 0.4
#: Exposure of the darkest picture, and its read noise in grey levels.
DARKEST, DARK_NOISE = 0.04, 6.0
#: Smallest side of the coarsest picture in shares of the crop's.
COARSEST = 1.0 / 12.0


def blur(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """Out of focus: a Gaussian blur."""
    sigma = severity * BLUR_MAX * clip.shape[1]
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip])


def motion(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """Fast motion: a smear in one direction, the same for the whole clip."""
    length = max(2, round(severity * SMEAR_MAX * clip.shape[1]))
    angle = rng.uniform(0.0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    centre, reach = (length - 1) / 2, (length - 1) / 2
    step = np.array([np.cos(angle), np.sin(angle)]) * reach
    start, stop = (np.rint(centre - step), np.rint(centre + step))
    cv2.line(kernel, tuple(start.astype(int).tolist()), tuple(stop.astype(int).tolist()), (1.0,))
    kernel /= kernel.sum()
    return np.stack([cv2.filter2D(frame, -1, kernel) for frame in clip])


def noise(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """Independent Gaussian noise on every value."""
    added = rng.normal(0.0, severity * NOISE_MAX, clip.shape)
    return _bytes(clip + added)


def lowlight(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """A dark scene: less light, shot noise and read noise, in 8 bits."""
    exposure = DARKEST**severity
    photons = clip * exposure
    grain = rng.normal(0.0, 1.0, clip.shape) * np.sqrt(photons + 1.0) * severity
    return _bytes(photons + grain + rng.normal(0.0, DARK_NOISE * severity, clip.shape))


def occlusion(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """A patch of one colour with noise in front of the person, at one place for the whole clip."""
    _frames, height, width, _channels = clip.shape
    share = severity * OCCLUDER_MAX
    aspect = float(np.exp(rng.uniform(-0.7, 0.7)))
    h = int(np.clip(round(height * np.sqrt(share * aspect)), 1, height))
    w = int(np.clip(round(share * height * width / h), 1, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    patch = rng.uniform(0, 255, 3) + rng.normal(0, 20, (h, w, 3))
    out = clip.copy()
    out[:, top : top + h, left : left + w] = _bytes(patch)
    return out


def lowres(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """A far person: fewer pixels, enlarged again."""
    _frames, height, width, _channels = clip.shape
    factor = COARSEST**severity
    small = (max(2, round(width * factor)), max(2, round(height * factor)))
    return np.stack(
        [
            cv2.resize(cv2.resize(f, small, interpolation=cv2.INTER_AREA), (width, height))
            for f in clip
        ]
    )


def dropframes(clip: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """Lost frames: each repeats the last one that arrived; the first always arrives."""
    lost = rng.random(len(clip)) < severity
    lost[0] = False
    last = np.maximum.accumulate(np.where(lost, 0, np.arange(len(clip))))
    return clip[last]


KINDS: dict[str, Corruption] = {
    "blur": blur,
    "motion": motion,
    "noise": noise,
    "lowlight": lowlight,
    "occlusion": occlusion,
    "lowres": lowres,
    "dropframes": dropframes,
}
#: Other names of the same.
ALIASES = {"occl": "occlusion"}
#: Changes the predicted joints instead of the pictures.
DROP_JOINTS = "dropkp"


def corrupt(clip: ByteArray, kind: str, severity: float, rng: Rng) -> ByteArray:
    """Return a clip made harder.

    Raises:
        ConfigError: an unknown kind, or a severity outside 0 ... 1.
        ShapeError: not a (T, H, W, 3) uint8 clip.

    """
    check("clip", clip, (None, None, None, 3), np.uint8)
    name = ALIASES.get(kind, kind)
    if name not in KINDS:
        raise ConfigError(f"corruption '{kind}' is not known; known: {', '.join(KINDS)}")
    _check_severity(severity)
    if severity == 0.0 or clip.size == 0:
        return clip.copy()
    return KINDS[name](clip, severity, rng)


def drop_joints(
    xy_px: FloatArray, score: FloatArray, severity: float, rng: Rng
) -> tuple[FloatArray, FloatArray]:
    """Forget predicted joints (N, K, 2) with a chance of ``severity``: NaN with score 0.

    Raises:
        ConfigError: a severity outside 0 ... 1.

    """
    _check_severity(severity)
    lost = rng.random(score.shape) < severity
    kept = np.where(lost[..., None], np.float32("nan"), xy_px).astype(np.float32)
    return kept, np.where(lost, 0.0, score).astype(np.float32)


@dataclass(frozen=True)
class CorruptionSpec:
    """A kind and its severity, as ``KIND:SEVERITY`` in commands; 0.5 without a severity."""

    kind: str
    severity: float

    @staticmethod
    def parse(text: str) -> CorruptionSpec:
        """Read ``KIND[:SEVERITY]``.

        Raises:
            ConfigError: an unknown kind or a bad severity.

        """
        kind, _colon, number = text.partition(":")
        name = ALIASES.get(kind, kind)
        if name not in KINDS and name != DROP_JOINTS:
            known = ", ".join([*KINDS, DROP_JOINTS])
            raise ConfigError(f"corruption '{kind}' is not known; known: {known}")
        try:
            severity = float(number) if number else 0.5
        except ValueError:
            raise ConfigError(f"corruption {kind}: expected a number, got '{number}'") from None
        _check_severity(severity)
        return CorruptionSpec(name, severity)


def _check_severity(severity: float) -> None:
    if not 0.0 <= severity <= 1.0:
        raise ConfigError(f"corruption: expected a severity of 0 ... 1, got {severity}")


def _bytes(values: npt.NDArray[np.floating]) -> ByteArray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
