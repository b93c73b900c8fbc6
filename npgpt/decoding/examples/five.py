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

WORDS = ("the", "a", "cat", "old", "queen")
ENDING = ("the", "cat", "old", "queen", "<end>")  # where a text can end

TABLE = [  # row: the last word; column: the next one
    [0.05, 0.05, 0.40, 0.35, 0.15],
    [0.05, 0.05, 0.35, 0.35, 0.20],
    [0.40, 0.30, 0.05, 0.20, 0.05],
    [0.05, 0.05, 0.10, 0.05, 0.75],
    [0.60, 0.20, 0.05, 0.10, 0.05],
]
SMALLER = [  # what a smaller model, or the first layers, would say
    [0.10, 0.10, 0.50, 0.20, 0.10],
    [0.10, 0.10, 0.40, 0.20, 0.20],
    [0.30, 0.40, 0.10, 0.10, 0.10],
    [0.10, 0.10, 0.50, 0.10, 0.20],
    [0.40, 0.30, 0.10, 0.10, 0.10],
]
ENDING_TABLE = [
    [0.01, 0.50, 0.30, 0.18, 0.01],
    [0.30, 0.05, 0.05, 0.10, 0.50],
    [0.05, 0.15, 0.10, 0.65, 0.05],
    [0.10, 0.10, 0.05, 0.05, 0.70],
    [0.20, 0.20, 0.20, 0.20, 0.20],
]


class Words:
    """A tokenizer of five whole words."""

    def __init__(self, words: Sequence[str] = WORDS):
        self.words, self.vocab_size = list(words), len(words)

    def encode(self, text: str) -> list[int]:
        """Ids of words between spaces."""
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The words, a space before each but the first."""
        return " ".join(self.words[id] for id in ids)

    def special_ids(self) -> set[int]:
        """The end of a text, where there is one."""
        return {i for i, word in enumerate(self.words) if word == "<end>"}

    def token_bytes(self, id: int) -> bytes:
        """A space and the word."""
        return f" {self.words[id]}".encode()

    def stream(self) -> Words:
        """Decodes word by word."""
        return self

    def push(self, id: int) -> str:
        """The text of one more token."""
        return f" {self.words[id]}"

    def flush(self) -> str:
        """Nothing is held back."""
        return ""


class FiveWords(Generator):
    """The model of a table (5, 5) of probabilities; `early` is its first layers'.

    >>> FiveWords().generate("the", max_new_tokens=3).text
    ' cat the cat'
    """

    def __init__(
        self, table: Any = TABLE, early: Any = SMALLER, words: Sequence[str] = WORDS
    ):
        self.z, self.early = np.log(np.array(table)), np.log(np.array(early))
        self.tokenizer = Words(words)
        ends = self.tokenizer.special_ids()
        self.config = GPT2Config(
            vocab_size=5,
            n_positions=64,
            n_embd=5,
            n_layer=2,
            n_head=1,
            bos_token_id=0,
            eos_token_id=min(ends) if ends else None,
        )
        self.readings = 0  # passes through the whole model

    def encode(self, prompt: Any) -> list[int]:
        """Ids of a prompt."""
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else [*prompt]

    def new_cache(self, batch: int = 1, n_positions: int | None = None) -> KVCache:
        """A cache that holds ids alone."""
        return KVCache(1, batch, 1, n_positions or self.config.n_positions, 1)

    def next_logits(self, ids: Any, cache: KVCache) -> np.ndarray:
        """Logits after each row's last id."""
        return np.stack([z[-1] for z in self.all_logits(ids, cache)])

    def all_logits(self, ids: Any, cache: KVCache, keep: Any = None) -> list:
        """Logits after each row's last keep[row] ids."""
        self.readings += 1
        return self._read(self.z, ids, cache, keep)

    def first_logits(self, ids: Any, cache: KVCache, layers: int) -> tuple:
        """What the first layers say after each row's last id."""
        z = self._read(self.early, ids, cache, [1] * len(ids))
        return np.concatenate(z), [np.zeros((len(new), 1)) for new in ids]

    def rest_logits(
        self, ids: Any, states: Any, cache: KVCache, layers: int, keep: Any
    ) -> list:
        """The same as all_logits: the table is all there is to it."""
        return self.all_logits(ids, cache, keep)

    def next_hidden(self, ids: Any, cache: KVCache) -> tuple:
        """Logits, and hidden states: the row of the table of each id."""
        z = self.next_logits(ids, cache)
        return z, [np.exp(self.z[list(new)]) for new in ids]

    def tree_logits(self, ids: Any, parents: Any, cache: KVCache) -> np.ndarray:
        """Logits after each node of a tree."""
        self.readings += 1
        for held in cache.ids:
            held.extend(ids)
        return np.repeat(self.z[list(ids)][None], cache.batch, axis=0)

    def _read(self, table: np.ndarray, ids: Any, cache: KVCache, keep: Any) -> list:
        for held, new in zip(cache.ids, ids, strict=True):
            held.extend(new)
        keep = [len(new) for new in ids] if keep is None else keep
        return [
            table[list(new)][len(new) - n :] for new, n in zip(ids, keep, strict=True)
        ]


def table(columns: Mapping[str, Sequence], words: Sequence[str] = WORDS) -> str:
    """Lines of a table, a word each; numbers with three places.

    >>> print(table({"p": [0.5, 0.5], "": ["", "taken"]}, ["the", "a"]))
      token         p
      the       0.500
      a         0.500  taken
    """
    cells = [[_cell(x) for x in column] for column in columns.values()]
    widths = [
        max(6, len(name), *map(len, column))
        for name, column in zip(columns, cells, strict=True)
    ]
    lines = [["token", *columns]]
    lines += [[word, *row] for word, *row in zip(words, *cells, strict=True)]
    return "\n".join(_line(line, widths, columns) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int], names: Iterable[str]) -> str:
    word, *rest = cells
    shown = [
        text.rjust(width) if name else text
        for text, width, name in zip(rest, widths, names, strict=True)
    ]
    return f"  {word:<8} {'  '.join(shown)}".rstrip()


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, int | np.integer) else f"{value:.3f}"


def say(ids: Iterable[int], words: Sequence[str] = WORDS) -> str:
    """The words of some ids, quoted.

    >>> say([0, 2])
    "'the cat'"
    """
    return repr(" ".join(words[id] for id in ids))
