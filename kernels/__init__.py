"""Numba twins of npgpt.ops, and BACKEND, the backend that uses them.

Each file is one function of npgpt.ops made fast, with the same name, arguments and
result; its first paragraph says what it does differently and why that is faster.

softmax, layer_norm, gelu, linear, attention, cross_entropy, embedding    the twins
ladder       the first rungs to linear, in plain loops
packed       weights in the order in which they are read, and in fewer bytes
vector       the innermost loops, as vector instructions; llvm, the words for them
amx          the same for prompts, on Intel's tile unit
elementwise  exp as a polynomial, half precision
backward, attention_backward, optim, mixed    the twins of training
team, phases, forward, step   the whole forward pass in one kernel
tiers        which instructions this processor has
prepare      parameters -> packed parameters; packed_file keeps them on disk
warmup       every kernel, once
compiling    threads, the cache of compiled kernels, the notice
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from npgpt.backend import NUMPY
from npgpt.kernels.attention import attention
from npgpt.kernels.compiling import set_threads
from npgpt.kernels.cross_entropy import cross_entropy
from npgpt.kernels.embedding import embedding
from npgpt.kernels.gelu import bias_gelu, gelu
from npgpt.kernels.layer_norm import layer_norm
from npgpt.kernels.linear import linear
from npgpt.kernels.packed_file import load_prepared
from npgpt.kernels.prepare import prepare
from npgpt.kernels.softmax import softmax
from npgpt.kernels.step import decode_step

__all__ = [
    "BACKEND",
    "attention",
    "bias_gelu",
    "cache_dtype",
    "cross_entropy",
    "decode_step",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "prepare",
    "softmax",
]


def cache_dtype(dtype: str) -> str:
    """Keys and values in float32 beside float32 weights, else in float16.

    At 1,000 positions a float32 cache adds 15 % to what float32 weights make a token
    read, but 57 % to int8 weights. float16 rounds to 3 digits, like bfloat16 weights.

    >>> cache_dtype("int8")
    'float16'
    """
    return "float32" if dtype == "float32" else "float16"


def _backward() -> ModuleType:
    from npgpt.kernels import backward

    return backward


def _mixed() -> ModuleType:
    from npgpt.kernels import mixed

    return mixed


def _optim() -> ModuleType:
    from npgpt.kernels import optim

    return optim


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
    dtypes=("float32", "bfloat16", "int8"),
    prepare=prepare,
    decode_step=decode_step,
    cache_dtype=cache_dtype,
    load_prepared=load_prepared,
    backward=_backward,
    mixed=_mixed,
    optim=_optim,
)
