"""How far a joint's pixel may be off: guessed from its score, and from how wide its map is."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from pose_ros.core.values import FloatArray, Poses2D

#: A person's outline fills about this share of the box around the joints (COCO's ratio of segment
#: to box, as pycocotools' users take it for pictures without outlines).
FILL = 0.53
#: The box of a person seen from the side is narrower than the person is big: least width over
#: height (and height over width).
NARROWEST = 0.25
#: Standard deviation per axis of a joint with score 1, in roots of the person's area, and the
#: power of the score by which it grows. Measured: MoveNet on four calibrated views of one person,
#: 6800 joints against their triangulated points; the root mean square of the error is 0.7 to 1.1
#: of what is stated in five bands of the score from 0.2 to 1.
SHARE, POWER = 0.018, 1.5
#: Below this score a joint is not trusted less, it is a guess anyway.
SCORE_LEAST = 0.3
#: Nothing is known better than this; a heatmap cell is coarser.
LEAST_PX = 1.0
#: Shares of that guess and of the deviation of the joint's map; their squares add up to the
#: variance. Measured: MoveNet, 15,000 joints of four calibrated views against triangulation and
#: 1,600 of COCO. Both fitted on other people, the negative log-likelihood of the errors is 0.45 to
#: 0.6 lower than with the guess alone, and as many are within the 95 % circles. Not for networks
#: that learned blobs of a given width: their maps are that wide however sure they are.
GUESS_SHARE, SPREAD_SHARE = 0.7, 0.5


def map_std(
    poses: Poses2D, cells: FloatArray, pitch_px: FloatArray, image_from_crop: FloatArray
) -> FloatArray:
    """(P, J) standard deviation of a joint's pixel per axis, of the guess and its map's width.

    Args:
        poses: joints in image pixels; what they state themselves does not count.
        cells: (P, J) width of each joint's map, see `heatmaps.spread`; NaN unknown.
        pitch_px: (2,) crop pixels per cell along x and y.
        image_from_crop: (P, 2, 3) crop pixels to image pixels.

    Returns:
        NaN for a joint that was not found and where the width is unknown.

    """
    (xx, xy), (yx, yy) = image_from_crop[:, :, :2].transpose(1, 2, 0)
    cell_px = np.sqrt(np.abs(xx * yy - xy * yx) * pitch_px[0] * pitch_px[1])
    wide = SPREAD_SHARE * cells * cell_px[:, None]
    guess = GUESS_SHARE * pixel_std(dataclasses.replace(poses, std_px=None))
    return np.hypot(guess, wide).astype(np.float32)


def pixel_std(poses: Poses2D) -> FloatArray:
    """(P, J) standard deviation of a joint's pixel per axis; NaN for a joint that was not found.

    ``poses.std_px`` where it is stated; otherwise SHARE of the root of the person's area
    over the score to POWER, the area being FILL times the box around the joints that were found.
    """
    found = np.asarray(np.isfinite(poses.xy_px).all(axis=-1))
    size = SHARE * _extent_px(poses.xy_px, found)
    # fmax passes over a NaN score
    score = np.minimum(np.fmax(poses.score, np.float32(SCORE_LEAST)), np.float32(1.0))
    guess = np.maximum(size[:, None] / score**POWER, LEAST_PX)
    stated = poses.std_px
    if stated is not None:
        known = np.isfinite(stated) & (stated > 0)
        guess = np.where(known, np.maximum(np.where(known, stated, 1.0), 0.1), guess)
    return np.where(found, guess, np.nan).astype(np.float32)


def _extent_px(xy_px: FloatArray, found: npt.NDArray[np.bool_]) -> FloatArray:
    """(P,) root of the area around the joints ``found`` (P, J); 0 for a person without any."""
    low = np.where(found[..., None], xy_px, np.inf).min(axis=1, initial=np.inf)
    high = np.where(found[..., None], xy_px, -np.inf).max(axis=1, initial=-np.inf)
    sides = np.maximum(high - low, 0.0)  # -inf for a person without joints
    longest = np.maximum(sides[:, 0], sides[:, 1])
    shortest = np.maximum(np.minimum(sides[:, 0], sides[:, 1]), NARROWEST * longest)
    return np.asarray(np.sqrt(FILL * longest * shortest), np.float32)
