"""Angles against motion capture: how exactly a body comes back from its joint angles.

  python -m pose_ros.training.bench_angles --mocap DIR

Every frame of every archive is turned into angles on its own (`core/angles.py`), and the angles
into a body again, with the lengths and the root of that frame. By convention and archive, over the
frames: distance of the limbs' joints in millimetres, the limbs' roots being where they were
measured (`body_model.limb_shift`), turn of the limbs' eight directions and of trunk and head in
degrees; worst and 99.9th percentile. ``isb`` goes back through `clinical.from_clinical`.
The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.angles import CONVENTIONS, joint_angles
from pose_ros.core.body_axes import LIMBS, head_frame, thorax_frame
from pose_ros.core.body_model import LINKS, body_lengths, forward, limb_shift
from pose_ros.core.clinical import from_clinical, pelvis_frame
from pose_ros.core.rep155 import body_frame
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import KeypointStatus, Poses3D, ScaleSource
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.training.datasets.mocap import read_mocap, to_coco17

Array = npt.NDArray[np.float64]

AT_ONCE = 2000  # frames in one call
WORST = ("worst_joint_mm", "worst_turn_deg")
#: Where the angles put limbs (N, 4, 3, 3), and frames (N, F, 3, 3); the measured frames.
Placed = tuple[Array, Array, Array]


def bodies(xyz_m: Array) -> Poses3D:
    """Frames (N, 17, 3) as people who are measured to the millimetre."""
    count, joints = xyz_m.shape[:2]
    still = np.zeros((count, joints, 3), np.float32)
    covariance = np.tile(np.eye(3, dtype=np.float32) * 1e-6, (count, joints, 1, 1))
    one = np.ones((count, joints), np.float32)
    status = np.full((count, joints), KeypointStatus.MEASURED, np.int8)
    scale = np.full(count, ScaleSource.UNKNOWN, np.int8)
    return Poses3D(
        np.arange(count),
        xyz_m.astype(np.float32),
        covariance,
        still,
        0.0 * one,
        status,
        one,
        scale,
    )


def placed_rep155(xyz_m: Array, angle_rad: Array) -> Placed:
    """Bodies (N, 17, 3) from their model's angles."""
    rotation, origin = body_frame(xyz_m, angle_rad[:, 0])
    lengths = body_lengths(xyz_m)
    rigid = forward(angle_rad, lengths, rotation, origin)
    links = forward(angle_rad, lengths, rotation, origin, limb_shift(xyz_m, rigid))
    head = links.rotation[:, LINKS.index("head")]
    return links.limbs_m(), head[:, None], head_frame(xyz_m)[:, None]


def placed_isb(xyz_m: Array, angle_rad: Array) -> Placed:
    """Bodies (N, 17, 3) from their clinical angles."""
    pelvis, origin = pelvis_frame(xyz_m)
    thorax, head = thorax_frame(xyz_m), head_frame(xyz_m)
    parents = np.stack([thorax, thorax, pelvis, pelvis], axis=1)
    roots = np.einsum("plxi,plx->pli", parents, xyz_m[:, LIMBS[:, 0]] - origin[:, None])
    bones = np.linalg.norm(np.diff(xyz_m[:, LIMBS], axis=2), axis=-1)
    got = from_clinical(angle_rad, bones, roots, pelvis, origin)
    return got.limbs_m, np.stack([got.thorax, got.head], 1), np.stack([thorax, head], 1)


def errors(xyz_m: Array, convention: str) -> tuple[Array, Array]:
    """Distances (N, 12) in mm of the limbs' joints and turns (N, 8 + frames) in degrees.

    NaN where an angle is.
    """
    place = {"rep155": placed_rep155, "isb": placed_isb}[convention]
    angles = joint_angles(bodies(xyz_m), COCO17, convention)
    limbs, frames, wanted = place(xyz_m, angles.angle_rad.astype(np.float64))
    truth = xyz_m[:, LIMBS]
    distance = 1000.0 * np.linalg.norm(limbs - truth, axis=-1)
    turns = _between(np.diff(limbs, axis=2), np.diff(truth, axis=2)).reshape(len(xyz_m), -1)
    axes = _between(frames.swapaxes(-1, -2), wanted.swapaxes(-1, -2)).max(axis=-1)
    return distance.reshape(len(xyz_m), -1), np.concatenate([turns, axes], axis=1)


def _between(a: Array, b: Array) -> Array:
    """Degrees between vectors (..., 3), exact also where it is little."""
    across = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.asarray(np.degrees(np.arctan2(across, (a * b).sum(axis=-1))))


def summary(distance: Array, turns: Array) -> dict[str, float]:
    """Worst and 99.9th percentile of what is known, and the share of frames that wholly are."""
    whole = np.isfinite(distance).all(axis=1) & np.isfinite(turns).all(axis=1)
    answer: dict[str, float] = {"frames": len(distance), "known": round(float(whole.mean()), 6)}
    for name, value in (("joint_mm", distance), ("turn_deg", turns)):
        known = value[np.isfinite(value)]
        if known.size:
            answer[f"worst_{name}"] = round(float(known.max()), 5)
            answer[f"p999_{name}"] = round(float(np.quantile(known, 0.999)), 5)
    return answer


def measure(xyz_m: Array, convention: str) -> dict[str, float]:
    """`summary` of frames (N, 17, 3), some at a time."""
    parts = [
        errors(xyz_m[i : i + AT_ONCE].astype(np.float64), convention)
        for i in range(0, len(xyz_m), AT_ONCE)
    ]
    return summary(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.bench_angles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mocap", required=True, help="archive, or a folder of archives")
    parser.add_argument("--every", type=int, default=1, help="frame to look at (default: each)")
    args = parser.parse_args(argv)
    path = Path(args.mocap)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files or args.every < 1:
        raise ConfigError(f"{path}: expected archives (.npz) and --every of at least 1")
    sets: dict[str, dict[str, dict[str, float]]] = {name: {} for name in CONVENTIONS}
    frames = 0
    for file in files:
        xyz_m = np.concatenate([to_coco17(clip) for clip in read_mocap(file)])[:: args.every]
        frames += len(xyz_m)
        for convention, rows in sets.items():
            rows[file.stem] = measure(xyz_m, convention)
            sys.stdout.write(f"{convention:7} {file.stem:16} {json.dumps(rows[file.stem])}\n")
            sys.stdout.flush()
    answer: dict[str, Any] = {"frames": frames}
    for convention, rows in sets.items():
        worst = {n: max(row[n] for row in rows.values()) for n in WORST}
        answer[convention] = {**worst, "sets": rows}
    return answer


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    try:
        answer = main(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
