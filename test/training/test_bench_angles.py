"""Angles of motion capture and back: what is made up is found, and what is there is exact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pose_ros.training import bench_angles
from pose_ros.training.datasets.mocap import MOCAP15
from pose_ros.training.walker import walk


@pytest.fixture(scope="module")
def walker() -> np.ndarray:
    return walk(2.0, 20.0, 5, 1.75, 1.3)[1].astype(np.float64)


@pytest.mark.parametrize("convention", ["rep155", "isb"])
def test_a_walking_body_comes_back(walker: np.ndarray, convention: str) -> None:
    found = bench_angles.measure(walker, convention)
    assert found["frames"] == len(walker) and found["known"] == 1.0
    assert found["worst_joint_mm"] < 0.5 and found["worst_turn_deg"] < 0.1


@pytest.mark.parametrize(("convention", "place"), [
    ("rep155", "placed_rep155"), ("isb", "placed_isb"),
])  # fmt: skip
def test_angles_that_are_one_degree_off_are_seen(
    walker: np.ndarray, convention: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = getattr(bench_angles, place)

    def off(xyz_m: np.ndarray, angle_rad: np.ndarray) -> object:
        wrong = angle_rad.copy()
        wrong[:, -1] += np.radians(1.0)  # the right knee in both
        return true(xyz_m, wrong)

    monkeypatch.setattr(bench_angles, place, off)
    found = bench_angles.measure(walker, convention)
    assert found["worst_turn_deg"] == pytest.approx(1.0, abs=0.05)
    shank = 1000 * np.linalg.norm(walker[:, 14] - walker[:, 16], axis=1).max()
    assert found["worst_joint_mm"] == pytest.approx(np.radians(1.0) * shank, rel=0.02)


def test_unknown_joints_are_not_counted(walker: np.ndarray) -> None:
    body = walker.copy()
    body[:5, 10] = np.nan  # a wrist
    found = bench_angles.measure(body, "rep155")
    assert found["known"] == pytest.approx(1 - 5 / len(body), abs=1e-6)
    assert found["worst_joint_mm"] < 0.5


def test_the_command_reads_archives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = walk(1.0, 20.0, 6, 1.7, 1.2)[1]
    at = {name: i for i, name in enumerate(
        ("nose", "left_eye", "right_eye", "left_ear", "right_ear", *MOCAP15[:12]))}  # fmt: skip
    joints = [body[:, at[name]] for name in MOCAP15[:12]]
    neck, pelvis = body[:, 5:7].mean(1), body[:, 11:13].mean(1)
    head = neck + 0.13 * 1.7 * (neck - pelvis) / np.linalg.norm(neck - pelvis, axis=1)[:, None]
    up = np.stack([*joints, neck, head, pelvis], axis=1)[..., [0, 2, 1]] * [1, 1, -1]
    mm = np.rint(1000 * up).astype(np.int64)
    np.savez(
        tmp_path / "walk.npz", names=np.array(MOCAP15), clips=np.array(["one"]),
        xyz_mm_delta=np.diff(mm, axis=0, prepend=0).astype(np.int16),
        start=np.array([0, len(mm)]), fps=np.array(20.0),
    )  # fmt: skip
    assert bench_angles.command(["--mocap", str(tmp_path), "--every", "2"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["frames"] == -(-len(mm) // 2)
    for convention in ("rep155", "isb"):
        assert answer[convention]["worst_turn_deg"] < 0.1
        assert set(answer[convention]["sets"]) == {"walk"}
    assert bench_angles.command(["--mocap", str(tmp_path / "absent")]) == 1
    (tmp_path / "empty").mkdir()
    assert bench_angles.command(["--mocap", str(tmp_path / "empty")]) == 1
    assert "archives" in capsys.readouterr().err
