"""Skeletons for RViz.

People of whom metres are known are drawn where they stand, in the namespace ``<body_id>``, each
joint as the ellipsoid of its covariance. Of the others what can be shown honestly is the ray of
each joint: their skeleton is drawn where its rays cross a plane 1 m in front of the camera, in
the namespace ``<body_id>/rays``. Names stand above: against y in a camera's optical frame, along z
in others.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.draw import person_rgb
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import Body, PoseResult, TrackState
from pose_ros.messages import body_id, quaternions

LIFETIME_NS = 300_000_000
LINE_WIDTH_M, RAY_WIDTH_M = 0.03, 0.006
TEXT_HEIGHT_M, RAY_TEXT_M = 0.12, 0.04
#: How far above the highest joint a name stands, where the person does and on the rays.
ABOVE_M, RAY_ABOVE_M = 0.2, 0.08
#: Ellipsoids reach this many standard deviations: 95 % in three dimensions.
SPREADS = 2.795
ELLIPSOID_MAX_M = 1.0
BONES, LABEL, JOINTS = 0, 1, 2  # marker ids; joints count on from the last


class MarkerBuilder:
    """Builds the markers of a frame for one joint set."""

    def __init__(self, skeleton: Skeleton, score_min: float, frame: str = "") -> None:
        """Prepare for a joint set; joints scoring less than ``score_min`` are left out.

        ``frame`` is that of the metres, empty for the camera's own.
        """
        self.score_min = score_min
        # REP-103: z is up but in frames whose name ends so.
        optical = not frame or frame.endswith(("_optical", "_optical_frame"))
        self._up = np.array([0.0, -1.0, 0.0] if optical else [0.0, 0.0, 1.0])
        self._edges = skeleton.edge_indices()

    def build(
        self, result: PoseResult, camera: PinholeCamera | None, header: Header
    ) -> MarkerArray:
        """Bones, label and ellipsoids per person; DELETE for LOST ones."""
        markers: list[Marker] = []
        for row, number in enumerate(result.tracks.ids.tolist()):
            name = body_id(number)
            if result.tracks.state[row] == TrackState.LOST:
                markers += self._deleted(header, name)
            elif result.body is not None and np.isfinite(result.body.poses.xyz_m[row]).any():
                markers += self._solid(result.body, row, number, header)
            elif camera is not None:
                markers += self._rays(result, row, camera, header)
        return MarkerArray(markers=markers)

    def _deleted(self, header: Header, name: str) -> list[Marker]:
        joints = int(self._edges.max()) + 1
        gone = [_marker(header, name, i, Marker.DELETE) for i in range(JOINTS + joints)]
        return gone + [_marker(header, f"{name}/rays", i, Marker.DELETE) for i in (BONES, LABEL)]

    def _solid(self, body: Body, row: int, number: int, header: Header) -> list[Marker]:
        """Draw bones where they are, and how sure every joint is."""
        xyz_m = body.poses.xyz_m[row]
        known = np.isfinite(xyz_m).all(axis=1)
        name, colour = body_id(number), _colour(number)
        bones = _marker(header, name, BONES, Marker.ADD)
        markers = self._bones(bones, xyz_m, known, ABOVE_M * self._up)
        markers[0].scale.x, markers[1].scale.z = LINE_WIDTH_M, TEXT_HEIGHT_M
        covariance = body.poses.covariance_m2[row]
        sure = known & np.isfinite(covariance).all(axis=(1, 2))
        spread, axes = np.linalg.eigh(np.where(sure[:, None, None], covariance, np.eye(3)))
        axes[np.linalg.det(axes) < 0, :, 0] *= -1.0
        turn = quaternions(axes).tolist()
        sizes = np.minimum(2 * SPREADS * np.sqrt(np.maximum(spread, 1e-8)), ELLIPSOID_MAX_M)
        for joint in np.flatnonzero(sure).tolist():
            ball = _marker(header, name, JOINTS + joint, Marker.ADD)
            ball.type = Marker.SPHERE
            ball.pose.position = _point(xyz_m[joint].tolist())
            facing = ball.pose.orientation
            facing.x, facing.y, facing.z, facing.w = turn[joint]
            ball.scale.x, ball.scale.y, ball.scale.z = sizes[joint].tolist()
            ball.color = ColorRGBA(r=colour.r, g=colour.g, b=colour.b, a=0.35)
            markers.append(ball)
        for marker in markers[:2]:
            marker.color = colour
        return markers

    def _rays(
        self, result: PoseResult, row: int, camera: PinholeCamera, header: Header
    ) -> list[Marker]:
        poses = result.shown
        score, number = poses.score[row], int(result.tracks.ids[row])
        xyz_m = camera.rays(poses.xy_px[row])
        known = np.isfinite(xyz_m).all(axis=1) & (score > 0.0) & (score >= self.score_min)
        if not known.any():
            return []
        bones = _marker(header, f"{body_id(number)}/rays", BONES, Marker.ADD)
        markers = self._bones(bones, xyz_m, known, np.array([0.0, -RAY_ABOVE_M, 0.0]))
        markers[0].scale.x, markers[1].scale.z = RAY_WIDTH_M, RAY_TEXT_M
        for marker in markers:
            marker.color = _colour(number)
        return markers

    def _bones(
        self, bones: Marker, xyz_m: np.ndarray, known: np.ndarray, above_m: np.ndarray
    ) -> list[Marker]:
        """Lines between the known joints, and the person's name ``above_m`` (3,) the highest."""
        bones.type = Marker.LINE_LIST
        pairs = self._edges[known[self._edges].all(axis=1)]
        bones.points = [_point(p) for p in xyz_m[pairs.reshape(-1)].tolist()]
        label = _marker(bones.header, bones.ns, LABEL, Marker.ADD)
        label.type = Marker.TEXT_VIEW_FACING
        label.text = bones.ns.partition("/")[0]
        highest = xyz_m[known][np.argmax(xyz_m[known] @ above_m)]
        label.pose.position = _point((highest + above_m).tolist())
        return [bones, label]


def _colour(number: int) -> ColorRGBA:
    red, green, blue = (value / 255.0 for value in person_rgb(number))
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)


def _point(xyz_m: list[float]) -> Point:
    return Point(x=xyz_m[0], y=xyz_m[1], z=xyz_m[2])


def _marker(header: Header, namespace: str, number: int, action: int) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, action=action)
    marker.lifetime.nanosec = LIFETIME_NS
    return marker
