"""Selectors: how one token is taken from the logits that the chain has left.

Pure functions; those with a memory take it and return it. Which selector runs is
decided in npgpt.decoding.selection, mirostat and adaptive-p are in
npgpt.decoding.feedback. What sequences of one prompt divide among each other follows
from the numbers of the first of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from npgpt.decoding.catalogue import example, fields, parameter, strategy
from npgpt.decoding.randomness import CODE, TOKEN
from npgpt.decoding.rules.base import Context, Ids, check, probabilities
from npgpt.shapes import Float, Logits


@strategy("A1", "greedy search", kind="selector", default=True)
@fields(when=("do_sample", False), on=lambda options: options.greedy)
@example(do_sample=False)
def greedy(z: Logits) -> int:
    """The most probable token; the lowest id wins a tie: argmax z.

    >>> greedy(np.array([1.0, 3.0, 3.0]))
    1
    """
    check(z)
    return int(z.argmax())


@strategy("A2", "ancestral sampling", kind="selector", default=True)
@fields(when=("do_sample", True), on=lambda options: not options.greedy)
@parameter("do_sample", False, "Draw from the distribution, not its maximum.")
@example(do_sample=True)
def ancestral(z: Logits, context: Context, purpose: int = TOKEN) -> int:
    """A draw from the distribution the chain leaves: y ~ Categorical(softmax(z)).

    By Gumbel-max, with the uniform numbers of this step and purpose. Ancestral
    (multinomial, "pure") sampling when no rule has changed z.

    >>> ancestral(np.array([0.0, -np.inf]), Context(prompt_length=1, step=0))
    0
    """
    return gumbel_max(z, context.uniforms(len(z), purpose))


@strategy("A3", "Gumbel-max", kind="selector", default=True)
@fields(when=("selector", "gumbel_max"))
@fields(on=lambda o: not o.greedy and o.selector == "gumbel_max")
@parameter(
    "selector",
    ("gumbel_max", "inverse_cdf", "arithmetic", "without_replacement"),
    "How a token is drawn.",
)
@example(selector="gumbel_max")
def gumbel_max(z: Logits, us: Float[np.ndarray, " V"]) -> int:
    """The largest logit after adding Gumbel noise: argmax (z + g), g = -log(-log u).

    Over uniform us (V,) in [0, 1) the token is a draw from softmax(z), with no need to
    normalise. Logits that differ by at most d, in rounding say, give the same token but
    with a probability of at most d: each token has a number of its own. Source: Gumbel,
    "Statistical Theory of Extreme Values" (1954).

    >>> gumbel_max(np.array([0.0, 1.0]), np.array([0.9, 0.5]))
    0
    """
    check(z)
    left = np.flatnonzero(z > -np.inf)
    return int(left[np.argmax(z[left] + gumbel_noise(us[left]))])


def gumbel_noise(u: np.ndarray) -> np.ndarray:
    """Standard Gumbel numbers of uniforms in [0, 1): -log(-log u).

    >>> gumbel_noise(np.array([0.5])).round(4).tolist()
    [0.3665]
    """
    return -np.log(-np.log(np.maximum(u, 2.0**-54)))


@strategy("A4", "inverse CDF", kind="selector", sampling=True)
@fields(when=("selector", "inverse_cdf"))
@example(selector="inverse_cdf")
def inverse_cdf(z: Logits, u: float) -> int:
    """One uniform number u picks a slice of the cumulative distribution F: the first i
    with F_i > u F_V.

    A removed token is never taken. Over uniform u the token is a draw from softmax(z).
    The one to learn from; but each F_i is a sum of all p before it, so rounding moves
    all V - 1 borders, and the token changes some hundred times as often as Gumbel-max's
    (see docs/sampling.md).

    >>> z = np.log(np.array([0.2, 0.5, 0.3]))
    >>> inverse_cdf(z, 0.1), inverse_cdf(z, 0.2), inverse_cdf(z, 0.69)
    (0, 1, 1)
    """
    left, F = _cumulative(z)
    i = int(np.searchsorted(F, u * F[-1], side="right"))
    return int(left[min(i, len(left) - 1)])


def _cumulative(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens left (often a handful) and their cumulative probabilities."""
    check(z)
    left = np.flatnonzero(z > -np.inf)
    return left, np.cumsum(probabilities(z[left]))


@strategy("A6", "sampling without replacement", kind="selector", sampling=True)
@fields(when=("selector", "without_replacement"))
@fields(call=lambda z, context: _first_without_replacement(z, context))
@example(selector="without_replacement", num_return_sequences=3)
def without_replacement(z: Logits, us: Float[np.ndarray, " V"], k: int) -> list[int]:
    """Sequences whose first tokens are drawn without replacement: the k largest of z +
    g.

    k draws in order, g being Gumbel noise; fewer where fewer tokens are left. An
    ordered pair has the law p_i p_j / (1 - p_i). Source: Kool, van Hoof and Welling,
    "Stochastic Beams and Where to Find Them" (2019, arXiv:1903.06059).

    >>> without_replacement(np.array([0.0, 1.0, -np.inf]), np.array([0.9, 0.5, 0.9]), 3)
    [0, 1]
    """
    check(z)
    order = np.argsort(-(z + gumbel_noise(us)), kind="stable")
    return order[: min(k, int((z > -np.inf).sum()))].tolist()


@strategy("A5", "arithmetic sampling", kind="selector", sampling=True)
@fields(when=("selector", "arithmetic"), also=("num_return_sequences",))
@fields(start=lambda context, n: (_shared(context).uniform() + context.row / n) % 1)
@fields(call=lambda z, context, code, n: _with_bits(z, context, code))
@example(selector="arithmetic", num_return_sequences=2)
def arithmetic(z: Logits, code: float, u: float) -> tuple[int, float]:
    """Sequences that share one evenly spaced code c, each an exact sample: v with
    F_(v-1) <= c < F_v, then c' = (c - F_(v-1)) / p_v.

    A uniform code gives exact samples, token after token; N evenly spaced codes,
    (c_0 + n/N) mod 1, share them out: a text of probability q is written floor(Nq) or
    ceil(Nq) times. The division uses up the code's bits, so u in [0, 1) fills the ones
    below its last; it also magnifies rounding, so two backends part sooner than with
    inverse_cdf. What a rule draws (XTC) is drawn once for all sequences. Source: Vilnis
    et al., "Arithmetic Sampling: Parallel Diverse Decoding for Large Language Models"
    (2023, arXiv:2210.15457).

    >>> id, code = arithmetic(np.log(np.array([0.25, 0.75])), 0.5, 0.0)
    >>> id, round(code, 4)
    (1, 0.3333)
    """
    left, F = _cumulative(z)
    F = F / F[-1]
    i = min(int(np.searchsorted(F, code, side="right")), len(left) - 1)
    start = F[i - 1] if i else 0.0
    inside = (code - start + u * 2.0**-53) / (F[i] - start)
    return int(left[i]), min(max(float(inside), 0.0), 1 - 2.0**-53)


@strategy("E9", "teacher forcing", kind="selector")
@parameter("trace_decode_token_ids", (), "The tokens to write.", kind="ids")
@example(trace_decode_token_ids=[3, 0])
def forced(z: Logits, step: int, given: Ids) -> int:
    """Given tokens, with the model's probabilities: y_t given; then greedy search.

    >>> forced(np.array([0.0, 1.0]), 0, [0]), forced(np.array([0.0, 1.0]), 1, [0])
    (0, 1)
    """
    return given[step] if step < len(given) else greedy(z)


def _shared(context: Context) -> Context:
    """The context of sequence 0: numbers that all sequences of a prompt share."""
    return replace(context, row=0)


def _with_bits(z: np.ndarray, context: Context, code: float) -> tuple[int, float]:
    """Arithmetic sampling, whose codes are filled up by numbers of their own."""
    return arithmetic(z, code, context.uniform(CODE))


def _first_without_replacement(z: np.ndarray, context: Context) -> int:
    """Sequence j begins with the j-th of the draws without replacement.

    Later tokens, and sequences beyond the tokens left, are drawn independently.
    """
    j = context.row
    if context.step == 0:
        draws = without_replacement(z, _shared(context).uniforms(len(z)), j + 1)
        if len(draws) > j:
            return draws[j]
    return ancestral(z, context)
