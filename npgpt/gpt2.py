"""GPT-2: embed, L blocks, final norm, logits.

An attribute path of the parameters is the checkpoint's tensor name: the tensor
`h.3.attn.c_attn.weight` is `params.h[3].attn.c_attn.weight`. The blocks are in
npgpt.block, checks of ids in npgpt.ids; sampling lives in npgpt.decoding, loading in
npgpt.storage. npgpt.inside.recipes has every intermediate that a tap sees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npgpt.backend import Backend
from npgpt.block import Affine, Block, Reading, block, norm
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.ids import check_ids, placed
from npgpt.shapes import Array, Bool, Float, Int
from npgpt.taps import Tap, no_tap, tell


class Weight(NamedTuple):
    """A table without a bias: (V, C) for wte, (n_positions, C) for wpe."""

    weight: Array


class GPT2Params(NamedTuple):
    """All arrays of a model, with the config that says how to use them."""

    config: GPT2Config
    wte: Weight
    wpe: Weight
    h: tuple[Block, ...]
    ln_f: Affine
    lm_head: Weight  # (V, C); the same array as wte.weight where they are tied


def hidden_states(
    params: GPT2Params,
    ids: Int[np.ndarray, "B T"],
    cache: KVCache | None = None,
    *,
    backend: Backend,
    positions: Int[np.ndarray, "_ T"] | None = None,
    mask: Bool[Array, "_ T S"] | None = None,
    layers: int | None = None,
    after: tuple[int, Float[Array, "B T C"]] | None = None,
    output_hidden_states: bool = False,
    tap: Tap = no_tap,
) -> Any:
    """Read T new tokens a row; the last hidden states (B, T, C), after ln_f.

    The tokens follow what the cache holds, row by row, and are added to it.
    `positions` (B or 1, T) replaces the running positions; `mask` (B or 1, T, S), True
    where a query may look, hides more than the causal rule does (padding, the other
    branches of a token tree). `layers` runs only the first so many blocks (early exit).
    `after` = (n, x) runs only the others: x is what the first n blocks made of these
    tokens, and the cache has their keys and values behind what it counts as read.
    With `output_hidden_states` the result is a pair, the second a tuple: the embedding
    and each block's output, the last one after ln_f (Hugging Face's order).

    Raises DecodingError for ids outside the vocabulary, ContextOverflowError beyond
    n_positions. Source: Radford et al., "Language Models are Unsupervised Multitask
    Learners" (2019).
    """
    ids = check_ids(ids, params.config)
    positions, causal, mask = placed(
        ids, cache, positions, mask, params.config, backend.xp
    )
    reading = Reading(params.config, backend, cache, causal, mask, tap)
    tell(tap, "begin", ids, positions, reading)
    first, x = (0, embed(params, ids, positions, reading)) if after is None else after
    states = [x]
    for i, parameters in enumerate(params.h[first:layers], first):
        x = block(x, parameters, i, reading)
        states.append(x)
    x = tap("ln_f", norm(x, params.ln_f, reading))
    if cache is not None:
        cache.extend(ids)
    return (x, (*states[:-1], x)) if output_hidden_states else x


def embed(
    params: GPT2Params,
    ids: Int[np.ndarray, "B T"],
    positions: Int[np.ndarray, "_ T"],
    r: Reading,
) -> Float[Array, "B T C"]:
    """Token and position as one vector: wte[id] + wpe[position]."""
    embedding, asarray = r.backend.embedding, r.backend.xp.asarray
    token = r.tap("wte", embedding(asarray(ids), params.wte.weight))
    place = r.tap("wpe", embedding(asarray(positions), params.wpe.weight))
    return r.tap("embed", token + place)


def logits(
    params: GPT2Params,
    hidden: Float[Array, "B T C"],
    *,
    backend: Backend,
    tap: Tap = no_tap,
) -> Float[Array, "B T V"]:
    """Score of every vocabulary entry as the next token: hidden @ lm_head^T."""
    tell(tap, "head", hidden)
    return tap("logits", backend.linear(hidden, params.lm_head.weight.T))
