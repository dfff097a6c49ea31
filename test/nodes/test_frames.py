"""The output frame: moved by TF at the image's stamp, unknown without it, refused without tf2."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import stand_ins
from std_msgs.msg import Header

from pose_ros.core.values import Body, PoseResult, Poses2D, Poses3D, Tracks, TrackState
from pose_ros.errors import ConfigError
from pose_ros.msg import HumanPoseArray
from pose_ros.nodes import frames
from pose_ros.nodes.conversions import time_from_ns
from pose_ros.nodes.pose_node import PoseNode

STAMP_NS = 1_700_000_000_500_000_000


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF knows base <- camera at STAMP_NS: half a turn about z and 2 m along x."""
    place = {("base", "camera", STAMP_NS): (2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)}
    monkeypatch.setattr(frames, "tf2_ros", stand_ins.tf2(place))


def told(stamp_ns: int = STAMP_NS) -> tuple[PoseResult, Header]:
    ids = np.array([1])
    tracks = Tracks(
        ids, np.array([TrackState.TRACKED], np.int8), np.zeros((1, 4), np.float32),
        np.ones(1, np.float32), np.array([stamp_ns]),
    )  # fmt: skip
    poses = Poses3D.unknown(ids, 17)
    poses.xyz_m[:] = (1.0, 2.0, 3.0)
    body = Body(poses, np.zeros((1, 16), np.float32))
    pixels = Poses2D(ids, np.zeros((1, 17, 2), np.float32), np.ones((1, 17), np.float32))
    result = PoseResult(stamp_ns, "camera", (4, 4), tracks, pixels, False, body=body)
    return result, Header(stamp=time_from_ns(stamp_ns), frame_id="camera")


def test_metres_are_moved_by_the_transform_of_the_image_s_time(tf: None) -> None:
    frame = frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]
    result, header = frame.apply(*told())
    assert (header.frame_id, result.frame_id) == ("base", "base")
    assert header.stamp == time_from_ns(STAMP_NS)
    assert result.body is not None
    np.testing.assert_allclose(result.body.poses.xyz_m[0, 0], (1.0, -2.0, 3.0), atol=1e-6)


def test_without_a_transform_metres_are_unknown_and_it_is_said(
    tf: None, caplog: pytest.LogCaptureFixture
) -> None:
    frame = frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]
    for _ in range(2):
        result, header = frame.apply(*told(STAMP_NS + 1))
        assert result.body is None and header.frame_id == "base"
    assert frame.failures == 2
    assert len(caplog.records) == 1  # once per five seconds
    assert "no transform from 'camera' to 'base'" in caplog.text


def test_the_camera_s_own_frame_needs_no_transform(tf: None) -> None:
    frame = frames.OutputFrame(None, "camera", 0.02)  # type: ignore[arg-type]
    result, _ = frame.apply(*told())
    assert result.body is not None and stand_ins.Buffer.asked == []


def test_nobody_with_a_place_needs_no_transform(tf: None) -> None:
    frame = frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]
    result, header = told()
    result.body.poses.xyz_m[:] = np.nan
    result, header = frame.apply(result, header)
    assert stand_ins.Buffer.asked == [] and frame.failures == 0
    assert (header.frame_id, result.frame_id) == ("base", "base")


def test_what_is_said_without_an_image_is_in_the_output_frame_too(tf: None) -> None:
    """The last words of a reset, of deactivation and of STALE_INPUT."""
    said: list[tuple[PoseResult, Header, int]] = []
    outputs = SimpleNamespace(publish=lambda r, h, n, health: said.append((r, h, health)))
    node = SimpleNamespace(
        _last_header=told()[1], _sequence=4, outputs=outputs, _last_result=None,
        frames=frames.OutputFrame(None, "base", 0.02),  # type: ignore[arg-type]
    )  # fmt: skip
    ended = dataclasses.replace(told()[0], frame_id="", body=None)
    PoseNode._tell(node, ended, HumanPoseArray.STALE_INPUT)  # type: ignore[arg-type]
    ((result, header, health),) = said
    assert (header.frame_id, result.frame_id) == ("base", "base")
    assert header.stamp == time_from_ns(STAMP_NS) and health == HumanPoseArray.STALE_INPUT
    assert node._last_result is result
    # somebody who is carried on stays in the axes of the last image
    carried = dataclasses.replace(told()[0], frame_id="", stamp_ns=STAMP_NS + 100_000_000)
    PoseNode._tell(node, carried, HumanPoseArray.STALE_INPUT)  # type: ignore[arg-type]
    assert said[-1][0].body is not None
    assert stand_ins.Buffer.asked == [("base", "camera", STAMP_NS)]


def test_without_tf2_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "tf2_ros", None)
    with pytest.raises(ConfigError, match="leave output_frame empty"):
        frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]


def test_a_transform_that_is_no_motion_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TF does not check quaternions; (0, 0, 0, 0) is what an empty message says."""
    place = {("base", "camera", STAMP_NS): (2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)}
    monkeypatch.setattr(frames, "tf2_ros", stand_ins.tf2(place))
    frame = frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]
    result, _ = frame.apply(*told())
    assert result.body is None and frame.failures == 1
    assert "a quaternion x y z w of length 1" in caplog.text


def test_it_stops_listening(tf: None) -> None:
    frame = frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]
    assert len(stand_ins.TransformListener.listeners) == 1
    frame.close()
    assert stand_ins.TransformListener.listeners == []
