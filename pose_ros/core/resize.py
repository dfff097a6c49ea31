"""Resizing that neither aliases nor costs much."""

from __future__ import annotations

import cv2

from pose_ros.core.values import ByteArray


def resize(
    image: ByteArray, size_wh_px: tuple[int, int], out: ByteArray | None = None
) -> ByteArray:
    """Image (H, W, 3) at ``size_wh_px``, into ``out`` if given.

    Halved by averaging until it is less than twice the size, then bilinear: a detail smaller than
    an output pixel does not flicker, and it is several times faster than ``INTER_AREA`` in one go.
    An odd last row or column is left out of a halving, at most a quarter of an output pixel.
    """
    width, height = size_wh_px
    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        even = image[: half[1] * 2, : half[0] * 2]
        image = cv2.resize(even, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, size_wh_px, dst=out, interpolation=cv2.INTER_LINEAR)
