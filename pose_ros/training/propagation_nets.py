"""Networks for label propagation: a single-frame one, alone and anchored at labels, and STDPose.

Shapes as in `propagation`. A network's joints are matched to the video's by name; joints that it
does not know stay unknown.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from pose_ros.core.crop import affine_from_boxes, cut, fit_boxes, to_image
from pose_ros.core.heatmaps import decode
from pose_ros.core.skeletons import Skeleton, mapping
from pose_ros.core.values import ByteArray, FloatArray, Frame, PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.nets.stdpose import STDPose
from pose_ros.training.datasets.base import ClipSample
from pose_ros.training.predict import Network, Predictor
from pose_ros.training.propagation import (
    Estimate,
    Sparse,
    at_ends,
    blend,
    boxes_between,
    closeness,
    ends_of,
    sides,
    stretches,
)

#: People whose windows go through a network at once.
BATCH = 16


def looked_at(video: Sparse, network: Network) -> Estimate:
    """Return the answer of a single-frame network in every frame, labelled ones included.

    Its crop is the box between the labels, so it is spared what a detector would get wrong.

    Raises:
        ConfigError: the network wants several frames, or none of its joints is labelled.

    """
    if network.frames != 1:
        raise ConfigError(f"{network.name}: expected a network that looks at single frames")
    order = joints_of(network, video.skeleton)
    shape = video.visible.shape
    xy = np.full((*shape[:2], len(network.skeleton), 2), np.nan, np.float32)
    score = np.zeros(xy.shape[:3], np.float32)
    boxes = boxes_between(video, ends_of(video))
    where = np.argwhere(np.isfinite(boxes).all(axis=2).T)  # frame by frame
    predictor = Predictor(network, BATCH)
    for first in _bar(range(0, len(where), BATCH), "network"):
        rows = where[first : first + BATCH]
        samples = [_still(video, person, time, boxes[person, time]) for time, person in rows]
        xy[rows[:, 1], rows[:, 0]], score[rows[:, 1], rows[:, 0]] = predictor.run(samples, first)
    return _in_joints(xy, score, order)


def anchored(video: Sparse, looked: Estimate) -> Estimate:
    """Return what a single-frame network says, moved so that it meets the labels.

    What it is off by at both ends is taken off in between, changing evenly: it may name another
    place of the body a joint than the labels do, but it does so in every frame. The score is the
    network's, less where what it is off by changes.
    """
    ends = ends_of(video)
    off_left, off_right = at_ends(video.xy_px - looked.xy_px, ends)
    off = blend(off_left, off_right, ends.share)
    changed = np.linalg.norm(off_left - off_right, axis=3)
    sure = closeness(changed / 2, sides(boxes_between(video, ends))[..., None])
    sure = np.where(np.isfinite(changed), sure, np.float32(0.5))
    xy = looked.xy_px + np.nan_to_num(off)
    return Estimate(xy.astype(np.float32), (looked.score * sure).astype(np.float32))


def _still(video: Sparse, person: int, time: int, box: FloatArray) -> ClipSample:
    """Sample of one frame."""
    joints = len(video.skeleton)
    return ClipSample(
        images=(video.images[time],),
        key=0,
        box_xyxy_px=box,
        xy_px=np.full((1, joints, 2), np.nan, np.float32),
        visible=np.zeros((1, joints), np.uint8),
        skeleton=video.skeleton,
        track=video.tracks[person],
        frame_index=np.array([time], np.int64),
        dt_left=0,
        dt_right=0,
    )


def joints_of(network: Network, wanted: Skeleton) -> np.ndarray:
    """(K,) index of each wanted joint among the network's, -1 where it has none.

    Raises:
        ConfigError: it has none at all.

    """
    order = mapping(network.skeleton, wanted)
    if (order < 0).all():
        raise ConfigError(
            f"{network.name} knows {network.skeleton.name}, the labels are {wanted.name}: they "
            "share no joint; choose another network"
        )
    return order


def _in_joints(xy: FloatArray, score: FloatArray, order: np.ndarray) -> Estimate:
    has = order >= 0
    mapped = np.where(has[:, None], xy[:, :, order], np.float32("nan"))
    return Estimate(mapped.astype(np.float32), np.where(has, score[:, :, order], np.float32(0)))


@dataclass(frozen=True, eq=False)
class Windows:
    """Side frame, frame and side frame of N people, in one crop each."""

    people: np.ndarray  # (N,)
    times: np.ndarray  # (N,)
    crops: ByteArray  # (N, 3, h, w, 3)
    edges_px: np.ndarray  # (N, 4)
    labels: FloatArray  # (N, 3, K, 3) x and y in image pixels, visibility; the key's unknown
    dt: FloatArray  # (N, 2) to the left and to the right; negative: on the other side


def propagated(video: Sparse, network: Network, reach: int) -> Estimate:
    """STDPose's answer in every frame, its side frames being the labelled ones around it.

    A frame with one end only is given that end twice. Further than ``reach`` from it, the network
    sees the frames before and after, without labels; so does a person without any end whose box
    is known.

    Raises:
        ConfigError: the network is no STDPose, or not one whose key frame is in the middle.

    """
    net = network.module
    if not isinstance(net, STDPose) or network.key != 1:
        raise ConfigError(
            f"{network.name}: expected an STDPose with its key frame in the middle, got "
            f"{type(net).__name__} with key {network.key}"
        )
    order = joints_of(network, video.skeleton)
    shape = video.visible.shape
    xy = np.full((*shape[:2], len(network.skeleton), 2), np.nan, np.float32)
    score = np.zeros(xy.shape[:3], np.float32)
    into = mapping(video.skeleton, network.skeleton)
    for stretch in _bar(stretches(video), "stdpose"):
        for windows in _windows(video, network, stretch, reach):
            answer = _answer(network, net, windows, into)
            xy[windows.people, windows.times], score[windows.people, windows.times] = answer
    return _in_joints(xy, score, order)


def _windows(
    video: Sparse, network: Network, stretch: tuple[int, int], reach: int
) -> Iterator[Windows]:
    """Windows of the frames of a stretch, its frames read once and in order."""
    ends = ends_of(video)
    boxes = boxes_between(video, ends)
    first, last = stretch
    times = [t for t in range(first, last + 1) if not video.labelled[t]]
    there = np.asarray(np.isfinite(boxes).all(axis=2))
    rows = [(p, t) for t in times for p in np.flatnonzero(there[:, t])]
    if not rows:
        return
    people, when = (np.array(column) for column in zip(*rows, strict=True))
    left, right = ends.left[people, when], ends.right[people, when]
    far = ((left < 0) | (right < 0)) & (ends.near[people, when] > reach)
    left, right = np.where(left < 0, right, left), np.where(right < 0, left, right)
    last_frame = len(video.images) - 1
    left = np.where(far, np.maximum(when - 1, 0), left)
    right = np.where(far, np.minimum(when + 1, last_frame), right)
    seen = np.stack([left, when, right], axis=1)
    edges = fit_boxes(boxes[people, when], network.size_hw_px, network.crop_scale)
    crops = np.empty((len(rows), 3, *network.size_hw_px, 3), np.uint8)
    for time in np.unique(seen):
        frame = Frame(video.images[time].read(), 0)
        for row, slot in np.argwhere(seen == time):
            cut(frame, edges[row], crops[row, slot])
    xy = video.xy_px[people[:, None], seen]
    visible = video.visible[people[:, None], seen]
    labels = np.concatenate([xy, visible[..., None].astype(np.float32)], axis=3)
    dt = np.stack([when - left, right - when], axis=1).astype(np.float32)
    dt[far] = 1.0
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        yield Windows(people[part], when[part], crops[part], edges[part], labels[part], dt[part])


def _answer(
    network: Network, net: STDPose, windows: Windows, into: np.ndarray
) -> tuple[FloatArray, FloatArray]:
    """Joints (N, K, 2) in image pixels and scores (N, K) in the network's joint set."""
    device = next(net.parameters()).device
    affine = affine_from_boxes(windows.edges_px, network.size_hw_px)
    scale, shift = affine[:, 0, 0][:, None, None, None], affine[:, :, 2][:, None, None]
    crop_xy = (windows.labels[..., :2] - shift) / scale
    cells = network.cell_from_crop_px(crop_xy)
    labels = np.concatenate([cells, windows.labels[..., 2:]], axis=3)[:, :, into]
    labels = np.where((into >= 0)[:, None], labels, np.float32(0))
    x = normalised(network, torch.from_numpy(windows.crops).to(device))
    given = torch.from_numpy(labels.astype(np.float32)).to(device)
    left, right = (torch.from_numpy(windows.dt[:, i].copy()).to(device) for i in (0, 1))
    with torch.inference_mode():
        heatmaps = net(x, left, right, given).heatmaps.float().cpu().numpy()
    found, score = decode(PoseMaps(heatmaps))
    crop = network.crop_px_from_cell(found)
    return to_image(crop, affine).astype(np.float32), score


def normalised(network: Network, crops: torch.Tensor) -> torch.Tensor:
    """(N, T, 3, h, w) as the network's card says of (N, T, h, w, 3) uint8."""
    x = crops.permute(0, 1, 4, 2, 3).float()
    if network.channels == "bgr":
        x = x.flip(2)
    mean, std = (
        torch.tensor(v, device=x.device)[:, None, None] for v in (network.mean, network.std)
    )
    return (x - mean) / std


def _bar(items: object, what: str) -> Iterator:  # type: ignore[type-arg]
    return iter(tqdm(items, desc=what, disable=not sys.stderr.isatty()))  # type: ignore[call-overload]
