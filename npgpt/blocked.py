"""Large arrays, some rows at a time: what npgpt.ops computes, within the cache.

NumPy writes an array for every step of a formula and reads it for the next. GELU has
nine steps; for a prompt of 1,024 tokens each is a trip to memory of 12 MB. Taken by
256 KB, the steps find in the cache what the last one left there (`by_rows`).

Such a prompt also has 12 x 1,024 x 1,024 attention scores a layer, 50 MB, of which the
causal mask throws half away. Here 128 queries meet only the keys that they may see, so
half of the work is never done (`attention`). Training goes back the same two ways
(npgpt.training.backward).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from npgpt import ops
from npgpt.shapes import Array, Bool, Float

QUERIES = 128  # of a piece: its scores, 128 x S a head, shall stay in the cache
NUMBERS = 1 << 16  # of a piece of rows: three such arrays shall stay in the cache


def by_rows(arrays: int) -> Callable[[Callable], Callable]:
    """Decorator for a function of `arrays` equal arrays that treats every row alone.

    The function is called with some rows after the other; the rest of its arguments
    stay. It returns an array of as many rows, as long, or a tuple of one and of sums
    over the rows.
    Arrays that are small, not contiguous, not NumPy's or passed by name go through in
    one call.

    >>> doubled = by_rows(1)(lambda x: (2 * x, x.sum(axis=0)))
    >>> rows, total = doubled(np.ones((40_000, 2)))
    >>> rows.shape, total.tolist()
    ((40000, 2), [40000.0, 40000.0])
    """

    def decorator(function: Callable) -> Callable:
        @wraps(function)
        def in_pieces(*args: Any, **options: Any) -> Any:
            whole, rest = args[:arrays], args[arrays:]
            fits = [_is_large(x) and x.shape == whole[0].shape for x in whole]
            if len(fits) < arrays or not all(fits):
                return function(*args, **options)
            shape = whole[0].shape
            flat = [x.reshape(-1, shape[-1]) for x in whole]
            size = max(1, NUMBERS // shape[-1])
            out, sums = None, []
            for start in range(0, len(flat[0]), size):
                piece = slice(start, start + size)
                result = function(*(x[piece] for x in flat), *rest, **options)
                rows, *parts = result if isinstance(result, tuple) else (result,)
                if out is None:
                    out = np.empty(flat[0].shape, rows.dtype)
                    sums = parts
                else:
                    sums = [a + b for a, b in zip(sums, parts, strict=True)]
                out[piece] = rows
            out = out.reshape(shape)
            return (out, *sums) if sums else out

        return in_pieces

    return decorator


def _is_large(x: Any) -> bool:
    is_array = isinstance(x, np.ndarray) and x.ndim > 1
    return is_array and x.size > NUMBERS and x.flags.c_contiguous


gelu = by_rows(1)(ops.gelu)
layer_norm = by_rows(1)(ops.layer_norm)


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
