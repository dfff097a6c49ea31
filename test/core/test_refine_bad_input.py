"""Bodies of which little is seen, or somebody else's, in bones and refiner as in the pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from swinging import walker

from pose_ros.core.bones import BoneLengths
from pose_ros.core.refine_energy import stream_config
from pose_ros.core.refine_stream import StreamRefiner
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import KeypointStatus

SECOND = 10**9
HEIGHT_PX = 240.0


class Stream:
    """Bones and refiner of any number of people in metres or pixels."""

    def __init__(self, dims):
        self.dims, self.bones = dims, BoneLengths(COCO17, dims)
        self.refiner = StreamRefiner(COCO17, dims, stream_config(dims))

    def update(self, frame, ids, points, score):
        points, score = np.asarray(points, np.float32), np.asarray(score, np.float32)
        size = None if self.dims == 3 else np.full(len(ids), HEIGHT_PX, np.float32)
        self.bones.update(ids, points, score, person_px=size, view_axis=np.zeros(self.dims))
        return self.refiner.update(
            round(frame / 30 * SECOND), ids, points, score, None, self.bones.lengths(ids, size),
            size, self.bones.weights(ids),
        )  # fmt: skip


def scene(dims, frames=90):
    truth, _ = walker(frames)
    return truth if dims == 3 else 150.0 * truth[..., :2]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("names", [("left_wrist", "left_elbow"), ("nose", "right_ankle"), ()])
def test_two_joints_of_a_person_are_two_joints(dims, names):
    """Never more was seen: nothing is made up, and no number is wild."""
    truth, stream = scene(dims), Stream(dims)
    seen = [COCO17.index(name) for name in names]
    rng = np.random.default_rng(0)
    noise = 0.01 if dims == 3 else 1.5
    for i, real in enumerate(truth[:40]):
        points, score = np.full((1, 17, dims), np.nan), np.zeros((1, 17))
        points[0, seen] = (real + noise * rng.standard_normal(real.shape))[seen]
        score[0, seen] = 0.9
        now = stream.update(i, np.array([1]), points, score)
        told = now.status[0] != KeypointStatus.MISSING
        assert np.flatnonzero(told).tolist() == sorted(seen)
        assert np.isnan(now.points[0][~told]).all() and (now.score[0][~told] == 0).all()
        assert np.isinf(now.age_s[0][~told]).all() and not now.rejected.any()
    error = np.linalg.norm(now.points[0, seen] - truth[39, seen], axis=-1)
    assert (error < 6 * noise).all()
    lengths = stream.bones.lengths(np.array([1]), np.array([HEIGHT_PX], np.float32))
    assert np.isfinite(lengths[0, 4:]).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_all_but_two_joints_vanish_and_come_back(dims):
    truth, stream = scene(dims), Stream(dims)
    kept = [COCO17.index("left_hip"), COCO17.index("left_knee")]
    unit = 1.0 if dims == 3 else 150.0
    for i, real in enumerate(truth):
        points, score = real[None].copy(), np.full((1, 17), 0.9)
        if 40 <= i < 55:
            gone = np.delete(np.arange(17), kept)
            points[0, gone], score[0, gone] = np.nan, 0.0
        now = stream.update(i, np.array([1]), points, score)
        if i == 54:
            assert np.flatnonzero(now.status[0]).tolist() == kept  # 0.3 s are over
        off = np.linalg.norm(now.points[0] - real, axis=-1) / unit
        assert not off[kept].max() > 0.05
        if 40 <= i < 48:
            assert np.isfinite(off).all() and off.max() < 0.45
    assert off.max() < 0.05


def test_two_people_who_cross_and_swap_their_ids_become_themselves_again():
    """1.62 m and 1.26 m tall; the tracker takes one for the other for good."""
    tall, _ = walker(330)
    child, _ = walker(330, phase=1.0)
    child = 0.78 * (child - [0.0, 0.0, 4.0]) + [0.0, 0.3, 5.0]
    stream, ids, rng, off = Stream(3), np.array([1, 2]), np.random.default_rng(0), []
    for i in range(330):
        real = np.stack([tall[i], child[i]] if i < 150 else [child[i], tall[i]])
        points = real + 0.015 * rng.standard_normal(real.shape)
        now = stream.update(i, ids, points, np.full((2, 17), 0.85))
        off.append(np.linalg.norm(now.points - real, axis=-1)[:, 5:].mean(axis=1))
    off = np.array(off)
    assert off[100:150].mean() < 0.02
    assert off[150:].max() < 0.2  # also while the bones are still the other's
    assert off[240:].mean() < 0.025
    thigh = COCO17.edges.index(("left_hip", "left_knee"))
    np.testing.assert_allclose(stream.bones.lengths(ids)[:, thigh], [0.78 * 0.42, 0.42], rtol=0.03)


def test_a_person_cut_by_the_border_is_completed_for_a_while_only():
    """In pixels: the legs leave the image at the lower border, the trunk goes on."""
    truth, stream = scene(2), Stream(2)
    truth = truth - truth[:, [11, 12]].mean(axis=1, keepdims=True) + [160.0, 100.0]
    truth[..., 1] += 2.0 * np.arange(len(truth))[:, None]  # comes nearer, so to speak
    for i, real in enumerate(truth):
        inside = real[:, 1] < 239.5
        points = np.where(inside[:, None], real, np.nan)[None]
        now = stream.update(i, np.array([1]), points, np.where(inside, 0.9, 0.0)[None])
        measured = now.status[0] == KeypointStatus.MEASURED
        np.testing.assert_array_equal(measured, inside)
        assert np.linalg.norm(now.points[0] - real, axis=-1)[inside].max() < 6.0
        filled = now.status[0] == KeypointStatus.INFERRED
        assert (now.age_s[0][filled] <= 0.3 + 1e-6).all()
    assert 0 < inside.sum() < 13 and not filled[[15, 16]].any()
