"""The picture of a walk: knee and hip flexion over time and over the gait cycle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pose_ros.tools.gait import GAP_S, JOINTS, SIDES, Walk

COLOURS = ("tab:blue", "tab:orange")  # left, right, as in the overlay


def write(path: Path, walk: Walk) -> bool:
    """Write the picture as PNG; False where matplotlib is not installed."""
    drawn = figure(walk)
    if drawn is None:
        return False
    drawn.savefig(path, dpi=100)
    return True


def figure(walk: Walk) -> Any:
    """Matplotlib figure of the walk, two rows (knee, hip); None without matplotlib.

    Left: flexion over time, a band of one standard deviation, grey where the angle is not
    MEASURED: it rests on filled-in joints, or on a twist that the limb does not show. Right, when
    there are gait cycles: each of them and their mean.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    cycles = {
        (joint, side): walk.cycles(joint, side) for joint in JOINTS for side in range(len(SIDES))
    }
    striding = any(len(found) for found in cycles.values())
    drawn = Figure(figsize=(13 if striding else 9, 6), layout="constrained")
    widths = [2.2, 1.0] if striding else [1.0]
    axes = drawn.subplots(
        2, len(widths), squeeze=False, sharey="row", gridspec_kw={"width_ratios": widths}
    )
    for row, joint in enumerate(JOINTS):
        _along_time(axes[row, 0], walk, joint)
        if striding:
            _over_cycle(axes[row, 1], {s: cycles[joint, s] for s in range(len(SIDES))})
    axes[-1, 0].set_xlabel("time, s")
    axes[0, 0].set_title(
        f"person {walk.id}; band: one standard deviation; grey: INFERRED (a joint filled in, or "
        "a twist that the limb does not show)",
        fontsize="small",
    )
    if striding:
        axes[0, 1].set_title("mean over gait cycles", fontsize="small")
        axes[-1, 1].set_xlabel("gait cycle from heel strike, %")
    return drawn


def _along_time(axes: Any, walk: Walk, joint: str) -> None:
    places = np.flatnonzero(np.diff(walk.t_s) > GAP_S) + 1
    t_s = np.insert(walk.t_s, places, np.nan)
    filled = ~walk.seen[joint] & np.isfinite(walk.flexion_deg[joint])
    step_s = float(np.median(np.diff(walk.t_s))) if len(walk.t_s) > 1 else 0.0
    for begin, end in _runs(filled.any(axis=1)):
        axes.axvspan(walk.t_s[begin] - step_s / 2, walk.t_s[end] + step_s / 2, color="0.88", lw=0)
    for side, colour in enumerate(COLOURS):
        value = np.insert(walk.flexion_deg[joint][:, side], places, np.nan)
        std = np.insert(walk.std_deg[joint][:, side], places, np.nan)
        axes.fill_between(t_s, value - std, value + std, color=colour, alpha=0.2, lw=0)
        axes.plot(t_s, value, color=colour, linewidth=1.2, label=f"{SIDES[side]} {joint}")
        for strike in walk.heel_strikes(side):
            axes.axvline(strike, color=colour, linewidth=0.6, linestyle=":")
    axes.set(ylabel=f"{joint} flexion, degrees", **_limits(walk, joint))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, fontsize="small", loc="upper right")


def _limits(walk: Walk, joint: str) -> dict[str, tuple[float, float]]:
    """Of the curves: a band of "could be anything" may leave the picture."""
    value = walk.flexion_deg[joint]
    if not np.isfinite(value).any():
        return {}
    low, high = float(np.nanmin(value)), float(np.nanmax(value))
    return {"ylim": (min(low, 0.0) - 15.0, max(high, 30.0) + 20.0)}


def _over_cycle(axes: Any, cycles: dict[int, np.ndarray]) -> None:
    percent = np.arange(101)
    for side, found in cycles.items():
        if len(found) == 0:
            continue
        mean, spread = found.mean(axis=0), found.std(axis=0)
        colour, count = COLOURS[side], len(found)
        label = f"{SIDES[side]}, {count} cycle{'s' if count > 1 else ''}"
        axes.plot(percent, found.T, color=colour, linewidth=0.5, alpha=0.5)
        axes.fill_between(percent, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
        axes.plot(percent, mean, color=colour, linewidth=2, label=label)
    axes.set(xlim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper right")


def _runs(which: np.ndarray) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], which, [False]]).astype(int)))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
