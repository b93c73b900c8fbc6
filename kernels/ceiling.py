"""The machine's ceiling: how fast all threads together can read memory, now.

A sum of all numbers: nothing is written, and the additions hide behind the reads.
"""

from __future__ import annotations

import time

import numpy as np
from numba import prange

from npgpt.kernels.compiling import LOCK, kernel


def read_seconds(a: np.ndarray) -> float:
    """Seconds to read this float32 array once, with all threads."""
    if a.dtype != np.float32 or a.ndim != 1 or not a.flags.c_contiguous or not a.size:
        raise ValueError("read_seconds wants a flat, full float32 array")
    with LOCK:
        _read(a[:1])
        start = time.perf_counter()
        _read(a)
        return time.perf_counter() - start


@kernel(parallel=True)
def _read(a):
    total = np.float32(0)
    for i in prange(a.size):
        total += a[i]
    return total
