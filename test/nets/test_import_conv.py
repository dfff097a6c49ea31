"""Published names to ours: every family gives the same network, and nothing is lost silently."""

import pytest
import torch
from conv_cases import wake

from pose_ros.errors import WeightsError
from pose_ros.nets.hrnet import HRNetConfig, HRNetPose
from pose_ros.nets.import_conv import describe, import_conv, joint_rows
from pose_ros.nets.movenet import MoveNet, MoveNetConfig
from pose_ros.nets.movenet_trunk import MoveNetTrunk
from pose_ros.nets.registry import build_net
from pose_ros.nets.resnet import ResNetConfig, SimpleBaseline, SimpleBaselineConfig

State = dict[str, torch.Tensor]


def hrnet() -> HRNetPose:
    torch.manual_seed(0)
    return wake(HRNetPose(HRNetConfig(8, (1, 1, 1), 1, size_hw_px=(64, 64)))).eval()


def baseline() -> SimpleBaseline:
    torch.manual_seed(0)
    trunk = ResNetConfig((1, 1, 1, 1), 8)
    return wake(SimpleBaseline(SimpleBaselineConfig(trunk, 17, (64, 64), 16))).eval()


def official(net: torch.nn.Module) -> State:
    """Our names without ``backbone.``, which are the official ones."""
    return {name.removeprefix("backbone."): t for name, t in net.state_dict().items()}


def prefixed(state: State, trunk: str, head: str) -> State:
    heads = ("final_layer", "deconv_layers")
    return {(head if name.startswith(heads) else trunk) + name: t for name, t in state.items()}


WARPER = ("offset_feats.0.conv1", "offsets3", "deform_conv5")
HRNETS = {
    "HRNet (official)": lambda s: s,
    "HRNet (mmpose)": lambda s: {"state_dict": prefixed(s, "backbone.", "keypoint_head.")},
    "HRNet (mmpose) ": lambda s: {"meta": {}, "state_dict": prefixed(s, "backbone.", "head.")},
    "HRNet (DCPose)": lambda s: prefixed(s, *["rough_pose_estimation_net."] * 2)
    | {"offset_mask_combine_conv.0.conv1.weight": torch.zeros(1)},
    "HRNet (FAMI-Pose)": lambda s: {"state_dict": prefixed(s, "hrnet.", "hrnet.")}
    | {"epoch": 3},
    "HRNet (PoseWarper)": lambda s: {f"module.{n}": t for n, t in s.items()}
    | {f"module.{n}.weight": torch.zeros(1) for n in WARPER},
}  # fmt: skip


@pytest.mark.parametrize("family", HRNETS)
def test_every_hrnet_family_gives_the_same_network(family: str) -> None:
    net = hrnet()
    found = import_conv(HRNETS[family](official(net)))
    assert found.family == family.strip()
    assert found.unexplained == ()
    coco = "official" in family or "mmpose" in family
    assert found.joints == ("coco17" if coco else "posetrack17")
    names = {n for n in net.state_dict() if not n.endswith("num_batches_tracked")}
    assert set(found.state) == names
    again = HRNetPose(net.config).eval()
    again.load_state_dict(found.state, strict=False)
    x = torch.randn(2, 1, 3, 64, 64)
    torch.testing.assert_close(again(x).heatmaps, net(x).heatmaps)


def test_every_name_is_accounted_for() -> None:
    state = official(hrnet())
    extra = {
        "stage4.2.fuse_layers.1.0.0.0.weight": "a coarser output that pose does not use",
        "incre_modules.0.0.conv1.weight": "an ImageNet classifier",
        "classifier.weight": "an ImageNet classifier",
    }
    more = dict.fromkeys([*extra, "surprise.weight"], torch.zeros(1))
    found = import_conv(state | more)
    assert extra.items() <= found.ignored.items()
    assert found.unexplained == ("surprise.weight",)
    assert len(found.state) + len(found.ignored) + 1 == len(state) + len(extra) + 1
    dcpose = import_conv(HRNETS["HRNet (DCPose)"](state))
    reason = dcpose.ignored["offset_mask_combine_conv.0.conv1.weight"]
    assert reason == "a layer of DCPose around its HRNet"


def test_the_official_key_list_of_w48_fits() -> None:
    """Names of `pose_hrnet_w48_384x288.pth` by their rule, not by our modules."""
    with torch.device("meta"):
        ours = build_net("hrnet_w48").state_dict()
    kinds = ("weight", "bias", "running_mean", "running_var")
    names = {f"conv{i}.weight" for i in (1, 2)} | {f"bn{i}.{k}" for i in (1, 2) for k in kinds}
    blocks = [(f"layer1.{i}", 3) for i in range(4)]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        blocks += [
            (f"stage{stage}.{m}.branches.{b}.{i}", 2)
            for m in range(modules) for b in range(stage) for i in range(4)
        ]  # fmt: skip
    for block, layers in blocks:
        for i in range(1, layers + 1):
            names |= {f"{block}.conv{i}.weight"} | {f"{block}.bn{i}.{k}" for k in kinds}
    pairs = ["layer1.0.downsample", "transition1.0", "transition1.1.0"]
    pairs += ["transition2.2.0", "transition3.3.0"]
    for stage, modules in ((2, 1), (3, 4), (4, 3)):
        for m in range(modules):
            rows = 1 if (stage, m) == (4, 2) else stage
            for i in range(rows):
                pairs += [f"stage{stage}.{m}.fuse_layers.{i}.{j}" for j in range(i + 1, stage)]
                row = f"stage{stage}.{m}.fuse_layers.{i}"
                pairs += [f"{row}.{j}.{k}" for j in range(i) for k in range(i - j)]
    for pair in pairs:
        names |= {f"{pair}.0.weight"} | {f"{pair}.1.{k}" for k in kinds}
    expected = {f"backbone.{n}" for n in names} | {"final_layer.weight", "final_layer.bias"}
    assert {n for n in ours if not n.endswith("num_batches_tracked")} == expected


RESNETS = {
    "torchvision": lambda s: {n: t for n, t in s.items() if not n.startswith(("final", "deconv"))}
    | {"fc.weight": torch.zeros(1000, 256), "fc.bias": torch.zeros(1000)},
    "SimpleBaseline": lambda s: s,
    "mmpose 0.x": lambda s: {"state_dict": prefixed(s, "backbone.", "keypoint_head.")},
    "mmpose 1.x": lambda s: {"state_dict": prefixed(s, "backbone.", "head.")},
}  # fmt: skip


@pytest.mark.parametrize("family", RESNETS)
def test_every_resnet_family_gives_the_same_network(family: str) -> None:
    net = baseline()
    found = import_conv(RESNETS[family](official(net)))
    assert (found.family, found.unexplained) == ("ResNet", ())
    again = SimpleBaseline(net.config).eval()
    missing, unexpected = again.load_state_dict(found.state, strict=False)
    assert not unexpected
    left = [n for n in missing if not n.endswith("num_batches_tracked")]
    if family == "torchvision":
        assert left and all(n.startswith(("final_layer", "deconv_layers")) for n in left)
        assert found.ignored["fc.weight"] == "an ImageNet classifier"
    else:
        assert not left
        x = torch.randn(1, 1, 3, 64, 64)
        torch.testing.assert_close(again(x).heatmaps, net(x).heatmaps)


def test_movenet_becomes_a_trunk() -> None:
    torch.manual_seed(0)
    config = MoveNetConfig(width=0.35, joints=3)
    movenet = MoveNet(config)
    found = import_conv(movenet.state_dict())
    assert (found.family, found.unexplained) == ("MoveNet", ())
    trunk = MoveNetTrunk(config)
    trunk.load_state_dict({n.removeprefix("backbone."): t for n, t in found.state.items()})
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(trunk(x)[0], movenet.forward_features(x))
    assert found.ignored["heatmap.out.weight"] == "a head of MoveNet"


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no tensors"),
        (["encoder.weight"], "got names like encoder.weight"),
        (["layer1.0.conv1.weight", "layer4.0.conv1.weight"], "got one of basic blocks"),
    ],
)
def test_other_checkpoints_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        import_conv({name: torch.zeros(1) for name in names})


def test_rows_of_other_joint_sets() -> None:
    """Each row holds its own number: coco17 5, 6 are the shoulders; posetrack17 3, 4 the ears."""
    rows = torch.arange(17.0)[:, None]
    assert joint_rows(rows, "coco17", "posetrack15").flatten().tolist() == [
        0, 5.5, 0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
    ]  # fmt: skip
    assert joint_rows(rows, "posetrack17", "posetrack15").flatten().tolist() == [
        0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
    ]  # fmt: skip
    assert joint_rows(rows, "coco17", "coco17") is rows
    with pytest.raises(WeightsError, match="posetrack17 cannot become one of coco17"):
        joint_rows(rows, "posetrack17", "coco17")
    with pytest.raises(WeightsError, match=r"17 joints \(coco17\), got 14"):
        joint_rows(rows[:14], "coco17", "posetrack15")


def test_backbones_are_named() -> None:
    with torch.device("meta"):
        assert describe(build_net("hrnet_w48").state_dict()) == "HRNet-W48"
        assert describe(build_net("simplebaseline_r50").state_dict()) == "ResNet-50"
    assert describe({}) == "another backbone"
