"""The derivatives of npgpt.training.backward as NumPy runs them fast.

In place and in pieces, as npgpt.blocked goes forward. Names, arguments and results are
those of npgpt.training.backward, which derives them, up to rounding; what is not here
is as fast there. For any array library, but only NumPy's arrays go in pieces.
"""

from __future__ import annotations

import math

from npgpt import ops
from npgpt.blocked import attention_pieces, by_rows
from npgpt.shapes import Array, Bool, Float, Int
from npgpt.support.threads import product
from npgpt.training import backward


def cross_entropy(
    z: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    ignore_index: int | None = None,
    count: int | None = None,
) -> tuple[float, Float[Array, "*batch V"]]:
    """Loss and gradient of the logits together: dz = (softmax(z) - onehot(target)) / n.

    >>> import numpy as np
    >>> loss, dz = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(loss, 4), dz.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    xp = ops.namespace(z)
    V = z.shape[-1]
    rows, targets = xp.reshape(z, (-1, V)), xp.reshape(targets, (-1,))
    if ignore_index is None:
        kept, n = None, targets.shape[0]
    else:
        kept = targets != ignore_index
        n = int(xp.sum(xp.astype(kept, xp.int64)))
        targets = xp.where(kept, targets, xp.zeros_like(targets))
    n = max(1, n if count is None else count)
    dz = rows - xp.max(rows, axis=-1, keepdims=True)
    at = xp.arange(rows.shape[0], dtype=targets.dtype) * V + targets
    losses = -xp.take(xp.reshape(dz, (-1,)), at)
    dz = xp.exp(dz)
    total = xp.sum(dz, axis=-1, keepdims=True)
    losses += xp.log(total[:, 0])
    dz /= total * n
    hit = targets[:, None] == xp.arange(V, dtype=targets.dtype)
    dz = xp.where(hit, dz - 1 / n, dz)
    if kept is not None:
        losses = xp.where(kept, losses, xp.zeros_like(losses))
        dz = xp.where(kept[:, None], dz, xp.zeros_like(dz))
    return float(xp.sum(losses)) / n, xp.reshape(dz, z.shape)


@by_rows(2)
def gelu(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Gradient of GELU: dx = dy (1 + t + x (1 - t^2) u') / 2, t = tanh u.

    >>> import numpy as np
    >>> gelu(np.ones(3), np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.083, 0.5, 1.083]
    """
    xp, s = ops.namespace(x), math.sqrt(2 / math.pi)
    square = x * x
    t = 0.044715 * square
    t += 1.0
    t *= x
    t *= s
    t = xp.tanh(t)
    square *= 3 * 0.044715 * s
    square += s  # u'
    square *= x
    square *= 1.0 - t * t
    square += t
    square += 1.0
    square *= dy
    square *= 0.5
    return square


@by_rows(2)
def layer_norm(
    dy: Float[Array, "*batch C"],
    x: Float[Array, "*batch C"],
    weight: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*batch C"], Float[Array, " C"], Float[Array, " C"]]:
    """Gradients of x, weight and bias: dx = (g - mean g - n mean(g n)) / sqrt(s + e).

    >>> import numpy as np
    >>> x, one = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4)
    >>> dx, dweight, dbias = layer_norm(np.array([1.0, 0.0, 0.0, 0.0]), x, one)
    >>> dx.round(4).tolist(), dweight.round(4).tolist()
    ([0.2683, -0.3578, -0.0894, 0.1789], [-1.3416, 0.0, 0.0, 0.0])
    """
    xp = ops.namespace(x)
    C = x.shape[-1]
    n = x - xp.sum(x, axis=-1, keepdims=True) / C
    scale = 1 / xp.sqrt(xp.sum(n * n, axis=-1, keepdims=True) / C + epsilon)
    n *= scale
    dweight = xp.sum(xp.reshape(dy * n, (-1, C)), axis=0)
    dbias = xp.sum(xp.reshape(dy, (-1, C)), axis=0)
    dx = dy * weight
    along = xp.sum(dx * n, axis=-1, keepdims=True) / C
    dx -= xp.sum(dx, axis=-1, keepdims=True) / C
    n *= along
    dx -= n
    dx *= scale
    return dx, dweight, dbias


def embedding(
    dy: Float[Array, "*batch C"], ids: Int[Array, "*batch"], rows: int
) -> Float[Array, "V C"]:
    """Gradient of a table of `rows` rows: row v is the sum of dy where ids = v.

    Each gradient is added to its row, where the library can: no matrix of one-hots.

    >>> import numpy as np
    >>> embedding(np.array([[1.0], [2.0], [4.0]]), np.array([2, 0, 2]), 3).tolist()
    [[2.0], [0.0], [5.0]]
    """
    xp = ops.namespace(dy)
    if not hasattr(getattr(xp, "add", None), "at"):  # NumPy and CuPy have it
        return backward.embedding(dy, ids, rows)
    dweight = xp.zeros((rows, dy.shape[-1]), dtype=dy.dtype)
    xp.add.at(dweight, ids.reshape(-1), dy.reshape(-1, dy.shape[-1]))
    return dweight


def linear(
    dy: Float[Array, "*batch m"],
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    has_bias: bool = True,
) -> tuple[Float[Array, "*batch n"], Float[Array, "n m"], Float[Array, " m"] | None]:
    """Gradients of y = x W + b: dx = dy W^T, dW = x^T dy, db = sum dy over all rows.

    >>> import numpy as np
    >>> one = np.ones((1, 1))
    >>> [g.item() for g in linear(2 * one, 3 * one, 5 * one)]
    [10.0, 6.0, 2.0]
    """
    n, m = weight.shape
    with product(x.size * m, x.size // n):
        return backward.linear(dy, x, weight, has_bias)


def attention(
    dy: Float[Array, "B H T D"],
    q: Float[Array, "B H T D"],
    k: Float[Array, "B H S D"],
    v: Float[Array, "B H S D"],
    *,
    causal: bool = True,
    mask: Bool[Array, "_ T S"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "B H T D"], Float[Array, "B H S D"], Float[Array, "B H S D"]]:
    """Gradients of q, k and v, for y = softmax(q k^T * scale) v.

    For some queries at a time and only for the keys that those may see: time for
    memory, as in "FlashAttention" (Dao et al., 2022).

    >>> import numpy as np
    >>> q = k = np.zeros((1, 1, 2, 1))
    >>> v = np.array([[[[2.0], [4.0]]]])
    >>> attention(np.ones_like(v), q, k, v)[2].tolist()
    [[[[1.5], [0.5]]]]
    """
    xp = ops.namespace(q)
    dq, dk, dv = xp.zeros_like(q), xp.zeros_like(k), xp.zeros_like(v)
    for rows, queries, keys in attention_pieces(q.shape, k.shape[2], causal):
        here, seen = (rows, slice(None), queries, ...), (rows, slice(None), keys, ...)
        hidden = None
        if mask is not None:
            hidden = mask[rows if mask.shape[0] > 1 else slice(None), queries, keys]
        numbers = (queries.stop - queries.start) * q.shape[-1]
        with product(numbers * k.shape[2], 0):
            found = backward.attention(
                dy[here],
                q[here],
                k[seen],
                v[seen],
                causal=causal,
                mask=hidden,
                window=window,
                scale=scale,
            )
        dq[here] = found[0]
        dk[seen] += found[1]
        dv[seen] += found[2]
    return dq, dk, dv
