"""What is kept of the people in sight, to find where sensors sit on them.

Letters: P people, K joints, B bones, S sensors, N frames of a window, M moments. Kept are moments
of two kinds, in the camera's world. *Seen*: where a bone points, and how the sensors lie then.
*Bent*: how far a joint's path over half a second is from a straight line, and how far the
sensors' own paths and turns are; a joint that is seen alone tells that, its bone need not be.

Source: a path less its best line knows neither place nor velocity, so that the sensor's double
integral needs no start; ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import IntArray

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Moments kept per bone or joint, the times between them, and their greatest age.
MOMENTS, MOMENT_S, BENT_S, OLDEST_S = 120, 0.06, 0.1, 60.0
#: Frames of a path, the time between them, its length, and the least of both.
FRAMES, FRAME_S, PATH_S = 18, 0.03, 0.5
LEAST_FRAMES, LEAST_SHARE = 6, 0.7
#: Frames further apart leave a sensor's path unknown.
LONGEST_STEP_S = 0.15
#: Median of the squared third difference of white noise of variance 1 in three axes.
TREMBLE = 20.0 * 2.366
_NEVER = np.iinfo(np.int64).min // 4


@dataclass(frozen=True)
class Moments:
    """All that is kept of one person; NaN where there is nothing."""

    seen: Floats  # (M, B, 3) directions of bones
    world: Floats  # (M, B, S, 3, 3) of the sensors at those moments
    length_m: Floats  # (B,) of the bones
    bent: Floats  # (M, K, 3) of joints' paths, metres
    path: Floats  # (M, K, S, 3) the same of the sensors' paths, each in its own world
    turn: Floats  # (M, K, S, 3, 3) the same of the sensors' orientations
    noise_m: Floats  # (K,) of joints, per axis, as they tremble from frame to frame


class SensorFrames:
    """How the sensors lay at the last frames, and which way each has gone, in its own world."""

    def __init__(self, sensors: int) -> None:
        """Know nothing."""
        self._shape = (FRAMES, sensors)
        self.clear()

    def clear(self) -> None:
        """Forget all frames."""
        self.stamp_ns = np.full(FRAMES, _NEVER)
        self.world = np.full((*self._shape, 3, 3), np.nan)
        self.path = np.full((*self._shape, 3), np.nan)
        self._place, self._speed = np.zeros((2, self._shape[1], 3))
        self.newest = 0

    def due(self, stamp_ns: int) -> bool:
        """Whether the last frame is long enough ago."""
        return bool(stamp_ns - self.stamp_ns[self.newest] >= FRAME_S * 1e9)

    def push(self, stamp_ns: int, world: Floats, gain_m_s: Floats) -> None:
        """Append a frame: orientations (S, 3, 3), changes (S, 3) of velocity since the last.

        NaN where a sensor cannot tell; its path starts anew then.
        """
        step_s = min((stamp_ns - self.stamp_ns[self.newest]) * 1e-9, 1.0)
        known = np.isfinite(gain_m_s).all(axis=-1, keepdims=True) & (step_s < LONGEST_STEP_S)
        place = self._place + step_s * (self._speed + 0.5 * gain_m_s)
        self._speed = np.where(known, self._speed + gain_m_s, 0.0)
        self._place = np.where(known, place, 0.0)
        self.newest = (self.newest + 1) % FRAMES
        self.stamp_ns[self.newest], self.world[self.newest] = stamp_ns, world
        self.path[self.newest] = np.where(known, place, np.nan)


class Watched:
    """Moments of one person: of each bone and joint the last in which it was seen.

    What other limbs hide most of the time so has as many as the rest, only older ones.
    """

    def __init__(self, bones: IntArray, sensors: int, usual_m: Floats) -> None:
        """Know nothing of ``bones`` (B, 2), pairs of numbers of the K joints."""
        self._bones, self._usual_m = bones, usual_m
        count, joints = len(bones), int(bones.max()) + 1
        self.places = np.full((FRAMES, joints, 3), np.nan)  # slots as in `SensorFrames`
        self._seen_ns = np.full((MOMENTS, count), _NEVER)
        self._seen = np.full((MOMENTS, count, 3), np.nan)
        self._world = np.full((MOMENTS, count, sensors, 3, 3), np.nan)
        self._bent_ns = np.full((MOMENTS, joints), _NEVER)
        self._bent = np.full((MOMENTS, joints, 3), np.nan)
        self._path = np.full((MOMENTS, joints, sensors, 3), np.nan)
        self._turn = np.full((MOMENTS, joints, sensors, 3, 3), np.nan)
        self._tremble = np.full((MOMENTS, joints), np.nan)
        self._next = [np.zeros(count, np.int64), np.zeros(joints, np.int64)]

    def add(self, frames: SensorFrames, joints_m: Floats, directions: Floats) -> None:
        """Take in the newest of ``frames``: joints (K, 3) and directions (B, 3) of bones.

        Both in the camera's world, NaN where not surely seen.
        """
        slot = frames.newest
        stamp_ns = int(frames.stamp_ns[slot])
        self.places[slot] = joints_m[: self.places.shape[1]]
        since_ns = stamp_ns - self._seen_ns.max(axis=0)
        due = np.isfinite(directions).all(axis=1) & (since_ns >= MOMENT_S * 1e9)
        if due.any():
            at = self._slots(0, due)
            self._seen_ns[at], self._seen[at] = stamp_ns, directions[due]
            self._world[at] = frames.world[slot]
        self._add_bent(frames, stamp_ns)
        self._seen[stamp_ns - self._seen_ns > OLDEST_S * 1e9] = np.nan
        self._bent[stamp_ns - self._bent_ns > OLDEST_S * 1e9] = np.nan

    def _slots(self, kind: int, due: Mask) -> tuple[IntArray, IntArray]:
        """Where the next moments of what is ``due`` go."""
        which = np.flatnonzero(due)
        at = self._next[kind][which] % MOMENTS
        self._next[kind][which] += 1
        return at, which

    def _add_bent(self, frames: SensorFrames, stamp_ns: int) -> None:
        seen = np.isfinite(self.places).all(axis=-1)
        due = stamp_ns - self._bent_ns.max(axis=0) >= BENT_S * 1e9
        due &= seen[frames.newest]
        if not due.any():
            return
        weight, known = bend_weights((frames.stamp_ns - stamp_ns) * 1e-9, seen & due)
        if not known.any():
            return
        weight, at = weight[:, known], self._slots(1, known)
        recent = stamp_ns - frames.stamp_ns <= PATH_S * 1e9 * 1.001
        weight, rows = weight[recent], np.flatnonzero(recent)
        places = np.nan_to_num(self.places[rows][:, known])
        self._bent_ns[at] = stamp_ns
        last = self.places[(frames.newest - np.arange(4)) % FRAMES][:, known]
        third = last[0] - 3.0 * last[1] + 3.0 * last[2] - last[3]
        self._tremble[at] = (third**2).sum(axis=-1)
        self._bent[at] = np.einsum("nk,nki->ki", weight, places)
        self._path[at] = np.einsum("nk,nsi->ksi", weight, frames.path[rows])
        self._turn[at] = np.einsum("nk,nsij->ksij", weight, frames.world[rows])

    def moments(self) -> Moments:
        """Everything, for `fit_mounts`."""
        usual = [np.median(t[np.isfinite(t)]) if np.isfinite(t).any() else np.nan
                 for t in self._tremble.T]  # fmt: skip
        return Moments(
            self._seen, self._world, self._usual_m, self._bent, self._path, self._turn,
            np.sqrt(np.array(usual) / TREMBLE),
        )  # fmt: skip


def bend_weights(t_s: Floats, seen: Mask) -> tuple[Floats, Mask]:
    """Weights (N, K) of a joint's places in how far its path bends, and whether that is known.

    ``t_s`` (N,) are times before the newest frame, 0 or less; ``seen`` (N, K). The weights are
    what is left of t^2 next to the best line over the seen frames of the last `PATH_S`, of
    length 1, so that a place's noise is the result's.
    """
    near = seen & (t_s >= -1.001 * PATH_S)[:, None]
    x = np.where(near, t_s[:, None] / PATH_S, 0.0)
    count = near.sum(axis=0)
    known = (count >= LEAST_FRAMES) & (x.min(axis=0, initial=0.0) <= -LEAST_SHARE)
    least = np.maximum(count, 1)
    line = np.where(near, x - x.sum(axis=0) / least, 0.0)
    bow = np.where(near, line**2 - (line**2).sum(axis=0) / least, 0.0)
    size = np.maximum((line**2).sum(axis=0), 1e-9)
    bow -= line * ((bow * line).sum(axis=0) / size)
    length = np.sqrt((bow**2).sum(axis=0))
    known &= length > 1e-6
    return bow / np.where(known, length, 1.0), known
