"""Attention for some queries at a time: what ops.attention computes, in less memory.

A prompt of 1,024 tokens has 12 x 1,024 x 1,024 scores a layer, 50 MB, of which the
causal mask throws half away. Here 128 queries meet only the keys that they may see, so
half of the work is never done and the rest stays in the cache. Training goes back the
same way (npgpt.backward.attention).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from npgpt import ops
from npgpt.ops import Array

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float

QUERIES = 128  # of a piece: its scores, 128 x S a head, shall stay in the cache


def attention_pieces(
    shape: tuple[int, ...], S: int, causal: bool
) -> Iterator[tuple[slice, slice, slice]]:
    """Rows, queries and keys of the pieces in which attention is computed.

    Query i of T sees the keys up to i + S - T, so a piece of queries is itself a causal
    attention with fewer keys, whose triangle hangs from the bottom right corner.

    >>> [(q, k) for _, q, k in attention_pieces((1, 4, 200, 8), 200, True)][1]
    (slice(128, 200, None), slice(0, 200, None))
    """
    B, _, T, _ = shape
    for b in range(B):
        for start in range(0, T, QUERIES):
            stop = min(T, start + QUERIES)
            keys = slice(0, stop + S - T if causal else S)
            yield slice(b, b + 1), slice(start, stop), keys


def attention(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B H S D"],
    v: Float[Array, "B H S D"],
    *,
    causal: bool = True,
    mask: Bool[Array, "_ T S"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "B H T D"]:
    """Scaled dot-product attention, softmax(q k^T * scale) v: means of the values.

    Arguments and result as of ops.attention.

    >>> import numpy
    >>> q = k = numpy.zeros((1, 1, 2, 1))
    >>> attention(q, k, numpy.array([[[[2.0], [4.0]]]])).tolist()
    [[[[2.0], [3.0]]]]
    """
    options = dict(causal=causal, window=window, scale=scale)
    if q.shape[2] <= QUERIES:
        return ops.attention(q, k, v, mask=mask, **options)
    out = ops.namespace(q).empty_like(q)
    for rows, queries, keys in attention_pieces(q.shape, k.shape[2], causal):
        seen = (rows, slice(None), keys, ...)
        allowed = None
        if mask is not None:
            allowed = mask[rows if mask.shape[0] > 1 else slice(None), queries, keys]
        out[rows, :, queries, ...] = ops.attention(
            q[rows, :, queries, :], k[seen], v[seen], mask=allowed, **options
        )
    return out
