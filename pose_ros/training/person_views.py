"""Pictures of single people, kept with room around them, and how a training sees them.

A *view* is a person in one frame of a video or in one picture, cut with `WIDE` times what a
network is shown, so that its crop can be turned, moved and zoomed. Views lie in one file and are
made once. View number i of a folder is the same on every machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pose_ros.core.crop import cut, fit_boxes
from pose_ros.core.values import ByteArray, FloatArray, Frame
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.checkpoints import write_atomically
from pose_ros.training.consensus import boxes_of
from pose_ros.training.stream_corruption import disturbance

WIDE = 1.7
EVERY = 3  # of the frames of a video, one is kept
TALL_PX = 100.0  # smaller people teach little
#: How crops are drawn: standard deviations, and their limits.
TURN_DEG, TURN_MAX_DEG = 14.0, 40.0
ZOOM, ZOOM_MAX = 0.16, 0.35  # of the logarithm
MOVE = 0.05  # of the crop's sides
MIRRORED, GREY, RECOLOURED = 0.5, 0.1, 0.5
ANYHOW = 0.15  # turned anyhow, so that what is known of people upside down is kept
#: What a student's crops are disturbed by, how often, and how strongly.
MIX = (
    ("clean", 0.32, (0.0, 0.0)),
    ("motion", 0.13, (0.3, 1.0)),
    ("occlusion", 0.22, (0.2, 0.8)),
    ("pasted", 0.18, (0.2, 0.8)),
    ("lowlight", 0.07, (0.3, 0.9)),
    ("defocus", 0.04, (0.3, 1.0)),
    ("jpeg", 0.04, (0.3, 1.0)),
)
HIDDEN_MAX = 0.6  # share of the crop that something pasted hides at severity 1

Rng = np.random.Generator


@dataclass(frozen=True)
class Picture:
    """People in one picture or frame: where they are, and where it is from."""

    source: str
    rgb: ByteArray
    boxes_xyxy_px: FloatArray  # (P, 4)


def of_video(video: Path, poses: Path, every: int = EVERY) -> Iterator[Picture]:
    """Every ``every``-th frame of a video with people, by what `tools.track` says of it.

    Raises:
        SourceError: OpenCV reads no picture from it.

    """
    _ids, number, boxes = boxes_of(poses)
    capture = cv2.VideoCapture(str(video))
    index = 0
    while True:
        found, bgr = capture.read()
        if not found:
            break
        here = boxes[number == index] if index % every == 0 else boxes[:0]
        if len(here):
            yield Picture(f"{video.parent.name}/{video.name}", _rgb(bgr), here)
        index += 1
    if not index:
        raise SourceError(f"{video}: expected a video, OpenCV reads no picture from it")


def of_pictures(listing: Path, folder: Path) -> Iterator[Picture]:
    """Pictures named in a file of lines of JSON: ``file`` and ``box_xyxy_px`` of a person each.

    Raises:
        SourceError: a line is not of that form, or its picture cannot be read.

    """
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            name, box = str(row["file"]), np.array(row["box_xyxy_px"], np.float32).reshape(1, 4)
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(
                f"{listing}, line {number}: expected file and box_xyxy_px, got {line[:80]!r}"
            ) from error
        bgr = cv2.imread(str(folder / name))
        if bgr is None:
            raise SourceError(f"{folder / name}: expected a picture that OpenCV reads")
        yield Picture(name, _rgb(bgr), box)


def _rgb(bgr: np.ndarray) -> ByteArray:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


class Views:
    """Views in a folder, as bytes on disk: append, then read any of them."""

    def __init__(self, folder: Path, size_hw_px: tuple[int, int], scale: float) -> None:
        """Open the folder's views, or start with none; a crop is ``size_hw_px`` at ``scale``.

        Raises:
            ConfigError: the folder's views were made for other crops.

        """
        self.crop_hw, self.scale = size_hw_px, scale
        self.hw = (round(size_hw_px[0] * WIDE), round(size_hw_px[1] * WIDE))
        self.about, self.path = folder / "views.json", folder / "views.bin"
        self.sources: list[str] = []
        self.films: dict[str, int] = {}
        if self.about.is_file():
            known = json.loads(self.about.read_text(encoding="utf-8"))
            if known["hw"] != list(self.hw) or known["scale"] != scale:
                raise ConfigError(
                    f"{self.about}: expected views of {self.hw} at {scale}, got {known['hw']} at "
                    f"{known['scale']}; name another --out"
                )
            self.sources, self.films = known["sources"], known["films"]
        self._pixels: np.memmap | None = None

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.sources)

    def add(self, name: str, pictures: Iterable[Picture]) -> int:
        """Append the people of what is called ``name``, once; returns how many there are."""
        if name in self.films:
            return self.films[name]
        size = int(np.prod(self.hw)) * 3
        found = []
        self.path.touch()
        with self.path.open("r+b") as file:
            file.seek(len(self) * size)
            file.truncate()
            for picture in pictures:
                for view in self._cut(picture):
                    file.write(view.tobytes())
                    found.append(picture.source)
        self.sources += found
        self.films[name] = len(found)
        about = {"hw": self.hw, "scale": self.scale, "sources": self.sources, "films": self.films}
        write_atomically(self.about, lambda file: file.write(json.dumps(about).encode()))
        self._pixels = None
        return len(found)

    def _cut(self, picture: Picture) -> Iterator[ByteArray]:
        boxes = picture.boxes_xyxy_px
        boxes = boxes[boxes[:, 3] - boxes[:, 1] >= TALL_PX]
        for edges in fit_boxes(boxes, self.crop_hw, self.scale * WIDE):
            view = np.empty((*self.hw, 3), np.uint8)
            cut(Frame(picture.rgb, 0), edges, view)
            yield view

    def __getitem__(self, row: int) -> ByteArray:
        """View (h, w, 3) number ``row``; not to be written to."""
        if self._pixels is None:
            self._pixels = np.memmap(self.path, np.uint8, "r", shape=(len(self), *self.hw, 3))
        return np.asarray(self._pixels[row])

    def shares(self) -> FloatArray:
        """How often each view is drawn: those of a film together as often as its root says."""
        names, which = np.unique(np.array(self.sources), return_inverse=True)
        count = np.bincount(which, minlength=len(names))
        weight = 1.0 / np.sqrt(count[which].astype(np.float64))
        return weight / weight.sum()


def draw(views: Views, rng: Rng, shares: FloatArray) -> tuple[ByteArray, ByteArray, int]:
    """A crop as the teacher sees it, as the student does, both (h, w, 3), and the row of MIX."""
    clean = crop(views[int(rng.choice(len(views), p=shares))], views.crop_hw, rng)
    kind = int(rng.choice(len(MIX), p=[share for _, share, _ in MIX]))
    name, _share, (low, high) = MIX[kind]
    severity = float(rng.uniform(low, high))
    if name == "pasted":
        other = crop(views[int(rng.choice(len(views), p=shares))], views.crop_hw, rng)
        return clean, paste(clean, other, severity, rng), kind
    disturb = disturbance(name, severity, [int(rng.integers(1 << 31))])
    return clean, disturb(clean), kind


def crop(view: ByteArray, size_hw_px: tuple[int, int], rng: Rng) -> ByteArray:
    """A random crop (h, w, 3) of a view: turned, zoomed, moved, mirrored, in other colours."""
    height, width = size_hw_px
    turn = np.radians(np.clip(rng.normal(0.0, TURN_DEG), -TURN_MAX_DEG, TURN_MAX_DEG))
    if rng.random() < ANYHOW:
        turn = rng.uniform(-np.pi, np.pi)
    zoom = np.exp(np.clip(rng.normal(0.0, ZOOM), -ZOOM_MAX, ZOOM_MAX))
    ratio = view.shape[0] / (WIDE * height)
    middle = np.array([view.shape[1], view.shape[0]]) / 2.0
    middle = middle + rng.normal(0.0, MOVE, 2) * (width, height)
    cos, sin = np.cos(turn) * zoom * ratio, np.sin(turn) * zoom * ratio
    linear = np.array([[cos, -sin], [sin, cos]])
    if rng.random() < MIRRORED:
        linear = linear @ np.diag([-1.0, 1.0])
    shift = middle - 0.5 - linear @ (np.array([width, height]) / 2.0 - 0.5)
    affine = np.column_stack((linear, shift))
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = np.asarray(cv2.warpAffine(view, affine, (width, height), flags=how), np.uint8)
    if rng.random() < RECOLOURED:
        steps = np.arange(256.0) / 255.0
        gain, lift = np.exp(rng.normal(0.0, 0.15, 3)), rng.normal(0.0, 0.05)
        curve = np.clip(steps[:, None] ** np.exp(rng.normal(0.0, 0.25)) * gain + lift, 0.0, 1.0)
        out = np.asarray(cv2.LUT(out, np.rint(curve * 255.0).astype(np.uint8)[None]), np.uint8)
    if rng.random() < GREY:
        grey = cv2.cvtColor(out, cv2.COLOR_RGB2GRAY)
        out = np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)
    return out


def paste(below: ByteArray, above: ByteArray, severity: float, rng: Rng) -> ByteArray:
    """``below`` (h, w, 3), partly hidden by a blob cut from another picture of its size."""
    height, width = below.shape[:2]
    area = severity * HIDDEN_MAX * height * width
    count = int(rng.integers(1, 4))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(count):
        aspect = float(np.exp(rng.uniform(-0.9, 0.9)))
        tall, wide = np.sqrt(area / count * aspect), np.sqrt(area / count / aspect)
        middle = rng.uniform(0.15, 0.85, 2) * (width, height)
        corners = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0.0, 2.0 * np.pi, corners))
        reach = rng.uniform(0.6, 1.1, corners)
        ring = np.stack((np.cos(angles) * wide * reach, np.sin(angles) * tall * reach), 1)
        points = np.rint(middle + ring * (0.5 if corners > 4 else 0.8)).astype(np.int32)
        if rng.random() < 0.4:
            left, top = np.rint(middle - (wide / 2, tall / 2)).astype(int).tolist()
            cv2.rectangle(mask, (left, top), (left + int(wide), top + int(tall)), (1,), -1)
        else:
            cv2.fillPoly(mask, [points], (1,))
    moved = np.roll(above, rng.integers(0, (height, width)), (0, 1))
    return np.where(mask[..., None] > 0, moved, below)
