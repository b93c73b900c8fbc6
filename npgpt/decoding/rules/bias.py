"""Bias, bans and forced tokens: (z, ...) -> z, by token id.

Each is a pure function of the text so far. Constraints on the form of the text are in
npgpt.decoding.rules.regex, grammar and trie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from npgpt.decoding.rules.base import Context
from npgpt.errors import DecodingError
from npgpt.shapes import Float

Ids = Sequence[int]


def logit_bias(
    z: Float[np.ndarray, " V"], bias: Mapping[int, float]
) -> Float[np.ndarray, " V"]:
    """z_v + b_v. -inf bans a token; +inf is refused. Source: OpenAI.

    >>> logit_bias(np.zeros(3), {1: -5.0, 2: 1.0}).tolist()
    [0.0, -5.0, 1.0]
    """
    z = z.copy()
    for id, b in bias.items():
        if b == np.inf:
            raise DecodingError(
                f"logit_bias of token {id} is +inf; allow it alone with "
                "allowed_token_ids"
            )
        z[id] += b
    return z


def sequence_bias(
    z: Float[np.ndarray, " V"], ids: Ids, biases: Iterable[tuple[Ids, float]]
) -> Float[np.ndarray, " V"]:
    """Where the text ends with seq[:-1], z[seq[-1]] + b; matches add up.

    A sequence of one token always matches. Source: transformers.

    >>> sequence_bias(np.zeros(3), [0, 1], [((1, 2), 5.0), ((0, 0), 1.0)]).tolist()
    [0.0, 0.0, 5.0]
    """
    z = z.copy()
    for sequence, b in biases:
        *before, last = sequence
        if list(ids[len(ids) - len(before) :]) == before and len(before) <= len(ids):
            z[last] += b
    return z


def bad_words(
    z: Float[np.ndarray, " V"], ids: Ids, phrases: Iterable[Ids]
) -> Float[np.ndarray, " V"]:
    """Sequences of ids that never occur: sequence bias with -inf.

    An end-of-text id is banned like any other (transformers drops such entries).
    Source: transformers.

    >>> bad_words(np.zeros(3), [1], [(1, 2)]).tolist()
    [0.0, 0.0, -inf]
    """
    return sequence_bias(z, ids, [(phrase, -np.inf) for phrase in phrases])


def encode_words(words: Sequence[str], setup: Any) -> list[list[int]]:
    """Ids of every word, with and without a space before it, as vLLM does."""
    if setup.tokenizer is None:
        raise DecodingError("bad_words need a tokenizer; give bad_words_ids instead")
    variants = dict.fromkeys(v for word in words for v in (word, " " + word.lstrip()))
    return [setup.tokenizer.encode(variant) for variant in variants]


def suppress(z: Float[np.ndarray, " V"], ids: Ids) -> Float[np.ndarray, " V"]:
    """These tokens never occur: z_v = -inf.

    >>> suppress(np.zeros(2), [1]).tolist()
    [0.0, -inf]
    """
    z = z.copy()
    z[list(ids)] = -np.inf
    return z


def begin_suppress(
    z: Float[np.ndarray, " V"], context: Context, ids: Ids
) -> Float[np.ndarray, " V"]:
    """These tokens are not the first of the new text.

    >>> begin_suppress(np.zeros(2), Context(prompt_length=3, step=0), [1]).tolist()
    [0.0, -inf]
    """
    return suppress(z, ids) if context.step == 0 else z


def allow(z: Float[np.ndarray, " V"], ids: Ids) -> Float[np.ndarray, " V"]:
    """Nothing but these tokens. An empty list removes all.

    What was banned before stays banned, and nothing left is an error (transformers sets
    such tokens to 0).

    >>> allow(np.zeros(3), [1]).tolist()
    [-inf, 0.0, -inf]
    """
    kept = np.full_like(z, -np.inf)
    index = list(ids)
    kept[index] = z[index]
    return kept


def prefix_allowed_tokens(
    z: Float[np.ndarray, " V"],
    ids: Ids,
    context: Context,
    function: Callable[[int, Ids], Ids],
) -> Float[np.ndarray, " V"]:
    """Nothing but what function(sequence, ids) returns. Source: De Cao et al. (2020).

    >>> prefix_allowed_tokens(np.zeros(2), [7], Context(1, 0), lambda i, ids: [1])
    array([-inf,   0.])
    """
    allowed = [int(id) for id in function(context.row, ids)]
    if not allowed or not 0 <= min(allowed) <= max(allowed) < len(z):
        raise DecodingError(
            "prefix_allowed_tokens_fn must return ids of the vocabulary, at least one; "
            f"at step {context.step} it returned {allowed[:8]}"
        )
    return allow(z, allowed)


def min_length(
    z: Float[np.ndarray, " V"], ids: Ids, eos: Ids, least: int
) -> Float[np.ndarray, " V"]:
    """No end of text while prompt and new text together have fewer tokens.

    >>> min_length(np.zeros(2), [0, 0], [1], 3).tolist()
    [0.0, -inf]
    """
    return suppress(z, eos) if len(ids) < least else z


def min_new_tokens(
    z: Float[np.ndarray, " V"], context: Context, eos: Ids, least: int
) -> Float[np.ndarray, " V"]:
    """No end of text before `least` new tokens.

    >>> early = Context(prompt_length=3, step=0)
    >>> min_new_tokens(np.array([1.0, 2.0]), early, [1], 5).tolist()
    [1.0, -inf]
    """
    return suppress(z, eos) if context.step < least else z


def forced_bos(
    z: Float[np.ndarray, " V"], context: Context, id: int
) -> Float[np.ndarray, " V"]:
    """The first new token is this one, whatever the prompt.

    (transformers forces it only after a prompt of one token.)

    >>> forced_bos(np.zeros(2), Context(prompt_length=3, step=0), 1).tolist()
    [-inf, 0.0]
    """
    return _force(z, [id]) if context.step == 0 else z


def forced_eos(
    z: Float[np.ndarray, " V"], context: Context, ids: Ids, max_new_tokens: int
) -> Float[np.ndarray, " V"]:
    """The token number max_new_tokens is one of these.

    >>> forced_eos(np.zeros(2), Context(prompt_length=3, step=4), [1], 5).tolist()
    [-inf, 0.0]
    """
    return _force(z, ids) if context.step == max_new_tokens - 1 else z


def _force(z: np.ndarray, ids: Ids) -> np.ndarray:
    """Only these ids, whatever came before; the model's preference among them stays."""
    forced = allow(z, ids)
    if not (forced > -np.inf).any():
        forced[list(ids)] = 0
    return forced


def ignore_eos(
    z: Float[np.ndarray, " V"], eos: Ids, on: bool = True
) -> Float[np.ndarray, " V"]:
    """The text never ends by itself: z_eos = -inf, as in llama.cpp.

    (vLLM lets the end occur and goes on.)

    >>> ignore_eos(np.zeros(2), [1]).tolist()
    [0.0, -inf]
    """
    return suppress(z, eos) if on else z


def exponential_decay(
    z: Float[np.ndarray, " V"], context: Context, eos: Ids, start_factor: tuple
) -> Float[np.ndarray, " V"]:
    """z_eos + |z_eos| (factor^(t - start) - 1) once t > start new tokens are there.

    An end that is banned stays banned. Source: transformers.

    >>> late = Context(prompt_length=1, step=4)
    >>> exponential_decay(np.array([0.0, -2.0]), late, [1], (2, 1.5)).tolist()
    [0.0, 0.5]
    """
    start, factor = start_factor
    if context.step <= start:
        return z
    z = z.copy()
    for id in eos:
        if np.isfinite(z[id]):
            z[id] += abs(z[id]) * (factor ** (context.step - start) - 1)
    return z
