"""Weight files: the safetensors format (no pickle), read and written with numpy.

A file is eight bytes (the header's length), a JSON header, and the raw little-endian arrays. The
`safetensors` library reads and writes the same files; these lines save a dependency on robots.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.errors import WeightsError

DTYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}


def encode_tensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of a weight file; the same arrays always give the same bytes."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header, chunks, offset = {}, [], 0
    for name, array in sorted(tensors.items()):
        chunk = np.ascontiguousarray(array).tobytes()
        shape = list(array.shape)
        header[name] = {
            "dtype": names[array.dtype],
            "shape": shape,
            "data_offsets": [offset, offset + len(chunk)],
        }
        chunks.append(chunk)
        offset += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)


def decode_tensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in the bytes of a weight file; `path` is for messages.

    Raises:
        WeightsError: the bytes are not a whole weight file.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {name: _array(entry, data, 8 + size) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: expected a whole safetensors file, got {len(data)} bytes ({error})"
        ) from error


def _array(entry: dict[str, Any], data: bytes, base: int) -> np.ndarray:
    """Return one array; a wrong length is a ValueError."""
    start, end = entry["data_offsets"]
    dtype: np.dtype[Any] = DTYPES[entry["dtype"]]
    array: np.ndarray = np.frombuffer(data[base + start : base + end], dtype)
    return array.reshape(entry["shape"])
