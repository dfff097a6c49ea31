"""MoveNet against its published graph, and the properties every pose network has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from picture import drawn_person

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.checkpoint import find_card, load_net
from pose_ros.nets.movenet import MoveNet, MoveNetConfig, PoseHeads
from pose_ros.nets.registry import build_net

REFERENCE = Path(__file__).parents[1] / "data" / "movenet_reference.npz"  # its README says how
NETS = {"movenet_thunder": 256, "movenet_lightning": 192}  # the size the published graph takes


def published(name: str) -> MoveNet:
    return load_net(find_card(name))


def normalised(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None, None].float() * 0.007843018 - 1


def run(net: MoveNet, picture: np.ndarray) -> PoseHeads:
    with torch.no_grad():
        return net(normalised(picture))


def decode(heads: PoseHeads) -> tuple[np.ndarray, np.ndarray]:
    """Cells (J, 2) and scores (J,) by the formula of the module's docstring."""
    heatmaps, prior, offsets = (head[0].numpy() for head in heads)
    joints, _, columns = heatmaps.shape
    peak = (heatmaps * prior).reshape(joints, -1).argmax(1)
    y, x, joint = peak // columns, peak % columns, np.arange(joints)
    return np.stack((x, y), -1) + offsets[joint, :, y, x], heatmaps[joint, y, x]


def pictures(name: str, walker: np.ndarray) -> dict[str, np.ndarray]:
    size = NETS[name]
    return {
        "drawn": drawn_person(size),
        "walker": walker[352 - size : 352, 302 - size // 2 : 302 + size // 2],
    }


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("which", ["drawn", "walker"])
def test_same_picture_same_numbers_as_the_published_graph(
    name: str, which: str, walker: np.ndarray
) -> None:
    picture = pictures(name, walker)[which]
    heads = run(published(name), picture)
    wanted = {
        key.split(".")[-1]: value
        for key, value in np.load(REFERENCE).items()
        if key.startswith(f"{name}.{which}.")
    }
    # A JPEG may decode to values that differ by one between libraries; a drawn picture may not.
    joint_atol, map_atol = (1e-4, 2e-5) if which == "drawn" else (1e-3, 1e-2)
    cells, scores = decode(heads)
    assert np.abs(cells - wanted["cells_xy"]).max() * 4 / NETS[name] < joint_atol  # of the crop
    np.testing.assert_allclose(scores, wanted["scores"], atol=map_atol)
    heatmaps, prior, offsets = (head[0].numpy() for head in heads)
    np.testing.assert_allclose(heatmaps[:, ::8, ::8], wanted["heatmaps"], atol=map_atol)
    np.testing.assert_allclose((heatmaps * prior)[:, ::8, ::8], wanted["weighted"], atol=map_atol)
    if which == "drawn":
        np.testing.assert_allclose(offsets[..., ::8, ::8], wanted["offsets"], atol=2e-4)


def test_the_joints_lie_where_the_person_was_drawn() -> None:
    from picture import JOINTS

    cells, _ = decode(run(published("movenet_thunder"), drawn_person(256)))
    for index, joint in ((0, "nose"), (5, "l_sho"), (6, "r_sho"), (13, "l_kne"), (14, "r_kne")):
        np.testing.assert_allclose(cells[index] * 4 / 256, JOINTS[joint], atol=0.04)


def test_cells_are_continuous_crop_coordinates() -> None:
    # Moving the picture by 4 px moves every joint by exactly one cell.
    net = published("movenet_lightning")
    wide = np.pad(drawn_person(192), ((32, 32), (32, 32), (0, 0)))
    here, _ = decode(run(net, wide[28:220, 28:220]))
    there, _ = decode(run(net, wide[28:220, 24:216]))
    assert np.median(np.abs(there - here - [1, 0])) < 0.2


@pytest.mark.parametrize("name", NETS)
def test_shapes_ranges_and_every_parameter_has_a_gradient(name: str) -> None:
    net = build_net(name)
    heads = net(torch.rand(2, 1, 3, 96, 64) * 2 - 1)
    assert heads.heatmaps.shape == heads.prior.shape == (2, 17, 24, 16)
    assert heads.offsets.shape == (2, 17, 2, 24, 16)
    assert (heads.prior > 0).all() and ((heads.heatmaps >= 0) & (heads.heatmaps <= 1)).all()
    # The centre only chooses a cell, which no gradient passes; train it on its own map.
    center = net.center(net.forward_features(torch.rand(2, 3, 96, 64)))
    (sum(head.float().mean() for head in heads) + center.mean()).backward()
    without = [key for key, value in net.named_parameters() if value.grad is None]
    assert not without


def test_a_person_does_not_depend_on_who_else_is_in_the_batch() -> None:
    net = published("movenet_lightning")
    a, b = normalised(drawn_person(192)), torch.rand(1, 1, 3, 192, 192) * 2 - 1
    with torch.no_grad():
        alone, together = net(a), net(torch.cat((b, a, b)))
    for one, many in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], many[1], atol=1e-4, rtol=1e-4)


def test_nobody_is_an_empty_answer() -> None:
    heads = build_net("movenet_lightning")(torch.zeros(0, 1, 3, 192, 192))
    assert heads.heatmaps.shape == (0, 17, 48, 48)
    assert heads.offsets.shape == (0, 17, 2, 48, 48)


@pytest.mark.parametrize("shape", [(1, 3, 192, 192), (1, 2, 3, 192, 192)])
def test_frames_of_another_rank_or_length_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"wants \(P, T=1, 3, h, w\), got"):
        build_net("movenet_lightning")(torch.zeros(shape))


def test_a_size_that_is_no_multiple_of_32_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"multiples of 32, got \(1, 3, 190, 192\)"):
        build_net("movenet_lightning")(torch.zeros(1, 1, 3, 190, 192))


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="widht"):
        build_net("movenet_thunder", widht=2.0)


def test_the_trunk_can_be_used_by_itself() -> None:
    net = MoveNet(MoveNetConfig(width=1.0))
    assert net.forward_features(torch.zeros(3, 3, 64, 96)).shape == (3, 24, 16, 24)
