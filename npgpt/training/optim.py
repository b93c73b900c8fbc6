"""AdamW, clipping by the global norm, and the learning rate's way up and down.

Parameters, gradients and moments are trees of one structure (npgpt.support.leaves).
`adamw` and `clip_by_global_norm` write into their arrays: a step of training makes no
second copy of the model. `update` is AdamW's formula for one array; its Numba twin does
that in one pass, and npgpt.training.engine says which of the two it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from npgpt.ops import namespace
from npgpt.shapes import Array, Float
from npgpt.support.leaves import leaves, map_leaves


class Moments(NamedTuple):
    """Running means of the gradients and of their squares, as trees."""

    first: Any
    second: Any


def new_moments(params: Any) -> Moments:
    """Zeros in the structure of the parameters."""

    def zeros(array: Array) -> Array:
        return namespace(array).zeros_like(array)

    return Moments(map_leaves(zeros, params), map_leaves(zeros, params))


def update(
    p: Float[Array, "*shape"],
    g: Float[Array, "*shape"],
    m: Float[Array, "*shape"],
    v: Float[Array, "*shape"],
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    decay: float,
) -> None:
    """AdamW for one array, in place: p <- p (1 - a d) - a m' / (sqrt(v') + e).

    m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2 are running means that start at
    0; m' = m / (1 - b1^step) and v' = v / (1 - b2^step) take that start out again.
    a is the learning rate, d the decay.

    >>> import numpy as np
    >>> p, g, m, v = np.ones(1), np.full(1, 0.5), np.zeros(1), np.zeros(1)
    >>> update(p, g, m, v, 1, 0.1, 0.9, 0.95, 1e-8, 0.0)
    >>> p.round(6).tolist(), m.round(6).tolist(), v.round(6).tolist()
    ([0.9], [0.05], [0.0125])
    """
    xp = namespace(p)
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    size = xp.sqrt(v)
    size *= 1 / math.sqrt(1 - beta2**step)
    size += epsilon
    if decay:
        p *= 1 - learning_rate * decay
    p -= (learning_rate / (1 - beta1**step)) * m / size


def adamw(
    params: Any,
    grads: Any,
    moments: Moments,
    step: int,
    *,
    learning_rate: float,
    update: Callable = update,
    betas: tuple[float, float] = (0.9, 0.95),
    epsilon: float = 1e-8,
    weight_decay: float = 0.1,
    decay_all: bool = False,
) -> None:
    """One step of AdamW on every array, in place; step counts from 1.

    Weights decay apart from the gradient (decoupled), and only where they are matrices:
    a bias or a norm's scale has no reason to be small. `decay_all` shrinks those too.
    See `update` for the formula.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019).

    >>> import numpy as np
    >>> from npgpt.gpt2 import Weight
    >>> params, grads = Weight(np.ones(1)), Weight(np.full(1, 0.5))
    >>> moments = new_moments(params)
    >>> adamw(params, grads, moments, 1, learning_rate=0.1)
    >>> params.weight.round(6).tolist()
    [0.9]
    """
    trees = (params, grads, moments.first, moments.second)
    for p, g, m, v in zip(*(leaves(tree).values() for tree in trees), strict=True):
        decay = weight_decay if decay_all or p.ndim > 1 else 0.0
        update(p, g, m, v, step, learning_rate, *betas, epsilon, decay)


def global_norm(grads: Any) -> float:
    """Length of all gradients as one vector: sqrt of the sum of all squares.

    >>> import numpy as np
    >>> from npgpt.gpt2 import Weight
    >>> global_norm((Weight(np.array([3.0])), Weight(np.array([[4.0]]))))
    5.0
    """
    total: Any = 0.0
    for g in leaves(grads).values():
        flat = namespace(g).reshape(g, (-1,))
        total = total + flat @ flat
    return math.sqrt(float(total))


def clip_by_global_norm(grads: Any, limit: float) -> float:
    """Shrink all gradients so that their norm is at most `limit`, in place; the norm.

    The norm is the one before. Source: Pascanu, Mikolov and Bengio, "On the difficulty
    of training recurrent neural networks" (2013).

    >>> import numpy as np
    >>> g = np.array([3.0, 4.0])
    >>> clip_by_global_norm((g,), 1.0), g.round(6).tolist()
    (5.0, [0.6, 0.8])
    """
    norm = global_norm(grads)
    if norm > limit:
        for g in leaves(grads).values():
            g *= limit / norm
    return norm


def learning_rate(
    step: int, *, peak: float, warmup: int, steps: int, floor: float = 0.1
) -> float:
    """Rate of a step (from 1): straight up to `peak`, a cosine down to floor * peak.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm
    Restarts" (2017); the warm-up and the floor as in GPT-3 (Brown et al., 2020).

    >>> rates = [learning_rate(s, peak=1.0, warmup=2, steps=6) for s in range(1, 7)]
    >>> [round(rate, 3) for rate in rates]
    [0.5, 1.0, 0.868, 0.55, 0.232, 0.1]
    """
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
