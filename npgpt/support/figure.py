"""What all figures and coloured texts of the project share: one palette.

Importing this module imports no matplotlib.
"""

from __future__ import annotations

# Backgrounds from improbable to probable: ColorBrewer's RdYlGn, readable in black.
SHADES = ("#d73027", "#f46d43", "#fdae61", "#fee08b", "#d9ef8b", "#a6d96a", "#66bd63")
EDGES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)  # probability from which the next one holds


def shade(p: float) -> str:
    """The background of a token of this probability.

    >>> shade(0.0004), shade(0.9)
    ('#d73027', '#66bd63')
    """
    return SHADES[sum(p >= edge for edge in EDGES)]
