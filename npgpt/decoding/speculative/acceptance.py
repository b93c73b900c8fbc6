"""Verification: which drafted tokens stand, and the token that follows them.

One rule a function, for one position: given what the target and the drafter say there,
accept the drafted token or replace it. `verify` walks a draft with any of them.
Ordinary speculative sampling and matching keep the target's law exactly; typical
acceptance and ensemble verification do not (they are lossy), and say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from npgpt.decoding.catalogue import example, parameter, strategy
from npgpt.decoding.randomness import ACCEPT
from npgpt.decoding.rules.base import Context, probabilities
from npgpt.decoding.selectors import ancestral, greedy

# (p, q, drafted token, context) -> the token that stands at this position
Accept = Callable[[np.ndarray, np.ndarray | None, int, Context], int]


class Verdict(NamedTuple):
    """The tokens that stand, and how many of them were drafted."""

    tokens: list[int]
    accepted: int


def draw(p: np.ndarray, context: Context) -> int:
    """A token from p (V,), by the numbers that ordinary sampling uses at this place.

    >>> draw(np.array([0.0, 1.0, 0.0]), Context(prompt_length=1, step=0))
    1
    """
    with np.errstate(divide="ignore"):
        return ancestral(np.log(p), context)


@strategy("H3", "sample and match", kind="part")
@example(assistant_model="smaller", verification="match", do_sample=True)
def match(p: np.ndarray, q: np.ndarray | None, x: int, context: Context) -> int:
    """The token is drawn from p, the draft x compared: y ~ p; go on while y = x.

    Lossless whatever the drafter does. The draw is the one that plain sampling with the
    same seed would make, so the text is the same too. Source: llama.cpp.
    """
    return draw(p, context)


def speculative(p: np.ndarray, q: np.ndarray | None, x: int, context: Context) -> int:
    """A smaller model drafts, the model verifies: keep x ~ q with probability
    min(1, p/q), else draw from max(p - q, 0).

    The token has the law p: q(x) min(1, p/q) + (1 - a) max(p - q, 0)/(1 - a) = p. A
    draft without q was certain of itself: q is one-hot. Sources: Leviathan et al.,
    "Fast Inference from Transformers via Speculative Decoding" (2022,
    arXiv:2211.17192); Chen et al., "Accelerating Large Language Model Decoding with
    Speculative Sampling" (2023, arXiv:2302.01318).
    """
    q_x = 1.0 if q is None else q[x]
    if context.uniform(ACCEPT) * q_x < p[x]:
        return x
    return draw(residual(p, q, x), context)


def residual(p: np.ndarray, q: np.ndarray | None, x: int = 0) -> np.ndarray:
    """max(p - q, 0) / its sum; p where p and q are the same but for rounding.

    >>> residual(np.array([0.5, 0.5]), np.array([0.8, 0.2])).tolist()
    [0.0, 1.0]
    """
    if q is None:
        q = np.zeros_like(p)
        q[x] = 1.0
    rest = np.maximum(p - q, 0)
    total = rest.sum()
    return rest / total if total > 0 else p


@strategy("H11", "ensemble verification", kind="part")
@parameter("assistant_ensemble_weight", 1.0, "w; 1 is off.", 1e-9, 1)
@example(assistant_model="smaller", do_sample=True, assistant_ensemble_weight=0.5)
def ensemble(weight: float) -> Accept:
    """LOSSY, a mixture of both models' laws: keep x with (1 - w) + w p/q; the law is
    w p + (1 - w) q, greedy its argmax.

    The weight is w. Every token is drafted, so that q is known; where the drafter has
    no room left, the law is p. Source: the option assistant_ensemble_weight of
    Transformers 5 (arXiv:2604.07622).
    """

    def rule(p: np.ndarray, q: np.ndarray | None, x: int, context: Context) -> int:
        q_x = 1.0 if q is None else q[x]
        if context.uniform(ACCEPT) * q_x < (1 - weight) * q_x + weight * p[x]:
            return x
        return draw(residual(p, q, x), context)

    return rule


def ensemble_greedy(weight: float) -> Accept:
    """Lossy: the token is the argmax of w p + (1 - w) q, the draft stands if it is it.

    >>> rule = ensemble_greedy(0.5)
    >>> p, q = np.array([0.5, 0.4, 0.1]), np.array([0.0, 0.4, 0.6])
    >>> rule(p, q, 2, Context(1, 0))  # neither model's own best
    1
    """

    def rule(p: np.ndarray, q: np.ndarray | None, x: int, context: Context) -> int:
        return x if q is None else greedy(weight * p + (1 - weight) * q)

    return rule


@strategy("H10", "typical acceptance", kind="part")
@parameter("typical_acceptance", 0.0, "epsilon; 0 is off.", 0, 1)
@parameter("typical_delta", 0.3, "delta.", 0)
@example(assistant_model="smaller", do_sample=True, typical_acceptance=0.3)
def typical(epsilon: float, delta: float) -> Accept:
    """LOSSY, what is likely enough may stand: keep x if p(x) > min(epsilon, delta
    exp(-H)).

    Else draw from p, whose entropy is H. The more uncertain the target, the less
    probable a token may be. Source: Cai et al., "Medusa: Simple LLM Inference
    Acceleration Framework" (2024, arXiv:2401.10774), as their code has it
    (FasterDecoding/Medusa, medusa/model/utils.py, evaluate_posterior: epsilon is called
    posterior_threshold, delta posterior_alpha; what follows the accepted tokens is
    greedy there).
    """

    def rule(p: np.ndarray, q: np.ndarray | None, x: int, context: Context) -> int:
        return x if p[x] > typical_threshold(p, epsilon, delta) else draw(p, context)

    return rule


def typical_threshold(p: np.ndarray, epsilon: float, delta: float) -> float:
    """min(epsilon, delta exp(-H)), H the entropy of p in nats.

    >>> round(typical_threshold(np.array([0.5, 0.5]), 0.3, 0.4), 3)
    0.2
    """
    some = p[p > 0]
    return min(epsilon, delta * math.exp(float((some * np.log(some)).sum())))


def verify(
    rule: Accept,
    z: Callable[[int, Sequence[int]], np.ndarray],
    draft: Sequence[int],
    q: Sequence[np.ndarray] | None,
    context: Callable[[int], Context],
    bonus: bool = True,
    over: Callable[[Sequence[int]], bool] = lambda tokens: False,
) -> Verdict:
    """The tokens that stand: drafted ones up to the first that was replaced, and it.

    z(i, tokens) are the target's processed logits at position i after these tokens,
    q[i] the drafter's probabilities there. If all stand and `bonus` is set, one more
    token follows from the target's logits behind the draft, which were computed anyway.
    Nothing follows where over(tokens): there the text has ended.
    """
    tokens: list[int] = []
    for i, x in enumerate(draft):
        p = probabilities(z(i, tokens))
        y = rule(p, None if q is None else q[i], x, context(i))
        tokens.append(y)
        if y != x or over(tokens):
            return Verdict(tokens, i + (y == x))
    if bonus:
        i = len(draft)
        tokens.append(draw(probabilities(z(i, tokens)), context(i)))
    return Verdict(tokens, len(draft))


@strategy("H2", "assisted greedy decoding", kind="part")
@example(
    assistant_model="smaller",
    num_assistant_tokens=3,
    assistant_confidence_threshold=0.0,
)
def verify_greedy(
    z: Callable[[int, Sequence[int]], np.ndarray],
    draft: Sequence[int],
    bonus: bool = True,
    over: Callable[[Sequence[int]], bool] = lambda tokens: False,
) -> Verdict:
    """The draft as long as it is the argmax: keep x while x = argmax p; then argmax p.

    Without `bonus` a draft that stands whole is followed by none. Source: transformers.
    """
    tokens: list[int] = []
    for i, x in enumerate([*draft, None] if bonus else draft):
        tokens.append(greedy(z(i, tokens)))
        if tokens[-1] != x or over(tokens):
            return Verdict(tokens, i + (tokens[-1] == x))
    return Verdict(tokens, len(draft))
