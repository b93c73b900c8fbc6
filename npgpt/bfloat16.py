"""bfloat16, the upper half of a float32: the same range, 8 significant bits.

NumPy has no such type, so its numbers are kept as uint16. For arrays of NumPy and CuPy,
which can be looked at as numbers of another type.

Source: Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training" (2019).
"""

from __future__ import annotations

from npgpt.ops import namespace
from npgpt.shapes import Array


def to_bfloat16(x: Array) -> Array:
    """The nearest bfloat16 (ties to even) of each float32, as uint16; NaN stays NaN.

    To cut off the lower half rounds towards zero; just under half of the last place,
    added first, makes it the nearest.

    >>> import numpy as np
    >>> [hex(bits) for bits in to_bfloat16(np.float32([1, 1.001, 1.005]))]
    ['0x3f80', '0x3f80', '0x3f81']
    """
    xp = namespace(x)
    if x.dtype != xp.float32:
        raise TypeError(f"bfloat16 is made of float32, not of {x.dtype}")
    bits = xp.ascontiguousarray(x).view(xp.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return xp.where(xp.isnan(x), 0x7FC0, rounded).astype(xp.uint16)


def from_bfloat16(bits: Array) -> Array:
    """The float32 numbers of bfloat16 ones, given as uint16.

    >>> import numpy as np
    >>> from_bfloat16(np.uint16([0x3F80, 0x4000])).tolist()
    [1.0, 2.0]
    """
    xp = namespace(bits)
    return (bits.astype(xp.uint32) << 16).view(xp.float32)
