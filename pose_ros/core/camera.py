"""A pinhole camera with OpenCV's plumb-bob distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.errors import CalibrationError

#: Numbers of coefficients that OpenCV's polynomial lenses have; 0: none.
COEFFICIENTS = (0, 4, 5, 8, 12, 14)


@dataclass(frozen=True)
class PinholeCamera:
    """Intrinsics of one image; optical axes x right, y down, z forward.

    Focal lengths and principal point in pixels, integer coordinates at pixel centres;
    ``distortion`` in OpenCV order (k1, k2, p1, p2, k3, ...), empty when there is none.
    """

    width_px: int
    height_px: int
    fx_px: float
    fy_px: float
    cx_px: float
    cy_px: float
    distortion: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        """Refuse a calibration that cannot project.

        Raises:
            CalibrationError: for a zero, negative or non-finite focal length or image size, or
                a number of coefficients that no lens model has.

        """
        numbers = (self.fx_px, self.fy_px, self.cx_px, self.cy_px, *self.distortion)
        if not all(math.isfinite(n) for n in numbers) or min(self.fx_px, self.fy_px) <= 0:
            raise CalibrationError(
                f"camera matrix: expected finite numbers and focal lengths > 0 px, got "
                f"fx={self.fx_px} fy={self.fy_px} cx={self.cx_px} cy={self.cy_px}; "
                "an all-zero K means 'uncalibrated': calibrate the camera"
            )
        if len(self.distortion) not in COEFFICIENTS:
            raise CalibrationError(
                f"distortion: expected 0, 4, 5, 8, 12 or 14 coefficients (k1, k2, p1, p2, k3 …), "
                f"got {len(self.distortion)}"
            )
        if min(self.width_px, self.height_px) <= 0:
            raise CalibrationError(
                f"camera size: expected width and height > 0 px, "
                f"got {self.width_px} x {self.height_px}"
            )

    @staticmethod
    def from_fov(width_px: int, height_px: int, horizontal_fov_deg: float) -> PinholeCamera:
        """Camera with square pixels, centred, of the given horizontal field of view.

        Raises:
            CalibrationError: if the field of view is not inside (0, 180) degrees.

        """
        if not 0.0 < horizontal_fov_deg < 180.0:
            raise CalibrationError(
                f"field of view: expected 0 to 180 degrees, got {horizontal_fov_deg}"
            )
        focal = width_px / (2.0 * math.tan(math.radians(horizontal_fov_deg) / 2.0))
        return PinholeCamera(
            width_px, height_px, focal, focal, (width_px - 1) / 2.0, (height_px - 1) / 2.0
        )

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """K, (3, 3)."""
        return np.array(
            [[self.fx_px, 0.0, self.cx_px], [0.0, self.fy_px, self.cy_px], [0.0, 0.0, 1.0]]
        )

    def project(self, xyz_m: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Pixels (..., 2) of points (..., 3) in the optical frame; NaN at or behind the lens."""
        points = np.asarray(xyz_m, np.float64)
        flat = points.reshape(-1, 3)
        out = np.full((len(flat), 2), np.nan)
        front = flat[:, 2] > 0.0
        if front.any():
            zero = np.zeros(3)
            dist = np.array(self.distortion or (0.0,) * 5)
            pixels, _ = cv2.projectPoints(flat[front], zero, zero, self.matrix, dist)
            out[front] = pixels.reshape(-1, 2)
        return out.reshape(*points.shape[:-1], 2)

    def rays(self, xy_px: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Undistorted directions (..., 3) with z = 1 through pixels (..., 2); NaN stays NaN."""
        pixels = np.asarray(xy_px, np.float64)
        flat = pixels.reshape(-1, 2)
        out = np.full((len(flat), 3), np.nan)
        known = np.isfinite(flat).all(axis=1)
        if known.any():
            dist = np.array(self.distortion or (0.0,) * 5)
            unit = cv2.undistortPoints(flat[known][:, None], self.matrix, dist).reshape(-1, 2)
            out[known] = np.column_stack([unit, np.ones(len(unit))])
        return out.reshape(*pixels.shape[:-1], 3)

    def cropped(self, left_px: int, top_px: int, width_px: int, height_px: int) -> PinholeCamera:
        """Camera of a region of interest of this image."""
        return PinholeCamera(
            width_px, height_px, self.fx_px, self.fy_px,
            self.cx_px - left_px, self.cy_px - top_px, self.distortion,
        )  # fmt: skip

    def binned(self, factor_x: int, factor_y: int) -> PinholeCamera:
        """Camera of the image reduced by whole factors (sensor binning)."""
        return PinholeCamera(
            self.width_px // factor_x, self.height_px // factor_y,
            self.fx_px / factor_x, self.fy_px / factor_y,
            (self.cx_px + 0.5) / factor_x - 0.5, (self.cy_px + 0.5) / factor_y - 0.5,
            self.distortion,
        )  # fmt: skip
