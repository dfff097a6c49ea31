"""Which processes make up a running system: executables, parameters and remappings, as data.

The launch files and ``scripts/demo`` start exactly what is written here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pose_ros.errors import ConfigError

IMAGE = "/camera/image_raw"
CAMERA_INFO = "/camera/camera_info"
POSES = "/human_pose"
MARKERS = "/human_pose/markers"
ANGLES = "/human_pose/joint_angles"
PREDICTED = "/human_pose/predicted"
POSE_ARRAY = "/human_pose/poses"
BODIES = "/humans/bodies"
DEPTH = "/camera/depth/image_raw"
DEPTH_INFO = "/camera/depth/camera_info"
IMU = "/camera/imu"
DEBUG_IMAGE = "/human_pose/debug_image"
LAYOUT = "/pose_node/layout"


@dataclass(frozen=True)
class NodeSpec:
    """One process: a node executable of this package with what it is told."""

    name: str
    executable: str
    parameters: dict[str, Any] = field(default_factory=dict)
    remappings: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """``--ros-args`` for starting the executable without ``launch``."""
        args = ["--ros-args", "-r", f"__node:={self.name}"]
        for source, target in self.remappings.items():
            args += ["-r", f"{source}:={target}"]
        for name, value in self.parameters.items():
            args += ["-p", f"{name}:={json.dumps(value)}"]
        return args


def camera(source: str, **parameters: Any) -> NodeSpec:
    """A video file, picture folder or /dev/videoN as a ROS camera."""
    remappings = {"image": IMAGE, "camera_info": CAMERA_INFO}
    return NodeSpec("camera", "camera_node", {"source": source, **parameters}, remappings)


def pose(
    image: str = IMAGE,
    camera_info: str = CAMERA_INFO,
    depth: str = DEPTH,
    depth_camera_info: str = DEPTH_INFO,
    imu: str = IMU,
    **parameters: Any,
) -> NodeSpec:
    """The node that finds and tracks people."""
    remappings = {
        "image": image, "camera_info": camera_info, "depth": depth,
        "depth_camera_info": depth_camera_info, "imu": imu,
    }  # fmt: skip
    return NodeSpec("pose_node", "pose_node", parameters, remappings)


def overlay(image: str = IMAGE, **parameters: Any) -> NodeSpec:
    """The node that draws the skeletons on the images."""
    return NodeSpec("overlay_node", "overlay_node", parameters, {"image": image})


def recorder(out: str, **parameters: Any) -> NodeSpec:
    """The node that writes a rosbag2 directory."""
    return NodeSpec("recorder", "recorder_node", {"out": out, **parameters})


def prefixes() -> Iterator[Path]:
    """Where ROS packages are installed, nearest first."""
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix)


def executable(name: str) -> Path:
    """Path of an installed node executable.

    Raises:
        ConfigError: if this package is not installed in a sourced ROS 2 environment.

    """
    for prefix in prefixes():
        path = prefix / "lib" / "pose_ros" / name
        if path.is_file():
            return path
    raise ConfigError(
        f"executable '{name}' of pose_ros is not on AMENT_PREFIX_PATH: start through "
        "scripts/run, or source install/setup.bash"
    )


def share(*parts: str) -> Path:
    """Path of an installed data file.

    Raises:
        ConfigError: if it is not installed.

    """
    for prefix in prefixes():
        path = prefix.joinpath("share", "pose_ros", *parts)
        if path.exists():
            return path
    raise ConfigError(
        f"'{'/'.join(parts)}' of pose_ros is not on AMENT_PREFIX_PATH: start through "
        "scripts/run, or source install/setup.bash"
    )


def dds_environment() -> dict[str, str]:
    """Environment variables that make Fast DDS read this package's profile.

    Fast DDS before version 3 (up to Jazzy) knows only the older name; newer ones warn of it.

    Raises:
        ConfigError: if the profile is not installed.

    """
    names = ["FASTDDS_DEFAULT_PROFILES_FILE"]
    if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy"):
        names.append("FASTRTPS_DEFAULT_PROFILES_FILE")
    return dict.fromkeys(names, str(share("config", "fastdds.xml")))


def command(spec: NodeSpec) -> list[str]:
    """Command line that starts ``spec``."""
    return [str(executable(spec.executable)), *spec.arguments()]
