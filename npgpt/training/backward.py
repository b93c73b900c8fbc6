"""The derivatives of npgpt.ops, by hand: one function under the name of each of its.

Call the loss E. A backward function receives dE/dy, the gradient of the loss with
respect to what its namesake in npgpt.ops returned, and what that one had received; it
returns dE/dx, ... , one gradient for each array that went in. A leading d stands for
dE/d: `dy` is dE/dy, as large as y.

Everything rests on two rules. The chain rule: dx_i = sum_j dy_j * (dy_j / dx_i). And:
where an array is used twice, its gradients add up.

Pure functions without state, on NumPy, CuPy and any other array-API library; the order
in which a model calls them is npgpt.training.gradients' business. NumPy trains with the
same in place and in pieces, npgpt.training.blocked_backward; Numba's twins are in
kernels/backward.py and kernels/attention_backward.py.
"""

from __future__ import annotations

import math

from npgpt import ops
from npgpt.ops import merge_heads, namespace
from npgpt.shapes import Array, Bool, Float, Int


def softmax(
    dp: Float[Array, "*batch n"], p: Float[Array, "*batch n"]
) -> Float[Array, "*batch n"]:
    """Gradient of the scores: dx_i = p_i (dp_i - sum_j dp_j p_j); p = softmax(x).

    dp_j / dx_i = p_j ([i = j] - p_i): raising one score takes probability from all
    others in proportion. Summed over j with dp_j, this is the formula. A score of -inf
    has p = 0, hence no gradient.

    >>> import numpy as np
    >>> softmax(np.array([1.0, 0.0]), np.array([0.5, 0.5])).tolist()
    [0.25, -0.25]
    """
    xp = namespace(dp)
    return p * (dp - xp.sum(dp * p, axis=-1, keepdims=True))


def cross_entropy(
    z: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    *,
    ignore_index: int | None = None,
    count: int | None = None,
) -> tuple[float, Float[Array, "*batch V"]]:
    """Loss and gradient of the logits together: dz = (softmax(z) - onehot(target)) / n.

    loss = 1/n sum (log sum_j e^(z_j) - z_target); the first term has the derivative
    softmax(z), the second -1 at the target. They share their exponentials, so the
    loss is returned too. Targets equal to ignore_index (BERT's unmasked positions) have
    no part in either. n is the number of targets that count, or `count`: losses and
    gradients of a batch that is cut into pieces, each with the count of the whole, add
    up to those of the whole.

    >>> import numpy as np
    >>> loss, dz = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(loss, 4), dz.tolist()
    (0.6931, [[0.5, -0.5]])
    """
    xp = namespace(z)
    kept = xp.ones_like(targets, dtype=xp.bool)
    if ignore_index is not None:
        kept = targets != ignore_index
    n = max(1, int(xp.sum(xp.astype(kept, xp.int64))) if count is None else count)
    vocabulary = xp.arange(z.shape[-1], dtype=targets.dtype)
    onehot = (targets[..., None] == vocabulary) & kept[..., None]
    log_p, zero = ops.log_softmax(z), xp.zeros_like(z)
    loss = -float(xp.sum(xp.where(onehot, log_p, zero))) / n
    change = xp.exp(log_p) - xp.astype(onehot, z.dtype)
    return loss, xp.where(kept[..., None], change, zero) / n


def gelu(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Gradient of GELU: dx = dy (1 + t + x (1 - t^2) u') / 2, t = tanh u.

    y = x (1 + t) / 2 with u = s (x + 0.044715 x^3), s = sqrt(2/pi). The product rule
    gives (1 + t)/2 + x/2 dt/dx; dt/dx = (1 - t^2) u', u' = s (1 + 3 * 0.044715 x^2).

    >>> import numpy as np
    >>> gelu(np.ones(3), np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.083, 0.5, 1.083]
    """
    xp, s = namespace(x), math.sqrt(2 / math.pi)
    t = xp.tanh(s * (x + 0.044715 * x * x * x))
    slope = s * (1.0 + 3 * 0.044715 * x * x)  # u'
    return 0.5 * dy * (1.0 + t + x * (1.0 - t * t) * slope)


def layer_norm(
    dy: Float[Array, "*batch C"],
    x: Float[Array, "*batch C"],
    weight: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "*batch C"], Float[Array, " C"], Float[Array, " C"]]:
    """Gradients of x, weight and bias: dx = (g - mean g - n mean(g n)) / sqrt(s + e).

    y = n w + b with the normalised n = (x - m) / sqrt(s + e). So db = sum dy and
    dw = sum dy n over all vectors, and g = dy w is what arrives at n. A vector's n
    has no freedom along (1, ..., 1), which the mean m removed, nor along n itself,
    which the variance s fixed: the formula takes both parts out of g.

    >>> import numpy as np
    >>> x, one = np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4)
    >>> dx, dweight, dbias = layer_norm(np.array([1.0, 0.0, 0.0, 0.0]), x, one)
    >>> dx.round(4).tolist(), dweight.round(4).tolist()
    ([0.2683, -0.3578, -0.0894, 0.1789], [-1.3416, 0.0, 0.0, 0.0])
    """
    xp, C = namespace(x), x.shape[-1]
    scale = 1 / xp.sqrt(xp.var(x, axis=-1, keepdims=True) + epsilon)
    n = (x - xp.mean(x, axis=-1, keepdims=True)) * scale
    g = dy * weight
    along = xp.mean(g * n, axis=-1, keepdims=True)
    dx = (g - xp.mean(g, axis=-1, keepdims=True) - n * along) * scale
    dweight = xp.sum(xp.reshape(dy * n, (-1, C)), axis=0)
    return dx, dweight, xp.sum(xp.reshape(dy, (-1, C)), axis=0)


def embedding(
    dy: Float[Array, "*batch C"], ids: Int[Array, "*batch"], rows: int
) -> Float[Array, "V C"]:
    """Gradient of a table of `rows` rows: row v is the sum of dy where ids = v.

    y = onehot(ids) @ table, so dtable = onehot(ids)^T @ dy: an id that occurs three
    times collects three gradients, one that does not occur has none.

    >>> import numpy as np
    >>> embedding(np.array([[1.0], [2.0], [4.0]]), np.array([2, 0, 2]), 3).tolist()
    [[2.0], [0.0], [5.0]]
    """
    xp = namespace(dy)
    onehot = xp.reshape(ids, (-1, 1)) == xp.arange(rows, dtype=ids.dtype)
    return xp.astype(onehot, dy.dtype).T @ xp.reshape(dy, (-1, dy.shape[-1]))


def linear(
    dy: Float[Array, "*batch m"],
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    has_bias: bool = True,
) -> tuple[Float[Array, "*batch n"], Float[Array, "n m"], Float[Array, " m"] | None]:
    """Gradients of y = x W + b: dx = dy W^T, dW = x^T dy, db = sum dy over all rows.

    y_rj = sum_i x_ri W_ij + b_j: W_ij carries dy_rj to x_ri, and x_ri carries it to
    W_ij, in every row r. Without a bias, db is None.

    >>> import numpy as np
    >>> w = np.array([[1.0, 2.0]])
    >>> dx, dweight, dbias = linear(np.array([[1.0, 1.0]]), np.array([[3.0]]), w)
    >>> dx.tolist(), dweight.tolist(), dbias.tolist()
    ([[3.0]], [[3.0, 3.0]], [1.0, 1.0])
    """
    xp = namespace(dy)
    flat = xp.reshape(dy, (-1, dy.shape[-1]))
    rows = xp.reshape(x, (-1, x.shape[-1]))
    dx = xp.reshape(flat @ weight.T, x.shape)
    return dx, rows.T @ flat, xp.sum(flat, axis=0) if has_bias else None


def split_heads(
    dq: Float[Array, "B H T D"],
    dk: Float[Array, "B H T D"],
    dv: Float[Array, "B H T D"],
) -> Float[Array, "B T _"]:
    """Gradient of what was cut into q, k and v: the three side by side again.

    To cut and to turn moves numbers and changes none, so each gradient goes back to
    where its number came from (npgpt.ops.split_heads).

    >>> import numpy as np
    >>> dq, dk, dv = np.arange(6.0).reshape(3, 1, 2, 1, 1)
    >>> split_heads(dq, dk, dv).tolist()
    [[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]]
    """
    xp = namespace(dq)
    return xp.concat([merge_heads(d) for d in (dq, dk, dv)], axis=-1)


def attention_scores(
    dx: Float[Array, "B H T S"],
    q: Float[Array, "B H T D"],
    k: Float[Array, "B H S D"],
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B H T D"], Float[Array, "B H S D"]]:
    """Gradients of q and k, for x = q k^T * s: dq = s dx k, dk = s dx^T q.

    Masks need no mention: where x became -inf, dx is 0.

    >>> import numpy as np
    >>> q, k = np.full((1, 1, 1, 1), 2.0), np.full((1, 1, 1, 1), 3.0)
    >>> [x.item() for x in attention_scores(np.ones((1, 1, 1, 1)), q, k)]
    [3.0, 2.0]
    """
    xp = namespace(dx)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    dx = dx * scale
    return dx @ k, xp.permute_dims(dx, (0, 1, 3, 2)) @ q


def attention_means(
    dy: Float[Array, "B H T D"],
    p: Float[Array, "B H T S"],
    v: Float[Array, "B H S D"],
) -> tuple[Float[Array, "B H T S"], Float[Array, "B H S D"]]:
    """Gradients of p and v, for the means y = p v: dp = dy v^T, dv = p^T dy.

    >>> import numpy as np
    >>> p, v = np.full((1, 1, 1, 1), 0.5), np.full((1, 1, 1, 1), 3.0)
    >>> [x.item() for x in attention_means(np.ones((1, 1, 1, 1)), p, v)]
    [3.0, 0.5]
    """
    xp = namespace(dy)
    turned = (0, 1, 3, 2)
    return dy @ xp.permute_dims(v, turned), xp.permute_dims(p, turned) @ dy


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

    Three steps back: through the means (attention_means), through the softmax, through
    the products (attention_scores). What a query may not see has p = 0 and passes
    nothing on. The probabilities p are computed again instead of being kept since the
    forward pass.

    >>> import numpy as np
    >>> q = k = np.zeros((1, 1, 2, 1))
    >>> v = np.array([[[[2.0], [4.0]]]])
    >>> dq, dk, dv = attention(np.ones_like(v), q, k, v)
    >>> dv.tolist()  # the first key is seen by both queries: 1 + 1/2
    [[[[1.5], [0.5]]]]
    """
    scores = ops.attention_scores(
        q, k, causal=causal, mask=mask, window=window, scale=scale
    )
    p = ops.softmax(scores)
    dp, dv = attention_means(dy, p, v)
    dq, dk = attention_scores(softmax(dp, p), q, k, scale=scale)
    return dq, dk, dv
