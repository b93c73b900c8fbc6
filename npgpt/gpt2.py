"""GPT-2's parameters and its forward pass: embed, L blocks, final norm, logits.

An attribute path of the parameters is the checkpoint's tensor name: the tensor
`h.3.attn.c_attn.weight` is `params.h[3].attn.c_attn.weight`. Token ids come in as
NumPy integers and are checked before any arithmetic; sampling lives in
npgpt.decoding, loading in npgpt.storage.checkpoint.

Every named intermediate passes through `tap(name, array) -> array` (TAPS lists them),
which may record or replace it. Nothing is written in place between two taps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from npgpt import ops
from npgpt.activations import ACTIVATIONS
from npgpt.backend import Backend
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.errors import ContextOverflowError, DecodingError
from npgpt.shapes import Array, Bool, Float, Int
from npgpt.taps import no_tap, tap_wants


class Weight(NamedTuple):
    """A table without a bias: (V, C) for wte, (n_positions, C) for wpe."""

    weight: Array


class Affine(NamedTuple):
    """Weight (inputs, outputs) and bias (outputs,); a norm's scale and shift (C,)."""

    weight: Array
    bias: Array


class Attention(NamedTuple):
    """Projections of one attention layer."""

    c_attn: Affine  # (C, 3 C): queries, keys and values side by side
    c_proj: Affine  # (C, C)


class MLP(NamedTuple):
    """The two linear maps around the activation."""

    c_fc: Affine  # (C, inner)
    c_proj: Affine  # (inner, C)


class Block(NamedTuple):
    """One transformer block."""

    ln_1: Affine
    attn: Attention
    ln_2: Affine
    mlp: MLP


class GPT2Params(NamedTuple):
    """All arrays of a model, with the config that says how to use them."""

    config: GPT2Config
    wte: Weight
    wpe: Weight
    h: tuple[Block, ...]
    ln_f: Affine
    lm_head: Weight  # (V, C); the same array as wte.weight where they are tied


TAPS = {  # every tap of the forward pass and its axes; {i} is the layer
    "wte": "B T C",
    "wpe": "B T C",
    "embed": "B T C",
    "h.{i}.ln_1": "B T C",
    "h.{i}.attn.q": "B H T D",
    "h.{i}.attn.k": "B H T D",
    "h.{i}.attn.v": "B H T D",
    "h.{i}.attn.scores": "B H T S",
    "h.{i}.attn.weights": "B H T S",
    "h.{i}.attn.context": "B H T D",
    "h.{i}.attn.out": "B T C",
    "h.{i}.resid_mid": "B T C",
    "h.{i}.ln_2": "B T C",
    "h.{i}.mlp.pre": "B T inner",
    "h.{i}.mlp.act": "B T inner",
    "h.{i}.mlp.out": "B T C",
    "h.{i}.resid": "B T C",
    "ln_f": "B T C",
    "logits": "B T V",
}


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
    tap: Any = no_tap,
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
    config, xp = params.config, backend.xp
    ids = check_ids(ids, config)
    B, T = ids.shape
    lengths = np.zeros(B, np.int64) if cache is None else cache.lengths
    if cache is not None and cache.batch != B:
        raise DecodingError(f"{B} rows of ids for a cache of {cache.batch} rows")
    S = int(lengths.max()) + T
    running = lengths[:, None] + np.arange(T)
    ragged = bool((lengths != lengths[0]).any())
    if positions is None:
        positions = running if ragged else running[:1]
    check_positions(positions, config)
    if mask is not None and not xp.all(xp.any(mask, axis=-1)):
        raise DecodingError("mask: every query must be allowed to see at least one key")
    if ragged:
        # Row b's token t stands at lengths[b] + t; what the cache holds beyond that is
        # another row's room, not text.
        visible = xp.asarray(np.arange(S) <= running[:, :, None])  # (B, T, S)
        mask = visible if mask is None else mask & visible

    first = 0
    if after is None:
        x = tap("wte", backend.embedding(xp.asarray(ids), params.wte.weight))
        x = x + tap("wpe", backend.embedding(xp.asarray(positions), params.wpe.weight))
        x = tap("embed", x)  # (B, T, C)
    else:
        first, x = after
    states = [x]
    for i, block in enumerate(params.h[first:layers], first):
        name = f"h.{i}"
        normed = tap(f"{name}.ln_1", _norm(x, block.ln_1, config, backend))
        attended = _attend(
            normed, block.attn, i, cache, config, backend, not ragged, mask, tap
        )
        x = tap(f"{name}.resid_mid", x + attended)
        normed = tap(f"{name}.ln_2", _norm(x, block.ln_2, config, backend))
        x = tap(
            f"{name}.resid", x + _mlp(normed, block.mlp, name, config, backend, tap)
        )
        states.append(x)
    x = tap("ln_f", _norm(x, params.ln_f, config, backend))
    if cache is not None:
        cache.extend(ids)
    return (x, (*states[:-1], x)) if output_hidden_states else x


def logits(
    params: GPT2Params,
    hidden: Float[Array, "B T C"],
    *,
    backend: Backend,
    tap: Any = no_tap,
) -> Float[Array, "B T V"]:
    """Score of every vocabulary entry as the next token: hidden @ lm_head^T."""
    return tap("logits", backend.linear(hidden, params.lm_head.weight.T))


def _norm(x: Array, ln: Affine, config: GPT2Config, backend: Backend) -> Array:
    return backend.layer_norm(x, ln.weight, ln.bias, config.layer_norm_epsilon)


def _attend(
    x: Float[Array, "B T C"],
    attn: Attention,
    layer: int,
    cache: KVCache | None,
    config: GPT2Config,
    backend: Backend,
    causal: bool,
    mask: Bool[Array, "_ T S"] | None,
    tap: Any,
) -> Float[Array, "B T C"]:
    name = f"h.{layer}.attn"
    q, k, v = ops.split_heads(
        backend.linear(x, attn.c_attn.weight, attn.c_attn.bias), config.n_head
    )
    q, k, v = tap(f"{name}.q", q), tap(f"{name}.k", k), tap(f"{name}.v", v)
    if cache is not None:
        k, v = cache.write(layer, k, v)  # (B, H, S, D)
    scale = attention_scale(config, layer)
    if tap_wants(tap, f"{name}.scores") or tap_wants(tap, f"{name}.weights"):
        scores = ops.attention_scores(q, k, causal=causal, mask=mask, scale=scale)
        scores = tap(f"{name}.scores", scores)
        context = tap(f"{name}.weights", backend.softmax(scores)) @ v
    else:
        context = backend.attention(q, k, v, causal=causal, mask=mask, scale=scale)
    context = ops.merge_heads(tap(f"{name}.context", context))
    return tap(
        f"{name}.out", backend.linear(context, attn.c_proj.weight, attn.c_proj.bias)
    )


def _mlp(
    x: Float[Array, "B T C"],
    mlp: MLP,
    name: str,
    config: GPT2Config,
    backend: Backend,
    tap: Any,
) -> Float[Array, "B T C"]:
    activation = ACTIVATIONS[config.activation_function]
    if activation is ops.gelu:
        activation = backend.gelu
    x = tap(f"{name}.mlp.pre", backend.linear(x, mlp.c_fc.weight, mlp.c_fc.bias))
    x = tap(f"{name}.mlp.act", activation(x))
    return tap(f"{name}.mlp.out", backend.linear(x, mlp.c_proj.weight, mlp.c_proj.bias))


def attention_scale(config: GPT2Config, layer: int) -> float:
    """Factor of the attention scores: 1 / sqrt(D), and what the config adds to it.

    reorder_and_upcast_attn asks for the products in float32, which they always are.
    """
    scale = 1 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def check_ids(ids: Any, config: GPT2Config) -> Int[np.ndarray, "B T"]:
    """Token ids as an integer array (B, T) within the vocabulary, or DecodingError."""
    ids = as_array(ids)
    if ids.ndim != 2 or 0 in ids.shape:
        raise DecodingError(f"token ids must be (B, T) with B, T >= 1, not {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise DecodingError(f"token ids must be whole numbers, not {ids.dtype}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        bad = ids[(ids < 0) | (ids >= config.vocab_size)][0]
        raise DecodingError(
            f"token id {bad} is not in the vocabulary, 0 to {config.vocab_size - 1}"
        )
    return ids.astype(np.int64, copy=False)


def as_array(ids: Any) -> np.ndarray:
    """np.asarray, where what cannot be an array of ids is a DecodingError."""
    try:
        return np.asarray(ids)
    except (ValueError, TypeError, OverflowError):
        raise DecodingError("token ids must be rows of equal length") from None


def check_positions(positions: Int[np.ndarray, "_ T"], config: GPT2Config) -> None:
    """Raise ContextOverflowError unless every position has an embedding."""
    low, high = int(positions.min()), int(positions.max())
    if low < 0 or high >= config.n_positions:
        raise ContextOverflowError(
            f"position {high if high >= config.n_positions else low} is outside the "
            f"model's {config.n_positions}; shorten the text, or generate with "
            "overflow='slide'"
        )
