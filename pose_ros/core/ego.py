"""What a camera's own turning does to pictures and to what is remembered of people.

``new_from_old`` (3, 3) maps points in the camera's old axes to its new ones; a camera that only
turns moves pixels by K R K^-1, whatever their distance. A camera that also moves by T leaves a
parallax of about f |T| / Z pixels, which no rotation undoes.

Source: Hartley and Zisserman, Multiple View Geometry, 2004, section 8.4 (rotating cameras).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.imu import Imu
from pose_ros.core.refine_memory import warp
from pose_ros.core.resize import resize
from pose_ros.core.so3 import exp_so3, log_so3
from pose_ros.core.values import ByteArray, FloatArray, Frame

Floats = npt.NDArray[np.float64]

#: Turns smaller than this move no pixel noticeably.
STILL_RAD = 1e-5
#: Pictures that a turn moves by less are cut as they are.
LEAST_PX = 0.25
#: Larger turns leave nothing of what was seen, and a homography folds over.
LARGEST_RAD = 0.7
#: A box of more image sizes than this is turned at the size of the crop.
BORDER_MAX = 4
#: Pixels between those whose place in another image is computed exactly.
GRID = 16


class Movable(Protocol):
    """What remembers places, and can move them into a new frame."""

    def transform(self, matrix: Floats, /) -> None:
        """Move everything remembered by a matrix (3, 3)."""


def homography(camera: PinholeCamera, new_from_old: Floats) -> Floats:
    """K R K^-1 (3, 3): old pixels to new ones, without the lens' distortion."""
    return np.asarray(camera.matrix @ new_from_old @ np.linalg.inv(camera.matrix))


def turn_pixels(
    camera: PinholeCamera, new_from_old: Floats, xy_px: npt.NDArray[np.floating]
) -> Floats:
    """Where old pixels (..., 2) are in the new image, lens included; NaN behind the camera."""
    rays = np.einsum("ab,...b->...a", new_from_old, camera.rays(xy_px))
    return camera.project(rays)


def turn_boxes(camera: PinholeCamera, new_from_old: Floats, xyxy_px: FloatArray) -> FloatArray:
    """Boxes (P, 4) in the new image: their centres move, their sizes grow as the lens says."""
    centre = (xyxy_px[:, :2] + xyxy_px[:, 2:]) / 2.0
    moved, slope = warp(homography(camera, new_from_old), centre.astype(np.float64))
    grow = np.sqrt(np.abs(np.linalg.det(slope)))[:, None]
    half = grow * (xyxy_px[:, 2:] - xyxy_px[:, :2]) / 2.0
    return np.concatenate([moved - half, moved + half], axis=1).astype(np.float32)


def moved_px(camera: PinholeCamera, turn: Floats) -> float:
    """How far a turn moves pixels, about: the focal length or half the diagonal per radian."""
    radius = math.hypot(camera.width_px, camera.height_px) / 2.0
    return max(camera.fx_px, radius) * float(np.linalg.norm(log_so3(turn)))


def cut_turned(
    rgb: ByteArray, camera: PinholeCamera, key_from_frame: Floats,
    edges_px: npt.NDArray[np.floating], out: ByteArray,
) -> None:  # fmt: skip
    """Resize the box of the key frame, as this frame ``rgb`` shows it, into ``out`` (h, w, 3).

    ``edges_px`` (left, top, right, bottom) are whole pixel edges in the key frame, as for
    `pose_ros.core.crop.cut`; black outside the image. Without a turn the result is the same.
    """
    left, top, right, bottom = (int(edge) for edge in edges_px)
    size = max(right - left, 1), max(bottom - top, 1)
    if max(size) > BORDER_MAX * max(camera.width_px, camera.height_px):
        small = np.array([[out.shape[1] / size[0], 0.0, 0.0], [0.0, out.shape[0] / size[1], 0.0],
                          [0.0, 0.0, 1.0]])  # fmt: skip
        edge = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
        corner = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
        crop = np.linalg.inv(edge) @ small @ edge @ corner @ homography(camera, key_from_frame)
        out[:] = cv2.warpPerspective(rgb, crop, out.shape[1::-1], flags=cv2.INTER_LINEAR)
        return
    if camera.distortion and any(camera.distortion):
        source = _lookup(camera, key_from_frame.T, (left, top), size)
        none = np.zeros(0, np.float32)
        box = cv2.remap(rgb, source, none, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    else:
        shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
        matrix = shift @ homography(camera, key_from_frame)
        box = cv2.warpPerspective(rgb, matrix, size, flags=cv2.INTER_LINEAR)
    resize(box, (out.shape[1], out.shape[0]), out)


def _lookup(
    camera: PinholeCamera, frame_from_key: Floats, corner: tuple[int, int], size: tuple[int, int]
) -> FloatArray:
    """(h, w, 2) where the frame shows the pixels of a box of the key frame, lens included.

    Exact at every `GRID`-th pixel, one row and column of which lie outside the box, and linear
    between: undoing a lens is slow.
    """
    wide, tall = (math.ceil(length / GRID) + 2 for length in size)
    xs = corner[0] + (np.arange(wide) - 0.5) * GRID - 0.5
    ys = corner[1] + (np.arange(tall) - 0.5) * GRID - 0.5
    exact = turn_pixels(camera, frame_from_key, np.stack(np.meshgrid(xs, ys), axis=-1))
    whole = cv2.resize(
        exact.astype(np.float32), (wide * GRID, tall * GRID), interpolation=cv2.INTER_LINEAR
    )
    return np.ascontiguousarray(whole[GRID : GRID + size[1], GRID : GRID + size[0]])


def level_from_camera(up: Floats) -> Floats:
    """Rotation (3, 3) into a frame with z up and x where the camera looks along the ground.

    ``up`` (3,) is the unit vector against gravity in optical axes. A camera that looks straight
    up or down has no such heading: x is then where the image's upper edge points.
    """
    z = np.asarray(up, np.float64) / np.linalg.norm(up)
    ahead = np.array([0.0, 0.0, 1.0])
    if abs(ahead @ z) > 0.999:
        ahead = np.array([0.0, -1.0, 0.0])
    x = ahead - (ahead @ z) * z
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z])


def roll_rad(camera: PinholeCamera, up: Floats, xy_px: npt.NDArray[np.floating]) -> Floats:
    """Angle (...,) by which "up" at pixels (..., 2) leans to the right of the image's -y.

    Rotate the content of a crop by minus this angle to see people upright; NaN where up points
    along the ray.
    """
    rays = camera.rays(xy_px)
    x = camera.fx_px * (up[0] - rays[..., 0] * up[2])
    y = camera.fy_px * (up[1] - rays[..., 1] * up[2])
    lean = np.arctan2(x, -y)
    return np.where(np.hypot(x, y) > 1e-6 * camera.fx_px, lean, np.nan)


class StillCamera:
    """The orientation of a camera that never turns: fixed to a wall, level but for its tilt."""

    def __init__(self, tilt_rad: float = 0.0) -> None:
        """Look down by ``tilt_rad``; the image's upper edge is level."""
        level = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        self._world = np.asarray(level @ exp_so3(np.array([-tilt_rad, 0.0, 0.0])))

    def world(self, stamp_ns: int) -> Floats | None:
        """World (z up, x ahead) from camera (3, 3), at any time."""
        return self._world

    def up(self, stamp_ns: int) -> Floats | None:
        """Up (3,) in optical axes, at any time."""
        return self._world[2].copy()


class EgoMotion:
    """How the camera turned between images, by the sensor on it.

    ``imu`` speaks in optical axes (``Imu(axes=R_camera_from_sensor)``). ``offset_s`` is added to
    an image's stamp to get the sensor's time for it. With a ``check`` nothing is turned before
    the pictures agreed with the sensor, and when they do not any more.
    """

    def __init__(self, imu: Imu, offset_s: float = 0.0, check: EgoCheck | None = None) -> None:
        """Follow ``imu``."""
        self.imu, self.offset_s, self.check = imu, offset_s, check
        self.counts = {"compensated": 0, "missing": 0, "doubted": 0}
        self._last_ns: int | None = None

    @property
    def trusted(self) -> bool:
        """Whether turns are applied: always without a check."""
        return self.check is None or self.check.trusted

    def reset(self) -> None:
        """Forget the last image; what is thought of the sensor stays."""
        self._last_ns = None
        if self.check is not None:
            self.check.reset()

    def between(self, old_ns: int, new_ns: int) -> Floats | None:
        """``new_from_old`` of two image stamps; None when the sensor cannot tell."""
        shift = round(self.offset_s * 1e9)
        return self.imu.turn(old_ns + shift, new_ns + shift)

    def view(self, camera: PinholeCamera | None, old_ns: int, new_ns: int) -> Floats | None:
        """``new_from_old`` for pictures; None: leave them as they are.

        That is so for a camera without calibration, a sensor that cannot tell or is doubted, and
        turns that move nothing by ``LEAST_PX`` or are too large.
        """
        if camera is None or old_ns == new_ns or not self.trusted:
            return None
        turn = self.between(old_ns, new_ns)
        if turn is None or moved_px(camera, turn) < LEAST_PX or _too_large(turn):
            return None
        return turn

    def up(self, stamp_ns: int) -> Floats | None:
        """Up (3,) in optical axes when an image was taken; None when the sensor cannot tell."""
        return self.imu.up(stamp_ns + round(self.offset_s * 1e9))

    def world(self, stamp_ns: int) -> Floats | None:
        """World (z up, arbitrary heading) from camera (3, 3); None when the sensor cannot tell."""
        return self.imu.world(stamp_ns + round(self.offset_s * 1e9))

    def look(self, frame: Frame, people_px: FloatArray) -> None:
        """Compare the sensor with the pictures; ``people_px`` (P, 4) are left out of these."""
        if self.check is not None and frame.camera is not None:
            self.check.look(frame, self.between, people_px)

    def step(self, stamp_ns: int) -> Floats | None:
        """``new_from_old`` since the last call; None for the first and when unknown."""
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if last_ns is None or last_ns == stamp_ns:
            return None
        turn = self.between(last_ns, stamp_ns)
        if turn is None or _too_large(turn):
            self.counts["missing"] += 1
            return None
        self.counts["compensated" if self.trusted else "doubted"] += 1
        return turn if self.trusted else None

    def carry(
        self, stamp_ns: int, camera: PinholeCamera | None,
        flat: Iterable[Movable] = (), deep: Iterable[Movable] = (),
    ) -> bool:  # fmt: skip
        """Turn what is remembered of people into the new image; once per image, before its use.

        ``flat`` hold pixels (and need the ``camera``), ``deep`` metres or rays. False when
        nothing was done: the sensor is silent or doubted, or the camera did not move.
        """
        turn = self.step(stamp_ns)
        if turn is None or abs(turn - np.eye(3)).max() < STILL_RAD:
            return False
        if camera is not None:
            matrix = homography(camera, turn)
            for memory in flat:
                memory.transform(matrix)
        for memory in deep:
            memory.transform(turn)
        return True


def _too_large(turn: Floats) -> bool:
    return float(np.trace(turn)) < 1.0 + 2.0 * math.cos(LARGEST_RAD)
