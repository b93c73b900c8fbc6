"""Numba twins of npgpt.ops, and BACKEND, the backend that uses them.

Each file is one function of npgpt.ops made fast, with the same name, arguments and
result; its first paragraph says what it does differently and why that is faster.

softmax, layer_norm, gelu, linear, attention, cross_entropy, embedding    the twins
ladder       the first rungs to linear, in plain loops
packed       weights in the order in which they are read, and in fewer bytes
narrow       the inputs of a product in as few bytes; strips, the tasks of a product
vector       the innermost loops, as vector instructions; llvm, the words for them
amx          the same for prompts, on Intel's tile unit
elementwise  exp as a polynomial, half precision
backward, attention_backward, optim, mixed    the twins of training
cpu          BACKEND, which says what twin stands where
team, phases, forward, step   the whole forward pass in one kernel
tiers        which instructions this processor has
prepare      parameters -> packed parameters; packed_file keeps them on disk
warmup       every kernel, once
compiling    threads, the cache of compiled kernels, the notice
environment  Numba's own variables, checked when it is imported
"""

from __future__ import annotations

from npgpt.errors import BackendError

try:
    from npgpt.kernels import environment as environment  # before all that import Numba
    from npgpt.kernels.attention import attention
    from npgpt.kernels.cpu import BACKEND, cache_dtype
    from npgpt.kernels.cross_entropy import cross_entropy
    from npgpt.kernels.embedding import embedding
    from npgpt.kernels.gelu import gelu
    from npgpt.kernels.layer_norm import layer_norm
    from npgpt.kernels.linear import linear
    from npgpt.kernels.prepare import prepare
    from npgpt.kernels.softmax import softmax
    from npgpt.kernels.step import decode_step
except (ImportError, BackendError) as error:
    _reason = error  # said when asked: npgpt.kernels.cuda, in here, needs no Numba

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise type(_reason)(str(_reason))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "BACKEND",
    "attention",
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
