"""What REP-155 says of people in the picture: messages of hri_msgs, where that is installed.

``/humans/bodies/tracked`` (IdsList) and, per person, ``roi`` (NormalizedRegionOfInterest2D) and
``skeleton2d`` (Skeleton2D, 18 points). Coordinates are shares of the picture, 0 at its left or
upper edge, 1 at the other.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from std_msgs.msg import Header

from pose_ros.core.skeletons import Skeleton
from pose_ros.core.values import Poses2D
from pose_ros.errors import ConfigError
from pose_ros.messages import body_id

POINTS = 18
_log = logging.getLogger(__name__)


def message_types(mode: str) -> Any:
    """Module ``hri_msgs.msg``, None where it is not wanted ("off") or not installed ("auto").

    Raises:
        ConfigError: it is wanted ("on") and cannot be imported.

    """
    if mode == "off":
        return None
    try:
        return importlib.import_module("hri_msgs.msg")
    except ImportError as error:
        if mode == "on":
            raise ConfigError(
                f"hri.enable is 'on' and hri_msgs cannot be imported ({error}): install "
                "ros-<distro>-hri-msgs or build it in your workspace; 'auto' goes without it"
            ) from error
    _log.info(
        "hri_msgs is not installed: /humans/bodies/tracked, <id>/roi and <id>/skeleton2d are not "
        "published; everything else is"
    )
    return None


class HriMessages:
    """Builds the messages of hri_msgs for one joint set."""

    def __init__(self, types: Any, skeleton: Skeleton) -> None:
        """Find the message's number of every joint by its name: numbers differ from OpenPose's.

        ``types`` has the classes of ``hri_msgs.msg``.
        """
        self._types = types
        kind = types.Skeleton2D
        named = {name: getattr(kind, name.upper(), None) for name in skeleton.joints}
        pairs = [(skeleton.index(name), code) for name, code in named.items() if code is not None]
        self._columns, self._codes = np.array(pairs, np.int64).reshape(-1, 2).T
        self._shoulders = [skeleton.index(f"{side}_shoulder") for side in ("left", "right")]
        self._neck = int(kind.NECK)

    def tracked(self, ids: Iterable[int], header: Header) -> Any:
        """IdsList of track ids."""
        return self._types.IdsList(header=header, ids=[body_id(number) for number in ids])

    def region(
        self, box_xyxy_px: np.ndarray, confidence: float, size_px: tuple[int, int], header: Header
    ) -> Any:
        """Region (4,) of pixels, cut at the edges of the picture of ``size_px``."""
        shares = (box_xyxy_px.reshape(2, 2) + 0.5) / np.array(size_px)
        (x0, y0), (x1, y1) = np.clip(shares, 0.0, 1.0).tolist()
        return self._types.NormalizedRegionOfInterest2D(
            header=header, xmin=x0, ymin=y0, xmax=x1, ymax=y1, c=min(max(confidence, 0.0), 1.0)
        )

    def skeleton2d(self, points: np.ndarray, header: Header) -> Any:
        """Skeleton2D of one person of `points`."""
        make = self._types.NormalizedPointOfInterest2D
        return self._types.Skeleton2D(
            header=header, skeleton=[make(x=x, y=y, c=c) for x, y, c in points.tolist()]
        )

    def points(self, poses: Poses2D, size_px: tuple[int, int]) -> np.ndarray:
        """(P, 18, 3) x, y, confidence in the order of the message's constants.

        The message knows no NaN: what is unknown or outside the picture is 0, 0 with
        confidence 0. The neck is the middle of the shoulders, as sure as the less sure one.
        """
        out = np.full((len(poses), POINTS, 3), np.nan)
        known = np.concatenate([poses.xy_px, poses.score[..., None]], axis=-1).astype(np.float64)
        out[:, self._codes] = known[:, self._columns]
        ends = known[:, self._shoulders]
        out[:, self._neck, :2] = ends[..., :2].mean(axis=1)
        out[:, self._neck, 2] = ends[..., 2].min(axis=1)
        out[..., :2] = (out[..., :2] + 0.5) / np.array(size_px)
        with np.errstate(invalid="ignore"):
            good = ((out[..., :2] >= 0.0) & (out[..., :2] <= 1.0)).all(axis=-1)
        good &= out[..., 2] > 0.0
        return np.where(good[..., None], np.minimum(out, 1.0), 0.0)
