"""Consensus labels: reading the tracker's file, agreement of looks, files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.values import Frame
from pose_ros.errors import SourceError
from pose_ros.training import consensus
from pose_ros.training.consensus import Consensus, Track, boxes_of, load, save, tracks
from pose_ros.training.label_files import read_labels

WALKER = Path(__file__).parents[1] / "data" / "walker.jpg"


def poses(path: Path, rows: list[tuple[int, str, list[float]]]) -> Path:
    lines = [
        json.dumps(
            {
                "frame": frame,
                "people": [{"id": "7", "state": state, "box_xyxy_px": box}],
            }
        )
        for frame, state, box in rows
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_only_measured_people_have_boxes(tmp_path: Path) -> None:
    rows = [
        (0, "TENTATIVE", [0, 0, 9, 9]),
        (1, "TRACKED", [1, 0, 9, 9]),
        (2, "LOST", [2, 0, 9, 9]),
    ]
    ids, frames, boxes = boxes_of(poses(tmp_path / "p.jsonl", rows))
    assert (ids, frames.tolist(), boxes[:, 0].tolist()) == (["7", "7"], [0, 1], [0.0, 1.0])


@pytest.mark.parametrize("text", ["{", '{"frame": 0}', '{"frame": 0, "people": [{}]}'])
def test_refuses_other_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"expected what python -m pose_ros\.tools\.track"):
        boxes_of(path)


def test_tracks_come_back_as_they_were_written(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).normal(size=(4, 17, 2)).astype(np.float32)
    xy[1, 3] = np.nan
    track = Track(np.arange(4), np.ones((4, 4), np.float32), xy)
    save(tmp_path / "t.npz", [track, track])
    first, second = load(tmp_path / "t.npz")
    np.testing.assert_array_equal(first.xy_px, xy)
    np.testing.assert_array_equal(second.frames, track.frames)


def test_a_real_walker_is_labelled_in_every_frame_and_noise_in_none(tmp_path: Path) -> None:
    """A still picture in five frames: labels that stand still, left and right not mixed up."""
    rgb = np.asarray(cv2.cvtColor(cv2.imread(str(WALKER)), cv2.COLOR_BGR2RGB))
    teacher = Consensus()
    box = np.array([[258, 182, 350, 342]], np.float32)
    assert np.isfinite(teacher(Frame(rgb, 0), box)).all(-1).mean() > 0.6
    file = poses(tmp_path / "p.jsonl", [(t, "TRACKED", box[0].tolist()) for t in range(5)])
    found = tracks(file, ((t, Frame(rgb, t)) for t in range(5)), 30.0, teacher)
    assert [len(t) for t in found] == [5]
    points = found[0].xy_px
    assert np.isfinite(points).all(-1).mean() > 0.6
    np.testing.assert_allclose(points[1:] - points[:1], 0.0, atol=0.5)
    noise = np.random.default_rng(0).integers(0, 255, rgb.shape).astype(np.uint8)
    assert not np.isfinite(teacher(Frame(noise, 0), box)).any()


def test_consensus_is_written_as_labels_of_every_frame(
    tmp_path: Path,
) -> None:
    """Two people in a folder of pictures, of whom one is there for five frames only."""
    rgb = cv2.imread(str(WALKER))
    (tmp_path / "film").mkdir()
    lines = []
    for t in range(6):
        cv2.imwrite(str(tmp_path / "film" / f"{t}.png"), rgb)
        person = {"state": "TRACKED", "box_xyxy_px": [258, 182, 350, 342]}
        people = [{"id": 1, **person}, *([{"id": 2, **person}] if t < 5 else [])]
        lines.append(json.dumps({"frame": t, "people": people}))
    (tmp_path / "film.jsonl").write_text("\n".join(lines))
    out = tmp_path / "all.json"
    argv = [str(tmp_path / "film"), "--poses", str(tmp_path / "film.jsonl"), "--out", str(out)]
    answer = consensus.main([*argv, "--least", "6"])
    assert (answer["frames"], answer["people"], answer["labels"]) == (6, 1, 6)
    assert answer["joints_labelled"] > 0.6
    file = read_labels(out)
    assert [frame.number for frame in file.frames] == list(range(6))
    assert {person.track for frame in file.frames for person in frame.people} == {"1"}
    assert consensus.main(argv)["people"] == 2
