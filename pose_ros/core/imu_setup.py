"""Which inertial sensors there are, and what is known of them beforehand."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from pose_ros.core.body_imu import BodyImus
from pose_ros.core.body_imu_place import Strap
from pose_ros.core.config import ImuConfig
from pose_ros.core.ego import EgoMotion, StillCamera
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.ego_offset import OffsetEstimator
from pose_ros.core.imu import Imu
from pose_ros.core.skeletons import Skeleton
from pose_ros.errors import ConfigError

Floats = npt.NDArray[np.float64]

#: Rotations of sensor axes into optical axes (x right, y down, z ahead).
AXES = {
    "auto": np.eye(3),  # until a node knows it from TF
    "optical": np.eye(3),
    "rep103": np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]]),
}
#: Names that ROS takes for a topic.
TOPIC = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Sensors:
    """The camera's sensor, and those that somebody wears; None where there are none."""

    camera: EgoMotion | StillCamera | None = None
    body: BodyImus | None = None

    @property
    def ego(self) -> EgoMotion | None:
        """How the camera turns; None if it does not, or nobody tells."""
        return self.camera if isinstance(self.camera, EgoMotion) else None


def sensors_of(config: ImuConfig, skeleton: Skeleton) -> Sensors:
    """Sensors as configured, without any sample yet.

    Raises:
        ConfigError: axes that are no rotation, or a map file that cannot be used.

    """
    if not config.enable:
        return Sensors()
    body = None
    if config.topic_map:
        body = BodyImus(skeleton, read_straps(config.topic_map))
    if config.axes == "none":
        return Sensors(StillCamera(math.radians(config.tilt_deg)), body)
    check = EgoCheck() if config.check else None
    clock = OffsetEstimator() if config.check and config.find_offset else None
    imu = Imu(axes=axes_of(config.axes))
    return Sensors(EgoMotion(imu, config.offset_s, check, clock), body)


def axes_of(text: str) -> Floats:
    """Rotation (3, 3) from sensor axes to optical axes: a name of `AXES`, or nine numbers.

    Raises:
        ConfigError: it is neither, or no rotation.

    """
    if text in AXES:
        return AXES[text]
    try:
        turn = np.array([float(part) for part in text.replace(",", " ").split()]).reshape(3, 3)
    except ValueError as error:
        raise ConfigError(
            f"imu.axes: expected {', '.join(AXES)}, none or nine numbers, got '{text}'"
        ) from error
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-3) or np.linalg.det(turn) < 0:
        raise ConfigError(f"imu.axes: expected a rotation, row by row, got '{text}'")
    return turn


def read_straps(path: str) -> tuple[Strap, ...]:
    """Sensors of a map file; all that it may say of one is optional.

        left_wrist_tag:
          bone: left_forearm       # found from the pictures without
          axis: [0.0, 1.0, 0.0]    # the bone's direction, elbow to wrist, in sensor axes
          rho: 0.7                 # where along the bone, 0.5 is the middle
          topic: /tags/wrist/imu   # imu/left_wrist_tag without

    Raises:
        ConfigError: the file cannot be read, or says something else than it may.

    """
    try:
        told: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"sensor map {path}: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"sensor map {path}: expected 'sensor: {{bone: ...}}', got {told!r}")
    return tuple(_strap(str(name), entry or {}) for name, entry in told.items())


def _strap(name: str, entry: Any) -> Strap:
    """One sensor of a map file."""
    known = {"bone", "axis", "rho", "topic"}
    unknown = set(entry) - known if isinstance(entry, dict) else {entry}
    if unknown:
        raise ConfigError(
            f"sensor '{name}': expected bone, axis, rho, topic; got {sorted(map(str, unknown))}"
        )
    words = [str(entry.get(key, "")) for key in ("bone", "topic")]
    try:
        rho = float(entry.get("rho", 0.5))
        axis = [float(part) for part in entry["axis"]] if "axis" in entry else None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"sensor '{name}': rho is a number, axis is three numbers") from error
    if axis is not None and (len(axis) != 3 or not np.linalg.norm(axis) > 0):
        raise ConfigError(f"sensor '{name}': axis is three numbers, not all 0; got {axis}")
    topic = words[1] or f"imu/{name}"
    if not TOPIC.fullmatch(topic):
        raise ConfigError(
            f"sensor '{name}': '{topic}' is no topic: letters, digits and _ between slashes, no "
            "digit first"
        )
    along = None if axis is None else (axis[0], axis[1], axis[2])
    return Strap(name, words[0], along, rho, topic)
