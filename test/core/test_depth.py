"""Depth buffers and compressedDepth payloads to metres."""

import itertools
import struct

import cv2
import numpy as np
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.depth import (
    decode_compressed_depth,
    decode_depth,
    depth_image,
    parse_extrinsics,
)
from pose_ros.errors import CalibrationError, ShapeError

MM = np.array([[0, 1000, 65535], [1, 250, 8000]], np.uint16)
METRES = np.array([[np.nan, 1.0, 65.535], [0.001, 0.25, 8.0]], np.float32)


def raw(pixels: np.ndarray, encoding: str, **other: object) -> np.ndarray:
    height, width = pixels.shape
    options = {"width": width, "height": height, "step": width * pixels.itemsize} | other
    return decode_depth(pixels.tobytes(), encoding=encoding, **options)


def packed(picture: np.ndarray, a: float = 0.0, b: float = 0.0) -> bytes:
    return struct.pack("<iff", 0, a, b) + cv2.imencode(".png", picture)[1].tobytes()


def nibbles(numbers: list[int]) -> bytes:
    """Variable-length numbers by the definition in the paper, one at a time."""
    out = []
    for number in numbers:
        while True:
            out.append((number & 7) | (8 if number >> 3 else 0))
            number >>= 3
            if not number:
                break
    out += [0] * (-len(out) % 8)
    words = [
        sum(n << 28 - 4 * k for k, n in enumerate(out[i : i + 8])) for i in range(0, len(out), 8)
    ]
    return struct.pack(f"<{len(words)}I", *words)


def rvl(picture: np.ndarray) -> bytes:
    numbers, before = [], 0
    runs = [
        (empty, list(run))
        for empty, run in itertools.groupby(picture.ravel().tolist(), lambda v: v == 0)
    ]
    if runs and not runs[0][0]:
        numbers.append(0)
    for empty, run in runs:
        numbers.append(len(run))
        if not empty:
            for value in run:
                difference = value - before
                numbers.append(2 * difference if difference >= 0 else -2 * difference - 1)
                before = value
    if runs and runs[-1][0]:
        numbers.append(0)
    height, width = picture.shape
    return struct.pack("<iffII", 0, 0.0, 0.0, width, height) + nibbles(numbers)


def test_millimetres_and_metres_say_the_same() -> None:
    np.testing.assert_allclose(raw(MM, "16UC1"), METRES, rtol=1e-6)
    np.testing.assert_array_equal(raw(METRES, "32FC1"), METRES)


def test_big_endian_and_padded_rows() -> None:
    np.testing.assert_allclose(raw(MM.byteswap(), "16UC1", is_bigendian=True), METRES, rtol=1e-6)
    padded = np.column_stack([MM, np.full((2, 2), 777, np.uint16)])
    np.testing.assert_allclose(raw(padded, "16UC1", width=3, step=10), METRES, rtol=1e-6)


def test_what_was_not_measured_is_nan() -> None:
    holes = np.array([[0.0, -1.0, np.inf, -np.inf, np.nan, 2.0]], np.float32)
    np.testing.assert_array_equal(np.isfinite(raw(holes, "32FC1")), [[0, 0, 0, 0, 0, 1]])


def test_the_buffer_of_a_message_is_not_written_to() -> None:
    data = np.zeros((2, 2), np.float32)
    decode_depth(data.tobytes(), width=2, height=2, encoding="32FC1", step=8)
    assert (data == 0).all()


@pytest.mark.parametrize(
    ("encoding", "changes", "words"),
    [
        ("rgb8", {}, "looks like a colour image: remap 'depth'"),
        ("64FC1", {}, "'64FC1' is not known; known: 16UC1"),
        ("16UC1", {"step": 4}, "expected at least 6 bytes"),
        ("16UC1", {"step": 7}, "a multiple of 2"),
        ("16UC1", {"height": 3}, "expected 18 bytes for 3 rows of step 6, got 12"),
        ("16UC1", {"width": 0}, "at least 1 x 1, got 0 x 2"),
    ],
)
def test_raw_buffers_that_are_refused(encoding: str, changes: dict, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        raw(MM, encoding, **changes)


@pytest.mark.parametrize("fmt", ["16UC1; compressedDepth png", "16UC1; compressedDepth", "16UC1"])
def test_png_of_millimetres(fmt: str) -> None:
    np.testing.assert_allclose(decode_compressed_depth(packed(MM), fmt), METRES, rtol=1e-6)


def test_png_of_metres_by_hand() -> None:
    # a = 100 * 101 = 10100, b = 1 - a / 10 = -1009: 2 m is stored as 10100 / 2 - 1009 = 4041
    stored = np.array([[4041, 0]], np.uint16)
    metres = decode_compressed_depth(
        packed(stored, 10100.0, -1009.0), "32FC1; compressedDepth png"
    )
    np.testing.assert_allclose(metres, [[2.0, np.nan]], rtol=1e-6)


def test_quantised_metres_come_back() -> None:
    metres = np.random.default_rng(0).uniform(0.3, 9.9, (20, 30)).astype(np.float32)
    a, b = 100.0 * 101.0, 1.0 - 100.0 * 101.0 / 10.0
    stored = (a / metres + b).astype(np.uint16)
    back = decode_compressed_depth(packed(stored, a, b), "32FC1; compressedDepth png")
    assert np.abs(back - metres).max() < 10.0**2 / a * 1.01  # a step is z^2 / a


@pytest.mark.parametrize("first", [0, 700])
def test_rvl_of_runs_and_steps(first: int) -> None:
    rng = np.random.default_rng(1)
    picture = rng.integers(0, 65536, (37, 53)).astype(np.uint16)
    picture[rng.random(picture.shape) < 0.4] = 0
    picture[5:9] = 0
    picture[0, 0] = first
    metres = decode_compressed_depth(rvl(picture), "16UC1; compressedDepth rvl")
    wanted = np.where(picture > 0, picture * np.float32(0.001), np.nan)
    np.testing.assert_allclose(metres, wanted, rtol=1e-6)


def test_rvl_of_nothing_but_holes() -> None:
    metres = decode_compressed_depth(
        rvl(np.zeros((4, 6), np.uint16)), "16UC1; compressedDepth rvl"
    )
    assert metres.shape == (4, 6) and np.isnan(metres).all()


WHOLE = packed(MM)


@pytest.mark.parametrize(
    ("data", "fmt", "words"),
    [
        (WHOLE, "16UC1; jpeg compressed bgr8", "expected 'compressedDepth'"),
        (WHOLE, "bgr8; compressedDepth png", "remap 'depth'"),
        (WHOLE[:10], "16UC1; compressedDepth png", "header of 12 bytes"),
        (WHOLE[:-20], "16UC1; compressedDepth png", "a whole PNG"),
        (WHOLE[12:], "16UC1; compressedDepth png", "a whole PNG"),
        (packed((MM >> 8).astype(np.uint8)), "16UC1; compressedDepth png", "16-bit grey PNG"),
        (WHOLE, "32FC1; compressedDepth png", "quantisation a > 0"),
        (rvl(MM)[:-5], "16UC1; compressedDepth rvl", "whole 4-byte words"),
        (rvl(MM)[:-4], "16UC1; compressedDepth rvl", "RVL"),
        (struct.pack("<iffIII", 0, 0, 0, 9999, 9999, 0), "16UC1; compressedDepth rvl", "damaged"),
    ],
)
def test_payloads_that_are_refused(data: bytes, fmt: str, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        decode_compressed_depth(data, fmt)


def test_a_depth_image_knows_its_size_and_its_place() -> None:
    camera = PinholeCamera(3, 2, 10.0, 10.0, 1.0, 0.5)
    assert depth_image(METRES, 5, camera).rgb_from_depth is None
    moved = np.eye(4)
    moved[0, 3] = 0.05
    assert depth_image(METRES, 5, camera, moved).rgb_from_depth[0, 3] == 0.05
    with pytest.raises(ShapeError, match=r"expected shape \(2, 3\)"):
        depth_image(METRES[:, :2].copy(), 5, camera)
    for wrong in (np.zeros((4, 4)), np.diag([1, 1, -1, 1.0]), np.eye(3)):
        with pytest.raises(CalibrationError, match="rgb_from_depth: expected"):
            depth_image(METRES, 5, camera, wrong)


def test_extrinsics_of_a_parameter() -> None:
    assert parse_extrinsics("") is None and parse_extrinsics("  ") is None
    np.testing.assert_array_equal(parse_extrinsics("identity"), np.eye(4))
    pose = parse_extrinsics("0.05, 0.01, -0.002, 0, 0, 0.7071068, 0.7071068")
    assert pose is not None
    np.testing.assert_allclose(pose @ [1, 0, 2, 1], [0.05, 1.01, 1.998, 1], atol=1e-6)
    np.testing.assert_array_equal(
        pose, parse_extrinsics("0.05 0.01 -0.002 0 0 0.7071068 0.7071068")
    )


@pytest.mark.parametrize(
    "text", ["aligned", "0 0 0", "0 0 0 0 0 0", "0 0 0 1 0 0 0 1", "0 0 0 0 0 0 one"]
)
def test_extrinsics_that_are_not_seven_numbers(text: str) -> None:
    with pytest.raises(CalibrationError, match="expected 'x y z qx qy qz qw'"):
        parse_extrinsics(text)


@pytest.mark.parametrize(
    "text", ["0 0 0 0 0 0 0", "nan 0 0 0 0 0 1", "0 0 0 1 1 0 0", "0 0 inf 0 0 0 1"]
)
def test_extrinsics_that_are_no_motion(text: str) -> None:
    with pytest.raises(CalibrationError, match="a quaternion x y z w of length 1"):
        parse_extrinsics(text)
