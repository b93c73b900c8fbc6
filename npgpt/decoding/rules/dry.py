"""DRY, "don't repeat yourself": the longer a repeat would get, the dearer it is.

Texts that break a repeat (newline, colon, ...) become the ids of the tokens that hold
them; a breaker that spans several tokens is not known here (llama.cpp knows them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Ids
from npgpt.decoding.vocabulary import all_bytes
from npgpt.shapes import Logits


class DrySettings(NamedTuple):
    """The parameters of DRY, breakers as token ids."""

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int = -1
    breakers: frozenset[int] = frozenset()


@strategy("D8", "DRY", stage="ngram", rank=30)
@parameter("dry_multiplier", 0.0, "Strength; 0 is off.", 0)
@parameter("dry_base", 1.75, "Growth a token.", 1)
@parameter("dry_allowed_length", 2, "Repeats free of charge.", 1)
@parameter("dry_penalty_last_n", -1, "Window; -1 is all.", -1)
@parameter(
    "dry_sequence_breakers",
    ("\n", ":", '"', "*"),
    "Texts that a repeat cannot cross.",
    kind="texts",
)
@fields(prepare=lambda *settings: prepare(*settings))
@example(dry_multiplier=1.0, dry_allowed_length=1)
def dry(z: Logits, ids: Ids, settings: DrySettings) -> Logits:
    """Don't repeat yourself, the longer the repeat, the dearer: z_v - multiplier
    base^(m(v) - allowed) where m(v) >= allowed.

    m(v) is the length of the longest end of the last last_n tokens that occurred
    before, followed by v, and does not cross a breaker. Repeats may overlap. Breakers
    themselves are not penalised. The exponent is bounded as in llama.cpp
    (text-generation-webui bounds the match at 50; ExLlamaV2 counts otherwise). Source:
    p-e-w, text-generation-webui (2024), no paper.

    >>> import numpy as np
    >>> ids = [0, 1, 2, 0, 1]  # after 0 1 came 2
    >>> dry(np.zeros(3), ids, DrySettings(2.0, 1.5, 1)).tolist()  # 2 * 1.5^(2-1)
    [0.0, 0.0, -3.0]
    """
    multiplier, base, allowed, last_n, breakers = settings
    ids = list(ids if last_n < 0 else ids[max(0, len(ids) - last_n) :])
    if multiplier == 0 or len(ids) <= allowed:
        return z
    longest: dict[int, int] = {}
    for after, m in enumerate(suffix_matches(ids, breakers), start=1):
        if m >= allowed and ids[after] not in breakers:
            longest[ids[after]] = max(m, longest.get(ids[after], 0))
    if not longest:
        return z
    # base^m beyond the largest float32 would make the rest of the row vanish
    most = math.floor(88.72 / math.log(base)) if base > 1 else math.inf
    z = z.copy()
    for id, m in longest.items():
        z[id] -= multiplier * base ** min(m - allowed, most)
    return z


def suffix_matches(ids: Ids, breakers: frozenset[int]) -> list[int]:
    """For each end position i < len(ids) - 1: how many tokens before and at i equal the
    last ones of ids, up to the latest breaker.

    The Z algorithm on the reversed ids: every token is compared once or twice.

    >>> suffix_matches([0, 1, 2, 0, 1], frozenset())
    [0, 2, 0, 0]
    """
    text = ids[::-1]
    limit = next((i for i, id in enumerate(text) if id in breakers), len(text))
    n = len(text)
    z = [0] * n
    left = right = 0
    for i in range(1, n):
        if i < right:
            z[i] = min(right - i, z[i - left])
        while i + z[i] < n and text[z[i]] == text[i + z[i]]:
            z[i] += 1
        if i + z[i] > right:
            left, right = i, i + z[i]
    return [min(m, limit) for m in z[:0:-1]]


def prepare(
    multiplier: float,
    base: float,
    allowed_length: int,
    last_n: int,
    breakers: Sequence[str],
    setup: Any,
) -> DrySettings:
    """The settings, each breaker as the tokens that hold it.

    Without a tokenizer nothing breaks a repeat.
    """
    ids: set[int] = set()
    if setup.tokenizer is not None and breakers:
        marks = [text.encode() for text in breakers]
        for id, token in enumerate(all_bytes(setup.tokenizer)):
            if any(mark in token for mark in marks):
                ids.add(id)
    return DrySettings(multiplier, base, allowed_length, last_n, frozenset(ids))
