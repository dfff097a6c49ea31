"""Skeletons for RViz.

No depth is known yet: what can be shown honestly is the ray of each joint. The skeleton is drawn
where its rays cross a plane 1 m in front of the camera, in the namespace ``<body_id>/rays``.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.draw import person_rgb
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import PoseResult, TrackState
from pose_ros.messages import body_id

LIFETIME_NS = 300_000_000
LINE_WIDTH_M = 0.006
TEXT_HEIGHT_M = 0.04


class MarkerBuilder:
    """Builds the markers of a frame for one joint set."""

    def __init__(self, skeleton: Skeleton, score_min: float) -> None:
        """Prepare for a joint set; joints scoring less than ``score_min`` are left out."""
        self.score_min = score_min
        self._edges = skeleton.edge_indices()

    def build(
        self, result: PoseResult, camera: PinholeCamera | None, header: Header
    ) -> MarkerArray:
        """Bones and label per person; DELETE for LOST ones; nothing without a calibration."""
        markers: list[Marker] = []
        for row, number in enumerate(result.tracks.ids.tolist()):
            name = f"{body_id(number)}/rays"
            if result.tracks.state[row] == TrackState.LOST:
                markers += [_marker(header, name, index, Marker.DELETE) for index in (0, 1)]
            elif camera is not None:
                markers += self._person(result, row, camera, _marker(header, name, 0, Marker.ADD))
        return MarkerArray(markers=markers)

    def _person(
        self, result: PoseResult, row: int, camera: PinholeCamera, bones: Marker
    ) -> list[Marker]:
        score = result.poses.score[row]
        xyz_m = camera.rays(result.poses.xy_px[row])
        known = np.isfinite(xyz_m).all(axis=1) & (score > 0.0) & (score >= self.score_min)
        if not known.any():
            return []
        red, green, blue = (value / 255.0 for value in person_rgb(int(result.tracks.ids[row])))
        bones.type = Marker.LINE_LIST
        bones.scale.x = LINE_WIDTH_M
        bones.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
        pairs = self._edges[known[self._edges].all(axis=1)]
        bones.points = [_point(p) for p in xyz_m[pairs.reshape(-1)].tolist()]
        label = _marker(bones.header, bones.ns, 1, Marker.ADD)
        label.type = Marker.TEXT_VIEW_FACING
        label.text = bones.ns.partition("/")[0]
        label.color = bones.color
        label.scale.z = TEXT_HEIGHT_M
        top = xyz_m[known][np.argmin(xyz_m[known][:, 1])].tolist()
        label.pose.position = _point([top[0], top[1] - 2 * TEXT_HEIGHT_M, top[2]])
        return [bones, label]


def _point(xyz_m: list[float]) -> Point:
    return Point(x=xyz_m[0], y=xyz_m[1], z=xyz_m[2])


def _marker(header: Header, namespace: str, number: int, action: int) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number, action=action)
    marker.lifetime.nanosec = LIFETIME_NS
    return marker
