"""From weights of TensorFlow.js graph models to state dicts, every weight accounted for."""

import json
import re
from collections.abc import Callable, Iterator

import numpy as np

from pose_ros.errors import WeightsError

Array = np.ndarray
Rule = tuple[str, str]  # source name, target name

# Constants of the graphs that are code here, by the end of their names.
_MOVENET_FLOATS = {
    "/Reshape": 0.0,  # subtracted from the input before scaling
    "/truediv": 0.007843,  # input scale: the card's 1 / std
    "/sub_1/y": 1.0,  # input shift: the card's mean / std
    "/add_5/y": 1.7998,  # DISTANCE_SOFTENING
}
# Grids, 1 / cells, weight of the centre.
_MOVENET_TABLES = re.compile(r"/(strided_slice_[34]|Reshape_13|truediv_2_recip)$")
_PREFIX = "StatefulPartitionedCall/"
_EXTRACTOR = _PREFIX + "center_net_mobile_net_v2fpn_feature_extractor/model_1/"


def read_tfjs(graph: bytes, weights: bytes) -> dict[str, Array]:
    """Return the named arrays of a graph model: `graph` is its JSON, `weights` its one shard.

    Raises:
        WeightsError: the binary's length is not what the manifest says.
    """
    arrays, offset = {}, 0
    for group in json.loads(graph)["weightsManifest"]:
        for entry in group["weights"]:
            dtype = np.dtype(entry.get("quantization", entry)["dtype"])
            count = int(np.prod(entry["shape"]))
            if offset + count * dtype.itemsize > len(weights):
                raise WeightsError(
                    f"the shard ends inside {entry['name']}: fetch the package again"
                )
            arrays[entry["name"]] = np.frombuffer(weights, dtype, count, offset).reshape(
                entry["shape"]
            )
            offset += count * dtype.itemsize
    if offset != len(weights):
        raise WeightsError(f"the manifest describes {offset} bytes, the shard has {len(weights)}")
    return arrays


def convert_movenet(source: dict[str, Array]) -> dict[str, Array]:
    """Return the state dict of `nets/movenet.py` for the arrays of a MoveNet single-pose graph."""
    target, left = _move(source, _movenet_rules())
    for name in left:
        constant = next((v for end, v in _MOVENET_FLOATS.items() if name.endswith(end)), None)
        value = source[name]
        known = constant is not None and np.allclose(value, constant, atol=1e-4)
        if not (known or value.dtype == np.int32 or _MOVENET_TABLES.search(name)):
            raise WeightsError(
                f"MoveNet's source weight {name} {value.shape} has no place in nets/movenet.py"
            )
    return target


def convert_nanodet(source: dict[str, Array]) -> dict[str, Array]:
    """Return the state dict of `nets/nanodet.py` (persons only) for NanoDet-g's arrays."""
    target, left = _move(source, _nanodet_rules())
    for name in left:
        if source[name].dtype != np.int32 and not name.endswith("PadV2/constant_values"):
            raise WeightsError(f"NanoDet's source weight {name} has no place in nets/nanodet.py")
    for level in range(3):
        for part in ("weight", "bias"):
            name = f"heads.{level}.out.{part}"
            target[name] = np.delete(
                target[name], np.s_[1:80], axis=0
            )  # class 0 is "person" of 80
    return target


CONVERTERS: dict[str, Callable[[dict[str, Array]], dict[str, Array]]] = {
    "movenet_thunder": convert_movenet,
    "movenet_lightning": convert_movenet,
    "nanodet_g": convert_nanodet,
}


def _move(source: dict[str, Array], rules: Iterator[Rule]) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays that the rules name, in our layout, and the names that no rule used."""
    left, target = dict.fromkeys(source), {}
    for theirs, ours in rules:
        if theirs not in left:
            raise WeightsError(
                f"the graph has no weight {theirs}: this is another network than the card says"
            )
        del left[theirs]
        target[ours] = _torch_layout(source[theirs], depthwise="depthwise" in ours)
    return target, list(left)


def _torch_layout(value: Array, depthwise: bool) -> Array:
    """Turn (kh, kw, in, out), or depthwise (kh, kw, channels, 1), into (out, in, kh, kw)."""
    if value.ndim != 4:
        return value
    return np.ascontiguousarray(value.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1)))


def _movenet_rules() -> Iterator[Rule]:
    """Yield where each convolution of the MoveNet graph goes."""
    model = _EXTRACTOR + "model/"
    yield from _folded(model + "Conv1/Conv2D", "trunk.stem.conv")
    yield from _folded(model + "Conv_1/Conv2D", "trunk.top")
    for i in range(17):
        block = model + ("expanded_conv" if i == 0 else f"block_{i}")
        if i:
            yield from _folded(f"{block}_expand/Conv2D", f"trunk.blocks.{i}.expand")
        yield from _folded(f"{block}_depthwise/depthwise", f"trunk.blocks.{i}.depthwise.conv")
        yield from _folded(f"{block}_project/Conv2D", f"trunk.blocks.{i}.project")
    for i in range(
        4
    ):  # the graph counts laterals and smoothers from the coarsest, we from the finest
        yield from _plain(
            _EXTRACTOR + "conv2d" + (f"_{i}" if i else ""), f"pyramid.laterals.{3 - i}"
        )
    for i in range(3):
        layer = _EXTRACTOR + "separable_conv2d" + (f"_{i}" if i else "") + "/separable_conv2d"
        yield f"{layer}/ReadVariableOp", f"pyramid.smooth.{2 - i}.depthwise.weight"
        yield from _folded(layer, f"pyramid.smooth.{2 - i}.pointwise")
    heads = (
        ("center_0", "center"),
        ("kpt_heatmap_0", "heatmap"),
        ("kpt_regress_0", "regression"),
        ("kpt_offset_0", "offset"),
    )
    for i, (theirs, ours) in enumerate(heads):
        layer = f"{_PREFIX}{theirs}/separable_conv2d_{i + 3}"
        yield f"{layer}/separable_conv2d/ReadVariableOp", f"{ours}.separable.depthwise.weight"
        yield f"{layer}/separable_conv2d/ReadVariableOp_1", f"{ours}.separable.pointwise.weight"
        yield f"{layer}/BiasAdd/ReadVariableOp", f"{ours}.separable.pointwise.bias"
        yield from _plain(f"{_PREFIX}{theirs}/conv2d_{i + 4}", f"{ours}.out")


def _folded(theirs: str, ours: str) -> Iterator[Rule]:
    """Yield the rules of a convolution with a folded batch norm."""
    yield f"{theirs}_weights", f"{ours}.weight"
    yield f"{theirs}_bn_offset", f"{ours}.bias"


def _plain(theirs: str, ours: str) -> Iterator[Rule]:
    """Yield the rules of a convolution with a bias."""
    yield f"{theirs}/Conv2D/ReadVariableOp", f"{ours}.weight"
    yield f"{theirs}/BiasAdd/ReadVariableOp", f"{ours}.bias"


def _nanodet_rules() -> Iterator[Rule]:
    """Yield where each convolution of the NanoDet graph goes; the graph numbers them in order."""
    layers = ["stem.conv"]
    for stage, blocks in enumerate((1, 2, 2, 3)):
        inner = [f"blocks.{b}.{part}" for b in range(blocks) for part in ("first", "second")]
        layers += [f"stages.{stage}.{layer}.conv" for layer in ("enter", *inner, "leave")]
    layers += [f"pan.laterals.{level}" for level in range(3)]
    layers += [f"heads.{level}.{layer}" for level in range(3) for layer in ("conv.conv", "out")]
    biases = [2 * i for i in range(28)] + [60, 62, 66, 68, 70, 72]
    for i, (ours, bias) in enumerate(zip(layers, biases, strict=True)):
        yield "PartitionedCall/split" + (f"_{i}" if i else ""), f"{ours}.weight"
        yield f"unknown_{bias}", f"{ours}.bias"
