"""Gait: a synthetic walker whose heel strikes and angles are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.angles import get_convention
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import JointAngles, KeypointStatus
from pose_ros.tools import angle_plot, gait

STRIDE_S, RATE_HZ, SPEED_M_S = 1.2, 30.0, 1.1


def moments(
    seconds: float = 6.0, walks: bool = True, convention: str = "rep155", gap: bool = False,
    turn: float = np.pi,
) -> list[gait.Moment]:  # fmt: skip
    """Person 4 steps to the right; person 2 is there as long and stands.

    The left ankle is furthest ahead at 0.3, 1.5, 2.7 … s; the left knee bends by
    30 + 25 cos(phase), 55 degrees there, the right one half a stride (``turn``) later.
    """
    found = []
    for number in range(round(seconds * RATE_HZ)):
        t = number / RATE_HZ
        if gap and 2.0 < t < 2.9:
            continue
        phase = 2 * np.pi * (t - 0.3) / STRIDE_S
        xyz = np.zeros((2, 17, 3), np.float32)
        xyz[1, :, 0] = SPEED_M_S * t * walks
        for side, later in (("left", 0.0), ("right", turn)):
            step = 0.35 * np.cos(phase + later) * walks
            xyz[1, COCO17.index(f"{side}_ankle"), 0] += step
        xyz[..., 2] = 4.0
        found.append(gait.Moment(round(t * 1e9), np.array([2, 4]), xyz, angles(phase, convention)))
    return found


def angles(phase: float, convention: str) -> JointAngles:
    names = get_convention(convention).names
    value = np.zeros((2, len(names)), np.float32)
    sign, knees = 1, ("left_knee_flexion", "right_knee_flexion")
    if convention == "rep155":
        sign, knees = -1, ("l_knee", "r_knee")
    for name, turn in zip(knees, (0, np.pi), strict=True):
        value[1, names.index(name)] = sign * np.radians(30 + 25 * np.cos(phase + turn))
    status = np.full(value.shape, KeypointStatus.MEASURED, np.int8)
    status[1, names.index(names[-1])] = KeypointStatus.INFERRED
    std = np.full_like(value, np.radians(5))
    return JointAngles(np.array([2, 4]), convention, names, value, value * 0, std, status,
                       np.zeros(value.shape, bool))  # fmt: skip


@pytest.mark.parametrize("convention", ["rep155", "isb"])
def test_the_walker_is_found_with_its_strikes_cycles_and_range(convention: str) -> None:
    walk = gait.walker(moments(convention=convention), COCO17)
    assert walk.id == 4
    np.testing.assert_allclose(walk.heel_strikes(0)[1:4], [1.5, 2.7, 3.9], atol=0.05)
    np.testing.assert_allclose(walk.heel_strikes(1)[1:4], [2.1, 3.3, 4.5], atol=0.05)
    cycles = walk.cycles("knee", 0)
    assert cycles.shape[0] in (3, 4) and cycles.shape[1] == 101
    expected = 30 + 25 * np.cos(2 * np.pi * np.linspace(0, 1, 101))
    np.testing.assert_allclose(cycles.mean(axis=0), expected, atol=3.0)
    summary = gait.summary(walk)
    assert summary["knee_range_deg"] == pytest.approx([5.0, 55.0], abs=0.5)
    assert summary["hip_range_deg"] == [0.0, 0.0]


def test_nothing_is_told_across_a_gap() -> None:
    whole, torn = (gait.walker(moments(gap=gap), COCO17) for gap in (False, True))
    assert len(torn.cycles("knee", 0)) < len(whole.cycles("knee", 0))


def test_two_feet_that_swing_together_do_not_walk() -> None:
    walk = gait.walk_of(moments(turn=0.0), COCO17, 4)
    assert len(walk.heel_strikes(0)) > 3
    assert gait.summary(walk)["gait_cycles"] == {"left": 0, "right": 0}


def test_who_stands_has_no_gait_cycle_and_nobody_has_no_walk() -> None:
    walk = gait.walker(moments(walks=False), COCO17)
    assert gait.summary(walk)["gait_cycles"] == {"left": 0, "right": 0}
    assert np.isnan(walk.ahead_m).all()
    assert gait.walker([], COCO17) is None
    unknown = moments(1.0)
    for moment in unknown:
        moment.angles.angle_rad[:] = np.nan
    assert gait.walker(unknown, COCO17) is None


def test_the_picture_shows_the_walk(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    walk = gait.walker(moments(), COCO17)
    drawn = angle_plot.figure(walk)
    time, cycle = drawn.axes[0], drawn.axes[1]
    curve = time.lines[0].get_ydata()
    assert np.nanmax(curve) == pytest.approx(55.0, abs=0.5)
    assert cycle.get_xlim() == (0.0, 100.0)
    assert angle_plot.write(tmp_path / "angles.png", walk)
    assert cv2.imread(str(tmp_path / "angles.png")).shape[1] >= 900
    standing = angle_plot.figure(gait.walker(moments(1.0, walks=False), COCO17))
    assert len(standing.axes) == 2, "no column of gait cycles"
