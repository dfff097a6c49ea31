"""Adaptive pose refinement (APRS) of whole windows: offline tracks and differentiable iterations.

Letters: B people, S frames, K joints, E bones, d axes (2 or 3). The energy and its constants are
in ``refine_energy.py``; a live stream is refined by ``refine_stream.py``.

Source: equations 24 to 32 of the HSTPN paper. Its unit step diverges (`literal_config` shows
it), so the step is one over the curvature of the energy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import Anatomy, anatomy_of
from pose_ros.core.penalties import Context, Penalty, lateral_axis
from pose_ros.core.refine_arrays import Array, nan_to, ops_of
from pose_ros.core.refine_energy import Constraints, Window, edge_weight, second_difference
from pose_ros.core.refine_energy import RefineConfig as RefineConfig
from pose_ros.core.refine_energy import literal_config as literal_config
from pose_ros.core.refine_energy import offline_config as offline_config
from pose_ros.core.refine_energy import stream_config as stream_config
from pose_ros.core.skeletons import Skeleton
from pose_ros.errors import ShapeError

ARMIJO, HALVINGS = 1e-4, 5


@dataclass(frozen=True)
class RefinedWindow:
    """A refined window; arrays (or tensors) of the kind that came in."""

    points: Array  # (B, S, K, d), NaN for joints never seen in the window
    terms: Array  # (N + 1, 4, B) data, spatial, temporal, domain energy before every iteration
    energy: Array  # (N + 1, B) their weighted sum
    rejected: Array  # (B,) whether the energy rose, so that the points are those that came in


def open_window(
    points: Array,
    confidence: Array,
    stamps_s: npt.NDArray[np.float64],
    lengths: Array | None,
    skeleton: Skeleton,
    config: RefineConfig,
    hooks: tuple[Penalty, ...] = (),
    ground: Array | None = None,
) -> tuple[Window, Array]:
    """Energy of a window and its start: the measured points, gaps filled along time.

    ``points`` (B, S, K, d), NaN where missing; ``confidence`` (B, S, K); ``stamps_s`` (B, S)
    ascending seconds; ``lengths`` (B, E) in the unit of the points, NaN or None where unknown;
    ``ground`` (4,) normal and offset of the floor (3-D).

    Raises:
        ShapeError: shapes do not fit each other or the skeleton.

    """
    anatomy, ops = anatomy_of(skeleton), ops_of(points)
    _check(points, confidence, stamps_s, anatomy)
    people, dims = points.shape[0], points.shape[-1]
    known = ops.isfinite(points).all(-1)
    sure = nan_to(confidence, 0.0, ops) * known
    sure = ops.minimum(ops.maximum(sure, 0.0), 1.0)
    start = _fill(points, known, np.asarray(stamps_s, np.float64))
    if lengths is None:
        lengths = ops.constant(np.full((people, len(anatomy.edges)), np.nan), start)
    seen = known.any(1)[:, anatomy.edges[:, 0]] & known.any(1)[:, anatomy.edges[:, 1]]
    ramp = (ops.isfinite(lengths) & seen)[:, None] * ops.constant(1.0, start)
    context = Context(
        anatomy, nan_to(lengths, 0.0, ops)[:, None], sure,
        _speed_budget(np.asarray(stamps_s), anatomy, start) if config.speed else None,
        lateral=lateral_axis(start, sure, anatomy) if config.bend else None, ground=ground,
        angles=config.angle_limits and dims == 3, bend=config.bend and dims == 3,
        symmetry=config.symmetry and dims == 3,
    )  # fmt: skip
    if config.mode == "literal":
        weight = ramp + 0.0 * sure[..., :1]
    else:
        weight = edge_weight(sure, anatomy, ramp)
    constraints = Constraints(config, context, weight, dims, hooks)
    rows = second_difference(stamps_s, config.step_clamp)
    return Window(start, sure, rows, constraints), start


def unroll(window: Window, start: Array, iterations: int) -> RefinedWindow:
    """Take ``iterations`` steps of fixed length, differentiably: equations 24 and 31.

    ``terms[1:]`` are what equation 32 sums up. On tensors, gradients reach points, confidences
    and lengths; Huber weights and the lateral axis count as constants. Nothing is rejected.
    """
    terms, energy, points = [], [], start
    for _ in range(iterations):
        value, gradient = window.terms(points)
        terms.append(value)
        energy.append(window.energy(value))
        points = points - window.step * gradient
    value, _ = window.terms(points)
    ops = window.ops
    terms.append(value)
    energy.append(window.energy(value))
    none = ops.zeros_like(energy[0]) > 1.0
    return RefinedWindow(points, ops.stack(terms), ops.stack(energy), none)


def closed_form(window: Window) -> npt.NDArray[np.float64]:
    """Exact minimum of data and temporal energy alone, Huber weights renewed once (numpy).

    Where the descent starts: it crosses gaps at once, which gradients do slowly.
    """
    anchor, config, frames = window.anchor, window.config, window.anchor.shape[1]
    if frames < 3 or window.lambda_d == 0:
        return np.asarray(anchor)
    smooth = np.einsum("btk,bts,btu->bksu", window.omega, window.rows, window.rows)
    smooth *= 2.0 * window.lambda_t / (frames - 2)
    at, points = np.arange(frames), anchor
    for _ in range(2):
        off = np.linalg.norm(points - anchor, axis=-1)
        weight = window.lambda_d * window.weight * config.huber / np.maximum(off, config.huber)
        system = smooth.copy()
        system[..., at, at] += weight.swapaxes(1, 2)
        wanted = (weight[..., None] * anchor).swapaxes(1, 2)
        points = np.linalg.solve(system, wanted).swapaxes(1, 2)
    return np.asarray(points)


def minimise(window: Window, start: npt.NDArray[np.float64]) -> RefinedWindow:
    """Descend with momentum, restarts and a line search per person until nothing moves (numpy).

    Every step starts at one over the curvature; it is halved while it does not lower the energy
    enough (Armijo), and the momentum is dropped where the energy would rise.
    """
    config = window.config
    points, last = start, start
    value, gradient = window.terms(points)
    energy = window.energy(value)
    terms, energies = [value], [energy]
    momentum = np.zeros(len(start))
    for _ in range(config.iterations):
        ahead = points + (momentum / (momentum + 3.0))[:, None, None, None] * (points - last)
        value, gradient = window.terms(ahead)
        base = window.energy(value)
        bad = base > energy  # momentum overshot: restart from the last points
        if bad.any():
            ahead = np.where(bad[:, None, None, None], points, ahead)
            value, gradient = window.terms(ahead)
            base = window.energy(value)
            momentum = np.where(bad, 0.0, momentum)
        moved, value, after = _line_search(window, ahead, gradient, base)
        worse = after > energy
        moved = np.where(worse[:, None, None, None], points, moved)
        momentum = np.where(worse, 0.0, momentum + 1.0)
        last, points = points, moved
        energy = np.minimum(after, energy)
        terms.append(value)
        energies.append(energy)
        if np.abs(points - last).max(initial=0.0) < config.tolerance and not worse.any():
            break
    return RefinedWindow(
        points, np.stack(terms), np.stack(energies), energies[-1] > energies[0] + 1e-12
    )


def _line_search(
    window: Window, start: Array, gradient: Array, energy: Array
) -> tuple[Array, Array, Array]:
    """Points, terms and energy after a step that lowers the energy enough, per person."""
    step = window.step
    slope = (gradient * gradient).reshape(len(gradient), -1).sum(-1)
    for _ in range(HALVINGS + 1):
        points = start - step * gradient
        value, _ = window.terms(points)
        after = window.energy(value)
        short = after > energy - ARMIJO * step[:, 0, 0, 0] * slope + 1e-15
        if not short.any():
            break
        step = np.where(short[:, None, None, None], 0.5 * step, step)
    return points, value, after


def refine(
    points: npt.NDArray[Any],
    confidence: npt.NDArray[Any],
    stamps_s: npt.NDArray[np.float64],
    lengths: npt.NDArray[Any] | None,
    skeleton: Skeleton,
    config: RefineConfig | None = None,
) -> npt.NDArray[np.float32]:
    """Refine whole tracks: (B, S, K, d) points, NaN where missing, to the same without gaps.

    Arguments as in `open_window`. Long tracks are refined in chunks of ``config.chunk`` frames
    whose overlaps are faded into each other. Joints that no frame of a chunk saw stay NaN there.

    Raises:
        ShapeError: shapes do not fit each other or the skeleton.

    """
    config = config or offline_config(points.shape[-1])
    stamps_s = np.asarray(stamps_s, np.float64)
    _check(points, confidence, stamps_s, anatomy_of(skeleton))
    points = np.asarray(points, np.float64)
    confidence = np.asarray(confidence, np.float64)
    frames = points.shape[1]
    out = np.full(points.shape, np.nan)
    first = 0
    while len(points) and first < frames:
        end = min(first + config.chunk, frames)
        part = slice(first, end)
        window, start = open_window(
            points[:, part], confidence[:, part], stamps_s[:, part], lengths, skeleton, config
        )
        done = unroll(window, start, config.iterations) if config.mode == "literal" else (
            minimise(window, closed_form(window))
        )  # fmt: skip
        seen = np.isfinite(points[:, part]).all(axis=-1).any(axis=1)
        new = np.where(seen[:, None, :, None], done.points, np.nan)
        _fade(out, new, first, config.overlap if first else 0)
        if end == frames:
            break
        first = end - config.overlap
    return out.astype(np.float32)


def _fade(out: Array, new: Array, first: int, overlap: int) -> None:
    """Write ``new`` at ``first``, mixed with what is there over ``overlap`` frames."""
    share = np.arange(1, overlap + 1)[:, None, None] / (overlap + 1)
    old, head = out[:, first : first + overlap], new[:, :overlap]
    mixed = (1 - share[: head.shape[1]]) * old + share[: head.shape[1]] * head
    mixed = np.where(np.isfinite(old), np.where(np.isfinite(head), mixed, old), head)
    out[:, first : first + new.shape[1]] = np.concatenate([mixed, new[:, overlap:]], axis=1)


def _speed_budget(stamps_s: Array, anatomy: Anatomy, like: Array) -> Array:
    steps = np.diff(stamps_s, axis=1)[..., None] * anatomy.speed_limit
    return ops_of(like).constant(steps, like)


def _fill(points: Array, known: Array, stamps_s: npt.NDArray[np.float64]) -> Array:
    """``points`` with gaps interpolated along time, held at the ends; 0 if never known.

    Written with weights (B, S, S, K) rather than searches, so that gradients pass.
    """
    ops = ops_of(points)
    seen = np.asarray(known if isinstance(known, np.ndarray) else known.cpu().numpy())
    frames = seen.shape[1]
    at = np.arange(frames)[None, :, None]
    before = np.maximum.accumulate(np.where(seen, at, -1), axis=1)
    after = np.minimum.accumulate(np.where(seen, at, frames)[:, ::-1], axis=1)[:, ::-1]
    before, after = np.where(before < 0, after, before), np.where(after >= frames, before, after)
    left, right = np.clip(before, 0, frames - 1), np.clip(after, 0, frames - 1)
    times = np.broadcast_to(stamps_s[:, :, None], seen.shape)
    t0 = np.take_along_axis(times, left, axis=1)
    span = np.take_along_axis(times, right, axis=1) - t0
    share = np.where(span > 0, (times - t0) / np.where(span > 0, span, 1.0), 0.0)
    clean = nan_to(points, 0.0, ops)
    rows, joints = np.arange(len(seen))[:, None, None], np.arange(seen.shape[2])
    mix = ops.constant(share, clean)[..., None]
    filled = (1 - mix) * clean[rows, left, joints] + mix * clean[rows, right, joints]
    return ops.where(known[..., None], clean, filled)


def _check(points: Array, confidence: Array, stamps_s: Array, anatomy: Anatomy) -> None:
    joints = len(anatomy.skeleton)
    shape = tuple(points.shape)
    if len(shape) != 4 or shape[2] != joints or shape[3] not in (2, 3):
        raise ShapeError(f"refine: expected points (B, S, {joints}, 2 or 3), got {shape}")
    if tuple(confidence.shape) != shape[:3] or tuple(stamps_s.shape) != shape[:2]:
        raise ShapeError(
            f"refine: expected confidence {shape[:3]} and stamps {shape[:2]}, "
            f"got {tuple(confidence.shape)} and {tuple(stamps_s.shape)}"
        )
