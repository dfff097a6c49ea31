"""A small rendered benchmark in which one picture is not enough; `load` makes and keeps it.

`occlusion_video.py` has the same of real video.

A clip is five crops of one person who walks, or reaches out, at a few pictures per second, so that
limbs move by cells from picture to picture. `view` then spoils the key picture, the middle one:

  * ``clean``: nothing; what a network loses by looking at other pictures shows here;
  * ``occluded``: a patch about a random joint covers part of the key picture only;
  * ``blurred``: the key picture is smeared and out of focus, its neighbours are sharp;
  * ``dark``: all pictures are dark and noisy, so that averaging helps.

Letters in shapes: N clips, T = 5 pictures, K = 17 COCO joints. Pixels are those of the crop.
Everything follows from the seed; test clips are of other scenes than training clips.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import ByteArray, FloatArray, check
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.augment import Draw, apply, crop_affine, warp
from pose_ros.training.corruption import corrupt
from pose_ros.training.metrics.pck import box_side_px
from pose_ros.training.render import render
from pose_ros.training.scene import SceneConfig, random_scene
from pose_ros.training.walker import reach, walk

Rng = np.random.Generator
Motion = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]

PICTURES, KEY = 5, 2
KINDS = ("clean", "occluded", "blurred", "dark")
#: How often a training window is of each kind.
SHARES = (0.25, 0.35, 0.25, 0.15)
SPLITS = ("train", "test")
SHARD = 50  # clips per file of the cache
MOTION_FPS = 60.0
PICTURE_PX = (224, 176)  # width and height of what is rendered, the person is about half as high
CROP_SCALE = 1.25


@dataclass(frozen=True)
class OcclusionConfig:
    """Size and seed of the benchmark."""

    train: int = 600  # clips
    test: int = 200
    size_hw_px: tuple[int, int] = (96, 64)
    fps: float = 8.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that are not positive.

        Raises:
            ConfigError: naming them.

        """
        if min(self.train, self.test, *self.size_hw_px) < 1 or self.fps <= 0 or self.seed < 0:
            raise ConfigError(f"occlusion set: expected positive sizes and fps, got {self}")

    def digest(self) -> str:
        """Eight hexadecimal digits that change with what a clip shows; not with how many."""
        shown = (self.size_hw_px, self.fps, self.seed, PICTURE_PX, CROP_SCALE, 1)
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:8]

    def load(self, split: str, folder: Path) -> Clips:
        """Clips of a split; see `load` of this module."""
        return load(self, split, folder)


@dataclass(frozen=True, eq=False)
class Clips:
    """N clips of one split, or one view of them."""

    frames: ByteArray  # (N, 5, H, W, 3) RGB
    xy_px: FloatArray  # (N, 5, 17, 2), NaN outside the rendered picture
    side_px: FloatArray  # (N,) longer side of the person's box in the key picture, of the crop
    hidden: npt.NDArray[np.bool_]  # (N, 17) joints of the key picture under the patch

    def __post_init__(self) -> None:
        """Check shapes and types."""
        n = len(self.frames)
        check("Clips.frames", self.frames, (n, PICTURES, None, None, 3), np.uint8)
        check("Clips.xy_px", self.xy_px, (n, PICTURES, len(COCO17), 2), np.float32)
        check("Clips.side_px", self.side_px, (n,), np.float32)
        check("Clips.hidden", self.hidden, (n, len(COCO17)), np.bool_)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.frames)


def motion(rng: Rng, seconds: float) -> Motion:
    """Somebody who walks briskly (two of three) or the liveliest moment of somebody who reaches.

    Stamps (T,) from 0 and joints (T, 17, 3) in metres, z up, for at least ``seconds``.
    """
    seed, stature_m = int(rng.integers(2**31)), float(rng.uniform(1.55, 1.92))
    if rng.uniform() < 2 / 3:
        return walk(seconds, MOTION_FPS, seed, stature_m, float(rng.uniform(1.0, 2.0)))
    stamps_ns, xyz_m = reach(4.0 + seconds, MOTION_FPS, seed, stature_m, "both")
    count = int(np.ceil(seconds * MOTION_FPS)) + 1
    wrists = [COCO17.index("left_wrist"), COCO17.index("right_wrist")]
    steps = np.linalg.norm(np.diff(xyz_m[:, wrists], axis=0), axis=-1).sum(axis=1)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    first = int(np.argmax(travelled[count - 1 :] - travelled[: len(travelled) - count + 1]))
    return stamps_ns[:count], xyz_m[first : first + count]


def make_clip(config: OcclusionConfig, split: str, index: int) -> Clips:
    """Render clip ``index`` of a split; Clips of N = 1, nothing hidden."""
    for attempt in range(20):
        key = [config.seed, SPLITS.index(split), index, attempt, 43]
        rng = np.random.default_rng(key)
        seconds = PICTURES / config.fps
        asked = SceneConfig(
            seed=int(rng.integers(2**31)), seconds=seconds, fps=config.fps, people=1,
            size_px=PICTURE_PX, camera="still", room="room" if rng.uniform() < 0.8 else "open",
        )  # fmt: skip
        scene = dataclasses.replace(random_scene(asked, (motion(rng, seconds),)), frames=PICTURES)
        made = [render(scene, n) for n in range(PICTURES)]
        box = made[KEY].box_xyxy_px[0]
        if np.isfinite(box).all() and (made[KEY].visible[0] > 0).mean() > 0.8:
            break
    else:
        raise ConfigError(f"occlusion set: nobody in view in clip {index} of {config}")
    affine = crop_affine(box, config.size_hw_px, CROP_SCALE, Draw())
    xy_px = np.stack([apply(affine, m.xy_px[0]) for m in made])
    unseen = np.stack([m.visible[0] == 0 for m in made])
    xy_px[unseen] = np.nan
    frames = np.stack([warp(m.rgb, affine, config.size_hw_px) for m in made])
    side_px = (box_side_px(box[None]) * affine[1, 1]).astype(np.float32)
    return Clips(frames[None], xy_px[None], side_px, np.zeros((1, len(COCO17)), np.bool_))


def load(config: OcclusionConfig, split: str, folder: Path, missing: int = -1) -> Clips:
    """Clips of a split, rendered where the folder lacks them.

    ``missing`` files of `SHARD` clips are rendered at most, any number when negative.

    Raises:
        ConfigError: unknown split.
        SourceError: files are still missing; the same call goes on.

    """
    if split not in SPLITS:
        raise ConfigError(f"split: expected one of {SPLITS}, got '{split}'")
    count = getattr(config, split)
    where = folder / f"clips_{config.digest()}"
    where.mkdir(parents=True, exist_ok=True)
    parts = []
    for number in range(-(-count // SHARD)):
        path = where / f"{split}_{number:03d}.npz"
        if not path.is_file():
            if missing == 0:
                raise SourceError(f"{path}: not rendered yet; run the same command again")
            missing -= 1
            whole = [make_clip(config, split, number * SHARD + i) for i in range(SHARD)]
            write_clips(path, join(whole))
        parts.append(read_clips(path))
    return take(join(parts), np.arange(count))


def read_clips(path: Path) -> Clips:
    """Clips that `write_clips` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return Clips(**{f.name: archive[f.name] for f in dataclasses.fields(Clips)})


def write_clips(path: Path, clips: Clips) -> None:
    """Write a file; it appears whole or not at all."""
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, **{f.name: getattr(clips, f.name)
                                     for f in dataclasses.fields(Clips)})  # fmt: skip
    part.replace(path)


def join(parts: list[Clips]) -> Clips:
    """Clips one after another."""
    return Clips(**{f.name: np.concatenate([getattr(p, f.name) for p in parts])
                    for f in dataclasses.fields(Clips)})  # fmt: skip


def take(clips: Clips, index: npt.NDArray[np.integer]) -> Clips:
    """Some of the clips."""
    return Clips(**{f.name: getattr(clips, f.name)[index] for f in dataclasses.fields(Clips)})


def view(clips: Clips, kind: str, seed: int) -> Clips:
    """Return the clips with their key picture, or all pictures, spoilt; ``mixed`` is to learn.

    Every clip is zoomed and moved a little first, as trackers' boxes are, all its pictures alike.
    ``mixed`` draws a kind for each clip (`SHARES`), milder and worse ones, and mirrors half.

    Raises:
        ConfigError: unknown kind.

    """
    if kind not in (*KINDS, "mixed"):
        raise ConfigError(f"view: expected one of {(*KINDS, 'mixed')}, got '{kind}'")
    made = []
    for i in range(len(clips)):
        rng = np.random.default_rng([seed, i, 47])
        one = shaken(take(clips, np.array([i])), rng)
        if kind == "mixed":
            one = mirrored(one) if rng.uniform() < 0.5 else one
            made.append(_spoilt(one, str(rng.choice(KINDS, p=SHARES)), rng, mild=0.6))
        else:
            made.append(_spoilt(one, kind, rng, mild=1.0))
    return join(made)


def shaken(clip: Clips, rng: Rng) -> Clips:
    """One clip with another crop: zoomed by 0.85 to 1.1, moved by up to 8 % of its size."""
    height, width = clip.frames.shape[2:4]
    zoom = float(rng.uniform(0.85, 1.1))
    middle = np.array([width - 1, height - 1]) / 2.0
    moved = middle + rng.uniform(-0.08, 0.08, 2) * (width, height) - zoom * middle
    affine = np.array([[zoom, 0.0, moved[0]], [0.0, zoom, moved[1]]])
    frames = np.stack(
        [
            cv2.warpAffine(f, affine, (width, height), borderMode=cv2.BORDER_REPLICATE)
            for f in clip.frames[0]
        ]
    )
    side_px = clip.side_px * np.float32(zoom)
    return dataclasses.replace(
        clip, frames=frames[None], xy_px=apply(affine, clip.xy_px), side_px=side_px
    )


def _spoilt(clip: Clips, kind: str, rng: Rng, mild: float) -> Clips:
    """One clip with its trouble, its amount between ``mild`` and 1 of the test's."""
    frames, hidden = clip.frames.copy(), clip.hidden.copy()
    amount = float(rng.uniform(mild, 1.0))
    if kind == "occluded":
        left, top, right, bottom = cover(frames[0, KEY], clip.xy_px[0, KEY], amount, rng)
        x, y = clip.xy_px[0, KEY].T
        hidden[0] = (x > left - 0.5) & (x < right - 0.5) & (y > top - 0.5) & (y < bottom - 0.5)
    if kind == "blurred":
        smeared = corrupt(frames[0, KEY : KEY + 1], "motion", amount, rng)
        frames[0, KEY] = corrupt(smeared, "blur", amount, rng)[0]
    if kind == "dark":
        frames[0] = corrupt(frames[0], "lowlight", 0.6 * amount, rng)
    return dataclasses.replace(clip, frames=frames, hidden=hidden)


def cover(
    picture: ByteArray, xy_px: FloatArray, amount: float, rng: Rng
) -> tuple[int, int, int, int]:
    """Paint a noisy patch about a known joint of (K, 2); its left, top, right, bottom.

    At an ``amount`` of 1 it is 0.3 to 0.5 of the crop high and 0.5 to 0.9 of it wide.
    """
    height, width = picture.shape[:2]
    h = max(2, round(height * float(rng.uniform(0.3, 0.5)) * amount))
    w = max(2, round(width * float(rng.uniform(0.5, 0.9)) * amount))
    known = np.flatnonzero(np.isfinite(xy_px).all(axis=1))
    at = xy_px[rng.choice(known)] if len(known) else np.array([width / 2, height / 2])
    left = int(np.clip(round(float(at[0])) - w // 2, 0, width - w))
    top = int(np.clip(round(float(at[1])) - h // 2, 0, height - h))
    coarse = rng.uniform(0, 255, (4, 4, 3)).astype(np.float32) * 0.5 + rng.uniform(0, 128, 3)
    texture = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    patch = texture + rng.normal(0, 8, (h, w, 3))
    picture[top : top + h, left : left + w] = np.clip(patch, 0, 255).astype(np.uint8)
    return left, top, left + w, top + h


def mirrored(clips: Clips) -> Clips:
    """Clips as in a mirror: left joints become right ones."""
    width, order = clips.frames.shape[3], COCO17.flip_order()
    xy_px = clips.xy_px[:, :, order].copy()
    xy_px[..., 0] = width - 1 - xy_px[..., 0]
    frames = np.ascontiguousarray(clips.frames[:, :, :, ::-1])
    return dataclasses.replace(clips, frames=frames, xy_px=xy_px, hidden=clips.hidden[:, order])
