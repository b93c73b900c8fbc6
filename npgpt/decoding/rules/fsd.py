"""FSD, frustratingly simple decoding: the text's own n-gram model as the anti-model."""

from __future__ import annotations

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.rules.base import Ids, keep, probabilities
from npgpt.decoding.rules.truncation import top_k
from npgpt.shapes import Logits


@strategy("D10", "FSD", stage="last", rank=20)
@parameter("fsd_alpha", 0.0, "Weight of the penalty; 0 is off.", 0, 1)
@parameter("fsd_k", 3, "Candidates.", 1)
@parameter("fsd_n", 3, "Order of the n-gram model.", 1)
@parameter("fsd_beta", 0.9, "Weight of the longer context.", 0, 1)
@example(fsd_alpha=0.4, do_sample=False)
def fsd(z: Logits, ids: Ids, alpha: float, k: int, n: int, beta: float) -> Logits:
    """Frustratingly simple decoding, an n-gram model of the text itself as the
    anti-model: over the top k, (1 - alpha) p_v - alpha ngram(v | text).

    Deterministic with greedy search, which takes the best score. All tokens count
    alike here (the authors can weigh stop words apart). Source: Yang et al., "A
    Frustratingly Simple Decoding Method for Neural Text Generation" (2023,
    arXiv:2305.12675).

    >>> z = np.log(np.array([0.5, 0.4, 0.1]))
    >>> fsd(z, [1, 0, 1], 0.5, 2, 2, 0.9).round(4).tolist()
    [0.0083, -0.1333, -inf]
    """
    p = probabilities(z)
    z = top_k(z, k)
    penalty = np.zeros(len(z))
    for v in np.flatnonzero(z > -np.inf):
        penalty[v] = ngram_penalty(ids, int(v), n, beta)
    return keep(((1 - alpha) * p - alpha * penalty).astype(z.dtype), z > -np.inf)


def ngram_penalty(ids: Ids, v: int, n: int, beta: float) -> float:
    """The smoothed n-gram probability of v after the text.

    For contexts of i = n-1 .. 1 tokens in which v was seen: R beta c(context, v) /
    (c(context) + 1), then R (1 - beta) is left; at last R c(v) / N. 0 for texts shorter
    than n - 1 tokens.

    >>> round(ngram_penalty([1, 0, 1], 0, 2, 0.9), 4)  # 0.9 * 1/2 + 0.1 * 1/3
    0.4833
    """
    if len(ids) < max(1, n - 1):
        return 0.0
    text = np.asarray(ids, np.int64)
    penalty, rest = 0.0, 1.0
    for i in range(n - 1, 0, -1):
        windows = (
            np.lib.stride_tricks.sliding_window_view(text[:-1], i)
            if len(text) > i
            else np.empty((0, i))
        )
        at = np.flatnonzero((windows == text[len(text) - i :]).all(axis=1))
        followed = int((text[at + i] == v).sum())
        if followed:
            penalty += rest * beta * followed / (len(at) + 1)
            rest *= 1 - beta
    return penalty + rest * float((text == v).mean())
