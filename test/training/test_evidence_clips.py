"""Stored clips: labels where the joints are, training and choosing apart, what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pose_ros.nets.checkpoint import Card, find_card
from pose_ros.training.consensus import Track
from pose_ros.training.evidence_clips import LENGTH, MIX, Clips, Cut, draw
from pose_ros.training.train_prior import Film

FRAMES = 100


def card() -> Card:
    return replace(find_card("movenet_thunder_large"), input_hw=(128, 96), crop_scale=1.0)


def dotted() -> Film:
    """A white dot on black that moves on; its frame's number is the grey of a corner."""
    xy = np.full((FRAMES, 17, 2), np.nan, np.float32)
    frames = []
    for t in range(FRAMES):
        image = np.full((200, 160, 3), t, np.uint8)
        xy[t, 0] = (60 + t / 4, 90 + t / 4)
        x, y = np.rint(xy[t, 0]).astype(int)
        image[y - 3 : y + 4, x - 3 : x + 4] = 255
        frames.append(image)
    box = np.tile(np.array([20, 10, 140, 190], np.float32), (FRAMES, 1))
    return Film("dot", frames, [Track(np.arange(FRAMES), box, xy)])


def test_labels_are_where_the_joints_are_and_the_rest_is_unknown() -> None:
    film, rng, bright = dotted(), np.random.default_rng(0), []
    for _ in range(40):
        clip = draw([film], rng, False, card())
        assert clip.crops.shape == (LENGTH, 128, 96, 3)
        assert np.isnan(clip.cells[:, 1:]).all()  # mirrored, joint 0 is itself: the nose
        x, y = np.rint(clip.cells[0, 0] * 4 - 0.5).astype(int)
        bright.append(int(clip.crops[0, y, x].max()) > 120)
    assert np.mean(bright) > 0.75  # not where the dot is hidden, dark or smeared


def test_training_never_sees_the_end_of_a_track() -> None:
    film = dotted()
    grey: dict[bool, list[int]] = {False: [], True: []}
    for held_out, seen in grey.items():
        for number in range(60):
            clip = draw([film], np.random.default_rng([held_out, number]), held_out, card())
            if MIX[clip.kind][0] == "clean":
                seen += np.median(clip.crops.reshape(LENGTH, -1), axis=1).astype(int).tolist()
    assert min(grey[True]) >= 80 > max(grey[False])
    assert max(grey[True]) <= 99


def test_what_is_stored_comes_back_and_a_folder_goes_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    maps = rng.random((2, LENGTH, 17, 32, 24)).astype(np.float32)
    facts = rng.normal(0, 20, (2, LENGTH, 17, 5)).astype(np.float32)
    cells = rng.normal(0, 20, (LENGTH, 17, 2)).astype(np.float32)
    cells[0, 0] = np.nan
    crops = np.zeros((LENGTH, 128, 96, 3), np.uint8)
    clips = Clips(tmp_path, 2, card(), 5)
    clips.add(maps[0], facts[0], Cut(crops, cells, 3))
    clips.add(maps[1], facts[1], Cut(crops, cells, 1))
    again = Clips(tmp_path, 2, card(), 5)
    assert again.done == 2
    batch = again.batch(np.array([1, 0]), slice(2, 7))
    np.testing.assert_allclose(batch["maps"].numpy(), maps[[1, 0], 2:7], atol=1 / 255)
    np.testing.assert_array_equal(batch["facts"].numpy(), facts[[1, 0], 2:7])
    np.testing.assert_array_equal(again.batch(np.array([0]), slice(0, 1))["cells"][0], cells[:1])
    assert batch["kind"].tolist() == [1, 3]
