"""Config dataclasses as ROS parameters: declared, read back, validated, changed while live."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from pose_ros.core.config import parameters, with_values
from pose_ros.errors import ConfigError

Config = TypeVar("Config")


def descriptor(item: dataclasses.Field) -> ParameterDescriptor:
    """Description, range and mutability of a parameter."""
    meta = item.metadata
    unit = f" [{meta['unit']}]" if meta["unit"] else ""
    words = f" (one of: {', '.join(meta['one_of'])})" if meta["one_of"] else ""
    out = ParameterDescriptor(description=meta["doc"] + unit + words, read_only=not meta["live"])
    low, high = meta["ge"], meta["le"]
    if low is None or high is None:
        return out
    if isinstance(item.default, int):
        out.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    else:
        out.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high))
        ]
    return out


def declare(node: Node, config: Config) -> Config:
    """Declare every parameter of ``config`` and return it with the values the node was given.

    Raises:
        ConfigError: for a value of another type or out of range.

    """
    values = {}
    for name, item, default in parameters(config):
        try:
            values[name] = node.declare_parameter(name, default, descriptor(item)).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(_refusal(name, item, error)) from error
    return with_values(config, values)


def on_change(
    node: Node, current: Callable[[], Any], apply: Callable[[Any], None]
) -> Callable[[list[Parameter]], SetParametersResult]:
    """Let the live parameters of ``current()`` change: ``apply`` gets the new config."""

    def change(changes: list[Parameter]) -> SetParametersResult:
        config = current()
        known = {name for name, _, _ in parameters(config)}
        values = {p.name: p.value for p in changes if p.name in known}
        try:
            if values:
                apply(with_values(config, values))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(change)
    return change


def _refusal(name: str, item: dataclasses.Field, error: Exception) -> str:
    meta = item.metadata
    wanted = type(item.default).__name__
    if meta["ge"] is not None and meta["le"] is not None:
        wanted += f" from {meta['ge']} to {meta['le']} {meta['unit']}".rstrip()
    hint = " (write 1.0, not 1)" if isinstance(item.default, float) else ""
    if isinstance(item.default, str):
        hint = " (in quotes: YAML reads a bare on, off, yes, no or number as something else)"
    return f"parameter '{name}': expected {wanted}{hint}; {error}"
