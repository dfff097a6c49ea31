"""Pipeline results as ROS messages, of whichever ROS library provides the classes.

The live node fills the classes that ROS generated, the bag tools those of ``rosbags``; the fields
are filled here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pose_ros.core.angles import coco_joints, get_convention
from pose_ros.core.rep155 import body_frame
from pose_ros.core.skeletons import COCO17, Skeleton
from pose_ros.core.values import Body, JointAngles, KeypointStatus, PoseResult

NAN = math.nan
SECOND_NS = 1_000_000_000
UNKNOWN = -1.0  # of a covariance's diagonal
_HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
_UPPER = np.array([0, 1, 2, 4, 5, 8])  # of a row-major 3 x 3 matrix: Keypoint.covariance


@dataclass(frozen=True)
class MessageTypes:
    """Constructors of messages; each takes fields by name and leaves the others at zero."""

    human_pose_array: Callable[..., Any]
    human_pose: Callable[..., Any]
    human_joint_state_array: Callable[..., Any]
    human_joint_state: Callable[..., Any]
    keypoint: Callable[..., Any]
    point: Callable[..., Any]
    vector3: Callable[..., Any]
    quaternion: Callable[..., Any]
    pose: Callable[..., Any]
    twist: Callable[..., Any]
    region_of_interest: Callable[..., Any]
    time: Callable[..., Any]
    floats: Callable[[Sequence[float]], Any]  # a float32[] field
    doubles: Callable[[Sequence[float]], Any]  # a float64[] field
    octets: Callable[[Sequence[int]], Any]  # a uint8[] field
    flags: Callable[[Sequence[bool]], Any]  # a bool[] field


def body_id(track_id: int) -> str:
    """REP-155 id of a track."""
    return f"b{track_id:05d}"


class PoseMessages:
    """Builds ``HumanPoseArray`` messages; people are pooled, so one is valid until the next."""

    def __init__(self, types: MessageTypes, skeleton: Skeleton, score_min: float) -> None:
        """Prepare for a joint set; joints scoring less than ``score_min`` become MISSING."""
        self.score_min = score_min
        self._types = types
        self._skeleton = skeleton
        self._hips = [skeleton.index(COCO17.joints[i]) for i in _HIPS]
        self._pool: list[Any] = []
        self._metric = False  # whether the pool holds metric values

    def time(self, stamp_ns: int) -> Any:
        """Message stamp of nanoseconds."""
        return self._types.time(sec=stamp_ns // SECOND_NS, nanosec=stamp_ns % SECOND_NS)

    def array(self, result: PoseResult, header: Any) -> Any:
        """Everybody of ``result``; sequence, health and publish_stamp are the caller's."""
        people = len(result.tracks)
        if self._metric and result.body is None:
            self._pool, self._metric = [], False
        while len(self._pool) < people:
            self._pool.append(self._unknown_human())
        humans = self._pool[:people]
        if people:
            self._fill(humans, result)
            if result.body is not None:
                self._metric = True
                self._fill_metric(humans, result.body)
        return self._types.human_pose_array(
            header=header, layout=self._skeleton.name, humans=humans
        )

    def joint_angles(self, result: PoseResult, header: Any, convention: str) -> Any:
        """Joint angles of everybody, NaN where there are none; health is the caller's.

        Raises:
            ConfigError: for an unknown convention.

        """
        angles = result.body.angles if result.body is not None else None
        if angles is None:
            angles = _no_angles(result, convention)
        return self._types.human_joint_state_array(
            header=header, convention=convention,
            humans=self._angles(angles, result.tracks.state),
        )  # fmt: skip

    def _fill(self, humans: list[Any], result: PoseResult) -> None:
        tracks = result.tracks
        status, uvc = self._joints(result)
        boxes = _pixel_boxes(result)
        for row, human in enumerate(humans):
            human.id = int(tracks.ids[row])
            human.body_id = body_id(human.id)
            human.state = int(tracks.state[row])
            human.confidence = float(tracks.confidence[row])
            human.last_seen = self.time(int(tracks.last_seen_ns[row]))
            x0, y0, x1, y1 = boxes[row]
            human.roi = self._types.region_of_interest(
                x_offset=x0, y_offset=y0, width=max(0, x1 - x0), height=max(0, y1 - y0)
            )
            for point, kind, (u, v, c) in zip(human.keypoints, status[row], uvc[row], strict=True):
                point.status, point.u, point.v, point.confidence = kind, u, v, c

    def _joints(self, result: PoseResult) -> tuple[list[Any], list[Any]]:
        """Status (P, J) and u, v, confidence (P, J, 3) as lists of Python numbers.

        The status is the worse one (`KeypointStatus` counts that way up) of pixels and position
        where both are known, and that of the known one otherwise, but of a joint that the network
        doubts at best INFERRED. So is the confidence of joints of which only the position is
        known.
        """
        poses = result.shown
        xy, score = poses.xy_px, poses.score
        known = np.isfinite(xy).all(axis=2) & (score > 0.0) & (score >= self.score_min)
        status = np.full(score.shape, KeypointStatus.MEASURED, np.int8)
        if result.refined is not None:  # what is filled in scores little and is told apart
            status = result.refined.status.copy()
            filled = (status == KeypointStatus.INFERRED) | (status == KeypointStatus.PREDICTED)
            known |= np.isfinite(xy).all(axis=2) & (score > 0.0) & filled
        outside = known & ((xy < -0.5) | (xy >= np.array(result.size_px) - 0.5)).any(axis=2)
        status[outside] = KeypointStatus.OUT_OF_IMAGE
        uvc = np.concatenate([xy, score[:, :, None]], axis=2).astype(np.float64)
        uvc[~known] = (NAN, NAN, 0.0)
        status[~known] = KeypointStatus.MISSING
        if result.body is not None:  # pixels that were seen do not make a guessed place measured
            metric = result.body.poses
            placed = np.isfinite(metric.xyz_m).all(axis=2)
            status = np.where(placed, np.maximum(status, metric.status), status)
            doubted = placed & ~known & (score > 0.0)
            status[doubted] = np.maximum(status[doubted], KeypointStatus.INFERRED)
            uvc[..., 2] = np.where(placed & ~known, metric.score, uvc[..., 2])
        rows: list[Any] = np.asarray(status).tolist()
        return rows, uvc.tolist()

    def _fill_metric(self, humans: list[Any], body: Body) -> None:
        poses = body.poses
        covariance = poses.covariance_m2.reshape(*poses.score.shape, 9).take(_UPPER, axis=-1)
        covariance[np.isnan(covariance).any(axis=-1)] = (UNKNOWN, *[0.0] * 5)
        rows = zip(
            humans, poses.scale.tolist(), body.lengths_m.tolist(),
            poses.xyz_m.tolist(), poses.velocity_m_s.tolist(), poses.speed_std_m_s.tolist(),
            covariance, strict=True,
        )  # fmt: skip
        for human, scale, lengths, places, speeds, deviations, spread in rows:
            human.scale_source = scale
            human.segment_lengths = self._types.floats(lengths)
            for i, joint in enumerate(human.keypoints):
                at, moves = joint.position, joint.velocity
                at.x, at.y, at.z = places[i]
                moves.x, moves.y, moves.z = speeds[i]
                joint.speed_stddev = deviations[i]
                joint.covariance = spread[i]
        self._fill_roots(humans, body)

    def _fill_roots(self, humans: list[Any], body: Body) -> None:
        """Middle of the hips, which way the body faces, and how it moves."""
        joints = coco_joints(body.poses, self._skeleton)
        angles = body.angles
        held = angles is not None and angles.convention == "rep155"
        waist = angles.angle_rad[:, 0].astype(np.float64) if angles is not None and held else None
        rotation, origin = body_frame(joints, waist)
        turned = np.asarray(np.isfinite(rotation).all(axis=(1, 2)))
        quaternion = quaternions(np.where(turned[:, None, None], rotation, np.eye(3)))
        quaternion[~turned] = NAN
        velocity = self._at_hips(body.poses.velocity_m_s)
        spread = self._at_hips(body.poses.covariance_m2)
        speed_variance = self._at_hips(body.poses.speed_std_m_s**2)
        linear = speed_variance[:, None, None] * np.eye(3)
        covariances = _pose_covariances(spread, origin), _pose_covariances(linear, velocity)
        for row, human in enumerate(humans):
            pose, twist = human.root.pose, human.root_velocity.twist
            at, facing, moves = pose.position, pose.orientation, twist.linear
            at.x, at.y, at.z = origin[row].tolist()
            facing.x, facing.y, facing.z, facing.w = quaternion[row].tolist()
            moves.x, moves.y, moves.z = velocity[row].tolist()
            human.root.covariance = covariances[0][row]
            human.root_velocity.covariance = covariances[1][row]

    def _at_hips(self, values: np.ndarray) -> np.ndarray:
        """Mean (P, ...) over both hips of what joints (P, J, ...) have."""
        left, right = self._hips
        return np.asarray(0.5 * (values[:, left] + values[:, right]))

    def _angles(self, angles: JointAngles, state: np.ndarray) -> list[Any]:
        types = self._types
        names = list(angles.names)
        return [
            types.human_joint_state(
                id=number,
                body_id=body_id(number),
                state=int(state[row]),
                name=names,
                position=types.doubles(angles.angle_rad[row].tolist()),
                velocity=types.doubles(angles.velocity_rad_s[row].tolist()),
                position_stddev=types.floats(angles.std_rad[row].tolist()),
                status=types.octets(angles.status[row].tolist()),
                beyond_limit=types.flags(angles.beyond_limit[row].tolist()),
            )
            for row, number in enumerate(angles.ids.tolist())
        ]

    def _unknown_human(self) -> Any:
        """Build a person of whom nothing metric is known: NaN, and covariances marked unknown."""
        types = self._types
        human = types.human_pose(scale_source=0)
        human.root.pose = types.pose(
            position=types.point(x=NAN, y=NAN, z=NAN),
            orientation=types.quaternion(x=NAN, y=NAN, z=NAN, w=NAN),
        )
        human.root_velocity.twist = types.twist(linear=self._nowhere(), angular=self._nowhere())
        human.root.covariance[0] = human.root_velocity.covariance[0] = UNKNOWN
        human.segment_lengths = types.floats([NAN] * len(self._skeleton.edges))
        human.keypoints = [self._missing_keypoint() for _ in self._skeleton.joints]
        return human

    def _nowhere(self) -> Any:
        return self._types.vector3(x=NAN, y=NAN, z=NAN)

    def _missing_keypoint(self) -> Any:
        keypoint = self._types.keypoint(
            status=0, u=NAN, v=NAN, speed_stddev=NAN, velocity=self._nowhere(),
            position=self._types.point(x=NAN, y=NAN, z=NAN),
        )  # fmt: skip
        keypoint.covariance[0] = UNKNOWN
        return keypoint


def _no_angles(result: PoseResult, convention: str) -> JointAngles:
    names = get_convention(convention).names
    shape = (len(result.tracks), len(names))
    unknown = np.full(shape, np.nan, np.float32)
    return JointAngles(
        result.tracks.ids, convention, names, unknown, unknown, unknown,
        np.zeros(shape, np.int8), np.zeros(shape, np.bool_),
    )  # fmt: skip


def quaternions(rotation: np.ndarray) -> np.ndarray:
    """(P, 4) unit quaternions x, y, z, w, w >= 0, of rotations (P, 3, 3)."""
    r = rotation
    d, e, f = r[:, 0, 0], r[:, 1, 1], r[:, 2, 2]
    # Row i is 4 q_i q; the longest one is sure, whatever the turn.
    table = np.empty((len(r), 4, 4))
    table[:, 0, 0], table[:, 1, 1] = 1.0 + d - e - f, 1.0 - d + e - f
    table[:, 2, 2], table[:, 3, 3] = 1.0 - d - e + f, 1.0 + d + e + f
    table[:, 0, 1] = table[:, 1, 0] = r[:, 0, 1] + r[:, 1, 0]
    table[:, 0, 2] = table[:, 2, 0] = r[:, 0, 2] + r[:, 2, 0]
    table[:, 1, 2] = table[:, 2, 1] = r[:, 1, 2] + r[:, 2, 1]
    table[:, 0, 3] = table[:, 3, 0] = r[:, 2, 1] - r[:, 1, 2]
    table[:, 1, 3] = table[:, 3, 1] = r[:, 0, 2] - r[:, 2, 0]
    table[:, 2, 3] = table[:, 3, 2] = r[:, 1, 0] - r[:, 0, 1]
    chosen = table[np.arange(len(r)), table.diagonal(0, 1, 2).argmax(axis=1)]
    chosen /= np.sqrt((chosen * chosen).sum(axis=1, keepdims=True))
    return np.where(chosen[:, 3:] < 0, -chosen, chosen)


def _pose_covariances(linear: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Row-major (P, 36) of poses or twists: the linear blocks (P, 3, 3), the rest marked unknown.

    A block counts where it and ``known`` (P, 3) are finite.
    """
    out = np.zeros((len(linear), 6, 6))
    out[:, :3, :3] = linear
    told = np.isfinite(linear).all(axis=(1, 2)) & np.isfinite(known).all(axis=1)
    if not told.all():
        out[~told] = 0.0
        out[~told, 0, 0] = UNKNOWN
    out[:, 3, 3] = UNKNOWN
    return out.reshape(-1, 36)


def _pixel_boxes(result: PoseResult) -> list[list[int]]:
    """Boxes (P, 4) in whole pixels, clipped to the image."""
    limit = np.array(result.size_px * 2)
    boxes = np.nan_to_num(result.tracks.xyxy_px).astype(np.float64)
    return np.clip(np.rint(boxes), 0, limit).astype(int).tolist()
