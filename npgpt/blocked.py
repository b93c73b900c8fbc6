"""The functions of npgpt.ops as NumPy runs them fast: in place, and in pieces.

NumPy writes an array for every step of a formula and reads it for the next. GELU has
nine steps; for a prompt of 1,024 tokens each is a trip to memory of 12 MB. Here the
steps write into the array that they read, and 256 KB at a time go through all of them,
so that each finds in the cache what the last one left there (`by_rows`).

Such a prompt also has 12 x 1,024 x 1,024 attention scores a layer, 50 MB, of which the
causal mask throws half away. Here 128 queries meet only the keys that they may see, so
half of the work is never done (`attention`). Training goes back the same two ways
(npgpt.training.blocked_backward).

Names, arguments and results are those of npgpt.ops, which explains them, up to
rounding; what is not here is as fast there. For any array library, but only NumPy's
arrays go in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from npgpt import ops
from npgpt.shapes import Array, Bool, Float, Int
from npgpt.support.threads import product

Function = Callable[..., Any]

QUERIES = 128  # of a piece: its scores, 128 x S a head, shall stay in the cache
NUMBERS = 1 << 16  # of a piece of rows: three such arrays shall stay in the cache


def by_rows(arrays: int) -> Callable[[Function], Function]:
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

    def decorator(function: Function) -> Function:
        @wraps(function)
        def in_pieces(*args: Any, **options: Any) -> Any:
            whole, rest = args[:arrays], args[arrays:]
            fits = [_is_large(x) and x.shape == whole[0].shape for x in whole]
            if len(fits) < arrays or not all(fits):
                return function(*args, **options)
            shape = whole[0].shape
            flat = [x.reshape(-1, shape[-1]) for x in whole]
            size = max(1, NUMBERS // shape[-1])
            out, sums = np.empty(0), []
            for start in range(0, len(flat[0]), size):
                piece = slice(start, start + size)
                result = function(*(x[piece] for x in flat), *rest, **options)
                rows, *parts = result if isinstance(result, tuple) else (result,)
                if start == 0:
                    out, sums = np.empty(flat[0].shape, rows.dtype), parts
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


@by_rows(1)
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU, tanh form: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.1588, 0.0, 0.8412]
    """
    y = x * x
    y *= 0.044715
    y += 1.0
    y *= x
    y *= math.sqrt(2 / math.pi)
    y = ops.namespace(x).tanh(y)
    y += 1.0
    y *= x
    y *= 0.5
    return y


@by_rows(1)
def layer_norm(
    x: Float[Array, "*batch C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> Float[Array, "*batch C"]:
    """Each vector brought to mean 0, variance 1: (x - m) / sqrt(s + e) * w + b.

    >>> one, zero = np.ones(4), np.zeros(4)
    >>> layer_norm(np.array([1.0, 2.0, 3.0, 4.0]), one, zero).round(4).tolist()
    [-1.3416, -0.4472, 0.4472, 1.3416]
    """
    xp, C = ops.namespace(x), x.shape[-1]
    x = x - xp.sum(x, axis=-1, keepdims=True) / C
    variance = xp.sum(x * x, axis=-1, keepdims=True) / C
    x /= xp.sqrt(variance + epsilon)
    x *= weight
    x += bias
    return x


def linear(
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    bias: Float[Array, " m"] | None = None,
) -> Float[Array, "*batch m"]:
    """Affine map y = x W + b; W is (inputs, outputs), as GPT-2's checkpoints store it.

    >>> linear(np.array([[1.0, 2.0]]), np.eye(2), np.array([10.0, 20.0])).tolist()
    [[11.0, 22.0]]
    """
    n, m = weight.shape
    with product(x.size * m, x.size // n):
        y = ops.linear(x, weight)
    if bias is not None:
        y += bias
    return y


def cross_entropy(z: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> float:
    """Mean negative log-probability of the targets, -mean log softmax(z)[target], nats.

    Picks the targets' scores instead of comparing each with the whole vocabulary.

    >>> round(cross_entropy(np.zeros((2, 50257)), np.array([0, 7])), 4)
    10.8249
    """
    xp, V = ops.namespace(z), z.shape[-1]
    ids, rows = xp.reshape(targets, (-1,)), xp.reshape(z, (-1, V))
    rows = rows - xp.max(rows, axis=-1, keepdims=True)
    at = xp.arange(ids.shape[0], dtype=ids.dtype) * V + ids
    losses = -xp.take(xp.reshape(rows, (-1,)), at)
    losses += xp.log(xp.sum(xp.exp(rows), axis=-1))
    return float(xp.sum(losses)) / ids.shape[0]


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

    >>> import numpy
    >>> q = k = numpy.zeros((1, 1, 2, 1))
    >>> attention(q, k, numpy.array([[[[2.0], [4.0]]]])).tolist()
    [[[[2.0], [3.0]]]]
    """
    options: dict[str, Any] = dict(causal=causal, window=window, scale=scale)
    _, _, T, D = q.shape
    threads = product(min(T, QUERIES) * k.shape[2] * D, T)  # each head is a product
    if T <= QUERIES:
        with threads:
            return ops.attention(q, k, v, mask=mask, **options)
    out = ops.namespace(q).empty_like(q)
    for rows, queries, keys in attention_pieces(q.shape, k.shape[2], causal):
        seen = (rows, slice(None), keys, ...)
        allowed = None
        if mask is not None:
            allowed = mask[rows if mask.shape[0] > 1 else slice(None), queries, keys]
        with threads:
            out[rows, :, queries, ...] = ops.attention(
                q[rows, :, queries, :], k[seen], v[seen], mask=allowed, **options
            )
    return out
