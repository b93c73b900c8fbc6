"""Candidates: the pairs (beam, token) that a step of a beam search considers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.rules.base import Context, check
from npgpt.decoding.selectors import gumbel_noise

GROUP = 64  # tokens that best_candidates passes over by their largest number

Candidate = tuple[float, int, int]  # score, beam, token


@strategy("G7", "patience", kind="part", also=("num_beams", "early_stopping"))
@parameter("patience", 1.0, "Texts a beam; 1 is off.", 0.01)
@example(num_beams=2, patience=2.0, early_stopping=True)
def capacity(num_beams: int, patience: float = 1.0) -> int:
    """Go on until more texts have ended than there are beams: stop at patience *
    num_beams.

    Source: Kasai et al., "A Call for Clarity in Beam Search" (2022, arXiv:2204.05424).

    >>> capacity(3, 2.0)
    6
    """
    return max(1, round(num_beams * patience))


@strategy("G6", "length normalisation", kind="part", also=("num_beams",))
@parameter(
    "length_normalization",
    ("hf", "gnmt"),
    "The length itself (Hugging Face, fairseq), or GNMT's.",
)
@example(num_beams=3, length_normalization="gnmt", length_penalty=2.0)
def length_norm(length: int, alpha: float, kind: str = "hf") -> float:
    """What a beam's score is divided by: t^alpha ("hf"), or GNMT's ((5 + t) / 6)^alpha.

    alpha 0 divides by 1: the plain sum of log-probabilities, which likes short texts.
    Source: Wu et al., "Google's Neural Machine Translation System" (2016,
    arXiv:1609.08144).

    >>> length_norm(4, 0.5), length_norm(7, 1.0, "gnmt")
    (2.0, 2.0)
    """
    return (length if kind == "hf" else (5 + length) / 6) ** alpha


def best_candidates(lp: np.ndarray, scores: Sequence[float], n: int) -> list[Candidate]:
    """The n best (score + lp, beam, token) of all pairs, best first; lowest ids on
    ties.

    >>> lp = np.log(np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0001]]))
    >>> [(b, v) for s, b, v in best_candidates(lp, [0.0, -1.0], 3)]
    [(0, 0), (1, 0), (0, 1)]
    """
    (B, V), before, width = lp.shape, np.asarray(scores), lp.shape[1] // GROUP
    least = -float(np.finfo(lp.dtype).max)  # what is removed is below it
    if B * width >= n:
        # Each of so many groups of tokens has a best one, so n pairs reach the n-th
        # best of those: the others need not be sorted.
        tops = lp[:, : GROUP * width].reshape(B, GROUP, width).max(axis=1)
        tops = tops + before[:, None]
        least = max(least, float(np.partition(tops, tops.size - n, axis=None)[-n]))
    enough = (least - before - 1e-3).astype(lp.dtype)  # below it by more than rounding
    beam, token = np.divmod(np.flatnonzero(lp >= enough[:, None]), V)
    totals = lp[beam, token] + before[beam]
    order = np.argsort(-totals, kind="stable")[:n]
    found = (totals[order].tolist(), beam[order].tolist(), token[order].tolist())
    return list(zip(*found, strict=True))


@strategy("G2", "beam-search multinomial sampling", kind="part")
@example(num_beams=2, do_sample=True, seed=3)
def drawn_candidates(
    lp: np.ndarray, scores: Sequence[float], n: int, context: Context
) -> list[Candidate]:
    """Candidates of a beam search that are drawn without replacement: the n largest of
    score + lp + Gumbel noise.

    In the order of drawing, by the Gumbel-top-k trick. Source: Kool et al., "Stochastic
    Beams and Where to Find Them" (2019, arXiv:1903.06059).
    """
    totals = (lp.astype(np.float64) + np.asarray(scores)[:, None]).ravel()
    left = np.flatnonzero(totals > -np.inf)
    keys = totals[left] + gumbel_noise(context.uniforms(len(totals))[left])
    order = left[np.argsort(-keys, kind="stable")[:n]]
    beam, token = divmod(order, lp.shape[1])
    found = (totals[order].tolist(), beam.tolist(), token.tolist())
    return list(zip(*found, strict=True))


def log_sum_exp(z: np.ndarray) -> np.ndarray:
    """log sum_v exp z_v of every row, (B,) float64: z less it is log softmax.

    >>> log_sum_exp(np.log(np.array([[1.0, 2.0], [3.0, 3.0]]))).round(4).tolist()
    [1.0986, 1.7918]
    """
    top = check_rows(z)
    e = z - top[:, None]
    np.exp(e, out=e)
    return top + np.log(e.sum(axis=1)).astype(np.float64)


def check_rows(z: np.ndarray) -> np.ndarray:
    """The largest number of each row, or DecodingError where it is no number."""
    top = z.max(axis=1)
    if not np.isfinite(top).all():
        for row in z:
            check(row)  # says what is wrong with it
    return top
