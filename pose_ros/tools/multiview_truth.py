"""Reference bodies from several synchronised, calibrated videos, for judging one camera's.

Every video runs through the 2-D pipeline alone; people are matched across views and time,
triangulated and smoothed. One archive per person whom at least three views (two of two) show in
half of the frames: OUT.npz, or OUT_0.npz, OUT_1.npz … of several by ascending id, with T frames, V
views, J joints (COCO17):

xyz_m, xyz_smooth_m (T, J, 3)  world, metres, NaN unknown; smooth: zero-phase low pass
covariance_m2 (T, J, 3, 3), views_used (T, J), residual_px (V, T, J)  of the triangulation
xy_px (V, T, J, 2), score (V, T, J), stamps_ns (T,)  what the network saw
K (V, 3, 3), dist (V, D), size_wh (V, 2), T_cam_world, T_cam_world_file (V, 4, 4)

It is no motion capture: what the 2-D network gets wrong in all views alike stays in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, linear_sum_assignment
from scipy.signal import butter, sosfiltfilt
from scipy.spatial.transform import Rotation

from pose_ros.build import build_pipeline
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.multiview import MultiViewLifter, View
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.skeletons import COCO17
from pose_ros.core.source import PictureSource, open_source
from pose_ros.core.spread import pixel_std
from pose_ros.core.triangulate import Points3D, triangulate
from pose_ros.core.values import Frame, Poses2D, Poses3D, TrackState
from pose_ros.errors import ConfigError
from pose_ros.tools import cli
from pose_ros.tools.pose2sim_calibration import read_cameras

Array = npt.NDArray[Any]

J = len(COCO17)
VIEWS_MIN = 3  # with two, nothing contradicts a mistake
SCORE_MIN = 0.3  # joints below do not count in the triangulation
CUT_HZ = 6.0  # of the low pass
REACH = 5  # frames; a smooth joint farther from a triangulated one is unknown
MATCH_MAX = 6.0  # standard deviations, mean, between a person and a detection in one view
TURN_STD = np.radians(0.25)  # how far the file's rotations may be off
SOFT_PX = 10.0  # reprojection errors beyond count less
MISSING_PX = 60.0  # what a joint costs that no longer triangulates
FIT_FRAMES = 25  # that the rotations are fitted to


@dataclass(frozen=True)
class Sight:
    """One person in all views."""

    xy_px: Array  # (V, T, J, 2) NaN where the view does not show the person
    score: Array  # (V, T, J)

    def weights(self) -> Array:
        """(V, T, J) 1 / variance in px^-2, 0 where a joint does not count."""
        ids = np.arange(self.score.shape[1])
        std = np.stack(
            [pixel_std(Poses2D(ids, xy, s)) for xy, s in zip(self.xy_px, self.score, strict=True)]
        )
        return np.where(self.score > SCORE_MIN, 1.0 / std.astype(np.float64) ** 2, 0.0)


def watch(source: PictureSource, pipeline: PosePipeline, rate_hz: float) -> list[Poses2D]:
    """Everybody tracked in every frame of a video, in pixels."""
    pipeline.reset()
    seen: list[Poses2D] = []
    results = []
    for number, bgr in enumerate(cli.progress(source, source.count, "frame")):
        frame = Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), round(number * 1e9 / rate_hz))
        results += pipeline.push(frame)
    for result in [*results, *pipeline.finish()]:
        seen.append(result.poses.select(result.tracks.state != TrackState.LOST))
    return seen


def follow(
    cameras: Sequence[PinholeCamera], poses: Array, views: Sequence[Sequence[Poses2D]],
    stamps_ns: Array,
) -> dict[int, Sight]:  # fmt: skip
    """People whom three views (two of two) show in half of the frames, by world id."""
    lifter, frames = MultiViewLifter(COCO17), len(stamps_ns)
    found: dict[int, Sight] = {}
    for t, stamp in enumerate(stamps_ns.tolist()):
        now = [
            View(camera, pose, view[t])
            for camera, pose, view in zip(cameras, poses, views, strict=True)
        ]
        people = lifter.update(now, stamp)
        for v, view in enumerate(now):
            for person, row in match(view, people):
                blank = Sight(
                    np.full((len(now), frames, J, 2), np.nan, np.float32),
                    np.zeros((len(now), frames, J), np.float32),
                )
                sight = found.setdefault(int(people.ids[person]), blank)
                sight.xy_px[v, t], sight.score[v, t] = view.poses.xy_px[row], view.poses.score[row]
    enough = min(VIEWS_MIN, len(cameras))
    often = {k: (s.score.any(axis=-1).sum(axis=0) >= enough).mean() for k, s in found.items()}
    return {k: found[k] for k in sorted(found) if often[k] >= 0.5}


def match(view: View, people: Poses3D) -> list[tuple[int, int]]:
    """Pairs (person, detection) of one view: whose joints fall on whose, one to one."""
    if not len(people) or not len(view.poses):
        return []
    pose = view.cam_from_world
    pixels = view.camera.project(people.xyz_m @ pose[:3, :3].T + pose[:3, 3])
    std = pixel_std(view.poses)
    away = np.linalg.norm(pixels[:, None] - view.poses.xy_px[None], axis=-1) / std
    away = np.where(np.isfinite(away) & (view.poses.score > SCORE_MIN), away, np.nan)
    known = np.isfinite(away)
    cost = np.where(known, np.minimum(away, 3 * MATCH_MAX), 0.0).sum(axis=-1)
    cost = np.where(known.sum(axis=-1) >= 4, cost / np.maximum(known.sum(axis=-1), 1), 1e3)
    pairs = zip(*linear_sum_assignment(cost), strict=True)
    return [(int(i), int(j)) for i, j in pairs if cost[i, j] < MATCH_MAX]


def turned(poses: Array, vectors: Array) -> Array:
    """Poses (V, 4, 4) of cameras turned by rotation vectors (V, 3) about their centres."""
    turn = Rotation.from_rotvec(vectors).as_matrix()
    out = poses.copy()
    out[:, :3] = turn @ poses[:, :3]
    return out


def refine_rotations(
    cameras: Sequence[PinholeCamera], poses: Array, people: Sequence[Sight]
) -> tuple[Array, Array]:
    """Poses whose rotations make the joints reproject best, and by how much they turned, degrees.

    The centres and lenses stay; the file is believed to `TURN_STD`.
    """
    step = max(1, people[0].xy_px.shape[1] // FIT_FRAMES)
    xy = np.concatenate([s.xy_px[:, ::step] for s in people], axis=1)
    weight = np.concatenate([s.weights()[:, ::step] for s in people], axis=1)

    def residuals(vector: Array) -> Array:
        points = triangulate(cameras, turned(poses, vector.reshape(-1, 3)), xy, weight)
        away = np.where(np.isfinite(points.residual_px), points.residual_px, MISSING_PX)
        away = np.where(weight > 0, away, 0.0) / SOFT_PX
        soft = np.sqrt(np.sqrt(1.0 + away**2) - 1.0)
        return np.concatenate([soft.ravel(), vector / TURN_STD])

    found = least_squares(
        residuals, np.zeros(3 * len(cameras)), diff_step=1e-4, x_scale=1e-3, max_nfev=12
    )
    vectors = found.x.reshape(-1, 3)
    return turned(poses, vectors), np.degrees(np.linalg.norm(vectors, axis=1))


def smooth(xyz_m: Array, rate_hz: float) -> Array:
    """Low-passed (T, J, 3) without delay; gaps up to `REACH` frames are bridged."""
    out = np.full(xyz_m.shape, np.nan)
    at = np.arange(len(xyz_m))
    low_pass = butter(2, min(CUT_HZ / (rate_hz / 2), 0.9), output="sos")
    for joint in range(xyz_m.shape[1]):
        known = np.isfinite(xyz_m[:, joint, 0])
        if known.sum() < 20:
            continue
        whole = [np.interp(at, at[known], xyz_m[known, joint, axis]) for axis in range(3)]
        near = np.convolve(known, np.ones(2 * REACH + 1), "same") > 0
        out[near, joint] = sosfiltfilt(low_pass, np.stack(whole, axis=-1), axis=0)[near]
    return out


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parse(argv)
    cameras, poses = read_cameras(args.calibration)
    if len(cameras) != len(args.videos):
        raise ConfigError(
            f"{args.calibration}: expected a camera per video, got {len(cameras)} cameras and "
            f"{len(args.videos)} videos"
        )
    pipeline = build_pipeline(
        cli.pipeline_config(args, detect__interval=1, lift__source="none", filter__type="none")
    )
    sources = [open_source(name) for name in args.videos]
    rate_hz = args.rate or sources[0].rate_hz
    views = [watch(source, pipeline, rate_hz) for source in sources]
    frames = min(len(view) for view in views)
    stamps_ns = np.round(np.arange(frames) * 1e9 / rate_hz).astype(np.int64)
    people = follow(cameras, poses, [view[:frames] for view in views], stamps_ns)
    if not people:
        raise ConfigError(
            "nobody is shown by enough views in half of the frames: wrong calibration or videos?"
        )
    better, degrees = poses, np.zeros(len(cameras))
    if args.refine_rotations:
        better, degrees = refine_rotations(cameras, poses, list(people.values()))
        people = follow(cameras, better, [view[:frames] for view in views], stamps_ns)
    answers = []
    for number, (world_id, sight) in enumerate(people.items()):
        name = args.out if len(people) == 1 else args.out.with_stem(f"{args.out.stem}_{number}")
        points = triangulate(cameras, better, sight.xy_px, sight.weights())
        lenses = _lenses(cameras) | {"T_cam_world": better, "T_cam_world_file": poses}
        _save(
            name,
            sight,
            points,
            stamps_ns,
            lenses | {"xyz_smooth_m": smooth(points.xyz_m, rate_hz)},
        )
        answers.append({"id": world_id, "file": str(name), **_quality(points)})
    return {
        "frames": frames, "rate_hz": rate_hz, "net": pipeline.net.name,
        "turned_deg": [round(float(d), 2) for d in degrees], "people": answers,
    }  # fmt: skip


def _lenses(cameras: Sequence[PinholeCamera]) -> dict[str, Array]:
    longest = max(len(c.distortion) for c in cameras)
    return {
        "K": np.stack([c.matrix for c in cameras]),
        "dist": np.array(
            [(*c.distortion, *(0.0,) * (longest - len(c.distortion))) for c in cameras]
        ),
        "size_wh": np.array([[c.width_px, c.height_px] for c in cameras]),
    }


def _save(
    path: Path, sight: Sight, points: Points3D, stamps_ns: Array, more: dict[str, Array]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    more["xyz_smooth_m"] = more["xyz_smooth_m"].astype(np.float32)
    arrays: dict[str, Any] = {
        "xyz_m": points.xyz_m.astype(np.float32),
        "covariance_m2": points.covariance_m2.astype(np.float32),
        "views_used": points.views_used, "residual_px": points.residual_px.astype(np.float32),
        "xy_px": sight.xy_px, "score": sight.score, "stamps_ns": stamps_ns,
    }  # fmt: skip
    save: Callable[..., None] = np.savez_compressed
    save(path, **arrays, **more)


def _quality(points: Points3D) -> dict[str, float]:
    """Numbers that say how far the reference can be trusted."""
    edges = COCO17.edge_indices()
    length = np.linalg.norm(points.xyz_m[:, edges[:, 0]] - points.xyz_m[:, edges[:, 1]], axis=-1)
    middle = np.nanmedian(length, axis=0)
    spread = 1.4826 * np.nanmedian(np.abs(length - middle), axis=0)
    return {
        "known": round(float(np.isfinite(points.xyz_m[..., 0]).mean()), 4),
        "views": round(float(points.views_used.mean()), 2),
        "residual_px_median": round(float(np.nanmedian(points.residual_px[points.used])), 2),
        "bone_std_mm": round(1000 * float(np.nanmedian(spread)), 1),
    }


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("multiview_truth", __doc__)
    parser.add_argument(
        "--videos", nargs="+", required=True, metavar="FILE",
        help="synchronised videos, in the order of the calibration's cameras",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, required=True, metavar="FILE",
        help="Pose2Sim's .toml or Qualisys' .qca.txt",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    parser.add_argument("--rate", type=float, help="frames per second (default: the video's own)")
    parser.add_argument(
        "--refine-rotations", action="store_true",
        help="turn the cameras until the joints reproject best",
    )  # fmt: skip
    cli.add_pipeline_options(parser)
    parser.set_defaults(net="movenet_thunder_large")
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
