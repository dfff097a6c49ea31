"""The detector stage around a network that is a plain function."""

import numpy as np

from pose_ros.core.config import DetectConfig
from pose_ros.core.detect import NetDetector, clip, letterbox, suppress
from pose_ros.core.values import Boxes


def boxes(rows: list[list[float]], score: list[float]) -> Boxes:
    return Boxes(np.array(rows, np.float32).reshape(-1, 4), np.array(score, np.float32))


def test_letterbox_keeps_the_aspect() -> None:
    image, scale = letterbox(np.full((1080, 1920, 3), 50, np.uint8), 416, 32)
    assert image.shape == (256, 416, 3) and scale == 416 / 1920
    assert (image[:234] == 50).all() and not image[234:].any()
    image, scale = letterbox(np.full((640, 480, 3), 50, np.uint8), 416, 32)
    assert image.shape == (416, 320, 3) and scale == 0.65


def test_a_box_comes_back_in_image_pixels() -> None:
    """The network sees the white rectangle and answers with its pixel edges."""
    picture = np.zeros((400, 800, 3), np.uint8)
    picture[100:300, 200:280] = 255

    def net(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, cols = np.nonzero(images[0, ..., 0] > 127)
        edges = [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        found = np.array([[edges, [0, 0, 9, 9]]], np.float32) - 0.5
        return found, np.array([[0.9, 0.1]], np.float32)

    answer = NetDetector(net, DetectConfig(), 400)(picture)
    np.testing.assert_allclose(answer.xyxy_px, [[199.5, 99.5, 279.5, 299.5]], atol=1.0)
    assert answer.score.tolist() == [np.float32(0.9)]


def test_nothing_found() -> None:
    def blind(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((1, 0, 4), np.float32), np.zeros((1, 0), np.float32)

    assert len(NetDetector(blind, DetectConfig(), 64)(np.zeros((48, 64, 3), np.uint8))) == 0


def test_duplicates_go_best_first() -> None:
    found = boxes([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], [0.5, 0.9, 0.7])
    kept = suppress(found, 0.5)
    np.testing.assert_allclose(kept.score, [0.9, 0.7])
    assert len(suppress(Boxes.empty(), 0.5)) == 0


def test_boxes_are_cut_at_the_border() -> None:
    cut = clip(
        boxes([[-5, -5, 20, 20], [90, 90, 200, 200], [300, 0, 310, 9]], [1, 1, 1]), 100, 100
    )
    np.testing.assert_allclose(cut.xyxy_px, [[-0.5, -0.5, 20, 20], [90, 90, 99.5, 99.5]])
