"""Codecs: where a heatmap cell is in the crop and in the picture, there and back."""

from dataclasses import replace
from pathlib import Path

import dots
import numpy as np
import pytest
import torch
from dots import Dots
from torch.utils.data import default_collate

from pose_ros.core.crop import affine_from_boxes, fit_boxes, to_image
from pose_ros.core.heatmaps import decode
from pose_ros.core.skeletons import COCO17
from pose_ros.core.values import PoseMaps
from pose_ros.errors import ConfigError
from pose_ros.nets.video import PoseOut
from pose_ros.training import augment, targets
from pose_ros.training.augment import Draw, crop_affine, live_scale
from pose_ros.training.card import write_card
from pose_ros.training.datasets import WindowSpec
from pose_ros.training.objectives import Trainee
from pose_ros.training.peaks import with_mirrored
from pose_ros.training.predict import Network, Predictor, open_network
from pose_ros.training.train import make_net
from pose_ros.training.windows import WindowConfig, WindowDataset

SIZE = (256, 192)
MAP = (64, 48)
BOX = np.array([100.0, 50.0, 220.0, 210.0], np.float32)  # 120 x 160: already 3:4
CODECS = ("edge", "msra", "udp")


def back(affine: np.ndarray, crop_xy: np.ndarray) -> np.ndarray:
    whole = np.linalg.inv(np.vstack((affine, (0, 0, 1))))
    return augment.apply(whole[:2], crop_xy)


def test_udp_by_hand() -> None:
    # box 120 x 160 times 1.25 is 150 x 200 about (160, 130): 85 to 235 and 30 to 230
    affine = crop_affine(BOX, SIZE, 1.25, Draw(), "udp")
    corners = np.array([[85, 30], [235, 230], [160, 130]], np.float32)
    crop = augment.apply(affine, corners)
    # unit lengths: the box's sides are the centres of the crop's outermost pixels
    np.testing.assert_allclose(crop, [[0, 0], [191, 255], [95.5, 127.5]], atol=1e-4)
    cells = targets.cells_from_crop(crop, "udp", SIZE)
    np.testing.assert_allclose(cells, [[0, 0], [47, 63], [23.5, 31.5]], atol=1e-5)
    assert targets.stride_px("udp", SIZE) == (191 / 47, 255 / 63)
    # the same by the formulas of ViTPose's code: joint / feat_stride, and back over w - 1
    found = cells * np.array([150 / 47, 200 / 63]) + np.array([160 - 75, 130 - 100])
    np.testing.assert_allclose(found, corners, atol=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 25.0, -70.0])
def test_udp_s_crop_is_that_of_its_authors(degrees: float) -> None:
    """Their warp matrix, term by term: turned by ``degrees`` about the box's centre."""
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    (in_x, in_y), (out_x, out_y), (box_x, box_y) = (320, 260), (191, 255), (150, 200)  # 2 c, W - 1
    sx, sy = out_x / box_x, out_y / box_y
    wanted = [
        [cos * sx, -sin * sx, sx * (-0.5 * in_x * cos + 0.5 * in_y * sin + 0.5 * box_x)],
        [sin * sy, cos * sy, sy * (-0.5 * in_x * sin - 0.5 * in_y * cos + 0.5 * box_y)],
    ]
    ours = crop_affine(BOX, SIZE, 1.25, Draw(rotation_deg=degrees), "udp")
    np.testing.assert_allclose(ours, wanted, atol=1e-9)


@pytest.mark.parametrize("codec", ["edge", "udp"])
@pytest.mark.parametrize("drawn", [Draw(), Draw(True, 30.0, 1.2)])
def test_points_survive_crop_target_and_decoding(codec: str, drawn: Draw) -> None:
    rng = np.random.default_rng(0)
    affine = crop_affine(BOX, SIZE, 1.25, drawn, codec)
    # the decoder smooths: within six cells of the border it has not all of a Gaussian
    xy = back(affine, rng.uniform([28, 28], [164, 228], (40, 17, 2)).astype(np.float32))
    cells = targets.cells_from_crop(augment.apply(affine, xy), codec, SIZE)
    maps = targets.gaussians(torch.from_numpy(cells), MAP, 2.0)
    found, _ = decode(PoseMaps(maps.numpy()))
    again = back(affine, targets.crop_from_cells(found, codec, SIZE))
    assert np.abs(again - xy).max() < 0.05  # image pixels


def test_msra_is_half_a_cell_right() -> None:
    crop = np.random.default_rng(0).uniform(28, 164, (200, 2)).astype(np.float32)
    cells = targets.cells_from_crop(crop, "msra", SIZE)
    assert (cells == np.round(cells)).all()
    error = np.abs(targets.crop_from_cells(cells, "msra", SIZE) - crop)
    assert 1.9 < error.max() <= 2.0


def test_what_is_taken_for_another_codec_is_pixels_off() -> None:
    """The test above would pass with any pair that fits together; this is what a mix costs."""
    corner = np.array([[180.0, 240.0]], np.float32)
    cells = targets.cells_from_crop(corner, "udp", SIZE)
    wrong = targets.crop_from_cells(cells, "edge", SIZE)
    # x / (191 / 47) * 4 - 0.5, and y by 255 / 63
    np.testing.assert_allclose(wrong, [[176.673, 236.676]], atol=1e-2)


@pytest.mark.parametrize("codec", CODECS)
def test_the_live_pipeline_s_crop_shows_what_training_showed(codec: str) -> None:
    """Up to its whole pixels: a box whose sides they can be, scaled by what the card says."""
    scale = live_scale(1.25, SIZE, codec)
    edges = fit_boxes(BOX[None], SIZE, scale)
    live = affine_from_boxes(edges, SIZE)
    crop = np.array([[0, 0], [191, 0], [95.5, 127.5], [191, 255]], np.float32)
    image = to_image(crop[None], live)[0]
    ours = augment.apply(crop_affine(BOX, SIZE, 1.25, Draw(), codec), image)
    rounding = 256 / 200  # crop pixels of an image pixel
    assert np.abs(ours - crop).max() <= rounding
    sides = np.array([150.0, 200.0]) * (1 if codec != "udp" else 256 / 255)
    np.testing.assert_allclose(edges[0, 2:] - edges[0, :2], sides, atol=0.5)


@pytest.mark.parametrize("codec", ["edge", "udp"])
def test_maps_of_a_mirrored_crop_unflip_onto_those_of_the_crop(codec: str) -> None:
    sample, order = Dots(1, WindowSpec())[0], COCO17.flip_order()
    maps = []
    for flip in (False, True):
        affine = crop_affine(sample.box_xyxy_px, SIZE, 1.25, Draw(flip), codec)
        xy = augment.apply(affine, sample.xy_px[0])
        cells = targets.cells_from_crop(xy[order] if flip else xy, codec, SIZE)
        maps.append(targets.gaussians(torch.from_numpy(cells), MAP, 2.0)[None])
    columns = targets.flip_columns(codec, SIZE)
    assert columns == (0 if codec == "udp" else 1)
    swap = torch.from_numpy(order)
    mean = with_mirrored(maps[0], maps[1], swap, columns)
    torch.testing.assert_close(mean, maps[0], atol=2e-4, rtol=1e-4)
    wrong = with_mirrored(maps[0], maps[1], swap, 1 - columns)
    assert (wrong - maps[0]).abs().max() > 0.05


def test_where_a_mirrored_map_lies() -> None:
    assert targets.mirror_shift(4.0, -0.5, 192) == 1  # cell c is w - c
    assert targets.mirror_shift(4.0, 0.0, 192) == 1  # w - 1/4 - c
    assert targets.mirror_shift(4.0, 1.5, 192) == 0  # a cell centred in its pixels: w - 1 - c
    assert targets.mirror_shift(191 / 47, 0.0, 192) == 0


@pytest.mark.parametrize("codec", CODECS)
def test_moves_of_a_crop_are_moves_of_its_cells(codec: str) -> None:
    move = np.array([[1.1, 0.0, 7.0], [0.0, 1.1, -3.0], [0.0, 0.0, 1.0]])
    cells = np.array([[10.0, 20.0], [40.0, 5.0]], np.float32)
    crop = targets.crop_from_cells(cells, codec, SIZE)
    stride, shift = np.array(targets.stride_px(codec, SIZE)), targets.CELL_SHIFT_PX[codec]
    wanted = (augment.apply(move, crop) - shift) / stride
    got = augment.apply(targets.cells_of_map(move, codec, SIZE), cells)
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    affine = crop_affine(BOX, SIZE, 1.25, Draw(True, 20.0), codec)
    image = augment.apply(targets.image_from_cells(affine, codec, SIZE), cells)
    np.testing.assert_allclose(augment.apply(affine, image), crop, atol=1e-3)


def test_windows_and_trainee_agree_on_udp() -> None:
    config = dots.config(crop__codec="udp")
    net = make_net(config)
    windows = WindowDataset(
        Dots(2, WindowSpec(3, 1)),
        WindowConfig(config.crop, None, net.window, net.size_hw_px, COCO17),
    )
    item, sample = windows[0, 0], windows.clips[0]
    affine = crop_affine(sample.box_xyxy_px, net.size_hw_px, config.crop.scale, Draw(), "udp")
    xy = augment.apply(affine, sample.xy_px)
    cells = targets.cells_from_crop(xy, "udp", net.size_hw_px)
    np.testing.assert_allclose(item["cells"].numpy(), cells, atol=1e-5)
    plain = windows.config
    other = WindowDataset(windows.clips, replace(plain, crop=replace(plain.crop, codec="edge")))
    assert (other[0, 0]["cells"] - item["cells"]).abs().max() > 0.1
    trainee = Trainee(net, config)
    maps = torch.rand(2, 17, *trainee.size_hw)
    assert trainee.flip_loss(maps, targets.unflip(maps, trainee.flip_order, 0)) == 0.0


@pytest.mark.parametrize(
    ("codec", "told"), [("edge", ("shift", -0.5, 1.25)), ("udp", ("udp", 0.0, 1.25 * 64 / 63))]
)
def test_a_card_says_how_its_network_was_taught(
    tmp_path: Path, codec: str, told: tuple[str, float, float]
) -> None:
    config = dots.config(crop__codec=codec)
    net = make_net(config)
    about = {"training_data": "dots", "metrics": {}, "command": "none"}
    card = write_card(net, net.state_dict(), config, tmp_path, about)
    assert (card.codec, card.cell_shift_px, card.crop_scale) == pytest.approx(told)
    network = open_network(str(tmp_path / f"{config.name}.yaml"))
    cells = np.array([[[3.0, 5.0], [11.0, 15.0]]], np.float32)
    wanted = targets.crop_from_cells(cells, codec, (64, 48))
    np.testing.assert_allclose(network.crop_px_from_cell(cells), wanted, rtol=1e-6)
    np.testing.assert_allclose(card.crop_px_from_cell(cells), wanted, rtol=1e-6)
    assert network.flip_columns == targets.flip_columns(codec, (64, 48))


class Oracle(torch.nn.Module):
    """Says where the dots are that a crop shows, in the cells of a codec."""

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps
        self.one = torch.nn.Parameter(torch.zeros(1))

    def forward(self, _clips: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.maps,)


@pytest.mark.parametrize("codec", ["edge", "udp"])
def test_evaluation_maps_back_by_the_codec(codec: str) -> None:
    """Crops of the live pipeline, a network that is right: the joints come out of the picture."""
    samples = [Dots(3, WindowSpec())[i] for i in range(3)]
    scale = live_scale(1.25, SIZE, codec)
    boxes = np.stack([s.box_xyxy_px for s in samples])
    live = affine_from_boxes(fit_boxes(boxes, SIZE, scale), SIZE)
    xy = np.stack([s.xy_px[0] for s in samples])
    crop = (xy - live[:, None, :, 2]) / live[:, None, [0, 1], [0, 1]]
    cells = targets.cells_from_crop(crop.astype(np.float32), codec, SIZE)
    maps = targets.gaussians(torch.from_numpy(cells), MAP, 2.0)
    network = Network(
        "oracle", Oracle(maps), SIZE, (0.0,) * 3, (1.0,) * 3, "rgb", scale, COCO17, 1, 0,
        targets.CELL_SHIFT_PX[codec], True, targets.stride_px(codec, SIZE),
    )  # fmt: skip
    found, _ = Predictor(network).run(samples)
    inner = ((cells > 6) & (cells < np.array([41, 57]))).all(-1)
    assert inner.sum() > 20
    assert np.abs(found - xy)[inner].max() < 0.05
    np.testing.assert_allclose(network.cell_from_crop_px(network.crop_px_from_cell(cells)), cells,
                               atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("codec", ["edge", "udp"])
def test_a_flip_test_mirrors_maps_by_the_codec(codec: str) -> None:
    torch.manual_seed(0)
    options = {"backbone": "vit_tiny", "size_hw_px": (64, 48), "head": "simple", "joints": 17}
    network = replace(
        open_network("vitpose_s", **options), cell_shift_px=targets.CELL_SHIFT_PX[codec],
        cell_stride_px=targets.stride_px(codec, (64, 48)),
    )  # fmt: skip
    clips = np.random.default_rng(0).integers(0, 255, (1, 1, 64, 48, 3)).astype(np.uint8)
    turned = np.ascontiguousarray(clips[..., ::-1, :])
    plain, other = (Predictor(network)._maps(x, [0], [0]).heatmaps for x in (clips, turned))
    other = other[:, COCO17.flip_order(), :, ::-1]
    both = Predictor(network, flip=True)._maps(clips, [0], [0]).heatmaps
    if codec == "edge":  # cell c is w - c in the mirror
        np.testing.assert_array_equal(both[..., 0], plain[..., 0])
        plain, other, both = plain[..., 1:], other[..., :-1], both[..., 1:]
    np.testing.assert_allclose(both, (plain + other) / 2, atol=1e-6)


def test_a_memory_that_moves_in_cells_of_four_pixels_refuses_udp() -> None:
    options = {"frames": 3, "channels": 8, "size_hw_px": [64, 64]}
    config = dots.config(options, net__name="hstpn_robot", crop__codec="udp")
    with pytest.raises(ConfigError, match=r"crop\.codec=udp: the memory of hstpn_robot"):
        Trainee(make_net(config), config)


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected edge, msra, udp, got 'dark'"):
        targets.cells_from_crop(np.zeros(2, np.float32), "dark", SIZE)


def test_targets_of_msra_end_after_three_sigma() -> None:
    assert targets.reach_cells("msra", 3.0) == 9.0 and np.isinf(targets.reach_cells("udp", 3.0))
    cells = torch.tensor([[20.0, 30.0]])
    whole, cut = (targets.gaussians(cells, MAP, 2.0, r)[0] for r in (np.inf, 6.0))
    patch = cut[24:37, 14:27]  # 13 x 13 cells, as HRNet's
    assert torch.equal(patch, whole[24:37, 14:27])
    assert (cut > 0).sum() == (patch > 0).sum() == 13 * 13
    assert whole[30, 27] > 0  # seven cells off


def test_a_joint_beside_the_crop_counts_as_long_as_its_target_is_seen() -> None:
    """HRNet: weight 0 when the patch of 3 sigma lies outside; else when the centre does."""
    cells = np.array([[-6, 5], [-7, 5], [53, 5], [54, 5], [5, 69], [5, 70], [9, 9]], np.float32)
    seen = targets.inside(cells, SIZE, targets.reach_cells("msra", 2.0))
    assert seen.tolist() == [True, False, True, False, True, False, True]
    maps = targets.gaussians(torch.from_numpy(cells), MAP, 2.0, 6.0)
    assert (maps.flatten(1).amax(1) > 0).tolist() == seen.tolist()
    assert targets.inside(cells, SIZE).tolist() == [False] * 6 + [True]


def test_windows_and_losses_of_msra_count_what_reaches_into_the_crop() -> None:
    config = dots.config(crop__codec="msra", crop__scale=0.6)
    net = make_net(config)
    plan = WindowConfig(config.crop, None, net.window, net.size_hw_px, COCO17)
    windows = WindowDataset(Dots(4, WindowSpec(net.window.frames, net.window.key)), plan)
    batch = default_collate([windows[0, i] for i in range(4)])
    reach = targets.reach_cells("msra", config.crop.sigma)
    cells = batch["cells"].numpy()
    counts = targets.inside(cells, net.size_hw_px, reach)
    assert (counts & ~targets.inside(cells, net.size_hw_px)).any()
    np.testing.assert_array_equal(batch["visible"].numpy(), counts)
    trainee, key = Trainee(net, config), batch["cells"][:, net.window.key]
    cut, whole = (
        targets.gaussians(key, trainee.size_hw, config.crop.sigma, r) for r in (reach, np.inf)
    )
    assert trainee.objective(PoseOut(cut, {}), batch)["heatmap"] == 0.0
    assert trainee.objective(PoseOut(whole, {}), batch)["heatmap"] > 0.0
