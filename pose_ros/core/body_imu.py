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
from pose_ros.core.body_imu_fit import assign, fit_mounts, fit_yaw, turn_about_up
from pose_ros.core.body_imu_place import Place, Strap
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
#: Time constant in which that is averaged.
RESIDUAL_S = 0.2
#: Moments kept per person and bone for fits, the time between them, and their greatest age.
MOMENTS, MOMENT_S, OLDEST_S = 120, 0.06, 60.0
_NEVER = np.iinfo(np.int64).min // 4
#: How often sensors without a place are looked at.
SEARCH_S = 1.0
#: Least score of a joint that teaches.
SURE = 0.5


class _Watched:
    """Moments of one person: of each bone the last in which it was seen, NaN where there is none.

    A bone that other limbs hide most of the time so has as many as the others, only older ones.
    """

    def __init__(self, bones: int, sensors: int) -> None:
        self.stamp_ns = np.full((MOMENTS, bones), _NEVER)
        self.world = np.full((MOMENTS, bones, sensors, 3, 3), np.nan)  # of the sensors
        self.seen = np.full((MOMENTS, bones, 3), np.nan)
        self.count = np.zeros(bones, np.int64)

    def due(self, stamp_ns: int, directions: Floats) -> npt.NDArray[np.bool_]:
        """Bones (B,) that are seen (B, 3), and were not just now."""
        last_ns = self.stamp_ns.max(axis=0)
        return np.isfinite(directions).all(axis=1) & (stamp_ns - last_ns >= MOMENT_S * 1e9)

    def add(
        self, stamp_ns: int, due: npt.NDArray[np.bool_], world: Floats, directions: Floats
    ) -> None:
        """Note the bones that are ``due``; what is older than ``OLDEST_S`` goes."""
        bones = np.flatnonzero(due)
        at = self.count[bones] % MOMENTS
        self.stamp_ns[at, bones], self.seen[at, bones] = stamp_ns, directions[bones]
        self.world[at, bones] = world
        self.count[bones] += 1
        self.seen[stamp_ns - self.stamp_ns > OLDEST_S * 1e9] = np.nan


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
        self.counts = {"slipped": 0, "fitted": 0}
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
        place.axis = None
        if strap.axis is not None:
            axis = np.asarray(strap.axis, np.float64)
            place.axis = axis / np.linalg.norm(axis)
        place.yaw, place.residual_rad, place.slipping_s = None, 0.0, 0.0

    def reset(self) -> None:
        """Forget people and times; where the sensors sit stays known."""
        self.wearer = None
        self._watched: dict[int, _Watched] = {}
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
        ends = [(place.direction(t), place.spin(t)) for t in (old_ns, new_ns)]
        if own is None or any(d is None or w is None for d, w in ends):
            return
        own = turn_about_up(own, place.yaw_rad)
        turned = [np.cross(w, length * d) for d, w in ends]  # type: ignore[arg-type, operator]
        swung = turned[1] - turned[0]
        inner, outer = self.bones[place.bone]
        gains[inner].append(own - place.strap.rho * swung)
        gains[outer].append(own + (1.0 - place.strap.rho) * swung)

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
            dt_s = 0.0
        seen = self._directions(points_m, score, world_from_camera)
        self._watch(stamp_ns, ids, seen)
        rows = np.flatnonzero(ids == self.wearer)
        if len(rows):
            for place in self._places:
                self._follow(place, stamp_ns, dt_s, seen[rows[0]])
        if all(place.worn for place in self._places) and len(rows):
            return
        if self._searched_ns is None or not 0 <= stamp_ns - self._searched_ns < SEARCH_S * 1e9:
            self._searched_ns = stamp_ns
            self._search()

    def _directions(
        self, points_m: FloatArray, score: FloatArray, world_from_camera: Floats
    ) -> Floats:
        """(P, B, 3) unit vectors of surely seen bones in the camera's world; NaN elsewhere."""
        inner, outer = self.bones.T
        along = (points_m[:, outer] - points_m[:, inner]).astype(np.float64)
        length = np.linalg.norm(along, axis=-1)
        sure = (score[:, inner] >= SURE) & (score[:, outer] >= SURE)
        sure &= length > 0.5 * self._usual_m
        along = np.where(sure[..., None], along, np.nan) / np.where(sure, length, 1.0)[..., None]
        return np.asarray(along @ world_from_camera.T)

    def _watch(self, stamp_ns: int, ids: IntArray, seen: Floats) -> None:
        """Keep a moment of everybody."""
        here = set(ids.tolist())
        self._watched = {k: v for k, v in self._watched.items() if k in here}
        self._likely = {k: v for k, v in self._likely.items() if k[0] in here}
        world = None
        for person, directions in zip(ids.tolist(), seen, strict=True):
            if person not in self._watched:
                self._watched[person] = _Watched(len(self.bones), len(self._places))
            kept = self._watched[person]
            if not (due := kept.due(stamp_ns, directions)).any():
                continue
            if world is None:
                world = self._orientations(stamp_ns)
            kept.add(stamp_ns, due, world, directions)

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
        plan: dict[int, tuple[int, Floats, float]] = {}
        for person, kept in self._watched.items():
            found, residual = self._fit(person, kept.world, kept.seen)
            value = len(found) - residual
            if found and (best is None or value > best[1]):
                best, plan = (person, value), found
        if best is None:
            return
        self.wearer = best[0]
        for n, (bone, axis, yaw) in plan.items():
            place = self._places[n]
            if not place.worn:
                self.counts["fitted"] += 1
                place.bone, place.axis = bone, axis
                place.yaw = (0.3 * YAW_S * math.sin(yaw), 0.3 * YAW_S * math.cos(yaw))
                place.residual_rad = place.slipping_s = 0.0

    def _fit(
        self, person: int, world: Floats, seen: Floats
    ) -> tuple[dict[int, tuple[int, Floats, float]], float]:
        """Places (bone, axis, yaw) by sensor for one person, and their mean residual in radians.

        ``world`` (N, B, S, 3, 3), ``seen`` (N, B, 3). Sensors whose place is known must agree.
        """
        found, left = {}, []
        residual = np.full((len(self._places), len(self.bones)), np.nan)
        sure = np.zeros(residual.shape, bool)
        axes, yaws = np.full((*residual.shape, 3), np.nan), np.zeros(residual.shape)
        taken = [p.bone for p in self._places if p.bone is not None]
        for n, place in enumerate(self._places):
            if place.bone is not None and place.axis is not None:
                yaw, off = fit_yaw(world[:, place.bone, n], place.axis, seen[:, place.bone])
                if off < SLIP_RAD:
                    found[n] = place.bone, place.axis, yaw
                    left.append(off)
                continue
            mounts = fit_mounts(world[:, :, n], seen)
            may = [place.bone] if place.bone is not None else [
                b for b in range(len(self.bones)) if b not in taken
            ]  # fmt: skip
            residual[n, may], sure[n, may] = mounts.residual_rad[may], mounts.sure[may]
            axes[n], yaws[n] = mounts.axis, mounts.yaw_rad
        likely = assign(residual, sure)
        for n, bone in likely.items():
            if self._likely.get((person, n)) == bone:  # twice the same answer
                found[n] = bone, axes[n, bone], float(yaws[n, bone])
                left.append(float(residual[n, bone]))
        self._likely |= {(person, n): likely.get(n, -1) for n in range(len(self._places))}
        return found, float(np.mean(left)) if left else 0.0


def _edges_of(skeleton: Skeleton, bones: IntArray) -> IntArray:
    """(B,) index of every bone among the joint set's edges."""
    where = {frozenset(edge): n for n, edge in enumerate(skeleton.edge_indices().tolist())}
    return np.array([where[frozenset(pair)] for pair in bones.tolist()], np.int64)
