"""A camera that turns inside a training window: pictures and labels move by K R K^-1."""

import math
from collections.abc import Callable

import dots
import numpy as np
import pytest
import torch

from pose_ros.core.camera import PinholeCamera
from pose_ros.core.ego import turn_pixels
from pose_ros.core.so3 import log_so3
from pose_ros.errors import ConfigError
from pose_ros.training import augment
from pose_ros.training.config import AugmentConfig
from pose_ros.training.train import make_net, run, window_config
from pose_ros.training.windows import WindowDataset

SIZE = (96, 80)  # of crops, height and width
WHOLE = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])  # a crop that is the picture


def drawn(seed: int, frames: int = 5, key: int = 2, **rules: object) -> list[augment.Turn]:
    config = AugmentConfig(ego_p=1.0, **rules)  # type: ignore[arg-type]
    return augment.turns(np.random.default_rng(seed), config, frames, key)


def degrees(rotation: np.ndarray) -> float:
    return math.degrees(float(np.linalg.norm(log_so3(rotation))))


def item(index: int, **changes: object) -> dict[str, torch.Tensor]:
    wanted = dots.config(**changes)
    shape = window_config(wanted, make_net(wanted), augmented=True)
    return WindowDataset(dots.Dots(8, dots.WindowSpec(**shape.asked)), shape)[(0, index)]


def test_pixels_move_as_the_live_camera_says() -> None:
    (turn,) = drawn(0, frames=2, key=0)[1:]
    camera = PinholeCamera(80, 96, turn.focal * 96, turn.focal * 96, 39.5, 47.5)
    points = np.random.default_rng(1).uniform(0, 80, (20, 2)).astype(np.float32)
    for matrix, rotation in zip(turn.homographies(SIZE), (turn.taken, turn.shown), strict=True):
        wanted = turn_pixels(camera, rotation, points)
        np.testing.assert_allclose(augment.apply(matrix, points), wanted, atol=1e-3)
    nowhere = np.full((1, 2), np.nan, np.float32)
    assert np.isnan(augment.apply(matrix, nowhere)).all()


def test_draws_have_the_stated_bounds() -> None:
    windows = [drawn(seed) for seed in range(300)]
    turned = np.array([[degrees(t.taken) for t in window] for window in windows])
    assert (turned[:, 2] == 0).all()  # the key frame
    assert 4.9 < turned.max() <= 5.0
    assert abs(turned[:, 0].mean() - 2.5) < 0.3
    np.testing.assert_allclose(turned[:, 1], turned[:, 0] / 2, atol=1e-5)  # it turns evenly
    np.testing.assert_allclose(turned[:, 0], turned[:, 4], atol=1e-5)
    for before, *_rest, after in windows[:5]:  # to one side before, to the other after
        np.testing.assert_allclose(before.taken, after.taken.T, atol=1e-9)
    left = np.array([[degrees(t.shown) for t in window] for window in windows])
    assert (left[:, 2] == 0).all()
    assert np.sqrt((left[:, [0, 1, 3, 4]] ** 2).mean()) == pytest.approx(0.3, rel=0.05)
    focal = [window[0].focal for window in windows]
    assert 0.7 <= min(focal) < 0.72
    assert 1.48 < max(focal) <= 1.5


def test_not_turned_back_frames_stay_turned() -> None:
    for turn in drawn(3, ego_back=False):
        np.testing.assert_array_equal(turn.taken, turn.shown)


def test_what_a_turned_camera_did_not_see_is_black() -> None:
    white = np.full((*SIZE, 3), 255, np.uint8)
    ahead = augment.Turn(np.eye(3), np.eye(3), 1.0)
    crop, whole = augment.cut_turned(white, WHOLE, ahead, SIZE)
    assert (crop == 255).all()
    np.testing.assert_allclose(whole, np.eye(3), atol=1e-12)
    # 96 px x tan(5 deg) = 8.4 px to the right: what was right of column 79 - 8.4 was not seen
    a = math.radians(5.0)
    right = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    crop, _ = augment.cut_turned(white, WHOLE, augment.Turn(right, np.eye(3), 1.0), SIZE)
    assert (crop[48, :70] == 255).all()
    assert (crop[48, 73:] == 0).all()
    crop, _ = augment.cut_turned(white, WHOLE, augment.Turn(right, right, 1.0), SIZE)
    assert (crop[48, :7] == 0).all()  # there is no picture of what it saw there
    assert (crop[48, 10:] == 255).all()


@pytest.mark.parametrize("back", [True, False])
def test_dots_are_where_their_labels_say(back: bool) -> None:
    """By a homography: the affine map of the key frame would be pixels off."""
    xy = dots.joints_at(np.random.default_rng(0))
    picture = dots.paint(xy)
    seen = 0
    for turn in drawn(5, ego_deg=10.0, ego_left_deg=2.0, ego_back=back):
        crop, whole = augment.cut_turned(picture, 2.0 * WHOLE, turn, (192, 160))
        where = augment.apply(whole, xy)
        for colour, (x, y) in zip(dots.COLOURS, where, strict=True):
            if 2 <= x < 158 and 2 <= y < 190:
                near = crop[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].astype(int)
                seen += int((np.abs(near - colour).sum(-1) < 60).any())
    assert seen >= 5 * 11  # of 17; some dots cover others, some leave the picture


def test_the_key_frame_of_a_window_is_as_without() -> None:
    changed = 0
    for index in range(6):
        plain, turned = item(index), item(index, augment__ego_p=0.5, augment__ego_back=False)
        gap = (plain["frames"][1].int() - turned["frames"][1].int()).abs()
        assert gap.max() <= 9  # OpenCV rounds places to 1/32 pixel
        torch.testing.assert_close(plain["cells"][1], turned["cells"][1], atol=1e-4, rtol=0)
        moved = (plain["cells"] - turned["cells"]).norm(dim=-1).amax(dim=1)
        changed += int(moved[0] > 0.01)
        assert (moved[0] > 0.01) == (moved[2] > 0.01)
    assert 0 < changed < 6


def spread(item_of: Callable[[int], dict[str, torch.Tensor]]) -> float:
    """Mean distance in cells between a joint in the first and in the key frame."""
    cells = [item_of(i)["cells"] for i in range(8)]
    return float(np.mean([(c[0] - c[1]).norm(dim=-1).mean() for c in cells]))


def test_turning_back_takes_most_of_the_cameras_motion_away() -> None:
    still = spread(item)
    rules = {"augment__ego_p": 1.0, "augment__ego_deg": 15.0}
    back = spread(lambda i: item(i, **rules))
    left = spread(lambda i: item(i, augment__ego_back=False, **rules))
    assert left > 2 * still
    assert abs(back - still) < 0.2 * (left - still)


def test_a_window_without_it_is_what_it_was() -> None:
    a, b = item(3), item(3, augment__ego_deg=9.0, augment__ego_left_deg=1.0)  # ego_p is 0
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_it_is_learned_from(tmp_path: object) -> None:
    assert run(dots.config(out=str(tmp_path), augment__ego_p=0.7, train__max_steps=2))["card"]


def test_a_network_that_sees_one_frame_is_refused() -> None:
    options = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head": "simple"}
    wanted = dots.config(options, net__name="vitpose_s", augment__ego_p=0.5)
    with pytest.raises(ConfigError, match=r"augment\.ego_p=0\.5: .*vitpose_s sees one frame"):
        window_config(wanted, make_net(wanted), augmented=True)
