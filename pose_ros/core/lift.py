"""Joints in metres from a depth image: measured where the body can be seen, else inferred."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pose_ros.core.body import body_of
from pose_ros.core.config import DepthConfig
from pose_ros.core.hidden import hidden_behind, infer
from pose_ros.core.patches import (
    Array,
    Mask,
    Patch,
    agreed,
    anchored,
    dot,
    layer_at,
    layers,
    patch,
    without_flat,
)
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.spread import pixel_std
from pose_ros.core.surface import Surface
from pose_ros.core.values import Frame, KeypointStatus, Poses2D, Poses3D, ScaleSource

#: A person is looked for this far before and behind its nearest and furthest joint, metres.
MARGIN_M = 0.5
#: Only for the size of patches, where not one joint has a depth at its own pixel.
TYPICAL_M = 3.0
#: Of a limb seen from its end, what lies in front of the joint is seen: a hand, not the wrist.
#: Adds this much uncertainty, metres, to a limb at 60 degrees or more, less before.
END_ON_M = 0.05
#: A joint the network doubts may be behind what the depth image shows: the doubt below this score,
#: as a share of it, times this, metres, is added to its depth's standard deviation.
SURE, BEHIND_STD_M = 0.6, 0.25
#: Confidence of an inferred joint, of its 2-D score.
INFERRED_SCORE = 0.5
TORSO = ("shoulder", "hip")


class Lifter(Protocol):
    """From pixels to metres in the camera frame; knows the joint set, may remember people."""

    skeleton: Skeleton

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        """People in metres, one row per row of ``poses``; NaN and MISSING where unknown."""
        ...

    def reset(self) -> None:
        """Forget everybody."""
        ...


def depth_std_m(z_m: npt.NDArray[Any]) -> Array:
    """Standard deviation of a depth reading at ``z_m``: structured light and stereo.

    Source: Nguyen, Izadi & Lovell, Modeling Kinect Sensor Noise, 3DIMPVT 2012, equation 1 (axial).
    """
    std: Array = 0.0012 + 0.0019 * (np.asarray(z_m, np.float64) - 0.4) ** 2
    return std


class DepthLifter:
    """Reads every joint's depth along its limbs; stateless but for ``counts``.

    ``counts`` says how often: frames; no_depth, no_camera, wrong_camera (one of another image
    size), skew (frames that could not be used); measured, inferred, missing (joints of the other
    frames).
    """

    def __init__(self, skeleton: Skeleton, config: DepthConfig | None = None) -> None:
        """Prepare the body sizes of a joint set."""
        self.skeleton = skeleton
        self.config = config or DepthConfig()
        self.counts: Counter[str] = Counter()
        self._body = body_of(skeleton)
        self._torso = np.array([joint.split("_")[-1] in TORSO for joint in skeleton.joints])

    def reset(self) -> None:
        """Nothing is remembered between frames; counts go on."""

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        """Joints in metres in the frame of ``frame.camera``.

        MEASURED where the depth image shows the joint, INFERRED where only its neighbours on the
        skeleton tell about where it is (large variance along the ray), OUT_OF_IMAGE where its
        pixel is outside, else MISSING. Without a camera of the picture's size, or a depth image of
        its time (``max_skew_s``), everything is MISSING. Velocities are NaN.
        """
        self.counts["frames"] += 1
        surface = self._surface(frame)
        if surface is None or len(poses) == 0:
            return Poses3D.unknown(poses.ids, len(self.skeleton))
        inside = _inside(poses.xy_px, frame.size_px)
        score = np.nan_to_num(poses.score).astype(np.float64)
        found = inside & (score >= self.config.score_min)
        xy_px = np.where(found[..., None], poses.xy_px, np.nan).astype(np.float64)
        score = np.where(found, score, 0.0)
        z, variance, px_per_m = self._measure(surface, xy_px, score)
        body = self._body
        hidden, least = hidden_behind(body, xy_px, z, score, px_per_m)
        measured = np.isfinite(z) & ~hidden
        known = np.where(measured, z, np.nan), np.where(measured, variance, np.nan)
        z, variance = infer(body, xy_px, known, least, px_per_m)
        outside = np.isfinite(poses.xy_px).all(axis=-1) & ~inside
        status = _status(measured, np.isfinite(z), outside)
        return self._answer(poses, surface, z, variance, status)

    def _surface(self, frame: Frame) -> Surface | None:
        depth, camera = frame.depth, frame.camera
        why = "no_depth" if depth is None else "no_camera" if camera is None else ""
        if depth is not None and camera is not None:
            late_ns = abs(depth.stamp_ns - frame.stamp_ns)
            why = "skew" if late_ns > self.config.max_skew_s * 1e9 else ""
            same = (camera.width_px, camera.height_px) == frame.size_px
            why = why if same else "wrong_camera"
        if why or depth is None or camera is None:
            self.counts[why] += 1
            return None
        return Surface(depth, camera, self.config.min_m, self.config.max_m)

    def _measure(self, surface: Surface, xy_px: Array, score: Array) -> tuple[Array, Array, Array]:
        """Depth and variance (P, J) of the joints' centres, and pixels per metre (P,) there."""
        body, (people, joints) = self._body, score.shape
        limits = np.tile([self.config.min_m, self.config.max_m], (people * joints, 1))
        first = surface.along(xy_px.reshape(-1, 2), *limits.T).reshape(people, joints)
        z_person, limits = _person_range(first, limits.reshape(people, joints, 2)[:, 0])
        px_per_m = surface.focal_px / z_person
        where = patch(body, xy_px, px_per_m)
        looked = np.concatenate([where.xy_px, where.flank_px.reshape(people, joints, -1, 2)], 2)
        samples = looked.shape[2]
        limits = np.repeat(limits, joints * samples, axis=0)
        skin = surface.along(looked.reshape(-1, 2), *limits.T).reshape(people, joints, samples)
        skin, flank = np.split(skin, [where.xy_px.shape[2]], axis=2)
        ray = surface.rays(xy_px)
        level = 1.0 / np.sqrt(dot(ray, ray))
        band = 0.05 + body.thickness_m + 3 * depth_std_m(z_person)[:, None]
        seen = layers(skin + where.rise_m * np.nan_to_num(level)[..., None], band)
        z = agreed(body, ray, seen, score, self._torso)
        z = without_flat(body, z, flank.reshape(people, joints, 2, 2))
        z = anchored(body, ray, z, seen)
        z, spread, lean = _straightened(where, body.arms, skin, z, level, band, px_per_m)
        end_on = END_ON_M * (lean - 1.0) * (body.thickness_m > 0)
        doubt = BEHIND_STD_M * np.clip(1.0 - score / SURE, 0.0, 1.0)
        variance = spread**2 + depth_std_m(z) ** 2 + body.rough_m**2 + end_on**2 + doubt**2
        return z, variance, px_per_m

    def _answer(
        self, poses: Poses2D, surface: Surface, z: Array, variance: Array,
        status: npt.NDArray[np.int8],
    ) -> Poses3D:  # fmt: skip
        known = status > KeypointStatus.MISSING
        known &= status != KeypointStatus.OUT_OF_IMAGE
        blank = Poses3D.unknown(poses.ids, len(self.skeleton))
        z = np.where(known, z, np.nan)
        ray = surface.rays(poses.xy_px.astype(np.float64))
        long = np.sqrt(dot(ray, ray))[..., None]
        unit = ray / long
        across = (pixel_std(poses).astype(np.float64) * z / surface.focal_px) ** 2
        along = variance * long[..., 0] ** 2
        outer = unit[..., :, None] * unit[..., None, :]
        covariance = across[..., None, None] * (np.eye(3) - outer)
        covariance = covariance + along[..., None, None] * outer
        number = np.bincount(status.reshape(-1), minlength=len(KeypointStatus))
        for kind in (KeypointStatus.MEASURED, KeypointStatus.INFERRED, KeypointStatus.MISSING):
            self.counts[kind.name.lower()] += int(number[kind])
        trust = np.where(status == KeypointStatus.INFERRED, INFERRED_SCORE, known)
        return Poses3D(
            poses.ids, (ray * z[..., None]).astype(np.float32), covariance.astype(np.float32),
            blank.velocity_m_s, blank.speed_std_m_s, status,
            (np.nan_to_num(poses.score) * trust).astype(np.float32),
            np.where(known.any(axis=1), ScaleSource.DEPTH, ScaleSource.UNKNOWN).astype(np.int8),
        )  # fmt: skip


def _inside(xy_px: npt.NDArray[Any], size_px: tuple[int, int]) -> Mask:
    """(P, J) whether a pixel lies on the image; False for NaN."""
    with np.errstate(invalid="ignore"):
        good = (xy_px >= -0.5) & (xy_px <= np.array(size_px) - 0.5)
    inside: Mask = good[..., 0] & good[..., 1]
    return inside


def _person_range(first: Array, limits: Array) -> tuple[Array, Array]:
    """Median depth (P,) of the joints' own pixels, and where (P, 2) to look for the person."""
    ordered = np.sort(first, axis=-1)
    count = np.isfinite(ordered).sum(axis=-1)
    row = np.arange(len(first))
    middle = ordered[row, np.maximum(count - 1, 0) // 2]
    some = count > 0
    nearest = np.where(some, ordered[:, 0] - MARGIN_M, limits[:, 0])
    furthest = np.where(some, ordered[row, np.maximum(count - 1, 0)] + MARGIN_M, limits[:, 1])
    nearest, furthest = np.maximum(nearest, limits[:, 0]), np.minimum(furthest, limits[:, 1])
    return np.where(some, middle, TYPICAL_M), np.stack([nearest, furthest], axis=-1)


def _straightened(
    where: Patch, arms: npt.NDArray[np.int64], skin: Array, z: Array, level: Array, band: Array,
    px_per_m: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Depth and spread (P, J) once more, with limbs leaning as both their ends say.

    Also the lean (P, J) of the steeper limb: its length over that across the picture, at most 2.
    """
    rise = z[:, arms] - z[..., None]  # (P, J, 2)
    known = np.isfinite(rise) & np.isfinite(where.limb_px)
    flat = np.where(known, where.limb_px, 1.0)
    slope = np.where(known, rise / flat, 0.0)
    lean = np.minimum(np.hypot(1.0, slope * px_per_m[:, None, None]), 2.0)
    through = where.rise_m * lean[..., where.limb] * np.nan_to_num(level)[..., None]
    centre = skin + through - slope[..., where.limb] * where.along_px
    better, spread = layer_at(centre, z, band)
    better, spread = np.where(np.isfinite(better), (better, spread), (z, band))
    return better, spread, lean.max(axis=-1)


def _status(measured: Mask, known: Mask, outside: Mask) -> npt.NDArray[np.int8]:
    status = np.where(known, int(KeypointStatus.INFERRED), int(KeypointStatus.MISSING))
    status = np.where(measured, int(KeypointStatus.MEASURED), status)
    return np.where(outside, int(KeypointStatus.OUT_OF_IMAGE), status).astype(np.int8)
