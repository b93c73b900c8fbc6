"""Which selector takes the token, and the state that it carries from token to token.

A selector's state is a plain value that the row holds: a beam copies it with the row,
and a search that goes back puts the old one back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from npgpt.decoding import feedback, randomness, selectors
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules.base import Context

State = Any


class Selector(NamedTuple):
    """How tokens are taken: its name, its setting, its first state, and the function.

    `choose(ids, z, context, state)` returns the token and the next state.
    """

    name: str
    setting: str
    start: Callable[[Context], State]
    choose: Callable[[Any, np.ndarray, Context, State], tuple[int, State]]

    def __str__(self) -> str:
        return f"{self.name}({self.setting})" if self.setting else self.name


def build_selector(options: GenerationConfig) -> Selector:
    """The selector that these options ask for.

    >>> print(build_selector(GenerationConfig(do_sample=True, mirostat=2)))
    mirostat_v2(5.0, 0.1)
    """
    o = options
    if o.trace_decode_token_ids:
        given = o.trace_decode_token_ids
        return _stateless(
            "forced",
            f"{len(given)} tokens",
            lambda ids, z, c: selectors.forced(z, given, c.step),
        )
    if o.greedy:
        return _stateless("greedy", "", lambda ids, z, c: selectors.greedy(z))
    if o.mirostat == 1:
        tau, eta, m = o.mirostat_tau, o.mirostat_eta, o.mirostat_m
        return Selector(
            "mirostat",
            f"{tau}, {eta}, {m}",
            lambda c: 2 * tau,
            lambda ids, z, c, mu: feedback.mirostat(z, c.uniform(), mu, tau, eta, m),
        )
    if o.mirostat == 2:
        tau, eta = o.mirostat_tau, o.mirostat_eta
        return Selector(
            "mirostat_v2",
            f"{tau}, {eta}",
            lambda c: 2 * tau,
            lambda ids, z, c, mu: feedback.mirostat_v2(z, c.uniform(), mu, tau, eta),
        )
    if o.is_set("adaptive_target"):
        target, decay = o.adaptive_target, o.adaptive_decay
        return Selector(
            "adaptive_p",
            f"{target}, {decay}",
            lambda c: feedback.adaptive_start(target, decay),
            lambda ids, z, c, state: feedback.adaptive_p(
                z, c.uniform(), state, target, decay
            ),
        )
    if o.watermark == "gumbel":
        from npgpt.decoding.watermarks import watermark

        key, width = o.hashing_key, o.context_width
        return _stateless(
            "gumbel_watermark",
            f"{width}",
            lambda ids, z, c: watermark.gumbel(z, ids, key, width),
        )
    if o.selector == "gumbel_max":
        return _stateless(
            "gumbel_max",
            "",
            lambda ids, z, c: selectors.gumbel_max(z, c.uniforms(len(z))),
        )
    if o.selector == "arithmetic":
        n = o.num_return_sequences
        return Selector(
            "arithmetic",
            f"{n} codes",
            lambda c: _code(c, n),
            lambda ids, z, c, code: selectors.arithmetic(
                z, code, c.uniform(randomness.CODE)
            ),
        )
    if o.selector == "without_replacement":
        return _stateless("without_replacement", "", _first_without_replacement)
    return _stateless(
        "inverse_cdf", "", lambda ids, z, c: selectors.inverse_cdf(z, c.uniform())
    )


def _stateless(name: str, setting: str, choose: Callable) -> Selector:
    return Selector(
        name,
        setting,
        lambda c: None,
        lambda ids, z, c, state: (choose(ids, z, c), state),
    )


def _shared(c: Context) -> Context:
    """The context of sequence 0: numbers that all sequences of a prompt share."""
    return Context(c.prompt_length, c.step, c.seed, 0)


def _code(c: Context, n: int) -> float:
    return (_shared(c).uniform() + c.row / n) % 1


def _first_without_replacement(ids: Any, z: np.ndarray, c: Context) -> int:
    """Sequence j begins with the j-th of the draws without replacement.

    Later tokens, and sequences beyond the tokens left, are drawn independently.
    """
    if c.step == 0:
        draws = selectors.without_replacement(z, _shared(c).uniforms(len(z)), c.row + 1)
        if len(draws) > c.row:
            return draws[c.row]
    return selectors.inverse_cdf(z, c.uniform())
