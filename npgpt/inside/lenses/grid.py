"""Grid: what a lens answers with, a table of numbers whose rows and columns have names.

It prints as text, shows itself in a notebook, and is plain data for JSON; the figure is
npgpt.inside.lenses.figure's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.support.figure import tint
from npgpt.support.notebook import escaped

LARGEST = 20  # cells that are listed where a table is too large
SHOWN = 64  # rows and columns in a notebook


@dataclass(frozen=True)
class Law:
    """The number of the model that the numbers of a grid add up to, and their sum."""

    of: str
    value: float  # as the model computed it
    total: float  # as they add up
    tolerance: float  # what rounding may make of it; of an integral, its steps

    @property
    def residue(self) -> float:
        """Sum less number."""
        return self.total - self.value

    @property
    def agrees(self) -> bool:
        """Whether the sum is the number, up to the tolerance."""
        return bool(abs(self.residue) <= self.tolerance)

    def __str__(self) -> str:
        return (
            f"sum {self.total:.6f}, {self.of} {self.value:.6f}, residue "
            f"{self.residue:.1e} (at most {self.tolerance:.1e})"
        )


@dataclass(frozen=True)
class Grid:
    """Numbers (rows, columns), the names of both, what they are, and their law.

    texts: what stands in a cell beside its number, such as a token. cells: whether it
    is read cell by cell, since a row means nothing without the column.
    """

    lens: str
    caption: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    texts: tuple[tuple[str, ...], ...] | None = None
    law: Law | None = None
    cells: bool = False

    def __post_init__(self) -> None:
        self.values.setflags(write=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.rows), len(self.columns)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.values, dtype)

    def __getitem__(self, names: tuple[str, str]) -> float:
        """The number of a row and a column, by their names."""
        row, column = names
        return float(self.values[self.rows.index(row), self.columns.index(column)])

    @property
    def largest(self) -> list[tuple[str, str, float]]:
        """Every cell as (row, column, number), the farthest from 0 first."""
        order = np.argsort(-np.abs(self.values), axis=None, kind="stable")
        places = zip(*np.unravel_index(order, self.values.shape), strict=True)
        return [
            (self.rows[i], self.columns[j], float(self.values[i, j])) for i, j in places
        ]

    @property
    def limit(self) -> float:
        """The largest size of a number; never 0."""
        return max(float(np.abs(self.values).max(initial=0)), 1e-30)

    def cell(self, i: int, j: int) -> str:
        """A cell in words: its text, if any, and its number."""
        number = f"{self.values[i, j]:.3f}"
        return number if self.texts is None else f"{self.texts[i][j]} {number}"

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        law = self.law
        return {
            "lens": self.lens,
            "caption": self.caption,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "values": self.values.tolist(),
            "texts": None if self.texts is None else [list(row) for row in self.texts],
            "law": None
            if law is None
            else {
                "of": law.of,
                "value": law.value,
                "total": law.total,
                "residue": law.residue,
                "tolerance": law.tolerance,
                "agrees": law.agrees,
            },
        }

    def __repr__(self) -> str:
        R, C = self.shape
        if not self.values.size:
            return f"Grid({self.lens}: empty)"
        row, column, number = self.largest[0]
        where = row if C == 1 else f"{row}, {column}"
        return f"Grid({self.lens}: {R} x {C}, largest {number:.3g} at {where})"

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = 100) -> str:
        """The table, its columns in blocks that are no wider than that.

        One column has bars. Where the table is a sum of more cells than can be taken
        in, the largest are listed, and the others are one row.
        """
        R, C = self.shape
        if C == 1:
            lines = self._bars()
        elif self.cells and R * C > 4 * LARGEST:
            lines = self._list()
        else:
            lines = self._blocks(width)
        law = [] if self.law is None else [str(self.law)]
        return "\n".join([self.caption, *lines, *law])

    def _bars(self) -> list[str]:
        """A bar a row, to the left or the right of a middle line."""
        lines = [["", *self.columns, ""]]
        for i, row in enumerate(self.rows):
            x = float(self.values[i, 0])
            bar = "#" * round(16 * abs(x) / self.limit)
            left, right = (bar, "") if x < 0 else ("", bar)
            lines.append([row, self.cell(i, 0), f"{left:>16}|{right:<16}"])
        return _aligned(lines)

    def _list(self) -> list[str]:
        cells = self.largest
        rest = sum(number for *_, number in cells[LARGEST:])
        lines = [[row, column, f"{x:.3f}"] for row, column, x in cells[:LARGEST]]
        rest_of_them = [f"{len(cells) - LARGEST} others", "", f"{rest:.3f}"]
        return _aligned([["row", "column", ""], *lines, rest_of_them])

    def _blocks(self, width: int) -> list[str]:
        names: list[str] = ["", *self.rows]
        blocks: list[list[list[str]]] = []
        room = 0
        for j, name in enumerate(self.columns):
            column = [name, *(self.cell(i, j) for i in range(len(self.rows)))]
            wide = 2 + max(map(len, column))
            if wide > room or not blocks:
                blocks.append([names])
                room = width - max(map(len, names))
            blocks[-1].append(column)
            room -= wide
        lines = []
        for block in blocks:
            lines += ["", *_aligned([list(row) for row in zip(*block, strict=True)])]
        return lines[1:]

    def _repr_html_(self) -> str:
        """The table on the colours of its numbers; of a large one the beginning."""
        R, C = min(self.shape[0], SHOWN), min(self.shape[1], SHOWN)
        head = "".join(f"<th>{escaped(name)}</th>" for name in self.columns[:C])
        lines = [f"<tr><th></th>{head}</tr>"]
        for i in range(R):
            row = ""
            for j in range(C):
                back = tint(self.values[i, j] / self.limit)
                style = f"text-align:right;background:{back};color:#000"
                row += f'<td style="{style}">{escaped(self.cell(i, j))}</td>'
            lines.append(f"<tr><th>{escaped(self.rows[i])}</th>{row}</tr>")
        whole = self.shape == (R, C)
        said = self.caption if whole else f"{self.caption} (the first {R} x {C})"
        said += "" if self.law is None else f" {self.law}"
        return f"<table><caption>{escaped(said)}</caption>{''.join(lines)}</table>"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a table, the first column to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if j else cell.ljust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
