"""An end that waits for a good moment: Ctrl-C and SIGTERM, heard between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred(say: Callable[[], Any] = lambda: None) -> Iterator[Callable[[], int]]:
    """Inside, the first signal is kept and `say` called; a second one ends at once.

    Gives a function: the number of the signal that came, 0 of none. In a thread that is
    not the main one, and for a signal that was ignored, all is as it was.

    >>> import os
    >>> with deferred() as stopped:
    ...     before = stopped()
    ...     signal.raise_signal(signal.SIGINT)
    ...     before, stopped() == signal.SIGINT
    (0, True)
    """
    came: list[int] = []
    old: dict[int, Any] = {}

    def restore() -> None:
        while old:
            signal.signal(*old.popitem())

    def hear(number: int, frame: Any) -> None:
        came.append(number)
        restore()
        say()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # None: a handler that Python did not set and could not set again
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                old[number] = signal.signal(number, hear)
    try:
        yield lambda: came[0] if came else 0
    finally:
        restore()
