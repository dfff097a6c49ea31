"""PoseTrack's mean average precision and MOTA, as poseval computes them.

Source: poseval (github.com/leonid-pishchulin/poseval), commit 4258a15, with motmetrics 1.4; read
for its behaviour and run as an oracle in `test/training/test_metrics_posetrack.py`. Differences:
a person whose head rectangle is missing or has no size is left out (poseval divides by zero), and
a sequence of one frame has no MOTA (poseval stops).

Joints are in POSETRACK15 order. P predicted and G labelled people of a frame.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import POSETRACK15
from pose_ros.core.values import check
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training.metrics.arrays import any_joint, known_joints, mean_known
from pose_ros.training.metrics.mot import MotCounter, MotTotals

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

JOINTS = len(POSETRACK15)
#: Share of the head size within which a joint is right.
PCKH_REACH = 0.5
#: Score of a predicted joint without one.
NO_SCORE = -9999.0
#: Track ids have to be smaller; poseval adds this per sequence to tell sequences apart.
TRACK_ID_MAX = 10000
#: The printed columns, and the joints of each.
GROUPS = {
    "Head": ("head_top", "neck", "nose"),
    "Sho": ("right_shoulder", "left_shoulder"),
    "Elb": ("right_elbow", "left_elbow"),
    "Wri": ("right_wrist", "left_wrist"),
    "Hip": ("right_hip", "left_hip"),
    "Knee": ("right_knee", "left_knee"),
    "Ank": ("right_ankle", "left_ankle"),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TruthFrame:
    """The labelled people of a frame.

    ``labelled`` is False when the file has no person rectangle for the frame: such a frame does
    not count. A person may be there without any joint.
    """

    xy_px: Float  # (G, 15, 2), NaN where nobody labelled
    head_px: Float  # (G,) 0.6 x the diagonal of the head rectangle
    track: npt.NDArray[np.int64]  # (G,)
    ignore: tuple[Float, ...] = ()  # polygons (N, 2)
    labelled: bool = True

    def __post_init__(self) -> None:
        """Check shapes."""
        check("TruthFrame.xy_px", self.xy_px, (None, JOINTS, 2), np.float64)
        check("TruthFrame.head_px", self.head_px, (len(self.xy_px),), np.float64)
        check("TruthFrame.track", self.track, (len(self.xy_px),), np.int64)


@dataclass(frozen=True)
class PredictedFrame:
    """The predicted people of a frame; ``track`` is None for estimation without tracking."""

    xy_px: Float  # (P, 15, 2), NaN where nothing is claimed
    score: Float  # (P, 15)
    track: npt.NDArray[np.int64] | None = None  # (P,)

    def __post_init__(self) -> None:
        """Check shapes, and that ids are told apart.

        Raises:
            ConfigError: an id twice in the frame, or one of TRACK_ID_MAX or more.

        """
        check("PredictedFrame.xy_px", self.xy_px, (None, JOINTS, 2), np.float64)
        check("PredictedFrame.score", self.score, self.xy_px.shape[:2], np.float64)
        if self.track is not None:
            check("PredictedFrame.track", self.track, (len(self.xy_px),), np.int64)
            if len(np.unique(self.track)) != len(self.track):
                raise ConfigError(
                    "predictions: expected every track id once per frame, got "
                    f"{self.track.tolist()}"
                )
            if (self.track >= TRACK_ID_MAX).any():
                raise ConfigError(
                    f"predictions: expected track ids below {TRACK_ID_MAX}, got {self.track.max()}"
                )

    @staticmethod
    def empty() -> PredictedFrame:
        """Nobody."""
        return PredictedFrame(
            np.zeros((0, JOINTS, 2)), np.zeros((0, JOINTS)), np.zeros(0, np.int64)
        )


@dataclass(frozen=True)
class Video:
    """One video: what is there and what was predicted, frame by frame."""

    name: str
    truth: Sequence[TruthFrame]
    predicted: Sequence[PredictedFrame]

    def __post_init__(self) -> None:
        """Refuse predictions of another length.

        Raises:
            ShapeError: the numbers of frames differ.

        """
        if len(self.truth) != len(self.predicted):
            raise ShapeError(
                f"sequence {self.name}: expected predictions for {len(self.truth)} frames, got "
                f"{len(self.predicted)}; a frame without people needs an empty entry, and a file "
                "of another video cannot be used"
            )


@dataclass(frozen=True)
class Assignment:
    """How the people of a frame were matched."""

    distance: Float  # (P, G, 15) in head sizes, inf where a joint is on one side only
    match: Bool  # (P, G, 15) distance within PCKH_REACH
    right: Bool  # (P, 15) the predicted joint counts as a true positive


def head_size_px(xyxy_px: Float) -> Float:
    """(...,) 0.6 x the diagonal of head rectangles (..., 4)."""
    return 0.6 * np.hypot(xyxy_px[..., 2] - xyxy_px[..., 0], xyxy_px[..., 3] - xyxy_px[..., 1])


def average_precision(sequences: Sequence[Video]) -> dict[str, float]:
    """Mean AP in percent: a value per joint, per GROUPS, ``total`` (15 joints) and ``m7``.

    ``total`` is poseval's and PSTPose's mean; ``m7`` is the mean of the seven printed groups,
    which STDPose and DSA print. ``precision`` and ``recall`` are those of all predictions.
    """
    scores: list[list[Float]] = [[] for _ in range(JOINTS)]
    labels: list[list[Bool]] = [[] for _ in range(JOINTS)]
    count = np.zeros(JOINTS)
    for sequence in sequences:
        for truth, predicted in counted_frames(sequence):
            count += known_joints(truth.xy_px).sum(axis=0)
            right = assign(truth, predicted).right
            there = known_joints(predicted.xy_px)
            for joint in range(JOINTS):
                scores[joint].append(predicted.score[there[:, joint], joint])
                labels[joint].append(right[there[:, joint], joint])
    table = np.zeros((3, JOINTS))
    for joint in range(JOINTS):
        score = np.concatenate(scores[joint] or [np.zeros(0)])
        label = np.concatenate(labels[joint] or [np.zeros(0, bool)])
        table[:, joint] = 100.0 * np.array(precision_recall_area(score, label, count[joint]))
    return {
        **summary(table[0]),
        "precision": mean_known(table[1]),
        "recall": mean_known(table[2]),
    }


def summary(per_joint: Float) -> dict[str, float]:
    """Values per joint (15,) by name, by group, and both means; a group with a NaN is NaN."""
    by_name = dict(zip(POSETRACK15.joints, (float(v) for v in per_joint), strict=True))
    groups = {
        group: float(np.mean([by_name[joint] for joint in joints]))
        for group, joints in GROUPS.items()
    }
    return {
        **by_name,
        **groups,
        "total": mean_known(per_joint),
        "m7": mean_known(np.array(list(groups.values()))),
    }


def precision_recall_area(
    score: Float, right: Bool, positives: float
) -> tuple[float, float, float]:
    """Area under the precision-recall curve, last precision and last recall, all in [0, 1].

    The area is PASCAL VOC's over every step of recall under the monotone envelope. Without any
    prediction all three are 0; with predictions but no positives area and recall are NaN.
    """
    if len(score) == 0:
        return 0.0, 0.0, 0.0
    order = score.argsort()[::-1]  # exactly so: ties are broken as poseval breaks them
    hits = np.cumsum(right[order])
    precision = hits / np.arange(1, len(score) + 1)
    if positives == 0:
        return float("nan"), float(precision[-1]), float("nan")
    recall = hits / positives
    steps = np.concatenate([[0.0], recall, [1.0]])
    envelope = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    rises = np.flatnonzero(steps[1:] != steps[:-1]) + 1
    area = np.sum((steps[rises] - steps[rises - 1]) * envelope[rises])
    return float(area), float(precision[-1]), float(recall[-1])


def counted_frames(sequence: Video) -> list[tuple[TruthFrame, PredictedFrame]]:
    """Frames that count: the labelled ones, without points and people in ignore regions."""
    out = []
    headless = 0
    for truth, predicted in zip(sequence.truth, sequence.predicted, strict=True):
        if not truth.labelled:
            continue
        sized = truth.head_px > 0.0
        headless += int((~sized).sum())
        truth = _people(truth, sized)
        out.append(_without_ignored(truth, predicted) if truth.ignore else (truth, predicted))
    if headless:
        _log.warning(
            "%s: %d labels have no head rectangle and do not count", sequence.name, headless
        )
    return out


def _people(truth: TruthFrame, which: Bool) -> TruthFrame:
    return replace(
        truth, xy_px=truth.xy_px[which], head_px=truth.head_px[which], track=truth.track[which]
    )


def _without_ignored(
    truth: TruthFrame, predicted: PredictedFrame
) -> tuple[TruthFrame, PredictedFrame]:
    """Drop the points inside ignore regions, and whoever has no points then."""

    def kept(xy: Float) -> Float:
        inside = np.zeros(xy.shape[:2], bool)
        for polygon in truth.ignore:
            inside |= inside_polygon(xy, polygon)
        return np.asarray(np.where(inside[..., None], np.nan, xy))

    truth = replace(truth, xy_px=kept(truth.xy_px))
    xy = kept(predicted.xy_px)
    some = any_joint(xy)
    track = None if predicted.track is None else predicted.track[some]
    return (
        _people(truth, any_joint(truth.xy_px)),
        PredictedFrame(xy[some], predicted.score[some], track),
    )


def inside_polygon(xy: Float, polygon: Float) -> Bool:
    """Whether points (..., 2) lie strictly inside a polygon (N, 2), by even-odd crossings.

    A point on the border is outside, as for shapely's ``contains``; NaN is outside; fewer than
    three corners enclose nothing.
    """
    inside = np.zeros(xy.shape[:-1], bool)
    if len(polygon) < 3:
        return inside
    border = np.zeros_like(inside)
    x, y = xy[..., 0], xy[..., 1]
    for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        cross = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        within = (x - ax) * (x - bx) + (y - ay) * (y - by) <= 0
        border |= (cross == 0) & within
        spans = (ay > y) != (by > y)
        inside ^= spans & ((cross > 0) == (by > ay))
    return inside & ~border & np.asarray(np.isfinite(xy).all(axis=-1))


def assign(truth: TruthFrame, predicted: PredictedFrame) -> Assignment:
    """Match predicted to labelled people by the share of joints that are right.

    Every prediction keeps its best label only, then every label its best prediction; the first of
    equals wins. A predicted joint that its label does not have counts as wrong.
    """
    difference = predicted.xy_px[:, None] - truth.xy_px[None]
    distance = np.sqrt((difference**2).sum(axis=3)) / truth.head_px[None, :, None]
    distance = np.where(np.isnan(distance), np.inf, distance)
    match = distance <= PCKH_REACH
    people, labels = distance.shape[:2]
    right = np.zeros((people, JOINTS), bool)
    if people and labels:
        known = known_joints(truth.xy_px).sum(axis=1)
        share = match.sum(axis=2) / np.maximum(known, 1)
        best = share.argmax(axis=1)
        share[np.arange(labels)[None] != best[:, None]] = 0.0
        winner = share.argmax(axis=0)
        taken = np.flatnonzero(share.max(axis=0) > 0)
        right[winner[taken]] = match[winner[taken], taken]
    return Assignment(distance, match, right)


def tracking(sequences: Sequence[Video], poseval_compat: bool = True) -> dict[str, float]:
    """MOTA in percent per joint, per group and in total, and total MOTP, precision and recall.

    ``poseval_compat`` keeps three oddities of poseval: the last frame of every sequence does not
    count; a frame in which either side has nobody counts one miss and one false positive for
    every joint, whatever is there; MOTP sums the distances of all candidate pairs on top of the
    matched ones. False counts frames, people and distances as CLEAR-MOT defines them.

    Raises:
        ConfigError: the predictions have no track ids.

    """
    totals = [MotTotals() for _ in range(JOINTS)]
    for sequence in sequences:
        counters = [MotCounter() for _ in range(JOINTS)]
        frames = counted_frames(sequence)
        for truth, predicted in frames[:-1] if poseval_compat else frames:
            if predicted.track is None:
                raise ConfigError(f"sequence {sequence.name}: MOTA needs a track id per person")
            _count_frame(counters, truth, predicted, poseval_compat)
        totals = [total + counter.totals for total, counter in zip(totals, counters, strict=True)]
    table = np.array([total.measures(every_pair=poseval_compat) for total in totals])
    answer = {f"mota_{name}": value for name, value in summary(table[:, 0]).items()}
    last = {name: mean_known(table[:, i]) for i, name in enumerate(("mota", "motp", "pre", "rec"))}
    return {**answer, **last}


def _count_frame(
    counters: Sequence[MotCounter], truth: TruthFrame, predicted: PredictedFrame, compat: bool
) -> None:
    assert predicted.track is not None
    empty = len(truth.xy_px) == 0 or len(predicted.xy_px) == 0
    if compat and empty:
        nobody = np.zeros(1, np.int64)
        for counter in counters:
            counter.update(nobody, nobody, np.full((1, 1), np.nan))
        return
    found = assign(truth, predicted)
    allowed = np.where(found.match, found.distance, np.nan)
    known = known_joints(truth.xy_px)
    there = known_joints(predicted.xy_px)
    for joint, counter in enumerate(counters):
        rows, columns = np.flatnonzero(known[:, joint]), np.flatnonzero(there[:, joint])
        counter.update(
            truth.track[rows],
            predicted.track[columns],
            allowed[:, :, joint].T[np.ix_(rows, columns)],
        )
