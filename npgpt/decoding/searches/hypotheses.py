"""What searches over whole sequences share: their texts, the Steps of the best ones.

A search keeps several texts in the making and knows the best only at its end; then
`steps_of` turns them into the Steps that sampling yields one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from npgpt.decoding.row import Pick, Row, Step, by_row, most_probable


class Hypothesis(NamedTuple):
    """A text of a search, in the making or finished."""

    picks: tuple[Pick, ...] = ()
    score: float = 0.0
    finish_reason: str | None = None
    parent: int = 0  # which of the texts before it is one token shorter

    @property
    def ids(self) -> list[int]:
        """The new tokens."""
        return [pick.token_id for pick in self.picks]


def pick(
    lp: np.ndarray,
    id: int,
    processed: float,
    top: int = 0,
    norm: float = 0.0,
    rank: int | None = None,
) -> Pick:
    """Token `id` with its numbers from the model's log-probabilities lp - norm (V,).

    >>> pick(np.log(np.array([0.5, 0.25, 0.25])), 1, -2.0).rank
    2
    """
    if rank is None:
        rank = int(np.count_nonzero(lp > lp[id])) + 1
    best = tuple((i, float(lp[i] - norm)) for i in most_probable(lp, top))
    return Pick(int(id), float(lp[id] - norm), float(processed), rank, best)


def steps_of(row: Row, text: Hypothesis) -> Iterator[Step]:
    """A row takes a finished text; its last step carries the score."""
    for i, taken in enumerate(text.picks, 1):
        end = text.finish_reason if i == len(text.picks) else None
        yield row.take(taken, end, text.score)
        if row.finish_reason is not None:
            return


def ranked(
    steps: Iterable[Step],
    score: Callable[[Sequence[Step]], float],
    rows: int,
    n: int,
    keep: int,
) -> Iterator[Step]:
    """Of every n rows of steps the `keep` ones of the highest scores, best first."""
    texts = by_row(steps, rows)
    scores = [score(text) if text else 0.0 for text in texts]
    for first in range(0, rows, n):
        order = sorted(range(first, first + n), key=lambda j: -scores[j])
        for place, j in enumerate(order[:keep]):
            for step in texts[j]:
                last = scores[j] if step.finish_reason else None
                yield replace(step, row=first // n * keep + place, score=last)
