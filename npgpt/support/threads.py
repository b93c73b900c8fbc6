"""How many threads a product of NumPy takes: one where more would gain little.

BLAS shares a product out among threads that then wait for each other. Where another
process keeps a core busy, the system puts one of them aside, and a product of 50
microseconds takes 16 milliseconds. So a small product is one thread's, and so is that
of a few rows, which two threads make no faster; and if cores are busy when the first
model is made, fewer threads share the large ones too.

The number belongs to the process, as BLAS's own does. Between our products it stays
what the program around us has set.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np

from npgpt.errors import BackendError
from npgpt.support.arguments import shown

ONE_ANYWAY = 1 << 18  # multiplications: OpenBLAS does not share these out
SMALL = 1 << 20  # multiplications: one thread needs 50 us, two would need 30
FEW_ROWS = 4  # two threads make such a product at most a third faster

CHOICES = (  # the user's own, which stay
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "OMP_NUM_THREADS",
)

_NOTHING = nullcontext()


def set_threads(n: int | None = None) -> int | None:
    """Let a large product have n threads from now on; the number, None: BLAS's own.

    n None: what NPGPT_THREADS says; without it, and without a variable of BLAS's, as
    many as there are idle cores. Raises BackendError for what is no number of threads.
    """
    global _chosen
    if n is None:
        n = asked_for()
    elif isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise BackendError(f"threads must be a whole number from 1 on, not {shown(n)}")
    if n is not None:
        _chosen = int(n)
    elif _chosen is None and not any(os.environ.get(name) for name in CHOICES):
        cores, busy = os.cpu_count() or 1, busy_cores()
        _chosen = cores - busy if busy else None
    return _chosen


_chosen: int | None = None


def asked_for() -> int | None:
    """The number of threads that NPGPT_THREADS says; None where it says nothing."""
    words = os.environ.get("NPGPT_THREADS")
    if not words:
        return None
    if not words.isdecimal() or not int(words):
        raise BackendError(
            f"NPGPT_THREADS is {shown(words)}, not a whole number from 1 on"
        )
    return int(words)


def product(work: int, rows: int) -> AbstractContextManager[Any]:
    """While a product of so many multiplications and rows is made: its threads."""
    if work <= ONE_ANYWAY:
        return _NOTHING
    n = 1 if work <= SMALL or 1 < rows <= FEW_ROWS else _chosen
    return _NOTHING if n is None else _Threads(n)


class _Threads:
    """BLAS has at most n threads inside; before the first and after the last, its own.

    The number is everybody's: of threads of Python that come here at the same time, the
    last one puts back what the first one found.
    """

    lock, inside = Lock(), 0
    found: tuple[int, ...] = ()

    def __init__(self, n: int):
        self.n = n

    def __enter__(self) -> None:
        with _Threads.lock:
            if not _Threads.inside:
                _Threads.found = tuple(one.num_threads for one in libraries())
            _Threads.inside += 1
            for one, most in zip(libraries(), _Threads.found, strict=True):
                one.set_num_threads(min(self.n, most))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with _Threads.lock:
            _Threads.inside -= 1
            if not _Threads.inside:
                for one, found in zip(libraries(), _Threads.found, strict=True):
                    one.set_num_threads(found)


@cache
def libraries() -> tuple[Any, ...]:
    """NumPy's BLAS, if it is one that can be told; found once."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return tuple(one for one in found if "numpy" in one.filepath) or tuple(found)


def busy_cores() -> int:
    """Cores that other processes keep busy, but one; 0 where nobody says.

    A process counts that runs now, if the last minute was as busy: neither a moment nor
    what this user's last command did for a while. Only Linux says what runs now.
    """
    try:
        minute, _, _, running, _ = Path("/proc/loadavg").read_text().split()
    except (OSError, ValueError):
        return 0
    others = int(running.partition("/")[0]) - 1
    return max(0, min(round(float(minute)), others, (os.cpu_count() or 1) - 1))
