"""Attention without the (T, S) table of scores.

What it does differently. The reference writes all scores, their exponentials and their
sums to memory: 48 MB a layer for a prompt of 1,024 tokens. Here a block of 64 queries
meets 64 keys at a time; the scores of that block never leave the cache. Softmax runs
*online* (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022): it keeps the
largest score m and the sum l so far, and when a larger one appears, what was summed
before is multiplied by e^(m - m'). Blocks that the causal mask hides are not touched,
and the cache of keys and values is read where it lies, whatever its row's length and
in float32 or float16. The products of a block are the tiles of npgpt.kernels.vector.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
from npgpt.kernels.compiling import LOCK, inner_kernel, kernel, stay_apart
from npgpt.kernels.elementwise import exp, widen
from npgpt.kernels.vector import tiles
from numba import get_num_threads, prange

from npgpt import ops
from npgpt.ops import Array

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float

QUERIES, KEYS = 64, 64  # of a block
NO_MASK = np.zeros((1, 0, 0), np.bool_)
NONE = np.float32(-1e30)  # stands for -inf, with which m - m' would be NaN


def scratch_size(D: int) -> int:
    """Float32 numbers that a thread needs for blocks of heads of width D."""
    wide = -(-D // 16) * 16
    return QUERIES * (2 * wide + KEYS + 2) + KEYS * wide * 2


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
    if k.dtype == np.float16:
        k, v = k.view(np.uint16), v.view(np.uint16)
    out = np.empty((B, H, T, D), np.float32)
    scale = 1 / math.sqrt(D) if scale is None else scale
    near = 0 if window is None else max(1, int(window))
    with LOCK:
        scratch = np.zeros((get_num_threads(), scratch_size(D)), np.float32)
        _attention(q, k, v, mask, causal, near, np.float32(scale), out, scratch)
    return out


@kernel(parallel=True)
def _attention(q, k, v, mask, causal, window, scale, out, scratch):
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
                out[b, h],
                scratch[thread],
            )


@inner_kernel
def attend(q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch):
    """Queries first .. last - 1 of one head: q, out (T, D), k, v (at least S, D)."""
    stay_apart()
    if last - first < 4:
        for t in range(first, last):
            _attend_one(
                q[t], k, v, mask, causal, window, scale, t, T, S, out[t], scratch
            )
    else:
        _attend_block(
            q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch
        )


@inner_kernel
def _bounds(causal, window, t, T, S):
    """Keys low .. high - 1 that query t of T may see, as ops.causal_mask says."""
    here = t + S - T
    high = here + 1 if causal else S
    low = max(0, here - window + 1) if window and causal else 0
    return low, high


@inner_kernel
def _attend_one(q, k, v, mask, causal, window, scale, t, T, S, out, scratch):
    """One query against all its keys, 64 at a time: decoding."""
    stay_apart()
    D = q.shape[0]
    low, high = _bounds(causal, window, t, T, S)
    scores, query, total = scratch[:KEYS], scratch[KEYS : KEYS + D], scratch[KEYS + D :]
    for d in range(D):
        query[d] = q[d] * scale
        total[d] = np.float32(0)
    top, weight = NONE, np.float32(0)
    for start in range(low, high, KEYS):
        n = min(KEYS, high - start)
        block_top = NONE
        for j in range(n):
            s = np.float32(0)
            for d in range(D):
                s += query[d] * widen(k[start + j, d])
            if mask.size and not mask[t, start + j]:
                s = NONE
            scores[j] = s
            block_top = max(block_top, s)
        new_top = max(top, block_top)
        shrink = exp(top - new_top)
        top = new_top
        weight *= shrink
        for d in range(D):
            total[d] *= shrink
        for j in range(n):
            scores[j] = exp(scores[j] - top) if scores[j] > NONE else np.float32(0)
        for j in range(n):
            p = scores[j]
            weight += p
            for d in range(D):
                total[d] += p * widen(v[start + j, d])
    for d in range(D):
        out[d] = total[d] / weight


@inner_kernel
def _tiles(rows, a, a_row, b, c, c_row, k, add, data):
    """c[rows, 16] (+)= a[rows, k] b[k, 16], in tiles of six rows and less."""
    stay_apart()
    r = 0
    while r < rows:
        x, y, most = a + r * a_row, c + r * c_row, min(6, rows - r)
        r += tiles((), data, most, b, 0, x, a_row, 0, 0, 0, y, c_row, k, add)


@inner_kernel
def _attend_block(
    q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch
):
    """Up to 64 queries against blocks of 64 keys: prompts."""
    stay_apart()
    D, rows = q.shape[1], last - first
    wide = (D + 15) // 16 * 16
    size = QUERIES * wide  # as much as KEYS * wide
    query = scratch[:size].reshape(QUERIES, wide)
    total = scratch[size : 2 * size].reshape(QUERIES, wide)
    keys = scratch[2 * size : 3 * size].reshape(KEYS // 16, wide, 16)
    values = scratch[3 * size : 4 * size].reshape(wide // 16, KEYS, 16)
    rest = scratch[4 * size :]
    scores = rest[: QUERIES * KEYS].reshape(QUERIES, KEYS)
    top, weight = rest[QUERIES * KEYS :][:QUERIES], rest[QUERIES * KEYS + QUERIES :]
    total[:] = np.float32(0)
    query[:] = np.float32(0)
    keys[:] = np.float32(0)
    for i in range(rows):
        for d in range(D):
            query[i, d] = q[first + i, d] * scale
        top[i], weight[i] = NONE, np.float32(0)
    low, _ = _bounds(causal, window, first, T, S)
    _, high = _bounds(causal, window, last - 1, T, S)
    for start in range(low, high, KEYS):
        n = min(KEYS, high - start)
        values[:] = np.float32(0)
        for j in range(n):
            for d in range(D):
                keys[j // 16, d, j % 16] = widen(k[start + j, d])
                values[d // 16, j, d % 16] = widen(v[start + j, d])
        for p in range(KEYS // 16):
            _tiles(
                rows,
                query.ctypes.data,
                wide * 4,
                keys[p].ctypes.data,
                scores.ctypes.data + p * 64,
                np.int64(KEYS * 4),
                wide,
                np.int64(0),
                scratch,
            )
        for i in range(rows):
            least, most = _bounds(causal, window, first + i, T, S)
            begin, end = max(0, least - start), min(n, most - start)
            row = scores[i]
            if mask.size:
                for j in range(n):
                    if not mask[first + i, start + j]:
                        row[j] = NONE
            new_top = top[i]
            for j in range(begin, end):
                new_top = max(new_top, row[j])
            shrink = exp(top[i] - new_top)
            top[i] = new_top
            s = np.float32(0)
            for j in range(KEYS):
                seen = (j >= begin) & (j < end) & (row[j] > NONE)
                p = exp(row[j] - new_top)
                row[j] = p if seen else np.float32(0)
                s += row[j]
            weight[i] = weight[i] * shrink + s
            if shrink != np.float32(1):
                for d in range(wide):
                    total[i, d] *= shrink
        for p in range(wide // 16):
            _tiles(
                rows,
                scores.ctypes.data,
                np.int64(KEYS * 4),
                values[p].ctypes.data,
                total.ctypes.data + p * 64,
                wide * 4,
                np.int64(KEYS),
                np.int64(1),
                scratch,
            )
    for i in range(rows):
        for d in range(D):
            out[first + i, d] = total[i, d] / weight[i]
