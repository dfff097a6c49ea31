"""Parameters of the pose node as ``config/pose.yaml`` or as the README's table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import Field
from typing import Any

from pose_ros.core.config import PipelineConfig, parameters
from pose_ros.core.node_config import NodeConfig

HEADER = """\
# Parameters of pose_node: defaults, units, ranges. Generated, do not edit:
#   scripts/run python -m pose_ros.tools.dump_config > config/pose.yaml
"""


def main(argv: list[str] | None = None) -> int:
    """Print the YAML, or the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table instead")
    args = parser.parse_args(argv)
    print(markdown() if args.markdown else yaml(), end="")
    return 0


def yaml() -> str:
    """Parameter file with a comment per parameter."""
    lines = [HEADER + "pose_node:", "  ros__parameters:"]
    group: list[str] = []
    for name, item, value in _all():
        *path, leaf = name.split(".")
        if path != group:
            lines += [f"{_indent(depth)}{part}:" for depth, part in enumerate(path)]
            group = path
        indent = _indent(len(path))
        lines.append(f"{indent}# {item.metadata['doc']}; {_limits(item)}")
        lines.append(f"{indent}{leaf}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """Table with a row per parameter."""
    rows = ["| parameter | default | unit | range | live | meaning |", "|---|---|---|---|---|---|"]
    for name, item, value in _all():
        meta = item.metadata
        live = "yes" if meta["live"] else "no"
        rows.append(
            f"| `{name}` | `{json.dumps(value)}` | {meta['unit']} | {_range(item)} | {live} "
            f"| {meta['doc']} |"
        )
    return "\n".join(rows) + "\n"


def _all() -> Iterator[tuple[str, Field, Any]]:
    yield from parameters(NodeConfig())
    yield from parameters(PipelineConfig())


def _indent(depth: int) -> str:
    return "  " * (depth + 2)


def _range(item: Field) -> str:
    meta = item.metadata
    if meta["one_of"]:
        return ", ".join(meta["one_of"])
    if meta["ge"] is None or meta["le"] is None:
        return ""
    return f"{meta['ge']:g} to {meta['le']:g}"


def _limits(item: Field) -> str:
    meta = item.metadata
    parts = [f"{_range(item)} {meta['unit']}".strip()] if _range(item) else []
    return "; ".join([*parts, "may change while running" if meta["live"] else "fixed at start"])


if __name__ == "__main__":
    raise SystemExit(main())
