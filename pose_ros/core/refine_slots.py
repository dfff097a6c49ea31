"""Rows of preallocated arrays for people who come and go."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import IntArray
from pose_ros.errors import ShapeError

#: People who can be known at once.
CAPACITY = 64
NOBODY = -1


class Slots:
    """One row per id. When all rows are taken, whoever was absent longest loses theirs.

    ``stamp_ns`` (C,) is the time of each row's last appearance.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Have ``capacity`` empty rows."""
        self.ids = np.full(capacity, NOBODY, np.int64)
        self.stamp_ns = np.full(capacity, np.iinfo(np.int64).min, np.int64)

    def find(self, ids: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Rows (P,) of ``ids`` (P,) and whether they have one; rows of the others mean nothing."""
        same = ids[:, None] == self.ids
        return same.argmax(axis=1), same.any(axis=1)

    def take(self, ids: IntArray, stamp_ns: int) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Rows (P,) of ``ids`` (P,), and which of them are new and hold somebody else's data.

        Raises:
            ShapeError: an id comes twice, is negative, or there are more people than rows.

        """
        if len(ids) > len(self.ids):
            raise ShapeError(f"expected at most {len(self.ids)} people, got {len(ids)}")
        rows, known = self.find(ids)
        new = ~known
        if new.any():
            if len(np.unique(ids)) != len(ids) or (ids < 0).any():
                raise ShapeError(f"expected different ids from 0 on, got {ids.tolist()}")
            free = self.stamp_ns.copy()
            free[rows[known]] = np.iinfo(np.int64).max
            rows[new] = np.argsort(free, kind="stable")[: int(new.sum())]
            self.ids[rows] = ids
        elif len(ids) > 1 and (np.diff(np.sort(rows)) == 0).any():
            raise ShapeError(f"expected different ids, got {ids.tolist()}")
        self.stamp_ns[rows] = stamp_ns
        return rows, new

    def forget(self, ids: IntArray) -> None:
        """Empty the rows of ``ids``; unknown ones are passed over."""
        if not len(ids):  # as in almost every frame
            return
        rows, known = self.find(np.asarray(ids, np.int64))
        self.ids[rows[known]] = NOBODY
        self.stamp_ns[rows[known]] = np.iinfo(np.int64).min

    def reset(self) -> None:
        """Empty all rows."""
        self.ids.fill(NOBODY)
        self.stamp_ns.fill(np.iinfo(np.int64).min)
