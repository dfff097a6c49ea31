"""The output frame: moved by TF at the image's stamp, unknown without it, refused without tf2."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from pose_ros.core.values import Body, PoseResult, Poses2D, Poses3D, Tracks, TrackState
from pose_ros.errors import ConfigError
from pose_ros.nodes import frames
from pose_ros.nodes.conversions import time_from_ns

STAMP_NS = 1_700_000_000_500_000_000


class TransformException(Exception):
    """As of tf2_ros."""


class Buffer:
    """Knows one transform: base <- camera at STAMP_NS, half a turn about z and 2 m along x."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def lookup_transform(self, target: str, source: str, when: Any, timeout: Any) -> Any:
        self.asked.append((target, source, when.nanoseconds))
        if (target, source, when.nanoseconds) != ("base", "camera", STAMP_NS):
            raise TransformException("extrapolation into the future")
        return SimpleNamespace(transform=SimpleNamespace(
            rotation=SimpleNamespace(x=0.0, y=0.0, z=1.0, w=0.0),
            translation=SimpleNamespace(x=2.0, y=0.0, z=0.0),
        ))  # fmt: skip


@pytest.fixture
def tf(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(
        Buffer=Buffer, TransformListener=lambda *_: SimpleNamespace(unregister=lambda: None),
        TransformException=TransformException,
    )  # fmt: skip
    monkeypatch.setattr(frames, "tf2_ros", library)


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
    assert "no transform from 'camera' to output_frame 'base'" in caplog.text


def test_the_camera_s_own_frame_needs_no_transform(tf: None) -> None:
    frame = frames.OutputFrame(None, "camera", 0.02)  # type: ignore[arg-type]
    result, _ = frame.apply(*told())
    assert result.body is not None and frame._buffer.asked == []


def test_without_tf2_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "tf2_ros", None)
    with pytest.raises(ConfigError, match="leave output_frame empty"):
        frames.OutputFrame(None, "base", 0.02)  # type: ignore[arg-type]
