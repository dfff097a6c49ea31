"""Pictures of scenes with exact truth: where every joint is, how deep, and whether it is seen.

`render` is pure: the same scene and frame give the same bytes. No GPU and no engine: bodies are
tapered capsules met by rays (`raycast.py`), which keeps depth and visibility exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.values import ByteArray, DepthImage, FloatArray, Frame
from pose_ros.errors import ConfigError
from pose_ros.training.raycast import (
    CEILING,
    FLOOR,
    WALL,
    CameraShapes,
    Hits,
    add_room,
    cast,
    pixel_rays,
    shape_boxes,
)
from pose_ros.training.scene import Light, Scene
from pose_ros.training.scene_body import (
    BOX,
    CAPSULE,
    JOINT_DEPTH,
    MATERIALS,
    SHIRT,
    TROUSERS,
    Shapes,
)
from pose_ros.training.scene_textures import Material

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rendered:
    """One picture and its truth at the middle of its exposure; P people, 17 COCO joints."""

    rgb: ByteArray  # (H, W, 3)
    depth_m: FloatArray  # (H, W) along the optical axis; NaN: sky, picture, beyond ``far_m``
    owner: npt.NDArray[np.int16]  # (H, W) person, -1 elsewhere
    stamp_ns: int
    xy_px: FloatArray  # (P, 17, 2) also outside the image; NaN behind the camera
    visible: ByteArray  # (P, 17) 2 seen, 1 hidden by something, 0 outside the image
    xyz_camera_m: FloatArray  # (P, 17, 3) optical frame
    xyz_world_m: FloatArray  # (P, 17, 3) world, z up
    box_xyxy_px: FloatArray  # (P, 4) the whole body, hidden parts too, clipped; NaN: not in view
    camera: PinholeCamera
    cam_from_world: Array  # (4, 4)

    def frame(self, frame_id: str = "camera_optical") -> Frame:
        """The picture as the pipeline takes it, with its depth image."""
        depth = DepthImage(self.depth_m, self.stamp_ns, self.camera)
        return Frame(self.rgb, self.stamp_ns, frame_id, self.camera, depth)


@dataclass
class _Instant:
    """The scene at one time, seen by one camera."""

    scene: Scene
    camera: PinholeCamera
    cam_from_world: Array
    shapes: CameraShapes
    boxes: Array  # (N, 4) pixels
    hits: Hits


def render(scene: Scene, frame_index: int) -> Rendered:
    """Render frame ``frame_index`` of a scene, exposed about ``frame_index / fps``.

    Raises:
        ConfigError: for a frame that the scene does not have.

    """
    if not 0 <= frame_index < scene.frames:
        raise ConfigError(f"frame: expected 0 to {scene.frames - 1}, got {frame_index}")
    stamp_ns = scene.stamp_ns(frame_index)
    time_s = stamp_ns * 1e-9
    middle = _instant(scene, scene.camera, time_s)
    image = _shade(middle) if scene.sensor.subframes <= 1 else _exposed(scene, time_s)
    rgb = _sensed(image, scene, frame_index)
    return _with_truth(middle, rgb, stamp_ns, time_s)


def _instant(scene: Scene, camera: PinholeCamera, time_s: float) -> _Instant:
    cam_from_world = scene.path.cam_from_world(time_s)
    shapes = CameraShapes.of(scene.shapes_at(time_s), cam_from_world)
    boxes = shape_boxes(shapes, cam_from_world, camera)
    hits = cast(shapes, boxes, camera)
    rotation = cam_from_world[:3, :3].T
    add_room(hits, scene.room, rotation, -rotation @ cam_from_world[:3, 3], camera)
    return _Instant(scene, camera, cam_from_world, shapes, boxes, hits)


def _exposed(scene: Scene, time_s: float) -> Float32:
    """Mean of instants over the exposure, each a fraction of a pixel aside (smooth edges)."""
    count = scene.sensor.subframes
    total = np.zeros((scene.camera.height_px, scene.camera.width_px, 3), np.float32)
    for n in range(count):
        share = (n + 0.5) / count - 0.5
        aside = (((n + 0.5) / count) - 0.5, ((n * 0.618034) % 1.0) - 0.5)
        camera = replace(
            scene.camera, cx_px=scene.camera.cx_px + aside[0], cy_px=scene.camera.cy_px + aside[1]
        )
        total += _shade(_instant(scene, camera, time_s + share * scene.sensor.exposure_s))
    return total / np.float32(count)


def _sensed(image: Float32, scene: Scene, frame_index: int) -> ByteArray:
    """Bytes of a linear-in-grey image: brightness, noise, compression."""
    sensor = scene.sensor
    image = image * np.float32(sensor.brightness)
    if sensor.noise > 0:
        rng = np.random.default_rng([scene.seed, 17, frame_index])
        spread = np.sqrt(sensor.noise**2 + 0.15 * sensor.noise * np.maximum(image, 0))
        image = image + spread * rng.standard_normal(image.shape, np.float32)
    rgb: ByteArray = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if sensor.jpeg_quality is not None:
        quality = [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg_quality]
        coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), quality)[1]
        rgb = cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return rgb


def _with_truth(at: _Instant, rgb: ByteArray, stamp_ns: int, time_s: float) -> Rendered:
    scene, hits = at.scene, at.hits
    people = len(scene.people)
    world = np.stack([p.at(time_s) for p in scene.people]) if people else np.zeros((0, 17, 3))
    in_camera = world @ at.cam_from_world[:3, :3].T + at.cam_from_world[:3, 3]
    xy_px = scene.camera.project(in_camera)
    sizes = np.array([p.size_m for p in scene.people])
    owner = np.full(hits.shape.shape, -1, np.int16)
    on_shape = hits.shape >= 0
    owner[on_shape] = at.shapes.shapes.owner[hits.shape[on_shape]]
    far = ~(hits.depth_m <= scene.far_m)
    return Rendered(
        rgb, np.where(far, np.float32(np.nan), hits.depth_m), owner, stamp_ns,
        xy_px.astype(np.float32), joint_visibility(xy_px, in_camera, hits.depth_m, sizes),
        in_camera.astype(np.float32), world.astype(np.float32),
        _body_boxes(at, people), scene.camera, at.cam_from_world,
    )  # fmt: skip


def joint_visibility(
    xy_px: Array, xyz_camera_m: Array, depth_m: Float32, size_m: Array
) -> ByteArray:
    """(P, 17) 2 seen, 1 occluded, 0 outside the image, for COCO17 joints in the camera's frame.

    A joint is seen when nothing lies in front of its own flesh: the surface in its pixel is at
    most `JOINT_DEPTH` times the body's ``size_m`` (P,) nearer than the joint.
    """
    height, width = depth_m.shape
    pixel = np.nan_to_num(xy_px, nan=-1.0)
    inside = (pixel > -0.5).all(axis=-1) & (pixel < [width - 0.5, height - 0.5]).all(axis=-1)
    at = np.clip(np.rint(pixel), 0, [width - 1, height - 1]).astype(int)
    surface = depth_m[at[..., 1], at[..., 0]]
    seen = xyz_camera_m[..., 2] - surface <= JOINT_DEPTH * np.asarray(size_m)[:, None]
    return np.where(inside, np.where(seen, 2, 1), 0).astype(np.uint8)


def _body_boxes(at: _Instant, people: int) -> FloatArray:
    """(P, 4) rectangle of all of each body's primitives, clipped to the image."""
    out = np.full((people, 4), np.nan, np.float32)
    limit = np.array([at.camera.width_px, at.camera.height_px] * 2) - 0.5
    for person in range(people):
        mine = at.boxes[at.shapes.shapes.owner == person]
        mine = mine[np.isfinite(mine).all(axis=1)]
        if not len(mine):
            continue
        box = np.concatenate([mine[:, :2].min(axis=0), mine[:, 2:].max(axis=0)])
        box = np.clip(box, -0.5, limit)
        if (box[2:] > box[:2]).all():
            out[person] = box
    return out


def sample(material: Material, u_m: Float32, v_m: Float32, metres_per_px: float) -> Float32:
    """Colours (N, 3) of a material at surface coordinates (N,), as fine as the pixels are."""
    texel = material.tile_m / material.levels[0].shape[0]
    level = int(np.clip(np.round(np.log2(max(metres_per_px / texel, 1e-3))), 0, 6))
    tile = material.levels[min(level, len(material.levels) - 1)]
    n = tile.shape[0]
    count, columns = len(u_m), 1024
    rows = -(-count // columns)
    maps = []
    for value in (u_m, v_m):
        padded = np.zeros(rows * columns, np.float32)
        padded[:count] = np.mod(value * np.float32(n / material.tile_m) - np.float32(0.5), n)
        maps.append(padded.reshape(rows, columns))
    colours = cv2.remap(tile, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return colours.reshape(-1, 3)[:count].astype(np.float32)


def _shade(at: _Instant) -> Float32:
    """(H, W, 3) grey levels, 0 to 255 and a little beyond."""
    image = np.empty((*at.hits.depth_m.shape, 3), np.float32)
    _shade_background(at, image)
    _shade_shapes(at, image)
    return image


def _shade_background(at: _Instant, image: Float32) -> None:
    scene, hits = at.scene, at.hits
    rays_x, rays_y = pixel_rays(at.camera)
    turn = at.cam_from_world[:3, :3].T
    position = (-turn @ at.cam_from_world[:3, 3]).astype(np.float32)
    turn = turn.astype(np.float32)
    free = hits.shape < 0
    _shade_sky(at, image, free & ~np.isfinite(hits.depth_m))
    shadow = _floor_shadow(at) if (hits.surface[free] == FLOOR).any() else None
    for surface in range(WALL + 4):
        where = np.flatnonzero(free & (hits.surface == surface))
        if not len(where):
            continue
        depth = hits.depth_m.ravel()[where]
        x, y = rays_x[np.unravel_index(where, free.shape)], rays_y.ravel()[where]
        point = [
            (turn[k, 0] * x + turn[k, 1] * y + turn[k, 2]) * depth + position[k] for k in range(3)
        ]
        axis = 2 if surface in (FLOOR, CEILING) else (surface - WALL) // 2
        u, v = (point[k] for k in range(3) if k != axis)
        step = float(np.median(depth)) / at.camera.fx_px
        material = scene.materials[_surface_material(scene, surface)]
        colours = sample(material, u, v, step) * _plane_light(scene.light, surface)
        if surface == FLOOR and shadow is not None:
            fade = np.clip((depth - 12.0) / 25.0, 0.0, 1.0)[:, None]
            colours = (
                colours * (1 - np.float32(scene.light.shadow) * shadow.ravel()[where])[:, None]
            )
            if scene.room.kind == "open":
                colours = colours * (1 - fade) + fade * np.float32(scene.room.sky[1])
        image.reshape(-1, 3)[where] = colours


def _surface_material(scene: Scene, surface: int) -> int:
    room = scene.room
    if surface == FLOOR:
        return room.floor
    return room.ceiling if surface == CEILING else room.walls[surface - WALL]


def _plane_light(light: Light, surface: int) -> Float32:
    """(3,) light on a plane of the room, which faces inwards."""
    x, y, z = light.towards
    facing = {FLOOR: z, CEILING: 0.35, WALL: x, WALL + 1: -x, WALL + 2: y, WALL + 3: -y}[surface]
    share = max(0.0, facing) if surface == FLOOR else 0.45 + 0.3 * facing
    return np.float32(np.array(light.around) + share * np.array(light.lamp))


def _shade_sky(at: _Instant, image: Float32, where: npt.NDArray[np.bool_]) -> None:
    """A gradient, or the scene's picture in the direction of each ray."""
    if not where.any():
        return
    rays_x, rays_y = pixel_rays(at.camera)
    turn = at.cam_from_world[:3, :3].T.astype(np.float32)
    x, y = rays_x[where], rays_y[where]
    way = [turn[k, 0] * x + turn[k, 1] * y + turn[k, 2] for k in range(3)]
    flat = np.hypot(way[0], way[1])
    pitch = np.arctan2(way[2], flat)
    picture = at.scene.room.picture
    if picture is None:
        zenith, horizon = (np.float32(c) for c in at.scene.room.sky)
        share = np.clip(pitch / 0.8, 0, 1)[:, None]
        image[where] = horizon + share * (zenith - horizon)
        return
    height, width = picture.shape[:2]
    scale = width / (np.pi / 2)
    u = np.mod(np.arctan2(way[0], way[1]) * scale, width)
    v = (height / 2 - pitch * scale).astype(np.float32)
    colours = [
        cv2.remap(picture, u[None, i : i + 16384].astype(np.float32), v[None, i : i + 16384],
                  cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)[0]
        for i in range(0, len(u), 16384)
    ]  # fmt: skip
    image[where] = np.concatenate(colours)


def _outline(shapes: Shapes, towards: Array) -> Array:
    """(N, 24, 3) points of each primitive's outline as the lamp sees it, world frame."""
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    one = np.cross(towards, [1.0, 0.2, 0.0])
    one /= np.linalg.norm(one)
    ring = np.outer(np.cos(angle), one) + np.outer(np.sin(angle), np.cross(towards, one))
    far = shapes.origin + shapes.axes[:, :, 1] * shapes.length[:, None]
    wide = np.sqrt(np.linalg.norm(shapes.axes, axis=1).max(axis=1))
    ends = [
        centre[:, None] + ring * (shapes.ends[:, n] * wide)[:, None, None]
        for n, centre in enumerate((shapes.origin, far))
    ]
    points = np.concatenate(ends, axis=1)
    corners = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)] * 3, float)
    boxes = shapes.kind == BOX
    cube = np.einsum("nij,kj->nki", shapes.axes[boxes], corners)
    points[boxes] = shapes.origin[boxes][:, None] + cube
    return points


def _floor_shadow(at: _Instant) -> Float32:
    """(H, W) how much of the lamp the primitives take from the floor, 0 to 1."""
    mask = np.zeros(at.hits.depth_m.shape, np.uint8)
    towards = np.array(at.scene.light.towards)
    shapes = at.shapes.shapes
    if len(shapes):
        points = _outline(shapes, towards)
        points = points - towards * (np.maximum(points[..., 2:], 0) / towards[2])
        points[..., 2] = 0.0
        in_camera = points @ at.cam_from_world[:3, :3].T + at.cam_from_world[:3, 3]
        ahead = (in_camera[..., 2] > 0.2).all(axis=1)
        pixels = at.camera.project(in_camera[ahead])
        fixed = np.clip(np.round(pixels * 16), -(2**26), 2**26).astype(np.int32)
        for polygon in fixed:
            cv2.fillConvexPoly(mask, cv2.convexHull(polygon), 255, cv2.LINE_8, 4)
    width = max(1, at.camera.height_px // 160) * 2 + 1
    return cv2.blur(mask, (width, width)).astype(np.float32) / np.float32(255)


def _shade_shapes(at: _Instant, image: Float32) -> None:
    hits, shapes = at.hits, at.shapes
    where = np.flatnonzero(hits.shape >= 0)
    if not len(where):
        return
    rays_x, rays_y = pixel_rays(at.camera)
    row, column = np.divmod(where, hits.shape.shape[1])
    depth, which = hits.depth_m[row, column], hits.shape[row, column]
    offset = np.stack(
        [rays_x[row, column] * depth, rays_y[row, column] * depth, depth], axis=1
    ) - shapes.origin.astype(np.float32)[which]  # fmt: skip
    inverse = shapes.inverse.astype(np.float32)[which]
    local = np.einsum("nij,nj->ni", inverse, offset)
    normal, u, v = _surface(shapes.shapes, at.scene.palette, which, local)
    normal = np.einsum("nij,ni->nj", inverse, normal)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    _soften_cloth(at, normal, which, where)
    light = _lit(at, normal)
    light *= _crevices(at)[row, column][:, None]
    material = shapes.shapes.material[which]
    order = np.argsort(material, kind="stable")
    borders = np.flatnonzero(np.diff(material[order])) + 1
    flat = image.reshape(-1, 3)
    for group in np.split(order, borders):
        step = float(np.median(depth[group])) / at.camera.fx_px
        colours = sample(at.scene.palette[material[group[0]]], u[group], v[group], step)
        flat[where[group]] = colours * light[group]


def _surface(
    shapes: Shapes, palette: tuple[Material, ...], which: npt.NDArray[np.int16], local: Float32
) -> tuple[Float32, Float32, Float32]:
    """Outward normals (N, 3) in the local frame and texture coordinates u, v (N,), metres."""
    first, last = shapes.ends.T.astype(np.float32)
    length = np.maximum(shapes.length, 1e-9).astype(np.float32)
    slope = np.clip((first - last) / length, -0.999, 0.999)
    x, y, z = local.T
    k = slope[which]
    centre = np.clip(
        (y - k * first[which]) / (1 - k * k), 0.0, shapes.length.astype(np.float32)[which]
    )
    normal = np.stack([x, y - centre, z], axis=1)
    tile = np.array([m.tile_m for m in palette], np.float32)[shapes.material]
    wide = np.linalg.norm(shapes.axes[:, :, 0], axis=1)
    around = 2 * np.pi * shapes.ends.mean(axis=1) * wide
    turns = tile * np.maximum(1, np.round(around / tile)) / (2 * np.pi)
    u = np.arctan2(x, z) * turns.astype(np.float32)[which]
    v = y + shapes.shift[:, 1].astype(np.float32)[which]
    boxes = shapes.kind[which] != CAPSULE
    if boxes.any():
        _box_surface(shapes, which[boxes], local[boxes], tile, (normal, u, v), boxes)
    return normal, u, v


def _box_surface(
    shapes: Shapes,
    which: npt.NDArray[np.int16],
    local: Float32,
    tile: Float32,
    out: tuple[Float32, Float32, Float32],
    boxes: npt.NDArray[np.bool_],
) -> None:
    """Write normals and texture coordinates of the pixels on boxes; a print covers one face."""
    axis = np.abs(local).argmax(axis=1)
    rows = np.arange(len(axis))
    normal = np.zeros_like(local)
    normal[rows, axis] = np.sign(local[rows, axis])
    one, two = np.where(axis == 0, 1, 0), np.where(axis == 2, 1, 2)
    whole = tile[which] * 0.5
    out[0][boxes] = normal
    out[1][boxes] = (local[rows, one] + 1) * whole
    out[2][boxes] = (1 - local[rows, two]) * whole


def _soften_cloth(
    at: _Instant, normal: Float32, which: npt.NDArray[np.int16], where: npt.NDArray[np.int64]
) -> None:
    """Even out the normals (N, 3) of garments over about 3 cm: cloth spans from part to part."""
    shapes = at.shapes.shapes
    part = (shapes.material - len(at.scene.materials)) % len(MATERIALS)
    cloth = ((part == SHIRT) | (part == TROUSERS)) & (shapes.owner >= 0)
    chosen = cloth[which]
    if not chosen.any():
        return
    depth = float(np.median(at.hits.depth_m.ravel()[where[chosen]]))
    width = 2 * int(np.clip(round(0.016 * at.camera.fx_px / depth), 1, 20)) + 1
    spread = np.zeros((*at.hits.shape.shape, 3), np.float32)
    spread.reshape(-1, 3)[where[chosen]] = normal[chosen]
    spread = cv2.blur(cv2.blur(spread, (width, width)), (width, width))
    smooth = spread.reshape(-1, 3)[where[chosen]]
    normal[chosen] = smooth / np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-9)


def _lit(at: _Instant, normal: Float32) -> Float32:
    """(N, 3) light on surfaces of the given normals in the camera's frame."""
    turn = at.cam_from_world[:3, :3].astype(np.float32)
    light = at.scene.light
    facing = np.maximum(normal @ (turn @ np.float32(light.towards)), 0)[:, None]
    above = (normal @ turn[:, 2])[:, None]
    rim = np.float32(0.12) * (1 + normal[:, 2:]) ** 2  # edges turned away from the camera
    around = np.float32(light.around) * (np.float32(0.8) + np.float32(0.2) * above)
    return around + np.float32(light.lamp) * facing * np.float32(1.15) - rim


def _crevices(at: _Instant) -> Float32:
    """(H, W) factor that darkens what lies just behind something of the same neighbourhood."""
    depth = np.minimum(at.hits.depth_m, np.float32(50.0))
    width = max(3, at.camera.height_px // 40) | 1
    nearer = depth - cv2.blur(depth, (width, width))
    return 1 - np.float32(0.3) * np.clip(nearer / np.float32(0.12), 0, 1)
