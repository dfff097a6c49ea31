"""Sensors that a person wears: which bone each is on, how it sits there, and what it tells.

The frames: a sensor's own axes, the sensor's world (z up, its heading unknown and drifting), the
camera's world (z up, any heading that the camera keeps) and the camera's optical axes. Of a
sensor only the bone's direction in its axes and the yaw between the worlds matter; both are
learned while bones are seen. One set of sensors belongs to one person, who is found too.

Source: the hand-eye fit is ours; the yaw follows the mean of cross and scalar products.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import RATIO_OF_STATURE, STATURE_M, part_of
from pose_ros.core.body_imu_fit import (
    assign,
    contradicted,
    fit_mounts,
    fit_yaw,
    turn_about_up,
)
from pose_ros.core.body_imu_place import Found, Place, Strap
from pose_ros.core.body_imu_watch import Moments, SensorFrames, Watched
from pose_ros.core.imu import Imu, ImuLimits
from pose_ros.core.refine_inertia import Inertia, worn_bones
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import FloatArray, IntArray
from pose_ros.errors import ConfigError

Floats = npt.NDArray[np.float64]

#: Spread of a told direction, rad: mounting, soft tissue, yaw.
SPREAD_RAD = math.radians(7.0)
#: Time constant of the yaw.
YAW_S = 5.0
#: A sensor slipped whose direction is off by more for so long.
SLIP_RAD, SLIP_S = math.radians(35.0), 0.5
#: A given axis that is off by more from a sure and clean fit is learned instead.
AXIS_RAD = math.radians(25.0)
#: Time constant in which that is averaged.
RESIDUAL_S = 0.2
#: How often sensors without a place are looked at.
SEARCH_S = 1.0
#: How often places that were all learned are looked at again, and how much surer they must be.
RECHECK_S, SURER = 5.0, 0.8
#: Least score of a joint that teaches.
SURE = 0.5


class BodyImus:
    """One person's worn sensors.

    Push samples into ``imus[name]``; per image call `tell` before the refiner and `learn` after
    the lifter, both with the camera's orientation.
    """

    def __init__(
        self, skeleton: Skeleton, straps: tuple[Strap, ...], limits: ImuLimits | None = None
    ) -> None:
        """Have the sensors of ``straps``.

        Raises:
            ConfigError: an unknown or doubly named bone or sensor, or ``rho`` outside 0 to 1.

        """
        self.names, self.bones = worn_bones(skeleton)
        self._joints, self._edges = len(skeleton), _edges_of(skeleton, self.bones)
        self._usual_m = np.array(
            [
                STATURE_M * RATIO_OF_STATURE[frozenset(part_of(skeleton.joints[j]) for j in pair)]
                for pair in self.bones.tolist()
            ]
        )
        self._check(straps)
        self.straps = straps
        self.imus = {strap.sensor: Imu(limits) for strap in straps}
        self._places = [Place(strap, self.imus[strap.sensor]) for strap in straps]
        self.counts = {"slipped": 0, "fitted": 0, "moved": 0, "doubted": 0}
        self.wearer: int | None = None
        for place in self._places:
            self._start(place)
        self.reset()

    def _check(self, straps: tuple[Strap, ...]) -> None:
        sensors = [strap.sensor for strap in straps]
        bones = [strap.bone for strap in straps if strap.bone]
        if len(set(sensors)) < len(sensors) or len(set(bones)) < len(bones):
            raise ConfigError(f"straps: every sensor and bone once, got {sensors} on {bones}")
        for strap in straps:
            if strap.bone and strap.bone not in self.names:
                raise ConfigError(
                    f"sensor '{strap.sensor}': bone '{strap.bone}' is not known; known: "
                    f"{', '.join(self.names)}"
                )
            if not 0.0 <= strap.rho <= 1.0:
                raise ConfigError(f"sensor '{strap.sensor}': rho is 0 to 1, got {strap.rho}")

    def _start(self, place: Place) -> None:
        """Know of a sensor what its strap says."""
        strap = place.strap
        place.bone = self.names.index(strap.bone) if strap.bone else None
        place.axis, place.lever_m, place.std_rad = None, None, 0.0
        if strap.axis is not None:
            axis = np.asarray(strap.axis, np.float64)
            place.axis = axis / np.linalg.norm(axis)
        place.yaw, place.residual_rad, place.slipping_s = None, 0.0, 0.0

    def reset(self) -> None:
        """Forget people and times; where the sensors sit stays known."""
        self.wearer = None
        self._watched: dict[int, Watched] = {}
        self._frames = SensorFrames(len(self.straps))
        self._contradicted: dict[int, set[int]] = {}  # sensors that sit elsewhere, by person
        self._likely: dict[tuple[int, int], int] = {}  # bone by person and sensor, last search
        self._last_ns: int | None = None
        self._learned_ns: int | None = None
        self._searched_ns: int | None = None

    def assigned(self) -> dict[str, str]:
        """Bone of every sensor whose place is known."""
        placed = ((p.strap.sensor, p.bone) for p in self._places if p.worn)
        return {sensor: self.names[bone] for sensor, bone in placed if bone is not None}

    def calibrate(self, stamp_ns: int, directions: dict[str, Floats]) -> None:
        """Take a known pose: unit directions (3,) of sensors' bones, in the camera's world.

        The sensors must have been started with their heading along the camera world's x axis;
        only then does one pose tell the mounting. Sensors of unknown bone are passed over.
        """
        for place in self._places:
            world = place.imu.world(stamp_ns)
            if world is None or place.bone is None or place.strap.sensor not in directions:
                continue
            place.axis = world.T @ np.asarray(directions[place.strap.sensor], np.float64)
            place.yaw, place.slipping_s = (0.0, YAW_S), 0.0

    def tell(
        self, stamp_ns: int, ids: IntArray, world_from_camera: Floats | None,
        lengths_m: FloatArray | None = None,
    ) -> Inertia | None:  # fmt: skip
        """What the sensors say of the people ``ids`` (P,) at an image's time.

        ``lengths_m`` (P, E) are bone lengths of the joint set's edges, NaN or None for usual ones.
        None when nothing is known: no wearer in sight, no sensor alive, no camera orientation.
        """
        last_ns, self._last_ns = self._last_ns, stamp_ns
        rows = np.flatnonzero(ids == self.wearer)
        if not len(rows) or world_from_camera is None:
            return None
        row, size = int(rows[0]), self._usual_m
        if lengths_m is not None:
            own = lengths_m[row, self._edges]
            size = np.where(np.isfinite(own), own, size)
        bone, spin = np.full((2, len(self.bones), 3), np.nan)
        gains: list[list[Floats]] = [[] for _ in range(self._joints)]
        for place in self._places:
            if (d := place.direction(stamp_ns)) is None or place.bone is None:
                continue
            length = float(size[place.bone])
            rate = place.spin(stamp_ns)
            bone[place.bone] = length * d
            spin[place.bone] = np.nan if rate is None else np.cross(rate, length * d)
            self._add_gains(place, (last_ns, stamp_ns), length, gains)
        if not np.isfinite(bone).any():
            return None
        return self._rows(len(ids), row, (bone, spin, gains), world_from_camera)

    def _add_gains(
        self, place: Place, span: tuple[int | None, int], length: float,
        gains: list[list[Floats]],
    ) -> None:  # fmt: skip
        """Changes of velocity of both joints of a sensor's bone, in the camera's world."""
        old_ns, new_ns = span
        if old_ns is None or old_ns >= new_ns or place.bone is None:
            return
        own = place.imu.gain_m_s(old_ns, new_ns)
        old, new = (place.swing(t, length) for t in (old_ns, new_ns))
        if own is None or old is None or new is None or not place.imu.healthy(old_ns):
            return
        joints = turn_about_up(own, place.yaw_rad) + new - old
        for joint, gain in zip(self.bones[place.bone].tolist(), joints, strict=True):
            gains[joint].append(gain)

    def _rows(
        self, people: int, row: int, told: tuple[Floats, Floats, list[list[Floats]]],
        world_from_camera: Floats,
    ) -> Inertia:  # fmt: skip
        """Everything in the camera's axes, for the wearer's row."""
        bone, spin, gains = told
        gain = np.full((people, self._joints, 3), np.nan)
        for joint, several in enumerate(gains):
            if several:
                gain[row, joint] = np.mean(several, axis=0) @ world_from_camera
        whole = np.full((2, people, len(self.bones), 3), np.nan)
        whole[0, row], whole[1, row] = bone @ world_from_camera, spin @ world_from_camera
        spread = np.full(whole.shape[1:3], SPREAD_RAD)
        return Inertia(gain, whole[0], whole[1], spread)

    def learn(
        self, stamp_ns: int, ids: IntArray, points_m: FloatArray, score: FloatArray,
        world_from_camera: Floats | None,
    ) -> None:  # fmt: skip
        """Take in measured joints (P, K, 3) of a frame, camera axes, NaN where not seen.

        Follows yaw, notices slips, finds the wearer and, while a sensor's place is unknown,
        looks for it.
        """
        last_ns, self._learned_ns = self._learned_ns, stamp_ns
        if world_from_camera is None:
            return
        dt_s = 0.0 if last_ns is None else (stamp_ns - last_ns) * 1e-9
        if not 0.0 <= dt_s < 1.0:
            self._watched.clear()
            self._frames.clear()
            dt_s = 0.0
        sure = np.where((score >= SURE)[..., None], points_m, np.nan)
        joints = sure.astype(np.float64) @ world_from_camera.T
        seen = self._directions(joints)
        self._watch(stamp_ns, ids, joints, seen)
        rows = np.flatnonzero(ids == self.wearer)
        if len(rows):
            for place in self._places:
                self._follow(place, stamp_ns, dt_s, seen[rows[0]])
        whole = len(rows) and all(place.worn for place in self._places)
        pause_ns = (RECHECK_S if whole else SEARCH_S) * 1e9
        if self._searched_ns is None or not 0 <= stamp_ns - self._searched_ns < pause_ns:
            self._searched_ns = stamp_ns
            self._search()

    def _directions(self, joints: Floats) -> Floats:
        """(P, B, 3) unit vectors of the bones between ``joints`` (P, K, 3); NaN elsewhere."""
        inner, outer = self.bones.T
        along = joints[:, outer] - joints[:, inner]
        length = np.linalg.norm(along, axis=-1)
        sure = length > 0.5 * self._usual_m  # NaN is not
        return np.asarray(along / np.where(sure, length, np.nan)[..., None])

    def _watch(self, stamp_ns: int, ids: IntArray, joints: Floats, seen: Floats) -> None:
        """Keep a moment of everybody."""
        here = set(ids.tolist())
        self._contradicted = {k: v for k, v in self._contradicted.items() if k in here}
        self._watched = {k: v for k, v in self._watched.items() if k in here}
        self._likely = {k: v for k, v in self._likely.items() if k[0] in here}
        if not self._frames.due(stamp_ns):
            return
        self._frames.push(stamp_ns, self._orientations(stamp_ns), self._gains(stamp_ns))
        for person, own, directions in zip(ids.tolist(), joints, seen, strict=True):
            if person not in self._watched:
                self._watched[person] = Watched(self.bones, len(self._places), self._usual_m)
            self._watched[person].add(self._frames, own, directions)

    def _gains(self, stamp_ns: int) -> Floats:
        """(S, 3) changes of velocity since the last frame that was kept; NaN where unknown."""
        out = np.full((len(self._places), 3), np.nan)
        last_ns = int(self._frames.stamp_ns[self._frames.newest])
        for n, place in enumerate(self._places):
            if (gain := place.imu.gain_m_s(last_ns, stamp_ns)) is not None:
                out[n] = gain
        return out

    def _orientations(self, stamp_ns: int) -> Floats:
        """(S, 3, 3) of the sensors, NaN for those that cannot tell."""
        out = np.full((len(self._places), 3, 3), np.nan)
        for n, place in enumerate(self._places):
            if place.imu.healthy(stamp_ns) and (world := place.imu.world(stamp_ns)) is not None:
                out[n] = world
        return out

    def _follow(self, place: Place, stamp_ns: int, dt_s: float, seen: Floats) -> None:
        """Follow a sensor's yaw, and drop it when it slipped."""
        said = place.direction(stamp_ns)
        if said is None or place.bone is None or not np.isfinite(seen[place.bone]).all():
            return
        u = seen[place.bone]
        angle = math.acos(float(np.clip(said @ u, -1.0, 1.0)))
        share = 1.0 - math.exp(-dt_s / RESIDUAL_S)
        place.residual_rad += share * (angle - place.residual_rad)
        place.slipping_s = place.slipping_s + dt_s if place.residual_rad > SLIP_RAD else 0.0
        if place.slipping_s > SLIP_S:
            self.counts["slipped"] += 1
            self._start(place)
            place.axis = None  # it sits differently now, whatever the strap says
            self._watched.clear()
            return
        raw = turn_about_up(said, -place.yaw_rad)
        keep = math.exp(-dt_s / YAW_S)
        sine, cosine = place.yaw or (0.0, 0.0)
        place.yaw = (
            keep * sine + dt_s * float(raw[0] * u[1] - raw[1] * u[0]),
            keep * cosine + dt_s * float(raw[:2] @ u[:2]),
        )

    def _search(self) -> None:
        """Find the wearer, and the places of sensors that have none."""
        best: tuple[int, float] | None = None
        plan: dict[int, Found] = {}
        for person, kept in self._watched.items():
            found = self._fit(person, kept.moments())
            value = len(found) - float(np.mean([f.residual_rad for f in found.values()] or 0.0))
            if found and (best is None or value > best[1]):
                best, plan = (person, value), found
        if best is not None:
            self.wearer = best[0]
        elsewhere = set() if self.wearer is None else self._contradicted.get(self.wearer, set())
        for n, place in enumerate(self._places):
            if n not in plan and place.worn and n in elsewhere:
                self.counts["doubted"] += 1
                self._start(place)
        for n, new in plan.items():
            place = self._places[n]
            if not place.worn:
                self.counts["fitted"] += 1
            elif new.bone != place.bone:
                self.counts["moved"] += 1
            elif new.std_rad == 0 or new.std_rad > SURER * (place.std_rad or np.inf):
                continue
            place.take(new, 0.3 * YAW_S)

    def _fit(self, person: int, told: Moments) -> dict[int, Found]:
        """Places by sensor for one person. Sensors whose place is given must agree."""
        found: dict[int, Found] = {}
        rho = np.array([place.strap.rho for place in self._places])
        mounts = fit_mounts(told, self.bones, rho)
        wrong, free = contradicted(mounts), np.zeros(mounts.sure.shape, bool)
        held = [p.bone if p.worn or p.strap.bone else None for p in self._places]
        self._contradicted[person] = {
            n for n, place in enumerate(self._places)
            if place.bone is not None and wrong[n, place.bone]
        }  # fmt: skip
        for n, place in enumerate(self._places):
            if place.bone is not None and place.axis is not None:
                seen = told.seen[:, place.bone]
                yaw, off = fit_yaw(told.world[:, place.bone, n], place.axis, seen)
                if off < SLIP_RAD and not wrong[n, place.bone]:
                    found[n] = Found(place.bone, place.axis, place.lever_m, yaw, off, 0.0)
                learned = mounts.axis[n, place.bone] @ place.axis
                off_axis = learned < math.cos(AXIS_RAD) and mounts.clean[n, place.bone]
                if place.std_rad == 0 and not off_axis:
                    continue
            free[n] = True
            if place.strap.bone and place.bone is not None:
                free[n] = np.arange(len(self.bones)) == place.bone
            free[n, [bone for k, bone in enumerate(held) if k != n and bone is not None]] = False
        likely = assign(mounts, free)
        for n, b in likely.items():
            if self._likely.get((person, n)) == b:  # twice the same answer
                found[n] = Found(
                    b, mounts.axis[n, b], mounts.lever_m[n, b], float(mounts.yaw_rad[n, b]),
                    float(mounts.residual_rad[n, b]), float(mounts.std_rad[n, b]),
                )  # fmt: skip
        self._likely |= {(person, n): likely.get(n, -1) for n in range(len(self._places))}
        return found


def _edges_of(skeleton: Skeleton, bones: IntArray) -> IntArray:
    """(B,) index of every bone among the joint set's edges."""
    where = {frozenset(edge): n for n, edge in enumerate(skeleton.edge_indices().tolist())}
    return np.array([where[frozenset(pair)] for pair in bones.tolist()], np.int64)
