"""Words of LLVM that the kernels' innermost loops are written in.

A function here adds instructions at the place where the builder `b` stands. Vectors
are 16 numbers long whatever the processor has: LLVM cuts them to its width. An address
is an int64 and is checked by nobody: callers own and size every buffer.
"""

from __future__ import annotations

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
F32 = ir.FloatType()
F32x16, I32x16 = ir.VectorType(F32, 16), ir.VectorType(I32, 16)
I8x64, I8x32 = ir.VectorType(I8, 64), ir.VectorType(I8, 32)
I16x16, I32x8 = ir.VectorType(I16, 16), ir.VectorType(I32, 8)

AHEAD = 7168  # bytes between a weight that is read and one that is asked for


def call(b, name, result, arguments):
    """Call an LLVM intrinsic by name."""
    function = b.module.globals.get(name) or ir.Function(
        b.module, ir.FunctionType(result, [a.type for a in arguments]), name
    )
    return b.call(function, arguments)


def load(b, address, kind):
    """What stands at this address, aligned or not."""
    return b.load(b.inttoptr(address, kind.as_pointer()), align=1)


def upper_halves(b, address):
    """16 bfloat16 numbers from this address, as floats."""
    wide = b.zext(load(b, address, I16x16), I32x16)
    return b.bitcast(b.shl(wide, const(I32x16, 16)), F32x16)


def ask(b, address):
    """Ask for what will be read soon: where weights come from memory, it decides."""
    at = b.inttoptr(address, I8.as_pointer())
    read, keep, data = (ir.Constant(I32, n) for n in (0, 2, 1))
    call(b, "llvm.prefetch.p0", ir.VoidType(), [at, read, keep, data])


def store(b, value, address):
    """Write a value to this address, aligned or not."""
    b.store(value, b.inttoptr(address, value.type.as_pointer()), align=1)


def splat(b, scalar, n):
    """A vector of n times this number."""
    kind = ir.VectorType(scalar.type, n)
    one = b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    return b.shuffle_vector(one, one, ir.Constant(ir.VectorType(I32, n), [0] * n))


def const(kind, value):
    """A vector of this kind, the same number everywhere."""
    return ir.Constant(kind, [value] * kind.count)


def multiply_add(b, x, y, z):
    """x y + z, of vectors of 16 floats."""
    # fmuladd, not fma: without the instruction, fma would call a slow function
    return call(b, "llvm.fmuladd.v16f32", F32x16, [x, y, z])


def loop(b, count, carried, body):
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
