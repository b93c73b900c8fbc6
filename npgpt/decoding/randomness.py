"""Random numbers that depend on nothing but (seed, row, position, purpose).

A counter-based generator (Philox; Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011) is opened anew for every draw. So the same seed gives the same text on
every backend and in every batch, but where rounding decides (docs/sampling.md says how
seldom), and rolling back costs nothing.
"""

from __future__ import annotations

import numpy as np

# What a draw is for. AGAIN + n names the draws of the n-th time a token is taken anew.
TOKEN, PROCESSOR, DRAFT, ACCEPT, CODE, CHOICE = range(6)
AGAIN = 1 << 16


def uniforms(seed: int, row: int, position: int, purpose: int, n: int) -> np.ndarray:
    """n float64 numbers in [0, 1) of the stream with this name.

    >>> uniforms(seed=0, row=0, position=0, purpose=TOKEN, n=2).round(6).tolist()
    [0.011547, 0.241549]
    """
    philox = np.random.Philox(key=seed, counter=[0, position, row, purpose])
    return (philox.random_raw(n) >> 11) * 2.0**-53


def uniform(seed: int, row: int, position: int, purpose: int) -> float:
    """One number in [0, 1): the first of `uniforms`."""
    return float(uniforms(seed, row, position, purpose, 1)[0])
