"""Rendered pans: the gyro aligns windows, in the geometry and in the pictures."""

import numpy as np
import pytest

from pose_ros.training import bench_imu
from pose_ros.training.render import render
from pose_ros.training.scene_imu import imu_stamps_ns


def test_a_noisy_gyro_aligns_the_windows_of_a_rendered_pan() -> None:
    scene = bench_imu.pan_scene(0, swing_rad=0.3, rate_rad_s=4.0, seconds=0.5)
    frames = [render(scene, n) for n in range(8, 13)]
    found = bench_imu.alignment(frames, bench_imu.panned_imu(scene, 0, 0.5))
    assert found["align_px_max"] < 0.5 < 5.0 < found["unaligned_px"]
    turn = frames[2].cam_from_world[:3, :3] @ frames[0].cam_from_world[:3, :3].T
    moved = bench_imu.flow_px(frames[2], bench_imu.turned(frames[0], turn))
    assert moved < 0.5 < bench_imu.flow_px(frames[2], frames[0].rgb)


def test_samples_are_loaded_up_to_a_time_and_no_further() -> None:
    scene = bench_imu.pan_scene(1, 0.1, 1.0, 0.2)
    track = bench_imu.camera_imu(scene.path, imu_stamps_ns(0.2))
    imu = bench_imu.Imu()
    done = bench_imu.load(imu, track, 50_000_000, False)
    assert done == len(imu) == 11
    assert bench_imu.load(imu, track, 10**9, True, done) == len(imu) == len(track.stamps_ns)
    assert np.allclose(imu.rate(50_000_000), track.gyro_rad_s[10])


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(SystemExit):
        bench_imu.main(["sideways"])
