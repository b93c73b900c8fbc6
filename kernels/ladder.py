"""The ladder to `linear`: the same product, first as simple as can be, then better.

What each rung does differently. `linear_loops` is the definition, three loops.
`linear_panels` reads weights in the order of memory (npgpt.kernels.packed), 16 columns
as one vector, on all threads. npgpt.kernels.linear keeps tiles of the result in
registers. Each is tested against ops.linear (tests/kernels/test_kernels.py), and
`npgpt bench` checks each before it times it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from npgpt.kernels.compiling import LOCK, kernel
from npgpt.kernels.packed import PANEL, Packed, padded, unpack


def linear_loops(x: Any, weight: Packed) -> np.ndarray:
    """First rung of the ladder, for float32: the definition as three loops."""
    c = np.zeros((len(x), weight.outputs), np.float32)
    _loops(np.ascontiguousarray(x), unpack(weight), c)
    return c


def linear_panels(x: Any, weight: Packed) -> np.ndarray:
    """Second rung, for float32: 16 columns at a time, on all cores."""
    K = padded(weight.inputs, weight.dtype)
    panels = weight.data.reshape(-1, K, PANEL)
    c = np.zeros((len(x), len(panels) * PANEL), np.float32)
    with LOCK:
        _panels(np.ascontiguousarray(x), panels, c)
    return c[:, : weight.outputs]


@kernel
def _loops(x, w, c):
    for r in range(len(x)):
        for j in range(w.shape[1]):
            for k in range(w.shape[0]):
                c[r, j] += x[r, k] * w[k, j]


@kernel(parallel=True)
def _panels(x, panels, c):
    for p in prange(len(panels)):
        for r in range(len(x)):
            for k in range(x.shape[1]):
                for j in range(PANEL):
                    c[r, p * PANEL + j] += x[r, k] * panels[p, k, j]
