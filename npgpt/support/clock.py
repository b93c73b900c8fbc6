"""A clock that stands still while kernels are compiled: for every figure of speed."""

from __future__ import annotations

import sys
import time


def working_time() -> float:
    """Seconds, from some moment on, without those spent compiling kernels.

    >>> before = working_time()
    >>> working_time() >= before
    True
    """
    compiling = sys.modules.get("npgpt.kernels.compiling")  # where Numba is in use
    return time.perf_counter() - (compiling.compile_seconds() if compiling else 0.0)
