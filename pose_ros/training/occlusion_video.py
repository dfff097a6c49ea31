"""The benchmark of `occlusion_set.py` on real video: clips of labelled people, the same troubles.

A clip is five crops of one person at about eight pictures per second, cut from a video that was
labelled by `consensus.py`. The films of a split share its number of clips evenly, as far as they
reach; the clips of a film are spread evenly over its tracks, and may overlap. Where people move
comes first: with nobody moving, the neighbours of a picture are copies of it. `occlusion_set.view`
spoils the clips as it does rendered ones. No person labelled them: the joints are those on which
a larger network agreed with itself in clean pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import COCO17
from pose_ros.core.source import open_source
from pose_ros.core.values import Frame
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training import consensus
from pose_ros.training.augment import Draw, apply, crop_affine, warp
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.consensus import Track
from pose_ros.training.metrics.pck import box_side_px
from pose_ros.training.occlusion_set import (
    CROP_SCALE,
    KEY,
    PICTURES,
    SPLITS,
    Clips,
    join,
    read_clips,
    write_clips,
)

#: Share of the key picture's joints that have a label.
LABELLED = 0.6
#: People move where a quarter of the joints' steps from picture to picture are longer than this
#: share of the box's longer side: a pixel of the crop.
LIVELY = 0.013

#: Track of a film, and rows of it that the clip's pictures are.
Place = tuple[int, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class LabelledVideo:
    """A video and its labels, or what they are made from.

    ``labels`` is an .npz that `consensus.save` wrote, or a .jsonl that `tools.track` did.
    """

    video: Path
    labels: Path

    @classmethod
    def parse(cls, text: str) -> LabelledVideo:
        """``VIDEO=LABELS`` of a command line.

        Raises:
            ConfigError: it is not of that form, or a file is missing.

        """
        video, equals, labels = text.rpartition("=")
        found = cls(Path(video), Path(labels))
        if not equals or not found.video.is_file() or not found.labels.is_file():
            raise ConfigError(f"expected VIDEO=LABELS, two files that are there, got '{text}'")
        return found

    def tracks(self, folder: Path) -> list[Track]:
        """Labelled tracks; made by `consensus` and kept in ``folder`` where there are none yet.

        Raises:
            SourceError: the video or the file of poses cannot be read.

        """
        if self.labels.suffix != ".jsonl":
            return consensus.load(self.labels)
        digest = hashlib.sha256(self.labels.read_bytes()).hexdigest()[:8]
        path = folder / f"labels_{self.video.stem}_{digest}.npz"
        if not path.is_file():
            source = open_source(str(self.video))
            frames = (
                (i, Frame(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)), 0))
                for i, bgr in enumerate(source)
            )
            found = consensus.tracks(self.labels, frames, source.rate_hz, consensus.Consensus(1))
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: consensus.save(file, found))
        return consensus.load(path)

    @property
    def name(self) -> str:
        """Folder and file, which tell the films apart."""
        return f"{self.video.parent.name}/{self.video.name}"


@dataclass(frozen=True)
class VideoConfig:
    """Films, and how many clips are taken from them."""

    films: dict[str, tuple[LabelledVideo, ...]]  # by split
    train: int = 600  # clips; fewer where the films have no more
    test: int = 200
    size_hw_px: tuple[int, int] = (96, 64)
    fps: float = 8.0  # about: every so many pictures of the film

    def __post_init__(self) -> None:
        """Refuse sizes that are not positive, and a film in both splits.

        Raises:
            ConfigError: naming them.

        """
        if min(self.train, self.test, *self.size_hw_px) < 1 or self.fps <= 0:
            raise ConfigError("occlusion set: expected positive sizes and fps")
        for split in SPLITS:
            if not self.films.get(split):
                raise ConfigError(f"occlusion set: expected videos to {split} with, got none")
        shared = {f.name for f in self.films["train"]} & {f.name for f in self.films["test"]}
        if shared:
            raise ConfigError(f"occlusion set: {', '.join(sorted(shared))}: to learn and to test")

    def digest(self) -> str:
        """Eight hexadecimal digits that change with what the clips show and how many they are."""
        films = {
            split: [(f.name, hashlib.sha256(f.labels.read_bytes()).hexdigest()) for f in films]
            for split, films in sorted(self.films.items())
        }
        shown = (
            films,
            self.train,
            self.test,
            self.size_hw_px,
            self.fps,
            CROP_SCALE,
            LABELLED,
            LIVELY,
        )
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:8]

    def load(self, split: str, folder: Path) -> Clips:
        """Clips of a split; cut from the films where the folder lacks them.

        Raises:
            ConfigError: unknown split.
            SourceError: a film cannot be read, or has nobody to show for long enough.

        """
        if split not in SPLITS:
            raise ConfigError(f"split: expected one of {SPLITS}, got '{split}'")
        path = folder / f"video_{self.digest()}" / f"{split}.npz"
        if not path.is_file():
            parts = [clips for _, clips in self.films_of(split, folder)]
            if not parts:
                raise SourceError(f"{self.films[split]}: shows nobody for long enough")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clips(path, join(parts))
        return read_clips(path)

    def films_of(self, split: str, folder: Path) -> Iterator[tuple[str, Clips]]:
        """Name and clips of every film of a split that has a share of them."""
        films = self.films[split]
        tracks = [f.tracks(folder) for f in films]
        steps = [step_of(open_source(str(f.video)).rate_hz, self.fps) for f in films]
        places = [places_in(t, step) for t, step in zip(tracks, steps, strict=True)]
        counts = shares([len(p) for p in places], getattr(self, split))
        for film, found, where, count in zip(films, tracks, places, counts, strict=True):
            if count:
                yield (
                    film.name,
                    cut_clips(film, found, chosen(found, where, count), self.size_hw_px),
                )


def step_of(rate_hz: float, fps: float) -> int:
    """Pictures of a film of this rate from one of a clip's to the next."""
    return max(1, round(rate_hz / fps))


def places_in(tracks: list[Track], step: int) -> list[Place]:
    """Where clips may be taken: all their pictures in a track, the key picture's joints known."""
    found = []
    for number, track in enumerate(tracks):
        known = np.isfinite(track.xy_px).all(-1).mean(axis=1)
        for key in range(KEY * step, len(track) - (PICTURES - 1 - KEY) * step):
            if known[key] >= LABELLED:
                found.append((number, key + (np.arange(PICTURES) - KEY) * step))
    return found


def chosen(tracks: list[Track], places: list[Place], count: int) -> list[Place]:
    """So many places, spread evenly over those where people move, and the others if need be."""
    moves = np.array([_steps(tracks[t], rows) for t, rows in places]) >= LIVELY
    lively, still = np.flatnonzero(moves), np.flatnonzero(~moves)
    first = min(count, len(lively))
    picked = [
        some[np.linspace(0, len(some) - 1, n).round().astype(int)]
        for some, n in ((lively, first), (still, count - first))
        if n
    ]
    return [places[i] for i in sorted(np.concatenate(picked).tolist())]


def _steps(track: Track, rows: npt.NDArray[np.int64]) -> float:
    """Upper quartile of the joints' steps in a clip, of the box's side; 0 with none known."""
    side = box_side_px(track.box_xyxy_px[rows[KEY]][None])[0]
    steps = np.linalg.norm(np.diff(track.xy_px[rows], axis=0), axis=-1)
    known = steps[np.isfinite(steps)]
    return float(np.quantile(known, 0.75) / side) if len(known) and side > 0 else 0.0


def shares(have: list[int], wanted: int) -> list[int]:
    """How many each gives, as evenly as what they have allows; all of it when it is too little."""
    out, left = [0] * len(have), wanted
    order = sorted(range(len(have)), key=lambda i: have[i])
    for place, i in enumerate(order):
        out[i] = min(have[i], left // (len(have) - place))
        left -= out[i]
    return out


def cut_clips(
    film: LabelledVideo, tracks: list[Track], places: list[Place], size_hw_px: tuple[int, int]
) -> Clips:
    """Clips at these places of a film, read once from its start.

    Raises:
        SourceError: the film is shorter than its labels.

    """
    frames = np.zeros((len(places), PICTURES, *size_hw_px, 3), np.uint8)
    affines = [
        crop_affine(tracks[t].box_xyxy_px[rows[KEY]], size_hw_px, CROP_SCALE, Draw())
        for t, rows in places
    ]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for clip, (track, rows) in enumerate(places):
        for picture, number in enumerate(tracks[track].frames[rows]):
            wanted.setdefault(int(number), []).append((clip, picture))
    for number, bgr in enumerate(open_source(str(film.video))):
        for clip, picture in wanted.pop(number, ()):
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            frames[clip, picture] = warp(rgb, affines[clip], size_hw_px)
        if not wanted:
            break
    if wanted:
        raise SourceError(f"{film.video}: has no picture {min(wanted)}, {film.labels} labels it")
    xy_px = np.stack(
        [apply(a, tracks[t].xy_px[rows]) for a, (t, rows) in zip(affines, places, strict=True)]
    )
    boxes = np.stack([tracks[t].box_xyxy_px[rows[KEY]] for t, rows in places])
    side = box_side_px(boxes) * [affine[1, 1] for affine in affines]
    hidden = np.zeros((len(places), len(COCO17)), np.bool_)
    return Clips(frames, xy_px, side.astype(np.float32), hidden)
