"""How kernels are compiled: threads that may be shared, a cache on disk, one notice.

`kernel` is numba.njit with this project's settings. Machine code is kept in Numba's
cache beside these files, or in the user's cache folder where that cannot be written, or
nowhere where nothing can: then every process compiles anew. Importing this module
starts no thread and compiles nothing.

Threads are TBB's where it is installed: its pool survives fork and calls from several
Python threads, and idles without spinning (a spinning pool slows NumPy's BLAS down, and
is slowed down by it). Otherwise Numba picks its own layer and LOCK keeps callers apart.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import config as numba_config
from numba.core import event
from numba.extending import intrinsic

from npgpt.kernels.environment import refusal
from npgpt.support.threads import asked_for

# Sums may be reordered and x / y be x * (1 / y); NaN and infinity keep their meaning.
FAST = {"reassoc", "nsz", "arcp", "contract", "afn"}
SETTINGS = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}

LOCK = threading.RLock()  # one parallel region at a time, whatever the layer


def load_tbb() -> bool:
    """Make pip's tbb findable: it lies in the environment's lib folder."""
    if not sys.platform.startswith("linux"):
        return False
    folders = {Path(sys.prefix), Path(numba.__file__).parents[4]}
    for path in [folder / "lib" / "libtbb.so.12" for folder in folders]:
        if path.exists():
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
                return True
    return False


# A choice made by the user stays; where it is tbb, that has to be found all the same.
CHOICES = {"NUMBA_THREADING_LAYER", "NUMBA_THREADING_LAYER_PRIORITY"}
if load_tbb() and not CHOICES & os.environ.keys():
    numba_config.THREADING_LAYER = "tbb"


def physical_cores() -> int:
    """Physical cores that this process may run on: hyperthreads add no bandwidth."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # macOS and Windows have none
        return max(1, os.cpu_count() or 1)
    cores = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            package = (topology / "physical_package_id").read_text()
            cores.add((package, (topology / "core_id").read_text()))
        except OSError:
            cores.add(("cpu", str(cpu)))
    return max(1, len(cores))


def set_threads(n: int | None = None) -> int:
    """Use n threads from now on; the number in use.

    None: what NPGPT_THREADS says, else one a physical core. Raises BackendError where
    that is no number, or no threads can be started.
    """
    limit = numba_config.NUMBA_NUM_THREADS
    n = asked_for() if n is None else n
    wanted = physical_cores() if n is None else n
    chosen = max(1, min(wanted, limit))
    try:
        numba.set_num_threads(chosen)  # the first time, this starts them
    except ValueError as error:
        raise refusal(error) from None
    return chosen


class _Clock(event.Listener):
    """Adds up the time that Numba spends compiling; cache hits do not count.

    Before the first kernel it says what is about to happen.
    """

    def __init__(self):
        self.seconds = 0.0
        self.depth, self.start, self.said = 0, 0.0, False

    def on_start(self, _):
        if not self.depth:
            if not self.said:
                self.said = True
                for show in _show:
                    show(NOTICE)
            self.start = time.perf_counter()
        self.depth += 1

    def on_end(self, _):
        self.depth -= 1
        if not self.depth:
            self.seconds += time.perf_counter() - self.start


NOTICE = (
    "compiling kernels for this processor: about half a minute, once, since they are "
    "kept; `npgpt warmup` compiles all of them"
)
_clock = _Clock()
event.register("numba:compile", _clock)


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_show: list[Callable[[str], Any]] = [_on_stderr]


def on_compile(show: Callable[[str], Any] | None) -> None:
    """Call show(NOTICE) before this process compiles its first kernel.

    Without this call the notice goes to stderr; None: nowhere.
    """
    _show[:] = [] if show is None else [show]


def compile_seconds() -> float:
    """Time that this process has spent compiling kernels."""
    return _clock.seconds


@intrinsic
def stay_apart(typingctx):
    """As a function's first line: LLVM shall call it and not copy it into its callers.

    Without this the step kernel becomes five copies of its largest parts, and a minute
    of compiling.
    """

    def codegen(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


def _sources() -> tuple[float, int]:
    """When a file of kernels was last changed, and the size of all."""
    found = [path.stat() for path in Path(__file__).parent.rglob("*.py")]
    return max(stat.st_mtime for stat in found), sum(stat.st_size for stat in found)


SOURCES = _sources()


def kernel(function: Callable | None = None, **options: Any) -> Any:
    """numba.njit with fast floats, no GIL, and a cache where one can be had.

    A kernel is compiled anew when any file of kernels has changed, since it holds what
    it calls; Numba by itself looks at the file of the kernel alone.
    """
    if function is None:
        return lambda f: kernel(f, **options)
    settings = {**SETTINGS, **options}
    try:
        compiled = numba.njit(cache=True, **settings)(function)
        compiled._cache._cache_file._source_stamp = SOURCES
    except RuntimeError:  # "cannot cache function: no locator available"
        warnings.warn(
            "no folder for compiled kernels can be written; set NUMBA_CACHE_DIR, or "
            "every start compiles them anew",
            stacklevel=2,
        )
        compiled = numba.njit(**settings)(function)
    return compiled


def inner_kernel(function: Callable | None = None, **options: Any) -> Any:
    """A kernel that only other kernels call: no way in from Python, no cache file.

    Both would be compiled beside it; the kernel that calls it keeps it in its own file.
    """
    if function is None:
        return lambda f: inner_kernel(f, **options)
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return numba.njit(**{**SETTINGS, **wrappers, **options})(function)
