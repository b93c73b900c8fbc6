"""(a) Each function of npgpt.ops against its twin, at the shapes of a GPT-2.

Both run in turn, on the same arrays, and their results are compared before any time
counts. Compiling is measured apart: this module runs in a process whose cache of
compiled kernels is empty (npgpt.bench.worker).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from npgpt import ops
from npgpt.backend import NUMPY
from npgpt.config import GPT2Config

PAUSE, TURN = 0.002, 5  # seconds, calls
STEADY = 0.2  # spread of times that say something


@dataclass(frozen=True)
class FunctionTiming:
    """One function at one shape; times in seconds, rates of the twin."""

    function: str
    shape: str
    numpy_seconds: float
    numba_seconds: float
    numpy_spread: float  # half the distance of the quartiles over the median
    numba_spread: float
    error: float  # largest difference over the reference's largest value
    gigabytes_per_second: float
    gigaflops_per_second: float
    ceiling_share: float  # of the read rate or of sgemm, whichever bounds it
    compile_seconds: float
    pays_after_calls: float | None  # None: the twin is not faster
    note: str = ""


def interleaved(
    functions: list[Callable[[], Any]], seconds: float = 1.0, least: int = 5
) -> list[tuple[float, float]]:
    """Median seconds and relative spread of functions that take turns.

    A turn is a pause, in which the threads of the other function fall asleep, a call
    that does not count, and some that do.
    """
    times: list[list[float]] = [[] for _ in functions]
    end = time.perf_counter() + seconds
    while len(times[0]) < least or (time.perf_counter() < end and len(times[0]) < 500):
        for function, found in zip(functions, times, strict=True):
            time.sleep(PAUSE)
            function()
            for _ in range(TURN):
                start = time.perf_counter()
                function()
                found.append(time.perf_counter() - start)
    return [median_and_spread(found) for found in times]


def median_and_spread(times: list[float]) -> tuple[float, float]:
    """The median, and half the distance of the quartiles relative to it.

    >>> median_and_spread([1.0, 2.0, 3.0])
    (2.0, 0.25)
    """
    middle = statistics.median(times)
    if len(times) < 3:
        return middle, 0.0
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return middle, (high - low) / 2 / middle


def unsteady(spread: float) -> str:
    """The mark of a row that something else on the machine has spoiled.

    >>> unsteady(0.2), unsteady(0.25)
    ('', '  unsteady: spread 25%')
    """
    return f"  unsteady: spread {spread:.0%}" if spread > STEADY else ""


def ceilings(bytes_: int = 500_000_000) -> dict[str, float]:
    """This machine's read rate (bytes a second) and sgemm rate (FLOP a second), now."""
    from npgpt.kernels.ceiling import read_seconds

    a = np.ones(bytes_ // 4, np.float32)
    square = np.ones((1536, 1536), np.float32)
    read, _ = median_and_spread([read_seconds(a) for _ in range(7)])
    [(product, _)] = interleaved([lambda: square @ square], 0.5)
    return {"read": a.nbytes / read, "sgemm": 2 * 1536**3 / product}


def _cases(
    config: GPT2Config,
) -> Iterator[tuple[str, str, Callable, Callable, float, float]]:
    """Name, shape, reference, twin, bytes moved, FLOPs."""
    from npgpt import kernels
    from npgpt.kernels.ladder import linear_loops, linear_panels
    from npgpt.kernels.packed import pack

    C, H, V, S = config.n_embd, config.n_head, config.vocab_size, config.n_positions
    D, inner, rng = config.head_dim, config.inner_dim, np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    one, zero = normal(C), normal(C)
    for T in (1, S):
        x, wide = normal(1, T, C), normal(1, T, inner)
        yield (
            "layer_norm",
            f"1 {T} {C}",
            lambda x=x: NUMPY.layer_norm(x, one, zero),
            lambda x=x: kernels.layer_norm(x, one, zero),
            2 * x.nbytes,
            0,
        )
        yield (
            "gelu",
            f"1 {T} {inner}",
            lambda x=wide: NUMPY.gelu(x),
            lambda x=wide: kernels.gelu(x),
            2 * wide.nbytes,
            0,
        )
        scores = normal(1, H, T, S)
        yield (
            "softmax",
            f"1 {H} {T} {S}",
            lambda x=scores: ops.softmax(x),
            lambda x=scores: kernels.softmax(x),
            2 * scores.nbytes,
            0,
        )
        del scores
        q, k, v = normal(1, H, T, D), normal(1, H, S, D), normal(1, H, S, D)
        seen = S if T == 1 else S / 2
        yield (
            "attention",
            f"1 {H} {T} {S} {D}",
            lambda q=q, k=k, v=v: ops.attention(q, k, v),
            lambda q=q, k=k, v=v: kernels.attention(q, k, v),
            2 * k.nbytes + 2 * q.nbytes,
            4 * H * T * seen * D,
        )
    for T in (1, 8, 128, S):
        for n, m in ((C, 3 * C), (C, inner), (inner, C)):
            x, w, b = normal(1, T, n), normal(n, m), normal(m)
            packed = pack(w, "float32")
            yield (
                "linear",
                f"{T} x {n} x {m}",
                lambda x=x, w=w, b=b: NUMPY.linear(x, w, b),
                lambda x=x, w=packed, b=b: kernels.linear(x, w, b),
                w.nbytes + 4 * T * (n + m),
                2 * T * n * m,
            )
    x, w = normal(8, C), normal(C, C)
    packed = pack(w, "float32")
    for rung in (linear_loops, linear_panels):
        yield (
            rung.__name__,
            f"8 x {C} x {C}",
            lambda x=x, w=w: ops.linear(x, w),
            lambda x=x, w=packed, rung=rung: rung(x, w),
            w.nbytes + 8 * 4 * 2 * C,
            2 * 8 * C * C,
        )
    table = normal(V, C)
    packed, x = pack(table, "float32", is_table=True), normal(1, 1, C)
    yield (
        "linear",
        f"1 x {C} x {V}",
        lambda: ops.linear(x, table.T),
        lambda: kernels.linear(x, packed.T),
        table.nbytes,
        2 * C * V,
    )
    del table, packed
    z, targets = normal(128, V), rng.integers(0, V, 128)
    yield (
        "cross_entropy",
        f"128 {V}",
        lambda: np.float32(NUMPY.cross_entropy(z, targets)),
        lambda: np.float32(kernels.cross_entropy(z, targets)),
        z.nbytes,
        0,
    )


def time_functions(
    config: GPT2Config, seconds: float = 0.5
) -> Iterator[FunctionTiming]:
    """Every twin at every shape, one after the other."""
    from npgpt.kernels.compiling import compile_seconds

    limits = ceilings()
    for name, shape, reference, twin, moved, flops in _cases(config):
        expected, before = reference(), compile_seconds()
        found = twin()
        compiling = compile_seconds() - before
        top = float(np.abs(expected).max()) or 1.0
        error = float(np.abs(found - expected).max()) / top
        (slow, slow_spread), (fast, fast_spread) = interleaved(
            [reference, twin], seconds
        )
        share = max(moved / fast / limits["read"], flops / fast / limits["sgemm"])
        note = "NumPy is as fast here: one BLAS or ufunc call"
        if name.startswith("linear_"):
            note = "a rung of the ladder to linear"
        note = "" if fast < slow else note
        yield FunctionTiming(
            name,
            shape,
            slow,
            fast,
            slow_spread,
            fast_spread,
            error,
            moved / fast / 1e9,
            flops / fast / 1e9,
            share,
            compiling,
            compiling / (slow - fast) if fast < slow else None,
            note,
        )
