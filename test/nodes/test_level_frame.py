"""Metres in a level frame: z up, x ahead, unknown while up is not felt."""

import dataclasses

import numpy as np
import pytest
import stand_ins
from std_msgs.msg import Header

from pose_ros.core.ego import EgoMotion, StillCamera
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.imu import Imu
from pose_ros.core.rigid import rotation_of
from pose_ros.core.values import Body, PoseResult, Poses2D, Poses3D, Tracks, TrackState
from pose_ros.errors import ConfigError
from pose_ros.nodes.conversions import time_from_ns
from pose_ros.nodes.level_frame import LevelFrame, LevelTf

STAMP_NS = 1_700_000_000_500_000_000


def told() -> tuple[PoseResult, Header]:
    ids = np.array([1])
    tracks = Tracks(
        ids, np.array([TrackState.TRACKED], np.int8), np.zeros((1, 4), np.float32),
        np.ones(1, np.float32), np.array([STAMP_NS]),
    )  # fmt: skip
    poses = Poses3D.unknown(ids, 17)
    poses.xyz_m[:] = (0.5, 0.0, 2.0)  # on the axis of view but half a metre to the right
    body = Body(poses, np.zeros((1, 16), np.float32))
    pixels = Poses2D(ids, np.zeros((1, 17, 2), np.float32), np.ones((1, 17), np.float32))
    result = PoseResult(STAMP_NS, "camera", (4, 4), tracks, pixels, False, body=body)
    return result, Header(stamp=time_from_ns(STAMP_NS), frame_id="camera")


def test_somebody_before_a_camera_that_looks_down_is_below_it() -> None:
    result, header = LevelFrame("level", StillCamera(0.5)).apply(*told())
    assert (header.frame_id, result.frame_id) == ("level", "level")
    assert header.stamp == time_from_ns(STAMP_NS)
    want = (2.0 * np.cos(0.5), -0.5, -2.0 * np.sin(0.5))
    np.testing.assert_allclose(result.body.poses.xyz_m[0, 0], want, atol=1e-6)


@pytest.mark.parametrize("later_ns", [0, 300_000_000])
def test_a_leaning_sensor_is_put_right(later_ns: int) -> None:
    """Also for somebody who is carried on since the last image."""
    imu = Imu()
    for n in range(200):  # the camera's right side hangs down by 30 degrees
        force = 9.81 * np.array([-np.sin(np.pi / 6), -np.cos(np.pi / 6), 0.0])
        imu.push(STAMP_NS - (199 - n) * 5_000_000, np.zeros(3), force)
    result, header = told()
    result = dataclasses.replace(result, stamp_ns=STAMP_NS + later_ns)
    result, _ = LevelFrame("level", EgoMotion(imu)).apply(result, header)
    want = (2.0, -0.5 * np.cos(np.pi / 6), -0.5 * np.sin(np.pi / 6))
    np.testing.assert_allclose(result.body.poses.xyz_m[0, 0], want, atol=1e-3)


def test_a_sensor_that_the_pictures_contradict_is_not_asked_for_up() -> None:
    imu, check = Imu(), EgoCheck()
    for n in range(200):
        imu.push(STAMP_NS - (199 - n) * 5_000_000, np.zeros(3), np.array([0.0, -9.81, 0.0]))
    frame = LevelFrame("level", EgoMotion(imu, check=check))
    assert frame.apply(*told())[0].body is not None  # nothing is known yet
    check._compared.append((0.9, 1.0))
    assert frame.apply(*told())[0].body is None and frame.failures == 1


def test_without_gravity_metres_are_unknown_and_it_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frame = LevelFrame("level", EgoMotion(Imu()))
    for _ in range(2):
        result, header = frame.apply(*told())
        assert result.body is None and header.frame_id == "level"
    frame.close()
    assert frame.failures == 2 and len(caplog.records) == 1
    with pytest.raises(ConfigError, match=r"needs imu\.enable"):
        LevelFrame("level", None)


def test_tf_knows_the_level_frame_at_every_image_also_while_nobody_is_there() -> None:
    node = stand_ins.Node()
    tf = LevelTf(node, stand_ins.TFMessage, "level")  # type: ignore[arg-type]
    frame = LevelFrame("level", StillCamera(0.5), tf)
    result, header = told()
    told_there, _ = frame.apply(result, header)
    frame.apply(result, header)  # the last image again, as without images
    nobody = dataclasses.replace(result, body=None)
    frame.apply(nobody, Header(stamp=time_from_ns(STAMP_NS + 1), frame_id="camera"))
    first, second = (message.transforms[0] for message in node.sent("/tf"))
    assert (first.header.frame_id, first.child_frame_id) == ("camera", "level")
    assert first.header.stamp == time_from_ns(STAMP_NS)
    assert second.header.stamp == time_from_ns(STAMP_NS + 1)
    q, t = first.transform.rotation, first.transform.translation
    assert (t.x, t.y, t.z) == (0.0, 0.0, 0.0)
    # as tf2 reads it: from the child to its parent
    camera_from_level = rotation_of(q.x, q.y, q.z, q.w)
    there = told_there.body.poses.xyz_m[0, 0]
    np.testing.assert_allclose(camera_from_level @ there, (0.5, 0.0, 2.0), atol=1e-6)
    node.publishers["/tf"].readers = 0
    frame.apply(result, Header(stamp=time_from_ns(STAMP_NS + 2), frame_id="camera"))
    assert len(node.sent("/tf")) == 2
    frame.close()
    assert not node.publishers["/tf"].open


def test_tf_is_told_nothing_while_up_is_not_known() -> None:
    node = stand_ins.Node()
    frame = LevelFrame("level", EgoMotion(Imu()), LevelTf(node, stand_ins.TFMessage, "level"))  # type: ignore[arg-type]
    frame.apply(*told())
    result, _ = told()
    LevelFrame("level", StillCamera(), frame._tf).apply(result, Header())  # without a parent
    assert node.sent("/tf") == []
