"""Render a clip of moving people with exact truth.

Into --out go: video.mp4 (or images/000000.png ... with --format png), truth.npz, annotations.json
(COCO's form), camera_info.yaml, and with --depth depth/000000.png ... (16-bit millimetres, 0:
nothing), with --imu imu.npz. The last line on stdout is one JSON object.

truth.npz, T frames, P people, 17 COCO joints: stamps_ns (T,), xy_px (T, P, 17, 2), visible
(T, P, 17) 2 seen, 1 occluded, 0 outside, xyz_camera_m and xyz_world_m (T, P, 17, 3), box_xyxy_px
(T, P, 4), cam_from_world (T, 4, 4), camera_matrix (3, 3), size_px (2,) width and height, size_m
(P,) statures, joints (17,). World: z up, floor z = 0.

imu.npz at 200 Hz: stamps_ns (N,), camera_gyro_rad_s and camera_force_m_s2 (N, 3) in optical axes,
camera_quaternion (N, 4) x y z w, world from camera; per body sensor (S): person, bone, rho,
sensor_from_bone (S, 3, 3) (the bone is +y), body_gyro_rad_s, body_force_m_s2 (S, N, 3) and
body_quaternion (S, N, 4), world from sensor. With --imu noisy the sensors err like cheap ones
(3 degrees of noise and 1 degree per minute of drift in the orientation).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from pose_ros.core.skeletons import COCO17
from pose_ros.core.video import VideoWriter
from pose_ros.errors import PoseRosError
from pose_ros.training.datasets.base import FileImage
from pose_ros.training.datasets.mocap import read_mocap
from pose_ros.training.datasets.synthetic import cut_motion, picture_size_of
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import CAMERA_KINDS, ROOM_KINDS, Scene, SceneConfig, random_scene
from pose_ros.training.scene_imu import (
    BONES,
    ImuNoise,
    ImuTrack,
    body_imu,
    camera_imu,
    imu_stamps_ns,
)

Row = dict[str, Any]
Label = dict[str, Any]


def main(argv: list[str]) -> dict[str, Any]:
    """Render, write, and say what was written."""
    args = _parser().parse_args(argv)
    scene = _scene(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    truth, labels = _write_pictures(scene, out, args.format, args.depth)
    write_truth(scene, truth, out / "truth.npz")
    _write_annotations(scene, labels, out / "annotations.json", args.format)
    _write_camera(scene, out / "camera_info.yaml")
    if args.imu != "none":
        write_imu(scene, out / "imu.npz", ImuNoise() if args.imu == "noisy" else None)
    seen = np.mean([row["visible"] == 2 for row in truth]) if scene.people else 0.0
    return {
        "out": str(out), "frames": len(truth), "people": len(scene.people),
        "size_px": list(_size(scene)), "fps": scene.fps, "seen": round(float(seen), 4),
    }  # fmt: skip


def _size(scene: Scene) -> tuple[int, int]:
    return scene.camera.width_px, scene.camera.height_px


def _scene(args: argparse.Namespace) -> Scene:
    picture = FileImage(Path(args.picture)).read() if args.picture else None
    config = SceneConfig(
        seed=args.seed, seconds=args.seconds, fps=args.fps, people=args.people,
        size_px=picture_size_of(args.size), camera=args.camera,
        room="picture" if picture is not None else args.room, occluders=args.occluders,
        blur=args.blur, noise=args.noise, picture=picture,
    )  # fmt: skip
    motions = []
    if args.mocap:
        rng = np.random.default_rng([args.seed, 31])
        clips = [clip for clip in read_mocap(args.mocap) if len(clip) > 1]
        motions = [
            cut_motion(clips[int(rng.integers(len(clips)))], args.seconds, rng)
            for _ in range(args.people)
        ]
    return random_scene(config, tuple(motions))


def _write_pictures(
    scene: Scene, out: Path, kind: str, depth: bool
) -> tuple[list[Row], list[list[Label]]]:
    """Render every frame, write the video or the pictures, and return truth and labels."""
    truth, labels = [], []
    for name in ("images",) * (kind == "png") + ("depth",) * depth:
        (out / name).mkdir(exist_ok=True)
    with VideoWriter(out / "video.mp4", scene.fps) as video:
        for n in _progress(range(scene.frames)):
            made = render(scene, n)
            if kind == "png":
                _write_png(out / "images" / f"{n:06d}.png", made.rgb[..., ::-1])
            else:
                video.write(made.rgb)
            if depth:
                millimetres = np.nan_to_num(np.clip(made.depth_m * 1000.0, 0, 65535.0), nan=0.0)
                _write_png(out / "depth" / f"{n:06d}.png", np.rint(millimetres).astype(np.uint16))
            truth.append(truth_row(made))
            labels.append([coco_person(made, person) for person in range(len(made.xy_px))])
    return truth, labels


def _write_png(path: Path, image: npt.NDArray[Any]) -> None:
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def _progress(items: Sequence[int]) -> Iterator[int]:
    return iter(tqdm(items, unit="frame", disable=not sys.stderr.isatty()))


def truth_row(frame: Rendered) -> Row:
    """What truth.npz keeps of a frame."""
    names = ("xy_px", "visible", "xyz_camera_m", "xyz_world_m", "box_xyxy_px", "cam_from_world")
    return {"stamps_ns": np.int64(frame.stamp_ns)} | {n: getattr(frame, n) for n in names}


def write_truth(scene: Scene, rows: Sequence[Row], path: Path) -> None:
    """Write truth.npz of frames (`truth_row`), in the form that the module describes."""
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    np.savez_compressed(
        path, camera_matrix=scene.camera.matrix, size_px=np.array(_size(scene)),
        size_m=np.array([person.size_m for person in scene.people]),
        joints=np.array(COCO17.joints), **arrays,
    )  # fmt: skip


def _write_annotations(
    scene: Scene, labels: Sequence[Sequence[Label]], path: Path, kind: str
) -> None:
    """Write a COCO file; ids count from 1, ``track_id`` is the person."""
    width, height = _size(scene)
    images: list[Label] = []
    people: list[Label] = []
    for n, of_frame in enumerate(labels):
        name = f"images/{n:06d}.png" if kind == "png" else f"video.mp4#{n}"
        images.append({"id": n + 1, "file_name": name, "width": width, "height": height,
                       "frame_index": n, "stamp_ns": scene.stamp_ns(n)})  # fmt: skip
        for label in filter(None, of_frame):
            people.append({"id": len(people) + 1, "image_id": n + 1, **label})
    category = {
        "id": 1, "name": "person", "keypoints": list(COCO17.joints),
        "skeleton": (COCO17.edge_indices() + 1).tolist(),
    }  # fmt: skip
    content = {"images": images, "annotations": people, "categories": [category]}
    path.write_text(json.dumps(content), encoding="utf-8")


def coco_person(frame: Rendered, person: int) -> Label:
    """COCO annotation of one person; empty when nothing of the body is in the image."""
    if not np.isfinite(frame.box_xyxy_px[person]).all():
        return {}
    left, top, right, bottom = (float(v) for v in frame.box_xyxy_px[person])
    visible = frame.visible[person]
    xy = np.where(visible[:, None] > 0, frame.xy_px[person], 0.0)
    triples = np.column_stack([np.round(xy, 2), visible])
    return {
        "category_id": 1, "track_id": person + 1, "iscrowd": 0,
        "bbox": [round(v, 2) for v in (left + 0.5, top + 0.5, right - left, bottom - top)],
        "area": int((frame.owner == person).sum()), "num_keypoints": int((visible > 0).sum()),
        "keypoints": triples.ravel().tolist(),
    }  # fmt: skip


def _write_camera(scene: Scene, path: Path) -> None:
    """Write the calibration as ROS's ``camera_calibration`` does."""
    camera = scene.camera
    matrix, lens = camera.matrix.ravel().tolist(), list(camera.distortion or (0.0,) * 5)
    path.write_text(
        f"image_width: {camera.width_px}\nimage_height: {camera.height_px}\n"
        "camera_name: rendered\ndistortion_model: plumb_bob\n"
        f"camera_matrix: {{rows: 3, cols: 3, data: {matrix}}}\n"
        f"distortion_coefficients: {{rows: 1, cols: {len(lens)}, data: {lens}}}\n",
        encoding="utf-8",
    )


def write_imu(scene: Scene, path: Path, noise: ImuNoise | None) -> None:
    """Write imu.npz in the form that the module describes."""
    seconds = scene.stamp_ns(scene.frames - 1) * 1e-9
    stamps_ns = imu_stamps_ns(max(seconds, 0.01))
    arrays: dict[str, npt.NDArray[Any]] = {"stamps_ns": stamps_ns}
    worn = [(n, bone) for n in range(len(scene.people)) for bone in BONES]
    arrays |= _samples("camera", camera_imu(scene.path, stamps_ns, noise, scene.seed))
    tracks = [
        body_imu(scene.people[n], bone, stamps_ns, noise, (scene.seed * 1009 + k) % 2**31)
        for k, (n, bone) in enumerate(worn)
    ]
    each = [_samples("body", track) for track in tracks]
    arrays |= {name: np.stack([e[name] for e in each]) for name in (each[0] if each else ())}
    arrays["person"] = np.array([n for n, _ in worn], np.int64)
    arrays["bone"] = np.array([bone for _, bone in worn], np.str_)
    arrays["rho"] = np.array([track.rho for track in tracks])
    arrays["sensor_from_bone"] = np.array([t.sensor_from_bone for t in tracks]).reshape(-1, 3, 3)
    np.savez_compressed(path, **arrays)


def _samples(name: str, track: ImuTrack) -> dict[str, npt.NDArray[np.float32]]:
    quaternion = Rotation.from_matrix(track.world_from_sensor).as_quat()
    return {
        f"{name}_gyro_rad_s": track.gyro_rad_s.astype(np.float32),
        f"{name}_force_m_s2": track.force_m_s2.astype(np.float32),
        f"{name}_quaternion": quaternion.astype(np.float32),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.render_clip", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="folder to write into")
    add("--seconds", type=float, default=2.0, help="length (default: %(default)s s)")
    add("--people", type=int, default=1, help="how many (default: %(default)s)")
    add("--seed", type=int, default=0, help="draws everything else (default: %(default)s)")
    add("--mocap", default="", metavar="FOLDER", help="motion capture archives; without: walkers")
    add("--size", default="640x480", metavar="WxH", help="pixels (default: %(default)s)")
    add("--fps", type=float, default=30.0, help="frames per second (default: %(default)s)")
    add("--camera", default="still", choices=CAMERA_KINDS, help="(default: %(default)s)")
    add("--room", default="room", choices=[k for k in ROOM_KINDS if k != "picture"],
        help="background (default: %(default)s)")  # fmt: skip
    add("--picture", default="", metavar="FILE", help="a picture as the background")
    add("--occluders", type=int, default=0, metavar="N",
        help="poles, tables and moving boards in front (default: %(default)s)")  # fmt: skip
    add("--blur", action="store_true", help="motion blur of a third to two thirds of a frame")
    add("--noise", action="store_true", help="a dim room, sensor noise, JPEG")
    add("--depth", action="store_true", help="write 16-bit depth images, millimetres")
    add("--imu", nargs="?", const="noisy", default="none", choices=("none", "noisy", "exact"),
        help="write inertial sensors of camera and bodies (plain --imu: noisy)")  # fmt: skip
    add("--format", default="mp4", choices=("mp4", "png"), help="(default: %(default)s)")
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
