"""Inertial sensors of rendered scenes."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pose_ros.core.skeletons import COCO17
from pose_ros.training.scene import CAMERA_KINDS, CameraPath, Person
from pose_ros.training.scene_body import Look
from pose_ros.training.scene_imu import (
    BONES,
    GRAVITY_M_S2,
    ImuNoise,
    body_imu,
    camera_imu,
    imu_stamps_ns,
)
from pose_ros.training.walker import walk

STAMPS_NS = imu_stamps_ns(2.0)
UP = np.array([0.0, 0.0, 1.0])
LOOK = Look.random(np.random.default_rng(0))


def path(kind: str) -> CameraPath:
    return CameraPath((3.0, 1.0, 1.4), (0.0, 0.0, 0.9), kind, 0.1, 0.5, 0.02, seed=4)


def person(seconds: float = 2.5) -> Person:
    return Person(*walk(seconds, 120, 0, path="circle"), LOOK)


@pytest.mark.parametrize("kind", CAMERA_KINDS)
def test_the_gyro_integrates_to_the_cameras_orientation(kind):
    track = camera_imu(path(kind), STAMPS_NS)
    steps = (track.gyro_rad_s[1:] + track.gyro_rad_s[:-1]) / 2 * np.diff(STAMPS_NS)[:, None] * 1e-9
    now = Rotation.from_matrix(track.world_from_sensor[0])
    for step in steps:
        now = now * Rotation.from_rotvec(step)
    end = Rotation.from_matrix(path(kind).pose(np.array([2.0]))[0][0])
    assert (now.inv() * end).magnitude() < 1e-3


@pytest.mark.parametrize("kind", ["handheld", "orbit"])
def test_the_specific_force_integrates_to_the_cameras_position(kind):
    track = camera_imu(path(kind), STAMPS_NS)
    t = STAMPS_NS * 1e-9
    felt = np.einsum("nij,nj->ni", track.world_from_sensor, track.force_m_s2) - GRAVITY_M_S2 * UP
    _, position = path(kind).pose(t)
    step = 1e-5
    start = (path(kind).pose(np.array([step]))[1] - path(kind).pose(np.array([-step]))[1])[0]
    velocity = start / (2 * step) + np.vstack(
        [np.zeros(3), np.cumsum((felt[1:] + felt[:-1]) / 2 * np.diff(t)[:, None], axis=0)]
    )
    moved = np.cumsum((velocity[1:] + velocity[:-1]) / 2 * np.diff(t)[:, None], axis=0)
    assert position[1:] - position[0] == pytest.approx(moved, abs=2e-3)


def test_a_still_camera_feels_gravity_upwards_and_an_orbit_its_middle():
    still = camera_imu(path("still"), STAMPS_NS[:3])
    up_in_camera = still.world_from_sensor[0].T @ UP
    assert still.force_m_s2[0] == pytest.approx(GRAVITY_M_S2 * up_in_camera, abs=1e-6)
    assert still.force_m_s2[0][1] < -9  # the optical y axis points down
    assert still.gyro_rad_s == pytest.approx(np.zeros((3, 3)), abs=1e-9)
    orbit = camera_imu(path("orbit"), STAMPS_NS[:1])
    felt = orbit.world_from_sensor[0] @ orbit.force_m_s2[0] - GRAVITY_M_S2 * UP
    assert felt == pytest.approx([-3.0 * 0.25, -1.0 * 0.25, 0.0], abs=1e-4)


@pytest.mark.parametrize("bone", sorted(BONES))
def test_a_body_sensor_tells_the_direction_of_its_bone(bone):
    somebody = person()
    track = body_imu(somebody, bone, STAMPS_NS, seed=3)
    along = track.world_from_sensor @ track.sensor_from_bone @ np.array([0.0, 1.0, 0.0])
    for n in (0, 100, 400):
        xyz = somebody.at(STAMPS_NS[n] * 1e-9)
        start, end = (xyz[[COCO17.index(j) for j in names]].mean(0) for names in BONES[bone])
        bone_way = (end - start) / np.linalg.norm(end - start)
        assert along[n] == pytest.approx(bone_way, abs=1e-9)


def test_a_body_sensor_turns_as_its_gyro_says_and_feels_what_moves_it():
    somebody = person()
    track = body_imu(somebody, "left_shank", STAMPS_NS, seed=1)
    now = Rotation.from_matrix(track.world_from_sensor[0])
    for n in range(400):
        rate = (track.gyro_rad_s[n] + track.gyro_rad_s[n + 1]) / 2
        now = now * Rotation.from_rotvec(rate * 0.005)
    assert (now.inv() * Rotation.from_matrix(track.world_from_sensor[400])).magnitude() < 0.02
    felt = np.einsum("nij,nj->ni", track.world_from_sensor, track.force_m_s2) - GRAVITY_M_S2 * UP
    ends = [COCO17.index(j) for j in ("left_knee", "left_ankle")]
    middle = np.stack([somebody.at(s * 1e-9)[ends].mean(0) for s in STAMPS_NS])
    expected = np.diff(middle, 2, axis=0) / 0.005**2
    difference = np.linalg.norm(felt[1:-1] - expected, axis=-1)
    assert np.median(difference) < 0.05 * np.median(np.linalg.norm(expected, axis=-1))


def test_noise_is_as_large_as_it_says():
    stamps_ns = imu_stamps_ns(60.0, 100.0)
    noise = ImuNoise(yaw_drift_rad_s=np.radians(1.0) / 60.0)
    exact, noisy = (camera_imu(path("orbit"), stamps_ns, n, seed=2) for n in (None, noise))
    off = (
        Rotation.from_matrix(noisy.world_from_sensor)
        * Rotation.from_matrix(exact.world_from_sensor).inv()
    )
    rotvec = np.degrees(off.as_rotvec())
    assert rotvec[:500].std(axis=0) == pytest.approx([3, 3, 3], rel=0.15)
    late, early = rotvec[-1500:, 2].mean(), rotvec[:1500, 2].mean()
    assert abs(late - early) == pytest.approx(0.75, abs=0.35)  # 1 degree a minute, over 45 s
    wrong = noisy.gyro_rad_s - exact.gyro_rad_s
    assert wrong.std(axis=0) == pytest.approx([0.003] * 3, rel=0.1)
    assert 1e-5 < np.abs(wrong.mean(axis=0)).max() < 0.02


def test_a_person_who_is_one_pose_feels_gravity_only():
    still = Person(np.zeros(1, np.int64), person().xyz_m[:1], LOOK)
    track = body_imu(still, "trunk", STAMPS_NS[:5])
    assert np.linalg.norm(track.force_m_s2, axis=-1) == pytest.approx(GRAVITY_M_S2)
    assert track.gyro_rad_s == pytest.approx(0.0)


def test_after_the_motion_ends_only_gravity_is_felt():
    somebody = person(1.0)
    track = body_imu(somebody, "right_thigh", STAMPS_NS)
    late = STAMPS_NS > 1_005_000_000
    assert np.linalg.norm(track.force_m_s2[late], axis=-1) == pytest.approx(GRAVITY_M_S2)
    assert np.abs(track.gyro_rad_s[late]).max() < 1e-6
    assert np.abs(track.gyro_rad_s[~late]).max() > 0.5
