"""Depth buffers to metres: raw images and ``compressedDepth``; NaN where nothing was measured."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.rigid import rotation_of
from pose_ros.core.values import DepthImage, FloatArray
from pose_ros.errors import CalibrationError, ShapeError

#: encoding -> type of a pixel and its unit in metres (REP-118); mono16 is what some drivers write.
_PIXEL: dict[str, tuple[str, float]] = {
    "16UC1": ("u2", 0.001), "mono16": ("u2", 0.001), "32FC1": ("f4", 1.0),
}  # fmt: skip
#: The ConfigHeader before the picture: an enum and two floats, as the C++ struct lies in memory.
_HEADER = struct.Struct("<iff")
_PNG = b"\x89PNG\r\n\x1a\n"
#: RVL needs at least half a byte per run, so a picture of more pixels per byte is damaged.
_MOST_PIXELS_PER_BYTE = 4096


def decode_depth(
    data: Any,
    *,
    width: int,
    height: int,
    encoding: str,
    step: int,
    is_bigendian: bool = False,
) -> FloatArray:
    """Metres (H, W) of a raw ``sensor_msgs/Image`` buffer: 16UC1 in millimetres, 32FC1 in metres.

    ``step`` is the length of a row in bytes, padding included. 0, negative and infinite values
    mean "not measured" and come out as NaN.

    Raises:
        ShapeError: for an encoding that is no depth, an empty size, a wrong step, or a buffer
            that is too short or too long for the size.

    """
    kind, unit = _pixel(encoding)
    size = int(kind[1])
    if width <= 0 or height <= 0:
        raise ShapeError(f"depth size: expected at least 1 x 1, got {width} x {height}")
    if step < width * size or step % size:
        raise ShapeError(
            f"depth step: expected at least {width * size} bytes, a multiple of {size}, for "
            f"{width} pixels of {encoding}, got {step}"
        )
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size != step * height:
        raise ShapeError(
            f"depth data: expected {step * height} bytes for {height} rows of step {step}, "
            f"got {buffer.size}"
        )
    pixels = buffer.view((">" if is_bigendian else "<") + kind).reshape(height, -1)[:, :width]
    return _metres(pixels, unit)


def decode_compressed_depth(data: Any, fmt: str) -> FloatArray:
    """Metres (H, W) of a ``CompressedImage`` of the compressedDepth transport, PNG or RVL.

    ``fmt`` is the message's format text, ``"<encoding>; compressedDepth <png|rvl>"``. The payload
    is a header of 12 bytes (an enum, quantisation ``a`` and ``b``) and the picture; 32FC1 is
    stored as ``q = a / z + b``, so ``z = a / (q - b)``; q = 0 is "not measured".

    Raises:
        ShapeError: for another transport or encoding, or a truncated or damaged payload.

    Source: image_transport_plugins, compressed_depth_image_transport (codec.cpp, rvl_codec.cpp).
    """
    encoding, _, transport = (part.strip() for part in fmt.partition(";"))
    if "compressedDepth" not in transport and transport:
        raise ShapeError(
            f"compressed depth: expected 'compressedDepth' in the format, got '{fmt}'"
        )
    kind, _ = _pixel(encoding)
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size <= _HEADER.size:
        raise ShapeError(
            f"compressed depth: expected a header of {_HEADER.size} bytes and a picture, "
            f"got {buffer.size} bytes"
        )
    _, a, b = _HEADER.unpack(buffer[: _HEADER.size].tobytes())
    payload = buffer[_HEADER.size :]
    stored = _rvl(payload) if transport.endswith("rvl") else _png(payload)
    if kind == "u2":
        return _metres(stored, 0.001)
    if not (np.isfinite([a, b]).all() and a > 0):
        raise ShapeError(f"compressed depth: expected quantisation a > 0, got a = {a}, b = {b}")
    inverse = stored.astype(np.float32) - np.float32(b)
    metres = np.full(stored.shape, np.nan, np.float32)
    known = (stored > 0) & (inverse > 0)
    np.divide(np.float32(a), inverse, out=metres, where=known)
    return metres


def depth_image(
    depth_m: FloatArray,
    stamp_ns: int,
    camera: PinholeCamera,
    rgb_from_depth: npt.NDArray[Any] | None = None,
) -> DepthImage:
    """Put a depth picture with its camera, and where that is: None if it is the colour camera's.

    Raises:
        ShapeError: a picture of another size than its camera says.
        CalibrationError: ``rgb_from_depth`` that is not a rotation and a translation.

    """
    if rgb_from_depth is None:
        return DepthImage(depth_m, stamp_ns, camera)
    pose = np.asarray(rgb_from_depth, np.float64)
    if pose.shape != (4, 4):
        raise CalibrationError(f"rgb_from_depth: expected a 4 x 4 matrix, got {pose.shape}")
    turn = pose[:3, :3]
    rigid = np.isfinite(pose).all() and np.abs(turn @ turn.T - np.eye(3)).max() < 1e-3
    if not (rigid and np.linalg.det(turn) > 0 and (pose[3] == [0, 0, 0, 1]).all()):
        raise CalibrationError(
            f"rgb_from_depth: expected a rotation and a translation in metres, got {pose.tolist()}"
        )
    return DepthImage(depth_m, stamp_ns, camera, pose)


def rigid(
    xyz_m: tuple[float, float, float], xyzw: tuple[float, float, float, float]
) -> npt.NDArray[np.float64]:
    """(4, 4) of a translation in metres and a quaternion x, y, z, w.

    Raises:
        CalibrationError: numbers that are not finite, or a quaternion not of length 1 (to 1 %).

    """
    numbers = np.array([*xyz_m, *xyzw], np.float64)
    if not np.isfinite(numbers).all() or abs(np.linalg.norm(numbers[3:]) - 1.0) > 0.01:
        raise CalibrationError(
            "transform: expected x y z in metres and a quaternion x y z w of length 1, "
            f"got {numbers.tolist()}"
        )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_of(*xyzw), xyz_m
    return pose


def parse_extrinsics(text: str) -> npt.NDArray[np.float64] | None:
    """(4, 4) ``rgb_from_depth`` of a parameter; None for an empty one.

    ``"x y z qx qy qz qw"`` is where the depth camera is in the colour camera's optical frame, in
    metres, and how it is turned; ``"identity"`` means the same place under another frame's name.

    Raises:
        CalibrationError: anything else.

    """
    if not text.strip():
        return None
    if text.strip() == "identity":
        return np.eye(4)
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 7:
        raise CalibrationError(
            f"depth.extrinsics: expected 'x y z qx qy qz qw' (metres, the depth camera in the "
            f"colour camera's optical frame) or 'identity', got '{text}'"
        )
    x, y, z, qx, qy, qz, qw = numbers
    return rigid((x, y, z), (qx, qy, qz, qw))


def _pixel(encoding: str) -> tuple[str, float]:
    if encoding not in _PIXEL:
        hint = ""
        if encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "8UC1", "8UC3"):
            hint = "; this looks like a colour image: remap 'depth' to the depth camera"
        raise ShapeError(
            f"depth encoding '{encoding}' is not known; known: {', '.join(_PIXEL)}{hint}"
        )
    return _PIXEL[encoding]


def _metres(pixels: npt.NDArray[Any], unit: float) -> FloatArray:
    metres = pixels.astype(np.float32)
    if unit != 1.0:
        metres *= np.float32(unit)
    with np.errstate(invalid="ignore"):
        metres[~((metres > 0) & (metres < np.inf))] = np.nan
    return metres


def _png(payload: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """(H, W) uint16 of a 16-bit PNG."""
    if payload[:8].tobytes() != _PNG or b"IEND" not in payload[-16:].tobytes():
        raise ShapeError(
            f"compressed depth: expected a whole PNG after the header, got {payload.size} bytes "
            f"that start with {payload[:4].tobytes().hex(' ')}"
        )
    try:
        picture = cv2.imdecode(payload, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ShapeError(f"compressed depth: OpenCV refuses the PNG: {error.err}") from error
    if picture is None or picture.ndim != 2 or picture.dtype != np.uint16:
        got = "nothing" if picture is None else f"{picture.shape} of {picture.dtype.name}"
        raise ShapeError(f"compressed depth: expected a 16-bit grey PNG, got {got}")
    return picture


def _rvl(payload: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """(H, W) uint16 of run-length, variable-length coded differences.

    Source: Wilson, Fast Lossless Depth Image Compression, ISS 2017.
    """
    if payload.size < 12 or payload.size % 4:
        raise ShapeError(
            f"compressed depth: expected RVL of whole 4-byte words, got {payload.size} bytes"
        )
    width, height = (int(n) for n in payload[:8].view("<u4"))
    pixels = width * height
    if not 0 < pixels <= payload.size * _MOST_PIXELS_PER_BYTE:
        raise ShapeError(
            f"compressed depth: RVL says {width} x {height} pixels in {payload.size} bytes: "
            "it is damaged"
        )
    numbers = _numbers(payload[8:])
    places, at, done = [], 0, 0
    skip = np.zeros(len(numbers), bool)
    while done < pixels:
        if at + 2 > len(numbers):
            raise ShapeError(f"compressed depth: the RVL ends after {done} of {pixels} pixels")
        zeros, filled = int(numbers[at]), int(numbers[at + 1])
        skip[at : at + 2] = True
        places.append((done + zeros, filled))
        done += zeros + filled
        at += 2 + filled
    if done > pixels or at > len(numbers):
        raise ShapeError(f"compressed depth: RVL runs of {done} pixels for {pixels}: damaged")
    coded = numbers[:at][~skip[:at]]
    value = np.cumsum((coded >> 1) ^ -(coded & 1))
    starts, counts = np.array(places, np.int64).T
    first = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    picture = np.zeros(pixels, np.uint16)
    picture[first + np.arange(len(value))] = value.astype(np.uint16)
    return picture.reshape(height, width)


def _numbers(payload: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """All variable-length numbers: 3 bits per nibble, low ones first, the fourth says 'more'."""
    words = payload.view("<u4").astype(np.int64)
    nibbles = ((words[:, None] >> np.arange(28, -1, -4)) & 15).reshape(-1)
    last = np.flatnonzero(nibbles < 8)
    if len(last) == 0:
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    nibbles = nibbles[: last[-1] + 1]
    place = np.arange(len(nibbles)) - np.repeat(first, last - first + 1)
    total: npt.NDArray[np.int64] = np.add.reduceat(
        (nibbles & 7) << np.minimum(3 * place, 60), first
    )
    return total
