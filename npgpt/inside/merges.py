"""How a text becomes ids: pre-tokens, and in each of them merge after merge.

Byte-pair encoding (Sennrich et al. 2016; on bytes, Radford et al. 2019): a pre-token
begins as single symbols, and of all pairs that stand side by side the one that was
learned first is joined, until none is left that was learned.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any

from npgpt.errors import InsideError
from npgpt.tokenizer import Tokenizer


@dataclass(frozen=True)
class Merge:
    """Two symbols joined everywhere in a pre-token; rank 0 was learned first."""

    rank: int
    pair: tuple[str, str]
    symbols: tuple[str, ...]  # of the pre-token, afterwards


@dataclass(frozen=True)
class PreToken:
    """A part of the text that no merge reaches across."""

    text: str  # as it stands in the text
    symbols: tuple[str, ...]  # before the first merge, as the vocabulary writes them
    merges: tuple[Merge, ...]
    tokens: tuple[str, ...]
    ids: tuple[int, ...]

    @property
    def bytes(self) -> bytes:
        """Its UTF-8."""
        return self.text.encode()


def pre_tokens(tokenizer: Tokenizer, text: str) -> list[PreToken]:
    """Every step from a text to its ids.

    Raises InsideError for a tokenizer that has no merges, WordPiece or Unigram.

    >>> from npgpt import GPT2
    >>> tales = GPT2.from_pretrained("tales").tokenizer
    >>> [one.text for one in pre_tokens(tales, "The old king")]
    ['The', ' old', ' king']
    >>> [merge.pair for merge in pre_tokens(tales, "The")[0].merges]
    [('h', 'e'), ('T', 'he')]
    """
    backend = tokenizer.backend
    model = json.loads(backend.to_str())["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise InsideError(
            f"a tokenizer of the kind {model.get('type')} has no merges to show; "
            "leave --steps out"
        )
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    ranks = {tuple(pair): rank for rank, pair in enumerate(pairs)}
    encoding = backend.encode(text, add_special_tokens=False)
    return [_steps(tokenizer, part, ranks) for part in _parts(backend, text, encoding)]


def _parts(backend: Any, text: str, encoding: Any) -> list[tuple[str, Any]]:
    """Pre-tokens with the (id, token) pairs that the library made of each."""
    parts: list[tuple[str, Any]] = []
    words: list[tuple[Any, list[int]]] = []
    for i, word in enumerate(encoding.word_ids):
        if words and word is not None and words[-1][0] == word:
            words[-1][1].append(i)
        else:
            words.append((word, [i]))
    for _, indices in words:
        start = encoding.offsets[indices[0]][0]
        end = encoding.offsets[indices[-1]][1]
        pieces = [(encoding.ids[i], encoding.tokens[i]) for i in indices]
        parts.append((text[start:end], pieces))
    return parts


def _steps(
    tokenizer: Tokenizer, part: tuple[str, Any], ranks: dict[tuple[str, ...], int]
) -> PreToken:
    text, pieces = part
    ids = tuple(id for id, _ in pieces)
    tokens = tuple(token for _, token in pieces)
    if len(tokens) == 1 and ids[0] in tokenizer.special_ids():
        return PreToken(text, tokens, (), tokens, ids)
    start = symbols = tuple("".join(tokens))
    merges = []
    while len(symbols) > 1:
        known = [pair for pair in itertools.pairwise(symbols) if pair in ranks]
        if not known:
            break
        pair = min(known, key=lambda pair: ranks[pair])
        symbols = _joined(symbols, pair)
        merges.append(Merge(ranks[pair], pair, symbols))
    if symbols != tokens:  # an added token, or one that came by its bytes
        return PreToken(text, tokens, (), tokens, ids)
    return PreToken(text, start, tuple(merges), tokens, ids)


def _joined(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """The symbols with this pair as one wherever it stands.

    >>> _joined(("l", "o", "l", "o"), ("l", "o"))
    ('lo', 'lo')
    """
    result: list[str] = []
    at = 0
    while at < len(symbols):
        if symbols[at : at + 2] == pair:
            result.append("".join(pair))
            at += 2
        else:
            result.append(symbols[at])
            at += 1
    return tuple(result)
