"""What the messages of ``/human_pose`` and ``/human_pose/joint_angles`` say, as arrays.

Works on any object with the message's fields: rclpy's messages and those read from a bag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import FloatArray, IntArray, JointAngles

STALE_INPUT = 3


@dataclass(frozen=True)
class PeopleRecord:
    """The people of one message: P people, J joints."""

    stamp_ns: int
    health: int
    ids: IntArray  # (P,)
    state: npt.NDArray[np.int8]  # (P,) TrackState
    xyxy_px: FloatArray  # (P, 4)
    xy_px: FloatArray  # (P, J, 2), NaN = missing
    score: FloatArray  # (P, J)
    status: npt.NDArray[np.int8]  # (P, J) KeypointStatus
    xyz_m: FloatArray  # (P, J, 3) in the camera's optical frame, NaN = unknown


def people_record(message: Any) -> PeopleRecord:
    """Read the joints, ids and states of a ``HumanPoseArray``."""
    humans = message.humans
    joints = len(humans[0].keypoints) if humans else 0
    boxes = [
        (h.roi.x_offset, h.roi.y_offset, h.roi.x_offset + h.roi.width,
         h.roi.y_offset + h.roi.height)
        for h in humans
    ]  # fmt: skip
    points = [
        [
            (k.u, k.v, k.confidence, k.status, k.position.x, k.position.y, k.position.z)
            for k in h.keypoints
        ]
        for h in humans
    ]
    table = np.array(points, np.float32).reshape(len(humans), joints, 7)
    return PeopleRecord(
        stamp_ns=_stamp_ns(message),
        health=int(message.health),
        ids=np.array([h.id for h in humans], np.int64),
        state=np.array([h.state for h in humans], np.int8),
        xyxy_px=np.array(boxes, np.float32).reshape(-1, 4),
        xy_px=table[:, :, :2],
        score=table[:, :, 2],
        status=table[:, :, 3].astype(np.int8),
        xyz_m=table[:, :, 4:],
    )


@dataclass(frozen=True)
class AnglesRecord:
    """The joint angles of one message."""

    stamp_ns: int
    health: int
    state: npt.NDArray[np.int8]  # (P,) TrackState
    angles: JointAngles


def angles_record(message: Any) -> AnglesRecord:
    """Read a ``HumanJointStateArray``; without people there are no names of angles."""
    humans = message.humans
    names = tuple(humans[0].name) if humans else ()

    def table(field: str, kind: type) -> npt.NDArray[Any]:
        rows = [getattr(human, field) for human in humans]
        return np.array(rows, kind).reshape(len(humans), len(names))

    angles = JointAngles(
        np.array([h.id for h in humans], np.int64), message.convention, names,
        table("position", np.float32), table("velocity", np.float32),
        table("position_stddev", np.float32), table("status", np.int8),
        table("beyond_limit", np.bool_),
    )  # fmt: skip
    state = np.array([h.state for h in humans], np.int8)
    return AnglesRecord(_stamp_ns(message), int(message.health), state, angles)


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec * 1_000_000_000 + stamp.nanosec)
