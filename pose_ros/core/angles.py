"""Joint angles of people from their 3-D skeletons, with velocity, deviation and status.

Definitions, drawings and singular cases: ``docs/angles.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.angle_errors import (
    ANY_RAD,
    solve_with_jacobian,
    twist_deviation,
    without_distance,
)
from pose_ros.core.body_axes import LIMBS, bend, face_used, limb_segments
from pose_ros.core.chains import SINGULAR, Array
from pose_ros.core.clinical import ISB
from pose_ros.core.inverse import BoolArray, Convention
from pose_ros.core.rep155 import REP155
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.core.values import IntArray, JointAngles, KeypointStatus, Poses3D, ScaleSource
from pose_ros.errors import ConfigError

CONVENTIONS = {convention.name: convention for convention in (REP155, ISB)}
#: A twist that the limb shows with a larger deviation (rad) is mixed with the one before.
WEAK_RAD = 0.5
#: How far what is not seen wanders: radians per square root of a second.
DRIFT_RAD = 1.0
#: Deviation of the spine's bend, rad, when no thigh was ever seen.
SPINE_RAD = 0.35
#: Angles from longer ago say nothing.
FORGET_S = 5.0

_RANK = {"MEASURED": 0, "INFERRED": 1, "PREDICTED": 2, "OUT_OF_IMAGE": 3, "MISSING": 4}
_RANK_OF = np.array([_RANK[status.name] for status in KeypointStatus])
_STATUS_OF = np.argsort(_RANK_OF).astype(np.int8)
_FACE = slice(0, 5)
_MISSING = int(KeypointStatus.MISSING)  # a plain number: numpy is slow to see one in an IntEnum


@dataclass(frozen=True)
class _Body:
    """People in COCO's joint order; a joint without a position is NaN throughout."""

    xyz_m: Array  # (P, 17, 3)
    covariance_m2: Array  # (P, 17, 3, 3)
    velocity_m_s: Array  # (P, 17, 3)
    rank: npt.NDArray[np.int64]  # (P, 17) 0 measured ... 4 missing


@dataclass(frozen=True)
class _Before:
    """What was known of the angles earlier; NaN where nothing was."""

    angle_rad: Array  # (P, K)
    variance_rad2: Array  # (P, K) grown to now; infinite where nothing was known


def joint_angles(
    poses: Poses3D, skeleton: Skeleton, convention: str = "rep155",
    previous: JointAngles | None = None, elapsed_s: float = 0.0,
) -> JointAngles:  # fmt: skip
    """Angles of every person in ``convention``: "rep155" or "isb".

    Angles are not clamped; ``beyond_limit`` says which leave the stated range. ``previous``,
    ``elapsed_s`` ago, carries the twist of straight limbs, decides between equivalent branches
    and fills the bend of the spine while no thigh is known; people are matched by id. Without
    it a straight limb hangs from its body untwisted. Such angles are INFERRED with a deviation
    that grows. An angle is NaN and MISSING when a joint that defines its directions is; without
    the far joint of a limb its twist counts as that of a straight limb. Velocity is NaN where
    that of a joint is, deviation where a covariance is; of people whose scale is MONO, who are
    in the optical frame of their camera, without the error of their distance.

    Raises:
        ConfigError: for an unknown convention, or a skeleton without shoulders, elbows, hips, …

    """
    rules = get_convention(convention)
    before = _nothing(len(poses), rules)
    if previous is not None and len(previous.ids) > 0:
        if previous.convention != convention:
            raise ConfigError(
                f"previous angles are in '{previous.convention}', not in '{convention}'"
            )
        row, found = _rows(previous.ids, poses.ids)
        before = _aged(
            np.where(found[:, None], previous.angle_rad[row], np.nan).astype(np.float64),
            previous.std_rad[row].astype(np.float64) ** 2,
            np.full((len(poses), len(rules.names)), elapsed_s),
        )
    return _estimate(poses, skeleton, rules, before)


class AngleTracker:
    """``joint_angles`` along time: remembers the last known angle of everybody, by id."""

    def __init__(self, skeleton: Skeleton, convention: str = "rep155") -> None:
        """Know nobody.

        Raises:
            ConfigError: for an unknown convention.

        """
        self._rules = get_convention(convention)
        self._skeleton = skeleton
        self.reset()

    def reset(self) -> None:
        """Forget everybody."""
        width = len(self._rules.names)
        self._stamp_ns: int | None = None
        self._ids: IntArray = np.zeros(0, np.int64)
        self._angle = np.zeros((0, width))
        self._variance = np.zeros((0, width))
        self._known_ns = np.zeros((0, width), np.int64)

    def update(self, poses: Poses3D, stamp_ns: int) -> JointAngles:
        """Angles at ``stamp_ns``; a stamp before the last one starts anew."""
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        self._stamp_ns = stamp_ns
        before = _nothing(len(poses), self._rules)
        known_ns = np.full(before.angle_rad.shape, stamp_ns)
        variance = before.variance_rad2
        if len(self._ids) > 0:
            row, found = _rows(self._ids, poses.ids)
            known_ns = np.where(found[:, None], self._known_ns[row], stamp_ns)
            variance = self._variance[row]
            elapsed_s = (stamp_ns - known_ns) * 1e-9
            recent = found[:, None] & (elapsed_s <= FORGET_S)
            before = _aged(np.where(recent, self._angle[row], np.nan), variance, elapsed_s)
        result = _estimate(poses, self._skeleton, self._rules, before)
        self._remember(result, before.angle_rad, variance, known_ns, stamp_ns)
        return result

    def _remember(
        self, now: JointAngles, angle: Array, variance: Array, known_ns: IntArray, stamp_ns: int
    ) -> None:
        """Keep what is known now, what was known before, and people who are away for a while."""
        known = np.isfinite(now.angle_rad)
        _, here = _rows(now.ids, self._ids)
        recent = ((stamp_ns - self._known_ns) * 1e-9 <= FORGET_S).any(axis=1)
        away = ~here & recent
        fresh = (
            np.where(known, now.angle_rad, angle),
            np.where(known, now.std_rad.astype(np.float64) ** 2, variance),
            np.where(known, stamp_ns, known_ns),
        )
        self._ids = np.concatenate([now.ids, self._ids[away]])
        self._angle = np.concatenate([fresh[0], self._angle[away]])
        self._variance = np.concatenate([fresh[1], self._variance[away]])
        self._known_ns = np.concatenate([fresh[2], self._known_ns[away]])


def get_convention(name: str) -> Convention:
    """Return the angle convention of that name.

    Raises:
        ConfigError: if there is none.

    """
    if name not in CONVENTIONS:
        raise ConfigError(f"angle convention '{name}' is not known; known: rep155, isb")
    return CONVENTIONS[name]


def coco_joints(poses: Poses3D, skeleton: Skeleton) -> Array:
    """Positions (P, 17, 3) in COCO's order, float64; face joints the skeleton lacks are NaN.

    Raises:
        ConfigError: if the skeleton lacks a shoulder, elbow, wrist, hip, knee or ankle.

    """
    return _body(poses, skeleton).xyz_m


def _estimate(
    poses: Poses3D, skeleton: Skeleton, rules: Convention, before: _Before
) -> JointAngles:
    body = _body(poses, skeleton)
    near, far = limb_segments(body.xyz_m)
    shown = twist_deviation(body.xyz_m, body.covariance_m2, near, far) ** 2  # (P, 4) rad^2
    straight = ~(np.sin(bend(near, far)) >= SINGULAR)
    weak = straight | (shown > WEAK_RAD**2)
    prior = before.variance_rad2[:, rules.twist]
    gain = np.where(weak, 1.0 / (1.0 + shown / prior), 1.0)
    gain = np.where(straight, 0.0, gain)
    angle, singular, jacobian = solve_with_jacobian(rules, body.xyz_m, before.angle_rad, gain)
    spine_held = np.isnan(body.xyz_m[:, LIMBS[2:, 1], 0].sum(axis=1))
    variance = jacobian.variance(body.covariance_m2)
    by_twist = jacobian.by_twist[:, rules.limbs :]
    unseen = np.where(by_twist == 0, 0.0, np.repeat(prior, 4, axis=1))
    variance[:, rules.limbs :] += np.where(by_twist == 0, 0.0, by_twist**2) * unseen
    variance[singular] = np.inf
    velocity = jacobian.velocity(body.velocity_m_s)
    held = before.variance_rad2[:, rules.spine]
    held = np.where(np.isinf(held), SPINE_RAD**2, held)
    variance[spine_held, rules.spine] = held[spine_held]
    velocity[spine_held, rules.spine] = np.nan

    inferred = singular | _inferred(rules, weak, spine_held)
    std = np.where(np.isnan(angle), np.nan, np.minimum(np.sqrt(variance), ANY_RAD))
    beyond = (angle < rules.lower_rad) | (angle > rules.upper_rad)
    return JointAngles(
        poses.ids, rules.name, rules.names, angle.astype(np.float32),
        np.where(np.isnan(angle), np.nan, velocity).astype(np.float32), std.astype(np.float32),
        _status(rules, body, angle, inferred), beyond,
    )  # fmt: skip


def _inferred(rules: Convention, weak: BoolArray, spine_held: BoolArray) -> BoolArray:
    """(P, K) angles that rest on a held twist or on a held spine."""
    by_twist, by_spine = _weak_columns(rules.name)
    return (weak @ by_twist) | (spine_held[:, None] & by_spine)


@cache
def _weak_columns(convention: str) -> tuple[BoolArray, BoolArray]:
    """(4, K) angles that rest on the twist of each limb, and (K,) on the bend of the spine."""
    rules = CONVENTIONS[convention]
    by_twist = np.zeros((len(LIMBS), len(rules.names)), np.bool_)
    by_spine = np.zeros(len(rules.names), np.bool_)
    by_spine[rules.spine] = True
    for limb, far in enumerate(LIMBS[:, 2]):
        first = rules.limbs + 4 * limb
        by_twist[limb, first : first + 3] = rules.rests_on[first : first + 3, far]
        by_spine[first : first + 3] = limb >= 2
    return by_twist, by_spine


def _status(
    rules: Convention, body: _Body, angle: Array, inferred: BoolArray
) -> npt.NDArray[np.int8]:
    """(P, K) the worst status of the known joints an angle rests on; MISSING where it is NaN."""
    counts = body.rank < _RANK["MISSING"]
    counts[:, _FACE] &= face_used(body.xyz_m)
    rank = np.where(counts, body.rank, 0)[:, None] * rules.rests_on
    worst = np.maximum(rank.max(axis=-1), np.where(inferred, _RANK["INFERRED"], 0))
    return _STATUS_OF[np.where(np.isnan(angle), _RANK["MISSING"], worst)]


def _body(poses: Poses3D, skeleton: Skeleton) -> _Body:
    """Pick COCO's joints by name; NaN and missing where there is no position."""
    columns, absent = _columns(skeleton)
    xyz_m = poses.xyz_m[:, columns].astype(np.float64)
    status = poses.status[:, columns]
    gone = absent | (status == _MISSING) | np.isnan(xyz_m).any(axis=-1)
    xyz_m[gone] = np.nan
    covariance_m2 = poses.covariance_m2[:, columns].astype(np.float64)
    return _Body(
        xyz_m,
        without_distance(xyz_m, covariance_m2, poses.scale == ScaleSource.MONO),
        poses.velocity_m_s[:, columns].astype(np.float64),
        np.where(gone, _RANK["MISSING"], _RANK_OF[status]),
    )


@cache
def _columns(skeleton: Skeleton) -> tuple[IntArray, BoolArray]:
    """Joints (17,) of a skeleton in COCO's order, and which (face) joints it lacks.

    Raises:
        ConfigError: if the skeleton lacks a shoulder, elbow, wrist, hip, knee or ankle.

    """
    face = set(COCO17.joints[_FACE]) - set(skeleton.joints)
    columns = [0 if name in face else skeleton.index(name) for name in COCO17.joints]
    return np.array(columns), np.array([name in face for name in COCO17.joints])


def _nothing(people: int, rules: Convention) -> _Before:
    shape = (people, len(rules.names))
    return _Before(np.full(shape, np.nan), np.full(shape, np.inf))


def _aged(angle_rad: Array, variance_rad2: Array, elapsed_s: Array) -> _Before:
    """Let what was known wander for ``elapsed_s``; an unestimated deviation counts as any."""
    known = np.where(np.isnan(variance_rad2), ANY_RAD**2, variance_rad2)
    grown = np.minimum(known + DRIFT_RAD**2 * elapsed_s, ANY_RAD**2)
    return _Before(angle_rad, np.where(np.isnan(angle_rad), np.inf, grown))


def _rows(ids: IntArray, wanted: IntArray) -> tuple[IntArray, BoolArray]:
    """For every ``wanted`` id its row in ``ids`` (0 where absent), and whether it is there."""
    same = wanted[:, None] == ids[None, :]
    found = same.any(axis=1)
    return (same.argmax(axis=1) if len(ids) else np.zeros(len(wanted), np.int64)), found
