"""The loop: read the prompts, then choose, append and read one token a row at a time.

Greedy search is this loop with argmax. It talks to a model through four things:
`config`, `tokenizer` (or None), `new_cache(rows)` and `next_logits(ids, cache)`, and
decides nothing about probabilities itself: the chain and the selector do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt.cache import KVCache
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.healing import Prompt, heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules import Context, Rule, check
from npgpt.decoding.selection import Selector, build_selector
from npgpt.decoding.stopping import StopStrings, repeats
from npgpt.errors import ContextOverflowError, DecodingError


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


class Row:
    """A text in the making: its ids, its decoder, its place in the random streams,
    and the state of its selector.
    """

    def __init__(self, index: int, prompt: Prompt, sequence: int, tokenizer: Any,
                 options: GenerationConfig, selector: Selector):  # fmt: skip
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
        return len(self.ids) - self.prompt_length

    @property
    def context(self) -> Context:
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


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    cache: KVCache | None = None,
) -> Iterator[Step]:
    """Steps of every row, row by row within a step, until all rows have ended.

    Row i * num_return_sequences + j is sequence j of prompt i. A cache from
    `model.new_cache(len(prompts))` keeps what it has read for the next call. What
    cannot work is refused here, before the first step is asked for.
    """
    eos = options.eos_ids(model.config)
    check_room(model, prompts, options)
    for name in ("stop_strings", "token_healing", "regex"):
        if options.is_set(name) and model.tokenizer is None:
            raise DecodingError(f"{name} need a tokenizer, and this model has none")
    if cache is not None and cache.batch != len(prompts):
        raise DecodingError(f"a cache of {cache.batch} rows for {len(prompts)} prompts")
    if cache is not None and cache.n_positions < model.config.n_positions:
        raise DecodingError(
            f"a reused cache needs all {model.config.n_positions} of the model's "
            "positions"
        )
    chain = build_chain(options, eos, model.tokenizer, model.config.vocab_size)
    return _steps(model, prompts, options, chain, eos, cache)


def _steps(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    chain: Sequence[Rule],
    eos: Sequence[int],
    cache: KVCache | None,
) -> Iterator[Step]:
    selector = build_selector(options)
    healed = [heal(prompt, model.tokenizer, options) for prompt in prompts]
    n = options.num_return_sequences
    rows = [
        Row(i * n + j, prompt, j, model.tokenizer, options, selector)
        for i, prompt in enumerate(healed)
        for j in range(n)
    ]
    if not options.max_new_tokens:
        return
    z, cache = read_prompts(model, [prompt.ids for prompt in healed], options, cache)
    if n > 1:
        cache, z = cache.repeat(n), np.repeat(z, n, axis=0)
    while True:
        for row, logits in zip(rows, z, strict=True):
            full = (
                options.overflow == "stop" and len(row.ids) == model.config.n_positions
            )
            yield _choose(row, logits, chain, selector, options, eos, last=full)
        alive = [i for i, row in enumerate(rows) if row.finish_reason is None]
        if not alive:
            return
        if len(alive) < len(rows):
            rows, cache = [rows[i] for i in alive], cache.select(alive)
        z = model.next_logits(
            [_unread(row, i, cache) for i, row in enumerate(rows)], cache
        )


def check_room(
    model: Any, prompts: Sequence[Sequence[int]], options: GenerationConfig
) -> None:
    """Raise ContextOverflowError, before any work, for what does not fit the model."""
    room = model.config.n_positions
    for i, prompt in enumerate(prompts):
        where = f"prompt {i} of {len(prompts)}" if len(prompts) > 1 else "the prompt"
        if len(prompt) > room and options.overflow == "stop":
            raise ContextOverflowError(
                f"{where} has {len(prompt)} tokens, the model reads {room}; shorten "
                "it, or use overflow='slide'"
            )
        # The last new token is never read, so it needs no position.
        if (
            options.overflow == "error"
            and len(prompt) + options.max_new_tokens - 1 > room
        ):
            raise ContextOverflowError(
                f"{where} has {len(prompt)} tokens; with max_new_tokens "
                f"{options.max_new_tokens} that is more than the model's {room} "
                "positions; ask for fewer, or use overflow='stop' or 'slide'"
            )


def read_prompts(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: GenerationConfig,
    cache: KVCache | None,
) -> tuple[np.ndarray, KVCache]:
    """Logits after each prompt, (B, V), and the cache that holds the prompts."""
    room = model.config.n_positions
    prompts = [list(p) if len(p) <= room else list(p)[-(room // 2) :] for p in prompts]
    if cache is None:
        longest = max(map(len, prompts)) + options.max_new_tokens - 1
        cache = model.new_cache(len(prompts), n_positions=min(longest, room))
    shared = [
        _common_prefix(held, prompt)
        for held, prompt in zip(cache.ids, prompts, strict=True)
    ]
    cache.crop(shared)
    unread = [prompt[start:] for prompt, start in zip(prompts, shared, strict=True)]
    return model.next_logits(unread, cache), cache


def _common_prefix(held: Sequence[int], prompt: Sequence[int]) -> int:
    """How many positions can be reused; the prompt's last token is always read anew."""
    length = 0
    for a, b in zip(held, prompt[:-1], strict=False):
        if a != b:
            break
        length += 1
    return length


def _unread(row: Row, index: int, cache: KVCache) -> list[int]:
    """What the model has to read next for this row: the last token, as a rule.

    When the row has filled all positions, its cache is dropped and the last half of the
    context read again: learned positions are part of the keys, so they cannot be moved.
    """
    if len(cache.ids[index]) < cache.n_positions:
        return row.ids[-1:]
    cache.crop_row(index, 0)
    return row.ids[-(cache.n_positions // 2) :]


def _choose(
    row: Row,
    logits: np.ndarray,
    chain: Sequence[Rule],
    selector: Selector,
    options: GenerationConfig,
    eos: Sequence[int],
    last: bool,
) -> Step:
    z = run_chain(chain, row.ids, logits, row.context)
    id, row.state = selector.choose(row.ids, z, row.context, row.state)
    return step_of(row, id, logits, z, options, eos, last)


def step_of(
    row: Row,
    id: int,
    logits: np.ndarray,
    z: np.ndarray,
    options: GenerationConfig,
    eos: Sequence[int],
    last: bool = False,
) -> Step:
    """Append a token to a row; its Step, from the model's logits and the chain's z.

    `last` ends the row though its budget is not used up.
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
        rank=int((logits > logits[id]).sum()) + 1,
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
