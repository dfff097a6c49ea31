"""Believing a camera's sensor: only when the pictures turn as it says."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.ego import cut_turned
from pose_ros.core.ego_check import FEWEST, EgoCheck
from pose_ros.core.so3 import exp_so3
from pose_ros.core.values import Frame

CAMERA = PinholeCamera.from_fov(320, 240, 60.0)
NOBODY = np.zeros((0, 4), np.float32)
STEP_NS = 200_000_000


def scene() -> np.ndarray:
    rng = np.random.default_rng(2)
    small = rng.integers(0, 255, (40, 54, 3), dtype=np.uint8)
    return cv2.resize(small, (320, 240), interpolation=cv2.INTER_CUBIC)


def turned(angle_rad: float) -> np.ndarray:
    out = np.zeros((240, 320, 3), np.uint8)
    edges = np.array([0, 0, 320, 240])
    cut_turned(scene(), CAMERA, exp_so3(np.array([0.0, angle_rad, 0.0])), edges, out)
    return out


def look(check: EgoCheck, pairs: int, told_rad: float, seen_rad: float = 0.03) -> None:
    """Pairs of pictures that turn by ``seen_rad`` while the sensor says ``told_rad``."""
    start = getattr(check, "clock_ns", 0)
    for n in range(pairs):
        stamp = start + 2 * n * STEP_NS
        between = lambda old, new: exp_so3(np.array([0.0, told_rad, 0.0]))  # noqa: E731
        check.look(Frame(turned(0.0), stamp, "", CAMERA), between, NOBODY)
        check.look(Frame(turned(seen_rad), stamp + STEP_NS, "", CAMERA), between, NOBODY)
    check.clock_ns = start + 2 * pairs * STEP_NS + 10**9  # type: ignore[attr-defined]


def test_agreement_is_believed_and_disagreement_ends_it() -> None:
    check = EgoCheck()
    assert math.isnan(check.unexplained)
    look(check, FEWEST - 1, 0.03)
    assert not check.trusted
    look(check, 1, 0.03)
    assert check.trusted and check.unexplained < 0.2
    check.reset()
    assert check.trusted  # a new start is no reason to doubt
    look(check, 8, -0.03)
    assert not check.trusted and check.unexplained > 1.5
    assert check.counts["disagreed"] > 0


@pytest.mark.parametrize("told, seen", [(0.03, 0.0), (0.05, 0.02), (-0.03, 0.03)])
def test_a_sensor_that_tells_another_turn_is_not_believed(told: float, seen: float) -> None:
    check = EgoCheck()
    look(check, 8, told, seen)
    assert not check.trusted and check.counts["agreed"] == 0


def test_a_sensor_that_tells_no_turn_is_not_even_compared() -> None:
    check = EgoCheck()
    look(check, 8, 0.001, 0.03)
    assert not check.trusted and check.counts == {"agreed": 0, "disagreed": 0}
    check.look(Frame(turned(0.0), 10**12, "", CAMERA), lambda old, new: None, NOBODY)
    assert math.isnan(check.unexplained)


def test_blank_pictures_and_crowds_decide_nothing() -> None:
    check = EgoCheck()
    between = lambda old, new: exp_so3(np.array([0.0, 0.03, 0.0]))  # noqa: E731
    everywhere = np.array([[-10.0, -10.0, 400.0, 300.0]], np.float32)
    for n in range(10):
        blank = Frame(np.zeros((240, 320, 3), np.uint8), n * STEP_NS, "", CAMERA)
        check.look(blank, between, NOBODY)
        crowd = Frame(turned(0.03 * n), 10**11 + n * STEP_NS, "", CAMERA)
        check.look(crowd, between, everywhere)
    assert not check.trusted and math.isnan(check.unexplained)
