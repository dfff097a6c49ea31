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
from pose_ros.core.config import PipelineConfig, ground_of
from pose_ros.core.ego import EgoMotion, Movable, StillCamera, believed_up
from pose_ros.core.late import Line, Sight, Turning, told_of
from pose_ros.core.lift import DepthLifter
from pose_ros.core.lift_mono import MonocularLifter
from pose_ros.core.penalties import Penalty, checked_plane
from pose_ros.core.refine_energy import RefineConfig, stream_config
from pose_ros.core.refine_inertia import DirectionPrior
from pose_ros.core.refine_stream import STEP_S, Refined, StreamRefiner
from pose_ros.core.scales import Scales as Scales
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.spread import pixel_std
from pose_ros.core.steady import SteadyPlace, wandering_m_s
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
#: Between the frames that stand in for those that do not come: the shortest step of the refiners.
BLANK_NS = round(STEP_S * 1e9)

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
        frame above it: nobody's knees or ankles are far below. It turns with the camera. None:
        as ``filter.ground`` says.

        Raises:
            ShapeError: ``ground`` is no plane.
            ConfigError: ``filter.ground`` is a height, and nobody tells where up is.

        """
        self.skeleton = skeleton
        self.ego, self.body = ego, body
        self._prior = DirectionPrior(skeleton)
        self.config = config
        self.depth = DepthLifter(skeleton, config.depth)
        self.mono = mono
        longest_s, self.lag = config.filter.max_prediction_s, config.filter.lag
        self._flat = StreamRefiner(skeleton, 2, _stream_config(2, longest_s, self.lag))
        own, deep = () if body is None else (self._prior,), _stream_config(3, longest_s, self.lag)
        self._deep = StreamRefiner(skeleton, 3, deep, (*own, *hooks))
        floor = ground_of(config.filter.ground) if ground is None else ground
        self._height_m = floor if isinstance(floor, float) else None
        if self._height_m is not None and ego is None:
            raise ConfigError(
                "filter.ground: a height needs imu.enable, which tells where up is (imu.axes none "
                "and imu.tilt_deg for a camera that stands still); or give a plane 'a b c d'"
            )
        if floor is not None and self._height_m is None:
            self._deep.ground = checked_plane(floor)
        self._bounds, self.bones = BoneLengths(skeleton, 2), BoneLengths(skeleton, 3)
        wanted = config.joints.convention
        self._angles = None if wanted == "none" else AngleTracker(skeleton, wanted)
        self._scales = Scales(longest_s)
        self._place = SteadyPlace(skeleton)
        self._line = Line(self.lag)

    def reset(self) -> None:
        """Forget everybody."""
        for memory in (self._flat, self._deep, self._bounds, self.bones, self._angles, self.mono):
            if memory is not None:
                memory.reset()
        for stage in (self.depth, self._scales, self._place, self._line):
            stage.reset()
        if self.body is not None:
            self.body.reset()

    @property
    def memories(self) -> tuple[tuple[Movable, ...], tuple[Movable, ...]]:
        """What remembers pixels, and what metres and rays, for `EgoMotion.carry`."""
        flat: tuple[Movable, ...] = (self._flat,)
        deep: tuple[Movable, ...] = (self._deep, self._place)
        if self.lag:
            flat = (*flat, Turning(self._line, "newest_px"))
            deep = (*deep, Turning(self._line, "newest_axes"))
        return flat, deep if self.mono is None else (*deep, self.mono)

    @property
    def due_ns(self) -> int | None:
        """Stamp of the frame whose joints the newest frame completes; None while none is."""
        due = self._line.due
        return None if due is None else due.stamp_ns

    def breaks(self, frame: Frame) -> bool:
        """Whether ``frame`` says nothing of those that wait: ask for `rest` before it.

        It comes too late or too early, or only one of both has a calibrated camera.
        """
        newest = self._line.newest
        if not self.lag or newest is None:
            return False
        gap_s = (frame.stamp_ns - newest.stamp_ns) * 1e-9
        lifted = self.config.lift.source != "none" and frame.camera is not None
        known = newest.metric is not None
        return not 0.0 < gap_s <= self._flat.config.max_gap_s or lifted != known

    def rest(self) -> list[tuple[int, Refined2D | None, Body | None]]:
        """Answers to the frames that wait for later ones, which do not come, oldest first.

        Each with its stamp. The refiners are shown frames without anybody instead, a millisecond
        apart; who is known stays known.
        """
        waiting, newest = self._line.waiting, self._line.newest
        self._line.reset()  # first: what cannot be answered is not asked for again
        answers: list[tuple[int, Refined2D | None, Body | None]] = []
        if newest is None:
            return []
        ids = newest.tracks.ids[newest.alive]
        nothing = np.full((len(ids), len(self.skeleton), 3), np.nan, np.float32)
        unseen = np.zeros(nothing.shape[:2], np.float32)
        for number in range(self.lag):
            stamp_ns = newest.stamp_ns + (number + 1) * BLANK_NS
            flat = self._flat_step(newest, stamp_ns, Poses2D(ids, nothing[..., :2].copy(), unseen))
            deep = None
            if any(sight.metric is not None for sight in waiting):
                deep = self._deep_step(stamp_ns, ids, (nothing, unseen, None))
            at = number + len(waiting) - self.lag
            if at >= 0:
                sight = waiting[at]
                body = None if deep is None else self._body(sight, deep, ids)
                answers.append((sight.stamp_ns, self._refined(sight, flat, ids), body))
        return answers

    def refine(self, stamp_ns: int, tracks: Tracks, poses: Poses2D) -> Refined2D | None:
        """Smooth joints in pixels, unseen ones filled in; None when refinement is off.

        A joint that is not seen is INFERRED, PREDICTED where the whole person is not; beyond
        ``filter.max_prediction_s`` it is MISSING. With ``filter.lag`` the answer is about the
        frame of `due_ns`, None while there is none.
        """
        gone = tracks.ids[tracks.state == TrackState.LOST]
        for memory in (self._flat, self._deep, self._bounds, self.bones, self._place):
            memory.forget(gone)
        sight = Sight(stamp_ns, tracks, poses)
        self._line.add(sight)
        if self.config.filter.type == "none":
            return None
        seen = poses.select(sight.alive)
        size_px = _heights(tracks)[sight.alive]
        self._bounds.update(seen.ids, seen.xy_px, seen.score, person_px=size_px)
        now, due = self._flat_step(sight, stamp_ns, seen), self._line.due
        return None if due is None else self._refined(due, now, seen.ids)

    def _flat_step(self, sight: Sight, stamp_ns: int, seen: Poses2D) -> Refined:
        """Show the refiner in pixels a frame of the people of ``sight``."""
        ids, size_px = seen.ids, _heights(sight.tracks)[sight.alive]
        return self._flat.update(
            stamp_ns, ids, seen.xy_px, seen.score, pixel_std(seen),
            self._bounds.lengths(ids, size_px), size_px, self._bounds.weights(ids),
        )  # fmt: skip

    def _refined(self, sight: Sight, now: Refined, ids: IntArray) -> Refined2D:
        """What the refiner says of the people of a sight; who is unknown to it is as seen."""
        poses, alive = sight.poses, sight.alive
        assert poses is not None
        which, told = told_of(now, ids, sight)
        found, rows = np.asarray(np.isfinite(poses.xy_px).all(axis=-1)), alive[which]
        xy_px = np.full_like(poses.xy_px, np.nan)
        std_px = np.full_like(poses.score, np.nan)
        score, status = np.zeros_like(std_px), np.zeros(found.shape, np.int8)
        if len(rows) < len(alive):
            xy_px, std_px, score = poses.xy_px.copy(), pixel_std(poses), poses.score.copy()
            status[found] = KeypointStatus.MEASURED
        xy_px[rows], score[rows] = told.points, told.score
        std_px[rows] = np.sqrt(np.einsum("pjaa->pj", told.covariance) / 2)
        status[rows] = _told(told.status, np.asarray(found[rows].any(axis=-1)))
        return Refined2D(Poses2D(poses.ids, xy_px, score, std_px), status)

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

    def embody(self, stamp_ns: int, tracks: Tracks, metric: Poses3D) -> Body | None:
        """Smooth bodies with velocities, learned bone lengths and joint angles.

        Without refinement positions are those of the frame alone, velocities unknown. With
        ``filter.lag`` they are those of the frame of `due_ns`, None while there is none.
        """
        sight = self._line.newest
        if sight is None or sight.tracks is not tracks:
            sight = Sight(stamp_ns, tracks)
            self._line.add(sight)
        alive = sight.alive
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
        sight.metric, sight.lengths_m, sight.lasting_m2 = metric, lengths, steady.lasting_m2
        sight.scale = self._scales.of(metric.ids)
        if not smooth:
            return Body(metric, lengths)
        self._feel(stamp_ns, ids, points, own)
        now, due = self._deep_step(stamp_ns, ids, (points, score, steady.noise_m2)), self._line.due
        return None if due is None else self._body(due, now, ids)

    def _deep_step(
        self, stamp_ns: int, ids: IntArray, seen: tuple[FloatArray, FloatArray, FloatArray | None]
    ) -> Refined:
        """Show the refiner in metres a frame: joints (P, J, 3), score and covariance."""
        if self._height_m is not None:
            up = believed_up(self.ego, stamp_ns)
            self._deep.ground = None if up is None else np.append(up, self._height_m)
        points, score, noise_m2 = seen
        return self._deep.update(
            stamp_ns, ids, points, score, noise_m2,
            self.bones.lengths(ids), length_weight=self.bones.weights(ids),
        )  # fmt: skip

    def _body(self, sight: Sight, now: Refined, ids: IntArray) -> Body | None:
        """What the refiner says of the people of a sight; who is unknown to it is as seen."""
        if sight.metric is None or sight.lengths_m is None:
            return None
        which, told = told_of(now, ids, sight)
        poses = self._smooth(sight, which, told)
        seen = sight.metric.status == KeypointStatus.MEASURED
        age_s = np.where(seen, 0.0, np.inf).astype(np.float32)
        age_s[sight.alive[which]] = told.age_s
        return Body(poses, sight.lengths_m, age_s=age_s)

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

    def _smooth(self, sight: Sight, which: IntArray, now: Refined) -> Poses3D:
        """The refiner's answer as poses; what frames share is added to the covariance again."""
        metric, alive = sight.metric, sight.alive
        assert metric is not None and sight.lasting_m2 is not None and sight.scale is not None
        out, rows = Poses3D.unknown(metric.ids, len(self.skeleton)), alive[which]
        if len(rows) < len(alive):  # who is unknown to the refiner stands as the frame alone says
            out = dataclasses.replace(metric, **{n: v.copy() for n, v in vars(metric).items()})
        out.xyz_m[rows], out.velocity_m_s[rows] = now.points, now.velocity
        lasting_m2 = sight.lasting_m2[which]
        out.speed_std_m_s[rows] = np.hypot(now.speed_std, wandering_m_s(lasting_m2))
        out.score[rows] = now.score
        known = (metric.status[rows] != KeypointStatus.MISSING).any(axis=-1)
        status = _told(now.status, known)
        own = metric.status[rows]
        weaker = (status == KeypointStatus.MEASURED) & (own != KeypointStatus.MEASURED)
        out.status[rows] = np.where(weaker, own, status)
        placed = (status != KeypointStatus.MISSING).any(axis=-1)
        out.scale[rows] = np.where(placed, sight.scale[rows], ScaleSource.UNKNOWN)
        out.covariance_m2[rows] = now.covariance + lasting_m2
        shared = self._shared(out)
        if len(rows) < len(alive):
            shared[np.delete(alive, which)] = 0.0  # stated already
        return dataclasses.replace(out, covariance_m2=out.covariance_m2 + shared)


def _heights(tracks: Tracks) -> FloatArray:
    """(P,) of the boxes, pixels."""
    return tracks.xyxy_px[:, 3] - tracks.xyxy_px[:, 1]


def _stream_config(dims: int, longest_s: float, lag: int) -> RefineConfig:
    """A joint's history lasts at least as long as it is predicted."""
    usual = stream_config(dims)
    gap_s = max(usual.max_gap_s, longest_s)
    return dataclasses.replace(usual, max_prediction_s=longest_s, max_gap_s=gap_s, lag=lag)


def _told(status: npt.NDArray[np.int8], person_seen: Mask) -> npt.NDArray[np.int8]:
    """INFERRED becomes PREDICTED (P, J) for people of whom nothing was seen."""
    predicted = (status == KeypointStatus.INFERRED) & ~person_seen[:, None]
    return np.where(predicted, KeypointStatus.PREDICTED, status).astype(np.int8)
