"""Labels of few frames to all frames of a video or a bag.

  propagate --video V.mp4 --labels FEW.json --out DENSE.json --overlay CHECK.mp4
  propagate --video BAG --topic /camera/image_raw --labels FEW.json --out DENSE.json
  propagate --video V.mp4 --labels ALL.json --out DENSE.json --interval 7       how good is it?
  propagate --video V.mp4 --labels FEW.json --out DENSE.json --net stdpose_movenet --finetune 300

FEW is COCO JSON (pictures with frame_number or stamp_ns), a CVAT 1.1 XML export or Label Studio's
JSON export. DENSE is COCO JSON with keypoint_scores; it is training data as
'video_coco:DENSE.json?video=V.mp4' or 'rosbag:BAG?labels=DENSE.json' (data.train of a recipe).

Methods: auto (default) fuses flow, curve and the network anchored at the labels, and had the least
error from T = 5 on (docs/log.md, with where it does not); flow (OpenCV, from both labels), curve
(cubic through the labels), interpolate, copy, network (a single-frame card), anchored, stdpose
(the default when --net names an STDPose).
With --interval every T-th labelled frame is used and the others judge the answer.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from pose_ros.core.draw import draw_skeletons
from pose_ros.core.values import TrackState
from pose_ros.core.video import VideoWriter
from pose_ros.errors import ConfigError, PoseRosError, WeightsError
from pose_ros.nets.stdpose import STDPose, labelled_frames
from pose_ros.training.footage import Footage, attach, footage_beside, open_footage
from pose_ros.training.label_files import DenseLabels, read_labels, write_labels
from pose_ros.training.metrics.pck import box_side_px, errors, share_within
from pose_ros.training.predict import Network, open_network
from pose_ros.training.propagation import (
    Estimate,
    Sparse,
    copied,
    finish,
    finished_boxes,
    in_whole,
    interpolated,
    near_labels,
)
from pose_ros.training.propagation_finetune import Tuned, fine_tune
from pose_ros.training.propagation_flow import flowed
from pose_ros.training.propagation_fuse import curved, fused
from pose_ros.training.propagation_nets import anchored, looked_at, propagated

_log = logging.getLogger(__name__)

PLAIN: dict[str, Callable[[Sparse], Estimate]] = {
    "copy": copied,
    "interpolate": interpolated,
    "curve": curved,
    "flow": flowed,
}
METHODS = ("auto", *PLAIN, "network", "anchored", "stdpose")
NET = "movenet_thunder"


def estimate(video: Sparse, method: str, network: Network | None, reach: int) -> Estimate:
    """Run a method by name.

    Raises:
        ConfigError: the network is not of the kind that the method needs.

    """
    if method in PLAIN:
        return PLAIN[method](video)
    if network is None:
        raise ConfigError(f"method {method} needs a network (--net)")
    if method == "stdpose":
        return propagated(video, network, reach)
    looked = looked_at(video, network)
    if method == "auto":
        return fused(video, looked)
    return looked if method == "network" else anchored(video, looked)


def judge(truth: Sparse, video: Sparse, found: Estimate) -> dict[str, float]:
    """Errors on frames that are labelled in ``truth`` and not in ``video``, of joints known there.

    ``px`` and ``share`` (of the box's longer side) are means over joints that were found;
    ``pck05`` and ``pck10`` are shares of all labelled joints within 0.05 and 0.1 of that side.
    """
    rest = truth.labelled & ~video.labelled
    where = np.argwhere(truth.present & rest)
    if len(where) == 0:
        return {"frames": 0, "joints": 0}
    p, t = where.T
    side = box_side_px(truth.box_xyxy_px[p, t])
    known = np.where(truth.visible[p, t, :, None] > 0, truth.xy_px[p, t], np.float32("nan"))
    error = errors(found.xy_px[p, t], known, side)
    hit = np.isfinite(error)
    return {
        "frames": int(rest.sum()),
        "joints": int((~np.isnan(error)).sum()),
        "px": round(float((error * side[:, None])[hit].mean()), 3) if hit.any() else float("nan"),
        "share": round(float(error[hit].mean()), 5) if hit.any() else float("nan"),
        "pck05": round(share_within(error, 0.05), 4),
        "pck10": round(share_within(error, 0.1), 4),
        "missing": round(float(np.isinf(error).sum() / max((~np.isnan(error)).sum(), 1)), 4),
    }


def every(video: Sparse, interval: int) -> Sparse:
    """The same video with every ``interval``-th of its labelled frames, by the paper's rule."""
    marks = np.flatnonzero(video.labelled)
    return video.only([int(marks[i]) for i in labelled_frames(len(marks), interval)])


def open_for(method: str, name: str, device: str) -> Network | None:
    """Open the network that a method needs, if any.

    Raises:
        WeightsError: no such card, or its weights are missing.

    """
    if method in PLAIN:
        return None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return open_network(name, device)


def overlay(path: Path, footage: Footage, video: Sparse, found: Estimate, boxes: Any) -> None:
    """Write the video with the labels drawn; given labels are marked, doubtful ones are faint."""
    ids = np.arange(1, len(video.tracks) + 1)
    states = np.full(len(ids), TrackState.TRACKED)
    with VideoWriter(path, footage.rate_hz) as out:
        for t in _bar(range(len(footage)), "overlay"):
            rgb = footage.images[t].read().copy()
            plain = rgb.copy()
            there = np.flatnonzero(np.isfinite(boxes[:, t]).all(axis=1))
            shown = (ids[there], states[there], found.xy_px[there, t])
            sure = np.where(found.score[there, t] >= 0.5, 1.0, 0.0)
            draw_skeletons(plain, *shown, found.score[there, t], video.skeleton, boxes[there, t])
            rgb = cv2.addWeighted(rgb, 0.55, plain, 0.45, 0)
            draw_skeletons(rgb, *shown, sure, video.skeleton)
            _caption(rgb, t, bool(video.labelled[t]))
            out.write(rgb)


def _caption(rgb: np.ndarray, time: int, labelled: bool) -> None:
    text, size = f"{time} {'LABELLED' if labelled else 'propagated'}", rgb.shape[0] / 900
    colour = (90, 230, 90) if labelled else (240, 240, 240)
    at = (round(12 * size), round(34 * size))
    cv2.putText(rgb, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 5, cv2.LINE_AA)
    cv2.putText(rgb, text, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 2, cv2.LINE_AA)


def tuned(video: Sparse, network: Network | None, args: argparse.Namespace) -> Tuned | None:
    """Fine-tune STDPose where asked to.

    Raises:
        WeightsError: an untrained network without fine-tuning.

    """
    if network is None or not isinstance(network.module, STDPose):
        if args.finetune:
            raise ConfigError(
                "--finetune is for an STDPose: --net stdpose_movenet --method stdpose"
            )
        return None
    if not args.finetune:
        if not network.trained:
            raise WeightsError(
                f"{network.name} is untrained, its joints would mean nothing: add --finetune 300 "
                "(some minutes on a CPU), name trained weights, or leave --net away"
            )
        return None
    with tempfile.TemporaryDirectory(prefix="propagate_") as folder:
        return fine_tune(video, network, args.finetune, Path(folder), args.seed)


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Run the command; see ``--help``."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads or torch.get_num_threads())
    method = args.method or ("stdpose" if "stdpose" in (args.net or "") else "auto")
    name = args.net or ("stdpose_movenet" if method == "stdpose" else NET)
    footage = open_footage(
        Path(args.video) if args.video else footage_beside(Path(args.labels)), args.topic
    )
    labels = read_labels(Path(args.labels), args.joints, footage.size_px)
    truth = attach(labels, footage)
    video = every(truth, args.interval) if args.interval else truth
    network = open_for(method, name, args.device)
    learned = tuned(video, network, args)
    network = learned.network if learned else network
    some, part = near_labels(video, args.reach)
    found = in_whole(estimate(some, method, network, args.reach), part, len(footage))
    found = finish(video, found, args.reach, args.score_min)
    boxes = finished_boxes(video, found)
    about = {
        "description": f"Labels of {video.labelled.sum()} frames propagated to all",
        "method": method,
        "net": network.name if network else None,
        "labels": Path(args.labels).name,
    }
    write_labels(Path(args.out), dense_labels(video, footage, found, boxes, about))
    if args.overlay:
        overlay(Path(args.overlay), footage, video, found, boxes)
    return _summary(args, (truth, video), found, about, learned)


def dense_labels(
    video: Sparse, footage: Footage, found: Estimate, boxes: Any, about: dict[str, Any]
) -> DenseLabels:
    """Return what is written."""
    return DenseLabels(
        skeleton=video.skeleton,
        size_px=video.size_px,
        tracks=video.tracks,
        labelled=video.labelled,
        stamps_ns=footage.stamps_ns,
        xy_px=found.xy_px,
        score=found.score,
        visible=video.visible,
        box_xyxy_px=boxes,
        about=about,
    )


def _summary(
    args: argparse.Namespace,
    videos: tuple[Sparse, Sparse],
    found: Estimate,
    about: dict[str, Any],
    learned: Tuned | None,
) -> dict[str, Any]:
    truth, video = videos
    frames = len(video.images)
    known = found.score[:, ~video.labelled]
    answer: dict[str, Any] = {
        "labelled_ratio": round(float(video.labelled.sum()) / frames, 4),
        "frames": frames,
        "labelled": int(video.labelled.sum()),
        "people": len(video.tracks),
        "joints": len(video.skeleton),
        "method": about["method"],
        "net": about["net"],
        "score_mean": round(float(known[known > 0].mean()), 4) if (known > 0).any() else None,
        "out": args.out,
    }
    if learned is not None:
        answer["finetune"] = {
            "windows": learned.windows,
            "steps": learned.steps,
            "loss": [round(learned.first_loss, 5), round(learned.last_loss, 5)],
        }
    if args.interval:
        answer["interval"] = args.interval
        answer["held_out"] = judge(truth, video, found)
    return answer


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m pose_ros.training.propagate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--labels", required=True, metavar="FEW", help="labels of few frames")
    add("--out", required=True, metavar="DENSE.json", help="labels of all frames, COCO JSON")
    add("--video", help="video, folder of pictures or bag (default: the video beside FEW)")
    add("--topic", default="", help="image topic of a bag (default: its only one)")
    add("--joints", default="", help="joint set, if the labels do not name their joints")
    add("--interval", type=_positive, metavar="T", help="use every T-th labelled frame only")
    add("--method", choices=METHODS, help="default: auto; stdpose when --net is an STDPose")
    add("--net", help=f"card of the network (default: {NET}, for stdpose stdpose_movenet)")
    add("--finetune", type=_positive, metavar="STEPS", help="train STDPose on the labels first")
    add("--reach", type=_positive, default=15, metavar="FRAMES",
        help="furthest from labels that lie on one side only (default: %(default)s)")  # fmt: skip
    add("--score-min", type=float, default=0.2, help="less sure joints are left out (%(default)s)")
    add("--overlay", metavar="FILE.mp4", help="video with the labels drawn, to check them")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--threads", type=int, default=0, help="CPU threads, 0: torch's choice")
    add("--seed", type=int, default=0, help="of the fine-tuning (default: %(default)s)")
    return made


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _bar(items: range, what: str) -> Any:
    return tqdm(items, desc=what, disable=not sys.stderr.isatty())


def command(main: Callable[[Sequence[str]], dict[str, Any]], argv: Sequence[str]) -> int:
    """Run a command for a shell: the answer on stdout, errors in one line on stderr."""
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
    sys.exit(command(main, sys.argv[1:]))
