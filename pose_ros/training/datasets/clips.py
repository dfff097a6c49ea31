"""Labelled videos as values, and the dataset that cuts them into samples.

Every dataset here reads its own files into `Clip`s; a still picture is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets.base import (
    ClipSample,
    FileImage,
    ImageRef,
    WindowSpec,
    box_from_xywh,
    clip_box,
    has_area,
    read_json,
)

#: Detected boxes with a lower score are left out, as DCPose's configurations do.
BOX_MIN = 0.2


@dataclass(eq=False)
class PersonLabel:
    """One labelled person of a frame; a person may have no labelled joint at all."""

    xy_px: npt.NDArray[Any]  # (K, 2) floating, NaN unlabelled
    visible: ByteArray  # (K,) 0 unlabelled, 1 occluded, 2 visible
    box_xyxy_px: FloatArray  # (4,), NaN when nobody knows
    track: str  # the same for the same person of a video
    head_px: float = float("nan")  # 0.6 x the diagonal of the head rectangle
    area_px2: float = float("nan")
    ignore: bool = False  # a crowd or a region: neither to be found nor wrong
    xyz_m: FloatArray | None = None  # (K, 3) camera frame
    pseudo: bool = False  # a network said it, nobody: `labelled` is false in the file

    @property
    def known(self) -> bool:
        """Whether any joint is labelled."""
        return bool(self.visible.any())


@dataclass(eq=False)
class FrameLabel:
    """One frame of a clip."""

    image: ImageRef
    number: int  # counts frames of the video
    image_id: int
    file: str = ""  # as in the label file
    people: list[PersonLabel] = field(default_factory=list)
    size_px: tuple[int, int] | None = None  # width, height
    ignore: tuple[np.ndarray, ...] = ()  # polygons (N, 2) that do not count
    labelled: bool = True  # False: nobody looked at this frame
    crowd_index: float = float("nan")  # CrowdPose's


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one video in order; numbers may have gaps where the dataset has no picture."""

    name: str
    frames: tuple[FrameLabel, ...]


@dataclass(frozen=True)
class Detection:
    """A box of a detector, as a sample source instead of the labels."""

    box_xyxy_px: FloatArray  # (4,)
    score: float


class LabelledClips:
    """A ClipDataset over clips: a sample per labelled person, or per detected box.

    People without a labelled joint or without box area are no samples; evaluators find them in
    ``clips``. Boxes are clipped to the image where its size is known.
    """

    def __init__(
        self,
        name: str,
        skeleton: Skeleton,
        clips: Sequence[Clip],
        window: WindowSpec | None = None,
        detections: dict[int | str, list[Detection]] | None = None,
    ) -> None:
        """Index the people; ``detections`` by image id or file name replace their boxes.

        Raises:
            ConfigError: nothing is left.

        """
        self.name = name
        self.skeleton = skeleton
        self.clips = list(clips)
        self.window = window or WindowSpec()
        self.detections = detections
        self._where: list[tuple[int, int, int]] = []  # clip, frame, person or detection
        self._position = [{f.number: i for i, f in enumerate(clip.frames)} for clip in self.clips]
        self._ends = [(min(numbers), max(numbers)) for numbers in self._position]
        for c, clip in enumerate(self.clips):
            for f, frame in enumerate(clip.frames):
                self._where += [(c, f, p) for p in self._usable(frame)]
        if not self._where:
            raise ConfigError(
                f"dataset {name}: no labelled person with a box among {len(self.clips)} clips; "
                "is this the right split?"
            )

    def _usable(self, frame: FrameLabel) -> list[int]:
        if self.detections is not None:
            boxes = [(found.box_xyxy_px, True) for found in self._found(frame)]
        else:
            boxes = [(p.box_xyxy_px, p.known and not p.ignore) for p in frame.people]
        return [i for i, (box, wanted) in enumerate(boxes) if wanted and self._fits(box, frame)]

    def _found(self, frame: FrameLabel) -> list[Detection]:
        """Detections of a frame, by its file or its id; none on frames that nobody labelled."""
        if not self.detections or not frame.labelled:
            return []
        named = self.detections.get(_tail(frame.file)) if frame.file else None
        return named or self.detections.get(frame.image_id, [])

    @staticmethod
    def _fits(box: FloatArray, frame: FrameLabel) -> bool:
        inside = clip_box(box, frame.size_px) if frame.size_px else box
        return bool(np.isfinite(box).all()) and has_area(inside)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._where)

    def locate(self, index: int) -> tuple[Clip, FrameLabel, PersonLabel | None]:
        """Clip, frame and label behind a sample; no label behind a detection."""
        c, f, p = self._where[index]
        frame = self.clips[c].frames[f]
        return self.clips[c], frame, None if self.detections is not None else frame.people[p]

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``."""
        c, f, p = self._where[index]
        clip, frame = self.clips[c], self.clips[c].frames[f]
        position = self._window_of(c, f)
        indices = np.array([clip.frames[i].number for i in position], np.int64)
        left, right = self.window.distances(frame.number, indices)
        person = None if self.detections is not None else frame.people[p]
        found = self._found(frame)[p] if self.detections is not None else None
        box = found.box_xyxy_px if found else frame.people[p].box_xyxy_px
        box = clip_box(box, frame.size_px) if frame.size_px else box
        xy, visible, xyz = self._labels([clip.frames[i] for i in position], person)
        return ClipSample(
            images=tuple(clip.frames[i].image for i in position),
            key=self.window.key,
            box_xyxy_px=box.astype(np.float32),
            xy_px=xy,
            visible=visible,
            skeleton=self.skeleton,
            track=f"{clip.name}/{person.track}" if person else f"{clip.name}/box{p}",
            frame_index=indices,
            dt_left=left,
            dt_right=right,
            video=clip.name,
            image_id=frame.image_id,
            head_px=person.head_px if person else float("nan"),
            area_px2=person.area_px2 if person else float("nan"),
            box_score=found.score if found else 1.0,
            xyz_m=xyz,
            pseudo=self._pseudo([clip.frames[i] for i in position], person),
        )

    @staticmethod
    def _pseudo(frames: list[FrameLabel], person: PersonLabel | None) -> np.ndarray | None:
        """(T,) where the label of one track is a network's; None where it nowhere is."""
        if person is None:
            return None
        rows = [_of_track(frame, person) for frame in frames]
        pseudo = np.array([row is not None and row.pseudo for row in rows])
        return pseudo if pseudo.any() else None

    def _window_of(self, c: int, f: int) -> list[int]:
        """Positions in a clip of the frames around one; the key frame's where there is none."""
        number = self.clips[c].frames[f].number
        indices, _left, _right = self.window.around(number, *self._ends[c])
        return [self._position[c].get(int(index), f) for index in indices]

    def _labels(
        self, frames: list[FrameLabel], person: PersonLabel | None
    ) -> tuple[FloatArray, ByteArray, FloatArray | None]:
        """Joints of one track in the frames of a window."""
        joints = len(self.skeleton)
        xy = np.full((len(frames), joints, 2), np.nan, np.float32)
        visible = np.zeros((len(frames), joints), np.uint8)
        xyz = np.full((len(frames), joints, 3), np.nan, np.float32)
        if person is None:
            return xy, visible, None
        for time, frame in enumerate(frames):
            same = _of_track(frame, person)
            if same is not None:
                xy[time], visible[time] = same.xy_px, same.visible
                if same.xyz_m is not None:
                    xyz[time] = same.xyz_m
        return xy, visible, xyz if person.xyz_m is not None else None


def _of_track(frame: FrameLabel, person: PersonLabel) -> PersonLabel | None:
    """The label of a person in a frame; None where there is none."""
    return next((q for q in frame.people if q is person or q.track == person.track), None)


def read_detections(path: Path, score_min: float = BOX_MIN) -> dict[int | str, list[Detection]]:
    """Detected boxes by image id from a COCO results file ``[{image_id, bbox, score}]``.

    An entry may have ``file_name`` or ``image_name`` instead: the pictures of PoseTrack17 have no
    ids, and the boxes that DCPose and PoseWarper published come by name. The name is the label
    file's, or ends with the same folder and file.

    Raises:
        SourceError: the file is missing or of another form.

    """
    found: dict[int | str, list[Detection]] = {}
    try:
        for entry in read_json(path):
            if entry.get("category_id", 1) == 1 and float(entry["score"]) > score_min:
                box = box_from_xywh(entry["bbox"], str(path))
                name = entry.get("file_name", entry.get("image_name"))
                key = _tail(str(name)) if name is not None else int(entry["image_id"])
                found.setdefault(key, []).append(Detection(box, float(entry["score"])))
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{path}: expected detections as [{{image_id, bbox, score}}], got {error!r}"
        ) from error
    return found


def _tail(name: str) -> str:
    """Folder and file at the end of a picture's name: what tells pictures of a split apart."""
    return "/".join(name.replace("\\", "/").split("/")[-2:])


def check_pictures(clips: Sequence[Clip], hint: str) -> None:
    """Refuse a dataset whose pictures are not there, by the first and last of every clip.

    Raises:
        SourceError: naming how many clips are incomplete, one missing file, and what to do.

    """
    missing = [
        frame.image.path
        for clip in clips
        for frame in {id(f): f for f in (clip.frames[0], clip.frames[-1])}.values()
        if isinstance(frame.image, FileImage) and not frame.image.path.is_file()
    ]
    if missing:
        raise SourceError(
            f"{missing[0]}: the labels name this picture, but it is missing, like {len(missing)} "
            f"of the first and last pictures of {len(clips)} clips (half downloaded?). {hint}"
        )
