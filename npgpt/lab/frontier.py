"""What a comparison's texts say: measures, their intervals, the frontier.

Diversity is taken among the texts of one prompt and averaged over prompts. An interval
says how far another draw of as many seeds would move a figure, for these prompts.
Nothing is run here; npgpt.lab.run runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from npgpt.lab import diversity
from npgpt.lab.run import Text

# 97.5 % quantiles of Student's t. Straight lines between them over 1/df lie above the
# curve, so an interval is never too narrow for it.
_DF = (1, 2, 3, 4, 5, 6, 8, 10, 15, 30, 60, math.inf)
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3060, 2.2281, 2.1314, 2.0423,
      2.0003, 1.9600)  # fmt: skip


class Interval(NamedTuple):
    """A figure with its 95 % confidence interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measures:
    """The figures of one setting.

    diversity: 1 - self_bleu. unique: the share of different texts. repetition: of
    4-grams within a text. perplexity: exp(-log P / tokens) under the model itself.
    """

    name: str
    diversity: Interval
    self_bleu: Interval
    unique: Interval
    distinct_1: Interval
    distinct_2: Interval
    distinct_3: Interval
    repetition: Interval
    zipf: Interval
    tokens: Interval
    perplexity: Interval
    judge_perplexity: Interval | None


MEASURES = tuple(name for name in Measures.__annotations__ if name != "name")
DIVERSITIES = ("diversity", "unique", "distinct_1", "distinct_2", "distinct_3")
QUALITIES = ("judge_perplexity", "perplexity")

Statistic = Callable[[Sequence[Text]], float]


def measure(texts: Sequence[Text]) -> list[Measures]:
    """The figures of every setting, in the order of the texts."""
    settings: dict[str, dict[int, list[Text]]] = {}
    for text in texts:
        settings.setdefault(text.setting, {}).setdefault(text.prompt, []).append(text)
    return [_measure(name, list(rows.values())) for name, rows in settings.items()]


def _measure(name: str, rows: list[list[Text]]) -> Measures:
    def of(statistic: Statistic, low: float = 0, high: float = math.inf) -> Interval:
        return interval([jackknife(statistic, row) for row in rows], low, high)

    bleu = interval([_self_bleu(row) for row in rows], 0, 1)
    judged = all(text.judge_logprob is not None for row in rows for text in row)
    return Measures(
        name,
        diversity=Interval(1 - bleu.value, 1 - bleu.high, 1 - bleu.low),
        self_bleu=bleu,
        unique=of(_unique, 0, 1),
        distinct_1=of(_distinct(1), 0, 1),
        distinct_2=of(_distinct(2), 0, 1),
        distinct_3=of(_distinct(3), 0, 1),
        repetition=of(_mean(lambda t: diversity.repetition(t.ids, 4)), 0, 1),
        zipf=of(lambda row: diversity.zipf_slope([id for t in row for id in t.ids])),
        tokens=of(_mean(lambda t: len(t.ids))),
        perplexity=_exp(of(_loss, -math.inf)),
        judge_perplexity=_exp(of(_judge_loss, -math.inf)) if judged else None,
    )


def _unique(row: Sequence[Text]) -> float:
    """0 where all texts are one, 1 where no two are the same."""
    if len(row) < 2:
        return math.nan
    return (len({tuple(text.ids) for text in row}) - 1) / (len(row) - 1)


def _distinct(n: int) -> Statistic:
    return lambda row: diversity.distinct_n([text.ids for text in row], n)


def _mean(function: Callable[[Text], float]) -> Statistic:
    def statistic(row: Sequence[Text]) -> float:
        values = [v for text in row if not math.isnan(v := function(text))]
        return sum(values) / len(values) if values else math.nan

    return statistic


def _loss(row: Sequence[Text]) -> float:
    n = sum(len(text.ids) for text in row)
    return -sum(text.logprob for text in row) / n if n else math.nan


def _judge_loss(row: Sequence[Text]) -> float:
    n = sum(text.judge_tokens for text in row)
    return -sum(text.judge_logprob or 0 for text in row) / n if n else math.nan


def _exp(loss: Interval) -> Interval:
    return Interval(*(math.exp(min(700, x)) for x in loss))


class Estimate(NamedTuple):
    """A statistic of n draws with the variance that the jackknife gives it."""

    value: float
    variance: float
    df: int


def _self_bleu(row: Sequence[Text]) -> Estimate:
    ids = [text.ids for text in row]
    return _estimate(diversity.self_bleu(ids), diversity.leave_one_out_self_bleu(ids))


def jackknife(statistic: Callable[[Sequence], float], draws: Sequence) -> Estimate:
    """A statistic, and its variance from leaving out one draw at a time.

    variance = (n - 1)/n sum_i (s_i - mean s)^2, with s_i the statistic without draw i.
    No draw is there twice, as it is in a bootstrap, where copies pass for a lack of
    diversity. Source: Tukey 1958; Efron and Stein, "The Jackknife Estimate of Variance"
    (1981).

    >>> [round(x, 4) for x in jackknife(np.mean, [1.0, 2.0, 3.0, 4.0])]  # s^2 / n
    [2.5, 0.4167, 3]
    """
    draws = list(draws)
    left_out = [statistic(draws[:i] + draws[i + 1 :]) for i in range(len(draws))]
    return _estimate(float(statistic(draws)), left_out)


def _estimate(value: float, left_out: Sequence[float]) -> Estimate:
    n, x = len(left_out), np.asarray(left_out, np.float64)
    variance = float((n - 1) / n * ((x - x.mean()) ** 2).sum())
    return Estimate(value, variance, n - 1)


def interval(
    estimates: Sequence[Estimate], low: float = -math.inf, high: float = math.inf
) -> Interval:
    """The mean of independent estimates, with Student's 95 % interval in [low, high].

    mean +- t_df sqrt(sum v_i) / P, with df = (sum v_i)^2 / sum (v_i^2 / df_i). Sources:
    Student (1908); Welch (1947), for df.

    >>> [round(x, 3) for x in interval([Estimate(2.5, 0.41667, 3)])]
    [2.5, 0.446, 4.554]
    """
    mean = float(np.mean([e.value for e in estimates]))
    v = np.array([e.variance for e in estimates])
    total = float(v.sum())
    if total == 0:
        return Interval(mean, mean, mean)
    if math.isnan(total):
        return Interval(mean, math.nan, math.nan)
    df = total**2 / float((v**2 / [e.df for e in estimates]).sum())
    reach = student_t(df) * math.sqrt(total) / len(estimates)
    return Interval(mean, max(low, mean - reach), min(high, mean + reach))


def student_t(df: float) -> float:
    """97.5 % quantile of Student's t, never too small; df >= 1, not always whole.

    >>> student_t(4), round(student_t(12), 3)
    (2.7764, 2.18)
    """
    x = [1 / d for d in _DF]
    return float(np.interp(1 / df, x[::-1], _T[::-1]))


# The frontier


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
