"""Depth images: whose time, whose camera, where that is; and what is said when one is not used."""

import logging
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import stand_ins
from rgbd import packed_depth, raw_depth
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import Header

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import CalibrationError
from pose_ros.nodes import depth_input, frames
from pose_ros.nodes.conversions import info_from_camera, time_from_ns
from pose_ros.nodes.depth_input import DepthInput

STAMP_NS = 1_700_000_000_500_000_000
CAMERA = PinholeCamera(6, 4, 5.0, 5.0, 2.5, 1.5)
METRES = np.linspace(1.0, 3.3, 24, dtype=np.float32).reshape(4, 6)
PLACE = (0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def node() -> stand_ins.Node:
    return stand_ins.Node()


@pytest.fixture(autouse=True)
def no_tf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "tf2_ros", None)


@pytest.fixture(autouse=True)
def every_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    monkeypatch.setattr(depth_input.Sparingly, "due", lambda self: True)
    with caplog.at_level(logging.WARNING):
        yield


def opened(node: stand_ins.Node, transport: str = "raw", **options: Any) -> DepthInput:
    return DepthInput(node, transport, 0.03, **options)  # type: ignore[arg-type]


def header(frame: str = "color", stamp_ns: int = STAMP_NS) -> Header:
    return Header(stamp=time_from_ns(stamp_ns), frame_id=frame)


def calibrate(node: stand_ins.Node, camera: PinholeCamera = CAMERA) -> None:
    node.hear("depth_camera_info", info_from_camera(camera, header()))


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_registered_depth(node: stand_ins.Node, encoding: str) -> None:
    depth = opened(node)
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header(), encoding))
    got = depth.of(STAMP_NS, "color")
    assert got is not None and got.rgb_from_depth is None and got.camera == CAMERA
    np.testing.assert_allclose(got.depth_m, METRES, atol=0.0005)
    assert (depth.counts["depth_received"], depth.counts["depth_used"]) == (1, 1)


def test_compressed_depth(node: stand_ins.Node) -> None:
    depth = opened(node, "compressedDepth")
    calibrate(node)
    holes = METRES.copy()
    holes[1, 2] = np.nan
    node.hear("depth", packed_depth(holes, header()))
    got = depth.of(STAMP_NS, "color")
    assert got is not None and np.isnan(got.depth_m[1, 2])
    np.testing.assert_allclose(got.depth_m, holes, atol=0.0005)


def test_depth_of_another_camera_whose_place_a_parameter_says(node: stand_ins.Node) -> None:
    depth = opened(node, extrinsics="0.05 0 0 0 0 0 1")
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header("depth")))
    got = depth.of(STAMP_NS, "color")
    assert got is not None and got.rgb_from_depth is not None
    np.testing.assert_allclose(got.rgb_from_depth[:3, 3], [0.05, 0, 0])


def test_depth_of_another_camera_whose_place_tf_says(
    node: stand_ins.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {("color", "depth", STAMP_NS + 5): PLACE}  # at the time of the depth image
    monkeypatch.setattr(frames, "tf2_ros", stand_ins.tf2(known))
    depth = opened(node)
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header("depth", STAMP_NS + 5)))
    assert stand_ins.TransformListener.listeners == []  # TF costs nothing before it is needed
    for _ in range(2):
        got = depth.of(STAMP_NS, "color")
        assert got is not None and got.rgb_from_depth is not None
        np.testing.assert_allclose(got.rgb_from_depth[:3, 3], [0.05, 0, 0])
    assert len(stand_ins.TransformListener.listeners) == 1
    depth.close()
    assert stand_ins.TransformListener.listeners == []


def test_a_parameter_is_believed_before_tf(
    node: stand_ins.Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "tf2_ros", stand_ins.tf2({("color", "depth", STAMP_NS): PLACE}))
    depth = opened(node, extrinsics="identity")
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header("depth")))
    got = depth.of(STAMP_NS, "color")
    assert got is not None and got.rgb_from_depth is not None
    np.testing.assert_array_equal(got.rgb_from_depth, np.eye(4))
    assert stand_ins.Buffer.asked == []


def test_another_camera_whose_place_nobody_says(
    node: stand_ins.Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    depth = opened(node)
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header("depth")))
    assert depth.of(STAMP_NS, "color") is None
    assert "depth is in frame 'depth', the image in 'color', and tf2_ros is not" in caplog.text
    monkeypatch.setattr(frames, "tf2_ros", stand_ins.tf2({}))
    assert depth.of(STAMP_NS, "color") is None
    assert "no transform from 'depth' to 'color'" in caplog.text
    assert caplog.text.count("say in depth.extrinsics where the depth camera is") == 2
    assert depth.counts["depth_bad"] == 2


def test_the_nearest_in_time_is_taken(node: stand_ins.Node) -> None:
    depth = opened(node)
    calibrate(node)
    for late_ms, metres in ((-20, 1.0), (4, 2.0), (30, 3.0)):
        stamp_ns = STAMP_NS + late_ms * 10**6
        node.hear("depth", raw_depth(np.full((4, 6), metres), header("color", stamp_ns)))
    got = depth.of(STAMP_NS, "color")
    assert got is not None and got.depth_m[0, 0] == 2.0
    assert got.stamp_ns == STAMP_NS + 4 * 10**6


@pytest.mark.parametrize("late_ns", [-30_000_001, 30_000_001, 10**12])
def test_depth_of_another_time(
    node: stand_ins.Node, late_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    depth = opened(node)
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header("color", STAMP_NS + late_ns)))
    assert depth.of(STAMP_NS, "color") is None
    assert depth.counts["depth_missing"] == 1
    assert "no depth image within 0.03 s of the colour image" in caplog.text


def test_a_clock_that_is_off_is_off_for_both(node: stand_ins.Node) -> None:
    depth = opened(node, offset_s=-2.0)
    calibrate(node)
    node.hear("depth", raw_depth(METRES, header("color", STAMP_NS + 2 * 10**9)))
    got = depth.of(STAMP_NS, "color")
    assert got is not None and got.stamp_ns == STAMP_NS


def test_without_a_calibration(node: stand_ins.Node, caplog: pytest.LogCaptureFixture) -> None:
    depth = opened(node)
    node.hear("depth", raw_depth(METRES, header()))
    assert depth.of(STAMP_NS, "color") is None
    assert "no calibration on depth_camera_info yet" in caplog.text
    calibrate(node)
    assert depth.of(STAMP_NS, "color") is not None


def test_a_calibration_of_zeros(node: stand_ins.Node, caplog: pytest.LogCaptureFixture) -> None:
    depth = opened(node)
    calibrate(node)
    node.hear("depth_camera_info", CameraInfo(width=6, height=4))
    node.hear("depth", raw_depth(METRES, header()))
    assert depth.of(STAMP_NS, "color") is None
    assert caplog.text.count("depth_camera_info cannot be used: ") == 2
    assert "an all-zero K means 'uncalibrated'" in caplog.text


def test_a_picture_of_another_size_than_its_calibration(
    node: stand_ins.Node, caplog: pytest.LogCaptureFixture
) -> None:
    depth = opened(node)
    calibrate(node, PinholeCamera(12, 8, 10.0, 10.0, 5.5, 3.5))
    node.hear("depth", raw_depth(METRES, header()))
    assert depth.of(STAMP_NS, "color") is None
    assert "expected shape (8, 12) of float32, got (4, 6)" in caplog.text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "bgr8", "step": 24}, "remap 'depth' to the depth camera"),
        ({"step": 12}, "depth step: expected at least 24 bytes"),
        ({"height": 5}, "expected 120 bytes for 5 rows"),
    ],
)
def test_buffers_that_are_refused(
    node: stand_ins.Node, change: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    depth = opened(node)
    calibrate(node)
    message = raw_depth(METRES, header())
    for name, value in change.items():
        setattr(message, name, value)
    node.hear("depth", message)
    assert depth.of(STAMP_NS, "color") is None
    assert words in caplog.text and depth.counts["depth_bad"] == 1


def test_a_damaged_payload_is_refused(
    node: stand_ins.Node, caplog: pytest.LogCaptureFixture
) -> None:
    depth = opened(node, "compressedDepth")
    calibrate(node)
    broken = CompressedImage(
        header=header(), format="16UC1; compressedDepth png",
        data=struct.pack("<iff", 0, 0.0, 0.0) + b"\x89PNG",
    )  # fmt: skip
    node.hear("depth", broken)
    assert depth.of(STAMP_NS, "color") is None
    assert "expected a whole PNG after the header" in caplog.text


def test_extrinsics_are_checked_before_anything_is_subscribed(node: stand_ins.Node) -> None:
    with pytest.raises(CalibrationError, match="expected 'x y z qx qy qz qw'"):
        opened(node, extrinsics="5 cm to the left")
    assert node.readers == {}


def test_closing(node: stand_ins.Node) -> None:
    opened(node).close()
    assert not any(reader.open for reader in node.readers.values())
