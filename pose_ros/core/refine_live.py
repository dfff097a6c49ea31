"""The spatial and domain energy of a live frame: that of `Constraints`, in few array operations.

A live frame is small (a few people, some twenty joints), so what costs is the number of numpy's
calls and not their size. Here bones and hinge arms are read by one matrix, hinges are looked at
closely only while one of them is violated, and what a joint set fixes is prepared once.

Letters: P people, m frames, K joints, E bones, H hinges, d axes (2 or 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from pose_ros.core.anthropometry import Anatomy, anatomy_of
from pose_ros.core.penalties import (
    BEND_SLACK,
    BonePenalties,
    Context,
    Penalty,
    speed_penalty,
)
from pose_ros.core.refine_energy import BONE_CONFIDENCE_FLOOR, RefineConfig
from pose_ros.core.skeletons import Skeleton

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tables:
    """What a joint set fixes."""

    reader: Floats  # (E + 2 H, K) bones, then the arms from every hinge to its two neighbours
    ends: Floats  # (K, E) half at both joints of a bone
    members: Floats  # (E, K) 1 at both joints of a bone
    symmetry: Floats  # (K,) curvature that the symmetry of mirrored bones has at each joint
    straight: bool  # whether no hinge is limited towards the straight line


@cache
def tables_of(skeleton: Skeleton) -> Tables:
    """Return the tables of a joint set; computed once per set."""
    anatomy = anatomy_of(skeleton)
    members = np.abs(anatomy.incidence)
    arms = anatomy.hinge_signs * anatomy.incidence[anatomy.hinge_bones]
    return Tables(
        np.concatenate([anatomy.incidence, arms]),
        np.ascontiguousarray(0.5 * members.T),
        members,
        4.0 * (np.abs(anatomy.mirror_pairs) @ members).sum(axis=0),
        bool((anatomy.cos_min <= -1.0).all()),
    )


def bone_weight(confidence: Floats, anatomy: Anatomy, ramp: Floats) -> Floats:
    """`refine_energy.edge_weight` (P, m, E) on numpy arrays, with prepared tables."""
    ends = confidence @ tables_of(anatomy.skeleton).ends
    return np.asarray(np.sqrt(np.maximum(ends, BONE_CONFIDENCE_FLOOR)) * ramp)


class LiveEnergy:
    """Weighted spatial and domain energy of the newest frames of P people.

    ``weight`` (P, m, E) is 0 where a length is unknown.
    """

    def __init__(
        self, config: RefineConfig, context: Context, weight: Floats, dims: int,
        hooks: tuple[Penalty, ...] = (),
    ) -> None:  # fmt: skip
        """Prepare what stays constant while the points move."""
        anatomy = context.anatomy
        auto = "equality" if dims == 3 else "upper"
        mode = config.spatial_mode if config.spatial_mode != "auto" else auto
        self.config, self.context, self.weight = config, context, weight
        self.tables = tables_of(anatomy.skeleton)
        self.bones = BonePenalties(context, weight)
        self._upper, self._lengths = mode == "upper", context.lengths
        self._edges, self._hinges = len(anatomy.edges), self.bones.hinges
        self._reader = self.tables.reader if self._hinges else anatomy.incidence
        self.back, self._ones = anatomy.incidence.T, np.ones(dims)
        self._pushes = not self._upper or config.band > 0
        self._stiff = config.lambda_spatial * weight
        self._pairs = None
        if self.bones.symmetric:
            self._pairs = config.lambda_domain * anatomy.mirror_laplacian
        terms = list(hooks)
        if context.speed_budget is not None:
            terms.append(speed_penalty)  # type: ignore[arg-type]
        self._terms = terms
        self._floor = None
        if context.ground is not None:
            self._floor = np.asarray(context.ground[:3]), float(context.ground[3])
        self.hook_curvature = float(sum(hook.curvature for hook in hooks))

    def value(self, points: Floats) -> Floats:
        """Weighted energy (N, P) of N versions of the points, (N, P, m, K, d)."""
        vectors, reach = self._read(points)
        bones, length = vectors[..., : self._edges, :], reach[..., : self._edges]
        excess = self._excess(length)
        linear = excess - np.maximum(excess, -length)
        total = (self._stiff * (0.5 * excess * excess - 0.25 * linear * linear)).sum(axis=(-1, -2))
        share = self.config.lambda_domain
        if self._pairs is not None:
            total = total + (0.5 * length * (length @ self._pairs)).sum(axis=(-1, -2))
        if self._hinges and self._violated(vectors, reach):
            total = total + share * self.bones.hinge_values(bones, length).sum(axis=-1)
        for term in self._terms:
            total = total + share * np.stack([term(each, self.context)[0] for each in points])
        below = self._below(points)
        if below is not None:
            total = total + share * (0.5 * below * below).sum(axis=(-1, -2))
        return np.asarray(total)

    def gradient(self, points: Floats) -> tuple[Floats, Mask | None]:
        """Gradient (P, m, K, d), and the hinges (P, m, H) that act now, None for none."""
        pull = np.empty((*points.shape[:2], self._edges, points.shape[-1]))
        active = self.pull(points, pull)
        gradient = self.back @ pull
        others = self.point_gradient(points)
        return gradient if others is None else gradient + others, active

    def pull(self, points: Floats, out: Floats) -> Mask | None:
        """Write the gradient by the bone vectors to ``out`` (P, m, E, d); which hinges act now."""
        vectors, reach = self._read(points)
        bones, length = vectors[..., : self._edges, :], reach[..., : self._edges]
        excess = self._excess(length)
        # Too short a bone pushes at most with its own length; in 2-D `excess` is never negative.
        along = self._stiff * (np.maximum(excess, -length) if self._pushes else excess)
        if self._pairs is not None:
            along += length @ self._pairs
        along /= length
        np.multiply(along[..., None], bones, out=out)
        if not (self._hinges and self._violated(vectors, reach)):
            return None
        per_bone, active = self.bones.gradient(bones, length)
        if per_bone is not None:
            out += self.config.lambda_domain * per_bone
        return None if active is None else np.asarray(active)

    def point_gradient(self, points: Floats) -> Floats | None:
        """Gradient (P, m, K, d) of what does not come from bones; None when there is no such."""
        below = self._below(points)
        if not self._terms and below is None:
            return None
        parts = [term(points, self.context)[1] for term in self._terms]
        if below is not None and self._floor is not None:
            lifted = np.zeros_like(points)
            lifted[..., self.context.anatomy.ground, :] = below[..., None] * self._floor[0]
            parts.append(lifted)
        return np.asarray(self.config.lambda_domain * sum(parts[1:], parts[0]))

    def _below(self, points: Floats) -> Floats | None:
        """Heights (..., G) of ankles and knees below the floor, 0 above; None: all are above."""
        if self._floor is None:
            return None
        normal, offset = self._floor
        height = points[..., self.context.anatomy.ground, :] @ normal + offset
        return np.asarray(np.minimum(height, 0.0)) if (height < 0.0).any() else None

    def _read(self, points: Floats) -> tuple[Floats, Floats]:
        """Bones and arms (..., E + 2 H, d) and their lengths."""
        vectors = self._reader @ points
        return vectors, np.sqrt((vectors * vectors) @ self._ones + 1e-12)

    def _excess(self, length: Floats) -> Floats:
        """How much too long bones are."""
        excess = length - self._lengths
        if self._upper:
            excess = np.maximum(excess, 0.0)
            if self.config.band > 0:
                excess = excess + np.minimum(length - self.config.band * self._lengths, 0.0)
        return np.asarray(excess)

    def _violated(self, vectors: Floats, reach: Floats) -> bool:
        """Whether any hinge is beyond a limit; bones too short for a direction count, too."""
        first, bones, context = self._edges, self.bones, self.context
        middle = first + self._hinges
        a, b = vectors[..., first:middle, :], vectors[..., middle:, :]
        beyond = np.zeros((), np.bool_)
        if context.angles:
            cosine = ((a * b) @ self._ones) / (reach[..., first:middle] * reach[..., middle:])
            beyond = cosine > context.anatomy.cos_max
            if not self.tables.straight:
                beyond |= cosine < context.anatomy.cos_min
        if bones.twist is not None:
            turned = ((a * (b @ bones.twist)) @ self._ones) * bones.bend_unit
            beyond = beyond | (turned < -BEND_SLACK)
        return bool(beyond.any())
