"""Arrays as HTML for a notebook: coloured cells, token labels, no script.

Colours follow treescope's rules: blue above 0 and red below, white at 0, full at three
root-mean-squares; probabilities from white at 0 to blue at 1. What is masked is marked,
not coloured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.support.notebook import escaped

MOST = 64  # rows and columns that are shown
BLUE, RED = (47, 111, 159), (181, 68, 46)  # npgpt.support.figure's


def heatmap(x: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> str:
    """A matrix (rows, columns) as a table of coloured cells, each with its number.

    >>> heatmap(np.eye(2), ["a", "b"], ["a", "b"]).count("<td")
    4
    """
    x = np.asarray(x, np.float64)[:MOST, :MOST]
    seen = x[np.isfinite(x)]
    probabilities = seen.size > 0 and seen.min() >= 0 and seen.max() <= 1
    rms = float(np.sqrt(np.mean(seen**2))) if seen.size else 0.0
    scale = 1.0 if probabilities else 3 * rms
    head = "".join(f"<th>{escaped(name)}</th>" for name in columns[:MOST])
    body = "".join(
        f"<tr><th style='text-align:right'>{escaped(name)}</th>"
        + "".join(
            _cell(value, scale, name, column)
            for value, column in zip(row, columns, strict=False)
        )
        + "</tr>"
        for name, row in zip(rows, x, strict=False)
    )
    return (
        "<table style='border-collapse:collapse;font-size:smaller'>"
        f"<tr><th></th>{head}</tr>{body}</table>"
    )


def _cell(value: float, scale: float, row: str, column: str) -> str:
    title = escaped(f"{row}, {column}: {value:.6g}")
    style = "min-width:1.2em;height:1.2em;border:1px solid #ddd"
    if not np.isfinite(value):
        return f'<td style="{style}" title="{title}">×</td>'
    share = min(1.0, abs(value) / scale) if scale else 0.0
    r, g, b = (round(255 + share * (to - 255)) for to in (BLUE if value >= 0 else RED))
    return f'<td style="{style};background:rgb({r},{g},{b})" title="{title}"></td>'
