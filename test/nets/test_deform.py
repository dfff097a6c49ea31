"""Sampling at fractional places."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conv_cases import onnx_difference

from pose_ros.nets import deform
from pose_ros.nets.deform import deform_conv2d, lattice, read_rows, sample_map, sample_volume

torch.set_num_threads(1)

FUSED = deform._fused_deform_conv2d


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test our own operator, wherever torchvision is installed."""
    monkeypatch.setattr(deform, "_fused_deform_conv2d", None)


def test_the_lattice_counts_x_first() -> None:
    grid = lattice(2, 3, like=torch.zeros(1))
    assert grid.shape == (2, 3, 2)
    assert grid[1, 2].tolist() == [2.0, 1.0]  # row 1, column 2 is x 2, y 1
    assert lattice(2, 3, 4, like=torch.zeros(1))[1, 2, 3].tolist() == [3.0, 2.0, 1.0]  # x, y, t


def test_cells_are_read_back_and_halfway_is_the_mean() -> None:
    x = noise(2, 3, 4, 5)
    everywhere = lattice(4, 5, like=x).expand(2, -1, -1, -1)
    torch.testing.assert_close(sample_map(x, everywhere), x)
    half = torch.tensor([[[[1.5, 2.0]]]]).expand(2, -1, -1, -1)
    torch.testing.assert_close(sample_map(x, half)[..., 0, 0], (x[..., 2, 1] + x[..., 2, 2]) / 2)


def test_outside_is_zero_or_the_border() -> None:
    x = noise(1, 1, 3, 4) + 5.0
    far = torch.tensor([[[[-7.0, 1.0]]]])
    assert sample_map(x, far).item() == 0.0
    assert sample_map(x, far, "border").item() == pytest.approx(x[0, 0, 1, 0].item())


def test_a_map_of_one_cell() -> None:
    x = torch.full((1, 1, 1, 1), 3.0)
    assert sample_map(x, torch.zeros(1, 1, 1, 2)).item() == 3.0


def test_rows_are_what_a_map_is_read_as() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 4, 5, 7)
    places = torch.rand(3, 60, 2) * 15 - 4  # some outside
    places[:, :6] = torch.tensor([[-1, 0], [7, 5], [6, 4], [-1, -1], [0, 0], [6.5, -0.5]])
    want = sample_map(features, places[:, :, None])[..., 0].transpose(1, 2)
    factor = torch.rand(3, 60) * 2
    torch.testing.assert_close(read_rows(features, places), want, atol=1e-5, rtol=0)
    read = read_rows(features, places, factor)
    torch.testing.assert_close(read, want * factor[..., None], atol=1e-5, rtol=0)
    half = read_rows(features.bfloat16(), places)
    assert half.dtype == torch.bfloat16 and (half - want).abs().max() < 0.05
    assert read_rows(features[:0], places[:0]).shape == (0, 60, 4)


def test_a_deformable_convolution_exports_for_any_number_of_people(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, offsets: torch.Tensor, mask: torch.Tensor
        ) -> torch.Tensor:
            return deform_conv2d(x, offsets, weight, mask)

    torch.manual_seed(0)
    weight = torch.randn(5, 4, 3, 3)
    inputs = [
        (torch.randn(n, 4, 6, 8), torch.randn(n, 36, 6, 8) * 3, torch.rand(n, 18, 6, 8))
        for n in (1, 3)
    ]
    assert onnx_difference(Net(), inputs, tmp_path / "d.onnx") < 1e-4


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_a_volume_is_read_as_5d_grid_sample_reads_it(frames: int) -> None:
    x = noise(2, 3, frames, 4, 5)
    places = noise(2, 6, 7, 3, seed=1) * 3.0 + 1.0  # some are outside
    scale = torch.tensor([4.0, 3.0, max(frames - 1, 1.0)])
    grid = (2.0 * places / scale - 1.0)[:, None]
    wanted = F.grid_sample(x, grid, "bilinear", "border", align_corners=True)[:, :, 0]
    torch.testing.assert_close(sample_volume(x, places), wanted, atol=1e-5, rtol=1e-5)


def test_without_offsets_it_is_a_convolution() -> None:
    x, weight = noise(2, 4, 6, 5), noise(3, 4, 3, 3, seed=1)
    for dilation in (1, 3):
        wanted = F.conv2d(x, weight, padding=dilation, dilation=dilation)
        got = deform_conv2d(x, torch.zeros(2, 18, 6, 5), weight, None, dilation)
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        mask = torch.full((2, 9, 6, 5), 0.5)
        half = deform_conv2d(x, torch.zeros(2, 18, 6, 5), weight, mask, dilation)
        torch.testing.assert_close(half, 0.5 * wanted, atol=1e-5, rtol=1e-5)


def test_an_offset_is_rows_first_and_moves_what_is_read() -> None:
    x, weight = noise(1, 2, 6, 5), torch.zeros(2, 2, 3, 3)
    weight[0, 0, 1, 1] = weight[1, 1, 1, 1] = 1.0  # the centre tap alone: the identity
    offsets = torch.zeros(1, 9, 2, 6, 5)
    offsets[:, 4, 0] = 1.0  # the centre tap reads one row below
    moved = deform_conv2d(x, offsets.flatten(1, 2), weight)
    torch.testing.assert_close(moved[:, :, :-1], x[:, :, 1:])
    assert (moved[:, :, -1] == 0).all()


def slow_read(plane: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Bilinear value (C,) of a map (C, h, w), zero outside, corner by corner."""
    top, left, total = math.floor(y), math.floor(x), torch.zeros(len(plane))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < plane.shape[1] and 0 <= column < plane.shape[2]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[:, row, column]
    return total


def test_it_is_the_definition_tap_by_tap() -> None:
    x, weight = noise(1, 2, 4, 3), noise(3, 2, 3, 3, seed=1)
    offsets, mask = 1.5 * noise(1, 18, 4, 3, seed=2), noise(1, 9, 4, 3, seed=3)
    got = deform_conv2d(x, offsets, weight, mask, dilation=2)
    for row in range(4):
        for column in range(3):
            wanted = torch.zeros(3)
            for tap in range(9):
                dy, dx = offsets[0, 2 * tap : 2 * tap + 2, row, column].tolist()
                at = row + 2 * (tap // 3 - 1) + dy, column + 2 * (tap % 3 - 1) + dx
                value = slow_read(x[0], *at) * mask[0, tap, row, column]
                wanted += weight[:, :, tap // 3, tap % 3] @ value
            torch.testing.assert_close(got[0, :, row, column], wanted, atol=1e-5, rtol=1e-4)


def test_groups_move_apart() -> None:
    x, weight = noise(2, 4, 5, 5), noise(3, 4, 3, 3, seed=1)
    offsets, mask = noise(2, 36, 5, 5, seed=2), noise(2, 18, 5, 5, seed=3)
    both = deform_conv2d(x, offsets, weight, mask)
    parts = [
        deform_conv2d(x[:, 2 * g : 2 * g + 2], offsets[:, 18 * g : 18 * g + 18],
                      weight[:, 2 * g : 2 * g + 2], mask[:, 9 * g : 9 * g + 9])
        for g in (0, 1)
    ]  # fmt: skip
    torch.testing.assert_close(both, parts[0] + parts[1], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(FUSED is None, reason="there is no torchvision for this torch")
def test_equals_torchvision() -> None:
    x, weight = noise(2, 4, 6, 5), noise(3, 4, 3, 3, seed=1)
    offsets, mask = noise(2, 36, 6, 5, seed=2), noise(2, 18, 6, 5, seed=3)
    wanted = FUSED(x, offsets, weight, padding=2, dilation=2, mask=mask)
    got = deform_conv2d(x, offsets, weight, mask, 2)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_finite_differences() -> None:
    double = torch.float64
    x = noise(1, 2, 2, 3, 3, dtype=double).requires_grad_()
    places = (0.3 + torch.rand(1, 2, 2, 3, dtype=double) * 0.5).requires_grad_()
    assert torch.autograd.gradcheck(sample_volume, (x, places))
    moves = (0.2 + 0.5 * torch.rand(1, 18, 3, 3, dtype=double)).requires_grad_()
    mask = noise(1, 9, 3, 3, dtype=double).requires_grad_()
    weight = noise(2, 2, 3, 3, dtype=double).requires_grad_()
    assert torch.autograd.gradcheck(deform_conv2d, (x[:, :, 0].detach(), moves, weight, mask))


def test_nobody() -> None:
    assert deform_conv2d(
        torch.zeros(0, 2, 4, 3), torch.zeros(0, 18, 4, 3), noise(5, 2, 3, 3)
    ).shape == (0, 5, 4, 3)
    assert sample_volume(torch.zeros(0, 2, 3, 4, 3), torch.zeros(0, 5, 6, 3)).shape == (0, 2, 5, 6)
