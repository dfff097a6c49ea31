"""HRNet: names, shapes, sizes and costs of the official pose network."""

import conv_cases as cases
import pytest
import torch

from pose_ros.errors import ConfigError
from pose_ros.nets.cost import count
from pose_ros.nets.hrnet import HRNetConfig, HRNetPose
from pose_ros.nets.registry import build_net


def tiny() -> HRNetPose:
    return HRNetPose(HRNetConfig(8, (1, 1, 1), 1, joints=5, size_hw_px=(64, 64)))


@pytest.mark.parametrize(
    ("name", "params", "gmacs"), [("hrnet_w32", 28_536_113, 7.7), ("hrnet_w48", 63_595_745, 35.5)]
)
def test_counts_are_the_published_ones(name: str, params: int, gmacs: float) -> None:
    """28.5 M and 63.6 M in the paper; GMACs of mmpose's tables, at 256x192 and 384x288."""
    with torch.device("meta"):
        net = build_net(name)
    assert sum(p.numel() for p in net.parameters()) == params
    assert count(name).cached == pytest.approx(gmacs, rel=0.01)


def test_names_and_shapes_are_the_official_ones() -> None:
    """A sample of every kind of name in `pose_hrnet_w48_384x288.pth`, and their number."""
    with torch.device("meta"):
        state = build_net("hrnet_w48").backbone.state_dict()
    sample = {
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "transition1.0.0.weight": (48, 256, 3, 3),
        "transition1.1.0.0.weight": (96, 256, 3, 3),
        "transition2.2.0.0.weight": (192, 96, 3, 3),
        "transition3.3.0.1.running_var": (384,),
        "stage2.0.branches.1.3.conv2.weight": (96, 96, 3, 3),
        "stage3.3.fuse_layers.0.2.0.weight": (48, 192, 1, 1),
        "stage3.3.fuse_layers.2.0.0.0.weight": (48, 48, 3, 3),
        "stage3.3.fuse_layers.2.0.1.1.bias": (192,),
        "stage4.2.fuse_layers.0.3.1.weight": (48,),
    }
    for name, shape in sample.items():
        assert tuple(state[name].shape) == shape, name
    assert not [name for name in state if name.startswith("stage4.2.fuse_layers.1")]
    assert not [name for name in state if name.startswith("transition2.0")]  # nothing to adapt
    assert sum(name.endswith("num_batches_tracked") for name in state) * 6 == len(state)


def test_the_fusion_adds_the_branches() -> None:
    """With all blocks silenced, the finest output is relu(x0 + up(x1)) of the lateral."""
    net = tiny().backbone.eval()
    module = net.stage2[0]
    x = [torch.randn(1, 8, 8, 8), torch.randn(1, 16, 4, 4)]
    for branch in module.branches:
        torch.nn.init.zeros_(branch[0].bn2.weight)
    y = [branch(f) for branch, f in zip(module.branches, x, strict=True)]
    lateral = module.fuse_layers[0][1][1](module.fuse_layers[0][1][0](y[1]))
    up = lateral.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(module(x)[0], (y[0] + up).relu())
    torch.testing.assert_close(y[0], x[0].relu())


def test_it_is_a_network_like_the_others() -> None:
    torch.manual_seed(0)
    cases.check_shapes_and_people(tiny())
    cases.check_every_parameter_learns(tiny())
    cases.check_strict_reload(tiny(), tiny())


def test_refuses_an_unknown_option() -> None:
    with pytest.raises(ConfigError, match="no option colour"):
        build_net("hrnet_w32", colour="red")
