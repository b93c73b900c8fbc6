"""The activations that checkpoints of the GPT-2 family name, beside ops.gelu.

ACTIVATIONS maps the names in config.json to functions. Each works on every element
by itself and keeps shape and dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from npgpt.ops import gelu, namespace
from npgpt.shapes import Array, Float

# log(erfc(x) exp(x^2)) for 0 <= x <= 6 is this Chebyshev series in 4 / (4 + x),
# stretched from [0.4, 1] to [-1, 1]; tools/fit_erf.py finds it.
_ERFC_SERIES = (
    -1.2119239627681710e00,
    1.1768488319150894e00,
    2.5077207197883835e-02,
    1.1855117790743643e-02,
    -1.8818206602182243e-03,
    6.4523531156674300e-05,
    -5.0894641114892272e-05,
    1.1793886099914249e-05,
    -1.0249761010452946e-06,
    3.0682230113411107e-07,
    -8.8256477422572617e-08,
    1.1949795544323570e-08,
    -2.3764357504704900e-09,
    6.9293017571897356e-10,
    -1.2504129580581339e-10,
    2.2293906406664679e-11,
    -5.7791710321665447e-12,
    1.2283475801654803e-12,
    -2.2622253736937334e-13,
    5.0799139041538556e-14,
    -9.5831956590395153e-15,
)


def erf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Error function, 2/sqrt(pi) * integral of exp(-t^2) from 0 to x.

    The array API has none. Absolute error below 1e-14 in float64.
    Source of the summation: Clenshaw, "A note on the summation of Chebyshev series"
    (1955).

    >>> import numpy as np
    >>> erf(np.array([0.0, 0.5, -3.0])).round(12).tolist()
    [0.0, 0.520499877813, -0.999977909503]
    """
    xp = namespace(x)
    size = xp.abs(x)
    size = xp.where(size < 6.0, size, xp.full_like(size, 6.0))  # erf(6) = 1 - 2e-17
    u = (8.0 / (4.0 + size) - 1.4) / 0.6
    b1, b2 = xp.zeros_like(x), xp.zeros_like(x)
    for c in reversed(_ERFC_SERIES[1:]):
        b1, b2 = 2.0 * u * b1 - b2 + c, b1
    series = u * b1 - b2 + _ERFC_SERIES[0]
    return xp.sign(x) * (1.0 - xp.exp(series - size * size))


def gelu_erf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Gaussian error linear unit, exact form: x Phi(x) = x/2 (1 + erf(x / sqrt(2))).

    The "gelu" of Hugging Face's configs; Cerebras-GPT and BERT use it, GPT-2 does not.

    >>> import numpy as np
    >>> gelu_erf(np.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.1587, 0.0, 0.8413]
    """
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2)))


def sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Logistic function 1 / (1 + exp(-x)), written with tanh, which cannot overflow.

    >>> import numpy as np
    >>> sigmoid(np.array([0.0, -1000.0, 1000.0])).tolist()
    [0.5, 0.0, 1.0]
    """
    return 0.5 * (1.0 + namespace(x).tanh(0.5 * x))


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rectified linear unit, max(x, 0).

    >>> import numpy as np
    >>> relu(np.array([-2.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    xp = namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))


def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Sigmoid linear unit ("swish"), x sigmoid(x).

    >>> import numpy as np
    >>> silu(np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 0.7311]
    """
    return x * sigmoid(x)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Sigmoid approximation of GELU, x sigmoid(1.702 x).

    >>> import numpy as np
    >>> quick_gelu(np.array([0.0, 1.0])).round(4).tolist()
    [0.0, 0.8458]
    """
    return x * sigmoid(1.702 * x)


def tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Hyperbolic tangent.

    >>> import numpy as np
    >>> tanh(np.array([0.0, 100.0])).tolist()
    [0.0, 1.0]
    """
    return namespace(x).tanh(x)


ACTIVATIONS: dict[str, Callable[..., Any]] = {  # Hugging Face's names
    "gelu_new": gelu,
    "gelu_pytorch_tanh": gelu,
    "gelu_python_tanh": gelu,
    "gelu_accurate": gelu,
    "gelu_fast": gelu,  # the same polynomial, with the constant cut to 0.7978845608
    "gelu": gelu_erf,
    "gelu_python": gelu_erf,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "silu": silu,
    "swish": silu,
    "sigmoid": sigmoid,
    "tanh": tanh,
}
