"""Measure how often rounding alone changes the token that a seed draws.

The same texts are read row by row, side by side, and by another backend, so their
logits differ in the last bits. "computed" is the probability, over the random numbers,
that two such logits give different tokens, averaged over all tokens; "counted" is the
share of draws in which they did. No way of drawing parts more seldom than the total
variation of the two distributions.
"""

import argparse
from collections import defaultdict
from itertools import count, islice

import numpy as np

from npgpt import GPT2
from npgpt.decoding import Context, GenerationConfig
from npgpt.decoding.chain import build_chain, run_chain
from npgpt.decoding.rules.base import probabilities
from npgpt.decoding.selection import build_selector

SETTINGS = {
    "gumbel_max": {},
    "inverse_cdf": {"selector": "inverse_cdf"},
    "arithmetic": {"selector": "arithmetic", "num_return_sequences": 2},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "adaptive-p 0.3": {"adaptive_target": 0.3},
    "0.8 top-k 50 top-p 0.95": {"temperature": 0.8, "top_k": 50, "top_p": 0.95},
}


def slices_part(p, q):
    """Of u in [0, 1), the share for which the slices of p and q hold other tokens.

    >>> slices_part(np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.5, 0.25]))
    0.25
    """
    F, G = (np.append(0, np.cumsum(x)) / x.sum() for x in (p, q))
    same = np.minimum(F[1:], G[1:]) - np.maximum(F[:-1], G[:-1])
    return 1 - float(np.maximum(same, 0).sum())


def sums_part(p, q):
    """Probability that argmax ln p + g and argmax ln q + g differ, g the same noise.

    1 - sum_i 1 / sum_j max(p_j / p_i, q_j / q_i), written without a difference of like
    numbers: with d = ln q - ln p the inner sum is 1 + m_i, where
    m_i = sum over d_j > d_i of p_j (e^(d_j - d_i) - 1).

    >>> round(sums_part(np.array([0.5, 0.5]), np.array([0.25, 0.75])), 6)
    0.25
    """
    left = (p > 0) & (q > 0)
    d = np.log(q[left] / p[left])
    order = np.argsort(-d, kind="stable")
    p, d = p[left][order], d[order]
    m = np.exp(-d) * np.cumsum(p * np.expm1(d)) + np.expm1(-d) * np.cumsum(p)
    return float((p * m / (1 + m)).sum())


COMPUTED = {
    "gumbel_max": sums_part,
    "inverse_cdf": slices_part,
    "total variation": lambda p, q: float(np.maximum(p - q, 0).sum()),
}


def pairs(models, batch, length, rng):
    """(what differs, logits, logits) along texts that the first model samples."""
    first, *others = models
    ids = rng.integers(models[first].config.vocab_size, size=(batch, 1)).tolist()
    side = {m: models[m].new_cache(batch, n_positions=length) for m in models}
    alone = {m: [models[m].new_cache(1, n_positions=length) for _ in ids] for m in side}
    for _ in range(length):
        z = {m: models[m].next_logits(ids, side[m]) for m in models}
        for i in range(batch):
            for m in models:
                one = models[m].next_logits([ids[i]], alone[m][i])[0]
                yield f"{m}, a row alone and in a batch of {batch}", one, z[m][i]
            for m in others:
                yield f"{first} and {m}", z[first][i], z[m][i]
        p = [probabilities(row) for row in z[first]]
        ids = [[int(rng.choice(len(row), p=row))] for row in p]


def choosers(names):
    """name: (logits, seed) -> the token that this setting draws."""
    made = {}
    for name in names:
        options = GenerationConfig(do_sample=True, **SETTINGS[name])
        chain, selector = build_chain(options), build_selector(options)

        def choose(z, seed, chain=chain, selector=selector):
            context = Context(1, 0, seed)
            y = run_chain(chain, [0], z, context)
            return selector.choose([0], y, context, selector.start(context))[0]

        made[name] = choose
    return made


def main():
    """Print a table for each kind of difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="tales")
    parser.add_argument("--backends", default="numpy,numba", help="One or two.")
    parser.add_argument("--batch", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=3000, help="Whose logits differ.")
    parser.add_argument("--draws", type=int, default=4, help="Counted for each.")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    o = parser.parse_args()
    backends = o.backends.split(",")
    models = {b: GPT2.from_pretrained(o.model, backend=b) for b in backends}
    length = min(64, next(iter(models.values())).config.n_positions)
    rng, seeds = np.random.default_rng(0), count()
    chosen = choosers(o.settings.split(","))
    computed = defaultdict(lambda: defaultdict(list))
    counted = defaultdict(lambda: defaultdict(list))
    for _ in range(-(-o.tokens // (o.batch * length))):
        for what, y, z in pairs(models, o.batch, length, rng):
            p, q = probabilities(y), probabilities(z)
            for name, measure in COMPUTED.items():
                computed[what][name].append(measure(p, q))
            for seed in islice(seeds, o.draws):
                for name, choose in chosen.items():
                    counted[what][name].append(choose(y, seed) != choose(z, seed))
    for what, found in computed.items():
        n = len(found["gumbel_max"])
        print(f"{o.model}, {what}: {n:,} tokens, {n * o.draws:,} draws")
        for name in dict.fromkeys([*found, *chosen]):
            line = f"  {name:26}"
            if name in found:
                x = np.array(found[name])
                line += f" computed {x.mean():.1e} +- {x.std() / n**0.5:.0e} "
            if name in chosen:
                line += f" counted {sum(counted[what][name])}"
            print(line)


if __name__ == "__main__":
    main()
