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

#: Spread of a limb's joints as COCO has it; sets without published sigmas borrow these.
_LIMB_SIGMA = {
    "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107, "knee": 0.087, "ankle": 0.089,
}  # fmt: skip
_LIMBS = _pairs(*_LIMB_SIGMA)
_LIMB_BONES = (
    ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip"),
    *_chains("shoulder hip", "shoulder elbow wrist", "hip knee ankle"),
)  # fmt: skip


def _limbs_of(*parts: str) -> tuple[str, ...]:
    """Left then right of every part: 'shoulder elbow' -> l_sho, r_sho, l_elb, r_elb."""
    return tuple(joint for pair in _pairs(*parts) for joint in pair)


def _sigmas(joints: tuple[str, ...], **central: float) -> tuple[float, ...]:
    """Sigma of every joint: COCO's for limbs, ``central`` for joints on the body's middle."""
    return tuple(
        central.get(joint, _LIMB_SIGMA.get(joint.split("_")[-1], 0.0)) for joint in joints
    )


_PT_LIMBS = _limbs_of("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_PT_BONES = (
    ("head_top", "neck"), ("nose", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"),
    *_LIMB_BONES,
)  # fmt: skip
_PT_HEAD = {"nose": 0.026, "neck": 0.025, "head_top": 0.025}

#: PoseTrack's joints; ``neck`` is what the files call head_bottom. The order of PoseTrack21's kit.
POSETRACK15 = Skeleton(
    name="posetrack15",
    joints=("nose", "neck", "head_top", *_PT_LIMBS),
    edges=_PT_BONES,
    flip_pairs=_LIMBS,
    oks_sigma=_sigmas(("nose", "neck", "head_top", *_PT_LIMBS), **_PT_HEAD),
)

#: The 17 slots of PoseTrack18 and 21 files: POSETRACK15 and two ears that nobody ever labelled.
POSETRACK17_SLOTS = Skeleton(
    name="posetrack17_slots",
    joints=("nose", "neck", "head_top", "left_ear", "right_ear", *_PT_LIMBS),
    edges=(*_PT_BONES, ("nose", "left_ear"), ("nose", "right_ear")),
    flip_pairs=(("left_ear", "right_ear"), *_LIMBS),
    oks_sigma=(0.026, 0.025, 0.025, 0.035, 0.035, *POSETRACK15.oks_sigma[3:]),
)

_POSEVAL_JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
    "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist",
    "neck", "nose", "head_top",
)  # fmt: skip

#: POSETRACK15 by the ids of PoseTrack17 files and of the poseval evaluator.
POSEVAL15 = Skeleton(
    name="poseval15",
    joints=_POSEVAL_JOINTS,
    edges=_PT_BONES,
    flip_pairs=_LIMBS,
    oks_sigma=_sigmas(_POSEVAL_JOINTS, **_PT_HEAD),
)

#: MPII's 16 joints; ``neck`` is its "upper neck". Sigmas as mmpose uses them.
MPII16 = Skeleton(
    name="mpii16",
    joints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle",
        "pelvis", "thorax", "neck", "head_top",
        "right_wrist", "right_elbow", "right_shoulder",
        "left_shoulder", "left_elbow", "left_wrist",
    ),
    edges=(
        ("head_top", "neck"), ("neck", "thorax"), ("thorax", "pelvis"),
        ("thorax", "left_shoulder"), ("thorax", "right_shoulder"),
        ("pelvis", "left_hip"), ("pelvis", "right_hip"),
        *_chains("shoulder elbow wrist", "hip knee ankle"),
    ),
    flip_pairs=_LIMBS,
    oks_sigma=(
        0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026,
        0.026, 0.026, 0.062, 0.072, 0.179, 0.179, 0.072, 0.062,
    ),
)  # fmt: skip

#: CrowdPose's 14 joints; sigmas of its own evaluator.
CROWDPOSE14 = Skeleton(
    name="crowdpose14",
    joints=(*_PT_LIMBS, "head_top", "neck"),
    edges=(
        ("head_top", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"), *_LIMB_BONES,
    ),
    flip_pairs=_LIMBS,
    oks_sigma=(
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089, 0.079, 0.079,
    ),
)  # fmt: skip

#: Leeds Sports Pose; it has no published sigmas, so CrowdPose's.
LSP14 = Skeleton(
    name="lsp14",
    joints=(*_POSEVAL_JOINTS[:12], "neck", "head_top"),
    edges=CROWDPOSE14.edges,
    flip_pairs=_LIMBS,
    oks_sigma=_sigmas((*_POSEVAL_JOINTS[:12], "neck", "head_top"), neck=0.079, head_top=0.079),
)

#: Human3.6M's usual 17 joints; ``thorax`` is the base of the neck, ``pelvis`` the root. It has no
#: published sigmas: COCO's for limbs, MPII's for the middle of the body.
H36M17 = Skeleton(
    name="h36m17",
    joints=(
        "pelvis", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
        "spine", "thorax", "nose", "head_top",
        "left_shoulder", "left_elbow", "left_wrist",
        "right_shoulder", "right_elbow", "right_wrist",
    ),
    edges=(
        ("pelvis", "spine"), ("spine", "thorax"), ("thorax", "nose"), ("nose", "head_top"),
        ("thorax", "left_shoulder"), ("thorax", "right_shoulder"),
        ("pelvis", "left_hip"), ("pelvis", "right_hip"),
        *_chains("shoulder elbow wrist", "hip knee ankle"),
    ),
    flip_pairs=_LIMBS,
    oks_sigma=(
        0.026, 0.107, 0.087, 0.089, 0.107, 0.087, 0.089, 0.026, 0.026, 0.026, 0.026,
        0.079, 0.072, 0.062, 0.079, 0.072, 0.062,
    ),
)  # fmt: skip

SKELETONS = {
    skeleton.name: skeleton
    for skeleton in (
        COCO17, POSETRACK15, POSETRACK17_SLOTS, POSEVAL15, MPII16, CROWDPOSE14, LSP14, H36M17,
    )
}  # fmt: skip


def get_skeleton(name: str) -> Skeleton:
    """Return the joint set of that name.

    Raises:
        ConfigError: if there is none.

    """
    if name not in SKELETONS:
        raise ConfigError(f"joint set '{name}' is not known; known: {', '.join(SKELETONS)}")
    return SKELETONS[name]


def mapping(source: Skeleton, target: Skeleton) -> npt.NDArray[np.int64]:
    """(J_target,) index in ``source`` of every joint of ``target``; -1 where it has none."""
    where = {joint: index for index, joint in enumerate(source.joints)}
    return np.array([where.get(joint, -1) for joint in target.joints], np.int64)


#: Joints that a set lacks, from the mean of two that it has.
_MIDDLES = {
    "neck": ("left_shoulder", "right_shoulder"),
    "thorax": ("left_shoulder", "right_shoulder"),
    "pelvis": ("left_hip", "right_hip"),
}


def convert(
    joints: npt.NDArray[np.float32],
    score: npt.NDArray[np.float32],
    source: Skeleton,
    target: Skeleton,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Positions (..., J, D) and scores (..., J) of one joint set in another.

    Joints of the same name are copied. A missing neck or thorax is the middle of the shoulders, a
    missing pelvis that of the hips, and a missing head_top lies as far beyond the nose as the
    middle of the shoulders lies before it; such a joint's score is the mean of what it rests on.
    Everything else is NaN with score 0.

    Source: the neck and head_top that DCPose's tools give to COCO networks on PoseTrack.
    """
    index = mapping(source, target)
    out = np.where((index >= 0)[:, None], joints[..., index, :], np.nan).astype(np.float32)
    rate = np.where(index >= 0, score[..., index], 0.0).astype(np.float32)

    def middle(pair: tuple[str, str]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        a, b = (source.index(joint) for joint in pair)
        half = np.float32(0.5)
        point = half * (joints[..., a, :] + joints[..., b, :])
        return point.astype(np.float32), (half * (score[..., a] + score[..., b])).astype(
            np.float32
        )

    for slot in np.flatnonzero(index < 0):
        joint = target.joints[slot]
        if joint in _MIDDLES and set(_MIDDLES[joint]) <= set(source.joints):
            out[..., slot, :], rate[..., slot] = middle(_MIDDLES[joint])
        elif joint == "head_top" and {"nose", *_MIDDLES["neck"]} <= set(source.joints):
            nose = source.index("nose")
            base, base_score = middle(_MIDDLES["neck"])
            out[..., slot, :] = 2 * joints[..., nose, :] - base
            rate[..., slot] = (score[..., nose] + base_score) / 2
    rate[~np.isfinite(out).all(axis=-1)] = 0.0
    return out, rate
