"""The loop: read the prompts, then choose, append and read one token a row at a time.

Greedy search is this loop with argmax. It talks to a model through four things:
`config`, `tokenizer` (or None), `new_cache(rows)` and `next_logits(ids, cache)`, and
decides nothing about probabilities itself: the chain and the selector do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from npgpt.cache import KVCache
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row, Step, record
from npgpt.decoding.rules.base import Rule
from npgpt.decoding.selection import Selector, build_selector
from npgpt.errors import ContextOverflowError, DecodingError


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
    return record(row, id, logits, z, options, eos, last)
