"""What all figures of the project share: one palette, and how they are written.

Importing this module imports no matplotlib: coloured texts take their colours here too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from npgpt.errors import PlotError
from npgpt.support.arguments import checked

SUFFIXES = (".png", ".svg")

INK = "#333333"  # words and lines that explain
GREY = "#8c8c8c"  # what stands back
PAPER = "#e8e6e1"  # what is hidden; grids
BLUE = "#2f6f9f"  # what a figure is about
DARK = "#1f3b73"  # of that, what was chosen
LIGHT = "#9db7dd"  # of that, the rest
PALE = "#c9d8ee"  # and every second of it
RED = "#b5442e"  # what was removed, or is held against it
AMBER = "#d19a2a"  # what others made
GREEN = "#5a8f53"
BLUES = "Blues"  # matplotlib's name for magnitudes from white to DARK
MONOSPACE = {
    "family": "monospace",
    "parse_math": False,
}  # tokens: a price is no formula

# Backgrounds from improbable to probable: ColorBrewer's RdYlGn, readable in black.
SHADES = ("#d73027", "#f46d43", "#fdae61", "#fee08b", "#d9ef8b", "#a6d96a", "#66bd63")
EDGES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8)  # probability from which the next one holds


def shade(p: float) -> str:
    """The background of a token of this probability.

    >>> shade(0.0004), shade(0.9)
    ('#d73027', '#66bd63')
    """
    return SHADES[sum(p >= edge for edge in EDGES)]


def tint(share: float) -> str:
    """The background of a number: red for -1, over white, to blue for 1; NaN is white.

    >>> tint(1.0), tint(0.0), tint(-1.0)
    ('#7fa9c5', '#ffffff', '#d99a8c')
    """
    end = (0x7F, 0xA9, 0xC5) if share >= 0 else (0xD9, 0x9A, 0x8C)
    depth = min(abs(share), 1.0) if share == share else 0.0
    mixed = [round(255 + (c - 255) * depth) for c in end]
    return f"#{bytes(mixed).hex()}"


def blues(n: int) -> list[Any]:
    """n blues from light to dark, for lines that belong together."""
    from matplotlib import colormaps

    return [colormaps[BLUES](0.35 + 0.65 * i / max(1, n - 1)) for i in range(n)]


@runtime_checkable
class Figure(Protocol):
    """What matplotlib draws."""

    def savefig(self, *args: Any, **settings: Any) -> None:
        """Write it into a file."""


@checked(PlotError)
def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG or SVG, whichever the suffix says; the same file each time.

    Raises PlotError for another suffix, and where the file cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    import matplotlib

    # Without a date and with fixed ids the same figure is the same file.
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    try:
        with matplotlib.rc_context({"svg.hashsalt": "npgpt"}):
            figure.savefig(path, dpi=200, metadata=metadata)
    except OSError as error:
        raise PlotError(
            f"{path}: cannot be written ({error.strerror or error})"
        ) from None


def check_suffix(path: Path) -> None:
    """Raise PlotError unless a figure can be written by this name.

    >>> check_suffix(Path("a.gif"))
    Traceback (most recent call last):
    npgpt.errors.PlotError: a.gif: a figure is written as .png or .svg
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"{path}: a figure is written as {' or '.join(SUFFIXES)}")
