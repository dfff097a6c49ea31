"""Joints in metres from the other cameras of a rig: the third way, with the others' signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.multiview import MultiViewConfig, MultiViewLifter, View
from pose_ros.core.rigid import moved_poses
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.triangulate import check_poses
from pose_ros.core.values import Frame, IntArray, Poses2D, Poses3D
from pose_ros.errors import CalibrationError


class _Sight(NamedTuple):
    """What a camera saw last."""

    stamp_ns: int
    camera: PinholeCamera
    poses: Poses2D


class RigLifter:
    """A `Lifter` for every camera of a rig of calibrated cameras that do not move to each other.

    Frames name their camera by ``frame_id``. Tell of every picture of a moment with `see`, then
    lift each; `lift` tells of its own, so that live the last camera of a moment knows most. Ids
    of people are each camera's own, and matched across the cameras: `world_ids`.
    """

    def __init__(
        self, skeleton: Skeleton, cam_from_world: Mapping[str, npt.NDArray[Any]],
        config: MultiViewConfig | None = None, max_skew_s: float = 0.02,
    ) -> None:  # fmt: skip
        """Know where the cameras are: (4, 4) world to optical frame, in metres, by ``frame_id``.

        Sights that are further apart in time than ``max_skew_s`` are not of one moment.

        Raises:
            ShapeError: a pose that is not 4 x 4.
            CalibrationError: a pose that is not a rigid motion, or no camera at all.

        """
        if not cam_from_world:
            raise CalibrationError("cam_from_world: expected at least one camera, got none")
        # A camera of any lens: only their number is checked beside the poses.
        any_lens = PinholeCamera(1, 1, 1.0, 1.0, 0.0, 0.0)
        self.skeleton = skeleton
        self._place = {name: number for number, name in enumerate(cam_from_world)}
        self._poses = check_poses([any_lens] * len(self._place), list(cam_from_world.values()))
        self._max_skew_ns = round(max_skew_s * 1e9)
        self._lifter = MultiViewLifter(skeleton, config)
        self.reset()

    def reset(self) -> None:
        """Forget everybody; world ids stay used."""
        self._lifter.reset()
        self._sights: dict[int, _Sight] = {}
        self._newest_ns: int | None = None
        self._done: tuple[_Sight | None, ...] = ()
        self._world = Poses3D.unknown(np.zeros(0, np.int64), len(self.skeleton))

    def see(self, frame: Frame, poses: Poses2D) -> None:
        """Remember what a camera sees; a stamp before that camera's last one starts anew.

        A picture without calibration, or of another size than it, tells nothing.

        Raises:
            CalibrationError: a frame of no camera of the rig.

        """
        number = self._number(frame.frame_id)
        before = self._sights.get(number)
        if before is not None and frame.stamp_ns < before.stamp_ns:
            self.reset()
        camera = frame.camera
        if camera is None or (camera.width_px, camera.height_px) != frame.size_px:
            self._sights.pop(number, None)
        elif before is None or before.poses is not poses or before.stamp_ns != frame.stamp_ns:
            self._sights[number] = _Sight(frame.stamp_ns, camera, poses)

    def lift(self, frame: Frame, poses: Poses2D) -> Poses3D:
        """Joints in metres in the frame of ``frame``'s camera, one row per row of ``poses``.

        MEASURED where at least two cameras agree, else MISSING; a person whom no other camera
        shows at this moment is unknown. Velocities are NaN.

        Raises:
            CalibrationError: a frame of no camera of the rig.

        """
        self.see(frame, poses)
        number = self._number(frame.frame_id)
        answer = Poses3D.unknown(poses.ids, len(self.skeleton))
        if number not in self._sights or len(poses) == 0:
            return answer
        self._update(self._sights[number])
        world = self.world_ids(frame.frame_id, poses.ids)
        rows, columns = np.nonzero(world[:, None] == self._world.ids[None])
        pose = self._poses[number]
        here = moved_poses(self._world, pose[:3, :3], pose[:3, 3])
        for name in ("xyz_m", "covariance_m2", "status", "score", "scale"):
            getattr(answer, name)[rows] = getattr(here, name)[columns]
        return answer

    def world_ids(self, frame_id: str, ids: IntArray) -> IntArray:
        """(P,) the rig's ids of people of a camera as of the last `lift`; 0: not matched."""
        number = self._number(frame_id)
        return np.array([self._lifter.members.get((number, i), 0) for i in ids.tolist()], np.int64)

    def _update(self, sight: _Sight) -> None:
        """Match and triangulate what the cameras see at the moment of ``sight``."""
        chosen = []
        for number in range(len(self._poses)):
            other = self._sights.get(number)
            near = other is not None and (
                abs(other.stamp_ns - sight.stamp_ns) <= self._max_skew_ns
            )
            chosen.append(other if near else None)
        same = len(chosen) == len(self._done) and all(
            a is b for a, b in zip(chosen, self._done, strict=True)
        )
        if same:
            return
        self._done = tuple(chosen)
        blank = Poses2D.empty(len(self.skeleton))
        views = [
            View(sight.camera, pose, blank) if one is None else View(one.camera, pose, one.poses)
            for one, pose in zip(chosen, self._poses, strict=True)
        ]
        # Cameras take turns within a moment; only a real step back starts anew.
        self._newest_ns = max(sight.stamp_ns, self._newest_ns or sight.stamp_ns)
        self._world = self._lifter.update(views, self._newest_ns)

    def _number(self, frame_id: str) -> int:
        if frame_id not in self._place:
            raise CalibrationError(
                f"frame '{frame_id}' is of no camera of the rig; known: {', '.join(self._place)}"
            )
        return self._place[frame_id]
