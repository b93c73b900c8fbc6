"""Backend: an array library plus the few hot functions, as one value.

A backend is passed to the forward pass like any other argument, so two models with
two backends live in one process. Nothing is chosen at import time, and a backend
that is not available raises instead of falling back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np

from npgpt import blocked, ops
from npgpt.errors import BackendError
from npgpt.storage.tensorfile import forget
from npgpt.support.arguments import shown
from npgpt.support.leaves import leaves, map_leaves


def place(params: Any, dtype: str, xp: ModuleType) -> Any:
    """Every array of a tree of NamedTuples as `dtype` in `xp`; what is shared stays so.

    Nothing is copied that has the dtype and the place already.
    """
    return map_leaves(lambda array: xp.asarray(array, dtype=getattr(xp, dtype)), params)


def place_by_columns(params: Any, dtype: str, xp: ModuleType) -> Any:
    """As `place`, with every matrix of a block turned so that columns are contiguous.

    A row times a matrix, which is what decoding does all day, is then a dot product
    with each column, for which BLAS reads the weights a tenth faster. The price is a
    copy: what was a view of a mapped file is one no longer (the tables still are), and
    until the caller lets go of arrays that were copies already, they are there twice.
    For NumPy alone.
    """
    if xp is not np:
        return place(params, dtype, xp)
    # In one array, which the system gives large pages; each matrix starts at a multiple
    # of 64 bytes, as a vector does.
    matrices = [x for x in leaves(params.h).values() if x.ndim == 2]
    size = sum(-(-math.prod(x.shape) // 16) * 16 for x in matrices)
    room = np.empty(size + 16, dtype)
    at = -room.ctypes.data % 64 // room.itemsize

    def turn(x: Any) -> np.ndarray:
        nonlocal at
        x = np.asarray(x, dtype=dtype)
        if x.ndim != 2 or x.flags.f_contiguous:
            return x
        turned = room[at : at + x.size].reshape(x.shape[::-1])
        at += -(-x.size // 16) * 16
        for start in range(0, len(x), 64):  # rows that stay in the cache meanwhile
            turned[:, start : start + 64] = x[start : start + 64].T
        forget(x)
        return turned.T

    blocks = map_leaves(turn, params.h)
    return place(params._replace(h=()), dtype, xp)._replace(h=blocks)


def _backward() -> ModuleType:
    from npgpt.training import backward

    return backward


def _mixed() -> ModuleType:
    from npgpt.training import mixed

    return mixed


def _optim() -> ModuleType:
    from npgpt.training import optim

    return optim


@dataclass(frozen=True)
class Backend:
    """An array namespace and the functions that a twin may replace.

    >>> NUMPY.softmax(np.zeros(2)).tolist()
    [0.5, 0.5]
    """

    name: str
    xp: ModuleType
    softmax: Callable = ops.softmax
    layer_norm: Callable = blocked.layer_norm
    gelu: Callable = blocked.gelu
    linear: Callable = ops.linear
    embedding: Callable = ops.embedding
    attention: Callable = blocked.attention
    dtypes: tuple[str, ...] = ("float32", "float64")
    # (params, dtype, xp) -> parameters as these functions want them
    prepare: Callable = place_by_columns
    # (params, new ids of each row, cache, keep) -> logits after the last keep[row] ids
    # (None: one) of each row, in one call, where nothing taps; None if it cannot
    decode_step: Callable | None = None
    # (folder, dtype) -> prepared parameters, where the folder holds them; or None
    load_prepared: Callable | None = None
    cache_dtype: Callable = str  # dtype of the weights -> dtype of the KV cache
    backward: Callable = _backward  # () -> the module of the derivatives, for training
    mixed: Callable = _mixed  # () -> the module of products in bfloat16
    optim: Callable = _optim  # () -> the module with AdamW's `update`

    def to_numpy(self, array: Any) -> np.ndarray:
        """The array on the host, as NumPy."""
        get = getattr(array, "get", None)  # CuPy refuses implicit copies to the host
        return np.asarray(array if get is None else get())


NUMPY = Backend("numpy", np)

BACKENDS = ("numpy", "numba", "cupy")


def get_backend(name: str | Backend) -> Backend:
    """The backend of this name, or the one given; raises BackendError.

    >>> get_backend("numpy").name
    'numpy'
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str) or name not in BACKENDS:
        raise BackendError(f"backend {shown(name)} is not one of {', '.join(BACKENDS)}")
    if name == "numba":
        return _numba()
    return NUMPY if name == "numpy" else _cupy()


def _numba() -> Backend:
    try:
        from npgpt.kernels import BACKEND
    except ImportError as error:
        raise BackendError(
            f"backend 'numba' cannot be loaded ({error}); install it with "
            "pip install 'npgpt[numba]', or use backend 'numpy'"
        ) from None
    return BACKEND


def _cupy() -> Backend:
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
