"""The floor as a parameter: sinking ankles are pushed up, by a height or a plane; off without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pose_ros.core.config import PipelineConfig, ground_of, with_values
from pose_ros.core.ego import EgoMotion, StillCamera
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.embody import Embodier
from pose_ros.core.imu import Imu
from pose_ros.core.skeletons import COCO17
from pose_ros.core.so3 import exp_so3
from pose_ros.core.values import KeypointStatus, Poses3D, ScaleSource, Tracks, TrackState
from pose_ros.errors import ConfigError
from pose_ros.training.render import render
from pose_ros.training.scene import SceneConfig, random_scene

ANKLES = [COCO17.index("left_ankle"), COCO17.index("right_ankle")]
HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
SUNK_M, NOISE_M = 0.15, 0.03
FORCE = np.array([0.0, -9.81, 0.0])  # of a level camera that stands still: up is against y


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    """Joints (17, 3) of somebody who stands before a level camera, its ankles' height at 0."""
    scene = random_scene(SceneConfig(seed=5, seconds=0.2, people=1, size_px=(64, 48), clutter=0))
    picture = render(scene, 0)
    world = np.linalg.inv(picture.cam_from_world)
    xyz = picture.xyz_camera_m[0] @ world[:3, :3].T + world[:3, 3]  # z up
    xyz -= [*xyz[HIPS, :2].mean(axis=0), xyz[ANKLES, 2].min()]
    return np.stack([xyz[:, 0], 1.0 - xyz[:, 2], xyz[:, 1] + 4.0], axis=-1)  # a camera 1 m above


def stood(
    body: np.ndarray, camera: Any, ground: str, turn: np.ndarray | None = None
) -> np.ndarray:
    """Where a body (17, 3) is said to be whose ankles are measured below the floor."""
    turn = np.eye(3) if turn is None else turn
    config = with_values(PipelineConfig(), {"lift.source": "depth", "filter.ground": ground})
    stages, ids = Embodier(COCO17, config, None, camera), np.array([1])
    measured = body.copy()
    measured[ANKLES, 1] += SUNK_M
    for n in range(20):
        stamp_ns = n * 33_000_000
        tracks = Tracks(
            ids, np.array([TrackState.TRACKED], np.int8), np.zeros((1, 4), np.float32),
            np.ones(1, np.float32), np.array([stamp_ns]),
        )  # fmt: skip
        metric = Poses3D.unknown(ids, 17)
        metric.xyz_m[0], metric.scale[:] = measured @ turn.T, ScaleSource.DEPTH
        metric.covariance_m2[...] = NOISE_M**2 * np.eye(3)
        metric.score[:], metric.status[:] = 0.7, KeypointStatus.MEASURED
        told = stages.embody(stamp_ns, tracks, metric)
    assert told is not None
    return np.asarray(told.poses.xyz_m[0] @ turn)


def felt(tilt: np.ndarray, until_ns: int = 10**9) -> Imu:
    imu = Imu()
    for n in range(-200, until_ns // 5_000_000):
        imu.push(n * 5_000_000, np.zeros(3), tilt @ FORCE)
    return imu


def sunk(joints: np.ndarray) -> float:
    """How far below the floor, 1 m under the camera, the ankles are said to be."""
    return float((joints[ANKLES, 1] - 1.0).mean())


def test_ankles_below_the_floor_are_pushed_up_and_others_are_not(body: np.ndarray) -> None:
    free = stood(body, StillCamera(), "")
    for ground in ("1.0", "0 -1 0 1", "0, -2, 0, 2"):
        held = stood(body, StillCamera(), ground)
        assert sunk(held) < 0.75 * sunk(free) and sunk(free) > 0.05, ground
        np.testing.assert_allclose(held[:5], free[:5], atol=0.01)  # the head
    np.testing.assert_allclose(stood(body, StillCamera(), "3.0"), free, atol=0.002)  # far below


def test_up_is_that_of_the_sensor_on_a_camera_that_leans(body: np.ndarray) -> None:
    tilt = exp_so3(np.array([-0.5, 0.1, 0.2]))
    level = stood(body, EgoMotion(felt(np.eye(3))), "1.0")
    leaning = stood(body, EgoMotion(felt(tilt)), "1.0", tilt)
    np.testing.assert_allclose(leaning, level, atol=0.012)
    assert sunk(level) < 0.75 * sunk(stood(body, EgoMotion(felt(np.eye(3))), ""))


def test_without_gravity_nothing_is_pushed(body: np.ndarray) -> None:
    """A sensor that is silent, and one that the pictures contradict."""
    contradicted = EgoMotion(felt(np.eye(3)), check=EgoCheck())
    contradicted.check._compared.append((0.9, 1.0))  # type: ignore[union-attr]
    for camera in (EgoMotion(Imu()), contradicted):
        np.testing.assert_array_equal(stood(body, camera, "1.0"), stood(body, camera, ""))


def test_a_height_needs_somebody_who_tells_where_up_is(body: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"filter\.ground: a height needs imu\.enable"):
        stood(body, None, "1.0")
    assert sunk(stood(body, None, "0 -1 0 1")) < 0.75 * sunk(stood(body, None, ""))


def test_what_is_a_floor() -> None:
    assert ground_of("") is None and ground_of(" 1.25") == 1.25
    assert ground_of("0 -2 0 3") == (0.0, -1.0, 0.0, 1.5)
    for text in ("low", "0", "-1", "nan", "inf", "1 2", "0 0 0 1", "0 1 0 nan", "1 2 3 4 5"):
        with pytest.raises(ConfigError, match=r"filter\.ground: expected a height of 0.01 to 50"):
            with_values(PipelineConfig(), {"filter.ground": text})
    with pytest.raises(ConfigError, match=r"need filter\.type aprs"):
        with_values(PipelineConfig(), {"filter.ground": "1.0", "filter.type": "none"})
    assert PipelineConfig().filter.ground == ""
