"""SportsPose: sports in 3-D, COCO's 17 joints, seven cameras at 90 Hz.

3-D joints are metres in the recording's frame; the calibration maps them into a camera's frame
and picture. Videos that were recorded turned are turned upright, as the calibration is of the
upright picture. Samples are every ``stride``-th frame.

Source: the layout and the names of its fields are those that the reader of
github.com/ChristianIngwersen/SportsPose expects (``src/sportspose/dataset.py``, ``camera.py``).
Checked on files made to that layout only, not on the real data.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import VideoImage, WindowSpec, box_of_joints, expected, need
from pose_ros.training.datasets.clips import Clip, FrameLabel, LabelledClips, PersonLabel

LAYOUT = """\
  ROOT/{indoors,outdoors}/S04/calib.pkl
  ROOT/{indoors,outdoors}/S04/tennis/tennis0001.npy           (frames, 17, 3)
  ROOT/{indoors,outdoors}/S04/tennis/tennis0001_timing.pkl
  ROOT/videos/<as the timing file says>/CAM3.avi
Ask for the download at christianingwersen.github.io/SportsPose."""


@dataclass(frozen=True)
class TurnedImage:
    """A video frame turned clockwise by quarters."""

    frame: VideoImage
    quarters: int

    def read(self) -> ByteArray:
        """(H, W, 3) uint8, red first."""
        return np.ascontiguousarray(np.rot90(self.frame.read(), -self.quarters))


@register_dataset("sportspose")
def sportspose(
    path: str,
    split: str = "",
    frames: int = 1,
    key: int = 0,
    step: int = 1,
    camera: int = 3,
    stride: int = 9,
) -> LabelledClips:
    """SportsPose from one camera; ``split`` is a list of people ("S04,S05"), all without one.

    Raises:
        SourceError: files are missing or damaged.

    """
    if stride < 1:
        raise ConfigError(f"sportspose: expected stride >= 1, got {stride}")
    root = need(Path(path), "the SportsPose folder", LAYOUT)
    people = sorted(file.parent for file in root.glob("*door*/S[0-9][0-9]/calib.pkl"))
    wanted = [p for p in people if not split or p.name in split.split(",")]
    if not wanted:
        have = ", ".join(sorted({p.name for p in people})) or "none"
        raise SourceError(f"{root}: no person '{split}' (found: {have}). {expected(LAYOUT)}")
    clips = []
    for person in wanted:
        calibration = read_pickle(person / "calib.pkl")
        for file in sorted(person.glob("*/*[0-9].npy")):
            clips.append(_clip(root, file, calibration, (camera, stride)))
    return LabelledClips("sportspose", COCO17, clips, WindowSpec(frames, key, step))


class _Numbers(pickle.Unpickler):
    """Reads numbers, texts, lists and arrays, and refuses everything else."""

    ALLOWED = ("scalar", "_reconstruct", "ndarray", "dtype", "_frombuffer")

    def find_class(self, module: str, name: str) -> Any:
        """Class or function that a pickle asks for."""
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} does not belong into a calibration")


def read_pickle(path: Path) -> Any:
    """Plain values of a pickle file; nothing in it is executed.

    Raises:
        SourceError: the file is missing, damaged or holds more than numbers.

    """

    def load(file: IO[bytes]) -> Any:
        return _Numbers(file).load()

    try:
        with path.open("rb") as file:
            return load(file)
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, AttributeError) as error:
        raise SourceError(f"{path}: expected numbers in a pickle: {error}") from error


def _clip(root: Path, file: Path, calibration: Any, chosen: tuple[int, int]) -> Clip:
    camera, stride = chosen
    timing = read_pickle(file.with_name(f"{file.stem}_timing.pkl"))
    try:
        view = calibration["calibration"][camera]
        quarters = int(calibration["numtimesrot90clockwise"][camera])
        film = root / "videos" / Path(*timing["video_path"]) / f"CAM{camera}.avi"
        index = np.asarray(timing["video_index"][camera], np.int64)
        world = np.load(file, allow_pickle=False).astype(np.float64)
        xyz, xy = _seen(world, view)
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise SourceError(
            f"{file}: its joints, timing or the calibration of camera {camera} are not as "
            f"SportsPose writes them: {error!r}"
        ) from error
    if len(index) != len(xyz):
        raise ConfigError(
            f"{file}: {len(xyz)} frames of joints and times of {len(index)} frames; are they of "
            "the same recording?"
        )
    need(film, "the video", LAYOUT)
    frames = [
        FrameLabel(
            image=TurnedImage(VideoImage(film, int(index[n])), quarters),
            number=n,
            image_id=n,
            people=[_person(xy[n], xyz[n], file.parts[-3])] if n % stride == 0 else [],
            labelled=n % stride == 0,
        )
        for n in range(len(xyz))
    ]
    return Clip(f"{file.parts[-4]}/{file.parts[-3]}/{file.stem}/CAM{camera}", tuple(frames))


def _seen(world: np.ndarray, view: dict[str, Any]) -> tuple[FloatArray, FloatArray]:
    """Joints (T, 17, 3) in the camera's frame and (T, 17, 2) in its picture."""
    if world.ndim != 3 or world.shape[1:] != (len(COCO17), 3):
        raise ValueError(f"expected joints (frames, 17, 3), got {world.shape}")
    rotation, shift = np.asarray(view["R"], float), np.asarray(view["T"], float).ravel()
    xyz = world @ rotation.T + shift
    (fx, fy), (cx, cy) = np.ravel(view["f"]), np.ravel(view["c"])
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    known = np.isfinite(xyz).all(axis=2)
    points, _ = cv2.projectPoints(
        np.where(known[..., None], xyz, [0.0, 0.0, 1.0]).reshape(-1, 3),
        np.zeros(3), np.zeros(3), matrix, np.asarray(view["k"], float).ravel(),
    )  # fmt: skip
    xy = np.where(known[..., None], points.reshape(*xyz.shape[:2], 2), np.nan)
    return xyz.astype(np.float32), xy.astype(np.float32)


def _person(xy: FloatArray, xyz: FloatArray, name: str) -> PersonLabel:
    visible = np.where(np.isfinite(xy).all(axis=1), 2, 0).astype(np.uint8)
    return PersonLabel(xy, visible, box_of_joints(xy), name, xyz_m=xyz)
