"""One table, three forms: aligned text for the screen, HTML for the report, JSON for programs."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from audiovae.errors import ShapeError
from audiovae.metrics import Interval

Cell = str | int | float | Interval | None
MISSING = "–"  # shown for None: not measured


@dataclass(frozen=True)
class Table:
    """Named columns and rows of cells: texts, numbers, means with their interval, or None.

    Floats of a column show as many decimals as give its smallest three digits, at most four. Columns that
    hold numbers are aligned right. Raises ShapeError where a row is not as long as ``columns``.

    >>> table = Table(("recording", "SI-SDR / dB", "steps"), [("a.wav", 9.25, 12), ("b.wav", None, 7)])
    >>> print(table.text())
    recording  SI-SDR / dB  steps
    a.wav             9.25     12
    b.wav                –      7
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ShapeError(f"Table wants {len(self.columns)} cells a row ({', '.join(self.columns)}), got "
                                 f"{len(row)}: {row}.")

    def text(self) -> str:
        """Plain aligned columns, two blanks apart, without a last line break."""
        columns = [[name, *cells] for name, cells in zip(self.columns, self._shown(), strict=True)]
        widths = [max(map(len, column)) for column in columns]
        numeric = self._numeric()
        lines = []
        for line in zip(*columns, strict=True):
            cells = [cell.rjust(width) if right else cell.ljust(width)
                     for cell, width, right in zip(line, widths, numeric, strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def html(self) -> Markup:
        """A ``table`` element; every text in it is escaped."""
        marks = [Markup(' class="number"') if right else Markup("") for right in self._numeric()]
        names = zip(marks, self.columns, strict=True)
        head = Markup("").join(Markup('<th scope="col"{}>{}</th>').format(mark, name) for mark, name in names)
        body = []
        for line in zip(*self._shown(), strict=True):
            cells = [Markup("<td{}>{}</td>").format(mark, cell) for mark, cell in zip(marks, line, strict=True)]
            if marks and not marks[0]:
                cells[0] = Markup('<th scope="row">{}</th>').format(line[0])
            body.append(Markup("<tr>{}</tr>").format(Markup("").join(cells)))
        return Markup("<table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table>").format(
            head, Markup("\n").join(body))

    def json(self) -> str:
        """A JSON list with one object a row; NaN is null and an infinity a text, which JSON has no number for."""
        rows = [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]
        return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)

    def _columns(self) -> list[list[Cell]]:
        return [[row[index] for row in self.rows] for index in range(len(self.columns))]

    def _numeric(self) -> list[bool]:
        return [not any(isinstance(cell, str) for cell in column) for column in self._columns()]

    def _shown(self) -> list[list[str]]:
        return [[_show(cell, _decimals(column)) for cell in column] for column in self._columns()]


def _decimals(column: Sequence[Cell]) -> int:
    sizes = [abs(cell) for cell in column if isinstance(cell, float) and math.isfinite(cell) and cell]
    return min(4, max(0, 2 - math.floor(math.log10(min(sizes))))) if sizes else 2


def _show(cell: Cell, decimals: int) -> str:
    if cell is None:
        return MISSING
    if not isinstance(cell, float):
        return str(cell)
    if not math.isfinite(cell):
        return MISSING if math.isnan(cell) else "∞" if cell > 0 else "-∞"
    return f"{cell:.2e}" if 0 < abs(cell) < 10**-decimals else f"{cell:.{decimals}f}"


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Interval):
        return {"mean": _plain(cell.mean), "half_width": _plain(cell.half_width), "count": cell.count}
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, float) and not math.isfinite(cell):
        return None if math.isnan(cell) else str(cell)
    return cell
