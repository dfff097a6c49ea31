"""People that the project renders itself: ``synthetic:[MOCAP FOLDER]?clips=100&seed=0``.

Every number follows from the seed: the same options, the same pictures. Nothing is rendered until
somebody asks for a sample; with ``cache`` a frame is rendered once and kept as a PNG with its
truth. Clips with motion blur, occluders, noise, several people and moving cameras are mixed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import ClipSample, FileImage, WindowSpec
from pose_ros.training.datasets.mocap import MocapClip, read_mocap, to_coco17
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import Scene, SceneConfig, random_scene

#: Part of the name of cached frames: count up when the same seed gives other pictures.
VERSION = 1
SCENES_KEPT, FRAMES_KEPT = 4, 48
TRUTH = ("xy_px", "visible", "xyz_camera_m", "box_xyxy_px", "area_px2")

Motion = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class SyntheticConfig:
    """What is rendered; shares are probabilities per clip."""

    clips: int = 100
    length: int = 16  # frames of a clip
    fps: float = 25.0
    people: int = 3  # at most
    width_px: int = 640
    height_px: int = 480
    key_every: int = 4  # every n-th frame of a clip is the key frame of a sample
    seed: int = 0
    occluded: float = 0.5
    blurred: float = 0.4
    noisy: float = 0.4
    moving_camera: float = 0.5

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: a count below 1, or a share outside 0 to 1.

        """
        counts = (self.clips, self.length, self.people, self.key_every)
        shares = (self.occluded, self.blurred, self.noisy, self.moving_camera)
        if min(counts) < 1 or min(self.width_px, self.height_px) < 32 or self.fps <= 0:
            raise ConfigError(f"synthetic: expected counts >= 1, 32 px or more, fps > 0: {self}")
        if min(shares) < 0 or max(shares) > 1:
            raise ConfigError(f"synthetic: expected shares from 0 to 1: {self}")


@dataclass(frozen=True, eq=False)
class _Frame:
    """What is kept of a rendered frame; fields as in `Rendered`."""

    rgb: ByteArray
    xy_px: FloatArray
    visible: ByteArray
    xyz_camera_m: FloatArray
    box_xyxy_px: FloatArray
    area_px2: FloatArray  # (P,) seen pixels of each person

    @staticmethod
    def of(made: Rendered) -> _Frame:
        """Keep what a sample needs."""
        people = len(made.xy_px)
        area = np.bincount(made.owner[made.owner >= 0].ravel(), minlength=people)
        return _Frame(
            made.rgb, made.xy_px, made.visible, made.xyz_camera_m, made.box_xyxy_px,
            area[:people].astype(np.float32),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """Frame ``frame`` of clip ``clip``, rendered when it is read."""

    dataset: SyntheticDataset
    clip: int
    frame: int

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first."""
        return self.dataset.frame(self.clip, self.frame).rgb


class SyntheticDataset:
    """Rendered clips; a sample is one person about one key frame."""

    def __init__(
        self,
        config: SyntheticConfig,
        window: WindowSpec | None = None,
        mocap: str = "",
        pictures: str = "",
        cache: str = "",
    ) -> None:
        """Plan the clips; ``mocap``, ``pictures`` (backgrounds), ``cache``: folders, "" for none.

        Raises:
            ConfigError: the mocap folder holds none.
            SourceError: the folder of pictures holds none.

        """
        self.name = "synthetic"
        self.skeleton: Skeleton = COCO17
        self.config = config
        self.window = window or WindowSpec()
        self.mocap = [clip for clip in read_mocap(mocap) if len(clip) > 1] if mocap else []
        self.pictures = _picture_files(pictures)
        keys = range(
            min(config.key_every // 2, config.length - 1), config.length, config.key_every
        )
        plan = [
            (c, p, k) for c in range(config.clips) for p in range(self._people(c)) for k in keys
        ]
        self.plan = np.array(plan, np.int64).reshape(-1, 3)
        text = f"{VERSION} {config} {[c.name for c in self.mocap]} {self.pictures}"
        self.cache = None
        if cache:
            self.cache = Path(cache) / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._scenes: OrderedDict[int, Scene] = OrderedDict()
        self._frames: OrderedDict[tuple[int, int], _Frame] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.plan)

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``; joints outside the image are NaN and unlabelled.

        Somebody out of view in the key frame has the whole image as box and no labelled joint
        there.
        """
        clip, person, key = (int(v) for v in self.plan[index])
        numbers, left, right = self.window.around(key, 0, self.config.length - 1)
        frames = [self.frame(clip, int(n)) for n in numbers]
        visible = np.stack([f.visible[person] for f in frames])
        known = (visible > 0)[..., None]
        at_key = frames[self.window.key]
        box = at_key.box_xyxy_px[person]
        if not np.isfinite(box).all():
            box = np.array([0, 0, self.config.width_px, self.config.height_px], np.float32) - 0.5
        return ClipSample(
            images=tuple(RenderedImage(self, clip, int(n)) for n in numbers),
            key=self.window.key, box_xyxy_px=box.astype(np.float32),
            xy_px=np.where(known, np.stack([f.xy_px[person] for f in frames]), np.nan).astype(
                np.float32
            ),
            visible=visible, skeleton=COCO17, track=f"{clip}/{person}", frame_index=numbers,
            dt_left=left, dt_right=right, video=f"synthetic-{self.config.seed}-{clip}",
            image_id=clip * 100_000 + key, area_px2=float(at_key.area_px2[person]),
            xyz_m=np.stack([f.xyz_camera_m[person] for f in frames]),
        )  # fmt: skip

    def scene(self, clip: int) -> Scene:
        """Scene of a clip."""
        if clip not in self._scenes:
            self._scenes[clip] = self._make_scene(clip)
            while len(self._scenes) > SCENES_KEPT:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(clip)
        return self._scenes[clip]

    def frame(self, clip: int, number: int) -> _Frame:
        """Picture and truth of frame ``number`` of a clip, rendered or from the cache."""
        key = (clip, number)
        if key not in self._frames:
            self._frames[key] = self._read(clip, number) or self._render(clip, number)
            while len(self._frames) > FRAMES_KEPT:
                self._frames.popitem(last=False)
        self._frames.move_to_end(key)
        return self._frames[key]

    def __getstate__(self) -> dict[str, object]:
        """Leave rendered frames behind when a worker process is started."""
        return self.__dict__ | {"_scenes": OrderedDict(), "_frames": OrderedDict()}

    def _rng(self, clip: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, clip, purpose])

    def _people(self, clip: int) -> int:
        return int(self._rng(clip, 1).integers(1, self.config.people + 1))

    def _make_scene(self, clip: int) -> Scene:
        config, rng = self.config, self._rng(clip, 2)
        moving = str(rng.choice(["pan", "orbit", "handheld"]))
        picture = None
        if self.pictures and rng.uniform() < 0.5:
            picture = FileImage(Path(self.pictures[int(rng.integers(len(self.pictures)))])).read()
        plain_room = "open" if rng.uniform() < 0.25 else "room"
        asked = SceneConfig(
            seed=int(rng.integers(2**31)), seconds=config.length / config.fps, fps=config.fps,
            people=self._people(clip), size_px=(config.width_px, config.height_px),
            camera=moving if rng.uniform() < config.moving_camera else "still",
            room=plain_room if picture is None else "picture",
            occluders=int(rng.integers(1, 4)) if rng.uniform() < config.occluded else 0,
            blur=bool(rng.uniform() < config.blurred), subframes=4,
            noise=bool(rng.uniform() < config.noisy), picture=picture,
        )  # fmt: skip
        motions = [self._motion(rng) for _ in range(asked.people)] if self.mocap else []
        scene = random_scene(asked, tuple(motions))
        return dataclasses.replace(scene, frames=config.length)

    def _motion(self, rng: np.random.Generator) -> Motion:
        return cut_motion(
            self.mocap[int(rng.integers(len(self.mocap)))],
            self.config.length / self.config.fps,
            rng,
        )

    def _render(self, clip: int, number: int) -> _Frame:
        made = _Frame.of(render(self.scene(clip), number))
        if self.cache is not None:
            self._write(clip, number, made)
        return made

    def _files(self, clip: int, number: int) -> tuple[Path, Path]:
        folder = (self.cache or Path()) / f"{clip:06d}"
        return folder / f"{number:05d}.png", folder / f"{number:05d}.npz"

    def _write(self, clip: int, number: int, made: _Frame) -> None:
        """Write the truth, then the picture; a file appears whole or not at all."""
        picture, truth = self._files(clip, number)
        picture.parent.mkdir(parents=True, exist_ok=True)
        part = truth.with_name(f"{number:05d}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.savez(file, **{name: getattr(made, name) for name in TRUTH})
        part.replace(truth)
        bgr = cv2.cvtColor(made.rgb, cv2.COLOR_RGB2BGR)
        part.write_bytes(cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
        part.replace(picture)

    def _read(self, clip: int, number: int) -> _Frame | None:
        if self.cache is None:
            return None
        picture, truth = self._files(clip, number)
        if not (picture.is_file() and truth.is_file()):
            return None
        with np.load(truth, allow_pickle=False) as archive:
            return _Frame(FileImage(picture).read(), *(archive[name] for name in TRUTH))


def cut_motion(clip: MocapClip, seconds: float, rng: np.random.Generator) -> Motion:
    """A random stretch of ``seconds`` (or the whole clip) as COCO17, its stamps from 0."""
    count = min(len(clip), max(2, int(np.ceil(seconds * clip.fps)) + 2))
    first = int(rng.integers(len(clip) - count + 1))
    part = dataclasses.replace(clip, xyz_m=clip.xyz_m[first : first + count])
    stamps_ns = np.round(np.arange(count) * (1e9 / clip.fps)).astype(np.int64)
    return stamps_ns, to_coco17(part)


def _picture_files(folder: str) -> list[str]:
    if not folder:
        return []
    found = [str(p) for p in sorted(Path(folder).rglob("*")) if p.suffix.lower() in
             (".jpg", ".jpeg", ".png")]  # fmt: skip
    if not found:
        raise SourceError(f"{folder}: expected a folder with background pictures (jpg, png)")
    return found


@register_dataset("synthetic")
def synthetic(
    path: str,
    clips: int = 100,
    people: int = 3,
    seed: int = 0,
    size: str = "640x480",
    cache: str = "",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
) -> SyntheticDataset:
    """Rendered clips; ``path`` is a mocap folder, or empty for the project's own walkers.

    ``size`` is WIDTHxHEIGHT in pixels, ``cache`` a folder to keep rendered frames in.
    """
    width_px, height_px = picture_size_of(size)
    config = SyntheticConfig(
        clips=clips, people=people, seed=seed, width_px=width_px, height_px=height_px
    )
    return SyntheticDataset(config, WindowSpec(frames, key, step), mocap=path, cache=cache)


def picture_size_of(text: str) -> tuple[int, int]:
    """Width and height in pixels of "WIDTHxHEIGHT".

    Raises:
        ConfigError: for anything else.

    """
    width, _x, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ConfigError(f"size: expected WIDTHxHEIGHT in pixels such as 640x480, got '{text}'")
    return int(width), int(height)
