"""Results as text, CSV, LaTeX and a plot; a paper's table beside ours."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pose_ros.errors import ConfigError
from pose_ros.training.tables import Table, flags_text

Metrics = Mapping[str, float]
UNKNOWN = "-"


@dataclass(frozen=True)
class Grid:
    """A table of text: a header and rows of the same length."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def text(self) -> str:
        """Aligned columns."""
        widths = [
            max(len(line[i]) for line in (self.header, *self.rows))
            for i in range(len(self.header))
        ]
        lines = [self.title, *(self._line(row, widths) for row in (self.header, *self.rows))]
        return "\n".join([*lines, self.note] if self.note else lines)

    @staticmethod
    def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join([first, *rest]).rstrip()

    def csv(self) -> str:
        """Comma separated values with the header first."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows(self.rows)
        return out.getvalue()

    def latex(self) -> str:
        """Return a tabular; the title is a comment."""
        columns = "l" + "r" * (len(self.header) - 1)
        body = [" & ".join(map(_escaped, row)) + r" \\" for row in (self.header, *self.rows)]
        return "\n".join(
            [f"% {self.title}", rf"\begin{{tabular}}{{{columns}}}", body[0], r"\hline",
             *body[1:], r"\end{tabular}", ""]
        )  # fmt: skip


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def number(value: float | None, digits: int = 1) -> str:
    """Format a value; unknown ones are a dash."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def metrics_grid(title: str, metrics: Metrics) -> Grid:
    """One metric per row."""
    rows = tuple((name, number(value, 4)) for name, value in metrics.items())
    return Grid(title, ("metric", "value"), rows)


def table_grid(table: Table, ours: Mapping[str, Metrics]) -> Grid:
    """A paper's rows, ours (by row key) under each, and the flags that make the row."""
    header = ("row", "", *(title for title, _metric in table.columns), "flags")
    rows: list[tuple[str, ...]] = []
    for row in table.rows:
        printed = (number(value) for value in row.values)
        rows.append((row.title, "paper", *printed, flags_text(row)))
        if row.flags is None:
            continue
        found = ours.get(row.key, {})
        measured = (number(found.get(metric)) for _title, metric in table.columns)
        rows.append(("", "ours", *measured, ""))
    place = f" on {table.dataset}" if table.dataset else ""
    title = f"{table.title}; {table.net}{place}, protocol {table.protocol}"
    return Grid(title, header, tuple(rows), table.note)


def plot(grid: Grid, path: Path) -> None:
    """Write bars of every numeric row of a grid, one group per column, as a picture.

    Raises:
        ConfigError: matplotlib is not installed, or the grid has no number.

    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a plot needs matplotlib: pip install matplotlib") from None
    numeric = [
        i for i in range(1, len(grid.header)) if any(_value(r[i]) is not None for r in grid.rows)
    ]
    rows = [row for row in grid.rows if any(_value(row[i]) is not None for i in numeric)]
    if not rows:
        raise ConfigError(f"{grid.title}: no number to plot")
    figure = Figure(figsize=(max(6.0, 0.35 * len(rows) * len(numeric)), 4.0), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    for row_number, row in enumerate(rows):
        heights = [_value(row[i]) or math.nan for i in numeric]
        places = [i + (row_number - (len(rows) - 1) / 2) * width for i in range(len(numeric))]
        label = " ".join(part for part in row[:2] if part and _value(part) is None)
        axes.bar(places, heights, width, label=label or f"row {row_number + 1}")
    axes.set_xticks(range(len(numeric)), [grid.header[i] for i in numeric])
    axes.set_title(grid.title, fontsize="small")
    axes.legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _value(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
