"""The innermost loops, written as LLVM instructions: a tile of R rows by 16 columns.

    C[r, j] (+)= sum over k of A[r, k] B[k, j]      r < R, j < 16

Everything heavy in npgpt.kernels is this. C stays in vector registers for the whole
sum; each step loads 16 weights once and uses them for R rows. That is why it is fast,
and why it cannot be said in plain Python: Numba's loops keep an array of accumulators
in memory, and LLVM does not find the int8 instructions by itself.

Weights come in panels of 16 columns (npgpt.kernels.packed):

    float32    k by k:           16 numbers
    bfloat16   pairs of k:       16 x 2 numbers; a shift or a mask widens them
    int8       fours of k:       16 x 4 numbers; exact int32 sums of a group of 64, then
               one multiplication by the scales of weight group and activation group

Vectors are 16 numbers long whatever the processor has: LLVM cuts them to its width. An
address is checked by nobody here: callers own and size every buffer. Sums of floats are
reordered, so results differ from the reference by rounding.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
F32 = ir.FloatType()
F32x16, I32x16 = ir.VectorType(F32, 16), ir.VectorType(I32, 16)
I8x64, I8x32 = ir.VectorType(I8, 64), ir.VectorType(I8, 32)
I16x16, I32x8 = ir.VectorType(I16, 16), ir.VectorType(I32, 8)
GROUP = 64  # numbers of the input that share an int8 scale
BLOCK = 64  # products of a float sum, before it is added to the others
AVX2, AVX512 = 1, 2  # lengths of the tier's tuple


def _call(b, name, result, arguments):
    """Call an LLVM intrinsic by name."""
    function = b.module.globals.get(name) or ir.Function(
        b.module, ir.FunctionType(result, [a.type for a in arguments]), name
    )
    return b.call(function, arguments)


def _load(b, address, kind):
    return b.load(b.inttoptr(address, kind.as_pointer()), align=1)


def _store(b, value, address):
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=1)


def _splat(b, scalar, n):
    """A vector of n times this number."""
    kind = ir.VectorType(scalar.type, n)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, n), [0] * n))


def _const(kind, value):
    return ir.Constant(kind, [value] * kind.count)


def _multiply_add(b, x, y, z):
    # fmuladd, not fma: without the instruction, fma would call a slow function
    return _call(b, "llvm.fmuladd.v16f32", F32x16, [x, y, z])


def _loop(b, count, carried, body):
    """Run body(i, values) -> values for i in 0 .. count - 1 (count >= 1)."""
    entry = b.block
    loop, done = b.append_basic_block("loop"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    i.add_incoming(ir.Constant(I64, 0), entry)
    values = []
    for value in carried:
        phi = b.phi(value.type)
        phi.add_incoming(value, entry)
        values.append(phi)
    new = body(i, values)
    after, here = b.add(i, ir.Constant(I64, 1)), b.block
    i.add_incoming(after, here)
    for phi, value in zip(values, new, strict=True):
        phi.add_incoming(value, here)
    b.cbranch(b.icmp_signed("<", after, count), loop, done)
    b.position_at_end(done)
    return new


def _float_step(b, rows, kind, a, a_row, b_at, i, accs):
    """One k (float32) or one pair of k (bfloat16) for all rows."""

    def at(k, r):
        return b.add(
            b.add(a, b.mul(a_row, ir.Constant(I64, r))), b.mul(k, ir.Constant(I64, 4))
        )

    raw = _load(b, b.add(b_at, b.mul(i, ir.Constant(I64, 64))), I32x16)
    if kind == types.float32:
        parts = [(i, b.bitcast(raw, F32x16))]
    else:  # a bfloat16 is the upper half of a float32
        even = b.bitcast(b.shl(raw, _const(I32x16, 16)), F32x16)
        odd = b.bitcast(b.and_(raw, _const(I32x16, 0xFFFF0000)), F32x16)
        first = b.mul(i, ir.Constant(I64, 2))
        parts = [(first, even), (b.add(first, ir.Constant(I64, 1)), odd)]
    for k, weights in parts:
        accs = [
            _multiply_add(b, _splat(b, _load(b, at(k, r), F32), 16), weights, acc)
            for r, acc in zip(range(rows), accs, strict=True)
        ]
    return accs


def _float_tile(b, rows, kind, args):
    """The sum over k for float32 and bfloat16 weights.

    Sums of 64 products each, added up: one sum of thousands would lose digits.
    """
    count = ir.Constant(I64, BLOCK)

    def block(i, totals):
        done = b.mul(i, count)
        left = b.sub(args["k"], done)
        part = dict(args, k=b.select(b.icmp_signed("<", left, count), left, count))
        part["a"] = b.add(args["a"], b.mul(done, ir.Constant(I64, 4)))
        width = 64 if kind == types.float32 else 32
        part["b"] = b.add(args["b"], b.mul(done, ir.Constant(I64, width)))
        sums = _float_block(b, rows, kind, part)
        return [b.fadd(x, y) for x, y in zip(totals, sums, strict=True)]

    blocks = b.sdiv(b.add(args["k"], ir.Constant(I64, BLOCK - 1)), count)
    return _loop(b, blocks, [_const(F32x16, 0.0)] * rows, block)


def _float_block(b, rows, kind, args):
    b_at, a, a_row, k = args["b"], args["a"], args["a_row"], args["k"]
    per_step = 1 if kind == types.float32 else 2
    # A multiplication takes 4 cycles, and two start each cycle: eight chains, at least,
    # must be under way. With few rows they come from several k at once.
    unroll = max(1, 4 // rows) if rows < 4 else 1

    def body(i, values):
        out = []
        for u in range(unroll):
            step = b.add(b.mul(i, ir.Constant(I64, unroll)), ir.Constant(I64, u))
            mine = values[u * rows : (u + 1) * rows]
            out += _float_step(b, rows, kind, a, a_row, b_at, step, mine)
        return out

    steps = b.sdiv(k, ir.Constant(I64, unroll * per_step))
    sums = _loop(b, steps, [_const(F32x16, 0.0)] * (rows * unroll), body)
    for u in range(1, unroll):
        for r in range(rows):
            sums[r] = b.fadd(sums[r], sums[u * rows + r])
    return sums[:rows]


def _dot4(b, tier, acc, w, a):
    """acc[j] + sum of w[4 j + i] a[i] over i < 4: int8 products, int32 sums."""
    if tier >= AVX512:
        # vpdpbusd wants one side unsigned: w + 128; the caller takes 128 sum(a) off.
        w = b.xor(w, _const(I8x64, -128))
        a = b.bitcast(_splat(b, a, 16), I8x64)
        return _call(b, "llvm.x86.avx512.vpdpbusd.512", I32x16, [acc, w, a])
    if tier >= AVX2:
        # vpmaddubsw wants one side unsigned and adds two products in 16 bits:
        # |a| (sign(a) w), at most 2 * 127 * 127, which fits.
        a = b.bitcast(_splat(b, a, 8), I8x32)
        size = _call(b, "llvm.abs.v32i8", I8x32, [a, ir.Constant(ir.IntType(1), 0)])
        halves = []
        for half in range(2):
            index = list(range(32 * half, 32 * half + 32))
            part = b.shuffle_vector(w, w, ir.Constant(ir.VectorType(I32, 32), index))
            part = _call(b, "llvm.x86.avx2.psign.b", I8x32, [part, a])
            pairs = _call(b, "llvm.x86.avx2.pmadd.ub.sw", I16x16, [size, part])
            ones = _const(I16x16, 1)
            halves.append(_call(b, "llvm.x86.avx2.pmadd.wd", I32x8, [pairs, ones]))
        both = ir.Constant(I32x16, list(range(16)))
        return b.add(acc, b.shuffle_vector(*halves, both))
    w = b.bitcast(w, I32x16)
    for i in range(4):  # byte i, with its sign, in every 32-bit number
        byte = b.ashr(b.shl(w, _const(I32x16, 24 - 8 * i)), _const(I32x16, 24))
        one = b.ashr(b.shl(a, ir.Constant(I32, 24 - 8 * i)), ir.Constant(I32, 24))
        acc = b.add(acc, b.mul(byte, _splat(b, one, 16)))
    return acc


def _int8_tile(b, rows, tier, args):
    """The sum over k for int8: exact within a group, scaled and added as float32."""

    def n(value):
        return ir.Constant(I64, value)

    def group(g, sums):
        base_b = b.add(args["b"], b.mul(g, n(GROUP * 16)))
        base_a = b.add(args["a"], b.mul(g, n(GROUP)))
        if tier >= AVX512:
            starts = [
                _splat(b, _load(b, b.add(
                    b.add(args["a_sum"], b.mul(args["a_group_row"], n(r))),
                    b.mul(g, n(4))), I32), 16)
                for r in range(rows)
            ]  # fmt: skip
        else:
            starts = [_const(I32x16, 0)] * rows

        def four(i, ints):
            w = _load(b, b.add(base_b, b.mul(i, n(64))), I8x64)
            at = b.add(base_a, b.mul(i, n(4)))
            out = []
            for r in range(rows):
                a = _load(b, b.add(at, b.mul(args["a_row"], n(r))), I32)
                out.append(_dot4(b, tier, ints[r], w, a))
            return out

        ints = _loop(b, n(GROUP // 4), starts, four)
        scale = _load(b, b.add(args["b_scale"], b.mul(g, n(64))), F32x16)
        out = []
        for r in range(rows):
            at = b.add(args["a_scale"], b.mul(args["a_group_row"], n(r)))
            one = _splat(b, _load(b, b.add(at, b.mul(g, n(4))), F32), 16)
            both = b.fmul(scale, one)
            out.append(_multiply_add(b, b.sitofp(ints[r], F32x16), both, sums[r]))
        return out

    groups = b.sdiv(args["k"], n(GROUP))
    return _loop(b, groups, [_const(F32x16, 0.0)] * rows, group)


_NAMES = ("b", "b_scale", "a", "a_row", "a_scale", "a_sum", "a_group_row", "c", "c_row",
          "k", "accumulate")  # fmt: skip


def _tile_function(module, name, rows, kind, tier):
    """The LLVM function of one tile."""
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [I64] * len(_NAMES)), name
    )
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    args = dict(zip(_NAMES, function.args, strict=True))
    at = [
        b.add(args["c"], b.mul(args["c_row"], ir.Constant(I64, r))) for r in range(rows)
    ]
    if kind == types.int8:
        sums = _int8_tile(b, rows, tier, args)
    else:
        sums = _float_tile(b, rows, kind, args)
    # Reading C where it is not wanted is harmless: the tile is ours.
    fresh = b.icmp_signed("==", args["accumulate"], ir.Constant(I64, 0))
    for total, address in zip(sums, at, strict=True):
        before = b.select(fresh, _const(F32x16, 0.0), _load(b, address, F32x16))
        _store(b, b.fadd(before, total), address)
    b.ret_void()
    return function


@intrinsic
def tiles(typingctx, isa, data, most, b, b_scale, a, a_row, a_scale, a_sum,
          a_group_row, c, c_row, k, accumulate):  # fmt: skip
    """C (+)= A B for the largest tile of at most `most` rows; how many rows it took.

    `data` is here for its type, what follows `most` are bytes and addresses.
    """
    kind, tier = data.dtype, len(isa)

    def codegen(context, builder, signature, values):
        # Functions of their own, not inlined: a kernel that calls them from many
        # places would otherwise be compiled for minutes.
        module = builder.module
        name = f"npgpt_tiles_{kind}_{tier}"
        function = module.globals.get(name) or _tiles_function(module, name, kind, tier)
        return builder.call(function, values[2:])

    return types.intp(isa, data, *[types.intp] * (len(_NAMES) + 1)), codegen


def _tiles_function(module, name, kind, tier):
    """Chooses among the tiles of 6 (4 for int8), 4, 3, 2 and 1 rows."""
    function = ir.Function(
        module, ir.FunctionType(I64, [I64] * (len(_NAMES) + 1)), name
    )
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    most, *rest = function.args
    for rows in (6, 4, 3, 2, 1):
        if kind == types.int8 and rows == 6:
            continue
        tile = _tile_function(
            module, f"npgpt_tile_{rows}_{kind}_{tier}", rows, kind, tier
        )
        fits = b.icmp_signed(">=", most, ir.Constant(I64, rows))
        with b.if_then(fits):
            b.call(tile, rest)
            b.ret(ir.Constant(I64, rows))
    b.ret(ir.Constant(I64, 0))
    return function
