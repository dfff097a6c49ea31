"""Training windows for the lifting network: motion capture seen by cameras that never were.

Letters: B windows, T = 9 frames, J = 17 joints (COCO17). Bodies are in statures (`make_bank`
divides each clip by `stature_m`), worlds z up. A batch is drawn in four steps, each a function:
`draw_windows` (motion), `vary_bodies` (other limbs, arms or legs of another clip, heads that turn,
people who sit or lie), `film` (a camera somewhere around), `measure` (what a 2-D network makes of
it).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.core.lift_mono_view import FRAMES, look_at_people
from pose_ros.core.skeletons import COCO17
from pose_ros.training.datasets.mocap import (
    SHANK,
    THIGH,
    TRUNK,
    MocapClip,
    head_axes,
    place_face,
    stature_m,
    to_coco17,
    unit,
)

FloatArray = npt.NDArray[np.float32]
Rng = np.random.Generator

#: Clips that training never sees, by the beginning of their names: no other recording of 003,
#: 009, 014 and no mirrored copy of these is left in.
HELD_OUT = (
    "01_05", "01_14", "02_06", "02_10", "03_04", "humanoid3d_dance_a", "humanoid3d_spinkick",
    "humanoid3d_long_walk3", "humanoid3d_zombie_walk", "003_", "009_", "014_",
)  # fmt: skip
SPEED_RANGE = (0.05, 1.0)  # statures per second: what a frame's weight in drawing is clipped to
SPACING_S = (0.045, 0.15)  # between the frames of a window
AT = {name: COCO17.index(name) for name in COCO17.joints}
FACE, ARMS, LEGS = np.arange(5), np.arange(5, 11), np.arange(11, 17)
SHOULDERS, HIPS = np.array([5, 6]), np.array([11, 12])
MIRROR = COCO17.flip_order()
# Relative size of a 2-D network's error per joint.
JOINT_NOISE = np.array(
    [0.6] * 5 + [0.9, 0.9, 1.0, 1.0, 1.1, 1.1, 1.3, 1.3] + [1.0] * 4, np.float32
)


@dataclass(frozen=True)
class Bank:
    """All frames of many clips, in statures, ready to be drawn from."""

    body: FloatArray  # (N, J, 3)
    head: FloatArray  # (N, 3) from the shoulders' middle to the head's end
    first: npt.NDArray[np.int64]  # (N,) index of the clip's first frame
    fps: FloatArray  # (N,)
    chance: npt.NDArray[np.float64]  # (N,) running sum of the weights, ends at 1


def split(clips: list[MocapClip]) -> tuple[list[MocapClip], list[MocapClip]]:
    """Clips to learn from and held-out clips."""
    held = [clip for clip in clips if clip.name.startswith(HELD_OUT)]
    return [clip for clip in clips if not clip.name.startswith(HELD_OUT)], held


def make_bank(clips: list[MocapClip]) -> Bank:
    """Bank of clips; a frame's weight is the speed of its limbs, so that idling does not drown."""
    bodies, heads, firsts, rates, weights = [], [], [], [], []
    total = 0
    for clip in clips:
        scale = stature_m(clip)
        body = to_coco17(clip) / scale
        relative = body - body[:, HIPS].mean(axis=1, keepdims=True)
        moved = np.linalg.norm(np.diff(relative, axis=0, prepend=relative[:1]), axis=-1)
        speed = np.convolve(moved.mean(axis=1) * clip.fps, np.ones(9) / 9, mode="same")
        middle = body[:, SHOULDERS].mean(axis=1)
        bodies.append(body)
        heads.append(clip.xyz_m[:, clip.names.index("head_end")] / scale - middle)
        firsts.append(np.full(len(clip), total))
        rates.append(np.full(len(clip), clip.fps, np.float32))
        weights.append(np.clip(speed[: len(clip)], *SPEED_RANGE))
        total += len(clip)
    chance = np.cumsum(np.concatenate(weights))
    return Bank(
        np.concatenate(bodies).astype(np.float32), np.concatenate(heads).astype(np.float32),
        np.concatenate(firsts), np.concatenate(rates), chance / chance[-1],
    )  # fmt: skip


@dataclass(frozen=True)
class Motion:
    """Windows of moving people in the world."""

    body: FloatArray  # (B, T, J, 3) statures
    head: FloatArray  # (B, T, 3)
    offset_s: FloatArray  # (B, T) relative to the newest frame


def draw_windows(bank: Bank, rng: Rng, count: int) -> Motion:
    """Windows that end anywhere in the bank, of 7 to 22 frames per second, at 0.7 to 1.4 speed."""
    anchor = np.searchsorted(bank.chance, rng.random(count)).clip(max=len(bank.chance) - 1)
    shortest, longest = np.log(SPACING_S)
    spacing = np.exp(rng.uniform(shortest, longest, (count, 1)))
    newest = spacing * rng.uniform(0.3, 1.0, (count, 1))
    before = newest + spacing * np.arange(FRAMES - 2, -1, -1)
    offset_s = -np.concatenate([before, np.zeros((count, 1))], axis=1)
    speed = rng.uniform(0.7, 1.4, (count, 1))
    place = np.maximum(anchor[:, None] + offset_s * speed * bank.fps[anchor][:, None],
                       bank.first[anchor][:, None])  # fmt: skip
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, anchor[:, None])
    share = (place - low).astype(np.float32)
    mixed = share[..., None, None]
    body = bank.body[low] * (1 - mixed) + bank.body[high] * mixed
    head = bank.head[low] * (1 - share[..., None]) + bank.head[high] * share[..., None]
    return Motion(body, head, offset_s.astype(np.float32))


def trunk_axes(body: FloatArray) -> FloatArray:
    """Axes (..., 3, 3) of the trunk as rows left, forward, up."""
    left = body[..., AT["left_shoulder"], :] - body[..., AT["right_shoulder"], :]
    up = body[..., SHOULDERS, :].mean(axis=-2) - body[..., HIPS, :].mean(axis=-2)
    axes: FloatArray = head_axes(left, up)
    return axes


def rotation(axis: npt.NDArray[np.floating], angle: npt.NDArray[np.floating]) -> FloatArray:
    """Rotation matrices (B, 3, 3) about axes (B, 3) by angles (B,) in radians."""
    x, y, z = unit(axis).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    sine, cosine = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return (np.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)).astype(np.float32)


def vary_bodies(motion: Motion, rng: Rng) -> FloatArray:
    """Bodies (B, T, J, 3) in units of their own stature, varied in shape and pose."""
    body, count = motion.body, len(motion.body)
    axes = trunk_axes(body)
    limbs = _limbs(body, axes)  # in the trunk's axes
    for limb in (slice(0, 4), slice(4, 8)):  # arms of somebody else, legs of somebody else
        swap = rng.random(count) < 0.3
        limbs[swap, :, limb] = limbs[rng.permutation(count)][swap, :, limb]
    for part, std in ((0, 0.5), (2, 0.5), (1, 0.4), (3, 0.4), (4, 0.3), (6, 0.3)):
        turned = rng.random(count) < 0.3  # upper arms and thighs take along what hangs on them
        turn = rotation(rng.normal(size=(count, 3)), rng.normal(0, std, count) * turned)
        chain = slice(part, part + 2 - part % 2)
        limbs[:, :, chain] = limbs[:, :, chain] @ turn[:, None]
    bent = rng.normal(0, 0.3, count) * (rng.random(count) < 0.3)  # trunk against both legs
    limbs[:, :, 4:] = limbs[:, :, 4:] @ rotation(rng.normal(size=(count, 3)), bent)[:, None]
    _sit(limbs, rng)
    world = _assemble(body, axes, limbs, rng)
    world = np.concatenate([_faces(motion, world, rng), world], axis=2)
    tilt = rng.normal(0.0, 0.2, count) * (rng.random(count) < 0.3)
    lies = rng.random(count) < 0.05
    tilt = np.where(lies, rng.uniform(0.0, 1.8, count), tilt)
    heading = rng.uniform(-np.pi, np.pi, count)
    turn = rotation(np.stack([np.cos(heading), np.sin(heading), 0 * heading], 1), tilt)
    centre = world[:, -1:, 7:8]
    world = (world - centre) @ turn[:, None].transpose(0, 1, 3, 2) + centre
    return (world / _statures(world)[:, None, None, None]).astype(np.float32)


def _limbs(body: FloatArray, axes: FloatArray) -> FloatArray:
    """Upper arm, forearm (left, right), thigh, shank (left, right): (B, T, 8, 3), trunk's axes."""
    pairs = [(5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)]
    starts, ends = np.array(pairs).T
    vectors = body[:, :, ends] - body[:, :, starts]
    limbs: FloatArray = vectors @ axes.swapaxes(-1, -2)
    return limbs


def _sit(limbs: FloatArray, rng: Rng) -> None:
    """Bend the hips and knees of a few people as on a chair, in place."""
    who = np.flatnonzero(rng.random(len(limbs)) < 0.1)
    for thigh in (4, 6):
        hip, knee = rng.uniform(1.0, 1.9, len(who)), rng.uniform(0.6, 2.0, len(who))
        aside = rng.normal(0.1, 0.2, len(who)) * (1 if thigh == 4 else -1)
        shank_angle = hip - knee
        for limb, angle in ((thigh, hip), (thigh + 1, shank_angle)):
            length = np.linalg.norm(limbs[who, :, limb], axis=-1)[..., None]
            direction = unit(np.stack([aside, np.sin(angle), -np.cos(angle)], axis=1))
            limbs[who, :, limb] = (0.1 * limbs[who, :, limb] + length * direction[:, None]) / 1.05


def _assemble(body: FloatArray, axes: FloatArray, limbs: FloatArray, rng: Rng) -> FloatArray:
    """Joints 5 to 16, (B, T, 12, 3), on trunks and limbs of other proportions."""
    count = len(body)

    def factor(mean: float, std: float) -> npt.NDArray[np.float64]:
        return rng.normal(mean, std, (count, 1, 1)).clip(mean - 2 * std, mean + 2 * std)

    def shift(std: float) -> FloatArray:
        local = rng.normal(0.0, std, (count, 1, 1, 3))
        moved: FloatArray = (local @ axes)[:, :, 0]
        return moved

    hips, shoulders = body[:, :, HIPS], body[:, :, SHOULDERS]
    root, neck = hips.mean(axis=2), shoulders.mean(axis=2)
    neck = root + (neck - root) * factor(1.0, 0.06)
    root = root + axes[:, :, 2] * factor(0.012, 0.012)
    shoulder_half = (shoulders[:, :, 0] - shoulders[:, :, 1]) / 2 * factor(1.0, 0.08)
    hip_half = (hips[:, :, 0] - hips[:, :, 1]) / 2 * factor(1.2, 0.15)
    limbs = limbs @ axes
    joints = [neck + shoulder_half, neck - shoulder_half]
    upper, lower = factor(1.0, 0.06), factor(1.0, 0.06)
    elbows = [joints[i] + limbs[:, :, 2 * i] * upper for i in (0, 1)]
    wrists = [elbows[i] + limbs[:, :, 2 * i + 1] * lower for i in (0, 1)]
    pelvis = [root + hip_half, root - hip_half]
    upper, lower = factor(1.0, 0.05), factor(1.0, 0.05)
    knees = [pelvis[i] + limbs[:, :, 4 + 2 * i] * upper for i in (0, 1)]
    ankles = [knees[i] + limbs[:, :, 5 + 2 * i] * lower for i in (0, 1)]
    parts = [*joints, *elbows, *wrists, *pelvis, *knees, *ankles]
    return np.stack([part + shift(0.007) for part in parts], axis=2).astype(np.float32)


def _faces(motion: Motion, world: FloatArray, rng: Rng) -> FloatArray:
    """Faces (B, T, 5, 3) on heads that turn and nod against the shoulders."""
    count = len(world)
    left = world[:, :, 0] - world[:, :, 1]
    level = head_axes(left, motion.head)
    ends = rng.normal(0.0, 1.0, (2, 2, count))
    spread = np.array([0.5, 0.25])[:, None, None]
    share = np.linspace(0.0, 1.0, FRAMES) * 0.3
    angles = spread * (ends[:, 0, :, None] + share * ends[:, 1, :, None])  # (2, B, T)
    yaw = rotation(np.tile([0.0, 0, 1], (count * FRAMES, 1)), angles[0].ravel())
    nod = rotation(np.tile([1.0, 0, 0], (count * FRAMES, 1)), angles[1].ravel())
    turn = (yaw @ nod).reshape(count, FRAMES, 3, 3)
    axes = turn.swapaxes(-1, -2) @ level
    scale = rng.normal(0.95, 0.07, (count, 1, 1, 1)).clip(0.8, 1.1).astype(np.float32)
    shift = rng.normal([0.0, 0.01, -0.005], 0.012, (count, 1, 3))[:, :, None] @ axes
    middle = world[:, :, :2].mean(axis=2) + shift[:, :, 0]
    return np.asarray(place_face(middle, axes, scale), np.float32)


def _statures(body: FloatArray) -> FloatArray:
    """(B,) statures that the newest frame's legs and trunk speak of, as `stature_m`."""
    pairs = np.array([(11, 13), (12, 14), (13, 15), (14, 16), (5, 11), (6, 12)]).T
    bones = body[:, -1, pairs[0]] - body[:, -1, pairs[1]]
    total: FloatArray = np.linalg.norm(bones, axis=-1).sum(axis=1) / (2 * (THIGH + SHANK + TRUNK))
    return total


@dataclass(frozen=True)
class Footage:
    """Bodies in front of cameras."""

    xyz: FloatArray  # (B, T, J, 3) in the camera's optical frame of each time, statures
    half_view: FloatArray  # (B, 2) tangent of half the field of view, across and down


def film(body: FloatArray, offset_s: FloatArray, rng: Rng) -> Footage:
    """Put a camera near each person: 1 to 8 m away, 0.3 to 3 m high, 35 to 100 degrees wide.

    It looks at the person or past, up to 45 degrees down and 25 up, rolled by a few degrees or
    (three in ten) by many; four in ten move and turn. Half of the people are mirrored.
    """
    count = len(body)
    centre = body[:, -1, [5, 6, 11, 12]].mean(axis=1)
    distance = np.exp(rng.uniform(np.log(0.6), np.log(5.0), count))
    height = rng.uniform(0.17, 1.76, count).clip(max=0.55 + distance)
    azimuth = rng.uniform(-np.pi, np.pi, count)
    away = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1) * distance[:, None]
    place = np.concatenate([centre[:, :2] + away, height[:, None]], axis=1)
    half = np.tan(np.radians(rng.uniform(35.0, 100.0, count)) / 2)
    aspect = rng.choice([9 / 16, 3 / 4, 3 / 4, 4 / 3, 16 / 9], count)
    half_view = np.stack([half, half * aspect], axis=1)
    to_person = centre - place
    yaw = np.arctan2(to_person[:, 1], to_person[:, 0])
    pitch = np.arctan2(to_person[:, 2], np.hypot(to_person[:, 0], to_person[:, 1]))
    yaw += np.arctan(half_view[:, 0]) * rng.uniform(-0.8, 0.8, count)
    pitch += np.arctan(half_view[:, 1]) * rng.normal(0.0, 0.3, count).clip(-0.7, 0.7)
    pitch = pitch.clip(np.radians(-45), np.radians(25))
    roll = np.radians(rng.normal(0.0, np.where(rng.random(count) < 0.3, 15.0, 4.0)))
    moving = rng.random((count, 1, 1)) < 0.4
    drift = offset_s[..., None] * rng.normal(0.0, 0.3, (count, 1, 3)) * moving
    turn = offset_s * (rng.normal(0.0, 0.25, (count, 1, 1)) * moving)[..., 0]
    axes = _camera_axes(yaw[:, None] + turn, pitch[:, None], roll[:, None])  # (B, T, 3, 3)
    xyz = (body - (place[:, None] + drift)[:, :, None]) @ axes.swapaxes(-1, -2)
    flip = rng.random(count) < 0.5
    xyz[flip] = xyz[flip][:, :, MIRROR] * np.array([-1.0, 1.0, 1.0])
    return Footage(xyz.astype(np.float32), half_view.astype(np.float32))


def _camera_axes(
    yaw: npt.NDArray[np.float64], pitch: npt.NDArray[np.float64], roll: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Rows right, down, ahead (..., 3, 3) in a z-up world, of cameras looking along yaw, pitch."""
    yaw, pitch, roll = np.broadcast_arrays(yaw, pitch, roll)
    ahead = np.stack(
        [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)], axis=-1
    )
    right = np.stack([np.sin(yaw), -np.cos(yaw), np.zeros_like(yaw)], axis=-1)
    down = np.cross(ahead, right)
    cosine, sine = np.cos(roll)[..., None], np.sin(roll)[..., None]
    return np.stack([right * cosine + down * sine, down * cosine - right * sine, ahead], axis=-2)


@dataclass(frozen=True)
class Noise:
    """How a 2-D network errs; lengths in statures at the person's distance."""

    scale: float = 0.016  # typical standard deviation per axis; 0 measures exactly
    steady: float = 0.7  # share of it that lasts for the whole window
    outliers: float = 0.02  # share of joints that are elsewhere
    dropped: float = 0.06  # share of joints not found
    hidden: float = 0.35  # share of windows of which a part is hidden


def measure(footage: Footage, rng: Rng, noise: Noise) -> tuple[FloatArray, FloatArray]:
    """Rays (B, T, J, 2), NaN where nothing is found, and scores (B, T, J) like a network's."""
    xyz = footage.xyz
    count = len(xyz)
    depth = xyz[..., 2]
    front = depth > 0.1
    rays = xyz[..., :2] / np.where(front, depth, 1.0)[..., None]
    size = 1.0 / np.maximum(depth[:, :, HIPS].mean(axis=2), 0.2)  # a stature's angle
    worse = np.exp(rng.normal(0.0, 0.5, (count, 1, 1))) * np.exp(
        rng.normal(0.0, 0.4, (count, 1, 17))
    )
    std = noise.scale * JOINT_NOISE * worse
    score = (0.7 - 0.2 * np.log(worse) + rng.normal(0.0, 0.12, depth.shape)).clip(0.2, 1.0)
    stray = rng.random(depth.shape) < noise.outliers
    score = np.where(stray, rng.uniform(0.2, 0.5, depth.shape), score)
    lasting = rng.standard_normal((count, 1, 17, 2), np.float32) * noise.steady
    passing = rng.standard_normal(rays.shape, np.float32) * np.sqrt(1 - noise.steady**2)
    wide = std * np.where(stray, 6.0, 1.0) * size[..., None]
    rays = rays + (lasting + passing) * wide[..., None]
    if noise.scale > 0:
        _swap_sides(rays, score, rng)
    inside = (np.abs(rays) < footage.half_view[:, None, None]).all(axis=-1)
    found = front & inside & (rng.random(depth.shape) > noise.dropped)
    found &= ~_hidden(rays, size, rng, noise.hidden)
    start = np.where(rng.random(count) < 0.15, rng.integers(1, FRAMES, count), 0)
    found &= (np.arange(FRAMES) >= start[:, None])[..., None]  # people come into view
    rays = np.where(found[..., None], rays, np.nan)
    return rays.astype(np.float32), np.where(found, score, 0.0).astype(np.float32)


def _swap_sides(rays: FloatArray, score: FloatArray, rng: Rng) -> None:
    """Take left for right, arms or legs, in a few windows or newest frames, in place."""
    for part in (ARMS, LEGS):
        who = rng.random(len(rays)) < 0.03
        whole = rng.random(len(rays)) < 0.5
        frames = who[:, None] & (whole[:, None] | (np.arange(FRAMES) == FRAMES - 1))
        b, t = np.nonzero(frames)
        swapped = MIRROR[part]
        rays[b[:, None], t[:, None], part] = rays[b[:, None], t[:, None], swapped]
        score[b[:, None], t[:, None], part] *= rng.uniform(0.5, 0.9, (len(b), 1))


def _hidden(rays: FloatArray, size: FloatArray, rng: Rng, share: float) -> npt.NDArray[np.bool_]:
    """(B, T, J) what lies behind something: a table, a door frame, another person."""
    count = len(rays)
    centre = rays[:, :, [5, 6, 11, 12]].mean(axis=2, keepdims=True)
    local = (rays - centre) / size[..., None, None]  # statures
    kind = np.where(rng.random(count) < share, rng.integers(0, 4, count), -1)[:, None, None]
    edge = rng.uniform(0.05, 0.4, (count, 1, 1))
    side = np.where(rng.random((count, 1, 1)) < 0.5, -1.0, 1.0)
    corner = rng.normal(0.0, 0.25, (count, 1, 1, 2))
    near = np.abs(local - corner).max(axis=-1) < edge * 0.6
    below, beside = local[..., 1] > edge, local[..., 0] * side > edge - 0.1
    face = np.broadcast_to(np.arange(17) < 5, near.shape)  # seen from behind
    kinds = [kind == i for i in range(4)]
    return np.select(kinds, [below, beside, near, face], default=np.False_)


@dataclass(frozen=True)
class Batch:
    """What the network sees and should say."""

    features: FloatArray  # (B, T, F)
    body: FloatArray  # (B, J, 3) about the middle of the hips, in the view's axes, statures
    usable: npt.NDArray[np.bool_]  # (B,) enough is seen
    rays: npt.NDArray[np.float64]  # (B, J, 2) of the newest frame, in the view
    root: FloatArray  # (B, 3) true middle of the hips in the view, statures


def draw_batch(bank: Bank, rng: Rng, count: int, noise: Noise, vary: bool = True) -> Batch:
    """Draw training windows; the same generator state gives the same batch."""
    motion = draw_windows(bank, rng, count)
    body = vary_bodies(motion, rng) if vary else motion.body
    footage = film(body, motion.offset_s, rng)
    rays, score = measure(footage, rng, noise)
    view = look_at_people(rays, score, motion.offset_s)
    newest = footage.xyz[:, -1] @ view.view_from_camera.swapaxes(-1, -2)
    root = newest[:, HIPS].mean(axis=1)
    usable = view.usable & (root[:, 2] > 0.3)
    relative = (newest - root[:, None]).astype(np.float32)
    return Batch(view.features, relative, usable, view.rays, root.astype(np.float32))
