"""One query against all its keys, 64 at a time: decoding (npgpt.kernels.attention)."""

from __future__ import annotations

import numpy as np

from npgpt.kernels.compiling import inner_kernel, stay_apart
from npgpt.kernels.elementwise import exp, widen

SOME = 64  # keys that a single query meets at a time
NONE = np.float32(-1e30)  # stands for -inf, with which m - m' would be NaN
FAR = np.float32(46)  # below the largest so far a score counts as NONE: e^-46 = 1e-20


@inner_kernel
def bounds(causal, window, t, T, S):
    """Keys low .. high - 1 that query t of T may see, as ops.causal_mask says."""
    here = t + S - T
    high = here + 1 if causal else S
    low = max(0, here - window + 1) if window and causal else 0
    return low, high


@inner_kernel
def attend_one(q, k, v, mask, causal, window, scale, t, T, S, out, scratch):
    """Query t of T: q and out (D), k and v (at least S, D)."""
    stay_apart()
    D = q.shape[0]
    low, high = bounds(causal, window, t, T, S)
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
