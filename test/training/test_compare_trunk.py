"""The comparison of a video network with its trunk: measures by hand, and one real run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.values import ByteArray, FloatArray
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError, SourceError
from pose_ros.nets.checkpoint import find_card
from pose_ros.training import compare_trunk, consensus
from pose_ros.training.compare_trunk import CONDITIONS, Both, Shown, measure, show, summary
from pose_ros.training.consensus import Track
from pose_ros.training.train_prior import Film, read_film

WALKER = Path(__file__).parents[1] / "data" / "walker.jpg"


def shown(truth: FloatArray) -> Shown:
    frames = len(truth)
    crops: ByteArray = np.zeros((frames, 8, 8, 3), np.uint8)
    side = np.full(frames, 100.0, np.float32)
    affine = np.tile(np.eye(2, 3, dtype=np.float32), (frames, 1, 1))
    return Shown(crops, affine, list(range(frames)), truth, side, side**2 * 0.5)


def test_the_measures_by_hand() -> None:
    """Steady motion has no jitter; a joint 7 px off a box of 100 is within 10 %, not 5 %."""
    truth = np.zeros((6, 17, 2), np.float32)
    truth[..., 0] = np.arange(6)[:, None] * 3.0
    given = shown(truth)
    perfect = summary([measure(truth, given)])
    wanted = {"pck05": 100.0, "pck10": 100.0, "oks": 100.0, "jitter": 0.0}
    assert perfect == pytest.approx(wanted, abs=1e-4)
    off = truth.copy()
    off[:, 0, 1] += 7.0
    found = summary([measure(off, given)])
    assert found["pck05"] == pytest.approx(100 * 16 / 17)
    assert found["pck10"] == 100.0
    assert found["oks"] < 100.0 and found["jitter"] < 1e-4
    shaky = truth.copy()
    shaky[::2, :, 1] += 1.0  # 1, 0, 1, 0: third differences of 4
    assert summary([measure(shaky, given)])["jitter"] == pytest.approx(100 * 4 / 100)


def test_unlabelled_joints_do_not_count_and_missed_ones_do() -> None:
    truth = np.zeros((6, 17, 2), np.float32)
    found = truth.copy()
    found[:, 1] = np.nan
    truth[:, 2] = np.nan
    row = summary([measure(found, shown(truth))])
    assert row["pck10"] == pytest.approx(100 * 15 / 16)


def test_boxes_are_held_and_every_second_frame_is_left_out() -> None:
    """A box that creeps: eight frames share a crop."""
    boxes = np.tile(np.array([20, 20, 60, 100], np.float32), (20, 1))
    boxes += np.arange(20, dtype=np.float32)[:, None] * 0.1
    track = Track(np.arange(20), boxes, np.zeros((20, 17, 2), np.float32))
    film = Film("grey", [np.full((120, 90, 3), t, np.uint8) for t in range(20)], [track])
    card = find_card("movenet_thunder_large")
    clean = show(film, track, card, CONDITIONS[0], [0], 30.0)
    changes = (np.diff(clean.affine, axis=0) != 0).any((1, 2))
    assert changes.sum() <= 2 and not changes[:7].any()
    assert clean.crops[5].max() == 5
    half = show(film, track, card, CONDITIONS[-1], [0], 30.0)
    assert half.crops[:, 128, 96, 0].tolist() == list(range(0, 20, 2))
    assert np.diff(half.stamps_ns)[0] == pytest.approx(2e9 / 30, rel=1e-6)


def test_only_comparable_networks() -> None:
    with pytest.raises(ConfigError, match="expected the same crops"):
        Both(find_card("hstpn_robot"), find_card("movenet_thunder"), 1)
    with pytest.raises(ConfigError, match="expected a recurrent network"):
        Both(find_card("movenet_thunder_large"), find_card("movenet_thunder_large"), 1)
    with pytest.raises(ConfigError, match="expected --video"):
        compare_trunk.main([])


def test_a_real_film_and_a_real_picture(tmp_path: Path) -> None:
    """A woman who slides 2 px per frame: clean frames are right for both; the labels are kept."""
    picture = cv2.imread(str(WALKER))
    film = tmp_path / "walk.mp4"
    with VideoWriter(film, 20.0) as out:
        for step in range(12):
            out.write(np.ascontiguousarray(np.roll(picture, 2 * step, axis=1)[..., ::-1]))
    box = [258.0, 182.0, 350.0, 342.0]
    rows = [
        {"frame": t, "people": [{"id": "1", "state": "TRACKED", "box_xyxy_px": box}]}
        for t in range(12)
    ]
    poses = tmp_path / "walk.jsonl"
    poses.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    argv = ["--video", f"{film}={poses}", "--labels", str(tmp_path / "labels")]
    answer = compare_trunk.main([*argv, "--condition", "clean", "--condition", "low light"])
    assert answer["person_frames"] == 12
    for net in ("trunk", "video"):
        assert answer["conditions"]["clean"][net]["pck10"] > 95.0
    assert answer["conditions"]["clean"]["labels"]["pck05"] == 100.0
    (kept,) = (tmp_path / "labels").iterdir()
    made = kept.stat().st_mtime_ns
    argv += ["--condition", "clean", "--limit", "5"]
    assert compare_trunk.main(argv)["person_frames"] == 5
    assert kept.stat().st_mtime_ns == made  # the same film and tracks: the same labels
    consensus.save(kept, consensus.load(kept))  # as they were kept before they said of what
    rows = rows[:11]
    poses.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert len(read_film(film, poses, kept.parent, 1).tracks[0]) == 11
    rows[3]["people"] = []
    poses.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert [len(t) for t in read_film(film, poses, kept.parent, 1).tracks] == [7]
    rows[3] = {**rows[4], "frame": 12}
    poses.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(SourceError, match=r"people in frame 12, but .* up to frame 11 only"):
        read_film(film, poses, kept.parent, 1)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    labels = {
        "images": [{"id": 1, "file_name": "gone.jpg"}],
        "annotations": [{"image_id": 1, "keypoints": [3, 3, 2] * 17, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(labels))
    both = compare_trunk.open_both(*[find_card("movenet_thunder")] * 2, 1)
    with pytest.raises(SourceError, match=r"gone\.jpg: .*coco\.json names this picture"):
        compare_trunk.pictures(both, tmp_path / "coco.json", tmp_path)
