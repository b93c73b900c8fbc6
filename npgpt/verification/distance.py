"""How far two runs of one model are apart, tensor by tensor, and how far they may be.

A recorder keeps every intermediate of a forward pass; `vector_error` compares two of
them, relative to what `conditions` says a vector is worth. Which runs are compared, and
what is tolerated, stands in npgpt.verification.checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from npgpt.backend import NUMPY, Backend
from npgpt.model import GPT2
from npgpt.taps import Recorder

TRIES = 4
Scales = Mapping[str, np.ndarray]  # of `conditions`


def recorder(backend: Backend) -> Recorder:
    """A tap that keeps a copy of every tensor that this backend has.

    Scores and weights only where attention is ours: a twin may not have them.
    """
    plain = backend.attention is NUMPY.attention
    return Recorder(
        lambda name: plain or not name.endswith(("scores", "weights")),
        lambda array: np.array(backend.to_numpy(array)),
    )


class Rounding:
    """A tap that records, and hands every number on a unit larger or smaller."""

    def __init__(self, recorder: Recorder, unit: float, seed: int):
        self.recorder, self.wants, self.unit = recorder, recorder.wants, unit
        self.rng = np.random.Generator(np.random.Philox(key=seed))

    def __call__(self, name: str, array: Any) -> Any:
        """Keep the rounded array and hand it on."""
        signs = 2.0 * self.rng.integers(2, size=array.shape) - 1
        return self.recorder(name, array * (1 + self.unit * signs))


def spread(array: np.ndarray, n: int = 64) -> np.ndarray:
    """n values of a tensor, evenly spread: what is recorded of a large one."""
    flat = array.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(n, flat.size)).astype(int)]


def intermediates(model: GPT2, ids: Any) -> dict[str, np.ndarray]:
    """Every intermediate of one forward pass, by tap name, in its order."""
    tap = recorder(model.backend)
    model.logits(ids, tap)
    return tap.arrays


def vector_error(x: np.ndarray, reference: np.ndarray, scale: Any = 0.0) -> float:
    """Largest ||x - r|| / ||r|| over the vectors of the last axis; inf if masks differ.

    Where ||r|| is below `scale`, the error is relative to that.

    >>> vector_error(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    0.1
    """
    if x.shape != reference.shape:
        return math.inf
    if ((x > -np.inf) != (reference > -np.inf)).any():
        return math.inf
    size = np.linalg.norm(_seen(reference), axis=-1)
    # A vector near 0 has no scale of its own.
    size = np.maximum(np.maximum(size, scale), 1e-3 * size.max() + 1e-30)
    return float((_distance(x, reference) / size).max())


def _seen(x: np.ndarray) -> np.ndarray:
    """Hidden attention scores, which are -inf, as 0."""
    return np.where(x > -np.inf, x, 0.0)


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """||x - y|| of the vectors of the last axis."""
    return np.linalg.norm(_seen(x) - _seen(y), axis=-1)


def conditions(
    exact: dict[str, np.ndarray], double: Any, ids: list[int], unit: float
) -> dict[str, np.ndarray]:
    """What errors are relative to where more than a vector's size, by tap name.

    The difference of large numbers (a score near 0, a gelu far below it) has no more
    exact digits than these. So: the distance that the vector moves when everything it
    is made from is rounded up or down, over that unit; the largest of some tries.
    """
    scales = dict.fromkeys(exact, np.zeros(1))
    for seed in range(TRIES):
        tap = recorder(double.backend)
        double.logits(ids, Rounding(tap, unit, seed))
        for name, x in exact.items():
            moved = _distance(tap.arrays[name], x) / unit
            scales[name] = np.maximum(scales[name], moved)
    return scales
