"""The innermost loops, as LLVM instructions: a tile of some rows by 16 or 32 columns.

    C[r, j] (+)= sum over k of A[r, k] B[k, j]

Everything heavy in npgpt.kernels is this. C stays in vector registers for the whole
sum; each step loads 16 weights (of each panel) once and uses them for all rows. That is
why it is fast, and why it cannot be said in plain Python: Numba's loops keep an array
of accumulators in memory, and LLVM does not find the int8 instructions by itself.

Weights come in panels of 16 columns (npgpt.kernels.packed):

    float32    k by k:           16 numbers
    bfloat16   pairs of k:       16 x 2 numbers; a shift or a mask widens them, or one
               instruction multiplies them with pairs of inputs in bfloat16 (NARROW)
    int8       fours of k:       16 x 4 numbers; exact int32 sums of a group of 64, then
               one multiplication by the scales of weight group and activation group

With AVX-512 two panels are multiplied at once: in decoding that is two streams from
memory instead of one, in prompts it halves the loads of A. Weights are asked for some
KB before they are read, since a core alone does not look that far ahead. Sums of floats
are reordered, so results differ from the reference by rounding.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.llvm import (
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
    store,
    upper_halves,
)

GROUP = 64  # numbers of the input that share an int8 scale
AHEAD = 7168  # bytes between a weight that is read and one that is asked for
BLOCK = 64  # products of a float sum, before it is added to the others
AVX2, AVX512, BF16, AMX = 1, 2, 3, 4  # lengths of the tier's tuple
ONE, TWO = (), (0, 0)  # panels that a tile multiplies at once
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


def _float_tile(b, rows, panels, kind, args):
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


def _int8_tile(b, rows, panels, tier, args):
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


_NAMES = ("b", "b_panel", "b_scale", "a", "a_row", "a_step", "a_scale", "a_sum",
          "a_group_row", "c", "c_row", "k", "accumulate", "ahead", "pace")  # fmt: skip


def _tile_function(module, name, rows, panels, kind, tier):
    """The LLVM function of one tile."""
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [I64] * len(_NAMES)), name
    )
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    args = dict(zip(_NAMES, function.args, strict=True))
    at = [
        b.add(
            b.add(args["c"], b.mul(args["c_row"], ir.Constant(I64, r))),
            ir.Constant(I64, 64 * p),
        )
        for r in range(rows)
        for p in range(panels)
    ]
    if kind == types.int8:
        sums = _int8_tile(b, rows, panels, tier, args)
    else:
        sums = _float_tile(b, rows, panels, kind, args)
    # Reading C where it is not wanted is harmless: the tile is ours.
    fresh = b.icmp_signed("==", args["accumulate"], ir.Constant(I64, 0))
    for total, address in zip(sums, at, strict=True):
        before = b.select(fresh, const(F32x16, 0.0), load(b, address, F32x16))
        store(b, b.fadd(before, total), address)
    b.ret_void()
    return function


@intrinsic
def tiles(
    typingctx,
    isa,
    data,
    inputs,
    panels,
    most,
    b,
    b_panel,
    b_scale,
    a,
    a_row,
    a_step,
    a_scale,
    a_sum,
    a_group_row,
    c,
    c_row,
    k,
    accumulate,
    ahead,
    pace,
):
    """C (+)= A B for the largest tile of at most `most` rows; how many rows it took.

    `data` and `inputs` (the arrays of B and A) are here for their types; `panels`, how
    many are multiplied at once, is a tuple of that length. What follows are numbers,
    bytes and addresses; from one float (or pair) of A to the next it is a_step. Float
    tiles of 12 rows ask, with every step, for `pace` bytes more of each panel from
    `ahead` of it on; the others for what lies AHEAD.
    """
    kind, tier, wide = data.dtype, len(isa), max(1, len(panels))
    if kind == types.uint16 and inputs.dtype == types.uint16:
        kind = NARROW

    def codegen(context, builder, signature, values):
        # Functions of their own, not inlined: a kernel that calls them from many
        # places would otherwise be compiled for minutes.
        module = builder.module
        name = f"npgpt_tiles_{kind}_{wide}_{tier}"
        function = module.globals.get(name) or _tiles_function(
            module, name, wide, kind, tier
        )
        return builder.call(function, values[4:])

    numbers = [types.intp] * (len(_NAMES) + 1)
    return types.intp(isa, data, inputs, panels, *numbers), codegen


def _tiles_function(module, name, panels, kind, tier):
    """Chooses the tallest tile that fits."""
    function = ir.Function(
        module, ir.FunctionType(I64, [I64] * (len(_NAMES) + 1)), name
    )
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    most, *rest = function.args
    for rows in heights(kind, panels, tier):
        tile = _tile_function(module, f"{name}_{rows}", rows, panels, kind, tier)
        fits = b.icmp_signed(">=", most, ir.Constant(I64, rows))
        with b.if_then(fits):
            b.call(tile, rest)
            b.ret(ir.Constant(I64, rows))
    b.ret(ir.Constant(I64, 0))
    return function


def heights(kind, panels, tier):
    """Rows of the tiles that there are: as many as fit into the registers.

    AVX-512 has 32 registers of 16 numbers, AVX2 16 of 8.
    """
    if (panels == 2 and tier < AVX512) or (kind == NARROW and tier < BF16):
        return ()  # nobody calls it
    if kind == types.int8:
        return (4, 1) if panels == 1 and tier >= AVX512 else (4, 3, 2, 1)
    if tier < AVX512:
        return 6, 4, 3, 2, 1
    return (12, 8, 6, 4, 3, 2, 1) if panels == 2 else (4, 1)
