"""Draws, affines and targets: labels stay on what they label."""

import numpy as np
import pytest
import torch
from dots import COLOURS, Dots, joints_at, paint

from pose_ros.core.crop import affine_from_boxes, fit_boxes
from pose_ros.core.heatmaps import decode
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import PoseMaps
from pose_ros.training import augment, targets
from pose_ros.training.augment import Draw, crop_affine
from pose_ros.training.config import AugmentConfig
from pose_ros.training.datasets import WindowSpec

SIZE = (128, 96)
BOX = np.array([20.0, 10.0, 60.0, 90.0], np.float32)
ALL = np.ones(17, bool)


def test_crop_without_a_draw_is_the_live_pipelines_up_to_its_rounding() -> None:
    affine = crop_affine(BOX, SIZE, 1.25, Draw())
    live = affine_from_boxes(fit_boxes(BOX[None], SIZE, 1.25), SIZE)[0]  # image from crop
    points = np.array([[0.0, 0.0], [95.0, 127.0], [40.0, 64.0]], np.float32)
    ours = augment.apply(affine, points @ live[:, :2].T + live[:, 2])
    assert np.abs(ours - points).max() < 1.0  # edges are whole image pixels there, 1.28 crop px


def test_centre_of_the_box_is_the_centre_of_the_crop_whatever_is_drawn() -> None:
    centre = (BOX[:2] + BOX[2:]) / 2
    for drawn in (Draw(), Draw(True, 30.0, 1.3), Draw(False, -80.0, 0.7)):
        affine = crop_affine(BOX, SIZE, 1.25, drawn)
        np.testing.assert_allclose(augment.apply(affine, centre), [47.5, 63.5], atol=1e-4)


def test_a_quarter_turn_takes_up_to_the_right() -> None:
    # 80 px tall x 1.25 = 100 px onto 128: 1.28 crop px per image px; 10 px above the centre turn
    # clockwise to 12.8 px right of it
    affine = crop_affine(BOX, SIZE, 1.25, Draw(rotation_deg=90.0))
    above = np.array([40.0, 40.0], np.float32)
    np.testing.assert_allclose(augment.apply(affine, above), [47.5 + 12.8, 63.5], atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("rotation", [0.0, 37.0])
def test_dots_are_where_their_labels_say_after_the_warp(flip: bool, rotation: float) -> None:
    xy = joints_at(np.random.default_rng(0))
    affine = crop_affine(BOX, (192, 160), 1.0, Draw(flip, rotation, 1.1))
    crop = augment.warp(paint(xy), affine, (192, 160))
    where = augment.apply(affine, xy)
    seen = 0
    for colour, (x, y) in zip(COLOURS, where, strict=True):
        if 2 <= x < 158 and 2 <= y < 190:
            near = crop[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].astype(int)
            seen += int((np.abs(near - colour).sum(-1) < 60).any())  # some dots cover others
    assert seen >= 13


def test_a_large_picture_is_averaged_not_sampled() -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: any sampling would show a pattern
    box = np.array([0.0, 0.0, 511.0, 511.0], np.float32)
    crop = augment.warp(stripes, crop_affine(box, (64, 64), 1.0, Draw()), (64, 64))
    inner = crop[8:-8, 8:-8].astype(int)
    assert abs(inner.mean() - 127.5) < 3
    assert inner.std() < 8


def test_a_crop_beside_the_image_is_black() -> None:
    far = BOX + 1000
    crop = augment.warp(
        np.full((64, 64, 3), 255, np.uint8), crop_affine(far, SIZE, 1.0, Draw()), SIZE
    )
    assert crop.shape == (*SIZE, 3)
    assert not crop.any()


def test_draws_have_the_stated_rates_and_bounds() -> None:
    rng = np.random.default_rng(0)
    xy, rules = joints_at(rng), AugmentConfig()
    drawn = [augment.draw(rng, rules, xy, ALL, COCO17) for _ in range(4000)]
    rotations = np.array([d.rotation_deg for d in drawn])
    zooms = np.array([d.zoom for d in drawn])
    assert abs(np.mean([d.flip for d in drawn]) - 0.5) < 0.03
    assert abs((rotations != 0).mean() - 0.6) < 0.03
    assert abs(np.mean([d.box_xyxy_px is not None for d in drawn]) - 0.3) < 0.03
    assert np.abs(rotations).max() == 90.0
    assert (zooms.min(), zooms.max()) == (0.65, 1.35)
    # P(|N| > 2) = 4.6 % of the rotated ones end at the bound
    assert abs((np.abs(rotations[rotations != 0]) == 90.0).mean() - 0.0455) < 0.015


def test_half_body_boxes_hold_their_half_only() -> None:
    rng = np.random.default_rng(0)
    xy = joints_at(rng)
    tops, bottoms = set(), set()
    for _ in range(20):
        box = augment.half_body(rng, xy, ALL, COCO17)
        assert box is not None
        (tops if box[1] < 20 else bottoms).add(box)
    assert len(tops) == len(bottoms) == 1  # a fair coin shows both in 20 throws
    upper, lower = tops.pop(), bottoms.pop()
    inside = (xy[11:, 1] >= lower[1]) & (xy[11:, 1] <= lower[3])
    assert inside.all()
    assert ((xy[:11, 1] >= upper[1]) & (xy[:11, 1] <= upper[3])).all()
    assert augment.half_body(rng, xy, np.arange(17) < 2, COCO17) is None


def test_occluders_cover_joints_and_stay_over_time() -> None:
    images = np.full((3, *SIZE, 3), 90, np.uint8)
    xy = np.full((17, 2), 50.0, np.float32)
    changed = 0
    for seed in range(12):
        clip = images.copy()
        augment.occlude(clip, xy, ALL, np.random.default_rng(seed))
        np.testing.assert_array_equal(clip[0], clip[2])
        changed += int((clip[0, 50, 50] != 90).any())
    assert 4 <= changed <= 11  # 0, 1 or 2 rectangles, a third of the windows without
    clip = images.copy()
    augment.occlude(clip, xy, np.zeros(17, bool), np.random.default_rng(1))
    np.testing.assert_array_equal(clip, images)


@pytest.mark.parametrize(("codec", "limit"), [("edge", 0.05), ("msra", 0.51), ("udp", 0.05)])
def test_what_is_encoded_is_decoded(codec: str, limit: float) -> None:
    rng = np.random.default_rng(0)
    # the decoder smooths: within six cells of the border it has not all of a Gaussian
    crop_xy = rng.uniform([28, 28], [68, 100], (5, 17, 2)).astype(np.float32)
    cells = targets.cells_from_crop(crop_xy, codec, SIZE)
    maps = targets.gaussians(torch.from_numpy(cells), (32, 24), 2.0)
    found, score = decode(PoseMaps(maps.numpy(), None, None))
    error_cells = np.abs(targets.crop_from_cells(found, codec, SIZE) - crop_xy) / targets.STRIDE
    assert error_cells.max() < limit
    assert score.min() > 0.85


def test_edge_is_what_the_live_pipeline_decodes() -> None:
    # nets/checkpoint.py: crop pixel = 4 cell + cell_shift_px, -0.5 by default
    found = targets.cells_from_crop(np.array([4 * 7.25 - 0.5] * 2, np.float32), "edge", SIZE)
    assert found.tolist() == [7.25, 7.25]


def test_a_gaussian_by_hand_and_an_unknown_joint() -> None:
    cells = torch.tensor([[3.0, 2.0], [float("nan"), 1.0]])
    maps = targets.gaussians(cells, (5, 7), 2.0)
    assert maps[0, 2, 3] == 1.0
    assert maps[0, 2, 5].item() == pytest.approx(np.exp(-0.5))  # 2 cells = 1 sigma
    assert not maps[1].any()


def test_inside_counts_cells_whose_centre_is_nearest() -> None:
    cells = np.array([[-0.4, 0], [-0.6, 0], [23.4, 31.4], [23.6, 0], [np.nan, 0]], np.float32)
    assert targets.inside(cells, SIZE).tolist() == [True, False, True, False, False]


def test_maps_of_a_mirrored_crop_unflip_onto_those_of_the_crop() -> None:
    sample = Dots(1, WindowSpec())[0]
    order = COCO17.flip_order()
    maps = []
    for flip in (False, True):
        affine = crop_affine(sample.box_xyxy_px, SIZE, 1.25, Draw(flip))
        xy = augment.apply(affine, sample.xy_px[0])
        xy = xy[order] if flip else xy
        cells = torch.from_numpy(targets.cells_from_crop(xy, "edge", SIZE))
        maps.append(targets.gaussians(cells, (32, 24), 2.0))
    back = targets.unflip(maps[1], torch.from_numpy(order))
    torch.testing.assert_close(back[..., 1:], maps[0][..., 1:], atol=1e-5, rtol=1e-5)
