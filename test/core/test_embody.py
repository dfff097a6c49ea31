"""The stages after the network, on rendered people: metres, statuses, sources, forgetting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.config import PipelineConfig, with_values
from pose_ros.core.embody import Embodier, Scales
from pose_ros.core.lift_mono import MonocularLifter
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import (
    Frame,
    KeypointStatus,
    Poses2D,
    Poses3D,
    ScaleSource,
    Tracks,
    TrackState,
)
from pose_ros.errors import ShapeError
from pose_ros.training.render import Rendered, render
from pose_ros.training.scene import SceneConfig, random_scene

FRAMES = 14
WRIST = COCO17.index("right_wrist")


@pytest.fixture(scope="module")
def film() -> list[Rendered]:
    config = SceneConfig(seed=5, seconds=1.0, fps=30.0, people=1, size_px=(320, 240), clutter=2)
    scene = random_scene(config)
    return [render(scene, i) for i in range(FRAMES)]


def tracked(picture: Rendered, state: TrackState = TrackState.TRACKED) -> Tracks:
    people = len(picture.xy_px)
    return Tracks(
        np.arange(1, people + 1), np.full(people, state, np.int8),
        np.nan_to_num(picture.box_xyxy_px), np.ones(people, np.float32),
        np.full(people, picture.stamp_ns),
    )  # fmt: skip


def seen(picture: Rendered) -> Poses2D:
    """Return what a good network would say: truth for visible joints, nothing for the others."""
    visible = picture.visible == 2
    xy = np.where(visible[..., None], picture.xy_px, np.nan).astype(np.float32)
    return Poses2D(np.arange(1, len(xy) + 1), xy, np.where(visible, 0.9, 0.0).astype(np.float32))


def nobody(poses: Poses2D) -> Poses2D:
    return Poses2D(poses.ids, np.full_like(poses.xy_px, np.nan), np.zeros_like(poses.score))


def embodier(**values: object) -> Embodier:
    config = with_values(PipelineConfig(), {"lift.source": "depth", **values})
    return Embodier(COCO17, config, None)


def test_a_rendered_person_stands_where_it_was_rendered(film: list[Rendered]) -> None:
    stages = embodier()
    for picture in film:
        tracks, poses = tracked(picture), seen(picture)
        metric = stages.lift(picture.frame(), tracks, poses)
        assert metric is not None
        body = stages.embody(picture.stamp_ns, tracks, metric)
    truth = film[-1].xyz_camera_m
    measured = body.poses.status == KeypointStatus.MEASURED
    assert measured.sum() >= 10
    error_m = np.linalg.norm(body.poses.xyz_m - truth, axis=-1)[measured]
    assert np.median(error_m) < 0.04 and error_m.max() < 0.2
    assert body.poses.scale.tolist() == [ScaleSource.DEPTH]
    before, step_s = film[-2], (film[-1].stamp_ns - film[-2].stamp_ns) * 1e-9
    speed = (truth - before.xyz_camera_m) / step_s
    off = np.linalg.norm(body.poses.velocity_m_s - speed, axis=-1)[measured]
    assert np.median(off) < 0.6
    known = np.isfinite(body.poses.xyz_m).all(axis=-1)
    assert (np.linalg.eigvalsh(body.poses.covariance_m2[known]) > 0).all()
    angles = stages.angles(film[-1].stamp_ns, body.poses)
    assert angles is not None and np.isfinite(angles.angle_rad).any()


def test_joints_in_pixels_are_filled_in_and_then_given_up(film: list[Rendered]) -> None:
    stages = embodier(**{"filter.max_prediction_s": 0.1})
    for picture in film[:8]:
        refined = stages.refine(picture.stamp_ns, tracked(picture), seen(picture))
    assert refined is not None
    was = refined.poses.xy_px[0].copy()
    found = refined.status[0] == KeypointStatus.MEASURED
    hidden = seen(film[8])
    hidden.xy_px[0, WRIST], hidden.score[0, WRIST] = np.nan, 0.0
    one = stages.refine(film[8].stamp_ns, tracked(film[8]), hidden)
    assert one is not None and found[WRIST]
    assert one.status[0, WRIST] == KeypointStatus.INFERRED  # the rest of the body is seen
    assert np.linalg.norm(one.poses.xy_px[0, WRIST] - was[WRIST]) < 20
    gone = tracked(film[9], TrackState.OCCLUDED)
    two = stages.refine(film[9].stamp_ns, gone, nobody(seen(film[9])))
    assert two is not None
    assert set(two.status[0, found].tolist()) <= {KeypointStatus.PREDICTED, KeypointStatus.MISSING}
    assert (two.status[0] == KeypointStatus.PREDICTED).any()
    late_ns = film[9].stamp_ns + 200_000_000
    three = stages.refine(late_ns, gone, nobody(seen(film[9])))
    assert three is not None and (three.status == KeypointStatus.MISSING).all()
    assert np.isnan(three.poses.xy_px).all() and (three.poses.score == 0).all()


def test_an_unseen_person_is_predicted_in_metres_with_growing_doubt(film: list[Rendered]) -> None:
    stages = embodier()
    for picture in film[:10]:
        metric = stages.lift(picture.frame(), tracked(picture), seen(picture))
        assert metric is not None
        body = stages.embody(picture.stamp_ns, tracked(picture), metric)
    joint = int(np.flatnonzero(body.poses.status[0] == KeypointStatus.MEASURED)[0])
    doubt = [np.trace(body.poses.covariance_m2[0, joint])]
    for picture in film[10:13]:
        tracks, blank = tracked(picture, TrackState.OCCLUDED), nobody(seen(picture))
        metric = stages.lift(picture.frame(), tracks, blank)
        assert metric is not None
        body = stages.embody(picture.stamp_ns, tracks, metric)
        assert body.poses.status[0, joint] == KeypointStatus.PREDICTED
        assert body.poses.scale.tolist() == [ScaleSource.DEPTH]
        doubt.append(np.trace(body.poses.covariance_m2[0, joint]))
    assert doubt == sorted(doubt) and doubt[-1] > 1.5 * doubt[0]


def test_a_lost_person_is_forgotten(film: list[Rendered]) -> None:
    stages = embodier()
    for picture in film[:6]:
        stages.refine(picture.stamp_ns, tracked(picture), seen(picture))
    lost = tracked(film[6], TrackState.LOST)
    gone = stages.refine(film[6].stamp_ns, lost, nobody(seen(film[6])))
    assert gone is not None and np.isnan(gone.poses.xy_px).all()
    again = stages.refine(film[7].stamp_ns, tracked(film[7]), nobody(seen(film[7])))
    assert again is not None and np.isnan(again.poses.xy_px).all()


def test_nothing_is_metric_without_camera_or_depth(film: list[Rendered]) -> None:
    picture = film[0]
    whole = picture.frame()
    stages = embodier()
    blind = Frame(whole.rgb, whole.stamp_ns, whole.frame_id)
    assert stages.lift(blind, tracked(picture), seen(picture)) is None
    flat = dataclasses.replace(whole, depth=None)
    metric = stages.lift(flat, tracked(picture), seen(picture))
    assert metric is not None and np.isnan(metric.xyz_m).all()
    assert metric.scale.tolist() == [ScaleSource.UNKNOWN]
    assert embodier(**{"lift.source": "none"}).lift(whole, tracked(picture), seen(picture)) is None


def test_without_refinement_every_image_stands_for_itself(film: list[Rendered]) -> None:
    stages = embodier(**{"filter.type": "none"})
    picture = film[3]
    assert stages.refine(picture.stamp_ns, tracked(picture), seen(picture)) is None
    metric = stages.lift(picture.frame(), tracked(picture), seen(picture))
    assert metric is not None
    body = stages.embody(picture.stamp_ns, tracked(picture), metric)
    assert body.poses is metric and np.isnan(body.poses.velocity_m_s).all()


def test_no_people_at_all(film: list[Rendered]) -> None:
    stages = embodier()
    picture = film[0]
    none = np.zeros(0, np.int64)
    tracks = Tracks(
        none, none.astype(np.int8), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), none
    )
    empty = Poses2D.empty(17)
    refined = stages.refine(picture.stamp_ns, tracks, empty)
    assert refined is not None and len(refined.poses) == 0
    metric = stages.lift(picture.frame(), tracks, empty)
    assert metric is not None
    body = stages.embody(picture.stamp_ns, tracks, metric)
    assert len(body.poses) == 0 and body.lengths_m.shape == (0, 16)
    angles = stages.angles(picture.stamp_ns, body.poses)
    assert angles is not None and angles.angle_rad.shape == (0, 20)


def metric(scale: ScaleSource, x_m: float = 0.0) -> Poses3D:
    poses = Poses3D.unknown(np.array([4]), 17)
    poses.scale[0] = scale
    poses.xyz_m[0, :, 0] = x_m
    return poses


def test_a_gap_in_the_depth_does_not_change_the_source_at_once() -> None:
    scales = Scales(patience_s=0.3)
    assert scales.note(0, metric(ScaleSource.DEPTH)).tolist() == []
    blind, guess = metric(ScaleSource.UNKNOWN), metric(ScaleSource.MONO, 1.0)
    soon = scales.choose(200_000_000, blind, guess)
    assert soon.scale.tolist() == [ScaleSource.UNKNOWN]
    late = scales.choose(400_000_000, metric(ScaleSource.UNKNOWN), guess)
    assert late.scale.tolist() == [ScaleSource.MONO] and late.xyz_m[0, 0, 0] == 1.0
    assert scales.note(400_000_000, late).tolist() == [4]  # the history starts anew
    assert scales.of(np.array([4, 5])).tolist() == [ScaleSource.MONO, ScaleSource.UNKNOWN]


def test_one_camera_bodies_become_steady_and_not_worse() -> None:
    """A lifter that bends the body anew in every frame; the person swings the arms and walks."""
    camera = PinholeCamera(640, 480, 500.0, 500.0, 319.5, 239.5)
    rng = np.random.default_rng(0)
    names, pairs = COCO17.joints, {"shoulder": (0.2, -0.5), "elbow": (0.24, -0.2), "hip": (0.1, 0)}
    pairs |= {"wrist": (0.26, 0.05), "knee": (0.1, 0.42), "ankle": (0.1, 0.85)}
    flat = [pairs.get(name.split("_")[-1], (0.03, -0.7)) for name in names]
    body = np.array([[x, y, 0.0] for x, y in flat])
    body[[n.startswith("right") for n in names], 0] *= -1.0
    relative = np.zeros((17, 3))

    def network(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bend = 0.02 * rng.standard_normal((1, 17, 3)) * [0.3, 0.3, 1.0]
        spread = np.log(np.array([0.015, 0.06]))
        return (relative / 1.7 + bend).astype(np.float32), np.tile(spread, (1, 17, 1))

    config = with_values(PipelineConfig(), {"lift.source": "mono"})
    stages = Embodier(COCO17, config, MonocularLifter(network))
    before, after, true = [], [], []
    for i in range(90):
        t = i / 30.0
        relative[:] = body
        relative[[7, 9], 2] += np.array([0.15, 0.3]) * np.sin(5 * t)
        real = relative + np.array([0.0, 0.0, 4.0 - 0.3 * t])
        xy = camera.project(real) + rng.standard_normal((17, 2))
        poses = Poses2D(np.array([1]), xy[None].astype(np.float32), np.full((1, 17), 0.9, "f4"))
        box = np.array([[*xy.min(axis=0), *xy.max(axis=0)]], np.float32)
        stamp = round(t * 1e9)
        tracks = Tracks(
            poses.ids, np.array([TrackState.TRACKED], np.int8), box, np.ones(1, np.float32),
            np.array([stamp]),
        )  # fmt: skip
        frame = Frame(np.zeros((1, 1, 3), np.uint8), stamp, "", camera)
        metric = stages.lift(frame, tracks, poses)
        assert metric is not None
        before.append(metric.xyz_m[0].copy())
        smooth = stages.embody(stamp, tracks, metric).poses
        after.append(smooth.xyz_m[0])
        true.append(real)
    raw, fine, truth = (np.array(x, np.float64)[20:] for x in (before, after, true))

    def jitter(x: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(x, n=3, axis=0), axis=-1).mean())

    def error(x: np.ndarray) -> float:
        x, y = (p - p[:, [11, 12]].mean(axis=1, keepdims=True) for p in (x, truth))
        return float(np.linalg.norm(x - y, axis=-1).mean())

    assert jitter(fine) < 0.4 * jitter(raw)
    assert error(fine) < error(raw)
    bones = np.linalg.norm(fine[:, [5, 6, 13, 14]] - fine[:, [7, 8, 15, 16]], axis=-1)
    assert (bones.std(axis=0) / bones.mean(axis=0)).max() < 0.03


class Ceiling:
    """A task's penalty: nothing is higher (less y) than ``y_m`` in the camera's frame."""

    curvature = 1.0

    def __init__(self, y_m: float) -> None:
        self.y_m = y_m

    def __call__(self, points: np.ndarray, context: object) -> tuple[np.ndarray, np.ndarray]:
        over = np.minimum(points[..., 1] - self.y_m, 0.0)
        slope = np.zeros_like(points)
        slope[..., 1] = over
        return 0.5 * (over * over).sum(axis=(-1, -2)), slope


def test_a_floor_and_a_task_s_penalty_reach_the_bodies(film: list[Rendered]) -> None:
    config = with_values(PipelineConfig(), {"lift.source": "depth"})
    truth = film[0].xyz_camera_m[0]
    ankles = [COCO17.index("left_ankle"), COCO17.index("right_ankle")]
    limit = float(truth[ankles, 1].mean()) - 0.1  # y is down: 10 cm above the real ankles
    floor = np.array([0.0, -1.0, 0.0, limit])
    ceiling = Ceiling(float(truth[:, 1].min()) + 0.1)
    told = []
    for hooks, ground in (((), None), ((), floor), ((ceiling,), None)):
        stages = Embodier(COCO17, config, None, hooks=hooks, ground=ground)
        for picture in film[:6]:
            metric = stages.lift(picture.frame(), tracked(picture), seen(picture))
            assert metric is not None
            body = stages.embody(picture.stamp_ns, tracked(picture), metric)
        told.append(body.poses.xyz_m[0])
    plain, standing, ducked = told
    assert (standing[ankles, 1] < plain[ankles, 1] - 0.005).all()
    assert np.nanmin(ducked[:, 1]) > np.nanmin(plain[:, 1]) + 0.005
    with pytest.raises(ShapeError, match="ground: expected a unit normal"):
        Embodier(COCO17, config, None, ground=np.array([0.0, 2.0, 0.0, 1.0]))
