"""Two cameras that look at two people from the side: calibration, videos and tracks as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.video import VideoWriter

SIZE, FRAMES = (320, 240), 4
LENS = (-0.12, 0.03, 0.001, -0.001, 0.0)
TURNS = (np.zeros(3), np.array([0.0, 0.7, 0.0]))  # rotation vectors, world to optical frame
PLACES = (np.array([0.0, 0.0, 4.0]), np.array([0.3, 0.1, 4.2]))


def cameras() -> list[PinholeCamera]:
    return [PinholeCamera(*SIZE, 260.0 + 10 * v, 262.0, 158.0, 121.0, LENS) for v in range(2)]


def people() -> np.ndarray:
    """(frames, 2, 17, 3) joints in the world, metres: two bodies that walk."""
    rng = np.random.default_rng(2)
    body = np.stack([np.linspace(-0.25, 0.25, 17)[rng.permutation(17)],
                     np.linspace(-0.8, 0.8, 17), rng.uniform(-0.15, 0.15, 17)], 1)  # fmt: skip
    other = body[:, [0, 1, 2]] * (1.2, 0.9, -1.0)
    both = np.stack([body - (0.5, 0, 0), other + np.array([0.5, 0.05, 0.4])])
    step = np.arange(FRAMES)[:, None, None, None] * np.array([0.03, 0.0, 0.02])
    return both[None] + step


def seen(view: int) -> np.ndarray:
    """(frames, 2, 17, 2) pixels of `people` in a view."""
    turn = Rotation.from_rotvec(TURNS[view]).as_matrix()
    return cameras()[view].project(people() @ turn.T + PLACES[view])


def write(root: Path, swap: bool = True) -> str:
    """Lay the files out; the specification. ``swap``: the second view lists people otherwise."""
    tables = []
    for v, camera in enumerate(cameras()):
        matrix = camera.matrix.tolist()
        tables.append(
            f"[cam{v}]\nname = 'cam{v}'\nsize = {list(map(float, SIZE))}\nmatrix = {matrix}\n"
            f"distortions = {list(LENS)}\nrotation = {TURNS[v].tolist()}\n"
            f"translation = {PLACES[v].tolist()}\nfisheye = false\n"
        )
    (root / "rig.toml").write_text("\n".join(tables) + "\n[metadata]\nadjusted = false\n")
    for v in range(2):
        with VideoWriter(root / f"{v}.mp4", 10.0) as out:
            for t in range(FRAMES):
                out.write(np.full((SIZE[1], SIZE[0], 3), 40 * t + 20 * v, np.uint8))
        rows = []
        for t, both in enumerate(seen(v)):
            order = (1, 0) if swap and v else (0, 1)
            rows.append({"frame": t, "people": [_person(both[p], row) for row, p in
                                                enumerate(order)]})  # fmt: skip
        (root / f"{v}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    files = "|".join(f"{root}/{v}.mp4" for v in range(2))
    return f"views:{root}/rig.toml?videos={files}&poses={files.replace('.mp4', '.jsonl')}"


def _person(xy: np.ndarray, number: int) -> dict:
    low, high = xy.min(0) - 8, xy.max(0) + 8
    joints = [[float(x), float(y), 0.9] for x, y in xy]
    joints[3] = [None, None, 0.0]
    return {
        "id": number + 1, "state": "TRACKED", "score": 0.9,
        "box_xyxy_px": [float(v) for v in (*low, *high)], "keypoints_px": joints,
    }  # fmt: skip
