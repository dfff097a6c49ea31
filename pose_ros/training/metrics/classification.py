"""Accuracy, recall, F1 and AUC of joints, as HSTPN's tables name them.

The paper does not define them for poses. The definition here: a slot is a person's joint; it is
positive when labelled as visible, claimed when its confidence reaches tau, right when its error
is within the protocol's threshold. Numbers are for comparing our own models; the paper's numbers
rest on an unknown protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pose_ros.errors import ShapeError
from pose_ros.training.metrics.arrays import mean_known

Float = npt.NDArray[np.floating]
Bool = npt.NDArray[np.bool_]

#: OKS kernel value from which a joint is right, on COCO, CrowdPose and OCHuman.
KERNEL_MIN = 0.5
#: Intervals of a confidence in [0, 1] that `tau_of` chooses from.
BINS = 200
#: What is claimed from here on was found: a joint without any confidence never is.
TAU_MIN = 1.0 / BINS


@dataclass(frozen=True)
class Counts:
    """Slots by outcome; a claimed joint in the wrong place is one FP and one FN."""

    tp: int
    fp: int
    fn: int
    tn: int
    slots: int

    def measures(self) -> dict[str, float]:
        """Accuracy, precision, recall and F1 in [0, 1]; NaN where nothing can be counted."""
        precision = _ratio(self.tp, self.tp + self.fp)
        recall = _ratio(self.tp, self.tp + self.fn)
        return {
            "accuracy": _ratio(self.tp + self.tn, self.slots),
            "precision": precision,
            "recall": recall,
            "f1": _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn),
        }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def kernel(error_px: Float, area_px2: Float, sigma: Float) -> npt.NDArray[np.float64]:
    """(N, K) OKS kernel exp(-e) of errors (N, K) in pixels for people of area (N,)."""
    spread = 2.0 * np.square(2.0 * np.asarray(sigma))[None] * area_px2[:, None]
    return np.asarray(np.exp(-np.square(error_px) / spread))


def count(confidence: Float, visible: Bool, right: Bool, tau: float) -> Counts:
    """Outcomes of the slots (N, K) at threshold ``tau``.

    Raises:
        ShapeError: the arrays differ in shape.

    """
    if not confidence.shape == visible.shape == right.shape:
        raise ShapeError(
            "expected confidence, visible and right of one shape, got "
            f"{confidence.shape}, {visible.shape} and {right.shape}"
        )
    claimed, good = confidence >= tau, right & visible
    return Counts(
        tp=int((claimed & good).sum()),
        fp=int((claimed & ~good).sum()),
        fn=int((visible & ~(claimed & good)).sum()),
        tn=int((~visible & ~claimed).sum()),
        slots=int(visible.size),
    )


def roc_auc(confidence: Float, positive: Bool) -> float:
    """Chance that a positive slot has the higher confidence; equal ones count half.

    NaN when all or none are positive.
    """
    positive = positive.ravel()
    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return float("nan")
    ranks = rankdata(confidence.ravel())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def best_tau(confidence: Float, visible: Bool, right: Bool) -> float:
    """Threshold of the highest F1: one of the confidences above 0; for validation data.

    `TAU_MIN` when no confidence is above 0.
    """
    some = confidence.ravel() > 0
    scores, good = confidence.ravel()[some], (right & visible).ravel()[some]
    if not len(scores):
        return TAU_MIN
    order = np.argsort(-scores, kind="stable")
    tp = np.cumsum(good[order])
    f1 = 2 * tp / np.maximum(np.arange(1, len(order) + 1) + visible.sum(), 1)
    last = np.append(scores[order][1:] != scores[order][:-1], True)
    return float(scores[order][np.argmax(np.where(last, f1, -1.0))])


def histogram(confidence: Float, good: Bool) -> npt.NDArray[np.float64]:
    """(2, BINS) slots, and good ones, by confidence in [0, 1]; sums over batches and processes."""
    place = np.clip((confidence.ravel() * BINS).astype(np.int64), 0, BINS - 1)
    every = np.bincount(place, minlength=BINS)
    return np.stack([every, np.bincount(place, good.ravel(), BINS)]).astype(np.float64)


def tau_of(counts: Float, visible: float) -> float:
    """`best_tau` of a summed `histogram` of data with so many visible joints, to 1/BINS.

    The lowest interval, where joints that were not found are, is never claimed.
    """
    claimed, good = np.cumsum(counts[:, ::-1], axis=1)[:, :-1]
    f1 = 2 * good / np.maximum(claimed + visible, 1.0)
    return float((BINS - 1 - np.argmax(f1)) / BINS)


def pose_classification(
    confidence: Float, visible: Bool, right: Bool, tau: float, macro: bool = False
) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and AUC in percent of slots (N, K).

    Micro over joints, or the mean over the joint types that can be counted (``macro``).
    """
    if macro:
        columns = [
            pose_classification(confidence[:, [j]], visible[:, [j]], right[:, [j]], tau)
            for j in range(confidence.shape[1])
        ]
        names = columns[0] if columns else {}
        return {name: mean_known([column[name] for column in columns]) for name in names}
    answer = count(confidence, visible, right, tau).measures()
    answer["auc"] = roc_auc(confidence, right & visible)
    return {name: 100.0 * value for name, value in answer.items()}
