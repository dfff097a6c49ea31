"""Health: which words are said when."""

import time

import pytest

from pose_ros.msg import HumanPoseArray
from pose_ros.nodes.health import Health


def test_calibration_decides_while_nothing_is_wrong() -> None:
    health = Health(0.2, 0.5)
    assert health.of_image(calibrated=True, with_depth=True) == HumanPoseArray.OK
    assert health.of_image(calibrated=True, with_depth=False) == HumanPoseArray.DEGRADED_NO_DEPTH
    assert health.of_image(False, False) == HumanPoseArray.DEGRADED_NO_CALIBRATION


@pytest.mark.parametrize(("dropped", "overloaded"), [(6, False), (9, True)])
def test_overloaded_above_the_share(dropped: int, overloaded: bool) -> None:
    health = Health(0.25, 0.5)
    health.count(100, 100)
    health.count(100 + dropped, 100 + 30 - dropped)  # 0.2 and 0.3 of the second's 30 images
    assert (health.of_image(True, False) == HumanPoseArray.OVERLOADED) is overloaded
    health.count(100 + dropped, 160 - dropped)
    assert health.of_image(True, False) == HumanPoseArray.DEGRADED_NO_DEPTH


def test_stale_after_half_the_deadline() -> None:
    health = Health(0.2, 0.1)
    assert not health.stale
    time.sleep(0.06)
    assert health.stale
    health.image_came()
    assert health.stale, "an image that came but could not be used"
    health.image_answered()
    assert not health.stale
