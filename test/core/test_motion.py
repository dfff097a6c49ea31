"""The box filter, against a plain Kalman filter written the long way."""

import numpy as np

from pose_ros.core import motion
from pose_ros.core.motion import BoxFilter


def box(x: float, y: float, w: float = 40.0, h: float = 100.0) -> np.ndarray:
    return np.array([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]], np.float32)


def test_follows_a_textbook_kalman_filter() -> None:
    """One coordinate as 2-state matrices; Bar-Shalom 2001, 6.3.2 and 5.2.3."""
    filt = BoxFilter()
    filt.add(box(100, 200))
    tall, dt = 100.0, 0.05
    x = np.array([100.0, 0.0])
    p = np.diag([(motion.MEASURED * tall) ** 2, (motion.FIRST_VELOCITY * tall) ** 2])
    step = np.array([[1, dt], [0, 1]])
    noise = (
        np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]]) * (motion.ACCELERATION * tall) ** 2
    )
    for number in range(1, 12):
        measured = 100 + 6.0 * number
        filt.predict(dt, np.zeros(1, bool))
        filt.update(np.array([0]), box(measured, 200))
        x, p = step @ x, step @ p @ step.T + noise
        gain = p[:, 0] / (p[0, 0] + (motion.MEASURED * tall) ** 2)
        x, p = x + gain * (measured - x[0]), p - np.outer(gain, p[0])
        np.testing.assert_allclose([filt.value[0, 0], filt.velocity[0, 0]], x, rtol=1e-6)
        np.testing.assert_allclose(filt.cov[0, :, 0], [p[0, 0], p[0, 1], p[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(filt.velocity[0, 0], 120, rtol=0.05)


def test_near_and_far_people_are_treated_alike() -> None:
    near, far = BoxFilter(), BoxFilter()
    near.add(box(0, 0, 80, 200))
    far.add(box(0, 0, 40, 100))
    for number in range(5):
        for filt, scale in ((near, 2.0), (far, 1.0)):
            filt.predict(0.03, np.zeros(1, bool))
            filt.update(np.array([0]), box(3 * scale * number, 0, 40 * scale, 100 * scale))
    np.testing.assert_allclose(near.value, 2 * far.value)


def test_unseen_people_slow_down_and_keep_their_size() -> None:
    filt = BoxFilter()
    filt.add(box(0, 0))
    filt.velocity[:] = (100, 0, 20, 50)
    for _ in range(100):
        filt.predict(0.05, np.ones(1, bool))
    assert abs(filt.velocity[0, 0]) < 0.01 and filt.value[0, 0] < 60
    np.testing.assert_allclose(filt.value[0, 2:], [40, 100])


def test_boxes_grow_faster_than_they_shrink() -> None:
    grown, shrunk = BoxFilter(), BoxFilter()
    for filt, height in ((grown, 150), (shrunk, 50)):
        filt.add(box(0, 0))
        filt.predict(0.03, np.zeros(1, bool))
        filt.update(np.array([0]), box(0, 0, 40, height))
    assert grown.value[0, 3] - 100 > 2 * (100 - shrunk.value[0, 3])
