"""Unlabelled video of calibrated cameras that run in step: the same person in two views.

``views:RIG.toml?videos=A.mp4|B.mp4&poses=A.jsonl|B.jsonl``: Pose2Sim's calibration with a table
per camera in the order of the videos (``size``, ``matrix``, ``distortions``, ``rotation``,
``translation``), and what `tools.track` says of each video. People are matched frame by frame:
their joints have to lie on each other's epipolar lines. A sample is a person in one view with the
other view beside it (``loss.views``); nobody is labelled.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import FloatArray
from pose_ros.errors import CalibrationError, ConfigError, SourceError
from pose_ros.training.datasets import register_dataset
from pose_ros.training.datasets.base import ClipSample, VideoImage, WindowSpec, need

LAYOUT = """\
  RIG.toml              Pose2Sim's calibration, a table per camera
  A.mp4, B.mp4, ...     given as videos=A.mp4|B.mp4, frame by frame of the same moments
  A.jsonl, B.jsonl, ... of tools.track, given as poses=A.jsonl|B.jsonl"""
#: Joints that are matched are at least so sure, and so many.
SCORE_MIN, LEAST = 0.3, 5
#: Mean distance from the epipolar lines, over the box's height, of people who are the same.
SAME = 0.04


@dataclass(frozen=True, eq=False)
class Eye:
    """One camera of a rig: its lens and its pose, world to optical frame."""

    camera: PinholeCamera
    cam_from_world: np.ndarray  # (4, 4)


@dataclass(frozen=True, eq=False)
class Sighting:
    """One tracked person in one frame of one view."""

    track: str
    box_xyxy_px: FloatArray  # (4,)
    xy_px: np.ndarray  # (17, 2), NaN where unsure


def read_rig(path: Path) -> list[Eye]:
    """Cameras of a Pose2Sim calibration, in its order.

    Raises:
        CalibrationError: another form.

    """
    try:
        import tomllib
    except ModuleNotFoundError as error:
        raise CalibrationError(f"{path}: reading .toml needs Python 3.11 or newer") from error
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return [_eye(table) for name, table in tables.items() if name != "metadata"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise CalibrationError(
            f"{path}: expected Pose2Sim's calibration (.toml): {type(error).__name__} {error}"
        ) from error


def _eye(table: dict[str, Any]) -> Eye:
    k = np.array(table["matrix"], np.float64)
    width, height = (round(v) for v in table["size"])
    lens = tuple(float(v) for v in table["distortions"])
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(np.array(table["rotation"], np.float64)).as_matrix()
    pose[:3, 3] = table["translation"]
    camera = PinholeCamera(width, height, k[0, 0], k[1, 1], k[0, 2], k[1, 2], lens)
    return Eye(camera, pose)


def essential(one: Eye, two: Eye) -> np.ndarray:
    """(3, 3) E with y^T E x = 0 for the rays x and y (z = 1) of a point in two cameras."""
    turn = two.cam_from_world @ np.linalg.inv(one.cam_from_world)
    x, y, z = turn[:3, 3]
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(cross @ turn[:3, :3])


def ray_map(camera: PinholeCamera, box_xyxy_px: FloatArray) -> np.ndarray:
    """(3, 3) affine map from pixels to rays, the best one in a box: a lens bends little there."""
    left, top, right, bottom = (float(v) for v in box_xyxy_px)
    grid = np.stack(np.meshgrid(np.linspace(left, right, 7), np.linspace(top, bottom, 7)), -1)
    pixels = np.column_stack([grid.reshape(-1, 2), np.ones(49)])
    rays = camera.rays(pixels[:, :2])
    return np.asarray(np.linalg.lstsq(pixels, rays, rcond=None)[0].T)


def off_lines(
    one: np.ndarray, two: np.ndarray, eyes: tuple[Eye, Eye], matrix: np.ndarray
) -> np.ndarray:
    """(P, Q, K) pixels of joints (Q, K, 2) off the lines of joints (P, K, 2), NaN unknown."""
    x, y = (eye.camera.rays(xy) for eye, xy in zip(eyes, (one, two), strict=True))
    lines = x @ matrix.T  # (P, K, 3), in the rays of the second camera
    focal = (eyes[1].camera.fx_px + eyes[1].camera.fy_px) / 2.0
    away = np.abs((lines[:, None] * y[None]).sum(-1))
    return np.asarray(focal * away / np.linalg.norm(lines[..., :2], axis=-1)[:, None])


def matched(
    one: list[Sighting], two: list[Sighting], eyes: tuple[Eye, Eye]
) -> list[tuple[int, int]]:
    """Pairs of the same person in two views of a moment."""
    if not one or not two:
        return []
    xy = [np.stack([s.xy_px for s in part]) for part in (one, two)]
    tall = [np.array([np.ptp(s.box_xyxy_px[1::2]) for s in part]) for part in (one, two)]
    there = off_lines(xy[0], xy[1], eyes, essential(*eyes)) / tall[1][None, :, None]
    back = off_lines(xy[1], xy[0], eyes[::-1], essential(*eyes[::-1])) / tall[0][None, :, None]
    off = (there + back.transpose(1, 0, 2)) / 2.0
    count = np.isfinite(off).sum(-1)
    mean = np.where(count >= LEAST, np.nansum(off, -1) / np.maximum(count, 1), 1e3)
    rows, columns = linear_sum_assignment(mean)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if mean[r, c] < SAME]


class Views:
    """The data set."""

    def __init__(
        self,
        rig: list[Eye],
        videos: list[Path],
        seen: list[list[list[Sighting]]],
        window: WindowSpec,
    ) -> None:
        """Match the people of every pair of views, frame by frame; ``seen`` is by view and frame.

        Raises:
            ConfigError: nobody was matched.

        """
        self.name, self.skeleton = f"views-{videos[0].stem}", COCO17
        self.rig, self.videos, self.window = rig, videos, window
        self.last = min(len(frames) for frames in seen) - 1
        self.pairs: list[tuple[int, int, int, Sighting, Sighting]] = []
        for a, b in itertools.combinations(range(len(videos)), 2):
            for frame in range(self.last + 1):
                one, two = seen[a][frame], seen[b][frame]
                for i, j in matched(one, two, (rig[a], rig[b])):
                    self.pairs.append((frame, a, b, one[i], two[j]))
        if not self.pairs:
            raise ConfigError(
                f"{videos[0]}: nobody in it is the same as anybody in the other views; are the "
                "videos in the calibration's order, and in step?"
            )

    def __len__(self) -> int:
        """Return the number of samples: every pair is seen from both sides."""
        return 2 * len(self.pairs)

    def __getitem__(self, index: int) -> ClipSample:
        """Sample ``index``; no joint of it is known."""
        frame, a, b, one, two = self.pairs[index // 2]
        if index % 2:
            a, b, one, two = b, a, two, one
        here, there = self._view(frame, a, one), self._view(frame, b, two)
        matrix = essential(self.rig[a], self.rig[b])
        maps = [ray_map(self.rig[v].camera, s.box_xyxy_px) for v, s in ((a, one), (b, two))]
        return replace(here, other=there, epipolar=maps[1].T @ matrix @ maps[0])

    def _view(self, frame: int, view: int, who: Sighting) -> ClipSample:
        frames, left, right = self.window.around(frame, 0, self.last)
        shape = (len(frames), len(self.skeleton))
        return ClipSample(
            images=tuple(VideoImage(self.videos[view], int(f)) for f in frames),
            key=self.window.key,
            box_xyxy_px=who.box_xyxy_px,
            xy_px=np.full((*shape, 2), np.nan, np.float32),
            visible=np.zeros(shape, np.uint8),
            skeleton=self.skeleton,
            track=who.track,
            frame_index=frames,
            dt_left=left,
            dt_right=right,
            video=self.videos[view].stem,
            image_id=frame,
        )


@register_dataset("views")
def views(
    path: str, videos: str = "", poses: str = "", frames: int = 1, key: int = 0, step: int = 1
) -> Views:
    """Open videos of a calibrated rig; ``videos`` and ``poses`` are lists with |.

    Raises:
        SourceError: files are missing, or are not what `tools.track` writes.
        CalibrationError: no calibration.
        ConfigError: another number of cameras, videos and pose files, or nobody in two views.

    """
    rig = read_rig(need(Path(path), "the calibration", LAYOUT))
    films = [Path(name) for name in videos.split("|") if name]
    files = [Path(name) for name in poses.split("|") if name]
    if not len(rig) == len(films) == len(files) >= 2:
        raise ConfigError(
            f"{path}: expected as many videos and pose files as cameras, two or more, got "
            f"{len(rig)} cameras, {len(films)} videos and {len(files)} pose files"
        )
    for film in films:
        need(film, "the video", LAYOUT)
    seen = [_sightings(need(file, "what tools.track says", LAYOUT)) for file in files]
    return Views(rig, films, seen, WindowSpec(frames, key, step))


def _sightings(path: Path) -> list[list[Sighting]]:
    frames = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            frames.append([_sighting(p) for p in row["people"] if p["state"] == "TRACKED"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SourceError(
            f"{path}: expected what python -m pose_ros.tools.track writes ({error!r})"
        ) from error
    return frames


def _sighting(person: dict[str, Any]) -> Sighting:
    table = np.array(person["keypoints_px"], np.float64).reshape(len(COCO17), 3)
    xy = np.where(table[:, 2:] >= SCORE_MIN, table[:, :2], np.nan)
    return Sighting(str(person["id"]), np.asarray(person["box_xyxy_px"], np.float32), xy)
