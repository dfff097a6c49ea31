"""What a camera's own turning does to pictures and to what is remembered of people.

``new_from_old`` (3, 3) maps points in the camera's old axes to its new ones; a camera that only
turns moves pixels by K R K^-1, whatever their distance. A camera that also moves by T leaves a
parallax of about f |T| / Z pixels, which no rotation undoes.

Source: Hartley and Zisserman, Multiple View Geometry, 2004, section 8.4 (rotating cameras).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.imu import Imu
from pose_ros.core.refine_stream import StreamRefiner
from pose_ros.core.resize import resize
from pose_ros.core.values import ByteArray

Floats = npt.NDArray[np.float64]

#: More parallax than this and a turn alone does not align a window.
MAX_PARALLAX_PX = 3.0
#: Turns smaller than this move no pixel noticeably.
STILL_RAD = 1e-5


def homography(camera: PinholeCamera, new_from_old: Floats) -> Floats:
    """K R K^-1 (3, 3): old pixels to new ones, without the lens' distortion."""
    return np.asarray(camera.matrix @ new_from_old @ np.linalg.inv(camera.matrix))


def turn_pixels(
    camera: PinholeCamera, new_from_old: Floats, xy_px: npt.NDArray[np.floating]
) -> Floats:
    """Where old pixels (..., 2) are in the new image, lens included; NaN behind the camera."""
    rays = np.einsum("ab,...b->...a", new_from_old, camera.rays(xy_px))
    return camera.project(rays)


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
    if camera.distortion and any(camera.distortion):
        xs, ys = np.meshgrid(np.arange(left, left + size[0]), np.arange(top, top + size[1]))
        key = np.stack([xs, ys], axis=-1).astype(np.float64)
        source = turn_pixels(camera, key_from_frame.T, key).astype(np.float32)
        none = np.zeros(0, np.float32)
        box = cv2.remap(rgb, source, none, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    else:
        shift = np.array([[1.0, 0.0, -left], [0.0, 1.0, -top], [0.0, 0.0, 1.0]])
        matrix = shift @ homography(camera, key_from_frame)
        box = cv2.warpPerspective(rgb, matrix, size, flags=cv2.INTER_LINEAR)
    resize(box, (out.shape[1], out.shape[0]), out)


def parallax_px(camera: PinholeCamera, shift_m: Floats, depth_m: float) -> float:
    """Largest error of a pure turn for a camera that moved by ``shift_m`` (3,) as well."""
    return float(max(camera.fx_px, camera.fy_px) * np.linalg.norm(shift_m) / depth_m)


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


class EgoMotion:
    """How the camera turned between images, by the sensor on it.

    ``imu`` speaks in optical axes (``Imu(axes=R_camera_from_sensor)``). ``offset_s`` is added to
    an image's stamp to get the sensor's time for it.
    """

    def __init__(self, imu: Imu, offset_s: float = 0.0) -> None:
        """Follow ``imu``."""
        self.imu, self.offset_s = imu, offset_s
        self.counts = {"compensated": 0, "missing": 0}
        self._last_ns: int | None = None

    def reset(self) -> None:
        """Forget the last image."""
        self._last_ns = None

    def between(self, old_ns: int, new_ns: int) -> Floats | None:
        """``new_from_old`` of two image stamps; None when the sensor cannot tell."""
        shift = round(self.offset_s * 1e9)
        return self.imu.turn(old_ns + shift, new_ns + shift)

    def up(self, stamp_ns: int) -> Floats | None:
        """Up (3,) in optical axes when an image was taken; None when the sensor cannot tell."""
        return self.imu.up(stamp_ns + round(self.offset_s * 1e9))

    def world(self, stamp_ns: int) -> Floats | None:
        """World (z up, arbitrary heading) from camera (3, 3); None when the sensor cannot tell."""
        return self.imu.world(stamp_ns + round(self.offset_s * 1e9))

    def step(self, stamp_ns: int) -> Floats | None:
        """``new_from_old`` since the last call; None for the first and when unknown."""
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if last_ns is None or last_ns == stamp_ns:
            return None
        turn = self.between(last_ns, stamp_ns)
        self.counts["missing" if turn is None else "compensated"] += 1
        return turn

    def carry(
        self, stamp_ns: int, camera: PinholeCamera | None,
        flat: StreamRefiner | None = None, deep: StreamRefiner | None = None,
    ) -> bool:  # fmt: skip
        """Turn what refiners remember into the new image; call once per image, before `update`.

        ``flat`` holds pixels (and needs the ``camera``), ``deep`` metres. False when nothing was
        done: the sensor is silent or doubted, or the camera did not move.
        """
        turn = self.step(stamp_ns)
        if turn is None or abs(turn - np.eye(3)).max() < STILL_RAD:
            return False
        if flat is not None and camera is not None:
            flat.transform(homography(camera, turn))
        if deep is not None:
            deep.transform(turn)
        return True
