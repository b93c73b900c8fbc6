"""Attention without the (T, S) table of scores.

What it does differently. The reference writes all scores, their exponentials and their
sums to memory: 48 MB a layer for a prompt of 1,024 tokens. Here a block of 96 queries
meets 96 keys at a time; the scores of that block never leave the cache. Softmax runs
*online* (Milakov and Gimelshein, 2018; FlashAttention, Dao et al., 2022): it keeps the
largest score m and the sum l so far, and when a larger one appears, what was summed
before is multiplied by e^(m - m'). Blocks that the causal mask hides are not touched,
and the cache of keys and values is read where it lies, whatever its row's length and
in float32 or float16. The products of a block are the tiles of npgpt.kernels.vector.
"""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, prange

from npgpt import ops
from npgpt.kernels.compiling import LOCK, inner_kernel, kernel, stay_apart
from npgpt.kernels.elementwise import exp, line, widen
from npgpt.kernels.packed import zeros
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.kernels.vector import AVX512, ONE, TWO, tiles
from npgpt.shapes import Array, Bool, Float

QUERIES, KEYS = 96, 96  # of a block
SOME = 64  # keys that a single query meets at a time
NO_MASK = np.zeros((1, 0, 0), np.bool_)
NONE = np.float32(-1e30)  # stands for -inf, with which m - m' would be NaN
FAR = np.float32(46)  # below the largest so far a score counts as NONE: e^-46 = 1e-20


def scratch_size(D: int) -> int:
    """Float32 numbers that a thread needs for blocks of heads of width D."""
    wide = -(-D // 16) * 16
    return QUERIES * (2 * wide + KEYS + 3) + KEYS * wide * 2


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
            _attend_one(
                q[t], k, v, mask, causal, window, scale, t, T, S, out[t], scratch
            )
    else:
        _attend_block(
            isa, q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch
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
    scores, query, total = scratch[:SOME], scratch[SOME : SOME + D], scratch[SOME + D :]
    for d in range(D):
        query[d] = q[d] * scale
        total[d] = np.float32(0)
    top, weight = NONE, np.float32(0)
    for start in range(low, high, SOME):
        n = min(SOME, high - start)
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
            below = top - scores[j]
            near = (below < FAR) & (scores[j] > NONE)
            scores[j] = exp(-below) if near else np.float32(0)
        for j in range(n):
            p = scores[j]
            weight += p
            for d in range(D):
                total[d] += p * widen(v[start + j, d])
    for d in range(D):
        out[d] = total[d] / weight


@inner_kernel
def _tiles(isa, rows, a, a_row, a_step, b, b_panel, panels, c, c_row, k, add, data):
    """c[rows, 16 panels] (+)= a[rows, k] b[k, 16 panels], in tiles of some rows."""
    stay_apart()
    r, pairs = 0, panels // 2 * 2 if len(isa) >= AVX512 else 0
    while r < rows and pairs:
        x, taken = a + r * a_row, np.int64(0)
        for p in range(0, pairs, 2):
            taken = tiles(
                isa,
                data,
                data,
                TWO,
                rows - r,
                b + p * b_panel,
                b_panel,
                0,
                x,
                a_row,
                a_step,
                0,
                0,
                0,
                c + r * c_row + p * 64,
                c_row,
                k,
                add,
                2 * b_panel,
                64,
            )
        r += taken
    for p in range(pairs, panels):
        r = 0
        while r < rows:
            r += tiles(
                isa,
                data,
                data,
                ONE,
                rows - r,
                b + p * b_panel,
                b_panel,
                0,
                a + r * a_row,
                a_row,
                a_step,
                0,
                0,
                0,
                c + r * c_row + p * 64,
                c_row,
                k,
                add,
                b_panel,
                64,
            )


@inner_kernel
def _attend_block(
    isa, q, k, v, mask, causal, window, scale, first, last, T, S, out, scratch
):
    """Up to 96 queries against blocks of 96 keys: prompts.

    Scores stand on their side, keys down and queries across: the keys are then read as
    they lie, and the softmax of many queries is one vector instruction.
    """
    stay_apart()
    D, rows = q.shape[1], last - first
    wide = (D + 15) // 16 * 16
    across = (rows + 15) // 16 * 16
    size = QUERIES * wide  # as much as KEYS * wide
    queries = scratch[:size].reshape(QUERIES // 16, wide, 16)
    total = scratch[size : 2 * size].reshape(QUERIES, wide)
    keys = scratch[2 * size : 3 * size].reshape(KEYS, wide)
    values = scratch[3 * size : 4 * size].reshape(wide // 16, KEYS, 16)
    rest = scratch[4 * size :]
    scores = rest[: KEYS * QUERIES].reshape(KEYS, QUERIES)
    rest = rest[KEYS * QUERIES :]
    top, weight = rest[:across], rest[QUERIES : QUERIES + across]
    shrink = rest[2 * QUERIES : 2 * QUERIES + across]
    total[:], keys[:], queries[:] = np.float32(0), np.float32(0), np.float32(0)
    values[:] = np.float32(0)
    for i in range(rows):
        row = line(q, first + i)
        for d in range(D):
            queries[i // 16, d, i % 16] = row[d] * scale
    top[:], weight[:] = NONE, np.float32(0)
    low, _ = _bounds(causal, window, first, T, S)
    _, high = _bounds(causal, window, last - 1, T, S)
    for start in range(low, high, KEYS):
        n = min(KEYS, high - start)
        for j in range(n):
            row = line(k, start + j)
            for d in range(D):
                keys[j, d] = widen(row[d])
            row = line(v, start + j)
            for d in range(D):
                values[d // 16, j, d % 16] = widen(row[d])
        _tiles(
            isa,
            n,
            keys.ctypes.data,
            wide * 4,
            4,
            queries.ctypes.data,
            wide * 64,
            across // 16,
            scores.ctypes.data,
            QUERIES * 4,
            wide,
            0,
            scratch,
        )
        if mask.size:
            for i in range(rows):
                for j in range(n):
                    if not mask[first + i, start + j]:
                        scores[j, i] = NONE
        _softmax(scores[:n], causal, window, start + T - S - first, top, weight, shrink)
        changed = np.float32(0)
        for i in range(rows):
            changed = max(changed, np.float32(1) - shrink[i])
        if changed > 0:
            for i in range(rows):
                for d in range(wide):
                    total[i, d] *= shrink[i]
        whole = (n + 3) // 4 * 4  # a tile may take keys four at a time
        scores[n:whole] = np.float32(0)
        _tiles(
            isa,
            rows,
            scores.ctypes.data,
            4,
            QUERIES * 4,
            values.ctypes.data,
            KEYS * 64,
            wide // 16,
            total.ctypes.data,
            wide * 4,
            whole,
            1,
            scratch,
        )
    for i in range(rows):
        row = line(out, first + i)
        for d in range(D):
            row[d] = total[i, d] / weight[i]


@inner_kernel
def _softmax(scores, causal, window, ahead, top, weight, shrink):
    """Scores -> e^(score - top), for the largest so far; sums, and what they shrink by.

    Query i sees key j where i >= j + ahead, and i < j + ahead + window.
    """
    stay_apart()
    across = len(top)
    for i in range(across):
        shrink[i] = top[i]
    for j in range(len(scores)):
        row = scores[j]
        begin = j + ahead if causal else 0
        end = begin + window if window and causal else across
        if begin > 0 or end < across:
            for i in range(across):
                if not (i >= begin) & (i < end):
                    row[i] = NONE
        for i in range(across):
            top[i] = max(top[i], row[i])
    for i in range(across):
        shrink[i] = exp(shrink[i] - top[i])
        weight[i] *= shrink[i]
    for j in range(len(scores)):
        row = scores[j]
        for i in range(across):
            below = top[i] - row[i]
            e = exp(-below)
            e = e if (below < FAR) & (row[i] > NONE) else np.float32(0)
            row[i] = e
            weight[i] += e
