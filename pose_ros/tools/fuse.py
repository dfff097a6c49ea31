"""One set of bodies in metres from the skeletons of several synchronised, calibrated videos.

Each TRACKS file is what `tools.track` wrote about one video; they are given in the order of the
calibration's cameras. People are matched across the views, joints triangulated from the views
that agree. Writes one JSON object per frame of the first file (``--out``):

  frame, stamp_ns   as in the first file
  people            id; views: the person's id in each file, null where it is not matched; score;
                    xyz_m: joints in the calibration's world, metres, null where fewer than two
                    views agree; std_m: their standard deviation per axis; joint_angles_rad

A person whom fewer than two views show is not there. Nothing is smoothed or filled in.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.angles import AngleTracker
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.multiview import MultiViewConfig, MultiViewLifter, View
from pose_ros.core.skeletons import SKELETONS, Skeleton
from pose_ros.core.values import IntArray, JointAngles, Poses2D, Poses3D, TrackState
from pose_ros.errors import CalibrationError, ConfigError, SourceError
from pose_ros.tools import cli
from pose_ros.tools.pose2sim_calibration import read_cameras

#: Joints of somebody in these states are measurements; of others they are predictions.
MEASURED = (TrackState.TENTATIVE.name, TrackState.TRACKED.name)
#: With a smaller share of the sights matched across the views something is wrong, or people are
#: often shown by one camera only.
MATCHED_MIN = 0.75


@dataclass(frozen=True)
class Track:
    """What one camera saw, frame by frame."""

    stamps_ns: IntArray  # (T,) ascending
    frames: IntArray  # (T,) number in the video
    poses: tuple[Poses2D, ...]  # T

    def at(self, stamp_ns: int, max_skew_ns: int) -> int | None:
        """Index of the frame nearest to a time; None when that is further than allowed."""
        right = int(np.searchsorted(self.stamps_ns, stamp_ns))
        near = [i for i in (right - 1, right) if 0 <= i < len(self.stamps_ns)]
        best = min(near, key=lambda i: abs(int(self.stamps_ns[i]) - stamp_ns))
        return best if abs(int(self.stamps_ns[best]) - stamp_ns) <= max_skew_ns else None


@dataclass(frozen=True)
class Moment:
    """Everybody at one time."""

    frame: int
    stamp_ns: int
    people: Poses3D  # in the world
    members: dict[tuple[int, int], int]  # (view, id in its file) -> id
    seen: tuple[Poses2D, ...]  # V; nobody where a view has no frame of that time


@dataclass
class Quality:
    """How well views and calibration agree."""

    frames: int = 0
    people_max: int = 0
    ids: set[int] = field(default_factory=set)
    shared: int = 0  # frames in which at least two views show somebody
    sights: int = 0
    matched: int = 0
    residual_px: list[np.ndarray] = field(default_factory=list)

    def add(self, now: Moment, cameras: Sequence[PinholeCamera], poses: np.ndarray) -> None:
        """Count one moment; ``poses`` (V, 4, 4) are those of the cameras."""
        self.frames += 1
        self.people_max = max(self.people_max, len(now.people))
        self.ids.update(now.people.ids.tolist())
        self.shared += sum(len(p) > 0 for p in now.seen) >= 2
        self.sights += sum(len(p) for p in now.seen)
        self.matched += len(now.members)
        row = {number: i for i, number in enumerate(now.people.ids.tolist())}
        for (view, number), world in now.members.items():
            if world not in row:
                continue
            seen, pose = now.seen[view], poses[view]
            mine = int(np.flatnonzero(seen.ids == number)[0])
            there = now.people.xyz_m[row[world]] @ pose[:3, :3].T + pose[:3, 3]
            away = np.linalg.norm(cameras[view].project(there) - seen.xy_px[mine], axis=-1)
            self.residual_px.append(away[np.isfinite(away)])

    def summary(self) -> dict[str, Any]:
        """The last line of the command."""
        residual = np.concatenate(self.residual_px) if self.residual_px else np.zeros(0)
        return {
            "frames": self.frames, "people_max": self.people_max, "ids": sorted(self.ids),
            "matched": round(self.matched / self.sights, 4) if self.sights else 0.0,
            "residual_px_median": round(float(np.median(residual)), 2) if len(residual) else None,
        }  # fmt: skip


def read_track(path: Path, skeleton: Skeleton, offset_s: float = 0.0) -> Track:
    """Skeletons of one video as `tools.track` wrote them; ``offset_s`` is added to the stamps.

    People who were only predicted (OCCLUDED) or ended (LOST) are left out.

    Raises:
        SourceError: no such file, or a line of it is something else.

    """
    stamps, frames, poses = [], [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: expected a file of tools.track: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            stamps.append(int(record["stamp_ns"]) + round(offset_s * 1e9))
            frames.append(int(record["frame"]))
            poses.append(_poses(record["people"], len(skeleton)))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise SourceError(
                f"{path}, line {number}: expected a frame of tools.track with people of "
                f"{len(skeleton)} keypoints ({skeleton.name}): {type(error).__name__}: {error}"
            ) from error
    if not stamps:
        raise SourceError(f"{path}: expected a line per frame, found none")
    if (np.diff(stamps) <= 0).any():
        raise SourceError(f"{path}: expected stamps that ascend")
    return Track(np.array(stamps, np.int64), np.array(frames, np.int64), tuple(poses))


def _poses(people: list[dict[str, Any]], joints: int) -> Poses2D:
    seen = [person for person in people if person["state"] in MEASURED]
    if not seen:
        return Poses2D.empty(joints)
    rows: npt.NDArray[np.float32] = np.array([p["keypoints_px"] for p in seen], np.float32)
    if rows.shape[1:] != (joints, 3):
        raise ValueError(f"keypoints of shape {rows.shape[1:]}")
    xy, score = rows[..., :2].copy(), np.nan_to_num(rows[..., 2])
    return Poses2D(np.array([int(p["id"]) for p in seen], np.int64), xy, score)


def fuse(
    tracks: Sequence[Track], cameras: Sequence[PinholeCamera], poses: np.ndarray,
    lifter: MultiViewLifter, max_skew_s: float = 0.02,
) -> Iterator[Moment]:  # fmt: skip
    """Everybody at the times of the first track; other views' frames within ``max_skew_s`` count.

    Raises:
        CalibrationError: not one camera per track.

    """
    if not len(tracks) == len(cameras) == len(poses):
        raise CalibrationError(
            f"expected a camera per track, got {len(cameras)} cameras and {len(tracks)} tracks"
        )
    blank = Poses2D.empty(len(lifter.skeleton))
    for i, stamp_ns in enumerate(tracks[0].stamps_ns.tolist()):
        rows = [track.at(stamp_ns, round(max_skew_s * 1e9)) for track in tracks]
        seen = tuple(
            blank if row is None else track.poses[row]
            for row, track in zip(rows, tracks, strict=True)
        )
        views = [View(*v) for v in zip(cameras, poses, seen, strict=True)]
        people = lifter.update(views, stamp_ns)
        number = int(tracks[0].frames[i])
        yield Moment(number, stamp_ns, people, dict(lifter.members), seen)


def record(now: Moment, angles: JointAngles | None) -> dict[str, Any]:
    """One line of the output; NaN is written as null."""
    people = []
    std = np.sqrt(np.einsum("pjaa->pj", now.people.covariance_m2) / 3)
    for row, number in enumerate(now.people.ids.tolist()):
        mine = {view: own for (view, own), world in now.members.items() if world == number}
        told = None if angles is None else angles.angle_rad[row]
        names = () if angles is None else angles.names
        people.append({
            "id": number,
            "views": [mine.get(view) for view in range(len(now.seen))],
            "score": round(float(now.people.score[row].mean()), 4),
            "xyz_m": _numbers(now.people.xyz_m[row]),
            "std_m": _numbers(std[row]),
            "joint_angles_rad": {} if told is None else dict(
                zip(names, _numbers(told), strict=True)
            ),
        })  # fmt: skip
    return {"frame": now.frame, "stamp_ns": now.stamp_ns, "people": people}


def _numbers(values: np.ndarray) -> Any:
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [round(v, 4) if np.isfinite(v) else None for v in values.tolist()]


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    cameras, poses = read_cameras(args.calibration)
    offsets = args.offsets or [0.0] * len(args.tracks)
    if not len(args.tracks) == len(cameras) == len(offsets):
        raise ConfigError(
            f"expected as many files and offsets as {args.calibration} has cameras "
            f"({len(cameras)}), got {len(args.tracks)} files and {len(offsets)} offsets"
        )
    skeleton = SKELETONS[args.skeleton]
    tracks = [
        read_track(path, skeleton, offset)
        for path, offset in zip(args.tracks, offsets, strict=True)
    ]
    config = MultiViewConfig(score_min=args.score_min)
    angles = None if args.angles == "none" else AngleTracker(skeleton, args.angles)
    quality = Quality()
    moments = fuse(tracks, cameras, poses, MultiViewLifter(skeleton, config), args.max_skew_s)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8") as lines:
        for now in cli.progress(moments, len(tracks[0].stamps_ns), "frame"):
            told = None if angles is None else angles.update(now.people, now.stamp_ns)
            lines.write(json.dumps(record(now, told)) + "\n")
            quality.add(now, cameras, poses)
    if not quality.ids:
        why = "no two views show anybody at the same time: other clocks (--offsets)?"
        if quality.shared:
            why = "nobody's joints meet: another calibration, or files in another order?"
        raise ConfigError(f"nobody was found in {quality.frames} frames; {why}")
    answer = quality.summary()
    if answer["matched"] < MATCHED_MIN:
        cli.log.warning(
            "only %.0f %% of the skeletons were matched with another view's: are the files in the "
            "calibration's order, and do the cameras see the same people?", 100 * answer["matched"]
        )  # fmt: skip
    return answer


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("fuse", __doc__)
    parser.add_argument(
        "tracks", nargs="+", type=Path, metavar="TRACKS.jsonl",
        help="files of tools.track, in the order of the calibration's cameras",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, required=True, metavar="FILE",
        help="cameras with their poses: Pose2Sim's .toml or Qualisys' .qca.txt",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.jsonl", help="one JSON line per frame"
    )
    parser.add_argument(
        "--offsets", type=float, nargs="+", metavar="S",
        help="seconds added to the stamps of each file, for cameras that did not start together",
    )  # fmt: skip
    parser.add_argument(
        "--max-skew-s", type=float, default=0.02, metavar="S",
        help="frames further apart in time are not of one moment, s (default: %(default)s)",
    )  # fmt: skip
    default = MultiViewConfig()
    parser.add_argument(
        "--score-min", type=float, default=default.score_min,
        help="joints with a lower score do not count (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--skeleton", choices=sorted(SKELETONS), default="coco17",
        help="joints of the files (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--angles", choices=("rep155", "isb", "none"), default="rep155",
        help="convention of the joint angles (default: %(default)s)",
    )  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
