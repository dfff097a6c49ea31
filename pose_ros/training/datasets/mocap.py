"""Motion capture as metric joints, and its COCO body.

Letters: T frames. World: x, y horizontal, z up, metres, the floor near z = 0.

A file is a numpy archive of whole-millimetre steps, y up: ``names`` (J,), ``xyz_mm_delta``
(N, J, 3) int16 whose running sum over the *whole* file is the position, ``start`` (clips + 1,)
first frames, ``clips`` (clips,) names, ``fps`` ().
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, ShapeError

FloatArray = npt.NDArray[np.float32]

#: The joints of a clip, in order.
MOCAP15 = (
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
    "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "neck", "head_end", "pelvis",
)  # fmt: skip

ANKLE_HEIGHT_M = 0.08  # of a standing person's ankle joint above the floor

# Parts of the stature (Drillis and Contini): thigh, shank, and trunk from shoulder to hip.
THIGH, SHANK, TRUNK = 0.245, 0.246, 0.288
# Face joints in parts of the stature from the middle of the shoulders, in the head's axes: to the
# person's left, forward, along the head. From eye height .936, ear .93 and shoulder .82.
FACE_OF_STATURE = np.array(
    [
        [0.0, 0.075, 0.108],  # nose
        [0.018, 0.060, 0.126],  # left eye
        [-0.018, 0.060, 0.126],  # right eye
        [0.044, 0.010, 0.117],  # left ear
        [-0.044, 0.010, 0.117],  # right ear
    ],
    np.float32,
)


@dataclass(frozen=True)
class MocapClip:
    """One recording of one person."""

    name: str
    fps: float
    names: tuple[str, ...]  # the joints; `read_mocap` gives MOCAP15
    xyz_m: FloatArray  # (T, 15, 3) world, z up, the floor near z = 0

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ShapeError: positions and names do not fit.

        """
        if self.xyz_m.ndim != 3 or self.xyz_m.shape[1:] != (len(self.names), 3):
            raise ShapeError(
                f"MocapClip.xyz_m: expected (T, {len(self.names)}, 3), got {self.xyz_m.shape}"
            )

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.xyz_m)


def read_mocap(source: str | Path) -> list[MocapClip]:
    """Clips of one archive, or of all archives (``*.npz``) of a folder, in the files' order.

    Joints are brought into the order of `MOCAP15`; a missing ``head_end`` (DeepMimic) is put on
    the line from the pelvis through the shoulders' middle, 0.13 of the stature above the latter.

    Raises:
        ConfigError: nothing is there, or a file is not such an archive.

    """
    path = Path(source)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path}: expected mocap archives (*.npz) in this folder, found none")
    return [clip for file in files for clip in _read_file(file)]


def _read_file(file: Path) -> list[MocapClip]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = tuple(str(name) for name in archive["names"])
            total_mm = np.cumsum(archive["xyz_mm_delta"], axis=0, dtype=np.int16)
            starts, clips = archive["start"], [str(name) for name in archive["clips"]]
            fps = float(archive["fps"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file}: expected a mocap archive (.npz): {error}") from error
    missing = set(MOCAP15) - set(names) - {"head_end"}
    if missing or len(starts) != len(clips) + 1 or total_mm.shape[1:] != (len(names), 3):
        raise ConfigError(f"{file}: not a mocap archive; joints missing: {sorted(missing)}")
    xyz_m = _ordered(_z_up(total_mm.astype(np.float32) / 1000.0), names)
    return [
        MocapClip(name, fps, MOCAP15, _on_floor(xyz_m[first:last]))
        for name, first, last in zip(clips, starts[:-1], starts[1:], strict=True)
    ]


def _z_up(xyz_m: FloatArray) -> FloatArray:
    """Turn y-up positions about x, so that z is up."""
    return np.stack([xyz_m[..., 0], -xyz_m[..., 2], xyz_m[..., 1]], axis=-1)


def _ordered(xyz_m: FloatArray, names: tuple[str, ...]) -> FloatArray:
    """Positions (N, 15, 3) in the order of `MOCAP15`, the head's end made up where it lacks."""
    columns = {name: xyz_m[:, i] for i, name in enumerate(names)}
    if "head_end" not in columns:
        middle = (columns["left_shoulder"] + columns["right_shoulder"]) / 2
        up = unit(middle - columns["pelvis"])
        trunk = np.linalg.norm(middle - columns["pelvis"], axis=-1, keepdims=True)
        columns["head_end"] = middle + up * trunk * (0.13 / TRUNK)
    return np.stack([columns[name] for name in MOCAP15], axis=1).astype(np.float32)


def _on_floor(xyz_m: FloatArray) -> FloatArray:
    """Shift a clip so that its lowest joints are as high as a standing person's ankles."""
    if not len(xyz_m):
        return xyz_m
    lowest = np.percentile(xyz_m[:, :, 2].min(axis=1), 5)
    shift = np.array([0.0, 0.0, ANKLE_HEIGHT_M - lowest], np.float32)
    return np.asarray(xyz_m + shift, np.float32)


def unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Vectors (..., 3) of length 1; a zero vector stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(length, 1e-9)


def stature_m(clip: MocapClip) -> float:
    """Stature in metres that fits the clip's thighs, shanks and trunk, by their median lengths."""
    at = clip.names.index
    bones = (
        [(f"{side}_hip", f"{side}_knee") for side in ("left", "right")]
        + [(f"{side}_knee", f"{side}_ankle") for side in ("left", "right")]
        + [(f"{side}_shoulder", f"{side}_hip") for side in ("left", "right")]
    )
    lengths = [
        float(np.median(np.linalg.norm(clip.xyz_m[:, at(a)] - clip.xyz_m[:, at(b)], axis=-1)))
        for a, b in bones
    ]
    return sum(lengths) / (2 * (THIGH + SHANK + TRUNK))


def to_coco17(clip: MocapClip) -> FloatArray:
    """The clip as COCO's 17 joints, (T, 17, 3) metres in the clip's world.

    Body joints are copied. Mocap has no face: nose, eyes and ears stand on a head whose axis runs
    from the shoulders' middle to ``head_end`` and which looks at right angles to the line of the
    shoulders, at `FACE_OF_STATURE` times the clip's stature. It never turns against the shoulders.
    """
    at = clip.names.index
    body = [at(name) for name in COCO17.joints[5:]]
    left, right = clip.xyz_m[:, at("left_shoulder")], clip.xyz_m[:, at("right_shoulder")]
    middle = (left + right) / 2
    axes = head_axes(left - right, clip.xyz_m[:, at("head_end")] - middle)
    face = place_face(middle, axes, np.float32(stature_m(clip)))
    return np.concatenate([face, clip.xyz_m[:, body]], axis=1).astype(np.float32)


def head_axes(to_left: npt.NDArray[Any], along: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Axes (..., 3, 3) of a head as rows left, forward, along, from two directions (..., 3)."""
    up = unit(along)
    forward = unit(np.cross(to_left, up))
    return np.stack([np.cross(up, forward), forward, up], axis=-2)


def place_face(
    middle: npt.NDArray[Any], axes: npt.NDArray[Any], stature: npt.NDArray[Any] | np.float32
) -> npt.NDArray[Any]:
    """Nose, eyes and ears (..., 5, 3) of heads with the given axes (..., 3, 3).

    ``middle`` (..., 3) is the shoulders' middle, ``stature`` broadcasts to (..., 1, 1).
    """
    return middle[..., None, :] + stature * (FACE_OF_STATURE @ axes)
