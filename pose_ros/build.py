"""The composition root: the only place that knows both the stages and the networks."""

from __future__ import annotations

import logging
import time

import numpy as np

from pose_ros.core.config import PipelineConfig
from pose_ros.core.crop import Crops
from pose_ros.core.detect import NetDetector
from pose_ros.core.embody import Embodier
from pose_ros.core.imu_setup import Sensors, sensors_of
from pose_ros.core.lift_mono import MonocularLifter
from pose_ros.core.penalties import Penalty
from pose_ros.core.pipeline import PoseNet, PosePipeline
from pose_ros.core.skeletons import Skeleton, get_skeleton
from pose_ros.core.values import ByteArray, Clips, FloatArray, IntArray, PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import Card, find_card, weights_digest, with_latency
from pose_ros.nets.lift_runtime import open_lifter
from pose_ros.nets.runtime import Runner, open_runner
from pose_ros.nets.stream import StreamRunner, open_stream

_log = logging.getLogger(__name__)

#: Image sizes (height, width) and numbers of people that are tried before the first frame, so that
#: it is not the slow one.
WARM_UP_IMAGES = ((1080, 1920), (480, 640))
WARM_UP_PEOPLE = 4
WARM_UP_PEOPLE_VIDEO = 2


def build_pipeline(
    config: PipelineConfig, hooks: tuple[Penalty, ...] = (), ground: np.ndarray | None = None
) -> PosePipeline:
    """Load the networks a configuration names, run each once, and assemble the pipeline.

    ``hooks`` and ``ground`` are those of `Embodier`: a task's own penalties, the floor.

    Raises:
        ConfigError: a network of the wrong kind, or a device that is not there.
        WeightsError: an unknown network, or weights that are missing or damaged.

    """
    start = time.perf_counter()
    detector = load_detector(config)
    net = load_pose_net(config)
    untrained = "" if net.trained else "UNTRAINED "
    _log.info(
        "%spose network %s (%s, answers %d frames later) and detector %s on %s (%s), ready after "
        "%.1f s", untrained, net.name, net.mode, net.lookahead, config.detect.net, net.device,
        net.backend, time.perf_counter() - start,
    )  # fmt: skip
    sensors = sensors_of(config.imu, net.skeleton)
    embodier = load_embodier(config, net.skeleton, sensors, hooks, ground)
    return PosePipeline(config, detector, net, embodier, sensors.ego)


def load_embodier(
    config: PipelineConfig, skeleton: Skeleton, sensors: Sensors | None = None,
    hooks: tuple[Penalty, ...] = (), ground: np.ndarray | None = None,
) -> Embodier | None:  # fmt: skip
    """Stages after the network, warmed up; None when all of them are off.

    ``hooks`` and ``ground`` are those of `Embodier`.

    Raises:
        ConfigError: the lifting network's card is another network's.
        WeightsError: its weights are missing or damaged.

    """
    if config.filter.type == "none" and config.lift.source == "none":
        return None
    mono = None
    if config.lift.source in ("auto", "mono"):
        lifter = open_lifter(_card(config.lift.net, "lifter"))
        lifter(np.zeros((1, lifter.card.frames, lifter.card.input_hw[1]), np.float32))
        mono = MonocularLifter(lifter, config.lift.stature_m, config.lift.stature_std)
    sensors = sensors or Sensors()
    return Embodier(skeleton, config, mono, sensors.camera, sensors.body, hooks, ground)


def load_detector(config: PipelineConfig) -> NetDetector:
    """Detector of a configuration, warmed up."""
    runner = open_runner(_card(config.detect.net, "detector"), config.device, config.threads)
    long_side = max(runner.card.input_hw)
    detector = NetDetector(lambda images: _detect(runner, images), config.detect, long_side)
    for shape in WARM_UP_IMAGES:
        detector(np.zeros((*shape, 3), np.uint8))
    return detector


def load_pose_net(config: PipelineConfig) -> PoseNet:
    """Pose network of a configuration, warmed up.

    Raises:
        ConfigError: it is no pose network, cannot run in the latency mode, or has other joints
            than its card says.
        WeightsError: an unknown network, or weights that are missing or damaged.

    """
    card = with_latency(_card(config.model.name, "pose"), config.model.latency_mode)
    runner: Runner | StreamRunner
    stream = None
    if card.is_video:
        runner = open_stream(card, config.device, config.threads)
        stream = NetStream(runner)
        joints = _warm_up_stream(stream, card)
    else:
        runner = open_runner(card, config.device, config.threads)
        for people in range(1, WARM_UP_PEOPLE + 1):
            maps = runner(np.zeros((people, card.frames, *card.input_hw, 3), np.uint8))
        joints = maps[0].shape[1]
    skeleton = get_skeleton(card.skeleton or "")
    if joints != len(skeleton):
        raise ConfigError(
            f"network '{card.name}': expected the {len(skeleton)} joints of {skeleton.name}, its "
            f"heatmaps have {joints}"
        )
    return PoseNet(
        name=card.name,
        run=lambda clips: _run(runner, clips),  # type: ignore[arg-type]
        crop_px_from_cell=card.crop_px_from_cell,
        skeleton=skeleton,
        size_hw_px=card.input_hw,
        frames=runner.length if isinstance(runner, StreamRunner) else card.frames,
        crop_scale=card.crop_scale,
        device=runner.device,
        backend=runner.backend,
        lookahead=card.lookahead_frames,
        mode=card.mode,
        trained=not card.untrained,
        weights=weights_digest(card),
        stream=stream,
    )


class NetStream:
    """A `StreamRunner` as the pipeline asks it."""

    def __init__(self, runner: StreamRunner) -> None:
        """Wrap ``runner``."""
        self.runner = runner

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept."""
        return self.runner.nbytes

    def wanted(self, ids: IntArray, image_from_crop: FloatArray, numbers: IntArray) -> np.ndarray:
        """(N, 2) person and place in the window of each crop that it has not seen."""
        return self.runner.wanted(ids, image_from_crop, numbers)

    def run(self, crops: Crops) -> PoseMaps:
        """Maps of everybody in the key frame."""
        heatmaps = self.runner.run(
            crops.ids, crops.image_from_crop, crops.numbers, crops.stamp_ns, crops.rgb
        )
        return PoseMaps(heatmaps)

    def reset(self) -> None:
        """Forget everybody."""
        self.runner.reset()


def _warm_up_stream(stream: NetStream, card: Card) -> int:
    """Look at people in two frames, the second with kept features; returns the joints."""
    length = stream.runner.length
    for people in range(1, WARM_UP_PEOPLE_VIDEO + 1):
        ids = np.arange(people)
        affine = np.tile(np.eye(2, 3, dtype=np.float32), (people, 1, 1))
        for first in (0, 1):
            numbers = np.arange(first, first + length)
            blank = (len(stream.wanted(ids, affine, numbers)), *card.input_hw, 3)
            crops = Crops(ids, affine, numbers, first, np.zeros(blank, np.uint8))
            joints = stream.run(crops).heatmaps.shape[1]
        stream.reset()
    return joints


def _card(name: str, kind: str) -> Card:
    card = find_card(name)
    if card.kind != kind:
        raise ConfigError(
            f"network '{name}': expected a {kind} network, its card says {card.kind}"
        )
    return card


def _detect(runner: Runner, images: ByteArray) -> tuple[FloatArray, FloatArray]:
    boxes, score = runner(images)
    return boxes, score


def _run(runner: Runner, clips: Clips) -> PoseMaps:
    heatmaps, *rest = runner(clips.rgb)
    return PoseMaps(heatmaps, *rest)
