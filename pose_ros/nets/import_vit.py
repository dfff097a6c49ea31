"""Published ViT checkpoints under our names: official ViTPose, mmpose 1.x, Hugging Face, MAE/timm.

Pure functions on state dicts. `import_vit` recognises the family, renames, folds or resizes the
positions, joins ViTPose+'s experts, and returns what it did not use. Our names: `patch_embed.*`,
`pos_embed`, `blocks.i.*`, `norm.*` of `vit.ViT`, and `head.*` of `ClassicHead` or `SimpleHead`;
`vitpose_state` puts them where a network of `vit.TokenPoseNet` has them.

Sources: ViTPose (ViTAE-Transformer/ViTPose), mmpose 1.x with mmpretrain's VisionTransformer,
Hugging Face transformers' `VitPoseForPoseEstimation`. Checked in `test/nets/test_import_vit.py`.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F

from pose_ros.errors import WeightsError

State = dict[str, torch.Tensor]

CLASSIC = (
    (r"deconv_layers\.(\d)\.(.+)", r"head.deconv.\1.\2"),
    (r"final_layer\.(.+)", r"head.final.\1"),
)
LAYER = r"blocks\.(\d+)\."
# family -> (pattern that only its names match, ((pattern of a name, our name), ...))
FAMILIES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "official": (
        r"backbone\.blocks\.\d+\.attn\.qkv\.weight",
        (
            (r"backbone\.patch_embed\.proj\.(.+)", r"patch_embed.\1"),
            (r"backbone\.pos_embed", "pos_embed"),
            (rf"backbone\.{LAYER}(.+)", r"blocks.\1.\2"),
            (r"backbone\.last_norm\.(.+)", r"norm.\1"),
            *((rf"keypoint_head\.{old}", new) for old, new in CLASSIC),
        ),
    ),
    "mmpose": (
        r"backbone\.layers\.\d+\.attn\.qkv\.weight",
        (
            (r"backbone\.patch_embed\.projection\.(.+)", r"patch_embed.\1"),
            (r"backbone\.pos_embed", "pos_embed"),
            (r"backbone\.layers\.(\d+)\.ln([12])\.(.+)", r"blocks.\1.norm\2.\3"),
            (r"backbone\.layers\.(\d+)\.attn\.(.+)", r"blocks.\1.attn.\2"),
            (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.(.+)", r"blocks.\1.mlp.fc1.\2"),
            (r"backbone\.layers\.(\d+)\.ffn\.layers\.1\.(.+)", r"blocks.\1.mlp.fc2.\2"),
            (r"backbone\.ln1\.(.+)", r"norm.\1"),
            *((rf"head\.{old}", new) for old, new in CLASSIC),
        ),
    ),
    "huggingface": (
        r"backbone\.encoder\.layer\.\d+\..+",
        (
            (r"backbone\.embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.\1"),
            (r"backbone\.embeddings\.position_embeddings", "pos_embed"),
            (r"backbone\.encoder\.layer\.(\d+)\.layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
            (r"backbone\.encoder\.layer\.(\d+)\.layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
            (
                r"backbone\.encoder\.layer\.(\d+)\.attention\.(?:.+\.)?(?:query|q_proj)\.(.+)",
                r"blocks.\1.attn.q.\2",
            ),
            (
                r"backbone\.encoder\.layer\.(\d+)\.attention\.(?:.+\.)?(?:key|k_proj)\.(.+)",
                r"blocks.\1.attn.k.\2",
            ),
            (
                r"backbone\.encoder\.layer\.(\d+)\.attention\.(?:.+\.)?(?:value|v_proj)\.(.+)",
                r"blocks.\1.attn.v.\2",
            ),
            (
                r"backbone\.encoder\.layer\.(\d+)\.attention\.(?:output\.dense|o_proj)\.(.+)",
                r"blocks.\1.attn.proj.\2",
            ),
            (r"backbone\.encoder\.layer\.(\d+)\.mlp\.(.+)", r"blocks.\1.mlp.\2"),
            (r"backbone\.layernorm\.(.+)", r"norm.\1"),
            (r"head\.deconv1\.(.+)", r"head.deconv.0.\1"),
            (r"head\.batchnorm1\.(.+)", r"head.deconv.1.\1"),
            (r"head\.deconv2\.(.+)", r"head.deconv.3.\1"),
            (r"head\.batchnorm2\.(.+)", r"head.deconv.4.\1"),
            (r"head\.conv\.(.+)", r"head.final.\1"),
        ),
    ),
    "mae": (  # padding of the patches differs: an initialisation, not the same network
        r"blocks\.\d+\.attn\.qkv\.weight",
        (
            (r"patch_embed\.proj\.(.+)", r"patch_embed.\1"),
            (r"pos_embed", "pos_embed"),
            (rf"{LAYER}(.+)", r"blocks.\1.\2"),
            (r"norm\.(.+)", r"norm.\1"),
        ),
    ),
}
#: names that may stay unused: class tokens (ViTPose has none in its sequence), counters of batch
#: norms, other data sets' heads and experts, a decoder of the pretraining, a classifier
IGNORABLE = re.compile(
    r".*(cls_token|mask_token|num_batches_tracked)|associate_keypoint_heads\..+|decoder.+"
    r"|.*mlp\.experts\.[1-9]\d*\..+|head\.(weight|bias)|fc_norm\..+"
)
SHARED_JOINTS = (0, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)  # of COCO, in posetrack15's order
WRAPPERS = ("state_dict", "model", "module")


def unwrap(state: Mapping[str, object]) -> State:
    """Return a checkpoint's tensors by name, without wrappers and `module.`/`model.` prefixes."""
    for name in WRAPPERS:
        inner = state.get(name)
        if isinstance(inner, Mapping):
            return unwrap(inner)
    tensors = {n: t for n, t in state.items() if isinstance(t, torch.Tensor)}
    for prefix in ("module.", "model."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            return unwrap({name[len(prefix) :]: t for name, t in tensors.items()})
    return tensors


def family_of(state: Mapping[str, torch.Tensor]) -> str:
    """Return which of FAMILIES the names belong to.

    Raises:
        WeightsError: none; the message says what the names look like.
    """
    for family, (pattern, _) in FAMILIES.items():
        if any(re.fullmatch(pattern, name) for name in state):
            return family
    if any(re.search(r"stage\d\.\d+\.branches|layer1\.0\.conv1", name) for name in state):
        raise WeightsError("expected a ViT checkpoint, got a convolutional one (HRNet or ResNet)")
    raise WeightsError(
        f"expected a ViT checkpoint of {', '.join(FAMILIES)}; none has the names "
        f"{', '.join(sorted(state)[:4]) or '(no tensors)'} ..."
    )


def import_vit(
    state: Mapping[str, object], grid_hw: tuple[int, int] = (16, 12)
) -> tuple[State, list[str]]:
    """Rename a published checkpoint; returns our state dict and the names that were not used.

    `grid_hw` is the token grid of the crops it shall run on. Unused names that `unexplained` lists
    are an error for who wants every key accounted for.

    Raises:
        WeightsError: it is no ViT checkpoint, or tensors are missing or do not fit together.
    """
    source = unwrap(state)
    family = family_of(source)
    ours, unused = _rename(source, FAMILIES[family][1])
    _pack_qkv(ours)
    _join_experts(ours)
    if "pos_embed" not in ours or "patch_embed.weight" not in ours:
        raise WeightsError(f"{family} ViT checkpoint without pos_embed or patch_embed: truncated?")
    if ours["patch_embed.weight"].shape[1:] != (3, 16, 16):
        shape = tuple(ours["patch_embed.weight"].shape)
        raise WeightsError(f"expected patches of 16x16 RGB, got a patch convolution {shape}")
    ours["pos_embed"] = fold_positions(ours["pos_embed"], grid_hw)
    return ours, sorted(unused)


def unexplained(unused: list[str]) -> list[str]:
    """Return the unused names that there is no reason to leave out."""
    return [name for name in unused if not IGNORABLE.fullmatch(name)]


def _rename(source: State, rules: tuple[tuple[str, str], ...]) -> tuple[State, list[str]]:
    """Apply the first rule that fits each name; names without one are returned as unused."""
    ours: State = {}
    unused = []
    for name, tensor in source.items():
        rule = next(((old, new) for old, new in rules if re.fullmatch(old, name)), None)
        if rule is None or IGNORABLE.fullmatch(name):
            unused.append(name)
            continue
        target = re.sub(f"^{rule[0]}$", rule[1], name)
        if target in ours:
            raise WeightsError(f"two tensors of the checkpoint are called {target} here")
        ours[target] = tensor
    return ours, unused


def _pack_qkv(ours: State) -> None:
    """Join separate q, k and v projections into qkv, in place."""
    for name in [n for n in ours if re.fullmatch(r"blocks\.\d+\.attn\.q\.(weight|bias)", n)]:
        names = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        missing = [n for n in names if n not in ours]
        if missing:
            raise WeightsError(f"the checkpoint has {name} but not {', '.join(missing)}")
        ours[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([ours.pop(n) for n in names])


def _join_experts(ours: State) -> None:
    """Append ViTPose+'s first expert (COCO) to fc2, in place.

    fc2 gives the first D - p channels of the block's output, the data set's expert the last p.
    """
    for name in [n for n in ours if ".mlp.experts.0." in n]:
        shared = name.replace(".mlp.experts.0.", ".mlp.fc2.")
        if shared not in ours:
            raise WeightsError(f"the checkpoint has {name} but not {shared}")
        ours[shared] = torch.cat((ours[shared], ours.pop(name)))


def fold_positions(positions: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
    """Return position embeddings (1, rows*columns, D) for the grid from published ones (1, n, D).

    ViTPose adds the class slot to every token, so it is folded into the others; the grids that
    are recognised are the wanted one and those of 4:3 crops, 12 k^2 tokens. A square grid is that
    of an image classifier: its class slot is dropped. Other grids are resized bicubically.

    Raises:
        WeightsError: the number of entries fits no such grid.
    """
    if positions.ndim != 3 or positions.shape[0] != 1:
        raise WeightsError(f"expected pos_embed (1, n, D), got {tuple(positions.shape)}")
    count = positions.shape[1]
    wanted = grid_hw[0] * grid_hw[1]
    for extra in (0, 1):
        k = math.isqrt((count - extra) // 12)
        if count - extra == wanted:
            found = grid_hw
        elif k > 0 and 12 * k * k == count - extra:
            found = (4 * k, 3 * k)
        else:
            continue
        grid = positions[:, extra:] + positions[:, :1] if extra else positions
        return _resize(grid, found, grid_hw)
    for extra in (0, 1):
        side = math.isqrt(count - extra)
        if side > 0 and side * side == count - extra:
            return _resize(positions[:, extra:], (side, side), grid_hw)
    raise WeightsError(f"pos_embed has {count} entries, which fit no grid for {grid_hw}")


def _resize(grid: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """(1, n, D) on the old grid -> (1, m, D) on the new one, bicubic."""
    if old == new:
        return grid
    maps = grid.float().transpose(1, 2).unflatten(2, old)
    maps = F.interpolate(maps, new, mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(grid.dtype)


def vitpose_state(ours: State, heads: tuple[str, ...] = ("head",)) -> State:
    """Return the names as a `TokenPoseNet` has them: all but the head's under `backbone.`.

    The head's weights go to every classic head named; STDPose has ("head", "head0").
    """
    backbone = {f"backbone.{n}": t for n, t in ours.items() if not n.startswith("head.")}
    found = {n.removeprefix("head."): t for n, t in ours.items() if n.startswith("head.")}
    return {**backbone, **{f"{head}.{n}": t for head in heads for n, t in found.items()}}


def posetrack15_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Return a final layer's weight or bias (17, ...) of COCO for posetrack15 (15, ...).

    The 13 shared joints are copied; the neck starts as the mean of the shoulders, the top of the
    head as the nose. Both have to be trained.

    Raises:
        WeightsError: it does not have 17 rows.
    """
    if len(tensor) != 17:
        raise WeightsError(f"expected a final layer of COCO's 17 joints, got {len(tensor)} rows")
    shared = tensor[list(SHARED_JOINTS)]
    neck = tensor[[5, 6]].mean(0, keepdim=True)
    return torch.cat((shared[:1], neck, tensor[:1], shared[1:]))
