"""The derivatives of npgpt.activations, under the same names: dx = dy f'(x).

DERIVATIVES maps the names in config.json to functions (dy, x) -> dx, so that every
checkpoint of the GPT-2 family can be trained on. ops.gelu's is in
npgpt.training.backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from npgpt import activations, ops
from npgpt.ops import namespace
from npgpt.shapes import Array, Float
from npgpt.training.backward import gelu


def gelu_erf(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f = x Phi(x): f' = Phi(x) + x phi(x), phi the normal density.

    >>> import numpy as np
    >>> gelu_erf(np.ones(3), np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.0833, 0.5, 1.0833]
    """
    xp = namespace(x)
    distribution = 0.5 * (1.0 + activations.erf(x / math.sqrt(2)))
    return dy * (distribution + x * xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def sigmoid(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f' = f (1 - f).

    >>> import numpy as np
    >>> sigmoid(np.ones(1), np.zeros(1)).tolist()
    [0.25]
    """
    y = activations.sigmoid(x)
    return dy * y * (1.0 - y)


def tanh(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f' = 1 - f^2.

    >>> import numpy as np
    >>> tanh(np.ones(1), np.zeros(1)).tolist()
    [1.0]
    """
    y = activations.tanh(x)
    return dy * (1.0 - y * y)


def relu(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f' = 1 above 0, else 0 (at 0 itself too, as torch has it).

    >>> import numpy as np
    >>> relu(np.ones(3), np.array([-2.0, 0.0, 3.0])).tolist()
    [0.0, 0.0, 1.0]
    """
    xp = namespace(x)
    return xp.where(x > 0, dy, xp.zeros_like(dy))


def silu(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f = x s(x) with s = sigmoid: f' = s + x s (1 - s).

    >>> import numpy as np
    >>> silu(np.ones(1), np.zeros(1)).tolist()
    [0.5]
    """
    y = activations.sigmoid(x)
    return dy * (y + x * y * (1.0 - y))


def quick_gelu(
    dy: Float[Array, "*shape"], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """f = x s(1.702 x) with s = sigmoid: f' = s + 1.702 x s (1 - s).

    >>> import numpy as np
    >>> quick_gelu(np.ones(1), np.zeros(1)).tolist()
    [0.5]
    """
    y = activations.sigmoid(1.702 * x)
    return dy * (y + 1.702 * x * y * (1.0 - y))


_BY_FUNCTION = {
    ops.gelu: gelu,
    activations.gelu_erf: gelu_erf,
    activations.quick_gelu: quick_gelu,
    activations.relu: relu,
    activations.silu: silu,
    activations.sigmoid: sigmoid,
    activations.tanh: tanh,
}

DERIVATIVES: dict[str, Callable] = {
    name: _BY_FUNCTION[function] for name, function in activations.ACTIVATIONS.items()
}
