"""The figure of a comparison: diversity across, perplexity up, the frontier a line.

matplotlib is imported here, so import this module only where a figure is wanted;
npgpt.support.figure.save writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from npgpt.errors import PlotError
from npgpt.lab.frontier import Frontier
from npgpt.lab.intervals import Interval
from npgpt.lab.measures import Measures
from npgpt.lab.plan import Plan
from npgpt.support.figure import DARK, GREY, INK, PAPER

_SIDES = ((6, 6, "left", "bottom"), (-6, 6, "right", "bottom"),
          (6, -6, "left", "top"), (-6, -6, "right", "top"),
          (6, 18, "left", "bottom"), (-6, 18, "right", "bottom"),
          (6, -18, "left", "top"), (-6, -18, "right", "top"),
          (6, 30, "left", "bottom"), (-6, 30, "right", "bottom"),
          (6, -30, "left", "top"), (-6, -30, "right", "top"))  # fmt: skip


def plot_comparison(
    plan: Plan, measures: Sequence[Measures], frontier: Frontier
) -> Figure:
    """plot_frontier with a title that says what was run."""
    judged = f", judged by {plan.judge}" if plan.judge else ""
    n = len(plan.prompts)
    prompts = "1 prompt" if n == 1 else f"{n} prompts"
    title = (
        f"{plan.model}{judged}: {prompts} × {plan.seeds} texts of "
        f"{plan.max_new_tokens} tokens; bars: 95 % intervals"
    )
    return plot_frontier(measures, frontier, title)


def plot_frontier(
    measures: Sequence[Measures], frontier: Frontier, title: str = ""
) -> Figure:
    """Every setting as a point with its 95 % intervals; better is right and down.

    Perplexity is on a logarithmic axis. Raises PlotError where no setting has both
    figures.
    """
    points = [
        (m.name, getattr(m, frontier.x), getattr(m, frontier.y))
        for m in measures
        if not math.isnan(getattr(m, frontier.x).value + getattr(m, frontier.y).value)
    ]
    if not points:
        raise PlotError("there is nothing to draw: no setting has both figures")
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    at = {name: (x.value, y.value) for name, x, y in points}
    axes.plot(
        *zip(*(at[name] for name in frontier.on), strict=True),
        color=DARK,
        linewidth=1,
        alpha=0.5,
        zorder=1,
        label="frontier",
    )
    for name, x, y in points:
        on = name in frontier.on
        axes.errorbar(
            x.value,
            y.value,
            xerr=_arms(x),
            yerr=_arms(y),
            fmt="o",
            color=DARK if on else GREY,
            markersize=6 if on else 5,
            elinewidth=0.9,
            capsize=2,
            zorder=3 if on else 2,
        )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    steps = (1, 2, 5) if high < 300 * low else (1,)  # 5, 10, 20 where 10 stands alone
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    name = frontier.x.replace("_", "-")
    name = "diversity (1 − self-BLEU)" if frontier.x == "diversity" else name
    axes.set_xlabel(f"{name}, better →")
    judge = "the judge" if frontier.y.startswith("judge") else "the model itself"
    axes.set_ylabel(f"← better, perplexity under {judge}")
    axes.grid(color=PAPER, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=11, loc="left", wrap=True, parse_math=False)
    axes.legend(frameon=False, loc="upper left")
    _label(figure, axes, points, frontier)
    return figure


def _arms(x: Interval) -> list[list[float]]:
    """Lengths of the error bars; none where the interval is undefined."""
    low, high = (0 if math.isnan(end) else abs(end - x.value) for end in x[1:])
    return [[low], [high]]


def _label(figure: Figure, axes: Any, points: list[tuple], frontier: Frontier) -> None:
    """Names beside their points, each where it covers the least of other things."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the layout is known after drawing
    renderer = canvas.get_renderer()
    taken = []
    for _, x, y in points:
        left, right = x.value - _arms(x)[0][0], x.value + _arms(x)[1][0]
        down, up = y.value - _arms(y)[0][0], y.value + _arms(y)[1][0]
        corners = [(left, y.value), (right, y.value), (x.value, down), (x.value, up)]
        a, b, c, d = axes.transData.transform(corners)
        taken += [
            Bbox([[a[0] - 5, a[1] - 3], [b[0] + 5, b[1] + 3]]),
            Bbox([[c[0] - 3, c[1] - 5], [d[0] + 3, d[1] + 5]]),
        ]
    inside = axes.get_window_extent(renderer)
    for name, x, y in sorted(points, key=lambda point: point[0] not in frontier.on):
        color = DARK if name in frontier.on else INK
        tried = []
        for dx, dy, ha, va in _SIDES:
            text = axes.annotate(
                name,
                (x.value, y.value),
                (dx, dy),
                ha=ha,
                va=va,
                textcoords="offset points",
                fontsize=8,
                color=color,
                parse_math=False,
                zorder=4,
            )
            box = text.get_window_extent(renderer)
            hits = box.count_overlaps(taken) + (box.x0 < inside.x0) * 2
            hits += (box.x1 > inside.x1) * 2 + (box.y0 < inside.y0) * 2
            tried.append((hits, text))
        _, best = min(tried, key=lambda one: one[0])  # of equals the first
        for _, text in tried:
            if text is not best:
                text.remove()
        taken.append(best.get_window_extent(renderer))
        if abs(best.xyann[1]) > 6:  # away from its point: a line leads there
            axes.annotate(
                "",
                (x.value, y.value),
                best.xyann,
                color=color,
                zorder=2,
                textcoords="offset points",
                arrowprops={
                    "arrowstyle": "-",
                    "color": color,
                    "linewidth": 0.5,
                    "shrinkA": 0,
                },
            )
