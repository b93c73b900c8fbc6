"""SynthID text watermark: tokens compete in a tournament of secret bits.

Everything is a function of the new tokens: the context of a step, and which contexts
have been seen. The table of bits is this project's own; with another system's table the
scores are that system's.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.rules.base import Ids, check, probabilities
from npgpt.decoding.watermarks.tails import normal_tail
from npgpt.decoding.watermarks.watermark import Detection
from npgpt.errors import DecodingError
from npgpt.shapes import Int64, Logits

KEYS = (654, 400, 836, 123, 340, 443, 597, 160, 57, 29, 590, 639, 13, 715, 468, 990)
_MULTIPLIER, _INCREMENT = np.int64(6364136223846793005), np.int64(1)


@strategy("I3", "SynthID", element="watermark", when=("watermark", "synthid"))
@parameter("synthid_keys", KEYS, "One secret a round.", kind="keys")
@parameter("ngram_len", 5, "Tokens a hash reads.", 2)
@parameter(
    "context_history_size",
    1024,
    "Contexts remembered: a repeated one is not marked.",
    1,
)
@parameter("sampling_table_size", 65536, "Bits in the table.", 1)
@example(watermark="synthid")
def synthid(
    z: Logits,
    generated: Ids,
    keys: Ids,
    ngram_len: int,
    context_history_size: int,
    sampling_table_size: int,
    table: np.ndarray | None = None,
) -> Logits:
    """A tournament of secret bits between tokens: in each round p_v <- p_v (1 + g_v -
    sum g p).

    One round a key, on log-probabilities. g_v in {0, 1} is looked up by the hash of the
    last ngram_len - 1 new tokens (zeros before the first: the prompt takes no part, as
    in transformers), v and the key. A context seen before in the history is left
    unmarked. A removed token stays -inf (transformers: the smallest float). Source:
    Dathathri et al., "Scalable watermarking for identifying large language model
    outputs" (2024, Nature 634).

    >>> z = synthid(np.zeros(4), [1], [3, 5], 3, 8, 64)
    >>> round(float(np.exp(z).sum()), 6)
    1.0
    """
    check(z)
    width = ngram_len - 1
    text = np.array([0] * width + list(generated), np.int64)
    contexts = np.lib.stride_tricks.sliding_window_view(text, width)
    hashes = hash_tokens(np.ones(len(contexts), np.int64), contexts)
    now, before = hashes[-1], hashes[:-1][-context_history_size:]
    if (before == now).any():
        return z
    if table is None:
        table = bits(sampling_table_size)
    left = np.flatnonzero(z > -np.inf)
    p = probabilities(z[left])
    ngrams = hash_tokens(np.full(len(left), now), left[:, None])
    for key in keys:
        g = table[_slot(hash_tokens(ngrams, np.full((len(left), 1), key)), len(table))]
        p = p * np.maximum(1 + g - np.dot(g, p), 0)  # the sum may round past 1
    marked = np.full_like(z, -np.inf)
    with np.errstate(divide="ignore"):
        marked[left] = np.log(p)
    return marked


def hash_tokens(
    start: Int64[np.ndarray, " n"], tokens: Int64[np.ndarray, "n k"]
) -> Int64[np.ndarray, " n"]:
    """x <- (x + token) 6364136223846793005 + 1 modulo 2^64, token after token.

    >>> hash_tokens(np.ones(1, np.int64), np.array([[0]])).tolist()
    [6364136223846793006]
    """
    x = start
    with np.errstate(over="ignore"):
        for column in tokens.T:
            x = (x + column) * _MULTIPLIER + _INCREMENT
    return x


def _slot(hashes: np.ndarray, size: int) -> np.ndarray:
    """hashes % size; for a power of two its low bits, ten times as fast."""
    return hashes & (size - 1) if size & (size - 1) == 0 else hashes % size


@functools.lru_cache(maxsize=4)
def bits(size: int) -> np.ndarray:
    """The table of secret bits, (size,) of 0 and 1.

    >>> bits(1 << 16)[:8].tolist()
    [0, 0, 0, 1, 1, 0, 1, 1]
    """
    table = (np.random.Philox(key=0).random_raw(size) >> np.uint64(63)).astype(np.int64)
    if table.min() == table.max():
        raise DecodingError(
            f"sampling_table_size {size}: all bits of so small a table are alike, and "
            "mark nothing; take more"
        )
    return table


def detect(
    ids: Ids,
    synthid_keys: Ids,
    ngram_len: int = 5,
    sampling_table_size: int = 65536,
    table: np.ndarray | None = None,
) -> Detection:
    """Whether a text has the mark: the sum of its bits g, against the table's own mean.

    Slot b of the table is read C_b times, so g = sum_b C_b t_b. With the table's mean q
    and variance s^2 (divisor: size - 1), over all orders of the table,

        z = (g - q sum C) / (s sqrt(sum_b (C_b - mean C)^2)),

    about normal in unmarked text; p allows for a g of whole numbers. Slots that are
    read often, as in a small table, so cost power and accuse nobody. Each context
    counts once. Needs new tokens only, at least ngram_len of them.

    >>> text = np.random.default_rng(0).integers(0, 50, 200).tolist()
    >>> detect(text, [654, 400, 836]).p_value > 0.01
    True
    """
    if len(ids) < ngram_len:
        raise DecodingError(
            f"the text has {len(ids)} tokens; SynthID tests {ngram_len} at a time"
        )
    text = np.asarray(ids, np.int64)
    ngrams = np.lib.stride_tricks.sliding_window_view(text, ngram_len)
    _, first = np.unique(ngrams[:, :-1], axis=0, return_index=True)
    ngrams = ngrams[np.sort(first)]
    if table is None:
        table = bits(sampling_table_size)
    hashes = hash_tokens(np.ones(len(ngrams), np.int64), ngrams)
    slots = [
        _slot(hash_tokens(hashes, np.full((len(ngrams), 1), key)), len(table))
        for key in synthid_keys
    ]
    C = np.bincount(np.concatenate(slots), minlength=len(table))
    above = float(np.dot(C - C.mean(), table))
    deviation = math.sqrt(table.var(ddof=1) * ((C - C.mean()) ** 2).sum())
    if not deviation:  # every slot was read as often: any table gives this sum
        return Detection(0.0, 1.0, len(ngrams))
    p_value = normal_tail((above - 0.5) / deviation)
    return Detection(above / deviation, p_value, len(ngrams))
