"""Depth images of simple people, by casting rays at spheres and planes; exact to a millimetre."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import DepthImage, Frame, Poses2D

VGA = PinholeCamera(640, 480, 570.0, 570.0, 319.5, 239.5)
#: A camera of 1280x720 with the distortion of a cheap lens.
BENT = PinholeCamera(1280, 720, 910.0, 912.0, 640.0, 362.0, (0.12, -0.25, 0.001, -0.0008, 0.1))
I = {name: index for index, name in enumerate(COCO17.joints)}  # noqa: E741

# Right-handed body axes: x to the person's left, y up from the floor, z to the person's back.
_HALF = {
    "eye": (0.03, 1.59, -0.088), "ear": (0.09, 1.57, -0.01),
    "shoulder": (0.18, 1.40, 0.0), "elbow": (0.23, 1.12, 0.0), "wrist": (0.26, 0.87, -0.02),
    "hip": (0.10, 0.90, 0.0), "knee": (0.11, 0.50, 0.0), "ankle": (0.11, 0.09, 0.02),
}  # fmt: skip
# Radii at both ends of what is around a bone; not the values that the lifter assumes.
_TUBES = (
    ("shoulder", "elbow", 0.055, 0.042), ("elbow", "wrist", 0.042, 0.026),
    ("hip", "knee", 0.092, 0.055), ("knee", "ankle", 0.052, 0.037),
    ("shoulder", "hip", 0.065, 0.098),
)  # fmt: skip


@dataclass
class Person:
    """Joints (17, 3) and the balls (N, 4) x, y, z, radius of the flesh, camera frame, metres."""

    joints: np.ndarray
    balls: np.ndarray

    def moved(self, turn: np.ndarray, shift: np.ndarray) -> Person:
        """Rotated, then shifted."""
        balls = np.column_stack([self.balls[:, :3] @ turn.T + shift, self.balls[:, 3]])
        return Person(self.joints @ turn.T + shift, balls)


@dataclass
class Scene:
    """People, a wall and boards (four corners each, the first three right-angled)."""

    people: list[Person]
    wall_m: float = 5.0
    boards: list[np.ndarray] = field(default_factory=list)  # (3, 3): corner, along, down

    def render(
        self, camera: PinholeCamera, cam_from_scene: np.ndarray | None = None
    ) -> np.ndarray:
        """(H, W) float32 depth of the scene for a camera at ``cam_from_scene``."""
        pose = np.eye(4) if cam_from_scene is None else cam_from_scene
        turn, shift = pose[:3, :3], pose[:3, 3]
        y, x = np.mgrid[0 : camera.height_px, 0 : camera.width_px]
        ray = camera.rays(np.stack([x, y], axis=-1).astype(float))
        wall = np.array([[-99.0, -99, self.wall_m], [198, 0, 0], [0, 198, 0]])
        depth = np.full(x.shape, np.inf)
        for board in (wall, *self.boards):
            corner, (along, down) = board[0] @ turn.T + shift, board[1:] @ turn.T
            normal = np.cross(along, down)
            z = (corner @ normal) / (ray @ normal)
            at = ray * z[..., None] - corner
            u, v = at @ along / (along @ along), at @ down / (down @ down)
            hit = (z > 0) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
            depth = np.where(hit, np.minimum(depth, z), depth)
        for person in self.people:
            for ball in person.moved(turn, shift).balls:
                _cast(ball, camera, ray, depth)
        return np.where(np.isfinite(depth), depth, np.nan).astype(np.float32)

    def frame(
        self, camera: PinholeCamera = VGA, depth_m: np.ndarray | None = None, **depth: object
    ) -> Frame:
        """A frame with a registered depth image; the picture itself is black."""
        depth_m = self.render(camera) if depth_m is None else depth_m
        rgb = np.zeros((camera.height_px, camera.width_px, 3), np.uint8)
        settings = {"stamp_ns": 10**9, "camera": camera} | depth
        return Frame(rgb, 10**9, "camera", camera, DepthImage(depth_m, **settings))

    def truth(self) -> np.ndarray:
        """(P, 17, 3)."""
        return np.array([p.joints for p in self.people]).reshape(-1, 17, 3)

    def poses(self, camera: PinholeCamera = VGA, std_px: float = 1.0) -> Poses2D:
        """The joints' exact pixels, all with score 0.9."""
        xy = camera.project(self.truth()).astype(np.float32)
        score = np.full(xy.shape[:2], 0.9, np.float32)
        ids = np.arange(1, len(xy) + 1)
        return Poses2D(ids, xy, score, np.full_like(score, std_px))


def _cast(ball: np.ndarray, camera: PinholeCamera, ray: np.ndarray, depth: np.ndarray) -> None:
    """Draw one ball into ``depth``, within a window that is sure to hold it."""
    centre, radius = ball[:3], ball[3]
    if centre[2] < radius + 0.05:
        return
    middle = camera.project(centre)
    half = 1.3 * camera.fx_px * radius / (centre[2] - radius) * np.linalg.norm(centre) / centre[2]
    x0, y0 = np.maximum(np.floor(middle - half), 0).astype(int)
    x1, y1 = np.ceil(middle + half).astype(int) + 1
    window = ray[y0 : max(y1, 0), x0 : max(x1, 0)]
    a, b = (window**2).sum(axis=-1), window @ centre
    inside = b**2 - a * (centre @ centre - radius**2)
    z = (b - np.sqrt(np.maximum(inside, 0))) / a
    part = depth[y0 : max(y1, 0), x0 : max(x1, 0)]
    np.minimum(part, np.where(inside > 0, z, np.inf), out=part)


def person(
    distance_m: float = 2.5,
    aside_m: float = 0.0,
    turn_deg: float = 0.0,
    moved: dict[str, tuple[float, float, float]] | None = None,
    eye_level_m: float = 1.1,
) -> Person:
    """Somebody who faces the camera, or is turned to their left by ``turn_deg``.

    ``moved`` places joints elsewhere, in body axes (x to the left, y up, z to the back).
    """
    joints = {"nose": (0.0, 1.55, -0.105)}
    for part, (x, y, z) in _HALF.items():
        joints[f"left_{part}"], joints[f"right_{part}"] = (x, y, z), (-x, y, z)
    joints |= moved or {}
    place = {name: np.array(xyz) for name, xyz in joints.items()}
    body = np.array([place[name] for name in COCO17.joints])
    angle = np.radians(turn_deg)
    spin = np.array(
        [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
    )
    to_camera = np.diag([1.0, -1.0, 1.0]) @ spin
    shift = np.array([aside_m, eye_level_m, distance_m])
    return Person(body, np.array(_flesh(place))).moved(to_camera, shift)


def _flesh(place: dict[str, np.ndarray]) -> list[np.ndarray]:
    balls = [np.array([0.0, 1.58, 0.0, 0.096]), np.array([*place["nose"] + [0, 0, 0.01], 0.012])]
    shoulders = (place["left_shoulder"] + place["right_shoulder"]) / 2
    hips = (place["left_hip"] + place["right_hip"]) / 2
    balls += _tube(shoulders, hips, 0.10, 0.11)
    balls += _tube(shoulders, np.array([0.0, 1.52, 0.0]), 0.055, 0.055)
    balls += _tube(place["left_shoulder"], place["right_shoulder"], 0.06, 0.06)
    balls += _tube(place["left_hip"], place["right_hip"], 0.098, 0.098)
    for side in ("left", "right"):
        balls.append(np.array([*place[f"{side}_ear"], 0.02]))
        for start, stop, r_start, r_stop in _TUBES:
            balls += _tube(place[f"{side}_{start}"], place[f"{side}_{stop}"], r_start, r_stop)
        elbow, wrist = place[f"{side}_elbow"], place[f"{side}_wrist"]
        hand = wrist + 0.1 * (wrist - elbow) / np.linalg.norm(wrist - elbow)
        balls += _tube(wrist, hand, 0.026, 0.032)
        ankle = place[f"{side}_ankle"]
        balls += _tube(ankle, ankle + np.array([0, -0.05, -0.13]), 0.037, 0.03)
    return balls


def _tube(a: np.ndarray, b: np.ndarray, r_a: float, r_b: float) -> list[np.ndarray]:
    """Balls so close that the valleys between them are less than a millimetre deep."""
    count = int(np.ceil(np.linalg.norm(b - a) / (0.3 * min(r_a, r_b)))) + 1
    share = np.linspace(0, 1, count)[:, None]
    return list(np.column_stack([a + share * (b - a), r_a + share * (r_b - r_a)]))
