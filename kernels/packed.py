"""Packed weights: matrices in the order in which the kernels read them, once, at load.

A matrix W (n inputs, m outputs) becomes panels of 16 outputs. Inside a panel the inputs
follow each other, so that a product reads memory from front to back, in decoding and in
prompts alike, on every tier:

    float32    data (m / 16, n, 16)
    bfloat16   data (m / 16, n / 2, 16, 2), uint16: the upper half of the float32,
               rounded to nearest even; relative error at most 2^-8
    int8       data (m / 16, n / 4, 16, 4) and scales (m / 16, n / 64, 16): each column
               has one scale s for every 64 inputs, max |w| / 127 rounded up to a
               bfloat16; what is stored is round(w / s), so |error| <= s / 2, which is
               at most (1 + 2^-7) max |w| / 254

n and m are filled up with zeros. With int8 weights the activations x are quantised in
the same way as they come: one float32 scale a row and 64 inputs, t = max |x| / 127. A
group's sum of products is then exact in int32 and off by at most
sum_i (|x_i| s + |w_i| t) / 2 + 64 s t / 4 from the product of floats.

Nothing here is a copy beside another: a table that is also the output head is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import prange

from npgpt.kernels.compiling import LOCK, inner_kernel, kernel

PANEL = 16  # columns of a panel
GROUP = 64  # numbers of the input that share an int8 scale
PAIRS = 16  # of rows that are packed at a time: their lines stay in the cache
STORED = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}
SCALE = np.uint16  # a scale is stored as a bfloat16: the upper half of a float32
_MULTIPLE = {"float32": 16, "bfloat16": 32, "int8": GROUP}  # of n, filled up


def zeros(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """As numpy.zeros, from a multiple of 64 bytes on.

    NumPy's own large arrays begin 16 bytes after one, and a vector of 64 bytes then
    costs two reads.
    """
    return _aligned(np.zeros, shape, dtype)


def empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """As numpy.empty, from a multiple of 64 bytes on."""
    return _aligned(np.empty, shape, dtype)


def _aligned(make: Any, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = make(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def padded(n: int, dtype: str) -> int:
    """Inputs of a packed matrix, with the filling.

    >>> padded(48, "float32"), padded(48, "int8")
    (48, 64)
    """
    return -(-n // _MULTIPLE[dtype]) * _MULTIPLE[dtype]


def sizes(n: int, m: int, dtype: str) -> tuple[int, int]:
    """How many numbers data and scales of a packed (n, m) matrix have.

    >>> sizes(768, 2304, "int8")
    (1769472, 27648)
    """
    K, columns = padded(n, dtype), -(-m // PANEL) * PANEL
    return K * columns, K // GROUP * columns if dtype == "int8" else 0


@dataclass(frozen=True)
class Packed:
    """A packed matrix. It stands in the parameters where the array stood.

    shape is that of the array; .T turns it around without touching a number, and
    numpy.asarray(packed) gives the float32 numbers back, as they were rounded.
    """

    data: np.ndarray  # flat
    scales: np.ndarray  # flat; empty unless int8
    inputs: int
    outputs: int
    dtype: str
    is_table: bool = False  # (outputs, inputs), as embeddings are stored

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the array that was packed."""
        both = (self.inputs, self.outputs)
        return both[::-1] if self.is_table else both

    @property
    def ndim(self) -> int:
        """Always 2."""
        return 2

    @property
    def nbytes(self) -> int:
        """Bytes of data and scales: what one product reads."""
        return self.data.nbytes + self.scales.nbytes

    @property
    def T(self) -> Packed:
        """The transpose: the same numbers, seen as outputs and inputs exchanged."""
        return replace(self, is_table=not self.is_table)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        unpacked = unpack(self)
        return unpacked if dtype is None else unpacked.astype(dtype, copy=False)


def pack(array: Any, dtype: str, is_table: bool = False, out: Any = None) -> Packed:
    """Pack a float array: (inputs, outputs), or (outputs, inputs) for a table.

    `out` is a pair of flat arrays to write into (data, scales), of `sizes` numbers.
    """
    w = np.asarray(array)
    if w.ndim != 2 or 0 in w.shape or w.dtype.kind != "f":
        raise ValueError(f"cannot pack an array of {w.dtype} with shape {w.shape}")
    w = (w.T if is_table else w).astype(np.float32, copy=False)
    if not w.dtype.isnative or w.ctypes.data % 4:
        w = np.array(w, np.float32)
    n, m = w.shape
    many, scale_count = sizes(n, m, dtype)
    if out is None:
        make = empty if dtype == "bfloat16" else zeros  # it writes its filling
        out = make(many, STORED[dtype]), zeros(scale_count, SCALE)
    data, scales = out
    if data.shape != (many,) or scales.shape != (scale_count,):
        raise ValueError(f"{data.shape} and {scales.shape} do not hold a {n} x {m}")
    K = padded(n, dtype)
    with LOCK:
        if dtype == "float32":
            _pack_float32(w, data.reshape(-1, K, PANEL))
        elif dtype == "bfloat16":
            _pack_bfloat16(
                w.view(np.uint32), data.view(np.uint32).reshape(-1, K // 2, PANEL)
            )
        else:
            _pack_int8(
                w,
                data.reshape(-1, K // 4, PANEL, 4),
                scales.reshape(-1, K // GROUP, PANEL),
            )
    return Packed(data, scales, n, m, dtype, is_table)


def unpack(packed: Packed) -> np.ndarray:
    """The float32 array that the packed numbers stand for."""
    n, m, K = packed.inputs, packed.outputs, padded(packed.inputs, packed.dtype)
    if packed.dtype == "float32":
        w = packed.data.reshape(-1, K, PANEL)
    elif packed.dtype == "bfloat16":
        bits = packed.data.reshape(-1, K // 2, PANEL, 2).transpose(0, 1, 3, 2)
        w = (bits.astype(np.uint32) << 16).view(np.float32).reshape(-1, K, PANEL)
    else:
        numbers = packed.data.reshape(-1, K // 4, PANEL, 4).transpose(0, 1, 3, 2)
        w = numbers.reshape(-1, K // GROUP, GROUP, PANEL).astype(np.float32)
        scales = (packed.scales.astype(np.uint32) << 16).view(np.float32)
        w *= scales.reshape(-1, K // GROUP, 1, PANEL)
        w = w.reshape(-1, K, PANEL)
    w = w.transpose(1, 0, 2).reshape(K, -1)[:n, :m]
    return np.ascontiguousarray(w.T if packed.is_table else w)


@kernel(parallel=True)
def _pack_float32(w, data):
    n, m = w.shape
    for p in prange(data.shape[0]):
        for k in range(n):
            for j in range(min(PANEL, m - p * PANEL)):
                data[p, k, j] = w[k, p * PANEL + j]


@inner_kernel
def bfloat16_of(x):
    """The bits of a float32, uint32, as those of the nearest bfloat16, uint16."""
    up = x + np.uint32(0x7FFF) + ((x >> np.uint32(16)) & np.uint32(1))
    is_nan = (x & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    # rounding could make NaN infinite
    return np.uint16((np.uint32(0x7FC00000) if is_nan else up) >> np.uint32(16))


@kernel(parallel=True)
def _pack_bfloat16(bits, data):
    """Pairs as uint32, the first number in the lower half; the filling too."""
    n, m = bits.shape
    panels, pairs = data.shape[:2]
    for piece in prange((pairs + PAIRS - 1) // PAIRS):
        for p in range(panels):
            first, last = p * PANEL, min(m, (p + 1) * PANEL)
            for k in range(piece * PAIRS, min(pairs, (piece + 1) * PAIRS)):
                out = data[p, k]
                if 2 * k + 1 < n and last - first == PANEL:
                    one, two = bits[2 * k, first:last], bits[2 * k + 1, first:last]
                    for j in range(PANEL):
                        upper = np.uint32(bfloat16_of(two[j])) << np.uint32(16)
                        out[j] = upper | np.uint32(bfloat16_of(one[j]))
                    continue
                out[:] = np.uint32(0)
                for i in range(min(2, n - 2 * k)):
                    for j in range(last - first):
                        number = np.uint32(bfloat16_of(bits[2 * k + i, first + j]))
                        out[j] |= number << np.uint32(16 * i)


@kernel(parallel=True, fastmath=False)
def _pack_int8(w, data, scales):
    n, m = w.shape
    for p in prange(data.shape[0]):
        quotient = np.zeros(1, np.float32)
        bits = quotient.view(np.uint32)
        for g in range(scales.shape[1]):
            for j in range(min(PANEL, m - p * PANEL)):
                top = np.float32(0)
                for k in range(g * GROUP, min(n, (g + 1) * GROUP)):
                    top = max(top, abs(w[k, p * PANEL + j]))
                quotient[0] = top / np.float32(127)
                bits[0] = (bits[0] + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
                scales[p, g, j] = np.uint16(bits[0] >> np.uint32(16))
                inverse = np.float32(0) if top == 0 else np.float32(1) / quotient[0]
                for k in range(g * GROUP, min(n, (g + 1) * GROUP)):
                    q = np.rint(w[k, p * PANEL + j] * inverse)
                    q = min(max(q, np.float32(-127)), np.float32(127))
                    data[p, k // 4, j, k % 4] = np.int8(q)
