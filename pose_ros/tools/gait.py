"""How a person walks: knee and hip flexion along time, heel strikes and gait cycles."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d
from scipy.signal import find_peaks

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import IntArray, JointAngles, KeypointStatus, PoseResult

Floats = npt.NDArray[np.float64]

JOINTS = ("knee", "hip")
SIDES = ("left", "right")
#: Angle and sign of flexion, left and right.
_COLUMNS: dict[str, dict[str, tuple[tuple[str, int], ...]]] = {
    "rep155": {
        "knee": (("l_knee", -1), ("r_knee", -1)), "hip": (("l_r_hip", 1), ("r_r_hip", 1)),
    },
    "isb": {
        "knee": (("left_knee_flexion", 1), ("right_knee_flexion", 1)),
        "hip": (("left_hip_flexion", 1), ("right_hip_flexion", 1)),
    },
}  # fmt: skip
RATE_HZ = 50.0  # of the evenly sampled series that heel strikes are found in
DIRECTION_S = 1.0  # the way of walking is that of the hips over this time
WALKING_M_S = 0.3
STRIDE_M = 0.10  # an ankle that swings less about the hips does not step
CYCLE_S = (0.6, 2.0)
GAP_S = 0.25  # nothing is told across a longer gap
KNOWN = 0.9  # share of a cycle that must be known
BETWEEN = (0.25, 0.75)  # of a cycle: where the other foot strikes when somebody walks


@dataclass(frozen=True)
class Moment:
    """The people of one answered frame, in metres."""

    stamp_ns: int
    ids: IntArray  # (P,)
    xyz_m: npt.NDArray[np.floating[Any]]  # (P, J, 3) optical frame, NaN unknown
    angles: JointAngles  # of the same people


@dataclass(frozen=True)
class Walk:
    """One person along time: N moments; the last axis is left, right. NaN is unknown."""

    id: int
    t_s: Floats  # (N,) since the first moment of the recording
    flexion_deg: dict[str, Floats]  # "knee", "hip": (N, 2)
    std_deg: dict[str, Floats]  # (N, 2)
    seen: dict[str, npt.NDArray[np.bool_]]  # (N, 2) False: rests on a joint that was filled in
    ahead_m: Floats  # (N, 2) ankle before the hips along the way; NaN while nobody walks

    def heel_strikes(self, side: int) -> Floats:
        """Times (S,) at which the ankle is furthest ahead of the hips.

        Source: Zeni, Richards, Higginson 2008, "Two simple methods for determining gait events".
        """
        t_s, ahead = _even(self.t_s, self.ahead_m[:, side])
        ahead = uniform_filter1d(np.nan_to_num(ahead), 5) if len(ahead) else ahead
        shortest = max(1, round(CYCLE_S[0] * RATE_HZ))
        peaks, _ = find_peaks(ahead, distance=shortest, prominence=STRIDE_M)
        return t_s[peaks]

    def cycles(self, joint: str, side: int) -> Floats:
        """Flexion (C, 101) over each whole gait cycle, 0 to 100 %, heel strike to heel strike.

        The other foot must strike in between: what only sways is no walk.
        """
        t_s, value = _even(self.t_s, self.flexion_deg[joint][:, side])
        strikes, others = self.heel_strikes(side), self.heel_strikes(1 - side)
        found = []
        for begin, end in itertools.pairwise(strikes):
            inside = (t_s >= begin) & (t_s <= end)
            good = inside & np.isfinite(value)
            place = (others - begin) / (end - begin)
            whole = CYCLE_S[0] <= end - begin <= CYCLE_S[1]
            steps = bool(((place >= BETWEEN[0]) & (place <= BETWEEN[1])).any())
            if whole and steps and good.sum() >= KNOWN * inside.sum():
                found.append(np.interp(np.linspace(begin, end, 101), t_s[good], value[good]))
        return np.array(found, np.float64).reshape(-1, 101)

    def range_deg(self, joint: str) -> list[float] | None:
        """2nd and 98th percentile of the flexion of both sides; None when never known."""
        known = self.flexion_deg[joint][np.isfinite(self.flexion_deg[joint])]
        return np.percentile(known, (2, 98)).round(1).tolist() if len(known) else None


def moments(results: Sequence[PoseResult]) -> list[Moment]:
    """What pipeline results know in metres."""
    return [
        Moment(r.stamp_ns, r.tracks.ids, r.body.poses.xyz_m, r.body.angles)
        for r in results
        if r.body is not None and r.body.angles is not None
    ]


def walker(told: Sequence[Moment], skeleton: Skeleton) -> Walk | None:
    """The person with the most gait cycles, of equals the one whose knees are known longest.

    None when no knee is known.
    """
    known: Counter[int] = Counter()
    for moment in told:
        angles = moment.angles
        if len(angles.ids):
            columns = [angles.names.index(n) for n, _ in _COLUMNS[angles.convention]["knee"]]
            known.update(angles.ids[np.isfinite(angles.angle_rad[:, columns]).any(1)].tolist())
    walks = [walk_of(told, skeleton, number) for number, _ in known.most_common()]
    counted = [sum(len(walk.cycles("knee", side)) for side in range(2)) for walk in walks]
    return walks[int(np.argmax(counted))] if walks else None


def summary(walk: Walk) -> dict[str, Any]:
    """The walk in numbers, for people and JSON."""
    cycles = {side: len(walk.cycles("knee", i)) for i, side in enumerate(SIDES)}
    ranges = {f"{joint}_range_deg": walk.range_deg(joint) for joint in JOINTS}
    return {"id": walk.id, **ranges, "gait_cycles": cycles}


def walk_of(told: Sequence[Moment], skeleton: Skeleton, number: int) -> Walk:
    """The person ``number`` along time."""
    rows = [(m, np.flatnonzero(m.angles.ids == number)) for m in told]
    own = [(m, int(row[0])) for m, row in rows if len(row)]
    t_s = np.array([(m.stamp_ns - told[0].stamp_ns) * 1e-9 for m, _ in own])
    flexion, std, seen = {}, {}, {}
    for joint in JOINTS:
        columns = [_columns(m.angles, joint) for m, _ in own]
        pairs = list(zip(own, columns, strict=True))
        flexion[joint] = np.degrees([m.angles.angle_rad[r, c] * s for (m, r), (c, s) in pairs])
        std[joint] = np.degrees([m.angles.std_rad[r, c] for (m, r), (c, _) in pairs])
        status = np.array([m.angles.status[r, c] for (m, r), (c, _) in pairs])
        seen[joint] = status == KeypointStatus.MEASURED
    xyz_m = np.array([m.xyz_m[m.ids == number][0] for m, _ in own], np.float64)
    return Walk(number, t_s, flexion, std, seen, _ahead(t_s, xyz_m, skeleton))


def _columns(angles: JointAngles, joint: str) -> tuple[list[int], Floats]:
    pairs = _COLUMNS[angles.convention][joint]
    return [angles.names.index(name) for name, _ in pairs], np.array([sign for _, sign in pairs])


def _ahead(t_s: Floats, xyz_m: Floats, skeleton: Skeleton) -> Floats:
    """(N, 2) how far each ankle is ahead of the hips along the ground, in metres.

    The ground is taken as level in the image: x and z of the optical frame.
    """
    ground = xyz_m[:, :, [0, 2]]
    hips = ground[:, [skeleton.index(f"{side}_hip") for side in SIDES]].mean(axis=1)
    ankles = ground[:, [skeleton.index(f"{side}_ankle") for side in SIDES]]
    there = np.isfinite(hips).all(axis=1)
    if there.sum() < 2:
        return np.full((len(t_s), 2), np.nan)
    around = np.stack([t_s - DIRECTION_S / 2, t_s + DIRECTION_S / 2]).clip(t_s[0], t_s[-1])
    places = [np.interp(around, t_s[there], hips[there, axis]) for axis in range(2)]
    way = np.stack([place[1] - place[0] for place in places], axis=1)  # (N, 2)
    length = np.linalg.norm(way, axis=1)
    walks = length > WALKING_M_S * np.maximum(around[1] - around[0], 1e-3)
    unit = np.where(walks, 1.0 / np.maximum(length, 1e-6), np.nan)[:, None] * way
    return np.asarray(np.einsum("nsi,ni->ns", ankles - hips[:, None], unit))


def _even(t_s: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Resample at ``RATE_HZ``; NaN in gaps longer than ``GAP_S``."""
    good = np.isfinite(value)
    if good.sum() < 2:
        return np.zeros(0), np.zeros(0)
    t_s, value = t_s[good], value[good]
    even = np.arange(t_s[0], t_s[-1], 1.0 / RATE_HZ)
    after = np.searchsorted(t_s, even, side="right").clip(1, len(t_s) - 1)
    gap = t_s[after] - t_s[after - 1] > GAP_S
    return even, np.where(gap, np.nan, np.interp(even, t_s, value))
