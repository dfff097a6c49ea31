"""The comparison of a network with a window with its trunk: what it sees, and one real run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError
from pose_ros.nets.checkpoint import find_card
from pose_ros.training import compare_window
from pose_ros.training.compare_trunk import CONDITIONS, show
from pose_ros.training.compare_window import Pair, Person
from pose_ros.training.consensus import Track
from pose_ros.training.train_prior import Film

WALKER = Path(__file__).parents[1] / "data" / "walker.jpg"


def film_of(frames: int, creep: float) -> Film:
    """Grey frames, a little lighter each, and somebody whose box creeps along."""
    boxes = np.tile(np.array([20, 20, 60, 100], np.float32), (frames, 1))
    boxes += np.arange(frames, dtype=np.float32)[:, None] * creep
    track = Track(np.arange(frames), boxes, np.zeros((frames, 17, 2), np.float32))
    return Film("grey", [np.full((160, 120, 3), 5 * t, np.uint8) for t in range(frames)], [track])


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: c[0])
def test_the_trunk_sees_what_compare_trunk_shows_it(
    condition: tuple[str, str, float, int],
) -> None:
    film, card = film_of(12, 0.1), find_card("movenet_thunder_large")
    person = Person(film, film.tracks[0], card, condition, [3])
    shown = show(film, film.tracks[0], card, condition, [3], 30.0)
    np.testing.assert_array_equal(person.crops, shown.crops)
    np.testing.assert_allclose(person.affine, shown.affine)
    mine = person.shown(30.0)
    assert mine.stamps_ns == shown.stamps_ns
    np.testing.assert_array_equal(mine.truth, shown.truth)


def test_a_frame_in_another_box_is_disturbed_as_in_its_own() -> None:
    """The boxes of frames 8 and 9 differ; the object that passes covers the same of the crop."""
    film, card = film_of(12, 1.5), find_card("movenet_thunder_large")
    person = Person(film, film.tracks[0], card, CONDITIONS[2], [3])
    moved = np.flatnonzero((np.diff(person.edges, axis=0) != 0).any(1))
    first = int(moved[0])
    own, other = person.crops[first], person.crop(first, first + 1)
    assert (person.crop(first, first) == own).all()
    hidden = [(crop != 5 * first).any(2).mean() for crop in (own, other)]
    assert hidden[0] > 0.02
    assert hidden[1] == pytest.approx(hidden[0], abs=0.02)
    assert (person.crop(first, first + 1) == other).all()  # asking does not use it up


def test_only_comparable_networks() -> None:
    with pytest.raises(ConfigError, match="expected the same crops"):
        Pair(find_card("pstpose_prior"), find_card("movenet_thunder"), 1)
    with pytest.raises(ConfigError, match="expected a network with a window"):
        Pair(find_card("hstpn_robot"), find_card("movenet_thunder_large"), 1)
    with pytest.raises(ConfigError, match="expected --video"):
        compare_window.main([])


def test_a_real_film(tmp_path: Path) -> None:
    """A woman who slides 2 px per frame: clean frames are right for both."""
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
    answer = compare_window.main([*argv, "--condition", "clean"])
    assert answer["person_frames"] == 12
    for net in ("trunk", "video"):
        assert answer["conditions"]["clean"][net]["pck10"] > 95.0
    assert answer["conditions"]["clean"]["labels"]["pck05"] == 100.0
