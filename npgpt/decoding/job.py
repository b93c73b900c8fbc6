"""A job: one call of generate, made ready. What every loop over texts works with."""

from __future__ import annotations

import functools

import numpy as np

from npgpt.cache import keep_common
from npgpt.decoding.chain import build_chain, check_ids
from npgpt.decoding.healing import heal
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.row import Row
from npgpt.decoding.rules.base import Rule
from npgpt.decoding.selection import build_selector
from npgpt.errors import ContextOverflowError, DecodingError
from npgpt.interface import Cache, Model, Rows


class Job:
    """A model, prompts, options, and what they amount to: chain, ends, positions."""

    def __init__(
        self,
        model: Model,
        prompts: Rows,
        options: GenerationConfig,
        cache: Cache | None = None,
    ):
        self.model, self.prompts, self.options = model, prompts, options
        self.cache = cache  # that of an earlier call, if it was given
        self.config, self.tokenizer = model.config, model.tokenizer
        self.room, self.eos = self.config.n_positions, options.eos_ids(self.config)
        self.selector = build_selector(options)
        for strategy in options.active("selector"):
            for name in strategy.passed:
                check_ids(name, getattr(options, name), self.config.vocab_size)

    @functools.cached_property
    def chain(self) -> list[Rule]:
        """The rules that the options ask for."""
        V = self.config.vocab_size
        return build_chain(self.options, self.eos, self.tokenizer, V)

    def rows(self, n: int | None = None) -> list[Row]:
        """The texts to write: n (num_return_sequences) of each prompt, side by side."""
        rows: list[Row] = []
        for origin, prompt in enumerate(self.prompts):
            healed = heal(prompt, self.tokenizer, self.options)
            for j in range(n or self.options.num_return_sequences):
                at = (len(rows), healed, j)
                row = Row(*at, self.tokenizer, self.options, self.eos, self.room)
                row.origin = origin
                row.state, row.chain = self.selector.start(row.context), self.chain
                rows.append(row)
        return rows

    def read(
        self, prompts: Rows, cache: Cache | None = None
    ) -> tuple[np.ndarray, Cache]:
        """Logits after each prompt, (B, V), and the cache that holds the prompts."""
        half = self.room // 2
        texts = [list(p) if len(p) <= self.room else list(p)[-half:] for p in prompts]
        if cache is None:
            cache = self.new_cache(texts)
        unread = [keep_common(cache, i, text) for i, text in enumerate(texts)]
        return self.model.next_logits(unread, cache), cache

    def new_cache(self, prompts: Rows) -> Cache:
        """An empty cache with room for these prompts and the new tokens."""
        longest = max(map(len, prompts)) + self.options.max_new_tokens
        return self.model.new_cache(len(prompts), n_positions=min(longest, self.room))

    def cache_of(self, row: Row, n_positions: int | None = None) -> Cache:
        """An empty cache for one row alone."""
        longest = min(len(row.ids) + self.options.max_new_tokens, self.room)
        cache = self.model.new_cache(1, n_positions=n_positions or longest)
        if hasattr(cache, "belong"):  # a negative prompt goes with its prompt
            cache.belong([row.origin])
        return cache

    def check_room(self) -> None:
        """Raise ContextOverflowError, before any work, for what does not fit."""
        how, new, room = self.options.overflow, self.options.max_new_tokens, self.room
        for i, prompt in enumerate(self.prompts):
            n, where = len(prompt), "the prompt"
            if len(self.prompts) > 1:
                where = f"prompt {i} of {len(self.prompts)}"
            if n > room and how == "stop":
                raise ContextOverflowError(
                    f"{where} has {n} tokens, the model reads {room}; shorten it, or "
                    "use overflow='slide'"
                )
            # The last new token is never read, so it needs no position.
            if n + new - 1 > room and how == "error":
                raise ContextOverflowError(
                    f"{where} has {n} tokens; with max_new_tokens {new} that is more "
                    f"than the model's {room} positions; ask for fewer, or use "
                    "overflow='stop' or 'slide'"
                )

    def check_selector(self, what: str) -> None:
        """Raise DecodingError where the options choose how a token is taken."""
        for strategy in self.options.active("selector"):
            if not strategy.default:
                raise DecodingError(
                    f"{what} does not go with {strategy.switch}: it takes the tokens "
                    "by a way of its own"
                )

    def check_search(self, what: str) -> None:
        """Raise what no search with a loop of its own can do, before any work."""
        self.check_room()
        if self.options.overflow == "slide":
            raise DecodingError(
                f"overflow='slide' does not go with {what}; use 'error' or 'stop'"
            )
        if self.cache is not None:
            raise DecodingError(
                f"a cache cannot be given to {what}, which keeps its own"
            )
        if self.options.stop_strings and self.tokenizer is None:
            raise DecodingError(
                "stop_strings need a tokenizer, and this model has none"
            )
        if self.options.token_healing:
            raise DecodingError(f"token_healing does not go with {what}")
