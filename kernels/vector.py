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

The sums themselves are in vector_float.py and vector_int8.py; here they become tiles of
every height, and `tiles`, which kernels call, takes the tallest that fits.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.llvm import (
    I64,
    F32x16,
    const,
    load,
    store,
)
from npgpt.kernels.tiers import AVX512, BF16
from npgpt.kernels.vector_float import NARROW, float_tile
from npgpt.kernels.vector_int8 import int8_tile

ONE, TWO = (), (0, 0)  # panels that a tile multiplies at once
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
        sums = int8_tile(b, rows, panels, tier, args)
    else:
        sums = float_tile(b, rows, panels, kind, args)
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
