"""Backend: an array library plus the few hot functions, as one value.

A backend is passed to the forward pass like any other argument, so two models with
two backends live in one process. Nothing is chosen at import time, and a backend
that is not available raises instead of falling back. What training needs beside the
forward pass is in npgpt.training.engine.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import numpy as np

from npgpt import blocked, ops
from npgpt.errors import BackendError
from npgpt.support.arguments import shown
from npgpt.support.files import forget
from npgpt.support.leaves import leaves, map_leaves
from npgpt.support.threads import set_threads


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


@dataclass(frozen=True)
class Backend:
    """An array namespace and the functions that a twin may replace.

    >>> NUMPY.softmax(np.zeros(2)).tolist()
    [0.5, 0.5]
    """

    name: str
    xp: ModuleType
    softmax: Callable[..., Any] = ops.softmax
    layer_norm: Callable[..., Any] = blocked.layer_norm
    gelu: Callable[..., Any] = blocked.gelu
    linear: Callable[..., Any] = blocked.linear
    embedding: Callable[..., Any] = ops.embedding
    attention: Callable[..., Any] = blocked.attention
    cross_entropy: Callable[..., Any] = blocked.cross_entropy
    dtypes: tuple[str, ...] = ("float32", "float64")
    # (params, dtype, xp) -> parameters as these functions want them
    prepare: Callable[..., Any] = place_by_columns
    # (params, new ids of each row, cache, keep) -> logits after the last keep[row] ids
    # (None: one) of each row, in one call, where nothing taps; None if it cannot
    decode_step: Callable[..., Any] | None = None
    # (folder, dtype) -> prepared parameters, where the folder holds them; or None
    load_prepared: Callable[..., Any] | None = None
    cache_dtype: Callable[[str], str] = str  # dtype of the weights -> of the KV cache

    # threads of the whole process from now on, at most; None: what is best here
    set_threads: Callable[..., int | None] = set_threads

    def to_numpy(self, array: Any) -> np.ndarray:
        """The array on the host, as NumPy."""
        get = getattr(array, "get", None)  # CuPy refuses implicit copies to the host
        return np.asarray(array if get is None else get())

    def __reduce__(self) -> tuple[Any, ...]:
        if self.name in BACKENDS and get_backend(self.name) is self:
            return get_backend, (self.name,)
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return _put_together, (self.xp.__name__, parts | {"xp": None})


def _put_together(xp: str, parts: dict[str, Any]) -> Backend:
    """A backend of one's own out of a pickle: of a module that holds the name alone."""
    return Backend(**parts | {"xp": importlib.import_module(xp)})


NUMPY = Backend("numpy", np)

BACKENDS = ("numpy", "numba", "cupy")
# Where the others' BACKEND is: a name, since the kernels import this module.
PLUGS = {"numba": "npgpt.kernels", "cupy": "npgpt.kernels.cuda"}
EXTRAS = {"numba": "'npgpt[numba]'", "cupy": "'npgpt[cuda12]' or 'npgpt[cuda13]'"}


def get_backend(name: str | Backend) -> Backend:
    """The backend of this name, or the one given; raises BackendError.

    >>> get_backend("numpy").name
    'numpy'
    """
    if isinstance(name, Backend):
        return name
    if not isinstance(name, str) or name not in BACKENDS:
        raise BackendError(f"backend {shown(name)} is not one of {', '.join(BACKENDS)}")
    if name == "numpy":
        return NUMPY
    try:
        return importlib.import_module(PLUGS[name]).BACKEND
    except ImportError as error:
        raise BackendError(
            f"backend {name!r} cannot be loaded ({error}); install it with pip install "
            f"{EXTRAS[name]}, or use backend 'numpy'"
        ) from None
