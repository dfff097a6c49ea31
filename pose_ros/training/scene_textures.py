"""Procedural surfaces for rendered scenes: cloth, skin, floors, walls, posters.

A texture is an (n, n, 3) uint8 RGB tile that repeats without a seam. All randomness comes from
the generator that is passed in: the same generator state, the same bytes.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

ByteImage = npt.NDArray[np.uint8]

SIZE = 256
SKINS = ((250, 215, 190), (235, 190, 155), (205, 150, 115), (160, 108, 75), (110, 72, 52))
HAIRS = ((25, 20, 18), (60, 38, 22), (105, 70, 40), (190, 150, 90), (150, 145, 140), (120, 45, 25))


@dataclass(frozen=True)
class Material:
    """A surface: ``levels`` (halved tiles, finest first), the length of one tile, its gloss."""

    levels: tuple[ByteImage, ...]
    tile_m: float
    gloss: float = 0.0

    @staticmethod
    def of(tile: ByteImage, tile_m: float, gloss: float = 0.0) -> Material:
        """Material of one square tile that covers ``tile_m`` metres."""
        levels = [tile]
        while levels[-1].shape[0] > 4:
            half = levels[-1].shape[0] // 2
            levels.append(cv2.resize(levels[-1], (half, half), interpolation=cv2.INTER_AREA))
        return Material(tuple(levels), tile_m, gloss)


def noise(rng: np.random.Generator, octaves: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """(SIZE, SIZE) seamless smooth noise about 0, one octave per number of cells along a side."""
    total = np.zeros((SIZE, SIZE), np.float32)
    for n, cells in enumerate(octaves):
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        grid = np.pad(grid, 2, mode="wrap")
        step = SIZE // cells
        fine = cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += fine[2 * step : 2 * step + SIZE, 2 * step : 2 * step + SIZE] / (1.6**n)
    return total


def colour(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """(3,) a random colour, 0 to 255."""
    rgb = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(rgb, np.float32) * 255.0


def _mixed(
    base: npt.NDArray[np.float32], other: npt.NDArray[np.float32], share: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    return base + share[..., None] * (other - base)


def _bytes(image: npt.NDArray[np.float32]) -> ByteImage:
    return np.clip(image, 0, 255).astype(np.uint8)


def plain(rng: np.random.Generator, rgb: npt.NDArray[np.float32], rough: float) -> ByteImage:
    """One colour with soft blotches of relative strength ``rough``."""
    shade = 1.0 + rough * noise(rng, (4, 16, 64))
    return _bytes(np.float32(rgb) * shade[..., None])


def cloth(rng: np.random.Generator) -> ByteImage:
    """A garment: plain, striped, checked, dotted or camouflaged, with folds."""
    base = colour(rng, (0.0, 0.7), (0.12, 0.9))
    other = colour(rng, (0.0, 0.7), (0.1, 0.95))
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    count = int(rng.integers(3, 10))
    kind = rng.choice(["plain", "plain", "across", "along", "checks", "dots", "patches"])
    share = np.zeros((SIZE, SIZE), np.float32)
    width = rng.uniform(0.2, 0.5)
    if kind in ("across", "checks"):
        share = share + ((y * count) % 1.0 < width)
    if kind in ("along", "checks"):
        share = share + ((x * count) % 1.0 < width)
    if kind == "dots":
        share = share + np.hypot((x * count) % 1.0 - 0.5, (y * count) % 1.0 - 0.5) < width / 2
    if kind == "patches":
        share = share + (noise(rng, (4, 8)) > 0.4)
    image = _mixed(np.broadcast_to(base, (SIZE, SIZE, 3)), other, np.float32(share) * 0.5)
    folds = 1.0 + 0.06 * noise(rng, (4, 8, 16)) + 0.03 * noise(rng, (64,))
    return _bytes(image * folds[..., None])


def floor(rng: np.random.Generator) -> ByteImage:
    """Tiles, planks, carpet or concrete."""
    base = colour(rng, (0.02, 0.35), (0.3, 0.85))
    kind = rng.choice(["tiles", "planks", "carpet", "concrete"])
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    shade = 1.0 + rng.uniform(0.01, 0.05) * noise(rng, (8, 16, 64))
    if kind == "tiles":
        count = int(rng.choice([2, 4]))
        which = (np.floor(x * count) + np.floor(y * count)) % 2
        shade = shade * (1.0 - rng.uniform(0, 0.4) * which)
        joint = np.minimum((x * count) % 1.0, (y * count) % 1.0) < 0.03
        shade = np.where(joint, 0.6, shade)
    if kind == "planks":
        row = np.floor(y * 8).astype(int)
        shade = shade * rng.uniform(0.75, 1.1, 8).astype(np.float32)[row]
        grain = cv2.GaussianBlur(noise(rng, (128,)), (0, 0), sigmaX=12, sigmaY=0.6)
        shade = np.where((y * 8) % 1.0 < 0.05, 0.55, shade + 0.3 * grain)
    if kind == "carpet":
        shade = shade + 0.15 * rng.standard_normal((SIZE, SIZE)).astype(np.float32)
    return _bytes(base * shade[..., None].astype(np.float32))


def wall(rng: np.random.Generator) -> ByteImage:
    """Paint, wallpaper or bricks."""
    base = colour(rng, (0.0, 0.3), (0.45, 0.95))
    shade = 1.0 + rng.uniform(0.005, 0.02) * noise(rng, (4, 16, 32))
    kind = rng.choice(["paint", "paper", "bricks"])
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    if kind == "paper":
        shade = shade * (1.0 - 0.15 * ((x * int(rng.integers(4, 12))) % 1.0 < 0.5))
    if kind == "bricks":
        row = np.floor(y * 16)
        across = (x * 6 + 0.5 * (row % 2)) % 1.0
        mortar = (across < 0.06) | ((y * 16) % 1.0 < 0.12)
        base = np.float32((150, 80, 60)) * rng.uniform(0.6, 1.2)
        shade = np.where(mortar, 1.35, shade + 0.12 * noise(rng, (32,)))
    return _bytes(base * shade[..., None].astype(np.float32))


def poster(rng: np.random.Generator) -> ByteImage:
    """A print of random shapes and words."""
    image = np.full((SIZE, SIZE, 3), colour(rng, (0.0, 0.8), (0.2, 1.0)), np.uint8)
    for _ in range(int(rng.integers(6, 20))):
        paint = tuple(float(c) for c in colour(rng, (0.1, 1.0), (0.1, 1.0)))
        x, y, a, b = (int(v) for v in rng.integers(0, SIZE, 4))
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.rectangle(image, (x, y), (a, b), paint, -1)
        elif kind == 1:
            cv2.ellipse(image, (x, y), (a // 4 + 3, b // 4 + 3), a, 0, 360, paint, -1, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(image, (x, y), (a, b), paint, 1 + a // 30, cv2.LINE_AA)
        else:
            word = "".join(chr(int(c)) for c in rng.integers(65, 91, 5))
            cv2.putText(image, word, (x - 60, y), cv2.FONT_HERSHEY_SIMPLEX, 1 + a / 128, paint, 3)
    return image


def skin(rng: np.random.Generator) -> ByteImage:
    """A complexion."""
    base = np.float32(SKINS[int(rng.integers(len(SKINS)))]) * rng.uniform(0.92, 1.06)
    return plain(rng, base, 0.025)


def hair(rng: np.random.Generator) -> ByteImage:
    """Strands."""
    base = np.float32(HAIRS[int(rng.integers(len(HAIRS)))])
    strands = cv2.GaussianBlur(noise(rng, (128,)), (0, 0), sigmaX=0.6, sigmaY=10)
    return _bytes(base * (1.0 + 0.8 * strands)[..., None])
