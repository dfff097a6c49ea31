"""Drawing: what is known is drawn where it is, what is not is left out."""

import itertools

import numpy as np

from pose_ros.core.draw import draw_skeletons, person_rgb
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import KeypointStatus, TrackState


def person() -> tuple[np.ndarray, np.ndarray]:
    xy = np.stack([np.linspace(20, 180, 17), np.linspace(30, 170, 17)], axis=1)[None]
    return xy.astype(np.float32), np.full((1, 17), 0.9, np.float32)


def draw(
    xy: np.ndarray, score: np.ndarray, state: int, status: np.ndarray | None = None
) -> np.ndarray:
    rgb = np.zeros((200, 200, 3), np.uint8)
    draw_skeletons(rgb, np.array([1]), np.array([state]), xy, score, COCO17, status=status)
    return rgb


def test_joints_are_where_they_are() -> None:
    xy, score = person()
    rgb = draw(xy, score, TrackState.TRACKED)
    for x, y in np.round(xy[0]).astype(int):
        assert rgb[y, x].any()
    assert not rgb[:20].any()


def test_unknown_joints_and_lost_people_are_left_out() -> None:
    xy, score = person()
    assert not draw(xy, score, TrackState.LOST).any()
    xy[0, 9:] = np.nan
    score[0, 5:9] = 0
    rgb = draw(xy, score, TrackState.TRACKED)
    assert rgb.any() and not rgb[80:].any()


def test_neighbouring_ids_have_different_colours() -> None:
    colours = [person_rgb(i) for i in range(1, 9)]
    assert len(set(colours)) == 8
    assert all(np.abs(np.subtract(a, b)).sum() > 100 for a, b in itertools.pairwise(colours))


def test_what_was_filled_in_is_hollow_and_dashed() -> None:
    xy = np.full((1, 17, 2), np.nan, np.float32)
    score = np.full((1, 17), 0.9, np.float32)
    shoulder, elbow = COCO17.index("left_shoulder"), COCO17.index("left_elbow")
    xy[0, [shoulder, elbow]] = (20, 100), (180, 100)
    status = np.full((1, 17), KeypointStatus.MEASURED, np.int8)
    assert draw(xy, score, TrackState.TRACKED, status)[100, 24:176].any(axis=-1).all()
    for kind in (KeypointStatus.INFERRED, KeypointStatus.PREDICTED):
        status[0, elbow] = kind
        row = draw(xy, score, TrackState.TRACKED, status)[100]
        drawn = row[24:176].any(axis=-1).mean()
        assert 0.4 < drawn < 0.75, "dashes"
        assert row[20].any() and not row[180].any(), "full and hollow"
