"""The lifting network: shapes, invariants, learning a small world, and its ONNX runner."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.lift_mono import MonocularLifter
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import Frame, KeypointStatus, Poses2D
from pose_ros.errors import ConfigError, ShapeError, WeightsError
from pose_ros.nets import lift_runtime
from pose_ros.nets.checkpoint import Card, find_card
from pose_ros.nets.lift_runtime import LiftRunner, export_lifter, lifter_onnx, open_lifter
from pose_ros.nets.lifter import HIPS, LOG_SPREAD, Lifter, LifterConfig
from pose_ros.nets.registry import build_net
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.training.body_error import procrustes_aligned

torch.set_num_threads(1)
SMALL = {"frame_width": 16, "node_width": 16, "width": 24, "blocks": 1}


def windows(people: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(people, 9, 55)).astype(np.float32)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    """A small lifter with random weights, in a folder and with a cache of its own."""
    monkeypatch.setenv("POSE_ROS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(3)
    state = build_net("lifter", **SMALL).state_dict()
    data = encode_tensors({name: value.half().numpy() for name, value in state.items()})
    (tmp_path / "small.safetensors").write_bytes(data)
    return Card(
        name="small", kind="lifter", architecture="lifter", overrides=dict(SMALL),
        input_hw=(9, 55), frames=9, mean=(0, 0, 0), std=(1, 1, 1), channels="rgb",
        weights="small.safetensors", sha256=hashlib.sha256(data).hexdigest(), bytes=len(data),
        licence="none", licence_notice="none", trained=False, training_data="none",
        folder=tmp_path,
    )  # fmt: skip


def test_the_default_is_small_and_answers_in_the_documented_shapes() -> None:
    net = build_net("lifter").eval()
    assert 0.5e6 < sum(p.numel() for p in net.parameters()) < 1.5e6
    body, log_spread = net(torch.from_numpy(windows(4)))
    assert body.shape == (4, 17, 3) and log_spread.shape == (4, 17, 2)
    assert body[:, HIPS].mean(dim=1).abs().max() < 1e-5  # about the middle of the hips
    assert LOG_SPREAD[0] <= log_spread.min() and log_spread.max() <= LOG_SPREAD[1]


def test_every_frame_counts_and_people_do_not_mix() -> None:
    torch.manual_seed(0)
    net = build_net("lifter").eval()
    x = torch.from_numpy(windows(3))
    x.requires_grad_()
    net(x)[0][1].square().sum().backward()
    influence = x.grad.abs().sum(dim=2)
    assert (influence[1] > 0).all()
    assert (influence[[0, 2]] == 0).all()


def test_a_mirrored_window_gives_the_mirrored_body() -> None:
    """A person seen in a mirror: x is negated, and left joints are right ones."""
    torch.manual_seed(0)
    net = build_net("lifter").eval()
    x = windows(3)
    joints = x[..., :51].reshape(3, 9, 17, 3)[:, :, COCO17.flip_order()] * np.array([-1, 1, 1])
    rest = x[..., 51:] * np.array([1, -1, 1, 1])
    mirrored = np.concatenate([joints.reshape(3, 9, 51), rest], axis=-1).astype(np.float32)
    with torch.no_grad():
        body, spread = net(torch.from_numpy(x))
        other, other_spread = net(torch.from_numpy(mirrored))
    order = COCO17.flip_order()
    assert other.numpy() == pytest.approx(body.numpy()[:, order] * [-1, 1, 1], abs=1e-5)
    assert other_spread.numpy() == pytest.approx(spread.numpy()[:, order], abs=1e-5)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such option"):
        build_net("lifter", depth=3)


def test_it_learns_to_read_one_number() -> None:
    """A body that is the newest frame's first feature times a fixed shape."""
    torch.manual_seed(0)
    net = Lifter(LifterConfig(**SMALL))
    shape = torch.randn(17, 3)
    shape = shape - shape[list(HIPS)].mean(dim=0)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    first = last = 0.0
    for step in range(200):
        x = torch.from_numpy(windows(64, step))
        truth = x[:, -1, 0, None, None] * shape
        loss = (net(x)[0] - truth).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        first, last = (float(loss.detach()), 0.0) if step == 0 else (first, float(loss.detach()))
    assert last < 0.3 * first


def test_the_runner_agrees_with_torch_for_any_number_of_people(card: Card) -> None:
    runner = open_lifter(card)
    assert runner.backend == "onnxruntime"
    net = lift_runtime.load_net(card)
    for people in (1, 2, 5):
        x = windows(people, people)
        with torch.no_grad():
            wanted = [out.numpy() for out in net(torch.from_numpy(x))]
        for found, expected in zip(runner(x), wanted, strict=True):
            assert found.dtype == np.float32
            assert found == pytest.approx(expected, abs=1e-4)
    body, log_spread = runner(windows(0))
    assert body.shape == (0, 17, 3) and log_spread.shape == (0, 17, 2)


def test_the_export_is_made_once_and_a_damaged_one_again(card: Card) -> None:
    path = lifter_onnx(card)
    written = path.stat().st_mtime_ns
    assert lifter_onnx(card).stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:500])
    assert open_lifter(card).backend == "onnxruntime"
    assert path.stat().st_size > 500
    assert lifter_onnx(replace(card, sha256="f" * 64, untrained=True, weights="")) != path


def test_an_export_that_disagrees_is_refused(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lift_runtime, "MAX_ABS_DIFF", -1.0)
    with pytest.raises(lift_runtime.ExportError, match="differs from torch"):
        export_lifter(card, tmp_path / "x.onnx")


def test_without_an_export_torch_runs_and_says_so(
    card: Card, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(card: Card) -> Path:
        raise OSError("no room")

    expected = open_lifter(card)(windows(2))
    monkeypatch.setattr(lift_runtime, "lifter_onnx", broken)
    with caplog.at_level(logging.WARNING):
        runner = open_lifter(card)
    assert runner.backend == "torch" and "no room" in caplog.text
    for found, wanted in zip(runner(windows(2)), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


def test_damaged_weights_fail_also_when_an_export_is_there(card: Card) -> None:
    open_lifter(card)
    (card.folder / card.weights).write_bytes(b"x" * card.bytes)
    with pytest.raises(WeightsError, match="sha256"):
        open_lifter(card)


def test_wrong_windows_and_wrong_cards_are_refused(card: Card) -> None:
    runner = LiftRunner(card, "none", lambda x: [x, x])
    with pytest.raises(ShapeError, match=r"\(P, 9, 55\), got float64"):
        runner(windows(1).astype(np.float64))
    with pytest.raises(ShapeError, match=r"got float32 \(1, 9, 54\)"):
        runner(windows(1)[..., :54])
    with pytest.raises(ConfigError, match="expected a lifter, got a detector"):
        open_lifter(find_card("nanodet_g"))


# A person of 1.70 m who stands with the right arm raised ahead; x right, y down, z away, metres.
PERSON = np.array(
    [
        [0.0, -0.62, -0.12], [0.03, -0.65, -0.1], [-0.03, -0.65, -0.1], [0.08, -0.63, 0.0],
        [-0.08, -0.63, 0.0], [0.19, -0.47, 0.0], [-0.19, -0.47, 0.02], [0.22, -0.17, -0.02],
        [-0.22, -0.2, -0.1], [0.24, 0.06, -0.12], [-0.2, -0.32, -0.3], [0.1, 0.0, 0.0],
        [-0.1, 0.0, 0.0], [0.12, 0.4, -0.08], [-0.11, 0.41, 0.0], [0.12, 0.8, 0.0],
        [-0.12, 0.82, 0.05],
    ]
)  # fmt: skip


def from_all_sides(pitch_deg: float, far_m: float) -> np.ndarray:
    """(24, 17, 3) the person in front of cameras 15 degrees apart that look down on it."""
    bodies = []
    tilt = np.radians(pitch_deg)
    down = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    for angle in np.radians(np.arange(0, 360, 15)):
        turn = np.array(
            [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        )
        bodies.append(PERSON @ turn.T @ down.T + [0.2, 0.1, far_m])
    return np.array(bodies)


@pytest.mark.parametrize(("pitch_deg", "far_m"), [(0.0, 2.5), (20.0, 4.0)])
def test_the_shipped_lifter_lifts_a_person_from_every_side(
    pitch_deg: float, far_m: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSE_ROS_CACHE", str(tmp_path))
    truth = from_all_sides(pitch_deg, far_m)
    camera = PinholeCamera(1280, 960, 900.0, 900.0, 639.5, 479.5)
    xy = camera.project(truth).astype(np.float32)
    hidden = [COCO17.index("left_wrist"), COCO17.index("right_ankle")]
    xy[:, hidden] = np.nan
    score = np.where(np.isnan(xy[..., 0]), 0.0, 0.8).astype(np.float32)
    lifter = MonocularLifter(open_lifter(find_card("lift_mono")))
    poses = Poses2D(np.arange(24), xy, score)
    for i in range(9):
        frame = Frame(np.zeros((1, 1, 3), np.uint8), i * 66_000_000, "", camera)
        answer = lifter.lift(frame, poses)
    found = answer.xyz_m.astype(np.float64)
    assert np.isfinite(found).all()
    assert (answer.status[:, hidden] == KeypointStatus.INFERRED).all()
    assert procrustes_aligned(found, truth).mean() < 0.06
    depth = found[:, HIPS, 2].mean(axis=1) / truth[:, HIPS, 2].mean(axis=1)
    assert np.abs(depth - 1).mean() < 0.05
    # The truth lies inside the stated uncertainty: two numbers in three within one deviation.
    gap = (found - truth)[..., 2] / np.sqrt(answer.covariance_m2[..., 2, 2])
    assert (np.abs(gap) < 1).mean() > 0.6 and (np.abs(gap) < 3).mean() > 0.97
