"""What searches over whole sequences share: a token with its numbers, a finished text.

A search keeps several texts in the making and knows the best only at its end; then
`steps_of` turns them into the Steps that sampling yields one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.healing import Prompt
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step
from npgpt.decoding.sampling import check_room
from npgpt.decoding.selection import build_selector
from npgpt.errors import DecodingError


class Pick(NamedTuple):
    """One token of a text: its log-probabilities in nats, and its rank."""

    token_id: int
    logprob: float  # under the model
    processed_logprob: float  # what the chain made of it: what the search adds up
    rank: int
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Hypothesis:
    """One text of a search, with the score that ranked it."""

    picks: tuple[Pick, ...]
    score: float | None = None
    finish_reason: str = "length"

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
    best = ()
    if top:
        order = np.argsort(-lp, kind="stable")[:top]
        best = tuple((int(i), float(lp[i] - norm)) for i in order)
    if rank is None:
        rank = int(np.count_nonzero(lp > lp[id])) + 1
    return Pick(int(id), float(lp[id] - norm), float(processed), rank, best)


class Ends:
    """Tells why a text ends with its newest token: "eos", "stop", "length" or None."""

    def __init__(self, model: Any, prompt: Sequence[int], options: GenerationConfig):
        self.eos = options.eos_ids(model.config)
        self.stops, self.tokenizer = options.stop_strings, model.tokenizer
        room = model.config.n_positions - len(prompt) + 1  # the last one is not read
        self.budget = options.max_new_tokens
        if options.overflow == "stop":
            self.budget = min(self.budget, room)

    def reason(self, new_ids: Sequence[int]) -> str | None:
        """Why it ends, from the new tokens alone."""
        if new_ids[-1] in self.eos:
            return "eos"
        if self.stops:
            text = self.tokenizer.decode(list(new_ids))
            if any(stop in text for stop in self.stops):
                return "stop"
        return "length" if len(new_ids) >= self.budget else None


def check_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    cache: Any,
    what: str,
) -> None:
    """Raise what a search of its own loop cannot do, before any work."""
    check_room(model, prompts, options)
    if options.overflow == "slide":
        raise DecodingError(
            f"overflow='slide' does not go with {what}; use 'error' or 'stop'"
        )
    if cache is not None:
        raise DecodingError(f"a cache cannot be given to {what}, which keeps its own")
    if options.stop_strings and model.tokenizer is None:
        raise DecodingError("stop_strings need a tokenizer, and this model has none")
    if options.token_healing:
        raise DecodingError(f"token_healing does not go with {what}")


def steps_of(
    index: int,
    prompt: Sequence[int],
    hypothesis: Hypothesis,
    model: Any,
    options: GenerationConfig,
    sequence: int = 0,
) -> Iterator[Step]:
    """The Steps of one finished text; the last one carries its score."""
    row = new_row(index, prompt, sequence, model, options)
    eos = options.eos_ids(model.config)
    for i, taken in enumerate(hypothesis.picks):
        last = i + 1 == len(hypothesis.picks)
        text = row.append(taken.token_id, options, eos)
        if last:
            row.finish_reason = row.finish_reason or hypothesis.finish_reason
        done = row.finish_reason is not None
        step = Step(
            index,
            taken.token_id,
            text + row.rest() if done else text,
            taken.logprob,
            taken.processed_logprob,
            taken.rank,
            taken.top_logprobs,
            row.finish_reason,
        )
        yield replace(step, score=hypothesis.score) if done else step
        if done:
            return


def new_row(
    index: int,
    prompt: Sequence[int],
    sequence: int,
    model: Any,
    options: GenerationConfig,
) -> Row:
    """An empty row after a prompt."""
    selector = build_selector(options)
    return Row(
        index, Prompt(list(prompt)), sequence, model.tokenizer, options, selector
    )
