"""ResNet and SimpleBaseline: names, sizes and costs of the published networks."""

import conv_cases as cases
import pytest
import torch

from pose_ros.errors import ConfigError, ShapeError
from pose_ros.nets.cost import count
from pose_ros.nets.registry import build_net
from pose_ros.nets.resnet import ResNet, ResNetConfig, SimpleBaseline, SimpleBaselineConfig


def tiny() -> SimpleBaseline:
    trunk = ResNetConfig(blocks=(1, 1, 1, 1), width=8)
    config = SimpleBaselineConfig(trunk, joints=5, size_hw_px=(64, 64), head_channels=16)
    return SimpleBaseline(config)


def test_the_trunk_is_torchvisions_without_its_classifier() -> None:
    with torch.device("meta"):
        trunk = ResNet(ResNetConfig())
    assert sum(p.numel() for p in trunk.parameters()) == 25_557_032 - 2_049_000
    shapes = {name: tuple(p.shape) for name, p in trunk.named_parameters()}
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer3.5.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["layer4.2.bn3.weight"] == (2048,)
    names = [name for name in shapes if name.startswith("layer4.0.downsample")]
    assert names == [f"layer4.0.downsample.{n}" for n in ("0.weight", "1.weight", "1.bias")]


def test_strides_are_4_to_32() -> None:
    trunk = ResNet(ResNetConfig(blocks=(1, 1, 1, 1), width=8)).eval()
    shapes = [tuple(f.shape) for f in trunk(torch.zeros(2, 3, 64, 96))]
    assert shapes == [(2, 32, 16, 24), (2, 64, 8, 12), (2, 128, 4, 6), (2, 256, 2, 3)]


def test_simple_baseline_has_its_published_cost() -> None:
    """34.0 M parameters in the paper; 5.46 GMACs in mmpose's table."""
    found = count("simplebaseline_r50")
    assert round(found.params_m, 1) == 34.0
    assert found.cached == pytest.approx(5.46, rel=0.01)


def test_simple_baseline_is_a_network_like_the_others() -> None:
    torch.manual_seed(0)
    cases.check_shapes_and_people(tiny())
    cases.check_every_parameter_learns(tiny())
    cases.check_strict_reload(tiny(), tiny())


def test_refuses_what_it_has_not() -> None:
    with pytest.raises(ConfigError, match="no such option"):
        build_net("simplebaseline_r50", colour="red")
    net = tiny()
    with pytest.raises(ShapeError, match="labels"):
        net(torch.zeros(1, 1, 3, 64, 64), labels=torch.zeros(1, 1, 5, 3))
    with pytest.raises(ShapeError, match="expected windows"):
        net(torch.zeros(1, 2, 3, 64, 64))
