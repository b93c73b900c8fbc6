"""The sum over k of a tile, for weights in float32 and bfloat16 (npgpt.kernels.vector).

A bfloat16 is the upper half of a float32: a shift or a mask widens the two of a pair.
Where inputs are bfloat16 too (NARROW), one instruction multiplies pairs with pairs.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types

from npgpt.kernels.llvm import (
    AHEAD,
    F32,
    I32,
    I64,
    F32x16,
    I32x16,
    ask,
    call,
    const,
    load,
    loop,
    multiply_add,
    splat,
)

BLOCK = 64  # products of a float sum, before it is added to the others
NARROW = "narrow"  # bfloat16 weights times bfloat16 inputs, in pairs


def _float_step(b, kind, a, a_row, a_step, panels, ahead, pace, i, accs):
    """One k (float32) or one pair of k (bfloat16) for all rows and panels.

    accs[r][p] is the tile's row r in panel p; panels are addresses, and `ahead` of them
    begins what is asked for, `pace` bytes further in every step.
    """

    def at(r, k):
        return b.add(b.add(a, b.mul(a_row, ir.Constant(I64, r))), b.mul(k, a_step))

    offset = b.mul(i, ir.Constant(I64, 64))
    raw = [load(b, b.add(panel, offset), I32x16) for panel in panels]
    step = b.mul(i, pace)
    for panel in panels:
        ask(b, b.add(b.add(panel, step), ahead))
    if kind == NARROW:
        ones = [splat(b, load(b, at(r, i), I32), 16) for r in range(len(accs))]
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        return [
            [
                call(b, name, F32x16, [acc, one, w])
                for acc, w in zip(row, raw, strict=True)
            ]
            for one, row in zip(ones, accs, strict=True)
        ]
    if kind == types.float32:
        parts = [(i, [b.bitcast(w, F32x16) for w in raw])]
    else:  # a bfloat16 is the upper half of a float32
        even = [b.bitcast(b.shl(w, const(I32x16, 16)), F32x16) for w in raw]
        odd = [b.bitcast(b.and_(w, const(I32x16, 0xFFFF0000)), F32x16) for w in raw]
        first = b.mul(i, ir.Constant(I64, 2))
        parts = [(first, even), (b.add(first, ir.Constant(I64, 1)), odd)]
    for k, weights in parts:
        ones = [splat(b, load(b, at(r, k), F32), 16) for r in range(len(accs))]
        accs = [
            [multiply_add(b, one, w, acc) for acc, w in zip(row, weights, strict=True)]
            for one, row in zip(ones, accs, strict=True)
        ]
    return accs


def float_tile(b, rows, panels, kind, args):
    """The sum over k for float32 and bfloat16 weights, row by row, panel by panel.

    Sums of 64 products each, added up: one sum of thousands would lose digits. Large
    tiles leave no registers for that; their callers take k in blocks of their own.
    """
    count = ir.Constant(I64, BLOCK)
    b_width = ir.Constant(I64, 64 if kind == types.float32 else 32)
    starts = [args["b"]]
    for _ in range(1, panels):
        starts.append(b.add(starts[-1], args["b_panel"]))
    a, a_row, a_step = args["a"], args["a_row"], args["a_step"]
    ahead = ir.Constant(I64, AHEAD), ir.Constant(I64, 64)
    if rows > 8:  # many rows pass by: the caller knows what comes next
        ahead = args["ahead"], args["pace"]
    if rows * panels > 8:
        return _float_block(b, rows, kind, a, a_row, a_step, starts, ahead, args["k"])

    def block(i, totals):
        done = b.mul(i, count)
        left = b.sub(args["k"], done)
        k = b.select(b.icmp_signed("<", left, count), left, count)
        steps = b.sdiv(done, ir.Constant(I64, 2)) if kind == NARROW else done
        here = b.add(a, b.mul(steps, a_step))
        at = [b.add(start, b.mul(done, b_width)) for start in starts]
        sums = _float_block(b, rows, kind, here, a_row, a_step, at, ahead, k)
        return [b.fadd(x, y) for x, y in zip(totals, sums, strict=True)]

    blocks = b.sdiv(b.add(args["k"], ir.Constant(I64, BLOCK - 1)), count)
    return loop(b, blocks, [const(F32x16, 0.0)] * (rows * panels), block)


def _float_block(b, rows, kind, a, a_row, a_step, at, ahead, k):
    panels = len(at)
    # A multiplication takes 4 cycles, and two start each cycle: eight chains, at least,
    # must be under way. With few rows they come from several k at once.
    unroll = max(1, 4 // rows) if rows < 4 else 1

    def body(i, values):
        out = []
        for u in range(unroll):
            step = b.add(b.mul(i, ir.Constant(I64, unroll)), ir.Constant(I64, u))
            mine = values[u * rows * panels : (u + 1) * rows * panels]
            accs = [mine[r * panels : (r + 1) * panels] for r in range(rows)]
            for row in _float_step(b, kind, a, a_row, a_step, at, *ahead, step, accs):
                out += row
        return out

    steps = b.sdiv(k, ir.Constant(I64, unroll * (1 if kind == types.float32 else 2)))
    size = rows * panels
    sums = loop(b, steps, [const(F32x16, 0.0)] * (size * unroll), body)
    for u in range(1, unroll):
        for r in range(size):
            sums[r] = b.fadd(sums[r], sums[u * size + r])
    return sums[:size]
