"""Labelled frames as values, whatever tool wrote them, and what every file has to hold to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pose_ros.core.skeletons import COCO17, SKELETONS, Skeleton
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.errors import ConfigError
from pose_ros.training.datasets.base import last_number as last_number
from pose_ros.training.datasets.clips import PersonLabel
from pose_ros.training.datasets.posetrack_files import FILE_NAMES

#: Sides of the box of a person who has joints but no box: this much further out on every side.
BOX_MARGIN = 0.15
#: Beginning of the names of people whom the file does not tell apart over time.
ROW = "row"


@dataclass(eq=False)
class FrameRecord:
    """Labels of one frame; it is known by its number or by its stamp."""

    number: int | None  # of the video, from 0
    stamp_ns: int | None  # of the message's header
    size_px: tuple[int, int] | None  # width and height of the picture that was labelled
    people: list[PersonLabel] = field(default_factory=list)

    @property
    def called(self) -> str:
        """Name for messages."""
        return f"frame {self.number}" if self.number is not None else f"stamp {self.stamp_ns}"


@dataclass(frozen=True, eq=False)
class LabelFile:
    """What a file says; frames in its order."""

    path: Path
    form: str  # coco, cvat or label-studio
    skeleton: Skeleton
    frames: tuple[FrameRecord, ...]
    video_frames: int | None  # how many frames the file says that its video has


def skeleton_of(path: Path, names: Sequence[str], wanted: Skeleton | None) -> Skeleton:
    """Joint set that has exactly these joints, in any order.

    Raises:
        ConfigError: there is none, or it is not the wanted one.

    """
    ours = [our_name(name) for name in names]
    known = list(SKELETONS.values())
    fits = [s for s in known if set(ours) <= set(s.joints)]
    if wanted is not None and set(ours) <= set(wanted.joints):
        return wanted
    exact = [s for s in fits if set(ours) == set(s.joints)]
    if wanted is not None or not fits:
        strange = sorted(set(ours) - set((wanted or COCO17).joints))
        raise ConfigError(
            f"{path}: labels the joints {', '.join(ours)}; expected those of "
            + (f"{wanted.name}" if wanted else "a joint set we know, e.g. coco17")
            + f" ({', '.join((wanted or COCO17).joints)}); not among them: {', '.join(strange)}"
        )
    return (exact or sorted(fits, key=lambda s: (s is not COCO17, len(s))))[0]


def our_name(name: str) -> str:
    """Joint name of ours for that of a file."""
    return FILE_NAMES.get(plain(name), plain(name))


def plain(name: str) -> str:
    """Joint name as ours are written: lower case, words joined by underscores."""
    return "_".join(name.strip().lower().replace("-", " ").replace("_", " ").split())


def same_joints(path: Path, found: Skeleton, wanted: Skeleton | None) -> None:
    """Refuse labels of another joint set than the wanted one.

    Raises:
        ConfigError: they are.

    """
    if wanted is not None and found.joints != wanted.joints:
        raise ConfigError(
            f"{path}: its joints are those of {found.name} ({len(found)}), expected {wanted.name} "
            f"({len(wanted)})"
        )


def check_labels(file: LabelFile) -> None:
    """Refuse what cannot be meant.

    Raises:
        ConfigError: a frame or a person of a frame is there twice, a box lies outside its
            picture, or nobody is labelled at all.

    """
    seen: set[tuple[int | None, int | None]] = set()
    for frame in file.frames:
        if (frame.number, frame.stamp_ns) in seen:
            raise ConfigError(f"{file.path}: {frame.called} is there twice")
        seen.add((frame.number, frame.stamp_ns))
        names = [person.track for person in frame.people]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"{file.path}, {frame.called}: person {twice[0]} is there twice; every person "
                "needs a track id of his own"
            )
        for person in frame.people:
            _check_box(
                f"{file.path}, {frame.called}, person {person.track}", person, frame.size_px
            )
    if not any(frame.people for frame in file.frames):
        raise ConfigError(f"{file.path}: nobody is labelled in its {len(file.frames)} frames")
    _link(file)


def _link(file: LabelFile) -> None:
    """Make sure that the same person has the same name in all frames.

    Who is alone in every frame is taken for the same person.

    Raises:
        ConfigError: several people in a frame, and nothing tells who is who in the next one.

    """
    peopled = [frame for frame in file.frames if frame.people]
    if len(peopled) < 2:
        return
    if all(len(frame.people) == 1 for frame in peopled):
        names = {frame.people[0].track for frame in peopled}
        if len(names) == len(peopled):  # a new name in every frame says nothing
            for frame in peopled:
                frame.people[0].track = peopled[0].people[0].track
        return
    named = [person.track for frame in peopled for person in frame.people]
    several = next(frame for frame in peopled if len(frame.people) > 1)
    if len(set(named)) == len(named) or any(p.track.startswith(ROW) for p in several.people):
        raise ConfigError(
            f"{file.path}, {several.called}: {len(several.people)} people, and nothing tells who "
            "is who in other frames; expected track_id (COCO), a track, group_id or attribute "
            "track_id (CVAT), or a name in the meta text of the regions (Label Studio)"
        )


def _check_box(where: str, person: PersonLabel, size_px: tuple[int, int] | None) -> None:
    box = person.box_xyxy_px
    if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise ConfigError(f"{where}: expected a box with an area, got {box.tolist()}")
    if size_px is not None:
        high = np.array(size_px, np.float32) - 0.5
        if (box[:2] >= high).any() or (box[2:] <= -0.5).any():
            raise ConfigError(
                f"{where}: its box {box.round(1).tolist()} lies outside the picture of "
                f"{size_px[0]}x{size_px[1]} pixels; are these the labels of another video?"
            )


def person_from_joints(
    xy: FloatArray, visible: ByteArray, track: str, box: FloatArray | None = None
) -> PersonLabel:
    """Label of a person from joints (K, 2); without a box, the box around them."""
    if box is None:
        known = xy[visible > 0]
        low, high = known.min(axis=0), known.max(axis=0)
        grow = BOX_MARGIN * np.maximum(high - low, 1.0)
        box = np.concatenate([low - grow, high + grow])
    return PersonLabel(xy.astype(np.float32), visible, box.astype(np.float32), track)


def tracks_of(frames: Iterable[FrameRecord]) -> tuple[str, ...]:
    """Names of everybody, in the order of their first appearance."""
    return tuple(dict.fromkeys(person.track for frame in frames for person in frame.people))
