"""Where a ray of the colour camera meets what a depth camera measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.values import DepthImage

Array = npt.NDArray[np.float64]

#: How far behind a measured surface a ray may be found that has just passed through it, metres,
#: beyond its own step: more is the shadow of something in front.
BEHIND_M = 0.04
MAX_STEPS = 256


class Surface:
    """The measured surface of one frame, asked by pixels of the colour image.

    A registered depth image, of the colour image's size or another, is read at the ray's pixel.
    An unregistered one is searched along the ray: its pixels are visited from ``min_m`` to
    ``max_m``, a depth pixel at a time, until the ray passes from in front of the measured surface
    to behind it. A ray that enters the shadow of something nearer to the depth camera has no
    depth.
    """

    def __init__(
        self, depth: DepthImage, camera: PinholeCamera, min_m: float, max_m: float
    ) -> None:
        """Keep the image; ``camera`` is the colour camera, [``min_m``, ``max_m``] its range."""
        self.depth = depth
        self.camera = camera
        self.range_m = (min_m, max_m)
        self.focal_px = float(np.sqrt(camera.fx_px * camera.fy_px))
        self._same = depth.rgb_from_depth is None and depth.camera == camera
        pose = depth.rgb_from_depth
        inverse: Array = np.eye(4) if pose is None else np.linalg.inv(pose).astype(np.float64)
        self._turn, self._shift = inverse[:3, :3], inverse[:3, 3]
        self.registered = depth.rgb_from_depth is None or not self._shift.any()

    def rays(self, xy_px: npt.NDArray[Any]) -> Array:
        """Directions (..., 3) with z = 1 of colour pixels (..., 2)."""
        return rays(self.camera, xy_px)

    def along(
        self, xy_px: npt.NDArray[Any], nearest_m: npt.NDArray[Any], furthest_m: npt.NDArray[Any]
    ) -> Array:
        """Z (N,) in the colour camera of the surface behind colour pixels (N, 2); NaN: unknown.

        Surfaces outside [``nearest_m``, ``furthest_m``], both (N,), are not looked for where the
        depth image is not registered; a registered one is read wherever it is.
        """
        if self._same:
            z = self._read(np.asarray(xy_px, np.float64))
        elif self.registered:
            direction = self.rays(xy_px) @ self._turn.T
            z = self._read(project(self.depth.camera, direction)) / direction[:, 2]
        else:
            z = self._march(self.rays(xy_px), nearest_m, furthest_m)
        with np.errstate(invalid="ignore"):
            return np.where((z >= self.range_m[0]) & (z <= self.range_m[1]), z, np.nan)

    def _read(self, pixel: Array) -> Array:
        """Depth at the nearest pixels (..., 2), NaN outside the image."""
        height, width = self.depth.depth_m.shape
        with np.errstate(invalid="ignore"):
            inside = (pixel[..., 0] > -0.5) & (pixel[..., 0] < width - 0.5)
            inside &= (pixel[..., 1] > -0.5) & (pixel[..., 1] < height - 0.5)
        column, row = (
            np.rint(np.where(inside, pixel[..., i], 0)).astype(np.int64) for i in (0, 1)
        )
        return np.where(inside, self.depth.depth_m[row, column], np.nan).astype(np.float64)

    def _march(self, ray: Array, nearest: Array, furthest: Array) -> Array:
        """First passage of rays (N, 3) through the surface."""
        with np.errstate(invalid="ignore", divide="ignore"):
            start, end = 1.0 / np.maximum(nearest, self.range_m[0]), 1.0 / furthest
            apart = np.linalg.norm(self._shift) * self.depth.camera.fx_px
            pixels = np.nanmax((start - end) * apart, initial=0.0)
            steps = int(min(np.ceil(1.5 * pixels), MAX_STEPS)) + 3
            way = np.linspace(0.0, 1.0, steps)[:, None]
            z = 1.0 / (start + (end - start) * way)  # (S, N)
            behind = self._behind(ray, z)
            passed = behind >= 0
            first = np.argmax(passed, axis=0)
            column = np.arange(z.shape[1])
            thick = z[first, column] - z[np.maximum(first - 1, 0), column]
            lag = behind[first, column]
            hit = passed.any(axis=0) & (first > 0) & (lag <= thick + BEHIND_M)
            guess = np.where(hit, z[first, column] - lag, np.nan)
            for _ in range(2):  # the pixel changes as the point moves
                guess = guess - self._behind(ray, guess)
            left = self._behind(ray, guess)
            return np.where(np.abs(left) <= BEHIND_M, guess, np.nan)

    def _behind(self, ray: Array, z: Array) -> Array:
        """How far (..., N) points on rays (N, 3) at depths (..., N) are behind the surface."""
        point = (z[..., None] * ray) @ self._turn.T + self._shift
        return point[..., 2] - self._read(project(self.depth.camera, point))


def rays(camera: PinholeCamera, xy_px: npt.NDArray[Any]) -> Array:
    """`PinholeCamera.rays`, without OpenCV where there is no distortion."""
    if any(camera.distortion):
        return camera.rays(xy_px)
    out = np.ones((*xy_px.shape[:-1], 3))
    out[..., 0] = (xy_px[..., 0] - camera.cx_px) / camera.fx_px
    out[..., 1] = (xy_px[..., 1] - camera.cy_px) / camera.fy_px
    return out


def project(camera: PinholeCamera, point: Array) -> Array:
    """`PinholeCamera.project`, without OpenCV where there is no distortion."""
    if any(camera.distortion):
        return camera.project(point)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(point[..., 2] > 0, 1.0 / point[..., 2], np.nan)
    out = np.empty((*point.shape[:-1], 2))
    out[..., 0] = point[..., 0] * inverse * camera.fx_px + camera.cx_px
    out[..., 1] = point[..., 1] * inverse * camera.fy_px + camera.cy_px
    return out
