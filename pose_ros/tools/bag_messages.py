"""``rosbags`` as a provider of message classes: the ROS types and this package's own."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from pose_ros import graph
from pose_ros.errors import ConfigError
from pose_ros.messages import MessageTypes

POSES_TYPE = "pose_ros/msg/HumanPoseArray"
ANGLES_TYPE = "pose_ros/msg/HumanJointStateArray"
_BASE, _NAME, _ARRAY = 1, 2, 3  # rosbags' Nodetype; 4 is a sequence


def message_folder() -> Path:
    """Folder of this package's ``.msg`` files: installed, or beside the source tree.

    Raises:
        ConfigError: there is none.

    """
    candidates = [prefix / "share" / "pose_ros" / "msg" for prefix in graph.prefixes()]
    candidates += [Path(sys.prefix) / "share" / "pose_ros" / "msg"]
    candidates += [Path(__file__).parents[2] / "msg"]
    for folder in candidates:
        if (folder / "HumanPoseArray.msg").is_file():
            return folder
    raise ConfigError(f"expected HumanPoseArray.msg in one of {', '.join(map(str, candidates))}")


def pose_typestore() -> Typestore:
    """Types of ROS 2 and of this package."""
    store = get_typestore(Stores.LATEST)
    for path in sorted(message_folder().glob("*.msg")):
        text = path.read_text(encoding="utf-8")
        store.register(get_types_from_msg(text, f"pose_ros/msg/{path.stem}"))
    return store


def new_message(store: Typestore, name: str, /, **fields: Any) -> Any:
    """Message of type ``name``; fields not given are zero, empty or zero messages."""
    values = {key: _zero(store, kind) for key, kind in store.fielddefs[name][1]}
    return store.types[name](**(values | fields))


def _zero(store: Typestore, kind: Any) -> Any:
    node, detail = kind
    if node == _BASE:
        return "" if detail[0] == "string" else (0.0 if detail[0].startswith("float") else 0)
    if node == _NAME:
        return new_message(store, detail)
    (inner, inner_detail), length = detail
    count = length if node == _ARRAY else 0
    if inner == _BASE and inner_detail[0] != "string":
        return np.zeros(count, inner_detail[0])
    return [_zero(store, (inner, inner_detail)) for _ in range(count)]


def message_types(store: Typestore) -> MessageTypes:
    """Constructors for `pose_ros.messages`."""

    def of(name: str) -> Any:
        return partial(new_message, store, name)

    return MessageTypes(
        human_pose_array=of(POSES_TYPE),
        human_pose=of("pose_ros/msg/HumanPose"),
        human_joint_state_array=of(ANGLES_TYPE),
        human_joint_state=of("pose_ros/msg/HumanJointState"),
        keypoint=of("pose_ros/msg/Keypoint"),
        point=of("geometry_msgs/msg/Point"),
        vector3=of("geometry_msgs/msg/Vector3"),
        quaternion=of("geometry_msgs/msg/Quaternion"),
        pose=of("geometry_msgs/msg/Pose"),
        twist=of("geometry_msgs/msg/Twist"),
        region_of_interest=of("sensor_msgs/msg/RegionOfInterest"),
        time=of("builtin_interfaces/msg/Time"),
        floats=partial(np.asarray, dtype=np.float32),
        doubles=partial(np.asarray, dtype=np.float64),
        octets=partial(np.asarray, dtype=np.uint8),
        flags=partial(np.asarray, dtype=np.bool_),
    )
