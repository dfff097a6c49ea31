"""The composition root: the only place that knows both the stages and the networks."""

from __future__ import annotations

import logging
import time

import numpy as np

from pose_ros.core.config import PipelineConfig
from pose_ros.core.detect import NetDetector
from pose_ros.core.pipeline import PoseNet, PosePipeline
from pose_ros.core.skeletons import get_skeleton
from pose_ros.core.values import ByteArray, Clips, FloatArray, PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import Card, find_card
from pose_ros.nets.runtime import Runner, open_runner

_log = logging.getLogger(__name__)

#: Crop pixels per heatmap cell of every network here.
STRIDE_PX = 4.0
#: Image sizes (height, width) and numbers of people that are tried before the first frame, so that
#: it is not the slow one.
WARM_UP_IMAGES = ((1080, 1920), (480, 640))
WARM_UP_PEOPLE = 4


def build_pipeline(config: PipelineConfig) -> PosePipeline:
    """Load the networks a configuration names, run each once, and assemble the pipeline.

    Raises:
        ConfigError: a network of the wrong kind, or a device that is not there.
        WeightsError: an unknown network, or weights that are missing or damaged.

    """
    start = time.perf_counter()
    detector = load_detector(config)
    net = load_pose_net(config)
    _log.info(
        "pose network %s and detector %s on %s (%s), ready after %.1f s",
        net.name, config.detect.net, net.device, net.backend, time.perf_counter() - start,
    )  # fmt: skip
    return PosePipeline(config, detector, net)


def load_detector(config: PipelineConfig) -> NetDetector:
    """Detector of a configuration, warmed up."""
    runner = _open(config.detect.net, "detector", config)
    long_side = max(runner.card.input_hw)
    detector = NetDetector(lambda images: _detect(runner, images), config.detect, long_side)
    for shape in WARM_UP_IMAGES:
        detector(np.zeros((*shape, 3), np.uint8))
    return detector


def load_pose_net(config: PipelineConfig) -> PoseNet:
    """Pose network of a configuration, warmed up."""
    runner = _open(config.model.name, "pose", config)
    card = runner.card
    for people in range(1, WARM_UP_PEOPLE + 1):
        runner(np.zeros((people, card.frames, *card.input_hw, 3), np.uint8))
    return PoseNet(
        name=card.name,
        run=lambda clips: _run(runner, clips),
        crop_px_from_cell=lambda cells: cells * STRIDE_PX - 0.5,
        skeleton=get_skeleton(card.skeleton or ""),
        size_hw_px=card.input_hw,
        frames=card.frames,
        crop_scale=card.crop_scale,
        device=runner.device,
        backend=runner.backend,
    )


def _open(name: str, kind: str, config: PipelineConfig) -> Runner:
    card: Card = find_card(name)
    if card.kind != kind:
        raise ConfigError(
            f"network '{name}': expected a {kind} network, its card says {card.kind}"
        )
    return open_runner(card, config.device, config.threads or None)


def _detect(runner: Runner, images: ByteArray) -> tuple[FloatArray, FloatArray]:
    boxes, score = runner(images)
    return boxes, score


def _run(runner: Runner, clips: Clips) -> PoseMaps:
    heatmaps, prior, offsets = runner(clips.rgb)
    return PoseMaps(heatmaps, prior, offsets)
