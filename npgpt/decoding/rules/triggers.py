"""Lazy grammars: the text is free until a trigger occurs, and a sentence from there.

A trigger is a word, found in the text even where tokens cut it otherwise, or a token.
The grammar reads from the trigger's first byte on, so its sentences begin with it. As
in llama.cpp (`grammar_lazy`, which having a trigger stands for), but for one thing: a
token that would complete a trigger and go on as no sentence does is removed, where
llama.cpp stops with an error. Where the text stands is a function of the new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from npgpt.decoding.rules.base import Ids
from npgpt.decoding.vocabulary import whole
from npgpt.errors import DecodingError


def triggered(
    pieces: Sequence[bytes], ids: Ids, words: Sequence[bytes], tokens: Ids
) -> tuple[int, int] | None:
    """(n, skip): the grammar reads token n on, but for `skip` bytes; None: no trigger.

    The first trigger to be complete counts; of those that the same token completes, a
    trigger token, then the first of the words.

    >>> triggered([b"aa", b"ab("], [0, 1], [b"b("], [])
    (1, 1)
    """
    text = b"".join(pieces)
    ends = np.cumsum([len(piece) for piece in pieces])
    found = [(n, -1, n, 0) for n, id in enumerate(ids) if id in tokens][:1]
    for i, word in enumerate(words):
        at = text.find(word)
        if at >= 0:
            done = int(np.searchsorted(ends, at + len(word)))
            n = int(np.searchsorted(ends, at, side="right"))
            found.append((done, i, n, at - int(ends[n]) + len(pieces[n])))
    return min(found)[2:] if found else None


class Grammar(Protocol):
    """What a grammar says of a text."""

    V: int

    @property
    def tokens(self) -> Sequence[bytes]:
        """The bytes of each id."""

    def spelt(self, text: bytes) -> list[int]:
        """The text byte by byte, in ids of the grammar's own."""

    def mask(self, generated: Ids, left: float = np.inf) -> np.ndarray:
        """(V,) True where a token keeps the text on the way to a sentence."""

    def begins(self, generated: Ids, left: float = np.inf) -> bool:
        """Whether a sentence of the grammar begins with this text."""

    def ended(self, generated: Ids) -> bool:
        """Whether this text is a sentence, and nothing can follow."""


class Behind:
    """The mask of a grammar that begins behind some bytes (token healing)."""

    def __init__(self, grammar: Grammar, prefix: bytes):
        self.grammar, self.prefix = grammar, whole(prefix).encode()

    def read(self, generated: Ids) -> tuple[bytes, list[int]]:
        """What is left of the prefix, and what the grammar has to read."""
        left = self.prefix
        for n, id in enumerate(generated):
            token = self.grammar.tokens[id]
            if len(token) >= len(left):
                rest = self.grammar.spelt(token[len(left) :])
                return b"", [*rest, *generated[n + 1 :]]
            left = left[len(token) :]
        return left, []

    def ended(self, generated: Ids) -> bool:
        """Whether these tokens are the prefix and a sentence that cannot go on."""
        left, read = self.read(generated)
        return not left and self.grammar.ended(read)

    def mask(self, generated: Ids, left: float = np.inf) -> np.ndarray:
        """(V,) True where a token keeps a sentence behind the prefix possible, which is
        whole with so many tokens more."""
        (rest, read), grammar = self.read(generated), self.grammar
        if not rest:
            return grammar.mask(read, left)
        allowed = np.zeros(grammar.V, bool)
        for id, token in enumerate(grammar.tokens[: grammar.V]):
            if token.startswith(rest):
                own = grammar.spelt(token[len(rest) :])
                allowed[id] = grammar.begins(own, left - 1)
            elif token and rest.startswith(token):  # each byte may take a token
                allowed[id] = grammar.begins([], left - 1 - len(rest) + len(token))
        return allowed


def behind(grammar: Grammar, prefix: bytes) -> Grammar | Behind:
    """The grammar itself, if there is no prefix."""
    return Behind(grammar, prefix) if prefix else grammar


class LazyMask:
    """The mask of a grammar that begins to constrain with the first trigger."""

    def __init__(self, grammar: Grammar, words: Sequence[str], tokens: Ids):
        self.grammar, self.triggers = grammar, tokens
        self.V = grammar.V
        self.words = [word.encode() for word in words]
        self.tokens = grammar.tokens
        for word in self.words:
            self._check(grammar.spelt(word), word.decode())
        for id in tokens:
            self._check([id], f"token {id}")
        # (word, k): the tokens that complete a word of which k bytes stand already
        self._completing = {
            (word, k): [
                id
                for id, x in enumerate(self.tokens[: self.V])
                if (x.startswith(word[k:]) if k else word in x)
            ]
            for word in self.words
            for k in range(len(word))
        }

    def _check(self, ids: Ids, what: str) -> None:
        if not self.grammar.begins(ids):
            raise DecodingError(
                f"no sentence of the grammar begins with the trigger {what!r}"
            )

    def spelt(self, text: bytes) -> list[int]:
        """The text byte by byte, in ids of the grammar's own."""
        return self.grammar.spelt(text)

    def ended(self, generated: Ids) -> bool:
        """Whether this text is whole, and nothing can follow."""
        read = self.read(generated)
        return read is not None and self.grammar.ended(read)

    def begins(self, generated: Ids, left: float = np.inf) -> bool:
        """Whether this text may still become one that fits."""
        read = self.read(generated)
        return read is None or self.grammar.begins(read, left)

    def read(self, generated: Ids) -> list[int] | None:
        """What the grammar has to read of the new tokens; None while it waits."""
        pieces = [self.tokens[id] for id in generated]
        start = triggered(pieces, generated, self.words, self.triggers)
        if start is None:
            return None
        n, skip = start
        if not skip:
            return list(generated[n:])
        return [*self.spelt(pieces[n][skip:]), *generated[n + 1 :]]

    def mask(self, generated: Ids, left: float = np.inf) -> np.ndarray:
        """(V,) True where a token is allowed."""
        read = self.read(generated)
        if read is not None:
            return self.grammar.mask(read, left)
        allowed = np.ones(self.V, bool)
        for id in self.triggers:
            allowed[id] = self.grammar.begins([id], left - 1)
        longest = max(map(len, self.words), default=0)
        near = [id for id in generated if self.tokens[id]][-longest:]
        text = b"".join(self.tokens[id] for id in near)
        for (word, k), ids in self._completing.items():
            if text.endswith(word[:k]):
                for id in ids:
                    allowed[id] = self.begins([*near, id], left - 1)
        return allowed
