"""Sparse labels become dense ones: geometry, flow, networks, the command, bad input."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pose_ros.core.skeletons import COCO17, LSP14
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError, SourceError, WeightsError
from pose_ros.training import propagate, propagate_benchmark
from pose_ros.training.datasets import ArrayImage, parse_spec
from pose_ros.training.label_files import DenseLabels, read_labels, write_labels
from pose_ros.training.predict import Network, open_network
from pose_ros.training.propagation import (
    Estimate,
    Sparse,
    boxes_between,
    copied,
    ends_of,
    finish,
    finished_boxes,
    in_whole,
    interpolated,
    near_labels,
    stretches,
)
from pose_ros.training.propagation_finetune import SparseWindows, _settings, fine_tune
from pose_ros.training.propagation_flow import flowed
from pose_ros.training.propagation_fuse import curved, fused, weighted
from pose_ros.training.propagation_nets import (
    _windows,
    anchored,
    joints_of,
    looked_at,
    propagated,
)

WIDTH, HEIGHT, FRAMES = 160, 120, 13
BODY = np.array([[50 + 3 * (k % 5), 30 + 3 * k] for k in range(17)], np.float32)


def way(frame: np.ndarray | float) -> np.ndarray:
    """(..., 2) where a person who speeds up has gone, in pixels."""
    return np.stack([0.3 * np.asarray(frame) ** 2, 0 * np.asarray(frame, float)], axis=-1)


def film(people: int = 1, frames: int = FRAMES) -> Sparse:
    """Return a textured body that moves as `way` over a still background, fully labelled."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8)
    ground = cv2.GaussianBlur(cv2.resize(coarse, (WIDTH, HEIGHT)), (5, 5), 0)
    person = cv2.resize(rng.integers(0, 255, (20, 10, 3)).astype(np.uint8), (40, 80))
    images, xy = [], np.zeros((people, frames, 17, 2), np.float32)
    for t in range(frames):
        shift = way(t)
        rgb = ground.copy()
        move = np.array([[1, 0, 40 + shift[0]], [0, 1, 20 + shift[1]]], np.float32)
        warped = cv2.warpAffine(person, move, (WIDTH, HEIGHT))
        mask = cv2.warpAffine(np.full(person.shape[:2], 255, np.uint8), move, (WIDTH, HEIGHT))
        rgb[mask > 200] = warped[mask > 200]
        images.append(ArrayImage(rgb))
        xy[:, t] = BODY + shift
    boxes = np.concatenate([xy.min(axis=2) - 5, xy.max(axis=2) + 5], axis=2)
    return Sparse(
        "film", tuple(images), (WIDTH, HEIGHT), COCO17, tuple("ab"[:people]),
        np.ones(frames, np.bool_), xy, np.full((people, frames, 17), 2, np.uint8), boxes,
    )  # fmt: skip


def gone(video: Sparse, person: int, times: list[int]) -> Sparse:
    """Return the video with a person not there in some labelled frames."""
    xy, visible, box = (a.copy() for a in (video.xy_px, video.visible, video.box_xyxy_px))
    xy[person, times], visible[person, times], box[person, times] = np.nan, 0, np.nan
    return replace(video, xy_px=xy, visible=visible, box_xyxy_px=box)


def error(truth: Sparse, found: Estimate, video: Sparse) -> float:
    rest = ~video.labelled
    return float(np.linalg.norm(found.xy_px - truth.xy_px, axis=3)[:, rest].mean())


def test_ends_are_the_nearest_labelled_frames_where_the_person_is() -> None:
    video = gone(film(2), 1, [4]).only([0, 4, 8])
    ends = ends_of(video)
    assert ends.left[0].tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 8]
    assert ends.right[0].tolist() == [0, 4, 4, 4, 4, 8, 8, 8, 8, -1, -1, -1, -1]
    assert ends.left[1].tolist() == [0, 0, 0, 0, -1, -1, -1, -1, 8, 8, 8, 8, 8]
    assert ends.right[1].tolist() == [0, -1, -1, -1, -1, 8, 8, 8, 8, -1, -1, -1, -1]
    assert ends.share[0, :5].tolist() == [0.0, 0.25, 0.5, 0.75, 0.0]
    assert ends.share[1, 1] == 0.0 and ends.share[1, 6] == 1.0
    assert ends.near[0].tolist()[8:] == [0, 1, 2, 3, 4]
    assert stretches(video) == [(0, 4), (4, 8), (8, 12)]


def test_interpolation_is_linear_and_copies_are_of_the_nearer_label() -> None:
    video = film().only([0, 10])
    assert np.allclose(interpolated(video).xy_px[0, 4], BODY + 0.4 * way(10))
    assert np.allclose(copied(video).xy_px[0, 5], BODY)  # the earlier of two
    assert np.allclose(copied(video).xy_px[0, 6], BODY + way(10))
    assert np.allclose(interpolated(video).xy_px[0, 12], BODY + way(10))  # stands still


def test_a_curve_through_the_labels_follows_constant_acceleration() -> None:
    truth = film()
    video = truth.only([0, 3, 6, 9, 12])
    inner = slice(3, 10)
    np.testing.assert_allclose(curved(video).xy_px[:, inner], truth.xy_px[:, inner], atol=1e-3)
    assert error(truth, interpolated(video), video) > 0.2
    two = film().only([0, 6])
    np.testing.assert_allclose(curved(two).xy_px, interpolated(two).xy_px, atol=1e-4)


def test_a_joint_labelled_at_one_end_only_comes_from_there() -> None:
    video = film().only([0, 6])
    video.xy_px[0, 6, 3], video.visible[0, 6, 3] = np.nan, 0
    found = interpolated(video)
    assert np.allclose(found.xy_px[0, 4, 3], BODY[3]) and found.score[0, 4, 3] == 0.5
    video.xy_px[0, 0, 3], video.visible[0, 0, 3] = np.nan, 0
    found = finish(video, replace(found, xy_px=found.xy_px), 15, 0.0)
    assert found.score[0, 4, 3] == 0.0 or np.isnan(found.xy_px[0, 4, 3]).all()


def test_boxes_that_barely_overlap_are_joined() -> None:
    video = film().only([0, 12])
    near, far = boxes_between(film().only([0, 2]), ends_of(film().only([0, 2]))), None
    far = boxes_between(video, ends_of(video))
    assert np.allclose(near[0, 1], (near[0, 0] + near[0, 2]) / 2)
    left, right = video.box_xyxy_px[0, 0], video.box_xyxy_px[0, 12]
    assert np.allclose(far[0, 6], [*left[:2], *right[2:]])


def test_flow_follows_what_interpolation_cannot() -> None:
    truth = film()
    video = truth.only([0, 12])
    flow, straight = flowed(video), interpolated(video)
    assert error(truth, straight, video) > 5.0
    assert error(truth, flow, video) < 1.0
    assert (flow.score[:, 6] > 0.5).mean() > 0.9


def test_flow_with_one_end_goes_both_ways() -> None:
    truth = film()
    for mark in (0, 6, 12):
        video = truth.only([mark])
        assert error(truth, flowed(video), video) < 0.2 * error(truth, copied(video), video)


def test_the_fusion_takes_what_is_sure() -> None:
    truth = film()
    video = truth.only([0, 12])
    found = fused(video, None)
    assert error(truth, found, video) < 1.5
    places = np.zeros((3, 1, 1, 1, 2), np.float32)
    places[2] = 50.0  # one far off
    answer = weighted(places, np.full((3, 1, 1, 1), 1e-4, np.float32), np.full((1, 1, 1), 100.0))
    assert np.linalg.norm(answer.xy_px) < 5.0
    assert answer.score[0, 0, 0] < 0.7
    same = weighted(places[:2], np.full((2, 1, 1, 1), 1e-4), np.full((1, 1, 1), 100.0))
    assert same.score[0, 0, 0] > 0.9
    nothing = weighted(places * np.nan, np.full((3, 1, 1, 1), 1e-4), np.full((1, 1, 1), 100.0))
    assert nothing.score[0, 0, 0] == 0 and np.isnan(nothing.xy_px).all()


def test_an_anchored_network_loses_its_bias() -> None:
    truth = film()
    video = truth.only([0, 6, 12])
    biased = Estimate(truth.xy_px + np.float32(7), np.ones((1, FRAMES, 17), np.float32))
    np.testing.assert_allclose(anchored(video, biased).xy_px, truth.xy_px, atol=1e-4)


def test_labels_come_out_as_they_are_and_nobody_where_nobody_is() -> None:
    video = gone(film(2), 1, [4, 8]).only([0, 4, 8])
    found = finish(video, interpolated(video), 2, 0.0)
    for t in (0, 4, 8):
        np.testing.assert_array_equal(found.xy_px[:, t], video.xy_px[:, t])
        assert (found.score[0, t] == 1).all()
    assert (found.score[1, 4:9] == 0).all() and np.isnan(found.xy_px[1, 4:9]).all()
    assert (found.score[1, 1:3] > 0).all() and (found.score[1, 3] == 0).all()  # reach 2
    assert (found.score[0, 9:11] > 0).all() and (found.score[0, 11:] == 0).all()
    boxes = finished_boxes(video, found)
    assert np.isfinite(boxes[0, :11]).all() and np.isnan(boxes[1, 3:]).all()


def test_only_what_is_near_labels_is_looked_at() -> None:
    video = film().only([4, 6])
    some, part = near_labels(video, 2)
    assert (part, len(some.images)) == (slice(2, 9), 7)
    assert some.images[0] is video.images[2] and some.labelled.tolist()[2] is True
    whole = in_whole(interpolated(some), part, FRAMES)
    np.testing.assert_array_equal(whole.xy_px[:, part], interpolated(video).xy_px[:, part])
    assert (whole.score[:, :2] == 0).all() and np.isnan(whole.xy_px[:, 9:]).all()
    with pytest.raises(ConfigError, match="no frame is labelled"):
        near_labels(video.only([]), 2)


def test_joints_that_leave_the_picture_are_left_out() -> None:
    video = film().only([0, 12])
    outside = Estimate(video.xy_px + np.float32(500), np.ones((1, FRAMES, 17), np.float32))
    outside = replace(outside, xy_px=np.full_like(video.xy_px, 500))
    found = finish(video, outside, 15, 0.0)
    assert (found.score[:, 1:12] == 0).all() and (found.score[:, 0] == 1).all()


def test_nobody_and_a_single_frame_work() -> None:
    video = film(2)
    nobody = replace(
        video, tracks=(), xy_px=video.xy_px[:0], visible=video.visible[:0],
        box_xyxy_px=video.box_xyxy_px[:0],
    )  # fmt: skip
    for method in propagate.PLAIN.values():
        assert method(nobody).xy_px.shape == (0, FRAMES, 17, 2)
    assert fused(nobody, None).score.shape == (0, FRAMES, 17)
    one = film(1, 1)
    assert np.allclose(fused(one, None).xy_px, one.xy_px)


def test_only_labelled_frames_can_be_kept() -> None:
    with pytest.raises(ConfigError, match="frame 1 has none"):
        film().only([0, 6]).only([0, 1])


# networks


def tiny_stdpose() -> Network:
    torch.manual_seed(0)
    return open_network(
        "stdpose_robot", backbone="vit_tiny", size_hw_px=(64, 64), model_dim=64, head_channels=32
    )


def test_stdpose_sees_the_labels_around_a_frame_and_their_distances() -> None:
    network = tiny_stdpose()
    video = film().only([2, 6])
    (windows,) = _windows(video, network, (2, 6), 15)
    assert windows.times.tolist() == [3, 4, 5]
    assert windows.dt.tolist() == [[1, 3], [2, 2], [3, 1]]
    np.testing.assert_array_equal(windows.labels[0, 0, :, :2], video.xy_px[0, 2])
    np.testing.assert_array_equal(windows.labels[0, 2, :, :2], video.xy_px[0, 6])
    assert (windows.labels[:, 1, :, 2] == 0).all()  # the key frame has none
    (before,) = _windows(video, network, (0, 2), 15)
    assert before.dt.tolist() == [[-2, 2], [-1, 1]]  # both side frames lie on the right
    np.testing.assert_array_equal(before.crops[0, 0], before.crops[0, 2])
    (after,) = _windows(video, network, (6, 12), 3)
    assert after.dt.tolist()[:3] == [[1, -1], [2, -2], [3, -3]]
    assert (after.labels[3:, :, :, 2] == 0).all()  # too far: an estimate without labels


def test_labels_change_what_stdpose_says() -> None:
    network = tiny_stdpose()
    video = film().only([0, 4])
    moved = replace(video, xy_px=video.xy_px + np.float32(6))
    one, two = propagated(video, network, 15), propagated(moved, network, 15)
    assert one.xy_px.shape == video.xy_px.shape
    assert np.isfinite(one.xy_px[0, 1:4]).any()
    again = propagated(video, network, 15)
    np.testing.assert_array_equal(one.score, again.score)
    assert (one.score[0, 1:4] != two.score[0, 1:4]).mean() > 0.5


def test_in_a_still_scene_every_method_reproduces_the_labels() -> None:
    """Nobody moves: the frames between have the labels of the ends, and the methods are sure."""
    moving = film()
    images, frames = (moving.images[0],) * FRAMES, [0] * FRAMES
    still = replace(
        moving, images=images, xy_px=moving.xy_px[:, frames],
        box_xyxy_px=moving.box_xyxy_px[:, frames],
    )  # fmt: skip
    video = still.only([0, 6, 12])
    untrained = propagated(video, tiny_stdpose(), 15)
    assert error(still, untrained, video) > 1.0
    for name, method in propagate.PLAIN.items():
        near = 0.05 if name == "flow" else 1e-4
        np.testing.assert_allclose(method(video).xy_px, still.xy_px, atol=near, err_msg=name)
        assert method(video).score.min() > 0.95, name
    np.testing.assert_allclose(fused(video, None).xy_px, still.xy_px, atol=0.05)
    # a network that answers the same in all frames is right once it is anchored, however wrong
    constant = np.where(video.labelled[:, None, None], untrained.xy_px[:, 3:4], untrained.xy_px)
    np.testing.assert_allclose(constant[:, 1:6], constant[:, :1].repeat(5, 1), atol=1e-3)
    looked = Estimate(constant.astype(np.float32), np.ones_like(still.xy_px[..., 0]))
    np.testing.assert_allclose(anchored(video, looked).xy_px, still.xy_px, atol=2e-3)


def test_fine_tuning_learns_from_the_labels_alone(tmp_path: Path) -> None:
    network = tiny_stdpose()
    video = film().only([0, 6, 12])
    before = {n: p.clone() for n, p in network.module.named_parameters()}
    result = fine_tune(video, network, 6, tmp_path)
    assert result.last_loss < 0.9 * result.first_loss
    now = dict(network.module.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in before.items() if n.startswith("backbone."))
    assert not torch.equal(now["head.final.weight"], before["head.final.weight"])
    # its maps are read by the codec of the targets from now on, not by that of the random weights
    taught = result.network
    assert (taught.cell_shift_px, taught.cell_stride_px) == (-0.5, (4.0, 4.0))
    assert taught.module is network.module


def test_fine_tuning_goes_on_in_the_codec_of_a_card_that_has_udp(tmp_path: Path) -> None:
    """Crops of the card's size, targets and answers in its cells: (W - 1) / (w - 1) pixels."""
    stride, scale = (63 / 15, 63 / 15), 1.25 * 64 / 63
    network = replace(tiny_stdpose(), cell_shift_px=0.0, cell_stride_px=stride, crop_scale=scale)
    settings = _settings(network)
    assert settings.crop.codec == "udp" and settings.crop.scale == pytest.approx(1.25)
    taught = fine_tune(film().only([0, 6, 12]), network, 2, tmp_path).network
    assert (taught.cell_shift_px, taught.cell_stride_px) == (0.0, stride)
    assert taught.crop_scale == scale
    plain = _settings(replace(tiny_stdpose(), cell_shift_px=1.5))
    assert (plain.crop.codec, plain.crop.scale) == ("edge", 1.25)


@pytest.mark.parametrize("tool", [propagate, propagate_benchmark])
def test_what_learned_is_read_as_it_was_taught(
    tool: ModuleType, recorded: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The untrained card's cells lie two pixels off the targets': 1.5 against -0.5."""
    labels, video = recorded
    card, read = replace(tiny_stdpose(), cell_shift_px=1.5), []

    def spy(video: Sparse, network: Network, reach: int) -> Estimate:
        read.append(network.cell_shift_px)
        return propagated(video, network, reach)

    monkeypatch.setattr(tool, "open_for", lambda *_: card)
    monkeypatch.setattr(tool, "propagated", spy)
    argv = ["--labels", labels, "--video", video, "--finetune", 2]
    if tool is propagate:
        argv += ["--method", "stdpose", "--interval", 6, "--out", tmp_path / "dense.json"]
    else:
        argv += ["--methods", "stdpose", "--intervals", "6"]
    tool.main([str(word) for word in argv])
    assert read == [-0.5]


def test_windows_to_learn_from_have_labelled_key_frames() -> None:
    video = film(2).only([0, 4, 8, 12])
    windows = SparseWindows(video, tiny_stdpose())
    kinds = set()
    for i in range(len(windows)):
        sample = windows[i]
        key = int(sample.frame_index[1])
        assert video.labelled[key] and sample.dt_left >= 1 and sample.dt_right >= 1
        person = video.tracks.index(sample.track)
        np.testing.assert_array_equal(sample.xy_px[1], video.xy_px[person, key])
        kinds.add((bool(sample.visible[0].any()), sample.dt_left + sample.dt_right))
    assert {(True, 8), (True, 4), (False, 4)} <= kinds
    with pytest.raises(ConfigError, match="two labelled frames"):
        SparseWindows(film().only([3]), tiny_stdpose())


def test_networks_of_another_kind_are_refused() -> None:
    still = open_network("movenet_lightning")
    with pytest.raises(ConfigError, match="expected an STDPose"):
        propagated(film(), still, 15)
    with pytest.raises(ConfigError, match="single frames"):
        looked_at(film(), tiny_stdpose())
    assert (joints_of(still, LSP14) < 0).sum() == 2  # neck and head_top
    odd = replace(LSP14, joints=tuple(f"x{i}" for i in range(14)))
    with pytest.raises(ConfigError, match="share no joint"):
        joints_of(still, odd)


def test_a_single_frame_network_looks_where_the_labels_say() -> None:
    picture = cv2.cvtColor(
        cv2.imread(str(Path(__file__).parents[1] / "data" / "walker.jpg")), cv2.COLOR_BGR2RGB
    )
    height, width = picture.shape[:2]
    still = open_network("movenet_lightning")
    box = np.tile(np.array([0, 0, width - 1, height - 1], np.float32), (1, 3, 1))
    video = Sparse(
        "still", (ArrayImage(picture),) * 3, (width, height), COCO17, ("a",),
        np.array([True, False, True]), np.full((1, 3, 17, 2), np.nan, np.float32),
        np.zeros((1, 3, 17), np.uint8), np.where([[[True], [False], [True]]], box, np.nan),
    )  # fmt: skip
    found = looked_at(video, still)
    assert found.score[0].mean() > 0.3
    np.testing.assert_allclose(found.xy_px[0, 1], found.xy_px[0, 0], atol=1e-3)


# the command


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """Labels of every frame, and the video beside them."""
    video = film()
    with VideoWriter(tmp_path / "film.mp4", 10.0) as out:
        for image in video.images:
            out.write(image.read())
    ones = np.ones((1, FRAMES, 17), np.float32)
    dense = DenseLabels(
        COCO17, (WIDTH, HEIGHT), ("1",), video.labelled, None, video.xy_px, ones, video.visible,
        video.box_xyxy_px, {},
    )  # fmt: skip
    write_labels(tmp_path / "film.json", dense)
    return tmp_path / "film.json", tmp_path / "film.mp4"


def run(*words: Any) -> dict[str, Any]:
    return propagate.main([str(word) for word in words])


def test_the_command_judges_itself_on_the_labels_it_did_not_use(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _video = recorded
    out, check = tmp_path / "out" / "dense.json", tmp_path / "check.mp4"
    answer = run("--labels", labels, "--out", out, "--interval", 4, "--method", "flow",
                 "--overlay", check, "--score-min", 0)  # fmt: skip
    assert answer["labelled_ratio"] == round(4 / 13, 4) and answer["frames"] == FRAMES
    assert answer["held_out"]["frames"] == FRAMES - 4
    assert answer["held_out"]["joints"] == (FRAMES - 4) * 17
    assert answer["held_out"]["px"] < 1.5 and answer["held_out"]["missing"] == 0
    file = read_labels(out)
    assert [f.number for f in file.frames] == list(range(FRAMES))
    shown = cv2.VideoCapture(str(check))
    assert int(shown.get(cv2.CAP_PROP_FRAME_COUNT)) == FRAMES


def test_dense_labels_are_training_data(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    labels, video = recorded
    run("--labels", labels, "--out", tmp_path / "dense.json", "--interval", 6, "--method", "curve",
        "--score-min", 0)  # fmt: skip
    data = parse_spec(f"video_coco:{tmp_path / 'dense.json'}?video={video}", frames=3, key=1)
    assert len(data) == FRAMES
    sample = data[6]
    np.testing.assert_allclose(sample.xy_px[1], film().xy_px[0, 6], atol=0.01)


def write_bag(path: Path, video: Sparse) -> list[int]:
    """Write the film as a bag; its stamps."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.LATEST)
    types, kind = store.types, "sensor_msgs/msg/Image"
    stamps = [5_000_000_000 + 100_000_000 * t for t in range(len(video.images))]
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image", kind, typestore=store)
        for stamp, image in zip(stamps, video.images, strict=True):
            time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
            header = types["std_msgs/msg/Header"](stamp=time, frame_id="camera")
            message = types[kind](
                header=header, height=HEIGHT, width=WIDTH, encoding="rgb8", is_bigendian=0,
                step=3 * WIDTH, data=image.read().ravel(),
            )  # fmt: skip
            writer.write(connection, stamp, store.serialize_cdr(message, kind))
    return stamps


def test_a_bag_goes_in_and_its_labels_come_out(tmp_path: Path) -> None:
    pytest.importorskip("rosbags")
    video = film()
    stamps = write_bag(tmp_path / "bag", video)
    some = video.only([0, 6, 12])
    ones = (some.visible > 0).astype(np.float32)
    dense = DenseLabels(
        COCO17, (WIDTH, HEIGHT), ("1",), some.labelled, tuple(stamps), some.xy_px, ones,
        some.visible, some.box_xyxy_px, {},
    )  # fmt: skip
    write_labels(tmp_path / "few.json", dense)
    data = json.loads((tmp_path / "few.json").read_text())
    data["images"] = [
        {k: v for k, v in image.items() if k != "frame_number"}
        for image in data["images"]
        if image["labelled"]
    ]
    (tmp_path / "few.json").write_text(json.dumps(data))
    out = tmp_path / "dense.json"
    answer = run("--video", tmp_path / "bag", "--labels", tmp_path / "few.json", "--out", out,
                 "--method", "flow", "--score-min", 0)  # fmt: skip
    assert (answer["frames"], answer["labelled"]) == (FRAMES, 3)
    opened = parse_spec(f"rosbag:{tmp_path / 'bag'}?labels={out}")
    assert len(opened) == FRAMES
    assert np.abs(opened[4].xy_px[0] - video.xy_px[0, 4]).mean() < 1.5
    data["images"][1]["stamp_ns"] += 1
    (tmp_path / "few.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="labels of another recording"):
        run("--video", tmp_path / "bag", "--labels", tmp_path / "few.json", "--out", out)


def test_a_net_by_name_is_used_and_an_untrained_one_is_not(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    labels, _video = recorded
    with pytest.raises(WeightsError, match=r"untrained.*--finetune"):
        run("--labels", labels, "--out", tmp_path / "o.json", "--net", "stdpose_movenet")
    with pytest.raises(ConfigError, match="--finetune is for an STDPose"):
        run("--labels", labels, "--out", tmp_path / "o.json", "--method", "flow", "--finetune", 3)
    assert not (tmp_path / "o.json").exists()


def change(labels: Path, **fields: Any) -> Path:
    data = json.loads(labels.read_text())
    for name, value in fields.items():
        table, _, key = name.partition("__")
        (data[table] if table == "info" else data[table][-1])[key] = value
    path = labels.with_name("changed.json")
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images__frame_number": 40}, "frame 40 is labelled, but there are frames 0 to 12"),
        ({"images__width": 320}, "labelled at 320x120 pixels, here are 160x120"),
        ({"info__video_frames": 90}, "of a video of 90 frames, this one has 13"),
        ({"images__width": None, "annotations__bbox": [170, 10, 20, 20]}, "lies outside"),
        ({"images__frame_number": None, "images__stamp_ns": 5}, "image of stamp 5, which is not"),
    ],
)
def test_labels_of_another_video_are_refused(
    recorded: tuple[Path, Path], tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    labels, video = recorded
    bad = change(labels, **fields)
    with pytest.raises(ConfigError, match=message):
        run("--labels", bad, "--video", video, "--out", tmp_path / "o.json", "--method", "flow")


def test_missing_files_are_named(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    labels, _video = recorded
    with pytest.raises(SourceError, match="no video of that name"):
        run("--labels", change(labels), "--out", tmp_path / "o.json")
    with pytest.raises(SourceError, match=r"gone\.mp4"):
        run("--labels", labels, "--video", tmp_path / "gone.mp4", "--out", tmp_path / "o.json")
    code = propagate.command(propagate.main, ["--labels", "no.json", "--out", "o.json"])
    assert code == 1


def test_the_benchmark_has_a_row_per_method_and_interval(
    recorded: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    labels, video = recorded
    answer = propagate_benchmark.main(
        ["--labels", str(labels), "--video", str(video), "--intervals", "3,6", "--methods",
         "copy,interpolate,curve,flow"]
    )  # fmt: skip
    assert len(answer["rows"]) == 8
    by = {(r["method"], r["interval"]): r["px"] for r in answer["rows"]}
    assert by["flow", 6] < by["interpolate", 6] < by["copy", 6]
    assert capsys.readouterr().out.count("|\n") == 6
