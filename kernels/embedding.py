"""Rows of a packed table: the output head's weights, read once more as embeddings.

What it does differently. The reference takes rows of an array. A packed table is laid
out for products, so a row's numbers lie 16 apart; they are gathered one by one, which
for a few hundred numbers a token costs nothing against a second copy of the table.
"""

from __future__ import annotations

import numpy as np

from npgpt import ops
from npgpt.kernels.compiling import inner_kernel, kernel, stay_apart
from npgpt.kernels.elementwise import weight_value
from npgpt.kernels.packed import GROUP, PANEL, Packed, padded
from npgpt.shapes import Array, Float, Int


def embedding(
    ids: Int[Array, "*batch"], weight: Float[Array, "V C"] | Packed
) -> Float[Array, "*batch C"]:
    """Row `id` of the table for every id; ids in [0, V).

    >>> from npgpt.kernels.packed import pack
    >>> table = pack(np.eye(3, dtype=np.float32), "bfloat16", is_table=True)
    >>> embedding(np.array([2, 0]), table).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if not isinstance(weight, Packed):
        return ops.embedding(ids, weight)
    ids = np.asarray(ids)
    flat = ids.reshape(-1).astype(np.int64)
    if not weight.is_table:
        raise ValueError("embedding: the packed weight is a matrix, not a table")
    if flat.size and not 0 <= flat.min() <= flat.max() < weight.outputs:
        raise ValueError(f"embedding: an id is not in 0 .. {weight.outputs - 1}")
    out = np.empty((flat.size, weight.inputs), np.float32)
    _rows(weight.data, weight.scales, padded(weight.inputs, weight.dtype), flat, out)
    return out.reshape(*ids.shape, weight.inputs)


@inner_kernel
def table_row(data, scales, K, row, out):
    """out[:] = one row of a packed table with K inputs, filling included."""
    stay_apart()
    together = 4 // data.itemsize  # inputs that lie side by side
    panel, j = row // PANEL, row % PANEL
    for k in range(len(out)):
        at = (panel * (K // together) + k // together) * PANEL + j
        value = weight_value(data[at * together + k % together])
        if data.itemsize == 1:
            scale = scales[(panel * (K // GROUP) + k // GROUP) * PANEL + j]
            value *= weight_value(scale)
        out[k] = value


@kernel
def _rows(data, scales, K, ids, out):
    for i in range(len(ids)):
        table_row(data, scales, K, ids[i], out[i])
