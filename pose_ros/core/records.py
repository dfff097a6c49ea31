"""What a ``HumanPoseArray`` says, as arrays.

Works on any object with the message's fields: rclpy's messages and those read from a bag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import FloatArray, IntArray

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


def people_record(message: Any) -> PeopleRecord:
    """Read the pixels, ids and states of a ``HumanPoseArray``."""
    humans = message.humans
    joints = len(humans[0].keypoints) if humans else 0
    boxes = [
        (h.roi.x_offset, h.roi.y_offset, h.roi.x_offset + h.roi.width,
         h.roi.y_offset + h.roi.height)
        for h in humans
    ]  # fmt: skip
    points = [[(k.u, k.v, k.confidence) for k in h.keypoints] for h in humans]
    table = np.array(points, np.float32).reshape(len(humans), joints, 3)
    stamp = message.header.stamp
    return PeopleRecord(
        stamp_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
        health=int(message.health),
        ids=np.array([h.id for h in humans], np.int64),
        state=np.array([h.state for h in humans], np.int8),
        xyxy_px=np.array(boxes, np.float32).reshape(-1, 4),
        xy_px=table[:, :, :2],
        score=table[:, :, 2],
    )
