"""Monocular 3-D of one camera against triangulation from several: errors in millimetres.

--truth is an archive of one person, T frames, V calibrated cameras: xyz_smooth_m (or xyz_m)
(T, 17, 3) in the world, xy_px (V, T, 17, 2), score (V, T, 17), stamps_ns (T,), K (V, 3, 3), dist
(V, D), size_wh (V, 2), T_cam_world (V, 4, 4); several people have a person axis in front of the
joints' and are told apart by it. Every camera is lifted alone, frame after frame, as on a robot.
Tables go to stdout, of several archives one more by joint; the last line is one JSON object.

Stages: *lifted*, of every frame alone; *aprs*, the same made smooth by the live filter (no delay);
*offline*, by the refinement of whole tracks with the bone lengths that the live one learned. All
are judged on the joints that the lifter knew. The first is at the top of the JSON object as well.

Per camera: mpjpe_mm (middle of the hips aligned), pa_mpjpe_mm (best similarity per frame),
scaled_mpjpe_mm (hips and scale aligned: what the assumed stature does not explain), root_depth_mm
and root_depth_rel (middle of the hips, along the optical axis), bone_cv (of the limbs), jitter
(mean third difference, m/s^3), mpjve_m_s (mean length of the velocity error, from first
differences of the places), in_95 (share of joints in the stated 95 % ellipsoid; null: nothing is
stated), speed_in_95 (share of the velocities whose error lies in the stated 95 % sphere),
jitter_2d_px (mean third difference of the pixels, per frame) before and after.
per_joint_mm and per_joint_pa_mm are what mpjpe_mm and pa_mpjpe_mm are the means of, by joint.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.embody import Embodier
from pose_ros.core.lift_mono import STATURE_M, MonocularLifter
from pose_ros.core.refine import refine
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Frame, KeypointStatus, Poses2D, Poses3D, Tracks, TrackState
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.nets.checkpoint import find_card
from pose_ros.nets.lift_runtime import open_lifter
from pose_ros.training.body_error import bone_variation, procrustes_aligned, root_aligned

HIPS = np.array([COCO17.index("left_hip"), COCO17.index("right_hip")])
LIMBS = np.array(
    [
        [COCO17.index(f"{side}_{a}"), COCO17.index(f"{side}_{b}")]
        for side in ("left", "right")
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"),
                     ("shoulder", "hip"))
    ]
)  # fmt: skip
SCORE_MIN = 0.2  # as the pipeline reports joints
WARM_UP = 10  # frames of an empty window, not counted
CHI2_95 = 7.815  # 95 % quantile of chi^2 with three degrees of freedom
PER_JOINT = ("per_joint_mm", "per_joint_pa_mm")
BY_JOINT = ("lifted", "aprs")  # stages of the table by joint
SHOWN = {
    "pa_mpjpe_mm": "PA mm", "mpjpe_mm": "MPJPE mm", "root_depth_mm": "depth mm",
    "root_depth_rel": "depth", "bone_cv": "bone CV", "jitter": "m/s^3", "mpjve_m_s": "MPJVE m/s",
    "in_95": "in 95 %", "speed_in_95": "speed 95 %", "jitter_2d_px": "2-D px",
}  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Several views of people whose joints are known."""

    xyz_m: npt.NDArray[np.float32]  # (T, P, J, 3) world
    xy_px: npt.NDArray[np.float32]  # (V, T, P, J, 2)
    score: npt.NDArray[np.float32]  # (V, T, P, J)
    stamps_ns: npt.NDArray[np.int64]  # (T,)
    cameras: tuple[PinholeCamera, ...]
    cam_from_world: npt.NDArray[np.float64]  # (V, 4, 4)


def read_truth(path: Path) -> Truth:
    """Read an archive as the module describes it.

    Raises:
        ConfigError: it is missing or of another kind.

    """
    try:
        with np.load(path, allow_pickle=False) as z:
            xyz = z["xyz_smooth_m"] if "xyz_smooth_m" in z else z["xyz_m"]
            xy, score = z["xy_px"], z["score"]
            if xyz.ndim == 3:
                xyz, xy, score = xyz[:, None], xy[:, :, None], score[:, :, None]
            cameras = tuple(
                PinholeCamera(int(wh[0]), int(wh[1]), k[0, 0], k[1, 1], k[0, 2], k[1, 2], tuple(d))
                for k, d, wh in zip(z["K"], z["dist"], z["size_wh"], strict=True)
            )
            return Truth(xyz, xy, score, z["stamps_ns"], cameras, z["T_cam_world"])
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise ConfigError(f"{path}: expected an archive of views and truth: {error}") from error


@dataclass(frozen=True)
class Lifted:
    """One camera's bodies, people being (frame, person), row by row, and its pixels."""

    stages: dict[str, Poses3D]  # lifted, aprs, offline
    xy_px: dict[str, npt.NDArray[Any]]  # lifted, aprs: (T, P, J, 2)


def lift_view(truth: Truth, view: int, lifter: MonocularLifter, score_min: float) -> Lifted:
    """Lift what one camera sees, frame by frame, through the stages of the live pipeline."""
    stages = Embodier(COCO17, with_values(PipelineConfig(), {"lift.source": "mono"}), lifter)
    stages.reset()
    camera = truth.cameras[view]
    blank = np.zeros((1, 1, 3), np.uint8)
    lifted, smooth, seen, refined = [], [], [], []
    for t, stamp in enumerate(truth.stamps_ns.tolist()):
        poses, tracks = _sights(truth, view, t, score_min)
        better = stages.refine(stamp, tracks, poses)
        metric = stages.lift(Frame(blank, stamp, "", camera), tracks, poses)
        assert better is not None and metric is not None
        smooth.append(stages.embody(stamp, tracks, metric).poses)
        lifted.append(metric)
        seen.append(poses.xy_px)
        refined.append(better.poses.xy_px)
    first = _joined(lifted)
    offline = _offline(truth, first, stages.bones.lengths(poses.ids))
    return Lifted(
        {"lifted": first, "aprs": _joined(smooth), "offline": offline},
        {"lifted": np.stack(seen), "aprs": np.stack(refined)},
    )


def _sights(truth: Truth, view: int, t: int, score_min: float) -> tuple[Poses2D, Tracks]:
    """Poses of one frame, and tracks whose boxes surround them."""
    xy, score = truth.xy_px[view, t], truth.score[view, t]
    found = np.isfinite(xy).all(axis=-1) & (score >= score_min)
    ids = np.arange(1, len(xy) + 1)
    xy = np.where(found[..., None], xy, np.nan).astype(np.float32)
    low = np.where(found[..., None], xy, np.inf).min(axis=1)
    high = np.where(found[..., None], xy, -np.inf).max(axis=1)
    box = np.where(np.isfinite(low).all(axis=-1)[:, None], np.concatenate([low, high], 1), np.nan)
    state = np.where(found.any(axis=1), TrackState.TRACKED, TrackState.OCCLUDED).astype(np.int8)
    stamp_ns = np.full(len(ids), truth.stamps_ns[t])
    tracks = Tracks(ids, state, box.astype(np.float32), np.ones(len(ids), np.float32), stamp_ns)
    return Poses2D(ids, xy, np.where(found, score, 0.0).astype(np.float32)), tracks


def _joined(answers: list[Poses3D]) -> Poses3D:
    names = [f.name for f in fields(Poses3D)]
    return Poses3D(**{n: np.concatenate([getattr(a, n) for a in answers]) for n in names})


def _offline(truth: Truth, lifted: Poses3D, lengths_m: npt.NDArray[np.float32]) -> Poses3D:
    """Whole tracks refined at once; how sure they are is not known."""
    frames, people = truth.xyz_m.shape[:2]
    points = lifted.xyz_m.reshape(frames, people, -1, 3).swapaxes(0, 1)
    score = lifted.score.reshape(frames, people, -1).swapaxes(0, 1)
    stamps_s = np.tile((truth.stamps_ns - truth.stamps_ns[0]) * 1e-9, (people, 1))
    better = refine(points, score, stamps_s, lengths_m, COCO17).swapaxes(0, 1)
    unknown = np.full_like(lifted.covariance_m2, np.nan)
    points = better.reshape(lifted.xyz_m.shape)
    unsaid = np.full_like(lifted.speed_std_m_s, np.nan)
    return replace(lifted, xyz_m=points, covariance_m2=unknown, speed_std_m_s=unsaid)


def errors(
    truth: Truth, view: int, lifted: Poses3D, judged: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Numbers of the module's description for one camera, of the joints ``judged`` (T P, J)."""
    frames, people = truth.xyz_m.shape[:2]
    pose = truth.cam_from_world[view]
    real = truth.xyz_m @ pose[:3, :3].T + pose[:3, 3]
    real = real.reshape(-1, *real.shape[2:])
    late = np.repeat(np.arange(frames) >= WARM_UP, people)
    real = np.where(late[:, None, None], real, np.nan)
    found = np.where(judged[..., None], lifted.xyz_m, np.nan).astype(np.float64)
    both = np.isfinite(found[:, HIPS]).all(axis=(1, 2))
    plain = root_aligned(found, real, HIPS)
    centred = found - found[:, HIPS].mean(axis=1, keepdims=True)
    target = real - real[:, HIPS].mean(axis=1, keepdims=True)
    size = np.nansum(centred * target, axis=(1, 2)) / np.nansum(
        np.where(np.isfinite(target), centred, np.nan) ** 2, axis=(1, 2)
    ).clip(1e-9)
    scaled = np.linalg.norm(centred * size[:, None, None] - target, axis=-1)
    aligned = procrustes_aligned(found, real)
    depth = (found - real)[:, HIPS, 2].mean(axis=1)
    away = real[:, HIPS, 2].mean(axis=1)
    std = np.sqrt(lifted.covariance_m2[:, HIPS, 2, 2].mean(axis=1))
    cv = [bone_variation(found[p::people][WARM_UP:], LIMBS).mean() for p in range(people)]
    return {
        "frames": int((late & both).sum()),
        "mpjpe_mm": _mm(plain), "scaled_mpjpe_mm": _mm(scaled), "pa_mpjpe_mm": _mm(aligned),
        "root_depth_mm": _mm(np.abs(depth)), "root_depth_bias_mm": _mm(depth),
        "root_depth_rel": round(float(np.nanmean(np.abs(depth) / away)), 4),
        "root_depth_sigmas": _rounded(np.sqrt(_mean((depth / std) ** 2)), 2),
        "distance_m": round(float(np.nanmean(away)), 2),
        "bone_cv": round(float(np.nanmean(cv)), 4),
        "jitter": _rounded(jitter(found.reshape(frames, people, -1, 3)[WARM_UP:],
                                  truth.stamps_ns), 0),
        "in_95": _rounded(within(found - real, lifted.covariance_m2), 4),
        **_speeds(truth, lifted, found, real),
        "inferred": round(float((lifted.status == KeypointStatus.INFERRED).mean()), 4),
        "per_joint_mm": {n: _mm(plain[:, j]) for j, n in enumerate(COCO17.joints)},
        "per_joint_pa_mm": {n: _mm(aligned[:, j]) for j, n in enumerate(COCO17.joints)},
    }  # fmt: skip


def _speeds(
    truth: Truth, lifted: Poses3D, found: npt.NDArray[Any], real: npt.NDArray[Any]
) -> dict[str, float | None]:
    """``mpjve_m_s`` and ``speed_in_95`` of bodies and truth, both (T P, J, 3)."""
    moves = (len(truth.stamps_ns), -1, *real.shape[1:])
    stamps_s = (truth.stamps_ns - truth.stamps_ns[0]) * 1e-9
    steps = np.diff((found - real).reshape(moves), axis=0)
    lengths = np.linalg.norm(steps, axis=-1) / np.diff(stamps_s)[:, None, None]
    speed = np.gradient(real.reshape(moves), stamps_s, axis=0).reshape(real.shape)
    off = np.where(np.isfinite(found), lifted.velocity_m_s - speed, np.nan)
    stated = np.eye(3) * lifted.speed_std_m_s[..., None, None] ** 2
    return {
        "mpjve_m_s": _rounded(_mean(lengths), 3),
        "speed_in_95": _rounded(within(off, stated), 4),
    }


def jitter(points: npt.NDArray[Any], stamps_ns: npt.NDArray[np.int64]) -> float:
    """Mean length of the third differences of (T, ..., d), per second cubed; NaN if unknown."""
    step_s = float(np.median(np.diff(stamps_ns))) * 1e-9
    return _mean(np.linalg.norm(np.diff(points, n=3, axis=0), axis=-1)) / step_s**3


def within(off: npt.NDArray[Any], covariance: npt.NDArray[Any]) -> float:
    """Share of errors (..., 3) in the 95 % ellipsoids of covariances (..., 3, 3); NaN if none."""
    stated = np.isfinite(off).all(axis=-1) & np.isfinite(covariance).all(axis=(-1, -2))
    off, inverse = off[stated], np.linalg.inv(covariance[stated].astype(np.float64))
    return _mean(np.einsum("ni,nij,nj->n", off, inverse, off) <= CHI2_95)


def _mean(values: npt.NDArray[Any]) -> float:
    """Mean of what is known; NaN of nothing."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _rounded(value: float, digits: int) -> float | None:
    """JSON has no NaN: None instead."""
    return round(float(value), digits) if np.isfinite(value) else None


def _mm(metres: npt.NDArray[Any]) -> float:
    """Mean in millimetres, one decimal."""
    return round(1000 * _mean(metres), 1)


def evaluate(
    truth: Truth, make: Callable[[], MonocularLifter], score_min: float
) -> dict[str, Any]:
    """Errors of every stage, camera by camera and their mean; those of *lifted* on top as well."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for view in range(len(truth.cameras)):
        lifted = lift_view(truth, view, make(), score_min)
        judged = np.asarray(np.isfinite(lifted.stages["lifted"].xyz_m).all(axis=-1))
        for stage, poses in lifted.stages.items():
            row = errors(truth, view, poses, judged)
            if stage in lifted.xy_px:
                bent = np.diff(lifted.xy_px[stage][WARM_UP:], n=3, axis=0)
                row["jitter_2d_px"] = _rounded(_mean(np.linalg.norm(bent, axis=-1)), 2)
            rows.setdefault(stage, []).append(row)
    stages = {stage: _over_cameras(views) for stage, views in rows.items()}
    return {**stages["lifted"], "stages": {k: v for k, v in stages.items() if k != "lifted"}}


def _over_cameras(views: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = [k for k, value in views[0].items() if isinstance(value, float)]
    mean = {k: round(_mean(np.array([v[k] for v in views], np.float64)), 4) for k in numbers}
    joints = {
        of: {n: round(_mean(np.array([v[of][n] for v in views])), 1) for n in COCO17.joints}
        for of in PER_JOINT
    }
    return {"mean": mean, **joints, "cameras": views}


def table(result: dict[str, Any]) -> str:
    """What `evaluate` says, a line per stage and camera."""
    lines = [f"{'':18}" + "".join(f"{title:>10}" for title in SHOWN.values())]
    for stage, rows in {"lifted": result, **result["stages"]}.items():
        named = [(f"camera {i}", row) for i, row in enumerate(rows["cameras"])]
        for name, row in [*named, ("mean", rows["mean"])]:
            cells = [row.get(key) for key in SHOWN]
            text = "".join(f"{'-' if c is None else format(c, '.4g'):>10}" for c in cells)
            lines.append(f"{stage:9}{name:9}{text}")
    return "\n".join(lines)


def joint_table(results: dict[str, dict[str, Any]]) -> str:
    """Errors by joint in mm, hips aligned / best similarity, a column per clip and stage."""
    columns = [
        (clip, stage, result if stage == "lifted" else result["stages"][stage])
        for clip, result in results.items()
        for stage in BY_JOINT
    ]
    width = max(len(clip) for clip in results) + 10
    lines = [f"{'':15}" + "".join(f"{f'{clip} {stage}':>{width}}" for clip, stage, _ in columns)]
    for joint in COCO17.joints:
        cells = [" / ".join(f"{of[kind][joint]:.0f}" for kind in PER_JOINT) for *_, of in columns]
        lines.append(f"{joint:15}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command.

    Raises:
        PoseRosError: no such card, weights or truth.

    """
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.evaluate_lifter", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--truth", required=True, type=Path, nargs="+", help="archives (.npz), see above"
    )
    parser.add_argument("--net", default="lift_mono", help="card (default: %(default)s)")
    parser.add_argument(
        "--stature", type=float, nargs="+", default=[STATURE_M],
        help=f"m, assumed; of all archives or of each (default: {STATURE_M})",
    )  # fmt: skip
    parser.add_argument("--score-min", type=float, default=SCORE_MIN, help="default: %(default)s")
    args = parser.parse_args(argv)
    files, statures = args.truth, args.stature * (len(args.truth) if len(args.stature) == 1 else 1)
    if len(statures) != len(files) or len({file.stem for file in files}) != len(files):
        raise ConfigError(
            "expected archives of different names, and --stature for all of them or for each of "
            f"{len(files)}, got {len(args.stature)} statures"
        )
    network, results = open_lifter(find_card(args.net)), {}
    for file, stature in zip(files, statures, strict=True):
        truth = read_truth(file)
        result = evaluate(truth, lambda s=stature: MonocularLifter(network, s), args.score_min)
        print(f"{file.stem}\n{table(result)}\n")
        results[file.stem] = {"net": args.net, "truth": file.name, "stature_m": stature, **result}
    if len(results) == 1:
        return next(iter(results.values()))
    print(joint_table(results))
    return {"net": args.net, "clips": results}


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1:])))
    except (PoseRosError, OSError) as error:
        sys.exit(f"error: {error}")
