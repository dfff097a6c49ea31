"""Two views of one person have to agree: matching, geometry of crops, the loss."""

from __future__ import annotations

import copy
from pathlib import Path

import dots
import numpy as np
import pytest
import rig
import torch
from torch.utils.data import default_collate

from pose_ros.core.skeletons import COCO17
from pose_ros.errors import CalibrationError, ConfigError, SourceError
from pose_ros.training.augment import apply
from pose_ros.training.datasets import parse_spec
from pose_ros.training.datasets.views import Views
from pose_ros.training.losses import epipolar
from pose_ros.training.objectives import Trainee
from pose_ros.training.targets import gaussians
from pose_ros.training.train import make_net, window_config
from pose_ros.training.windows import WindowDataset

PLAIN = {"backbone": "vit_tiny", "size_hw_px": [64, 48], "joints": 17, "head": "simple"}


@pytest.fixture
def views(tmp_path: Path) -> Views:
    found = parse_spec(rig.write(tmp_path))
    assert isinstance(found, Views)
    return found


def whole(xy: np.ndarray) -> np.ndarray:
    return np.concatenate([xy, np.ones((*xy.shape[:-1], 1))], axis=-1)


def test_people_are_matched_though_the_other_camera_numbers_them_otherwise(views: Views) -> None:
    assert len(views) == 2 * 2 * rig.FRAMES
    for index in range(len(views)):
        sample = views[index]
        assert sample.other is not None
        assert {sample.track, sample.other.track} == {"1", "2"}  # person 1 here is 2 there
        assert sample.frame_index.tolist() == sample.other.frame_index.tolist()
        assert (sample.visible == 0).all()
    assert views[0].video != views[1].video  # every pair is seen from both sides
    assert views[0].track == views[1].other.track  # type: ignore[union-attr]


def test_joints_lie_on_each_others_lines_though_lenses_bend(views: Views) -> None:
    pixels = [rig.seen(0), rig.seen(1)]
    for index in range(len(views)):
        sample = views[index]
        frame = int(sample.frame_index[0])
        person = int(sample.track) - 1
        view = int(sample.video)
        person = person if view == 0 else 1 - person
        x, y = (whole(pixels[v][frame, person]) for v in (view, 1 - view))
        lines = x @ sample.epipolar.T
        off = np.abs((y * lines).sum(-1)) / np.linalg.norm(lines[:, :2], axis=1)
        assert off.max() < 1.0  # pixels; the lens is a straight map in a crop
        wrong = whole(pixels[1 - view][frame, 1 - person])
        assert (
            np.median(np.abs((wrong * lines).sum(-1)) / np.linalg.norm(lines[:, :2], axis=1)) > 3
        )


def windows(views: Views, **changes: object) -> tuple[Trainee, WindowDataset]:
    config = dots.config(
        PLAIN, net__name="vitpose_s", loss__views=1.0, augment__rot_p=1.0, augment__rot_deg=30.0,
        **changes,
    )  # fmt: skip
    trainee = Trainee(make_net(config), config)
    return trainee, WindowDataset(views, window_config(config, trainee.net, augmented=True))


def true_maps(views: Views, item: dict, index: int) -> list[torch.Tensor]:
    """(1, 17, 16, 12) maps of the true joints in both crops, found by redrawing the crops."""
    sample = views[index]
    view, frame = int(sample.video), int(sample.frame_index[0])
    person = int(sample.track) - 1
    person = person if view == 0 else 1 - person
    return [torch.from_numpy(rig.seen(v)[frame, person]) for v in (view, 1 - view)]


@pytest.mark.parametrize("codec", ["edge", "msra", "udp"])
def test_cells_of_two_crops_are_related_as_the_item_says(
    views: Views, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pose_ros.training import augment

    drawn: list[np.ndarray] = []
    real = augment.crop_affine

    def noted(*args: object) -> np.ndarray:
        drawn.append(real(*args))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(augment, "crop_affine", noted)
    _, data = windows(views, crop__codec=codec)
    shift = {"edge": -0.5, "msra": 0.0, "udp": 0.0}[codec]
    stride = (47 / 11, 63 / 15) if codec == "udp" else 4.0  # crops of 48 x 64 pixels
    flips = 0
    for index in range(len(views)):
        drawn.clear()
        item = data[(0, index)]
        assert item["other"].shape == item["frames"].shape
        assert not torch.equal(item["other"], item["frames"])
        one, two = true_maps(views, item, index)
        cells = [
            (apply(a, xy.numpy()) - shift) / stride
            for a, xy in zip(drawn, (one, two), strict=True)
        ]
        x, y = (whole(c) for c in cells)
        lines = x @ item["epipolar"].numpy().T
        off = np.abs((y * lines).sum(-1)) / np.linalg.norm(lines[:, :2], axis=1)
        assert off.max() < 0.15  # cells
        signs = [np.sign(np.linalg.det(a[:, :2])) for a in drawn]
        assert signs[0] == signs[1]  # both are mirrored, or none
        flips += int(signs[0] < 0)
    assert 0 < flips < len(views)


def test_agreeing_views_cost_nothing_and_others_are_pulled_together() -> None:
    matrix = torch.zeros(1, 3, 3)  # the second camera is to the right: rows are lines
    matrix[0, 1, 2], matrix[0, 2, 1] = -1.0, 1.0
    xy = torch.tensor([[[5.0, 7.3], [8.0, 3.0]]])
    same = torch.tensor([[[2.0, 7.3], [9.0, 3.0]]])
    apart = same + torch.tensor([0.0, 1.0])
    one = gaussians(xy, (16, 12), 1.5)
    assert float(epipolar(one, gaussians(same, (16, 12), 1.5), matrix, 0.3)) < 1e-6
    maps = gaussians(apart, (16, 12), 1.5).requires_grad_(True)
    cost = epipolar(one, maps, matrix, 0.3)
    # a row apart: 1 / (1 + 1) by Sampson, in shares of 16 cells
    assert float(cost.detach()) == pytest.approx(0.5 / 256, rel=0.1)
    (gradient,) = torch.autograd.grad(cost, maps)
    better = epipolar(one, maps.detach() - 5.0 * gradient, matrix, 0.3)
    assert float(better) < float(cost.detach())
    assert float(epipolar(one, maps.detach(), matrix, 1.01)) == 0.0  # nobody is so sure
    assert float(epipolar(one, maps.detach(), 0 * matrix, 0.3)) == 0.0  # no second view


def test_the_slope_is_the_gradient() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(2, 3, 3)
    one, two = (gaussians(4 + 6 * torch.rand(2, 5, 2), (16, 16), 1.5) for _ in range(2))
    one.requires_grad_(True)
    (gradient,) = torch.autograd.grad(epipolar(one, two, matrix, 0.3), one)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ends = [epipolar(one + s * 0.01 * direction, two, matrix, 0.3) for s in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / 0.02, gradient.norm(), rtol=0.02, atol=0.0)


def test_unlabelled_views_teach_a_network(views: Views) -> None:
    trainee, data = windows(views, loss__views_min=0.0)
    labelled = dots.Dots(4, dots.WindowSpec())
    mixed = WindowDataset(labelled, data.config)
    batch = default_collate([data[(0, 0)], data[(0, 3)], mixed[(0, 1)]])
    assert float(batch["epipolar"][2].abs().max()) == 0.0  # a data set of one view
    trainee.train()
    terms = trainee(batch)
    assert float(terms["views"].detach()) > 0
    terms["views"].backward()
    assert any(float(p.grad.abs().max()) > 0 for p in trainee.parameters() if p.grad is not None)
    before = float(terms["views"].detach())
    only = copy.deepcopy(batch)
    optimiser = torch.optim.Adam(trainee.parameters(), lr=1e-3)
    for _ in range(10):
        optimiser.zero_grad()
        trainee(only)["views"].backward()
        optimiser.step()
    assert float(trainee(only)["views"].detach()) < 0.7 * before


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    spec = rig.write(tmp_path)
    with pytest.raises(ConfigError, match="got 2 cameras, 1 videos and 2 pose files"):
        parse_spec(spec.replace(f"|{tmp_path}/1.mp4", ""))
    swapped = spec.replace("poses=" + f"{tmp_path}/0.jsonl|{tmp_path}/1.jsonl",
                           "poses=" + f"{tmp_path}/1.jsonl|{tmp_path}/0.jsonl")  # fmt: skip
    with pytest.raises(ConfigError, match="nobody in it is the same as anybody"):
        parse_spec(swapped)
    (tmp_path / "rig.toml").write_text("[cam0]\nsize = 3")
    with pytest.raises(CalibrationError, match="expected Pose2Sim's calibration"):
        parse_spec(spec)
    (tmp_path / "1.jsonl").write_text("{}")
    rig_text = rig.write(tmp_path)
    (tmp_path / "1.jsonl").write_text("{}")
    with pytest.raises(SourceError, match=r"what python -m pose_ros\.tools\.track writes"):
        parse_spec(rig_text)
    with pytest.raises(SourceError, match=r"the calibration is missing\. Expected layout"):
        parse_spec(f"views:{tmp_path}/none.toml")


def test_stored_features_have_no_second_pass() -> None:
    with pytest.raises(ConfigError, match=r"no loss\.views"):
        dots.config({**PLAIN, "freeze": True}, cache__variants=1, loss__views=1.0)


def test_joint_sets_are_cocos(views: Views) -> None:
    assert views.skeleton is COCO17
