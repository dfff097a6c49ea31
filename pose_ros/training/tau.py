"""The confidence from which a network's joints are claimed, as its own validation fixed it.

`training.validate` measures it, `training.train` writes it into metrics.json and into the card.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from pose_ros.errors import SourceError, WeightsError
from pose_ros.nets.checkpoint import Card, find_card, read_card

#: What the card calls it.
WHAT = "validation tau"


def validated_tau(name: str) -> float | None:
    """Tau of a card by name or path: of the card, or of metrics.json beside it; None if unknown.

    Raises:
        SourceError: it is not a confidence above 0, or metrics.json is damaged.

    """
    try:
        card = read_card(Path(name)) if name.endswith(".yaml") else find_card(name)
    except WeightsError:
        return None  # an architecture with random weights
    found = _of_card(card)
    if found is None:
        found = _of_run(card.folder / "metrics.json", card.name)
    if found is not None and not (math.isfinite(found) and 0.0 < found <= 1.0):
        raise SourceError(f"{card.name}: expected a tau above 0 and at most 1, got {found}")
    return found


def _of_card(card: Card) -> float | None:
    return next((float(str(m["value"])) for m in card.metrics if m.get("what") == WHAT), None)


def _of_run(path: Path, card: str) -> float | None:
    """Tau of the run that wrote ``path``; None when that has none, or made another card."""
    if not path.is_file():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        made, best = Path(str(run["card"])).stem, dict(run["best"])
        return float(best["tau"]) if made == card and "tau" in best else None
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path}: expected what training.train writes, with card and best: {error!r}"
        ) from error
