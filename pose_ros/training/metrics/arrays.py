"""What the measures share: which joints are known, and means of what is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def known_joints(positions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(..., K) whether a joint of (..., K, D) has a position."""
    return np.asarray(np.isfinite(positions).all(axis=-1))


def any_joint(positions: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(...,) whether a pose (..., K, D) has any joint with a position."""
    return np.asarray(known_joints(positions).any(axis=-1))


def mean_known(values: npt.ArrayLike) -> float:
    """Mean of the values that are not NaN; NaN when none is."""
    flat = np.asarray(values, np.float64).ravel()
    known = flat[~np.isnan(flat)]
    return float(known.mean()) if len(known) else float("nan")
