"""From a frame to tracked skeletons: every stage of ``docs/pipeline.md``, one call each."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from pose_ros.core import heatmaps
from pose_ros.core.config import PipelineConfig, parameters
from pose_ros.core.crop import Cropper, to_image
from pose_ros.core.detect import Detector
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.track import Tracker
from pose_ros.core.values import (
    Clips,
    FloatArray,
    Frame,
    PoseMaps,
    PoseResult,
    Poses2D,
    Tracks,
)
from pose_ros.core.window import WindowBuffer
from pose_ros.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PoseNet:
    """A pose network as the pipeline sees it.

    ``run`` maps clips to maps for all people at once; it is never called for nobody.
    ``crop_px_from_cell`` maps heatmap cells (P, J, 2) to crop pixels.
    """

    name: str
    run: Callable[[Clips], PoseMaps]
    crop_px_from_cell: Callable[[FloatArray], FloatArray]
    skeleton: Skeleton
    size_hw_px: tuple[int, int]
    frames: int
    crop_scale: float
    device: str
    backend: str


class PosePipeline:
    """Keeps who is who between frames; give it every frame once, in the order of time."""

    def __init__(self, config: PipelineConfig, detector: Detector, net: PoseNet) -> None:
        """Assemble the stages."""
        self.config = config
        self.detector = detector
        self.net = net
        self.tracker = Tracker(config.track, net.skeleton)
        self.windows = WindowBuffer(net.frames, config.window)
        self.cropper = Cropper(net.size_hw_px, net.crop_scale)
        self._since_detection = config.detect.interval
        self._size_px: tuple[int, int] | None = None

    @property
    def skeleton(self) -> Skeleton:
        """Joint set of the poses."""
        return self.net.skeleton

    def step(self, frame: Frame) -> PoseResult:
        """Skeletons of everybody in ``frame``.

        A stamp before the last one and another image size start anew: everybody known is LOST.
        """
        ms: dict[str, float] = {}
        ended = self._restart(frame)
        with _timed(ms, "detect"):
            boxes = self.detector(frame.rgb) if self._detector_is_due() else None
        with _timed(ms, "track"):
            people = self.tracker.propose(frame.stamp_ns, boxes)
        with _timed(ms, "crop"):
            clips = self.cropper.crop(self.windows.push(frame, people))
        with _timed(ms, "network"):
            maps = self.net.run(clips) if len(people) else None
        with _timed(ms, "decode"):
            poses = self._poses(people.ids, maps, clips)
        with _timed(ms, "track"):
            tracks, poses = self.tracker.observe(poses)
        result = self._result(frame.stamp_ns, frame.frame_id, (tracks, poses), ms)
        return dataclasses.replace(_with_ended(result, ended), detected=boxes is not None)

    def coast(self, stamp_ns: int) -> PoseResult:
        """Everybody at ``stamp_ns`` without an image: OCCLUDED, then LOST once."""
        return self._result(stamp_ns, "", self.tracker.coast(stamp_ns), {})

    def flush(self) -> PoseResult:
        """Everybody as LOST, and a fresh start."""
        nobody = (_no_tracks(), Poses2D.empty(len(self.skeleton)))
        result = self._result(0, "", nobody, {})
        return _with_ended(result, self.reset())

    def reset(self) -> Tracks:
        """Forget every person and frame; ids stay used. Returns those alive, as LOST."""
        self._since_detection = self.config.detect.interval
        self._size_px = None
        self.windows.reset()
        return self.tracker.reset()

    def reconfigure(self, config: PipelineConfig) -> None:
        """Take over parameters that may change while running.

        Raises:
            ConfigError: if a parameter differs that needs the pipeline to be built anew.

        """
        new = {name: value for name, _, value in parameters(config)}
        for name, item, value in parameters(self.config):
            if new[name] != value and not item.metadata["live"]:
                raise ConfigError(
                    f"{name}: cannot change while running (from {value!r} to {new[name]!r}); "
                    "configure the node again"
                )
        self.config = config
        self.tracker.config = config.track
        self.detector.config = config.detect

    def _restart(self, frame: Frame) -> Tracks:
        backwards = self.tracker.goes_back(frame.stamp_ns)
        resized = self._size_px not in (None, frame.size_px)
        ended = _no_tracks()
        if backwards or resized:
            why = "the stamp went back" if backwards else f"image size is now {frame.size_px} px"
            _log.warning("starting anew: %s", why)
            ended = self.reset()
        self._size_px = frame.size_px
        return ended

    def _detector_is_due(self) -> bool:
        self._since_detection += 1
        due = self._since_detection >= self.config.detect.interval or not self.tracker.busy
        if due:
            self._since_detection = 0
        return due

    def _poses(self, ids: np.ndarray, maps: PoseMaps | None, clips: Clips) -> Poses2D:
        if maps is None:
            return Poses2D.empty(len(self.skeleton))
        cells, score = heatmaps.decode(maps)
        xy_px = to_image(self.net.crop_px_from_cell(cells), clips.image_from_crop)
        return Poses2D(ids, xy_px.astype(np.float32), score)

    def _result(
        self, stamp_ns: int, frame_id: str, who: tuple[Tracks, Poses2D], ms: dict[str, float]
    ) -> PoseResult:
        size = self._size_px or (0, 0)
        return PoseResult(stamp_ns, frame_id, size, who[0], who[1], detected=False, stage_ms=ms)


@contextmanager
def _timed(ms: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter_ns()
    yield
    ms[stage] = ms.get(stage, 0.0) + (time.perf_counter_ns() - start) * 1e-6


def _no_tracks() -> Tracks:
    none = np.zeros(0, np.int64)
    return Tracks(
        none, none.astype(np.int8), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none
    )


def _with_ended(result: PoseResult, ended: Tracks) -> PoseResult:
    """Prepend tracks that ended before the frame, without a pose."""
    if len(ended) == 0:
        return result
    joints = result.poses.xy_px.shape[1]
    now = result.tracks
    tracks = Tracks(
        np.concatenate([ended.ids, now.ids]),
        np.concatenate([ended.state, now.state]),
        np.concatenate([ended.xyxy_px, now.xyxy_px]),
        np.concatenate([ended.confidence, now.confidence]),
        np.concatenate([ended.last_seen_ns, now.last_seen_ns]),
    )
    xy_px = np.full((len(ended), joints, 2), np.nan, np.float32)
    poses = Poses2D(
        tracks.ids,
        np.concatenate([xy_px, result.poses.xy_px]),
        np.concatenate([np.zeros((len(ended), joints), np.float32), result.poses.score]),
    )
    return dataclasses.replace(result, tracks=tracks, poses=poses)
