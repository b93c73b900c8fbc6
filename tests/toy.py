"""A toy Markov language model with the small interface, and laws by enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.generation import Generator
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context, probabilities

V = 3


class Toy(Generator):
    """The next token depends on the last one alone: logits = table[last], (V, V).

    `early` is what its first layers would say. It reads through a real KVCache.
    """

    def __init__(self, table, early=None, n_positions=64):
        self.table = np.asarray(table, np.float64)
        self.early = self.table if early is None else np.asarray(early, np.float64)
        n = len(self.table)
        self.config = GPT2Config(
            vocab_size=n,
            n_positions=n_positions,
            n_embd=1,
            n_layer=2,
            n_head=1,
            bos_token_id=0,
            eos_token_id=None,
        )
        self.tokenizer = None
        self.readings = 0

    def encode(self, prompt):
        return [int(id) for id in prompt]

    def new_cache(self, batch=1, n_positions=None):
        return KVCache(1, batch, 1, n_positions or self.config.n_positions, 1)

    def next_logits(self, ids, cache):
        return np.stack([z[-1] for z in self.all_logits(ids, cache)])

    def first_logits(self, ids, cache, layers):
        table, self.table = self.table, self.early
        z = self.next_logits(ids, cache)
        self.table = table
        return z, [np.array(new)[:, None] for new in ids]

    def rest_logits(self, ids, states, cache, layers, keep):
        for parts, new in zip(states, ids, strict=True):
            assert np.concatenate(parts)[: len(new), 0].tolist() == list(new)
        return self.all_logits(ids, cache, keep)

    def all_logits(self, ids, cache, keep=None):
        self.readings += 1
        table = self.table
        for held, new in zip(cache.ids, ids, strict=True):
            assert new
            assert len(held) + len(new) <= cache.n_positions
            held.extend(new)
        keep = [len(new) for new in ids] if keep is None else keep
        return [
            table[list(new)][len(new) - n :] for new, n in zip(ids, keep, strict=True)
        ]

    def tree_logits(self, ids, parents, cache):
        for held in cache.ids:
            held.extend(ids)
        return np.repeat(self.table[list(ids)][None], cache.batch, axis=0)


def random_table(seed, n=V, scale=1.0):
    bits = np.random.Philox(key=seed).random_raw(n * n)
    return scale * 4 * ((bits >> 11) * 2.0**-53 - 0.5).reshape(n, n)


def law(model, prompt, length, power=1.0, **options):
    """Exact probability of every text of `length` new tokens, ended ones shorter."""
    config = GenerationConfig(max_new_tokens=length, **options)
    eos = config.eos_ids(model.config)
    chain = build_chain(config, eos)
    texts = {}
    for path in product(range(model.config.vocab_size), repeat=length):
        end = next((i + 1 for i, id in enumerate(path) if id in eos), length)
        if path[:end] in texts or any(path[end:]):
            continue
        p, ids = 1.0, list(prompt)
        for step, id in enumerate(path[:end]):
            z = run_chain(chain, ids, model.table[ids[-1]], Context(len(prompt), step))
            p *= probabilities(z)[id]
            ids.append(id)
        texts[path[:end]] = p**power
    total = sum(texts.values())
    return {text: p / total for text, p in texts.items() if p > 0}


def assert_follows(samples, expected):
    """Chi-square of observed outcomes against a law; refuses at p < 1e-4.

    Outcomes expected fewer than five times are counted together.
    """
    n, counts = len(samples), {}
    for sample in samples:
        assert sample in expected, f"{sample} has probability 0"
        counts[sample] = counts.get(sample, 0) + 1
    cells, rest = [], [0.0, 0]
    for outcome, p in expected.items():
        if n * p < 5:
            rest = [rest[0] + n * p, rest[1] + counts.get(outcome, 0)]
        else:
            cells.append((n * p, counts.get(outcome, 0)))
    if rest[0] > 0:
        cells.append((rest[0], rest[1]))
    statistic = sum((got - want) ** 2 / want for want, got in cells)
    df = max(1, len(cells) - 1)
    # Wilson and Hilferty's cube: the quantile of 1 - 1e-4, normal quantile 3.719.
    limit = df * (1 - 2 / (9 * df) + 3.719 * math.sqrt(2 / (9 * df))) ** 3
    assert statistic < limit, (
        f"chi-square {statistic:.1f} of {df} df, limit {limit:.1f}"
    )
