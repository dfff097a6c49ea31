"""What every video network refuses, and what its exports must not fix."""

import math
from pathlib import Path

import pytest
import torch
from conv_cases import onnx_difference, wake, windows
from video_cases import tiny

from pose_ros.errors import ShapeError
from pose_ros.nets.hstpn import Hstpn
from pose_ros.nets.registry import build_net
from pose_ros.nets.video import VideoPoseNet


@pytest.fixture
def net() -> VideoPoseNet:
    return wake(tiny("stdpose_vitl")).eval()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_frames_that_are_not_finite_are_refused(
    net: VideoPoseNet, value: float, dtype: torch.dtype
) -> None:
    x = windows(net, 2).to(dtype)
    x[1, 2, 0, 5, 7] = value
    with pytest.raises(ShapeError, match=r"STDPose: expected finite frames, got 1 of \d+ values"):
        net.check(x)


def test_large_half_precision_frames_are_finite(net: VideoPoseNet) -> None:
    net.check(torch.full((4, 3, 3, 64, 48), 60000.0, dtype=torch.float16))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1, 2, 3, 64, 48), torch.float32), ((1, 3, 3, 48, 64), torch.float32),
     ((1, 3, 3, 64, 48), torch.uint8), ((3, 3, 64, 48), torch.float32)],
)  # fmt: skip
def test_other_windows_are_refused(
    net: VideoPoseNet, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    with pytest.raises(ShapeError, match=r"expected windows \(B, 3, 3, 64, 48\) of .* got"):
        net(torch.zeros(shape, dtype=dtype))


class Implied(torch.nn.Module):
    """A window without distances: those of consecutive frames are meant."""

    def __init__(self, net: VideoPoseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).heatmaps


def test_an_export_without_distances_takes_any_number_of_people(
    net: VideoPoseNet, tmp_path: Path
) -> None:
    """Distances count in this network: were they those of one person, two would fail."""
    pytest.importorskip("onnxruntime")
    inputs = [(windows(net, people),) for people in (1, 2, 5)]
    assert onnx_difference(Implied(net).eval(), inputs, tmp_path / "w.onnx") < 1e-4
    with torch.no_grad():
        x = inputs[1][0]
        far = torch.full((2,), 4.0)
        assert (net(x).heatmaps - net(x, far, torch.ones(2)).heatmaps).abs().max() > 1e-5


def test_a_network_on_the_meta_device_can_be_asked() -> None:
    with torch.device("meta"):
        net = build_net("hstpn_robot").eval()
        assert isinstance(net, Hstpn)
        out = net(torch.empty(2, 3, 3, 256, 192))
    assert out.heatmaps.shape == (2, 17, 64, 48)
