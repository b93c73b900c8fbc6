"""A row: one text in the making, and the Step that is reported of each token.

Knows nothing of models or caches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding.chain import run_chain
from npgpt.decoding.healing import Prompt, characters
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, Rule, check
from npgpt.decoding.stopping import StopStrings, repeats
from npgpt.support.notebook import short


@dataclass(frozen=True)
class Step:
    """One chosen token of one row.

    text is what can be shown now: a token may end inside a character or a possible stop
    string, and its text then comes with a later step. Log-probabilities are in nats.
    """

    row: int
    token_id: int
    text: str
    logprob: float  # under the model
    processed_logprob: float  # under what the chain made of it
    rank: int  # 1 is the model's most probable token
    top_logprobs: tuple[tuple[int, float], ...] = ()  # the model's best (id, logprob)
    # "eos", "stop" (a string, or a constraint that is whole and can go on no more),
    # "length" or "repetition", with the last step
    finish_reason: str | None = None
    score: float | None = None  # of the whole text, with the last step of a search

    def __repr__(self) -> str:
        where = f"row {self.row}, " if self.row else ""
        end = f", {self.finish_reason}" if self.finish_reason else ""
        return (
            f"Step({where}{short(self.text)}, id {self.token_id}, log-probability "
            f"{self.logprob:.3f}, rank {self.rank}{end})"
        )


class Pick(NamedTuple):
    """One token of a text and its numbers, as a Step reports them."""

    token_id: int
    logprob: float
    processed_logprob: float
    rank: int
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Row:
    """A text in the making: its ids, its decoder, its place in the random streams, its
    chain and the state of its selector.
    """

    chain: Sequence[Rule] = ()
    state: Any = None  # the selector's
    origin = 0  # which prompt it goes on from

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        sequence: int,
        tokenizer: Any,
        options: GenerationConfig,
        eos: Sequence[int],
        room: int,
    ):
        self.index, self.sequence = index, sequence
        self.ids, self.prompt_length = list(prompt.ids), len(prompt.ids)
        self.prefix = prompt.prefix  # bytes of the prompt that are written anew
        self._known = characters(prompt.prefix)  # those are not news
        self.options, self.eos = options, eos
        self.most = options.max_new_tokens
        if options.overflow != "slide":  # the last token is not read
            self.most = min(self.most, room + 1 - self.prompt_length)
        self.tokenizer = tokenizer
        self.stream = None if tokenizer is None else tokenizer.stream(prompt.ids)
        self.stop = StopStrings(
            options.stop_strings, options.include_stop_str_in_output
        )
        self.finish_reason: str | None = None

    @property
    def step(self) -> int:
        """New tokens so far."""
        return len(self.ids) - self.prompt_length

    @property
    def context(self) -> Context:
        """Where the next token stands."""
        return self.context_at(0)

    def context_at(self, ahead: int) -> Context:
        """Where the token after so many more stands."""
        step, seed = self.step + ahead, self.options.seed
        at = (self.prompt_length, step, seed, self.sequence)
        return Context(*at, prefix=self.prefix, index=self.index)

    def processed(self, logits: np.ndarray, new_ids: Sequence[int] = ()) -> np.ndarray:
        """What the chain makes of the logits (V,) of the next token, after these."""
        ids = [*self.ids, *new_ids] if new_ids else self.ids
        return run_chain(self.chain, ids, logits, self.context_at(len(new_ids)))

    def take(
        self, pick: Pick, end: str | None = None, score: float | None = None
    ) -> Step:
        """Take one token, and report it. `end` ends the row here, if nothing else does.

        The score is reported with the row's last step.
        """
        self.ids.append(pick.token_id)
        text, o = "", self.options
        if pick.token_id in self.eos:
            self.finish_reason = "eos"
        elif self.stream is not None:
            text = self.stop.push(self._news(self.stream.push(pick.token_id)))
        if self.stop.found or (self.finish_reason is None and self.over(())):
            self.finish_reason = "stop"
        elif self.finish_reason is None and repeats(
            self.ids[self.prompt_length :],
            o.max_pattern_size,
            o.min_pattern_size,
            o.min_count,
        ):
            self.finish_reason = "repetition"
        elif self.finish_reason is None:
            self.finish_reason = "length" if self.step >= self.most else end
        if self.finish_reason is None:
            score = None
        else:
            text += self._rest()
        return Step(
            self.index, pick.token_id, text, *pick[1:], self.finish_reason, score
        )

    def over(self, new_ids: Sequence[int]) -> bool:
        """Whether a text of these tokens more has come to an end of its own."""
        if new_ids and new_ids[-1] in self.eos:
            return True
        ends = [rule.ends for rule in self.chain if rule.ends]
        where = self.context_at(len(new_ids))
        return any(end([*self.ids, *new_ids], where) for end in ends)

    def end_after(self, new_ids: Sequence[int]) -> str | None:
        """Why a text of these new tokens, not yet taken, ends with the last of them."""
        if self.over(new_ids):
            return "eos" if new_ids[-1] in self.eos else "stop"
        if self.options.stop_strings:
            stream = self.tokenizer.stream(self.ids[: self.prompt_length])
            text = "".join(map(stream.push, new_ids)) + stream.flush()
            if any(stop in text for stop in self.options.stop_strings):
                return "stop"
        return "length" if len(new_ids) >= self.most else None

    def _rest(self) -> str:
        """The text still held back when the row has ended."""
        if self.stream is None or self.stop.found:
            return ""
        text = self.stop.push(self._news(self.stream.flush()))
        return text if self.stop.found else text + self.stop.flush()

    def _news(self, text: str) -> str:
        """What of the text was not in the prompt already (see token healing)."""
        old = min(self._known, len(text))
        self._known -= old
        return text[old:]


def by_row(steps: Iterable[Step], rows: int) -> list[list[Step]]:
    """The steps of each row."""
    found: list[list[Step]] = [[] for _ in range(rows)]
    for step in steps:
        found[step.row].append(step)
    return found


def record(
    row: Row, id: int, logits: np.ndarray, z: np.ndarray, end: str | None = None
) -> Step:
    """Give the row its next token, chosen from z, and report it.

    logits are the model's, z what the chain made of them.
    """
    best = most_probable(logits, row.options.top_logprobs)
    raw, *others = logprobs(logits, [id, *best])
    made = raw if z is logits else logprobs(z, [id])[0]
    rank = int(np.count_nonzero(logits > logits[id])) + 1
    top = tuple(zip(best, others, strict=True))
    return row.take(Pick(id, raw, made, rank, top), end)


def most_probable(z: np.ndarray, n: int) -> list[int]:
    """The n most probable tokens, best first; the lowest id first among equals.

    >>> most_probable(np.array([1.0, 3.0, 3.0]), 2)
    [1, 2]
    """
    return np.argsort(-z, kind="stable")[:n].tolist() if n else []


def logprobs(z: np.ndarray, ids: Sequence[int]) -> list[float]:
    """log softmax(z)[id] of some ids, in nats.

    >>> [round(x, 4) for x in logprobs(np.zeros(4), [2])]
    [-1.3863]
    """
    top = check(z)
    total = np.log(np.exp(z - top).sum(dtype=np.float64))
    return [float(z[id] - top - total) for id in ids]
