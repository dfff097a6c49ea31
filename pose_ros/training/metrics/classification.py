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
    """Threshold of the highest F1: one of the confidences; to be chosen on validation data."""
    order = np.argsort(-confidence.ravel(), kind="stable")
    good = (right & visible).ravel()[order]
    tp = np.cumsum(good)
    claimed = np.arange(1, len(order) + 1)
    f1 = 2 * tp / np.maximum(claimed + visible.sum(), 1)
    sorted_scores = confidence.ravel()[order]
    last = np.append(sorted_scores[1:] != sorted_scores[:-1], True)
    return float(sorted_scores[np.argmax(np.where(last, f1, -1.0))]) if len(order) else 0.0


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
