"""Columns of text that never touch."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first column flush left, the others right, two spaces apart.

    >>> print(table([("by", "loss"), ("approach 1", "2.5")]))
    by          loss
    approach 1   2.5
    """
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]).rstrip()
        for row in rows
    )
