"""How steady and how right replayed skeletons are: numbers and a page of plots."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.steadiness import Jitter, bone_cv
from pose_ros.core.values import FloatArray, PoseResult, TrackState
from pose_ros.errors import SourceError
from pose_ros.tools import angle_plot, gait

#: A skeleton belongs to a true one when its joints are this close on average, in true heights.
MATCH_HEIGHTS = 0.25

Truth = dict[int, dict[int, FloatArray]]  # stamp_ns: true id: joints (J, 2), NaN unknown


def read_truth(path: Path) -> Truth:
    """True skeletons by stamp and id from the JSON lines of ``tools.track``.

    Raises:
        SourceError: the file cannot be read or a line has another form.

    """
    truth: Truth = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            truth[int(record["stamp_ns"])] = {
                int(person["id"]): np.array(person["keypoints_px"], np.float32)[:, :2]
                for person in record["people"]
            }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SourceError(
            f"{path}: expected JSON lines with stamp_ns and people, as of tools.track: {error!r}"
        ) from error
    return truth


def make(
    results: list[PoseResult], ms: list[float], skeleton: Skeleton, truth: Truth | None
) -> dict[str, Any]:
    """Report of a run; what needs a truth or 3-D that is not there is null.

    ``jitter_px`` is that of the published joints, ``jitter_raw_px`` of the same joints before
    refinement.
    """
    raw_px, px = jitter_px(results) or (None, None)
    tracked = [r.tracks.ids[r.tracks.state == TrackState.TRACKED].tolist() for r in results]
    report: dict[str, Any] = {
        "frames": len(results),
        "people_max": max(map(len, tracked), default=0),
        "ids": sorted({i for ids in tracked for i in ids}),
        "id_switches": None,
        "jitter_px": px,
        "jitter_raw_px": raw_px,
        "bone_cv": _bone_cv(results, skeleton),
        "angles": _angles(results, skeleton),
        "latency_ms": _percentiles(ms),
        "accuracy": None,
    }
    if truth is not None:
        report |= accuracy(results, truth)
    return report


def jitter_px(results: list[PoseResult]) -> tuple[float, float] | None:
    """Jitter of the sure joints before and after refinement; None when there are none."""
    jitter = Jitter()
    for result in results:
        jitter.add(result)
    mean = jitter.mean_px
    return (round(mean[0], 3), round(mean[1], 3)) if mean is not None else None


def _bone_cv(results: list[PoseResult], skeleton: Skeleton) -> float | None:
    """Spread of the 3-D bones; None without 3-D."""
    bodies = [result.body.poses for result in results if result.body is not None]
    if not bodies:
        return None
    ids, xyz_m = (np.concatenate([getattr(b, key) for b in bodies]) for key in ("ids", "xyz_m"))
    spread = bone_cv(ids, xyz_m, skeleton)
    return None if spread is None else round(spread, 4)


def _angles(results: list[PoseResult], skeleton: Skeleton) -> dict[str, Any] | None:
    walk = gait.walker(gait.moments(results), skeleton)
    return None if walk is None else gait.summary(walk)


def accuracy(results: list[PoseResult], truth: Truth) -> dict[str, Any]:
    """Error of the joints, share of people found, and changes of id, against a truth."""
    miss: list[FloatArray] = []
    last: dict[int, int] = {}
    switches = people = found = 0
    for result in results:
        true = truth.get(result.stamp_ns, {})
        people += len(true)
        for true_id, row in match(result, true).items():
            found += 1
            miss.append(np.linalg.norm(result.shown.xy_px[row] - true[true_id], axis=1))
            track = int(result.tracks.ids[row])
            switches += last.get(true_id, track) != track
            last[true_id] = track
    errors = np.concatenate(miss) if miss else np.zeros(0)
    errors = errors[np.isfinite(errors)]
    mean = round(float(errors.mean()), 3) if len(errors) else None
    return {
        "id_switches": switches,
        "accuracy": {"mean_px": mean, "found": round(found / people, 4) if people else None},
    }


def match(result: PoseResult, true: dict[int, FloatArray]) -> dict[int, int]:
    """Row of the result for each true person that was found."""
    keys = list(true)
    if not keys or len(result.poses) == 0:
        return {}
    joints = np.stack([true[key] for key in keys])
    distance = np.linalg.norm(joints[:, None] - result.shown.xy_px[None], axis=3)
    known = np.isfinite(distance)
    mean = np.where(known, distance, 0).sum(axis=2) / np.maximum(known.sum(axis=2), 1)
    height = np.nanmax(joints[..., 1], axis=1) - np.nanmin(joints[..., 1], axis=1)
    cost = np.where(known.any(axis=2), mean / np.maximum(height, 1.0)[:, None], 1e3)
    rows, cols = linear_sum_assignment(cost)
    return {keys[r]: int(c) for r, c in zip(rows, cols, strict=True) if cost[r, c] < MATCH_HEIGHTS}


def write_html(
    path: Path,
    report: dict[str, Any],
    told: tuple[list[PoseResult], Skeleton],
    ms: list[float],
) -> None:
    """Page with the numbers and, where matplotlib is installed, the plots.

    ``told`` are the results and the joint set they are in.
    """
    results, skeleton = told
    walk = gait.walker(gait.moments(results), skeleton)
    angles = angle_plot.figure(walk) if walk is not None else None
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(json.dumps(value))}</td></tr>"
        for name, value in report.items()
    )
    title = html.escape(f"Replay of {report['topic']}")
    body = f"<h1>{title}</h1><table>{rows}</table>{_plots(results, ms)}{_picture(angles)}"
    style = (
        "body{font-family:sans-serif;margin:2em}td{padding:.2em 1em;border-bottom:1px solid #ddd}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>replay</title><style>{style}</style>{body}"
    path.write_text(page, encoding="utf-8")


def _plots(results: list[PoseResult], ms: list[float]) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "<p>Install matplotlib for plots.</p>"
    figure = Figure(figsize=(10, 7), layout="constrained")
    people, confidence, latency = figure.subplots(3, 1)
    start = results[0].stamp_ns if results else 0
    t = np.array([(r.stamp_ns - start) * 1e-9 for r in results])
    for state in TrackState:
        count = [int((r.tracks.state == state).sum()) for r in results]
        people.step(t, count, where="post", label=state.name.lower())
    people.set(ylabel="people")
    people.legend(ncols=4, fontsize="small")
    for track_id in sorted({i for r in results for i in r.tracks.ids.tolist()}):
        rows = [(r, np.flatnonzero(r.tracks.ids == track_id)) for r in results]
        score = [float(r.poses.score[row[0]].mean()) if len(row) else np.nan for r, row in rows]
        confidence.plot(t, score, label=f"id {track_id}")
    confidence.set(ylabel="mean joint score", ylim=(0, 1))
    latency.plot(t, ms, linewidth=0.8)
    latency.set(ylabel="processing, ms", xlabel="time of the images, s")
    return _picture(figure)


def _picture(figure: Any) -> str:
    if figure is None:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="plots" src="data:image/png;base64,{data}">'


def _percentiles(ms: list[float]) -> dict[str, float]:
    if not ms:
        return {}
    p50, p95, p99 = np.percentile(ms, [50, 95, 99])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "p99": round(float(p99), 2)}
