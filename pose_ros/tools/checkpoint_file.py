"""Checkpoint files of others, read as data only: whatever could run is refused or left out."""

from __future__ import annotations

import pickle
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pose_ros.errors import WeightsError
from pose_ros.nets.tensorfile import decode_tensors

#: What a checkpoint of tensors may be made of.
HARMLESS = {
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("torch", "Size"),
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *(("builtins", name) for name in ("int", "float", "bool", "str", "bytes", "list", "dict",
                                      "tuple", "set", "frozenset", "complex", "slice", "range")),
}  # fmt: skip
#: Whose objects old checkpoints carry beside the tensors: replaced by nothing, never imported.
STUBBED = ("mmcv", "mmengine", "mmpose", "mmdet", "yacs", "numpy", "_codecs", "easydict", "addict")


class _Code(Exception):
    """A checkpoint names something that is not data."""


class _Nothing:
    """Stands for an object of another library: takes everything, does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        """Take an item of a list."""

    def extend(self, values: object) -> None:
        """Take items of a list."""


class _DataUnpickler(pickle.Unpickler):
    """Reads tensors and plain containers; refuses whatever could run."""

    def find_class(self, module: str, name: str) -> Any:
        """Class or function that a file names, if it is harmless; `_Code` if it is not."""
        module = module.replace("__builtin__", "builtins")  # its name in files of protocol 2
        if (module, name) in HARMLESS:
            return super().find_class(module, name)
        if module.split(".")[0] in STUBBED:
            return _Nothing
        raise _Code(f"{module}.{name}")


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Content of a safetensors or torch file.

    Raises:
        WeightsError: it is missing, truncated, no checkpoint, or has code in it.

    """
    if not path.is_file():
        raise WeightsError(f"{path}: expected a checkpoint file, found none")
    if path.suffix == ".safetensors":
        arrays = decode_tensors(path.read_bytes(), path)
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    try:
        content = _load(path)
    except _Code as error:
        raise WeightsError(
            f"{path}: expected tensors only, got code ({error}); refused, nothing of it was run"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError,
            pickle.UnpicklingError) as error:  # fmt: skip
        detail = " ".join(str(error).split())[:120]
        raise WeightsError(
            f"{path}: expected a whole checkpoint of torch or safetensors, got "
            f"{path.stat().st_size} bytes that cannot be read (truncated?): {detail}"
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: expected named tensors, got {type(content).__name__}")
    return content


def _load(path: Path) -> object:
    """Read tensors only; where other libraries' objects stand beside them, without those."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        data_only = types.SimpleNamespace(
            __name__="data_only",
            Unpickler=_DataUnpickler,
            load=lambda file, **options: _DataUnpickler(file, **options).load(),
        )
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=data_only)
