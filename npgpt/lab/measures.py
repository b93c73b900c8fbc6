"""What the texts of a comparison say of each setting, every figure with its interval.

Diversity is taken among the texts of one prompt and averaged over prompts. An interval
says how far another draw of as many seeds would move a figure, for these prompts.
Nothing is run here; npgpt.lab.run runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from npgpt.lab import diversity
from npgpt.lab.intervals import Estimate, Interval, estimate, interval, jackknife
from npgpt.lab.plan import Text


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


def _self_bleu(row: Sequence[Text]) -> Estimate:
    ids = [text.ids for text in row]
    return estimate(diversity.self_bleu(ids), diversity.leave_one_out_self_bleu(ids))
