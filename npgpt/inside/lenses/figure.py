"""The figure of grids: a heat map each, or bars where there is one column.

Colours are red below 0 and blue above; a grid without a number below 0 goes from white.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.errors import PlotError
from npgpt.inside.lenses.grid import Grid
from npgpt.support.figure import BLUE, BLUES, INK, MONOSPACE, RED

MOST = 80  # rows or columns that can be told apart
WRITTEN = 160  # cells whose numbers are written into them


def plot_grids(grids: Sequence[Grid]) -> Any:
    """A matplotlib Figure with the grids below each other."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    for grid in grids:
        if not grid.values.size or max(grid.shape) > MOST:
            raise PlotError(
                f"{grid.lens}: the table is {grid.shape[0]} x {grid.shape[1]}; a "
                f"figure shows 1 to {MOST} rows and columns"
            )
    heights = [0.26 * len(grid.rows) + 1.9 for grid in grids]
    widths = [_width(grid) for grid in grids]
    size = (max(6.4, *widths), sum(heights))
    apart = ConstrainedLayoutEngine(h_pad=0.12)
    figure = Figure(figsize=size, layout=apart)
    ratios = {"height_ratios": heights}
    axes = figure.subplots(len(grids), squeeze=False, gridspec_kw=ratios)[:, 0]
    for axis, grid in zip(axes, grids, strict=True):
        if len(grid.columns) == 1:
            _bars(axis, grid)
        else:
            _map(figure, axis, grid)
        axis.set_title(grid.caption, fontsize=9, wrap=True, parse_math=False)
        axis.set_yticks(range(len(grid.rows)), grid.rows, fontsize=8, **MONOSPACE)
        axis.tick_params(length=0)
    return figure


def _width(grid: Grid) -> float:
    names = 0.075 * max(map(len, grid.rows)) + 1.2
    wide = max(len(grid.cell(i, 0)) for i in range(len(grid.rows)))
    written = grid.values.size <= WRITTEN
    return names + len(grid.columns) * (0.075 * wide + 0.15 if written else 0.26)


def _bars(axis: Any, grid: Grid) -> None:
    x = grid.values[:, 0]
    axis.barh(range(len(x)), x, color=[RED if one < 0 else BLUE for one in x])
    axis.axvline(0, color=INK, linewidth=0.6)
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.tick_params(labelsize=8)
    axis.set_xlabel(grid.columns[0], fontsize=8, **MONOSPACE)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _map(figure: Any, axis: Any, grid: Grid) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    below = float(np.nanmin(grid.values)) < 0
    colours = LinearSegmentedColormap.from_list("", [RED, "white", BLUE])
    image = axis.imshow(
        grid.values,
        cmap=colours if below else BLUES,
        vmin=-grid.limit if below else 0,
        vmax=grid.limit,
        aspect="auto",
    )
    turned = max(map(len, grid.columns)) > 6
    axis.set_xticks(
        range(len(grid.columns)),
        grid.columns,
        fontsize=8,
        rotation=60 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
        **MONOSPACE,
    )
    if grid.values.size <= WRITTEN:
        for (i, j), number in np.ndenumerate(grid.values):
            dark = abs(number) > 0.6 * grid.limit
            axis.text(
                j,
                i,
                grid.cell(i, j),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else INK,
                **MONOSPACE,
            )
    bar = figure.colorbar(image, ax=axis, shrink=0.8, aspect=16)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    axis.spines[:].set_visible(False)
