"""Mixed precision: products of numbers rounded to bfloat16, everything else as it was.

bfloat16 is the upper half of a float32: the same range, 8 significant bits. What the
linear maps and the output head take, forward and backward, is rounded to it; attention,
sums, norms, the loss, gradients, moments and the parameters themselves stay float32.
Processors with bfloat16 instructions multiply such numbers up to sixteen times as fast;
the Numba twin (kernels/mixed.py) uses them. A rounding costs at most 2^-8 of a number,
independently of all others, and losses hardly notice.

Sources: Micikevicius et al., "Mixed Precision Training" (2018); Kalamkar et al., "A
Study of BFLOAT16 for Deep Learning Training" (2019).
"""

from __future__ import annotations

from dataclasses import replace

from npgpt import ops
from npgpt.bfloat16 import from_bfloat16, to_bfloat16
from npgpt.ops import namespace
from npgpt.shapes import Array, Float
from npgpt.training import backward
from npgpt.training.engine import Engine


def mixed_engine(engine: Engine) -> Engine:
    """The engine with the products of this module, or of its own twin of it.

    >>> from npgpt.training.engine import get_engine
    >>> mixed_engine(get_engine("numpy")).backend.linear is linear
    True
    """
    forward, back = engine.products or (linear, linear_backward)
    backend = replace(engine.backend, linear=forward)
    return engine._replace(backend=backend, linear=back)


def rounded(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The nearest bfloat16 numbers, as float32; for arrays of NumPy and CuPy.

    >>> import numpy
    >>> rounded(numpy.float32([1.001, 1.005, 3.14159])).tolist()
    [1.0, 1.0078125, 3.140625]
    """
    return from_bfloat16(to_bfloat16(x))


def linear(
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    bias: Float[Array, " m"] | None = None,
) -> Float[Array, "*batch m"]:
    """Affine map y = x W + b of rounded x and W.

    >>> import numpy
    >>> linear(numpy.float32([[1.001]]), numpy.float32([[3.0]])).tolist()
    [[3.0]]
    """
    return ops.linear(rounded(x), rounded(weight), bias)


def linear_backward(
    dy: Float[Array, "*batch m"],
    x: Float[Array, "*batch n"],
    weight: Float[Array, "n m"],
    has_bias: bool = True,
) -> tuple[Float[Array, "*batch n"], Float[Array, "n m"], Float[Array, " m"] | None]:
    """Gradients dx = dy W^T, dW = x^T dy of rounded arrays, and db = sum dy.

    >>> import numpy
    >>> one, x = numpy.ones((1, 1), numpy.float32), numpy.float32([[1.001]])
    >>> [g.tolist() for g in linear_backward(x, x, one)]
    [[[1.0]], [[1.0]], [1.0010000467300415]]
    """
    near = rounded(dy), rounded(x), rounded(weight)
    dx, dweight, _ = backward.linear(*near, has_bias=False)
    if not has_bias:
        return dx, dweight, None
    xp = namespace(dy)
    return dx, dweight, xp.sum(xp.reshape(dy, (-1, dy.shape[-1])), axis=0)
