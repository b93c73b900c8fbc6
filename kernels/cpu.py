"""The Numba backend: NumPy's, with the twins in the place of the hot functions."""

from __future__ import annotations

from dataclasses import replace

from npgpt.backend import NUMPY
from npgpt.kernels.attention import attention
from npgpt.kernels.compiling import set_threads
from npgpt.kernels.cross_entropy import cross_entropy
from npgpt.kernels.embedding import embedding
from npgpt.kernels.gelu import gelu
from npgpt.kernels.layer_norm import layer_norm
from npgpt.kernels.linear import linear
from npgpt.kernels.packed_file import load_prepared
from npgpt.kernels.prepare import prepare
from npgpt.kernels.softmax import softmax
from npgpt.kernels.step import decode_step
from npgpt.support import threads as blas


def cache_dtype(dtype: str) -> str:
    """Keys and values in float32 beside float32 weights, else in float16.

    At 1,000 positions a float32 cache adds 15 % to what float32 weights make a token
    read, but 57 % to int8 weights. float16 rounds to 3 digits, like bfloat16 weights.

    >>> cache_dtype("int8")
    'float16'
    """
    return "float32" if dtype == "float32" else "float16"


def threads(n: int | None = None) -> int | None:
    """Let the kernels have n threads, and NumPy's products beside them; None: as is."""
    return None if n is None else min(set_threads(n), blas.set_threads(n) or n)


set_threads()

BACKEND = replace(
    NUMPY,
    name="numba",
    softmax=softmax,
    layer_norm=layer_norm,
    gelu=gelu,
    linear=linear,
    embedding=embedding,
    attention=attention,
    cross_entropy=cross_entropy,
    dtypes=("float32", "bfloat16", "int8"),
    prepare=prepare,
    decode_step=decode_step,
    cache_dtype=cache_dtype,
    load_prepared=load_prepared,
    set_threads=threads,
)
