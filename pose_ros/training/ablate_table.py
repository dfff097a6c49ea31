"""Tables of `ablate.py`: mean and spread over seeds, paired differences, and which orderings hold.

A result is a line of its file; ``pck`` is keyed by kind of clip, group of joints and reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Results = Sequence[Mapping[str, Any]]
Values = npt.NDArray[np.float64]

FORMS = ("text", "csv", "latex")
#: Columns: title, kind of clip, group of joints.
COLUMNS = (
    ("clean", "clean", "all"),
    ("occluded", "occluded", "all"),
    ("hidden", "occluded", "hidden"),
    ("blurred", "blurred", "all"),
    ("dark", "dark", "all"),
)
MEAN = "mean"  # of the four kinds of clips
TEMPORAL = "temporal on > off"
NETS = ("hstpn", "pstpose", "vremd", "stdpose", "dsa")
SEEDS_MIN = 3  # that a verdict takes


@dataclass(frozen=True)
class Claim:
    """An ordering that a paper, or common sense, expects."""

    net: str
    better: str
    worse: str
    column: str = MEAN
    source: str = ""


#: Printed means of the papers' ablations: specification of the networks, 6.4 and 6.6.
CLAIMS = (
    *(
        Claim(net, "full", other, column, TEMPORAL)
        for net in NETS
        for other in ("off", "still")
        for column in (*(title for title, _, _ in COLUMNS), MEAN)
    ),
    Claim("hstpn", "full", "no_attn", source="tables 4, 5"),
    Claim("hstpn", "no_attn", "off", source="tables 4, 5"),
    Claim("hstpn", "off", "no_msf", source="tables 4, 5"),
    Claim("hstpn", "full", "no_msf", source="tables 4, 5"),
    *(
        Claim("pstpose", better, worse, source="table 4")
        for better, worse in (
            ("full", "no_dfe"), ("full", "no_fcg"), ("full", "no_dsf"), ("full", "baseline"),
            ("no_dfe", "no_dsf"), ("no_dsf", "no_fcg"), ("no_fcg", "baseline"),
        )
    ),
    *(
        Claim("vremd", better, worse, source="table 4")
        for better, worse in (
            ("full", "hkme"), ("full", "bmd"), ("bmd", "hkme"), ("hkme", "off"), ("bmd", "off"),
        )
    ),
    Claim("vremd", "full", "no_masks", source="table 5"),
    Claim("vremd", "full", "one_way", source="table 6"),
    Claim("vremd", "full", "dc", source="table 6"),
    *(
        Claim("stdpose", better, worse, source="table 4")
        for better, worse in (
            ("full", "no_mi"), ("no_mi", "no_dam"), ("no_dam", "tff"), ("no_dam", "tks"),
            ("tff", "off"), ("tks", "off"),
        )
    ),
    Claim("stdpose", "labels", "full", source="labels > none"),
    Claim("stdpose", "labels", "labels_far", source="smaller T"),
    *(
        Claim("dsa", "full", worse, source="table 4")
        for worse in ("raw", "no_gab", "conv", "no_leb")
    ),
    Claim("dsa", "no_gab", "raw", source="table 4"),
    Claim("dsa", "full", "no_unet", source="table 5"),
    Claim("dsa", "full_fast", "raw_fast", source="align > not, fast motion"),
)  # fmt: skip


def values(results: Results, net: str, row: str, column: str, reach: str = "0.1") -> Values:
    """PCK in percent by seed 0, 1, ... of a row, NaN where a seed is missing; (seeds,)."""
    seeds = max((int(r["seed"]) for r in results), default=-1) + 1
    out = np.full(seeds, np.nan)
    for result in results:
        if (result["net"], result["row"]) == (net, row):
            out[int(result["seed"])] = 100.0 * _of(result["pck"], column, reach)
    return out


def _of(pck: Mapping[str, Any], column: str, reach: str) -> float:
    """One number of a result."""
    if column == MEAN:
        return float(np.mean([of_kind["all"][reach] for of_kind in pck.values()]))
    kind, group = next((k, g) for title, k, g in COLUMNS if title == column)
    return float(pck[kind].get(group, {}).get(reach, np.nan))


def summary(found: Values) -> tuple[float, float, int]:
    """Mean, standard deviation (n - 1) and number of known values; NaN where there are too few."""
    known = found[np.isfinite(found)]
    mean = float(known.mean()) if len(known) else float("nan")
    spread = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return mean, spread, len(known)


def verdict(difference: Values) -> str:
    """What paired differences say: ``holds``, ``reversed``, ``within the spread`` or neither.

    An ordering holds when every seed says so and the mean is larger than the spread. Of fewer than
    `SEEDS_MIN` seeds it is ``too few seeds``.
    """
    mean, spread, count = summary(difference)
    if count < SEEDS_MIN:
        return "too few seeds"
    known = difference[np.isfinite(difference)]
    if not (abs(mean) > spread and (np.sign(known) == np.sign(mean)).all()):
        return "within the spread"
    return "holds" if mean > 0 else "reversed"


def orderings(results: Results) -> list[dict[str, Any]]:
    """Every claim of which both rows are there, its paired difference in points, and verdict."""
    out = []
    for claim in CLAIMS:
        better = values(results, claim.net, claim.better, claim.column)
        difference = better - values(results, claim.net, claim.worse, claim.column)
        mean, spread, count = summary(difference)
        if count > 1:
            out.append({
                "net": claim.net, "claim": f"{claim.better} > {claim.worse}",
                "on": claim.column, "source": claim.source, "difference": round(mean, 2),
                "spread": round(spread, 2), "seeds": count, "verdict": verdict(difference),
            })  # fmt: skip
    return out


def _cell(found: Values, sign: bool = False) -> str:
    mean, spread, count = summary(found)
    if not count:
        return "-"
    return f"{mean:{'+' if sign else ''}.1f}" + (f" ± {spread:.1f}" if count > 1 else "")


def lines(results: Results, families: Mapping[str, Any]) -> list[list[str]]:
    """Head and one line per row that has a result: PCK@0.1, its mean at 0.05, and against off."""
    head = ["net", "row", "seeds", *(title for title, _, _ in COLUMNS), MEAN, "mean@0.05"]
    out = [[*head, "occluded - off", "mean - off"]]
    for net, family in families.items():
        for row in family.rows:
            mean = values(results, net, row, MEAN)
            count = summary(mean)[2]
            if not count:
                continue
            cells = [_cell(values(results, net, row, title)) for title, _, _ in COLUMNS]
            fine = _cell(values(results, net, row, MEAN, "0.05"))
            gains = [
                _cell(values(results, net, row, c) - values(results, net, "off", c), sign=True)
                for c in ("occluded", MEAN)
            ]
            out.append([net, row, str(count), *cells, _cell(mean), fine, *gains])
    return out


def gains(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Head and a line per temporal ordering: differences, ``~`` behind what decides nothing."""
    titles = [*(title for title, _, _ in COLUMNS), MEAN]
    out = [["net", "difference", "seeds", *titles]]
    for net in NETS:
        for claim in ("full > off", "full > still"):
            cells = {
                o["on"]: f"{o['difference']:+.1f} ± {o['spread']:.1f}"
                + ("" if o["verdict"] in ("holds", "reversed") else " ~")
                for o in found
                if (o["net"], o["claim"], o["source"]) == (net, claim, TEMPORAL)
            }
            if cells:
                seeds = next(o["seeds"] for o in found if (o["net"], o["claim"]) == (net, claim))
                line = [cells.get(title, "-") for title in titles]
                out.append([net, claim.replace(">", "-"), str(seeds), *line])
    return out


def table(results: Results, families: Mapping[str, Any], form: str) -> str:
    """Rows, what other pictures are worth, the other orderings: Markdown, csv or latex."""
    claims = [["net", "expected", "source", "seeds", "difference of the mean", "verdict"]]
    found = orderings(results)
    for one in found:
        difference = f"{one['difference']:+.1f} ± {one['spread']:.1f}"
        names = [str(one[n]) for n in ("net", "claim", "source")]
        if one["source"] != TEMPORAL:
            claims.append([*names, str(one["seeds"]), difference, str(one["verdict"])])
    parts = [part for part in (lines(results, families), gains(found), claims) if len(part) > 1]
    return "\n".join(_written(part, form) for part in parts)


def _written(rows: list[list[str]], form: str) -> str:
    """A table in one of `FORMS`."""
    if form == "csv":
        return "".join(",".join(f'"{c}"' for c in row) + "\n" for row in rows)
    if form == "latex":
        body = [" & ".join(row).replace("_", r"\_").replace("±", r"$\pm$").replace(">", "$>$")
                + r" \\" for row in rows]  # fmt: skip
        start = rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}"
        return "\n".join([start, body[0], r"\hline", *body[1:], r"\end{tabular}", ""])
    rule = "|" + "---|" * len(rows[0])
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([body[0], rule, *body[1:], ""])
