"""People who move by rule: a gait and a reaching generator that need no motion capture.

Segment lengths are shares of the stature (Winter, Biomechanics and Motor Control of Human
Movement, after Drillis and Contini). Legs are posed from the feet: a standing foot does not
slide, it rolls over heel, sole and ball, and the knee follows from the two leg segments. Arms
swing against the legs; head and trunk are rigid. Every distance between two joints of one rigid
part is therefore constant: the limbs, the trunk with shoulders and hips, the face.

World frame: x ahead, y left, z up, the floor at z = 0, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError

FloatArray = npt.NDArray[np.float64]

# Shares of the stature.
THIGH, SHANK, ANKLE_HEIGHT = 0.245, 0.246, 0.039
UPPER_ARM, FOREARM = 0.186, 0.146
TRUNK = 0.288  # mid-hip to mid-shoulder
HALF_HIPS, HALF_SHOULDERS = 0.052, 0.100
HEEL_BACK, BALL_AHEAD = 0.035, 0.075  # from under the ankle
#: Face in the head frame (x ahead, y left, z up) from the mid-shoulder, shares of the stature.
FACE = np.array(
    [
        [0.072, 0.0, 0.106], [0.058, 0.019, 0.121], [0.058, -0.019, 0.121],
        [0.008, 0.044, 0.112], [0.008, -0.044, 0.112],
    ]
)  # fmt: skip

STANCE, SOLE_DOWN, HEEL_UP = 0.62, 0.12, 0.40  # shares of a stride after the heel's contact
#: Pitch of the foot over the stride, degrees, toes up positive.
PITCH = CubicSpline(
    [0.0, 0.07, 0.12, 0.2, 0.3, 0.4, 0.5, 0.62, 0.7, 0.8, 0.9, 1.0],
    [18.0, 5.0, 0.0, 0.0, 0.0, 0.0, -15.0, -55.0, -50.0, -12.0, 14.0, 18.0],
    bc_type="periodic",
)


@dataclass(frozen=True)
class _Style:
    """What differs between two walkers of the same stature and speed; angles in radians."""

    phase: float  # share of a stride at time 0
    cadence: float  # factor
    half_step_width_m: float
    arm_swing: float
    elbow: float
    abduction: float
    lean: float
    sway_m: float
    head_turn: float
    head_period_s: float


def _style(seed: int) -> _Style:
    rng = np.random.default_rng(seed)

    def deg(low: float, high: float) -> float:
        return math.radians(rng.uniform(low, high))

    return _Style(
        phase=rng.uniform(), cadence=rng.uniform(0.95, 1.05),
        half_step_width_m=rng.uniform(0.04, 0.07), arm_swing=deg(16, 28), elbow=deg(12, 28),
        abduction=deg(6, 12), lean=deg(1, 5), sway_m=rng.uniform(0.012, 0.025),
        head_turn=deg(5, 20), head_period_s=rng.uniform(3, 7),
    )  # fmt: skip


def walk(
    seconds: float,
    fps: float,
    seed: int,
    stature_m: float = 1.75,
    speed_m_s: float = 1.3,
    path: str = "line",
    radius_m: float = 2.0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Somebody who walks steadily.

    ``path`` "line": along +x, over the origin at half time. "circle": to the left around the
    origin, at ``radius_m``. Move it elsewhere with `place`. The same arguments, the same bytes.

    Returns:
        ``stamps_ns`` (T,) from 0 in steps of 1/fps, T = round(seconds * fps) (at least 1), and
        ``xyz_m`` (T, 17, 3) in COCO17 order, world frame z up, everything known.

    Raises:
        ConfigError: for times, stature, speed or radius that are not positive, or another path.

    """
    _check(seconds=seconds, fps=fps, stature_m=stature_m, speed_m_s=speed_m_s, radius_m=radius_m)
    if path not in ("line", "circle"):
        raise ConfigError(f"path: expected 'line' or 'circle', got '{path}'")
    style = _style(seed)
    stamps_ns, t = _times(seconds, fps)
    radius = radius_m if path == "circle" else math.inf
    stride_hz = 0.95 * math.sqrt(speed_m_s / 1.3) * style.cadence * math.sqrt(1.75 / stature_m)
    stride_m = speed_m_s / stride_hz
    turns = style.phase + stride_hz * t
    offset = 0.0 if path == "circle" else -speed_m_s * seconds / 2 - style.phase * stride_m
    height = _pelvis_height(stature_m, stride_m, style, radius)
    xyz = _gait(turns, height(turns), stature_m, stride_m, style, (radius, offset))
    phase = 2 * np.pi * turns
    _swing_arms(xyz, phase, stature_m, style)
    turn = style.head_turn * np.sin(2 * np.pi * t / style.head_period_s + style.phase)
    _add_face(xyz, stature_m, turn, np.full(len(t), -0.05))
    return stamps_ns, xyz.astype(np.float32)


def reach(
    seconds: float,
    fps: float,
    seed: int,
    stature_m: float = 1.75,
    hand: str = "right",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Somebody who stands at the origin, faces +x, and reaches out, hands over, and comes back.

    ``hand`` "left", "right" or "both" moves along straight minimum-jerk strokes of 0.25 s or more
    (wrists reach 1.5 to 4 m/s) with rests between; an idle arm hangs. Feet stand still.

    Returns:
        ``stamps_ns`` (T,) and ``xyz_m`` (T, 17, 3), as `walk`.

    Raises:
        ConfigError: for times or a stature that are not positive, or another hand.

    """
    _check(seconds=seconds, fps=fps, stature_m=stature_m)
    if hand not in ("left", "right", "both"):
        raise ConfigError(f"hand: expected 'left', 'right' or 'both', got '{hand}'")
    rng = np.random.default_rng(seed)
    stamps_ns, t = _times(seconds, fps)
    strokes = {
        side: _strokes(rng, t, stature_m, 1.0 if side == "left" else -1.0)
        for side in ("left", "right")
        if hand in (side, "both")
    }
    out = np.mean([target[:, 0] for target in strokes.values()], axis=0) / stature_m
    lean = 0.03 + 0.5 * np.clip(out, 0.0, 0.3)  # the trunk follows the hand
    xyz = _stand(t, stature_m, lean, rng)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        hang = np.array([0.08, sign * 0.05, -0.31]) * stature_m
        target = strokes.get(side, np.broadcast_to(hang, (len(t), 3)))
        _arm_to(xyz, side, sign, target, stature_m)
    nod = -0.1 - 0.3 * np.clip(out, 0.0, 0.3)
    _add_face(xyz, stature_m, 0.2 * np.sin(0.7 * t + rng.uniform(0, 6)), nod)
    return stamps_ns, xyz.astype(np.float32)


def place(
    xyz_m: npt.NDArray[np.float32], position_m: tuple[float, float], yaw_rad: float
) -> npt.NDArray[np.float32]:
    """Turn points (..., 3) about the world's z axis, then move them to (x, y) ``position_m``."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    moved = np.asarray(xyz_m, np.float64) @ turn.T + np.array([*position_m, 0.0])
    return moved.astype(np.float32)


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name}: expected a finite number > 0, got {value}")


def _times(seconds: float, fps: float) -> tuple[npt.NDArray[np.int64], FloatArray]:
    count = max(1, round(seconds * fps))
    stamps_ns = np.round(np.arange(count) * (1e9 / fps)).astype(np.int64)
    return stamps_ns, stamps_ns * 1e-9


def _index(joint: str) -> int:
    return COCO17.index(joint)


def _foot(phase: FloatArray, stature_m: float, stride_m: float) -> tuple[FloatArray, FloatArray]:
    """Ankle ahead of where its sole lies flat, and its height, over ``phase`` in [0, 1]."""

    def planted(p: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Roll over the heel, then over the ball."""
        pitch = np.radians(PITCH(p))
        x = np.where(p < (SOLE_DOWN + HEEL_UP) / 2, HEEL_BACK, -BALL_AHEAD)
        ahead = x * np.cos(pitch) - ANKLE_HEIGHT * np.sin(pitch) - x
        return ahead * stature_m, (x * np.sin(pitch) + ANKLE_HEIGHT * np.cos(pitch)) * stature_m

    step = 1e-5
    ends = np.array([STANCE - step, STANCE, 0.0, step])
    x, z = planted(ends)
    length = 1.0 - STANCE
    u = np.clip((phase - STANCE) / length, 0.0, 1.0)
    swing = []
    for value, advance in ((x, stride_m), (z, 0.0)):
        rate = np.array([value[1] - value[0], value[3] - value[2]]) / step * length
        a, b = value[1], value[2] + advance
        swing.append(
            a * (2 * u**3 - 3 * u**2 + 1) + rate[0] * (u**3 - 2 * u**2 + u)
            + b * (3 * u**2 - 2 * u**3) + rate[1] * (u**3 - u**2)
        )  # fmt: skip
    ahead, height = planted(np.clip(phase, 0.0, STANCE))
    flying = phase > STANCE
    return np.where(flying, swing[0], ahead), np.where(flying, swing[1], height)


def _on_path(s: FloatArray, left_m: FloatArray, radius: float) -> tuple[FloatArray, FloatArray]:
    """(T, 2) points ``left_m`` of the path at arc length ``s``, and (T,) the heading there."""
    if math.isinf(radius):
        return np.stack([s, left_m + 0 * s], -1), np.zeros_like(s)
    angle = s / radius
    out = radius - left_m
    return np.stack([out * np.cos(angle), out * np.sin(angle)], -1), angle + np.pi / 2


def _gait(
    turns: FloatArray,
    pelvis_height: FloatArray,
    stature_m: float,
    stride_m: float,
    style: _Style,
    path: tuple[float, float],
) -> FloatArray:
    """Trunk and legs (T, 17, 3) at ``turns`` strides; ``path`` is radius and start; rest NaN."""
    radius, offset = path
    xyz = np.full((len(turns), 17, 3), np.nan)
    s = turns * stride_m + offset
    sway = style.sway_m * np.sin(2 * np.pi * (turns - 0.06))  # over the foot that stands
    ground, heading = _on_path(s, sway, radius)
    pelvis = np.column_stack([ground, pelvis_height])
    heading = heading + 0.04 * np.cos(2 * np.pi * turns)
    lean = style.lean + 0.015 * np.sin(4 * np.pi * turns)
    _trunk(xyz, pelvis, heading, lean, stature_m)
    for side, sign, ahead in (("left", 1.0, 0.0), ("right", -1.0, 0.5)):
        cycles = np.floor(turns + ahead)
        x, z = _foot(turns + ahead - cycles, stature_m, stride_m)
        at = (cycles - ahead + 0.27) * stride_m + x + offset
        point, foot_heading = _on_path(at, sign * style.half_step_width_m + 0 * at, radius)
        xyz[:, _index(f"{side}_ankle")] = np.column_stack([point, z])
        toes = (heading + foot_heading) / 2 + sign * 0.08
        _knee(xyz, side, toes, stature_m)
    return xyz


def _pelvis_height(stature_m: float, stride_m: float, style: _Style, radius: float) -> CubicSpline:
    """Height of the mid-hip over the stride: as high as both legs allow, made smooth."""
    turns = np.linspace(0.0, 1.0, 201)
    xyz = _gait(turns, np.zeros(201), stature_m, stride_m, style, (radius, 0.0))
    leg = 0.998 * (THIGH + SHANK) * stature_m
    allowed = np.full(201, np.inf)
    for side in ("left", "right"):
        between = xyz[:, _index(f"{side}_hip")] - xyz[:, _index(f"{side}_ankle")]
        flat2 = (between[:, :2] ** 2).sum(axis=1)
        if (flat2 > (0.95 * leg) ** 2).any():
            raise ConfigError(
                f"a stature of {stature_m} m cannot step {stride_m / 2:.2f} m: walk slower"
            )
        allowed = np.minimum(allowed, np.sqrt(leg**2 - flat2) - between[:, 2])
    waves = np.stack([f(2 * np.pi * k * turns) for k in (2, 4) for f in (np.cos, np.sin)], -1)
    basis = np.column_stack([np.ones(201), waves])
    smooth = basis @ np.linalg.lstsq(basis[:-1], allowed[:-1], rcond=None)[0]
    smooth += (allowed - smooth).min()
    smooth[-1] = smooth[0]
    periodic = CubicSpline(turns, smooth, bc_type="periodic")
    return periodic


def _trunk(
    xyz: FloatArray, pelvis: FloatArray, heading: FloatArray, lean: FloatArray, stature_m: float
) -> None:
    """Write hips and shoulders: a rigid trunk, leaning forward about the hips."""
    ahead = np.column_stack([np.cos(heading), np.sin(heading), np.zeros_like(heading)])
    left = np.column_stack([-np.sin(heading), np.cos(heading), np.zeros_like(heading)])
    up = np.array([0.0, 0.0, 1.0])
    axis = np.sin(lean)[:, None] * ahead + np.cos(lean)[:, None] * up
    neck = pelvis + TRUNK * stature_m * axis
    for side, sign in (("left", 1.0), ("right", -1.0)):
        xyz[:, _index(f"{side}_hip")] = pelvis + sign * HALF_HIPS * stature_m * left
        xyz[:, _index(f"{side}_shoulder")] = neck + sign * HALF_SHOULDERS * stature_m * left


def _two_links(
    root: FloatArray, tip: FloatArray, lengths_m: tuple[float, float], pole: FloatArray
) -> FloatArray:
    """(T, 3) the joint between two links from ``root`` to ``tip``, bent towards ``pole``.

    The tip must be within reach.
    """
    first, second = lengths_m
    span = tip - root
    distance = np.linalg.norm(span, axis=1, keepdims=True)
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    aside = np.sqrt(np.maximum(first**2 - along**2, 0.0))
    unit = span / distance
    bend = pole - (pole * unit).sum(axis=1, keepdims=True) * unit
    bend /= np.linalg.norm(bend, axis=1, keepdims=True)
    return np.asarray(root + along * unit + aside * bend)


def _knee(xyz: FloatArray, side: str, toes: FloatArray, stature_m: float) -> None:
    pole = np.column_stack([np.cos(toes), np.sin(toes), np.zeros_like(toes)])
    xyz[:, _index(f"{side}_knee")] = _two_links(
        xyz[:, _index(f"{side}_hip")], xyz[:, _index(f"{side}_ankle")],
        (THIGH * stature_m, SHANK * stature_m), pole,
    )  # fmt: skip


def _trunk_axes(xyz: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(T, 3) each: ahead, left, up of the rigid trunk."""
    left = xyz[:, _index("left_shoulder")] - xyz[:, _index("right_shoulder")]
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    neck = (xyz[:, _index("left_shoulder")] + xyz[:, _index("right_shoulder")]) / 2
    up = neck - (xyz[:, _index("left_hip")] + xyz[:, _index("right_hip")]) / 2
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    return np.cross(left, up), left, up


def _swing_arms(xyz: FloatArray, phase: FloatArray, stature_m: float, style: _Style) -> None:
    """Write elbows and wrists: each arm swings with the leg of the other side."""
    ahead, left, up = _trunk_axes(xyz)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        swing = -sign * np.cos(phase - 0.3)  # the left heel lands at phase 0
        flex = style.arm_swing * swing + 0.06
        bend = flex + style.elbow + 0.12 * (1.0 + swing)
        elbow = xyz[:, _index(f"{side}_shoulder")]
        for joint, angle, length in (("elbow", flex, UPPER_ARM), ("wrist", bend, FOREARM)):
            out = style.abduction if joint == "elbow" else -0.04
            aside = math.sin(out) * sign
            down = math.cos(out) * np.cos(angle)
            direction = (
                (math.cos(out) * np.sin(angle))[:, None] * ahead
                + aside * left
                - down[:, None] * up
            )
            elbow = elbow + length * stature_m * direction
            xyz[:, _index(f"{side}_{joint}")] = elbow


def _add_face(xyz: FloatArray, stature_m: float, turn: FloatArray, nod: FloatArray) -> None:
    """Write nose, eyes and ears: a rigid head, upright, turned and nodded about the neck."""
    left_end, right_end = xyz[:, _index("left_shoulder")], xyz[:, _index("right_shoulder")]
    neck = (left_end + right_end) / 2
    across = left_end - right_end
    heading = np.arctan2(-across[:, 0], across[:, 1]) + turn
    zero = np.zeros_like(heading)
    ahead = np.column_stack([np.cos(heading), np.sin(heading), zero])
    left = np.column_stack([-np.sin(heading), np.cos(heading), zero])
    up = np.array([0.0, 0.0, 1.0])
    front = np.cos(nod)[:, None] * ahead + np.sin(nod)[:, None] * up
    crown = np.cos(nod)[:, None] * up - np.sin(nod)[:, None] * ahead
    axes = np.stack([front, left, crown], axis=1)  # (T, 3 axes, 3)
    xyz[:, :5] = neck[:, None] + stature_m * np.einsum("ka,tax->tkx", FACE, axes)


def _stand(
    t: FloatArray, stature_m: float, lean: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Trunk and legs of somebody who shifts the weight now and then."""
    xyz = np.full((len(t), 17, 3), np.nan)
    rates, phases = rng.uniform(0.15, 0.4, 2), rng.uniform(0, 2 * np.pi, 2)
    x = -0.15 * (lean - 0.03) * TRUNK * stature_m + 0.006 * np.sin(2 * np.pi * rates[0] * t)
    y = 0.02 * np.sin(2 * np.pi * rates[1] * t + phases[1])
    height = 0.985 * (THIGH + SHANK) * stature_m + ANKLE_HEIGHT * stature_m
    heading = 0.05 * np.sin(2 * np.pi * rates[0] * t + phases[0])
    _trunk(xyz, np.column_stack([x, y, np.full(len(t), height)]), heading, lean, stature_m)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        ankle = np.array([-0.01, sign * 0.07, ANKLE_HEIGHT]) * stature_m
        ankle[0] += 0.02 * rng.normal()
        xyz[:, _index(f"{side}_ankle")] = ankle
        _knee(xyz, side, heading + sign * 0.15, stature_m)
    return xyz


def _strokes(rng: np.random.Generator, t: FloatArray, stature_m: float, sign: float) -> FloatArray:
    """(T, 3) the wrist from the shoulder in trunk axes: minimum-jerk strokes between rests."""
    rest = np.array([0.16, 0.0, -0.20])
    where = np.broadcast_to(rest, (len(t), 3)).copy()
    start, at = rng.uniform(0.1, 0.4), rest
    out = False
    while start < t[-1]:
        out = not out
        low, high = np.array([0.22, -0.04, -0.10]), np.array([0.30, 0.16, 0.14])
        goal = rng.uniform(low, high) if out else rest + rng.uniform(-0.02, 0.02, 3)
        goal = goal * np.array([1.0, sign if out else 1.0, 1.0])
        goal = goal * min(1.0, 0.97 * (UPPER_ARM + FOREARM) / float(np.linalg.norm(goal)))
        lasts = max(rng.uniform(0.25, 0.45), 1.875 * np.linalg.norm(goal - at) * stature_m / 4.0)
        u = np.clip((t - start) / lasts, 0.0, 1.0)
        where += np.outer(u**3 * (10 - 15 * u + 6 * u**2), goal - at)
        at, start = goal, start + lasts + rng.uniform(0.1, 0.6)
    return where * stature_m


def _arm_to(xyz: FloatArray, side: str, sign: float, target: FloatArray, stature_m: float) -> None:
    """Write elbow and wrist for a wrist ``target`` (T, 3) from the shoulder in trunk axes."""
    ahead, left, up = _trunk_axes(xyz)
    shoulder = xyz[:, _index(f"{side}_shoulder")]
    wrist = shoulder + target[:, :1] * ahead + target[:, 1:2] * left + target[:, 2:] * up
    pole = -0.8 * up + 0.45 * sign * left - 0.35 * ahead
    xyz[:, _index(f"{side}_wrist")] = wrist
    xyz[:, _index(f"{side}_elbow")] = _two_links(
        shoulder, wrist, (UPPER_ARM * stature_m, FOREARM * stature_m), pole
    )
