"""Several calibrated cameras from a file of Pose2Sim or Qualisys.

A ``.toml`` has a table per camera: ``size`` (width, height), ``matrix`` (3, 3), ``distortions``
(OpenCV's order), ``rotation`` (a rotation vector) and ``translation`` in metres, both from the
world to the optical frame. Anything else is read as Qualisys' XML (``.qca.txt``): the lens in 1/64
px, a rotation to a frame whose y points up and z backwards, the camera's centre in mm.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError

Array = npt.NDArray[np.float64]
Calibrated = tuple[PinholeCamera, Array]

#: Qualisys counts the lens in these parts of a pixel.
PARTS = 64.0


def read_cameras(path: Path) -> tuple[tuple[PinholeCamera, ...], Array]:
    """Cameras in the order of the file, and their poses (V, 4, 4), world to optical frame, metres.

    Raises:
        CalibrationError: the file is missing, of another kind, or has a fisheye lens.

    """
    try:
        found = _toml(path) if path.suffix.lower() == ".toml" else _qualisys(path)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError,
            ElementTree.ParseError) as error:  # fmt: skip
        raise CalibrationError(
            f"{path}: expected a calibration of Pose2Sim (.toml) or Qualisys (.qca.txt): "
            f"{type(error).__name__} {error}"
        ) from error
    if not found:
        raise CalibrationError(f"{path}: expected cameras, found none")
    return tuple(camera for camera, _ in found), np.stack([pose for _, pose in found])


def _toml(path: Path) -> list[Calibrated]:
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise CalibrationError(f"{path}: reading .toml needs Python 3.11 or newer") from error
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return [_table(path, name, t) for name, t in tables.items() if name != "metadata"]


def _table(path: Path, name: str, table: dict[str, Any]) -> Calibrated:
    if table.get("fisheye"):
        raise CalibrationError(f"{path}: {name} has a fisheye lens, expected plumb bob")
    k = np.array(table["matrix"], np.float64)
    width, height = (round(v) for v in table["size"])
    lens = tuple(float(v) for v in table["distortions"])
    camera = PinholeCamera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], lens)
    turn = Rotation.from_rotvec(np.array(table["rotation"], np.float64)).as_matrix()
    return camera, _pose(turn, np.array(table["translation"], np.float64))


def _qualisys(path: Path) -> list[Calibrated]:
    cameras = ElementTree.parse(path).getroot().find("cameras")
    return [] if cameras is None else [_camera(node) for node in cameras]


def _camera(node: ElementTree.Element) -> Calibrated:
    view, place, lens = (
        {k: float(v) for k, v in _child(node, name).attrib.items()}
        for name in ("fov_video", "transform", "intrinsic")
    )
    fx, fy, cx, cy = (
        lens[name] / PARTS
        for name in ("focalLengthU", "focalLengthV", "centerPointU", "centerPointV")
    )
    bent = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1",
            "tangentalDistortion2", "radialDistortion3")  # fmt: skip
    size = (view["right"] - view["left"] + 1, view["bottom"] - view["top"] + 1)
    camera = PinholeCamera(
        round(size[0]), round(size[1]), fx, fy, cx - view["left"], cy - view["top"],
        tuple(lens[name] for name in bent),
    )  # fmt: skip
    turn = np.array([[place[f"r{row}{column}"] for column in (1, 2, 3)] for row in (1, 2, 3)])
    turn = np.diag([1.0, -1.0, -1.0]) @ turn
    centre = np.array([place["x"], place["y"], place["z"]]) / 1000.0
    return camera, _pose(turn, -turn @ centre)


def _child(node: ElementTree.Element, name: str) -> ElementTree.Element:
    child = node.find(name)
    if child is None:
        raise KeyError(f"a camera without {name}")
    return child


def _pose(turn: Array, shift: Array) -> Array:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, shift
    return pose
