"""The way back through one head of attention: 64 queries meet the keys that they see.

A kernel of npgpt.kernels.attention_backward, which says what it does differently.
"""

from __future__ import annotations

import numpy as np

from npgpt.kernels.attention_block import tiled
from npgpt.kernels.attention_decode import FAR, NONE
from npgpt.kernels.compiling import kernel, stay_apart
from npgpt.kernels.elementwise import exp, line

QUERIES = 64  # of a block, in four panels of 16


@kernel
def through_head(isa, dy, q, k, v, mask, causal, window, scale, dq, dk, dv, scratch):
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
        tiled(
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
        tiled(
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
        tiled(
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
        tiled(
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
        tiled(
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
