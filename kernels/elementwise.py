"""exp and its kin as polynomials, and half precision: what vector units do at once.

math.exp is a call for one number. The functions here are a dozen multiplications and
additions without branches, so LLVM runs 8 or 16 of them side by side. Numba has no
float16 arithmetic on the CPU; `widen` and `narrow` convert by one instruction.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from npgpt.kernels.compiling import kernel

F32, HALF = ir.FloatType(), ir.HalfType()
I32, I16 = ir.IntType(32), ir.IntType(16)
SQRT_2_PI = np.float32(0.7978845608028654)


@intrinsic
def _power_of_two(typingctx, n):
    """2^n for a float32 whole number n in [-126, 127]: its bits are (n + 127) << 23."""

    def codegen(context, b, signature, args):
        whole = b.fptosi(args[0], I32)
        bits = b.shl(b.add(whole, ir.Constant(I32, 127)), ir.Constant(I32, 23))
        return b.bitcast(bits, F32)

    return types.float32(types.float32), codegen


@kernel(inline="always")
def exp(x):
    """e^x in float32, relative error below 2e-7; x is clamped to [-87, 88].

    x = n log 2 + r with whole n, |r| <= 0.35; e^r is a polynomial of degree 6.
    """
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    # log 2 in two parts, the first with few bits, so that n times it is exact
    r = x - n * np.float32(0.693359375)
    r = r - n * np.float32(-2.12194440e-4)
    p = np.float32(1.3888889e-3)
    p = p * r + np.float32(8.3333333e-3)
    p = p * r + np.float32(4.1666667e-2)
    p = p * r + np.float32(1.6666667e-1)
    p = p * r + np.float32(0.5)
    p = p * r * r + r + np.float32(1.0)
    return p * _power_of_two(n)


@kernel(inline="always")
def gelu_one(x):
    """x/2 (1 + tanh u) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    u = SQRT_2_PI * x * (np.float32(1.0) + np.float32(0.044715) * x * x)
    return x / (np.float32(1.0) + exp(np.float32(-2.0) * u))


@intrinsic
def _pointer(typingctx, array, address):
    """The address as a pointer to the array's numbers."""

    def codegen(context, b, signature, args):
        kind = context.get_value_type(signature.return_type)
        return b.inttoptr(args[1], kind)

    return types.CPointer(array.dtype)(array, types.intp), codegen


@kernel(inline="always")
def line(array, i):
    """Row i of (n, D), whose numbers must follow each other.

    The compiler cannot know that of a view, and would take them one by one.
    """
    at = array.ctypes.data + i * array.strides[0]
    return carray(_pointer(array, at), array.shape[1])


@intrinsic
def widen(typingctx, x):
    """float32 of a cache's number: float32, or uint16 with a float16's bits."""

    def codegen(context, b, signature, args):
        if signature.args[0] == types.float32:
            return args[0]
        return b.fpext(b.bitcast(args[0], HALF), F32)

    return types.float32(x), codegen


@intrinsic
def narrow(typingctx, x, like):
    """The opposite of `widen`, to the type of `like`."""

    def codegen(context, b, signature, args):
        if signature.return_type == types.float32:
            return args[0]
        return b.bitcast(b.fptrunc(args[0], HALF), I16)

    return like(types.float32, like), codegen


@intrinsic
def weight_value(typingctx, x):
    """float32 of a packed number: as it is, from a bfloat16's bits, or from int8."""

    def codegen(context, b, signature, args):
        kind = signature.args[0]
        if kind == types.float32:
            return args[0]
        if kind == types.int8:
            return b.sitofp(args[0], F32)
        return b.bitcast(b.shl(b.zext(args[0], I32), ir.Constant(I32, 16)), F32)

    return types.float32(x), codegen
