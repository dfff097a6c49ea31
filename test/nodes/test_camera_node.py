"""The camera node: pictures on a schedule, calibration, sources that are not there."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from pose_ros import graph
from pose_ros.core.calibration_file import load_calibration
from pose_ros.errors import CalibrationError
from pose_ros.nodes import conversions
from pose_ros.nodes.camera_node import Reader

SENSOR = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
CALIBRATION = """\
image_width: 64
image_height: 48
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [60.0, 0.0, 31.5, 0.0, 61.0, 23.5, 0.0, 0.0, 1.0]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, 0.0, 0.0, 0.0, 0.0]}
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of ten grey pictures, each brighter than the last."""
    folder = tmp_path / "some pictures"
    folder.mkdir()
    for index in range(10):
        cv2.imwrite(str(folder / f"{index:02d}.png"), np.full((48, 64, 3), 20 * index, np.uint8))
    return folder


def collect(start: Any, peer: Any, source: Path, **parameters: Any) -> tuple[list, list, Any]:
    images: list[Image] = []
    infos: list[CameraInfo] = []
    readers = [
        peer.node.create_subscription(Image, graph.IMAGE, images.append, SENSOR),
        peer.node.create_subscription(CameraInfo, graph.CAMERA_INFO, infos.append, SENSOR),
    ]
    program = start(graph.camera(str(source), wait_for_subscribers=1, **parameters))
    assert peer.spin_until(lambda: program.process.poll() is not None)
    peer.spin_for(0.1)
    for reader in readers:
        peer.node.destroy_subscription(reader)
    return images, infos, program


def test_every_picture_once_in_order_on_schedule(
    start: Any, peer: Any, pictures: Path, tmp_path: Path
) -> None:
    stamps = tmp_path / "stamps.csv"
    images, infos, program = collect(
        start, peer, pictures, rate_hz=20.0, frame_id="lens", stamps_file=str(stamps)
    )
    assert program.process.returncode == 0
    assert [image.data[0] for image in images] == [20 * index for index in range(10)]
    assert {(i.width, i.height, i.step, i.encoding) for i in images} == {(64, 48, 192, "bgr8")}
    times = [conversions.ns_from_time(image.header.stamp) for image in images]
    assert stamps.read_text().split() == [f"{i},{t}" for i, t in enumerate(times)]
    assert np.median(np.diff(times)) * 1e-9 == pytest.approx(0.05, abs=0.01)
    assert [i.header for i in infos] == [i.header for i in images]
    assert not any(infos[0].k), "nothing is known of the lens"


def test_loop_and_duration_and_field_of_view(start: Any, peer: Any, pictures: Path) -> None:
    images, infos, program = collect(
        start, peer, pictures, rate_hz=50.0, loop=True, duration_s=0.6, fov_deg=90.0
    )
    assert program.process.returncode == 0
    assert 20 <= len(images) <= 31
    assert infos[0].k[0] == pytest.approx(32.0)  # 64 / 2 / tan(45 degrees)


def test_a_calibration_file_becomes_camera_info(
    start: Any, peer: Any, pictures: Path, tmp_path: Path
) -> None:
    file = tmp_path / "front.yaml"
    file.write_text(CALIBRATION)
    _, infos, _ = collect(start, peer, pictures, rate_hz=50.0, calibration=str(file))
    assert (infos[0].k[0], infos[0].k[4], infos[0].k[2]) == (60.0, 61.0, 31.5)
    assert list(infos[0].d) == [0.1, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [("- a list", "camera_calibration"), (CALIBRATION.replace("plumb_bob", "fisheye"), "fisheye"),
     (CALIBRATION.replace("60.0", "0.0"), "focal lengths")],
)  # fmt: skip
def test_a_bad_calibration_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(CalibrationError, match=words):
        load_calibration(str(file))


def test_a_source_that_does_not_open_ends_with_a_sentence(start: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    for source in (broken, tmp_path / "nothing.mp4"):
        program = start(graph.camera(str(source)))
        assert program.process.wait(30) == 1
        assert source.name in program.text and "expected" in program.text
        assert "Traceback" not in program.text


def test_sigint_while_it_waits(start: Any, peer: Any, pictures: Path) -> None:
    program = start(graph.camera(str(pictures), wait_for_subscribers=3))
    assert peer.spin_until(lambda: "Hz on" in program.text)
    assert program.end() == 0
    assert "Traceback" not in program.text


class LiveSource:
    """Sixty pictures as fast as they are taken, like a camera that is then unplugged."""

    name, rate_hz, count, live = "live", 30.0, None, True

    def __iter__(self) -> Iterator[np.ndarray]:
        for number in range(60):
            yield np.full((2, 2, 3), number, np.uint8)


def test_a_live_camera_gives_its_newest_picture_and_its_end() -> None:
    stamps = itertools.count()
    reader = Reader(LiveSource(), loop=False, now=lambda: next(stamps))
    reader.start()
    time.sleep(0.3)  # nobody takes anything
    pixels, stamp = reader.next()
    assert pixels[0, 0, 0] == stamp == 59
    time.sleep(0.1)
    assert reader.next() is None
    reader.stop()
