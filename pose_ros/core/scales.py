"""What everybody's metres rest on: depth, or a guess from one image."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import IntArray, Poses3D, ScaleSource


class Scales:
    """What everybody's metres rest on, so that a person does not jump between two sources."""

    def __init__(self, patience_s: float) -> None:
        """Wait ``patience_s`` for depth before a person is guessed from one image again."""
        self._patience_ns = round(patience_s * 1e9)
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        self._known: dict[int, tuple[int, int]] = {}  # id -> (ScaleSource, stamp of the last)

    def of(self, ids: IntArray) -> npt.NDArray[np.int8]:
        """(P,) ScaleSource of the last metric sight of each person."""
        return np.array([self._known.get(i, (0, 0))[0] for i in ids.tolist()], np.int8)

    def choose(self, stamp_ns: int, depth: Poses3D, guess: Poses3D) -> Poses3D:
        """Depth where it says something; the guess for others, unless depth did just now."""
        rows = np.flatnonzero(depth.scale == ScaleSource.UNKNOWN)
        for row in rows.tolist():
            source, last_ns = self._known.get(int(depth.ids[row]), (0, 0))
            if source == ScaleSource.DEPTH and stamp_ns - last_ns <= self._patience_ns:
                continue
            for field in dataclasses.fields(Poses3D):
                getattr(depth, field.name)[row] = getattr(guess, field.name)[row]
        return depth

    def note(self, stamp_ns: int, metric: Poses3D) -> IntArray:
        """Remember the sources of a frame; returns the ids whose source changed."""
        changed = []
        for number, source in zip(metric.ids.tolist(), metric.scale.tolist(), strict=True):
            if source == ScaleSource.UNKNOWN:
                continue
            if self._known.get(number, (source, 0))[0] != source:
                changed.append(number)
            self._known[number] = (source, stamp_ns)
        here = set(metric.ids.tolist())
        self._known = {k: v for k, v in self._known.items() if k in here}
        return np.array(changed, np.int64)
