"""96 queries against blocks of 96 keys: prompts (npgpt.kernels.attention).

The products of a block are the tiles of npgpt.kernels.vector.
"""

from __future__ import annotations

import numpy as np

from npgpt.kernels.attention_decode import FAR, NONE, bounds
from npgpt.kernels.compiling import inner_kernel, stay_apart
from npgpt.kernels.elementwise import exp, line, widen
from npgpt.kernels.tiers import AVX512
from npgpt.kernels.vector import ONE, TWO, tiles

QUERIES, KEYS = 96, 96  # of a block


def scratch_size(D: int) -> int:
    """Float32 numbers that a thread needs for blocks of heads of width D."""
    wide = -(-D // 16) * 16
    return QUERIES * (2 * wide + KEYS + 3) + KEYS * wide * 2


@inner_kernel
def tiled(isa, rows, a, a_row, a_step, b, b_panel, panels, c, c_row, k, add, data):
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
def attend_block(
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
    low, _ = bounds(causal, window, first, T, S)
    _, high = bounds(causal, window, last - 1, T, S)
    for start in range(low, high, KEYS):
        n = min(KEYS, high - start)
        for j in range(n):
            row = line(k, start + j)
            for d in range(D):
                keys[j, d] = widen(row[d])
            row = line(v, start + j)
            for d in range(D):
                values[d // 16, j, d % 16] = widen(row[d])
        tiled(
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
        tiled(
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
