"""What inertial sensors are worth, on rendered scenes with exact truth.

"pan": the camera turns to and fro; how well the gyro aligns the frames of a window, by exact
projection and in the pictures themselves, and what the refiner gains when its memory turns along.
"body": a board hides a person for a second; the error of the hidden wrists with and without worn
sensors: "known" bones and axes, "placed" on known bones, or "auto", which learns everything from
the ten seconds before. Measured joints are the truth with noise where the renderer says that they
are seen. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.body_imu import BodyImus, Strap
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.ego import EgoMotion, StillCamera, cut_turned, turn_pixels
from pose_ros.core.embody import Embodier
from pose_ros.core.imu import Imu
from pose_ros.core.refine_inertia import worn_bones
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import (
    KeypointStatus,
    Poses2D,
    Poses3D,
    ScaleSource,
    Tracks,
    TrackState,
)
from pose_ros.errors import PoseRosError
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import CameraPath, Person, Scene, SceneConfig, Thing, random_scene
from pose_ros.training.scene_body import Shapes
from pose_ros.training.scene_imu import (
    ImuNoise,
    ImuTrack,
    body_imu,
    camera_imu,
    imu_stamps_ns,
    with_noise,
)
from pose_ros.training.walker import place, reach, walk

Floats = npt.NDArray[np.float64]

#: Spread of the measured joints.
NOISE_PX, NOISE_M = 2.5, 0.02
#: Frames on either side of a window's key frame.
BESIDE = 2
FPS = 30.0


def main(argv: list[str]) -> dict[str, Any]:
    """Measure, and say what came out."""
    args = _parser().parse_args(argv)
    out: dict[str, Any] = {}
    if args.what in ("pan", "both"):
        out["pan"] = pan(args.seeds, args.swing_rad, args.rate_rad_s)
    if args.what in ("body", "both"):
        for motion in ("reach", "walk", "side"):
            out[motion] = body(motion, args.seeds)
    return out


def load(imu: Imu, track: ImuTrack, until_ns: int, told: bool, done: int = 0) -> int:
    """Push a rendered sensor's samples from ``done`` up to a time; returns the next one."""
    while done < len(track.stamps_ns) and track.stamps_ns[done] <= until_ns:
        world = track.world_from_sensor[done] if told else None
        imu.push(int(track.stamps_ns[done]), track.gyro_rad_s[done], track.force_m_s2[done], world)
        done += 1
    return done


def pan_scene(seed: int, swing_rad: float, rate_rad_s: float, seconds: float) -> Scene:
    """A room with a walker and things in front, seen by a camera that turns to and fro."""
    scene = random_scene(SceneConfig(seed=seed, seconds=seconds, fps=FPS, occluders=2))
    path = CameraPath(scene.path.position_m, scene.path.target_m, "pan", swing_rad, rate_rad_s)
    return replace(scene, path=path)


def pan(seeds: int, swing_rad: float, rate_rad_s: float, seconds: float = 4.0) -> dict[str, Any]:
    """Alignment of windows and error of the refiner under a pan, over scenes."""
    rows = []
    for seed in range(seeds):
        scene = pan_scene(seed, swing_rad, rate_rad_s, seconds)
        frames = [render(scene, n) for n in range(scene.frames)]
        imu = panned_imu(scene, seed, seconds)
        rows.append(alignment(frames, imu) | refined_pan(frames, imu, seed))
        _say(f"pan {seed}: {rows[-1]}")
    return {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]} | {
        "align_px_max": round(max(row["align_px_max"] for row in rows), 3),
        "peak_deg_s": round(math.degrees(swing_rad * rate_rad_s), 1), "scenes": seeds,
    }  # fmt: skip


def panned_imu(scene: Scene, seed: int, seconds: float, before_s: float = 1.5) -> Imu:
    """The camera's sensor with noise and bias; it stood still ``before_s`` before the scene."""
    imu, stamps = Imu(), imu_stamps_ns(before_s - 0.005)
    still = CameraPath(scene.path.position_m, scene.path.target_m)
    rest = camera_imu(still, stamps - round(before_s * 1e9))
    moving = camera_imu(scene.path, imu_stamps_ns(seconds + 0.1))
    both = {
        name: np.concatenate([getattr(rest, name), getattr(moving, name)])
        for name in ("stamps_ns", "gyro_rad_s", "force_m_s2", "world_from_sensor")
    }
    track = with_noise(replace(moving, **both), ImuNoise(), seed)
    load(imu, track, int(track.stamps_ns[-1]), False)
    return imu


def alignment(frames: list[Rendered], imu: Imu) -> dict[str, float]:
    """Errors of support frames turned into their key frame, pixels of the image."""
    camera, motion = frames[0].camera, EgoMotion(imu)
    w, h = camera.width_px, camera.height_px
    grid = np.stack(np.meshgrid(np.linspace(0, w - 1, 9), np.linspace(0, h - 1, 7)), -1)
    off, raw, seen, unturned = [], [], [], []
    for key in range(BESIDE, len(frames) - BESIDE):
        for other in (key - BESIDE, key - 1, key + 1, key + BESIDE):
            turn = motion.between(frames[other].stamp_ns, frames[key].stamp_ns)
            exact = frames[key].cam_from_world[:3, :3] @ frames[other].cam_from_world[:3, :3].T
            if turn is None:
                raise RuntimeError("the rendered sensor has gaps")
            there = turn_pixels(camera, exact, grid)
            off.append(np.linalg.norm(turn_pixels(camera, turn, grid) - there, axis=-1))
            raw.append(np.linalg.norm(grid - there, axis=-1))
        if (key - BESIDE) % 10 == 0:
            now, old = frames[key], frames[key - BESIDE]
            turn = motion.between(old.stamp_ns, now.stamp_ns)
            seen.append(flow_px(now, turned(old, turn)))  # type: ignore[arg-type]
            unturned.append(flow_px(now, old.rgb))
    return {
        "align_px": float(np.mean(off)), "align_px_max": float(np.max(off)),
        "unaligned_px": float(np.mean(raw)), "picture_px": float(np.median(seen)),
        "picture_unaligned_px": float(np.median(unturned)),
    }  # fmt: skip


def turned(old: Rendered, turn: Floats) -> npt.NDArray[np.uint8]:
    """A whole picture turned as the camera did."""
    out = np.empty_like(old.rgb)
    edges = np.array([0, 0, old.camera.width_px, old.camera.height_px])
    cut_turned(old.rgb, old.camera, turn, edges, out)
    return out


def flow_px(key: Rendered, other: npt.NDArray[np.uint8]) -> float:
    """Motion of the background's corners from the key frame to another picture.

    The lower quartile: boards that move are background too.
    """
    grey = cv2.cvtColor(key.rgb, cv2.COLOR_RGB2GRAY)
    still = (key.owner < 0).astype(np.uint8)
    still[cv2.cvtColor(other, cv2.COLOR_RGB2GRAY) == 0] = 0
    still = cv2.erode(still, np.ones((41, 41), np.uint8))
    corners = cv2.goodFeaturesToTrack(grey, 200, 0.01, 7, mask=still)
    if corners is None:
        return math.nan
    moved, found, _ = cv2.calcOpticalFlowPyrLK(  # type: ignore[call-overload]
        grey, cv2.cvtColor(other, cv2.COLOR_RGB2GRAY), corners, None, winSize=(31, 31)
    )
    way = np.linalg.norm((moved - corners)[found[:, 0] == 1], axis=-1)
    return float(np.percentile(way, 25)) if way.size else math.nan


def refined_pan(frames: list[Rendered], imu: Imu, seed: int) -> dict[str, float]:
    """Mean errors of the refiner with and without turning its memory, seen and hidden joints."""
    out = {}
    for dims, unit in ((2, "px"), (3, "mm")):
        for name, with_imu in (("still", False), ("turned", True)):
            seen, hidden, jerk = _run_pan(frames, imu if with_imu else None, dims, seed)
            scale = 1.0 if dims == 2 else 1000.0
            out[f"{name}_seen_{unit}"] = scale * seen
            out[f"{name}_hidden_{unit}"] = scale * hidden
            out[f"{name}_jitter_{unit}"] = scale * jerk
    return out


def _run_pan(
    frames: list[Rendered], imu: Imu | None, dims: int, seed: int
) -> tuple[float, float, float]:
    """Errors of seen and hidden joints, and of the second difference of the error."""
    rng = np.random.default_rng([seed, dims, 41])
    motion = None if imu is None else EgoMotion(imu)
    stages = Embodier(COCO17, with_values(PipelineConfig(), {"lift.source": "depth"}), None)
    errors, marks = [], []
    for frame in frames:
        true = frame.xy_px if dims == 2 else frame.xyz_camera_m
        points = true + (NOISE_PX if dims == 2 else NOISE_M) * rng.standard_normal(true.shape)
        if motion is not None:
            motion.carry(frame.stamp_ns, frame.camera, *stages.memories)
        errors.append(_refined(stages, frame, points.astype(np.float32)) - true)
        marks.append(frame.visible)
    off, visible = np.array(errors, np.float64), np.array(marks)
    far = np.linalg.norm(off, axis=-1)
    bend = np.linalg.norm(off[2:] - 2 * off[1:-1] + off[:-2], axis=-1)
    return (
        float(np.nanmean(far[visible == 2])), float(np.nanmean(far[visible == 1])),
        float(np.nanmean(bend[visible[2:] == 2])),
    )  # fmt: skip


def _refined(stages: Embodier, frame: Rendered, points: npt.NDArray[np.float32]) -> Floats:
    """Joints (P, 17, d) that the pipeline's stages make of measured ones, in pixels or metres.

    A joint is measured where the renderer says that it is seen.
    """
    ids = np.arange(1, len(points) + 1, dtype=np.int64)
    score = np.where(frame.visible == 2, 0.9, 0.0).astype(np.float32)
    points = np.where(score[..., None] > 0, points, np.float32(np.nan))
    seen = (score > 0).any(axis=1)
    tracks = Tracks(
        ids, np.where(seen, TrackState.TRACKED, TrackState.OCCLUDED).astype(np.int8),
        np.nan_to_num(frame.box_xyxy_px), score.mean(axis=1), np.full(len(ids), frame.stamp_ns),
    )  # fmt: skip
    if points.shape[-1] == 2:
        refined = stages.refine(frame.stamp_ns, tracks, Poses2D(ids, points, score))
        assert refined is not None
        return refined.poses.xy_px.astype(np.float64)
    metric = Poses3D.unknown(ids, len(COCO17))
    metric.xyz_m[:], metric.score[:] = points, score
    metric.covariance_m2[score > 0] = NOISE_M**2 * np.eye(3)
    metric.status[score > 0] = KeypointStatus.MEASURED
    metric.scale[seen] = ScaleSource.DEPTH
    return stages.embody(frame.stamp_ns, tracks, metric).poses.xyz_m.astype(np.float64)


def hidden_scene(motion: str, seed: int, before_s: float = 10.0) -> Scene:
    """A person whom a board hides for about a second, ``before_s`` after the start.

    "side" is "reach" seen from the side, where the trunk hides the left shoulder and elbow.
    """
    seconds = before_s + 3.0
    if motion in ("reach", "side"):
        stamps, xyz = reach(seconds, 60.0, seed, hand="both")
    else:
        stamps, xyz = walk(seconds, 60.0, seed, path="circle", radius_m=1.0, speed_m_s=1.0)
    # Neither arm before the trunk for long, or the left one behind it.
    xyz = place(xyz, (0.0, 0.0), math.pi / 2 if motion == "side" else 0.8 + 0.1 * seed)
    base = random_scene(SceneConfig(seed=seed, seconds=seconds, fps=FPS, size_px=(320, 240)))
    path = CameraPath((4.2, 0.0, 1.3), (0.0, 0.0, 0.95))
    # At 1.4 m from the camera what is 1 m wide hides 3 m where the person is.
    speed, wide = 1.3, 1.55
    start, half = np.array([2.8, -speed * (before_s + 0.6), 1.3]), np.array([0.02, wide / 2, 1.4])
    board = Thing(Shapes.box(start, half, 0.0, 1), velocity_m_s=(0.0, speed, 0.0))
    person = Person(stamps, xyz, base.people[0].look)
    camera = PinholeCamera.from_fov(320, 240, 60.0)
    return replace(base, people=(person,), path=path, camera=camera, things=(board,))


def body(motion: str, seeds: int) -> dict[str, Any]:
    """Errors of wrists that a board hides, with and without worn sensors, over scenes."""
    rows = []
    for seed in range(seeds):
        scene = hidden_scene(motion, seed)
        frames = [_mark(render(scene, n)) for n in range(scene.frames)]
        rows.append(hidden_errors(scene, frames, seed))
        _say(f"{motion} {seed}: {rows[-1]}")
    keys = [key for key in rows[0] if key != "assigned"]
    mean = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in keys}
    right = sum(row["assigned"][0] for row in rows)
    wrong = sum(row["assigned"][1] for row in rows)
    return mean | {"assigned_right": right, "assigned_wrong": wrong, "scenes": seeds}


def _mark(frame: Rendered) -> Rendered:
    """The same without the pictures, which are not needed any more."""
    none = np.zeros((1, 1, 3), np.uint8)
    return replace(frame, rgb=none, depth_m=np.zeros((1, 1), np.float32))


def hidden_errors(scene: Scene, frames: list[Rendered], seed: int) -> dict[str, Any]:
    """Mean wrist errors in metres while nothing of the body is seen."""
    gone = np.array([not (frame.visible[0] == 2).any() for frame in frames])
    gone[np.flatnonzero(gone)[0] + round(scene.fps) :] = False  # one second of it
    wrists = [COCO17.index("left_wrist"), COCO17.index("right_wrist")]
    true = np.array([frame.xyz_camera_m[0] for frame in frames])
    plain, _ = run_body(scene, frames, seed, "none")
    sensed, imus = run_body(scene, frames, seed, "auto")
    placed, _ = run_body(scene, frames, seed, "placed")
    known, _ = run_body(scene, frames, seed, "known")
    last = np.flatnonzero(gone)[0] - 1
    held = np.broadcast_to(plain[last], plain.shape)
    out: dict[str, Any] = {"hidden_s": float(gone.sum() / scene.fps)}
    runs = {"plain": plain, "held": held, "auto": sensed, "placed": placed, "known": known}
    for name, points in runs.items():
        far = np.linalg.norm(points - true, axis=-1)
        out[f"{name}_m"] = float(far[gone][:, wrists].mean())
        out[f"{name}_end_m"] = float(far[np.flatnonzero(gone)[-1], wrists].mean())
        near = far[60:last][:, wrists]
        out[f"{name}_seen_m"] = float(np.nanmean(near))
    said = {} if imus is None else imus.assigned()
    right = sum(sensor == bone for sensor, bone in said.items())
    return out | {"assigned": (right, len(said) - right)}


def run_body(
    scene: Scene, frames: list[Rendered], seed: int, sensors: str,
    spoil: Callable[[ImuTrack], ImuTrack] = lambda track: track,
) -> tuple[Floats, BodyImus | None]:  # fmt: skip
    """Refined joints (T, 17, 3) of the person, and the sensors, whose samples ``spoil`` changes.

    ``sensors`` are "none", "auto" (nothing is known of where they sit), "placed" (their bones are
    given) or "known" (bones and axes are). The refiner predicts as long as it can, in all cases.
    """
    names = worn_bones(COCO17)[0]
    stamps = imu_stamps_ns(scene.frames / scene.fps + 0.1)
    tracks = {
        name: spoil(body_imu(scene.people[0], name, stamps, ImuNoise(), seed * 31 + n))
        for n, name in enumerate(names)
    }
    straps = [Strap(name, "" if sensors == "auto" else name) for name in tracks]
    if sensors == "known":
        along = {name: track.sensor_from_bone[:, 1].tolist() for name, track in tracks.items()}
        straps = [replace(strap, axis=tuple(along[strap.sensor])) for strap in straps]
    imus = None if sensors == "none" else BodyImus(COCO17, tuple(straps))
    longest = {"lift.source": "depth", "filter.max_prediction_s": 2.0}
    stages = Embodier(
        COCO17, with_values(PipelineConfig(), longest), None, TrueCamera(frames), imus
    )
    rng, done, out = np.random.default_rng([seed, 43]), dict.fromkeys(tracks, 0), []
    for frame in frames:
        noisy = frame.xyz_camera_m + NOISE_M * rng.standard_normal(frame.xyz_camera_m.shape)
        for name, track in tracks.items() if imus is not None else ():
            imu = imus.imus[name]  # type: ignore[union-attr]
            done[name] = load(imu, track, frame.stamp_ns, True, done[name])
        out.append(_refined(stages, frame, noisy.astype(np.float32))[0])
    return np.array(out), imus


class TrueCamera(StillCamera):
    """The orientation of the camera that took the frames."""

    def __init__(self, frames: list[Rendered]) -> None:
        """Remember it."""
        super().__init__()
        self._of = {frame.stamp_ns: frame.cam_from_world[:3, :3].T for frame in frames}

    def world(self, stamp_ns: int) -> Floats | None:
        """World from camera (3, 3) at the time of one of the frames."""
        return self._of[stamp_ns]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.bench_imu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("what", nargs="?", default="both", choices=("pan", "body", "both"),
        help="what to measure (default: %(default)s)")  # fmt: skip
    add("--seeds", type=int, default=2, help="scenes of each kind (default: %(default)s)")
    add("--swing-rad", type=float, default=0.3, help="of the pan (default: %(default)s)")
    add("--rate-rad-s", type=float, default=4.0, help="of the pan (default: %(default)s)")
    return parser


def _run() -> None:
    try:
        answer = main(sys.argv[1:])
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _run()
