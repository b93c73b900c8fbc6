"""Truncations by a threshold on the logit: z (V,) -> z (V,), -inf where removed.

A threshold keeps or removes tokens with equal logits together, so ties survive as
they do in Hugging Face's top-k, and no order of ids matters. The most probable token
always stays. Truncations that need the entropy are in npgpt.decoding.rules.entropy.
"""

from __future__ import annotations

import math

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import (
    Ids,
    check,
    entropy,
    keep,
    log_probabilities,
    remaining,
)
from npgpt.shapes import Logits


@strategy("C1", "top-k", sampling=True, limit=1.0, rank=30)
@parameter("top_k", 0, "Keep the k most probable; 0 is off.", 0)
@example(top_k=2)
def top_k(z: Logits, k: int) -> Logits:
    """The k most probable tokens, and ties with the last: keep z >= the k-th largest.

    Ties are kept as in Hugging Face (llama.cpp keeps exactly k). Source: Fan, Lewis and
    Dauphin, "Hierarchical Neural Story Generation" (2018, arXiv:1805.04833).

    >>> top_k(np.array([1.0, 3.0, 2.0]), 2).tolist()
    [-inf, 3.0, 2.0]
    """
    if k >= len(z):
        return z
    return keep(z, z >= np.partition(z, -k)[-k])


@strategy("C2", "top-p", sampling=True, limit=1.0, rank=50)
@parameter("top_p", 1.0, "Probability to keep; 1 is off.", 0, 1)
@example(top_p=0.6)
def top_p(z: Logits, p: float) -> Logits:
    """The nucleus, the fewest tokens that reach probability p: keep i if the mass of
    all more probable tokens is < p.

    The token that crosses the line is in (OpenAI's own code and ExLlamaV3 leave it
    out); p = 0 keeps the top one. Ties with the crossing token are kept (sorts keep
    some of them). Source: Holtzman et al., "The Curious Case of Neural Text
    Degeneration" (2019, arXiv:1904.09751).

    >>> top_p(np.log(np.array([0.1, 0.5, 0.4])), 0.6).round(4).tolist()
    [-inf, -0.6931, -0.9163]
    """
    if p >= 1:
        return z
    return keep(z, z >= _crossing(z, p))


def _crossing(z: np.ndarray, p: float) -> np.floating:
    """The logit of the token at which the mass, summed from the top, reaches p.

    Looks at the largest 1,000 logits first, which mostly are enough.
    """
    top = check(z)
    z = remaining(z)
    total = np.exp(z - top).sum(dtype=np.float64)
    for n in (1000, len(z)):
        n = min(n, len(z))
        order = np.sort(np.partition(z, -n)[-n:] if n < len(z) else z)[::-1]
        mass = np.cumsum(np.exp(order - top).astype(np.float64))
        last = int(np.searchsorted(mass, p * total))  # the first with mass >= p total
        if last < n:
            break
    return order[min(last, n - 1)]


@strategy("C3", "factual nucleus", sampling=True, element="top_p", replaces=True)
@fields(also=("top_p",))
@parameter("top_p_decay", 1.0, "Factor a token; 1 is off.", 0, 1)
@parameter("top_p_min", 0.0, "Never below this.", 0, 1)
@parameter("top_p_reset_ids", (), "Tokens that end a sentence.", kind="ids")
@example(lambda show: show.rule({"top_p": 0.9, "top_p_decay": 0.9}, new=3))
def factual_nucleus(
    z: Logits, generated: Ids, decay: float, least: float, reset_ids: Ids, p: float
) -> Logits:
    """A nucleus that shrinks within a sentence: top-p with max(least, p decay^t).

    t counts tokens since the last of reset_ids in the new text, or since its start.
    Source: Lee et al., "Factuality Enhanced Language Models for Open-Ended Text
    Generation" (2022, arXiv:2206.04624).

    >>> z = np.log(np.array([0.5, 0.3, 0.2]))
    >>> np.isfinite(factual_nucleus(z, [7, 7], 0.5, 0.1, (), 0.9)).tolist()
    [True, False, False]
    """
    t = 0
    for id in reversed(generated):
        if id in reset_ids:
            break
        t += 1
    return top_p(z, max(least, p * decay**t))


@strategy("C4", "min-p", sampling=True, limit=1.0, rank=70, ranks={"vllm": 25})
@parameter("min_p", 0.0, "Fraction of the top; 0 is off.", 0, 1)
@example(min_p=0.3)
def min_p(z: Logits, m: float) -> Logits:
    """Tokens at least m times as probable as the best one: keep z >= max z + ln m.

    Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and
    Coherent LLM Outputs" (2024, arXiv:2407.01082).

    >>> min_p(np.log(np.array([0.6, 0.3, 0.1])), 0.4).round(4).tolist()
    [-0.5108, -1.204, -inf]
    """
    if m <= 0:
        return z
    return keep(z, z >= check(z) + z.dtype.type(math.log(min(m, 1.0))))


@strategy("C6", "epsilon", sampling=True, limit=1.0, rank=90)
@parameter("epsilon_cutoff", 0.0, "Probability; 0 is off.", 0, 1)
@example(epsilon_cutoff=0.12)
def epsilon(z: Logits, cutoff: float) -> Logits:
    """Tokens at least this probable: keep p >= cutoff, and always the most probable.

    Source: Hewitt, Manning and Liang, "Truncation Sampling as Language Model
    Desmoothing" (2022, arXiv:2210.15191).

    >>> np.isfinite(epsilon(np.log(np.array([0.6, 0.3, 0.1])), 0.2)).tolist()
    [True, True, False]
    """
    if cutoff <= 0:
        return z
    log_p = log_probabilities(z)
    return keep(z, log_p >= min(math.log(cutoff), log_p.max()))


@strategy("C7", "eta", sampling=True, limit=1.0, rank=100)
@parameter("eta_cutoff", 0.0, "Probability; 0 is off.", 0, 1)
@example(eta_cutoff=0.3)
def eta(z: Logits, cutoff: float) -> Logits:
    """An epsilon that shrinks where the entropy H is high: keep p >= min(cutoff,
    sqrt(cutoff) exp(-H)), and always the most probable.

    Source: Hewitt, Manning and Liang, "Truncation Sampling as Language Model
    Desmoothing" (2022, arXiv:2210.15191).

    >>> np.isfinite(eta(np.log(np.array([0.4, 0.3, 0.2, 0.1])), 0.3)).tolist()
    [True, True, True, False]
    """
    if cutoff <= 0:
        return z
    return epsilon(z, min(cutoff, math.sqrt(cutoff) * math.exp(-entropy(z))))


@strategy("C8", "top-a", sampling=True, limit=1.0, rank=60)
@parameter("top_a", 0.0, "Share; 0 is off.", 0, 1)
@example(top_a=0.7)
def top_a(z: Logits, a: float) -> Logits:
    """Tokens above a share of the best probability squared: keep p >= a (max p)^2.

    Source: BlinkDL, RWKV (no paper).

    >>> np.isfinite(top_a(np.array([2.0, 1.0, 0.0, -2.0]), 0.5)).tolist()
    [True, True, False, False]
    """
    if a <= 0:
        return z
    best = float(log_probabilities(z).max())
    return min_p(z, a * math.exp(best))  # p >= a best^2  <=>  p / best >= a best


@strategy("C10", "top-n-sigma", sampling=True, limit=1.0, rank=10)
@fields(aliases=("top_nsigma",), on=lambda options: options.top_n_sigma > 0)
@parameter("top_n_sigma", -1.0, "Standard deviations; 0 or below is off.")
@example(top_n_sigma=1.0)
def top_n_sigma(z: Logits, n: float) -> Logits:
    """Logits within n standard deviations of the best: keep z >= max z - n std(z).

    The deviation is over finite logits and divides by their number, as llama.cpp (the
    authors divide by one less). It ignores the temperature, which scales all terms.
    Source: Tang et al., "Top-nσ: Not All Logits Are You Need" (2024,
    arXiv:2411.07641).

    >>> np.isfinite(top_n_sigma(np.log(np.array([0.1, 0.2, 0.3, 0.4])), 1.0)).tolist()
    [False, False, True, True]
    """
    if n <= 0:
        return z
    top, std = check(z), remaining(z).std(dtype=np.float64)
    return keep(z, z >= top - z.dtype.type(n * std))


@strategy("C13", "XTC", sampling=True, keeps_top=False, limit=1.0, rank=120)
@parameter("xtc_probability", 0.0, "How often; 0 is off.", 0, 1)
@parameter("xtc_threshold", 0.1, "What a top choice is.", 0, 1)
@example(xtc_probability=1.0, xtc_threshold=0.12)
def xtc(z: Logits, u: float, probability: float, threshold: float) -> Logits:
    """Now and then excludes the top choices: if u < probability, of the tokens with
    p >= threshold only the least probable stays.

    Its ties stay too, and all tokens below the threshold. Nothing happens where fewer
    than two tokens reach it. u is uniform in [0, 1). (text-generation-webui spares
    newline and end of text, this rule does not; ExLlamaV3 reweights by the mean of both
    outcomes, which has the same law.) Source: p-e-w (2024), no paper.

    >>> z = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    >>> np.isfinite(xtc(z, 0.0, 0.5, 0.19)).tolist()
    [False, False, True, True]
    """
    if u >= probability:
        return z
    log_p = log_probabilities(z)
    top = z[log_p >= (math.log(threshold) if threshold > 0 else -np.inf)]
    return keep(z, z <= top.min()) if len(top) > 1 else z
