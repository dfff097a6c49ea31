"""From a frame to tracked skeletons: every stage of ``docs/pipeline.md``, one call each."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from pose_ros.core import heatmaps
from pose_ros.core.config import PipelineConfig, parameters
from pose_ros.core.crop import Cropper, Crops, Turns, to_image
from pose_ros.core.detect import Detector
from pose_ros.core.ego import EgoMotion
from pose_ros.core.embody import Embodier
from pose_ros.core.endings import joined, lost_of, no_tracks, with_ended
from pose_ros.core.pose_net import PoseNet as PoseNet
from pose_ros.core.predict import carried
from pose_ros.core.skeletons import Skeleton
from pose_ros.core.spread import map_std
from pose_ros.core.track import Tracker
from pose_ros.core.values import (
    Body,
    FloatArray,
    Frame,
    PoseMaps,
    PoseResult,
    Poses2D,
    Refined2D,
    Tracks,
)
from pose_ros.core.window import Aims, Moment, WindowBuffer
from pose_ros.errors import ConfigError

_log = logging.getLogger(__name__)


class PosePipeline:
    """Keeps who is who between frames; give it every frame once, in the order of time.

    Every frame is answered once, in order. A network that looks ahead by k frames, and a filter
    with a lag of k, answer a frame when the k-th after it has come, under the stamp and with the
    boxes of the frame they answer; with both, the delays add. A stage that raises costs the answer
    to its frame, but for who is LOST in it: the next answer says that.
    """

    def __init__(
        self,
        config: PipelineConfig,
        detector: Detector,
        net: PoseNet,
        embodier: Embodier | None = None,
        ego: EgoMotion | None = None,
    ) -> None:
        """Assemble the stages; without an embodier results are the network's joints in pixels.

        ``ego`` tells how the camera turns, None if no sensor does.
        """
        self.config = config
        self.detector = detector
        self.net = net
        self.embodier = embodier
        self.ego = ego
        self.tracker = Tracker(config.track, net.skeleton)
        hold = net.frames > 1 or net.stream is not None
        self.windows = WindowBuffer(net.frames, config.window, net.lookahead, hold)
        self.cropper = Cropper(net.size_hw_px, net.crop_scale)
        self._since_detection = config.detect.interval
        self._size_px: tuple[int, int] | None = None
        self._newest_ns: int | None = None
        self._hurried = False
        self._ended = no_tracks()
        self._waiting: deque[tuple[PoseResult, Tracks]] = deque()  # and who had ended before
        self._ready: list[PoseResult] = []  # answers that the next call returns
        self._last: PoseResult | None = None  # answer to the last image, before who had ended

    @property
    def skeleton(self) -> Skeleton:
        """Joint set of the poses."""
        return self.net.skeleton

    @property
    def lag(self) -> int:
        """Frames that the filter waits for after the one it answers."""
        return 0 if self.embodier is None else self.embodier.lag

    @property
    def facts(self) -> dict[str, str]:
        """What readers of the results should know of them."""
        return self.net.facts | {"lag_frames": str(self.lag)}

    @property
    def _aligner(self) -> EgoMotion | None:
        """Who tells how the pictures of a window are turned; None: they are not."""
        return self.ego if self.config.imu.align_windows else None

    def push(self, frame: Frame, hurried: bool = False) -> list[PoseResult]:
        """Answers that ``frame`` completes: its own, or of ``net.lookahead`` plus `lag` ago.

        ``hurried`` says that other frames are waiting: a detection that is due while somebody is
        followed is then put off, until it is overdue by its interval.

        None while the look-ahead fills; several when the frames before were still waiting and
        ``frame`` does not continue them. A stamp before the last one and another image size start
        anew: everybody known is LOST.
        """
        if self.windows.breaks(frame):
            self._answer_rest()
        self._restart(frame)
        self._hurried = hurried
        moment = self.windows.push(frame)
        if moment:
            self._answer(moment)
        return self._taken()

    def step(self, frame: Frame) -> PoseResult:
        """Answer to ``frame`` at once, of a network without look-ahead; see `push`.

        Raises:
            ConfigError: the network looks ahead, or the filter lags.

        """
        if self.net.lookahead or self.lag:
            raise ConfigError(
                f"{self.net.name} answers {self.net.lookahead + self.lag} frames later: use push "
                "and finish"
            )
        return self.push(frame)[-1]

    def finish(self) -> list[PoseResult]:
        """Answers to the frames that still wait for later ones, which do not come."""
        self._answer_rest()
        return self._taken()

    def _taken(self) -> list[PoseResult]:
        """Answers that were not returned yet."""
        ready, self._ready = self._ready, []
        return ready

    def _answer_rest(self) -> None:
        """Answer all frames that wait for later ones."""
        for moment in self.windows.rest():
            self._answer(moment)
        self._answer_late()

    def _answer_late(self) -> None:
        """Answer the frames that wait for the filter."""
        for stamp_ns, refined, body in [] if self.embodier is None else self.embodier.rest():
            self._tell(stamp_ns, refined, body)

    def _answer(self, moment: Moment) -> None:
        """Look for everybody in the key frame, and answer what that completes."""
        ms: dict[str, float] = {}
        frame = moment.key_frame
        if self.embodier is not None and self.embodier.breaks(frame):
            self._answer_late()
        if self.ego is not None:
            with _timed(ms, "imu"):
                self._carry(self.ego, frame)
        with _timed(ms, "detect"):
            boxes = self.detector(frame.rgb) if self._detector_is_due() else None
        with _timed(ms, "track"):
            people = self.tracker.propose(frame.stamp_ns, boxes)
        if self.ego is not None:
            with _timed(ms, "imu"):
                self.ego.look(frame, people.xyxy_px)
        aims = self.windows.aim(people, frame.stamp_ns, frame.camera, self._aligner)
        maps, image_from_crop = self._look(moment, aims, ms)
        with _timed(ms, "decode"):
            poses = self._poses(aims, frame, maps, image_from_crop)
        with _timed(ms, "track"):
            tracks, poses = self.tracker.observe(poses)
        result = dataclasses.replace(
            self._result(frame.stamp_ns, frame.frame_id, (tracks, poses), ms),
            detected=boxes is not None,
            with_depth=self.embodier is not None and frame.depth is not None,
        )
        ended, self._ended = self._ended, no_tracks()
        self._waiting.append((result, ended))
        try:
            self._embody(frame, result)
        except Exception:
            self._waiting.pop()
            self._ended = joined(ended, lost_of(tracks))
            raise

    def _tell(
        self, stamp_ns: int | None, refined: Refined2D | None = None, body: Body | None = None
    ) -> None:
        """Answer what waits up to the frame of ``stamp_ns``, which is the one that was refined."""
        while stamp_ns is not None and self._waiting:
            result, ended = self._waiting[0]
            if result.stamp_ns > stamp_ns:
                return
            if result.stamp_ns == stamp_ns:
                if body is not None and self.embodier is not None:
                    with _timed(result.stage_ms, "angles"):
                        angles = self.embodier.angles(stamp_ns, body.poses)
                    body = dataclasses.replace(body, angles=angles)
                result = dataclasses.replace(result, refined=refined, body=body)
            self._ready.append(with_ended(result, ended))
            self._last = result
            self._waiting.popleft()

    def _carry(self, ego: EgoMotion, frame: Frame) -> None:
        """Turn everything that is remembered of people into the camera's new axes."""
        flat, deep = ((), ()) if self.embodier is None else self.embodier.memories
        ego.carry(frame.stamp_ns, frame.camera, (self.tracker, *flat), deep)

    def _look(
        self, moment: Moment, aims: Aims, ms: dict[str, float]
    ) -> tuple[PoseMaps | None, FloatArray]:
        """Maps of the people aimed at, and the affines (P, 2, 3) of their crops."""
        people, stream = aims.people, self.net.stream
        turns = self._turns(moment, aims)
        if stream is None:
            with _timed(ms, "crop"):
                clips = self.cropper.crop(moment.of(people), turns)
            with _timed(ms, "network"):
                maps = self.net.run(clips) if len(people) else None
            return maps, clips.image_from_crop
        with _timed(ms, "crop"):
            edges, affine = self.cropper.place(people.xyxy_px)
            kept = aims.kept(affine)
            wanted = stream.wanted(people.ids, kept, moment.numbers)
            rgb = self.cropper.cut(moment.frames, edges, wanted, turns)
        with _timed(ms, "network"):
            newest_ns = moment.frames[-1].stamp_ns
            crops = Crops(people.ids, kept, moment.numbers, newest_ns, rgb)
            maps = stream.run(crops) if len(people) else None
        return maps, affine

    def _turns(self, moment: Moment, aims: Aims) -> Turns | None:
        """How the camera turned from each frame to each person's reference."""
        ego = self._aligner
        if ego is None or not self.windows.holds:
            return None
        camera, references = moment.key_frame.camera, aims.reference_ns.tolist()
        return lambda person, time: ego.view(
            camera, moment.frames[time].stamp_ns, references[person]
        )

    def _embody(self, frame: Frame, result: PoseResult) -> None:
        """Make joints smooth, lift them, and answer the frame that is complete then."""
        embodier, ms, tracks, poses = self.embodier, result.stage_ms, result.tracks, result.poses
        if embodier is None:
            self._tell(result.stamp_ns)
            return
        body = None
        with _timed(ms, "refine"):
            refined = embodier.refine(frame.stamp_ns, tracks, poses)
        with _timed(ms, "lift"):
            metric = embodier.lift(frame, tracks, poses)
        if metric is not None:
            with _timed(ms, "refine"):
                body = embodier.embody(frame.stamp_ns, tracks, metric)
        self._tell(embodier.due_ns, refined, body)

    def coast(self, stamp_ns: int) -> PoseResult:
        """Everybody at ``stamp_ns`` without an image: OCCLUDED, then LOST once.

        Metres are those of the last image, each joint moved on to ``stamp_ns`` at its own speed
        and PREDICTED until ``filter.max_prediction_s`` after it was measured, then MISSING; in
        the axes the camera had at that image. Pixels and angles are unknown: pixels belong to an
        image, and nothing says how fast or since when a joint moves there. Nothing remembered is
        moved, for the next frame may be older than ``stamp_ns``, which is a guess.
        """
        who, body = self.tracker.coast(stamp_ns), None
        if self._last is not None:
            longest_s = self.config.filter.max_prediction_s
            body = carried(self._last, who[0], stamp_ns, longest_s)
        return dataclasses.replace(self._result(stamp_ns, "", who, {}), body=body)

    def flush(self) -> PoseResult:
        """Everybody as LOST, and a fresh start; frames that still wait are not answered."""
        nobody = (no_tracks(), Poses2D.empty(len(self.skeleton)))
        result = self._result(0, "", nobody, {})
        self._waiting.extend((answer, no_tracks()) for answer in self._taken())
        return with_ended(result, self.reset())

    def reset(self) -> Tracks:
        """Forget every person and frame; ids stay used.

        Returns as LOST who is alive, and who was LOST in what was not answered.
        """
        told, self._ended = self._ended, no_tracks()
        for result, ended in self._waiting:
            told = joined(told, joined(ended, lost_of(result.tracks)))
        self._waiting.clear()
        self._since_detection = self.config.detect.interval
        self._size_px = self._newest_ns = self._last = None
        self.windows.reset()
        if self.net.stream is not None:
            self.net.stream.reset()
        if self.embodier is not None:
            self.embodier.reset()
        if self.ego is not None:
            self.ego.reset()
        return joined(told, self.tracker.reset())

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
        if self.embodier is not None:
            self.embodier.config = config
            self.embodier.depth.config = config.depth

    def _restart(self, frame: Frame) -> None:
        backwards = self._newest_ns is not None and frame.stamp_ns < self._newest_ns
        resized = self._size_px not in (None, frame.size_px)
        if backwards or resized:
            why = "the stamp went back" if backwards else f"image size is now {frame.size_px} px"
            _log.warning("starting anew: %s", why)
            self._ended = self.reset()
        self._size_px, self._newest_ns = frame.size_px, frame.stamp_ns

    def _detector_is_due(self) -> bool:
        self._since_detection += 1
        patience = self.config.detect.interval * (2 if self._hurried else 1)
        due = self._since_detection >= patience or not self.tracker.busy
        if due:
            self._since_detection = 0
        return due

    def _poses(
        self, aims: Aims, frame: Frame, maps: PoseMaps | None, image_from_crop: FloatArray
    ) -> Poses2D:
        if maps is None:
            return Poses2D.empty(len(self.skeleton))
        cells, score = heatmaps.decode(maps)
        xy_px = to_image(self.net.crop_px_from_cell(cells), image_from_crop)
        xy_px = aims.to_key(xy_px, frame, self._aligner)
        poses = Poses2D(aims.people.ids, xy_px.astype(np.float32), score)
        if maps.prior is None:  # taught by blobs of a given width: see `spread.SPREAD_SHARE`
            return poses
        ends = self.net.crop_px_from_cell(np.array([[[0, 0], [1, 1]]], np.float32))[0]
        std_px = map_std(poses, heatmaps.spread(maps), ends[1] - ends[0], image_from_crop)
        return dataclasses.replace(poses, std_px=std_px)

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
