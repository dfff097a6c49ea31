"""What a camera's own turning does to pictures and to what is remembered of people.

``new_from_old`` (3, 3) maps points in the camera's old axes to its new ones; a camera that only
turns moves pixels by K R K^-1, whatever their distance. A camera that also moves by T leaves a
parallax of about f |T| / Z pixels, which no rotation undoes.

Source: Hartley and Zisserman, Multiple View Geometry, 2004, section 8.4 (rotating cameras).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.ego_check import EgoCheck
from pose_ros.core.ego_offset import Offset, OffsetEstimator
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
#: Offsets of the clocks that differ by less are the same, and how often one must be said.
SAME_S, AGREED = 0.005, 3
#: Comparisons of pictures, as many as are taken quickly to find the clocks' offset.
EAGER = 60
#: Pixels between those whose place in another image is computed exactly.
GRID = 16
_log = logging.getLogger(__name__)


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
    `pose_ros.core.crop.cut`; black outside the image. Without a turn the result is the same, for
    boxes up to the image's size.
    """
    left, top, right, bottom = (int(edge) for edge in edges_px)
    size = max(right - left, 1), max(bottom - top, 1)
    # A box that is larger than the image is shown smaller: what it costs is bounded.
    shrink = max(max(size) / max(camera.width_px, camera.height_px), 1.0)
    cells = max(round(size[0] / shrink), 1), max(round(size[1] / shrink), 1)
    if camera.distortion and any(camera.distortion):
        source = _lookup(camera, key_from_frame.T, (left, top), size, cells)
        none = np.zeros(0, np.float32)
        box = cv2.remap(rgb, source, none, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    else:
        x, y = cells[0] / size[0], cells[1] / size[1]
        corner = np.array(
            [[x, 0.0, (0.5 - left) * x - 0.5], [0.0, y, (0.5 - top) * y - 0.5], [0.0, 0.0, 1.0]]
        )
        matrix = corner @ homography(camera, key_from_frame)
        box = cv2.warpPerspective(rgb, matrix, cells, flags=cv2.INTER_LINEAR)
    resize(box, (out.shape[1], out.shape[0]), out)


def _lookup(
    camera: PinholeCamera, frame_from_key: Floats, corner: tuple[int, int],
    size: tuple[int, int], cells: tuple[int, int],
) -> FloatArray:  # fmt: skip
    """(h, w, 2) where the frame shows the ``cells`` (w, h) of a box of the key frame, lens too.

    Exact at every `GRID`-th cell, one row and column of which lie outside the box, and linear
    between: undoing a lens is slow. The box has ``size`` pixels, its upper left one at ``corner``.
    """
    wide, tall = (math.ceil(length / GRID) + 2 for length in cells)
    xs = corner[0] + (np.arange(wide) - 0.5) * GRID * size[0] / cells[0] - 0.5
    ys = corner[1] + (np.arange(tall) - 0.5) * GRID * size[1] / cells[1] - 0.5
    exact = turn_pixels(camera, frame_from_key, np.stack(np.meshgrid(xs, ys), axis=-1))
    whole = cv2.resize(
        exact.astype(np.float32), (wide * GRID, tall * GRID), interpolation=cv2.INTER_LINEAR
    )
    return np.ascontiguousarray(whole[GRID : GRID + cells[1], GRID : GRID + cells[0]])


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
    the pictures agreed with the sensor, and when they do not any more. With a ``clock``, which
    needs the check, an ``offset_s`` of 0 is not known yet: it is set when it surely is another.
    """

    def __init__(
        self, imu: Imu, offset_s: float = 0.0, check: EgoCheck | None = None,
        clock: OffsetEstimator | None = None,
    ) -> None:  # fmt: skip
        """Follow ``imu``."""
        self.imu, self.offset_s, self.check, self.clock = imu, offset_s, check, clock
        self.given = offset_s != 0.0
        self.found: Offset | None = None  # what the clock said last
        self._agreed = 0  # sure answers of the clock in a row that say the same
        self._eager = EAGER if clock is not None and offset_s == 0.0 else 0
        self.counts = {"compensated": 0, "missing": 0, "doubted": 0}
        self._last_ns: int | None = None

    @property
    def trusted(self) -> bool:
        """Whether turns are applied: always without a check."""
        return self.check is None or self.check.trusted

    @property
    def contradicted(self) -> bool:
        """Whether the pictures turned otherwise: then its up is as wrong as its turns."""
        check = self.check
        return check is not None and not check.trusted and not math.isnan(check.unexplained)

    def set_axes(self, axes: Floats) -> None:
        """The sensor sits otherwise: axes (3, 3) as of `Imu`; its samples so far are forgotten."""
        self.imu.axes = np.asarray(axes, np.float64)
        self.imu.bias_rad_s = np.zeros(3)
        self.imu.reset()
        if self.check is not None:
            self.check.start_over()

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
        if self.check is None or frame.camera is None:
            return
        about = None if self.clock is None or self.given else self._before
        self.check.eager = self._eager > 0
        turned = self.check.look(frame, self.between, people_px, about)
        if turned is not None and self.clock is not None:
            self._eager -= 1
            self.clock.push(*turned)
            self._set_clock(self.clock.estimate(self.imu))

    def _before(self, old_ns: int, new_ns: int) -> Floats | None:
        """The same as `between` of a while ago, when the sensor's samples end before the image."""
        span = self.imu.span_ns
        if span is None or self.clock is None:
            return None
        late_ns = new_ns + round(self.offset_s * 1e9) - span[1]
        known = 0 < late_ns < self.clock.longest_s * 1e9
        return self.between(old_ns - late_ns, new_ns - late_ns) if known else None

    def _set_clock(self, found: Offset | None) -> None:
        """Take over an offset that was sure several times, if it is another than that in use."""
        before, self.found = self.found, found
        if found is None or not found.sure:
            self._agreed = 0
            return
        same = before is not None and abs(before.seconds - found.seconds) < SAME_S
        self._agreed = self._agreed + 1 if same else 1
        if self.given or self._agreed < AGREED:
            return
        self._eager = 0
        if abs(found.seconds - self.offset_s) < SAME_S:
            return
        _log.info(
            "the camera's sensor stamps %+.3f s off the images (%+.3f s so far): taken over",
            found.seconds, self.offset_s,
        )  # fmt: skip
        self.offset_s = found.seconds
        if self.check is not None:
            self.check.start_over()

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


def believed_up(camera: EgoMotion | StillCamera | None, stamp_ns: int) -> Floats | None:
    """Up (3,) in optical axes; None when nobody tells, or the pictures contradict who does."""
    if camera is None or (isinstance(camera, EgoMotion) and camera.contradicted):
        return None
    return camera.up(stamp_ns)


def _too_large(turn: Floats) -> bool:
    return float(np.trace(turn)) < 1.0 + 2.0 * math.cos(LARGEST_RAD)
