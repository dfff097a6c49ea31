"""Published convolutional checkpoints under our names: HRNet, ResNet, SimpleBaseline, MoveNet.

Pure functions on state dicts. `import_conv` recognises the family by its names, renames what our
networks have, and gives a reason for everything else. Our names: ``backbone.*`` for trunks,
``deconv_layers.*`` and ``final_layer.*`` for the heads of the single-frame networks.

Families: HRNet of the official repository, of mmpose 0.x and 1.x, and inside PoseWarper, DCPose
and FAMI-Pose; ResNet of torchvision, mmpose and SimpleBaseline; this package's own MoveNet, whose
trunk some video networks have. Checked in `test/nets/test_import_conv.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pose_ros.errors import WeightsError
from pose_ros.nets.import_vit import posetrack15_rows, unwrap

State = dict[str, torch.Tensor]

HRNET_TRUNK = r"(?:conv[12]|bn[12]|layer1|transition[123]|stage[234])\..+"
RESNET_TRUNK = r"(?:conv1|bn1|layer[1234])\..+"
MOVENET_TRUNK = r"(?:trunk|pyramid)\..+"
HEADS = ("", "keypoint_head.", "head.")  # of the official code, mmpose 0.x and mmpose 1.x
HEAD = r"(?:final_layer\.(?:weight|bias)|deconv_layers\.\d+\..+)"

#: Prefix of an HRNet's names -> who has it, and the joints its head was trained on.
HRNET_PREFIXES = {
    "": ("official", "coco17"),
    "backbone.": ("mmpose", "coco17"),
    "rough_pose_estimation_net.": ("DCPose", "posetrack17"),
    "hrnet.": ("FAMI-Pose", "posetrack17"),
}
#: The rows of a posetrack17 head, which are posetrack15 and the two ears at 3 and 4.
POSETRACK15_OF_17 = (0, 1, 2, *range(5, 17))

#: Names that may stay unused, and why.
EXPLAINED = (
    (r".*num_batches_tracked", "a counter of a batch norm"),
    (r"(?:.*\.)?stage4\.\d\.fuse_layers\.[123]\..+", "a coarser output that pose does not use"),
    (r"(?:incre_modules|downsamp_modules|classifier)\..+", "an ImageNet classifier"),
    (r"(?:backbone\.)?fc\..+|final_layer\.0\..+", "an ImageNet classifier"),
    (r"associate_keypoint_heads\..+", "a head of another data set"),
    (r"data_preprocessor\..+", "the normalisation, which the card has"),
    (r"(?:offset_feats|offsets\d|deform_conv\d)\..+|neck\..+", "PoseWarper's own layers"),
    (r"(?:center|regression|heatmap|offset)\.(?:separable|out)\..+", "a head of MoveNet"),
)


@dataclass(frozen=True)
class Imported:
    """A checkpoint under our names, and what became of the rest of it."""

    family: str
    joints: str  # the joint set of its head, when nobody says otherwise
    state: State
    ignored: dict[str, str]  # name in the checkpoint: why it is not used
    unexplained: tuple[str, ...]  # names that nothing is known about


def import_conv(checkpoint: Mapping[str, object]) -> Imported:
    """Recognise and rename a published checkpoint, wrapped or not.

    Raises:
        WeightsError: it is of no family above; the message names what it looks like.

    """
    source = unwrap(checkpoint)
    for prefix, (owner, joints) in HRNET_PREFIXES.items():
        if f"{prefix}stage2.0.branches.0.0.conv1.weight" in source:
            warper = any(name.startswith("offset_feats.") for name in source)
            if warper:
                owner, joints = "PoseWarper", "posetrack17"
            foreign = prefix in ("rough_pose_estimation_net.", "hrnet.")
            rest = f"a layer of {owner} around its HRNet" if foreign else None
            return _rename(source, f"HRNet ({owner})", joints, (prefix, HRNET_TRUNK), rest)
    for prefix in ("", "backbone."):
        if f"{prefix}layer4.0.conv1.weight" in source:
            _require_bottlenecks(source, prefix)
            return _rename(source, "ResNet", "coco17", (prefix, RESNET_TRUNK), None)
    if "trunk.stem.conv.weight" in source and "pyramid.laterals.0.weight" in source:
        return _rename(source, "MoveNet", "coco17", ("", MOVENET_TRUNK), None)
    names = ", ".join(sorted(source)[:4]) or "(no tensors)"
    raise WeightsError(
        f"expected a checkpoint of ViT, HRNet, ResNet or MoveNet, got names like {names}"
    )


def _rename(
    source: State, family: str, joints: str, trunk: tuple[str, str], rest: str | None
) -> Imported:
    """Sort the tensors into ours, ignored and unexplained.

    ``trunk`` is the prefix and the pattern of the trunk's names; ``rest`` explains whatever else
    does not begin with the prefix.
    """
    prefix, pattern = trunk
    heads = {*HEADS, prefix}
    state: State = {}
    ignored: dict[str, str] = {}
    unexplained = []
    for name, tensor in source.items():
        reason = _reason(name.removeprefix(prefix)) or _reason(name)
        head = next((name[len(h) :] for h in heads if re.fullmatch(re.escape(h) + HEAD, name)), "")
        if reason:
            ignored[name] = reason
        elif re.fullmatch(re.escape(prefix) + pattern, name):
            state[f"backbone.{name.removeprefix(prefix)}"] = tensor
        elif head and (rest is None or name.startswith(prefix)):
            state[head] = tensor
        elif rest and not name.startswith(prefix):
            ignored[name] = rest
        else:
            unexplained.append(name)
    return Imported(family, joints, state, ignored, tuple(unexplained))


def _reason(name: str) -> str | None:
    """Why a name may stay unused, if there is a reason."""
    return next((why for pattern, why in EXPLAINED if re.fullmatch(pattern, name)), None)


def _require_bottlenecks(source: State, prefix: str) -> None:
    """Refuse ResNets of basic blocks, which none of our networks has."""
    if f"{prefix}layer1.0.conv3.weight" not in source:
        raise WeightsError(
            "expected a ResNet of bottlenecks (50 or more), got one of basic blocks"
        )


def describe(state: Mapping[str, torch.Tensor]) -> str:
    """Name of the backbone in a state dict with our names, for messages; by names and shapes."""
    if "backbone.stage2.0.branches.0.0.conv1.weight" in state:
        return f"HRNet-W{len(state['backbone.stage2.0.branches.0.0.conv1.weight'])}"
    if "backbone.layer4.0.conv1.weight" in state:
        found = (re.fullmatch(r"backbone\.layer\d\.\d+\.conv3\.weight", name) for name in state)
        return f"ResNet-{3 * sum(match is not None for match in found) + 2}"
    if "backbone.trunk.stem.conv.weight" in state:
        return f"MoveNet's trunk of {len(state['backbone.trunk.stem.conv.weight'])} stem channels"
    if "backbone.patch_embed.weight" in state:
        return f"a ViT of width {len(state['backbone.patch_embed.weight'])}"
    return "another backbone"


def joint_rows(tensor: torch.Tensor, source: str, target: str) -> torch.Tensor:
    """Rows (K, ...) of a final layer's weight or bias, for another joint set.

    From coco17 to posetrack15 the neck starts as the mean of the shoulders and the top of the head
    as the nose; from posetrack17 the ears are left out.

    Raises:
        WeightsError: there is no way from ``source`` to ``target``, or the rows do not fit.

    """
    if source == target:
        return tensor
    if target != "posetrack15" or source not in ("coco17", "posetrack17"):
        raise WeightsError(f"a head of {source} cannot become one of {target}")
    if len(tensor) != 17:
        raise WeightsError(f"expected a final layer of 17 joints ({source}), got {len(tensor)}")
    if source == "coco17":
        return posetrack15_rows(tensor)
    return tensor[list(POSETRACK15_OF_17)]
