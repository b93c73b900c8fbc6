"""The mathematics of GPT-2: one function an idea, from softmax to attention.

Dimensions, here and everywhere in npgpt:

    B batch    T new positions    S all positions so far
    H heads    D width of a head  C = H * D model width
    V vocabulary                  L layers

and x, q, k, v, p (probabilities), z (logits). Every function finds its array
namespace from its argument, so the same text runs on NumPy, CuPy and any other
array-API library. Nothing here knows about parameters, caches or tokens, and
nothing computes gradients.
"""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy

from npgpt.shapes import Array, Bool, Float, Int


def namespace(x: Array) -> ModuleType:
    """The array library that x belongs to (array API standard, 2021).

    >>> import numpy
    >>> namespace(numpy.zeros(3)) is numpy
    True
    """
    if hasattr(x, "__array_namespace__"):
        return x.__array_namespace__()
    return sys.modules[type(x).__module__.partition(".")[0]]  # CuPy before 14


def softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Probabilities from scores: p_i = exp(x_i) / sum_j exp(x_j), over the last axis.

    A score of -inf gives probability 0; at least one score of a row must be finite.
    Source: Bridle, "Probabilistic Interpretation of Feedforward Classification
    Network Outputs" (1990).

    >>> import numpy
    >>> softmax(numpy.log(numpy.array([1.0, 2.0, 1.0]))).round(6).tolist()
    [0.25, 0.5, 0.25]
    """
    xp = namespace(x)
    # exp overflows beyond 88 in float32; subtracting the maximum cancels in the ratio.
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def log_softmax(x: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Logarithm of softmax: x_i - log sum_j exp(x_j), over the last axis, in nats.

    Not log(softmax(x)): that is -inf as soon as a probability underflows.

    >>> import numpy
    >>> log_softmax(numpy.array([0.0, -1000.0])).tolist()
    [0.0, -1000.0]
    """
    xp = namespace(x)
    below = x - xp.max(x, axis=-1, keepdims=True)  # as in softmax
    return below - xp.log(xp.sum(xp.exp(below), axis=-1, keepdims=True))


def cross_entropy(z: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> float:
    """Mean negative log-probability of the targets, -mean log softmax(z)[target], nats.

    This is the loss that GPT is trained on; exp of it is the perplexity.
    Targets are ids in [0, V).

    >>> import numpy
    >>> round(cross_entropy(numpy.zeros((2, 50257)), numpy.array([0, 7])), 4)
    10.8249
    """
    xp = namespace(z)
    vocabulary = xp.arange(z.shape[-1])
    hit = targets[..., None] == vocabulary  # one-hot: array API has no scatter
    log_p = xp.where(hit, log_softmax(z), xp.zeros_like(z))
    return -float(xp.sum(log_p)) / math.prod(targets.shape)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """GELU, tanh form: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    GPT-2 was trained with this form ("gelu_new"), not with the exact x Phi(x).
    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016).

    >>> import numpy
    >>> gelu(numpy.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.1588, 0.0, 0.8412]
    """
    xp = namespace(x)
    # math.sqrt, since np.sqrt gives a float64 scalar that widens float32 arrays;
    # x * x * x, since x**3 goes by logarithms and takes eighty times as long.
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + xp.tanh(u))


def layer_norm(
    x: Float[Array, "*batch C"],
    weight: Float[Array, " C"],
    bias: Float[Array, " C"],
    epsilon: float = 1e-5,
) -> Float[Array, "*batch C"]:
    """Each vector brought to mean 0, variance 1: (x - m) / sqrt(s + e) * w + b.

    s is the biased variance (divided by C). Source: Ba, Kiros and Hinton, "Layer
    Normalization" (2016).

    >>> import numpy
    >>> one, zero = numpy.ones(4), numpy.zeros(4)
    >>> layer_norm(numpy.array([1.0, 2.0, 3.0, 4.0]), one, zero).round(4).tolist()
    [-1.3416, -0.4472, 0.4472, 1.3416]
    """
    xp = namespace(x)
    m = xp.mean(x, axis=-1, keepdims=True)
    s = xp.var(x, axis=-1, keepdims=True)
    return (x - m) / xp.sqrt(s + epsilon) * weight + bias


def embedding(
    ids: Int[Array, "*batch"], weight: Float[Array, "V C"]
) -> Float[Array, "*batch C"]:
    """Row `id` of the table for every id; ids in [0, V).

    >>> import numpy
    >>> embedding(numpy.array([[2, 0]]), numpy.eye(3)).tolist()
    [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """
    xp = namespace(weight)
    rows = xp.take(weight, xp.reshape(ids, (-1,)), axis=0)
    return xp.reshape(rows, (*ids.shape, weight.shape[-1]))


def linear(
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    bias: Float[Array, " m"] | None = None,
) -> Float[Array, "*batch m"]:
    """Affine map y = x W + b; W is (inputs, outputs), as GPT-2's checkpoints store it.

    >>> import numpy
    >>> x, bias = numpy.array([[1.0, 2.0]]), numpy.array([10.0, 20.0])
    >>> linear(x, numpy.eye(2), bias).tolist()
    [[11.0, 22.0]]
    """
    xp = namespace(x)
    # One 2-D product: a stack of (1, n) @ (n, m) would read the weight B times.
    product = xp.reshape(x, (-1, x.shape[-1])) @ weight
    y = product if bias is None else product + bias
    return xp.reshape(y, (*x.shape[:-1], weight.shape[-1]))


def split_heads(
    qkv: Float[Array, "B T _"], n_head: int
) -> tuple[Float[Array, "B H T D"], Float[Array, "B H T D"], Float[Array, "B H T D"]]:
    """Queries, keys and values side by side, cut into heads.

    >>> import numpy
    >>> q, k, v = split_heads(numpy.arange(12.0).reshape(1, 1, 12), n_head=2)
    >>> k[0].tolist()
    [[[4.0, 5.0]], [[6.0, 7.0]]]
    """
    xp = namespace(qkv)
    B, T, width = qkv.shape
    x = xp.reshape(qkv, (B, T, 3, n_head, width // 3 // n_head))
    x = xp.permute_dims(x, (2, 0, 3, 1, 4))  # (3, B, H, T, D)
    return x[0, ...], x[1, ...], x[2, ...]


def merge_heads(x: Float[Array, "B H T D"]) -> Float[Array, "B T C"]:
    """The heads' results side by side again, the inverse of the split."""
    B, H, T, D = x.shape
    xp = namespace(x)
    return xp.reshape(xp.permute_dims(x, (0, 2, 1, 3)), (B, T, H * D))


def causal_mask(
    T: int, S: int | None = None, *, window: int | None = None, xp: ModuleType = numpy
) -> Bool[Array, "T S"]:
    """Who may look at whom: True where new position i may attend to position j.

    Position i of the T new ones is position i + S - T of all S, so the triangle hangs
    from the bottom right corner: j <= i + S - T. With a window, only the last `window`
    positions are seen (GPT-3's and GPT-Neo's local layers), itself included.

    >>> causal_mask(2, 4).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 1]]
    """
    S = T if S is None else S
    i = xp.arange(T)[:, None] + (S - T)
    j = xp.arange(S)[None, :]
    mask = j <= i
    return mask if window is None else mask & (j > i - window)


def attention_scores(
    q: Float[Array, "B H T D"],
    k: Float[Array, "B H S D"],
    *,
    causal: bool = True,
    mask: Bool[Array, "_ T S"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> Float[Array, "B H T S"]:
    """How well query i matches key j: q_i . k_j * scale, and -inf where i may not look.

    scale defaults to 1 / sqrt(D). `causal` (with `window`) hides the future as
    causal_mask says; `mask` (B or 1, T, S) hides more, False meaning hidden.

    >>> import numpy
    >>> x = numpy.ones((1, 1, 2, 4))
    >>> attention_scores(x, x).tolist()
    [[[[2.0, -inf], [2.0, 2.0]]]]
    """
    xp = namespace(q)
    T, S, D = q.shape[2], k.shape[2], q.shape[3]
    if scale is None:
        scale = 1 / math.sqrt(D)
    scores = (q * scale) @ xp.permute_dims(k, (0, 1, 3, 2))  # (B, H, T, S)
    allowed = None if mask is None else mask[:, None, :, :]
    if causal and (T > 1 or window is not None):  # a single last position sees all
        past = causal_mask(T, S, window=window, xp=xp)
        allowed = past if allowed is None else past & allowed
    return scores if allowed is None else xp.where(allowed, scores, -xp.inf)


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

    The T queries are the last T of the S positions. Arguments as in attention_scores;
    every query must be allowed at least one key.
    Source: Vaswani et al., "Attention Is All You Need" (2017).

    >>> import numpy
    >>> q = k = numpy.zeros((1, 1, 2, 1))  # all scores equal: means of what is visible
    >>> attention(q, k, numpy.array([[[[2.0], [4.0]]]])).tolist()
    [[[[2.0], [3.0]]]]
    """
    scores = attention_scores(
        q, k, causal=causal, mask=mask, window=window, scale=scale
    )
    return softmax(scores) @ v
