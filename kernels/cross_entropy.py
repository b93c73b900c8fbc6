"""Cross-entropy without writing the log-probabilities down.

What it does differently. The reference compares every id of the vocabulary with the
target and sums a table of V numbers a row, most of them zeros. Here a row of logits is
read twice, once for its maximum and once for the sum of exponentials, and the one
number that counts is picked out.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from npgpt import ops
from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.elementwise import exp
from npgpt.shapes import Array, Float, Int


def cross_entropy(z: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> float:
    """Mean negative log-probability of the targets, -mean log softmax(z)[target], nats.

    As ops.cross_entropy, which computes what is not float32. Raises ValueError for a
    target outside [0, V).

    >>> round(cross_entropy(np.zeros((2, 50257), np.float32), np.array([0, 7])), 4)
    10.8249
    """
    z, targets = np.asarray(z), np.asarray(targets)
    if z.dtype != np.float32 or targets.dtype.kind not in "iu" or not z.size:
        return ops.cross_entropy(z, targets)
    V = z.shape[-1]
    if targets.shape != z.shape[:-1]:
        raise ValueError(f"cross_entropy: logits {z.shape}, targets {targets.shape}")
    if targets.min() < 0 or targets.max() >= V:
        raise ValueError(f"cross_entropy: a target is not in 0 .. {V - 1}")
    rows = np.ascontiguousarray(z).reshape(-1, V)
    losses = np.empty(len(rows), np.float64)
    with LOCK:
        _losses(rows, targets.reshape(-1).astype(np.int64), losses)
    return float(losses.mean())


@kernel(parallel=True)
def _losses(z, targets, losses):
    for r in prange(len(z)):
        row, top = z[r], -np.inf
        for i in range(len(row)):
            top = max(top, row[i])
        total = np.float64(0)
        for start in range(0, len(row), 1024):  # long float32 sums would lose digits
            part = np.float32(0)
            for i in range(start, min(start + 1024, len(row))):
                part += exp(row[i] - np.float32(top))
            total += part
        losses[r] = top + np.log(total) - row[targets[r]]
