"""From joints in pixels to smooth bodies in metres: refine, lift, refine again, angles.

The stages after the network, with all that they remember of people between frames.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pose_ros.core.angles import AngleTracker
from pose_ros.core.body_imu import BodyImus
from pose_ros.core.bones import BoneLengths
from pose_ros.core.config import PipelineConfig
from pose_ros.core.ego import EgoMotion, Movable, StillCamera
from pose_ros.core.lift import DepthLifter
from pose_ros.core.lift_mono import MonocularLifter
from pose_ros.core.penalties import Penalty, checked_plane
from pose_ros.core.refine_energy import RefineConfig, stream_config
from pose_ros.core.refine_inertia import DirectionPrior
from pose_ros.core.refine_stream import Refined, StreamRefiner
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.spread import pixel_std
from pose_ros.core.steady import SteadyPlace
from pose_ros.core.values import (
    Body,
    FloatArray,
    Frame,
    IntArray,
    JointAngles,
    KeypointStatus,
    Poses2D,
    Poses3D,
    Refined2D,
    ScaleSource,
    Tracks,
    TrackState,
)
from pose_ros.errors import ConfigError

#: Relative deviation of a stature that somebody measured.
GIVEN_STATURE_STD = 0.01
#: Relative deviation of a stature that was learned from depth, and how well bones must be known.
LEARNED_STATURE_STD, LEARNED_WEIGHT = 0.04, 0.5
#: Statures outside of this are a misunderstanding between depth and joints.
LEARNABLE_M = (0.7, 2.3)

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Embodier:
    """Everybody's smooth skeleton, metric body and joint angles, frame by frame."""

    def __init__(
        self, skeleton: Skeleton, config: PipelineConfig, mono: MonocularLifter | None,
        ego: EgoMotion | StillCamera | None = None, body: BodyImus | None = None,
        hooks: tuple[Penalty, ...] = (), ground: Floats | None = None,
    ) -> None:  # fmt: skip
        """Know nobody; ``mono`` lifts people whom no depth image shows, None if nothing may.

        ``body`` are the sensors that somebody wears; ``ego`` tells the camera's orientation, which
        they need. ``hooks`` are a task's own penalties of the joints in metres; ``ground`` (4,)
        the floor's unit normal n (up) and offset d, n . p + d >= 0 for points p of the optical
        frame above it: nobody's knees or ankles are far below. It turns with the camera.

        Raises:
            ShapeError: ``ground`` is no plane.

        """
        self.skeleton = skeleton
        self.ego, self.body = ego, body
        self._prior = DirectionPrior(skeleton)
        self.config = config
        self.depth = DepthLifter(skeleton, config.depth)
        self.mono = mono
        longest_s = config.filter.max_prediction_s
        self._flat = StreamRefiner(skeleton, 2, _stream_config(2, longest_s))
        own = () if body is None else (self._prior,)
        self._deep = StreamRefiner(skeleton, 3, _stream_config(3, longest_s), (*own, *hooks))
        self._deep.ground = None if ground is None else checked_plane(ground)
        self._bounds, self.bones = BoneLengths(skeleton, 2), BoneLengths(skeleton, 3)
        wanted = config.joints.convention
        self._angles = None if wanted == "none" else AngleTracker(skeleton, wanted)
        self._scales = Scales(longest_s)
        self._place = SteadyPlace(skeleton)

    def reset(self) -> None:
        """Forget everybody."""
        for memory in (self._flat, self._deep, self._bounds, self.bones, self._angles, self.mono):
            if memory is not None:
                memory.reset()
        for stage in (self.depth, self._scales, self._place):
            stage.reset()
        if self.body is not None:
            self.body.reset()

    @property
    def memories(self) -> tuple[tuple[Movable, ...], tuple[Movable, ...]]:
        """What remembers pixels, and what metres and rays, for `EgoMotion.carry`."""
        deep: tuple[Movable, ...] = (self._deep, self._place)
        return (self._flat,), deep if self.mono is None else (*deep, self.mono)

    def refine(self, stamp_ns: int, tracks: Tracks, poses: Poses2D) -> Refined2D | None:
        """Smooth joints in pixels, unseen ones filled in; None when refinement is off.

        A joint that is not seen is INFERRED, PREDICTED where the whole person is not; beyond
        ``filter.max_prediction_s`` it is MISSING.
        """
        gone = tracks.ids[tracks.state == TrackState.LOST]
        for memory in (self._flat, self._deep, self._bounds, self.bones, self._place):
            memory.forget(gone)
        if self.config.filter.type == "none":
            return None
        alive = np.flatnonzero(tracks.state != TrackState.LOST)
        ids, seen = tracks.ids[alive], poses.select(alive)
        size_px = tracks.xyxy_px[alive, 3] - tracks.xyxy_px[alive, 1]
        self._bounds.update(ids, seen.xy_px, seen.score, person_px=size_px)
        now = self._flat.update(
            stamp_ns, ids, seen.xy_px, seen.score, pixel_std(seen),
            self._bounds.lengths(ids, size_px), size_px, self._bounds.weights(ids),
        )  # fmt: skip
        people, joints = poses.score.shape
        xy_px = np.full((people, joints, 2), np.nan, np.float32)
        std_px = np.full((people, joints), np.nan, np.float32)
        score, status = np.zeros_like(std_px), np.zeros((people, joints), np.int8)
        xy_px[alive], score[alive] = now.points, now.score
        std_px[alive] = np.sqrt(np.einsum("pjaa->pj", now.covariance) / 2)
        found = np.asarray(np.isfinite(seen.xy_px).all(axis=-1).any(axis=-1))
        status[alive] = _told(now.status, found)
        return Refined2D(Poses2D(tracks.ids, xy_px, score, std_px), status)

    def lift(self, frame: Frame, tracks: Tracks, poses: Poses2D) -> Poses3D | None:
        """Joints in metres as this frame alone tells them; None without a calibrated camera."""
        source = self.config.lift.source
        if source == "none" or frame.camera is None:
            return None
        metric = Poses3D.unknown(poses.ids, len(self.skeleton))
        if source != "mono" and frame.depth is not None:
            metric = self.depth.lift(frame, poses)
        if source != "depth" and self.mono is not None:
            self._hand_over(self.mono, metric)
            guessed = self.mono.lift(frame, poses)
            metric = self._scales.choose(frame.stamp_ns, metric, guessed)
        changed = self._scales.note(frame.stamp_ns, metric)
        for memory in (self._deep, self._place):
            memory.forget(changed)
        if self.mono is not None:
            sure = self.mono.stature_std(changed) <= LEARNED_STATURE_STD
            self.bones.forget(changed[~sure])
        return metric

    def _hand_over(self, mono: MonocularLifter, metric: Poses3D) -> None:
        """Tell ``mono`` how tall those are who were seen with depth and are not now.

        Their metres then keep their scale, and what was learned of their bones stays true.
        """
        away = metric.scale == ScaleSource.UNKNOWN
        away &= self._scales.of(metric.ids) == ScaleSource.DEPTH
        away &= mono.stature_std(metric.ids) > LEARNED_STATURE_STD
        ids = metric.ids[away]
        stature_m = self.bones.stature_m(ids)
        known = np.median(self.bones.weights(ids), axis=-1) >= LEARNED_WEIGHT
        known &= (stature_m >= LEARNABLE_M[0]) & (stature_m <= LEARNABLE_M[1])
        for person, tall_m in zip(ids[known].tolist(), stature_m[known].tolist(), strict=True):
            mono.set_stature(person, tall_m, LEARNED_STATURE_STD)

    def embody(self, stamp_ns: int, tracks: Tracks, metric: Poses3D) -> Body:
        """Smooth bodies with velocities, learned bone lengths and joint angles.

        Without refinement positions are those of the frame alone, velocities unknown.
        """
        alive = np.flatnonzero(tracks.state != TrackState.LOST)
        ids = tracks.ids[alive]
        points, score = metric.xyz_m[alive], metric.score[alive]
        measured = metric.status[alive] == KeypointStatus.MEASURED
        smooth = self.config.filter.type != "none"
        steady = self._place.update(
            stamp_ns, ids, points, (metric.covariance_m2 - self._shared(metric))[alive],
            metric.scale[alive] == ScaleSource.MONO,
        )  # fmt: skip
        points = steady.xyz_m if smooth else points
        std = np.sqrt(np.einsum("pjaa->pj", steady.noise_m2) / 3)
        own = np.where(measured, score, 0.0).astype(np.float32)
        self.bones.update(ids, points, own, std)
        lengths = np.full((len(tracks), len(self.skeleton.edges)), np.nan, np.float32)
        told = metric.scale[alive] != ScaleSource.UNKNOWN
        lengths[alive[told]] = self.bones.lengths(ids)[told]
        poses, age_s = metric, None
        if smooth:
            self._feel(stamp_ns, ids, points, own)
            now = self._deep.update(
                stamp_ns, ids, points, score, steady.noise_m2,
                self.bones.lengths(ids), length_weight=self.bones.weights(ids),
            )  # fmt: skip
            poses = self._smooth(metric, alive, now, steady.lasting_m2)
            age_s = np.full(metric.score.shape, np.inf, np.float32)
            age_s[alive] = now.age_s
        return Body(poses, lengths, age_s=age_s)

    def _feel(self, stamp_ns: int, ids: IntArray, points_m: FloatArray, score: FloatArray) -> None:
        """Teach worn sensors the measured joints (P, J, 3), and pass on what they say."""
        if self.body is None:
            return
        world = None if self.ego is None else self.ego.world(stamp_ns)
        self.body.learn(stamp_ns, ids, points_m, score, world)
        told = self.body.tell(stamp_ns, ids, world, self.bones.lengths(ids))
        self._deep.inertia = self._prior.told = told

    def sized(self, person_id: int, stature_m: float) -> tuple[float, FloatArray, FloatArray]:
        """Stature of a person, bone lengths (E,) and how well they are known (E,).

        ``stature_m`` > 0 is taken over first, known to 1 %: from then on the metres of a person
        who is seen by one camera rest on it, and what was learned from one camera before is made
        to fit.

        Raises:
            ConfigError: a stature that nobody has, or nothing here rests on a stature.

        """
        ids = np.array([person_id])
        if stature_m != 0:
            if self.mono is None:
                raise ConfigError("lift.source: metres rest on depth only, not on a stature")
            before_m = float(self.mono.stature_m(ids)[0])
            self.mono.set_stature(person_id, float(stature_m), GIVEN_STATURE_STD)
            if self._scales.of(ids)[0] == ScaleSource.MONO and stature_m != before_m:
                self.bones.rescale(ids, float(stature_m) / before_m)
                self._deep.forget(ids)
                self._place.forget(ids)
        learned = self.bones.stature_m(ids) if self.mono is None else self.mono.stature_m(ids)
        return float(learned[0]), self.bones.lengths(ids)[0], self.bones.weights(ids)[0]

    def angles(self, stamp_ns: int, poses: Poses3D) -> JointAngles | None:
        """Joint angles in the configured convention; None when they are off."""
        return None if self._angles is None else self._angles.update(poses, stamp_ns)

    def _shared(self, metric: Poses3D) -> FloatArray:
        """(P, J, 3, 3) the part of the covariance that is the stature's and never averages out.

        From one camera the distance of a person rests on a stature that stays the same.
        """
        if self.mono is None:
            return np.zeros_like(metric.covariance_m2)
        ratio = np.where(metric.scale == ScaleSource.MONO, self.mono.stature_std(metric.ids), 0.0)
        along = metric.xyz_m[..., :, None] * metric.xyz_m[..., None, :]
        shared: FloatArray = ((ratio**2)[:, None, None, None] * along).astype(np.float32)
        return shared

    def _smooth(
        self, metric: Poses3D, alive: IntArray, now: Refined, lasting_m2: FloatArray
    ) -> Poses3D:
        """The refiner's answer as poses; what frames share is added to the covariance again."""
        out = Poses3D.unknown(metric.ids, len(self.skeleton))
        out.xyz_m[alive], out.velocity_m_s[alive] = now.points, now.velocity
        out.speed_std_m_s[alive], out.score[alive] = now.speed_std, now.score
        known = (metric.status[alive] != KeypointStatus.MISSING).any(axis=-1)
        status = _told(now.status, known)
        own = metric.status[alive]
        weaker = (status == KeypointStatus.MEASURED) & (own != KeypointStatus.MEASURED)
        out.status[alive] = np.where(weaker, own, status)
        out.scale[alive] = np.where(
            (status != KeypointStatus.MISSING).any(axis=-1), self._scales.of(metric.ids[alive]), 0
        )
        out.covariance_m2[alive] = now.covariance + lasting_m2
        shared = self._shared(out)
        return dataclasses.replace(out, covariance_m2=out.covariance_m2 + shared)


def _stream_config(dims: int, longest_s: float) -> RefineConfig:
    """A joint's history lasts at least as long as it is predicted."""
    usual = stream_config(dims)
    gap_s = max(usual.max_gap_s, longest_s)
    return dataclasses.replace(usual, max_prediction_s=longest_s, max_gap_s=gap_s)


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


def _told(status: npt.NDArray[np.int8], person_seen: Mask) -> npt.NDArray[np.int8]:
    """INFERRED becomes PREDICTED (P, J) for people of whom nothing was seen."""
    predicted = (status == KeypointStatus.INFERRED) & ~person_seen[:, None]
    return np.where(predicted, KeypointStatus.PREDICTED, status).astype(np.int8)
