"""The tile unit: blocks of 32 rows by 32 columns in one instruction a product of tiles.

    C[32, 32] = A[32, k] B[k, 32]

Intel's AMX has eight registers of 16 rows of 64 bytes. A tile of A holds 16 rows of 32
bfloat16 (or 64 int8) numbers, a tile of B the same k as pairs (fours) of 16 columns,
which is just how npgpt.kernels.packed lays a panel out, and one instruction multiplies
them in 16 cycles: 1,024 (2,048) operations a cycle, where AVX-512 has 64. Registers 0-3
hold C, 4 and 5 two tiles of A, 6 and 7 two of B, so every tile that is loaded is used
twice.

bfloat16: C stays in the registers for all of k. int8: each group of 64 numbers has a
scale of its own, so the exact int32 sums of every single product of tiles go to memory,
are scaled and added to C as floats; still twice as fast as vpdpbusd.

The system must have granted them (npgpt.kernels.tiers). Inputs and results need room
for whole tiles of 16 rows; a panel has no half ones.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.llvm import (
    F32,
    I8,
    I64,
    F32x16,
    I32x16,
    call,
    load,
    loop,
    multiply_add,
    splat,
    store,
    upper_halves,
)
from npgpt.kernels.tiers import AMX

TILE = 16 * 64  # bytes
POINTER, VOID = I8.as_pointer(), ir.VoidType()


def _tile(n):
    return ir.Constant(I8, n)


def _number(value):
    return ir.Constant(I64, value)


def _at(b, address, offset=0):
    return b.inttoptr(b.add(address, _number(offset)), POINTER)


def _void(b, name, *arguments):
    """Call an intrinsic that returns nothing."""
    call(b, name, VOID, arguments)


@intrinsic
def configure(typingctx, isa):
    """All eight tiles: 16 rows of 64 bytes. Nothing below the tier of AMX."""

    def codegen(context, b, signature, args):
        if len(signature.args[0]) >= AMX:
            config = bytearray(64)
            config[0] = 1  # the only palette
            config[16:32:2] = bytes([64] * 8)
            config[48:56] = bytes([16] * 8)
            kind = ir.ArrayType(I8, 64)
            name = "npgpt_tile_config"
            constant = b.module.globals.get(name)
            if constant is None:
                constant = ir.GlobalVariable(b.module, kind, name)
                constant.linkage = "internal"
                constant.global_constant = True
                constant.initializer = ir.Constant(kind, config)
            _void(b, "llvm.x86.ldtilecfg", b.bitcast(constant, POINTER))
        return context.get_dummy_value()

    return types.void(isa), codegen


@intrinsic
def release(typingctx, isa):
    """Give the tiles back: a thread without them is cheaper to switch."""

    def codegen(context, b, signature, args):
        if len(signature.args[0]) >= AMX:
            _void(b, "llvm.x86.tilerelease")
        return context.get_dummy_value()

    return types.void(isa), codegen


_NAMES = ("a", "a_row", "a_scale", "a_scale_row", "b", "b_panel", "b_scale",
          "b_scale_panel", "c", "c_row", "k")  # fmt: skip


@intrinsic
def block(
    typingctx,
    isa,
    data,
    rows,
    panels,
    a,
    a_row,
    a_scale,
    a_scale_row,
    b,
    b_panel,
    b_scale,
    b_scale_panel,
    c,
    c_row,
    k,
):
    """C = A B for one or two tiles of rows and of panels.

    `data`, the array of B, is here for its type; what follows are numbers, bytes and
    addresses. int8 needs the scales.
    """
    kind, tier = data.dtype, len(isa)

    def codegen(context, builder, signature, values):
        if tier < AMX or kind == types.float32:
            return context.get_dummy_value()
        module, tall, wide = builder.module, values[2], values[3]
        for i in (2, 1):
            for j in (2, 1):
                name = f"npgpt_amx_{kind}_{i}_{j}"
                function = module.globals.get(name) or _block(module, name, i, j, kind)
                fits = builder.and_(
                    builder.icmp_signed("==", tall, _number(i)),
                    builder.icmp_signed("==", wide, _number(j)),
                )
                with builder.if_then(fits):
                    builder.call(function, values[4:])
        return context.get_dummy_value()

    numbers = [types.intp] * (len(_NAMES) + 2)
    return types.void(isa, data, *numbers), codegen


def _block(module, name, tall, wide, kind):
    """The LLVM function of a block of tall x wide tiles."""
    function = ir.Function(module, ir.FunctionType(VOID, [I64] * len(_NAMES)), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block())
    args = dict(zip(_NAMES, function.args, strict=True))
    pairs = [(i, j) for i in range(tall) for j in range(wide)]
    room = b.alloca(ir.ArrayType(I32x16, 4 * 16))  # aligned to 64 bytes
    room = b.ptrtoint(room, I64)

    def load_tiles(step):
        """The tiles of A and B at this step of k."""
        for i in range(tall):
            at = b.add(args["a"], b.mul(args["a_row"], _number(16 * i)))
            at = b.add(at, b.mul(step, _number(64)))
            _void(b, "llvm.x86.tileloadd64", _tile(4 + i), _at(b, at), args["a_row"])
        for j in range(wide):
            at = b.add(args["b"], b.mul(args["b_panel"], _number(j)))
            at = b.add(at, b.mul(step, _number(TILE)))
            _void(b, "llvm.x86.tileloadd64", _tile(6 + j), _at(b, at), _number(64))

    def clear():
        for i, j in pairs:
            _void(b, "llvm.x86.tilezero", _tile(2 * i + j))

    def multiply(instruction):
        for i, j in pairs:
            _void(b, instruction, _tile(2 * i + j), _tile(4 + i), _tile(6 + j))

    def c_at(i, j, r=None):
        """Where C has the tile i, j, or its row r."""
        r = _number(16 * i) if r is None else b.add(r, _number(16 * i))
        return b.add(b.add(args["c"], b.mul(args["c_row"], r)), _number(64 * j))

    def floats(step, _):
        load_tiles(step)
        multiply("llvm.x86.tdpbf16ps")
        return []

    def group(step, _):
        clear()
        load_tiles(step)
        multiply("llvm.x86.tdpbssd")
        for i, j in pairs:
            at = _at(b, room, (2 * i + j) * TILE)
            _void(b, "llvm.x86.tilestored64", _tile(2 * i + j), at, _number(64))
        scales = [
            upper_halves(
                b,
                b.add(
                    b.add(args["b_scale"], b.mul(args["b_scale_panel"], _number(j))),
                    b.mul(step, _number(32)),
                ),
            )
            for j in range(wide)
        ]
        for i in range(tall):

            def row(r, _, i=i):
                one = b.add(
                    args["a_scale"],
                    b.mul(args["a_scale_row"], b.add(r, _number(16 * i))),
                )
                one = b.add(one, b.mul(step, _number(4)))
                one = splat(b, load(b, one, F32), 16)
                for j in range(wide):
                    c = c_at(i, j, r)
                    ints = b.add(
                        b.add(room, _number((2 * i + j) * TILE)), b.mul(r, _number(64))
                    )
                    ints = b.sitofp(load(b, ints, I32x16), F32x16)
                    scale = b.fmul(one, scales[j])
                    total = multiply_add(b, ints, scale, load(b, c, F32x16))
                    store(b, total, c)
                return []

            loop(b, _number(16), [], row)
        return []

    steps = b.sdiv(args["k"], _number(32 if kind == types.uint16 else 64))
    if kind == types.uint16:
        clear()
        loop(b, steps, [], floats)
        for i, j in pairs:
            _void(
                b,
                "llvm.x86.tilestored64",
                _tile(2 * i + j),
                _at(b, c_at(i, j)),
                args["c_row"],
            )
    else:
        zero = ir.Constant(F32x16, [0.0] * 16)
        for i, j in pairs:
            for r in range(16):
                store(b, zero, c_at(i, j, _number(r)))
        loop(b, steps, [], group)
    b.ret_void()
    return function
