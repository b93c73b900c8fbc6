"""BACKEND, the backend on a GPU: the functions of npgpt.ops on arrays of CuPy.

CUDA twins of the hot ones are not written yet. To ask for BACKEND raises BackendError
where CuPy or a GPU is missing; Numba is not needed.
"""

from __future__ import annotations

from dataclasses import replace

from npgpt.backend import NUMPY, Backend
from npgpt.errors import BackendError


def _backend() -> Backend:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(
            f"backend 'cupy' needs CuPy, which cannot be imported ({error}); "
            "install it with pip install 'npgpt[cuda12]' or 'npgpt[cuda13]'"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"backend 'cupy' finds no usable GPU: {error}") from None
    if not count:
        raise BackendError("backend 'cupy' finds no GPU on this machine; use 'numpy'")
    return replace(NUMPY, name="cupy", xp=cupy)


def __getattr__(name: str) -> Backend:  # this module can be read where there is no GPU
    if name == "BACKEND":
        return _backend()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
