"""The way back through attention, a head at a time, without a table in memory.

What it does differently. The reference makes the scores of 128 queries, their softmax
and three gradients of that size as arrays, each a trip to memory. Here one thread takes
a head: 64 queries meet the keys that they may see, everything turned on its side, keys
down and queries across, so that a softmax runs down 64 columns at once, as vector
instructions. The five products (scores, dp, dv, dk, dq) are the tiles of
npgpt.kernels.vector; what they read is packed once a block. The probabilities are
computed anew (FlashAttention; Dao et al., 2022), with the true maximum of every column,
since all its keys are at hand. Those below 1e-20 of it are 0: their products with small
gradients would be denormal numbers, each of which costs a hundred others.
"""

from __future__ import annotations

import math

import numpy as np
from numba import get_num_threads, prange

from npgpt.kernels.attention import FAR, NO_MASK, NONE, _tiles, rows_together
from npgpt.kernels.compiling import LOCK, kernel, stay_apart
from npgpt.kernels.elementwise import exp, line
from npgpt.kernels.packed import zeros
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.shapes import Array, Bool, Float
from npgpt.training import backward as reference

QUERIES = 64  # of a block, in four panels of 16


def attention(
    dy: Float[Array, "B H T D"],
    q: Float[Array, "B H T D"],
    k: Float[Array, "B H S D"],
    v: Float[Array, "B H S D"],
    *,
    causal: bool = True,
    mask: Bool[Array, "_ T S"] | None = None,
    window: int | None = None,
    scale: float | None = None,
) -> tuple[Float[Array, "B H T D"], Float[Array, "B H S D"], Float[Array, "B H S D"]]:
    """Gradients of q, k and v, for y = softmax(q k^T * scale) v.

    As npgpt.training.backward.attention, which computes what is not float32.

    >>> q = k = np.zeros((1, 1, 2, 1), np.float32)
    >>> v = np.float32([[[[2.0], [4.0]]]])
    >>> attention(np.ones_like(v), q, k, v)[2].tolist()
    [[[[1.5], [0.5]]]]
    """
    dy, q, k, v = (np.asarray(x) for x in (dy, q, k, v))
    options = dict(causal=causal, mask=mask, window=window, scale=scale)
    kinds = {x.dtype for x in (dy, q, k, v)}
    if kinds != {np.dtype(np.float32)} or any(
        x.ndim != 4 or not x.size for x in (q, k)
    ):
        return reference.attention(dy, q, k, v, **options)
    (B, H, T, D), S = q.shape, k.shape[2]
    fits = k.shape == (B, H, S, D) and v.shape == k.shape and dy.shape == q.shape
    if not fits or (causal and T > S):
        raise ValueError(
            f"attention: dy {dy.shape}, q {q.shape}, k {k.shape} and v {v.shape} differ"
        )
    dy, q, k, v = (rows_together(x) for x in (dy, q, k, v))
    if mask is None:
        mask = NO_MASK
    else:
        mask = np.asarray(mask)
        if mask.dtype != np.bool_ or mask.shape not in ((1, T, S), (B, T, S)):
            raise ValueError(f"attention: mask {mask.dtype} {mask.shape} does not fit")
        mask = np.ascontiguousarray(mask)
    scale = 1 / math.sqrt(D) if scale is None else scale
    near = 0 if window is None else max(1, int(window))
    # Side by side, as the projection made q, k and v: `split_heads` is then no copy.
    together = np.empty((B, max(T, S), 3, H, D), np.float32).transpose(2, 0, 3, 1, 4)
    dq, dk, dv = together[0, :, :, :T], together[1, :, :, :S], together[2, :, :, :S]
    wide, long = -(-D // 16) * 16, -(-S // 16) * 16
    size = long * (5 * wide + 2 * QUERIES) + QUERIES * (5 * wide + 4)
    with LOCK:
        scratch = zeros((get_num_threads(), size), np.float32)
        _attention(
            tier_isa(),
            dy,
            q,
            k,
            v,
            mask,
            causal,
            near,
            np.float32(scale),
            dq,
            dk,
            dv,
            scratch,
        )
    return dq, dk, dv


def split_heads(
    dq: Float[Array, "B H T D"],
    dk: Float[Array, "B H T D"],
    dv: Float[Array, "B H T D"],
) -> Float[Array, "B T _"]:
    """Gradient of what was cut into q, k and v: the three side by side again.

    Where `attention` wrote them so, nothing is copied;
    npgpt.training.backward.split_heads has the rest.

    >>> q = np.ones((1, 2, 3, 4), np.float32)
    >>> split_heads(*attention(q, q, q, q)).shape
    (1, 3, 24)
    """
    whole = getattr(dq, "base", None)
    B, H, T, D = dq.shape
    if getattr(whole, "shape", None) == (B, T, 3, H, D):
        parts = zip((dq, dk, dv), whole.transpose(2, 0, 3, 1, 4), strict=True)
        if all(d.__array_interface__ == part.__array_interface__ for d, part in parts):
            return whole.reshape(B, T, 3 * H * D)
    return reference.split_heads(dq, dk, dv)


@kernel(parallel=True)
def _attention(isa, dy, q, k, v, mask, causal, window, scale, dq, dk, dv, scratch):
    B, H = q.shape[:2]
    threads = scratch.shape[0]
    for thread in prange(threads):
        for task in range(thread, B * H, threads):
            b, h = task // H, task % H
            _head(
                isa,
                dy[b, h],
                q[b, h],
                k[b, h],
                v[b, h],
                mask[b % mask.shape[0]],
                causal,
                window,
                scale,
                dq[b, h],
                dk[b, h],
                dv[b, h],
                scratch[thread],
            )


@kernel
def _head(isa, dy, q, k, v, mask, causal, window, scale, dq, dk, dv, scratch):
    """One head: q, dy, dq (T, D), k, v, dk, dv (S, D)."""
    stay_apart()
    (T, D), S = q.shape, k.shape[0]
    wide, long = (D + 15) // 16 * 16, (S + 15) // 16 * 16
    n, at = long * wide, 0
    keys = scratch[at : at + n].reshape(long, wide)
    values = scratch[at + n : at + 2 * n].reshape(long, wide)
    panels = scratch[at + 2 * n : at + 3 * n].reshape(wide // 16, long, 16)  # of keys
    dkeys = scratch[at + 3 * n : at + 4 * n].reshape(long, wide)
    dvalues = scratch[at + 4 * n : at + 5 * n].reshape(long, wide)
    at, n = 5 * n, long * QUERIES
    p = scratch[at : at + n].reshape(long, QUERIES)
    ds = scratch[at + n : at + 2 * n].reshape(long, QUERIES)
    at, n = at + 2 * n, QUERIES * wide
    queries_t = scratch[at : at + n].reshape(QUERIES // 16, wide, 16)
    dout_t = scratch[at + n : at + 2 * n].reshape(QUERIES // 16, wide, 16)
    queries = scratch[at + 2 * n : at + 3 * n].reshape(wide // 16, QUERIES, 16)
    dout = scratch[at + 3 * n : at + 4 * n].reshape(wide // 16, QUERIES, 16)
    dqueries = scratch[at + 4 * n : at + 5 * n].reshape(QUERIES, wide)
    rows = scratch[at + 5 * n :]
    keys[:] = values[:] = np.float32(0)
    panels[:] = np.float32(0)
    dkeys[:] = dvalues[:] = np.float32(0)
    for j in range(S):
        key, value = line(k, j), line(v, j)
        for d in range(D):
            keys[j, d], values[j, d] = key[d], value[d]
        for d in range(D):
            panels[d // 16, j, d % 16] = key[d]
    for first in range(0, T, QUERIES):
        count = min(QUERIES, T - first)
        queries_t[:] = dout_t[:] = np.float32(0)
        queries[:] = dout[:] = np.float32(0)
        for i in range(count):
            query, change = line(q, first + i), line(dy, first + i)
            for d in range(D):
                queries_t[i // 16, d, i % 16] = query[d] * scale
                dout_t[i // 16, d, i % 16] = change[d]
            for d in range(D):
                queries[d // 16, i, d % 16] = query[d]
                dout[d // 16, i, d % 16] = change[d]
        last = first + count - 1
        low = max(0, first + S - T - window + 1) // 16 * 16 if window and causal else 0
        high = last + S - T + 1 if causal else S
        seen = (high - low + 3) // 4 * 4  # a tile may take keys four at a time
        _tiles(
            isa,
            seen,
            keys[low].ctypes.data,
            wide * 4,
            4,
            queries_t.ctypes.data,
            wide * 64,
            QUERIES // 16,
            p[low].ctypes.data,
            QUERIES * 4,
            wide,
            0,
            scratch,
        )
        _tiles(
            isa,
            seen,
            values[low].ctypes.data,
            wide * 4,
            4,
            dout_t.ctypes.data,
            wide * 64,
            QUERIES // 16,
            ds[low].ctypes.data,
            QUERIES * 4,
            wide,
            0,
            scratch,
        )
        if mask.size:
            for i in range(count):
                for j in range(low, high):
                    if not mask[first + i, j]:
                        p[j, i] = NONE
        _softmax(p, ds, causal, window, first, low, seen, T, S, scale, rows)
        _tiles(
            isa,
            seen,
            p[low].ctypes.data,
            QUERIES * 4,
            4,
            dout.ctypes.data,
            QUERIES * 64,
            wide // 16,
            dvalues[low].ctypes.data,
            wide * 4,
            QUERIES,
            1,
            scratch,
        )
        _tiles(
            isa,
            seen,
            ds[low].ctypes.data,
            QUERIES * 4,
            4,
            queries.ctypes.data,
            QUERIES * 64,
            wide // 16,
            dkeys[low].ctypes.data,
            wide * 4,
            QUERIES,
            1,
            scratch,
        )
        _tiles(
            isa,
            count,
            ds[low].ctypes.data,
            4,
            QUERIES * 4,
            panels[0, low].ctypes.data,
            long * 64,
            wide // 16,
            dqueries.ctypes.data,
            wide * 4,
            seen,
            0,
            scratch,
        )
        for i in range(count):
            row = line(dq, first + i)
            for d in range(D):
                row[d] = dqueries[i, d]
    for j in range(S):
        key, value = line(dk, j), line(dv, j)
        for d in range(D):
            key[d], value[d] = dkeys[j, d], dvalues[j, d]


@kernel
def _softmax(p, ds, causal, window, first, low, seen, T, S, scale, rows):
    """Scores p and dp (in ds) of keys down, queries across -> p and ds.

    p = e^(s - max) / sum; ds = p (dp - sum dp p) * scale.
    """
    stay_apart()
    top, weight = rows[:QUERIES], rows[QUERIES : 2 * QUERIES]
    delta = rows[2 * QUERIES : 3 * QUERIES]
    for i in range(QUERIES):
        top[i], weight[i], delta[i] = NONE, np.float32(0), np.float32(0)
    for j in range(low, low + seen):
        # query i sees key j where begin <= i < end
        begin = max(0, j - (S - T) - first) if causal else 0
        end = (
            min(QUERIES, j - (S - T) + window - first) if window and causal else QUERIES
        )
        if j >= S:
            end = 0
        row, drow = p[j], ds[j]
        for i in range(QUERIES):
            s = row[i] if (i >= begin) & (i < end) else NONE
            row[i] = s
            top[i] = max(top[i], s)
    for j in range(low, low + seen):
        row, drow = p[j], ds[j]
        for i in range(QUERIES):
            below = top[i] - row[i]
            e = exp(-below)
            e = e if (below < FAR) & (row[i] > NONE) else np.float32(0)
            row[i] = e
            weight[i] += e
            delta[i] += e * drow[i]
    for i in range(QUERIES):
        weight[i] = np.float32(1) / weight[i] if weight[i] > 0 else np.float32(0)
        delta[i] *= weight[i]
    for j in range(low, low + seen):
        row, drow = p[j], ds[j]
        for i in range(QUERIES):
            e = row[i] * weight[i]
            row[i] = e
            drow[i] = e * (drow[i] - delta[i]) * scale
