"""Mocap archives are read as they were written, and get a face that stands where it should."""

from pathlib import Path

import numpy as np
import pytest

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.training.datasets.mocap import (
    MOCAP15,
    MocapClip,
    read_mocap,
    stature_m,
    to_coco17,
)

# A standing person of 2 m who looks along +z, y up, metres: left is +x.
STANDING = {
    "left_shoulder": (0.25, 1.56, 0), "right_shoulder": (-0.25, 1.56, 0),
    "left_elbow": (0.25, 1.2, 0), "right_elbow": (-0.25, 1.2, 0),
    "left_wrist": (0.25, 0.9, 0), "right_wrist": (-0.25, 0.9, 0),
    "left_hip": (0.25, 0.984, 0), "right_hip": (-0.25, 0.984, 0),
    "left_knee": (0.25, 0.494, 0), "right_knee": (-0.25, 0.494, 0),
    "left_ankle": (0.25, 0.002, 0), "right_ankle": (-0.25, 0.002, 0),
    "neck": (0, 1.6, 0), "head_end": (0, 1.8, 0), "pelvis": (0, 0.984, 0),
}  # fmt: skip


def write_archive(path: Path, names: tuple[str, ...], step_mm: tuple[int, int, int]) -> None:
    """Two clips, of 2 and 3 frames, of the standing person who moves by a step a frame."""
    body = np.array([STANDING[name] for name in names]) * 1000
    frames = np.round(body[None] + np.arange(5)[:, None, None] * np.array(step_mm))
    delta = np.diff(frames, axis=0, prepend=np.zeros_like(frames[:1])).astype(np.int16)
    np.savez(path, names=np.array(names), xyz_mm_delta=delta, start=np.array([0, 2, 5]),
             clips=np.array(["one", "two"]), fps=np.float64(24.0))  # fmt: skip


def test_the_running_sum_goes_through_the_whole_file_and_z_is_up(tmp_path: Path) -> None:
    shuffled = MOCAP15[::-1]
    write_archive(tmp_path / "a.npz", shuffled, (100, 0, -50))
    one, two = read_mocap(tmp_path / "a.npz")
    assert (one.name, len(one), two.name, len(two), two.fps) == ("one", 2, "two", 3, 24.0)
    assert one.names == MOCAP15
    wrist = MOCAP15.index("left_wrist")
    # The third frame: 2 steps along x and -z; z becomes -y, and y - 2 mm + 80 mm becomes z.
    assert two.xyz_m[0, wrist] == pytest.approx([0.45, 0.1, 0.978], abs=1e-6)


def test_the_floor_is_where_ankles_stand_eight_centimetres_high(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.npz", MOCAP15, (10, 0, 0))
    for clip in read_mocap(tmp_path):
        assert clip.xyz_m[:, :, 2].min() == pytest.approx(0.08, abs=1e-6)


def test_a_missing_head_end_is_made_up_above_the_shoulders(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.npz", tuple(n for n in MOCAP15 if n != "head_end"), (0, 0, 0))
    clip = read_mocap(tmp_path)[0]
    at = clip.names.index
    rise = clip.xyz_m[0, at("head_end")] - clip.xyz_m[0, at("left_shoulder")]
    assert rise == pytest.approx([-0.25, 0.0, 0.13 * 2.0], abs=2e-3)


def test_stature_is_that_of_the_limbs(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.npz", MOCAP15, (0, 0, 0))
    assert stature_m(read_mocap(tmp_path)[0]) == pytest.approx(2.0, abs=0.01)


def test_the_face_looks_forward_and_left_is_left(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.npz", MOCAP15, (0, 0, 0))
    body = to_coco17(read_mocap(tmp_path)[0])[0]
    at = COCO17.index
    assert body.dtype == np.float32
    # Forward (+z in the file) is -y here; the nose is 15 cm ahead and 21.6 cm above the shoulders.
    shoulders = (body[at("left_shoulder")] + body[at("right_shoulder")]) / 2
    assert body[at("nose")] - shoulders == pytest.approx([0.0, -0.15, 0.216], abs=2e-3)
    for part in ("eye", "ear", "shoulder", "ankle"):
        assert body[at(f"left_{part}"), 0] > 0.02 > -0.02 > body[at(f"right_{part}"), 0]
    assert body[at("left_eye"), 2] > body[at("nose"), 2]


def test_the_face_turns_with_the_body(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.npz", MOCAP15, (30, 0, 10))
    clip = read_mocap(tmp_path)[1]
    angle = 0.7
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]],
        np.float32,
    )
    turned = MocapClip(clip.name, clip.fps, clip.names, clip.xyz_m @ turn.T)
    assert to_coco17(turned) == pytest.approx(to_coco17(clip) @ turn.T, abs=1e-5)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found none"):
        read_mocap(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"a\.npz: expected a mocap archive"):
        read_mocap(tmp_path)
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(ConfigError, match="mocap archive"):
        read_mocap(tmp_path / "a.npz")
    with pytest.raises(ConfigError):
        read_mocap(tmp_path / "absent.npz")


def test_positions_must_fit_the_names() -> None:
    with pytest.raises(ShapeError, match=r"\(T, 2, 3\)"):
        MocapClip("x", 30.0, ("a", "b"), np.zeros((4, 3, 3), np.float32))
