"""Truncations by information: entropy, surprise, collision, curvature.

z (V,) -> z (V,), -inf where removed. Locally typical sampling may remove the most
probable token; the others never do. Thresholds on one number are in
npgpt.decoding.rules.truncation.
"""

from __future__ import annotations

import math

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.rules.base import (
    check,
    keep,
    log_probabilities,
    probabilities,
    remaining,
)
from npgpt.shapes import Logits


@strategy("C5", "locally typical", sampling=True, keeps_top=False, limit=1.0, rank=80)
@fields(ranks={"llama.cpp": 45}, aliases=("typ_p",))
@parameter("typical_p", 1.0, "Mass to keep; 1 is off.", 0, 1)
@example(typical_p=0.5)
def typical(z: Logits, mass: float) -> Logits:
    """Tokens whose surprise is nearest the entropy H: by d = |-log p - H| upwards, the
    shortest prefix of mass >= tau.

    tau is the mass to keep. Ties of d with the last token stay. May remove the top
    token. The crossing token is in (Aphrodite drops it). Source: Meister et al.,
    "Locally Typical Sampling" (2022, arXiv:2202.00666).

    >>> z = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    >>> np.isfinite(typical(z, 0.2)).tolist()
    [False, True, False, False]
    """
    if mass >= 1:
        return z
    check(z)
    log_p = log_probabilities(remaining(z))
    p = np.exp(log_p)
    H = log_p.dtype.type(-(p * log_p).sum(dtype=np.float64))
    d = np.abs(log_p + H)
    most = _reaching(d, p.astype(np.float64), mass)
    if len(d) == len(z):
        return keep(z, d <= most)
    mask = z > -np.inf
    mask[mask] = d <= most
    return keep(z, mask)


def _reaching(key: np.ndarray, weight: np.ndarray, mass: float) -> np.floating:
    """The smallest key t with sum(weight[key <= t]) >= mass, or the largest key.

    Narrows 50,257 keys to one of 256 bins, and again, since sorting them with their
    weights would cost five times as much.
    """
    while len(key) > 2000 and (low := key.min()) < (high := key.max()):
        bins = ((key - low) * (255 / (high - low))).astype(np.int32)
        below = np.cumsum(np.bincount(bins, weight, 256))
        bin = min(int(np.searchsorted(below, mass)), 255)
        mass -= below[bin - 1] if bin else 0.0
        inside = bins == bin
        if not inside.any():
            return high  # rounding left the whole mass just below `mass`
        key, weight = key[inside], weight[inside]
    order = np.argsort(key)
    last = int(np.searchsorted(np.cumsum(weight[order]), mass))
    return key[order][min(last, len(key) - 1)]


@strategy("C9", "tail-free", sampling=True, limit=1.0, rank=40, element="tfs")
@parameter("tfs", 1.0, "Share of the bend kept; 1 is off.", 0, 1)
@example(tfs=0.9)
def tail_free(z: Logits, share: float) -> Logits:
    """Cuts where the sorted curve stops bending: keep the first 1 + #{cumsum w <=
    share}, w = |second difference of p sorted down| / sum.

    Ties with the last one stay. Nothing is cut where p has no bend (fewer than three
    tokens, or all alike). Source: Phénix and Egan, "Tail Free
    Sampling" (2019).

    >>> np.isfinite(tail_free(np.log(np.array([0.6, 0.2, 0.15, 0.05])), 0.9)).tolist()
    [True, True, False, False]
    """
    check(z)
    order = np.sort(remaining(z))[::-1]
    if share >= 1 or len(order) < 3:
        return z
    bend = np.abs(np.diff(np.exp(order - order[0]), 2))
    total = bend.sum(dtype=np.float64)
    if total <= 0:
        return z
    for n in (1000, len(bend)):  # the head mostly is enough
        cumulative = np.cumsum(bend[:n].astype(np.float64))
        kept = 1 + int(np.searchsorted(cumulative, share * total, side="right"))
        if kept <= n:
            break
    return keep(z, z >= order[min(kept, len(order) - 1) - 1])


@strategy("C11", "top-H", sampling=True, limit=1.0, rank=20)
@parameter("top_h", 0.0, "Share of the entropy; 0 is off.", 0, 1)
@example(top_h=0.5)
def top_h(z: Logits, share: float) -> Logits:
    """As many top tokens as a share of the entropy H allows: of the top 100, the
    longest prefix with sum -p ln p <= share H.

    p is renormalised over the 100 and sorted down; the first always stays. This is the
    partial sum that transformers and the authors compute (their text speaks of a
    renormalised entropy). Source: Potraghloo et al., "Top-H Decoding" (2025,
    arXiv:2509.02510).

    >>> np.isfinite(top_h(np.log(np.array([0.5, 0.25, 0.25])), 0.4)).tolist()
    [True, False, False]
    """
    if share <= 0:
        return z
    n = min(100, len(z))
    order = -np.sort(-np.partition(z, -n)[-n:])
    p = probabilities(order)
    p = p[p > 0]
    parts = -p * np.log(p)
    kept = int((np.cumsum(parts) <= share * parts.sum()).sum())
    return keep(z, z >= order[max(1, kept) - 1])


@strategy("C12", "p-less", sampling=True, limit=1.0, rank=110)
@parameter("p_less", ("off", "on", "norm"), "The threshold: plain, or normalised.")
@example(p_less="on")
def p_less(z: Logits, kind: str = "on") -> Logits:
    """Tokens at least as probable as two draws are to agree: keep p >= sum p^2.

    "norm" takes the threshold (V sum p^2 - 1) / (V - 1), V the vocabulary, which is 0
    for a uniform distribution. The threshold is lowered by a millionth, so that a
    uniform p is kept whole (llama.cpp subtracts 1e-5). Source: Tan et al.,
    "p-less Sampling" (2025, arXiv:2509.23234).

    >>> z = np.log(np.array([0.1, 0.15, 0.2, 0.25, 0.3]))
    >>> np.isfinite(p_less(z)).tolist()
    [False, False, False, True, True]
    """
    if kind == "off":
        return z
    e = np.exp(z - check(z))
    total = e.sum(dtype=np.float64)
    threshold = float((e * e).sum(dtype=np.float64) / total**2)
    if kind == "norm":
        V = len(z)
        threshold = (V * threshold - 1) / (V - 1) if V > 1 else 0.0
    # A uniform p equals its threshold up to rounding and must all stay.
    return keep(z, (z > -np.inf) & (e >= min(1.0, threshold * total * (1 - 1e-6))))


def minimal_surprise(z: Logits, bits: float) -> np.ndarray:
    """z where -log2 p <= bits, and the most probable token: mirostat 2.0's truncation.

    >>> np.isfinite(minimal_surprise(np.log(np.array([0.5, 0.25, 0.25])), 1.5)).tolist()
    [True, False, False]
    """
    log_p = log_probabilities(z)
    return keep(z, log_p >= min(-bits * math.log(2), float(log_p.max())))
