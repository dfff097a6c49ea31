"""Labels of few frames to all frames of a video: values, geometry, and what needs no network.

Letters in shapes: P people, L frames of the video, K joints. A *stretch* is what lies between two
neighbouring labelled frames; before the first and after the last one it has one end only. Every
method answers an `Estimate` of all frames; `finish` puts the labels themselves in, and nothing
where a person is not known to be. Which method is best is measured by `propagate_benchmark`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray, FloatArray, check
from pose_ros.errors import ConfigError
from pose_ros.training.datasets.base import ImageRef, clip_box, has_area

Bool = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]

#: Boxes of a stretch's ends that overlap less are joined instead of interpolated.
SAME_PLACE_IOU = 0.5
#: Score of a joint on which methods differ by this share of the box's longer side: exp(-1/2).
SPREAD_SHARE = 0.03


@dataclass(frozen=True, eq=False)
class Sparse:
    """A video with few labelled frames."""

    name: str
    images: tuple[ImageRef, ...]  # L
    size_px: tuple[int, int]  # width, height
    skeleton: Skeleton
    tracks: tuple[str, ...]  # P names, the same person under the same name
    labelled: Bool  # (L,) frames that somebody labelled, with or without people
    xy_px: FloatArray  # (P, L, K, 2), NaN unknown
    visible: ByteArray  # (P, L, K) 0 unlabelled, 1 occluded, 2 visible
    box_xyxy_px: FloatArray  # (P, L, 4), NaN where the person is not labelled
    #: (P, L, 4) boxes that are known where nothing else is, NaN where a person is not there; None:
    #: boxes are guessed from the labels', and who is not at a label is nowhere
    known_xyxy_px: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check shapes and dtypes."""
        people, frames, joints = len(self.tracks), len(self.images), len(self.skeleton)
        check("Sparse.labelled", self.labelled, (frames,), np.bool_)
        check("Sparse.xy_px", self.xy_px, (people, frames, joints, 2), np.float32)
        check("Sparse.visible", self.visible, (people, frames, joints), np.uint8)
        check("Sparse.box_xyxy_px", self.box_xyxy_px, (people, frames, 4), np.float32)
        if self.known_xyxy_px is not None:
            check("Sparse.known_xyxy_px", self.known_xyxy_px, (people, frames, 4), np.float32)

    @property
    def present(self) -> Bool:
        """(P, L) whether a person is labelled in a frame."""
        return np.asarray(np.isfinite(self.box_xyxy_px).all(axis=2))

    def only(self, frames: Sequence[int]) -> Sparse:
        """The same video when only these of the labelled frames were labelled.

        Raises:
            ConfigError: one of them is not labelled.

        """
        keep = np.zeros(len(self.images), np.bool_)
        keep[list(frames)] = True
        lacking = np.flatnonzero(keep & ~self.labelled)
        if len(lacking):
            raise ConfigError(
                f"{self.name}: expected labels in frames {list(frames)[:4]} ..., frame "
                f"{lacking[0]} has none; leave the interval away to use the labels that are there"
            )
        gone = np.float32("nan")
        return replace(
            self,
            labelled=keep,
            xy_px=np.where(keep[:, None, None], self.xy_px, gone),
            visible=np.where(keep[:, None], self.visible, np.uint8(0)),
            box_xyxy_px=np.where(keep[:, None], self.box_xyxy_px, gone),
        )


@dataclass(frozen=True, eq=False)
class Estimate:
    """Where a method takes the joints to be."""

    xy_px: FloatArray  # (P, L, K, 2), NaN unknown
    score: FloatArray  # (P, L, K) in 0 ... 1, 0 unknown


def near_labels(video: Sparse, reach: int) -> tuple[Sparse, slice]:
    """The part of a video from ``reach`` frames before the first label to as many after the last.

    What lies further out gets no answer (`finish`), and need not be looked at.

    Raises:
        ConfigError: nothing is labelled.

    """
    marks = np.flatnonzero(video.labelled)
    if len(marks) == 0:
        raise ConfigError(f"{video.name}: no frame is labelled")
    part = slice(max(int(marks[0]) - reach, 0), int(marks[-1]) + reach + 1)
    some = replace(
        video,
        images=video.images[part],
        labelled=video.labelled[part],
        xy_px=video.xy_px[:, part],
        visible=video.visible[:, part],
        box_xyxy_px=video.box_xyxy_px[:, part],
        known_xyxy_px=None if video.known_xyxy_px is None else video.known_xyxy_px[:, part],
    )
    return some, part


def in_whole(found: Estimate, part: slice, frames: int) -> Estimate:
    """Answer of a part of a video as one of all its ``frames``, unknown elsewhere."""
    people, _, joints = found.score.shape
    xy = np.full((people, frames, joints, 2), np.nan, np.float32)
    score = np.zeros((people, frames, joints), np.float32)
    xy[:, part], score[:, part] = found.xy_px, found.score
    return Estimate(xy, score)


@dataclass(frozen=True, eq=False)
class Ends:
    """Labelled frames on both sides of every frame, for every person; -1: none.

    A labelled frame is its own left and right end. Where a person is missing at a labelled frame,
    he has no end there; `near` is the smaller distance of the two in frames.
    """

    left: Int  # (P, L)
    right: Int  # (P, L)

    @property
    def known(self) -> Bool:
        """(P, L) whether the person is labelled at one end at least."""
        return (self.left >= 0) | (self.right >= 0)

    @property
    def near(self) -> npt.NDArray[np.float64]:
        """(P, L) frames to the nearer end, inf where there is none."""
        time = np.arange(self.left.shape[1])
        to_left = np.where(self.left >= 0, time - self.left, np.inf)
        to_right = np.where(self.right >= 0, self.right - time, np.inf)
        return np.asarray(np.minimum(to_left, to_right), np.float64)

    @property
    def share(self) -> FloatArray:
        """(P, L) weight of the right end, linear in time; 0 or 1 where there is one end only."""
        time = np.arange(self.left.shape[1])
        length = np.maximum(self.right - self.left, 1)
        inner = (time - self.left) / length
        one = np.where(self.left >= 0, 0.0, 1.0)
        both = (self.left >= 0) & (self.right >= 0)
        return np.where(both, inner, one).astype(np.float32)


def ends_of(video: Sparse) -> Ends:
    """Labelled frames around every frame; people count only at the nearest labelled frames."""
    frames = len(video.images)
    time = np.arange(frames)
    before = np.maximum.accumulate(np.where(video.labelled, time, -1))
    after = np.minimum.accumulate(np.where(video.labelled, time, frames)[::-1])[::-1]
    present = video.present
    left = np.where((before >= 0) & present[:, before], before, -1)
    there = np.minimum(after, frames - 1)
    right = np.where((after < frames) & present[:, there], after, -1)
    return Ends(left.astype(np.int64), right.astype(np.int64))


def stretches(video: Sparse) -> list[tuple[int, int]]:
    """First and last frame of every stretch, its labelled ends included."""
    marks = np.flatnonzero(video.labelled).tolist()
    bounds = [0, *marks, len(video.images) - 1]
    return [(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def at_ends(values: np.ndarray, ends: Ends) -> tuple[np.ndarray, np.ndarray]:
    """Values (P, L, ...) at the left and at the right end of every frame, NaN without one."""
    people = np.arange(len(values))[:, None]
    extra = (1,) * (values.ndim - 2)
    found = []
    for end in (ends.left, ends.right):
        taken = values[people, np.maximum(end, 0)]
        found.append(np.where((end >= 0).reshape(*end.shape, *extra), taken, np.float32("nan")))
    return found[0], found[1]


def blend(left: np.ndarray, right: np.ndarray, share: FloatArray) -> np.ndarray:
    """``left`` and ``right`` (P, L, ...) weighted 1 - share and share (P, L); NaN is left out."""
    weight = share.reshape(*share.shape, *(1,) * (left.ndim - 2))
    both = (1 - weight) * left + weight * right
    either = np.where(np.isfinite(left), left, right)
    at_left, at_right = weight == 0, weight == 1
    both = np.where(at_left & np.isfinite(left), left, both)
    both = np.where(at_right & np.isfinite(right), right, both)
    return np.where(np.isfinite(both), both, either).astype(np.float32)


def boxes_between(video: Sparse, ends: Ends) -> FloatArray:
    """(P, L, 4) boxes: linear between the ends, their union where those barely overlap.

    NaN where the person has no end. Those that are known (``known_xyxy_px``) are what they are.
    """
    if video.known_xyxy_px is not None:
        return video.known_xyxy_px
    left, right = at_ends(video.box_xyxy_px, ends)
    linear = blend(left, right, ends.share)
    low, high = np.fmin(left, right)[..., :2], np.fmax(left, right)[..., 2:]
    union = np.concatenate([low, high], axis=2).astype(np.float32)
    return np.where((overlap(left, right) < SAME_PLACE_IOU)[..., None], union, linear)


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union (...) of boxes (..., 4); NaN where one is."""
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    inner = np.prod(np.maximum(size, 0), axis=-1)
    areas = np.prod(a[..., 2:] - a[..., :2], axis=-1) + np.prod(b[..., 2:] - b[..., :2], axis=-1)
    return inner / np.maximum(areas - inner, 1e-9)


def sides(boxes: FloatArray) -> FloatArray:
    """(P, L) longer side of boxes (P, L, 4) in pixels."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).max(axis=-1), np.float32)


def closeness(distance_px: np.ndarray, side_px: np.ndarray) -> FloatArray:
    """Score 0 ... 1 of a disagreement in pixels about a person whose box is this large."""
    share = distance_px / (SPREAD_SHARE * np.maximum(side_px, 1.0))
    return np.nan_to_num(np.exp(-0.5 * share**2)).astype(np.float32)


def copied(video: Sparse) -> Estimate:
    """Every frame has the labels of the nearer labelled frame, the earlier of two."""
    ends = ends_of(video)
    left, right = at_ends(video.xy_px, ends)
    nearer = (ends.share > 0.5)[..., None, None]
    first, second = np.where(nearer, right, left), np.where(nearer, left, right)
    xy = np.where(np.isfinite(first), first, second)
    moved = np.linalg.norm(left - right, axis=3)  # what copying can be wrong by
    return Estimate(xy, _one_sided(closeness(moved / 2, _side(video, ends)), moved, xy))


def interpolated(video: Sparse) -> Estimate:
    """Joints move straight and evenly from label to label; with one end they stand still."""
    ends = ends_of(video)
    left, right = at_ends(video.xy_px, ends)
    xy = blend(left, right, ends.share)
    moved = np.linalg.norm(left - right, axis=3)
    # a joint that went far may have gone on a curve: a quarter of the way is not rare
    return Estimate(xy, _one_sided(closeness(moved / 4, _side(video, ends)), moved, xy))


def _side(video: Sparse, ends: Ends) -> FloatArray:
    """(P, L, 1) longer side of the boxes."""
    return sides(boxes_between(video, ends))[..., None]


def _one_sided(score: FloatArray, moved: np.ndarray, xy: np.ndarray) -> FloatArray:
    """Scores (P, L, K): one half where only one end says something, 0 where nothing is known."""
    known = np.isfinite(xy).all(axis=3)
    both = np.isfinite(moved)
    return np.where(known, np.where(both, score, np.float32(0.5)), np.float32(0)).astype(
        np.float32
    )


def finish(video: Sparse, found: Estimate, reach: int, score_min: float) -> Estimate:
    """What is handed out: labels as given with score 1, the rest as found.

    A joint is left out (NaN, score 0) where its score is below ``score_min``, where it lies
    outside the image, where no end labels it, and more than ``reach`` frames from a labelled
    frame when there is one on one side only. Where boxes are known, a person without a label in
    reach is not left out: he has what the network says without any.
    """
    ends = ends_of(video)
    left, right = at_ends(video.visible.astype(np.float32), ends)
    wanted = (np.nan_to_num(left) > 0) | (np.nan_to_num(right) > 0)
    near = ((ends.left >= 0) & (ends.right >= 0)) | (ends.near <= reach)
    wanted &= near[..., None]
    if video.known_xyxy_px is not None:
        there = np.asarray(np.isfinite(video.known_xyxy_px).all(axis=2))
        wanted = (wanted | ~near[..., None]) & there[..., None]
    high = np.array(video.size_px, np.float32) - np.float32(0.5)
    with np.errstate(invalid="ignore"):
        inside = ((found.xy_px >= -0.5) & (found.xy_px <= high)).all(axis=3)
    good = wanted & inside & (found.score >= max(score_min, 1e-6))
    xy = np.where(good[..., None], found.xy_px, np.float32("nan"))
    score = np.where(good, found.score, np.float32(0))
    given = video.labelled[None, :, None]
    known = video.visible > 0
    xy = np.where(given[..., None], video.xy_px, xy).astype(np.float32)
    return Estimate(xy, np.where(given, known, score).astype(np.float32))


def finished_boxes(video: Sparse, found: Estimate, margin: float = 0.1) -> FloatArray:
    """(P, L, 4) boxes of the answer: as labelled, else around interpolated box and joints.

    Clipped to the image; NaN where nothing of a person is known.
    """
    boxes = boxes_between(video, ends_of(video))
    low = np.where(np.isfinite(found.xy_px), found.xy_px, np.inf).min(axis=2)
    high = np.where(np.isfinite(found.xy_px), found.xy_px, -np.inf).max(axis=2)
    grow = margin * np.maximum(high - low, 0)
    joints = np.concatenate([low - grow, high + grow], axis=2)
    seen = np.isfinite(joints).all(axis=2)
    # an interpolated box lags behind the joints: half way between both contains most
    mixed = np.concatenate(
        [np.minimum(boxes[..., :2], joints[..., :2]), np.maximum(boxes[..., 2:], joints[..., 2:])],
        axis=2,
    )
    out = np.where(seen[..., None], mixed, np.float32("nan"))
    out = np.where(video.labelled[None, :, None], video.box_xyxy_px, out).astype(np.float32)
    out = clip_box(out, video.size_px)
    flat = out.reshape(-1, 4)
    empty = np.array([not has_area(box) for box in flat], np.bool_).reshape(out.shape[:2])
    return np.where(empty[..., None], np.float32("nan"), out).astype(np.float32)
