"""People before one camera for `Embodier`: a lifting network that errs as much as it states."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.embody import Embodier
from pose_ros.core.lift_mono import LAPLACE_STD, MonocularLifter
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import (
    Body,
    DepthImage,
    Frame,
    KeypointStatus,
    Poses2D,
    Poses3D,
    ScaleSource,
    Tracks,
    TrackState,
)

Floats = npt.NDArray[np.float64]
CAMERA = PinholeCamera(640, 480, 500.0, 500.0, 319.5, 239.5)
HIPS = [COCO17.index("left_hip"), COCO17.index("right_hip")]
#: Mean absolute errors of the network's bodies across and along the view, statures.
ACROSS, ALONG = 0.012, 0.03
#: How much of its error a lifter, and a pose network, keeps from frame to frame (at 30 Hz).
KEEPS, KEEPS_2D = 0.97, 0.9
DEPTH_STD_M, PIXEL_STD = 0.015, 1.0


class TrueDepth:
    """Stands in for the depth lifter: the true joints of whoever has a depth image."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def reset(self) -> None:
        """Nothing is remembered."""

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        """Measured joints with noise."""
        out = Poses3D.unknown(poses.ids, 17)
        real = self._stage.real + DEPTH_STD_M * self._stage.rng.standard_normal((17, 3))
        seen = np.isfinite(poses.xy_px).all(axis=-1)
        out.xyz_m[seen] = np.broadcast_to(real, (len(poses), 17, 3))[seen]
        out.covariance_m2[seen] = DEPTH_STD_M**2 * np.eye(3)
        out.status[seen], out.score[seen] = KeypointStatus.MEASURED, poses.score[seen]
        out.scale[:] = ScaleSource.DEPTH
        return out


class Stage:
    """One person (id 1), whose true joints (17, 3) in the camera's frame are known."""

    def __init__(self, stature_m: float, seed: int = 0, **values: Any) -> None:
        self.rng = np.random.default_rng(seed)
        self.stature_m, self.real = stature_m, np.zeros((17, 3))
        self._error = self.rng.standard_normal((17, 3))
        self._error_px = self.rng.standard_normal((17, 2))
        self._lifter = MonocularLifter(self._network)
        config = with_values(PipelineConfig(), {"lift.source": "mono", **values})
        self.stages = Embodier(COCO17, config, self._lifter)
        self.stages.depth = TrueDepth(self)  # type: ignore[assignment]

    def _network(self, windows: npt.NDArray[np.float32]) -> tuple[Any, Any]:
        """The true body in the person's view, in statures, off by slowly changing errors."""
        x, y = windows[0, -1, -3:-1].astype(np.float64)
        ahead = np.array([x, y, 1.0]) / np.sqrt(x * x + y * y + 1.0)
        right = np.array([ahead[2], 0.0, -ahead[0]]) / np.hypot(ahead[0], ahead[2])
        view = np.stack([right, np.cross(ahead, right), ahead])
        new = np.sqrt(1 - KEEPS**2) * self.rng.standard_normal((17, 3))
        self._error = KEEPS * self._error + new
        std = LAPLACE_STD * np.array([ACROSS, ACROSS, ALONG])
        body = (self.real - self.real[HIPS].mean(axis=0)) @ view.T / self.stature_m
        spread = np.tile(np.log([ACROSS, ALONG]), (1, 17, 1))
        return (body + std * self._error)[None].astype(np.float32), spread

    def poses(self, score: float = 0.9, only: list[int] | None = None) -> Poses2D:
        """Joints in pixels with errors; those outside of the image, and not ``only``, missing."""
        new = np.sqrt(1 - KEEPS_2D**2) * self.rng.standard_normal((17, 2))
        self._error_px = KEEPS_2D * self._error_px + new
        xy = CAMERA.project(self.real) + PIXEL_STD * self._error_px
        limit = np.array([CAMERA.width_px, CAMERA.height_px]) - 0.5
        seen = ((xy >= -0.5) & (xy < limit)).all(axis=-1)
        if only is not None:
            seen &= np.isin(np.arange(17), only)
        xy = np.where(seen[:, None], xy, np.nan)[None].astype(np.float32)
        std = np.where(seen, PIXEL_STD, np.nan)[None].astype(np.float32)
        return Poses2D(np.array([1]), xy, np.where(seen, score, 0.0)[None].astype("f4"), std)

    def step(
        self, real: Floats, stamp_ns: int, poses: Poses2D | None = None, depth: bool = False
    ) -> tuple[Poses3D, Body]:
        """Run one frame; returns what the frame alone told, and the body."""
        self.real = np.asarray(real, np.float64)
        poses = self.poses() if poses is None else poses
        truth = CAMERA.project(self.real)
        box = np.array([[*truth.min(axis=0), *truth.max(axis=0)]], np.float32)
        state = TrackState.TRACKED if np.isfinite(poses.xy_px).any() else TrackState.OCCLUDED
        tracks = Tracks(
            poses.ids, np.array([state], np.int8), box, np.ones(1, np.float32),
            np.array([stamp_ns]),
        )  # fmt: skip
        blank = np.full((CAMERA.height_px, CAMERA.width_px), np.nan, np.float32) if depth else None
        image = None if blank is None else DepthImage(blank, stamp_ns, CAMERA)
        frame = Frame(np.zeros((1, 1, 3), np.uint8), stamp_ns, "", CAMERA, image)
        self.refined = self.stages.refine(stamp_ns, tracks, poses)
        metric = self.stages.lift(frame, tracks, poses)
        assert metric is not None
        raw = Poses3D(**{k: np.copy(v) for k, v in vars(metric).items()})
        return raw, self.stages.embody(stamp_ns, tracks, metric)


def in_camera(world_m: npt.NDArray[Any], distance_m: float = 4.0, turn: float = 0.0) -> Floats:
    """Joints (T, 17, 3) of a z-up world before a camera 1 m high that looks along +y."""
    c, s = np.cos(turn), np.sin(turn)
    x, y = c * world_m[..., 0] - s * world_m[..., 1], s * world_m[..., 0] + c * world_m[..., 1]
    return np.stack([x, 1.0 - world_m[..., 2], y + distance_m], axis=-1).astype(np.float64)


def inside_95(body: Body, real: Floats) -> npt.NDArray[np.bool_]:
    """(J',) whether each known joint's truth lies in its stated 95 % ellipsoid."""
    known = np.isfinite(body.poses.xyz_m[0]).all(axis=-1)
    off = (body.poses.xyz_m[0] - real)[known]
    inverse = np.linalg.inv(body.poses.covariance_m2[0][known].astype(np.float64))
    return np.asarray(np.einsum("ja,jab,jb->j", off, inverse, off) < 7.815)


def error_m(body: Body, real: Floats) -> float:
    """Mean error of the known joints."""
    return float(np.nanmean(np.linalg.norm(body.poses.xyz_m[0] - real, axis=-1)))
