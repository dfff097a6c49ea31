"""The values that cross stages: frozen dataclasses, checked once, at construction.

Letters in shapes: P people, T frames, J joints, H x W image pixels, h x w crop or heatmap cells.
Pixels: x to the right, y down, integer coordinates at pixel *centres* (``docs/conventions.md``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.errors import ShapeError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]


class TrackState(IntEnum):
    """Life of a track; the numbers are those of ``HumanPose.msg``."""

    TENTATIVE = 0
    TRACKED = 1
    OCCLUDED = 2
    LOST = 3


class KeypointStatus(IntEnum):
    """What is known of a joint; the numbers are those of ``Keypoint.msg``."""

    MISSING = 0
    MEASURED = 1
    INFERRED = 2  # not seen in this image; from the rest of the body
    PREDICTED = 3  # not seen in this image; from its motion before
    OUT_OF_IMAGE = 4


class ScaleSource(IntEnum):
    """What metres rest on; the numbers are those of ``HumanPose.msg``."""

    UNKNOWN = 0
    DEPTH = 1
    MONO = 2  # one camera and human proportions
    MULTIVIEW = 3


def check(name: str, array: np.ndarray, shape: tuple[int | None, ...], dtype: type) -> None:
    """Refuse an array of another shape or dtype; ``None`` in ``shape`` admits any length.

    Raises:
        ShapeError: naming the value, what was expected and what came.

    """
    same = len(array.shape) == len(shape)
    same = same and all(w is None or w == g for w, g in zip(shape, array.shape, strict=True))
    if not same or array.dtype != dtype:
        wanted = tuple("any" if n is None else n for n in shape)
        raise ShapeError(
            f"{name}: expected shape {wanted} of {np.dtype(dtype).name}, "
            f"got {array.shape} of {array.dtype.name}"
        )


@dataclass(frozen=True)
class DepthImage:
    """One decoded depth image, of the colour camera's time as nearly as the sensor allows."""

    depth_m: FloatArray  # (H, W) metres along the optical axis, NaN where nothing was measured
    stamp_ns: int
    camera: PinholeCamera
    rgb_from_depth: npt.NDArray[np.float64] | None = None  # (4, 4); None: registered to colour

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        size = (self.camera.height_px, self.camera.width_px)
        check("DepthImage.depth_m", self.depth_m, size, np.float32)


@dataclass(frozen=True)
class Frame:
    """One decoded camera image.

    ``stamp_ns`` is the exposure time of the source, in nanoseconds of the source's clock;
    ``frame_id`` names the optical frame; ``camera`` is None when nothing is known of the lens,
    ``depth`` when no depth image belongs to this one.
    """

    rgb: ByteArray  # (H, W, 3), red first
    stamp_ns: int
    frame_id: str = ""
    camera: PinholeCamera | None = None
    depth: DepthImage | None = None

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("Frame.rgb", self.rgb, (None, None, 3), np.uint8)
        if 0 in self.rgb.shape:
            raise ShapeError(f"Frame.rgb: expected a non-empty image, got {self.rgb.shape}")

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.rgb.shape[1]), int(self.rgb.shape[0])


@dataclass(frozen=True)
class Boxes:
    """Detected people; empty arrays when there is nobody."""

    xyxy_px: FloatArray  # (P, 4) left, top, right, bottom
    score: FloatArray  # (P,) in [0, 1]

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("Boxes.xyxy_px", self.xyxy_px, (None, 4), np.float32)
        check("Boxes.score", self.score, (len(self.xyxy_px),), np.float32)

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.score)

    def select(self, which: npt.NDArray[Any]) -> Boxes:
        """Rows ``which`` (indices or mask)."""
        return Boxes(self.xyxy_px[which], self.score[which])

    @staticmethod
    def empty() -> Boxes:
        """Nobody."""
        return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


@dataclass(frozen=True)
class People:
    """The people to look at in one frame: who, and where to crop."""

    ids: IntArray  # (P,) track id, unique, never reused
    xyxy_px: FloatArray  # (P, 4) predicted or detected box
    score: FloatArray  # (P,) how sure the detector was when it last saw the person

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("People.ids", self.ids, (None,), np.int64)
        check("People.xyxy_px", self.xyxy_px, (len(self.ids), 4), np.float32)
        check("People.score", self.score, (len(self.ids),), np.float32)

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.ids)


@dataclass(frozen=True)
class Windows:
    """The last T frames of each person, oldest first, the key frame last, one box per window."""

    people: People
    frames: tuple[Frame, ...]  # T; a missing frame repeats its successor
    valid: npt.NDArray[np.bool_]  # (P, T) False where a frame is missing and repeats its successor
    offset_s: FloatArray  # (T,) time of each frame relative to the key frame, <= 0


@dataclass(frozen=True)
class Clips:
    """What a network sees: one crop per person and frame, one affine per person."""

    rgb: ByteArray  # (P, T, h, w, 3)
    image_from_crop: FloatArray  # (P, 2, 3) maps crop pixels to image pixels
    valid: npt.NDArray[np.bool_]  # (P, T)

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("Clips.rgb", self.rgb, (None, None, None, None, 3), np.uint8)
        check("Clips.image_from_crop", self.image_from_crop, (len(self.rgb), 2, 3), np.float32)


@dataclass(frozen=True)
class PoseMaps:
    """What a network says, for P people and J joints on an h x w grid over the crop.

    The peak of ``heatmaps * prior`` is the joint, ``heatmaps`` at the peak its score, and
    ``offsets`` at the peak its sub-cell position. A network without a prior or offsets leaves
    them None: every cell counts the same, and the sub-cell position comes from the map's shape.
    """

    heatmaps: FloatArray  # (P, J, h, w) in [0, 1]
    prior: FloatArray | None = None  # (P, J, h, w) >= 0
    offsets: FloatArray | None = None  # (P, J, 2, h, w) cells, (x, y)

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("PoseMaps.heatmaps", self.heatmaps, (None, None, None, None), np.float32)
        people, joints, h, w = self.heatmaps.shape
        if self.prior is not None:
            check("PoseMaps.prior", self.prior, (people, joints, h, w), np.float32)
        if self.offsets is not None:
            check("PoseMaps.offsets", self.offsets, (people, joints, 2, h, w), np.float32)


@dataclass(frozen=True)
class Poses2D:
    """Skeletons in image pixels; a joint that was not found is NaN with score 0."""

    ids: IntArray  # (P,)
    xy_px: FloatArray  # (P, J, 2)
    score: FloatArray  # (P, J) in [0, 1]
    std_px: FloatArray | None = None  # (P, J) standard deviation per axis; None: not estimated

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("Poses2D.ids", self.ids, (None,), np.int64)
        check("Poses2D.xy_px", self.xy_px, (len(self.ids), None, 2), np.float32)
        check("Poses2D.score", self.score, self.xy_px.shape[:2], np.float32)
        if self.std_px is not None:
            check("Poses2D.std_px", self.std_px, self.xy_px.shape[:2], np.float32)

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.ids)

    def select(self, which: npt.NDArray[Any]) -> Poses2D:
        """Rows ``which`` (indices or mask)."""
        std_px = None if self.std_px is None else self.std_px[which]
        return Poses2D(self.ids[which], self.xy_px[which], self.score[which], std_px)

    @staticmethod
    def empty(joints: int) -> Poses2D:
        """Nobody, in a layout of ``joints`` joints."""
        return Poses2D(
            np.zeros(0, np.int64),
            np.zeros((0, joints, 2), np.float32),
            np.zeros((0, joints), np.float32),
        )


@dataclass(frozen=True)
class Poses3D:
    """Skeletons in metres, in one frame (the camera's optical frame unless said otherwise).

    Unknown is NaN everywhere: a joint without a position has NaN position, covariance, velocity
    and speed deviation, and status MISSING.
    """

    ids: IntArray  # (P,)
    xyz_m: FloatArray  # (P, J, 3)
    covariance_m2: FloatArray  # (P, J, 3, 3) of the position; NaN: not estimated
    velocity_m_s: FloatArray  # (P, J, 3)
    speed_std_m_s: FloatArray  # (P, J) standard deviation of the velocity per axis
    status: npt.NDArray[np.int8]  # (P, J) KeypointStatus
    score: FloatArray  # (P, J) in [0, 1]
    scale: npt.NDArray[np.int8]  # (P,) ScaleSource

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        people, joints = self.xyz_m.shape[:2]
        check("Poses3D.ids", self.ids, (people,), np.int64)
        check("Poses3D.xyz_m", self.xyz_m, (people, joints, 3), np.float32)
        check("Poses3D.covariance_m2", self.covariance_m2, (people, joints, 3, 3), np.float32)
        check("Poses3D.velocity_m_s", self.velocity_m_s, (people, joints, 3), np.float32)
        check("Poses3D.speed_std_m_s", self.speed_std_m_s, (people, joints), np.float32)
        check("Poses3D.status", self.status, (people, joints), np.int8)
        check("Poses3D.score", self.score, (people, joints), np.float32)
        check("Poses3D.scale", self.scale, (people,), np.int8)

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.ids)

    @staticmethod
    def unknown(ids: IntArray, joints: int) -> Poses3D:
        """People of whom nothing metric is known."""
        people = len(ids)

        def nan(*shape: int) -> FloatArray:
            return np.full((people, joints, *shape), np.nan, np.float32)

        return Poses3D(
            ids, nan(3), nan(3, 3), nan(3), nan(), np.zeros((people, joints), np.int8),
            np.zeros((people, joints), np.float32), np.zeros(people, np.int8),
        )  # fmt: skip


@dataclass(frozen=True)
class JointAngles:
    """Joint angles of the people, in one convention; NaN where a joint cannot be told."""

    ids: IntArray  # (P,)
    convention: str  # "rep155" or "isb"
    names: tuple[str, ...]  # K joint names
    angle_rad: FloatArray  # (P, K)
    velocity_rad_s: FloatArray  # (P, K)
    std_rad: FloatArray  # (P, K) standard deviation of the angle
    status: npt.NDArray[np.int8]  # (P, K) the worst KeypointStatus of the joints it rests on
    beyond_limit: npt.NDArray[np.bool_]  # (P, K) outside the convention's stated range

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        shape = (len(self.ids), len(self.names))
        check("JointAngles.ids", self.ids, (None,), np.int64)
        check("JointAngles.angle_rad", self.angle_rad, shape, np.float32)
        check("JointAngles.velocity_rad_s", self.velocity_rad_s, shape, np.float32)
        check("JointAngles.std_rad", self.std_rad, shape, np.float32)
        check("JointAngles.status", self.status, shape, np.int8)
        check("JointAngles.beyond_limit", self.beyond_limit, shape, np.bool_)


@dataclass(frozen=True)
class Tracks:
    """Everybody the tracker knows after a frame; LOST appears once, then the id is gone."""

    ids: IntArray  # (P,) ascending
    state: npt.NDArray[np.int8]  # (P,) TrackState
    xyxy_px: FloatArray  # (P, 4)
    confidence: FloatArray  # (P,) that it is a person: sqrt(detector's * pose's), in [0, 1]
    last_seen_ns: IntArray  # (P,) stamp of the last frame with a real measurement

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        people = len(self.ids)
        check("Tracks.ids", self.ids, (None,), np.int64)
        check("Tracks.state", self.state, (people,), np.int8)
        check("Tracks.xyxy_px", self.xyxy_px, (people, 4), np.float32)
        check("Tracks.confidence", self.confidence, (people,), np.float32)
        check("Tracks.last_seen_ns", self.last_seen_ns, (people,), np.int64)

    def __len__(self) -> int:
        """Return the number of people."""
        return len(self.ids)


@dataclass(frozen=True)
class Refined2D:
    """Skeletons in image pixels made smooth, with what each joint rests on."""

    poses: Poses2D
    status: npt.NDArray[np.int8]  # (P, J) KeypointStatus

    def __post_init__(self) -> None:
        """Check shape and dtype."""
        check("Refined2D.status", self.status, self.poses.score.shape, np.int8)


@dataclass(frozen=True)
class Body:
    """What is known of the people in metres: one row per track, in the order of the tracks."""

    poses: Poses3D  # smooth, in the camera's optical frame
    lengths_m: FloatArray  # (P, E) of the skeleton's edges, NaN unknown
    angles: JointAngles | None = None  # None: not asked for
    age_s: FloatArray | None = None  # (P, J) since the joint was measured; None: in this frame

    def __post_init__(self) -> None:
        """Check that all speak of the same people."""
        check("Body.lengths_m", self.lengths_m, (len(self.poses), None), np.float32)
        if self.age_s is not None:
            check("Body.age_s", self.age_s, self.poses.score.shape, np.float32)
        if self.angles is not None and not np.array_equal(self.angles.ids, self.poses.ids):
            raise ShapeError("Body: expected angles in the order of the poses")


@dataclass(frozen=True)
class PoseResult:
    """The answer to one frame.

    ``poses`` are the network's: one row per track, in the same order; a track without a
    measurement in this frame (OCCLUDED, LOST) has NaN joints with score 0. ``refined`` are the
    same people made smooth, with unseen joints filled in for a short while, None when refinement
    is off. ``body`` is None where nothing metric can be said (no calibration), or lifting is off.
    """

    stamp_ns: int
    frame_id: str
    size_px: tuple[int, int]  # width, height of the source image
    tracks: Tracks
    poses: Poses2D
    detected: bool  # whether the detector ran on this frame
    stage_ms: dict[str, float] = field(default_factory=dict)  # wall time
    refined: Refined2D | None = None
    body: Body | None = None
    with_depth: bool = False  # whether a depth image belonged to the frame

    def __post_init__(self) -> None:
        """Check that all speak of the same people."""
        others = {"poses": self.poses.ids}
        if self.refined is not None:
            others["refined"] = self.refined.poses.ids
        if self.body is not None:
            others["body"] = self.body.poses.ids
        for name, ids in others.items():
            if not np.array_equal(self.tracks.ids, ids):
                wanted = self.tracks.ids.tolist()
                raise ShapeError(f"PoseResult.{name}: expected ids {wanted}, got {ids.tolist()}")

    @property
    def shown(self) -> Poses2D:
        """The poses in pixels to publish and draw: refined where that is on."""
        return self.poses if self.refined is None else self.refined.poses
