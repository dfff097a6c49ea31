"""A z-buffer by casting one ray per pixel at capsules, boxes and the planes of a room.

A ray is ``t * (x, y, 1)`` in the camera's optical frame, so ``t`` is the depth along the optical
axis. Each primitive is met in its own frame, where a capsule is round, inside the rectangle that
bounds its image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.training.scene import Room
from pose_ros.training.scene_body import CAPSULE, Shapes

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

NEAR_M = 0.05
#: Values of `Hits.surface`: what the background is.
SKY, FLOOR, CEILING, WALL = -1, 0, 1, 2  # WALL + 0 ... 3: x low, x high, y low, y high


@dataclass
class Hits:
    """What each pixel sees first."""

    depth_m: Float32  # (H, W), infinite where there is only sky
    shape: npt.NDArray[np.int16]  # (H, W) primitive, -1 for the background
    surface: npt.NDArray[np.int8]  # (H, W) SKY, FLOOR, CEILING, WALL + n, where shape is -1


@dataclass
class CameraShapes:
    """Primitives in the camera's frame, ready to be met by rays."""

    shapes: Shapes
    origin: Array  # (N, 3)
    inverse: Array  # (N, 3, 3) camera to local
    reach: Array  # (N,) radius of the larger end in metres, as wide as it gets

    @staticmethod
    def of(shapes: Shapes, cam_from_world: Array) -> CameraShapes:
        """Primitives of the world in the camera's frame."""
        turn, shift = cam_from_world[:3, :3], cam_from_world[:3, 3]
        axes = turn @ shapes.axes
        width = np.linalg.norm(shapes.axes, axis=1)  # (N, 3) length of each local axis
        capsule = np.maximum(width.max(axis=1), 1.0) * shapes.ends.max(axis=1)
        reach = np.where(shapes.kind == CAPSULE, capsule, np.linalg.norm(width, axis=1))
        inverse = np.linalg.inv(axes) if len(shapes) else axes
        return CameraShapes(shapes, shapes.origin @ turn.T + shift, inverse, reach)

    def end_points(self, cam_from_world: Array) -> Array:
        """(N, 2, 3) centres of the two ends in the camera's frame; of a box twice its centre."""
        along = (cam_from_world[:3, :3] @ self.shapes.axes[:, :, 1:2])[..., 0]
        along = along * np.where(self.shapes.kind == CAPSULE, self.shapes.length, 0.0)[:, None]
        return np.stack([self.origin, self.origin + along], axis=1)


@lru_cache(maxsize=16)
def pixel_rays(camera: PinholeCamera) -> tuple[Float32, Float32]:
    """Give x and y (H, W) of the ray (x, y, 1) through each pixel, lens distortion undone."""
    size = (camera.height_px, camera.width_px)
    x, y = np.arange(size[1], dtype=np.float64), np.arange(size[0], dtype=np.float64)
    if not any(camera.distortion):
        rays_x = ((x - camera.cx_px) / camera.fx_px).astype(np.float32)
        rays_y = ((y - camera.cy_px) / camera.fy_px).astype(np.float32)
        return np.broadcast_to(rays_x, size), np.broadcast_to(rays_y[:, None], size)
    rays = camera.rays(np.stack(np.meshgrid(x, y), axis=-1)).astype(np.float32)
    return np.ascontiguousarray(rays[..., 0]), np.ascontiguousarray(rays[..., 1])


def sphere_bounds(centre: Array, radius: Array) -> Array:
    """(N, 4) least and greatest x/z, then y/z, of spheres (N, 3); infinite when near the lens."""
    out = np.empty((len(centre), 4))
    z = centre[:, 2]
    for k in (0, 1):
        distance = np.hypot(centre[:, k], z)
        safe = (distance > radius) & (z > radius + NEAR_M)
        middle = np.arctan2(centre[:, k], z)
        half = np.arcsin(np.clip(radius / np.maximum(distance, 1e-9), 0.0, 1.0))
        out[:, 2 * k] = np.where(safe, np.tan(middle - half), -np.inf)
        out[:, 2 * k + 1] = np.where(safe, np.tan(middle + half), np.inf)
    out[z < -radius] = np.nan  # behind
    return out


def pixel_bounds(bounds: Array, camera: PinholeCamera) -> Array:
    """(N, 4) left, top, right, bottom pixels of ray bounds (N, 4) of `sphere_bounds`."""
    if any(camera.distortion):
        finite = np.nan_to_num(np.clip(bounds, -4.0, 4.0))
        corner = [finite[:, [i, j]] for i in (0, 1) for j in (2, 3)]
        middle = finite.reshape(-1, 2, 2).mean(axis=2)
        corner += [np.column_stack([finite[:, i], middle[:, 1]]) for i in (0, 1)]
        corner += [np.column_stack([middle[:, 0], finite[:, j]]) for j in (2, 3)]
        points = np.stack(corner, axis=1)
        pixels = camera.project(np.concatenate([points, np.ones_like(points[..., :1])], -1))
        size = np.ptp(pixels, axis=1)
        out = np.concatenate([pixels.min(1) - 0.1 * size, pixels.max(1) + 0.1 * size], axis=1)
        out[np.isnan(bounds).any(axis=1)] = np.nan
        return out
    scale = np.array([camera.fx_px, camera.fy_px] * 2)
    shift = np.array([camera.cx_px, camera.cy_px] * 2)
    return np.asarray(bounds[:, [0, 2, 1, 3]] * scale + shift)


def shape_boxes(shapes: CameraShapes, cam_from_world: Array, camera: PinholeCamera) -> Array:
    """(N, 4) pixel rectangle that holds each primitive, not clipped; NaN when it is behind."""
    ends = shapes.end_points(cam_from_world)
    capsule = shapes.shapes.kind == CAPSULE
    wide = shapes.reach / np.maximum(shapes.shapes.ends.max(axis=1), 1e-9)
    boxes = []
    for n in (0, 1):
        radius = np.where(capsule, shapes.shapes.ends[:, n] * wide, shapes.reach)
        boxes.append(pixel_bounds(sphere_bounds(ends[:, n], radius), camera))
    low, high = np.fmin(boxes[0], boxes[1])[:, :2], np.fmax(boxes[0], boxes[1])[:, 2:]
    return np.concatenate([low, high], axis=1)


def cast(shapes: CameraShapes, boxes: Array, camera: PinholeCamera) -> Hits:
    """First hits of all primitives; ``boxes`` (N, 4) from `shape_boxes`."""
    size = (camera.height_px, camera.width_px)
    hits = Hits(
        np.full(size, np.inf, np.float32), np.full(size, -1, np.int16), np.full(size, SKY, np.int8)
    )
    rays_x, rays_y = pixel_rays(camera)
    limit = np.array([size[1], size[0]] * 2)
    for n in range(len(shapes.shapes)):
        if np.isnan(boxes[n]).any():
            continue
        clipped = np.clip(boxes[n], 0, limit)
        left, top = np.ceil(clipped[:2]).astype(int)
        right, bottom = np.floor(np.minimum(clipped[2:], limit[2:] - 1)).astype(int) + 1
        if left >= right or top >= bottom:
            continue
        part = (slice(top, bottom), slice(left, right))
        t = _meet(shapes, n, rays_x[part], rays_y[part])
        depth = hits.depth_m[part]
        nearer = t < depth
        np.copyto(depth, t, where=nearer)
        np.copyto(hits.shape[part], np.int16(n), where=nearer)
    return hits


def _meet(shapes: CameraShapes, n: int, rays_x: Float32, rays_y: Float32) -> Float32:
    """Depth (h, w) at which rays enter primitive ``n``; infinite where they miss."""
    inverse = shapes.inverse[n].astype(np.float32)
    start = -(shapes.inverse[n] @ shapes.origin[n])
    way = [m[0] * rays_x + m[1] * rays_y + m[2] for m in inverse]
    if shapes.shapes.kind[n] == CAPSULE:
        first, last = shapes.shapes.ends[n].tolist()
        return meet_capsule(start, way, float(shapes.shapes.length[n]), first, last)
    return _meet_cube(start, way)


@np.errstate(invalid="ignore", divide="ignore")
def meet_capsule(
    start: Array, way: list[Float32], length: float, first: float, last: float
) -> Float32:
    """Depth (h, w) at which ``start + t * way`` enters the capsule along y from 0 to ``length``.

    The capsule is every sphere whose centre moves along y while its radius goes evenly from
    ``first`` to ``last``: two spheres and the cone that touches both.
    """
    ox, oy, oz = start.tolist()
    dx, dy, dz = way
    dd = dx * dx + dy * dy + dz * dz
    od = ox * dx + oy * dy + oz * dz
    oo = ox * ox + oy * oy + oz * oz
    out = np.full(dd.shape, np.inf, np.float32)
    slope = (first - last) / max(length, 1e-9)
    for centre, radius in ((0.0, first), (length, last)):
        half = od - np.float32(centre) * dy
        rest = oo - 2 * centre * oy + centre * centre - radius * radius
        root = np.sqrt(half * half - dd * np.float32(rest))
        t = (-half - root) / dd
        np.copyto(out, t, where=(t < out) & (t > NEAR_M))
    if abs(slope) >= 1.0:
        return out
    k = 1.0 - slope * slope
    a = dd * np.float32(k) - dy * dy
    b = od * np.float32(k) + np.float32(slope * first - oy) * dy
    c = np.float32(oo * k - oy * oy + 2 * slope * first * oy - first * first)
    root = np.sqrt(b * b - a * c)
    signs = (-1.0, 1.0) if slope != 0.0 else (-1.0,)
    for sign in signs:
        t = (-b + np.float32(sign) * root) / a
        along = (np.float32(oy - slope * first) + t * dy) * np.float32(1 / k)
        np.copyto(out, t, where=(t < out) & (along >= 0) & (along <= length) & (t > NEAR_M))
    return out


@np.errstate(invalid="ignore", divide="ignore")
def _meet_cube(start: Array, way: list[Float32]) -> Float32:
    enter, leave = np.float32(NEAR_M), np.float32(np.inf)
    for o, d in zip(start.astype(np.float32), way, strict=True):
        one, two = (np.float32(-1) - o) / d, (np.float32(1) - o) / d
        enter = np.fmax(enter, np.fmin(one, two))
        leave = np.fmin(leave, np.fmax(one, two))
    return np.where((enter < leave) & (enter > NEAR_M), enter, np.float32(np.inf))


def add_room(
    hits: Hits, room: Room, rotation: Array, position: Array, camera: PinholeCamera
) -> None:
    """Write the planes of the room behind the primitives; ``rotation`` is world from camera."""
    if room.kind == "picture":
        return
    rays_x, rays_y = pixel_rays(camera)
    turn = rotation.astype(np.float32)
    nearest = np.full(hits.depth_m.shape, np.inf, np.float32)
    for axis in (2,) if room.kind == "open" else (0, 1, 2):
        way = turn[axis, 0] * rays_x + turn[axis, 1] * rays_y + turn[axis, 2]
        low = np.float32(room.low_m[axis] - position[axis])
        high = np.float32(np.inf if room.kind == "open" else room.high_m[axis] - position[axis])
        up = way > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(up, high, low) / way
        surface = (
            np.where(up, CEILING, FLOOR) if axis == 2 else np.where(up, 1, 0) + WALL + 2 * axis
        )
        nearer = (t > NEAR_M) & (t < nearest)
        np.copyto(nearest, t, where=nearer)
        np.copyto(hits.surface, surface.astype(np.int8), where=nearer)
    behind = nearest < hits.depth_m
    np.copyto(hits.depth_m, nearest, where=behind)
    np.copyto(hits.shape, np.int16(-1), where=behind)
