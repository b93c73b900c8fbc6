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

from npgpt.kernels.attention import NO_MASK, rows_together
from npgpt.kernels.attention_backward_head import QUERIES, through_head
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.packed import zeros
from npgpt.kernels.tiers import isa as tier_isa
from npgpt.shapes import Array, Bool, Float
from npgpt.training import backward as reference


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
            through_head(
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
