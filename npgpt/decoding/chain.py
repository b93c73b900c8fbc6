"""The chain: which rules run on the logits, in which order, and what they print as.

The order is Hugging Face's (transformers 5.23): processors, the user's own, then for
sampling temperature, top-k, top-p.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.decoding import processors, truncation
from npgpt.decoding.options import GenerationConfig
from npgpt.decoding.rules import Context, Rule


def build_chain(options: GenerationConfig, eos_token_ids: Sequence[int]) -> list[Rule]:
    """The rules that these options ask for, in order.

    >>> options = GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95)
    >>> print(*build_chain(options, [0]))
    temperature(0.8) top_p(0.95)
    """
    chain = []
    if options.min_new_tokens and eos_token_ids:
        n = options.min_new_tokens
        chain.append(
            Rule(
                "min_new_tokens",
                str(n),
                lambda ids, z, c: processors.min_new_tokens(z, c, n, eos_token_ids),
            )
        )
    for function in options.logits_processor:
        chain.append(Rule(getattr(function, "__name__", "custom"), "", function))
    if options.greedy:
        return chain
    for name in ("temperature", "top_k", "top_p"):
        value = getattr(options, name)
        if value is not None:
            chain.append(_truncation(name, value))
    return chain


def _truncation(name: str, value: float) -> Rule:
    function = getattr(truncation, name)
    return Rule(name, str(value), lambda ids, z, context: function(z, value))


def run_chain(
    chain: Sequence[Rule], ids: Sequence[int], z: np.ndarray, context: Context
) -> np.ndarray:
    """The logits after every rule of the chain."""
    for rule in chain:
        z = rule.apply(ids, z, context)
    return z
