"""A team of threads inside one kernel: tasks taken as they come, no one waited for.

A whole step of the model is one parallel region, since starting one costs 5-20 us and a
step has 60 phases that depend on each other. Each phase is a number of tasks. Threads
take the next free task until none is left, then wait until all are *done*:

    task = claim(sync, phase, count)
    while task >= 0:
        ...
        task = claim_next(sync, phase, count)
    wait(sync, phase, count)

A barrier of threads would hang when the pool gives both halves to one thread, as it may
after a fork or under load. Here a thread that comes late finds its tasks done by the
others, and one alone does everything.
"""

from __future__ import annotations

import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from npgpt.kernels.compiling import inner_kernel

LINE = 16  # int64 numbers between two counters: they must not share a cache line
I64 = ir.IntType(64)


def new_sync(phases: int) -> np.ndarray:
    """Two counters a phase: tasks taken, tasks done."""
    return np.zeros((phases, 2, LINE), np.int64)


@intrinsic
def _add(typingctx, address):
    """Atomically add 1 to the int64 at this address; the value before."""

    def codegen(context, b, signature, args):
        at = b.inttoptr(args[0], I64.as_pointer())
        return b.atomic_rmw("add", at, ir.Constant(I64, 1), "seq_cst")

    return types.int64(types.intp), codegen


@intrinsic
def _read(typingctx, address):
    """The int64 at this address, as other threads have left it."""

    def codegen(context, b, signature, args):
        at = b.inttoptr(args[0], I64.as_pointer())
        return b.load_atomic(at, "acquire", 8)

    return types.int64(types.intp), codegen


@intrinsic
def _pause(typingctx):
    """Tell the processor that this is a waiting loop; on Linux, now and then, yield."""

    def codegen(context, b, signature, args):
        if "x86" in b.module.triple:
            kind = ir.FunctionType(ir.VoidType(), [])
            name = "llvm.x86.sse2.pause"
            b.call(b.module.globals.get(name) or ir.Function(b.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), codegen


if sys.platform == "win32":

    @inner_kernel
    def _yield():
        _pause()

else:
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())

    @inner_kernel
    def _yield():
        _sched_yield()


@inner_kernel
def claim(sync, phase, count):
    """The first task of a phase for this thread, or -1 where none is left."""
    at = sync.ctypes.data + phase * sync.strides[0]
    if _read(at) >= count:
        return np.int64(-1)
    task = _add(at)
    return task if task < count else np.int64(-1)


@inner_kernel
def claim_next(sync, phase, count):
    """Count the task just finished as done, and take another."""
    _add(sync.ctypes.data + phase * sync.strides[0] + sync.strides[1])
    return claim(sync, phase, count)


@inner_kernel
def wait(sync, phase, count):
    """Return when all tasks of the phase are done."""
    at = sync.ctypes.data + phase * sync.strides[0] + sync.strides[1]
    spins = 0
    while _read(at) < count:
        _pause()
        spins += 1
        if spins > 2000:  # some 50 us: the other thread has lost its core
            _yield()
