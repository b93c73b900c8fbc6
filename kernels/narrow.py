"""Inputs of a product as its weights want them: float32, bfloat16, or int8 with scales.

int8 weights take inputs rounded to int8, with one scale for every 64 of them, as the
weights have; bfloat16 ones, in prompts, inputs rounded to bfloat16 (when,
npgpt.kernels.linear says). Arrays have room for whole tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import prange

from npgpt.kernels.compiling import inner_kernel, kernel, stay_apart
from npgpt.kernels.elementwise import line
from npgpt.kernels.packed import GROUP, bfloat16_of, empty
from npgpt.kernels.tiers import BF16

SMALL = 8  # rows up to which a product is decoding, and bound by the weights' bytes


class Inputs(NamedTuple):
    """Rows of a product: float32, and what `narrow_row` makes of them."""

    a: np.ndarray  # (M, K)
    q: np.ndarray  # (M, K) int8, or uint16 for bfloat16; without rows where a is used
    q_scale: np.ndarray  # (M, K / 64), for int8
    q_start: np.ndarray  # (M, K / 64): -128 x sums of groups


def whole_rows(M: int) -> int:
    """Rows of the arrays for M rows: whole tiles, where tiles may be used.

    >>> whole_rows(3), whole_rows(17)
    (3, 32)
    """
    return M if M <= SMALL else -(-M // 16) * 16


def new_narrowed(
    M: int, K: int, dtype: str, isa: tuple, is_prompt: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for M rows of inputs in the form that products with this dtype take.

    Numbers, scales, and -128 x sums of groups; no rows where float32 is taken. There
    may be more rows than M, and more numbers a row than K.
    """
    is_int8 = dtype == "int8"
    used = is_int8 or (dtype == "bfloat16" and is_prompt and len(isa) >= BF16)
    rows, groups = M if used else 0, K // GROUP if is_int8 else 0
    # 64 bytes more than K: tiles whose rows share cache sets would evict each other
    kind = np.int8 if is_int8 else np.uint16
    q = empty((whole_rows(rows), K + 64 // np.dtype(kind).itemsize), kind)
    scales, starts = (np.zeros((len(q), groups), t) for t in (np.float32, np.int32))
    return q, scales, starts


@inner_kernel
def narrow_row(inputs, r):
    """One row of inputs.a -> int8 with a scale for every 64 numbers, or bfloat16."""
    stay_apart()
    if inputs.q.itemsize == 1:
        _quantise_row(inputs, r)
    else:
        bits, q = inputs.a[r].view(np.uint32), line(inputs.q, r)
        for k in range(len(q)):
            q[k] = bfloat16_of(bits[k])


@inner_kernel
def _quantise_row(inputs, r):
    stay_apart()
    x, q, scales = inputs.a[r], line(inputs.q, r), inputs.q_scale[r]
    for g in range(len(scales)):
        top = np.float32(0)
        for k in range(g * GROUP, (g + 1) * GROUP):
            top = max(top, abs(x[k]))
        scales[g] = top / np.float32(127)
        inverse = np.float32(0) if top == 0 else np.float32(127) / top
        total = np.int32(0)
        for k in range(g * GROUP, (g + 1) * GROUP):
            number = np.int32(np.rint(x[k] * inverse))
            q[k] = np.int8(number)
            total += number
        inputs.q_start[r, g] = np.int32(-128) * total


@kernel(parallel=True)
def narrow_all(a, q, scales, starts):
    """Every row of a, narrowed into q, scales and starts."""
    M, K = a.shape
    for r in prange(M):
        narrow_row(Inputs(a, q[:M, :K], scales[:M], starts[:M]), r)
