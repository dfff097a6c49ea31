"""The clock difference of camera and sensor: from angles alone, and live through the pipeline."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from world import SECOND, World

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import ImuConfig, PipelineConfig, with_values
from pose_ros.core.ego import EgoMotion, cut_turned
from pose_ros.core.ego_offset import OffsetEstimator
from pose_ros.core.imu import GRAVITY_M_S2, Imu
from pose_ros.core.imu_setup import sensors_of
from pose_ros.core.pipeline import PosePipeline
from pose_ros.core.skeletons import COCO17
from pose_ros.core.so3 import exp_so3
from pose_ros.core.values import Frame

CAMERA = PinholeCamera.from_fov(320, 240, 60.0)
STEP_NS = 5_000_000
FORCE = np.array([0.0, -GRAVITY_M_S2, 0.0])


def angle(t: float) -> float:
    """Of a camera that looks around, radians."""
    return 0.12 * float(np.sin(3.1 * t) + 0.5 * np.sin(7.3 * t))


def rate(t: float) -> float:
    return (angle(t + 1e-4) - angle(t - 1e-4)) / 2e-4


def sensor(seconds: float, late_ns: int = 0) -> Imu:
    imu = Imu()
    for n in range(-100, int(seconds * 200)):
        imu.push(n * STEP_NS + late_ns, np.array([0.0, rate(n * STEP_NS * 1e-9), 0.0]), FORCE)
    return imu


def pairs(estimator: OffsetEstimator, count: int, noise: float = 0.001) -> None:
    rng = np.random.default_rng(5)
    for n in range(count):
        old, new = round(n * SECOND / 30), round((n + 1) * SECOND / 30)
        turned = abs(angle(new * 1e-9) - angle(old * 1e-9))
        estimator.push(old, new, turned + noise * rng.standard_normal())


@pytest.mark.parametrize("late_ms", [-110, -13, 0, 37, 150])
def test_the_offset_is_found_from_both_turnings(late_ms: int) -> None:
    estimator = OffsetEstimator()
    pairs(estimator, 100)
    found = estimator.estimate(sensor(5.0, late_ms * 1_000_000))
    assert found is not None and found.sure and found.correlation > 0.95
    assert found.seconds == pytest.approx(late_ms * 1e-3, abs=0.003)


def test_samples_after_the_picture_are_waited_for() -> None:
    """And pairs count though the sensor has forgotten the time by then."""
    estimator, imu = OffsetEstimator(), Imu(capacity=64)
    n = -100
    for k in range(90):
        old, new = round(k * SECOND / 30), round((k + 1) * SECOND / 30)
        estimator.push(old, new, abs(angle(new * 1e-9) - angle(old * 1e-9)))
        while n * STEP_NS < new:
            imu.push(n * STEP_NS, np.array([0.0, rate(n * STEP_NS * 1e-9), 0.0]), FORCE)
            n += 1
        found = estimator.estimate(imu)
    assert found is not None and found.sure and found.seconds == pytest.approx(0.0, abs=0.002)


def test_a_silent_sensor_is_not_asked() -> None:
    """Its samples end and begin again two seconds later: the pairs between say nothing."""
    estimator, imu = OffsetEstimator(), Imu()
    for n in range(-100, 1000):
        t = n * STEP_NS * 1e-9
        if not 0.3 < t < 2.3:
            imu.push(n * STEP_NS, np.array([0.0, rate(t), 0.0]), FORCE)
    for k in range(24, 54):  # 0.8 to 1.8 s
        old, new = round(k * SECOND / 30), round((k + 1) * SECOND / 30)
        estimator.push(old, new, abs(angle(new * 1e-9) - angle(old * 1e-9)))
    assert estimator.estimate(imu) is None


def test_a_swing_that_repeats_within_the_search_is_not_sure() -> None:
    """At 6 Hz the speed is the same every 83 ms: nothing tells which of the offsets it is."""
    estimator, imu = OffsetEstimator(), Imu()
    for n in range(-100, 1000):
        t = n * STEP_NS * 1e-9
        gyro = np.array([0.0, 0.5 * np.cos(2 * np.pi * 6 * t), 0.0])
        imu.push(n * STEP_NS + 30_000_000, gyro, FORCE)
    for n in range(100):
        old, new = n / 60, (n + 1) / 60
        turned = (
            0.5 / (2 * np.pi * 6) * abs(np.sin(2 * np.pi * 6 * new) - np.sin(2 * np.pi * 6 * old))
        )
        estimator.push(round(old * SECOND), round(new * SECOND), turned)
    found = estimator.estimate(imu)
    assert found is None or not found.sure


def test_no_offset_without_turning_or_samples() -> None:
    still, few, constant = OffsetEstimator(), OffsetEstimator(), OffsetEstimator()
    for n in range(60):
        still.push(n * 33_000_000, (n + 1) * 33_000_000, 0.0)
        constant.push(n * 33_000_000, (n + 1) * 33_000_000, 0.02)
    few.push(5, 4, 1.0)
    few.push(4, 5, float("nan"))
    for estimator in (still, few, constant):
        assert estimator.estimate(Imu()) is None
        assert estimator.estimate(sensor(4.0)) is None
        assert estimator.estimate(sensor(4.0, 3600 * SECOND)) is None


def panorama() -> np.ndarray:
    rng = np.random.default_rng(2)
    small = rng.integers(0, 255, (40, 54, 3), dtype=np.uint8)
    return cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)


def film(late_ns: int, seconds: float = 6.0, **values: object) -> EgoMotion:
    """The pipeline before a camera that looks around, the sensor's stamps ``late_ns`` late."""
    config = with_values(ImuConfig(), {"enable": True, **values})
    ego = sensors_of(config, COCO17).ego
    assert ego is not None
    world, picture = World([], PipelineConfig()), panorama()
    whole = world.pipeline()
    pipeline = PosePipeline(world.config, whole.detector, whole.net, None, ego)
    sample = -100
    for n in range(round(seconds * 30)):
        t = n / 30
        # A sample is there when it was taken, whatever its stamp says.
        while sample * STEP_NS * 1e-9 <= t + 0.005:
            gyro = np.array([0.0, rate(sample * STEP_NS * 1e-9), 0.0])
            ego.imu.push(sample * STEP_NS + late_ns, gyro, FORCE)
            sample += 1
        out = np.zeros_like(picture)
        turn = exp_so3(np.array([0.0, -angle(t), 0.0]))  # new axes from old
        cut_turned(picture, CAMERA, turn, np.array([0, 0, 320, 240]), out)
        pipeline.push(Frame(out, round(t * SECOND), "camera", CAMERA))
    return ego


@pytest.mark.parametrize("late_ms", [-60, 30])
def test_the_pipeline_finds_the_offset_and_then_believes_the_sensor(late_ms: int) -> None:
    ego = film(late_ms * 1_000_000)
    assert ego.offset_s == pytest.approx(late_ms * 1e-3, abs=0.006)
    assert ego.found is not None and ego.found.sure and ego.trusted


def test_an_offset_that_somebody_gave_stays() -> None:
    ego = film(80_000_000, offset_s=-0.1)
    assert ego.offset_s == -0.1 and not ego.trusted
    assert ego.found is not None and ego.found.seconds == pytest.approx(0.08, abs=0.006)


def test_who_does_not_want_it_found_keeps_doubting_the_sensor() -> None:
    ego = film(80_000_000, find_offset=False)
    assert ego.offset_s == 0.0 and ego.found is None and not ego.trusted


def test_clocks_that_agree_stay_and_an_offset_is_only_looked_for_where_pictures_are_compared(
) -> None:  # fmt: skip
    ego = film(0)
    assert ego.offset_s == 0.0 and ego.trusted
    assert sensors_of(ImuConfig(enable=True, check=False), COCO17).ego.clock is None
