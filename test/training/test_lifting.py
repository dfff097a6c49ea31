"""The lifter's training windows: possible cameras, bodies that stay bodies, a loss by hand."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.lift_mono import STATURE_M, MonocularLifter
from pose_ros.core.lift_mono_view import FEATURES, FRAMES, place_bodies
from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError
from pose_ros.nets.lifter import Lifter, LifterConfig
from pose_ros.nets.tensorfile import decode_tensors
from pose_ros.training import evaluate_lifter, lifting, train_lifter
from pose_ros.training.body_error import bone_variation, procrustes_aligned, root_aligned
from pose_ros.training.datasets.mocap import MOCAP15, MocapClip
from pose_ros.training.lifting import Bank, Footage, Noise, draw_batch, film, make_bank, measure

sys.path.insert(0, str(Path(__file__).parent))
from test_mocap import STANDING

torch.set_num_threads(1)
EXACT = Noise(0.0, 0.0, 0.0, 0.0, 0.0)


def waving(name: str, frames: int = 60) -> MocapClip:
    """The standing person of `test_mocap`, z up, who raises an arm and walks along y."""
    body = np.array([STANDING[joint] for joint in MOCAP15], np.float32)
    body = np.stack([body[:, 0], -body[:, 2], body[:, 1]], axis=1)
    xyz = np.repeat(body[None], frames, axis=0)
    t = np.arange(frames, dtype=np.float32)
    xyz[:, :, 1] += 0.02 * t[:, None]
    xyz[:, MOCAP15.index("left_wrist"), 2] += 0.3 * (1 - np.cos(t / 5))
    return MocapClip(name, 30.0, MOCAP15, xyz)


@pytest.fixture(scope="module")
def bank() -> Bank:
    return make_bank([waving("a"), waving("b", 40)])


def test_the_same_seed_gives_the_same_batch(bank: Bank) -> None:
    one, two = (draw_batch(bank, np.random.default_rng(5), 16, Noise()) for _ in range(2))
    assert np.array_equal(one.features, two.features) and np.array_equal(one.body, two.body)
    other = draw_batch(bank, np.random.default_rng(6), 16, Noise())
    assert not np.array_equal(one.features, other.features)


def test_a_batch_is_what_the_network_takes(bank: Bank) -> None:
    batch = draw_batch(bank, np.random.default_rng(0), 200, Noise())
    assert batch.features.shape == (200, FRAMES, FEATURES)
    assert batch.features.dtype == np.float32 and np.isfinite(batch.features).all()
    assert batch.body.shape == (200, 17, 3) and batch.usable.mean() > 0.8
    assert batch.body[:, lifting.HIPS].mean(axis=1) == pytest.approx(0, abs=1e-5)
    missing = np.isnan(batch.rays).any(axis=-1)
    assert 0.05 < missing.mean() < 0.5
    score = batch.features[:, -1, 2:51:3]
    assert ((score == 0) == missing).all()


def test_truth_and_measurement_agree(bank: Bank) -> None:
    """The true body, placed on exact rays, stands where the true person stands."""
    batch = draw_batch(bank, np.random.default_rng(1), 300, EXACT)
    ok = batch.usable
    std = np.full((ok.sum(), 17), 0.01)
    place = place_bodies(batch.body[ok], batch.rays[ok], std, std * 0)
    assert np.abs(place.translation - batch.root[ok]).max() < 2e-3
    assert ((batch.root[ok, 2] > 0.3) & (batch.root[ok, 2] < 8.0)).all()


def test_varied_bodies_have_one_stature_and_steady_bones(bank: Bank) -> None:
    motion = lifting.draw_windows(bank, np.random.default_rng(2), 300)
    body = lifting.vary_bodies(motion, np.random.default_rng(3))
    assert lifting._statures(body) == pytest.approx(np.ones(300), abs=1e-4)
    edges = COCO17.edge_indices()
    edges = edges[(edges >= 5).all(axis=1)]
    lengths = np.linalg.norm(body[:, :, edges[:, 0]] - body[:, :, edges[:, 1]], axis=-1)
    assert lengths.mean() == pytest.approx(0.2, abs=0.05)
    thigh = edges.tolist().index([11, 13])
    assert lengths[..., thigh].std() > 0.01  # people differ
    assert lengths[..., thigh].std(axis=1).max() < 0.01  # a person does not
    assert not np.allclose(body, motion.body)


def test_left_stays_left_in_front_of_the_camera(bank: Bank) -> None:
    """Shoulders seen from the front: the left one is at the right of the image, also mirrored."""
    motion = lifting.draw_windows(bank, np.random.default_rng(2), 400)
    xyz = film(motion.body, motion.offset_s, np.random.default_rng(4)).xyz[:, -1]
    nose, ears = xyz[:, 0], xyz[:, 3:5].mean(axis=1)
    facing = nose[:, 2] < ears[:, 2] - 0.04
    left, right = xyz[facing, 5], xyz[facing, 6]
    assert facing.sum() > 50
    assert (left[:, 0] > right[:, 0]).mean() == 1.0


def test_cameras_are_where_the_docstring_says(bank: Bank) -> None:
    motion = lifting.draw_windows(bank, np.random.default_rng(2), 1000)
    footage = film(motion.body, motion.offset_s, np.random.default_rng(4))
    newest = footage.xyz[:, -1]
    distance = np.linalg.norm(newest[:, [5, 6, 11, 12]].mean(axis=1), axis=-1)
    assert distance.min() > 0.55 and distance.max() < 5.5  # statures
    heads_up = newest[:, 5:7, 1].mean(axis=1) < newest[:, 15:17, 1].mean(axis=1)
    assert heads_up.mean() > 0.97
    angle = 2 * np.degrees(np.arctan(footage.half_view[:, 0]))
    assert angle.min() >= 35 and angle.max() <= 100


def test_an_exact_measurement_is_the_projection() -> None:
    rng = np.random.default_rng(0)
    xyz = rng.normal([0.0, 0.0, 2.0], 0.1, (20, FRAMES, 17, 3))
    footage = Footage(xyz.astype(np.float32), np.full((20, 2), 0.12, np.float32))
    rays, score = measure(footage, rng, EXACT)
    true = footage.xyz[..., :2] / footage.xyz[..., 2:]
    inside = (np.abs(true) < 0.12).all(axis=-1)
    known = np.isfinite(rays).all(axis=-1)
    assert (known <= inside).all()  # the image's border cuts, and nothing comes back
    whole = known[:, 0].any(axis=1)  # people who are there from the first frame on
    assert (known[whole] == inside[whole]).all()
    assert rays[known] == pytest.approx(true[known], abs=1e-6)
    assert (score[~known] == 0).all() and (score[known] > 0).all()


def test_noise_is_as_large_as_it_says() -> None:
    xyz = np.tile(np.array([0.0, 0.0, 2.0], np.float32), (4000, FRAMES, 17, 1))
    footage = Footage(xyz, np.full((4000, 2), 10.0, np.float32))
    noise = Noise(scale=0.02, outliers=0.0, dropped=0.0, hidden=0.0)
    rays, _ = measure(footage, np.random.default_rng(0), noise)
    error = np.nanmedian(np.abs(rays[:, -1]), axis=(0, 2)) / 0.6745  # statures at 2 statures
    assert error * 2.0 == pytest.approx(0.02 * lifting.JOINT_NOISE, rel=0.2)
    steady = np.nanmedian(np.abs(np.diff(rays, axis=1)))
    assert steady < 1.2 * np.nanmedian(np.abs(rays))  # white noise would give 1.41


def test_idling_is_drawn_rarely() -> None:
    still = waving("still", 400)
    still = MocapClip("still", 30.0, MOCAP15, np.repeat(still.xyz_m[:1], 400, axis=0))
    lively = waving("lively", 100)
    swing = (
        np.random.default_rng(0).normal(0, 0.1, (1, 15, 3))
        * np.sin(np.arange(100) / 2)[:, None, None]
    )
    lively = MocapClip("lively", 30.0, MOCAP15, (lively.xyz_m + swing).astype(np.float32))
    bank = make_bank([still, lively])
    moving = 1.0 - bank.chance[399]
    assert moving > 0.6  # one fifth of the frames


def test_held_out_clips_are_not_learnt_from() -> None:
    names = ["01_01", "01_05", "003_acted", "03_01", "humanoid3d_long_walk3_mirror", "14_01"]
    learn, held = lifting.split([waving(name, 10) for name in names])
    assert [clip.name for clip in learn] == ["01_01", "03_01", "14_01"]
    assert [clip.name for clip in held] == ["01_05", "003_acted", "humanoid3d_long_walk3_mirror"]


def test_the_loss_by_hand(bank: Bank) -> None:
    """A body that is 0.1 off along x everywhere, spread exp(-2): each term by hand."""
    batch = draw_batch(bank, np.random.default_rng(1), 30, EXACT)
    body = torch.from_numpy(batch.body) + torch.tensor([0.1, 0.0, 0.0])
    body.requires_grad_()
    spread = torch.full((30, 17, 2), -2.0, requires_grad=True)
    value = train_lifter.lifting_loss((body, spread), batch)
    likelihood = (0.05 * np.exp(2) - 2 + 0.0 - 2) / 2
    expected = 20 * 0.1 / 3 + 5 * 0.0 + 0.2 * likelihood
    assert float(value.detach()) == pytest.approx(expected, abs=1e-3)
    value.backward()
    assert body.grad is not None and spread.grad is not None
    assert (body.grad[~batch.usable] == 0).all()
    # d/dx of the body's own term only: 20 / (51 joints' numbers) / usable windows.
    usable = int(batch.usable.sum())
    assert body.grad[batch.usable][..., 0].abs().median() == pytest.approx(
        20 / 51 / usable, rel=0.05
    )


def write_mocap(folder: Path) -> None:
    clips = [waving("a", 80), waving("01_05", 60)]
    xyz = np.concatenate([clip.xyz_m for clip in clips])
    y_up = np.round(1000 * np.stack([xyz[..., 0], xyz[..., 2], -xyz[..., 1]], axis=-1))
    delta = np.diff(y_up, axis=0, prepend=np.zeros_like(y_up[:1])).astype(np.int16)
    np.savez(folder / "m.npz", names=np.array(MOCAP15), xyz_mm_delta=delta, fps=np.float64(30),
             start=np.array([0, 80, 140]), clips=np.array([c.name for c in clips]))  # fmt: skip


def test_a_run_that_is_interrupted_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mocap(tmp_path)
    monkeypatch.setattr(train_lifter, "WARM_UP", 2)
    monkeypatch.setattr(train_lifter, "WINDOWS", 100)
    common = ["--mocap", str(tmp_path), "--steps", "6", "--batch", "8"]

    def command(name: str, *more: str) -> dict[str, object]:
        out = str(tmp_path / f"{name}.safetensors")
        state = str(tmp_path / f"{name}.pt")
        return train_lifter.main([*common, "--checkpoint", state, "--out", out, *more])

    whole = command("whole")
    assert whole["step"] == 6 and whole["bytes"] < 3_000_000
    part = command("parts", "--seconds", "0.03")
    assert "out" not in part or part["step"] == 6
    for _ in range(10):
        if part["step"] == 6:
            break
        part = command("parts", "--seconds", "0.03")
    assert part["sha256"] == whole["sha256"] and part["held_out"] == whole["held_out"]
    data = (tmp_path / "whole.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == whole["sha256"]
    state = {
        k: torch.from_numpy(v.astype("float32")) for k, v in decode_tensors(data, Path()).items()
    }
    Lifter(LifterConfig()).load_state_dict(state, strict=True)
    json.dumps(whole)
    with pytest.raises(ConfigError, match="belongs to a run with"):
        command("whole", "--seed", "9")
    (tmp_path / "whole.pt").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="expected the state of a run"):
        command("whole")
    with pytest.raises(ConfigError, match="expected at least 1"):
        command("whole", "--batch", "0")


def test_learning_makes_the_error_smaller(bank: Bank) -> None:
    run = train_lifter.Run(train_lifter.Recipe(steps=60, batch=64, rate=2e-3))
    train_lifter_warm = train_lifter.WARM_UP
    assert train_lifter.learning_rate(0, run.recipe) == pytest.approx(2e-3 / train_lifter_warm)
    losses = [run.advance(bank, Noise()) for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])


def test_errors_by_hand() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 17, 3))
    hips = np.array([11, 12])
    assert root_aligned(truth + np.arange(3), truth, hips) == pytest.approx(0, abs=1e-12)
    moved = truth.copy()
    moved[:, 3] += [0.3, 0.0, 0.4]
    assert root_aligned(moved, truth, hips).mean() == pytest.approx(0.5 / 17)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    similar = 1.7 * truth @ turn.T + [1.0, -2.0, 0.5]
    assert procrustes_aligned(similar, truth) == pytest.approx(0, abs=1e-9)
    mirrored = truth * [-1.0, 1.0, 1.0]
    assert procrustes_aligned(mirrored, truth).mean() > 0.1
    moved[:, 5] = np.nan
    aligned = procrustes_aligned(moved, truth)
    assert np.isnan(aligned[:, 5]).all() and np.isfinite(np.delete(aligned, 5, axis=1)).all()
    lengths = np.array([1.0, 1.2, 0.8])
    bones = np.zeros((3, 2, 3))
    bones[:, 1, 0] = lengths
    expected = lengths.std() / lengths.mean()
    assert bone_variation(bones, np.array([[0, 1]])) == pytest.approx([expected])


@pytest.fixture
def truth_file(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Two cameras in front of a person of 2 m who waves, exact pixels."""
    clip = waving("a", 30)
    body = lifting.to_coco17(clip)
    camera = PinholeCamera(640, 480, 500.0, 500.0, 319.5, 239.5)
    poses = np.stack([np.eye(4), np.eye(4)])
    poses[:, :3, :3] = [
        [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0.8, 0.6, 0], [0, 0, -1], [-0.6, 0.8, 0]],
    ]
    poses[:, :3, 3] = [[0.0, 1.0, 4.5], [0.0, 1.0, 5.0]]
    xy = np.stack([camera.project(body @ p[:3, :3].T + p[:3, 3]) for p in poses])
    path = tmp_path / "truth.npz"
    np.savez(path, xyz_smooth_m=body, xy_px=xy.astype(np.float32),
             score=np.full(xy.shape[:3], 0.9, np.float32), K=np.stack([camera.matrix] * 2),
             stamps_ns=np.arange(30, dtype=np.int64) * 33_000_000, dist=np.zeros((2, 5)),
             size_wh=np.array([[640, 480]] * 2), T_cam_world=poses)  # fmt: skip
    return path, body


def test_the_evaluation_finds_a_perfect_lifter_perfect(
    truth_file: tuple[Path, np.ndarray],
) -> None:
    """A network that knows the body, told a stature 10 % too small: only scale and depth err."""
    path, body = truth_file
    truth = evaluate_lifter.read_truth(path)
    calls = {"n": 0}

    def oracle(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        view, frame = divmod(calls["n"], 30)
        calls["n"] += 1
        real = body[frame] @ truth.cam_from_world[view, :3, :3].T / 2.0
        x, y = windows[0, -1, 52:54].astype(float)
        ahead = np.array([x, y, 1.0]) / np.linalg.norm([x, y, 1.0])
        right = np.array([ahead[2], 0, -ahead[0]]) / np.hypot(ahead[0], ahead[2])
        turn = np.stack([right, np.cross(ahead, right), ahead])
        relative = (real - real[[11, 12]].mean(axis=0)) @ turn.T
        return relative[None].astype(np.float32), np.full((1, 17, 2), -6.0, np.float32)

    result = evaluate_lifter.evaluate(truth, lambda: MonocularLifter(oracle, 1.8), 0.2)
    mean = result["mean"]
    assert mean["pa_mpjpe_mm"] < 2.0 and mean["scaled_mpjpe_mm"] < 3.0
    assert 20.0 < mean["mpjpe_mm"] < 80.0
    assert mean["root_depth_rel"] == pytest.approx(0.1, abs=0.01)
    assert mean["root_depth_bias_mm"] < -300.0
    assert mean["root_depth_sigmas"] == pytest.approx(0.1 / 0.9 / 0.05, rel=0.2)
    assert result["cameras"][0]["frames"] == 30 - evaluate_lifter.WARM_UP
    assert set(result["per_joint_pa_mm"]) == set(COCO17.joints)
    assert set(result["per_joint_mm"]) == set(COCO17.joints)
    camera = result["cameras"][0]  # the mean of the joints, all of which are always seen
    for joints, of_all in (("per_joint_mm", "mpjpe_mm"), ("per_joint_pa_mm", "pa_mpjpe_mm")):
        assert np.mean(list(camera[joints].values())) == pytest.approx(camera[of_all], abs=0.1)
    lines = evaluate_lifter.joint_table({"one": result, "two": result}).splitlines()
    assert len(lines) == 18
    assert lines[0].split() == ["one", "lifted", "one", "aprs", "two", "lifted", "two", "aprs"]
    wrist = [f"{result[of]['left_wrist']:.0f}" for of in evaluate_lifter.PER_JOINT]
    assert lines[10].split()[:4] == ["left_wrist", wrist[0], "/", wrist[1]]
    assert STATURE_M == 1.70


def test_the_evaluation_refuses_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", xyz_m=np.zeros((2, 17, 3)))
    with pytest.raises(ConfigError, match="expected an archive of views and truth"):
        evaluate_lifter.read_truth(tmp_path / "x.npz")
    with pytest.raises(ConfigError):
        evaluate_lifter.read_truth(tmp_path / "absent.npz")
    with pytest.raises(ConfigError, match="for each of 2, got 3 statures"):
        evaluate_lifter.main(["--truth", "a.npz", "b.npz", "--stature", "1.7", "1.6", "1.5"])
