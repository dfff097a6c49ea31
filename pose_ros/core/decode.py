"""Image buffers to RGB: every size, step and encoding checked before a pixel is read.

``cv_bridge`` is not used here: its PyPI build silently returns 16-bit images as 8-bit ones and
fails on others; a test holds this module against it wherever it is right. Every colour encoding
that ``cv_bridge`` can convert is known here, so there is nothing to hand on to it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from pose_ros.core.values import ByteArray
from pose_ros.errors import ShapeError

# encoding -> (bytes per channel, channels, OpenCV conversion of the 8-bit image to RGB)
_GRAY, _KEEP = cv2.COLOR_GRAY2RGB, None
_LAYOUT: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, _KEEP),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "8UC3": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "8UC4": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, _GRAY),
    "8UC1": (1, 1, _GRAY),
    "mono16": (2, 1, _GRAY),
    "rgb16": (2, 3, _KEEP),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "rgba16": (2, 4, cv2.COLOR_RGBA2RGB),
    "bgra16": (2, 4, cv2.COLOR_BGRA2RGB),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
}
# ROS names a Bayer pattern by its first two rows, OpenCV by the 2 x 2 block one pixel in.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
# A plane of brightness, then one of interleaved colour: OpenCV's conversion, and how many bytes of
# colour follow each byte of brightness. OpenCV has none for nv24: every second colour is taken.
_PLANAR = {
    "nv12": (cv2.COLOR_YUV2RGB_NV12, 0.5),
    "nv21": (cv2.COLOR_YUV2RGB_NV21, 0.5),
    "nv24": (cv2.COLOR_YUV2RGB_NV12, 2.0),
}
for _pattern, _code in _BAYER.items():
    _LAYOUT[f"bayer_{_pattern}8"] = (1, 1, _code)
    _LAYOUT[f"bayer_{_pattern}16"] = (2, 1, _code)


def decode_image(
    data: Any,
    *,
    width: int,
    height: int,
    encoding: str,
    step: int,
    is_bigendian: bool = False,
) -> ByteArray:
    """RGB image (H, W, 3) uint8 of a raw buffer in a ``sensor_msgs/Image`` encoding.

    ``step`` is the length of a row in bytes, padding included. 16-bit channels keep their upper
    eight bits. An ``rgb8`` buffer without padding is returned as a view, without a copy.

    Raises:
        ShapeError: for an unknown encoding, an empty or odd size, a wrong step, or a buffer
            that is too short or too long for the size.

    """
    if encoding in _PLANAR:
        return _planar(np.frombuffer(data, np.uint8), width, height, encoding, step)
    if encoding not in _LAYOUT:
        raise ShapeError(_unknown(encoding))
    depth, channels, conversion = _LAYOUT[encoding]
    row = width * channels * depth
    _check_size(width, height, encoding, step, row)
    buffer = np.frombuffer(data, np.uint8)
    _check_bytes(buffer, step * height, height, step)
    rows = buffer.reshape(height, step)[:, :row]
    if depth == 2:
        rows = rows.reshape(height, -1, 2)[:, :, 0 if is_bigendian else 1]
    pixels = (
        rows.reshape(height, width) if channels == 1 else rows.reshape(height, width, channels)
    )
    return pixels if conversion is None else cv2.cvtColor(np.ascontiguousarray(pixels), conversion)


def decode_compressed(data: Any, fmt: str = "") -> ByteArray:
    """RGB image (H, W, 3) uint8 of a JPEG or PNG file in memory (``CompressedImage``).

    ``fmt`` is the message's format text, used in errors only; the bytes decide.

    Raises:
        ShapeError: for an empty, truncated or unknown file, or one of 16-bit or single-channel
            float depth ("compressedDepth").

    """
    if "compressedDepth" in fmt:
        raise ShapeError(f"compressed image: expected a colour picture, got '{fmt}'")
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size == 0:
        raise ShapeError("compressed image: expected JPEG or PNG bytes, got none")
    end = buffer[-4096:].tobytes().rstrip(b"\0")[-64:]  # some cameras pad their buffers
    if buffer[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in end:
        raise ShapeError(
            f"compressed image: the JPEG ends before its end mark after {buffer.size} bytes: "
            "it was truncated on the way"
        )
    if buffer[:4].tobytes() == b"\x89PNG":
        _check_png(buffer)
    try:
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ShapeError(f"compressed image: OpenCV refuses it: {error.err}") from error
    if bgr is None:
        raise ShapeError(
            f"compressed image: expected JPEG or PNG, got {buffer.size} bytes of format '{fmt}' "
            f"that start with {buffer[:4].tobytes().hex(' ')}"
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _check_png(buffer: ByteArray) -> None:
    """Raise a ShapeError for a PNG that is cut off or has 16 bits per channel.

    OpenCV would fill the one with black, and take the upper half of the other's numbers.
    """
    if buffer.size < 25 or b"IEND" not in buffer[-4096:].tobytes():
        raise ShapeError(
            f"compressed image: the PNG ends before its end mark after {buffer.size} bytes: "
            "it was truncated on the way"
        )
    bits = int(buffer[24])  # per channel, in the header that must come first
    if bits > 8:
        raise ShapeError(
            f"compressed image: expected a PNG of 8 bits per channel, got {bits}; is this a depth "
            "image? remap 'image' to the colour camera"
        )


def _planar(buffer: ByteArray, width: int, height: int, encoding: str, step: int) -> ByteArray:
    """RGB of brightness followed by colour; ``step`` is that of a row of brightness."""
    conversion, share = _PLANAR[encoding]
    _check_size(width, height, encoding, step, width)
    if height % 2:
        raise ShapeError(f"image height: expected an even number for {encoding}, got {height}")
    _check_bytes(buffer, round(step * height * (1 + share)), height, step)
    light = buffer[: step * height].reshape(height, step)[:, :width]
    colour = buffer[step * height :]
    if share > 1:
        pairs = colour.reshape(height, 2 * step)[::2, : 2 * width].reshape(height // 2, width, 2)
        colour = pairs[:, ::2].reshape(height // 2, width)
    else:
        colour = colour.reshape(height // 2, step)[:, :width]
    return cv2.cvtColor(np.concatenate([light, colour]), conversion)


def _check_bytes(buffer: ByteArray, wanted: int, height: int, step: int) -> None:
    if buffer.size != wanted:
        raise ShapeError(
            f"image data: expected {wanted} bytes for {height} rows of step {step}, "
            f"got {buffer.size}"
        )


def _check_size(width: int, height: int, encoding: str, step: int, row: int) -> None:
    if width <= 0 or height <= 0:
        raise ShapeError(f"image size: expected at least 1 x 1, got {width} x {height}")
    halved = encoding in _PLANAR or encoding in ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
    if halved and width % 2:
        raise ShapeError(f"image width: expected an even number for {encoding}, got {width}")
    if step < row:
        raise ShapeError(
            f"image step: expected at least {row} bytes for {width} pixels of {encoding}, "
            f"got {step}"
        )


def _unknown(encoding: str) -> str:
    hint = ""
    if encoding in ("16UC1", "32FC1", "16SC1"):
        hint = "; this looks like a depth image: remap 'image' to the colour camera"
    known = ", ".join(sorted([*_LAYOUT, *_PLANAR]))
    return f"image encoding '{encoding}' is not known; known: {known}{hint}"
