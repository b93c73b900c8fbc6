"""Statistics that tests of laws share: the tail of the chi-square distribution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

REJECT = 1e-4  # a law is doubted below this chance; seeds are fixed


def chi_square_tail(x: float, df: int) -> float:
    """P(chi-square of df degrees > x) = Q(df/2, x/2).

    From Q(1/2, y) = erfc(sqrt y) or Q(1, y) = exp(-y), and
    Q(a+1, y) = Q(a, y) + y^a exp(-y) / Gamma(a+1).
    """
    y = x / 2
    if y <= 0:
        return 1.0
    a, tail = (0.5, math.erfc(math.sqrt(y))) if df % 2 else (1.0, math.exp(-y))
    while a < df / 2:
        tail += math.exp(a * math.log(y) - y - math.lgamma(a + 1))
        a += 1
    return tail


def follows(samples: Iterable, law: Mapping) -> float:
    """The chance of such a deviation if the samples had this law {value: probability}.

    Values with expected counts under 5 are pooled; a value outside the law gives 0.
    """
    counts = Counter(samples)
    n = counts.total()
    if set(counts) - {value for value, p in law.items() if p > 0}:
        return 0.0
    cells = [(counts[value], n * p) for value, p in law.items() if p > 0]
    large = [cell for cell in cells if cell[1] >= 5]
    small = [cell for cell in cells if cell[1] < 5]
    if small:
        large.append(tuple(np.sum(small, axis=0)))
    if large[-1][1] < 5 and len(large) > 1:  # the pool itself is small: join it
        last = large.pop()
        large[-1] = (large[-1][0] + last[0], large[-1][1] + last[1])
    x = sum((seen - expected) ** 2 / expected for seen, expected in large)
    return chi_square_tail(x, len(large) - 1) if len(large) > 1 else 1.0


class MarkovModel:
    """A model whose next token depends on the last one: its laws can be enumerated.

    Has what decoding asks of a model: config, tokenizer, new_cache, next_logits.
    """

    def __init__(self, z: np.ndarray, eos: int | None = None, n_positions: int = 64):
        from npgpt import GPT2Config

        self.z = np.asarray(z, np.float64)
        self.config = GPT2Config(
            vocab_size=len(self.z),
            n_positions=n_positions,
            n_embd=4,
            n_layer=1,
            n_head=1,
            bos_token_id=0,
            eos_token_id=eos,
        )
        self.tokenizer = None

    def new_cache(self, batch: int = 1, n_positions: int | None = None):
        from npgpt.cache import KVCache

        return KVCache(1, batch, 1, n_positions or self.config.n_positions, 4)

    def next_logits(self, ids, cache):
        for row, new in zip(cache.ids, ids, strict=True):
            row.extend(new)
        return np.stack([self.z[row[-1]] for row in ids])

    def law(self, first: int, length: int, change=lambda z: z) -> dict:
        """{text: probability} of `length` tokens after `first`, or up to the end."""
        eos = self.config.eos_token_id
        law, front = {}, {(): (first, 1.0)}
        for _ in range(length):
            new = {}
            for text, (last, p) in front.items():
                z = change(self.z[last])
                q = np.exp(z - z.max())
                q /= q.sum()
                for v in np.flatnonzero(q):
                    here = (*text, int(v))
                    if v == eos:
                        law[here] = p * q[v]
                    else:
                        new[here] = (int(v), p * q[v])
            front = new
        return law | {text: p for text, (_, p) in front.items()}
