"""Vocabularies: the bytes of every token, and models whose ids are only padded.

Constraints on text see a vocabulary as bytes. A model may have more ids than its
tokenizer has tokens, for the sake of round sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from npgpt.errors import DecodingError
from npgpt.interface import Model, Rows, Tokens
from npgpt.shapes import Float


@functools.lru_cache(maxsize=8)
def all_bytes(tokenizer: Tokens) -> tuple[bytes, ...]:
    """The bytes that each id stands for; a special token, and a gap, stands for none.

    >>> from npgpt import GPT2
    >>> all_bytes(GPT2.from_pretrained("tales").tokenizer)[0]  # <|endoftext|>
    b''
    """
    special = tokenizer.special_ids()
    return tuple(
        b"" if id in special else tokenizer.token_bytes(id)
        for id in range(tokenizer.vocab_size)
    )


def padded(tokens: Sequence[bytes], V: int | None) -> list[bytes]:
    """The bytes of V ids: a model may have more ids than its tokenizer, or fewer.

    >>> padded([b"a"], 2)
    [b'a', b'']
    """
    V = len(tokens) if V is None else V
    return [*tokens[:V], *[b""] * (V - len(tokens))]


def whole(prefix: bytes) -> str:
    """The bytes that token healing took back, as the text behind which a constraint
    begins.

    >>> whole("né".encode())
    'né'
    """
    try:
        return prefix.decode()
    except UnicodeDecodeError:
        raise DecodingError(
            "token_healing: the prompt ends inside a character, and no constrained "
            "text goes on from there; leave token_healing out"
        ) from None


def same_tokens(one: Tokens | None, other: Tokens | None) -> bool:
    """Whether two tokenizers give every id the same meaning."""
    if one is None or other is None:
        return False
    n = max(one.vocab_size, other.vocab_size)
    return one.special_ids() == other.special_ids() and (
        padded(all_bytes(one), n) == padded(all_bytes(other), n)
    )


def sized_as(model: Model, other: Model) -> Model:
    """The other model with as many ids as the first: cut, or filled up with -inf.

    Raises DecodingError unless they share their tokens; padding is none.
    """
    a, b = model.config.vocab_size, other.config.vocab_size
    if a == b:
        return other
    if not same_tokens(model.tokenizer, other.tokenizer):
        raise DecodingError(
            f"the models have different vocabularies ({a} and {b} tokens); both must "
            "use the same tokenizer"
        )
    return _Sized(other, a)


class _Sized:
    """A model of another number of ids; what it does not have it reads as id 0."""

    def __init__(self, model: Model, V: int):
        self.model, self.V = model, V
        self.config, self.tokenizer = model.config, model.tokenizer
        self.encode, self.new_cache = model.encode, model.new_cache

    def next_logits(self, ids: Rows, cache: Any) -> Float[np.ndarray, "B V"]:
        """The model's, for this number of ids."""
        return self._fit(self.model.next_logits(self._own(ids), cache))

    def all_logits(
        self, ids: Rows, cache: Any, keep: Sequence[int] | None = None
    ) -> list[Float[np.ndarray, "_ V"]]:
        """The model's, for this number of ids."""
        return [*map(self._fit, self.model.all_logits(self._own(ids), cache, keep))]

    def _own(self, ids: Rows) -> list[list[int]]:
        V = self.config.vocab_size
        return [[id if id < V else 0 for id in row] for row in ids]

    def _fit(self, z: np.ndarray) -> np.ndarray:
        fill = ((0, 0), (0, max(0, self.V - z.shape[1])))
        return np.pad(z[:, : self.V], fill, constant_values=-np.inf)
