"""Tiers: which vector instructions a kernel may use, found once, or forced.

    portable       plain vector arithmetic, which LLVM fits to any processor
    avx2           int8 products by vpmaddubsw, 32 at a time
    avx512         int8 products by vpdpbusd (VNNI), 64 at a time; 24 rows of registers
    avx512_bf16    prompts: products of bfloat16 pairs by vdpbf16ps, 32 at a time
    amx            prompts: products of whole tiles (npgpt.kernels.amx)

Each includes those above it. A tier travels as a tuple of that length: Numba compiles a
function anew for every type of its arguments, and the length of a tuple is part of its
type, so each tier has its own machine code and its own place in the cache on disk, and
no kernel asks at run time. NPGPT_CPU_TIER forces one.

The state of the tiles is 8 KB that the system must save for a thread, so a process asks
for it once (`granted`); without that the first tile instruction would kill it.

What counts is the processor that Numba compiles for. NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES may name one with less than this machine has, and LLVM ends the
process where it is handed an instruction that its target lacks.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable

from npgpt.errors import BackendError

AVX2, AVX512, BF16, AMX = 1, 2, 3, 4  # lengths of the tier's tuple
TIERS = ("portable", "avx2", "avx512", "avx512_bf16", "amx")
DIFFERENT = {  # the tiers at which the code for weights of a dtype changes
    "float32": ("portable", "avx512"),
    "bfloat16": ("portable", "avx512", "avx512_bf16", "amx"),
    "int8": ("portable", "avx2", "avx512", "amx"),
}
_NEEDS = {
    "portable": (),
    "avx2": ("avx2", "fma"),
    "avx512": ("avx512f", "avx512bw", "avx512vnni"),
    "avx512_bf16": ("avx512bf16",),
    "amx": ("amx-tile", "amx-int8", "amx-bf16"),
}

ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18  # ARCH_REQ_XCOMP_PERM, x86-64 Linux


def granted() -> bool:
    """Whether the system lets this process, and its children by fork, use the tiles."""
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0


# Without one of these a processor has none of the above: LLVM takes them out together.
_BELOW = ("sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "avx")


@functools.cache
def available() -> tuple[str, ...]:
    """The tiers of this processor that are compiled for and granted, lowest first."""
    found = []
    for tier in TIERS:
        if not all(map(_usable(), _NEEDS[tier])):
            break
        if tier == "amx" and not granted():
            break
        found.append(tier)
    return tuple(found)


def _usable() -> Callable[[str], bool]:
    """What says of a feature whether this processor has it and code may use it."""
    import llvmlite.binding as llvm
    from numba.core.registry import cpu_target

    here = llvm.get_host_cpu_features()
    _, cpu, words = cpu_target.target_context.codegen().magic_tuple()
    target, is_here = set(words.split(",")), cpu == llvm.get_host_cpu_name()
    if any(f"-{name}" in target for name in _BELOW):
        return lambda name: False
    return lambda name: (
        bool(here.get(name))
        and f"-{name}" not in target
        and (is_here or f"+{name}" in target)
    )


def current() -> str:
    """The tier in use: the highest available, or what NPGPT_CPU_TIER says.

    Raises BackendError where that names no tier or one that cannot be used here.
    """
    forced = os.environ.get("NPGPT_CPU_TIER", "")
    if not forced:
        return available()[-1]
    if forced not in TIERS:
        raise BackendError(
            f"NPGPT_CPU_TIER is {forced!r}, not one of {', '.join(TIERS)}"
        )
    if forced not in available():
        raise BackendError(
            f"NPGPT_CPU_TIER asks for {forced!r}, which this processor or system does "
            f"not have{_unless()}; it has {', '.join(available())}"
        )
    return forced


def _unless() -> str:
    """What else may be why a tier is not there."""
    names = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return f" with {' '.join(given)}" if given else ""


def isa(dtype: str = "float32") -> tuple[int, ...]:
    """The tuple that stands for the current tier in arguments of a kernel.

    Of the tiers up to that one, the highest at which products with weights of this
    dtype are other code: no code is compiled twice.

    >>> len(isa("float32")) in (0, 2)
    True
    """
    here = TIERS.index(current())
    return (0,) * max(i for i in map(TIERS.index, DIFFERENT[dtype]) if i <= here)
