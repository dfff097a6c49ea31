"""Named joint sets: the only place with joint indices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pose_ros.errors import ConfigError


@dataclass(frozen=True)
class Skeleton:
    """A joint set: names in index order, bones and mirrored pairs by name.

    ``oks_sigma`` is COCO's per-joint spread (object keypoint similarity), dimensionless.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    flip_pairs: tuple[tuple[str, str], ...]
    oks_sigma: tuple[float, ...]

    def index(self, joint: str) -> int:
        """Index of a joint.

        Raises:
            ConfigError: if the joint set has no such joint.

        """
        if joint not in self.joints:
            raise ConfigError(
                f"{self.name} has no joint '{joint}'; it has {', '.join(self.joints)}"
            )
        return self.joints.index(joint)

    def edge_indices(self) -> npt.NDArray[np.int64]:
        """(E, 2) joint indices of the bones."""
        return np.array([[self.index(a), self.index(b)] for a, b in self.edges], np.int64)

    def flip_order(self) -> npt.NDArray[np.int64]:
        """(J,) the index order that swaps left and right."""
        order = np.arange(len(self.joints))
        for left, right in self.flip_pairs:
            a, b = self.index(left), self.index(right)
            order[[a, b]] = b, a
        return order

    def __len__(self) -> int:
        """Return the number of joints."""
        return len(self.joints)


def _pairs(*parts: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"left_{part}", f"right_{part}") for part in parts)


def _chains(*chains: str) -> tuple[tuple[str, str], ...]:
    """Bones of 'a b c' on both sides of the body: a-b and b-c, left then right."""
    bones = []
    for side in ("left", "right"):
        for chain in chains:
            names = [f"{side}_{part}" for part in chain.split()]
            bones += list(itertools.pairwise(names))
    return tuple(bones)


#: COCO's 17 keypoints; order and sigmas as in pycocotools.
COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
        "left_wrist", "right_wrist", "left_hip", "right_hip",
        "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    edges=(
        ("nose", "left_eye"), ("nose", "right_eye"), *_chains("eye ear"),
        ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
        *_chains("shoulder hip", "shoulder elbow wrist", "hip knee ankle"),
    ),
    flip_pairs=_pairs("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
    oks_sigma=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
        0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO17,)}


def get_skeleton(name: str) -> Skeleton:
    """Return the joint set of that name.

    Raises:
        ConfigError: if there is none.

    """
    if name not in SKELETONS:
        raise ConfigError(f"joint set '{name}' is not known; known: {', '.join(SKELETONS)}")
    return SKELETONS[name]
