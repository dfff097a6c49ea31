"""What there is to render: people, a camera's way, a room, things in front, light and lens.

World frame: z up, the floor at z = 0, metres; times in seconds from the scene's start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training import scene_textures as textures
from pose_ros.training.scene_body import MATERIALS, Look, Shapes, body_shapes, body_size_m
from pose_ros.training.scene_textures import ByteImage, Material
from pose_ros.training.walker import place, reach, walk

Array = npt.NDArray[np.float64]
CAMERA_KINDS = ("still", "pan", "orbit", "handheld")
ROOM_KINDS = ("room", "open", "picture")


@dataclass(frozen=True)
class Person:
    """Somebody: joints over time, world frame, and looks."""

    stamps_ns: npt.NDArray[np.int64]  # (T,) ascending, on the scene's clock
    xyz_m: npt.NDArray[np.float32]  # (T, 17, 3) COCO17, world frame, everything known
    look: Look

    def __post_init__(self) -> None:
        """Check the shape, and that everything is known.

        Raises:
            ShapeError: for another shape, or NaN.

        """
        shape = (len(self.stamps_ns), 17, 3)
        if self.xyz_m.shape != shape or not shape[0] or not np.isfinite(self.xyz_m).all():
            raise ShapeError(
                f"Person.xyz_m: expected {shape} finite numbers, one row per stamp and at least "
                f"one, got {self.xyz_m.shape}"
            )

    @cached_property
    def size_m(self) -> float:
        """Stature, from the bones."""
        return body_size_m(self.xyz_m)

    @cached_property
    def motion(self) -> CubicSpline | None:
        """Twice differentiable joints over seconds; None for a single pose."""
        if len(self.stamps_ns) < 2:
            return None
        return CubicSpline(self.stamps_ns * 1e-9, np.float64(self.xyz_m))

    def at(self, time_s: float) -> Array:
        """(17, 3) joints; before the first and after the last stamp the person stands still.

        At a stamp these are the given joints; between stamps a cubic spline.
        """
        if self.motion is None:
            return np.float64(self.xyz_m[0])
        first, last = self.stamps_ns[0] * 1e-9, self.stamps_ns[-1] * 1e-9
        return np.asarray(self.motion(min(max(time_s, first), last)))


@dataclass(frozen=True)
class CameraPath:
    """Where the camera is; ``kind`` is one of `CAMERA_KINDS`. It looks at ``target_m``.

    "pan" turns it to and fro by ``swing_rad``, "orbit" carries it around the target at
    ``rate_rad_s``, "handheld" shakes it by ``shake_m`` and ``swing_rad``.
    """

    position_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    kind: str = "still"
    swing_rad: float = 0.0
    rate_rad_s: float = 0.0
    shake_m: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown kind.

        Raises:
            ConfigError: naming the kinds there are.

        """
        if self.kind not in CAMERA_KINDS:
            raise ConfigError(f"camera: expected one of {CAMERA_KINDS}, got '{self.kind}'")

    def pose(self, times_s: Array) -> tuple[Array, Array]:
        """Rotation world from camera (T, 3, 3) and position in the world (T, 3) at (T,) times."""
        t = np.asarray(times_s, np.float64)
        target = np.array(self.target_m)
        arm = np.array(self.position_m) - target
        if self.kind == "orbit":
            arm = Rotation.from_rotvec(np.outer(self.rate_rad_s * t, [0, 0, 1])).apply(arm)
        position = target + np.broadcast_to(arm, (len(t), 3))
        turns = self._looking(target - position)
        if self.kind == "pan":
            angle = self.swing_rad * np.sin(self.rate_rad_s * t)
            turns = Rotation.from_rotvec(np.outer(angle, [0, 0, 1])) * turns
        if self.kind == "handheld":
            shake = self._shake(t)
            position = position + self.shake_m * shake[:, :3]
            turns = turns * Rotation.from_rotvec(self.swing_rad * shake[:, 3:])
        return turns.as_matrix(), position

    @staticmethod
    def _looking(ahead: Array) -> Rotation:
        z = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)
        x = np.cross(z, [0.0, 0.0, 1.0])
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        return Rotation.from_matrix(np.stack([x, np.cross(z, x), z], axis=-1))

    def _shake(self, t: Array) -> Array:
        """(T, 6) sums of three sines between 0.3 and 3 Hz, about unit size."""
        rng = np.random.default_rng([self.seed, 7])
        rates = 2 * np.pi * np.array([0.3, 1.1, 2.6]) * rng.uniform(0.7, 1.2, (6, 3))
        waves = np.sin(t[:, None, None] * rates + rng.uniform(0, 2 * np.pi, (6, 3)))
        return np.asarray(waves @ np.array([1.0, 0.4, 0.12]))

    def cam_from_world(self, time_s: float) -> Array:
        """T_cam_world (4, 4): point in the camera = T @ point in the world."""
        turn, position = self.pose(np.array([time_s]))
        out = np.eye(4)
        out[:3, :3] = turn[0].T
        out[:3, 3] = -turn[0].T @ position[0]
        return out


@dataclass(frozen=True)
class Room:
    """What is behind everybody.

    "room": six planes at ``low_m`` and ``high_m`` (x, y, z). "open": a floor under a sky.
    "picture": a floorless picture all around, ``picture`` (h, w, 3), repeated every 90 degrees.
    ``floor``, ``walls``, ``ceiling`` index the scene's materials.
    """

    kind: str = "room"
    low_m: tuple[float, float, float] = (-5.0, -5.0, 0.0)
    high_m: tuple[float, float, float] = (5.0, 5.0, 3.0)
    floor: int = 0
    walls: tuple[int, int, int, int] = (1, 1, 1, 1)  # x low, x high, y low, y high
    ceiling: int = 1
    sky: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        (120.0, 160.0, 215.0), (225.0, 230.0, 235.0),
    )  # zenith and horizon # fmt: skip
    picture: ByteImage | None = None


@dataclass(frozen=True)
class Thing:
    """Something that is not a person; it moves steadily, to and fro when ``period_s`` is given."""

    shapes: Shapes
    velocity_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    period_s: float | None = None

    def at(self, time_s: float) -> Shapes:
        """Where it is."""
        way = time_s
        if self.period_s is not None:
            way = self.period_s / (2 * np.pi) * math.sin(2 * np.pi * time_s / self.period_s)
        if self.velocity_m_s == (0.0, 0.0, 0.0):
            return self.shapes
        moved = self.shapes.origin + way * np.array(self.velocity_m_s)
        return replace(self.shapes, origin=moved)


@dataclass(frozen=True)
class Light:
    """One far lamp and the light from all around."""

    towards: tuple[float, float, float] = (0.4, -0.3, 0.85)  # unit vector to the lamp
    lamp: tuple[float, float, float] = (0.62, 0.61, 0.58)
    around: tuple[float, float, float] = (0.48, 0.48, 0.50)
    shadow: float = 0.45  # share of the light that a shadow on the floor takes away


@dataclass(frozen=True)
class Sensor:
    """How light becomes bytes."""

    exposure_s: float = 0.0  # 0: a sharp instant
    subframes: int = 1  # instants averaged over the exposure
    brightness: float = 1.0  # below 1: a dark room
    noise: float = 0.0  # standard deviation of the read noise, grey levels; shot noise follows it
    jpeg_quality: int | None = None  # None: no compression


@dataclass(frozen=True)
class Scene:
    """Everything there is to render, and when; frame i is exposed about ``i / fps``."""

    people: tuple[Person, ...]
    camera: PinholeCamera
    path: CameraPath
    room: Room
    materials: tuple[Material, ...]  # of the room and the things
    things: tuple[Thing, ...] = ()
    light: Light = field(default_factory=Light)
    sensor: Sensor = field(default_factory=Sensor)
    fps: float = 30.0
    frames: int = 30
    far_m: float = 40.0  # nothing beyond has a depth
    seed: int = 0

    def stamp_ns(self, frame: int) -> int:
        """Middle of the exposure of a frame."""
        return round(frame * 1e9 / self.fps)

    @cached_property
    def palette(self) -> tuple[Material, ...]:
        """Materials of the room and the things, then those of each person."""
        return (*self.materials, *(m for p in self.people for m in p.look.materials))

    def shapes_at(self, time_s: float) -> Shapes:
        """Every primitive in the world frame at a time, people first."""
        parts = [
            body_shapes(
                person.at(time_s), person.look, person.size_m, n,
                len(self.materials) + n * len(MATERIALS),
            )
            for n, person in enumerate(self.people)
        ]  # fmt: skip
        parts += [thing.at(time_s) for thing in self.things]
        return Shapes.joined(parts) if parts else Shapes.none()


@dataclass(frozen=True)
class SceneConfig:
    """A random scene; everything not given is drawn from ``seed``."""

    seed: int = 0
    seconds: float = 1.0
    fps: float = 30.0
    people: int = 1
    size_px: tuple[int, int] = (640, 480)  # width, height
    camera: str = "still"
    room: str = "room"
    occluders: int = 0
    blur: bool = False
    subframes: int = 8  # of a blurred picture
    clutter: int = 6
    noise: bool = False
    picture: ByteImage | None = field(default=None, compare=False)


def random_scene(
    config: SceneConfig,
    motions: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], ...] = (),
) -> Scene:
    """A scene drawn from ``config.seed``; the same arguments, the same scene.

    ``motions`` are ``(stamps_ns, xyz_m (T, 17, 3))`` in a world with z up (motion capture), one
    per person; they are moved about the middle. Without any, `pose_ros.training.walker` moves
    the people: around, across, or standing and reaching.

    Raises:
        ConfigError: for a negative count, or an unknown kind of camera or room.

    """
    if min(config.people, config.occluders, config.clutter) < 0:
        raise ConfigError(f"scene: expected counts >= 0, got {config}")
    if not (config.seconds > 0 and config.fps > 0 and config.subframes > 0):
        raise ConfigError(f"scene: expected seconds, fps and subframes > 0, got {config}")
    if config.room not in ROOM_KINDS or (config.room == "picture") != (config.picture is not None):
        raise ConfigError(
            f"room: expected one of {ROOM_KINDS} ('picture' with one): {config.room}"
        )
    rng = np.random.default_rng([config.seed, 11])
    camera, path = _camera(config, rng)
    reach_m = float(np.hypot(path.position_m[0], path.position_m[1]))
    materials, room = _room(config, reach_m, rng)
    angle = math.atan2(path.position_m[1], path.position_m[0])
    things = [*_clutter(config, room, angle, rng), *_occluders(config, reach_m, angle, rng)]
    people = [_person(config, n, motions, angle) for n in range(config.people)]
    sun = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.9, 2.0)])
    lamp = rng.uniform(0.4, 0.7) * rng.uniform(0.92, 1.05, 3)
    x, y, z = (sun / np.linalg.norm(sun)).tolist()
    sensor = Sensor(
        exposure_s=rng.uniform(0.3, 0.7) / config.fps if config.blur else 0.0,
        subframes=config.subframes if config.blur else 1,
        noise=rng.uniform(2, 8) if config.noise else 0.0,
        brightness=rng.uniform(0.3, 0.9) if config.noise else 1.0,
        jpeg_quality=int(rng.integers(40, 95)) if config.noise else None,
    )
    r, g, b = lamp.tolist()
    return Scene(
        tuple(people), camera, path, room, tuple(materials), tuple(things),
        Light((x, y, z), (r, g, b), (1.08 - r, 1.08 - g, 1.10 - b)), sensor, config.fps,
        max(1, round(config.seconds * config.fps)), seed=config.seed,
    )  # fmt: skip


def _camera(config: SceneConfig, rng: np.random.Generator) -> tuple[PinholeCamera, CameraPath]:
    width, height = config.size_px
    camera = PinholeCamera.from_fov(width, height, rng.uniform(50, 70))
    share = rng.uniform(0.5, 0.68) * (0.9 if config.people > 2 else 1.0)
    distance = camera.fy_px * 1.75 / (share * height) + 0.3 * max(0, config.people - 1)
    angle = rng.uniform(0, 2 * np.pi)
    position = (distance * math.cos(angle), distance * math.sin(angle), rng.uniform(0.9, 1.9))
    path = CameraPath(
        position, (0.0, 0.0, rng.uniform(0.85, 1.0)), config.camera,
        swing_rad=0.2 if config.camera == "pan" else 0.012,
        rate_rad_s=1.5 if config.camera == "pan" else rng.choice([-1, 1]) * rng.uniform(0.2, 0.5),
        shake_m=0.015, seed=config.seed,
    )  # fmt: skip
    return camera, path


def _room(
    config: SceneConfig, reach_m: float, rng: np.random.Generator
) -> tuple[list[Material], Room]:
    materials = [Material.of(textures.floor(rng), rng.uniform(1.0, 2.5))]
    materials += [Material.of(textures.wall(rng), rng.uniform(1.0, 2.5)) for _ in range(2)]
    pale = textures.colour(rng, (0, 0.1), (0.7, 0.95))
    materials.append(Material.of(textures.plain(rng, pale, 0.02), 2.0))
    low = -(max(2.5, reach_m) + rng.uniform(0.8, 2.5, 2))
    high = max(2.5, reach_m) + rng.uniform(0.8, 2.5, 2)
    room = Room(
        config.room, (low[0], low[1], 0.0), (high[0], high[1], rng.uniform(2.6, 3.6)),
        0, (1, 2, 1, 2), 3, picture=config.picture,
    )  # fmt: skip
    return materials_with_prints(materials, rng), room


def materials_with_prints(materials: list[Material], rng: np.random.Generator) -> list[Material]:
    """Materials followed by four posters (one tile across their width) and two cloths."""
    prints = [Material.of(textures.poster(rng), 1.0) for _ in range(4)]
    return [*materials, *prints, *(Material.of(textures.cloth(rng), 0.8) for _ in range(2))]


def _clutter(
    config: SceneConfig, room: Room, angle: float, rng: np.random.Generator
) -> list[Thing]:
    """Boxes along the walls and prints on them, not between the camera and the middle."""
    things = []
    for _ in range(config.clutter if config.room == "room" else 0):
        way = angle + np.pi + rng.uniform(-2.3, 2.3)
        c, s = math.cos(way), math.sin(way)
        far = min(
            ((room.high_m if v > 0 else room.low_m)[k] / v)
            for k, v in enumerate((c, s))
            if abs(v) > 1e-6
        )
        material = int(rng.integers(4, 10))
        if rng.uniform() < 0.5:
            half = np.array([rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.9)])
            centre = np.array([c, s, 0.0]) * (far - 0.55) + np.array([0, 0, half[2]])
            things.append(Thing(Shapes.box(centre, half, rng.uniform(0, 3), material)))
            continue
        flat_x = abs(far * c - (room.high_m if c > 0 else room.low_m)[0]) < 1e-6
        half = np.array([0.02, rng.uniform(0.3, 0.6), rng.uniform(0.3, 0.6)])
        centre = np.array([c, s, 0.0]) * (far - 0.03) + np.array([0, 0, rng.uniform(1.3, 1.9)])
        yaw = 0.0 if flat_x else np.pi / 2
        things.append(Thing(Shapes.box(centre, half, yaw, material)))
    return things


def _occluders(
    config: SceneConfig, reach_m: float, angle: float, rng: np.random.Generator
) -> list[Thing]:
    """Poles, tables and moving boards between the camera and the middle."""
    things = []
    across = np.array([-math.sin(angle), math.cos(angle), 0.0])
    for n in range(config.occluders):
        where = np.array([math.cos(angle), math.sin(angle), 0.0]) * reach_m * rng.uniform(0.4, 0.7)
        where = where + across * rng.uniform(-0.5, 0.5)
        material, kind = int(rng.integers(4, 10)), (n + int(rng.integers(3))) % 3
        half = np.array([0.05, 0.05, 1.6])
        if kind == 1:
            half = np.array([rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.45)])
        if kind == 2:
            half = np.array([0.02, rng.uniform(0.12, 0.3), rng.uniform(0.2, 0.4)])
            where = where + np.array([0, 0, rng.uniform(0.6, 1.1)])
        where[2] += half[2]
        speed = across * rng.uniform(0.5, 1.2) if kind == 2 else np.zeros(3)
        x, y, z = speed.tolist()
        box = Shapes.box(where, half, angle, material)
        things.append(Thing(box, (x, y, z), rng.uniform(2, 5) if kind == 2 else None))
    return things


def _person(
    config: SceneConfig,
    n: int,
    motions: tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], ...],
    angle: float,
) -> Person:
    rng = np.random.default_rng([config.seed, 13, n])
    look = Look.random(rng)
    spread = 0.0 if config.people == 1 else 0.55 * math.sqrt(config.people)
    around = angle + np.pi / 2 + 2 * np.pi * n / max(1, config.people) + rng.uniform(-0.4, 0.4)
    spot = (spread * math.cos(around), spread * math.sin(around))
    yaw = rng.uniform(0, 2 * np.pi)
    if motions:
        stamps_ns, xyz_m = motions[n % len(motions)]
        middle = np.mean(xyz_m[:, 11:13], axis=(0, 1), dtype=np.float64) * np.array([1, 1, 0])
        centred = (xyz_m - middle).astype(np.float32)
        return Person(stamps_ns, place(centred, spot, yaw), look)
    stature = rng.uniform(1.55, 1.92)
    seconds, fps, seed = config.seconds + 0.2, max(60.0, 2 * config.fps), config.seed * 31 + n
    action = rng.choice(["circle", "line", "reach"])
    if action == "reach":
        hand = str(rng.choice(["left", "right", "both"]))
        stamps_ns, xyz_m = reach(seconds, fps, seed, stature, hand)
        yaw = angle + rng.uniform(-1.2, 1.2)
    else:
        speed = rng.uniform(0.7, 1.4)
        path = "line" if action == "line" and speed * seconds < 3.0 else "circle"
        stamps_ns, xyz_m = walk(seconds, fps, seed, stature, speed, path, rng.uniform(0.6, 0.9))
    return Person(stamps_ns, place(xyz_m, spot, yaw), look)
