"""Pipeline results as ``HumanPoseArray`` messages, of whichever ROS library provides the classes.

The live node fills the classes that ROS generated, the bag tools those of ``rosbags``; the fields
are filled here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import PoseResult

NAN = math.nan
SECOND_NS = 1_000_000_000
MISSING, MEASURED, OUT_OF_IMAGE = 0, 1, 4  # Keypoint.msg
SCALE_UNKNOWN = 0  # HumanPose.msg


@dataclass(frozen=True)
class MessageTypes:
    """Constructors of messages; each takes fields by name and leaves the others at zero."""

    human_pose_array: Callable[..., Any]
    human_pose: Callable[..., Any]
    keypoint: Callable[..., Any]
    point: Callable[..., Any]
    vector3: Callable[..., Any]
    quaternion: Callable[..., Any]
    pose: Callable[..., Any]
    twist: Callable[..., Any]
    region_of_interest: Callable[..., Any]
    time: Callable[..., Any]
    floats: Callable[[Sequence[float]], Any]  # a float32[] field


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
        self._pool: list[Any] = []

    def time(self, stamp_ns: int) -> Any:
        """Message stamp of nanoseconds."""
        return self._types.time(sec=stamp_ns // SECOND_NS, nanosec=stamp_ns % SECOND_NS)

    def array(self, result: PoseResult, header: Any) -> Any:
        """Everybody of ``result``; sequence, health and publish_stamp are the caller's."""
        people = len(result.tracks)
        while len(self._pool) < people:
            self._pool.append(self._unknown_human())
        humans = self._pool[:people]
        if people:
            self._fill(humans, result)
        return self._types.human_pose_array(
            header=header, layout=self._skeleton.name, humans=humans
        )

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

    def _joints(self, result: PoseResult) -> tuple[list, list]:
        """Status (P, J) and u, v, confidence (P, J, 3) as lists of Python numbers."""
        xy, score = result.poses.xy_px, result.poses.score
        known = np.isfinite(xy).all(axis=2) & (score > 0.0) & (score >= self.score_min)
        outside = known & ((xy < -0.5) | (xy >= np.array(result.size_px) - 0.5)).any(axis=2)
        status = np.where(known, MEASURED, MISSING)
        status[outside] = OUT_OF_IMAGE
        uvc = np.concatenate([xy, score[:, :, None]], axis=2).astype(np.float64)
        uvc[~known] = (NAN, NAN, 0.0)
        return status.tolist(), uvc.tolist()

    def _unknown_human(self) -> Any:
        """Build a person of whom nothing metric is known: NaN, and covariances marked unknown."""
        types = self._types
        human = types.human_pose(scale_source=SCALE_UNKNOWN)
        human.root.pose = types.pose(
            position=types.point(x=NAN, y=NAN, z=NAN),
            orientation=types.quaternion(x=NAN, y=NAN, z=NAN, w=NAN),
        )
        human.root_velocity.twist = types.twist(linear=self._nowhere(), angular=self._nowhere())
        human.root.covariance[0] = human.root_velocity.covariance[0] = -1.0
        human.segment_lengths = types.floats([NAN] * len(self._skeleton.edges))
        human.keypoints = [self._missing_keypoint() for _ in self._skeleton.joints]
        return human

    def _nowhere(self) -> Any:
        return self._types.vector3(x=NAN, y=NAN, z=NAN)

    def _missing_keypoint(self) -> Any:
        keypoint = self._types.keypoint(
            status=MISSING, u=NAN, v=NAN, speed_stddev=NAN, velocity=self._nowhere(),
            position=self._types.point(x=NAN, y=NAN, z=NAN),
        )  # fmt: skip
        keypoint.covariance[0] = -1.0
        return keypoint


def _pixel_boxes(result: PoseResult) -> list[list[int]]:
    """Boxes (P, 4) in whole pixels, clipped to the image."""
    limit = np.array(result.size_px * 2)
    boxes = np.nan_to_num(result.tracks.xyxy_px).astype(np.float64)
    return np.clip(np.rint(boxes), 0, limit).astype(int).tolist()
