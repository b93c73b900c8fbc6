"""A row: one text in the making, and the Step that is reported of each token.

Knows nothing of models, chains or caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.decoding.healing import Prompt
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, check
from npgpt.decoding.selection import Selector
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
    # "eos", "stop", "length" or "repetition", with the last step
    finish_reason: str | None = None
    score: float | None = None  # of the whole text, with the last step of a search

    def __repr__(self) -> str:
        where = f"row {self.row}, " if self.row else ""
        end = f", {self.finish_reason}" if self.finish_reason else ""
        return (
            f"Step({where}{short(self.text)}, id {self.token_id}, log-probability "
            f"{self.logprob:.3f}, rank {self.rank}{end})"
        )


class Row:
    """A text in the making: its ids, its decoder, its place in the random streams,
    and the state of its selector.
    """

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        sequence: int,
        tokenizer: Any,
        options: GenerationConfig,
        selector: Selector,
    ):
        self.index = index
        self.ids = list(prompt.ids)
        self.prompt_length = len(prompt.ids)
        self.sequence = sequence
        self.seed = options.seed
        self.prefix = prompt.prefix  # bytes of the prompt that are written anew
        self._known = len(prompt.prefix.decode())  # characters that are not news
        self.state = selector.start(self.context)
        self.stream = None if tokenizer is None else tokenizer.stream()
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
        return Context(
            self.prompt_length, self.step, self.seed, self.sequence, prefix=self.prefix
        )

    def append(self, id: int, options: GenerationConfig, eos: Sequence[int]) -> str:
        """Take one token; the text that it lets us show."""
        self.ids.append(id)
        text = ""
        if id in eos:
            self.finish_reason = "eos"
        elif self.stream is not None:
            text = self.stop.push(self._news(self.stream.push(id)))
        if self.stop.found:
            self.finish_reason = "stop"
        elif self.finish_reason is None and repeats(
            self.ids[self.prompt_length :],
            options.max_pattern_size,
            options.min_pattern_size,
            options.min_count,
        ):
            self.finish_reason = "repetition"
        elif self.finish_reason is None and self.step == options.max_new_tokens:
            self.finish_reason = "length"
        return text

    def rest(self) -> str:
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


def record(
    row: Row,
    id: int,
    logits: np.ndarray,
    z: np.ndarray,
    options: GenerationConfig,
    eos: Sequence[int],
    last: bool = False,
) -> Step:
    """Give the row its next token, chosen from z, and report it.

    logits are the model's, z what the chain made of them. `last` ends the row here.
    """
    text = row.append(id, options, eos)
    if last and row.finish_reason is None:
        row.finish_reason = "length"
    if row.finish_reason is not None:
        text += row.rest()
    best = ()
    if options.top_logprobs:
        order = np.argsort(-logits, kind="stable")[: options.top_logprobs]
        best = tuple((int(i), logprob(logits, int(i))) for i in order)
    raw = logprob(logits, id)
    return Step(
        row=row.index,
        token_id=id,
        text=text,
        logprob=raw,
        processed_logprob=raw if z is logits else logprob(z, id),
        rank=int(np.count_nonzero(logits > logits[id])) + 1,
        top_logprobs=best,
        finish_reason=row.finish_reason,
    )


def logprob(z: np.ndarray, id: int) -> float:
    """log softmax(z)[id] in nats.

    >>> round(logprob(np.zeros(4), 2), 4)
    -1.3863
    """
    top = check(z)
    total = np.exp(z - top).sum(dtype=np.float64)
    return float(z[id] - top - np.log(total))
