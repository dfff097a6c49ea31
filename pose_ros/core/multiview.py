"""People in metres from several calibrated cameras: who is who across views, then where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from pose_ros.core.body import body_of
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import param, validate
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.spread import pixel_std
from pose_ros.core.triangulate import Array, Points3D, check_poses, triangulate
from pose_ros.core.values import IntArray, KeypointStatus, Poses2D, Poses3D, ScaleSource

#: A joint's gap between two rays counts up to this many standard deviations.
GAP_MAX = 6.0
#: No bone between two joints of a body is longer (knee to ankle of a 2.1 m person: 0.53 m; the
#: side of the torso: 0.65 m), with room for pixel errors.
BONE_MAX_M = 0.8
#: Two joints may be this many standard deviations further apart than bones allow.
REACH_STD = 3.0
#: What a pair of detections gains by having been one person in the last frame.
LOYALTY = 0.5
#: How far a person may jump between frames without losing the id, and how fast it may go on.
JUMP_M, SPEED_M_S = 0.4, 3.0


class View(NamedTuple):
    """What one calibrated camera sees at one time."""

    camera: PinholeCamera
    cam_from_world: npt.NDArray[Any]  # (4, 4) world points to the optical frame
    poses: Poses2D


@dataclass(frozen=True)
class MultiViewConfig:
    """Matching and triangulating people in several views."""

    score_min: float = param(0.2, "Joints with a lower score are not used", ge=0.0, le=1.0)
    match_max: float = param(
        2.5, "Largest mean gap between the rays of two views of one person",
        unit="standard deviations", ge=0.5, le=6.0,
    )  # fmt: skip
    min_joints: int = param(
        4, "Joints two views must share to be compared", unit="joints", ge=2, le=17
    )
    max_lost_s: float = param(
        1.0, "A person unseen for longer gets a new id", unit="s", ge=0.05, le=30.0
    )

    def __post_init__(self) -> None:
        """Refuse a value out of range."""
        validate(self)


class MultiViewLifter:
    """Keeps who is who between views and frames; give it every set of views in order of time.

    A view is known by its place in the list, so pass one without anybody rather than leave it
    out. World ids count up from 1 and are never used again.
    """

    def __init__(self, skeleton: Skeleton, config: MultiViewConfig | None = None) -> None:
        """Start with nobody."""
        self.skeleton = skeleton
        self.config = config or MultiViewConfig()
        self._bones = skeleton.edge_indices()
        self._reach_m = body_of(skeleton).reach_m
        self._next_id = 1
        self.reset()

    def reset(self) -> None:
        """Forget everybody; ids stay used."""
        #: (view, id in the view) -> world id of everybody whom the last update used.
        self.members: dict[tuple[int, int], int] = {}
        self._stamp_ns: int | None = None
        self._owner: dict[tuple[int, int], int] = {}  # (view, id in the view) -> world id
        self._last: dict[int, tuple[int, Array]] = {}  # world id -> stamp, xyz (J, 3)

    def update(self, views: Sequence[View], stamp_ns: int) -> Poses3D:
        """Everybody whom at least two views show, in the world frame, by ascending id.

        A joint that fewer than two views agree on is MISSING, and so is one where no body has it:
        views can agree by chance. A stamp before the last one starts anew.

        Raises:
            ShapeError: a pose of another shape than (4, 4).
            CalibrationError: a pose that is not a rigid motion.

        """
        if self._stamp_ns is not None and stamp_ns < self._stamp_ns:
            self.reset()
        self._stamp_ns, self.members = stamp_ns, {}
        poses = check_poses([v.camera for v in views], [v.cam_from_world for v in views])
        if len(views) == 0:
            return Poses3D.unknown(np.zeros(0, np.int64), len(self.skeleton))
        sighted = _Detections.of(views, poses, self.config.score_min)
        groups = self._group(sighted)
        rows = _rows(groups, sighted, len(views))
        xy_px, weight, score = _gather(rows, sighted, len(self.skeleton))
        points = triangulate([v.camera for v in views], poses, xy_px, weight)
        points = _connected(points, self._reach_m)
        known = points.views_used.sum(axis=1) >= self.config.min_joints
        ids = self._identify(points.xyz_m[known], rows[:, known], sighted, stamp_ns)
        answer = _poses3d(points, score)
        order = np.argsort(ids)
        return _select(answer, np.flatnonzero(known)[order], ids[order])

    def _group(self, sighted: _Detections) -> list[list[int]]:
        """Detections of one person each, at most one per view, at least two."""
        cost = self._pair_cost(sighted)
        edges = []
        for a in range(int(sighted.view.max(initial=-1)) + 1):
            for b in range(a):
                rows, columns = (
                    np.flatnonzero(sighted.view == a),
                    np.flatnonzero(sighted.view == b),
                )
                best = linear_sum_assignment(np.nan_to_num(cost[np.ix_(rows, columns)], nan=99.0))
                edges += [(cost[rows[i], columns[j]], rows[i], columns[j])
                          for i, j in zip(*best, strict=True)]  # fmt: skip
        return _merge(edges, cost, sighted.view, self.config.match_max)

    def _pair_cost(self, sighted: _Detections) -> Array:
        """(N, N) mean gap in standard deviations of two detections; NaN: cannot be compared."""
        gap, points = _gaps(sighted)
        shared = np.isfinite(gap)
        count = shared.sum(axis=-1)
        mean = np.where(shared, np.minimum(gap, GAP_MAX), 0.0).sum(axis=-1) / np.maximum(count, 1)
        with np.errstate(invalid="ignore"):
            bones = points[:, :, self._bones[:, 0]] - points[:, :, self._bones[:, 1]]
            length = np.sqrt((bones**2).sum(axis=-1))
            torn = (length > BONE_MAX_M).sum(axis=-1) / np.maximum(np.isfinite(length).sum(-1), 1)
        cost = mean + GAP_MAX * torn
        owner = np.array([self._owner.get(key, -1) for key in sighted.names()])
        known = (owner[:, None] >= 0) & (owner[None] >= 0)
        loyal = np.where(owner[:, None] == owner[None], -LOYALTY, LOYALTY)
        cost = cost + np.where(known, loyal, 0.0)
        different = sighted.view[:, None] != sighted.view[None]
        return np.where(different & (count >= self.config.min_joints), cost, np.nan)

    def _identify(
        self, xyz_m: Array, rows: IntArray, sighted: _Detections, stamp_ns: int
    ) -> IntArray:
        """World ids (C,) of triangulated people; remembers them."""
        forget = stamp_ns - int(self.config.max_lost_s * 1e9)
        self._last = {k: v for k, v in self._last.items() if v[0] >= forget}
        self._owner = {k: v for k, v in self._owner.items() if v in self._last}
        keys = sighted.names()
        members = [[keys[i] for i in column if i >= 0] for column in rows.T]
        known = list(self._last)
        ids = np.zeros(len(xyz_m), np.int64)
        if known and len(xyz_m):
            cost = self._id_cost(xyz_m, members, known, stamp_ns)
            for i, j in zip(*linear_sum_assignment(np.minimum(cost, 10.0)), strict=True):
                ids[i] = known[j] if cost[i, j] < 10.0 else 0
        fresh = np.flatnonzero(ids == 0)
        ids[fresh] = self._next_id + np.arange(len(fresh))
        self._next_id += len(fresh)
        for world, person, who in zip(ids.tolist(), xyz_m, members, strict=True):
            self._last[world] = (stamp_ns, person)
            self.members.update(dict.fromkeys(who, world))
        self._owner.update(self.members)
        return ids

    def _id_cost(
        self, xyz_m: Array, members: list[list[tuple[int, int]]], known: list[int], stamp_ns: int
    ) -> Array:
        """(C, W) jump over the allowed one, less for shared view ids; infinite beyond it."""
        age_s = np.array([(stamp_ns - self._last[w][0]) * 1e-9 for w in known])
        last = np.stack([self._last[w][1] for w in known])
        away = np.linalg.norm(xyz_m[:, None] - last[None], axis=-1)
        shared = np.isfinite(away)
        jump = np.where(shared, away, 0.0).sum(-1) / np.maximum(shared.sum(-1), 1)
        jump = np.where(shared.any(axis=-1), jump, JUMP_M) / (JUMP_M + SPEED_M_S * age_s)
        votes = np.array([[np.mean([self._owner.get(k) == w for k in who]) for w in known]
                          for who in members])  # fmt: skip
        return np.where(jump < 1.0 + votes, jump - votes, np.inf)


@dataclass(frozen=True)
class _Detections:
    """All people of all views in one list of N, with their rays in the world."""

    view: IntArray  # (N,)
    ids: IntArray  # (N,) in the view
    xy_px: Array  # (N, J, 2)
    score: Array  # (N, J)
    weight: Array  # (N, J) px^-2, 0: not used
    origin: Array  # (N, 3) camera centre
    ray: Array  # (N, J, 3) unit; NaN: not used
    angle: Array  # (N, J) standard deviation, radians

    @staticmethod
    def of(views: Sequence[View], poses: Array, score_min: float) -> _Detections:
        """Rays of every joint that counts."""
        parts = [
            _rays(i, view, pose, score_min)
            for i, (view, pose) in enumerate(zip(views, poses, strict=True))
        ]
        return _Detections(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def names(self) -> list[tuple[int, int]]:
        """(view, id) of every detection."""
        return list(zip(self.view.tolist(), self.ids.tolist(), strict=True))


def _rays(number: int, view: View, pose: Array, score_min: float) -> tuple[np.ndarray, ...]:
    poses, camera = view.poses, view.camera
    std_px = pixel_std(poses).astype(np.float64)
    ray = camera.rays(poses.xy_px)
    good = (poses.score >= score_min) & np.isfinite(ray).all(axis=-1) & (std_px > 0)
    ray = np.where(good[..., None], ray @ pose[:3, :3], np.nan)
    ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        weight = np.where(good, 1.0 / std_px**2, 0.0)
    people = len(poses)
    centre = np.tile(-pose[:3, :3].T @ pose[:3, 3], (people, 1))
    angle = std_px / np.sqrt(camera.fx_px * camera.fy_px)
    return (
        np.full(people, number), poses.ids, poses.xy_px.astype(np.float64),
        poses.score.astype(np.float64), weight, centre, ray, angle,
    )  # fmt: skip


def _gaps(sighted: _Detections) -> tuple[Array, Array]:
    """Gap (N, N, J) between the rays in standard deviations, and the points (N, N, J, 3) halfway.

    Rays that meet behind a camera are GAP_MAX apart; NaN where either has no ray, or where they
    are nearly parallel (below 2 degrees).
    """
    a, b = sighted.ray[:, None], sighted.ray[None]
    base = (sighted.origin[None] - sighted.origin[:, None])[:, :, None]
    along = (a * b).sum(axis=-1)
    sine2 = 1.0 - along**2
    with np.errstate(divide="ignore", invalid="ignore"):
        reach_a = ((base * a).sum(-1) - along * (base * b).sum(-1)) / sine2
        reach_b = (along * (base * a).sum(-1) - (base * b).sum(-1)) / sine2
        from_a, from_b = reach_a[..., None] * a, base + reach_b[..., None] * b
        distance = np.linalg.norm(from_a - from_b, axis=-1)
        spread = np.hypot(reach_a * sighted.angle[:, None], reach_b * sighted.angle[None])
        gap = np.where((reach_a > 0) & (reach_b > 0), distance / spread, GAP_MAX)
        usable = np.isfinite(along) & (sine2 > np.sin(np.radians(2.0)) ** 2)
    points = sighted.origin[:, None, None] + (from_a + from_b) / 2
    return np.where(usable, gap, np.nan), np.where(usable[..., None], points, np.nan)


def _merge(
    edges: list[tuple[float, int, int]], cost: Array, view: IntArray, most: float
) -> list[list[int]]:
    """Groups by joining the cheapest pairs first, as long as no two of one view come together."""
    group = {i: [i] for i in range(len(view))}
    for price, i, j in sorted(edges):
        one, other = group[int(i)], group[int(j)]
        if one is other or not price < most or set(view[one]) & set(view[other]):
            continue
        if np.nanmean(cost[np.ix_(one, other)]) < most:
            one += other
            for member in other:
                group[member] = one
    unique = {id(g): g for g in group.values() if len(g) > 1}
    return sorted(sorted(g) for g in unique.values())


def _rows(groups: list[list[int]], sighted: _Detections, views: int) -> IntArray:
    """(V, C) detection of each person in each view; -1 where there is none."""
    rows = np.full((views, len(groups)), -1, np.int64)
    for column, members in enumerate(groups):
        rows[sighted.view[members], column] = members
    return rows


def _gather(rows: IntArray, sighted: _Detections, joints: int) -> tuple[Array, Array, Array]:
    """Pixels (V, C, J, 2), weights and scores (V, C, J) of the people; weight 0 where absent."""
    if rows.size == 0:
        return np.zeros((*rows.shape, joints, 2)), *np.zeros((2, *rows.shape, joints))
    absent = (rows < 0)[..., None]
    return (
        np.where(absent[..., None], np.nan, sighted.xy_px[rows]),
        np.where(absent, 0.0, sighted.weight[rows]),
        np.where(absent, 0.0, sighted.score[rows]),
    )


def _connected(points: Points3D, reach_m: Array) -> Points3D:
    """``points`` without joints that are further from others than bones reach, (J, J) metres.

    Of two such joints the one goes that is too far from more others; of equals the one that fewer
    views show, then the less exact one.
    """
    views = points.views_used
    std = np.sqrt(np.trace(np.nan_to_num(points.covariance_m2), axis1=-2, axis2=-1))
    away = np.linalg.norm(points.xyz_m[:, :, None] - points.xyz_m[:, None], axis=-1)
    slack = REACH_STD * np.hypot(std[:, :, None], std[:, None])
    torn = away > reach_m + slack  # False for NaN
    lost = np.zeros(views.shape, bool)
    while torn.any():
        much = torn.sum(axis=-1)
        blame = much + 0.5 / (1 + views) + 0.01 * std / (1 + std)
        worst = np.where(much > 0, blame, 0.0).argmax(axis=1)
        rows = np.flatnonzero(much.any(axis=1))
        lost[rows, worst[rows]] = True
        torn &= ~(lost[:, :, None] | lost[:, None])
    if not lost.any():
        return points
    return Points3D(
        np.where(lost[..., None], np.nan, points.xyz_m),
        np.where(lost[..., None, None], np.nan, points.covariance_m2),
        points.used & ~lost, np.where(lost, np.nan, points.residual_px),
    )  # fmt: skip


def _poses3d(points: Points3D, score: Array) -> Poses3D:
    seen = points.views_used
    mean = np.where(points.used, score, 0.0).sum(axis=0) / np.maximum(seen, 1)
    blank = Poses3D.unknown(np.zeros(len(seen), np.int64), seen.shape[1])
    measured, missing = int(KeypointStatus.MEASURED), int(KeypointStatus.MISSING)
    return Poses3D(
        blank.ids, points.xyz_m.astype(np.float32), points.covariance_m2.astype(np.float32),
        blank.velocity_m_s, blank.speed_std_m_s,
        np.where(seen > 0, measured, missing).astype(np.int8), mean.astype(np.float32),
        np.full(len(seen), ScaleSource.MULTIVIEW, np.int8),
    )  # fmt: skip


def _select(poses: Poses3D, rows: npt.NDArray[Any], ids: IntArray) -> Poses3D:
    return Poses3D(
        ids, poses.xyz_m[rows], poses.covariance_m2[rows], poses.velocity_m_s[rows],
        poses.speed_std_m_s[rows], poses.status[rows], poses.score[rows], poses.scale[rows],
    )  # fmt: skip
