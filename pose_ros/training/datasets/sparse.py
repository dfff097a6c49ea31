"""Few labels of clips that have many: every T-th frame of a run, as paper 003 counts them.

A run is the longest stretch of a clip in which every video frame is labelled; labels outside it
are left away, too. The rule of which frames keep theirs is `nets.stdpose.labelled_frames`, by
which the paper's ratios come out (T = 7: 5 of 30 frames, 16.7 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pose_ros.errors import ConfigError
from pose_ros.nets.stdpose import labelled_frames
from pose_ros.training.datasets.clips import Clip, FrameLabel


def longest_run(clip: Clip) -> range:
    """Positions in a clip of its longest run of labelled, consecutive frames; the first of equals.

    Empty when no frame is labelled.
    """
    best, first = range(0), 0
    for i, frame in enumerate(clip.frames):
        if not frame.labelled:
            first = i + 1
            continue
        if i > first and frame.number != clip.frames[i - 1].number + 1:
            first = i
        if i + 1 - first > len(best):
            best = range(first, i + 1)
    return best


def given_frames(clip: Clip, interval: int) -> list[int]:
    """Positions in a clip of the frames that keep their labels: every ``interval``-th of its run.

    None with interval 0.
    """
    run = longest_run(clip)
    if not interval or not len(run):
        return []
    return [run[i] for i in labelled_frames(len(run), interval)]


def sparse_clips(clips: Sequence[Clip], interval: int) -> list[Clip]:
    """Clips of which every ``interval``-th frame of a run is labelled; all as they are for 0.

    Raises:
        ConfigError: a negative interval, or nothing is left.

    """
    if interval < 0:
        raise ConfigError(f"interval: expected 0 (all labels) or more, got {interval}")
    if not interval:
        return list(clips)
    thinned = []
    for clip in clips:
        kept = set(given_frames(clip, interval))
        if kept:
            frames = tuple(
                frame if i in kept else unlabelled(frame) for i, frame in enumerate(clip.frames)
            )
            thinned.append(replace(clip, frames=frames))
    if not thinned:
        raise ConfigError(f"interval={interval}: none of {len(clips)} clips has a labelled frame")
    return thinned


def unlabelled(frame: FrameLabel) -> FrameLabel:
    """The frame as if nobody had looked at it."""
    return replace(frame, people=[], labelled=False)
