"""The few array operations that numpy and torch spell differently, behind one name each.

The refiner's energy is written once and runs on numpy arrays (the live path) and on torch tensors
(the differentiable path). torch is never imported here: it is there already if a tensor comes in.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

#: A numpy array or a torch tensor.
Array = Any


class NumpyOps:
    """numpy's spelling."""

    sqrt = staticmethod(np.sqrt)
    where = staticmethod(np.where)
    stack = staticmethod(np.stack)
    concatenate = staticmethod(np.concatenate)
    zeros_like = staticmethod(np.zeros_like)
    isfinite = staticmethod(np.isfinite)
    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    einsum = staticmethod(np.einsum)

    @staticmethod
    def dot(x: Array, y: Array) -> Array:
        """Scalar products along the last axis."""
        return np.einsum("...i,...i->...", x, y)

    @staticmethod
    def peak(x: Array) -> Array:
        """Largest entry (B,) of every row of ``x`` (B, ...), at least 0."""
        return x.max(axis=tuple(range(1, x.ndim)), initial=0.0)

    @staticmethod
    def constant(value: Any, like: Array) -> Array:
        """``value`` as an array of the dtype of ``like``."""
        return np.asarray(value, like.dtype)

    @staticmethod
    def detach(x: Array) -> Array:
        """``x`` without its history."""
        return x


class TorchOps:
    """torch's spelling, for tensors of the device and dtype of those that came in."""

    def __init__(self, torch: Any) -> None:
        """Wrap the imported module."""
        self._torch = torch
        self.sqrt, self.where, self.stack = torch.sqrt, torch.where, torch.stack
        self.concatenate, self.zeros_like = torch.cat, torch.zeros_like
        self.isfinite, self.einsum = torch.isfinite, torch.einsum

    def maximum(self, x: Array, floor: Any) -> Array:
        """Elementwise maximum of a tensor and a tensor or number."""
        return x.clamp_min(floor) if isinstance(floor, int | float) else x.maximum(floor)

    def minimum(self, x: Array, ceiling: Any) -> Array:
        """Elementwise minimum of a tensor and a tensor or number."""
        return x.clamp_max(ceiling) if isinstance(ceiling, int | float) else x.minimum(ceiling)

    def dot(self, x: Array, y: Array) -> Array:
        """Scalar products along the last axis."""
        return (x * y).sum(-1)

    def peak(self, x: Array) -> Array:
        """Largest entry (B,) of every row of ``x`` (B, ...), at least 0."""
        return x.flatten(1).max(-1).values.clamp_min(0.0)

    def constant(self, value: Any, like: Array) -> Array:
        """``value`` as a tensor of the dtype and device of ``like``."""
        return self._torch.as_tensor(value, device=like.device).to(like.dtype)

    def detach(self, x: Array) -> Array:
        """``x`` without its history."""
        return x.detach()


def ops_of(x: Array) -> Any:
    """Operations for the library that ``x`` belongs to."""
    if isinstance(x, np.ndarray):
        return NumpyOps
    return TorchOps(sys.modules["torch"])


def nan_to(x: Array, value: float, ops: Any) -> Array:
    """``x`` with ``value`` in place of what is not finite."""
    return ops.where(ops.isfinite(x), x, ops.constant(value, x))
