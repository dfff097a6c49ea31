"""Results about standing people, as the pipeline gives them."""

import numpy as np
from depth_scene import COCO17, person

from pose_ros.core.angles import joint_angles
from pose_ros.core.values import Body, KeypointStatus, PoseResult, Poses2D, Poses3D, Tracks

STAMP_NS = 1_700_000_000_500_000_000
SIZE = (640, 480)
TENTATIVE, TRACKED, OCCLUDED, LOST = range(4)


def bodies(ids: np.ndarray, turn_deg: float = 20.0, convention: str = "rep155") -> Body:
    """People side by side 3 m before the camera."""
    poses = Poses3D.unknown(ids, 17)
    for row in range(len(ids)):
        poses.xyz_m[row] = person(3.0, 0.8 * row, turn_deg).joints
    poses.covariance_m2[:] = 1e-4 * np.eye(3)
    poses.velocity_m_s[:] = (0.1, 0.0, 0.2)
    poses.status[:] = KeypointStatus.MEASURED
    poses.score[:] = 0.9
    angles = None if convention == "none" else joint_angles(poses, COCO17, convention)
    return Body(poses, np.full((len(ids), len(COCO17.edges)), np.nan, np.float32), angles)


def result(
    states: dict[int, int], body: Body | None = None, stamp_ns: int = STAMP_NS
) -> PoseResult:
    """Everybody in ``states`` (id to TrackState), each in a box of their own."""
    ids = np.array(sorted(states), np.int64)
    people = len(ids)
    left = 100.0 * np.arange(people, dtype=np.float32)
    box = np.stack([left, 0 * left + 40, left + 80, 0 * left + 400], axis=-1).astype(np.float32)
    tracks = Tracks(
        ids, np.array([states[i] for i in ids.tolist()], np.int8), box,
        np.full(people, 0.8, np.float32), np.full(people, stamp_ns),
    )  # fmt: skip
    xy = np.repeat(box[:, None, :2] + 10, 17, axis=1)
    poses = Poses2D(ids, xy, np.full((people, 17), 0.7, np.float32))
    return PoseResult(stamp_ns, "camera", SIZE, tracks, poses, False, body=body)
