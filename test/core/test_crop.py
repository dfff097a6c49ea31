"""Crops: where a pixel goes, and that it comes back."""

import numpy as np
import pytest

from pose_ros.core.crop import Cropper, Crops, affine_from_boxes, cut, fit_boxes, to_image
from pose_ros.core.values import Frame, People, Windows
from pose_ros.errors import ShapeError


def frame(height: int = 120, width: int = 160) -> Frame:
    y, x = np.mgrid[:height, :width]
    return Frame(np.stack([x, y, np.full_like(x, 200)], axis=2).astype(np.uint8), 0)


def windows(boxes: list[list[float]], frames: tuple[Frame, ...]) -> Windows:
    count = len(boxes)
    people = People(
        np.arange(count), np.array(boxes, np.float32).reshape(-1, 4), np.ones(count, np.float32)
    )
    return Windows(
        people, frames, np.ones((count, len(frames)), bool), np.zeros(len(frames), np.float32)
    )


def test_short_side_is_padded_to_the_aspect() -> None:
    box = np.array([[9.5, 9.5, 29.5, 49.5]], np.float32)  # edges 10 to 30 and 10 to 50
    np.testing.assert_array_equal(fit_boxes(box, (64, 64), 1.0), [[0, 10, 40, 50]])
    np.testing.assert_array_equal(fit_boxes(box, (64, 48), 1.0), [[5, 10, 35, 50]])
    np.testing.assert_array_equal(fit_boxes(box, (64, 64), 1.5), [[-10, 0, 50, 60]])


def test_corners_of_the_crop_are_corners_of_the_box() -> None:
    affine = affine_from_boxes(np.array([[8, 16, 40, 48]]), (64, 64))
    crop = np.array([[[-0.5, -0.5], [63.5, 63.5], [31.5, 31.5]]], np.float32)
    # pixel edges: the box's left edge is half a pixel left of the centre of pixel 8
    np.testing.assert_allclose(
        to_image(crop, affine)[0], [[7.5, 15.5], [39.5, 47.5], [23.5, 31.5]]
    )


@pytest.mark.parametrize(
    "box", [[20, 30, 84, 94], [40, 20, 72, 52], [-20, -10, 60, 70], [100, 60, 200, 160]]
)
def test_a_pixel_comes_back_to_its_place(box: list[float]) -> None:
    """The picture's red and green are its coordinates, so a crop knows where it is from."""
    clips = Cropper((32, 32), 1.0).crop(windows([box], (frame(),)))
    row, col = np.mgrid[:32, :32]
    cells = np.stack([col.ravel(), row.ravel()], axis=1)[None].astype(np.float32)
    at = to_image(cells, clips.image_from_crop)[0]
    seen = clips.rgb[0, 0].reshape(-1, 3)
    inside = (at > 2).all(axis=1) & (at < (157, 117)).all(axis=1)
    assert inside.sum() > 200
    np.testing.assert_allclose(seen[inside, :2], at[inside], atol=1.0)
    outside = ((at < -3) | (at > (163, 123))).any(axis=1)
    assert not seen[outside].any()


def test_shrinking_averages() -> None:
    stripes = Frame(np.tile(np.array([0, 255], np.uint8)[None, :, None], (64, 32, 3)), 0)
    out = np.zeros((16, 16, 3), np.uint8)
    cut(stripes, np.array([0, 0, 64, 64]), out)
    assert np.ptp(out) <= 1 and abs(int(out.mean()) - 127) <= 1


def test_box_outside_the_image_is_black() -> None:
    clips = Cropper((16, 16), 1.0).crop(windows([[500, 500, 540, 540]], (frame(),)))
    assert not clips.rgb.any()


@pytest.mark.parametrize("tall", [70, 130, 300, 517.3, 1100])
def test_large_boxes_can_be_halved_without_a_remainder(tall: float) -> None:
    box = np.array([[0, 0, tall / 2, tall]], np.float32)
    low_x, low_y, high_x, high_y = fit_boxes(box, (64, 48), 1.0)[0]
    halvings = int(np.log2((high_y - low_y) / 64))
    assert (high_x - low_x) % 2**halvings == 0 and (high_y - low_y) % 2**halvings == 0
    assert abs((high_y - low_y) - tall) <= 2**halvings


def test_nobody_and_several_frames() -> None:
    assert Cropper((32, 24), 1.1).crop(windows([], (frame(),) * 3)).rgb.shape == (0, 3, 32, 24, 3)
    clips = Cropper((32, 24), 1.1).crop(windows([[5, 5, 50, 80]] * 2, (frame(),) * 3))
    assert clips.rgb.shape == (2, 3, 32, 24, 3)
    np.testing.assert_array_equal(clips.rgb[0], clips.rgb[1])


def test_one_person_is_the_same_alone_and_in_company() -> None:
    boxes = [[5, 5, 50, 80], [60, 20, 90, 100], [-5, 70, 30, 130]]
    together = Cropper((32, 32), 1.1).crop(windows(boxes, (frame(),)))
    for row, box in enumerate(boxes):
        alone = Cropper((32, 32), 1.1).crop(windows([box], (frame(),)))
        np.testing.assert_array_equal(alone.rgb[0], together.rgb[row])


def test_single_crops_are_those_of_the_whole_clips() -> None:
    frames = tuple(Frame(np.roll(frame().rgb, 7 * t, axis=1), t) for t in range(3))
    boxes = [[5, 5, 50, 80], [60, 20, 90, 100]]
    cropper = Cropper((32, 24), 1.1)
    clips = cropper.crop(windows(boxes, frames))
    edges, affine = cropper.place(np.array(boxes, np.float32))
    np.testing.assert_array_equal(affine, clips.image_from_crop)
    wanted = np.array([[1, 2], [0, 0], [1, 1]])
    np.testing.assert_array_equal(
        cropper.cut(frames, edges, wanted), clips.rgb[wanted[:, 0], wanted[:, 1]]
    )
    assert cropper.cut(frames, edges, np.zeros((0, 2), int)).shape == (0, 32, 24, 3)


def test_crops_of_another_shape_are_refused() -> None:
    ids, affine, numbers = np.arange(2), np.zeros((2, 2, 3), np.float32), np.arange(3)
    rgb = np.zeros((0, 8, 8, 3), np.uint8)
    Crops(ids, affine, numbers, 0, rgb)
    for wrong in ((ids[:1], affine, numbers, 0, rgb), (ids, affine, numbers, 0, rgb[0:, 0])):
        with pytest.raises(ShapeError, match="Crops"):
            Crops(*wrong)


def test_a_box_of_many_images_costs_no_more_than_its_crop() -> None:
    frame = Frame(np.full((48, 64, 3), 200, np.uint8), 0)
    out = np.empty((32, 32, 3), np.uint8)
    cut(frame, np.array([-(10**7), -(10**7), 10**7, 10**7]), out)
    assert out.min() == 0
    cut(frame, np.array([-120, -120, 200, 200]), out)  # 10 px per crop pixel, 5 image sizes
    assert out[14, 14].tolist() == [200] * 3 and out[0, 0].tolist() == [0] * 3
    assert 24 <= (out[..., 0] == 200).sum() <= 36  # 6.4 x 4.8 crop pixels, the edges mixed
