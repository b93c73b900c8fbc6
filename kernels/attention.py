"""Attention without the (T, S) table of scores.

What it does differently. The reference writes all scores, their exponentials and their
sums to memory: 48 MB a layer for a prompt of 1,024 tokens. Here a block of 96 queries
meets 96 keys at a time; the scores of that block never leave the cache. Softmax runs
*online* (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022): it keeps the
largest score m and the sum l so far, and when a larger one appears, what was summed
before is multiplied by e^(m - m'). Blocks that the causal mask hides are not touched,
and the cache of keys and values is read where it lies, whatever its row's length and
in float32 or float16. attention_block.py has the way of many queries (prompts),
attention_decode.py that of one.
"""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, prange

from npgpt import ops
from npgpt.kernels.attention_block import QUERIES, attend_block, scratch_size
from npgpt.kernels.attention_decode import attend_one
from npgpt.kernels.compiling import LOCK, inner_kernel, kernel, stay_apart
from npgpt.kernels.packed import zeros
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.shapes import Array, Bool, Float

NO_MASK = np.zeros((1, 0, 0), np.bool_)


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

    Arguments as in ops.attention, which computes what is not float32 (k and v may be
    float16, from a cache).

    >>> q = k = np.zeros((1, 1, 2, 1), np.float32)
    >>> attention(q, k, np.float32([[[[2], [4]]]])).tolist()
    [[[[2.0], [3.0]]]]
    """
    arrays = [np.asarray(x) for x in (q, k, v)]
    if any(x.ndim != 4 or 0 in x.shape for x in arrays):
        return ops.attention(
            q, k, v, causal=causal, mask=mask, window=window, scale=scale
        )
    q, k, v = arrays
    (B, H, T, D), S = q.shape, k.shape[2]
    if k.shape != (B, H, S, D) or v.shape != k.shape or (causal and T > S):
        raise ValueError(f"attention: q {q.shape}, k {k.shape} and v {v.shape} differ")
    kinds = {q.dtype.name, k.dtype.name, v.dtype.name}
    if q.dtype != np.float32 or k.dtype != v.dtype or kinds - {"float32", "float16"}:
        return ops.attention(
            q, k, v, causal=causal, mask=mask, window=window, scale=scale
        )
    if mask is None:
        mask = NO_MASK
    else:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape not in ((1, T, S), (B, T, S)):
            raise ValueError(f"attention: mask {mask.dtype} {mask.shape} does not fit")
        mask = np.ascontiguousarray(mask)
    q, k, v = (rows_together(x) for x in (q, k, v))
    if k.dtype == np.float16:
        k, v = k.view(np.uint16), v.view(np.uint16)
    out = np.empty((B, T, H, D), np.float32)  # heads merge then without a copy
    scale = 1 / math.sqrt(D) if scale is None else scale
    near = 0 if window is None else max(1, int(window))
    with LOCK:
        scratch = zeros((get_num_threads(), scratch_size(D)), np.float32)
        _attention(
            tier_isa(), q, k, v, mask, causal, near, np.float32(scale), out, scratch
        )
    return out.transpose(0, 2, 1, 3)


def rows_together(x: np.ndarray) -> np.ndarray:
    """The array, or a copy, whose last axis lies in one piece."""
    return x if x.strides[-1] == x.itemsize else np.ascontiguousarray(x)


@kernel(parallel=True)
def _attention(isa, q, k, v, mask, causal, window, scale, out, scratch):
    B, H, T = q.shape[:3]
    blocks, threads = (T + QUERIES - 1) // QUERIES, scratch.shape[0]
    for thread in prange(threads):
        for task in range(thread, B * H * blocks, threads):
            b, h = task // (H * blocks), task // blocks % H
            # the last blocks see the most keys: pair them with the first ones
            block = task % blocks
            if task // blocks % 2:
                block = blocks - 1 - block
            first, last = block * QUERIES, min(T, (block + 1) * QUERIES)
            seen = mask[b % mask.shape[0]]
            attend(
                isa,
                q[b, h],
                k[b, h],
                v[b, h],
                seen,
                causal,
                window,
                scale,
                first,
                last,
                T,
                k.shape[2],
                out[b, :, h],
                scratch[thread],
            )


@inner_kernel
def attend(isa, q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch):
    """Queries first .. last - 1 of one head: q, out (T, D), k, v (at least S, D)."""
    stay_apart()
    if last - first < 4:
        for t in range(first, last):
            attend_one(
                q[t], k, v, mask, causal, window, scale, t, T, S, out[t], scratch
            )
    else:
        attend_block(
            isa, q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch
        )
