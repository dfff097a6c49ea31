"""The inertial sensor: integration, gravity, bias, and when it must not be believed."""

import numpy as np
import pytest

from pose_ros.core.imu import GRAVITY_M_S2, PATIENCE, Imu, ImuLimits
from pose_ros.core.so3 import exp_so3, log_so3, orthonormal, shortest
from pose_ros.errors import ConfigError, ShapeError

STEP_NS = 5_000_000
REST = np.array([0.0, 0.0, GRAVITY_M_S2])
STILL = np.zeros(3)


def filled(count: int, gyro=STILL, force=REST, start_ns: int = 0, **rest) -> Imu:
    imu = Imu(**rest)
    for n in range(count):
        assert imu.push(start_ns + n * STEP_NS, np.array(gyro), np.array(force))
    return imu


def test_exponential_and_logarithm_are_inverse() -> None:
    rng = np.random.default_rng(0)
    for size in (0.0, 1e-7, 0.3, 3.0, np.pi - 1e-4):
        axis = rng.standard_normal(3)
        vector = size * axis / np.linalg.norm(axis)
        assert np.allclose(log_so3(exp_so3(vector)), vector, atol=1e-6)
    half = exp_so3(np.array([0.0, np.pi, 0.0]))
    assert np.allclose(np.abs(log_so3(half)), [0, np.pi, 0], atol=1e-6)


def test_shortest_rotation_between_directions_even_opposite_ones() -> None:
    a, b = np.array([1.0, 0, 0]), np.array([0, 0.6, 0.8])
    assert np.allclose(exp_so3(shortest(a, b)) @ a, b)
    assert np.allclose(exp_so3(shortest(a, -a)) @ a, -a, atol=1e-9)
    noisy = exp_so3(np.array([0.2, 0.5, -0.4])) + 1e-4
    fixed = orthonormal(noisy)
    assert abs(fixed @ fixed.T - np.eye(3)).max() < abs(noisy @ noisy.T - np.eye(3)).max() / 100


def test_a_constant_rate_turns_exactly_and_points_move_the_other_way() -> None:
    # 1 rad/s about z for 0.5 s: the body turns +0.5 rad, a fixed point in its axes -0.5 rad.
    imu = filled(201, gyro=(0.0, 0.0, 1.0))
    turn = imu.turn(100_000_000, 600_000_000)
    assert np.allclose(turn, exp_so3(np.array([0.0, 0.0, -0.5])), atol=1e-9)
    back = imu.turn(600_000_000, 100_000_000)
    assert np.allclose(back @ turn, np.eye(3))
    # Stamps between samples: 2.5 ms is half a step.
    assert np.allclose(log_so3(imu.turn(2_500_000, 5_000_000)), [0, 0, -0.0025], atol=1e-12)


def test_turns_compose_under_a_changing_rate() -> None:
    rng = np.random.default_rng(1)
    imu = Imu()
    for n in range(200):
        imu.push(n * STEP_NS, rng.standard_normal(3), REST)
    a, b, c = 101_000_000, 333_333_333, 777_777_777
    assert np.allclose(imu.turn(b, c) @ imu.turn(a, b), imu.turn(a, c), atol=1e-9)


def test_the_axes_of_the_mounting_are_applied() -> None:
    axes = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # body (x ahead) to optical
    imu = filled(100, force=(0.0, 0.0, GRAVITY_M_S2), axes=axes)
    assert np.allclose(imu.up(99 * STEP_NS), [0, -1, 0], atol=1e-6)  # up is the image's -y
    with pytest.raises(ShapeError, match=r"Imu\.axes: expected a rotation"):
        Imu(axes=2 * np.eye(3))
    with pytest.raises(ConfigError, match=r"ImuLimits\.pull_s: expected a number > 0"):
        ImuLimits(pull_s=0.0)


def test_up_waits_for_gravity_and_survives_a_shove() -> None:
    imu = filled(20)
    assert imu.up(19 * STEP_NS) is None  # 0.1 s: not trusted yet
    tilted = exp_so3(np.array([0.3, 0.0, 0.0])).T @ REST
    imu = filled(100, force=tilted)
    want = tilted / GRAVITY_M_S2
    assert np.allclose(imu.up(99 * STEP_NS), want, atol=1e-6)
    for n in range(100, 200):  # accelerated sideways by 4 m/s^2 for half a second
        imu.push(n * STEP_NS, STILL, tilted + np.array([4.0, 0, 0]))
    assert np.allclose(imu.up(199 * STEP_NS), want, atol=1e-3)


def test_velocity_is_what_the_force_adds_to_gravity() -> None:
    imu = filled(100)
    for n in range(100, 200):
        imu.push(n * STEP_NS, STILL, REST + np.array([4.0, 0, 0]))
    assert np.allclose(imu.gain_m_s(110 * STEP_NS, 190 * STEP_NS), [1.6, 0, 0], atol=1e-9)
    # Halfway between samples 99 (at rest) and 100 (0.02 m/s): half of it.
    assert np.allclose(imu.gain_m_s(90 * STEP_NS, 99 * STEP_NS + STEP_NS // 2), [0.01, 0, 0])


def test_the_bias_is_learned_while_still_and_only_then() -> None:
    rng = np.random.default_rng(2)
    bias = np.array([0.006, -0.004, 0.002])
    imu = Imu()
    for n in range(400):
        imu.push(n * STEP_NS, bias + 0.003 * rng.standard_normal(3), REST)
    assert np.allclose(imu.bias_rad_s, bias, atol=5e-4)
    panning = filled(400, gyro=(0.0, 0.3, 0.0))
    assert not panning.bias_rad_s.any()


def test_a_told_orientation_is_followed_without_its_noise() -> None:
    rng = np.random.default_rng(3)
    imu, true = Imu(), exp_so3(np.array([0.1, 0.2, 2.0]))
    for n in range(600):
        noise = exp_so3(np.radians(3.0) * rng.standard_normal(3))
        imu.push(n * STEP_NS, STILL, true.T @ REST, true @ noise)
    assert np.linalg.norm(log_so3(imu.world(599 * STEP_NS) @ true.T)) < np.radians(1.0)


def test_silence_is_noticed_within_the_age() -> None:
    imu = filled(300)
    end = 299 * STEP_NS
    assert imu.healthy(end) and imu.healthy(end + 20_000_000)
    assert not imu.healthy(end + 30_000_000) and imu.turn(0, end + 30_000_000) is None
    assert not imu.healthy(-1) and not Imu().healthy(0)
    assert Imu().turn(0, 1) is None and Imu().up(0) is None and Imu().rate(0) is None


def test_nothing_is_known_across_a_gap_and_it_heals() -> None:
    imu = filled(200)
    gap = 199 * STEP_NS + 300_000_000
    for n in range(300):
        imu.push(gap + n * STEP_NS, STILL, REST)
    assert imu.counts["gaps"] == 1
    assert imu.turn(100 * STEP_NS, gap + STEP_NS) is None
    assert imu.turn(100 * STEP_NS, 150 * STEP_NS) is not None
    assert imu.turn(199 * STEP_NS + 100_000_000, gap) is None  # a stamp inside the gap
    assert not imu.healthy(gap + 400_000_000)
    assert imu.healthy(gap + 600_000_000)


@pytest.mark.parametrize(
    ("gyro", "force", "times"),
    [((35.0, 0, 0), REST, 1), ((0, 0, 0), (160.0, 0, 0), 1), ((5.0, 0, 0), REST, 2)],
    ids=["rate", "force", "stuck at an unknown end stop"],
)
def test_saturated_samples_break_the_turn_on_both_sides(gyro, force, times) -> None:
    imu = filled(200)
    for n in range(times):
        imu.push((200 + n) * STEP_NS, np.array(gyro), np.array(force))
    for n in range(200 + times, 400):
        imu.push(n * STEP_NS, STILL, REST)
    assert imu.counts["saturated"] == 1
    last = 199 + times
    assert imu.turn((last - 1) * STEP_NS, last * STEP_NS) is None
    assert imu.turn(last * STEP_NS, (last + 1) * STEP_NS) is None
    assert imu.turn((last + 1) * STEP_NS, (last + 2) * STEP_NS) is not None
    assert not imu.healthy((last + 20) * STEP_NS) and imu.healthy(399 * STEP_NS)


def test_late_stamps_are_refused_and_a_clock_set_back_starts_anew() -> None:
    imu = filled(100, start_ns=10_000_000_000)
    end = 10_000_000_000 + 99 * STEP_NS
    assert not imu.push(end, STILL, REST) and not imu.push(end - STEP_NS, STILL, REST)
    assert len(imu) == 100 and imu.counts["late"] == 2
    assert imu.push(1_000_000_000, STILL, REST)  # nine seconds back: another clock
    assert len(imu) == 1 and imu.span_ns == (1_000_000_000, 1_000_000_000)
    taken = [imu.push(900_000_000 + n, STILL, REST) for n in range(PATIENCE)]
    assert taken == [False] * (PATIENCE - 1) + [True]


def test_a_leap_of_the_stamps_forward_is_a_gap() -> None:
    imu = filled(100)
    leap = 3_600_000_000_000
    assert imu.push(leap, STILL, REST)
    assert not imu.healthy(leap) and imu.turn(0, leap) is None and imu.gain_m_s(0, leap) is None


def test_broken_numbers_are_refused() -> None:
    imu = filled(10)
    assert not imu.push(10 * STEP_NS, np.array([np.nan, 0, 0]), REST)
    assert not imu.push(10 * STEP_NS, STILL, np.array([np.inf, 0, 0]))
    assert not imu.push(10 * STEP_NS, STILL, REST, np.full((3, 3), np.nan))
    assert imu.counts["broken"] == 3 and len(imu) == 10


def test_the_ring_forgets_and_goes_on() -> None:
    imu = filled(1000, gyro=(0.0, 0.0, 1.0), capacity=128)
    assert 128 <= len(imu) <= 256
    assert imu.turn(0, 999 * STEP_NS) is None
    turn = imu.turn(900 * STEP_NS, 999 * STEP_NS)
    assert np.allclose(log_so3(turn), [0, 0, -99 * 0.005], atol=1e-9)


def test_one_rotation_is_that_of_the_batch() -> None:
    rng = np.random.default_rng(6)
    for size in (1e-6, 1e-3, 0.3, 3.1):
        vectors = size * rng.standard_normal((5, 3))
        one_by_one = np.array([exp_so3(vector) for vector in vectors])
        np.testing.assert_allclose(one_by_one, exp_so3(vectors), atol=1e-14)
