"""Guidance: the logits of several readings combined into one, each as its formula.

A formula takes logits (V,) and returns logits; npgpt.decoding.guidance.guided makes a
model of it, which every strategy then uses as if it were one model. A token that one
reading rules out (-inf) stays out, whatever the other says of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from npgpt.decoding.rules.base import keep
from npgpt.ops import log_softmax
from npgpt.shapes import Float, Logits

# -inf minus -inf: a token that both readings rule out, and so does the formula
_undefined_is_out = np.errstate(invalid="ignore")


@_undefined_is_out
def classifier_free(z: Logits, z_negative: Logits, scale: float) -> Logits:
    """Away from what the negative prompt would say: l' = l_n + scale (l - l_n).

    l and l_n are log-softmax of the logits with the prompt and with the negative (or
    no) prompt; scale 1 gives l. Source: Sanchez et al., "Stay on topic with
    Classifier-Free Guidance" (2023, arXiv:2306.17806).

    >>> z, negative = np.log(np.array([[0.5, 0.5], [0.8, 0.2]]))
    >>> np.exp(log_softmax(classifier_free(z, negative, 2.0))).round(4).tolist()
    [0.2, 0.8]
    """
    lp, lp_negative = log_softmax(z), log_softmax(z_negative)
    guided = lp_negative + scale * (lp - lp_negative)
    return _ruled_out(guided, z, z_negative)


def context_aware(z: Logits, z_without: Logits, alpha: float) -> Logits:
    """More weight on the context in the prompt: (1 + alpha) l(y | c, x) - alpha l(y |
    x).

    The same as classifier_free with scale 1 + alpha, the negative prompt being the
    question x without its context c. Source: Shi et al., "Trusting Your Evidence:
    Hallucinate Less with Context-aware Decoding" (2023, arXiv:2305.14739); the authors'
    code (xhan77/context-aware-decoding, demo.ipynb) has it on logits, which is the same
    law.

    >>> z, without = np.log(np.array([[0.5, 0.5], [0.8, 0.2]]))
    >>> np.exp(log_softmax(context_aware(z, without, 1.0))).round(4).tolist()
    [0.2, 0.8]
    """
    return classifier_free(z, z_without, 1 + alpha)


@_undefined_is_out
def contrastive(
    z: Logits,
    z_amateur: Logits,
    alpha: float = 0.1,
    temperature: float = 0.5,
    coefficient: float = 1.0,
) -> Logits:
    """What the expert knows and the amateur does not: l - c log softmax(z_amateur /
    tau) where p >= alpha max p.

    l - coefficient log softmax(z_amateur / temperature) for the plausible tokens, those
    with p >= alpha max p under the expert; the rest is removed. Source: Li et al.,
    "Contrastive Decoding: Open-ended Text Generation as Optimization" (2022,
    arXiv:2210.15097).

    >>> z, amateur = np.log(np.array([[0.5, 0.4, 0.1], [0.7, 0.2, 0.1]]))
    >>> contrastive(z, amateur, alpha=0.5, temperature=1.0).round(4).tolist()
    [-0.3365, 0.6931, -inf]
    """
    lp = log_softmax(z)
    scores = lp - coefficient * log_softmax(z_amateur / z.dtype.type(temperature))
    return _ruled_out(_plausible(scores, lp, alpha), z, z_amateur)


@_undefined_is_out
def improved_contrastive(
    z: Logits, z_amateur: Logits, alpha: float = 0.1, beta: float = 0.5
) -> Logits:
    """Contrastive decoding on logits, with one weight: (1 + beta) z - beta z_amateur
    where p >= alpha max p.

    beta 0 is the expert itself, cut to the tokens with p >= alpha max p, which is z >=
    max z + ln alpha. Source: O'Brien and Lewis, "Contrastive Decoding Improves
    Reasoning in Large Language Models" (2023, arXiv:2309.09117), algorithm 2 of its
    appendix A, as lucidrains/x-transformers has it too (contrastive_decode_fn).

    >>> z, amateur = np.array([[2.0, 1.0, -5.0], [1.0, 1.0, 0.0]])
    >>> improved_contrastive(z, amateur).tolist()
    [2.5, 1.0, -inf]
    """
    scores = (1 + beta) * z - beta * z_amateur
    return _ruled_out(_plausible(scores, log_softmax(z), alpha), z, z_amateur)


@_undefined_is_out
def dola(
    z: Logits,
    z_layers: Float[np.ndarray, "n V"],
    alpha: float = 0.1,
    divergence: Callable[[Logits, Logits], float] | None = None,
) -> Logits:
    """The last layer against the early layer least like it: l - l_j where p >= alpha
    max p, j = argmax JS(p, p_j).

    l - l_j for the plausible tokens (p >= alpha max p), where layer j is the candidate
    whose distribution has the largest Jensen-Shannon divergence from the last. Source:
    Chuang et al., "DoLa: Decoding by Contrasting Layers" (2023, arXiv:2309.03883). The
    authors' code and Transformers 4 take a mean of reversed terms for the divergence
    and do not remove the implausible tokens' contrast but set it to -1e-3; this is the
    paper's rule.

    >>> z = np.log(np.array([0.6, 0.3, 0.1]))
    >>> layers = np.log(np.array([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3]]))
    >>> np.exp(dola(z, layers, alpha=0.4)).round(4).tolist()
    [6.0, 0.5, 0.0]
    """
    lp, early = log_softmax(z), log_softmax(z_layers)
    apart = [(divergence or jensen_shannon)(lp, layer) for layer in early]
    scores = lp - early[int(np.argmax(apart))]
    return _plausible(scores, lp, alpha)


def jensen_shannon(lp: Logits, lq: Logits) -> float:
    """How far two distributions are apart: JS = (KL(p|m) + KL(q|m)) / 2, m their mean.

    From log-probabilities, in nats: 0 for equal ones, at most ln 2. Source: Lin,
    "Divergence Measures Based on the Shannon Entropy" (1991).

    >>> with np.errstate(divide="ignore"):
    ...     one_hot = np.log(np.eye(2))
    >>> round(jensen_shannon(one_hot[0], one_hot[1]), 6)
    0.693147
    """
    lm = np.logaddexp(lp, lq) - math.log(2)
    return float(
        sum(
            0.5
            * np.sum(np.exp(x) * np.where(x > -np.inf, x - np.maximum(lm, -1e30), 0))
            for x in (lp, lq)
        )
    )


@_undefined_is_out
def product(z: Float[np.ndarray, "k V"], weights: Sequence[float]) -> Logits:
    """Several models as one, by a product or a mixture: sum_i w_i l_i, or log sum_i w_i
    p_i (see `mixture`).

    Source: Hinton, "Training Products of Experts" (2002).

    >>> z = np.log(np.array([[0.5, 0.5], [0.8, 0.2]]))
    >>> np.exp(log_softmax(product(z, [0.5, 0.5]))).round(4).tolist()
    [0.6667, 0.3333]
    """
    total = sum(w * lp for w, lp in zip(weights, log_softmax(z), strict=True) if w)
    return _ruled_out(total, *z)


def mixture(z: Float[np.ndarray, "k V"], weights: Sequence[float]) -> Logits:
    """Mixture of models: log sum_i w_i p_i; a token out in one may be in by another.

    With equal weights what fairseq's SequenceGenerator does with several models.

    >>> z = np.log(np.array([[0.5, 0.5], [0.8, 0.2]]))
    >>> np.exp(mixture(z, [0.5, 0.5])).round(4).tolist()
    [0.65, 0.35]
    """
    parts = [
        lp + math.log(w) for w, lp in zip(weights, log_softmax(z), strict=True) if w
    ]
    return np.logaddexp.reduce(parts, axis=0).astype(z.dtype)


@_undefined_is_out
def dexperts(z: Logits, z_expert: Logits, z_anti: Logits, alpha: float) -> Logits:
    """Steer by a pair of small models: z + alpha (z_expert - z_anti).

    Source: Liu et al., "DExperts: Decoding-Time Controlled Text Generation with Experts
    and Anti-Experts" (2021, arXiv:2105.03023). The authors' code
    (alisawuffles/DExperts, generation/dexperts_generation.py) may cut z to its nucleus
    first (filter_p); here truncation comes after guidance.

    >>> dexperts(np.zeros(2), np.array([1.0, 0.0]), np.array([0.0, 1.0]), 2.0).tolist()
    [2.0, -2.0]
    """
    return _ruled_out(z + alpha * (z_expert - z_anti), z, z_expert, z_anti)


@_undefined_is_out
def anti_lm(z: Logits, z_anti: Logits, weight: float) -> Logits:
    """Less of what is likely anyway (maximum mutual information): l - weight l_anti.

    Every token counts; the paper lets the first gamma alone count, and adds a term for
    the length (as XinnuoXu/mmi_anti_pytorch, onmt/translate/Translator.py, has it).
    Source: Li et al., "A Diversity-Promoting Objective Function for Neural Conversation
    Models" (2016, arXiv:1510.03055).

    >>> z, anti = np.log(np.array([[0.5, 0.5], [0.8, 0.2]]))
    >>> np.exp(log_softmax(anti_lm(z, anti, 1.0))).round(4).tolist()
    [0.2, 0.8]
    """
    return _ruled_out(log_softmax(z) - weight * log_softmax(z_anti), z, z_anti)


def _plausible(scores: np.ndarray, lp: np.ndarray, alpha: float) -> np.ndarray:
    return keep(scores, lp >= lp.max() + (math.log(alpha) if alpha else -np.inf))


def _ruled_out(scores: np.ndarray, *readings: np.ndarray) -> np.ndarray:
    """-inf wherever one of the readings has it."""
    out = [z == -np.inf for z in readings]
    if not np.any(out):
        return scores
    return keep(scores, ~np.any(out, axis=0))
