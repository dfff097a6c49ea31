"""Draw samples of a dataset, to see with one's own eyes that labels and pictures belong together.

  inspect 'posetrack18:/data/pt18?split=val&frames=3&key=1' --out drawn
  inspect --list

One picture per sample: the frames of the window side by side, the box on the key frame, labelled
joints filled when visible and hollow when occluded; left orange, right blue.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import ByteArray
from pose_ros.errors import ConfigError, PoseRosError
from pose_ros.training.datasets import (
    ClipDataset,
    ClipSample,
    dataset_options,
    list_datasets,
    parse_spec,
)

LEFT, RIGHT, MIDDLE, BOX = (255, 140, 0), (40, 120, 255), (60, 200, 60), (255, 255, 255)
#: Height of a drawn frame in pixels.
HEIGHT = 480


def draw_sample(sample: ClipSample, height: int = HEIGHT) -> ByteArray:
    """(height, W, 3) the frames of a window side by side with their labels."""
    frames = []
    for time, image in enumerate(sample.images):
        rgb = image.read()
        scale = height / rgb.shape[0]
        size = (max(1, round(rgb.shape[1] * scale)), height)
        picture = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        if time == sample.key:
            _rectangle(picture, sample.box_xyxy_px * scale)
        _skeleton(picture, sample.xy_px[time] * scale, sample.visible[time], sample.skeleton)
        text = f"{sample.video} {int(sample.frame_index[time])} {sample.track.split('/')[-1]}"
        cv2.putText(picture, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, BOX, 1, cv2.LINE_AA)
        frames.append(picture)
    return np.concatenate(frames, axis=1)


def _rectangle(picture: ByteArray, box: np.ndarray) -> None:
    left, top, right, bottom = (round(float(edge)) for edge in box)
    cv2.rectangle(picture, (left, top), (right, bottom), BOX, 1, cv2.LINE_AA)


def _skeleton(picture: ByteArray, xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton) -> None:
    known = np.isfinite(xy).all(axis=1)
    places = [
        tuple(round(float(v)) for v in row) if k else (0, 0)
        for row, k in zip(xy, known, strict=True)
    ]
    for a, b in skeleton.edge_indices().tolist():
        if known[a] and known[b]:
            colour = _colour(skeleton.joints[a], skeleton.joints[b])
            cv2.line(picture, places[a], places[b], colour, 2, cv2.LINE_AA)
    for joint in np.flatnonzero(known).tolist():
        filled = -1 if visible[joint] == 2 else 1
        colour = _colour(skeleton.joints[joint], skeleton.joints[joint])
        cv2.circle(picture, places[joint], 4, colour, filled, cv2.LINE_AA)


def _colour(a: str, b: str) -> tuple[int, int, int]:
    for side, colour in (("left", LEFT), ("right", RIGHT)):
        if a.startswith(side) and b.startswith(side):
            return colour
    return MIDDLE


def summary(dataset: ClipDataset, indices: Sequence[int]) -> dict[str, Any]:
    """What a few samples say about a dataset."""
    drawn = [dataset[index] for index in indices]
    visible = np.array([sample.visible[sample.key] for sample in drawn])
    sides = np.array([np.ptp(sample.box_xyxy_px.reshape(2, 2), axis=0).max() for sample in drawn])
    return {
        "dataset": dataset.name,
        "samples": len(dataset),
        "skeleton": dataset.skeleton.name,
        "looked_at": len(drawn),
        "labelled_share": round(float((visible > 0).mean()), 4),
        "occluded_share": round(float((visible == 1).mean()), 4),
        "box_side_px_median": round(float(np.median(sides)), 1),
    }


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m pose_ros.training.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("spec", nargs="?", help="NAME:PATH?option=value&…")
    parser.add_argument("--list", action="store_true", help="name the datasets and their options")
    parser.add_argument("--out", default="inspected", help="folder (default: %(default)s)")
    parser.add_argument("--count", type=int, default=12, help="samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.list:
        for name in list_datasets():
            options = (f"{key}={value}" for key, value in dataset_options(name).items())
            sys.stdout.write(f"{name}: {' '.join(options)}\n")
        return {"datasets": list_datasets()}
    if not args.spec or args.count < 1:
        raise ConfigError("expected a dataset NAME:PATH?option=value and --count >= 1, or --list")
    dataset = parse_spec(args.spec)
    count = min(args.count, len(dataset))
    rng = np.random.default_rng(args.seed)
    indices = sorted(rng.choice(len(dataset), count, replace=False).tolist())
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for index in indices:
        picture = cv2.cvtColor(draw_sample(dataset[index]), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(out / f"{dataset.name}_{index:07d}.jpg"), picture)
    return {**summary(dataset, indices), "out": str(out), "files": count}


def command(argv: Sequence[str]) -> int:
    """Run the command for a shell: the answer on stdout, errors in one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        answer = main(argv)
    except (PoseRosError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
