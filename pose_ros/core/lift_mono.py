"""One camera, metric bodies: a lifting network's body, placed on its rays by least squares.

Letters: P people, T frames, J = 17 joints (COCO17). The network says how the body is bent, in
statures; a body of the assumed stature then stands where its joints fall on their rays. The
stature is an assumption (`ScaleSource.MONO`): a taller person farther away looks the same, so
every position carries the stature's relative deviation along its ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.lift_mono_view import FRAMES, PersonView, look_at_people, place_bodies
from pose_ros.core.skeletons import COCO17
from pose_ros.core.spread import pixel_std
from pose_ros.core.values import (
    FloatArray,
    Frame,
    IntArray,
    KeypointStatus,
    Poses2D,
    Poses3D,
    ScaleSource,
)
from pose_ros.errors import ConfigError, ShapeError

#: (P, T, F) windows -> bodies (P, J, 3) and logarithms of the mean errors (P, J, 2), statures.
LiftNetwork = Callable[[FloatArray], tuple[FloatArray, FloatArray]]

J = len(COCO17)
ABSENT = np.iinfo(np.int64).min // 4  # the stamp of a frame that is not there
STATURE_M = 1.70
STATURE_STD = 0.05  # relative, of adults of both sexes about STATURE_M
SCORE_MIN = 0.2  # a joint of less is not seen; the network never learned from such a one
SPACING_S = 0.045  # least time between the kept frames of a window
WINDOW_S = 1.2  # older frames do not count
BLANK_SPACING_S = 0.067  # of frames that are not there
LAPLACE_STD = float(np.sqrt(2.0))  # standard deviation over mean absolute error
PLACE_INFLATION = 2.0  # of the place's variance: the joints' errors are not independent
SPREAD_MAX = 0.15  # statures; a joint that is guessed worse is not reported
DEPTH_MIN_M = 0.2
INFERRED_SCORE = 0.5  # of the person's mean score
# Plain numbers: numpy is slow to see one in an IntEnum.
_MEASURED, _INFERRED = int(KeypointStatus.MEASURED), int(KeypointStatus.INFERRED)
_MISSING = int(KeypointStatus.MISSING)
_MONO, _UNKNOWN = int(ScaleSource.MONO), int(ScaleSource.UNKNOWN)
_EYE, _ACROSS = np.eye(3), np.diag([1.0, 1.0, 0.0])
_AXES = np.array([0, 0, 1])  # of a spread across and along, for x, y, z


@dataclass(frozen=True)
class History:
    """The last frames of each person, as rays."""

    ids: IntArray  # (N,)
    stamp_ns: IntArray  # (N, T) oldest first; ABSENT where there is no frame
    rays: npt.NDArray[np.float64]  # (N, T, J, 2) NaN unknown
    score: FloatArray  # (N, T, J)

    @staticmethod
    def empty(ids: IntArray) -> History:
        """People of whom nothing was seen."""
        count = len(ids)
        return History(
            ids, np.full((count, FRAMES), ABSENT), np.full((count, FRAMES, J, 2), np.nan),
            np.zeros((count, FRAMES, J), np.float32),
        )  # fmt: skip

    def select(self, which: npt.NDArray[Any]) -> History:
        """Rows ``which`` (indices or mask)."""
        return History(self.ids[which], self.stamp_ns[which], self.rays[which], self.score[which])

    def joined(self, other: History) -> History:
        """These people and those."""
        return History(
            np.concatenate([self.ids, other.ids]), np.concatenate([self.stamp_ns, other.stamp_ns]),
            np.concatenate([self.rays, other.rays]), np.concatenate([self.score, other.score]),
        )  # fmt: skip

    def of(self, ids: IntArray) -> History:
        """Rows of ``ids``, in their order; blank for who is not known."""
        if np.array_equal(ids, self.ids):  # as in almost every frame
            return self
        both = History.empty(ids).joined(self)
        match = ids[:, None] == self.ids[None, :]
        row = np.where(match.any(axis=1), match.argmax(axis=1) + len(ids) if len(self.ids) else 0,
                       np.arange(len(ids)))  # fmt: skip
        return both.select(row)

    def pushed(
        self, stamp_ns: int, rays: npt.NDArray[np.float64], score: FloatArray, max_gap_ns: int
    ) -> History:
        """The same people with one more frame.

        The frame before stays in the window when it lies at least SPACING_S after its own
        predecessor; otherwise the new one takes its place. A longer gap starts a window anew.
        """
        stamps, old_rays, old_score = self.stamp_ns.copy(), self.rays.copy(), self.score.copy()
        stale = (stamp_ns - stamps[:, -1]) > max_gap_ns
        if stale.any():
            stamps[stale], old_rays[stale], old_score[stale] = ABSENT, np.nan, 0.0
        keeps = (stamps[:, -1] - stamps[:, -2] >= SPACING_S * 1e9) & (stamps[:, -1] != stamp_ns)
        if keeps.any():
            for array in (stamps, old_rays, old_score):
                array[keeps, :-1] = array[keeps, 1:]
        stamps[:, -1], old_rays[:, -1], old_score[:, -1] = stamp_ns, rays, score
        return History(self.ids, stamps, old_rays, old_score)

    def turned(self, rotation: npt.NDArray[np.float64]) -> History:
        """The same rays in new camera axes, (3, 3) from the old ones; NaN behind the camera."""
        x, y = self.rays[..., 0], self.rays[..., 1]
        new = np.stack([r[0] * x + r[1] * y + r[2] for r in rotation], axis=-1)
        ahead = new[..., 2:] > 1e-3
        rays = np.where(ahead, new[..., :2] / np.where(ahead, new[..., 2:], 1.0), np.nan)
        return History(self.ids, self.stamp_ns, rays, self.score)

    def view(self) -> PersonView:
        """What the network is told."""
        age_s = (self.stamp_ns - self.stamp_ns[:, -1:]) / 1e9
        there = (self.stamp_ns > ABSENT) & (age_s >= -WINDOW_S)
        blank = np.arange(1 - FRAMES, 1) * BLANK_SPACING_S
        rays = np.where(there[..., None, None], self.rays, np.nan)
        return look_at_people(rays, self.score, np.where(there, age_s, blank))


class MonocularLifter:
    """The stage: 2-D poses of one calibrated camera in, metric bodies in its frame out."""

    skeleton = COCO17

    def __init__(
        self,
        network: LiftNetwork,
        stature_m: float = STATURE_M,
        stature_std: float = STATURE_STD,
        max_gap_s: float = 0.5,
    ) -> None:
        """Lift with ``network``; people are ``stature_m`` tall, give or take ``stature_std``.

        ``stature_std`` is relative; a person unseen for ``max_gap_s`` starts with an empty window.

        Raises:
            ConfigError: a stature or deviation that nobody has.

        """
        self.network = network
        self.max_gap_s = max_gap_s
        self._default = _checked(stature_m, stature_std)
        self.reset()

    def reset(self) -> None:
        """Forget everybody, statures included."""
        self._history = History.empty(np.zeros(0, np.int64))
        self._statures: dict[int, tuple[float, float]] = {}

    def transform(self, rotation: npt.NDArray[np.float64]) -> None:
        """Turn what is remembered into new camera axes, (3, 3) from the old ones."""
        self._history = self._history.turned(rotation)

    def set_stature(self, person_id: int, stature_m: float, stature_std: float) -> None:
        """Use a measured stature (with its relative deviation) for one person from now on.

        Raises:
            ConfigError: a stature or deviation that nobody has.

        """
        self._statures[person_id] = _checked(stature_m, stature_std)

    def stature_m(self, ids: IntArray) -> npt.NDArray[np.float64]:
        """Stature (P,) that each person's metres rest on."""
        return self._scales(ids)[0]

    def stature_std(self, ids: IntArray) -> npt.NDArray[np.float64]:
        """Relative deviation (P,) of the stature that each person's metres rest on."""
        return self._scales(ids)[1]

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        """Bodies in the optical frame of ``frame.camera``; without a camera nothing is known.

        A joint that is measured in the image lies exactly on its ray (MEASURED); the others stand
        where the network puts them (INFERRED), with half the person's mean score: one of a score
        below SCORE_MIN, too, as of the legs that an image does not show. A person with
        fewer than six measured joints, or fewer than two of shoulders and hips, is unknown, and so
        is a joint that the network knows to less than 0.15 statures. Velocities are NaN.
        The covariance's errors are shared by the joints of a person: mainly the distance.

        Raises:
            ShapeError: poses in another joint set than COCO17.

        """
        if poses.xy_px.shape[1] != J:
            raise ShapeError(
                f"MonocularLifter: expected {J} joints (coco17), got {poses.xy_px.shape[1]}"
            )
        if frame.camera is None:
            return Poses3D.unknown(poses.ids, J)
        poses = _sure(poses)
        here = set(poses.ids.tolist())
        self._statures = {i: told for i, told in self._statures.items() if i in here}
        current = self._remember(frame, poses)
        if not len(poses):
            return Poses3D.unknown(poses.ids, J)
        focal_px = np.sqrt(frame.camera.fx_px * frame.camera.fy_px)
        ray_std = np.nan_to_num(pixel_std(poses).astype(np.float64)) / focal_px
        return self._bodies(current.view(), poses, ray_std)

    def _remember(self, frame: Frame, poses: Poses2D) -> History:
        """Add a frame to the windows and return those of the people in it."""
        assert frame.camera is not None
        if len(self._history.ids) and frame.stamp_ns < self._history.stamp_ns[:, -1].max():
            self._history = History.empty(np.zeros(0, np.int64))
        gap_ns = int(self.max_gap_s * 1e9)
        rays = frame.camera.rays(poses.xy_px)[..., :2]
        current = self._history.of(poses.ids).pushed(frame.stamp_ns, rays, poses.score, gap_ns)
        if np.array_equal(poses.ids, self._history.ids):  # nobody came or went
            self._history = current
            return current
        away = ~np.isin(self._history.ids, poses.ids)
        away &= frame.stamp_ns - self._history.stamp_ns[:, -1] <= gap_ns
        self._history = current.joined(self._history.select(away))
        return current

    def _bodies(
        self, view: PersonView, poses: Poses2D, ray_std: npt.NDArray[np.float64]
    ) -> Poses3D:
        """Run the network, place its bodies and say how sure that is."""
        body, log_spread = (np.asarray(a, np.float64) for a in self.network(view.features))
        std = LAPLACE_STD * np.exp(log_spread)  # (P, J, 2) across, along
        measured = np.asarray(np.isfinite(view.rays).all(axis=-1))
        place = place_bodies(body, view.rays, std[..., 0], ray_std)
        xyz = body + place.translation[:, None]
        ahead = np.ones(xyz.shape)
        ahead[..., :2] = np.where(measured[..., None], view.rays, 0.0)
        depth = xyz[..., 2:]
        on_ray = depth * ahead
        covariance = _covariance(ahead, depth, measured, std, ray_std, place.covariance)
        stature, stature_std = (each[:, None, None] for each in self._scales(poses.ids))
        turn = view.view_from_camera * stature  # (P, 3, 3), also from statures to metres
        xyz_m = np.where(measured[..., None], on_ray, xyz) @ turn  # rows: the inverse rotation
        turn = turn[:, None]
        covariance = turn.swapaxes(-1, -2) @ covariance @ turn
        wide = stature_std * xyz_m
        covariance += wide[..., :, None] * wide[..., None, :]
        known = measured | (std[..., 0] <= LAPLACE_STD * SPREAD_MAX)
        known &= view.usable[:, None] & (xyz_m[..., 2] > DEPTH_MIN_M)
        return _poses(poses, xyz_m, covariance, known, measured)

    def _scales(self, ids: IntArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Statures (P,) in metres and their relative deviations (P,)."""
        values = [self._statures.get(i, self._default) for i in ids.tolist()]
        table = np.array(values, np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def _sure(poses: Poses2D) -> Poses2D:
    """Poses without the joints of a score below SCORE_MIN."""
    sure = np.asarray(poses.score >= SCORE_MIN)  # False for NaN
    if sure.all():
        return poses
    return replace(
        poses, xy_px=np.where(sure[..., None], poses.xy_px, np.float32(np.nan)),
        score=np.where(sure, poses.score, np.float32(0.0)),
    )  # fmt: skip


def _checked(stature_m: float, stature_std: float) -> tuple[float, float]:
    """Refuse a stature that nobody has."""
    if not (0.4 <= stature_m <= 2.6 and 0.0 <= stature_std <= 0.5):
        raise ConfigError(
            "stature: expected 0.4 to 2.6 m with a relative deviation of 0 to 0.5, "
            f"got {stature_m} and {stature_std}"
        )
    return stature_m, stature_std


def _covariance(
    ahead: npt.NDArray[np.float64], depth: npt.NDArray[np.float64],
    measured: npt.NDArray[np.bool_], std: npt.NDArray[np.float64],
    ray_std: npt.NDArray[Any], place: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Covariances (P, J, 3, 3) in the view and in statures, without the stature's own.

    A measured joint errs along its ray ``ahead`` by the bend of the body and the place, across it
    by its pixels; another one by bend and place in every direction.
    """
    place = PLACE_INFLATION * place[:, None]
    variance = std * std
    along = variance[..., 1] + place[..., 2, 2]
    across = (depth[..., 0] * ray_std) ** 2
    on_ray = (along[..., None] * ahead)[..., :, None] * ahead[..., None, :]
    on_ray += across[..., None, None] * _ACROSS
    free = variance[..., _AXES, None] * _EYE + place
    return np.where(measured[..., None, None], on_ray, free)


def _poses(
    poses: Poses2D, xyz_m: npt.NDArray[np.float64], covariance: npt.NDArray[np.float64],
    known: npt.NDArray[np.bool_], measured: npt.NDArray[np.bool_],
) -> Poses3D:  # fmt: skip
    """Bodies as values; NaN and MISSING where nothing is known."""
    count = np.maximum(measured.sum(axis=1, keepdims=True), 1)
    own = np.where(measured, poses.score, 0.0)
    score = np.where(measured, own, INFERRED_SCORE / count * own.sum(axis=1, keepdims=True))
    kind = np.where(measured, _MEASURED, _INFERRED)
    unknown = np.full(xyz_m.shape, np.nan, np.float32)
    return Poses3D(
        poses.ids,
        np.where(known[..., None], xyz_m, np.nan).astype(np.float32),
        np.where(known[..., None, None], covariance, np.nan).astype(np.float32),
        unknown,
        unknown[..., 0].copy(),
        np.where(known, kind, _MISSING).astype(np.int8),
        np.where(known, score, 0.0).astype(np.float32),
        np.where(known.any(axis=1), _MONO, _UNKNOWN).astype(np.int8),
    )
