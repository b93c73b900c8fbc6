"""A job: one call of generate, made ready. What every loop over texts works with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.cache import KVCache, keep_common
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row
from npgpt.decoding.selection import build_selector
from npgpt.errors import ContextOverflowError, DecodingError

Prompts = Sequence[Sequence[int]]


class Job:
    """A model, options, and what they amount to: chain, selector, ends, positions."""

    def __init__(self, model: Any, options: GenerationConfig):
        self.model, self.options = model, options
        self.room = model.config.n_positions
        self.eos = options.eos_ids(model.config)
        self.chain = build_chain(
            options, self.eos, model.tokenizer, model.config.vocab_size
        )
        self.selector = build_selector(options)

    def rows(self, prompts: Prompts, n: int | None = None) -> list[Row]:
        """The texts to write: n (num_return_sequences) of each prompt, side by side."""
        n = n or self.options.num_return_sequences
        tokenizer, rows = self.model.tokenizer, []
        for prompt in prompts:
            healed = heal(prompt, tokenizer, self.options)
            for j in range(n):
                row = Row(
                    len(rows), healed, j, tokenizer, self.options, self.eos, self.room
                )
                row.state = self.selector.start(row.context)
                rows.append(row)
        return rows

    def processed(self, row: Row, logits: np.ndarray) -> np.ndarray:
        """What the chain makes of the logits (V,) of a row's next token."""
        return run_chain(self.chain, row.ids, logits, row.context)

    def read(
        self, prompts: Prompts, cache: KVCache | None = None
    ) -> tuple[np.ndarray, KVCache]:
        """Logits after each prompt, (B, V), and the cache that holds the prompts."""
        room = self.room
        texts = [
            list(p) if len(p) <= room else list(p)[-(room // 2) :] for p in prompts
        ]
        if cache is None:
            cache = self.new_cache(texts)
        unread = [keep_common(cache, i, text) for i, text in enumerate(texts)]
        return self.model.next_logits(unread, cache), cache

    def new_cache(self, prompts: Prompts) -> Any:
        """An empty cache with room for these prompts and the new tokens."""
        longest = max(map(len, prompts)) + self.options.max_new_tokens
        return self.model.new_cache(len(prompts), n_positions=min(longest, self.room))


def search_job(
    model: Any, prompts: Prompts, options: GenerationConfig, cache: Any, what: str
) -> Job:
    """The job of a search with a loop of its own; raises what none of them can do."""
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
    return Job(model, options)


def check_room(model: Any, prompts: Prompts, options: GenerationConfig) -> None:
    """Raise ContextOverflowError, before any work, for what does not fit the model."""
    room = model.config.n_positions
    for i, prompt in enumerate(prompts):
        n, where = len(prompt), "the prompt"
        if len(prompts) > 1:
            where = f"prompt {i} of {len(prompts)}"
        if n > room and options.overflow == "stop":
            raise ContextOverflowError(
                f"{where} has {n} tokens, the model reads {room}; shorten it, or use "
                "overflow='slide'"
            )
        # The last new token is never read, so it needs no position.
        if options.overflow == "error" and n + options.max_new_tokens - 1 > room:
            raise ContextOverflowError(
                f"{where} has {n} tokens; with max_new_tokens {options.max_new_tokens} "
                f"that is more than the model's {room} positions; ask for fewer, or "
                "use overflow='stop' or 'slide'"
            )
