"""Frames whose joints wait for later ones, and the refiner's answer in the axes of its own frame.

With ``filter.lag`` k the refiners answer a frame when the k-th after it has come. Meanwhile the
camera may turn, and all that is remembered turns along (`EgoMotion.carry`): a `Sight` notes how
far, so that its answer can be turned back.

Letters: A people of a frame who are not LOST, J joints, d axes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pose_ros.core.refine_memory import warp
from pose_ros.core.refine_stream import Refined
from pose_ros.core.values import FloatArray, IntArray, Poses2D, Poses3D, Tracks, TrackState

Floats = npt.NDArray[np.float64]
_STILL = np.eye(3)


@dataclass
class Sight:
    """What one frame alone showed, until it is answered."""

    stamp_ns: int
    tracks: Tracks
    poses: Poses2D | None = None  # of the network
    metric: Poses3D | None = None  # None: nothing could be lifted
    lasting_m2: FloatArray | None = None  # (A, J, 3, 3) what is no noise of that
    lengths_m: FloatArray | None = None  # (P, E)
    scale: npt.NDArray[np.int8] | None = None  # (P,) ScaleSource of each person's last metres
    newest_px: Floats = field(default_factory=lambda: _STILL)  # newest pixels from this frame's
    newest_axes: Floats = field(default_factory=lambda: _STILL)  # the same of the camera's axes

    @property
    def alive(self) -> IntArray:
        """(A,) rows of the tracks that are not LOST."""
        return np.flatnonzero(self.tracks.state != TrackState.LOST)


class Line:
    """The newest frame and the ``lag`` before it, oldest first."""

    def __init__(self, lag: int) -> None:
        """Nobody waits."""
        self.lag = lag
        self._sights: deque[Sight] = deque(maxlen=lag + 1)

    def reset(self) -> None:
        """Forget what waits."""
        self._sights.clear()

    def add(self, sight: Sight) -> None:
        """The newest frame; the oldest goes."""
        self._sights.append(sight)

    @property
    def newest(self) -> Sight | None:
        """Sight of the last frame."""
        return self._sights[-1] if self._sights else None

    @property
    def due(self) -> Sight | None:
        """The sight that the newest completes; None while there is none."""
        return self._sights[0] if len(self._sights) > self.lag else None

    @property
    def waiting(self) -> list[Sight]:
        """Those that are not due yet, oldest first."""
        return list(self._sights)[-self.lag :] if self.lag else []


class Turning:
    """What `EgoMotion.carry` moves of a line: how its sights lie to the newest image."""

    def __init__(self, line: Line, name: str) -> None:
        """Note turns of ``line`` under ``name`` of `Sight`."""
        self._line, self._name = line, name

    def transform(self, matrix: Floats, /) -> None:
        """The camera turned."""
        for sight in self._line.waiting:
            setattr(sight, self._name, matrix @ getattr(sight, self._name))


def told_of(now: Refined, ids: IntArray, sight: Sight) -> tuple[IntArray, Refined]:
    """What a refiner says of ``sight``: which (R,) of those alive, and of them alone the answer.

    ``ids`` (P,) are the people of ``now``. Left out is who has no row any more, or a newer one.
    The answer is in the pixels or axes of the sight's own frame.
    """
    wanted = sight.tracks.ids[sight.alive]
    if np.array_equal(wanted, ids) and (now.stamp_ns == sight.stamp_ns).all():
        which, told = np.arange(len(wanted)), now
    else:
        same = (wanted[:, None] == ids) & (now.stamp_ns == sight.stamp_ns)
        which, found = np.nonzero(same)
        told = Refined(*(np.asarray(column)[found] for column in vars(now).values()))
    matrix = sight.newest_px if now.points.shape[-1] == 2 else sight.newest_axes
    return which, told if matrix is _STILL else _turned_back(told, matrix)


def _turned_back(told: Refined, newest_from_own: Floats) -> Refined:
    """Points, velocities and covariances of the newest frame's axes in those of an older one."""
    back: Floats = np.linalg.inv(newest_from_own).astype(np.float64, copy=False)
    if told.points.shape[-1] == 3:
        points, slope = told.points @ back.T, back
    else:
        points, slope = warp(back, told.points.astype(np.float64))
    covariance = slope @ told.covariance @ np.swapaxes(slope, -1, -2)
    return replace(
        told, points=points.astype(np.float32),
        velocity=(slope @ told.velocity[..., None])[..., 0].astype(np.float32),
        covariance=covariance.astype(np.float32),
    )  # fmt: skip
