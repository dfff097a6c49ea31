"""Windows: what is read does not depend on who reads it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from dots import Dots

from pose_ros.core.skeletons import COCO17, get_skeleton
from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.video import Window
from pose_ros.training.config import AugmentConfig, CropConfig
from pose_ros.training.datasets import WindowSpec
from pose_ros.training.windows import (
    EpochSampler,
    Joined,
    ValidationSampler,
    WindowConfig,
    WindowDataset,
    loader,
)

CONFIG = WindowConfig(
    CropConfig(joints="coco17"), AugmentConfig(occluder_p=0.5), Window(3, 1), (64, 48), COCO17
)


def windows(clips: int = 6, **changes: Any) -> WindowDataset:
    config = replace(CONFIG, **changes)
    spec = WindowSpec(**config.asked)
    return WindowDataset(Dots(clips, spec), config)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(torch.nan_to_num(a[n]), torch.nan_to_num(b[n])) for n in a)


def test_an_item_has_the_stated_shapes() -> None:
    item = windows()[(0, 2)]
    assert item["frames"].shape == (3, 3, 64, 48)
    assert item["frames"].dtype == torch.uint8
    assert item["cells"].shape == (3, 17, 2)
    assert item["visible"].shape == (3, 17)
    assert (item["dt_left"], item["dt_right"], item["index"]) == (1.0, 1.0, 2)


def test_an_item_depends_on_epoch_and_index_only() -> None:
    data = windows()
    assert same(data[(3, 2)], windows()[(3, 2)])
    assert not same(data[(3, 2)], data[(4, 2)])
    plain = windows(augment=None)
    assert torch.equal(plain[(3, 2)]["frames"], plain[(4, 2)]["frames"])


def test_workers_change_nothing() -> None:
    data = windows()
    batches = []
    for workers in (0, 2):
        state = torch.random.get_rng_state()
        batches.append(list(loader(data, EpochSampler(6, 2, seed=1), workers, pin=False)))
        assert torch.equal(state, torch.random.get_rng_state())  # nothing is drawn from it
    assert len(batches[0]) == 3
    assert all(same(a, b) for a, b in zip(*batches, strict=True))


def test_joints_outside_the_crop_cost_nothing() -> None:
    config = replace(CONFIG.crop, scale=0.5)  # a crop half as large as the box
    item = windows(augment=None, crop=config)[(0, 0)]
    cells = item["cells"][1].numpy()
    out = (cells < -0.5).any(1) | (cells[:, 0] > 11.5) | (cells[:, 1] > 15.5)
    assert out.any()
    assert not out.all()
    np.testing.assert_array_equal(item["visible"][1].numpy() == 0, out)


def test_a_still_is_a_film_in_which_nothing_moves() -> None:
    item = WindowDataset(Dots(2, WindowSpec()), replace(CONFIG, augment=None))[(0, 0)]
    assert item["frames"].shape[0] == 3
    assert torch.equal(item["frames"][0], item["frames"][2])
    assert (item["dt_left"], item["dt_right"]) == (1.0, 1.0)


def test_a_window_of_other_frames_is_refused() -> None:
    data = WindowDataset(Dots(2, WindowSpec(5, 2)), CONFIG)
    with pytest.raises(ShapeError, match="windows of 3 frames with key 1, got 5 with key 2"):
        data[(0, 0)]


def test_spread_draws_side_frames_whose_distances_sum_up() -> None:
    data = windows(clips=2, spread=7)
    assert data.config.asked == {"frames": 13, "key": 6}
    pairs = {(int(i["dt_left"]), int(i["dt_right"])) for i in (data[(e, 0)] for e in range(40))}
    assert pairs == {(d, 7 - d) for d in range(1, 7)}
    item = data[(0, 0)]
    # dots move evenly: the left frame is as many steps away as it says
    sample = data.clips[0]
    step = np.linalg.norm(sample.xy_px[1, 0] - sample.xy_px[0, 0])
    cells = item["cells"].numpy()
    ratio = np.linalg.norm(cells[1, 0] - cells[0, 0]) / np.linalg.norm(cells[2, 0] - cells[1, 0])
    assert step > 0
    assert ratio == pytest.approx(float(item["dt_left"] / item["dt_right"]), rel=1e-3)


def test_other_joint_sets_are_matched_by_name() -> None:
    joined = Joined([Dots(2, WindowSpec())], get_skeleton("posetrack15"))
    sample = joined[1]
    assert sample.xy_px.shape == (1, 15, 2)
    at = joined.skeleton.index("left_wrist")
    np.testing.assert_array_equal(
        sample.xy_px[0, at], Dots(2, WindowSpec())[1].xy_px[0, COCO17.index("left_wrist")]
    )
    assert joined.unlabelled_joints() == ["neck", "head_top"]
    assert not sample.visible[0, joined.skeleton.index("neck")]
    assert np.isnan(sample.xy_px[0, joined.skeleton.index("neck")]).all()


def test_two_sets_follow_each_other() -> None:
    joined = Joined([Dots(2, WindowSpec(), seed=3), Dots(3, WindowSpec(), seed=4)], COCO17)
    assert len(joined) == 5
    assert joined[1].track == "p1"
    np.testing.assert_array_equal(joined[3].xy_px, Dots(3, WindowSpec(), seed=4)[1].xy_px)
    with pytest.raises(ConfigError, match="at least one data set"):
        Joined([], COCO17)


def test_mismatched_joint_sets_are_refused() -> None:
    face = replace(COCO17, name="hand", joints=tuple(f"finger{i}" for i in range(17)))
    with pytest.raises(ConfigError, match="joint set hand shares no joint with coco17"):
        Joined([Dots(1, WindowSpec(), skeleton=face)], COCO17)
    with pytest.raises(ConfigError, match="has joint set coco17, the network learns posetrack15"):
        WindowDataset(Dots(1, WindowSpec()), replace(CONFIG, skeleton=get_skeleton("posetrack15")))


def test_processes_share_what_one_would_see() -> None:
    alone = list(EpochSampler(22, 4, seed=5))
    parts = [list(EpochSampler(22, 4, seed=5, rank=r, world=2)) for r in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == alone
    assert len(alone) == 5
    assert len({i for batch in alone for _, i in batch}) == 20  # nobody twice
    with pytest.raises(ConfigError, match="batch=4 cannot be split among 3"):
        EpochSampler(22, 4, seed=5, world=3)


def test_an_epoch_continues_in_its_middle_and_epochs_differ() -> None:
    sampler = EpochSampler(20, 4, seed=5)
    whole = list(sampler)
    sampler.seek(0, 3)
    assert list(sampler) == whole[3:]
    sampler.seek(1, 0)
    assert [i for b in sampler for _, i in b] != [i for b in whole for _, i in b]


def test_fewer_windows_than_a_batch_repeat() -> None:
    (batch,) = EpochSampler(3, 8, seed=0)
    assert len(batch) == 8
    assert {i for _, i in batch} == {0, 1, 2}


def test_validation_sees_everything_once() -> None:
    parts = [[i for b in ValidationSampler(7, 2, r, 2) for _, i in b] for r in (0, 1)]
    assert sorted(parts[0] + parts[1]) == list(range(7))
