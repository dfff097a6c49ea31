"""A trained video network under a camera that pans, with and without the camera's gyro.

A photograph, turned as a camera would turn it, with noise that is new in every frame: the truth is
what the network says of the photograph, turned in the same way. `pytest -s` prints the numbers.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pose_ros.build import build_pipeline
from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.ego import EgoMotion, cut_turned, turn_pixels
from pose_ros.core.imu import Imu
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.so3 import exp_so3
from pose_ros.core.values import Frame

PICTURE = cv2.imread(str(Path(__file__).parent / "data" / "walker.jpg"))[..., ::-1]
HEIGHT, WIDTH = PICTURE.shape[:2]
CAMERA = PinholeCamera.from_fov(WIDTH, HEIGHT, 60.0)
START_S, FRAMES, NOISE = 0.3, 36, 8.0
PLAIN = {"lift.source": "none", "filter.type": "none", "device": "cpu", "threads": 1}


def angle(t: float) -> float:
    """Of the camera: still for ``START_S``, then to and fro with up to 55 degrees per second."""
    return 0.12 * float(np.sin(8.0 * max(t - START_S, 0.0)))


def turn(t: float) -> np.ndarray:
    return exp_so3(np.array([0.0, -angle(t), 0.0]))


def seen(t: float, n: int) -> np.ndarray:
    out = np.zeros_like(PICTURE)
    cut_turned(PICTURE, CAMERA, turn(t), np.array([0, 0, WIDTH, HEIGHT]), out)
    noisy = out + NOISE * np.random.default_rng(n).standard_normal(out.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def gyro() -> Imu:
    imu = Imu()
    for n in range(-20, round(FRAMES / 30 * 200) + 10):
        t = n * 0.005
        rate = np.array([0.0, (angle(t + 1e-4) - angle(t - 1e-4)) / 2e-4, 0.0])
        imu.push(10**9 + round(t * 1e9), rate, np.array([0.0, -9.81, 0.0]))
    return imu


def joints(pipeline: PosePipeline, rgb: np.ndarray, t: float) -> np.ndarray:
    """(17, 2) of the person who is surest; NaN without one."""
    result = pipeline.step(Frame(rgb, 10**9 + round(t * 1e9), "", CAMERA))
    if not len(result.tracks):
        return np.full((17, 2), np.nan, np.float32)
    return result.poses.xy_px[result.tracks.confidence.argmax()]


def errors(pipeline: PosePipeline, ego: EgoMotion | None, truth: np.ndarray) -> np.ndarray:
    """(N, 17, 2) of the frames in which the camera turns."""
    pipeline.reset()
    pipeline.ego = ego
    off = []
    for n in range(FRAMES):
        t = n / 30
        found = joints(pipeline, seen(t, n), t)
        if t > START_S + 0.1:
            off.append(found - turn_pixels(CAMERA, turn(t), truth))
    return np.array(off)


def test_a_video_network_sees_better_when_its_crops_do_not_turn() -> None:
    config = with_values(PipelineConfig(), {"model.name": "hstpn_robot", **PLAIN})
    pipeline = build_pipeline(config)
    truth = np.median([joints(pipeline, PICTURE, n / 30) for n in range(5)][2:], axis=0)
    without, with_gyro = (errors(pipeline, e, truth) for e in (None, EgoMotion(gyro())))
    far = [float(np.nanmean(np.linalg.norm(off, axis=-1))) for off in (without, with_gyro)]
    bend = [
        float(np.nanmean(np.linalg.norm(np.diff(off, n=2, axis=0), axis=-1)))
        for off in (without, with_gyro)
    ]
    print(f"error {far[0]:.2f} -> {far[1]:.2f} px, jitter {bend[0]:.2f} -> {bend[1]:.2f} px")
    assert far[1] < 0.7 * far[0] and bend[1] < 0.4 * bend[0]
