"""COCO's keypoint AP and AR, natively, for any joint set.

Source: pycocotools 2.0's ``COCOeval`` with ``iouType="keypoints"``, read for its behaviour and run
as an oracle in `test/training/test_metrics_coco.py`. CrowdPose's evaluator is the same with the
area 0.53 x width x height of the box, and results by crowding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import check
from pose_ros.errors import ShapeError
from pose_ros.training.metrics.arrays import any_joint, known_joints

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

THRESHOLDS: Float = np.linspace(0.5, 0.95, 10)
RECALLS: Float = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 20
#: Squares of 32, 96 and 1e5 pixels: areas of medium and large people.
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
#: Crowd index up to which a picture is easy, and medium; the rest is hard.
CROWD_EASY, CROWD_MEDIUM = 0.1, 0.8
#: Share of the box that a CrowdPose person covers, which has no area.
CROWDPOSE_COVER = 0.53
#: Keypoints above this count for an instance's score.
KEYPOINT_MIN = 0.2
_EPS = float(np.spacing(1))


@dataclass(frozen=True)
class LabelledPeople:
    """Labels of one picture: G people with K joints."""

    xy_px: Float  # (G, K, 2), NaN unlabelled
    box_xywh_px: Float  # (G, 4) as in the file
    area_px2: Float  # (G,)
    ignore: Bool  # (G,) crowds: neither to be found nor wrong

    def __post_init__(self) -> None:
        """Check shapes."""
        people = len(self.xy_px)
        check("LabelledPeople.xy_px", self.xy_px, (None, None, 2), np.float64)
        check("LabelledPeople.box_xywh_px", self.box_xywh_px, (people, 4), np.float64)
        check("LabelledPeople.area_px2", self.area_px2, (people,), np.float64)
        check("LabelledPeople.ignore", self.ignore, (people,), np.bool_)


@dataclass(frozen=True)
class PredictedPeople:
    """Predictions of one picture: P people with K joints, all with positions."""

    xy_px: Float  # (P, K, 2); a joint that was not found is anywhere, COCO writes 0, 0
    score: Float  # (P,)

    def __post_init__(self) -> None:
        """Check shapes."""
        check("PredictedPeople.xy_px", self.xy_px, (None, None, 2), np.float64)
        check("PredictedPeople.score", self.score, (len(self.xy_px),), np.float64)


def oks(labels: LabelledPeople, xy_px: Float, sigma: Sequence[float]) -> Float:
    """(P, G) object keypoint similarity of predictions (P, K, 2), in [0, 1].

    A label without joints compares every joint with a rectangle three times its box.
    """
    if len(sigma) != labels.xy_px.shape[1] or xy_px.shape[1] != len(sigma):
        raise ShapeError(
            f"OKS: expected {len(sigma)} joints, labels have {labels.xy_px.shape[1]} and "
            f"predictions {xy_px.shape[1]}"
        )
    known = known_joints(labels.xy_px)
    offset = xy_px[:, None] - np.where(known[..., None], labels.xy_px, 0.0)[None]
    low = labels.box_xywh_px[:, :2] - labels.box_xywh_px[:, 2:]
    high = labels.box_xywh_px[:, :2] + 2.0 * labels.box_xywh_px[:, 2:]
    here = xy_px[:, None]
    outside = np.maximum(low[None, :, None] - here, 0) + np.maximum(here - high[None, :, None], 0)
    blank = ~any_joint(labels.xy_px)
    offset = np.where(blank[None, :, None, None], outside, offset)
    variance = (2.0 * np.asarray(sigma)) ** 2
    error = (offset**2).sum(axis=3) / variance / (labels.area_px2[None, :, None] + _EPS) / 2.0
    counted = known | blank[:, None]
    similarity = np.where(counted[None], np.exp(-error), 0.0).sum(axis=2)
    return np.asarray(similarity / np.maximum(counted.sum(axis=1), 1)[None])


def instance_score(box_score: Float, joint_score: Float) -> Float:
    """(P,) box score x mean score of the joints (P, K) above KEYPOINT_MIN; 0 without any."""
    strong = joint_score > KEYPOINT_MIN
    mean = np.where(strong, joint_score, 0.0).sum(axis=1) / np.maximum(strong.sum(axis=1), 1)
    return np.asarray(box_score * mean)


def oks_nms(
    xy_px: Float, score: Float, area_px2: Float, sigma: Sequence[float], threshold: float = 0.9
) -> npt.NDArray[np.int64]:
    """Indices of the poses (P, K, 2) to keep, best first: none repeats a better one."""
    people = LabelledPeople(
        xy_px, np.zeros((len(xy_px), 4)), area_px2, np.zeros(len(xy_px), np.bool_)
    )
    similarity = oks(people, xy_px, sigma) if len(xy_px) else np.zeros((0, 0))
    kept: list[int] = []
    for row in np.argsort(-score, kind="mergesort").tolist():
        if not kept or similarity[row, kept].max() <= threshold:
            kept.append(row)
    return np.array(kept, np.int64)


@dataclass(frozen=True)
class _Matches:
    """Of one picture and area range: D detections best first, over the T thresholds."""

    score: Float  # (D,)
    hit: Bool  # (T, D)
    ignored: Bool  # (T, D)
    positives: int


def _match(
    labels: LabelledPeople, predicted: PredictedPeople, sigma: Sequence[float], area: str
) -> _Matches:
    """Greedy assignment, best detection first, at every threshold."""
    low, high = AREAS[area]
    blank = ~any_joint(labels.xy_px)
    size = labels.area_px2
    skip = labels.ignore | blank | (size < low) | (size > high)
    rows = np.argsort(skip, kind="mergesort")
    best = np.argsort(-predicted.score, kind="mergesort")[:MAX_DETECTIONS]
    xy = predicted.xy_px[best]
    similarity = oks(labels, xy, sigma)[:, rows] if len(xy) and len(rows) else None
    hit = np.zeros((len(THRESHOLDS), len(best)), bool)
    ignored = np.zeros_like(hit)
    if similarity is not None:
        for t, threshold in enumerate(THRESHOLDS):
            _greedy(similarity, threshold, skip[rows], labels.ignore[rows], (hit[t], ignored[t]))
    spread = xy.max(axis=1) - xy.min(axis=1) if len(xy) else np.zeros((0, 2))
    extent = spread[:, 0] * spread[:, 1]
    ignored |= ~hit & ((extent < low) | (extent > high))[None]
    return _Matches(predicted.score[best], hit, ignored, int((~skip).sum()))


def _greedy(
    similarity: Float, threshold: float, skip: Bool, crowd: Bool, out: tuple[Bool, Bool]
) -> None:
    """Fill (hit, ignored), each (D,): labels that count come first, each is taken once."""
    hit, ignored = out
    taken = np.zeros(len(skip), bool)
    for d in range(len(similarity)):
        best, row = min(float(threshold), 1 - 1e-10), -1
        for g in range(len(skip)):
            if taken[g] and not crowd[g]:
                continue
            if row >= 0 and not skip[row] and skip[g]:
                break
            if similarity[d, g] >= best:
                best, row = float(similarity[d, g]), g
        if row >= 0:
            taken[row] = hit[d] = True
            ignored[d] = skip[row]


def _curve(pictures: Sequence[_Matches]) -> tuple[Float, Float]:
    """AP over recall (T,) and the highest recall (T,); NaN where there is nothing to find."""
    positives = sum(picture.positives for picture in pictures)
    if positives == 0:
        return np.full(len(THRESHOLDS), np.nan), np.full(len(THRESHOLDS), np.nan)
    score = np.concatenate([picture.score for picture in pictures])
    order = np.argsort(-score, kind="mergesort")
    hit = np.concatenate([picture.hit for picture in pictures], axis=1)[:, order]
    ignored = np.concatenate([picture.ignored for picture in pictures], axis=1)[:, order]
    right = np.cumsum(hit & ~ignored, axis=1).astype(float)
    wrong = np.cumsum(~hit & ~ignored, axis=1).astype(float)
    average, highest = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    for t in range(len(THRESHOLDS)):
        if len(score) == 0:
            continue
        recall = right[t] / positives
        precision = right[t] / (right[t] + wrong[t] + _EPS)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        where = np.searchsorted(recall, RECALLS, side="left")
        found = where < len(recall)
        average[t] = np.where(found, envelope[np.minimum(where, len(recall) - 1)], 0.0).mean()
        highest[t] = recall[-1]
    return average, highest


def keypoint_ap(
    labels: Sequence[LabelledPeople],
    predicted: Sequence[PredictedPeople],
    sigma: Sequence[float],
) -> dict[str, float]:
    """COCO's ten numbers in [0, 1] over pictures; NaN where there is nothing to find.

    ap, ap50, ap75, ap_m, ap_l, and the same of ar.

    Raises:
        ShapeError: the numbers of pictures or of joints differ.

    """
    if len(labels) != len(predicted):
        raise ShapeError(
            f"COCO AP: expected predictions for {len(labels)} pictures, got {len(predicted)}"
        )
    answer: dict[str, float] = {}
    for area, suffix in (("all", ""), ("medium", "_m"), ("large", "_l")):
        matches = [
            _match(label, people, sigma, area)
            for label, people in zip(labels, predicted, strict=True)
        ]
        average, highest = _curve(matches)
        answer[f"ap{suffix}"] = float(average.mean())
        answer[f"ar{suffix}"] = float(highest.mean())
        if area == "all":
            answer |= {"ap50": float(average[0]), "ap75": float(average[5])}
            answer |= {"ar50": float(highest[0]), "ar75": float(highest[5])}
    return answer


def crowd_levels(crowd_index: Float) -> dict[str, Bool]:
    """Which pictures are easy, medium and hard by CrowdPose's crowd index (N,)."""
    easy, hard = crowd_index <= CROWD_EASY, crowd_index > CROWD_MEDIUM
    return {"easy": easy, "medium": ~easy & ~hard, "hard": hard}


def crowdpose_ap(
    labels: Sequence[LabelledPeople],
    predicted: Sequence[PredictedPeople],
    sigma: Sequence[float],
    crowd_index: Float,
) -> dict[str, float]:
    """AP and AR over all pictures, and AP of the easy, medium and hard ones."""
    answer = keypoint_ap(labels, predicted, sigma)
    keep = ("ap", "ap50", "ap75", "ar", "ar50", "ar75")
    answer = {name: answer[name] for name in keep}
    for level, which in crowd_levels(crowd_index).items():
        rows = np.flatnonzero(which).tolist()
        few = keypoint_ap([labels[i] for i in rows], [predicted[i] for i in rows], sigma)
        answer[f"ap_{level}"] = few["ap"]
    return answer


def bootstrap(
    measure: Callable[[npt.NDArray[np.int64]], float], count: int, rounds: int = 200, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a measure of resampled pictures: ``measure(indices)``."""
    rng = np.random.default_rng(seed)
    values = [measure(rng.integers(0, count, count)) for _ in range(rounds)]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
