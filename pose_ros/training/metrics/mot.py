"""CLEAR-MOT counts of one kind of object in one video, frame by frame.

Source: Bernardin and Stiefelhagen, "Evaluating multiple object tracking performance: the CLEAR MOT
metrics", 2008; counts and distances as motmetrics 1.4 keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass
class MotTotals:
    """Counts, which add up over videos."""

    misses: int = 0
    switches: int = 0
    false_positives: int = 0
    objects: int = 0
    detections: int = 0  # matched objects, switched ones included
    distance: float = 0.0  # of the matched pairs
    candidates: float = 0.0  # distance of all allowed pairs, and of identity events once more

    def __add__(self, other: MotTotals) -> MotTotals:
        """Sum of both."""
        names = [field.name for field in fields(self)]
        return MotTotals(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def measures(self, every_pair: bool) -> tuple[float, float, float, float]:
        """MOTA, MOTP, precision and recall in percent; NaN where nothing was there to count.

        ``every_pair`` adds the distances of all candidate pairs to MOTP, as poseval does.
        """
        objects = self.objects or np.nan
        claimed = self.false_positives + self.detections or np.nan
        wrong = self.misses + self.switches + self.false_positives
        spent = self.distance + (self.candidates if every_pair else 0.0)
        motp = 100.0 * (1.0 - spent / self.detections) if self.detections else 0.0
        return (
            float(100.0 * (1.0 - wrong / objects)),
            motp,
            float(100.0 * self.detections / claimed),
            float(100.0 * self.detections / objects),
        )


class MotCounter:
    """Follows which hypothesis belongs to which object."""

    def __init__(self) -> None:
        """Start a video."""
        self.totals = MotTotals()
        self._hypothesis_of: dict[int, int] = {}
        self._object_of: dict[int, int] = {}  # by assignment, not by continuation
        self._seen: set[int] = set()  # hypotheses that were ever matched
        self._matched: set[int] = set()  # objects that were ever matched

    def update(self, objects: Int, hypotheses: Int, distance: Float) -> None:
        """Count one frame: ids (G,) and (P,), distances (G, P) with NaN for "never a pair".

        A pair of the past that is still allowed is kept; the rest is assigned at least distance.
        """
        left = distance.astype(np.float64).copy()
        self.totals.candidates += float(np.nansum(left))
        pairs = self._continue(objects, hypotheses, left)
        for row, column in pairs:
            self._count(float(distance[row, column]))
            left[row], left[:, column] = np.nan, np.nan
            self._matched.add(int(objects[row]))
        new = assign_allowed(left)
        for row, column in new:
            self._assign(int(objects[row]), int(hypotheses[column]), float(left[row, column]))
        found = len(pairs) + len(new)
        self.totals.objects += len(objects)
        self.totals.misses += len(objects) - found
        self.totals.false_positives += len(hypotheses) - found

    def _continue(self, objects: Int, hypotheses: Int, distance: Float) -> list[tuple[int, int]]:
        pairs: list[tuple[int, int]] = []
        taken: set[int] = set()
        for row, name in enumerate(objects.tolist()):
            same = np.flatnonzero(hypotheses == self._hypothesis_of.get(name, -1))
            free = [int(column) for column in same if int(column) not in taken]
            if free and np.isfinite(distance[row, free[0]]):
                pairs.append((row, free[0]))
                taken.add(free[0])
        return pairs

    def _assign(self, name: int, hypothesis: int, distance: float) -> None:
        """Count a new pair; its distance once more for every identity event it causes."""
        switched = self._hypothesis_of.get(name, hypothesis) != hypothesis
        moved = self._object_of.get(hypothesis, name) != name
        self.totals.switches += switched
        events = (switched and hypothesis not in self._seen) + moved
        events += moved and name not in self._matched
        self.totals.candidates += distance * events
        self._count(distance)
        self._hypothesis_of[name], self._object_of[hypothesis] = hypothesis, name
        self._seen.add(hypothesis)
        self._matched.add(name)

    def _count(self, distance: float) -> None:
        self.totals.detections += 1
        self.totals.distance += distance


def assign_allowed(distance: Float) -> list[tuple[int, int]]:
    """Pairs of least total distance among the finite entries (G, P), as many as possible."""
    finite = np.isfinite(distance)
    if not finite.any():
        return []
    dear = 2.0 * min(distance.shape) * (float(np.abs(distance[finite]).max()) + 1.0)
    rows, columns = linear_sum_assignment(np.where(finite, distance, dear))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if finite[r, c]]
