"""One transformer block: attention, then an MLP, each added to what came in.

The parameters of a block, and what a pass through the model holds fixed (`Reading`).
`attend` and `mlp` serve every family of models; where the norms stand and in which
order is a family's own: GPT-2 normalises before each half.

Every named intermediate passes through `tap(name, array) -> array`, which may record or
replace it. Nothing is written in place between two taps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from npgpt import ops
from npgpt.activations import ACTIVATIONS
from npgpt.backend import Backend
from npgpt.cache import KVCache
from npgpt.config import GPT2Config
from npgpt.ops import merge_heads, split_heads
from npgpt.shapes import Array, Bool, Float
from npgpt.taps import Tap, no_tap, tap_wants


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
    """The parameters of one transformer block."""

    ln_1: Affine
    attn: Attention
    ln_2: Affine
    mlp: MLP


class Reading(NamedTuple):
    """What one pass through the model holds fixed, from the first block to the last."""

    config: GPT2Config
    backend: Backend
    cache: KVCache | None = None
    causal: bool = True
    mask: Bool[Array, "_ T S"] | None = None
    tap: Tap = no_tap

    def within(self, place: str) -> Tap:
        """The tap of a place: it calls `q` of "h.3.attn" by its name "h.3.attn.q"."""
        return lambda name, array: self.tap(f"{place}.{name}", array)


def block(
    x: Float[Array, "B T C"], p: Block, i: int, r: Reading
) -> Float[Array, "B T C"]:
    """Block i: y = x + attention(norm(x)); y + mlp(norm(y)).

    The tokens look at each other in the first half, each thinks for itself in the
    second. Both halves add to the stream that runs through all blocks. Source of the
    norms' place: Radford et al., "Language Models are Unsupervised Multitask Learners"
    (2019).
    """
    tap = r.within(f"h.{i}")
    x = tap("resid_mid", x + attend(tap("ln_1", norm(x, p.ln_1, r)), p.attn, i, r))
    return tap("resid", x + mlp(tap("ln_2", norm(x, p.ln_2, r)), p.mlp, i, r))


def norm(x: Float[Array, "B T C"], p: Affine, r: Reading) -> Float[Array, "B T C"]:
    """Layer norm with the config's epsilon."""
    return r.backend.layer_norm(x, p.weight, p.bias, r.config.layer_norm_epsilon)


def attend(
    x: Float[Array, "B T C"], p: Attention, i: int, r: Reading
) -> Float[Array, "B T C"]:
    """What each position gathers from those it may see: c_proj(heads of attention).

    With a cache, the new keys and values join those of the positions already read.
    """
    here, backend = f"h.{i}.attn", r.backend
    tap = r.within(here)
    q, k, v = split_heads(
        backend.linear(x, p.c_attn.weight, p.c_attn.bias), r.config.n_head
    )
    q, k, v = tap("q", q), tap("k", k), tap("v", v)
    if r.cache is not None:
        k, v = r.cache.write(i, k, v)  # (B, H, S, D)
    scale = attention_scale(r.config, i)
    if tap_wants(r.tap, f"{here}.scores") or tap_wants(r.tap, f"{here}.weights"):
        scores = ops.attention_scores(q, k, causal=r.causal, mask=r.mask, scale=scale)
        context = tap("weights", backend.softmax(tap("scores", scores))) @ v
    else:
        context = backend.attention(q, k, v, causal=r.causal, mask=r.mask, scale=scale)
    context = merge_heads(tap("context", context))
    return tap("out", backend.linear(context, p.c_proj.weight, p.c_proj.bias))


def mlp(x: Float[Array, "B T C"], p: MLP, i: int, r: Reading) -> Float[Array, "B T C"]:
    """Each position for itself: c_proj(activation(c_fc(x)))."""
    tap, backend = r.within(f"h.{i}.mlp"), r.backend
    activation = ACTIVATIONS[r.config.activation_function]
    if activation is ops.gelu:
        activation = backend.gelu
    x = tap("pre", backend.linear(x, p.c_fc.weight, p.c_fc.bias))
    x = tap("act", activation(x))
    return tap("out", backend.linear(x, p.c_proj.weight, p.c_proj.bias))


def attention_scale(config: GPT2Config, layer: int) -> float:
    """Factor of the attention scores: 1 / sqrt(D), and what the config adds to it.

    reorder_and_upcast_attn asks for the products in float32, which they always are.
    """
    scale = 1 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale
