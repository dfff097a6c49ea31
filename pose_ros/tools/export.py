"""A network as a file for other runtimes, checked against torch.

Takes uint8 RGB pictures (people, frames, h, w, 3) of the card's size, normalised inside. A video
network is also exported in the parts that a stream runs: --part encode (single pictures to
features), fuse (features of a window to heatmaps); of a recurrent one encode, step and recrop.
The lifting network takes windows of joints (people, frames, features), float32.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from pose_ros.nets.checkpoint import find_card, warn_if_untrained, with_latency
from pose_ros.nets.export import export_onnx, export_torchscript
from pose_ros.tools import cli

WRITERS = {"onnx": export_onnx, "torchscript": export_torchscript}
PARTS = ("whole", "encode", "fuse", "step", "recrop")


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; see ``--help``.

    Raises:
        WeightsError: an unknown network, or weights that are missing or damaged.
        ConfigError: the network has no such part or latency mode.
        ExportError: the file does not answer as torch does; nothing is left behind then.

    """
    args = _parse(argv)
    card = with_latency(find_card(args.name), args.latency_mode)
    warn_if_untrained(card)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.out.parent, prefix=".export-") as folder:
        draft = Path(folder) / args.out.name
        report = WRITERS[args.format](card, draft, args.part)
        os.replace(draft, args.out)
    return {
        "net": card.name,
        "trained": not card.untrained,
        "part": args.part,
        "format": args.format,
        "max_abs_diff": report["max_abs_diff"],
        "bytes": args.out.stat().st_size,
    }


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = cli.command("export", __doc__)
    parser.add_argument("name", metavar="NAME", help="network, the name of a card in models/")
    parser.add_argument("--format", choices=tuple(WRITERS), default="onnx", help="(default: onnx)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--part", choices=PARTS, default="whole", help="(default: whole)")
    parser.add_argument(
        "--latency-mode", default="auto", help="auto, causal, delayed_1 … (default: auto)"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    cli.run(main)
