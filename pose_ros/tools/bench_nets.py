"""What networks cost: on paper, and on this machine with and without kept features."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.nets.checkpoint import Card, list_cards, warn_if_untrained
from pose_ros.nets.export import cached_onnx, parts_of
from pose_ros.nets.runtime import open_runner, resolve_device
from pose_ros.nets.stream import StreamRunner, open_stream
from pose_ros.tools import cli

PEOPLE = (1, 4, 16)
#: Variants are timed until they ran so often, or, after RUNS_MIN times, all together for so long.
RUNS, RUNS_MIN, SECONDS_MAX = 30, 3, 4.0
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per network and number of people; networks without a card only on paper."""
    from pose_ros.nets.registry import list_nets

    cards = {card.name: card for card in list_cards() if card.kind == "pose"}
    paper = [name for name in list_nets() if name not in cards]
    for card in cards.values():
        warn_if_untrained(card)
    wanted = args.nets.split(",") if args.nets else [*cards, *paper]
    for name in cli.progress(wanted, len(wanted), "network"):
        card = cards.get(name) or paper_card(name)
        if card is None:
            continue
        facts = on_paper(card)
        if name in cards or args.all:
            yield from ({**facts, **row} for row in measured(card, args))
        else:
            empty = dict.fromkeys(("people", "ms", "ms_cached", "ms_one_frame", "memory_mb"))
            yield {**facts, **empty, "device": None}


def paper_card(name: str) -> Card | None:
    """Card, with random weights, of a network that has none; None when it is no pose network."""
    from pose_ros.nets.cost import build_meta, is_recurrent
    from pose_ros.nets.video import VideoPoseNet

    net = build_meta(name)
    if not isinstance(net, VideoPoseNet):
        return None
    return Card(
        name=name, kind="pose", architecture=name, input_hw=net.size_hw_px, **IMAGENET,
        channels="rgb", licence="", licence_notice="", trained=False, training_data="",
        untrained=True, frames=net.window.frames, lookahead_frames=net.window.lookahead,
        recurrent=is_recurrent(net),
    )  # fmt: skip


def on_paper(card: Card) -> dict[str, Any]:
    """Size, parameters and GMACs of a card's network, per person and key frame."""
    import torch

    from pose_ros.nets.cost import build_meta, count, gmacs, parameters_m
    from pose_ros.nets.video import VideoPoseNet

    net = build_meta(card.architecture, **card.overrides)
    size = f"{card.input_hw[0]}x{card.input_hw[1]}"
    facts: dict[str, Any] = {"net": card.name, "size": size, "trained": not card.untrained}
    facts |= {"frames": card.frames, "lookahead_frames": card.lookahead_frames, "mode": card.mode}
    facts["params_m"] = round(parameters_m(net), 2)
    if not isinstance(net, VideoPoseNet):
        clip = torch.empty(1, card.frames, 3, *card.input_hw, device="meta")
        with torch.device("meta"):
            return facts | {"gmacs": round(gmacs(lambda: net(clip)), 3), "gmacs_cached": None}
    cost = count(card.architecture, **card.overrides)
    cached = round(cost.cached, 3) if card.is_video else None
    return facts | {"gmacs": round(cost.uncached, 3), "gmacs_cached": cached}


def measured(card: Card, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row per number of people, from a fresh process: what others left would be reused."""
    device = resolve_device(args.device)
    if device == "cpu":
        for part in parts_of(card):
            cached_onnx(card, part)
    threads = args.threads or len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    for people in sorted(args.people or PEOPLE):
        with ProcessPoolExecutor(1, spawn) as process:
            yield process.submit(_measure, card, device, threads, people).result()


def _measure(card: Card, device: str, threads: int, people: int) -> dict[str, Any]:
    """Row of `measured`: medians of the variants, which take turns, and the peak of memory."""
    logging.disable(logging.WARNING)  # said before, by the process that asked
    before_mb = reset_peak_mb()
    row: dict[str, Any] = {"people": people, "ms": None, "ms_cached": None, "ms_one_frame": None}
    if card.is_video:
        row |= medians(stream_variants(open_stream(card, device, threads), people))
    else:
        clips = noise(people, card.frames, *card.input_hw, 3)
        row |= medians({"ms": partial(open_runner(card, device, threads), clips)})
    row["memory_mb"] = round(peak_mb() - before_mb, 1)
    return row | {"device": device, "threads": threads}


def stream_variants(runner: StreamRunner, people: int) -> dict[str, Callable[[], object]]:
    """Ways to answer a frame: nothing kept, all but the newest kept, and one frame's features."""
    h, w = runner.card.input_hw
    ids = np.arange(people)
    crops = np.tile(np.eye(2, 3, dtype=np.float32), (people, 1, 1))
    shown = noise(people * runner.length, h, w, 3)
    newest = runner.length - 1

    def look() -> None:
        nonlocal newest
        newest += 1
        numbers = np.arange(newest - runner.length + 1, newest + 1)
        count = len(runner.wanted(ids, crops, numbers))
        runner.run(ids, crops, numbers, newest * 33_333_333, shown[:count])

    def look_anew() -> None:
        runner.reset()
        look()

    def encode() -> None:
        features = runner.parts.run("encode", shown[:people])
        runner.parts.numpy(features[0])  # waits for a GPU

    if runner.card.recurrent:  # there is nothing that could be kept of a frame
        return {"ms": look, "ms_one_frame": encode}
    return {"ms": look_anew, "ms_cached": look, "ms_one_frame": encode}


def medians(variants: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each variant; they take turns, after one round to warm up."""
    ms: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    begin = time.perf_counter()
    for run in range(RUNS):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            ms[name].append((time.perf_counter() - start) * 1e3)
        if run + 1 >= RUNS_MIN and time.perf_counter() - begin > SECONDS_MAX:
            break
    return {name: round(float(np.median(values)), 2) for name, values in ms.items()}


def noise(*shape: int) -> np.ndarray:
    """Reproducible pictures."""
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def reset_peak_mb() -> float:
    """Forget this process's peak memory, and return what it has in RAM now, in MB (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """Most memory that this process had in RAM since `reset_peak_mb`, in MB (Linux)."""
    return _status_mb("VmHWM")


def _status_mb(field: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench nets``."""
    parser.add_argument("--nets", metavar="A,B", help="nets: only these (default: all)")
    parser.add_argument(
        "--all", action="store_true", help="nets: time those without a card, too (minutes)"
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="nets: CPU threads (default: all cores)"
    )
