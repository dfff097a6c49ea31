"""Human3.6M: 3-D joints of one person before four cameras, in each camera's own frame.

The files are the release's: 32 joints, millimetres, camera frame (``D3_Positions_mono``) and
pixels (``D2_Positions``), as .cdf.mat. Labels are 50 Hz; samples are every ``stride``-th frame,
the frames between are there for windows, unlabelled.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from pose_ros.core.skeletons import H36M17
from pose_ros.errors import ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import VideoImage, WindowSpec, box_of_joints, expected, need
from pose_ros.training.datasets.clips import Clip, FrameLabel, LabelledClips, PersonLabel

LAYOUT = """\
  ROOT/S9/MyPoseFeatures/D3_Positions_mono/Directions 1.54138969.cdf.mat
  ROOT/S9/MyPoseFeatures/D2_Positions/Directions 1.54138969.cdf.mat
  ROOT/S9/Videos/Directions 1.54138969.mp4
for S1, S5, S6, S7, S8 (train), S9 and S11 (val). Register at vision.imar.ro/human3.6m and take
"Poses D3 positions mono", "Poses D2 positions" and the videos of every subject."""
SUBJECTS = {"train": ("S1", "S5", "S6", "S7", "S8"), "val": ("S9", "S11")}
#: Of the release's 32 joints, those of H36M17 in its order.
JOINTS = (0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 15, 17, 18, 19, 25, 26, 27)
RELEASED = 32


@register_dataset("human36m")
def human36m(
    path: str, split: str = "val", frames: int = 1, key: int = 0, step: int = 1, stride: int = 5
) -> LabelledClips:
    """Human3.6M; only subjects that are there, at least one.

    Raises:
        ConfigError: an unknown split or stride.
        SourceError: files are missing.

    """
    if split not in SUBJECTS or stride < 1:
        raise ConfigError(
            f"human36m: expected split {' or '.join(SUBJECTS)} and stride >= 1, got '{split}' "
            f"and {stride}"
        )
    root = need(Path(path), "the Human3.6M folder", LAYOUT)
    folders = [root / subject for subject in SUBJECTS[split] if (root / subject).is_dir()]
    if not folders:
        raise SourceError(f"{root}: no subject of split {split}. {expected(LAYOUT)}")
    clips = [clip for folder in folders for clip in _subject(folder, stride)]
    return LabelledClips("human36m", H36M17, clips, WindowSpec(frames, key, step))


def _subject(folder: Path, stride: int) -> list[Clip]:
    poses = folder / "MyPoseFeatures"
    files = sorted((poses / "D3_Positions_mono").glob("*.cdf.mat"))
    if not files:
        raise SourceError(f"{poses}: no 3-D poses. {expected(LAYOUT)}")
    return [_clip(folder, file, stride) for file in files]


def _clip(folder: Path, file: Path, stride: int) -> Clip:
    name = file.name.removesuffix(".cdf.mat")
    xyz = read_positions(file, 3) / 1000.0
    flat = need(folder / "MyPoseFeatures" / "D2_Positions" / file.name, "2-D poses", LAYOUT)
    xy = read_positions(flat, 2)
    if len(xy) != len(xyz):
        raise ConfigError(
            f"{file.name}: {len(xyz)} frames of 3-D and {len(xy)} of 2-D poses; are they of the "
            "same recording?"
        )
    video = need(folder / "Videos" / f"{name}.mp4", "the video", LAYOUT)
    frames = [
        FrameLabel(
            image=VideoImage(video, number),
            number=number,
            image_id=number,
            people=[_person(xy[number], xyz[number], folder.name)] if number % stride == 0 else [],
            labelled=number % stride == 0,
        )
        for number in range(len(xyz))
    ]
    return Clip(f"{folder.name} {name}", tuple(frames))


def _person(
    xy: npt.NDArray[np.float32], xyz: npt.NDArray[np.float32], subject: str
) -> PersonLabel:
    known = np.isfinite(xy).all(axis=1) & np.isfinite(xyz).all(axis=1)
    visible = np.where(known, 2, 0).astype(np.uint8)
    return PersonLabel(xy, visible, box_of_joints(xy), subject, xyz_m=xyz)


def read_positions(path: Path, dims: int) -> npt.NDArray[np.float32]:
    """(T, 17, D) joints of a .cdf.mat file in H36M17 order, in the file's unit.

    Raises:
        SourceError: the file is damaged, or not of 32 joints.

    """
    try:
        table = np.asarray(loadmat(path)["data"][0, 0], np.float32)
        joints = table.reshape(len(table), RELEASED, dims)
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
        raise SourceError(
            f"{path}: expected 'data' of (frames, {RELEASED} x {dims}) numbers: {error!r}"
        ) from error
    return np.ascontiguousarray(joints[:, list(JOINTS)])
