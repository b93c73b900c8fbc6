"""A language model of five words, small enough to follow by hand.

The next word depends on the last one alone, by a table of probabilities that stands
below. It has the interface of a real model, so every strategy runs on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.generation import Generator

WORDS = (" the", " cat", " old", " queen", "<end>")

TABLE = [  # row: the last word; column: the next one
    [0.05, 0.40, 0.30, 0.15, 0.10],
    [0.35, 0.05, 0.25, 0.05, 0.30],
    [0.05, 0.15, 0.05, 0.65, 0.10],
    [0.15, 0.05, 0.05, 0.05, 0.70],
    [0.20, 0.20, 0.20, 0.20, 0.20],
]
SMALLER = [  # what a smaller model, or the first layers, would say
    [0.10, 0.50, 0.15, 0.15, 0.10],
    [0.20, 0.10, 0.50, 0.10, 0.10],
    [0.10, 0.10, 0.10, 0.60, 0.10],
    [0.40, 0.10, 0.10, 0.10, 0.30],
    [0.20, 0.20, 0.20, 0.20, 0.20],
]


class Words:
    """A tokenizer of five tokens; a text is split at the spaces before its words."""

    pipeline: Mapping[str, Any] = {"pre_tokenizer": None}

    def __init__(self, words: Sequence[str] = WORDS):
        self.words, self.vocab_size = list(words), len(words)

    def encode(self, text: str) -> list[int]:
        """Ids of the words, with or without a space before the first."""
        return [self.words.index(f" {word}") for word in text.split()]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The words side by side."""
        return "".join(self.words[id] for id in ids)

    def special_ids(self) -> set[int]:
        """The end of a text, where there is one."""
        return {i for i, word in enumerate(self.words) if word == "<end>"}

    def token_bytes(self, id: int, first: bool = False, last: bool = False) -> bytes:
        """A space and the word."""
        return self.words[id].encode()

    def stream(self, after: Sequence[int] = ()) -> Words:
        """Decodes word by word."""
        return self

    def push(self, id: int) -> str:
        """The text of one more token."""
        return self.words[id]

    def flush(self) -> str:
        """Nothing is held back."""
        return ""


class FiveWords(Generator):
    """The model of a table (5, 5) of probabilities; `early` is its first layers'.

    `read` keeps what each pass reads of the first row: ids held already, ids new.
    `said` keeps every probability (V,) that it has answered with.

    >>> FiveWords().generate("the", max_new_tokens=3).text
    ' cat the cat'
    """

    def __init__(self, table: Any = TABLE, early: Any = SMALLER):
        self.z, self.early = np.log(np.array(table)), np.log(np.array(early))
        self.tokenizer: Words = Words()
        self.config = GPT2Config(
            vocab_size=5,
            n_positions=64,
            n_embd=5,
            n_layer=2,
            n_head=1,
            bos_token_id=0,
            eos_token_id=4,
        )
        self.read: list[tuple[int, list[int]]] = []
        self.said: list[np.ndarray] = []

    def encode(self, prompt: Any) -> list[int]:
        """Ids of a prompt."""
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else [*prompt]

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> KVCache:
        """A cache that holds ids alone."""
        return KVCache(1, batch, 1, n_positions or self.config.n_positions, 1)

    def next_logits(self, ids: Any, cache: KVCache) -> np.ndarray:
        """Logits after each row's last id."""
        return np.concatenate(self.all_logits(ids, cache, [1] * len(ids)))

    def all_logits(self, ids: Any, cache: KVCache, keep: Any = None) -> list[Any]:
        """Logits after each row's last keep[row] ids."""
        self.read.append((len(cache.ids[0]), list(ids[0])))
        return [z[:, 0] for z in self._read([self.z], ids, cache, keep)]

    def layer_logits(
        self, ids: Any, cache: KVCache, layers: Any, keep: Any = None, norm: bool = True
    ) -> list[Any]:
        """Logits of each of these layers, (keep[row], layers, V) a row."""
        tables = [self.z if layer == 2 else self.early for layer in layers]
        return self._read(tables, ids, cache, keep)

    def first_logits(self, ids: Any, cache: KVCache, layers: int) -> tuple[Any, Any]:
        """What the first layers say after each row's last id."""
        z = self._read([self.early], ids, cache, [1] * len(ids))
        return np.concatenate(z)[:, 0], [np.zeros((len(new), 1)) for new in ids]

    def rest_logits(
        self, ids: Any, states: Any, cache: KVCache, layers: int, keep: Any
    ) -> list[Any]:
        """The same as all_logits: the table is all there is to it."""
        return self.all_logits(ids, cache, keep)

    def next_hidden(self, ids: Any, cache: KVCache) -> tuple[Any, Any]:
        """Logits, and hidden states: the row of the table of each id."""
        z = self.next_logits(ids, cache)
        return z, [np.exp(self.z[list(new)]) for new in ids]

    def tree_logits(self, ids: Any, parents: Any, cache: KVCache) -> np.ndarray:
        """Logits after each node of a tree."""
        return np.stack(self.all_logits([ids] * cache.batch, cache))

    def _read(
        self, tables: list[Any], ids: Any, cache: KVCache, keep: Any
    ) -> list[Any]:
        rows = []
        for row, (held, new) in enumerate(zip(cache.ids, ids, strict=True)):
            held.extend(new)
            n = len(new) if keep is None else keep[row]
            z = np.stack([table[list(new)] for table in tables], axis=1)
            rows.append(z[len(new) - n :])
            self.said += list(np.exp(z[-1])) if len(new) else []
        return rows
