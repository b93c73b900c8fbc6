"""The sum over k of a tile, for weights in int8 (npgpt.kernels.vector).

A group of 64 products is summed exactly in int32, then multiplied by the scales of
weights and inputs and added as float32. Each tier has its own instruction for four
products at a time.
"""

from __future__ import annotations

from llvmlite import ir

from npgpt.kernels.llvm import (
    AHEAD,
    F32,
    I32,
    I64,
    F32x16,
    I8x32,
    I8x64,
    I16x16,
    I32x8,
    I32x16,
    ask,
    call,
    const,
    load,
    loop,
    multiply_add,
    splat,
    upper_halves,
)
from npgpt.kernels.packed import GROUP
from npgpt.kernels.tiers import AVX2, AVX512


def _dot4(b, tier, acc, w, a):
    """acc[j] + sum of w[4 j + i] a[i] over i < 4: int8 products, int32 sums."""
    if tier >= AVX512:
        # vpdpbusd wants one side unsigned: w + 128; the caller takes 128 sum(a) off.
        w = b.xor(w, const(I8x64, -128))
        a = b.bitcast(splat(b, a, 16), I8x64)
        return call(b, "llvm.x86.avx512.vpdpbusd.512", I32x16, [acc, w, a])
    if tier >= AVX2:
        # vpmaddubsw wants one side unsigned and adds two products in 16 bits:
        # |a| (sign(a) w), at most 2 * 127 * 127, which fits.
        a = b.bitcast(splat(b, a, 8), I8x32)
        size = call(b, "llvm.abs.v32i8", I8x32, [a, ir.Constant(ir.IntType(1), 0)])
        halves = []
        for half in range(2):
            index = list(range(32 * half, 32 * half + 32))
            part = b.shuffle_vector(w, w, ir.Constant(ir.VectorType(I32, 32), index))
            part = call(b, "llvm.x86.avx2.psign.b", I8x32, [part, a])
            pairs = call(b, "llvm.x86.avx2.pmadd.ub.sw", I16x16, [size, part])
            ones = const(I16x16, 1)
            halves.append(call(b, "llvm.x86.avx2.pmadd.wd", I32x8, [pairs, ones]))
        both = ir.Constant(I32x16, list(range(16)))
        return b.add(acc, b.shuffle_vector(*halves, both))
    w = b.bitcast(w, I32x16)
    for i in range(4):  # byte i, with its sign, in every 32-bit number
        byte = b.ashr(b.shl(w, const(I32x16, 24 - 8 * i)), const(I32x16, 24))
        one = b.ashr(b.shl(a, ir.Constant(I32, 24 - 8 * i)), ir.Constant(I32, 24))
        acc = b.add(acc, b.mul(byte, splat(b, one, 16)))
    return acc


def int8_tile(b, rows, panels, tier, args):
    """The sum over k for int8: exact within a group, scaled and added as float32."""

    def n(value):
        return ir.Constant(I64, value)

    def panel(name, p):
        """Where panel p begins, in b or in b_scale: 2 bytes of scale for 64 of b."""
        size = args["b_panel"] if name == "b" else b.sdiv(args["b_panel"], n(32))
        return b.add(args[name], b.mul(size, n(p)))

    def group(g, sums):
        weights = [b.add(panel("b", p), b.mul(g, n(GROUP * 16))) for p in range(panels)]
        base_a = b.add(args["a"], b.mul(g, n(GROUP)))
        starts = [const(I32x16, 0)] * rows
        if tier >= AVX512:
            starts = [
                splat(
                    b,
                    load(
                        b,
                        b.add(
                            b.add(args["a_sum"], b.mul(args["a_group_row"], n(r))),
                            b.mul(g, n(4)),
                        ),
                        I32,
                    ),
                    16,
                )
                for r in range(rows)
            ]

        def four(i, ints):
            at = [b.add(base, b.mul(i, n(64))) for base in weights]
            w = [load(b, address, I8x64) for address in at]
            for address in at:
                ask(b, b.add(address, n(AHEAD)))
            x, out = b.add(base_a, b.mul(i, n(4))), []
            for r in range(rows):
                a = load(b, b.add(x, b.mul(args["a_row"], n(r))), I32)
                out += [
                    _dot4(b, tier, ints[r * panels + p], w[p], a) for p in range(panels)
                ]
            return out

        starts = [start for start in starts for _ in range(panels)]
        ints = loop(b, n(GROUP // 4), starts, four)
        scales = [
            upper_halves(b, b.add(panel("b_scale", p), b.mul(g, n(32))))
            for p in range(panels)
        ]
        out = []
        for r in range(rows):
            at = b.add(args["a_scale"], b.mul(args["a_group_row"], n(r)))
            one = splat(b, load(b, b.add(at, b.mul(g, n(4))), F32), 16)
            for p in range(panels):
                number, total = ints[r * panels + p], sums[r * panels + p]
                both = b.fmul(scales[p], one)
                out.append(multiply_add(b, b.sitofp(number, F32x16), both, total))
        return out

    groups = b.sdiv(args["k"], n(GROUP))
    return loop(b, groups, [const(F32x16, 0.0)] * (rows * panels), group)
