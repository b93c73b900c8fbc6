"""Watermarks: a hidden preference while writing, and a test that finds it in a text.

Whoever knows the key can count how often the preference was met, without the model.
Green lists (KGW, Unigram) add to logits; the Gumbel watermark changes nothing but where
the random numbers come from. SynthID is in npgpt.decoding.watermarks.synthid.

The pseudo-random functions are this project's own: marks of other systems are not found
here, nor these there.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import Ids
from npgpt.decoding.selectors import gumbel_max
from npgpt.decoding.watermarks.tails import count_tail, gamma_tail, hypergeometric
from npgpt.errors import DecodingError
from npgpt.shapes import Bool, Logits, UInt64

_MASK = 2**64 - 1
SCHEMES = ("off", "lefthash", "selfhash", "unigram", "synthid", "gumbel")


class Detection(NamedTuple):
    """What a detector found: its statistic, the chance of it in unmarked text."""

    score: float
    p_value: float
    tokens: int  # that were tested
    found: int | None = None  # of them green


def mix(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """A bijection of 64-bit numbers that looks random (splitmix64, Steele et al. 2014).

    >>> mix(np.array([1], np.uint64)).tolist()
    [6238072747940578789]
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def seed_of(key: int, tokens: Ids) -> int:
    """One 64-bit number from a key and some tokens, in their order.

    >>> seed_of(1, [2, 3]) == seed_of(1, [3, 2])
    False
    """
    seed = np.array([key & _MASK], np.uint64)
    for token in tokens:
        seed = mix(seed + np.uint64(token) + np.uint64(0x9E3779B97F4A7C15))
    return int(mix(seed)[0])


def green_list(seed: int, V: int, ratio: float) -> Bool[np.ndarray, " V"]:
    """(V,) True for the floor(ratio V) tokens that this seed makes green.

    >>> int(green_list(7, 100, 0.25).sum())
    25
    """
    green = np.zeros(V, bool)
    draws = np.random.Philox(key=seed).random_raw(V)
    K = math.floor(ratio * V)
    green[np.argpartition(draws, min(K, V - 1))[:K]] = True
    return green


@strategy("I1", "KGW, left hash", stage="watermark", element="watermark")
@fields(when=("watermark", "lefthash"))
@parameter("watermark", SCHEMES, "The scheme.")
@parameter("greenlist_ratio", 0.25, "Share of green tokens.", 0, 1)
@parameter("watermark_bias", 2.0, "Added to green logits.", 0)
@parameter("hashing_key", 15485863, "The secret.", 0, 2**63 - 1)
@parameter("context_width", 1, "Tokens that seed a choice.", 1)
@example(watermark="lefthash")
def left_hash(
    z: Logits, ids: Ids, ratio: float, bias: float, key: int, width: int
) -> Logits:
    """The last tokens decide which tokens are green: z_v + bias for v green.

    Green are those that the last `width` tokens make so. Source: Kirchenbauer et al.,
    "A Watermark for Large Language Models" (2023, arXiv:2301.10226).

    >>> z = left_hash(np.zeros(8), [3, 5], 0.25, 2.0, 15485863, 1)
    >>> sorted(z.tolist())
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0]
    """
    green = green_list(seed_of(key, ids[-width:]), len(z), ratio)
    return z + green * z.dtype.type(bias)


@strategy("I2", "KGW, self hash", element="watermark", when=("watermark", "selfhash"))
@fields(also=("greenlist_ratio", "watermark_bias", "hashing_key", "context_width"))
@example(watermark="selfhash")
def self_hash(
    z: Logits, ids: Ids, ratio: float, bias: float, key: int, width: int
) -> Logits:
    """The token itself takes part in the hash: z_v + bias for v green given itself and
    the last tokens.

    The seed of a token is the smallest of its hashes with each of the last `width`
    tokens and with itself; the token is green with probability `ratio`. All V tokens
    are tested (transformers: the 40 best). Source: Kirchenbauer et al., "On the
    Reliability of Watermarks for Large Language Models" (2023, arXiv:2306.04634).

    >>> z = self_hash(np.zeros(8), [3, 5], 0.5, 2.0, 15485863, 1)
    >>> set(z.tolist()) == {0.0, 2.0}
    True
    """
    tokens = np.arange(len(z), dtype=np.uint64)
    draws = _self_draws(tokens, np.array(ids[-width:], np.uint64), key)
    return z + (draws < _limit(ratio)) * z.dtype.type(bias)


def _self_draws(
    tokens: UInt64[np.ndarray, " n"], contexts: UInt64[np.ndarray, "*n k"], key: int
) -> UInt64[np.ndarray, " n"]:
    """The draw of each token after its context, (k,) or (n, k); low ones are green.

    Contexts share a draw where the same one of their tokens has the smallest hash.
    """
    own = mix(tokens + np.uint64(seed_of(key, ())))
    seeds = mix(own + tokens)
    for column in contexts.T:
        seeds = np.minimum(seeds, mix(own + column + np.uint64(0x9E3779B9)))
    return mix(seeds ^ own)


def _limit(ratio: float) -> np.uint64:
    return np.uint64(min(int(ratio * 2**64), _MASK))


@strategy("I5", "Unigram", element="watermark", when=("watermark", "unigram"))
@fields(also=("greenlist_ratio", "watermark_bias", "hashing_key"))
@example(watermark="unigram")
def unigram(z: Logits, ratio: float, bias: float, key: int) -> Logits:
    """One fixed list of green tokens: z_v + bias for v green.

    It survives any reordering of the text. Source: Zhao et al., "Provable Robust
    Watermarking for AI-Generated Text" (2023, arXiv:2306.17439).

    >>> sorted(unigram(np.zeros(4), 0.5, 2.0, 1).tolist())
    [0.0, 0.0, 2.0, 2.0]
    """
    return z + green_list(seed_of(key, ()), len(z), ratio) * z.dtype.type(bias)


@strategy("I4", "Gumbel watermark", kind="selector", sampling=True)
@fields(when=("watermark", "gumbel"), element="gumbel_watermark")
@fields(also=("hashing_key", "context_width"))
@example(watermark="gumbel")
def gumbel(z: Logits, ids: Ids, key: int, width: int) -> int:
    """The noise of Gumbel-max comes from a key: argmax u_v^(1/p_v), u = PRF(key, last
    tokens).

    Over keys the token is a draw from softmax(z), so one text shows no trace; the same
    last tokens give the same numbers again. Source: Aaronson (2022); Kuditipudi et al.,
    "Robust Distortion-free Watermarks for Language Models" (2023, arXiv:2307.15593).

    >>> gumbel(np.array([0.0, 0.0, -np.inf]), [4], 15485863, 1) in (0, 1)
    True
    """
    return gumbel_max(z, _uniforms(key, ids[-width:], len(z)))


def _uniforms(key: int, context: Ids, V: int) -> np.ndarray:
    draws = np.random.Philox(key=seed_of(key, context)).random_raw(V)
    return (draws >> np.uint64(11)) * 2.0**-53


def detect(
    ids: Ids,
    vocab_size: int,
    watermark: str,
    greenlist_ratio: float = 0.25,
    hashing_key: int = 15485863,
    context_width: int = 1,
) -> Detection:
    """Whether a text has the mark of a green list or of the Gumbel watermark.

    Green lists: z = (g - ratio T) / sqrt(T ratio (1 - ratio)), g green of T draws;
    Kirchenbauer et al. call z > 3 a find. Its p-value is exact: g is a sum of
    hypergeometric counts, one a list (self hash: binomial). Gumbel:
    S = sum -ln(1 - u_y), which has the law Gamma(T, 1).

    A draw counts once, its repetition proves nothing new: a token after one context,
    for Unigram a token, for self hash a token with the one that won the hash (many
    contexts share it). The first context_width tokens have no context and are not
    tested. The p-value holds over secret keys. Under one key texts of the same words
    are right or wrong together: with Unigram and tales of 200 tokens, p < 0.01 came in
    0 to 35 of 1,000, depending on the key.

    >>> text = np.random.default_rng(0).integers(0, 50, 200).tolist()
    >>> detect(text, 50, "lefthash").p_value > 0.01
    True
    """
    V, ratio, key = vocab_size, greenlist_ratio, hashing_key
    width = 0 if watermark == "unigram" else context_width
    text = np.asarray(ids, np.int64)
    if len(text) <= width:
        raise DecodingError(f"the text is too short to test: {len(text)} tokens")
    if text.min() < 0 or text.max() >= V:
        wrong = int(text[(text < 0) | (text >= V)][0])
        raise DecodingError(f"token {wrong} is not in the vocabulary, 0 to {V - 1}")
    if watermark != "gumbel" and not 0 < ratio < 1:
        raise DecodingError(
            f"greenlist_ratio {ratio:g} makes all tokens alike: there is no mark"
        )
    ngrams = np.lib.stride_tricks.sliding_window_view(text, width + 1)
    after: dict[
        tuple[int, ...], set[int]
    ] = {}  # the distinct tokens after each context
    for *context, token in ngrams.tolist():
        after.setdefault(tuple(context), set()).add(token)
    T = sum(map(len, after.values()))
    if watermark == "gumbel":
        S = 0.0
        for context, tokens in after.items():
            u = _uniforms(key, context, V)[list(tokens)]
            S -= float(np.log1p(-u).sum())
        return Detection(S, gamma_tail(T, S), T)
    if watermark == "selfhash":
        ngrams = ngrams.astype(np.uint64)
        draws = np.unique(_self_draws(ngrams[:, -1], ngrams[:, :-1], key))
        T, g = len(draws), int((draws < _limit(ratio)).sum())
        laws = [(np.array([1 - ratio, ratio]), T)]
    elif watermark in ("lefthash", "unigram"):
        g, K = 0, math.floor(ratio * V)
        for context, tokens in after.items():
            g += int(green_list(seed_of(key, context), V, ratio)[list(tokens)].sum())
        sizes = Counter(map(len, after.values()))
        laws = [(hypergeometric(V, K, m), times) for m, times in sizes.items()]
    else:
        raise DecodingError(
            f"no detector for {watermark!r}; there are lefthash, selfhash, unigram, "
            "gumbel, and npgpt.decoding.watermarks.synthid.detect"
        )
    z = (g - ratio * T) / math.sqrt(T * ratio * (1 - ratio))
    return Detection(z, count_tail(g, laws), T, g)
