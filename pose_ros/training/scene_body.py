"""Flesh around seventeen joints: a body as tapered, flattened capsules for the renderer.

Lengths are shares of the body's size (a stature, `body_size_m`). The frame of a part is x to
the person's left, y along the part, z to the front of the person.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import COCO17
from pose_ros.training import scene_textures as textures
from pose_ros.training.scene_textures import Material

Array = npt.NDArray[np.float64]

CAPSULE, BOX = 0, 1
MATERIALS = ("skin", "hair", "shirt", "trousers", "shoes", "white", "dark", "lips")
SKIN, HAIR, SHIRT, TROUSERS, SHOES, WHITE, DARK, LIPS = range(8)

#: How far in front of a joint's centre its own surface may lie, in COCO17 order, as a share of
#: the body's size: a joint deeper behind a surface is occluded.
JOINT_DEPTH = np.array(
    [
        0.03, 0.02, 0.02, 0.03, 0.03, 0.065, 0.065, 0.045, 0.045,
        0.035, 0.035, 0.105, 0.105, 0.055, 0.055, 0.045, 0.045,
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What somebody looks like; widths are factors of an average body."""

    materials: tuple[Material, ...]  # in the order of MATERIALS
    girth: float = 1.0
    shoulders: float = 1.0
    loose: float = 0.003  # cloth off the skin, share of the size
    sleeve: float = 1.0  # share of the arm under the shirt: 0.3 short, 1 long
    leg: float = 1.0  # share of the leg under the trousers: 0.5 shorts, 1 long
    long_hair: bool = False
    bald: bool = False

    @staticmethod
    def random(rng: np.random.Generator) -> Look:
        """Somebody."""
        dark = np.float32((25, 22, 20))
        makers = (
            textures.skin(rng), textures.hair(rng), textures.cloth(rng), textures.cloth(rng),
            textures.plain(rng, textures.colour(rng, (0, 0.6), (0.1, 0.9)), 0.05),
            textures.plain(rng, np.float32((235, 232, 228)), 0.0),
            textures.plain(rng, dark, 0.0), textures.plain(rng, np.float32((165, 80, 75)), 0.02),
        )  # fmt: skip
        tiles = (0.3, 0.15, rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.8), 0.3, 0.1, 0.1, 0.1)
        return Look(
            materials=tuple(Material.of(m, t) for m, t in zip(makers, tiles, strict=True)),
            girth=rng.uniform(0.9, 1.2), shoulders=rng.uniform(0.95, 1.08),
            loose=rng.uniform(0.002, 0.007), sleeve=float(rng.choice([0.28, 0.45, 1.0, 1.0])),
            leg=float(rng.choice([0.5, 1.0, 1.0, 1.0])), long_hair=bool(rng.uniform() < 0.35),
            bald=bool(rng.uniform() < 0.08),
        )  # fmt: skip


@dataclass
class Shapes:
    """Many primitives in the world frame: capsules (tapered, flattened) and boxes.

    Local to world is ``origin + axes @ local``. A capsule runs along its local y from 0 to
    ``length`` with the radii ``ends``; a box is the cube from -1 to 1.
    """

    kind: npt.NDArray[np.int8]  # (N,) CAPSULE or BOX
    origin: Array  # (N, 3) metres
    axes: Array  # (N, 3, 3) columns are the local axes
    length: Array  # (N,)
    ends: Array  # (N, 2) radii at 0 and at length
    material: npt.NDArray[np.int16]  # (N,)
    owner: npt.NDArray[np.int16]  # (N,) person, or -1
    shift: Array  # (N, 2) added to the texture coordinates, metres

    def __len__(self) -> int:
        """Return the number of primitives."""
        return len(self.kind)

    @staticmethod
    def none() -> Shapes:
        """No primitive at all."""
        return Shapes(
            np.zeros(0, np.int8), np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros(0),
            np.zeros((0, 2)), np.zeros(0, np.int16), np.zeros(0, np.int16), np.zeros((0, 2)),
        )  # fmt: skip

    @staticmethod
    def joined(parts: list[Shapes]) -> Shapes:
        """All primitives of ``parts`` in order."""
        names = ("kind", "origin", "axes", "length", "ends", "material", "owner", "shift")
        return Shapes(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    @staticmethod
    def box(
        centre_m: Array, half_m: Array, yaw_rad: float, material: int, owner: int = -1
    ) -> Shapes:
        """One upright box, turned about z."""
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        axes = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) * half_m
        return Shapes(
            np.array([BOX], np.int8), np.float64(centre_m)[None], axes[None], np.zeros(1),
            np.ones((1, 2)), np.array([material], np.int16), np.array([owner], np.int16),
            np.float64(half_m)[None, :2],
        )  # fmt: skip


@dataclass
class _Rows:
    """Capsules as they are collected; ``front`` says where their local z points."""

    start: list[Array] = field(default_factory=list)
    end: list[Array] = field(default_factory=list)
    front: list[Array] = field(default_factory=list)
    numbers: list[tuple[float, ...]] = field(default_factory=list)

    def add(
        self,
        start: Array,
        end: Array,
        front: Array,
        radii: tuple[float, float],
        material: int,
        wide: float = 1.0,
        along: float = 0.0,
    ) -> None:
        """A capsule of depth radii ``radii``, ``wide`` times as broad; ``along``: texture."""
        self.start.append(start)
        self.end.append(end)
        self.front.append(front)
        self.numbers.append((*radii, material, wide, along))

    def shapes(self, owner: int, first_material: int) -> Shapes:
        """Freeze."""
        start, end = np.array(self.start), np.array(self.end)
        front, numbers = np.array(self.front), np.array(self.numbers)
        span = end - start
        length = np.linalg.norm(span, axis=1)
        y = span / np.maximum(length, 1e-9)[:, None]
        x = np.cross(y, front)
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
        z = np.cross(x, y)
        axes = np.stack([x * numbers[:, 3:4], y, z], axis=-1)
        return Shapes(
            np.zeros(len(span), np.int8), start, axes, length, numbers[:, :2],
            (numbers[:, 2] + first_material).astype(np.int16),
            np.full(len(span), owner, np.int16),
            np.column_stack([np.zeros(len(span)), numbers[:, 4]]),
        )  # fmt: skip


def body_size_m(xyz_m: npt.NDArray[np.floating]) -> float:
    """The stature that joints (T, 17, 3) suggest: trunk, thighs and shanks over their share."""
    xyz = np.asarray(xyz_m, np.float64)

    def joint(name: str) -> Array:
        return np.asarray(xyz[..., COCO17.index(name), :])

    hips = (joint("left_hip") + joint("right_hip")) / 2
    neck = (joint("left_shoulder") + joint("right_shoulder")) / 2
    total = np.nanmedian(np.linalg.norm(neck - hips, axis=-1))
    for a, b in (("hip", "knee"), ("knee", "ankle")):
        for side in ("left", "right"):
            bone = joint(f"{side}_{a}") - joint(f"{side}_{b}")
            total = total + np.nanmedian(np.linalg.norm(bone, axis=-1)) / 2
    return float(total / (0.288 + 0.245 + 0.246))


def _unit(v: Array) -> Array:
    return np.asarray(v / max(float(np.linalg.norm(v)), 1e-9))


def body_shapes(
    xyz_m: npt.NDArray[np.floating], look: Look, size_m: float, owner: int, first_material: int
) -> Shapes:
    """The body of person ``owner`` around joints (17, 3), world frame z up, everything known."""
    at = dict(zip(COCO17.joints, np.asarray(xyz_m, np.float64), strict=True))
    pelvis = (at["left_hip"] + at["right_hip"]) / 2
    neck = (at["left_shoulder"] + at["right_shoulder"]) / 2
    up = _unit(neck - pelvis)
    left = _unit(_unit(at["left_shoulder"] - at["right_shoulder"])
                 + _unit(at["left_hip"] - at["right_hip"]))  # fmt: skip
    front = _unit(np.cross(left, up))
    rows = _Rows()
    _torso(rows, at, (pelvis, neck), (left, up, front), look, size_m)
    _head(rows, at, (neck, up, front), look, size_m)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        _arm(rows, at, side, (sign * left, front), look, size_m)
        _leg(rows, at, side, (sign * left, front), look, size_m)
    return rows.shapes(owner, first_material)


def _torso(
    rows: _Rows,
    at: dict[str, Array],
    ends: tuple[Array, Array],
    frame: tuple[Array, Array, Array],
    look: Look,
    h: float,
) -> None:
    pelvis, neck = ends
    _, up, front = frame
    trunk = float(np.linalg.norm(neck - pelvis))
    g, off = look.girth, look.loose * h
    chest, belly = 0.064 * h * g + off, 0.058 * h * g**1.5 + off
    half = float(np.linalg.norm(at["left_shoulder"] - at["right_shoulder"])) / 2
    back = -0.008 * h * front

    def point(share: float) -> Array:
        return np.asarray(pelvis + share * trunk * up)

    rows.add(
        point(0.52), point(0.84) + back, front, (chest * 0.97, chest * 0.92), SHIRT,
        min(1.75, 0.95 * half * look.shoulders / chest), 0.52 * trunk,
    )  # fmt: skip
    rows.add(point(0.04), point(0.60), front, (0.060 * h * g + 1.5 * off, belly), SHIRT,
             1.45, 0.04 * trunk)  # fmt: skip
    rows.add(point(-0.06), point(0.10), front, (0.058 * h * g + off, 0.056 * h * g + off),
             TROUSERS, 1.45, -0.06 * trunk)  # fmt: skip
    for side in ("left", "right"):
        shoulder = at[f"{side}_shoulder"]
        inner = neck + 0.2 * (shoulder - neck) + 0.020 * h * up + back
        rows.add(inner, shoulder - 0.006 * h * up, front,
                 (0.031 * h + off, 0.030 * h * g**0.5 + off), SHIRT, 1.0, trunk)  # fmt: skip
        rows.add(shoulder - 0.02 * h * up, point(0.55) + 0.42 * (shoulder - neck), front,
                 (0.036 * h * g + off, 0.053 * h * g + off), SHIRT, 1.0, 0.7 * trunk)  # fmt: skip
        glute = at[f"{side}_hip"] - 0.016 * h * front - 0.012 * h * up
        rows.add(glute, glute + 0.01 * h * up, front,
                 (0.048 * h * g + off,) * 2, TROUSERS, 1.0)  # fmt: skip


def _head(
    rows: _Rows,
    at: dict[str, Array],
    frame: tuple[Array, Array, Array],
    look: Look,
    h: float,
) -> None:
    neck, trunk_up, trunk_front = frame
    middle = (at["left_ear"] + at["right_ear"]) / 2
    left = _unit(at["left_ear"] - at["right_ear"])
    gaze = (at["left_eye"] + at["right_eye"] + at["nose"]) / 3 - middle
    front = _unit(gaze - (gaze @ left) * left)
    up = np.cross(front, left)

    def point(x: float, y: float, z: float) -> Array:
        return np.asarray(middle + h * (x * left + y * up + z * front))

    base = neck + 0.012 * h * trunk_up - 0.012 * h * trunk_front
    rows.add(base, point(0, -0.02, -0.012), front, (0.034 * h, 0.029 * h), SKIN)
    rows.add(neck + 0.02 * h * trunk_up - 0.02 * h * trunk_front,
             neck + 0.032 * h * trunk_up - 0.012 * h * trunk_front, front,
             (0.04 * h, 0.036 * h), SHIRT)  # collar # fmt: skip
    rows.add(point(0, 0.002, 0.006), point(0, 0.022, 0.004), front,
             (0.054 * h, 0.052 * h), SKIN, 0.80)  # skull # fmt: skip
    rows.add(point(0, -0.038, 0.022), point(0, 0.0, 0.018), front,
             (0.027 * h, 0.042 * h), SKIN, 1.0)  # jaw # fmt: skip
    rows.add(point(0, 0.010, 0.057), at["nose"], up, (0.005 * h, 0.009 * h), SKIN)
    if not look.bald:
        rows.add(point(0, 0.012, -0.012), point(0, 0.028, -0.004), front,
                 (0.053 * h, 0.054 * h), HAIR, 0.88)  # fmt: skip
        if look.long_hair:
            rows.add(point(0, 0.0, -0.028), point(0, -0.085, -0.04), front,
                     (0.046 * h, 0.030 * h), HAIR, 1.1)  # fmt: skip
    for side, s in (("left", 1.0), ("right", -1.0)):
        eye, ear = at[f"{side}_eye"], at[f"{side}_ear"]
        rows.add(eye - 0.006 * h * s * left, eye + 0.006 * h * s * left, front,
                 (0.0052 * h,) * 2, WHITE)  # fmt: skip
        pupil = eye + 0.0030 * h * front
        rows.add(pupil, pupil + 1e-3 * up, front, (0.0042 * h,) * 2, DARK)
        brow = eye + 0.015 * h * up + 0.001 * h * front
        rows.add(brow - 0.009 * h * s * left, brow + 0.011 * h * s * left - 0.001 * h * up,
                 front, (0.0028 * h,) * 2, HAIR)  # fmt: skip
        rows.add(ear - 0.012 * h * up, ear + 0.010 * h * up, front,
                 (0.008 * h, 0.011 * h), SKIN, 0.5)  # fmt: skip
    rows.add(point(-0.012, -0.036, 0.056), point(0.012, -0.036, 0.056), front,
             (0.0042 * h,) * 2, LIPS)  # fmt: skip


def _arm(
    rows: _Rows,
    at: dict[str, Array],
    side: str,
    frame: tuple[Array, Array],
    look: Look,
    h: float,
) -> None:
    outwards, front = frame
    shoulder, elbow, wrist = (at[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist"))
    g, off = look.girth**0.7 * h, look.loose * h
    upper, fore = elbow - shoulder, wrist - elbow
    covered = SHIRT if look.sleeve >= 1.0 else SKIN
    extra = off if covered == SHIRT else 0.0
    rows.add(shoulder, elbow, front, (0.031 * g + extra, 0.024 * g + extra), covered)
    if covered == SKIN:
        hem = shoulder + upper * min(1.0, look.sleeve * 1.8)
        rows.add(shoulder, hem, front, (0.034 * g + off, 0.031 * g + off), SHIRT)
    bulge = elbow + 0.25 * fore
    along = float(np.linalg.norm(upper))
    rows.add(elbow, bulge, front, (0.024 * g + extra, 0.0255 * g + extra), covered, 1.0, along)
    rows.add(bulge, wrist - 0.06 * fore, front, (0.0255 * g + extra, 0.0165 * g + extra), covered,
             1.0, along * 1.25)  # fmt: skip
    way = _unit(fore)
    palm_up = _unit(front - (front @ way) * way) if abs(front @ way) < 0.95 else outwards
    rows.add(wrist - 0.03 * fore, wrist + 0.012 * h * way, palm_up, (0.0145 * g,) * 2, SKIN)
    rows.add(wrist + 0.016 * h * way, wrist + 0.045 * h * way, np.cross(way, palm_up),
             (0.0100 * h, 0.0105 * h), SKIN, 2.1)  # palm # fmt: skip
    rows.add(wrist + 0.050 * h * way, wrist + 0.088 * h * way, np.cross(way, palm_up),
             (0.0095 * h, 0.0065 * h), SKIN, 2.0)  # fingers # fmt: skip
    thumb = wrist + 0.018 * h * way + 0.014 * h * palm_up
    rows.add(thumb, thumb + 0.032 * h * way + 0.014 * h * palm_up, outwards,
             (0.008 * h, 0.006 * h), SKIN)  # fmt: skip


def _leg(
    rows: _Rows,
    at: dict[str, Array],
    side: str,
    frame: tuple[Array, Array],
    look: Look,
    h: float,
) -> None:
    outwards, front = frame
    hip, knee, ankle = (at[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
    g, off = look.girth**0.8 * h, 1.3 * look.loose * h
    covered = TROUSERS if look.leg >= 1.0 else SKIN
    extra = off if covered == TROUSERS else 0.0
    thigh, shank = knee - hip, ankle - knee
    top = hip + 0.004 * h * outwards
    rows.add(top, knee, front, (0.047 * g + extra, 0.033 * g + extra), covered)
    if covered == SKIN:
        rows.add(top, hip + thigh * 0.72, front, (0.051 * g + off, 0.044 * g + off), TROUSERS)
    calf = knee + 0.3 * shank - 0.008 * h * front
    along = float(np.linalg.norm(thigh))
    rows.add(knee, calf, front, (0.0325 * g + extra, 0.033 * g + extra), covered, 1.0, along)
    rows.add(calf, ankle + 0.02 * h * _unit(-shank), front,
             (0.033 * g + extra, 0.021 * g + 1.4 * extra), covered, 1.0, along * 1.3)  # fmt: skip
    _foot(rows, ankle, knee, frame, h)


def _foot(rows: _Rows, ankle: Array, knee: Array, frame: tuple[Array, Array], h: float) -> None:
    """A shoe: level when the ankle is near the floor, toes down as it rises."""
    outwards, front = frame
    ahead = front + 0.12 * outwards
    ahead[2] = 0.0
    bend = knee - ankle
    ahead = _unit(ahead + 0.15 * np.array([bend[0], bend[1], 0.0]))
    lift = (ankle[2] - 0.045 * h) / (0.115 * h)
    pitch = np.arcsin(np.clip(lift, 0.0, 0.7))
    way = np.cos(pitch) * ahead - np.sin(pitch) * np.array([0.0, 0.0, 1.0])
    sole = _unit(np.cross(np.cross(way, np.array([0.0, 0.0, 1.0])), way))
    rows.add(ankle + 0.012 * h * sole, ankle - 0.008 * h * sole, way, (0.021 * h, 0.023 * h),
             SHOES)  # fmt: skip
    heel = ankle - 0.022 * h * way - 0.018 * h * sole
    ball = ankle + 0.068 * h * way - 0.022 * h * sole
    rows.add(heel, ball, sole, (0.019 * h, 0.016 * h), SHOES, 1.25)
    rows.add(ball, ball + 0.034 * h * way - 0.002 * h * sole, sole, (0.016 * h, 0.012 * h), SHOES,
             1.5)  # fmt: skip
