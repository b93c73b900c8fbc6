"""The settings to choose among: no other one is both more varied and more probable.

Measures come from npgpt.lab.measures, the figure is in npgpt.lab.figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from npgpt.lab.measures import Measures

DIVERSITIES = ("diversity", "unique", "distinct_1", "distinct_2", "distinct_3")
QUALITIES = ("judge_perplexity", "perplexity")


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of points that no other one beats: (larger is better, smaller is better).

    b beats a if it is at least as good in both and better in one. NaN is never there.

    >>> pareto([(0.2, 1.0), (0.5, 2.0), (0.4, 3.0), (0.5, 2.0)])
    [0, 1, 3]
    """
    return [
        i
        for i, (x, y) in enumerate(points)
        if not (math.isnan(x) or math.isnan(y))
        and not any(a >= x and b <= y and (a, b) != (x, y) for a, b in points)
    ]


@dataclass(frozen=True)
class Frontier:
    """Names from the most probable to the most diverse; who is behind, and how surely.

    on: no setting is better in both. near: some setting is, but for none of these are
    both intervals apart. behind: all others.
    """

    x: str
    y: str
    on: list[str]
    near: list[str]
    behind: list[str]

    @property
    def sentence(self) -> str:
        """What to take from it, in words."""
        if not self.on:
            return "No setting has both figures, so there is no frontier."
        quality = self.y.replace("_", " ")
        text = (
            f"On the frontier of {self.x.replace('_', '-')} against {quality}, "
            f"from the most probable to the most diverse: {', '.join(self.on)}"
        )
        if self.near:
            text += f"; behind it by no more than the intervals: {', '.join(self.near)}"
        if self.behind:
            text += f"; clearly behind: {', '.join(self.behind)}"
        return text + "."


def find_frontier(
    measures: Sequence[Measures], x: str = "diversity", y: str | None = None
) -> Frontier:
    """Which settings to choose among, if diversity x and low perplexity y are wanted.

    y is the judge's perplexity where there is one.
    """
    if y is None:
        judged = all(m.judge_perplexity is not None for m in measures)
        y = QUALITIES[0] if judged else QUALITIES[1]
    xs = [getattr(m, x) for m in measures]
    ys = [getattr(m, y) for m in measures]
    best = pareto([(a.value, b.value) for a, b in zip(xs, ys, strict=True)])
    best.sort(key=lambda i: (ys[i].value, xs[i].value))
    rest = [i for i in range(len(measures)) if i not in best]
    clear = [
        i
        for i in rest
        if any(xs[j].low > xs[i].high and ys[j].high < ys[i].low for j in best)
    ]
    names = [m.name for m in measures]
    return Frontier(
        x,
        y,
        [names[i] for i in best],
        [names[i] for i in rest if i not in clear],
        [names[i] for i in clear],
    )
